//! The configuration file: unknown keys are refused with line, column and the nearest known key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use assent_consensus::name::Name;
use assent_consensus::time::Millis;
use assent_edge::toml_keys;
use serde::Deserialize;
use toml::de::DeTable;

use crate::device::CALL_TIMEOUT;
use crate::device::pkcs11::Profile;
use crate::device::yubihsm::{LOG_POLL, OWN_SESSIONS};
use crate::reload::Settings;
use crate::tls_socket::TlsConfig;

/// Where the configuration is if no other file is named.
pub const DEFAULT_PATH: &str = "/etc/assent-kms/kms.toml";

const KEYS: [&str; 12] = [
    "state_directory",
    "socket",
    "admin_socket",
    "metrics_socket",
    "allowed_users",
    "decision_grace",
    "epoch_signatures",
    "epoch_look",
    "expiry_notice",
    "restrict_system_calls",
    "tls",
    "device",
];
/// Keys of every device.
const DEVICE_KEYS: [&str; 5] = ["name", "driver", "pin_file", "sessions", "call_timeout"];
/// The most devices.
pub const DEVICES_LIMIT: usize = 16;

/// The largest configuration file, in bytes.
const FILE_LIMIT: usize = 64 * 1024;
/// The most sessions of one token.
pub const SESSIONS_LIMIT: usize = 256;

/// The configuration file, read and checked. Paths are from the file's directory. [`Settings`] are read again on SIGHUP.
///
/// ```toml
/// state_directory = "kms"        # the database and marks; for this user alone
/// socket = "kms.sock"            # for duties
/// admin_socket = "kms-admin.sock"
/// metrics_socket = "kms-metrics.sock"   # for `GET /metrics`, by this user and its group; default: none
/// allowed_users = [1000]         # numbers of the users who may send duties; default: this user
/// decision_grace = "24h"         # how late after a deadline ballots are decided on without a person; default
/// epoch_signatures = 1000        # signatures between two marks on the token; default
/// epoch_look = "2s"              # how often it is looked whether another KMS has put a mark there; default
/// expiry_notice = "30d"          # how long before a key is deactivated or a certificate ends that is announced; default
/// restrict_system_calls = true   # no other programs, mounts, kernel modules and the like; false for modules that start programs
///
/// [tls]                          # duties from nodes on other machines too; default: not
/// listen = "0.0.0.0:7430"        # where
/// certificate = "tls/kms.crt"    # the KMS's, with those between it and the authority, in PEM
/// private_key = "tls/kms.key"    # in PEM, readable by this user alone
/// clients_ca = "tls/ca.crt"      # the authorities that sign nodes' certificates, in PEM
/// clients_crl = "tls/ca.crl"     # lists of all these authorities of what they revoked, in PEM, or one in DER; default: none
/// clients = ["dns:node.example.org"]   # who may send duties: dns:NAME, uri:URI, or sha256:HEX of the public key; a setting
///
/// [[device]]                     # one or more
/// name = "main"                  # in commands and in the log; it stays as long as there are keys on the device
/// driver = "pkcs11"
/// module = "/usr/lib/softhsm/libsofthsm2.so"
/// token = "pkcs11:token=NAME;serial=NUMBER"   # RFC 7512
/// pin_file = "pin"               # readable by this user alone; default: the systemd credential assent-kms-pin-NAME
/// sessions = 8                   # signatures at the same time; default
/// call_timeout = "10s"           # after which a call that does not return is given up; 12 times that for making a key; default
/// key_template = "full"          # or "label-only", where the token fills in the rest itself; default
/// algorithm_attribute = { type = 0x8001e101, p256 = 12 }   # of the maker's own; default: none
/// epoch_file = "/mnt/other/epoch"   # on another disk than the database, if the token takes no data objects; default: none
///
/// [[device]]
/// name = "second"
/// driver = "yubihsm"             # a YubiHSM 2
/// connector = "http://127.0.0.1:12345"
/// serial = "0007550001"          # default: whichever the connector has
/// authentication_key = 2         # the number of the KMS's own authentication key; pin_file holds its password
/// wrap_key = 3                   # under which keys may be exported for a backup; default: none, keys never leave the device
/// log_poll = "10s"               # how often the device's log is read and compared; default
/// sessions = 8                   # at most 14 of the device's 16
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the database and marks are.
    pub state_directory: PathBuf,
    /// The socket for duties.
    pub socket: PathBuf,
    /// The socket for administration.
    pub admin_socket: PathBuf,
    /// The socket for metrics.
    pub metrics_socket: Option<PathBuf>,
    /// The users who may send duties.
    #[serde(default = "default_users")]
    pub allowed_users: Vec<u32>,
    /// How long after a deadline an outcome that ballots made is signed without a person.
    #[serde(default = "default_grace")]
    pub decision_grace: Millis,
    /// After how many signatures the epoch is advanced.
    #[serde(default = "default_epoch_signatures")]
    pub epoch_signatures: u64,
    /// How often PKCS#11 tokens are looked at for a mark that another process put there.
    #[serde(default = "default_epoch_look")]
    pub epoch_look: Millis,
    /// How long before a key is deactivated, or a certificate ends, that is announced.
    #[serde(default = "default_expiry_notice")]
    pub expiry_notice: Millis,
    /// Whether the process gives up system calls that no KMS makes.
    #[serde(default = "default_restrict_system_calls")]
    pub restrict_system_calls: bool,
    /// Duties from other machines, if they are taken.
    pub tls: Option<TlsConfig>,
    /// The devices, at least one; keys are made on the first unless another one is named.
    #[serde(rename = "device")]
    pub devices: Vec<DeviceConfig>,
}

/// The part of the configuration about one device. Unknown keys were refused before.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DeviceConfig {
    /// Its name.
    pub name: Name,
    /// What drives it.
    #[serde(flatten)]
    pub driver: DriverConfig,
    /// The file with the PIN.
    pub pin_file: Option<PathBuf>,
    /// How many sessions are used.
    #[serde(default = "default_sessions")]
    pub sessions: usize,
    /// How long a piece of work may keep a session before it is given up.
    #[serde(default = "default_call_timeout")]
    pub call_timeout: Millis,
}

/// The kinds of devices, and how each is found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum DriverConfig {
    /// A PKCS#11 token.
    Pkcs11 {
        /// The PKCS#11 module.
        module: PathBuf,
        /// The token's `pkcs11:` URI.
        token: String,
        /// What the token refuses or demands.
        #[serde(flatten)]
        profile: Profile,
    },
    /// A YubiHSM 2.
    #[serde(rename = "yubihsm")]
    YubiHsm {
        /// Where its connector is: `http://HOST:PORT`, or `usb`.
        connector: String,
        /// Its serial number; nothing for the one that the connector has.
        serial: Option<String>,
        /// The KMS's authentication key.
        authentication_key: u16,
        /// The wrap key under which keys may be exported.
        wrap_key: Option<u16>,
        /// How often its log is read.
        #[serde(default = "default_log_poll")]
        log_poll: Millis,
    },
}

impl DriverConfig {
    /// The words for `driver`, each with the keys that it takes beside those of every device.
    const KEYS: [(&str, &[&str]); 2] = [
        ("pkcs11", &["module", "token", "key_template", "algorithm_attribute", "epoch_file"]),
        ("yubihsm", &["connector", "serial", "authentication_key", "wrap_key", "log_poll"]),
    ];

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let paths = match self {
            DriverConfig::Pkcs11 { module, profile, .. } => [Some(module), profile.epoch_file.as_mut()],
            DriverConfig::YubiHsm { .. } => [None, None],
        };
        paths.into_iter().flatten()
    }

    /// How many sessions such a device has for a KMS.
    fn sessions_limit(&self) -> usize {
        match self {
            DriverConfig::Pkcs11 { .. } => SESSIONS_LIMIT,
            DriverConfig::YubiHsm { .. } => OWN_SESSIONS,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration `{}`: {why}; `--config FILE` names another", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is wrong.
    #[error("`{}`, line {line}, column {column}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong, and what to do.
        why: String,
    },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let failed = |why: String| ConfigError::Read { path: path.to_owned(), why };
        let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
        if length > FILE_LIMIT as u64 {
            return Err(failed(format!("it has more than {FILE_LIMIT} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Config::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let wrong = |offset: usize, why: &str| {
            let (line, column) = toml_keys::position(text, offset);
            ConfigError::Wrong { path: path.to_owned(), line, column, why: why.to_owned() }
        };
        let of_toml =
            |error: toml::de::Error| wrong(error.span().map_or(0, |span| span.start), error.message());
        let table = DeTable::parse(text).map_err(of_toml)?;
        check_keys(table.get_ref(), &KEYS).map_err(|(offset, why)| wrong(offset, &why))?;
        check_tls(table.get_ref()).map_err(|(offset, why)| wrong(offset, &why))?;
        check_devices(table.get_ref()).map_err(|(offset, why)| wrong(offset, &why))?;
        let mut config: Config = toml::from_str(text).map_err(of_toml)?;
        for device in &config.devices {
            let limit = device.driver.sessions_limit();
            if !(1..=limit).contains(&device.sessions) {
                let why = format!("`sessions` of the device `{}` must be from 1 to {limit}", device.name);
                return Err(wrong(0, &why));
            }
        }
        if config.devices.iter().any(|device| device.call_timeout == Millis::from_secs(0)) {
            return Err(wrong(0, "`call_timeout` must be more than 0"));
        }
        if config.epoch_signatures == 0 {
            return Err(wrong(0, "`epoch_signatures` must be at least 1"));
        }
        let sockets = config.sockets();
        if sockets.iter().collect::<BTreeSet<_>>().len() < sockets.len() {
            return Err(wrong(0, "`socket`, `admin_socket` and `metrics_socket` must be different sockets"));
        }
        let base = path.parent().unwrap_or(Path::new(""));
        let Config { state_directory, socket, admin_socket, metrics_socket, tls, devices, .. } = &mut config;
        let of_tls = tls.iter_mut().flat_map(TlsConfig::paths);
        let of_devices =
            devices.iter_mut().flat_map(|device| device.driver.paths().chain(&mut device.pin_file));
        let sockets = [socket, admin_socket].into_iter().chain(metrics_socket);
        let paths = sockets.chain([state_directory]).chain(of_tls).chain(of_devices);
        for relative in paths {
            *relative = base.join(&*relative);
        }
        for device in &config.devices {
            if let DriverConfig::Pkcs11 { profile: Profile { epoch_file: Some(file), .. }, .. } =
                &device.driver
                && file.starts_with(&config.state_directory)
            {
                let why = "`epoch_file` must be outside of `state_directory`, on another disk: what puts one back to an older \
                           state must not put back both";
                return Err(wrong(0, why));
            }
        }
        Ok(config)
    }

    /// What may change while the KMS runs.
    pub fn settings(&self) -> Settings {
        Settings {
            allowed_users: self.allowed_users.clone(),
            decision_grace: self.decision_grace,
            epoch_signatures: self.epoch_signatures,
            epoch_look: self.epoch_look,
            expiry_notice: self.expiry_notice,
            tls_clients: self.tls.iter().flat_map(|tls| tls.clients.iter().cloned()).collect(),
        }
    }

    /// The keys that differ, other than those of [`Settings`].
    pub fn fixed_differences(&self, other: &Config) -> Vec<&'static str> {
        let Config {
            state_directory,
            socket,
            admin_socket,
            metrics_socket,
            allowed_users: _,
            decision_grace: _,
            epoch_signatures: _,
            epoch_look: _,
            expiry_notice: _,
            restrict_system_calls,
            tls,
            devices,
        } = self;
        let is_same_port = match (tls, &other.tls) {
            (Some(tls), Some(other)) => tls.is_same_port(other),
            (tls, other) => tls.is_none() == other.is_none(),
        };
        let differences = [
            ("`state_directory`", *state_directory != other.state_directory),
            ("`socket`", *socket != other.socket),
            ("`admin_socket`", *admin_socket != other.admin_socket),
            ("`metrics_socket`", *metrics_socket != other.metrics_socket),
            ("`restrict_system_calls`", *restrict_system_calls != other.restrict_system_calls),
            ("`[tls]`", !is_same_port),
            ("`[[device]]`", *devices != other.devices),
        ];
        differences.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// Every socket.
    pub fn sockets(&self) -> Vec<&Path> {
        let sockets = [&self.socket, &self.admin_socket].into_iter().chain(&self.metrics_socket);
        sockets.map(PathBuf::as_path).collect()
    }
}

fn default_users() -> Vec<u32> {
    Settings::default().allowed_users
}

fn default_grace() -> Millis {
    Settings::default().decision_grace
}

fn default_epoch_signatures() -> u64 {
    Settings::default().epoch_signatures
}

fn default_epoch_look() -> Millis {
    Settings::default().epoch_look
}

fn default_expiry_notice() -> Millis {
    Settings::default().expiry_notice
}

fn default_restrict_system_calls() -> bool {
    true
}

fn default_call_timeout() -> Millis {
    Millis::from_secs(CALL_TIMEOUT.as_secs())
}

fn default_log_poll() -> Millis {
    Millis::from_secs(LOG_POLL.as_secs())
}

fn default_sessions() -> usize {
    8
}

fn check_keys(table: &DeTable<'_>, known: &[&str]) -> Result<(), (usize, String)> {
    toml_keys::unknown(table, known).map_or(Ok(()), Err)
}

/// The table `[tls]`, if there is one: with at least one client.
fn check_tls(table: &DeTable<'_>) -> Result<(), (usize, String)> {
    let Some((key, tls)) = table.get_key_value("tls") else { return Ok(()) };
    let not_a_table = || (key.span().start, "`tls` is a table: write `[tls]`".to_owned());
    let tls = tls.get_ref().as_table().ok_or_else(not_a_table)?;
    check_keys(tls, &TlsConfig::KEYS)?;
    match tls.get("clients").map(|clients| (clients.span().start, clients.get_ref().as_array())) {
        Some((place, Some(clients))) if clients.is_empty() => {
            Err((place, "`clients` must name at least one client that may send duties".into()))
        }
        _ => Ok(()),
    }
}

/// The tables `[[device]]`: at least one, each with a name of its own, and with the keys of its driver.
fn check_devices(table: &DeTable<'_>) -> Result<(), (usize, String)> {
    let Some((key, devices)) = table.get_key_value("device") else {
        return Err((0, "there is no `[[device]]`: at least one must hold the keys".into()));
    };
    let not_tables = || (key.span().start, "`device` is a list of tables: write `[[device]]`".to_owned());
    let devices = devices.get_ref().as_array().ok_or_else(not_tables)?;
    if devices.is_empty() || devices.len() > DEVICES_LIMIT {
        return Err((key.span().start, format!("there must be from 1 to {DEVICES_LIMIT} devices")));
    }
    let (mut names, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.iter() {
        let place = device.span().start;
        let device = device.get_ref().as_table().ok_or_else(not_tables)?;
        let driver = device.get("driver").and_then(|driver| driver.get_ref().as_str());
        let known = DriverConfig::KEYS.iter().find(|(word, _)| Some(*word) == driver);
        let Some((_, of_driver)) = known else {
            let words: Vec<_> = DriverConfig::KEYS.iter().map(|(word, _)| format!("`{word}`")).collect();
            let place = device.get("driver").map_or(place, |driver| driver.span().start);
            return Err((place, format!("`driver` must be one of {}", words.join(", "))));
        };
        check_keys(device, &[&DEVICE_KEYS[..], of_driver].concat())?;
        if let Some(name) = device.get("name")
            && !names.insert(name.get_ref().as_str())
        {
            return Err((name.span().start, "another device has this name already".into()));
        }
        // A wrong PIN would be tried once for each.
        let token = device.get("token").or(device.get("connector"));
        // By USB there may be several.
        if let Some(token) = token.filter(|token| token.get_ref().as_str() != Some("usb"))
            && !tokens.insert(token.get_ref().as_str())
        {
            return Err((token.span().start, "another device is this token already".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
