//! Why a call is refused, as an answer: a status that fits, a word for programs, a sentence for people.

use assent_consensus::contract::Rejection;
use assent_consensus::transaction::TransactionError;
use assent_ledger::{LedgerError, SubmitError};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::ErrorBody;
use crate::node::bundle::NoBundle;

/// After how many seconds a busy node may be asked again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A refusal.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    body: ErrorBody,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Problem {
        Problem { status, body: ErrorBody { code: code.into(), message: message.into() } }
    }

    pub(super) fn not_found(code: &str, message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(super) fn busy(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    pub(super) fn fault() -> Problem {
        let message = "the node failed unexpectedly; its log says more";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", message)
    }

    /// What a batch says of one message.
    pub(super) fn into_body(self) -> ErrorBody {
        self.body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry = self.status == StatusCode::SERVICE_UNAVAILABLE;
        let mut response = (self.status, Json(self.body)).into_response();
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<TransactionError> for Problem {
    fn from(error: TransactionError) -> Problem {
        let (status, code) = match error {
            TransactionError::Size { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            TransactionError::Message(_) => (StatusCode::BAD_REQUEST, "bad-message"),
            TransactionError::Carrier(_) => (StatusCode::BAD_REQUEST, "bad-carrier"),
        };
        Problem::new(status, code, error.to_string())
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Problem {
        Problem::new(status_of(rejection.code), rejection.code, rejection.message)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Problem {
        match error {
            SubmitError::Rejected(rejection) => rejection.into(),
            SubmitError::Busy => Problem::busy(error.to_string()),
            SubmitError::Stopped => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", error.to_string())
            }
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Problem {
        let (status, code) = match error {
            LedgerError::Busy { .. } | LedgerError::Locked { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy")
            }
            LedgerError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk-full"),
            LedgerError::NotThere { .. } => (StatusCode::NOT_FOUND, "not-there"),
            LedgerError::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "store-failed"),
        };
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(%error, "a call failed");
        }
        Problem::new(status, code, error.to_string())
    }
}

impl From<NoBundle> for Problem {
    fn from(error: NoBundle) -> Problem {
        let (status, code) = match error {
            NoBundle::Unknown(_) => (StatusCode::NOT_FOUND, "unknown-request"),
            NoBundle::Undecided { .. } => (StatusCode::CONFLICT, "undecided"),
            NoBundle::NotKept(_) => (StatusCode::NOT_FOUND, "not-kept"),
            NoBundle::Bundle(_) => (StatusCode::INTERNAL_SERVER_ERROR, "broken-record"),
            NoBundle::Ledger(error) => return error.into(),
        };
        Problem::new(status, code, error.to_string())
    }
}

/// The status that fits a contract's reason: who asks may not (403), what he names is not there (404), it stands in
/// another state (409), or it is wrong in itself (422).
fn status_of(code: &str) -> StatusCode {
    match code {
        "not-a-voter" | "not-a-requester" | "requester-may-not-vote" | "wrong-voter" => StatusCode::FORBIDDEN,
        "case-exists" | "level-not-begun" | "out-of-order" | "too-late" | "too-early" | "not-open"
        | "not-called" | "not-fixed" | "not-due" => StatusCode::CONFLICT,
        code if code.starts_with("unknown-") => StatusCode::NOT_FOUND,
        code if code.starts_with("already-") => StatusCode::CONFLICT,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_whose_fault_it_is() {
        for (code, status) in [
            ("not-a-voter", 403),
            ("unknown-request", 404),
            ("already-voted", 409),
            ("too-late", 409),
            ("bad-signature", 422),
        ] {
            assert_eq!(status_of(code).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn a_busy_node_says_when_to_come_again() {
        let response = Problem::from(SubmitError::Busy).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get("retry-after"), Some(&RETRY_AFTER));
        let response = Problem::not_found("unknown-case", "x").into_response();
        assert_eq!(response.headers().get("retry-after"), None);
    }
}
