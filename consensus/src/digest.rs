//! SHA-256 digests, and the tuples that are hashed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::json;

/// A SHA-256 digest, 32 bytes. Its text form is `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The text is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest must be `sha256:` and 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl Digest {
    /// The digest of 32 zero bytes' place: where a chain of digests begins.
    pub const ZERO: Digest = Digest([0; 32]);

    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// SHA-256 over several pieces, as if they were one.
    pub fn of_pieces(pieces: &[&[u8]]) -> Digest {
        let mut hasher = Sha256::new();
        for piece in pieces {
            hasher.update(piece);
        }
        Digest(hasher.finalize().into())
    }

    /// The digest whose 32 bytes were computed elsewhere (over a stream, or by a device).
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 71];
        text[..7].copy_from_slice(b"sha256:");
        for (pair, byte) in text[7..].chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let hex = text.strip_prefix("sha256:").ok_or(DigestError)?.as_bytes();
        let mut bytes = [0u8; 32];
        if hex.len() != 64 {
            return Err(DigestError);
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError),
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        json::read_text(deserializer, str::parse)
    }
}

/// A tuple to be hashed: `H(tag, a, b, ...)`, SHA-256 over tag and fields, each as its length (u32, big-endian)
/// and its bytes; digests as their 71 characters, numbers in decimal.
pub struct Tuple(Sha256);

impl Tuple {
    /// A tuple that begins with `tag`, which separates it from all tuples of other purposes.
    pub fn new(tag: &str) -> Tuple {
        Tuple(Sha256::new()).text(tag)
    }

    /// Appends text, or bytes that are text in their own form.
    pub fn text(self, field: &str) -> Tuple {
        self.bytes(field.as_bytes())
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// If a field has 4 GiB or more; every input of Assent is bounded far below.
    pub fn bytes(mut self, field: &[u8]) -> Tuple {
        let length = u32::try_from(field.len()).expect("every field is bounded far below 4 GiB");
        self.0.update(length.to_be_bytes());
        self.0.update(field);
        self
    }

    /// Appends a number, in decimal.
    pub fn number(self, field: u64) -> Tuple {
        self.text(&field.to_string())
    }

    /// Appends a digest, as its 71 characters.
    pub fn digest(self, field: &Digest) -> Tuple {
        self.text(&field.to_string())
    }

    /// The tuple's hash.
    pub fn hash(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text_form_and_no_other_text_is_one() {
        let digest = Digest::of(b"abc");
        let text = digest.to_string();
        assert_eq!(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(text.parse(), Ok(digest));
        for wrong in [
            &text[..70],
            &text[7..],
            &text.to_uppercase(),
            &format!("{text}0"),
            &text.replace("ba78", "bg78"),
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(DigestError), "{wrong}");
        }
    }

    #[test]
    fn a_tuple_hashes_lengths_and_fields() {
        let by_hand = Digest::of(b"\0\0\0\x03tag\0\0\0\x02ab\0\0\0\x0242");
        assert_eq!(Tuple::new("tag").text("ab").number(42).hash(), by_hand);
        assert_ne!(Tuple::new("tag").text("a").text("b42").hash(), by_hand);
    }
}
