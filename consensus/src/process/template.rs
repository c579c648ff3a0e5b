//! From a case's input to the subject that voters see.

use crate::digest::Digest;
use crate::encoding;
use crate::json::{JsonError, Members, Value};
use crate::name::Name;
use crate::subject::{Subject, SubjectKind};

use super::InputType;

/// What a subject is made of: its members, with `{input}` where an input goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub(super) kind: SubjectKind,
    pub(super) members: Vec<(String, Piece)>,
}

/// A value in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Number(i64),
    Text(Vec<Part>),
    Table(Vec<(String, Piece)>),
}

/// A part of a text in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Input(Name),
}

impl Template {
    /// The kind of all subjects that this template gives.
    pub fn kind(&self) -> SubjectKind {
        self.kind
    }

    /// Whether the member `name` is the same in all subjects; true also where it is in none.
    pub fn is_fixed(&self, name: &str) -> bool {
        fn fixed(piece: &Piece) -> bool {
            match piece {
                Piece::Number(_) => true,
                Piece::Text(parts) => parts.iter().all(|part| matches!(part, Part::Literal(_))),
                Piece::Table(members) => members.iter().all(|(_, piece)| fixed(piece)),
            }
        }
        self.members.iter().find(|(known, _)| known == name).is_none_or(|(_, piece)| fixed(piece))
    }

    /// The subject for an input that was checked.
    pub(super) fn derive(&self, input: &Members) -> Result<Subject, JsonError> {
        let missing = |name: &Name| JsonError::Shape { message: format!("the input `{name}` is missing") };
        let value = replace(&self.members, &mut |_, name| {
            input.member(name.as_str()).cloned().ok_or_else(|| missing(name))
        })?;
        Subject::from_value(&value)
    }

    /// A subject for an input made up for the declared types. Text stands for whatever fits where it goes.
    pub(crate) fn sample(&self, inputs: &[(Name, InputType)]) -> Result<Subject, JsonError> {
        let value = replace(&self.members, &mut |member, name| {
            let declared = inputs.iter().find(|(known, _)| known == name).map(|(_, declared)| *declared);
            Ok(match declared {
                Some(InputType::Digest) => Value::String(Digest::ZERO.to_string()),
                Some(InputType::Integer) => Value::Number(1),
                Some(InputType::Text) | None => Value::String(sample_text(member)),
            })
        })?;
        Subject::from_value(&value)
    }
}

/// Replaces each input once: what an input says is never read as a template.
fn replace(
    members: &[(String, Piece)],
    input: &mut impl FnMut(&str, &Name) -> Result<Value, JsonError>,
) -> Result<Value, JsonError> {
    let mut replaced = Members::default();
    for (name, piece) in members {
        let value = match piece {
            Piece::Number(number) => Value::Number(*number),
            Piece::Table(members) => replace(members, input)?,
            Piece::Text(parts) => match &parts[..] {
                [Part::Input(only)] => input(name, only)?,
                parts => {
                    let mut text = String::new();
                    for part in parts {
                        match part {
                            Part::Literal(literal) => text.push_str(literal),
                            Part::Input(part) => match input(name, part)? {
                                Value::String(value) => text.push_str(&value),
                                Value::Number(value) => text.push_str(&value.to_string()),
                                _ => {
                                    let message = format!("the input `{part}` is neither text nor a number");
                                    return Err(JsonError::Shape { message });
                                }
                            },
                        }
                    }
                    Value::String(text)
                }
            },
        };
        replaced.push(name.as_str(), value);
    }
    Ok(Value::Object(replaced))
}

/// Text that fits the member of a subject or of its `jwk`.
fn sample_text(member: &str) -> String {
    /// The generator of P-256 (SEC 2 section 2.4.2).
    const X: [u8; 32] = [
        0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
        0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
    ];
    const Y: [u8; 32] = [
        0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b,
        0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
    ];
    match member {
        "x" => encoding::encode(&X),
        "y" => encoding::encode(&Y),
        "crv" => "P-256".into(),
        "kty" => "EC".into(),
        "alg" => "ES256".into(),
        "format" => "der".into(),
        _ => "x".into(),
    }
}
