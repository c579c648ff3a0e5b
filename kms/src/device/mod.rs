//! Devices that hold private keys, behind one trait that speaks the words of PKCS#11.
//!
//! ```text
//! Driver ─connect─▶ Device (one session, logged in)
//!    └─ Pool: as many worker threads as there are sessions, a bounded queue in front
//! ```

mod devices;
mod epoch_file;
mod low_s;
pub mod pkcs11;
mod pool;
pub mod yubihsm;

use std::fmt;
use std::str::FromStr;

use assent_consensus::encoding;
use assent_consensus::operational_key::{
    Algorithm, KeyKind, MessageDigest, OperationalPublicKey, RawSignature,
};

pub use devices::Devices;
pub use pool::{CALL_TIMEOUT, POOL_QUEUE, Pool, PoolUse, SLOW};

/// The most bytes of an [`ObjectId`].
pub const OBJECT_ID_LIMIT: usize = 64;

/// Names a key pair within a device, in 1 to [`OBJECT_ID_LIMIT`] bytes: its CKA_ID, 16 random bytes if it was generated
/// here; or whatever its driver puts in place of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Those beyond `length` are 0.
    bytes: [u8; OBJECT_ID_LIMIT],
    length: u8,
}

impl ObjectId {
    /// Nothing for no bytes, and for too many.
    pub fn new(name: &[u8]) -> Option<ObjectId> {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0)?;
        let mut bytes = [0; OBJECT_ID_LIMIT];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(ObjectId { bytes, length })
    }

    /// 16 random bytes.
    ///
    /// # Errors
    /// [`DeviceError::Failed`], if the system has none.
    pub fn random() -> Result<ObjectId, DeviceError> {
        let mut name = [0; 16];
        getrandom::fill(&mut name)
            .map_err(|error| DeviceError::Failed(format!("the system has no random bytes: {error}")))?;
        Ok(ObjectId::from(name))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The text is no id of a key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an object id must be 1 to {OBJECT_ID_LIMIT} bytes in hexadecimal digits")]
pub struct ObjectIdError;

impl FromStr for ObjectId {
    type Err = ObjectIdError;

    fn from_str(text: &str) -> Result<ObjectId, ObjectIdError> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0).ok_or(ObjectIdError)?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        ObjectId::new(&bytes).ok_or(ObjectIdError)
    }
}

impl<const N: usize> From<[u8; N]> for ObjectId {
    fn from(name: [u8; N]) -> ObjectId {
        const { assert!(0 < N && N <= OBJECT_ID_LIMIT) };
        let mut bytes = [0; OBJECT_ID_LIMIT];
        bytes[..N].copy_from_slice(&name);
        ObjectId { bytes, length: N as u8 }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a device says of itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceInfo {
    /// The token's label.
    pub label: String,
    /// The token's serial number.
    pub serial: String,
    /// Its manufacturer.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its firmware's version.
    pub firmware: String,
    /// The module's description and version.
    pub module: String,
    /// How many sessions are open, if the device counts them.
    pub sessions: Option<u64>,
    /// How many sessions it allows, if it says so; nothing if it sets no limit.
    pub sessions_limit: Option<u64>,
}

/// A key pair that a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKey {
    /// Its id.
    pub object: ObjectId,
    /// Its label.
    pub label: String,
    /// The public half; nothing if it is not there or of a kind that is not known.
    pub public_key: Option<OperationalPublicKey>,
    /// Whether the private half is there.
    pub has_private: bool,
}

/// A key pair that a device held before, and that may be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoptable {
    /// Its public half.
    pub public_key: OperationalPublicKey,
    /// What of invariant I1 the device does not vouch for, such as that the key was generated in it.
    pub doubts: Vec<&'static str>,
}

/// What ties a device to one database: see [`crate::epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochMark {
    /// The KMS whose database it is.
    pub instance: [u8; 16],
    /// The database's epoch.
    pub epoch: u64,
}

/// One session with a device, logged in. All calls block.
pub trait Device: Send {
    /// What the device says of itself.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn info(&mut self) -> Result<DeviceInfo, DeviceError>;

    /// Generates a key pair in the device, sensitive and never extractable, and checks that it is (invariant I1).
    ///
    /// # Errors
    /// [`DeviceError`]; a key that is not as it must be is destroyed.
    fn generate(
        &mut self,
        label: &str,
        kind: KeyKind,
    ) -> Result<(ObjectId, OperationalPublicKey), DeviceError>;

    /// Looks at a key pair that was not generated here: nothing if either half is not there.
    ///
    /// # Errors
    /// [`DeviceError::NotAdoptable`], if the private half could leave the device, or cannot sign.
    fn adoptable(&mut self, object: ObjectId) -> Result<Option<Adoptable>, DeviceError>;

    /// The public half of a key pair whose private half is there; nothing if either is not.
    ///
    /// # Errors
    /// [`DeviceError`], also if the device does not answer: an empty answer of one that is gone is no answer.
    fn public_key(&mut self, object: ObjectId) -> Result<Option<OperationalPublicKey>, DeviceError>;

    /// Signs a digest by an algorithm of the key's kind. The signature is not verified yet.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn sign(
        &mut self,
        object: ObjectId,
        algorithm: Algorithm,
        digest: &MessageDigest,
    ) -> Result<RawSignature, DeviceError>;

    /// All key pairs of the device.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn list(&mut self) -> Result<Vec<DeviceKey>, DeviceError>;

    /// Destroys a key pair.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn destroy(&mut self, object: ObjectId) -> Result<(), DeviceError>;

    /// The certificate that says that a key was generated in the device: DER, signed by the device's own key.
    ///
    /// # Errors
    /// [`DeviceError`]; most devices attest nothing.
    fn attest(&mut self, _object: ObjectId) -> Result<Vec<u8>, DeviceError> {
        Err(DeviceError::Failed("this device has no attestation for its keys".into()))
    }

    /// Whether keys may leave the device under a wrap key.
    fn exports(&self) -> bool {
        false
    }

    /// A key under the configured wrap key, for a backup.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn wrap_export(&mut self, _object: ObjectId) -> Result<Vec<u8>, DeviceError> {
        Err(DeviceError::Failed("keys do not leave this device, not even wrapped".into()))
    }

    /// Takes a key from a backup, with the id that it had.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn wrap_import(&mut self, _wrapped: &[u8]) -> Result<ObjectId, DeviceError> {
        Err(DeviceError::Failed(
            "this device takes no wrapped keys: copy the token by its maker's means".into(),
        ))
    }

    /// The epoch marks on the device; more than one if the last change of one was cut short.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn epoch_marks(&mut self) -> Result<Vec<EpochMark>, DeviceError>;

    /// Puts a mark on the device and then removes all others of its instance.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn put_epoch_mark(&mut self, mark: EpochMark) -> Result<(), DeviceError>;
}

/// Opens sessions with one device.
pub trait Driver: Send + Sync {
    /// A new session, logged in.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn connect(&self) -> Result<Box<dyn Device>, DeviceError>;

    /// Does what is left to do before the process ends.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn finish(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Why a device did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// As many jobs wait as may.
    #[error("{POOL_QUEUE} jobs wait for the token already: try again in a second")]
    Busy,
    /// The device, or the session, is gone.
    #[error("the token does not answer: {0}")]
    Gone(String),
    /// It opens no more sessions for now.
    #[error("the token opens no more sessions: {0}")]
    Full(String),
    /// It is not to be used before a person looked at the PIN.
    #[error("{0}")]
    Pin(String),
    /// The configuration does not lead to one token.
    #[error("{0}")]
    Setup(String),
    /// The key is not there.
    #[error("the token has no key pair with the id {0}")]
    NoKey(ObjectId),
    /// Not on this device.
    #[error(
        "the token makes no {0} keys, or has no way to sign with them: use another device for such a key"
    )]
    NotSupported(KeyKind),
    /// A generated key is not as it must be.
    #[error("the token made a key that is not {0}; it was destroyed and is not used")]
    Unsafe(&'static str),
    /// A key that must not be taken over.
    #[error("the key with the id {object} is not {lacks}: it cannot be taken over")]
    NotAdoptable {
        /// The key.
        object: ObjectId,
        /// What it must be, and is not.
        lacks: &'static str,
    },
    /// The device refused or failed, and is still there.
    #[error("the token failed: {0}")]
    Failed(String),
    /// A signature that does not verify.
    #[error("the token gave a signature that does not verify")]
    WrongSignature,
}

impl DeviceError {
    /// Whether the session is of no use any more.
    pub fn is_lost(&self) -> bool {
        matches!(self, DeviceError::Gone(_))
    }

    /// The kind of failure in a word that programs can rely on.
    pub fn reason(&self) -> &'static str {
        match self {
            DeviceError::Busy => "busy",
            DeviceError::Gone(_) => "gone",
            DeviceError::Full(_) => "full",
            DeviceError::Pin(_) => "pin",
            DeviceError::Setup(_) => "setup",
            DeviceError::NoKey(_) => "no-key",
            DeviceError::NotSupported(_) => "not-supported",
            DeviceError::Unsafe(_) => "unsafe",
            DeviceError::NotAdoptable { .. } => "not-adoptable",
            DeviceError::Failed(_) => "failed",
            DeviceError::WrongSignature => "wrong-signature",
        }
    }
}

/// The content of the data object that holds a mark: instance in base64url, a space, epoch in decimal.
pub(crate) fn write_mark(mark: EpochMark) -> String {
    format!("{} {}", encoding::encode(&mark.instance), mark.epoch)
}

pub(crate) fn read_mark(bytes: &[u8]) -> Option<EpochMark> {
    let (instance, epoch) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    Some(EpochMark { instance: encoding::decode_array(instance).ok()?, epoch: epoch.parse().ok()? })
}
