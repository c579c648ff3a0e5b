//! By what a client is listed: a name in its certificate, or its key.

use std::fmt;
use std::str::FromStr;

use assent_consensus::digest::Digest;
use serde::{Deserialize, Deserializer, de};

/// By what a client is known. Compared as a whole: there are no wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// A DNS name in subjectAltName, in lower case: `dns:node.example.org`.
    Dns(String),
    /// A URI in subjectAltName, such as a SPIFFE id: `uri:spiffe://example.org/node`.
    Uri(String),
    /// SHA-256 of the public key's SubjectPublicKeyInfo (RFC 5280 section 4.1): `sha256:HEX`.
    Key(Digest),
}

/// The text names no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` names no client: write `dns:NAME` or `uri:URI` for a name in its certificate, or `sha256:` and the 64 hexadecimal \
     digits of its public key's digest",
    .0.escape_debug()
)]
pub struct ClientNameError(String);

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<ClientName, ClientNameError> {
        let wrong = || ClientNameError(text.to_owned());
        let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_graphic());
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        match kind {
            "dns" if !name.is_empty() && is_plain(name) && !name.contains('*') => {
                Ok(ClientName::Dns(name.to_ascii_lowercase()))
            }
            "uri" if name.contains(':') && is_plain(name) => Ok(ClientName::Uri(name.to_owned())),
            "sha256" => text.parse().map(ClientName::Key).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl<'de> Deserialize<'de> for ClientName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ClientName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// As it is written; what a stranger put into his certificate is escaped.
impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientName::Dns(name) => write!(f, "dns:{}", name.escape_debug()),
            ClientName::Uri(uri) => write!(f, "uri:{}", uri.escape_debug()),
            ClientName::Key(digest) => write!(f, "{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_listed_by_a_whole_name_or_a_key() {
        let key = format!("sha256:{}", "0a".repeat(32));
        for good in ["dns:node.example.org", "uri:spiffe://example.org/node", &key] {
            assert_eq!(good.parse::<ClientName>().expect("good").to_string(), good);
        }
        assert_eq!("dns:Node.Example".parse(), Ok(ClientName::Dns("node.example".into())));
        for wrong in
            ["", "node", "dns:", "dns:*.example", "dns:a b", "uri:", "uri:node", "sha256:0a", "ip:1.2.3.4"]
        {
            assert!(wrong.parse::<ClientName>().is_err(), "{wrong}");
        }
    }
}
