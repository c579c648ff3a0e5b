//! How the KMS hands a new key to those who make genesis: its JWK, with what else must stand there.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Algorithm, OperationalPublicKey, VerificationKey};
use crate::json::{self, Members, Value};

/// A public key with its algorithm, and whether it was generated on its device. Written as the key's JWK (RFC 7517) with
/// two more members: `alg`, if it is not ES256, and `adopted`, if it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The key.
    pub key: VerificationKey,
    /// Whether it was on the device before: it was taken over, and nobody can say how it came there.
    pub adopted: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<Algorithm>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    adopted: bool,
    #[serde(flatten)]
    key: &'a OperationalPublicKey,
}

impl Serialize for KeyFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let algorithm = self.key.algorithm();
        let alg = Some(algorithm).filter(|algorithm| *algorithm != Algorithm::ES256);
        Written { alg, adopted: self.adopted, key: self.key.public_key() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyFile, D::Error> {
        use serde::de::Error;
        let (mut jwk, mut algorithm, mut adopted) = (Members::default(), Algorithm::ES256, false);
        for (name, value) in Members::deserialize(deserializer)?.iter() {
            match (name, value) {
                ("alg", Value::String(text)) => algorithm = text.parse().map_err(Error::custom)?,
                ("adopted", Value::Bool(true)) => adopted = true,
                ("alg" | "adopted", _) => {
                    return Err(Error::custom("`alg` must be an algorithm, and `adopted` true or absent"));
                }
                _ => drop(jwk.push(name, value.clone())),
            }
        }
        let key = json::read(&json::write(&jwk)).map_err(Error::custom)?;
        Ok(KeyFile { key: VerificationKey::new(algorithm, key).map_err(Error::custom)?, adopted })
    }
}
