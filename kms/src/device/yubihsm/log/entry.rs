//! One entry of the device's log, and what its command means.

use sha2::{Digest as _, Sha256};

/// One entry of the device's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 1, and after 65,535 from 0 again.
    pub item: u16,
    /// The command's code.
    pub command: u8,
    /// The length of what came with it.
    pub length: u16,
    /// The authentication key of the session.
    pub session_key: u16,
    /// The object that was used.
    pub target: u16,
    /// A second one.
    pub second: u16,
    /// The answer's code, or the error's.
    pub result: u8,
    /// The device's clock.
    pub tick: u32,
    /// Over this entry and the digest before.
    pub digest: [u8; 16],
}

/// Switches the audit.
pub const SET_OPTION: u8 = 0x4f;
/// Signs with an asymmetric key.
pub const SIGN_ECDSA: u8 = 0x56;
const DELETE: u8 = 0x58;
const RESET: u8 = 0x08;

/// Commands that only look, or belong to a session; who did those does no harm. All others are uses.
const LOOKS: [u8; 22] = [
    0x00, // boot
    0x01, // echo
    0x03, // create session
    0x04, // authenticate session
    0x05, // session message
    0x06, // device info
    0x07, // the maker's own
    0x09, // the maker's own
    0x40, // close session
    0x41, // storage info
    0x43, // get opaque
    0x48, // list objects
    0x4d, // get log entries
    0x4e, // object info
    0x50, // get option
    0x51, // random bytes
    0x54, // public key
    0x5c, // verify HMAC
    0x5f, // get template
    0x67, // set log index
    0x6b, // blink
    0xff, // the first entry of a device, and of one that was reset
];

/// Commands that use an asymmetric key.
const KEY_USES: [u8; 11] = [
    0x47, // sign, PKCS#1
    0x49, // decrypt, PKCS#1
    0x4a, // export under a wrap key
    0x55, // sign, PSS
    0x56, // sign, ECDSA
    0x57, // derive, ECDH
    0x59, // decrypt, OAEP
    0x5d, // sign an SSH certificate
    0x64, // sign an attestation
    0x6a, // sign, EdDSA
    0x74, // export under an RSA key
];

/// Whether a command is one that is noted.
pub fn is_use(command: u8) -> bool {
    !LOOKS.contains(&command)
}

impl LogEntry {
    /// Whether the device did it, and did not refuse.
    pub fn is_done(&self) -> bool {
        self.result == self.command | 0x80
    }

    /// Whether it uses an asymmetric key.
    pub(super) fn uses_a_key(&self) -> bool {
        KEY_USES.contains(&self.command)
    }

    /// Whether it uses the asymmetric key of this number, or takes it away.
    pub(super) fn touches_key(&self, number: u16) -> bool {
        let is_named = self.target == number || self.second == number;
        is_named && (self.uses_a_key() || self.command == DELETE)
    }

    /// Whether nobody knows afterwards what else was done.
    pub(super) fn hides(&self) -> bool {
        matches!(self.command, SET_OPTION | RESET)
    }

    /// The digest that it must have after the entry with the digest `before`: the first half of SHA-256 over its 16 bytes and
    /// that one.
    pub(super) fn chained(&self, before: &[u8; 16]) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(self.item.to_be_bytes());
        hash.update([self.command]);
        for field in [self.length, self.session_key, self.target, self.second] {
            hash.update(field.to_be_bytes());
        }
        hash.update([self.result]);
        hash.update(self.tick.to_be_bytes());
        hash.update(before);
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        digest
    }
}
