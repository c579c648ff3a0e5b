//! A token in memory whose faults a test decides on, and a KMS around it.

mod pinned;

pub(crate) use pinned::{
    DAY, OVERLAP, PERSON, destruction, governing_key, governor, mandate, policy_change, rotation,
    with_deadline,
};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use assent_consensus::artifact::ToSign;
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::json::Integer;
use assent_consensus::message::{KeyVersion, RequestId};
use assent_consensus::name::Name;
use assent_consensus::operational_key::{
    Algorithm, KeyKind, MessageDigest, OperationalPublicKey, RawSignature, VerificationKey,
};
use assent_consensus::time::UnixMillis;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{self, SigningKey};
use tokio::sync::watch;

use crate::audit::{Entry, LoggedKey};
use crate::device::{
    Adoptable, CALL_TIMEOUT, Device, DeviceError, DeviceInfo, DeviceKey, Devices, Driver, EpochMark,
    ObjectId, Pool,
};
use crate::pins::{KeyState, Pins};
use crate::reload::{InForce, Settings};
use crate::signing::{Clock, KeyName, Order, Purpose, Signing};
use crate::store::{NewKey, Store, Writer};

/// What a token in memory holds, and what is wrong with it.
#[derive(Default)]
pub(crate) struct Token {
    pub keys: BTreeMap<ObjectId, SigningKey>,
    /// How many it has generated.
    pub generated: u8,
    pub marks: Vec<EpochMark>,
    pub is_gone: bool,
    /// It is taken out after so many calls.
    pub gone_after: Option<u32>,
    /// It signs something else than it is asked for.
    pub signs_wrongly: bool,
    /// The next marks are written, and yet it says that it failed.
    pub fails_after_mark: bool,
    pub signed: Vec<Digest>,
    pub sessions: usize,
}

#[derive(Clone, Default)]
pub(crate) struct MemoryToken(Arc<Mutex<Token>>);

impl MemoryToken {
    pub fn token(&self) -> MutexGuard<'_, Token> {
        self.0.lock().expect("no test panics while it looks")
    }

    fn present(&self) -> Result<MutexGuard<'_, Token>, DeviceError> {
        let mut token = self.token();
        if let Some(left) = token.gone_after.as_mut() {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => token.is_gone = true,
            }
        }
        if token.is_gone { Err(DeviceError::Gone("taken out".into())) } else { Ok(token) }
    }
}

impl Driver for MemoryToken {
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError> {
        self.present()?.sessions += 1;
        Ok(Box::new(self.clone()))
    }
}

impl Device for MemoryToken {
    fn info(&mut self) -> Result<DeviceInfo, DeviceError> {
        Err(DeviceError::Failed("it says nothing of itself".into()))
    }

    fn generate(
        &mut self,
        _label: &str,
        kind: KeyKind,
    ) -> Result<(ObjectId, OperationalPublicKey), DeviceError> {
        if kind != KeyKind::P256 {
            return Err(DeviceError::NotSupported(kind));
        }
        let mut token = self.present()?;
        token.generated += 1;
        let number = token.generated;
        let key = SigningKey::from_slice(&[number; 32]).expect("a scalar");
        let public_key = public(&key);
        let object = ObjectId::new(&[number; 16]).expect("a name");
        token.keys.insert(object, key);
        Ok((object, public_key))
    }

    fn adoptable(&mut self, object: ObjectId) -> Result<Option<Adoptable>, DeviceError> {
        let doubts = vec!["generated in the token"];
        Ok(self.present()?.keys.get(&object).map(|key| Adoptable { public_key: public(key), doubts }))
    }

    fn public_key(&mut self, object: ObjectId) -> Result<Option<OperationalPublicKey>, DeviceError> {
        Ok(self.present()?.keys.get(&object).map(public))
    }

    fn sign(
        &mut self,
        object: ObjectId,
        _algorithm: Algorithm,
        digest: &MessageDigest,
    ) -> Result<RawSignature, DeviceError> {
        let mut token = self.present()?;
        let MessageDigest::Sha256(digest) = digest else {
            return Err(DeviceError::Failed("it signs SHA-256 alone".into()));
        };
        token.signed.push(*digest);
        let other = Digest::of(b"another");
        let digest = if token.signs_wrongly { &other } else { digest };
        let key = token.keys.get(&object).ok_or(DeviceError::NoKey(object))?;
        let signature: ecdsa::Signature = key.sign_prehash(digest.as_bytes()).expect("it signs");
        // The high half, so that the KMS has something to normalise.
        let (r, s) = signature.normalize_s().split_scalars();
        let high = ecdsa::Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).expect("scalars");
        Ok(RawSignature(high.to_bytes().to_vec()))
    }

    fn list(&mut self) -> Result<Vec<DeviceKey>, DeviceError> {
        Ok(Vec::new())
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), DeviceError> {
        self.present()?.keys.remove(&object);
        Ok(())
    }

    fn epoch_marks(&mut self) -> Result<Vec<EpochMark>, DeviceError> {
        Ok(self.present()?.marks.clone())
    }

    fn put_epoch_mark(&mut self, mark: EpochMark) -> Result<(), DeviceError> {
        let mut token = self.present()?;
        token.marks = vec![mark];
        if token.fails_after_mark { Err(DeviceError::Failed("after the mark".into())) } else { Ok(()) }
    }
}

fn public(key: &SigningKey) -> OperationalPublicKey {
    let point = key.verifying_key().to_sec1_point(false);
    OperationalPublicKey::from_bytes(KeyKind::P256, point.as_bytes()).expect("on the curve")
}

/// A KMS over a token in memory.
pub(crate) struct SmallKms {
    pub token: MemoryToken,
    pub pins: Pins,
    pub writer: Arc<Writer>,
    pub devices: Arc<Devices>,
    pub signing: Arc<Signing>,
    pub directory: tempfile::TempDir,
    /// The KMS's clock, which a test moves.
    pub now: Arc<AtomicU64>,
}

pub(crate) const NOW: u64 = 1_800_000_000_000;

impl SmallKms {
    /// One without keys.
    pub fn empty() -> SmallKms {
        let directory = tempfile::tempdir().expect("a directory");
        Store::create(directory.path(), UnixMillis::new(NOW)).expect("made");
        SmallKms::over(directory, MemoryToken::default(), Arc::new(AtomicU64::new(NOW)))
    }

    /// One with one active key.
    pub async fn new() -> SmallKms {
        let kms = SmallKms::empty();
        let (object, public_key) = kms.token.clone().generate("", KeyKind::P256).expect("a key");
        let verification_key = VerificationKey::new(Algorithm::ES256, public_key.clone()).expect("it fits");
        let new = NewKey {
            device: main_device(),
            object,
            name: release(),
            version: KeyVersion::first(),
            public_key: verification_key,
            is_adopted: false,
            created: UnixMillis::new(NOW),
        };
        let (at, by, key) =
            (new.created, Some(Integer::saturating(0)), LoggedKey::new(&new.name, new.version));
        let made = Entry::KeyCreated {
            at,
            by,
            key: key.clone(),
            device: main_device(),
            object: Bytes(object.as_bytes().to_vec()),
            alg: Algorithm::ES256,
            public_key,
        };
        let (from, to) = ("pre-activation".into(), "active".into());
        let activated = Entry::KeyState { at, by: None, key, from, to, why: "a test".into() };
        kms.writer
            .write(move |batch| {
                batch.insert_key(&new)?;
                batch.activate_key(&new.name, new.version, None, &Digest::ZERO, (KeyState::Active, at))?;
                batch.append(&made)?;
                batch.append(&activated).map(drop)
            })
            .await
            .expect("written");
        kms.pins.reload(&kms.store()).expect("read");
        kms
    }

    /// A KMS as it is after a start.
    fn over(directory: tempfile::TempDir, token: MemoryToken, now: Arc<AtomicU64>) -> SmallKms {
        let store = || Store::open_reader(directory.path()).expect("it opens");
        let pins = Pins::load(&store()).expect("read");
        let writer = Arc::new(Writer::start(directory.path(), pins.clone()).expect("a writer"));
        let pool = Pool::start(Arc::new(token.clone()), 4, CALL_TIMEOUT).expect("threads");
        let devices = Arc::new(Devices::new(main_device(), pool));
        let clock = clock(&now);
        let signing = Signing::new(pins.clone(), writer.clone(), store(), devices.clone(), clock);
        SmallKms { token, pins, writer, devices, signing: Arc::new(signing), directory, now }
    }

    /// Stops without a word, and starts again.
    pub fn restart(self) -> SmallKms {
        let SmallKms { token, directory, now, .. } = self;
        SmallKms::over(directory, token, now)
    }

    pub fn clock(&self) -> Clock {
        clock(&self.now)
    }

    /// Moves the clock to so many milliseconds after [`NOW`].
    pub fn set_clock(&self, after: u64) {
        self.now.store(NOW + after, Ordering::SeqCst);
    }

    /// Waits until all that was signed is on disk.
    pub async fn settled(&self) {
        self.writer.write(|_| Ok(())).await.expect("written");
    }

    pub fn store(&self) -> Store {
        Store::open_reader(self.directory.path()).expect("it opens")
    }

    /// The file, for whoever changes it behind the KMS's back.
    pub fn file(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.directory.path().join(crate::store::FILE)).expect("it opens")
    }
}

fn clock(now: &Arc<AtomicU64>) -> Clock {
    let now = now.clone();
    Arc::new(move || UnixMillis::new(now.load(Ordering::SeqCst)))
}

/// Settings that stay as they are.
pub(crate) fn in_force(settings: Settings) -> InForce {
    watch::channel(settings).1
}

pub(crate) fn main_device() -> Name {
    "main".parse().expect("a name")
}

pub(crate) fn release() -> KeyName {
    KeyName::Operational("release".parse().expect("a name"))
}

/// An order for the n-th request.
pub(crate) fn order(request: u32, bytes: &str) -> Order {
    Order {
        purpose: Purpose::Decision,
        request: RequestId(Digest::of(&request.to_be_bytes())),
        key: release(),
        version: KeyVersion::first(),
        to_sign: ToSign::Message(bytes.as_bytes().to_vec()),
    }
}
