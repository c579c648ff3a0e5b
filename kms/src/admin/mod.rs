//! Administration: what people on the KMS's host do to keys, pins, voters and requests. Each act is in the audit log.
//!
//! | call | body | gives |
//! |---|---|---|
//! | `GET /v1/keys` | | `{"keys": [KeyView]}` |
//! | `POST /v1/keys` | [`NamedKey`] | the new key's [`KeyView`] |
//! | `POST /v1/keys/compromised`, `/v1/keys/resume` | [`NamedKey`] | the key's [`KeyView`] |
//! | `POST /v1/pin` | the genesis file | [`PinnedView`] |
//! | `POST /v1/voters/suspend` | `{"voter": thumbprint}` | the same |
//! | `POST /v1/release` | `{"request": id}` | the same |

mod act;
mod pinning;

use std::sync::Arc;

use assent_consensus::genesis::GENESIS_LIMIT;
use assent_consensus::jwk::{PublicKey, Thumbprint};
use assent_consensus::message::{DeploymentId, KeyVersion, RequestId};
use assent_consensus::name::Name;
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

use crate::signing::KeyName;
use crate::sockets::Peer;
use crate::store::{KeyRow, StoreError};

pub use act::{Admin, AdminError};

/// A key by name. Exactly one of `contract` and `key` is there; without `version` the one in use is meant.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// The device on which it is to be made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<Name>,
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
    /// Its state, in the words of NIST SP 800-57.
    pub state: String,
    /// The device that holds it.
    pub device: Name,
    /// CKA_ID on the token, in hexadecimal digits.
    pub object: String,
    /// Its thumbprint.
    pub thumbprint: Thumbprint,
    /// The public half.
    pub public_key: PublicKey,
    /// The contract that governs it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub governed_by: Option<Name>,
    /// When it was generated.
    pub created: UnixMillis,
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
        .route("/v1/keys/compromised", post(compromised))
        .route("/v1/keys/resume", post(resume))
        .route("/v1/pin", post(pin).layer(DefaultBodyLimit::max(GENESIS_LIMIT)))
        .route("/v1/voters/suspend", post(suspend_voter))
        .route("/v1/release", post(release))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(admin)
}

type Answer<T> = Result<Json<T>, AdminError>;

async fn keys(State(admin): State<Arc<Admin>>) -> Json<KeyList> {
    Json(KeyList { keys: admin.keys().iter().map(KeyView::of).collect() })
}

async fn create_key(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<KeyView> {
    let named = read(body)?;
    if named.version.is_some() {
        return Err(AdminError::Malformed("`version` is given by the KMS".into()));
    }
    Ok(Json(KeyView::of(&admin.create_key(named.name()?, named.device, peer).await?)))
}

async fn compromised(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<KeyView> {
    let named = read(body)?;
    Ok(Json(KeyView::of(&admin.compromised(named.name()?, named.version, peer).await?)))
}

async fn resume(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<NamedKey>, JsonRejection>,
) -> Answer<KeyView> {
    let named = read(body)?;
    Ok(Json(KeyView::of(&admin.resume(named.name()?, named.version, peer).await?)))
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
        NamedKey { contract, key, version, device: None }
    }

    /// Names a key that is to be made on a device; on the first one if none is named.
    pub fn on(name: &KeyName, device: Option<Name>) -> NamedKey {
        NamedKey { device, ..NamedKey::new(name, None) }
    }

    fn name(&self) -> Result<KeyName, AdminError> {
        match (&self.contract, &self.key) {
            (Some(name), None) => Ok(KeyName::Contract(name.clone())),
            (None, Some(name)) => Ok(KeyName::Operational(name.clone())),
            _ => Err(AdminError::Malformed("exactly one of `contract` and `key` must be there".into())),
        }
    }
}

impl KeyView {
    fn of(row: &KeyRow) -> KeyView {
        let (contract, key) = split(&row.name);
        KeyView {
            contract,
            key,
            version: row.version,
            state: row.state.to_string(),
            device: row.device.clone(),
            object: row.object.to_string(),
            thumbprint: row.public_key.thumbprint(),
            public_key: row.public_key.clone(),
            governed_by: row.governed_by.clone(),
            created: row.created,
        }
    }
}

fn split(name: &KeyName) -> (Option<Name>, Option<Name>) {
    match name {
        KeyName::Contract(name) => (Some(name.clone()), None),
        KeyName::Operational(name) => (None, Some(name.clone())),
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
