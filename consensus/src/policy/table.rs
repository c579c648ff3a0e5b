//! Reads TOML tables with strict keys, and collects every finding instead of stopping at the first.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::FINDING_LIMIT;
use super::finding::{Finding, Lines};
use crate::json::NUMBER_BOUND;

/// How alike a known key must be to an unknown one to be offered in its place (Jaro, from 0 to 1).
const ALIKE: f64 = 0.75;

/// Reads one document, and keeps what is wrong with it.
pub(crate) struct Reader<'d> {
    lines: Lines<'d>,
    findings: Vec<Finding>,
}

/// A table of the document, and what to call it in messages.
#[derive(Clone, Copy)]
pub(crate) struct Table<'t, 'd> {
    entries: &'t DeTable<'d>,
    start: usize,
    what: &'static str,
}

/// A value of the document.
pub(crate) type Item<'d> = Spanned<DeValue<'d>>;

impl<'d> Reader<'d> {
    pub(crate) fn new(text: &'d str) -> Reader<'d> {
        Reader { lines: Lines::of(text), findings: Vec::new() }
    }

    /// What was found, in no order.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn report(&mut self, offset: usize, message: impl Into<String>) {
        self.report_with_help(offset, message, None);
    }

    pub(crate) fn report_with_help(
        &mut self,
        offset: usize,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        if self.findings.len() < FINDING_LIMIT {
            let position = self.lines.position(offset);
            self.findings.push(Finding { position, message: message.into(), help });
        }
    }

    /// The whole document, whose keys must be among `known`.
    pub(crate) fn document<'t>(
        &mut self,
        root: &'t Spanned<DeTable<'d>>,
        what: &'static str,
        known: &[&str],
    ) -> Table<'t, 'd> {
        let table = Table { entries: root.get_ref(), start: 0, what };
        self.check_keys(table, known);
        table
    }

    /// A value that must be a table whose keys are among `known`.
    pub(crate) fn table<'t>(
        &mut self,
        item: &'t Item<'d>,
        what: &'static str,
        known: &[&str],
    ) -> Option<Table<'t, 'd>> {
        let Some(entries) = item.get_ref().as_table() else {
            self.wrong_kind(item, what, "a table");
            return None;
        };
        let table = Table { entries, start: item.span().start, what };
        self.check_keys(table, known);
        Some(table)
    }

    /// The value of `key`, which must be there.
    pub(crate) fn required<'t>(&mut self, table: Table<'t, 'd>, key: &str) -> Option<&'t Item<'d>> {
        let item = table.item(key);
        if item.is_none() {
            self.report(table.start, format!("{} needs `{key}`", table.what));
        }
        item
    }

    /// A value that must be a list.
    pub(crate) fn list<'t>(&mut self, item: &'t Item<'d>, what: &str) -> Option<&'t [Item<'d>]> {
        let list = item.get_ref().as_array();
        if list.is_none() {
            self.wrong_kind(item, what, "a list");
        }
        list.map(|list| &list[..])
    }

    /// A value that must be a list with something in it.
    pub(crate) fn filled_list<'t>(&mut self, item: &'t Item<'d>, what: &str) -> Option<&'t [Item<'d>]> {
        let list = self.list(item, what)?;
        if list.is_empty() {
            self.report(item.span().start, format!("{what} is empty"));
            return None;
        }
        Some(list)
    }

    /// A value that must be text.
    pub(crate) fn text<'t>(&mut self, item: &'t Item<'d>, what: &str) -> Option<&'t str> {
        let text = item.get_ref().as_str();
        if text.is_none() {
            self.wrong_kind(item, what, "text");
        }
        text
    }

    /// A value that must be text of the form that `T` reads.
    pub(crate) fn parsed<T>(&mut self, item: &Item<'d>, what: &str) -> Option<Spanned<T>>
    where
        T: FromStr<Err: Display>,
    {
        match self.text(item, what)?.parse() {
            Ok(value) => Some(Spanned::new(item.span(), value)),
            Err(error) => {
                self.report(item.span().start, format!("{what}: {error}"));
                None
            }
        }
    }

    /// A value that must be `true` or `false`.
    pub(crate) fn flag(&mut self, item: &Item<'d>, what: &str) -> Option<bool> {
        let flag = item.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_kind(item, what, "true or false");
        }
        flag
    }

    /// A value that must be a whole number from 0 to 2^53 - 1.
    pub(crate) fn number(&mut self, item: &Item<'d>, what: &str) -> Option<Spanned<u64>> {
        let Some(number) = item.get_ref().as_integer() else {
            self.wrong_kind(item, what, "a whole number");
            return None;
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) if value < NUMBER_BOUND => Some(Spanned::new(item.span(), value)),
            _ => {
                self.report(
                    item.span().start,
                    format!("{what} must be from 0 to 2^53 - 1, not `{}`", number.as_str()),
                );
                None
            }
        }
    }

    fn check_keys(&mut self, table: Table<'_, 'd>, known: &[&str]) {
        for key in table.entries.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let help = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are {}", quoted(known)),
                };
                self.report_with_help(
                    key.span().start,
                    format!("unknown key `{}` in {}", name.escape_debug(), table.what),
                    Some(help),
                );
            }
        }
    }

    fn wrong_kind(&mut self, item: &Item<'d>, what: &str, wanted: &str) {
        let found = match item.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.report(item.span().start, format!("{what} must be {wanted}, not {found}"));
    }
}

impl<'t, 'd> Table<'t, 'd> {
    /// The value of `key`, if it is there.
    pub(crate) fn item(&self, key: &str) -> Option<&'t Item<'d>> {
        self.entries.get(key)
    }

    /// Where the table begins, in bytes.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Where the key `key` stands, in bytes; where the table begins if it is not there.
    pub(crate) fn key_start(&self, key: &str) -> usize {
        self.entries
            .keys()
            .find(|known| known.get_ref() == key)
            .map_or(self.start, |known| known.span().start)
    }
}

/// The one of `known` that looks most like `name`, if any does.
pub(crate) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let mut best = (ALIKE, None);
    for candidate in known {
        let alike = strsim::jaro(name, candidate);
        if alike > best.0 {
            best = (alike, Some(candidate));
        }
    }
    best.1
}

/// The names in backticks, with commas.
pub(crate) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Where a syntax error that the TOML parser reports begins.
pub(crate) fn error_start(span: Option<Range<usize>>) -> usize {
    span.map_or(0, |span| span.start)
}
