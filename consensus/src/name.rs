//! Names of things, and text that is shown to people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::json;

/// The name of a chain, contract, process, step, key, voter, group or input:
/// `[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?`, 1 to 64 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Text that is shown to a person before he signs: NFC, no control or format characters (Unicode Cc, Cf),
/// at most [`DisplayText::LIMIT`] characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DisplayText(Box<str>);

/// Why text is not a [`Name`] or a [`DisplayText`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not of the form of a name.
    #[error("`{}` is not a name: use 1 to 64 of a-z, 0-9 and `-`, with no `-` at either end", .0.escape_debug())]
    Name(String),
    /// Longer than [`DisplayText::LIMIT`] characters.
    #[error("the text has more than {} characters", DisplayText::LIMIT)]
    TooLong,
    /// A control or format character.
    #[error("the text has the invisible character U+{:04X}", u32::from(*.0))]
    Invisible(char),
    /// Not in normalisation form C.
    #[error("the text is not in Unicode normalisation form C (NFC)")]
    NotNormalised,
}

impl Name {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Name, TextError> {
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let bytes = text.as_bytes();
        let valid = (1..=64).contains(&bytes.len())
            && bytes.iter().all(inner)
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-';
        if valid { Ok(Name(text.into())) } else { Err(TextError::Name(text.chars().take(80).collect())) }
    }
}

impl DisplayText {
    /// The most characters that a text may have.
    pub const LIMIT: usize = 200;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DisplayText {
    type Err = TextError;

    fn from_str(text: &str) -> Result<DisplayText, TextError> {
        if text.chars().count() > DisplayText::LIMIT {
            return Err(TextError::TooLong);
        }
        let invisible =
            |c: &char| matches!(c.general_category(), GeneralCategory::Control | GeneralCategory::Format);
        if let Some(character) = text.chars().find(invisible) {
            return Err(TextError::Invisible(character));
        }
        if !is_nfc(text) {
            return Err(TextError::NotNormalised);
        }
        Ok(DisplayText(text.into()))
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                json::read_text(deserializer, str::parse)
            }
        }
    };
}

text_form!(Name);
text_form!(DisplayText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_and_have_no_dash_at_an_end() {
        for right in ["a", "7", "release-approval", &"x".repeat(64)] {
            assert_eq!(right.parse::<Name>().unwrap().as_str(), right);
        }
        for wrong in ["", "-a", "a-", "A", "a_b", "a.b", "ä", " a", &"x".repeat(65)] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn display_text_hides_nothing() {
        assert!("Grüße, 版本 2.0 ✓".parse::<DisplayText>().is_ok());
        for wrong in
            ["a\u{202e}b", "a\nb", "a\u{200b}b", "e\u{301}", "a\u{ad}b", &"x".repeat(201), "\u{feff}"]
        {
            assert!(wrong.parse::<DisplayText>().is_err(), "{wrong:?}");
        }
    }
}
