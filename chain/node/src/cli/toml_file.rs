//! TOML files of ours: unknown keys are refused with line, column and the nearest known key.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::failure::Failure;

/// How much two names must look alike before one is proposed for the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The known keys of a file: of the file itself (under ``) and of each table or list of tables in it.
pub(super) type KnownKeys = [(&'static str, &'static [&'static str])];

/// Reads a `T`, whose keys are `known`.
pub(super) fn read<T: DeserializeOwned>(text: &str, path: &Path, known: &KnownKeys) -> Result<T, Failure> {
    let wrong = |offset: usize, message: &str| {
        let (line, column) = position(text, offset);
        Failure::failed(format!("`{}`, line {line}, column {column}: {message}", path.display()))
    };
    let table = DeTable::parse(text)
        .map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message()))?;
    let unknown = unknown_key(table.get_ref(), "", known);
    if let Some((offset, message)) = unknown {
        return Err(wrong(offset, &message));
    }
    toml::from_str(text).map_err(|error| wrong(error.span().map_or(0, |span| span.start), error.message()))
}

fn unknown_key(table: &DeTable<'_>, name: &str, known: &KnownKeys) -> Option<(usize, String)> {
    let (_, keys) = known.iter().find(|(table, _)| *table == name)?;
    for (key, value) in table {
        let key_text = key.get_ref().as_ref();
        if !keys.contains(&key_text) {
            return Some((key.span().start, message(key_text, keys)));
        }
        let tables: Vec<&DeTable<'_>> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(values) => values.iter().filter_map(|value| value.get_ref().as_table()).collect(),
            _ => Vec::new(),
        };
        let found = tables.into_iter().find_map(|table| unknown_key(table, key_text, known));
        if found.is_some() {
            return found;
        }
    }
    None
}

fn message(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro(key, candidate), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest {
        Some((_, nearest)) => format!("there is no key `{key}`; did you mean `{nearest}`?"),
        None => {
            let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("there is no key `{key}`; these are known: {}", known.join(", "))
        }
    }
}

/// Line and column of a byte, from 1, columns in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Sample {
        name: String,
        #[serde(default)]
        part: Vec<Part>,
    }

    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Part {
        size: u64,
    }

    const KNOWN: &KnownKeys = &[("", &["name", "part"]), ("part", &["size"])];

    fn error(text: &str) -> String {
        read::<Sample>(text, Path::new("a.toml"), KNOWN).expect_err("refused").message().to_owned()
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_key() {
        assert!(read::<Sample>("name = 'x'\n[[part]]\nsize = 1\n", Path::new("a.toml"), KNOWN).is_ok());
        assert_eq!(
            error("name = 'x'\n[[part]]\nsize = 1\n[[part]]\n  sise = 1\n"),
            "`a.toml`, line 5, column 3: there is no key `sise`; did you mean `size`?"
        );
        assert!(
            error("naem = 'x'").ends_with("line 1, column 1: there is no key `naem`; did you mean `name`?")
        );
        assert!(error("name = 'x'\nqqq = 1").ends_with("these are known: `name`, `part`"));
        assert!(error("name = 1").contains("line 1, column 8: "));
        assert!(error("name = ").contains("line 1, column 8: "));
    }
}
