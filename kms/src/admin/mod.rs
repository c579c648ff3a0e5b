//! Administration: what people on the KMS's host do to keys, pins, voters and requests. Each act is in the audit log.
//!
//! | call | body | gives |
//! |---|---|---|
//! | `GET /v1/keys` | | `{"keys": [KeyView]}` |
//! | `GET /v1/policies` | | [`PolicyList`] |
//! | `POST /v1/keys` | [`KeyToMake`] | the new key's [`KeyView`] |
//! | `POST /v1/keys/adopt` | [`KeyToAdopt`] | the key's [`KeyView`] |
//! | `POST /v1/keys/limit` | [`KeyToLimit`] | the key's [`KeyView`] |
//! | `POST /v1/keys/compromised`, `/v1/keys/suspend`, `/v1/keys/resume` | [`NamedKey`] | the key's [`KeyView`] |
//! | `POST /v1/keys/attest` | [`NamedKey`] | [`Attestation`] |
//! | `POST /v1/keys/export` | | `[WrappedKey]` |
//! | `POST /v1/pin` | the genesis file | [`PinnedView`] |
//! | `POST /v1/voters/suspend` | `{"voter": thumbprint}` | the same |
//! | `POST /v1/release` | `{"request": id}` | the same |

mod act;
mod adopt;
mod custody;
mod limit;
mod pinning;

use std::sync::Arc;

use assent_consensus::digest::Digest;
use assent_consensus::encoding;
use assent_consensus::genesis::GENESIS_LIMIT;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{DeploymentId, KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{Algorithm, KeyKind, OperationalPublicKey};
use assent_consensus::time::UnixMillis;
use axum::body::Bytes;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::device::ObjectIdError;
use crate::life::{self, Limits, LimitsChange};
use crate::signing::KeyName;
use crate::sockets::Peer;
use crate::store::{KeyRow, StoreError};

pub use act::{Admin, AdminError};

/// A key by name. Exactly one of `contract` and `key` is there; without `version` the one in use is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedKey {
    /// A contract's own key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contract: Option<Name>,
    /// An operational key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Name>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<KeyVersion>,
}

/// A key that is to be made. Exactly one of `contract` and `key` is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyToMake {
    /// A contract's own key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contract: Option<Name>,
    /// An operational key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Name>,
    /// How it signs.
    pub alg: Algorithm,
    /// How long the modulus of an RSA key is, 3072 or 4096; without it 4096.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bits: Option<u64>,
    /// The device that is to make it; without it the first one of the configuration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<Name>,
    /// What it is limited to.
    #[serde(skip_serializing_if = "Limits::is_empty", default)]
    pub limits: Limits,
}

/// A key pair that is on a device, and is to be taken over as an operational key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyToAdopt {
    /// The operational key's name.
    pub key: Name,
    /// Its id on the device (CKA_ID), in hexadecimal digits.
    pub object: String,
    /// How it is to sign; without it as its curve says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alg: Option<Algorithm>,
    /// The device that holds it; without it the first one of the configuration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<Name>,
    /// What it is limited to.
    #[serde(skip_serializing_if = "Limits::is_empty", default)]
    pub limits: Limits,
}

/// A key whose limits are to be others. Exactly one of `contract` and `key` is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyToLimit {
    /// A contract's own key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contract: Option<Name>,
    /// An operational key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Name>,
    /// Its version; without it the newest one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<KeyVersion>,
    /// What is to become of its limits.
    pub limits: LimitsChange,
}

/// A key, as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyView {
    /// A contract's own key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contract: Option<Name>,
    /// An operational key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<Name>,
    /// Its version.
    pub version: KeyVersion,
    /// Its state at this moment, in the words of NIST SP 800-57.
    pub state: String,
    /// The device that holds it.
    pub device: Name,
    /// CKA_ID on the token, in hexadecimal digits.
    pub object: String,
    /// Its thumbprint.
    pub thumbprint: Thumbprint,
    /// How it signs.
    pub alg: Algorithm,
    /// The public half.
    pub public_key: OperationalPublicKey,
    /// Whether it was on the device before, and was taken over: it was not generated by this KMS.
    pub adopted: bool,
    /// The contract that governs it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub governed_by: Option<Name>,
    /// When it was generated, or taken over.
    pub created: UnixMillis,
    /// What it is limited to.
    #[serde(skip_serializing_if = "Limits::is_empty", default)]
    pub limits: Limits,
    /// How often it was used, if that is counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub used: Option<u64>,
    /// What is soon to become of it, and what to do about that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub notice: Option<String>,
}

/// What a device says of one of its keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// An X.509 certificate in DER.
    pub certificate: encoding::Bytes,
}

/// A key that left its device under a wrap key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Which one.
    #[serde(flatten)]
    pub named: NamedKey,
    /// The device.
    pub device: Name,
    /// As the device gave it.
    pub wrapped: encoding::Bytes,
}

/// Which deployment was pinned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PinnedView {
    /// The deployment's id, to be compared by a second person.
    pub deployment: DeploymentId,
    /// The deployment's name.
    pub name: Name,
    /// What kind of deployment it is.
    pub environment: String,
    /// How many keys were activated.
    pub activated: usize,
    /// Keys that genesis does not name; they stay as they were.
    pub unused: Vec<String>,
}

/// A list of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// In order of name and version.
    pub keys: Vec<KeyView>,
}

/// The policies by which the KMS goes, and has gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyList {
    /// In order of contract and time.
    pub policies: Vec<PolicyView>,
}

/// A contract's policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyView {
    /// Whose it is.
    pub contract: Name,
    /// The digest of its document.
    pub policy: Digest,
    /// From when on it is in force; absent if it is that of genesis.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub effective: Option<UnixMillis>,
    /// Whether it is the one that is in force now.
    pub in_force: bool,
}

/// A voter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoterBody {
    /// The thumbprint of his key.
    pub voter: Thumbprint,
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestBody {
    /// Its id.
    pub request: RequestId,
}

/// The calls of the socket for administration. Who may connect is for whoever listens.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/keys", get(keys).post(create_key))
        .route("/v1/keys/adopt", post(adopt_key))
        .route("/v1/keys/limit", post(limit))
        .route("/v1/keys/compromised", post(compromised))
        .route("/v1/keys/suspend", post(suspend))
        .route("/v1/keys/resume", post(resume))
        .route("/v1/keys/attest", post(attest))
        .route("/v1/keys/export", post(export_wrapped))
        .route("/v1/policies", get(policies))
        .route("/v1/pin", post(pin).layer(DefaultBodyLimit::max(GENESIS_LIMIT)))
        .route("/v1/voters/suspend", post(suspend_voter))
        .route("/v1/release", post(release))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(admin)
}

type Answer<T> = Result<Json<T>, AdminError>;

async fn keys(State(admin): State<Arc<Admin>>) -> Json<KeyList> {
    Json(KeyList { keys: admin.pins.keys().iter().map(|row| admin.view(row)).collect() })
}

async fn policies(State(admin): State<Arc<Admin>>) -> Answer<PolicyList> {
    Ok(Json(PolicyList { policies: admin.policies()? }))
}

async fn create_key(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<KeyToMake>, JsonRejection>,
) -> Answer<KeyView> {
    let KeyToMake { contract, key, alg, bits, device, limits } = read(body)?;
    let name = joined(contract, key)?;
    let kind = KeyKind::new(alg, bits).map_err(|error| AdminError::Malformed(error.to_string()))?;
    Ok(Json(admin.view(&admin.create_key(name, device, (alg, kind), limits, peer).await?)))
}

async fn adopt_key(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<KeyToAdopt>, JsonRejection>,
) -> Answer<KeyView> {
    let KeyToAdopt { key, object, alg, device, limits } = read(body)?;
    let object = object.parse().map_err(|error: ObjectIdError| AdminError::Malformed(error.to_string()))?;
    Ok(Json(admin.view(&admin.adopt_key(key, alg, object, device, limits, peer).await?)))
}

async fn limit(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<KeyToLimit>, JsonRejection>,
) -> Answer<KeyView> {
    let KeyToLimit { contract, key, version, limits } = read(body)?;
    Ok(Json(admin.view(&admin.limit(joined(contract, key)?, version, limits, peer).await?)))
}

async fn compromised(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<KeyView> {
    let named = read(body)?;
    Ok(Json(admin.view(&admin.compromised(named.name()?, named.version, peer).await?)))
}

async fn suspend(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<KeyView> {
    let named = read(body)?;
    Ok(Json(admin.view(&admin.suspend(named.name()?, named.version, peer).await?)))
}

async fn resume(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<KeyView> {
    let named = read(body)?;
    Ok(Json(admin.view(&admin.resume(named.name()?, named.version, peer).await?)))
}

async fn attest(
    State(admin): State<Arc<Admin>>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<Attestation> {
    let named = read(body)?;
    Ok(Json(admin.attest(named.name()?, named.version).await?))
}

async fn export_wrapped(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<Vec<WrappedKey>> {
    Ok(Json(admin.export_wrapped(peer).await?))
}

async fn pin(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Answer<PinnedView> {
    Ok(Json(admin.pin(body.to_vec(), peer).await?))
}

async fn suspend_voter(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<VoterBody>, JsonRejection>,
) -> Answer<VoterBody> {
    let body = read(body)?;
    admin.suspend_voter(body.voter, peer).await?;
    Ok(Json(body))
}

async fn release(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<RequestBody>, JsonRejection>,
) -> Answer<RequestBody> {
    let body = read(body)?;
    admin.release(body.request, peer).await?;
    Ok(Json(body))
}

async fn unknown() -> AdminError {
    AdminError::UnknownCall
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, AdminError> {
    body.map(|Json(body)| body).map_err(|rejection| AdminError::Malformed(rejection.body_text()))
}

impl NamedKey {
    /// Names a key.
    pub fn new(name: &KeyName, version: Option<KeyVersion>) -> NamedKey {
        let (contract, key) = split(name);
        NamedKey { contract, key, version }
    }

    fn name(&self) -> Result<KeyName, AdminError> {
        joined(self.contract.clone(), self.key.clone())
    }
}

impl KeyToMake {
    /// A key by this name.
    pub fn new(name: &KeyName, alg: Algorithm, bits: Option<u64>, device: Option<Name>) -> KeyToMake {
        let (contract, key) = split(name);
        KeyToMake { contract, key, alg, bits, device, limits: Limits::NONE }
    }
}

impl KeyToLimit {
    /// A key by this name.
    pub fn new(name: &KeyName, version: Option<KeyVersion>, limits: LimitsChange) -> KeyToLimit {
        let (contract, key) = split(name);
        KeyToLimit { contract, key, version, limits }
    }
}

impl Admin {
    /// A key as it is now.
    fn view(&self, row: &KeyRow) -> KeyView {
        let now = (self.clock)();
        let (state, (contract, key)) = (self.pins.state_at(row, now), split(&row.name));
        KeyView {
            contract,
            key,
            version: row.version,
            state: state.to_string(),
            device: row.device.clone(),
            object: row.object.to_string(),
            thumbprint: row.public_key.thumbprint(),
            alg: row.public_key.algorithm(),
            public_key: row.public_key.public_key().clone(),
            adopted: row.is_adopted,
            governed_by: row.governed_by.clone(),
            created: row.created,
            limits: row.limits.clone(),
            used: row.limits.is_counted().then_some(row.used),
            notice: life::notice(row, state, now, self.settings.borrow().expiry_notice),
        }
    }
}

fn split(name: &KeyName) -> (Option<Name>, Option<Name>) {
    match name {
        KeyName::Contract(name) => (Some(name.clone()), None),
        KeyName::Operational(name) => (None, Some(name.clone())),
    }
}

fn joined(contract: Option<Name>, key: Option<Name>) -> Result<KeyName, AdminError> {
    match (contract, key) {
        (Some(name), None) => Ok(KeyName::Contract(name)),
        (None, Some(name)) => Ok(KeyName::Operational(name)),
        _ => Err(AdminError::Malformed("exactly one of `contract` and `key` must be there".into())),
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = match &self {
            AdminError::Malformed(_) => StatusCode::BAD_REQUEST,
            AdminError::UnknownCall => StatusCode::NOT_FOUND,
            AdminError::Device(error) if error.is_lost() => StatusCode::SERVICE_UNAVAILABLE,
            AdminError::Store(StoreError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            AdminError::Device(_) | AdminError::Store(_) | AdminError::Broken => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::CONFLICT,
        };
        let body = serde_json::json!({ "code": self.code(), "message": self.to_string() });
        (status, Json(body)).into_response()
    }
}
