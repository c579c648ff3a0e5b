//! What commands print: lines for people, or one JSON document for programs. Nothing that is printed can move the
//! cursor, change colours, or turn the order of letters.

use std::fmt::Display;
use std::io::{self, Write};

use assent_edge::visible::visible;
use serde::Serialize;

use super::failure::Failure;

/// The standard output, for people or for programs.
pub(super) struct Screen {
    json: bool,
    lines: Lines,
}

/// Where lines for people go.
enum Lines {
    Out,
    Err,
    Nowhere,
}

impl Screen {
    /// A screen for programs if `json` is set.
    pub(super) fn new(json: bool) -> Screen {
        Screen { json, lines: if json { Lines::Nowhere } else { Lines::Out } }
    }

    /// A screen whose lines for people are shown beside what is for programs, on the standard error: nobody signs what was
    /// not shown.
    pub(super) fn shown_always(json: bool) -> Screen {
        Screen { json, lines: if json { Lines::Err } else { Lines::Out } }
    }

    /// A line for people.
    pub(super) fn line(&self, text: impl Display) -> Result<(), Failure> {
        let line = || visible(&text.to_string());
        match self.lines {
            Lines::Out => print(io::stdout().lock(), &line()),
            Lines::Err => print(io::stderr().lock(), &line()),
            Lines::Nowhere => Ok(()),
        }
    }

    /// The result for programs: one line of JSON. People do not see it.
    pub(super) fn result(&self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(Failure::failed)?;
        // JSON escapes control characters by itself; what is left is letters of other scripts, which programs can read.
        print(io::stdout().lock(), &text)
    }
}

/// `text` as a value within a line: a line break cannot make it look like another line.
pub(super) fn quoted(text: impl Display) -> String {
    visible(&text.to_string())
}

fn print(mut out: impl Write, line: &str) -> Result<(), Failure> {
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::failed(format!("cannot write what is to be shown: {error}")))
}
