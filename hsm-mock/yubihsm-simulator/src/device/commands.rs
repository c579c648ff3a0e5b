//! What each command within a session does.

use getrandom::SysRng;
use p256::ecdsa::signature;
use p256::ecdsa::signature::hazmat::RandomizedPrehashSigner as _;
use p256::ecdsa::{DerSignature, SigningKey};

use super::{After, Device, Done};
use crate::access::Capabilities;
use crate::attestation::Attester;
use crate::command::Command;
use crate::object::{Content, Kind, Object, Origin, Wish, fill_random};
use crate::store::Rights;
use crate::wire::{ErrorCode, HEAD, Reader};
use crate::wrapping;

/// Lengths of the digests that are signed: those of SHA-1, SHA-256, SHA-384 and SHA-512.
const DIGESTS: [usize; 4] = [20, 32, 48, 64];
/// The id of the device's own attestation key and certificate.
const OWN: u16 = 0;

impl Device {
    /// Does a command. `wrong_key` signs in the place of the right one.
    pub(super) fn execute(
        &mut self,
        command: Command,
        data: &[u8],
        rights: &Rights,
        wrong_key: Option<&SigningKey>,
    ) -> Result<Done, ErrorCode> {
        let mut reader = Reader(data);
        let reader = &mut reader;
        let done = match command {
            Command::ECHO => reader.rest().to_vec(),
            Command::DEVICE_INFO => self.info(data)?,
            Command::GET_STORAGE_INFO => self.store.storage(),
            Command::CLOSE_SESSION => return Ok(Done { data: Vec::new(), after: After::CloseSession }),
            Command::RESET_DEVICE => {
                rights.need(Capabilities::RESET_DEVICE)?;
                return Ok(Done { data: Vec::new(), after: After::Reset });
            }
            Command::BLINK_DEVICE => reader.byte().map(|_| Vec::new())?,
            Command::GET_PSEUDO_RANDOM => {
                rights.need(Capabilities::GET_PSEUDO_RANDOM)?;
                self.random(reader.number()?)?
            }
            Command::LIST_OBJECTS => self.store.list(reader.rest(), rights)?,
            Command::GET_OBJECT_INFO => {
                let (id, kind) = (reader.number()?, Kind::read(reader.byte()?)?);
                self.store.get(id, kind, rights)?.info()
            }
            Command::DELETE_OBJECT => {
                let (id, kind) = (reader.number()?, Kind::read(reader.byte()?)?);
                rights.need(kind.deletion())?;
                self.store.delete(id, kind, rights)?;
                Vec::new()
            }
            Command::PUT_OPAQUE => self.put(reader, rights, Kind::Opaque, Capabilities::PUT_OPAQUE)?,
            Command::GET_OPAQUE => self.opaque(reader, rights)?,
            Command::PUT_AUTHENTICATION_KEY => {
                self.put(reader, rights, Kind::AuthenticationKey, Capabilities::PUT_AUTHENTICATION_KEY)?
            }
            Command::CHANGE_AUTHENTICATION_KEY => self.change_key(reader, rights)?,
            Command::PUT_ASYMMETRIC_KEY => {
                self.put(reader, rights, Kind::AsymmetricKey, Capabilities::PUT_ASYMMETRIC_KEY)?
            }
            Command::GENERATE_ASYMMETRIC_KEY => {
                self.generate(reader, rights, Kind::AsymmetricKey, Capabilities::GENERATE_ASYMMETRIC_KEY)?
            }
            Command::PUT_WRAP_KEY => self.put(reader, rights, Kind::WrapKey, Capabilities::PUT_WRAP_KEY)?,
            Command::GENERATE_WRAP_KEY => {
                self.generate(reader, rights, Kind::WrapKey, Capabilities::GENERATE_WRAP_KEY)?
            }
            Command::GET_PUBLIC_KEY => self.public_key(reader, rights)?,
            Command::SIGN_ECDSA => self.sign(reader, rights, wrong_key)?,
            Command::SIGN_ATTESTATION_CERTIFICATE => self.attest(reader, rights)?,
            Command::EXPORT_WRAPPED => self.export(reader, rights)?,
            Command::IMPORT_WRAPPED => self.import(reader, rights)?,
            Command::WRAP_DATA => self.wrap_data(reader, rights)?,
            Command::UNWRAP_DATA => self.unwrap_data(reader, rights)?,
            Command::GET_LOG_ENTRIES => {
                rights.need(Capabilities::GET_LOG_ENTRIES)?;
                self.log.encode()
            }
            Command::SET_LOG_INDEX => {
                rights.need(Capabilities::GET_LOG_ENTRIES)?;
                self.log.acknowledge(reader.number()?).ok_or(ErrorCode::InvalidData)?;
                Vec::new()
            }
            Command::GET_OPTION => {
                rights.need(Capabilities::GET_OPTION)?;
                self.options.get(reader.byte()?)?
            }
            Command::SET_OPTION => {
                rights.need(Capabilities::SET_OPTION)?;
                let (option, length) = (reader.byte()?, reader.number()?);
                let value = reader.rest();
                if value.len() != usize::from(length) {
                    return Err(ErrorCode::WrongLength);
                }
                self.options.set(option, value)?;
                Vec::new()
            }
            _ => return Err(ErrorCode::InvalidCommand),
        };
        Ok(Done::with(done))
    }

    fn random(&self, length: u16) -> Result<Vec<u8>, ErrorCode> {
        let mut bytes = vec![0; usize::from(length)];
        // The answer, its envelope's code, length, id and MAC, and a block of padding.
        if bytes.len() + 2 * HEAD + 1 + 8 + 16 > self.firmware.buffer() {
            return Err(ErrorCode::WrongLength);
        }
        fill_random(&mut bytes);
        Ok(bytes)
    }

    fn put(
        &mut self,
        reader: &mut Reader<'_>,
        rights: &Rights,
        kind: Kind,
        needed: Capabilities,
    ) -> Result<Vec<u8>, ErrorCode> {
        rights.need(needed)?;
        let wish = Wish::read(reader, kind)?;
        let content = Content::read(kind, wish.algorithm, reader.rest())?;
        self.store.make(wish, kind, Origin::IMPORTED, content, rights).map(|id| id.to_be_bytes().to_vec())
    }

    fn generate(
        &mut self,
        reader: &mut Reader<'_>,
        rights: &Rights,
        kind: Kind,
        needed: Capabilities,
    ) -> Result<Vec<u8>, ErrorCode> {
        rights.need(needed)?;
        let wish = Wish::read(reader, kind)?;
        reader.end()?;
        let content = Content::generate(kind, wish.algorithm)?;
        self.store.make(wish, kind, Origin::GENERATED, content, rights).map(|id| id.to_be_bytes().to_vec())
    }

    fn opaque(&self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::GET_OPAQUE)?;
        match reader.number()? {
            OWN => self.attestation.certificate(),
            id => Ok(self.store.get(id, Kind::Opaque, rights)?.content.to_bytes()),
        }
    }

    /// An authentication key can only be changed in its own session.
    fn change_key(&mut self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::CHANGE_AUTHENTICATION_KEY)?;
        let (id, algorithm) = (reader.number()?, reader.byte()?);
        if id != rights.key {
            return Err(ErrorCode::InvalidId);
        }
        let content = Content::read(Kind::AuthenticationKey, algorithm, reader.rest())?;
        self.store.change(id, content).map(|()| id.to_be_bytes().to_vec())
    }

    fn public_key(&self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        let object = self.store.get(reader.number()?, Kind::AsymmetricKey, rights)?;
        let key = object.public_key().ok_or(ErrorCode::InvalidData)?;
        Ok([&[object.algorithm][..], &key].concat())
    }

    fn sign(
        &self,
        reader: &mut Reader<'_>,
        rights: &Rights,
        wrong_key: Option<&SigningKey>,
    ) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::SIGN_ECDSA)?;
        let object = self.store.get(reader.number()?, Kind::AsymmetricKey, rights)?;
        need(object, Capabilities::SIGN_ECDSA)?;
        let digest = reader.rest();
        if !DIGESTS.contains(&digest.len()) {
            return Err(ErrorCode::WrongLength);
        }
        // With fresh randomness, as the device does: no two signatures are alike.
        let random = &mut SysRng;
        match (wrong_key, &object.content) {
            (Some(key), _) => p256_signature(key, random, digest),
            (None, Content::P256(key)) => p256_signature(&SigningKey::from(key), random, digest),
            (None, Content::P384(key)) => {
                let key = p384::ecdsa::SigningKey::from(key);
                let signature = key.sign_prehash_with_rng(random, digest);
                signature.map(|signature: p384::ecdsa::DerSignature| signature.as_bytes().to_vec())
            }
            _ => return Err(ErrorCode::InvalidData),
        }
        .map_err(|_| ErrorCode::InvalidData)
    }

    fn attest(&self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::SIGN_ATTESTATION_CERTIFICATE)?;
        let (id, by) = (reader.number()?, reader.number()?);
        reader.end()?;
        let object = self.store.get(id, Kind::AsymmetricKey, rights)?;
        let attester = match by {
            OWN => self.attestation.attester(),
            by => {
                let key = self.store.get(by, Kind::AsymmetricKey, rights)?;
                need(key, Capabilities::SIGN_ATTESTATION_CERTIFICATE)?;
                Attester::of(key, self.store.get(by, Kind::Opaque, rights)?)?
            }
        };
        attester.attest(object, self.firmware, self.serial)
    }

    fn export(&self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::EXPORT_WRAPPED)?;
        let (wrap, kind, id) = (reader.number()?, Kind::read(reader.byte()?)?, reader.number()?);
        reader.end()?;
        let wrap = self.store.get(wrap, Kind::WrapKey, rights)?;
        let object = self.store.get(id, kind, rights)?;
        need(wrap, Capabilities::EXPORT_WRAPPED)?;
        need(object, Capabilities::EXPORTABLE_UNDER_WRAP)?;
        if !wrap.delegated.contain(object.capabilities | object.delegated) {
            return Err(ErrorCode::InsufficientPermissions);
        }
        wrapping::wrap(&wrap.content.to_bytes(), &object.to_bytes())
    }

    fn import(&mut self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::IMPORT_WRAPPED)?;
        let wrap = self.store.get(reader.number()?, Kind::WrapKey, rights)?;
        need(wrap, Capabilities::IMPORT_WRAPPED)?;
        let plain = wrapping::unwrap(&wrap.content.to_bytes(), reader.rest())?;
        let mut object = Object::from_bytes(&plain)?;
        if !wrap.delegated.contain(object.capabilities | object.delegated) {
            return Err(ErrorCode::InsufficientPermissions);
        }
        object.origin = object.origin.wrapped();
        let kind = object.kind as u8;
        self.store.insert(object).map(|id| [&[kind][..], &id.to_be_bytes()].concat())
    }

    fn wrap_data(&self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::WRAP_DATA)?;
        let key = self.store.get(reader.number()?, Kind::WrapKey, rights)?;
        // Yubico's own tests find this code here, not a lack of permission.
        need(key, Capabilities::WRAP_DATA).map_err(|_| ErrorCode::InvalidData)?;
        wrapping::wrap(&key.content.to_bytes(), &[&[0][..], reader.rest()].concat())
    }

    fn unwrap_data(&self, reader: &mut Reader<'_>, rights: &Rights) -> Result<Vec<u8>, ErrorCode> {
        rights.need(Capabilities::UNWRAP_DATA)?;
        let key = self.store.get(reader.number()?, Kind::WrapKey, rights)?;
        need(key, Capabilities::UNWRAP_DATA).map_err(|_| ErrorCode::InvalidData)?;
        // A leading zero tells data from an object, so that no key is ever unwrapped into the open.
        match wrapping::unwrap(&key.content.to_bytes(), reader.rest())?.split_first() {
            Some((0, data)) => Ok(data.to_vec()),
            _ => Err(ErrorCode::InvalidData),
        }
    }
}

fn p256_signature(key: &SigningKey, random: &mut SysRng, digest: &[u8]) -> signature::Result<Vec<u8>> {
    let signature = key.sign_prehash_with_rng(random, digest);
    signature.map(|signature: DerSignature| signature.as_bytes().to_vec())
}

fn need(object: &Object, capabilities: Capabilities) -> Result<(), ErrorCode> {
    match object.capabilities.contain(capabilities) {
        true => Ok(()),
        false => Err(ErrorCode::InsufficientPermissions),
    }
}
