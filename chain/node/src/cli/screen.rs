//! What commands print: lines for people, or one JSON document for programs. Nothing that is printed can move the
//! cursor, change colours, or turn the order of letters.

use std::fmt::Display;
use std::io::{self, Write};

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

/// `text` with every character that a terminal would not simply show written as an escape.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut before = String::from("x");
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            _ => {
                // A mark that combines with the letter before it is escaped where it stands alone only.
                before.truncate(1);
                before.push(character);
                shown.extend(before.escape_debug().skip(1));
            }
        }
    }
    shown
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_escaped() {
        assert_eq!(visible("\x1b[2Jred\u{202e}evil\r\n\u{7}"), "\\u{1b}[2Jred\\u{202e}evil\\r\\n\\u{7}");
        assert_eq!(visible("a\u{9b}31m\u{200b}"), "a\\u{9b}31m\\u{200b}");
    }

    #[test]
    fn what_people_read_is_not_escaped() {
        let text = "Grüße \"2.0\" 'x' C:\\a हिन्दी 版本 ✓";
        assert_eq!(visible(text), text);
    }
}
