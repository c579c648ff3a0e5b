//! Who may do what: capabilities, and the domains that part a device.

use std::ops::BitOr;

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

#[allow(missing_docs, reason = "the names are the device's own")]
impl Capabilities {
    pub const GET_OPAQUE: Capabilities = Capabilities(1);
    pub const PUT_OPAQUE: Capabilities = Capabilities(1 << 0x01);
    pub const PUT_AUTHENTICATION_KEY: Capabilities = Capabilities(1 << 0x02);
    pub const PUT_ASYMMETRIC_KEY: Capabilities = Capabilities(1 << 0x03);
    pub const GENERATE_ASYMMETRIC_KEY: Capabilities = Capabilities(1 << 0x04);
    pub const SIGN_ECDSA: Capabilities = Capabilities(1 << 0x07);
    pub const EXPORT_WRAPPED: Capabilities = Capabilities(1 << 0x0c);
    pub const IMPORT_WRAPPED: Capabilities = Capabilities(1 << 0x0d);
    pub const PUT_WRAP_KEY: Capabilities = Capabilities(1 << 0x0e);
    pub const GENERATE_WRAP_KEY: Capabilities = Capabilities(1 << 0x0f);
    pub const EXPORTABLE_UNDER_WRAP: Capabilities = Capabilities(1 << 0x10);
    pub const SET_OPTION: Capabilities = Capabilities(1 << 0x11);
    pub const GET_OPTION: Capabilities = Capabilities(1 << 0x12);
    pub const GET_PSEUDO_RANDOM: Capabilities = Capabilities(1 << 0x13);
    pub const GET_LOG_ENTRIES: Capabilities = Capabilities(1 << 0x18);
    pub const RESET_DEVICE: Capabilities = Capabilities(1 << 0x1c);
    pub const SIGN_ATTESTATION_CERTIFICATE: Capabilities = Capabilities(1 << 0x22);
    pub const WRAP_DATA: Capabilities = Capabilities(1 << 0x25);
    pub const UNWRAP_DATA: Capabilities = Capabilities(1 << 0x26);
    pub const DELETE_OPAQUE: Capabilities = Capabilities(1 << 0x27);
    pub const DELETE_AUTHENTICATION_KEY: Capabilities = Capabilities(1 << 0x28);
    pub const DELETE_ASYMMETRIC_KEY: Capabilities = Capabilities(1 << 0x29);
    pub const DELETE_WRAP_KEY: Capabilities = Capabilities(1 << 0x2a);
    pub const CHANGE_AUTHENTICATION_KEY: Capabilities = Capabilities(1 << 0x2e);
    /// Every capability that a device of firmware 2.4 knows.
    pub const ALL: Capabilities = Capabilities((1 << 0x38) - 1);
    pub const NONE: Capabilities = Capabilities(0);
    /// What README.md has an administrator give to a KMS's authentication key.
    pub const KMS: Capabilities = Capabilities(
        Capabilities::GENERATE_ASYMMETRIC_KEY.0
            | Capabilities::SIGN_ECDSA.0
            | Capabilities::DELETE_ASYMMETRIC_KEY.0
            | Capabilities::GET_OPAQUE.0
            | Capabilities::PUT_OPAQUE.0
            | Capabilities::DELETE_OPAQUE.0
            | Capabilities::GET_LOG_ENTRIES.0
            | Capabilities::GET_OPTION.0
            | Capabilities::SET_OPTION.0,
    );

    /// Whether each of `others` is among these.
    pub fn contain(self, others: Capabilities) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether one of `others` is among these.
    pub fn touch(self, others: Capabilities) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for Capabilities {
    type Output = Capabilities;

    fn bitor(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }
}

/// A set of the sixteen domains, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Domains(pub u16);

impl Domains {
    /// All sixteen.
    pub const ALL: Domains = Domains(0xffff);

    /// Whether the two sets share a domain.
    pub fn touch(self, others: Domains) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether each of `others` is among these.
    pub fn contain(self, others: Domains) -> bool {
        self.0 & others.0 == others.0
    }
}
