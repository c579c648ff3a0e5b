//! Keys of a TOML file: unknown ones are refused with their place and the nearest known key.

use toml::de::DeTable;

/// How much two names must look alike before one is proposed for the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// Where the first key that is not `known` begins in the text, in bytes, and what is to be said of it.
pub fn unknown(table: &DeTable<'_>, known: &[&str]) -> Option<(usize, String)> {
    let (key, _) = table.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref()))?;
    let (place, key) = (key.span().start, key.get_ref());
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro(key, candidate), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let key = key.escape_debug();
    let message = match nearest {
        Some((_, nearest)) => format!("there is no key `{key}`; did you mean `{nearest}`?"),
        None => {
            let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("there is no key `{key}`; these are known: {}", known.join(", "))
        }
    };
    Some((place, message))
}

/// Line and column of a byte of the text, from 1, columns in characters.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_told_with_its_place_and_the_nearest_known_key() {
        let said = |text: &str| {
            let table = DeTable::parse(text).expect("TOML");
            unknown(table.get_ref(), &["name", "size"]).map(|(place, said)| (position(text, place), said))
        };
        assert_eq!(said("name = 'x'\nsize = 1"), None);
        let meant = "there is no key `naem`; did you mean `name`?".to_owned();
        assert_eq!(said("size = 1\nnaem = 2"), Some(((2, 1), meant)));
        let known = "there is no key `q\\n`; these are known: `name`, `size`".to_owned();
        assert_eq!(said("size = 'ü'\n\"q\\n\" = 1"), Some(((2, 1), known)));
        assert_eq!(position("aü b", 4), (1, 4));
    }
}
