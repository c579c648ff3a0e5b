//! What every voter's and requester's command needs: the pinned genesis, the node's address, the key. Flags come before
//! the environment, and that before the configuration file.

use std::path::{Path, PathBuf};

use assent_consensus::genesis::Genesis;
use clap::Args;
use serde::Deserialize;

use crate::client::{Address, Client};
use crate::voter::{KeySource, Signer, Unlock};

use super::failure::{Exit, Failure};
use super::key::UnlockArgs;
use super::{read, toml_file};

/// Where the configuration is, from the configuration directory.
const FILE: &str = "assent/config.toml";
const KEYS: &[&str] = &["genesis", "node", "key", "passphrase_file", "pin_file", "module"];

/// Flags of commands that read from a node.
#[derive(Args, Clone)]
pub(super) struct SettingsArgs {
    /// The deployment's genesis file, which you have compared with a second person [env: ASSENT_GENESIS]
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// The node: path of its socket, or `http://127.0.0.1:PORT` [env: ASSENT_NODE]
    #[arg(long, value_name = "ADDRESS")]
    node: Option<String>,
    /// The configuration file [default: ~/.config/assent/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Flags of commands that sign.
#[derive(Args, Clone)]
pub(super) struct KeyArgs {
    /// Your key: a file, or a `pkcs11:` URI [default: `key` in the configuration]
    #[arg(long, value_name = "FILE|URI")]
    key: Option<KeySource>,
    #[command(flatten)]
    unlock: UnlockArgs,
}

/// The configuration file: every key may be left out.
///
/// ```toml
/// genesis = "genesis.json"              # from the directory of this file, if it is not absolute
/// node = "/run/assent/node.sock"        # or http://127.0.0.1:PORT
/// key = "alice.pem"                     # or pkcs11:token=LABEL;object=KEY
/// passphrase_file = "alice.passphrase"  # readable by you alone; without it you are asked
/// pin_file = "token.pin"                # likewise, for a token
/// module = "/usr/lib/opensc-pkcs11.so"  # the token's PKCS#11 module
/// ```
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    genesis: Option<PathBuf>,
    node: Option<String>,
    key: Option<String>,
    passphrase_file: Option<PathBuf>,
    pin_file: Option<PathBuf>,
    module: Option<PathBuf>,
}

/// Flags, environment and configuration file, put together.
pub(super) struct Settings {
    arguments: SettingsArgs,
    file: ConfigFile,
    base: PathBuf,
}

impl Settings {
    pub(super) fn load(arguments: &SettingsArgs) -> Result<Settings, Failure> {
        let (path, named) = match &arguments.config {
            Some(path) => (Some(path.clone()), true),
            None => (default_path(), false),
        };
        let path = path.filter(|path| named || path.exists());
        let (file, base) = match path {
            Some(path) => {
                let text = read::text(&path, "configuration", read::SHORT_LIMIT)?;
                let base = path.parent().unwrap_or(Path::new("")).to_owned();
                (toml_file::read(&text, &path, &[("", KEYS)])?, base)
            }
            None => (ConfigFile::default(), PathBuf::new()),
        };
        Ok(Settings { arguments: arguments.clone(), file, base })
    }

    /// The genesis that this person trusts. It never comes from a node.
    pub(super) fn genesis(&self) -> Result<Genesis, Failure> {
        let in_file = || self.file.genesis.as_ref().map(|path| self.base.join(path));
        let path = self.arguments.genesis.clone().or_else(|| environment("ASSENT_GENESIS")).or_else(in_file);
        let path = path.ok_or_else(|| {
            Failure::usage("which deployment? give `--genesis FILE`")
                .help("a genesis file comes from the people who run the deployment, never from the node alone; compare its id with a second person")
        })?;
        read::genesis(&path, Exit::DoesNotVerify)
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        let from_environment = || std::env::var("ASSENT_NODE").ok().filter(|text| !text.is_empty());
        let address =
            self.arguments.node.clone().or_else(from_environment).or_else(|| self.file.node.clone());
        let address = address.ok_or_else(|| {
            Failure::usage(
                "which node? give `--node` with the path of its socket, or `http://127.0.0.1:PORT`",
            )
        })?;
        Ok(Client::new(address.parse::<Address>().map_err(Failure::usage)?))
    }

    /// The key, able to sign.
    pub(super) fn signer(&self, key: &KeyArgs) -> Result<Box<dyn Signer>, Failure> {
        Ok(self.key(key)?.open(&self.unlock(key))?)
    }

    /// The key and what opening it needs.
    pub(super) fn key(&self, key: &KeyArgs) -> Result<KeySource, Failure> {
        match &key.key {
            Some(key) => Ok(key.clone()),
            None => self.configured_key().ok_or_else(|| {
                Failure::usage("which key? give `--key FILE` or `--key pkcs11:URI`")
                    .help("`assent key generate --out FILE` makes one")
            }),
        }
    }

    /// Whether a key is named anywhere.
    pub(super) fn names_key(&self, key: &KeyArgs) -> bool {
        key.key.is_some() || self.file.key.is_some()
    }

    pub(super) fn unlock(&self, key: &KeyArgs) -> Unlock {
        let UnlockArgs { passphrase_file, pin_file, module } = key.unlock.clone();
        let here = |path: &Option<PathBuf>| path.as_ref().map(|path| self.base.join(path));
        Unlock {
            passphrase_file: passphrase_file.or_else(|| here(&self.file.passphrase_file)),
            pin_file: pin_file.or_else(|| here(&self.file.pin_file)),
            module: module.or_else(|| here(&self.file.module)),
        }
    }

    fn configured_key(&self) -> Option<KeySource> {
        let Ok(key) = self.file.key.as_ref()?.parse();
        Some(match key {
            KeySource::File(path) => KeySource::File(self.base.join(path)),
            token => token,
        })
    }
}

/// Where the configuration is looked for, whether it is there or not.
pub(super) fn default_path() -> Option<PathBuf> {
    let home = || environment("HOME").map(|home| home.join(".config"));
    Some(environment("XDG_CONFIG_HOME").or_else(home)?.join(FILE))
}

fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
