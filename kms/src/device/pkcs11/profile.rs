//! What a token takes: makers differ in which attributes and objects they refuse or demand.

use std::fmt;
use std::path::PathBuf;

use assent_consensus::operational_key::KeyKind;
use cryptoki::object::{Attribute, AttributeType};
use serde::{Deserialize, Serialize};

/// How keys are made on a token, and where its epoch mark is. `assent-kms doctor --probe` finds it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Profile {
    /// What the templates of a key pair say.
    #[serde(default)]
    pub key_template: KeyTemplate,
    /// An attribute of the maker's that says the algorithm of a private key.
    pub algorithm_attribute: Option<AlgorithmAttribute>,
    /// Where the epoch mark is, if the token takes no data objects.
    pub epoch_file: Option<PathBuf>,
}

/// What the templates of a key pair say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyTemplate {
    /// Everything: label, CKA_ID, what the key may do and what may never be done to it.
    #[default]
    Full,
    /// The private half's label, and [`Profile::algorithm_attribute`], alone: the token chooses the CKA_ID and sees to the
    /// rest itself. Whether it did is checked afterwards either way.
    LabelOnly,
}

/// An attribute of a maker's own, such as Google's `CKA_KMS_ALGORITHM`: its type, and its value (a CK_ULONG) for each kind
/// of key that the token makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AlgorithmAttribute {
    /// The attribute's type, in the range of vendors (PKCS#11 v2.40 section 4.2).
    #[serde(rename = "type")]
    pub attribute: u32,
    /// For P-256.
    pub p256: Option<u32>,
    /// For P-384.
    pub p384: Option<u32>,
    /// For RSA with 3072 bits.
    pub rsa3072: Option<u32>,
    /// For RSA with 4096 bits.
    pub rsa4096: Option<u32>,
}

impl AlgorithmAttribute {
    /// Google Cloud KMS: `CKA_KMS_ALGORITHM` with the values of `CryptoKeyVersionAlgorithm` for SHA-256 and for P-384 with
    /// SHA-384; an RSA key there is either for PS256 (these) or for RS256.
    pub const GOOGLE: AlgorithmAttribute = AlgorithmAttribute {
        attribute: 0x8001_e101,
        p256: Some(12),
        p384: Some(13),
        rsa3072: Some(3),
        rsa4096: Some(4),
    };

    /// The attribute for a kind of key; nothing if the token makes none.
    pub(super) fn of(&self, kind: KeyKind) -> Option<Attribute> {
        let value = match kind {
            KeyKind::P256 => self.p256,
            KeyKind::P384 => self.p384,
            KeyKind::Rsa3072 => self.rsa3072,
            KeyKind::Rsa4096 => self.rsa4096,
        };
        let bytes = std::ffi::c_ulong::from(value?).to_ne_bytes();
        Some(Attribute::VendorDefined((AttributeType::VendorDefined(self.attribute.into()), bytes.to_vec())))
    }
}

/// As it stands in the configuration.
impl fmt::Display for AlgorithmAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ type = {:#x}", self.attribute)?;
        let values =
            [("p256", self.p256), ("p384", self.p384), ("rsa3072", self.rsa3072), ("rsa4096", self.rsa4096)];
        for (kind, value) in values {
            if let Some(value) = value {
                write!(f, ", {kind} = {value}")?;
            }
        }
        f.write_str(" }")
    }
}
