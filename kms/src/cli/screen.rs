//! What commands print: lines for people, or one JSON document for programs; and how they end when they do not end well.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::admin::AdminError;
use crate::audit::AuditError;
use crate::daemon::DaemonError;
use crate::pin::PinError;
use crate::restore::RestoreError;
use crate::store::StoreError;

/// The standard output, for people or for programs.
pub(super) struct Screen {
    json: bool,
}

impl Screen {
    pub(super) fn new(json: bool) -> Screen {
        Screen { json }
    }

    /// Prints `value` for programs, or what `lines` says for people.
    pub(super) fn show<T: Serialize>(
        &self,
        value: &T,
        lines: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<(), Failure> {
        let text = match self.json {
            true => serde_json::to_string(value).map_err(Failure::failed)?,
            false => lines(value).iter().map(|line| visible(line)).collect::<Vec<_>>().join("\n"),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|error| Failure::failed(format!("cannot write what is to be shown: {error}")))
    }
}

/// The exit codes (DESIGN section 10); 0 is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Failed = 1,
    Usage = 2,
    DoesNotVerify = 4,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
    help: Option<String>,
}

impl Failure {
    pub(super) fn failed(message: impl Display) -> Failure {
        Failure { exit: Exit::Failed, message: message.to_string(), help: None }
    }

    pub(super) fn usage(message: impl Display) -> Failure {
        Failure { exit: Exit::Usage, message: message.to_string(), help: None }
    }

    pub(super) fn does_not_verify(message: impl Display) -> Failure {
        Failure { exit: Exit::DoesNotVerify, message: message.to_string(), help: None }
    }

    /// What to do about it.
    #[must_use]
    pub(super) fn help(mut self, help: impl Display) -> Failure {
        self.help = Some(help.to_string());
        self
    }

    /// Prints error and help, and gives the exit code.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        if json {
            // Standard error is for people too; programs read the standard output.
            let error = serde_json::json!({ "error": self.message, "help": self.help });
            println!("{error}");
        }
        // A list of findings keeps its lines; nothing else has any.
        let lines: Vec<String> = self.message.lines().map(visible).collect();
        eprintln!("error: {}", lines.join("\n       "));
        if let Some(help) = &self.help {
            eprintln!("help: {}", visible(help));
        }
        ExitCode::from(self.exit as u8)
    }
}

macro_rules! failed_by {
    ($($error:ty),*) => { $(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::failed(error)
            }
        }
    )* };
}

failed_by!(AdminError, DaemonError, PinError, StoreError, std::io::Error);

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Failure {
        match error {
            AuditError::Store(error) => Failure::failed(error),
            error => Failure::does_not_verify(error),
        }
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Failure {
        match error {
            RestoreError::Audit(error) => error.into(),
            error => Failure::failed(error),
        }
    }
}

/// `text` with every character that a terminal would not simply show written as an escape.
fn visible(text: &str) -> String {
    let is_shown = |c: char| matches!(c, '"' | '\'' | '\\');
    text.chars().map(|c| if is_shown(c) { c.to_string() } else { c.escape_debug().to_string() }).collect()
}
