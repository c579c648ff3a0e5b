//! A person's own PKCS#11 token (PKCS#11 v2.40): the key never leaves it.

use std::path::{Path, PathBuf};

use assent_consensus::digest::Digest;
use assent_consensus::jwk::{PublicKey, Signature};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use secrecy::SecretString;

use super::secret::SecretError;
use super::token_uri::{KeyUri, TokenDescription};
use super::{SignError, Signer};

/// The most keys that are listed of one token.
pub const LIST_LIMIT: usize = 1_000;

/// CKA_EC_PARAMS of P-256: the DER of the object identifier 1.2.840.10045.3.1.7.
const P256_PARAMETERS: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The DER header of an OCTET STRING of 65 bytes: what stands before the point in CKA_EC_POINT.
const POINT_HEADER: [u8; 2] = [0x04, 65];

/// A key in a token, with a session that is logged in.
pub struct TokenKey {
    session: Session,
    key: ObjectHandle,
    public: PublicKey,
}

/// A key that a token shows.
#[derive(Clone, Debug)]
pub struct ListedKey {
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub object: String,
    /// The key's id.
    pub id: Vec<u8>,
    /// The public half.
    pub public_key: PublicKey,
}

/// Why a key in a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No module is named.
    #[error("which PKCS#11 module? give `--module PATH`, or `?module-path=PATH` in the URI")]
    NoModule,
    /// The module cannot be loaded.
    #[error("the PKCS#11 module `{}` cannot be used: {reason}", path.display().to_string().escape_debug())]
    Module {
        /// The module.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No token fits.
    #[error("no token fits the URI; {}", tokens(.found))]
    NoToken {
        /// The labels of those that are there.
        found: Vec<String>,
    },
    /// Several tokens fit.
    #[error("{0} tokens fit the URI: add `serial=NUMBER` to say which")]
    SeveralTokens(usize),
    /// The key is not there.
    #[error("the token `{}` has no P-256 {what} key that fits the URI", token.escape_debug())]
    NoKey {
        /// The token's label.
        token: String,
        /// Which half.
        what: &'static str,
    },
    /// Several keys fit.
    #[error("{count} keys of the token `{}` fit the URI: add `object=LABEL` or `id=%XX` to say which", token.escape_debug())]
    SeveralKeys {
        /// The token's label.
        token: String,
        /// How many.
        count: usize,
    },
    /// The PIN was tried once.
    #[error("the PIN of the token `{}` is wrong; it was tried once and is not tried again by itself", .0.escape_debug())]
    WrongPin(String),
    /// The next wrong PIN would lock the token.
    #[error(
        "the token `{}` has one try left before it locks: log in once with the maker's own tool, which sets its counter back",
        .0.escape_debug()
    )]
    FinalTry(String),
    /// The token is locked.
    #[error("the PIN of the token `{}` is locked: its security officer can unlock it", .0.escape_debug())]
    Locked(String),
    /// No PIN.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The token failed.
    #[error("the token failed: {0}")]
    Failed(String),
}

impl TokenKey {
    /// Finds the key and logs in; the PIN, which `pin` gives for the token's label, is tried once.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn open(
        uri: &KeyUri,
        module: Option<&Path>,
        pin: impl FnOnce(&str) -> Result<SecretString, SecretError>,
    ) -> Result<TokenKey, TokenError> {
        let token = Token::choose(uri, module)?;
        let (public, id) = token.public_key(uri)?;
        token.login(pin)?;
        let key = token.private_key(uri, &id)?;
        Ok(TokenKey { session: token.session, key, public })
    }
}

impl Signer for TokenKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, digest: &Digest) -> Result<Signature, SignError> {
        let signature =
            self.session.sign(&Mechanism::Ecdsa, self.key, digest.as_bytes()).map_err(TokenError::from)?;
        let length = signature.len();
        let wrong = |_| TokenError::Failed(format!("a signature has {length} bytes, not 64"));
        Ok(Signature::try_from(signature).map_err(wrong)?)
    }
}

/// The public half of a key, without a login.
///
/// # Errors
/// [`TokenError`]
pub fn public_key(uri: &KeyUri, module: Option<&Path>) -> Result<PublicKey, TokenError> {
    Ok(Token::choose(uri, module)?.public_key(uri)?.0)
}

/// The P-256 keys that a token shows without a login, up to [`LIST_LIMIT`].
///
/// # Errors
/// [`TokenError`]
pub fn list(uri: &KeyUri, module: Option<&Path>) -> Result<Vec<ListedKey>, TokenError> {
    let token = Token::choose(uri, module)?;
    let mut keys = Vec::new();
    for handle in token.find(ObjectClass::PUBLIC_KEY, uri.object(), uri.id())?.into_iter().take(LIST_LIMIT) {
        if let Some(public_key) = token.point(handle)? {
            let (id, object) = token.name(handle)?;
            keys.push(ListedKey { token: token.label.clone(), object, id, public_key });
        }
    }
    Ok(keys)
}

/// One token with a session.
struct Token {
    module: Pkcs11,
    slot: Slot,
    label: String,
    session: Session,
}

impl Token {
    fn choose(uri: &KeyUri, module: Option<&Path>) -> Result<Token, TokenError> {
        let path = module.or(uri.module_path()).ok_or(TokenError::NoModule)?;
        let unusable = |error: Error| TokenError::Module { path: path.to_owned(), reason: reason(&error) };
        let module = Pkcs11::new(path).map_err(unusable)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(unusable(error)),
        }
        let mut fitting = Vec::new();
        let mut found = Vec::new();
        for slot in module.get_slots_with_token()? {
            // A slot whose token cannot be asked is none that fits; another one may.
            let Ok(info) = module.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            let label = info.label().to_owned();
            if uri.fits(describe(&info)) {
                fitting.push((slot, label.clone()));
            }
            found.push(label);
        }
        let (slot, label) = match fitting.len() {
            1 => fitting.remove(0),
            0 => return Err(TokenError::NoToken { found }),
            several => return Err(TokenError::SeveralTokens(several)),
        };
        let session = module.open_ro_session(slot)?;
        Ok(Token { module, slot, label, session })
    }

    /// The one public key that fits, and its id.
    fn public_key(&self, uri: &KeyUri) -> Result<(PublicKey, Vec<u8>), TokenError> {
        let mut keys = Vec::new();
        for handle in self.find(ObjectClass::PUBLIC_KEY, uri.object(), uri.id())? {
            if let Some(key) = self.point(handle)? {
                keys.push((key, self.name(handle)?.0));
            }
        }
        match keys.len() {
            1 => Ok(keys.remove(0)),
            0 => Err(TokenError::NoKey { token: self.label.clone(), what: "public" }),
            count => Err(TokenError::SeveralKeys { token: self.label.clone(), count }),
        }
    }

    fn login(&self, pin: impl FnOnce(&str) -> Result<SecretString, SecretError>) -> Result<(), TokenError> {
        let info = self.module.get_token_info(self.slot)?;
        if !info.login_required() {
            return Ok(());
        }
        if info.user_pin_locked() {
            return Err(TokenError::Locked(self.label.clone()));
        }
        if info.user_pin_final_try() {
            return Err(TokenError::FinalTry(self.label.clone()));
        }
        let logged_in = match info.protected_authentication_path() {
            true => self.session.login(UserType::User, None),
            false => self.session.login(UserType::User, Some(&pin(&self.label)?)),
        };
        logged_in.map_err(|error| match error {
            Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
                TokenError::WrongPin(self.label.clone())
            }
            Error::Pkcs11(RvError::PinLocked, _) => TokenError::Locked(self.label.clone()),
            error => error.into(),
        })
    }

    /// The private key with the id of the public one.
    fn private_key(&self, uri: &KeyUri, id: &[u8]) -> Result<ObjectHandle, TokenError> {
        let id = (!id.is_empty()).then_some(id);
        let keys = self.find(ObjectClass::PRIVATE_KEY, uri.object().filter(|_| id.is_none()), id)?;
        match keys[..] {
            [key] => Ok(key),
            [] => Err(TokenError::NoKey { token: self.label.clone(), what: "private" }),
            _ => Err(TokenError::SeveralKeys { token: self.label.clone(), count: keys.len() }),
        }
    }

    fn find(
        &self,
        class: ObjectClass,
        object: Option<&str>,
        id: Option<&[u8]>,
    ) -> Result<Vec<ObjectHandle>, TokenError> {
        let mut template = vec![Attribute::Class(class), Attribute::KeyType(KeyType::EC)];
        template.extend(object.map(|object| Attribute::Label(object.as_bytes().to_vec())));
        template.extend(id.map(|id| Attribute::Id(id.to_vec())));
        Ok(self.session.find_objects(&template)?)
    }

    /// The key's point, if it is one of P-256.
    fn point(&self, key: ObjectHandle) -> Result<Option<PublicKey>, TokenError> {
        let (mut on_p256, mut point) = (false, None);
        let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
        for attribute in self.session.get_attributes(key, &wanted)? {
            match attribute {
                Attribute::EcParams(parameters) => on_p256 = parameters == P256_PARAMETERS,
                // Some modules leave out the DER header that PKCS#11 asks for.
                Attribute::EcPoint(bytes) => {
                    let bare = bytes.strip_prefix(&POINT_HEADER).filter(|bare| bare.len() == 65);
                    point = <[u8; 65]>::try_from(bare.unwrap_or(&bytes)).ok();
                }
                _ => {}
            }
        }
        Ok(point.filter(|_| on_p256).and_then(|point| PublicKey::from_point(point).ok()))
    }

    /// The key's id and label.
    fn name(&self, key: ObjectHandle) -> Result<(Vec<u8>, String), TokenError> {
        let (mut id, mut label) = (Vec::new(), String::new());
        for attribute in self.session.get_attributes(key, &[AttributeType::Id, AttributeType::Label])? {
            match attribute {
                Attribute::Id(bytes) => id = bytes,
                Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
                _ => {}
            }
        }
        Ok((id, label))
    }
}

fn describe(info: &TokenInfo) -> TokenDescription<'_> {
    TokenDescription {
        label: info.label(),
        serial: info.serial_number(),
        manufacturer: info.manufacturer_id(),
        model: info.model(),
    }
}

impl From<Error> for TokenError {
    fn from(error: Error) -> TokenError {
        TokenError::Failed(reason(&error))
    }
}

/// An error of the module in words of PKCS#11.
fn reason(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function:?}: {code:?}"),
        other => other.to_string(),
    }
}

fn tokens(found: &[String]) -> String {
    if found.is_empty() {
        return "the module shows no token at all".into();
    }
    let labels: Vec<_> = found.iter().map(|label| format!("`{}`", label.escape_debug())).collect();
    format!("the module shows {}", labels.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use assent_hsm_mock::{SoftHsmToken, with_token};
    use secrecy::ExposeSecret;

    use super::*;

    fn generate(token: &SoftHsmToken, label: &str, id: u8) {
        let module = Pkcs11::new(token.module()).expect("the module loads");
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).expect("it starts");
        let slot = module.get_slots_with_token().expect("slots")[0];
        let session = module.open_rw_session(slot).expect("a session");
        let pin = SecretString::from(token.pin().expose_secret());
        session.login(UserType::User, Some(&pin)).expect("the right PIN");
        let named = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(vec![id])];
        let public =
            [&named[..], &[Attribute::EcParams(P256_PARAMETERS.to_vec()), Attribute::Verify(true)]].concat();
        let private = [&named[..], &[Attribute::Sensitive(true), Attribute::Sign(true)]].concat();
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).expect("a pair");
        session.close().expect("closed");
        module.finalize().expect("finalised");
    }

    fn uri(token: &SoftHsmToken, rest: &str) -> KeyUri {
        format!("{}{rest}", token.uri()).parse().expect("a URI")
    }

    #[test]
    fn a_key_in_a_token_signs_and_its_public_half_needs_no_pin() {
        with_token!("voter", |token| {
            generate(token, "alice", 1);
            let module = Some(token.module());
            let public = public_key(&uri(token, ";object=alice"), module).expect("no PIN is needed");
            let pin = SecretString::from(token.pin().expose_secret());
            let key = TokenKey::open(&uri(token, ";id=%01"), module, |_| Ok(pin)).expect("the right PIN");
            let digest = Digest::of(b"what is signed");
            let signature = key.sign(&digest).expect("signed");
            assert_eq!(key.public_key(), &public);
            public.verify_digest(&digest, &signature).expect("it verifies");
        });
    }

    #[test]
    fn a_wrong_pin_is_tried_once() {
        with_token!("voter-pin", |token| {
            generate(token, "alice", 1);
            let asked = AtomicU32::new(0);
            let opened = TokenKey::open(&uri(token, ";object=alice"), Some(token.module()), |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(SecretString::from("00000000"))
            });
            assert!(matches!(opened.err(), Some(TokenError::WrongPin(_))));
            assert_eq!(asked.into_inner(), 1);
        });
    }

    #[test]
    fn a_key_that_is_absent_or_not_the_only_one_is_refused() {
        with_token!("voter-several", |token| {
            let module = Some(token.module());
            let none = public_key(&uri(token, ";object=alice"), module);
            assert!(matches!(none, Err(TokenError::NoKey { what: "public", .. })));
            generate(token, "alice", 1);
            generate(token, "alice", 2);
            let several = public_key(&uri(token, ";object=alice"), module);
            assert!(matches!(several, Err(TokenError::SeveralKeys { count: 2, .. })));
            let other: KeyUri = "pkcs11:token=another".parse().expect("a URI");
            assert!(matches!(public_key(&other, module), Err(TokenError::NoToken { .. })));
            assert!(matches!(public_key(&other, None), Err(TokenError::NoModule)));
        });
    }
}
