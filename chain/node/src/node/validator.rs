//! The key that makes a log's blocks final and signs receipts: a PKCS#8 PEM file without passphrase, since a node starts
//! without a person.

use std::path::{Path, PathBuf};

use assent_consensus::digest::Digest;
use assent_consensus::genesis::Chain;
use assent_consensus::json::Integer;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::jws::{Jws, JwsError, Unsigned};
use assent_consensus::message::{DeploymentId, Receipt};
use assent_ledger::{CommitSigner, Placed};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner;

use crate::voter::Signer as _;
use crate::voter::key_file::{KeyFile, KeyFileError};
use crate::voter::secret::SecretError;

/// A validator's private key.
pub struct ValidatorKey {
    signing: SigningKey,
    public: PublicKey,
}

/// Why a validator key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ValidatorError {
    /// The file cannot be read.
    #[error("the validator key of `{chain}`: {source}")]
    File {
        /// The log.
        chain: String,
        /// Why.
        source: KeyFileError,
    },
    /// Nobody is there to type a passphrase.
    #[error(
        "the validator key `{}` is encrypted, and a node starts without a person; decrypt it with `openssl pkcs8`, and keep it from others by its mode",
        .0.display()
    )]
    Encrypted(PathBuf),
    /// Genesis names another key.
    #[error(
        "`{}` has the key `{found}`, which is no validator of `{chain}` in genesis; name the key that `assent init` wrote with that genesis",
        .path.display()
    )]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The log.
        chain: String,
        /// The thumbprint of the key in the file.
        found: String,
    },
}

impl ValidatorKey {
    /// Reads the key of a log.
    ///
    /// # Errors
    /// [`ValidatorError`]
    pub fn read(path: &Path, chain: &Chain) -> Result<ValidatorKey, ValidatorError> {
        let mut encrypted = false;
        let key = KeyFile::read(path, || {
            encrypted = true;
            Err(SecretError::Empty)
        });
        if encrypted {
            return Err(ValidatorError::Encrypted(path.to_owned()));
        }
        let key = key.map_err(|source| ValidatorError::File { chain: chain.id.to_string(), source })?;
        let public = key.public_key().clone();
        if chain.validators.key(public.thumbprint()).is_none() {
            return Err(ValidatorError::OtherKey {
                path: path.to_owned(),
                chain: chain.id.to_string(),
                found: public.thumbprint().to_string(),
            });
        }
        Ok(ValidatorKey { signing: key.signing_key(), public })
    }

    /// The receipt for a transaction that is on disk.
    ///
    /// # Errors
    /// [`JwsError`] if the signature does not verify, which would be a fault of the machine.
    pub fn receipt(&self, deployment: DeploymentId, chain: &Chain, placed: &Placed) -> Result<Jws, JwsError> {
        let receipt = Receipt {
            deployment,
            chain: chain.id.clone(),
            transaction: placed.transaction,
            height: Integer::saturating(placed.height),
            index: Integer::saturating(placed.index),
        };
        let unsigned = Unsigned::new(self.public.thumbprint(), receipt);
        let signature = self.sign_digest(&unsigned.digest());
        Ok(unsigned.attach(&signature, &self.public)?.jws().clone())
    }

    fn sign_digest(&self, digest: &Digest) -> Signature {
        let signature: p256::ecdsa::Signature =
            self.signing.sign_prehash(digest.as_bytes()).expect("32 bytes are as long as P-256 wants them");
        signature.to_bytes().into()
    }
}

impl CommitSigner for ValidatorKey {
    fn key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, digest: &Digest) -> Result<Signature, String> {
        Ok(self.sign_digest(digest))
    }
}
