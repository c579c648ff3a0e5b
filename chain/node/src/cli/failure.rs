//! How a command ends when it does not end well: one line of error, one of help, and an exit code.

use std::fmt::Display;
use std::process::ExitCode;

use crate::client::ClientError;
use crate::voter::key_file::KeyFileError;
use crate::voter::secret::SecretError;
use crate::voter::token::TokenError;
use crate::voter::token_uri::KeyUriError;
use crate::voter::{KeyError, SignError};

use super::screen::visible;

/// The exit codes of every command (DESIGN section 10); 0 is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It failed.
    Failed = 1,
    /// It was asked for in a way that makes no sense.
    Usage = 2,
    /// The request was rejected, expired or was cancelled.
    NotApproved = 3,
    /// Something does not verify.
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
    pub(super) fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, message: message.to_string(), help: None }
    }

    pub(super) fn failed(message: impl Display) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    pub(super) fn usage(message: impl Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    pub(super) fn not_approved(message: impl Display) -> Failure {
        Failure::new(Exit::NotApproved, message)
    }

    pub(super) fn does_not_verify(message: impl Display) -> Failure {
        Failure::new(Exit::DoesNotVerify, message)
    }

    /// What to do about it.
    #[must_use]
    pub(super) fn help(mut self, help: impl Display) -> Failure {
        self.help = Some(help.to_string());
        self
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints error and help, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
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

failed_by!(SignError, TokenError, SecretError);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        // A node's words stay on their line.
        Failure::failed(visible(&error.to_string()))
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Failure {
        let help = match &error {
            KeyFileError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("`assent key generate --out FILE` makes a key")
            }
            _ => None,
        };
        let failure = Failure::failed(error);
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        match error {
            KeyError::File(error) => error.into(),
            KeyError::Token(error) => error.into(),
            KeyError::Uri(error @ KeyUriError::Pin(_)) => {
                Failure::usage(error).help("name that file by `--pin-file`")
            }
            KeyError::Uri(error) => Failure::usage(error),
        }
    }
}
