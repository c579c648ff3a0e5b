//! The objects of a YubiHSM as a [`Device`]'s: keys under numbers by chance, and epoch marks as opaque data.

use std::cell::Cell;

use ::yubihsm::asymmetric::Algorithm;
use ::yubihsm::object::{Filter, Label, Origin, Type};
use ::yubihsm::{Capability, Client, client, opaque, wrap};
use assent_consensus::operational_key::{
    Algorithm as KeyAlgorithm, KeyKind, MessageDigest, OperationalPublicKey, RawSignature,
};

use super::calls::{EXISTS, Failure, NOT_FOUND};
use super::capability::RawInfo;
use super::log::{SIGN_ECDSA, Use};
use super::{OWN_SESSIONS, Way, YubiHsmDevice};
use crate::device::{
    Adoptable, Device, DeviceError, DeviceInfo, DeviceKey, EpochMark, ObjectId, read_mark, write_mark,
};

/// The label of the objects that hold an epoch mark.
const MARK_LABEL: &str = "assent-kms epoch";
/// What an uncompressed point begins with (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 4;
/// The bytes of a label.
const LABEL_SIZE: usize = 40;
/// How many random ids are tried before a device is said to be full.
const ID_TRIES: u32 = 16;

const PUT_OPAQUE: u8 = 0x42;
const GENERATE: u8 = 0x46;
const EXPORT: u8 = 0x4a;
const IMPORT: u8 = 0x4b;
const DELETE: u8 = 0x58;
const ATTEST: u8 = 0x64;

/// The device's number of an object: two bytes.
pub(crate) fn number(object: &ObjectId) -> Option<u16> {
    object.as_bytes().try_into().ok().map(u16::from_be_bytes)
}

fn object_id(number: u16) -> ObjectId {
    ObjectId::from(number.to_be_bytes())
}

impl YubiHsmDevice {
    fn wrap_key(&self) -> Result<u16, DeviceError> {
        self.shared.settings.wrap_key.ok_or_else(|| {
            DeviceError::Setup(
                "no wrap key is configured: name one with `wrap_key` before keys are made".into(),
            )
        })
    }

    /// Makes an object under a random id that is free.
    fn put_new(
        &mut self,
        command: u8,
        work: impl Fn(&Client, u16) -> Result<u16, client::Error>,
    ) -> Result<u16, DeviceError> {
        for _ in 0..ID_TRIES {
            let mut bytes = [0; 2];
            getrandom::fill(&mut bytes).map_err(|error| DeviceError::Failed(error.to_string()))?;
            // 0 lets the device choose, and the lowest and highest are where people and the maker put theirs.
            let id = u16::from_be_bytes(bytes).clamp(0x0100, 0xfeff);
            match self.call(Some(Use { command, object: Some(id) }), |client| work(client, id)) {
                Err(failure) if failure.code == Some(EXISTS) => {}
                result => return result.map_err(|failure| failure.error),
            }
        }
        Err(DeviceError::Failed("no free object id was found on the YubiHSM".into()))
    }

    /// A key that was just made, if it is as it must be; else it is destroyed.
    fn look_at_new(
        &mut self,
        id: u16,
        capabilities: Capability,
    ) -> Result<(ObjectId, OperationalPublicKey), DeviceError> {
        let info = self.look(|client| client.get_object_info(id, Type::AsymmetricKey))?;
        let is_safe = info.origin == Origin::Generated && info.capabilities == capabilities;
        match self.point(id)?.filter(|_| is_safe) {
            Some(key) => Ok((object_id(id), key)),
            None => {
                self.delete(id, Type::AsymmetricKey)?;
                Err(DeviceError::Unsafe("generated in the device for signatures alone"))
            }
        }
    }

    /// Destroys keys that were made although nobody was told.
    fn destroy_unfinished(&mut self) -> Result<(), DeviceError> {
        loop {
            let Some((id, label)) = self.shared.unfinished().last().cloned() else { return Ok(()) };
            match self.call(None, |client| client.get_object_info(id, Type::AsymmetricKey)) {
                // Another key under this number is somebody else's: that is why none was made.
                Ok(info) if info.label.0 != label.0 || info.origin != Origin::Generated => {}
                Ok(_) => self.delete(id, Type::AsymmetricKey)?,
                Err(failure) if failure.code == Some(NOT_FOUND) => {}
                Err(failure) => return Err(failure.error),
            }
            self.shared.unfinished().retain(|(other, _)| *other != id);
        }
    }

    fn delete(&mut self, id: u16, kind: Type) -> Result<(), DeviceError> {
        match self
            .call(Some(Use { command: DELETE, object: Some(id) }), |client| client.delete_object(id, kind))
        {
            Err(failure) if failure.code == Some(NOT_FOUND) => Ok(()),
            result => result.map_err(|failure| failure.error),
        }
    }

    fn point(&mut self, id: u16) -> Result<Option<OperationalPublicKey>, DeviceError> {
        let key = match self.call(None, |client| client.get_public_key(id)) {
            Err(failure) if failure.code == Some(NOT_FOUND) => return Ok(None),
            key => key.map_err(|failure| failure.error)?,
        };
        let kind = match key.algorithm {
            Algorithm::EcP256 => KeyKind::P256,
            Algorithm::EcP384 => KeyKind::P384,
            _ => return Ok(None),
        };
        let point = [&[UNCOMPRESSED][..], &key.bytes].concat();
        Ok(OperationalPublicKey::from_bytes(kind, &point).ok())
    }

    fn marks(&mut self) -> Result<Vec<(u16, EpochMark)>, DeviceError> {
        let label = label(MARK_LABEL);
        let filters = move || [Filter::Type(Type::Opaque), Filter::Label(label.clone())];
        let mut marks = Vec::new();
        for entry in self.look(move |client| client.list_objects(&filters()))? {
            let bytes = self.look(|client| client.get_opaque(entry.object_id))?;
            marks.extend(read_mark(&bytes).map(|mark| (entry.object_id, mark)));
        }
        Ok(marks)
    }
}

impl Device for YubiHsmDevice {
    fn info(&mut self) -> Result<DeviceInfo, DeviceError> {
        let info = match &self.shared.upstream {
            Way::Http(upstream) => RawInfo::read(&upstream.device_info()?),
            #[cfg(feature = "usb")]
            Way::Usb(_) => None,
        };
        let firmware = info.map(|info| info.version.map(|part| part.to_string()).join("."));
        Ok(DeviceInfo {
            label: "YubiHSM".into(),
            serial: self.shared.serial(),
            manufacturer: "Yubico".into(),
            model: "YubiHSM 2".into(),
            firmware: firmware.unwrap_or_else(|| "unknown".into()),
            module: format!("`{}`", self.shared.settings.connector),
            sessions: Some(self.shared.open_sessions() as u64),
            sessions_limit: Some(OWN_SESSIONS as u64),
        })
    }

    fn generate(
        &mut self,
        name: &str,
        kind: KeyKind,
    ) -> Result<(ObjectId, OperationalPublicKey), DeviceError> {
        let algorithm = match kind {
            KeyKind::P256 => Algorithm::EcP256,
            KeyKind::P384 => Algorithm::EcP384,
            KeyKind::Rsa3072 | KeyKind::Rsa4096 => return Err(DeviceError::NotSupported(kind)),
        };
        self.destroy_unfinished()?;
        let (label, domains, capabilities) = (label(name), self.own()?.domains, self.key_capabilities());
        let tried = Cell::new(None);
        let made = self.put_new(GENERATE, |client, id| {
            tried.set(Some(id));
            client.generate_asymmetric_key(id, label.clone(), domains, capabilities, algorithm)
        });
        let made = made.and_then(|id| self.look_at_new(id, capabilities));
        if let (Err(error), Some(id)) = (&made, tried.get())
            && error.is_lost()
        {
            self.shared.unfinished().push((id, label));
        }
        made
    }

    fn adoptable(&mut self, object: ObjectId) -> Result<Option<Adoptable>, DeviceError> {
        let Some(public_key) = self.public_key(object)? else { return Ok(None) };
        let id = known(object)?;
        let info = self.look(|client| client.get_object_info(id, Type::AsymmetricKey))?;
        if !info.capabilities.contains(Capability::SIGN_ECDSA) {
            return Err(DeviceError::NotAdoptable { object, lacks: "able to sign" });
        }
        // It leaves the device under a wrap key at most, in the clear never.
        let wanted = [
            (info.origin == Origin::Generated, "generated in the token"),
            (info.capabilities == self.key_capabilities(), "there for signatures alone"),
        ];
        let doubts = wanted.into_iter().filter(|(holds, _)| !holds).map(|(_, words)| words).collect();
        Ok(Some(Adoptable { public_key, doubts }))
    }

    fn public_key(&mut self, object: ObjectId) -> Result<Option<OperationalPublicKey>, DeviceError> {
        number(&object).map_or(Ok(None), |id| self.point(id))
    }

    fn sign(
        &mut self,
        object: ObjectId,
        algorithm: KeyAlgorithm,
        digest: &MessageDigest,
    ) -> Result<RawSignature, DeviceError> {
        let id = known(object)?;
        // No other key is ever made or found on this device.
        if !algorithm.is_ecdsa() {
            return Err(DeviceError::NoKey(object));
        }
        let used = Use { command: SIGN_ECDSA, object: Some(id) };
        let der = self
            .call(Some(used), |client| client.sign_ecdsa_prehash_raw(id, digest.as_bytes().to_vec()))
            .map_err(|failure| absent(failure, object))?;
        let signature = match algorithm {
            KeyAlgorithm::ES384 => {
                p384::ecdsa::Signature::from_der(&der).map(|signature| signature.to_bytes().to_vec())
            }
            _ => p256::ecdsa::Signature::from_der(&der).map(|signature| signature.to_bytes().to_vec()),
        };
        signature.map(RawSignature).map_err(|_| DeviceError::WrongSignature)
    }

    fn list(&mut self) -> Result<Vec<DeviceKey>, DeviceError> {
        let mut keys = Vec::new();
        let entries = self.look(|client| client.list_objects(&[Filter::Type(Type::AsymmetricKey)]))?;
        for id in entries.into_iter().map(|entry| entry.object_id) {
            let info = self.look(|client| client.get_object_info(id, Type::AsymmetricKey))?;
            let public_key = self.point(id)?;
            keys.push(DeviceKey {
                object: object_id(id),
                label: info.label.to_string(),
                public_key,
                has_private: true,
            });
        }
        Ok(keys)
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), DeviceError> {
        self.delete(known(object)?, Type::AsymmetricKey)
    }

    fn attest(&mut self, object: ObjectId) -> Result<Vec<u8>, DeviceError> {
        let id = known(object)?;
        let used = Use { command: ATTEST, object: Some(id) };
        self.call(Some(used), |client| client.sign_attestation_certificate(id, None))
            .map(|certificate| certificate.into_vec())
            .map_err(|failure| absent(failure, object))
    }

    fn exports(&self) -> bool {
        self.shared.settings.wrap_key.is_some()
    }

    fn wrap_export(&mut self, object: ObjectId) -> Result<Vec<u8>, DeviceError> {
        let (id, wrap_key) = (known(object)?, self.wrap_key()?);
        let used = Use { command: EXPORT, object: Some(id) };
        self.call(Some(used), |client| client.export_wrapped(wrap_key, Type::AsymmetricKey, id))
            .map(wrap::Message::into_vec)
            .map_err(|failure| absent(failure, object))
    }

    fn wrap_import(&mut self, wrapped: &[u8]) -> Result<ObjectId, DeviceError> {
        let wrap_key = self.wrap_key()?;
        let message = wrap::Message::from_vec(wrapped.to_vec()).map_err(|error| {
            DeviceError::Failed(format!("what is to be imported is no wrapped key: {error}"))
        })?;
        let used = Use { command: IMPORT, object: None };
        let handle = self.call(Some(used), |client| client.import_wrapped(wrap_key, message.clone()));
        Ok(object_id(handle.map_err(|failure| failure.error)?.object_id))
    }

    fn epoch_marks(&mut self) -> Result<Vec<EpochMark>, DeviceError> {
        Ok(self.marks()?.into_iter().map(|(_, mark)| mark).collect())
    }

    fn put_epoch_mark(&mut self, mark: EpochMark) -> Result<(), DeviceError> {
        let before = self.marks()?;
        if !before.iter().any(|(_, has)| *has == mark) {
            let domains = self.own()?.domains;
            self.put_new(PUT_OPAQUE, |client, id| {
                let (label, content) = (label(MARK_LABEL), write_mark(mark).into_bytes());
                client.put_opaque(id, label, domains, Capability::empty(), opaque::Algorithm::Data, content)
            })?;
        }
        for (id, old) in before {
            if old.instance == mark.instance && old != mark {
                self.delete(id, Type::Opaque)?;
            }
        }
        Ok(())
    }
}

fn known(object: ObjectId) -> Result<u16, DeviceError> {
    number(&object).ok_or(DeviceError::NoKey(object))
}

fn absent(failure: Failure, object: ObjectId) -> DeviceError {
    match failure.code {
        Some(NOT_FOUND) => DeviceError::NoKey(object),
        _ => failure.error,
    }
}

/// As much of a name as a label holds.
fn label(name: &str) -> Label {
    let mut end = name.len().min(LABEL_SIZE);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = [0; LABEL_SIZE];
    bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
    Label(bytes)
}
