//! What commands print: lines for people, or one JSON document for programs; and how they end when they do not end well.

use std::io::{self, Write};
use std::process::ExitCode;

use assent_edge::failed_by;
pub(super) use assent_edge::failure::Failure;
use assent_edge::visible::visible;
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

/// Prints why a command failed, for programs too if `json` is set, and gives the exit code.
pub(super) fn report(failure: &Failure, json: bool) -> ExitCode {
    if json {
        // Standard error is for people too; programs read the standard output.
        let error = serde_json::json!({ "error": failure.message(), "help": failure.remedy() });
        println!("{error}");
    }
    failure.report()
}

failed_by!(AdminError, DaemonError, PinError, StoreError);

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
