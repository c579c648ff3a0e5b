//! What a YubiHSM is and what an authentication key may do with it.

use ::yubihsm::Capability;

/// What the device says of itself, also outside of a session. The crate's own reader refuses algorithms of newer firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawInfo {
    pub(super) version: [u8; 3],
    pub(super) serial: u32,
    pub(super) log_size: u8,
    pub(super) log_used: u8,
}

impl RawInfo {
    /// Version, serial number, places of the log, those that are used; then algorithms.
    pub(super) fn read(bytes: &[u8]) -> Option<RawInfo> {
        let (head, _algorithms) = bytes.split_at_checked(9)?;
        let [major, minor, build, a, b, c, d, log_size, log_used] = head.try_into().ok()?;
        let serial = u32::from_be_bytes([a, b, c, d]);
        Some(RawInfo { version: [major, minor, build], serial, log_size, log_used })
    }
}

/// What the KMS cannot do without.
pub(super) const NEEDED: Capability = Capability::GENERATE_ASYMMETRIC_KEY
    .union(Capability::SIGN_ECDSA)
    .union(Capability::DELETE_ASYMMETRIC_KEY)
    .union(Capability::GET_OPAQUE)
    .union(Capability::PUT_OPAQUE)
    .union(Capability::DELETE_OPAQUE)
    .union(Capability::GET_LOG_ENTRIES)
    .union(Capability::GET_OPTION);

/// The names that `yubihsm-shell` knows.
const NAMES: [(Capability, &str); 13] = [
    (Capability::GENERATE_ASYMMETRIC_KEY, "generate-asymmetric-key"),
    (Capability::SIGN_ECDSA, "sign-ecdsa"),
    (Capability::DELETE_ASYMMETRIC_KEY, "delete-asymmetric-key"),
    (Capability::GET_OPAQUE, "get-opaque"),
    (Capability::PUT_OPAQUE, "put-opaque"),
    (Capability::DELETE_OPAQUE, "delete-opaque"),
    (Capability::GET_LOG_ENTRIES, "get-log-entries"),
    (Capability::GET_OPTION, "get-option"),
    (Capability::PUT_OPTION, "set-option"),
    (Capability::SIGN_ATTESTATION_CERTIFICATE, "sign-attestation-certificate"),
    (Capability::EXPORT_WRAPPED, "export-wrapped"),
    (Capability::IMPORT_WRAPPED, "import-wrapped"),
    (Capability::EXPORTABLE_UNDER_WRAP, "exportable-under-wrap"),
];

/// Capabilities for a person.
pub(super) fn names(capabilities: Capability) -> String {
    let names = NAMES.iter().filter(|(capability, _)| capabilities.contains(*capability));
    names.map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_of_newer_firmware_do_no_harm() {
        let bytes = [2, 4, 1, 0, 0x73, 0x4f, 0xd7, 62, 3, 0x0c, 0xfe, 0xff];
        let info = RawInfo::read(&bytes).expect("long enough");
        assert_eq!(info, RawInfo { version: [2, 4, 1], serial: 7_557_079, log_size: 62, log_used: 3 });
        assert_eq!(RawInfo::read(&bytes[..8]), None);
    }

    #[test]
    fn every_needed_capability_has_a_name() {
        assert_eq!(names(NEEDED).split(", ").count(), 8);
    }
}
