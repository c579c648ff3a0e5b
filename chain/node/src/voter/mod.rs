//! Keys of people: requesters and voters sign with a file of their own or a token of their own.
//!
//! ```text
//! `--key` ─▶ KeySource ─open─▶ Signer ─sign_message─▶ Verified<P>
//!               ├─ key_file    PKCS#8 PEM, encrypted with a passphrase
//!               └─ token       PKCS#11, named by a `pkcs11:` URI
//! ```

pub mod key_file;
pub mod policy;
pub mod question;
pub mod secret;
pub mod token;
pub use assent_consensus::token_uri;

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use assent_consensus::digest::Digest;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::jws::{JwsError, Payload, Unsigned, Verified};

use key_file::{KeyFile, KeyFileError};
use secret::{SecretError, SecretSource};
use token::{TokenError, TokenKey};
use token_uri::{KeyUri, KeyUriError};

/// The systemd credential that holds the passphrase of a key file.
pub const PASSPHRASE_CREDENTIAL: &str = "assent-passphrase";
/// The systemd credential that holds the PIN of a person's token.
pub const PIN_CREDENTIAL: &str = "assent-pin";

/// A private key that can sign, wherever it lives.
pub trait Signer {
    /// Its public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs a digest with ES256. Any valid s is made.
    ///
    /// # Errors
    /// [`SignError`]: the token does not sign.
    fn sign(&self, digest: &Digest) -> Result<Signature, SignError>;
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The token did not sign.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What came out is not a signature of this key.
    #[error("what the key gave is no signature of its own: {0}")]
    Wrong(#[from] JwsError),
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The URI.
    #[error(transparent)]
    Uri(#[from] KeyUriError),
}

/// Where a key is, as a person writes it: a file's path, or a `pkcs11:` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A PKCS#8 PEM file.
    File(PathBuf),
    /// A key in a token; the text is yet to be read.
    Token(String),
}

impl FromStr for KeySource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<KeySource, Infallible> {
        let scheme = text.split_at_checked(token_uri::SCHEME.len()).map(|(scheme, _)| scheme);
        Ok(match scheme {
            Some(scheme) if scheme.eq_ignore_ascii_case(token_uri::SCHEME) => {
                KeySource::Token(text.to_owned())
            }
            _ => KeySource::File(text.into()),
        })
    }
}

/// What opening a key may need, beside where it is.
#[derive(Clone, Debug, Default)]
pub struct Unlock {
    /// A file with the passphrase of a key file.
    pub passphrase_file: Option<PathBuf>,
    /// A file with the PIN of a token.
    pub pin_file: Option<PathBuf>,
    /// The PKCS#11 module, unless the URI names it.
    pub module: Option<PathBuf>,
}

impl KeySource {
    /// Opens the key, so that it can sign. Asks for passphrase or PIN if there is a terminal and no file has it.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn open(&self, unlock: &Unlock) -> Result<Box<dyn Signer>, KeyError> {
        match self {
            KeySource::File(path) => {
                let source = SecretSource {
                    file: unlock.passphrase_file.clone(),
                    credential: PASSPHRASE_CREDENTIAL,
                    option: "--passphrase-file",
                };
                let prompt = format!("Passphrase of {}: ", path.display());
                Ok(Box::new(KeyFile::read(path, || source.read(&prompt))?))
            }
            KeySource::Token(uri) => {
                let uri: KeyUri = uri.parse()?;
                let source = SecretSource {
                    file: unlock.pin_file.clone(),
                    credential: PIN_CREDENTIAL,
                    option: "--pin-file",
                };
                let pin = |label: &str| source.read(&format!("PIN of the token {}: ", label.escape_debug()));
                Ok(Box::new(TokenKey::open(&uri, unlock.module.as_deref(), pin)?))
            }
        }
    }

    /// The public half alone: of a token it needs no PIN, of a file whose JWK stands beside it no passphrase.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn public_key(&self, unlock: &Unlock) -> Result<PublicKey, KeyError> {
        match self {
            KeySource::File(path) => match key_file::read_public(path)? {
                Some(key) => Ok(key),
                None => self.open(unlock).map(|signer| signer.public_key().clone()),
            },
            KeySource::Token(uri) => Ok(token::public_key(&uri.parse()?, unlock.module.as_deref())?),
        }
    }
}

/// Signs a message and verifies it.
///
/// # Errors
/// [`SignError`]
pub fn sign_message<P: Payload>(signer: &dyn Signer, payload: P) -> Result<Verified<P>, SignError> {
    let message = Unsigned::new(signer.public_key().thumbprint(), payload);
    let signature = signer.sign(&message.digest())?;
    Ok(message.attach(&signature, signer.public_key())?)
}

impl From<SecretError> for KeyError {
    fn from(error: SecretError) -> KeyError {
        KeyError::File(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_of_a_token_is_told_from_a_path() {
        for (text, token) in [
            ("pkcs11:token=a;object=k", true),
            ("PKCS11:token=a", true),
            ("alice.pem", false),
            ("pkcs11", false),
        ] {
            let source: KeySource = text.parse().expect("every text is a place");
            assert_eq!(matches!(source, KeySource::Token(_)), token, "{text}");
        }
    }
}
