//! Commands that ask the running daemon.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use assent_consensus::genesis::GENESIS_LIMIT;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::operational_key::{KeyFile, VerificationKey};
use axum::http::Method;
use p256::pkcs8::LineEnding;
use p256::pkcs8::der::pem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::call;
use super::screen::{Failure, Screen};
use crate::admin::{
    Attestation, KeyList, KeyToAdopt, KeyToLimit, KeyToMake, KeyView, NamedKey, PinnedView, PolicyList,
    PolicyView, RequestBody, VoterBody, WrappedKey,
};
use crate::config::Config;
use crate::life::Limits;
use crate::moment::Moment;
use crate::signing::KeyName;

pub(super) fn create_key(
    config: &Config,
    key: &KeyToMake,
    out: Option<&Path>,
    screen: &Screen,
) -> Result<(), Failure> {
    let made = |view: &KeyView, path: &Path| {
        let version = view.version;
        vec![format!("made {}, version {version}; its JWK is in `{}`", named(view), path.display())]
    };
    new_key(out, || post(config, "/v1/keys", key), made, screen)
}

pub(super) fn adopt_key(
    config: &Config,
    key: &KeyToAdopt,
    out: Option<&Path>,
    screen: &Screen,
) -> Result<(), Failure> {
    let adopted = |view: &KeyView, path: &Path| {
        vec![
            format!("took over {}, {}; its JWK is in `{}`", named(view), view.alg, path.display()),
            "it is marked for ever as adopted: nobody can say how it came onto the token, nor who has a copy"
                .into(),
        ]
    };
    new_key(out, || post(config, "/v1/keys/adopt", key), adopted, screen)
}

/// Has a key made, and puts its JWK on the screen or into a file, of which `lines` then tells.
fn new_key(
    out: Option<&Path>,
    make: impl FnOnce() -> Result<KeyView, Failure>,
    lines: impl FnOnce(&KeyView, &Path) -> Vec<String>,
    screen: &Screen,
) -> Result<(), Failure> {
    // Before a key is made whose JWK could not be written.
    let file = out.map(new_file).transpose()?;
    let made = make();
    let (Ok(view), Some((mut file, path))) = (&made, file) else {
        if made.is_err()
            && let Some(path) = out
        {
            // Empty, and made just now.
            let _ = std::fs::remove_file(path);
        }
        let view = made?;
        let jwk = jwk(&view)?;
        return screen.show(&view, |_| vec![jwk]);
    };
    file.write_all(format!("{}\n", jwk(view)?).as_bytes()).and_then(|()| file.sync_all()).map_err(
        |error| {
            Failure::failed(format!("the key is there, but `{}` cannot be written: {error}", path.display()))
                .help("`assent-kms key list --json` shows its JWK")
        },
    )?;
    screen.show(view, |view| lines(view, path))
}

/// A key as people name it.
fn named(view: &KeyView) -> String {
    match (&view.contract, &view.key) {
        (Some(name), _) => format!("the key of contract `{name}`"),
        (_, Some(name)) => format!("the key `{name}`"),
        _ => "a key".into(),
    }
}

fn jwk(view: &KeyView) -> Result<String, Failure> {
    let key = VerificationKey::new(view.alg, view.public_key.clone()).map_err(Failure::failed)?;
    serde_json::to_string(&KeyFile { key, adopted: view.adopted }).map_err(Failure::failed)
}

fn new_file(path: &Path) -> Result<(std::fs::File, &Path), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let failed = |error| Failure::failed(format!("cannot make `{}`: {error}", path.display()));
    file.map(|file| (file, path)).map_err(failed)
}

pub(super) fn list_keys(config: &Config, screen: &Screen) -> Result<(), Failure> {
    let list: KeyList = call(config, Method::GET, "/v1/keys", Vec::new())?;
    screen.show(&list, |list| match list.keys.as_slice() {
        [] => vec!["there are no keys yet: `assent-kms key create` makes one".into()],
        keys => keys.iter().flat_map(|key| [Some(line(key)), noticed(key)]).flatten().collect(),
    })
}

pub(super) fn list_policies(config: &Config, screen: &Screen) -> Result<(), Failure> {
    let list: PolicyList = call(config, Method::GET, "/v1/policies", Vec::new())?;
    let line = |view: &PolicyView| {
        let since = view.effective.map_or("genesis".into(), |effective| Moment(effective).to_string());
        let state = if view.in_force { ", in force" } else { "" };
        format!("{:24}  {}  since {since}{state}", view.contract.as_str(), view.policy)
    };
    screen.show(&list, |list| list.policies.iter().map(line).collect())
}

pub(super) fn limit_key(config: &Config, key: &KeyToLimit, screen: &Screen) -> Result<(), Failure> {
    let view: KeyView = post(config, "/v1/keys/limit", key)?;
    screen.show(&view, |view| [Some(line(view)), noticed(view)].into_iter().flatten().collect())
}

fn noticed(key: &KeyView) -> Option<String> {
    key.notice.as_ref().map(|notice| format!("          {} {notice}", named(key)))
}

fn line(key: &KeyView) -> String {
    let (kind, name) = match (&key.contract, &key.key) {
        (Some(name), _) => ("contract", name.as_str()),
        (_, Some(name)) => ("key", name.as_str()),
        _ => ("?", "?"),
    };
    let KeyView { version, state, thumbprint, device, object, alg, .. } = key;
    let origin = if key.adopted { ", adopted: not generated by this KMS" } else { "" };
    let limits = limited(key);
    format!(
        "{kind:8}  {name:24}  version {version}  {state:14}  {alg}  {thumbprint}  on {device}, CKA_ID {object}{origin}{limits}"
    )
}

/// What a key is limited to, as it stands behind the key.
fn limited(key: &KeyView) -> String {
    let Limits { activates, deactivates, uses, rate } = &key.limits;
    let used = key.used.unwrap_or_default();
    [
        activates.map(|date| format!(", active from {}", Moment(date))),
        deactivates.map(|date| format!(", deactivated from {}", Moment(date))),
        uses.map(|uses| format!(", used {used} of {uses} times")),
        rate.map(|rate| format!(", at most {rate}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn change_key(
    config: &Config,
    to: &str,
    name: KeyName,
    version: Option<KeyVersion>,
    screen: &Screen,
) -> Result<(), Failure> {
    let view: KeyView = post(config, &format!("/v1/keys/{to}"), &NamedKey::new(&name, version))?;
    screen.show(&view, |view| vec![format!("version {} of {name} is {}", view.version, view.state)])
}

pub(super) fn attest_key(
    config: &Config,
    name: KeyName,
    version: Option<KeyVersion>,
    screen: &Screen,
) -> Result<(), Failure> {
    let made: Attestation = post(config, "/v1/keys/attest", &NamedKey::new(&name, version))?;
    let pem = pem::encode_string("CERTIFICATE", LineEnding::LF, &made.certificate.0);
    let pem = pem.map_err(|error| Failure::failed(format!("the certificate cannot be shown: {error}")))?;
    screen.show(&made, |_| pem.lines().map(str::to_owned).collect())
}

pub(super) fn export_wrapped(config: &Config) -> Result<Vec<WrappedKey>, Failure> {
    call(config, Method::POST, "/v1/keys/export", Vec::new())
}

pub(super) fn pin(config: &Config, genesis: &Path, screen: &Screen) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::failed(format!("cannot read the genesis file `{}`: {why}", genesis.display()))
            .help("`assent init` makes it")
    };
    let length = std::fs::metadata(genesis).map_err(|error| failed(error.to_string()))?.len();
    if length > GENESIS_LIMIT as u64 {
        return Err(failed(format!("it has more than {GENESIS_LIMIT} bytes")));
    }
    let bytes = std::fs::read(genesis).map_err(|error| failed(error.to_string()))?;
    let view: PinnedView = call(config, Method::POST, "/v1/pin", bytes)?;
    screen.show(&view, |view| {
        let PinnedView { deployment, name, environment, activated, unused } = view;
        let mut lines = vec![
            format!("pinned `{name}` ({environment}), {activated} keys are active"),
            format!("deployment {deployment}"),
            "compare this id with a second person, who computes the SHA-256 of the genesis file".into(),
        ];
        lines.extend(unused.iter().map(|key| format!("not in the genesis file: {key}")));
        lines
    })
}

pub(super) fn suspend_voter(config: &Config, voter: Thumbprint, screen: &Screen) -> Result<(), Failure> {
    let body: VoterBody = post(config, "/v1/voters/suspend", &VoterBody { voter })?;
    screen.show(&body, |body| vec![format!("ballots of `{}` count no more", body.voter)])
}

pub(super) fn release(config: &Config, request: RequestId, screen: &Screen) -> Result<(), Failure> {
    let body: RequestBody = post(config, "/v1/release", &RequestBody { request })?;
    screen.show(&body, |body| vec![format!("request `{}` may be decided although it is late", body.request)])
}

fn post<B: Serialize, T: DeserializeOwned>(config: &Config, path: &str, body: &B) -> Result<T, Failure> {
    call(config, Method::POST, path, serde_json::to_vec(body).map_err(Failure::failed)?)
}
