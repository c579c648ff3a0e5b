//! Certificates that say how a key came to be, and the chain above them.
//!
//! A real device's certificate is signed by an intermediate of Yubico's. Here each device has a root of its own, whose name
//! says that it is a simulator's, so that nobody takes one for the other.

use std::str::FromStr as _;

use p256::ecdsa::{DerSignature, SigningKey};
use p256::elliptic_curve::Generate;
use x509_cert::Certificate;
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder as _, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{BitString, OctetString, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{DateTime, Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};

use crate::device::Firmware;
use crate::object::{Content, Object, fill_random};
use crate::wire::ErrorCode;

/// Yubico's arc for what a certificate says of a YubiHSM.
const ARC: &str = "1.3.6.1.4.1.41482.4";

/// The device's own attestation key and certificate, those with id 0, and the root above it.
pub(crate) struct Attestation {
    key: SigningKey,
    certificate: Certificate,
    root: Certificate,
}

/// Who signs a certificate.
pub(crate) struct Attester {
    key: SigningKey,
    certificate: Certificate,
}

impl Attestation {
    /// A device's, made in its factory.
    pub(crate) fn new(firmware: Firmware, serial: u32) -> builder::Result<Attestation> {
        let root_key = SigningKey::generate();
        let root_name = Name::from_str("CN=YubiHSM Simulator Root CA")?;
        let root = Named { issuer: root_name.clone(), subject: root_name.clone(), extensions: authority()? };
        let root =
            root.sign(SubjectPublicKeyInfo::from_key(root_key.verifying_key())?, &root_key, always()?)?;
        let key = SigningKey::generate();
        let subject = Name::from_str(&format!("CN=YubiHSM Simulator Attestation ({serial})"))?;
        let mut extensions = authority()?;
        extensions.extend(of_device(firmware, serial)?);
        let own = SubjectPublicKeyInfo::from_key(key.verifying_key())?;
        let certificate = Named { issuer: root_name, subject, extensions }.sign(own, &root_key, always()?)?;
        Ok(Attestation { key, certificate, root })
    }

    /// The certificate with id 0, DER.
    pub(crate) fn certificate(&self) -> Result<Vec<u8>, ErrorCode> {
        self.certificate.to_der().map_err(|_| ErrorCode::StorageFailed)
    }

    /// The root's certificate, DER.
    pub(crate) fn root(&self) -> Result<Vec<u8>, ErrorCode> {
        self.root.to_der().map_err(|_| ErrorCode::StorageFailed)
    }

    /// The device itself.
    pub(crate) fn attester(&self) -> Attester {
        Attester { key: self.key.clone(), certificate: self.certificate.clone() }
    }
}

impl Attester {
    /// A key and the certificate of the same id.
    pub(crate) fn of(key: &Object, certificate: &Object) -> Result<Attester, ErrorCode> {
        match (&key.content, &certificate.content) {
            (Content::P256(key), Content::Opaque(der)) => Ok(Attester {
                key: SigningKey::from(key),
                certificate: Certificate::from_der(der).map_err(|_| ErrorCode::InvalidData)?,
            }),
            _ => Err(ErrorCode::InvalidData),
        }
    }

    /// The certificate of a key, DER.
    pub(crate) fn attest(
        &self,
        object: &Object,
        firmware: Firmware,
        serial: u32,
    ) -> Result<Vec<u8>, ErrorCode> {
        let key = object.public_key_info().ok_or(ErrorCode::InvalidData)?;
        let work = || {
            let mut extensions = of_device(firmware, serial)?;
            extensions.extend(of_key(object)?);
            let subject = Name::from_str(&format!("CN=YubiHSM Attestation id:0x{:04x}", object.id))?;
            let issuer = self.certificate.tbs_certificate();
            let named = Named { issuer: issuer.subject().clone(), subject, extensions };
            let certificate = named.sign(key?, &self.key, *issuer.validity())?;
            builder::Result::Ok(certificate.to_der()?)
        };
        work().map_err(|_| ErrorCode::InvalidData)
    }
}

/// The names and extensions of a certificate.
struct Named {
    issuer: Name,
    subject: Name,
    extensions: Vec<Extension>,
}

impl Named {
    fn sign(
        self,
        key: SubjectPublicKeyInfo,
        issuer: &SigningKey,
        validity: Validity,
    ) -> builder::Result<Certificate> {
        let mut serial = [0; 16];
        fill_random(&mut serial);
        // A positive number without a leading zero.
        serial[0] = serial[0] & 0x7f | 0x40;
        let builder = CertificateBuilder::new(self, SerialNumber::new(&serial)?, validity, key)?;
        builder.build::<_, DerSignature>(issuer)
    }
}

impl BuilderProfile for Named {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer: SubjectPublicKeyInfoRef<'_>,
        _certificate: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        Ok(self.extensions.clone())
    }
}

/// A device does not know the date: its certificate holds for all of them.
fn always() -> builder::Result<Validity> {
    let (first, last) = (DateTime::new(2017, 1, 1, 0, 0, 0)?, DateTime::new(2071, 10, 5, 0, 0, 0)?);
    Ok(Validity::new(Time::GeneralTime(first.into()), Time::GeneralTime(last.into())))
}

/// What lets a certificate sign others.
fn authority() -> builder::Result<Vec<Extension>> {
    let constraints = BasicConstraints { ca: true, path_len_constraint: None };
    let usage = KeyUsage(KeyUsages::KeyCertSign.into());
    Ok(vec![
        Extension {
            extn_id: ObjectIdentifier::new_unwrap("2.5.29.19"),
            critical: true,
            extn_value: OctetString::new(constraints.to_der()?)?,
        },
        Extension {
            extn_id: ObjectIdentifier::new_unwrap("2.5.29.15"),
            critical: true,
            extn_value: OctetString::new(usage.to_der()?)?,
        },
    ])
}

fn of_device(firmware: Firmware, serial: u32) -> builder::Result<Vec<Extension>> {
    Ok(vec![extension(1, OctetString::new(firmware.version())?.to_der()?)?, extension(2, serial.to_der()?)?])
}

fn of_key(object: &Object) -> builder::Result<Vec<Extension>> {
    let end = object.label.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let label = String::from_utf8_lossy(&object.label[..end]);
    Ok(vec![
        extension(3, BitString::from_bytes(&[object.origin.0])?.to_der()?)?,
        extension(4, BitString::from_bytes(&object.domains.0.to_be_bytes())?.to_der()?)?,
        extension(5, BitString::from_bytes(&object.capabilities.0.to_be_bytes())?.to_der()?)?,
        extension(6, object.id.to_der()?)?,
        extension(9, Utf8StringRef::new(&*label)?.to_der()?)?,
    ])
}

fn extension(number: u32, value: Vec<u8>) -> builder::Result<Extension> {
    let extn_id =
        ObjectIdentifier::new_unwrap(ARC).push_arc(number).map_err(|_| builder::Error::MissingAttributes)?;
    Ok(Extension { extn_id, critical: false, extn_value: OctetString::new(value)? })
}
