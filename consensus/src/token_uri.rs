//! Which key of which token: `pkcs11:` URIs (RFC 7512).

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How every such URI begins.
pub const SCHEME: &str = "pkcs11:";

/// A `pkcs11:` URI that names one key: a token by at least one of `token`, `serial`, `manufacturer` and `model`, and a
/// key in it by `object` or `id` (RFC 7512 section 2.3); perhaps the module by `module-path` (section 2.4).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyUri {
    token: [Option<String>; 4],
    object: Option<String>,
    id: Option<Vec<u8>>,
    module_path: Option<PathBuf>,
}

/// A token's own description of itself.
#[derive(Clone, Copy, Debug)]
pub struct TokenDescription<'a> {
    /// Its label.
    pub label: &'a str,
    /// Its serial number.
    pub serial: &'a str,
    /// Its manufacturer.
    pub manufacturer: &'a str,
    /// Its model.
    pub model: &'a str,
}

/// Why a text does not name a key in a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyUriError {
    /// It does not begin with `pkcs11:`.
    #[error("a key in a token is named by a URI such as `pkcs11:token=LABEL;object=KEY`")]
    Scheme,
    /// An attribute without a value.
    #[error("`{0}` in a `pkcs11:` URI has no value")]
    Empty(String),
    /// An attribute that does not choose a key.
    #[error(
        "`{0}` in a `pkcs11:` URI is not known here; these are: `token`, `serial`, `manufacturer`, `model`, `object`, \
         `id`, `type=private`, and after `?` `module-path`"
    )]
    Unknown(String),
    /// A PIN in what everybody can see.
    #[error(
        "`{0}` must not be in a `pkcs11:` URI, which others can see: put it into a file that you alone can read"
    )]
    Pin(String),
    /// The same attribute twice.
    #[error("`{0}` occurs twice in a `pkcs11:` URI")]
    Twice(String),
    /// Not percent-encoded as RFC 7512 wants it.
    #[error("`{0}` in a `pkcs11:` URI is not well percent-encoded")]
    Encoding(String),
    /// Nothing that chooses a token.
    #[error("the `pkcs11:` URI fits every token: name one with `token=LABEL` or `serial=NUMBER`")]
    AnyToken,
}

impl KeyUri {
    /// Whether a token has all attributes that the URI names.
    pub fn fits(&self, token: TokenDescription<'_>) -> bool {
        let values = [token.label, token.serial, token.manufacturer, token.model];
        self.token
            .iter()
            .zip(values)
            .all(|(wanted, has)| wanted.as_deref().is_none_or(|wanted| wanted == has))
    }

    /// The key's label (CKA_LABEL).
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The key's id (CKA_ID).
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The module.
    pub fn module_path(&self) -> Option<&Path> {
        self.module_path.as_deref()
    }
}

impl FromStr for KeyUri {
    type Err = KeyUriError;

    fn from_str(text: &str) -> Result<KeyUri, KeyUriError> {
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(KeyUriError::Scheme),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = KeyUri::default();
        for attribute in path.split(';').filter(|_| !path.is_empty()) {
            let (name, bytes) = read_attribute(attribute)?;
            let text =
                || String::from_utf8(bytes.clone()).map_err(|_| KeyUriError::Encoding(name.to_owned()));
            match name {
                "object" => set(&mut uri.object, name, text()?)?,
                "id" => set(&mut uri.id, name, bytes)?,
                "type" if bytes == b"private" => {}
                _ => match TOKEN_ATTRIBUTES.iter().position(|known| *known == name) {
                    Some(index) => set(&mut uri.token[index], name, text()?)?,
                    None => return Err(KeyUriError::Unknown(printable(name))),
                },
            }
        }
        for attribute in query.split('&').filter(|_| !query.is_empty()) {
            let (name, bytes) = read_attribute(attribute)?;
            let text = String::from_utf8(bytes).map_err(|_| KeyUriError::Encoding(name.to_owned()))?;
            match name {
                "module-path" => set(&mut uri.module_path, name, text.into())?,
                _ => return Err(KeyUriError::Unknown(printable(name))),
            }
        }
        if uri.token.iter().all(Option::is_none) { Err(KeyUriError::AnyToken) } else { Ok(uri) }
    }
}

const TOKEN_ATTRIBUTES: [&str; 4] = ["token", "serial", "manufacturer", "model"];

fn read_attribute(text: &str) -> Result<(&str, Vec<u8>), KeyUriError> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    // Before anything of it could be repeated in an error.
    if name.starts_with("pin-") {
        return Err(KeyUriError::Pin(printable(name)));
    }
    let bytes = decode(value).ok_or_else(|| KeyUriError::Encoding(printable(name)))?;
    if bytes.is_empty() { Err(KeyUriError::Empty(printable(name))) } else { Ok((name, bytes)) }
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), KeyUriError> {
    match place.replace(value) {
        Some(_) => Err(KeyUriError::Twice(name.to_owned())),
        None => Ok(()),
    }
}

/// What looks like a name: the rest may be a misplaced PIN.
fn printable(name: &str) -> String {
    name.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').collect()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'!'..=b'~' => bytes.push(byte),
            _ => return None,
        }
    }
    Some(bytes).filter(|bytes| !bytes.contains(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_token_and_a_key_in_it() {
        let uri: KeyUri = "pkcs11:token=my%20token;object=alice;id=%01%ff?module-path=/usr/lib/m.so"
            .parse()
            .expect("well formed");
        assert_eq!((uri.object(), uri.id()), (Some("alice"), Some([1, 255].as_slice())));
        assert_eq!(uri.module_path(), Some(Path::new("/usr/lib/m.so")));
        let token = |label| TokenDescription { label, serial: "1", manufacturer: "m", model: "o" };
        assert!(uri.fits(token("my token")));
        assert!(!uri.fits(token("my")));
    }

    #[test]
    fn what_does_not_name_one_token_is_refused() {
        use KeyUriError::*;
        for (text, error) in [
            ("pkcs12:token=a", Scheme),
            ("pkcs11:", AnyToken),
            ("pkcs11:object=a", AnyToken),
            ("pkcs11:token=", Empty("token".into())),
            ("pkcs11:token", Empty("token".into())),
            ("pkcs11:token=a;token=b", Twice("token".into())),
            ("pkcs11:token=a;slot-id=1", Unknown("slot-id".into())),
            ("pkcs11:token=a;type=cert", Unknown("type".into())),
            ("pkcs11:token=%zz", Encoding("token".into())),
            ("pkcs11:token=%ff", Encoding("token".into())),
            ("pkcs11:token=a b", Encoding("token".into())),
            ("pkcs11:token=a%00", Encoding("token".into())),
        ] {
            assert_eq!(text.parse::<KeyUri>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_pin_in_a_uri_is_refused_and_not_repeated() {
        for text in [
            "pkcs11:token=a?pin-value=3141",
            "pkcs11:token=a;pin-value=3141",
            "pkcs11:token=a?pin-source=/31",
        ] {
            let error = text.parse::<KeyUri>().expect_err("refused");
            assert!(matches!(error, KeyUriError::Pin(_)), "{error}");
            assert!(!error.to_string().contains("31"), "{error}");
        }
    }
}
