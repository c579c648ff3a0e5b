//! Objects: what is kept under an id, and how it came there.

use p256::elliptic_curve::Generate as _;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use sha2::Sha256;
use x509_cert::{SubjectPublicKeyInfo, spki};

use crate::access::{Capabilities, Domains};
use crate::wire::{ErrorCode, Reader};

/// Bytes of a label.
pub(crate) const LABEL: usize = 40;

/// Numbers of algorithms.
const EC_P256: u8 = 0x0c;
const EC_P384: u8 = 0x0d;
const AES128_CCM: u8 = 0x1d;
const OPAQUE_DATA: u8 = 0x1e;
const OPAQUE_X509: u8 = 0x1f;
pub(crate) const AUTHENTICATION: u8 = 0x26;
const AES192_CCM: u8 = 0x29;
pub(crate) const AES256_CCM: u8 = 0x2a;
const ECDSA_SHA1: u8 = 0x17;
const ECDSA_SHA256: u8 = 0x2b;
const ECDSA_SHA384: u8 = 0x2c;
const ECDSA_SHA512: u8 = 0x2d;

/// All that the simulator can do.
pub(crate) const ALGORITHMS: [u8; 12] = [
    EC_P256,
    EC_P384,
    ECDSA_SHA1,
    AES128_CCM,
    OPAQUE_DATA,
    OPAQUE_X509,
    AUTHENTICATION,
    AES192_CCM,
    AES256_CCM,
    ECDSA_SHA256,
    ECDSA_SHA384,
    ECDSA_SHA512,
];

/// What an object is; ids are unique within a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    Opaque = 1,
    AuthenticationKey = 2,
    AsymmetricKey = 3,
    WrapKey = 4,
}

impl Kind {
    pub(crate) fn read(byte: u8) -> Result<Kind, ErrorCode> {
        match byte {
            1 => Ok(Kind::Opaque),
            2 => Ok(Kind::AuthenticationKey),
            3 => Ok(Kind::AsymmetricKey),
            4 => Ok(Kind::WrapKey),
            _ => Err(ErrorCode::InvalidData),
        }
    }

    /// What one needs to delete it.
    pub(crate) fn deletion(self) -> Capabilities {
        match self {
            Kind::Opaque => Capabilities::DELETE_OPAQUE,
            Kind::AuthenticationKey => Capabilities::DELETE_AUTHENTICATION_KEY,
            Kind::AsymmetricKey => Capabilities::DELETE_ASYMMETRIC_KEY,
            Kind::WrapKey => Capabilities::DELETE_WRAP_KEY,
        }
    }

    /// Whether it has capabilities that it gives to others.
    fn is_delegating(self) -> bool {
        matches!(self, Kind::AuthenticationKey | Kind::WrapKey)
    }
}

/// How an object came to be, in the device's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(pub(crate) u8);

impl Origin {
    pub(crate) const GENERATED: Origin = Origin(0x01);
    pub(crate) const IMPORTED: Origin = Origin(0x02);

    /// The same, but under a wrap key since.
    pub(crate) fn wrapped(self) -> Origin {
        Origin(self.0 | 0x10)
    }
}

/// Two AES keys, with which both sides of a session prove who they are.
#[derive(Clone)]
pub(crate) struct AuthenticationKey {
    pub(crate) encryption: [u8; 16],
    pub(crate) mac: [u8; 16],
}

impl AuthenticationKey {
    /// As the maker's tools derive it.
    pub(crate) fn from_password(password: &str) -> AuthenticationKey {
        AuthenticationKey::from_bytes(pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(
            password.as_bytes(),
            b"Yubico",
            10_000,
        ))
    }

    fn from_bytes(bytes: [u8; 32]) -> AuthenticationKey {
        let (mut encryption, mut mac) = ([0; 16], [0; 16]);
        encryption.copy_from_slice(&bytes[..16]);
        mac.copy_from_slice(&bytes[16..]);
        AuthenticationKey { encryption, mac }
    }
}

/// What an object holds.
#[derive(Clone)]
pub(crate) enum Content {
    Opaque(Vec<u8>),
    Authentication(AuthenticationKey),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    Wrap(Vec<u8>),
}

impl Content {
    /// What comes with a "put" command, or is in a wrapped object.
    pub(crate) fn read(kind: Kind, algorithm: u8, bytes: &[u8]) -> Result<Content, ErrorCode> {
        let exactly = |length: usize| match bytes.len() == length {
            true => Ok(()),
            false => Err(ErrorCode::WrongLength),
        };
        match (kind, algorithm) {
            (Kind::Opaque, OPAQUE_DATA | OPAQUE_X509) => Ok(Content::Opaque(bytes.to_vec())),
            (Kind::AuthenticationKey, AUTHENTICATION) => {
                let bytes = bytes.try_into().map_err(|_| ErrorCode::WrongLength)?;
                Ok(Content::Authentication(AuthenticationKey::from_bytes(bytes)))
            }
            (Kind::AsymmetricKey, EC_P256) => {
                exactly(32)?;
                p256::SecretKey::from_slice(bytes).map(Content::P256).map_err(|_| ErrorCode::InvalidData)
            }
            (Kind::AsymmetricKey, EC_P384) => {
                exactly(48)?;
                p384::SecretKey::from_slice(bytes).map(Content::P384).map_err(|_| ErrorCode::InvalidData)
            }
            (Kind::WrapKey, algorithm) => {
                exactly(wrap_key_length(algorithm)?)?;
                Ok(Content::Wrap(bytes.to_vec()))
            }
            _ => Err(ErrorCode::InvalidData),
        }
    }

    /// A key of the device's own making.
    pub(crate) fn generate(kind: Kind, algorithm: u8) -> Result<Content, ErrorCode> {
        match (kind, algorithm) {
            (Kind::AsymmetricKey, EC_P256) => Ok(Content::P256(p256::SecretKey::generate())),
            (Kind::AsymmetricKey, EC_P384) => Ok(Content::P384(p384::SecretKey::generate())),
            (Kind::WrapKey, algorithm) => {
                let mut key = vec![0; wrap_key_length(algorithm)?];
                fill_random(&mut key);
                Ok(Content::Wrap(key))
            }
            _ => Err(ErrorCode::InvalidData),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Content::Opaque(bytes) | Content::Wrap(bytes) => bytes.clone(),
            Content::Authentication(key) => [key.encryption, key.mac].concat(),
            Content::P256(key) => key.to_bytes().to_vec(),
            Content::P384(key) => key.to_bytes().to_vec(),
        }
    }
}

fn wrap_key_length(algorithm: u8) -> Result<usize, ErrorCode> {
    match algorithm {
        AES128_CCM => Ok(16),
        AES192_CCM => Ok(24),
        AES256_CCM => Ok(32),
        _ => Err(ErrorCode::InvalidData),
    }
}

/// One object.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) id: u16,
    pub(crate) kind: Kind,
    pub(crate) label: [u8; LABEL],
    pub(crate) domains: Domains,
    pub(crate) capabilities: Capabilities,
    pub(crate) delegated: Capabilities,
    pub(crate) algorithm: u8,
    pub(crate) sequence: u8,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
}

impl Object {
    /// What "get object info" answers.
    pub(crate) fn info(&self) -> Vec<u8> {
        [&self.head()[..], &self.delegated.0.to_be_bytes()].concat()
    }

    /// As it is put under a wrap key. The form is the simulator's own: no host can look into a real device's.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.info(), self.content.to_bytes()].concat()
    }

    /// What [`to_bytes`](Self::to_bytes) made.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Object, ErrorCode> {
        let mut reader = Reader(bytes);
        let (capabilities, id, _length) = (Capabilities(reader.long()?), reader.number()?, reader.number()?);
        let (domains, kind) = (Domains(reader.number()?), Kind::read(reader.byte()?)?);
        let (algorithm, sequence, origin) = (reader.byte()?, reader.byte()?, Origin(reader.byte()?));
        let (label, delegated) = (reader.array()?, Capabilities(reader.long()?));
        let content = Content::read(kind, algorithm, reader.rest())?;
        Ok(Object { id, kind, label, domains, capabilities, delegated, algorithm, sequence, origin, content })
    }

    fn head(&self) -> Vec<u8> {
        let length = u16::try_from(self.content.to_bytes().len()).unwrap_or(u16::MAX);
        let mut bytes = self.capabilities.0.to_be_bytes().to_vec();
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(self.domains.0.to_be_bytes());
        bytes.extend([self.kind as u8, self.algorithm, self.sequence, self.origin.0]);
        bytes.extend(self.label);
        bytes
    }

    /// The public half of an asymmetric key: both coordinates.
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        let point = match &self.content {
            Content::P256(key) => key.public_key().to_sec1_point(false).to_bytes(),
            Content::P384(key) => key.public_key().to_sec1_point(false).to_bytes(),
            _ => return None,
        };
        Some(point[1..].to_vec())
    }

    /// The public half as a certificate has it.
    pub(crate) fn public_key_info(&self) -> Option<spki::Result<SubjectPublicKeyInfo>> {
        match &self.content {
            Content::P256(key) => Some(SubjectPublicKeyInfo::from_key(&key.public_key())),
            Content::P384(key) => Some(SubjectPublicKeyInfo::from_key(&key.public_key())),
            _ => None,
        }
    }
}

/// What a command asks an object to be.
pub(crate) struct Wish {
    pub(crate) id: u16,
    pub(crate) label: [u8; LABEL],
    pub(crate) domains: Domains,
    pub(crate) capabilities: Capabilities,
    pub(crate) algorithm: u8,
    pub(crate) delegated: Capabilities,
}

impl Wish {
    /// Reads what comes before an object's content, or before nothing.
    pub(crate) fn read(reader: &mut Reader<'_>, kind: Kind) -> Result<Wish, ErrorCode> {
        let (id, label) = (reader.number()?, reader.array()?);
        let (domains, capabilities) = (Domains(reader.number()?), Capabilities(reader.long()?));
        let algorithm = reader.byte()?;
        let delegated = match kind.is_delegating() {
            true => Capabilities(reader.long()?),
            false => Capabilities::NONE,
        };
        Ok(Wish { id, label, domains, capabilities, algorithm, delegated })
    }
}

/// Random bytes of the system.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system has random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_password_gives_the_default_key() {
        let key = AuthenticationKey::from_password("password");
        let bytes = Content::Authentication(key).to_bytes();
        // As Yubico's documents have them.
        assert_eq!(bytes[..4], [0x09, 0x0b, 0x47, 0xdb]);
        assert_eq!(bytes[16..20], [0x59, 0x2f, 0xd4, 0x83]);
    }

    #[test]
    fn an_object_is_read_as_it_was_written() {
        let object = Object {
            id: 7,
            kind: Kind::WrapKey,
            label: [1; LABEL],
            domains: Domains(3),
            capabilities: Capabilities::EXPORT_WRAPPED,
            delegated: Capabilities::SIGN_ECDSA,
            algorithm: AES128_CCM,
            sequence: 2,
            origin: Origin::GENERATED,
            content: Content::Wrap(vec![9; 16]),
        };
        let bytes = object.to_bytes();
        assert_eq!(Object::from_bytes(&bytes).map(|object| object.to_bytes()).as_deref(), Ok(&bytes[..]));
        assert!(Object::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }
}
