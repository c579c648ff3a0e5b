//! One session with a PKCS#11 token.

use std::sync::{Arc, Mutex, PoisonError};

use assent_consensus::digest::Digest;
use assent_consensus::jwk::{PublicKey, Signature};
use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::{Limit, Slot, TokenInfo};

use super::{Module, words};
use crate::device::{Device, DeviceError, DeviceInfo, DeviceKey, EpochMark, ObjectId, read_mark, write_mark};

/// The most objects of one kind that are looked at.
pub const OBJECT_LIMIT: usize = 10_000;
/// The most key handles that a session keeps.
const HANDLE_LIMIT: usize = 1_024;

/// CKA_EC_PARAMS of P-256: the DER of the object identifier 1.2.840.10045.3.1.7.
pub(super) const P256_PARAMETERS: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The DER header of an OCTET STRING of 65 bytes: what stands before the point in CKA_EC_POINT.
const POINT_HEADER: [u8; 2] = [0x04, 65];
/// CKA_APPLICATION and CKA_LABEL of the data object that holds the epoch.
const MARK_LABEL: &[u8] = b"assent-kms-epoch";

/// One session with the token, logged in.
pub(super) struct Pkcs11Device {
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
    pub(super) fn new(
        session: Session,
        context: Pkcs11,
        slot: Slot,
        module: Arc<Mutex<Module>>,
    ) -> Pkcs11Device {
        Pkcs11Device { session: Some(session), context, slot, handles: Vec::new(), module }
    }

    pub(super) fn session(&self) -> Result<&Session, DeviceError> {
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
        self.find(&[Attribute::Class(class), Attribute::Id(object.as_bytes().to_vec())])
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
                Attribute::Id(bytes) => id = ObjectId::new(&bytes),
                Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
                _ => {}
            }
        }
        Ok((id, label))
    }

    /// What a private key must be (invariant I1); the first thing that it is not.
    pub(super) fn missing(&self, key: ObjectHandle) -> Result<Option<&'static str>, DeviceError> {
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
        let object = ObjectId::random()?;
        let id = object.as_bytes().to_vec();
        let named = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(id)];
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
