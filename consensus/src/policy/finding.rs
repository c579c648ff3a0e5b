//! What is wrong, or remarkable, in a document, and where.

use std::fmt;

use serde::Serialize;

/// A place in a document; both count from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// One thing that is wrong or remarkable in a document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Finding {
    /// Where it stands.
    #[serde(flatten)]
    pub position: Position,
    /// What it is.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Why a document is not a policy: at least one finding, in the order of the document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct PolicyError(Vec<Finding>);

impl PolicyError {
    /// The findings, in the order of the document.
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }

    pub(super) fn new(mut findings: Vec<Finding>) -> PolicyError {
        findings.sort();
        findings.dedup();
        PolicyError(findings)
    }
}

/// A text and where its lines begin.
pub(crate) struct Lines<'d> {
    text: &'d str,
    starts: Vec<usize>,
}

impl<'d> Lines<'d> {
    pub(super) fn of(text: &'d str) -> Lines<'d> {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines { text, starts: std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect() }
    }

    /// Where the byte at `offset` stands; the end of the text if `offset` is beyond it.
    pub(super) fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = &self.text.as_bytes()[self.starts[line - 1]..offset];
        // A byte that does not continue a character begins one.
        let column = before.iter().filter(|byte| **byte & 0xc0 != 0x80).count() + 1;
        let place = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Position { line: place(line), column: place(column) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters_from_one() {
        let text = "a\nbü c\n";
        for (offset, line, column) in
            [(0, 1, 1), (1, 1, 2), (2, 2, 1), (5, 2, 3), (6, 2, 4), (8, 3, 1), (99, 3, 1)]
        {
            assert_eq!(Lines::of(text).position(offset), Position { line, column }, "{offset}");
        }
    }
}
