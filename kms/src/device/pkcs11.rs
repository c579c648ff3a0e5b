//! PKCS#11 v2.40 tokens. One module is loaded once for the process; the token is chosen by its `pkcs11:` URI.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assent_consensus::digest::Digest;
use assent_consensus::jwk::{PublicKey, Signature};
use assent_consensus::token_uri::{KeyUri, TokenDescription};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};

use super::{Device, DeviceError, DeviceInfo, DeviceKey, Driver, EpochMark, ObjectId, read_mark, write_mark};
use crate::pin::{PinError, PinSource};

/// The most objects of one kind that are looked at.
pub const OBJECT_LIMIT: usize = 10_000;
/// The most key handles that a session keeps.
const HANDLE_LIMIT: usize = 1_024;

/// CKA_EC_PARAMS of P-256: the DER of the object identifier 1.2.840.10045.3.1.7.
const P256_PARAMETERS: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The DER header of an OCTET STRING of 65 bytes: what stands before the point in CKA_EC_POINT.
const POINT_HEADER: [u8; 2] = [0x04, 65];
/// CKA_APPLICATION and CKA_LABEL of the data object that holds the epoch.
const MARK_LABEL: &[u8] = b"assent-kms-epoch";

/// Which token, by which module, with which PIN.
pub struct Pkcs11Driver {
    path: PathBuf,
    uri: KeyUri,
    pin: PinSource,
    module: Arc<Mutex<Module>>,
}

/// The loaded module. The lock is held while a session is opened or closed, so that no session outlives the module's
/// initialisation: a stale session could sign with the number of a new one.
#[derive(Default)]
struct Module {
    loaded: Option<Pkcs11>,
    is_initialised: bool,
    sessions: usize,
}

impl Pkcs11Driver {
    /// Nothing is loaded yet.
    ///
    /// # Errors
    /// [`DeviceError::Setup`], if the URI does not name a token.
    pub fn new(path: &Path, uri: &str, pin: PinSource) -> Result<Pkcs11Driver, DeviceError> {
        let uri: KeyUri = uri
            .parse()
            .map_err(|error| DeviceError::Setup(format!("`token` in the configuration: {error}")))?;
        if uri.object().is_some() || uri.id().is_some() || uri.module_path().is_some() {
            return Err(DeviceError::Setup(
                "`token` in the configuration names a key or a module; it must name a token alone, such as \
                 `pkcs11:token=LABEL;serial=NUMBER`"
                    .into(),
            ));
        }
        Ok(Pkcs11Driver { path: path.into(), uri, pin, module: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Module> {
        self.module.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, module: &mut Module) -> Result<Pkcs11Device, DeviceError> {
        let context = module.start(&self.path)?;
        let (slot, token) = self.choose(&context)?;
        let session = context.open_rw_session(slot).map_err(|error| self.broken(&error))?;
        self.login(&session, &token)?;
        module.sessions += 1;
        let device = Pkcs11Device {
            session: Some(session),
            context,
            slot,
            handles: Vec::new(),
            module: self.module.clone(),
        };
        Ok(device)
    }

    /// The one token that fits the URI.
    fn choose(&self, context: &Pkcs11) -> Result<(Slot, TokenInfo), DeviceError> {
        let (mut fitting, mut found) = (Vec::new(), Vec::new());
        for slot in context.get_slots_with_token().map_err(|error| self.broken(&error))? {
            // A slot whose token cannot be asked is none that fits; another one may.
            let Ok(info) = context.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            found.push(format!(
                "`{}` (serial {})",
                info.label().escape_debug(),
                info.serial_number().escape_debug()
            ));
            if self.uri.fits(describe(&info)) {
                fitting.push((slot, info));
            }
        }
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => Err(DeviceError::Gone(format!(
                "no token fits the URI in the configuration; the module `{}` shows {}",
                self.path.display(),
                if found.is_empty() { "no token at all".into() } else { found.join(", ") }
            ))),
            several => Err(DeviceError::Setup(format!(
                "{several} tokens fit the URI in the configuration: add `serial=NUMBER` to say which; the module shows {}",
                found.join(", ")
            ))),
        }
    }

    /// Logs in, unless another session did: the login is the application's.
    fn login(&self, session: &Session, token: &TokenInfo) -> Result<(), DeviceError> {
        let state = session.get_session_info().map_err(|error| self.broken(&error))?.session_state();
        if !token.login_required() || matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let label = token.label().escape_debug().to_string();
        if token.user_pin_locked() {
            return Err(DeviceError::Pin(format!(
                "the PIN of the token `{label}` is locked: its security officer can unlock it"
            )));
        }
        if token.user_pin_final_try() {
            return Err(DeviceError::Pin(format!(
                "the token `{label}` has one try left before it locks: log in once with the maker's own tool, which sets \
                 its counter back"
            )));
        }
        let pin = self.pin.begin(token.user_pin_count_low())?;
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) => Ok(self.pin.was_right()?),
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(self.pin.was_not_tried()?),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                self.pin.was_wrong()?;
                Err(DeviceError::Pin(format!(
                    "the PIN of the token `{label}` is wrong; it was tried once and is not tried again by itself: correct \
                     `{}`, then run `assent-kms retry-pin`",
                    self.pin.path().display()
                )))
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => {
                self.pin.was_wrong()?;
                Err(DeviceError::Pin(format!(
                    "the PIN of the token `{label}` is locked: its security officer can unlock it"
                )))
            }
            // The token did not come so far as to look at the PIN.
            Err(error @ Error::Pkcs11(RvError::DeviceRemoved | RvError::TokenNotPresent, _)) => {
                self.pin.was_not_tried()?;
                Err(self.broken(&error))
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &Error) -> DeviceError {
        DeviceError::Gone(words(error))
    }
}

impl Driver for Pkcs11Driver {
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError> {
        let mut module = self.lock();
        match self.open(&mut module) {
            // Modules see new tokens, and ones that came back, only when they are initialised again.
            Err(DeviceError::Gone(_)) if module.sessions == 0 && module.is_initialised => {
                module.stop();
                Ok(Box::new(self.open(&mut module)?))
            }
            result => Ok(Box::new(result?)),
        }
    }
}

impl Drop for Pkcs11Driver {
    fn drop(&mut self) {
        let mut module = self.lock();
        if module.sessions == 0 {
            module.stop();
        }
    }
}

impl Module {
    fn start(&mut self, path: &Path) -> Result<Pkcs11, DeviceError> {
        let unusable = |why: String| {
            DeviceError::Setup(format!(
                "the PKCS#11 module `{}` cannot be used: {why}; check `module` in the configuration, and that the \
                 token's software is installed",
                path.display()
            ))
        };
        let context = match &self.loaded {
            Some(context) => context.clone(),
            None => {
                if !path.is_file() {
                    return Err(unusable("there is no such file".into()));
                }
                Pkcs11::new(path).map_err(|error| unusable(words(&error)))?
            }
        };
        if !self.is_initialised {
            match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                // It worked before: what is missing is its token, and may come back.
                Err(error) if self.loaded.is_some() => return Err(DeviceError::Gone(words(&error))),
                Err(error) => return Err(unusable(words(&error))),
            }
            self.is_initialised = true;
        }
        self.loaded = Some(context.clone());
        Ok(context)
    }

    /// Only without sessions.
    fn stop(&mut self) {
        self.is_initialised = false;
        if let Some(context) = self.loaded.clone()
            && let Err(error) = context.finalize()
        {
            tracing::warn!(error = words(&error), "the PKCS#11 module does not finalise");
        }
    }
}

/// One session with the token, logged in.
struct Pkcs11Device {
    /// Nothing once it is dropped.
    session: Option<Session>,
    context: Pkcs11,
    slot: Slot,
    /// Handles of private keys that were used, so that no search comes before a signature.
    handles: Vec<(ObjectId, ObjectHandle)>,
    module: Arc<Mutex<Module>>,
}

impl Drop for Pkcs11Device {
    fn drop(&mut self) {
        let mut module = self.module.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.session.take());
        module.sessions -= 1;
    }
}

impl Pkcs11Device {
    fn session(&self) -> Result<&Session, DeviceError> {
        self.session.as_ref().ok_or_else(|| DeviceError::Gone("the session is closed".into()))
    }

    /// An empty search of a token that is gone is no answer: it is asked whether it is there.
    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, DeviceError> {
        let found = self.session()?.find_objects(template).map_err(from_call)?;
        if found.is_empty() {
            self.probe()?;
        }
        Ok(found.into_iter().take(OBJECT_LIMIT).collect())
    }

    fn probe(&self) -> Result<TokenInfo, DeviceError> {
        self.context.get_token_info(self.slot).map_err(|error| DeviceError::Gone(words(&error)))
    }

    fn pair(&self, class: ObjectClass, object: ObjectId) -> Result<Vec<ObjectHandle>, DeviceError> {
        self.find(&[Attribute::Class(class), Attribute::Id(object.0.to_vec())])
    }

    fn private(&mut self, object: ObjectId) -> Result<ObjectHandle, DeviceError> {
        if let Some((_, handle)) = self.handles.iter().find(|(known, _)| *known == object) {
            return Ok(*handle);
        }
        let handle = match self.pair(ObjectClass::PRIVATE_KEY, object)?[..] {
            [handle] => handle,
            [] => return Err(DeviceError::NoKey(object)),
            _ => return Err(DeviceError::Failed(format!("two private keys have the id {object}"))),
        };
        if self.handles.len() >= HANDLE_LIMIT {
            self.handles.clear();
        }
        self.handles.push((object, handle));
        Ok(handle)
    }

    fn point(&self, key: ObjectHandle) -> Result<Option<PublicKey>, DeviceError> {
        let (mut on_p256, mut point) = (false, None);
        let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
        for attribute in self.session()?.get_attributes(key, &wanted).map_err(from_call)? {
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

    fn name(&self, key: ObjectHandle) -> Result<(Option<ObjectId>, String), DeviceError> {
        let (mut id, mut label) = (None, String::new());
        let wanted = [AttributeType::Id, AttributeType::Label];
        for attribute in self.session()?.get_attributes(key, &wanted).map_err(from_call)? {
            match attribute {
                Attribute::Id(bytes) => id = bytes.try_into().ok().map(ObjectId),
                Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
                _ => {}
            }
        }
        Ok((id, label))
    }

    /// What a private key must be (invariant I1); the first thing that it is not.
    fn missing(&self, key: ObjectHandle) -> Result<Option<&'static str>, DeviceError> {
        let wanted = [
            (AttributeType::Token, true, "kept in the token"),
            (AttributeType::Private, true, "private"),
            (AttributeType::Sensitive, true, "sensitive"),
            (AttributeType::AlwaysSensitive, true, "always sensitive"),
            (AttributeType::Extractable, false, "non-extractable"),
            (AttributeType::NeverExtractable, true, "never extractable"),
            (AttributeType::Local, true, "generated in the token"),
            (AttributeType::Sign, true, "able to sign"),
        ];
        let types = wanted.map(|(attribute, ..)| attribute);
        let has = self.session()?.get_attributes(key, &types).map_err(from_call)?;
        let holds = |attribute: AttributeType, value: bool| {
            has.iter().any(|has| has.attribute_type() == attribute && is_flag(has, value))
        };
        Ok(wanted.iter().find(|(attribute, value, _)| !holds(*attribute, *value)).map(|(.., words)| *words))
    }

    fn marks(&self) -> Result<Vec<(ObjectHandle, EpochMark)>, DeviceError> {
        let template = [Attribute::Class(ObjectClass::DATA), Attribute::Label(MARK_LABEL.into())];
        let mut marks = Vec::new();
        for handle in self.find(&template)? {
            let value = self.session()?.get_attributes(handle, &[AttributeType::Value]).map_err(from_call)?;
            if let Some(mark) = value.iter().find_map(|attribute| match attribute {
                Attribute::Value(bytes) => read_mark(bytes),
                _ => None,
            }) {
                marks.push((handle, mark));
            }
        }
        Ok(marks)
    }
}

impl Device for Pkcs11Device {
    fn info(&mut self) -> Result<DeviceInfo, DeviceError> {
        let token = self.probe()?;
        let module = self.context.get_library_info().map_err(from_call)?;
        let count = |limit| match limit {
            Limit::Max(number) => Some(number),
            _ => None,
        };
        Ok(DeviceInfo {
            label: token.label().into(),
            serial: token.serial_number().into(),
            manufacturer: token.manufacturer_id().into(),
            model: token.model().into(),
            firmware: token.firmware_version().to_string(),
            module: format!("{} {}", module.library_description(), module.library_version()),
            sessions: token.session_count(),
            sessions_limit: count(token.max_session_count()),
        })
    }

    fn generate(&mut self, label: &str) -> Result<(ObjectId, PublicKey), DeviceError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| DeviceError::Failed(format!("the system has no random bytes: {error}")))?;
        let object = ObjectId(id);
        let named = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(id.to_vec())];
        let public = [Attribute::EcParams(P256_PARAMETERS.to_vec()), Attribute::Verify(true)];
        let private = [
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Derive(false),
        ];
        let session = self.session()?;
        let (public, private) = session
            .generate_key_pair(
                &Mechanism::EccKeyPairGen,
                &[&named[..], &public].concat(),
                &[&named[..], &private].concat(),
            )
            .map_err(from_call)?;
        let checked = self.missing(private).and_then(|missing| match missing {
            Some(words) => Err(DeviceError::Unsafe(words)),
            None => self.point(public)?.ok_or(DeviceError::Unsafe("on P-256")),
        });
        match checked {
            Ok(key) => Ok((object, key)),
            Err(error) => {
                for handle in [private, public] {
                    if let Err(error) = self.session()?.destroy_object(handle) {
                        tracing::error!(%object, error = words(&error), "a key that is not used cannot be destroyed");
                    }
                }
                Err(error)
            }
        }
    }

    fn public_key(&mut self, object: ObjectId) -> Result<Option<PublicKey>, DeviceError> {
        match self.private(object) {
            Err(DeviceError::NoKey(_)) => return Ok(None),
            result => drop(result?),
        }
        match self.pair(ObjectClass::PUBLIC_KEY, object)?[..] {
            [public] => self.point(public),
            _ => Ok(None),
        }
    }

    fn sign(&mut self, object: ObjectId, digest: &Digest) -> Result<Signature, DeviceError> {
        let key = self.private(object)?;
        let signed = self.session()?.sign(&Mechanism::Ecdsa, key, digest.as_bytes());
        match signed {
            Ok(signature) => {
                let length = signature.len();
                let wrong = |_| DeviceError::Failed(format!("a signature has {length} bytes, not 64"));
                Signature::try_from(signature).map_err(wrong)
            }
            // The handle is of a key, or a login, that is no more. A new session looks for the key again.
            Err(Error::Pkcs11(RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid, _)) => {
                Err(DeviceError::Gone("the key's handle is not valid any more".into()))
            }
            Err(error) => Err(from_call(error)),
        }
    }

    fn list(&mut self) -> Result<Vec<DeviceKey>, DeviceError> {
        let mut keys: Vec<DeviceKey> = Vec::new();
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for handle in self.find(&[Attribute::Class(class), Attribute::KeyType(KeyType::EC)])? {
                let (Some(object), label) = self.name(handle)? else { continue };
                let place = match keys.iter().position(|key| key.object == object) {
                    Some(place) => place,
                    None => {
                        keys.push(DeviceKey { object, label, public_key: None, has_private: false });
                        keys.len() - 1
                    }
                };
                match class {
                    ObjectClass::PRIVATE_KEY => keys[place].has_private = true,
                    _ => keys[place].public_key = self.point(handle)?,
                }
            }
        }
        Ok(keys)
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), DeviceError> {
        self.handles.retain(|(known, _)| *known != object);
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for handle in self.pair(class, object)? {
                self.session()?.destroy_object(handle).map_err(from_call)?;
            }
        }
        Ok(())
    }

    fn epoch_marks(&mut self) -> Result<Vec<EpochMark>, DeviceError> {
        Ok(self.marks()?.into_iter().map(|(_, mark)| mark).collect())
    }

    fn put_epoch_mark(&mut self, mark: EpochMark) -> Result<(), DeviceError> {
        let before = self.marks()?;
        if !before.iter().any(|(_, has)| *has == mark) {
            // A new object and then the old one's end: a crash leaves two, and never a half of one.
            let object = [
                Attribute::Class(ObjectClass::DATA),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Application(MARK_LABEL.into()),
                Attribute::Label(MARK_LABEL.into()),
                Attribute::Value(write_mark(mark).into_bytes()),
            ];
            self.session()?.create_object(&object).map_err(from_call)?;
        }
        for (handle, old) in before {
            if old.instance == mark.instance && old != mark {
                self.session()?.destroy_object(handle).map_err(from_call)?;
            }
        }
        Ok(())
    }
}

/// Whether an attribute is a flag of this value.
fn is_flag(attribute: &Attribute, value: bool) -> bool {
    match attribute {
        Attribute::Token(has)
        | Attribute::Private(has)
        | Attribute::Sensitive(has)
        | Attribute::AlwaysSensitive(has)
        | Attribute::Extractable(has)
        | Attribute::NeverExtractable(has)
        | Attribute::Local(has)
        | Attribute::Sign(has) => *has == value,
        _ => false,
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

/// Whether the session is of no use after an error, or the token just said no.
fn from_call(error: Error) -> DeviceError {
    use RvError::{
        CryptokiNotInitialized, DeviceError as Device, DeviceMemory, DeviceRemoved, FunctionFailed,
        GeneralError, KeyFunctionNotPermitted, OperationActive, SessionClosed, SessionHandleInvalid,
        SlotIdInvalid, TokenNotPresent, UserNotLoggedIn,
    };
    let text = words(&error);
    match error {
        Error::Pkcs11(
            CryptokiNotInitialized
            | Device
            | DeviceMemory
            | DeviceRemoved
            | GeneralError
            | OperationActive
            | SessionClosed
            | SessionHandleInvalid
            | SlotIdInvalid
            | TokenNotPresent
            | UserNotLoggedIn,
            _,
        ) => DeviceError::Gone(text),
        // SoftHSM says so of a key whose file it cannot read.
        Error::Pkcs11(KeyFunctionNotPermitted | FunctionFailed, Function::Sign | Function::SignInit) => {
            DeviceError::Gone(text)
        }
        _ => DeviceError::Failed(text),
    }
}

/// An error of the module in words of PKCS#11.
fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function:?}: {code:?}"),
        other => other.to_string(),
    }
}

impl From<PinError> for DeviceError {
    fn from(error: PinError) -> DeviceError {
        DeviceError::Pin(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use assent_hsm_mock::{SoftHsmToken, with_token};

    use super::*;

    fn driver(token: &SoftHsmToken) -> Pkcs11Driver {
        let pin = PinSource::new(Some(token.pin_file()), token.directory()).expect("a file");
        Pkcs11Driver::new(token.module(), &token.uri(), pin).expect("a good URI")
    }

    #[test]
    fn a_generated_key_signs_and_is_never_extractable() {
        with_token!("one", |token| {
            let driver = driver(token);
            let mut device = driver.connect().expect("the token");
            let (object, key) = device.generate("a key").expect("generated");
            assert_eq!(device.public_key(object), Ok(Some(key.clone())));
            let digest = Digest::of(b"a");
            key.verify_digest(&digest, &device.sign(object, &digest).expect("signed")).expect("right");
            let listed = device.list().expect("a list");
            assert_eq!(listed.len(), 1);
            assert_eq!((listed[0].label.as_str(), listed[0].has_private), ("a key", true));

            let module = driver.lock().loaded.clone().expect("loaded");
            let session = module.open_ro_session(driver.choose(&module).expect("it").0).expect("a session");
            let private = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).expect("found");
            let types = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Value];
            let attributes = session.get_attributes(private[0], &types).expect("read");
            assert!(matches!(attributes[..], [Attribute::Sensitive(true), Attribute::Extractable(false)]));

            device.destroy(object).expect("destroyed");
            assert_eq!(device.public_key(object), Ok(None));
            assert_eq!(device.sign(object, &digest), Err(DeviceError::NoKey(object)));
        });
    }

    #[test]
    fn a_key_that_could_leave_the_token_is_noticed() {
        with_token!("weak", |token| {
            let driver = driver(token);
            let mut module = driver.lock();
            let device = driver.open(&mut module).expect("the token");
            drop(module);
            let public = [Attribute::Token(true), Attribute::EcParams(P256_PARAMETERS.to_vec())];
            let weak = |sensitive, extractable| {
                let private = [
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(sensitive),
                    Attribute::Extractable(extractable),
                    Attribute::Sign(true),
                ];
                let session = device.session().expect("open");
                let pair = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
                device.missing(pair.expect("generated").1).expect("read")
            };
            assert_eq!(weak(false, false), Some("sensitive"));
            assert_eq!(weak(true, true), Some("non-extractable"));
            assert_eq!(weak(true, false), None);
        });
    }

    #[test]
    fn a_mark_replaces_the_one_before() {
        with_token!("marks", |token| {
            let driver = driver(token);
            let mut device = driver.connect().expect("the token");
            assert_eq!(device.epoch_marks(), Ok(vec![]));
            for epoch in [1, 2, 2, 3] {
                let mark = EpochMark { instance: [7; 16], epoch };
                device.put_epoch_mark(mark).expect("put");
                assert_eq!(device.epoch_marks(), Ok(vec![mark]));
            }
            let mut second = driver.connect().expect("the token");
            assert_eq!(second.epoch_marks().map(|marks| marks.len()), Ok(1));
        });
    }

    #[test]
    fn a_token_that_is_taken_out_is_gone_and_back_when_it_is_put_back() {
        with_token!("moving", |token| {
            let driver = driver(token);
            let mut device = driver.connect().expect("the token");
            let (object, key) = device.generate("a key").expect("generated");
            let (here, away) = (token.directory().join("tokens"), token.directory().join("away"));
            std::fs::rename(&here, &away).expect("taken out");
            let digest = Digest::of(b"a");
            assert!(device.sign(object, &digest).expect_err("gone").is_lost());
            assert!(device.public_key(object).expect_err("gone").is_lost());
            assert!(device.epoch_marks().expect_err("gone").is_lost());
            drop(device);
            assert!(driver.connect().err().expect("gone").is_lost());
            std::fs::rename(&away, &here).expect("put back");
            let mut device = driver.connect().expect("the token");
            key.verify_digest(&digest, &device.sign(object, &digest).expect("signed")).expect("right");
        });
    }
}
