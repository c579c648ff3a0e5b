//! What other devices refuse that SoftHSM takes.

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BBOOL, CK_OBJECT_CLASS, CK_RV, CK_TRUE, CK_ULONG, CKA_CLASS,
    CKA_EC_PARAMS, CKA_ID, CKA_LABEL, CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN, CKA_TOKEN, CKA_VERIFY, CKO_DATA,
    CKR_ARGUMENTS_BAD, CKR_ATTRIBUTE_VALUE_INVALID, CKR_FUNCTION_NOT_SUPPORTED, CKR_TEMPLATE_INCOMPLETE,
    CKR_TEMPLATE_INCONSISTENT,
};

use crate::Vendor;

/// `CKA_KMS_ALGORITHM` of Google's module: what a private key's template must name there.
pub const GOOGLE_ALGORITHM: CK_ATTRIBUTE_TYPE = 0x8001_E101;

impl Vendor {
    /// Why this device does not make such an object; nothing if it does.
    pub(crate) fn refuses_object(self, template: &[CK_ATTRIBUTE]) -> Option<CK_RV> {
        let class = value(template, CKA_CLASS).and_then(|value| value.try_into().ok());
        let is_data = class.map(CK_OBJECT_CLASS::from_ne_bytes) == Some(CKO_DATA);
        match self {
            Vendor::NetHsm | Vendor::CloudHsm if is_data => Some(CKR_ATTRIBUTE_VALUE_INVALID),
            Vendor::NetHsm | Vendor::CloudHsm => None,
            Vendor::Ykcs11 | Vendor::GoogleKms => Some(CKR_FUNCTION_NOT_SUPPORTED),
        }
    }

    /// Why this device does not make such a pair; nothing if it does. That a label is there already is asked elsewhere.
    pub(crate) fn refuses_pair(self, public: &[CK_ATTRIBUTE], private: &[CK_ATTRIBUTE]) -> Option<CK_RV> {
        if self != Vendor::GoogleKms {
            return None;
        }
        let taken = [GOOGLE_ALGORITHM, CKA_LABEL];
        if !public.is_empty() || private.iter().any(|attribute| !taken.contains(&attribute.type_)) {
            return Some(CKR_TEMPLATE_INCONSISTENT);
        }
        if taken.iter().any(|wanted| value(private, *wanted).is_none()) {
            return Some(CKR_TEMPLATE_INCOMPLETE);
        }
        let algorithm = value(private, GOOGLE_ALGORITHM).and_then(|value| value.try_into().ok());
        let is_known = algorithm.map(CK_ULONG::from_ne_bytes) == Some(GOOGLE_P256_SHA256);
        let is_name = value(private, CKA_LABEL).is_some_and(is_google_name);
        (!is_known || !is_name).then_some(CKR_ATTRIBUTE_VALUE_INVALID)
    }

    /// What it says of a label that it has already; nothing if it has labels twice.
    pub(crate) fn refuses_second_label(self) -> Option<CK_RV> {
        match self {
            Vendor::CloudHsm => Some(CKR_ATTRIBUTE_VALUE_INVALID),
            Vendor::GoogleKms => Some(CKR_ARGUMENTS_BAD),
            Vendor::NetHsm | Vendor::Ykcs11 => None,
        }
    }

    /// Whether it opens no session that cannot write.
    pub(crate) fn refuses_read_only(self) -> bool {
        self == Vendor::CloudHsm
    }
}

/// The bytes of an attribute in a template.
pub(crate) fn value(template: &[CK_ATTRIBUTE], wanted: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
    let attribute = template.iter().find(|attribute| attribute.type_ == wanted)?;
    if attribute.pValue.is_null() {
        return Some(&[]);
    }
    let length = usize::try_from(attribute.ulValueLen).ok()?;
    // SAFETY: PKCS#11 says that `pValue` points to as many bytes, and the caller keeps them while the template lives.
    Some(unsafe { std::slice::from_raw_parts(attribute.pValue.cast::<u8>(), length) })
}

/// What Google's module makes of a name: SoftHSM's templates for the pair.
pub(crate) struct OwnTemplates {
    label: Vec<u8>,
    yes: CK_BBOOL,
}

impl OwnTemplates {
    pub(crate) fn new(label: &[u8]) -> OwnTemplates {
        OwnTemplates { label: label.to_vec(), yes: CK_TRUE }
    }

    /// Points into this value.
    pub(crate) fn public(&self) -> Vec<CK_ATTRIBUTE> {
        let mut template = self.named();
        template.push(attribute(CKA_EC_PARAMS, &P256_PARAMETERS));
        template.push(self.flag(CKA_VERIFY));
        template
    }

    /// Points into this value.
    pub(crate) fn private(&self) -> Vec<CK_ATTRIBUTE> {
        let mut template = self.named();
        template.extend([CKA_PRIVATE, CKA_SENSITIVE, CKA_SIGN].map(|flag| self.flag(flag)));
        template
    }

    /// The device chooses the id, and what it chooses is not the application's to know before.
    fn named(&self) -> Vec<CK_ATTRIBUTE> {
        vec![attribute(CKA_LABEL, &self.label), attribute(CKA_ID, &self.label), self.flag(CKA_TOKEN)]
    }

    fn flag(&self, flag: CK_ATTRIBUTE_TYPE) -> CK_ATTRIBUTE {
        attribute(flag, std::slice::from_ref(&self.yes))
    }
}

fn attribute(type_: CK_ATTRIBUTE_TYPE, value: &[u8]) -> CK_ATTRIBUTE {
    // A template's values are only read.
    let place = value.as_ptr().cast_mut();
    CK_ATTRIBUTE { type_, pValue: place.cast(), ulValueLen: value.len() as CK_ULONG }
}

/// The names that Google's service takes: 1 to 63 of letters, digits, `_` and `-`.
fn is_google_name(name: &[u8]) -> bool {
    (1..=63).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// `EC_SIGN_P256_SHA256` of Google's `CryptoKeyVersionAlgorithm`.
const GOOGLE_P256_SHA256: CK_ULONG = 12;
/// CKA_EC_PARAMS of P-256: the DER of its object identifier.
const P256_PARAMETERS: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
