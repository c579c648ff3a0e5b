//! Finds out what a token takes, by trying: which algorithms, which templates, whether data objects.

use std::sync::Arc;

use assent_consensus::operational_key::{Algorithm, KeyKind, VerificationKey};
use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, ObjectClass};
use serde::Serialize;

use super::Pkcs11Driver;
use super::profile::{AlgorithmAttribute, KeyTemplate, Profile};
use super::session::Pkcs11Device;
use crate::device::{Device as _, DeviceError, ObjectId};

/// What a token takes.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// What it says that it signs by, and can make keys for.
    pub algorithms: Vec<Algorithm>,
    /// With which templates it made a P-256 key that signs and is as it must be; nothing if with none.
    pub key_template: Option<KeyTemplate>,
    /// What it demands beside the templates.
    pub algorithm_attribute: Option<AlgorithmAttribute>,
    /// What it said of each template that it did not take.
    pub refused: Vec<String>,
    /// Why it takes no data objects; nothing if it does.
    pub no_data_objects: Option<String>,
}

impl Probe {
    /// The lines for its `[[device]]` in the configuration; those that say what is so anyway are left out.
    pub fn configuration(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.key_template == Some(KeyTemplate::LabelOnly) {
            lines.push("key_template = \"label-only\"".to_owned());
        }
        if let Some(attribute) = &self.algorithm_attribute {
            lines.push(format!("algorithm_attribute = {attribute}"));
        }
        if self.no_data_objects.is_some() {
            lines.push(
                "epoch_file = \"/mnt/OTHER-DISK/assent-epoch\"   # not on the disk of the database"
                    .to_owned(),
            );
        }
        lines
    }
}

impl Pkcs11Driver {
    /// Makes and destroys keys and a data object until it is known what the token takes. The configured profile has no say.
    ///
    /// # Errors
    /// [`DeviceError`], if it does not come so far as to try; what is refused is in the [`Probe`].
    pub fn probe(&self) -> Result<Probe, DeviceError> {
        let mut device = self.open()?;
        let mechanisms = device.mechanisms()?;
        let mut probe = Probe {
            algorithms: Algorithm::ALL
                .into_iter()
                .filter(|algorithm| is_among(&mechanisms, *algorithm))
                .collect(),
            key_template: None,
            algorithm_attribute: None,
            refused: Vec::new(),
            no_data_objects: None,
        };
        let google = Some(AlgorithmAttribute::GOOGLE);
        for (key_template, algorithm_attribute) in [
            (KeyTemplate::Full, None),
            (KeyTemplate::Full, google),
            (KeyTemplate::LabelOnly, None),
            (KeyTemplate::LabelOnly, google),
        ] {
            device.profile = Arc::new(Profile { key_template, algorithm_attribute, epoch_file: None });
            match make_and_sign(&mut device) {
                Ok(()) => {
                    (probe.key_template, probe.algorithm_attribute) =
                        (Some(key_template), algorithm_attribute);
                    break;
                }
                Err(error) if error.is_lost() => return Err(error),
                Err(error) => probe.refused.push(error.to_string()),
            }
        }
        probe.no_data_objects = match put_and_destroy(&device) {
            Ok(()) => None,
            Err(error) if error.is_lost() => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        Ok(probe)
    }
}

fn make_and_sign(device: &mut Pkcs11Device) -> Result<(), DeviceError> {
    let (object, key) = device.generate(&format!("assent-probe-{}", ObjectId::random()?), KeyKind::P256)?;
    let digest = Algorithm::ES256.digest(b"assent-kms doctor --probe");
    let signed = device.sign(object, Algorithm::ES256, &digest);
    device.destroy(object)?;
    let right = VerificationKey::new(Algorithm::ES256, key)
        .is_ok_and(|key| signed.is_ok_and(|signature| key.verify(&digest, &signature).is_ok()));
    if right { Ok(()) } else { Err(DeviceError::WrongSignature) }
}

/// An object like the epoch's mark, and none that could be taken for one.
fn put_and_destroy(device: &Pkcs11Device) -> Result<(), DeviceError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(b"assent-probe".into()),
        Attribute::Value(b"assent-kms doctor --probe".into()),
    ];
    let object = device.call(|session| session.create_object(&template))?;
    device.call(|session| session.destroy_object(object))
}

fn is_among(mechanisms: &[MechanismType], algorithm: Algorithm) -> bool {
    let needed = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => [MechanismType::ECC_KEY_PAIR_GEN, MechanismType::ECDSA],
        Algorithm::RS256 => [MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS],
        Algorithm::PS256 => [MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS_PSS],
    };
    needed.iter().all(|needed| mechanisms.contains(needed))
}
