//! `assent init`: makes the genesis file of a deployment, and the configuration of its node.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use assent_consensus::genesis::{ChainDocument, Genesis, GenesisDocument};
use assent_consensus::json::Integer;
use assent_consensus::jwk::PublicKey;
use assent_consensus::name::Name;
use clap::Args;
use serde_json::json;

use crate::voter::Signer;
use crate::voter::key_file::{KeyFile, Protection, public_path};

use super::deployment::{ChainPart, Deployment, NodePart};
use super::failure::Failure;
use super::moment;
use super::screen::{Screen, quoted};
use super::write::{self, Existing};

#[derive(Args)]
pub(super) struct Init {
    /// The deployment file (TOML): contracts, processes, keys, and what they are governed by
    deployment: PathBuf,
    /// The directory for genesis.json, node.toml and the validator keys; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The validator key of a chain: one that is there, or a new one that is yet to be written.
enum ValidatorKey {
    Given(PathBuf),
    New(Box<KeyFile>),
}

pub(super) fn run(arguments: &Init) -> Result<(), Failure> {
    let screen = Screen::new(arguments.json);
    let deployment = Deployment::load(&arguments.deployment)?;
    let base = arguments.deployment.parent().unwrap_or(Path::new(""));
    let (mut chains, mut keys) = (Vec::new(), Vec::new());
    for part in &deployment.chain {
        let (public, key) = validator(part, base)?;
        chains.push(ChainDocument { id: part.id.clone(), validators: vec![public] });
        keys.push((part.id.clone(), key));
    }
    let document = GenesisDocument {
        version: Integer::saturating(1),
        name: deployment.name.clone(),
        environment: deployment.environment.clone(),
        created: moment::now(),
        chains,
        contracts: deployment.contracts(base)?,
        processes: deployment.processes(base)?,
        keys: deployment.keys(base)?,
        recovery: deployment.recovery(base)?,
    };
    let genesis = document.to_genesis().map_err(Failure::failed)?;
    let written = write_all(&arguments.out, &genesis, &keys, &deployment.node)?;
    for path in &written {
        screen.line(format!("wrote {}", quoted(path.display())))?;
    }
    screen.line(format!("deployment {} ({})", genesis.name(), genesis.environment()))?;
    screen.line(format!("id         {}", genesis.id()))?;
    screen.line(
        "A second person compares this id when `assent-kms pin` prints it, and before trusting genesis.json.",
    )?;
    screen.result(&json!({
        "deployment": genesis.id(),
        "name": genesis.name(),
        "environment": genesis.environment(),
        "files": written.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
    }))
}

fn validator(part: &ChainPart, base: &Path) -> Result<(PublicKey, ValidatorKey), Failure> {
    match &part.validator_key {
        None => {
            let key = KeyFile::generate()?;
            Ok((key.public_key().clone(), ValidatorKey::New(Box::new(key))))
        }
        Some(path) => {
            let path = base.join(path);
            let mut encrypted = false;
            let key = KeyFile::read(&path, || {
                encrypted = true;
                Err(crate::voter::secret::SecretError::Empty)
            });
            if encrypted {
                return Err(Failure::failed(format!(
                    "the validator key `{}` is encrypted; a node starts without a person, so it must not be",
                    path.display()
                )));
            }
            let public = key?.public_key().clone();
            let path = path.canonicalize().map_err(|error| {
                Failure::failed(format!("cannot find the validator key `{}`: {error}", path.display()))
            })?;
            Ok((public, ValidatorKey::Given(path)))
        }
    }
}

/// Writes all files or, if one fails, none.
fn write_all(
    out: &Path,
    genesis: &Genesis,
    keys: &[(Name, ValidatorKey)],
    node: &NodePart,
) -> Result<Vec<PathBuf>, Failure> {
    let file_of = |chain: &Name| out.join(format!("{chain}.validator.pem"));
    let (genesis_path, node_path) = (out.join("genesis.json"), out.join("node.toml"));
    let mut all = vec![genesis_path.clone(), node_path.clone()];
    for (chain, key) in keys {
        if let ValidatorKey::New(_) = key {
            all.extend([file_of(chain), public_path(&file_of(chain))]);
        }
    }
    if let Some(there) = all.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(write::exists(there));
    }
    write::make_directory(out)?;
    let mut written = Vec::new();
    let mut write = || -> Result<(), Failure> {
        let mut names = Vec::new();
        for (chain, key) in keys {
            match key {
                ValidatorKey::Given(path) => names.push((chain, path.display().to_string())),
                ValidatorKey::New(key) => {
                    let path = file_of(chain);
                    written.push(path.clone());
                    let public = key.write_new(&path, &Protection::None);
                    if public.is_err() {
                        written.pop();
                    }
                    written.push(public?);
                    names.push((chain, format!("{chain}.validator.pem")));
                }
            }
        }
        write::file(&node_path, &node_toml(&names, node), Existing::Refuse)?;
        written.push(node_path.clone());
        write::file(&genesis_path, genesis.bytes(), Existing::Refuse)?;
        written.push(genesis_path.clone());
        Ok(())
    };
    let result = write();
    if result.is_err() {
        for path in written {
            // Nobody has used these files yet; what cannot be removed is refused as there already next time.
            let _ = std::fs::remove_file(path);
        }
        return Err(result.expect_err("it is an error"));
    }
    Ok(written)
}

fn node_toml(keys: &[(&Name, String)], node: &NodePart) -> Vec<u8> {
    let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let mut out = Vec::new();
    let mut line = |line: String| writeln!(out, "{line}").expect("a buffer takes all");
    line("# The node of this deployment: `assent node --config node.toml`. Paths are from this file's directory.".into());
    line(format!("data_directory = {}", text(&node.data_directory)));
    line(format!("genesis = {}", text("genesis.json")));
    if let Some(socket) = &node.socket {
        line(format!("socket = {}", text(socket)));
    }
    if let Some(listen) = &node.listen {
        line(format!("listen = {}", text(&listen.to_string())));
    }
    for (key, value) in [
        ("kms_socket", &node.kms_socket),
        ("kms", &node.kms),
        ("kms_ca", &node.kms_ca),
        ("kms_certificate", &node.kms_certificate),
        ("kms_private_key", &node.kms_private_key),
    ] {
        if let Some(value) = value {
            line(format!("{key} = {}", text(value)));
        }
    }
    line(String::new());
    line("[validator_keys]".into());
    for (chain, path) in keys {
        line(format!("{chain} = {}", text(path)));
    }
    out
}
