//! A SoftHSM token with a directory of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::{find_module, softhsm2_util};

/// A token in a directory of its own, which goes when this value is dropped.
#[derive(Debug)]
pub struct SoftHsmToken {
    home: Home,
    module: PathBuf,
    config: PathBuf,
    pin_file: PathBuf,
    label: String,
    serial: String,
    pin: SecretString,
    so_pin: SecretString,
}

impl SoftHsmToken {
    /// Creates a token called `label` (1 to 32 bytes) with random PINs, in a new directory on tmpfs
    /// when `/dev/shm` is there and writable, else in the directory for temporary files.
    ///
    /// # Errors
    ///
    /// [`TokenError`]: SoftHSM is not installed, the label is too long, the directory cannot be written.
    pub fn create(label: &str) -> Result<Self, TokenError> {
        let home = temporary_directory()?;
        Self::initialise(Home::Temporary(home), label)
    }

    /// Creates a token as [`create`](Self::create) does, in `directory`, which must be absent or empty
    /// and which stays.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); [`TokenError::NotEmpty`].
    pub fn create_in(directory: &Path, label: &str) -> Result<Self, TokenError> {
        let at = |source| TokenError::Io { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        if fs::read_dir(directory).map_err(at)?.next().is_some() {
            return Err(TokenError::NotEmpty { path: directory.to_owned() });
        }
        Self::initialise(Home::Lasting(directory.canonicalize().map_err(at)?), label)
    }

    /// Takes up the token that [`create`](Self::create) or [`create_in`](Self::create_in) made in
    /// `directory`; it stays when this value is dropped.
    ///
    /// # Errors
    ///
    /// [`TokenError::Io`] when a file of the token is missing, [`TokenError::NoSerial`].
    pub fn open(directory: &Path, label: &str, serial: &str) -> Result<Self, TokenError> {
        let home = Home::Lasting(directory.to_owned());
        let pin_file = directory.join(PIN_FILE);
        Ok(Self {
            module: find_module()?,
            config: directory.join(CONFIG_FILE),
            pin: read_pin(&pin_file)?,
            so_pin: read_pin(&directory.join(SO_PIN_FILE))?,
            pin_file,
            label: label.to_owned(),
            serial: serial.to_owned(),
            home,
        })
    }

    /// Puts one more token with the same PINs into the same configuration, whatever its label, and
    /// returns its `pkcs11:` URI.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn add_token(&self, label: &str) -> Result<String, TokenError> {
        check_label(label)?;
        let before = softhsm2_util::serials(&self.config)?;
        softhsm2_util::initialise(&self.config, label, &self.pin, &self.so_pin)?;
        let serial = softhsm2_util::serials(&self.config)?
            .into_iter()
            .find(|serial| !before.contains(serial))
            .ok_or(TokenError::NoSerial)?;
        Ok(uri(label, &serial))
    }

    /// SoftHSM's PKCS#11 module.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The configuration file: what `SOFTHSM2_CONF` must be in a process that uses the token.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The token's `pkcs11:` URI with label and serial number (RFC 7512 section 2.3).
    pub fn uri(&self) -> String {
        uri(&self.label, &self.serial)
    }

    /// The token's label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The token's serial number, as the device reports it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The file with the user PIN, mode 0600.
    pub fn pin_file(&self) -> &Path {
        &self.pin_file
    }

    /// The user PIN.
    pub fn pin(&self) -> &SecretString {
        &self.pin
    }

    /// The security officer's PIN.
    pub fn so_pin(&self) -> &SecretString {
        &self.so_pin
    }

    /// The directory that holds all of the token.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// Leaves the directory in place when this value is dropped, and says where it is.
    pub fn keep(&mut self) -> &Path {
        if let Home::Temporary(directory) = &mut self.home {
            directory.disable_cleanup(true);
        }
        self.home.path()
    }

    fn initialise(home: Home, label: &str) -> Result<Self, TokenError> {
        check_label(label)?;
        let module = find_module()?;
        let directory = home.path();
        let tokens = directory.join("tokens");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&tokens)
            .map_err(|source| TokenError::Io { path: tokens.clone(), source })?;
        let tokens = tokens.to_str().ok_or_else(|| TokenError::NotText { path: tokens.clone() })?;
        let config = directory.join(CONFIG_FILE);
        write_private(
            &config,
            &format!(
                "directories.tokendir = {tokens}\nobjectstore.backend = file\n\
                 log.level = ERROR\nslots.removable = false\nslots.mechanisms = ALL\n"
            ),
        )?;
        let (pin, so_pin) = (random_pin()?, random_pin()?);
        let pin_file = directory.join(PIN_FILE);
        write_private(&pin_file, pin.expose_secret())?;
        write_private(&directory.join(SO_PIN_FILE), so_pin.expose_secret())?;
        softhsm2_util::initialise(&config, label, &pin, &so_pin)?;
        let serial = softhsm2_util::serials(&config)?.pop().ok_or(TokenError::NoSerial)?;
        Ok(Self { home, module, config, pin_file, label: label.to_owned(), serial, pin, so_pin })
    }
}

/// Why there is no token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// SoftHSM's module is in none of the usual places.
    #[error(
        "SoftHSM is not installed: no `libsofthsm2.so` in the usual places; install it \
         (`apt install softhsm2`, `dnf install softhsm`, `brew install softhsm`) or name it in SOFTHSM2_MODULE"
    )]
    NoModule,
    /// What `SOFTHSM2_MODULE` names is not a file.
    #[error("SOFTHSM2_MODULE names `{path}`, which is not a file; correct or unset it")]
    NamedModuleMissing {
        /// What the variable says.
        path: PathBuf,
    },
    /// `softhsm2-util` is not in PATH.
    #[error(
        "`softhsm2-util` is not in PATH; install it (`apt install softhsm2`, `dnf install softhsm`, \
         `brew install softhsm`) or name it in SOFTHSM2_UTIL"
    )]
    NoUtil,
    /// `softhsm2-util` failed.
    #[error("`softhsm2-util {command}` ended with {status}: {said}")]
    Util {
        /// Its first argument.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        said: String,
    },
    /// The token was initialised, yet the tool does not list it.
    #[error("`softhsm2-util --show-slots` lists no initialised token; is another SoftHSM in the way?")]
    NoSerial,
    /// A label has no place in the 32 bytes that PKCS#11 has for it.
    #[error("a token's label is 1 to 32 bytes without control characters, and `{label}` is not")]
    Label {
        /// The label that was asked for.
        label: String,
    },
    /// A directory for a lasting token holds something already.
    #[error("`{path}` is not empty; name a directory that is empty or absent")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A path that a configuration file cannot hold.
    #[error("`{path}` is not UTF-8 text; name another directory")]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// No pseudo-terminal to answer the tool's prompts on.
    #[error("cannot open a pseudo-terminal for `softhsm2-util`: {source}")]
    Terminal {
        /// What the system said.
        source: rustix::io::Errno,
    },
    /// The system gave no random bytes.
    #[error("the system has no random bytes for a PIN: {0}")]
    Random(getrandom::Error),
    /// A file or directory cannot be read or written.
    #[error("cannot use `{path}`: {source}")]
    Io {
        /// What was used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Debug)]
enum Home {
    Temporary(tempfile::TempDir),
    Lasting(PathBuf),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Lasting(directory) => directory,
        }
    }
}

/// SoftHSM writes each object with dozens of system calls, so tmpfs is many times faster than a disk.
fn temporary_directory() -> Result<tempfile::TempDir, TokenError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("assent-hsm-").permissions(fs::Permissions::from_mode(0o700));
    if let Ok(directory) = builder.tempdir_in("/dev/shm") {
        return Ok(directory);
    }
    builder.tempdir().map_err(|source| TokenError::Io { path: std::env::temp_dir(), source })
}

fn check_label(label: &str) -> Result<(), TokenError> {
    if label.is_empty() || label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control) {
        return Err(TokenError::Label { label: label.to_owned() });
    }
    Ok(())
}

fn random_pin() -> Result<SecretString, TokenError> {
    let mut bytes = [0; PIN_RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(TokenError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

fn write_private(path: &Path, content: &str) -> Result<(), TokenError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|source| TokenError::Io { path: path.to_owned(), source })
}

fn read_pin(path: &Path) -> Result<SecretString, TokenError> {
    fs::read_to_string(path)
        .map(SecretString::from)
        .map_err(|source| TokenError::Io { path: path.to_owned(), source })
}

fn uri(label: &str, serial: &str) -> String {
    format!("pkcs11:token={};serial={}", percent_encoded(label), percent_encoded(serial))
}

/// All but RFC 3986's unreserved characters encoded, which every RFC 7512 parser takes.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

const CONFIG_FILE: &str = "softhsm2.conf";
const PIN_FILE: &str = "pin";
const SO_PIN_FILE: &str = "so-pin";
/// PKCS#11 v3.1 section 3.1, CK_TOKEN_INFO.
const MAX_LABEL_BYTES: usize = 32;
/// 64 bits: nobody can try a PIN of a test's token more than a few thousand times.
const PIN_RANDOM_BYTES: usize = 8;

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_token_is_there_until_it_is_dropped() {
        let token = SoftHsmToken::create("first").expect("softhsm2 is installed");
        let directory = token.directory().to_owned();
        assert_eq!(softhsm2_util::serials(token.config()).expect("listed"), [token.serial()]);
        assert_eq!(token.uri(), format!("pkcs11:token=first;serial={}", token.serial()));
        assert!(directory.is_dir());
        drop(token);
        assert!(!directory.exists());
    }

    #[test]
    fn a_kept_token_stays() {
        let mut token = SoftHsmToken::create("kept").expect("softhsm2 is installed");
        let directory = token.keep().to_owned();
        drop(token);
        assert!(directory.join("pin").is_file());
        fs::remove_dir_all(directory).expect("it is ours");
    }

    #[test]
    fn only_the_owner_can_read_a_pin() {
        let token = SoftHsmToken::create("private").expect("softhsm2 is installed");
        for (path, mode) in [
            (token.directory().to_owned(), 0o700),
            (token.pin_file().to_owned(), 0o600),
            (token.directory().join("so-pin"), 0o600),
        ] {
            let found = fs::metadata(&path).expect("it exists").permissions().mode();
            assert_eq!(found & 0o777, mode, "{}", path.display());
        }
        let written = fs::read_to_string(token.pin_file()).expect("readable by us");
        assert_eq!(written, token.pin().expose_secret());
        assert_ne!(token.pin().expose_secret(), token.so_pin().expose_secret());
    }

    #[test]
    fn many_tokens_are_made_at_once() {
        let serials: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| SoftHsmToken::create("same label").expect("made"))).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic").serial().to_owned()).collect()
        });
        assert_eq!(serials.len(), 8);
    }

    #[test]
    fn two_tokens_of_one_configuration_may_share_a_label() {
        let token = SoftHsmToken::create("twin").expect("made");
        let second = token.add_token("twin").expect("added");
        assert_ne!(second, token.uri());
        assert_eq!(softhsm2_util::serials(token.config()).expect("listed").len(), 2);
    }

    #[test]
    fn a_label_that_pkcs11_cannot_hold_is_refused() {
        for label in ["", "a label that is longer than 32 bytes", "new\nline"] {
            assert!(matches!(SoftHsmToken::create(label), Err(TokenError::Label { .. })));
        }
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::write(directory.path().join("precious"), "").expect("written");
        let refused = SoftHsmToken::create_in(directory.path(), "x");
        assert!(matches!(refused, Err(TokenError::NotEmpty { .. })));
    }

    #[test]
    fn a_uri_encodes_what_is_not_plain() {
        assert_eq!(uri("a b;c=ü", "0f"), "pkcs11:token=a%20b%3Bc%3D%C3%BC;serial=0f");
    }
}
