//! How a command ends when it does not end well: one line of error, one of help, and an exit code.

use std::fmt::Display;
use std::process::ExitCode;

use crate::visible::visible;

/// The exit codes of every command (DESIGN section 10); 0 is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
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
pub struct Failure {
    exit: Exit,
    message: String,
    help: Option<String>,
}

impl Failure {
    /// One that ends with this code.
    pub fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, message: message.to_string(), help: None }
    }

    /// One that ends with [`Exit::Failed`].
    pub fn failed(message: impl Display) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    /// One that ends with [`Exit::Usage`].
    pub fn usage(message: impl Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// One that ends with [`Exit::NotApproved`].
    pub fn not_approved(message: impl Display) -> Failure {
        Failure::new(Exit::NotApproved, message)
    }

    /// One that ends with [`Exit::DoesNotVerify`].
    pub fn does_not_verify(message: impl Display) -> Failure {
        Failure::new(Exit::DoesNotVerify, message)
    }

    /// What to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Display) -> Failure {
        self.help = Some(help.to_string());
        self
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, if that is said.
    pub fn remedy(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// With which code it ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints error and help, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // A list of findings keeps its lines; nothing else has any.
        let lines: Vec<String> = self.message.lines().map(visible).collect();
        eprintln!("error: {}", lines.join("\n       "));
        if let Some(help) = &self.help {
            eprintln!("help: {}", visible(help));
        }
        ExitCode::from(self.exit as u8)
    }
}

/// Has each of these errors end a command with [`Exit::Failed`].
#[macro_export]
macro_rules! failed_by {
    ($($error:ty),*) => { $(
        impl From<$error> for $crate::failure::Failure {
            fn from(error: $error) -> $crate::failure::Failure {
                $crate::failure::Failure::failed(error)
            }
        }
    )* };
}
