//! Kinds of keys and algorithms in the words of PKCS#11: templates, attributes, mechanisms.

use assent_consensus::operational_key::{Algorithm, KeyKind, MessageDigest, OperationalPublicKey};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::types::Ulong;

/// CKA_EC_PARAMS of P-256: the DER of the object identifier 1.2.840.10045.3.1.7.
pub(super) const P256_PARAMETERS: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// CKA_EC_PARAMS of P-384: the DER of the object identifier 1.3.132.0.34.
const P384_PARAMETERS: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// CKA_PUBLIC_EXPONENT of every RSA key: 65537.
const EXPONENT: [u8; 3] = [1, 0, 1];
/// The DER tag of an OCTET STRING: what CKA_EC_POINT begins with, its length coming next.
const OCTET_STRING: u8 = 0x04;
/// The DER of a DigestInfo of SHA-256 up to the digest (RFC 8017 section 9.2, note 1): CKM_RSA_PKCS wants it from the caller.
const SHA256_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];
/// The bytes of salt in a PS256 signature (RFC 7518 section 3.5).
const SALT: Ulong = Ulong::new(32);

/// The attributes that say what a public key is: see [`read_public`].
pub(super) const PUBLIC_ATTRIBUTES: [[AttributeType; 2]; 2] = [
    [AttributeType::EcParams, AttributeType::EcPoint],
    [AttributeType::Modulus, AttributeType::PublicExponent],
];

/// What generates a key pair of a kind: its mechanism, and what makes each half what it must be. Neither does anything but
/// signatures.
pub(super) struct Generation {
    pub(super) mechanism: Mechanism<'static>,
    pub(super) public: Vec<Attribute>,
    pub(super) private: Vec<Attribute>,
}

pub(super) fn generation(kind: KeyKind) -> Generation {
    let mut public = vec![Attribute::Verify(true)];
    let mut private = vec![
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
    ];
    let mechanism = match kind {
        KeyKind::P256 | KeyKind::P384 => {
            let parameters = if kind == KeyKind::P256 { &P256_PARAMETERS[..] } else { &P384_PARAMETERS };
            public.push(Attribute::EcParams(parameters.to_vec()));
            Mechanism::EccKeyPairGen
        }
        KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
            let bits = if kind == KeyKind::Rsa3072 { 3072 } else { 4096 };
            public.extend([
                Attribute::ModulusBits(Ulong::new(bits)),
                Attribute::PublicExponent(EXPONENT.to_vec()),
                Attribute::Encrypt(false),
                Attribute::Wrap(false),
            ]);
            private.push(Attribute::Unwrap(false));
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    Generation { mechanism, public, private }
}

/// The public key of these attributes; nothing if they are of a kind that is not known.
pub(super) fn read_public(attributes: &[Attribute]) -> Option<OperationalPublicKey> {
    let (mut parameters, mut point, mut modulus, mut exponent) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            Attribute::EcParams(bytes) => parameters = Some(bytes),
            Attribute::EcPoint(bytes) => point = Some(bytes),
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            _ => {}
        }
    }
    if let (Some(modulus), Some(exponent)) = (modulus, exponent) {
        return OperationalPublicKey::from_rsa(modulus, exponent).ok();
    }
    let kind = match parameters?.as_slice() {
        parameters if parameters == P256_PARAMETERS => KeyKind::P256,
        parameters if parameters == P384_PARAMETERS => KeyKind::P384,
        _ => return None,
    };
    let point = point?;
    // Some modules leave out the DER header that PKCS#11 asks for.
    let bare = match point.as_slice() {
        [OCTET_STRING, length, bare @ ..]
            if bare.len() == kind.length() && usize::from(*length) == bare.len() =>
        {
            bare
        }
        bare => bare,
    };
    OperationalPublicKey::from_bytes(kind, bare).ok()
}

/// What signs a digest, and the bytes that it is given.
pub(super) fn signing(algorithm: Algorithm, digest: &MessageDigest) -> (Mechanism<'static>, Vec<u8>) {
    let bytes = digest.as_bytes();
    match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => (Mechanism::Ecdsa, bytes.to_vec()),
        Algorithm::RS256 => (Mechanism::RsaPkcs, [&SHA256_INFO, bytes].concat()),
        Algorithm::PS256 => {
            let parameters =
                PkcsPssParams { hash_alg: MechanismType::SHA256, mgf: PkcsMgfType::MGF1_SHA256, s_len: SALT };
            (Mechanism::RsaPkcsPss(parameters), bytes.to_vec())
        }
    }
}
