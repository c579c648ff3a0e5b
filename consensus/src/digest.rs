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
        f.pad(Text::of(self).as_str())
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
        let hex: &[u8; 64] =
            text.strip_prefix("sha256:").and_then(|hex| hex.as_bytes().try_into().ok()).ok_or(DigestError)?;
        let (mut bytes, mut seen) = ([0; 32], 0);
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low;
        }
        if seen & NO_DIGIT == 0 { Ok(Digest(bytes)) } else { Err(DigestError) }
    }
}

/// The text form of a digest, in place.
struct Text([u8; 71]);

impl Text {
    fn of(digest: &Digest) -> Text {
        let mut text = [0; 71];
        text[..7].copy_from_slice(b"sha256:");
        for (pair, byte) in text[7..].chunks_exact_mut(2).zip(digest.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Text(text)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a prefix and digits, all of ASCII")
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The bit that no value of a digit has.
const NO_DIGIT: u8 = 0x10;
/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Text::of(self).as_str())
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
        self.text(Text::of(field).as_str())
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
        for wrong in
            [&text[..70], &text[7..], &text.to_uppercase(), &format!("{text}0"), &text.replace("ba78", "bä8")]
        {
            assert_eq!(wrong.parse::<Digest>(), Err(DigestError), "{wrong}");
        }
        for (place, letter) in
            (7..71).flat_map(|place| (0..0x80).map(move |letter| (place, char::from(letter))))
        {
            let other = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
            let is_digit = matches!(letter, '0'..='9' | 'a'..='f');
            assert_eq!(
                other.parse::<Digest>().map(|digest| digest.to_string()),
                is_digit.then_some(other).ok_or(DigestError)
            );
        }
    }

    #[test]
    fn a_tuple_hashes_lengths_and_fields() {
        let by_hand = Digest::of(b"\0\0\0\x03tag\0\0\0\x02ab\0\0\0\x0242");
        assert_eq!(Tuple::new("tag").text("ab").number(42).hash(), by_hand);
        assert_ne!(Tuple::new("tag").text("a").text("b42").hash(), by_hand);
    }
}
