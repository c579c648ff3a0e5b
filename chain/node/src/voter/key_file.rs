//! Private keys in files: PKCS#8 PEM (RFC 7468 sections 10 and 11), encrypted with a passphrase by PBES2 (RFC 8018
//! section 6.2) with scrypt and AES-256-CBC, and beside each its public half as a JWK.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::jwk::{PublicKey, Signature};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::elliptic_curve::sec1::ToSec1Point;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{DecodePrivateKey, EncodePrivateKey, EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::secret::{SecretError, check_private};
use super::{SignError, Signer};

/// The most bytes that a key file may have.
pub const KEY_FILE_LIMIT: u64 = 16 * 1024;

/// scrypt (RFC 7914): 2^17 rounds of blocks of 8, 128 MiB for each guess. OpenSSL's commands stop at 32 MiB and cannot open
/// such a file; keys that they encrypted are read all the same.
const SCRYPT_LOG_N: u8 = 17;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 1;

/// A P-256 private key that was read from a file, or is about to be written to one.
pub struct KeyFile {
    secret: p256::SecretKey,
    public: PublicKey,
}

/// How a new key file is kept from others, beside its mode.
pub enum Protection<'a> {
    /// Encrypted with this passphrase.
    Passphrase(&'a SecretString),
    /// Not encrypted.
    None,
}

/// Why a key file cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read the key in `{}`: {source}", path.display().to_string().escape_debug())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the key to `{}`: {source}", path.display().to_string().escape_debug())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there already.
    #[error("`{}` is there already, and a key is never overwritten: give another name", .0.display().to_string().escape_debug())]
    Exists(PathBuf),
    /// Not a key of ours.
    #[error(
        "`{}` is not a P-256 private key as PKCS#8 PEM; `openssl pkcs8 -topk8` makes one of other forms",
        .0.display().to_string().escape_debug()
    )]
    Form(PathBuf),
    /// The passphrase is wrong, or the file is damaged.
    #[error("`{}` cannot be decrypted: the passphrase is wrong, or the file was changed", .0.display().to_string().escape_debug())]
    Passphrase(PathBuf),
    /// The JWK beside it is another key's.
    #[error("`{}` is not the public half of the key beside it", .0.display().to_string().escape_debug())]
    OtherPublic(PathBuf),
    /// No passphrase.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The operating system gives no random numbers, or the encryption failed.
    #[error("cannot make a key: {0}")]
    Make(String),
}

impl KeyFile {
    /// A new key, from the operating system's random numbers.
    ///
    /// # Errors
    /// [`KeyFileError::Make`]
    pub fn generate() -> Result<KeyFile, KeyFileError> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            random(bytes.as_mut_slice())?;
            // FIPS 186-5 A.2.2: what is no scalar between 1 and the order is drawn again, about once in 2^32.
            if let Ok(secret) = p256::SecretKey::from_slice(bytes.as_slice()) {
                return Ok(KeyFile::new(secret));
            }
        }
    }

    /// Reads a key. `passphrase` is asked only for an encrypted one; one that is not encrypted must be readable by
    /// nobody else.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn read(
        path: &Path,
        passphrase: impl FnOnce() -> Result<SecretString, SecretError>,
    ) -> Result<KeyFile, KeyFileError> {
        let form = || KeyFileError::Form(path.to_owned());
        let (file, pem) = read_pem(path)?;
        let secret = match pem.lines().next().unwrap_or_default().trim_end() {
            "-----BEGIN ENCRYPTED PRIVATE KEY-----" => {
                let passphrase = passphrase()?;
                let document = pkcs8::der::SecretDocument::from_pem(&pem).map_err(|_| form())?.1;
                let encrypted =
                    EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| form())?;
                let decrypted = encrypted
                    .decrypt(passphrase.expose_secret().as_bytes())
                    .map_err(|_| KeyFileError::Passphrase(path.to_owned()))?;
                p256::SecretKey::from_pkcs8_der(decrypted.as_bytes()).map_err(|_| form())?
            }
            "-----BEGIN PRIVATE KEY-----" => {
                check_private(&file, path)?;
                p256::SecretKey::from_pkcs8_pem(&pem).map_err(|_| form())?
            }
            _ => return Err(form()),
        };
        Ok(KeyFile::new(secret))
    }

    /// Writes the key to a new file of mode 0600, and its JWK beside it (see [`public_path`]); both are on disk when
    /// this returns, and neither is there if it fails.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn write_new(&self, path: &Path, protection: &Protection<'_>) -> Result<PathBuf, KeyFileError> {
        let public = public_path(path);
        if public.symlink_metadata().is_ok() {
            return Err(KeyFileError::Exists(public));
        }
        let pem = self.pem(protection)?;
        write_new(path, pem.as_bytes(), 0o600)?;
        let mut jwk = json::write(&self.public);
        jwk.push(b'\n');
        if let Err(error) = write_new(&public, &jwk, 0o644) {
            // Nobody has seen the key yet: it may go.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(public)
    }

    /// The key as one that signs often.
    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::from(&self.secret)
    }

    fn new(secret: p256::SecretKey) -> KeyFile {
        let point = secret.public_key().to_sec1_point(false);
        let point = point.as_bytes().try_into().expect("an uncompressed point of P-256 has 65 bytes");
        let public = PublicKey::from_point(point).expect("a secret key's public key is on the curve");
        KeyFile { secret, public }
    }

    fn pem(&self, protection: &Protection<'_>) -> Result<Zeroizing<String>, KeyFileError> {
        let failed = |error: &dyn std::fmt::Display| KeyFileError::Make(error.to_string());
        let passphrase = match protection {
            Protection::None => return self.secret.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e)),
            Protection::Passphrase(passphrase) => passphrase,
        };
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random(&mut salt)?;
        random(&mut iv)?;
        let scrypt = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P).map_err(|e| failed(&e))?;
        let parameters =
            pbes2::Parameters::generate_scrypt_aes256cbc(scrypt, &salt, iv).map_err(|e| failed(&e))?;
        let document = self.secret.to_pkcs8_der().map_err(|e| failed(&e))?;
        let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|e| failed(&e))?;
        info.encrypt_with_params(parameters, passphrase.expose_secret().as_bytes())
            .map_err(|e| failed(&e))?
            .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
            .map_err(|e| failed(&e))
    }
}

impl Signer for KeyFile {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, digest: &Digest) -> Result<Signature, SignError> {
        let signature: p256::ecdsa::Signature = SigningKey::from(&self.secret)
            .sign_prehash(digest.as_bytes())
            .expect("32 bytes are as long as P-256 wants them");
        Ok(signature.to_bytes().into())
    }
}

/// Where the JWK of the key in `path` stands: the same name with `.jwk` for its ending.
pub fn public_path(path: &Path) -> PathBuf {
    path.with_extension("jwk")
}

/// The public half of the key in `path`, as far as it can be had without a passphrase: `path` may be a JWK itself, or
/// have one beside it.
///
/// # Errors
/// [`KeyFileError`]
pub fn read_public(path: &Path) -> Result<Option<PublicKey>, KeyFileError> {
    let (_, text) = read_pem(path)?;
    if text.trim_start().starts_with('{') {
        return match json::read(text.as_bytes()) {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(KeyFileError::Form(path.to_owned())),
        };
    }
    if !text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Ok(None);
    }
    let public = public_path(path);
    match fs::read(&public) {
        Ok(bytes) => json::read(&bytes).map(Some).map_err(|_| KeyFileError::Form(public)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyFileError::Read { path: public, source }),
    }
}

/// Fills `bytes` from the operating system's random numbers.
///
/// # Errors
/// [`KeyFileError::Make`]
pub fn random(bytes: &mut [u8]) -> Result<(), KeyFileError> {
    getrandom::fill(bytes).map_err(|error| KeyFileError::Make(error.to_string()))
}

fn read_pem(path: &Path) -> Result<(File, Zeroizing<String>), KeyFileError> {
    let failed = |source| KeyFileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let limit = usize::try_from(KEY_FILE_LIMIT).expect("16 KiB fit");
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    (&file).take(KEY_FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = std::str::from_utf8(&bytes).ok().filter(|_| bytes.len() <= limit);
    let text = text.ok_or_else(|| KeyFileError::Form(path.to_owned()))?;
    Ok((file, Zeroizing::new(text.to_owned())))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Write { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|source| {
        let _ = fs::remove_file(path);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use assent_edge::private_file::NotPrivate;

    use super::*;

    fn passphrase(text: &str) -> SecretString {
        SecretString::from(text)
    }

    fn unasked() -> Result<SecretString, SecretError> {
        panic!("no passphrase is needed")
    }

    #[test]
    fn an_encrypted_key_is_read_with_its_passphrase_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("alice.pem");
        let key = KeyFile::generate().expect("random numbers");
        let secret = passphrase("correct horse");
        let public = key.write_new(&path, &Protection::Passphrase(&secret)).expect("written");

        let again = KeyFile::read(&path, || Ok(passphrase("correct horse"))).expect("right");
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(read_public(&path).expect("readable").as_ref(), Some(key.public_key()));
        assert_eq!(read_public(&public).expect("readable").as_ref(), Some(key.public_key()));
        let wrong = KeyFile::read(&path, || Ok(passphrase("wrong horse")));
        assert!(matches!(wrong.err(), Some(KeyFileError::Passphrase(_))));
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{text}");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_key_without_passphrase_must_be_readable_by_nobody_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ci.pem");
        let key = KeyFile::generate().expect("random numbers");
        key.write_new(&path, &Protection::None).expect("written");
        let digest = Digest::of(b"what is signed");
        let signature = KeyFile::read(&path, unasked).expect("private").sign(&digest).expect("signed");
        key.public_key().verify_digest(&digest, &signature).expect("it verifies");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
        let error = KeyFile::read(&path, unasked).err().expect("refused");
        assert!(
            matches!(
                error,
                KeyFileError::Secret(SecretError::Open { why: NotPrivate::Mode { mode: 0o644 }, .. })
            ),
            "{error}"
        );
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = KeyFile::generate().expect("random numbers");
        for (there, name) in [("a.pem", "a.pem"), ("b.jwk", "b.pem")] {
            let there = directory.path().join(there);
            std::fs::write(&there, "precious").expect("writable");
            let error = key.write_new(&directory.path().join(name), &Protection::None).expect_err("refused");
            assert!(matches!(error, KeyFileError::Exists(_)), "{error}");
            assert_eq!(std::fs::read_to_string(&there).expect("there"), "precious");
        }
        assert!(!directory.path().join("b.pem").exists());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key.pem");
        let long = "x".repeat(20_000);
        for content in
            ["", "{}", "-----BEGIN EC PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n", &long]
        {
            std::fs::write(&path, content).expect("writable");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
            assert!(
                matches!(KeyFile::read(&path, unasked).err(), Some(KeyFileError::Form(_))),
                "{content:.40}"
            );
        }
        assert!(matches!(KeyFile::read(directory.path(), unasked).err(), Some(KeyFileError::Read { .. })));
    }
}
