//! JSON as Assent reads it: strict, so that two readers never see two things in one text.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One more than the largest number that may be written: 2^53.
pub const NUMBER_BOUND: u64 = 1 << 53;

/// Why a text is not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not of the expected shape.
    #[error("{message}")]
    Shape {
        /// What is wrong, with line and column.
        message: String,
    },
    /// The right members, but not as the format writes them.
    #[error("the members are not in the order of the format, or one is `null` that should be left out")]
    Order,
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> JsonError {
        JsonError::Shape { message: error.to_string() }
    }
}

/// Reads a `T` from JSON: unknown and duplicate members, lone surrogates, trailing bytes, numbers with a fraction, an
/// exponent or of 2^53 and more, and members in another order than `T` writes them are refused.
///
/// # Errors
/// [`JsonError`], with line and column where the parser knows them.
pub fn read<T: DeserializeOwned + Serialize>(text: &[u8]) -> Result<T, JsonError> {
    let typed: T = serde_json::from_slice(text)?;
    let canonical = serde_json::to_vec(&typed)?;
    // Where the bytes are the ones that we would write there is nothing left that could differ.
    if canonical != text && Value::parse(text)? != Value::parse(&canonical)? {
        return Err(JsonError::Order);
    }
    Ok(typed)
}

/// Writes `value` without white space, members in the order of their declaration.
///
/// # Panics
/// If `T` cannot be written as JSON (a map whose keys are not strings); no message of Assent is such.
pub fn write<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have string keys and no fallible writers")
}

/// Reads a string as what `parse` makes of it, where it stands: a `String` or a `Cow<str>` would be a copy.
///
/// # Errors
/// It is no string, or not one that can be parsed.
pub fn read_text<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(TextVisitor(parse))
}

struct TextVisitor<F>(F);

impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> Visitor<'_> for TextVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<R: serde::de::Error>(self, text: &str) -> Result<T, R> {
        (self.0)(text).map_err(R::custom)
    }
}

/// A whole number from 0 to 2^53 - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Integer(u64);

impl Integer {
    /// `number`, or nothing if it is 2^53 or more.
    pub fn new(number: u64) -> Option<Integer> {
        (number < NUMBER_BOUND).then_some(Integer(number))
    }

    /// `number`, or 2^53 - 1 if it is more.
    pub fn saturating(number: u64) -> Integer {
        Integer(number.min(NUMBER_BOUND - 1))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Integer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Integer, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Integer::new(number).ok_or_else(|| D::Error::custom(format!("the number {number} is not below 2^53")))
    }
}

/// Any JSON value. Members keep their order; two objects are equal if their members are, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number below 2^53 in size.
    Number(i64),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object.
    Object(Members),
}

/// The members of an object, in the order written, no name twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members(Vec<(String, Value)>);

impl Value {
    /// Reads any strict JSON text.
    ///
    /// # Errors
    /// See [`read`].
    pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
        let value: Value = serde_json::from_slice(text)?;
        match zero_written_as_fraction(text) {
            Some(at) => {
                Err(JsonError::Shape { message: format!("the number at byte {at} is not a whole number") })
            }
            None => Ok(value),
        }
    }
}

impl Members {
    /// The value of the member `name`.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Appends a member; false, and nothing done, if the name is there already.
    pub fn push(&mut self, name: impl Into<String>, value: Value) -> bool {
        let name = name.into();
        let new = self.member(&name).is_none();
        if new {
            self.0.push((name, value));
        }
        new
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The parser reads `-0` as a floating-point zero, and so `-0.0` and `-0e1`, which are no whole numbers: finds one of
/// those in a text that is known to be JSON.
fn zero_written_as_fraction(text: &[u8]) -> Option<usize> {
    let mut in_string = false;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' if !in_string
                && text.get(at + 1) == Some(&b'0')
                && matches!(text.get(at + 2), Some(b'.' | b'e' | b'E')) =>
            {
                return Some(at);
            }
            _ => {}
        }
        at += 1;
    }
    None
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(value) => serializer.serialize_i64(*value),
            Value::String(value) => serializer.serialize_str(value),
            Value::Array(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(value)?;
                }
                list.end()
            }
            Value::Object(members) => members.serialize(serializer),
        }
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(members) => Ok(members),
            _ => Err(D::Error::custom("expected an object")),
        }
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value).map_err(|_| too_large(value)).and_then(|value| self.visit_i64(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() < NUMBER_BOUND { Ok(Value::Number(value)) } else { Err(too_large(value)) }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if value == 0.0 && value.is_sign_negative() {
            return Ok(Value::Number(0));
        }
        Err(E::custom(format!("the number {value} is not a whole number below 2^53")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            members.push((name, value));
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(A::Error::custom(format!("the member `{}` is there twice", twice[0].escape_debug())));
        }
        Ok(Value::Object(Members(members)))
    }
}

fn too_large<E: serde::de::Error>(number: impl fmt::Display) -> E {
    E::custom(format!("the number {number} is not below 2^53 in size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        first: Integer,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        second: Option<String>,
        third: Members,
    }

    #[test]
    fn what_the_format_allows_is_read() {
        for text in [
            r#"{"first":1,"second":"x","third":{"b":[-0,-1,9007199254740991],"a":null}}"#,
            " { \"first\" : 1 , \"third\" : { } } \n",
            r#"{"first":1,"\u0073econd":"\u0041\ud83d\ude00","third":{"x":{"x":true}}}"#,
        ] {
            read::<Sample>(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            r#"{"first":1,"third":{}} x"#,
            r#"{"first":1,"third":{},"fourth":1}"#,
            r#"{"first":1,"first":1,"third":{}}"#,
            r#"{"first":1,"third":{"a":1,"\u0061":1}}"#,
            r#"{"third":{},"first":1}"#,
            r#"{"first":1,"second":null,"third":{}}"#,
            r#"{"first":9007199254740992,"third":{}}"#,
            r#"{"first":1,"third":{"a":-9007199254740992}}"#,
            r#"{"first":1.0,"third":{}}"#,
            r#"{"first":1e3,"third":{}}"#,
            r#"{"first":01,"third":{}}"#,
            r#"{"first":-1,"third":{}}"#,
            r#"{"first":1,"third":{"a":-0.0}}"#,
            r#"{"first":1,"third":{"a":-0e1}}"#,
            r#"{"first":1,"third":{"a":"\ud83d"}}"#,
            r#"{"first":1,"third":{"a":"\ude00\ud83d"}}"#,
            r#"{"first":1,"third":{}"#,
            "",
        ] {
            assert!(read::<Sample>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read::<Sample>(b"{\"first\":1,\"third\":{\"a\":\"\xff\"}}").is_err());
    }
}
