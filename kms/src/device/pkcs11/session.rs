//! One session with a PKCS#11 token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assent_consensus::operational_key::{
    Algorithm, KeyKind, MessageDigest, OperationalPublicKey, RawSignature,
};
use cryptoki::error::Result as CallResult;
use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState};
use cryptoki::slot::{Limit, Slot, TokenInfo};

use super::algorithm::{Generation, PUBLIC_ATTRIBUTES, generation, read_public, signing};
use super::module::{Held, Module, Open};
use super::profile::{KeyTemplate, Profile};
use super::reaction::{Reaction, from_call, reaction};
use crate::device::{
    Adoptable, Device, DeviceError, DeviceInfo, DeviceKey, EpochMark, ObjectId, epoch_file, read_mark,
    write_mark,
};

/// The most objects of one kind that are looked at.
pub const OBJECT_LIMIT: usize = 10_000;
/// The most key handles that a session keeps.
const HANDLE_LIMIT: usize = 1_024;

/// CKA_APPLICATION and CKA_LABEL of the data object that holds the epoch.
const MARK_LABEL: &[u8] = b"assent-kms-epoch";

/// What a private key should be by one of its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    attribute: AttributeType,
    value: bool,
    pub(super) words: &'static str,
    /// Whether it tells of the time before, which is not ours to know of a key that is taken over.
    is_history: bool,
}

const WANTED: [Wanted; 8] = {
    const fn now(attribute: AttributeType, value: bool, words: &'static str) -> Wanted {
        Wanted { attribute, value, words, is_history: false }
    }
    const fn ever(attribute: AttributeType, words: &'static str) -> Wanted {
        Wanted { attribute, value: true, words, is_history: true }
    }
    [
        now(AttributeType::Token, true, "kept in the token"),
        now(AttributeType::Private, true, "private"),
        now(AttributeType::Sensitive, true, "sensitive"),
        ever(AttributeType::AlwaysSensitive, "always sensitive"),
        now(AttributeType::Extractable, false, "non-extractable"),
        ever(AttributeType::NeverExtractable, "never extractable"),
        ever(AttributeType::Local, "generated in the token"),
        now(AttributeType::Sign, true, "able to sign"),
    ]
};

/// One session with the token, logged in.
pub(super) struct Pkcs11Device {
    held: Arc<Held>,
    module: Arc<Module>,
    slot: Slot,
    /// Handles of private keys that were used, so that no search comes before a signature.
    handles: Vec<(ObjectId, ObjectHandle)>,
    pub(super) profile: Arc<Profile>,
    unfinished: Unfinished,
    /// One of as many as there are sessions.
    _seat: Seat,
}

/// Counts the sessions of one driver: there are as many clones of it, and the driver's own.
pub(super) type Seat = Arc<()>;

/// By what a key pair is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    Id(ObjectId),
    /// Where the token chooses the id.
    Label(String),
}

impl Sought {
    fn attribute(&self) -> Attribute {
        match self {
            Sought::Id(object) => Attribute::Id(object.as_bytes().to_vec()),
            Sought::Label(label) => Attribute::Label(label.as_bytes().to_vec()),
        }
    }
}

/// Key pairs of which it is not known whether they were made: the call did not come back with an answer. They are looked
/// for, and destroyed, before the next pair is made.
pub(super) type Unfinished = Arc<Mutex<Vec<Sought>>>;

impl Drop for Pkcs11Device {
    fn drop(&mut self) {
        self.held.close();
    }
}

impl Pkcs11Device {
    pub(super) fn new(
        open: Open,
        slot: Slot,
        profile: Arc<Profile>,
        unfinished: Unfinished,
        seat: Seat,
    ) -> Pkcs11Device {
        let module = open.visit.module().clone();
        Pkcs11Device {
            held: module.hold(open),
            module,
            slot,
            handles: Vec::new(),
            profile,
            unfinished,
            _seat: seat,
        }
    }

    /// Calls the module with the session. What is done about an error is [`reaction`]'s to say.
    pub(super) fn call<T>(&self, work: impl Fn(&Session) -> CallResult<T>) -> Result<T, DeviceError> {
        self.with(|open| work(&open.session))
    }

    /// Does what makes the session one that is logged in.
    pub(super) fn log_in(
        &self,
        work: impl FnOnce(&Session) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.opened(|open| work(&open.session))?
    }

    /// Gives the session to `work`, unless it was taken away.
    fn opened<T>(&self, work: impl FnOnce(&Open) -> T) -> Result<T, DeviceError> {
        match &*self.held.get() {
            Some(open) => Ok(work(open)),
            None => Err(DeviceError::Gone("the module is initialised anew".into())),
        }
    }

    fn with<T>(&self, work: impl Fn(&Open) -> CallResult<T>) -> Result<T, DeviceError> {
        let mut result = self.opened(&work)?;
        if result.as_ref().is_err_and(|error| reaction(error) == Reaction::Retry) {
            result = self.opened(&work)?;
        }
        if result.as_ref().is_err_and(|error| reaction(error) == Reaction::Reinitialise) {
            self.module.must_restart();
        }
        if self.module.is_to_restart() {
            self.held.close();
        }
        result.map_err(|error| from_call(&error))
    }

    /// An empty search of a token that is gone, or to which nobody is logged in any more, is no answer: it is asked.
    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, DeviceError> {
        let found = self.call(|session| session.find_objects(template))?;
        if found.is_empty() {
            let token = self.token()?;
            let is_in = self.call(is_logged_in)?;
            if token.login_required() && !is_in {
                return Err(DeviceError::Gone("the session is logged in no more".into()));
            }
        }
        Ok(found.into_iter().take(OBJECT_LIMIT).collect())
    }

    pub(super) fn mechanisms(&self) -> Result<Vec<MechanismType>, DeviceError> {
        self.with(|open| open.visit.context().get_mechanism_list(self.slot))
    }

    fn token(&self) -> Result<TokenInfo, DeviceError> {
        self.with(|open| open.visit.context().get_token_info(self.slot))
    }

    fn pair(&self, class: ObjectClass, object: ObjectId) -> Result<Vec<ObjectHandle>, DeviceError> {
        self.sought(class, &Sought::Id(object))
    }

    fn sought(&self, class: ObjectClass, sought: &Sought) -> Result<Vec<ObjectHandle>, DeviceError> {
        self.find(&[Attribute::Class(class), sought.attribute()])
    }

    fn destroy_sought(&self, sought: &Sought) -> Result<(), DeviceError> {
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for handle in self.sought(class, sought)? {
                self.call(|session| session.destroy_object(handle))?;
            }
        }
        Ok(())
    }

    /// The templates of a pair, public half first, and by what the pair is found.
    fn templates(
        &self,
        label: &str,
        kind: KeyKind,
        public: Vec<Attribute>,
        private: Vec<Attribute>,
    ) -> Result<(Vec<Attribute>, Vec<Attribute>, Sought), DeviceError> {
        let more = match &self.profile.algorithm_attribute {
            None => None,
            Some(attribute) => Some(attribute.of(kind).ok_or_else(|| {
                DeviceError::Setup(format!(
                    "`algorithm_attribute` in the configuration has no value for {kind}"
                ))
            })?),
        };
        let named = Attribute::Label(label.into());
        match self.profile.key_template {
            KeyTemplate::LabelOnly => {
                let sought = Sought::Label(label.to_owned());
                // One that was there before must not be taken for one that was left behind.
                if !self.sought(ObjectClass::PRIVATE_KEY, &sought)?.is_empty() {
                    return Err(DeviceError::Failed(format!(
                        "it has a key with the label `{label}` already, and cannot have two: adopt it, or destroy it"
                    )));
                }
                Ok((Vec::new(), std::iter::once(named).chain(more).collect(), sought))
            }
            KeyTemplate::Full => {
                let object = ObjectId::random()?;
                let named = [Attribute::Token(true), named, Attribute::Id(object.as_bytes().to_vec())];
                let private = named.iter().cloned().chain(private).chain(more).collect();
                Ok((named.into_iter().chain(public).collect(), private, Sought::Id(object)))
            }
        }
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

    fn public(&self, key: ObjectHandle) -> Result<Option<OperationalPublicKey>, DeviceError> {
        for wanted in PUBLIC_ATTRIBUTES {
            // A key of another type has none of them, which is no error.
            let attributes = self.call(|session| session.get_attributes(key, &wanted))?;
            if attributes.len() == wanted.len() {
                return Ok(read_public(&attributes));
            }
        }
        Ok(None)
    }

    fn name(&self, key: ObjectHandle) -> Result<(Option<ObjectId>, String), DeviceError> {
        let (mut id, mut label) = (None, String::new());
        let wanted = [AttributeType::Id, AttributeType::Label];
        for attribute in self.call(|session| session.get_attributes(key, &wanted))? {
            match attribute {
                Attribute::Id(bytes) => id = ObjectId::new(&bytes),
                Attribute::Label(bytes) => label = String::from_utf8_lossy(&bytes).into_owned(),
                _ => {}
            }
        }
        Ok((id, label))
    }

    /// What a private key should be (invariant I1), and is not.
    pub(super) fn missing(&self, key: ObjectHandle) -> Result<Vec<Wanted>, DeviceError> {
        let types = WANTED.map(|wanted| wanted.attribute);
        let has = self.call(|session| session.get_attributes(key, &types))?;
        let holds = |wanted: &Wanted| {
            has.iter().any(|has| has.attribute_type() == wanted.attribute && is_flag(has, wanted.value))
        };
        Ok(WANTED.into_iter().filter(|wanted| !holds(wanted)).collect())
    }

    fn unfinished(&self) -> MutexGuard<'_, Vec<Sought>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys what an attempt left behind that did not come to its end.
    fn destroy_unfinished(&mut self) -> Result<(), DeviceError> {
        let left: Vec<Sought> = self.unfinished().clone();
        for sought in left {
            self.destroy_sought(&sought)?;
            self.unfinished().retain(|unfinished| *unfinished != sought);
        }
        Ok(())
    }

    fn marks(&self) -> Result<Vec<(ObjectHandle, EpochMark)>, DeviceError> {
        let template = [Attribute::Class(ObjectClass::DATA), Attribute::Label(MARK_LABEL.into())];
        let mut marks = Vec::new();
        for handle in self.find(&template)? {
            let value = self.call(|session| session.get_attributes(handle, &[AttributeType::Value]))?;
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
        let token = self.token()?;
        let module = self.with(|open| open.visit.context().get_library_info())?;
        Ok(DeviceInfo {
            label: token.label().into(),
            serial: token.serial_number().into(),
            manufacturer: token.manufacturer_id().into(),
            model: token.model().into(),
            firmware: token.firmware_version().to_string(),
            module: format!("{} {}", module.library_description(), module.library_version()),
            sessions: token.session_count(),
            sessions_limit: sessions_limit(token.max_session_count()),
        })
    }

    fn generate(
        &mut self,
        label: &str,
        kind: KeyKind,
    ) -> Result<(ObjectId, OperationalPublicKey), DeviceError> {
        self.destroy_unfinished()?;
        let Generation { mechanism, public, private } = generation(kind);
        let (public, private, sought) = self.templates(label, kind, public, private)?;
        self.unfinished().push(sought.clone());
        let (public, private) =
            self.call(|session| session.generate_key_pair(&mechanism, &public, &private))?;
        let checked = self.missing(private).and_then(|missing| match missing.first() {
            Some(wanted) => Err(DeviceError::Unsafe(wanted.words)),
            None => {
                let public = self.public(public)?.filter(|key| key.kind() == kind);
                let object = self.name(private)?.0.ok_or(DeviceError::Unsafe("named by a CKA_ID"))?;
                Ok((object, public.ok_or(DeviceError::Unsafe("of the kind that was asked for"))?))
            }
        });
        match checked {
            Ok(made) => {
                self.unfinished().retain(|unfinished| *unfinished != sought);
                Ok(made)
            }
            Err(error) => {
                if let Err(error) = self.destroy_unfinished() {
                    tracing::error!(label, %error, "a key that is not used is destroyed before the next one is made");
                }
                Err(error)
            }
        }
    }

    fn adoptable(&mut self, object: ObjectId) -> Result<Option<Adoptable>, DeviceError> {
        let Some(public_key) = self.public_key(object)? else { return Ok(None) };
        let private = self.private(object)?;
        let missing = self.missing(private)?;
        if let Some(Wanted { words: lacks, .. }) = missing.iter().find(|wanted| !wanted.is_history) {
            return Err(DeviceError::NotAdoptable { object, lacks });
        }
        let doubts = missing.into_iter().map(|wanted| wanted.words).collect();
        Ok(Some(Adoptable { public_key, doubts }))
    }

    fn public_key(&mut self, object: ObjectId) -> Result<Option<OperationalPublicKey>, DeviceError> {
        match self.private(object) {
            Err(DeviceError::NoKey(_)) => return Ok(None),
            result => drop(result?),
        }
        match self.pair(ObjectClass::PUBLIC_KEY, object)?[..] {
            [public] => self.public(public),
            _ => Ok(None),
        }
    }

    fn sign(
        &mut self,
        object: ObjectId,
        algorithm: Algorithm,
        digest: &MessageDigest,
    ) -> Result<RawSignature, DeviceError> {
        let key = self.private(object)?;
        let (mechanism, bytes) = signing(algorithm, digest);
        Ok(RawSignature(self.call(|session| session.sign(&mechanism, key, &bytes))?))
    }

    fn list(&mut self) -> Result<Vec<DeviceKey>, DeviceError> {
        let mut keys: Vec<DeviceKey> = Vec::new();
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            let of_type = |kind| self.find(&[Attribute::Class(class), Attribute::KeyType(kind)]);
            for handle in [of_type(KeyType::EC)?, of_type(KeyType::RSA)?].concat() {
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
                    _ => keys[place].public_key = self.public(handle)?,
                }
            }
        }
        Ok(keys)
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), DeviceError> {
        self.handles.retain(|(known, _)| *known != object);
        self.destroy_sought(&Sought::Id(object))
    }

    fn epoch_marks(&mut self) -> Result<Vec<EpochMark>, DeviceError> {
        if let Some(path) = &self.profile.epoch_file {
            return epoch_file::read(path);
        }
        Ok(self.marks()?.into_iter().map(|(_, mark)| mark).collect())
    }

    fn put_epoch_mark(&mut self, mark: EpochMark) -> Result<(), DeviceError> {
        if let Some(path) = &self.profile.epoch_file {
            return epoch_file::put(path, mark);
        }
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
            self.call(|session| session.create_object(&object))?;
        }
        for (handle, old) in before {
            if old.instance == mark.instance && old != mark {
                self.call(|session| session.destroy_object(handle))?;
            }
        }
        Ok(())
    }
}

/// Whether the user is logged in, by this session or another one of the process.
pub(super) fn is_logged_in(session: &Session) -> CallResult<bool> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

/// How many sessions a token allows, if it says so.
pub(super) fn sessions_limit(limit: Limit) -> Option<u64> {
    match limit {
        Limit::Max(number) => Some(number),
        _ => None,
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
