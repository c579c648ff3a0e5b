//! TOML files of ours: unknown keys are refused with line, column and the nearest known key.

use std::path::Path;

use assent_edge::toml_keys;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::failure::Failure;

/// The known keys of a file: of the file itself (under ``) and of each table or list of tables in it, in one or more parts.
pub(super) type KnownKeys = [(&'static str, &'static [&'static str])];

/// Reads a `T`, whose keys are `known`.
pub(super) fn read<T: DeserializeOwned>(text: &str, path: &Path, known: &KnownKeys) -> Result<T, Failure> {
    let wrong = |offset: usize, message: &str| {
        let (line, column) = toml_keys::position(text, offset);
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
    let keys: Vec<&str> =
        known.iter().filter(|(table, _)| *table == name).flat_map(|(_, keys)| *keys).copied().collect();
    if keys.is_empty() {
        return None;
    }
    toml_keys::unknown(table, &keys).or_else(|| {
        table.iter().find_map(|(key, value)| {
            let tables: Vec<&DeTable<'_>> = match value.get_ref() {
                DeValue::Table(table) => vec![table],
                DeValue::Array(values) => {
                    values.iter().filter_map(|value| value.get_ref().as_table()).collect()
                }
                _ => Vec::new(),
            };
            tables.into_iter().find_map(|table| unknown_key(table, key.get_ref(), known))
        })
    })
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
