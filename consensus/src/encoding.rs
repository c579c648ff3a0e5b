//! Bytes as unpadded base64url (RFC 4648 section 5), in their one canonical form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json;

/// Bytes that are written as unpadded base64url in JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

/// The text is not canonical, unpadded base64url.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not canonical unpadded base64url")]
pub struct Base64Error;

/// Encodes `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes `text`; padding, other alphabets and unused bits that are not zero are refused.
///
/// # Errors
/// [`Base64Error`]
pub fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Base64Error)
}

/// Decodes `text` of exactly `N` bytes.
///
/// # Errors
/// [`Base64Error`], also for another length.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], Base64Error> {
    let mut bytes = [0; N];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| Base64Error)?;
    if length == N { Ok(bytes) } else { Err(Base64Error) }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        json::read_text(deserializer, decode).map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_read() {
        assert_eq!(decode("_-8").unwrap(), [0xff, 0xef]);
        for wrong in
            ["_-9", "_-8=", "/+8", "_", "_-8\n", " _-8", "_-8=_-8", "AAAA=", "AAAA====", "AAAAA", "ÄÄ"]
        {
            assert_eq!(decode(wrong), Err(Base64Error), "{wrong}");
        }
        assert_eq!(decode_array::<2>("_-8"), Ok([0xff, 0xef]));
        assert!(decode_array::<3>("_-8").is_err());
        assert!(decode_array::<1>("_-8").is_err());
    }

    #[test]
    fn what_is_read_is_what_would_be_written() {
        let letters = || (0..0x80).map(char::from);
        let short = letters().flat_map(|first| letters().map(move |second| format!("{first}{second}")));
        // Long enough that several letters are read at once, with every letter at every place.
        let long = (0..43).flat_map(|place| {
            letters().map(move |letter| format!("{}{letter}{}", "Q".repeat(place), "Q".repeat(42 - place)))
        });
        let (mut read, mut refused) = (0, 0);
        for text in short.chain(long) {
            match decode(&text) {
                Ok(bytes) => {
                    read += 1;
                    assert_eq!(encode(&bytes), text);
                    assert_eq!(
                        decode_array::<32>(&text).ok().map(Vec::from),
                        (bytes.len() == 32).then_some(bytes)
                    );
                }
                Err(Base64Error) => {
                    refused += 1;
                    assert_eq!(decode_array::<32>(&text), Err(Base64Error));
                }
            }
        }
        // Two letters have four bits to spare, and 43 have two.
        assert_eq!((read, refused), (64 * 4 + 42 * 64 + 16, 128 * 128 - 64 * 4 + 42 * 64 + 128 - 16));
    }
}
