//! What commands print: lines for people, or one JSON document for programs. Nothing that is printed can move the
//! cursor, change colours, or turn the order of letters.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use super::failure::Failure;

/// The standard output, for people or for programs.
pub(super) struct Screen {
    json: bool,
}

impl Screen {
    /// A screen for programs if `json` is set.
    pub(super) fn new(json: bool) -> Screen {
        Screen { json }
    }

    pub(super) fn is_for_programs(&self) -> bool {
        self.json
    }

    /// A line for people. Programs do not see it.
    pub(super) fn line(&self, text: impl Display) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print(&visible(&text.to_string())) }
    }

    /// Several lines for people, made of parts that cannot hold a line break themselves.
    pub(super) fn lines(&self, text: impl Display) -> Result<(), Failure> {
        text.to_string().lines().try_for_each(|line| self.line(line))
    }

    /// The result for programs: one line of JSON. People do not see it.
    pub(super) fn result(&self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(Failure::failed)?;
        // JSON escapes control characters by itself; what is left is letters of other scripts, which programs can read.
        print(&text)
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

fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::failed(format!("cannot write to the standard output: {error}")))
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
