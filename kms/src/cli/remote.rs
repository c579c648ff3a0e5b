//! Commands that ask the running daemon.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use assent_consensus::genesis::GENESIS_LIMIT;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use axum::http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::call;
use super::screen::{Failure, Screen};
use crate::admin::{KeyList, KeyView, NamedKey, PinnedView, RequestBody, VoterBody};
use crate::config::Config;
use crate::signing::KeyName;

pub(super) fn create_key(
    config: &Config,
    name: KeyName,
    device: Option<Name>,
    out: Option<&Path>,
    screen: &Screen,
) -> Result<(), Failure> {
    // Before a key is made whose JWK could not be written.
    let file = out.map(new_file).transpose()?;
    let made = post::<_, KeyView>(config, "/v1/keys", &NamedKey::on(&name, device));
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
            Failure::failed(format!("the key was made, but `{}` cannot be written: {error}", path.display()))
                .help("`assent-kms key list --json` shows its JWK")
        },
    )?;
    screen.show(view, |view| {
        vec![format!("made {name}, version {}; its JWK is in `{}`", view.version, path.display())]
    })
}

fn jwk(view: &KeyView) -> Result<String, Failure> {
    serde_json::to_string(&view.public_key).map_err(Failure::failed)
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
        keys => keys.iter().map(line).collect(),
    })
}

fn line(key: &KeyView) -> String {
    let (kind, name) = match (&key.contract, &key.key) {
        (Some(name), _) => ("contract", name.as_str()),
        (_, Some(name)) => ("key", name.as_str()),
        _ => ("?", "?"),
    };
    let KeyView { version, state, thumbprint, device, object, .. } = key;
    format!("{kind:8}  {name:24}  version {version}  {state:14}  {thumbprint}  on {device}, CKA_ID {object}")
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
