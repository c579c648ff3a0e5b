//! Bytes as unpadded base64url (RFC 4648 section 5), in their one canonical form.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are written as unpadded base64url in JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

/// The text is not canonical, unpadded base64url.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not canonical unpadded base64url")]
pub struct Base64Error;

/// Encodes `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Decodes `text`; padding, other alphabets and unused bits that are not zero are refused.
///
/// # Errors
/// [`Base64Error`]
pub fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| Base64Error)
}

/// Decodes `text` of exactly `N` bytes.
///
/// # Errors
/// [`Base64Error`], also for another length.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], Base64Error> {
    let mut bytes = [0; N];
    let decoded = Base64UrlUnpadded::decode(text, &mut bytes).map_err(|_| Base64Error)?;
    if decoded.len() == N { Ok(bytes) } else { Err(Base64Error) }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        decode(&text).map(Bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_read() {
        assert_eq!(decode("_-8").unwrap(), [0xff, 0xef]);
        for wrong in ["_-9", "_-8=", "/+8", "_", "_-8\n", " _-8"] {
            assert_eq!(decode(wrong), Err(Base64Error), "{wrong}");
        }
        assert_eq!(decode_array::<2>("_-8"), Ok([0xff, 0xef]));
        assert!(decode_array::<3>("_-8").is_err());
        assert!(decode_array::<1>("_-8").is_err());
    }
}
