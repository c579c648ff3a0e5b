//! The device's commands.

/// A command's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command(pub u8);

#[allow(missing_docs, reason = "the names are the device's own")]
impl Command {
    /// The line of the log that a start of the device writes.
    pub const BOOT: Command = Command(0x00);
    pub const ECHO: Command = Command(0x01);
    pub const CREATE_SESSION: Command = Command(0x03);
    pub const AUTHENTICATE_SESSION: Command = Command(0x04);
    pub const SESSION_MESSAGE: Command = Command(0x05);
    pub const DEVICE_INFO: Command = Command(0x06);
    pub const RESET_DEVICE: Command = Command(0x08);
    pub const CLOSE_SESSION: Command = Command(0x40);
    pub const GET_STORAGE_INFO: Command = Command(0x41);
    pub const PUT_OPAQUE: Command = Command(0x42);
    pub const GET_OPAQUE: Command = Command(0x43);
    pub const PUT_AUTHENTICATION_KEY: Command = Command(0x44);
    pub const PUT_ASYMMETRIC_KEY: Command = Command(0x45);
    pub const GENERATE_ASYMMETRIC_KEY: Command = Command(0x46);
    pub const LIST_OBJECTS: Command = Command(0x48);
    pub const EXPORT_WRAPPED: Command = Command(0x4a);
    pub const IMPORT_WRAPPED: Command = Command(0x4b);
    pub const PUT_WRAP_KEY: Command = Command(0x4c);
    pub const GET_LOG_ENTRIES: Command = Command(0x4d);
    pub const GET_OBJECT_INFO: Command = Command(0x4e);
    pub const SET_OPTION: Command = Command(0x4f);
    pub const GET_OPTION: Command = Command(0x50);
    pub const GET_PSEUDO_RANDOM: Command = Command(0x51);
    pub const GET_PUBLIC_KEY: Command = Command(0x54);
    pub const SIGN_ECDSA: Command = Command(0x56);
    pub const DELETE_OBJECT: Command = Command(0x58);
    pub const GENERATE_WRAP_KEY: Command = Command(0x5b);
    pub const SIGN_ATTESTATION_CERTIFICATE: Command = Command(0x64);
    pub const SET_LOG_INDEX: Command = Command(0x67);
    pub const WRAP_DATA: Command = Command(0x68);
    pub const UNWRAP_DATA: Command = Command(0x69);
    pub const BLINK_DEVICE: Command = Command(0x6b);
    pub const CHANGE_AUTHENTICATION_KEY: Command = Command(0x6c);
    /// The first line of the log of a device that was reset.
    pub const INITIALIZATION: Command = Command(0xff);
}

/// The codes of every command of a real device, in the order in which it lists them: what the simulator does not do can be
/// audited too.
pub(crate) const LISTED: [u8; 65] = [
    0x01, 0x03, 0x04, 0x05, 0x06, 0x07, 0x09, 0x08, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x55,
    0x56, 0x48, 0x49, 0x57, 0x4a, 0x4b, 0x4c, 0x4d, 0x67, 0x4e, 0x4f, 0x50, 0x51, 0x52, 0x53, 0x54, 0x58,
    0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x68, 0x69, 0x6a,
    0x6b, 0x6c, 0x0a, 0x6d, 0x6e, 0x6f, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77,
];
/// How many of them firmware before 2.4 has.
pub(crate) const LISTED_BEFORE_2_4: usize = 53;
