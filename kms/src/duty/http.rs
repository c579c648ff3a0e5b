//! The socket for duties: HTTP/1.1 and JSON.
//!
//! | call | gives |
//! |---|---|
//! | `POST /v1/duties` | a [`DutyBatch`] for a [`DutyReport`] |
//! | `GET /v1/trusted` | [`TrustedHeaders`] |
//! | `GET /v1/health` | `{"status": "ok" or "not-pinned", "deployment": id or null}` |
//!
//! An error is `{"code", "message"}` with the status that fits; 503 comes with `retry-after`.

use std::sync::Arc;
use std::time::Duration;

use assent_consensus::duty::{BATCH_BYTES, DutyBatch, DutyReport, TrustedHeaders};
use assent_consensus::message::DeploymentId;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use super::engine::Engine;
use super::refusal::BatchRefusal;

/// The most bytes of all bodies that are being worked on at once: four of the largest.
const BODIES_LIMIT: usize = 4 * BATCH_BYTES;
/// The unit in which bodies are accounted for; a smaller one counts as much.
const BODY_UNIT: usize = 16 * 1024;
/// Up to this size a body is read on the thread that received it, in bytes.
const READ_AT_ONCE: usize = 128 * 1024;
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(30);
/// After how many seconds one who found the KMS busy may try again.
const RETRY_SECONDS: &str = "1";

#[derive(Clone)]
struct Desk {
    engine: Arc<Engine>,
    /// One permit for each [`BODY_UNIT`] of [`BODIES_LIMIT`].
    bodies: Arc<Semaphore>,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    deployment: Option<DeploymentId>,
}

#[derive(Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
}

/// The calls of the socket for duties. Who may connect is for whoever listens.
pub fn router(engine: Arc<Engine>) -> Router {
    let bodies = Arc::new(Semaphore::new(BODIES_LIMIT / BODY_UNIT));
    Router::new()
        .route("/v1/duties", post(duties))
        .route("/v1/trusted", get(trusted))
        .route("/v1/health", get(health))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(Desk { engine, bodies })
}

async fn duties(State(desk): State<Desk>, headers: HeaderMap, body: Body) -> Response {
    match desk.perform(&headers, body).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => {
            desk.engine.turned_away.count(error.code);
            error.into_response()
        }
    }
}

async fn trusted(State(desk): State<Desk>) -> Json<TrustedHeaders> {
    Json(desk.engine.trusted())
}

async fn health(State(desk): State<Desk>) -> Json<Health> {
    let deployment = desk.engine.deployment();
    let status = if deployment.is_some() { "ok" } else { "not-pinned" };
    Json(Health { status, deployment })
}

async fn unknown() -> CallError {
    let message = "this socket takes `POST /v1/duties`, `GET /v1/trusted` and `GET /v1/health`".into();
    CallError { status: StatusCode::NOT_FOUND, code: "unknown-call", message }
}

impl Desk {
    async fn perform(&self, headers: &HeaderMap, body: Body) -> Result<DutyReport, CallError> {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length: usize = length.unwrap_or(BATCH_BYTES);
        if length > BATCH_BYTES {
            return Err(too_large());
        }
        let _room = self.room(length).ok_or(BatchRefusal::Busy)?;
        let body = tokio::time::timeout(BODY_TIME, to_bytes(body, length)).await;
        let body = body.map_err(|_| too_slow())?.map_err(|_| too_large())?;
        let batch: Result<DutyBatch, serde_json::Error> = if body.len() <= READ_AT_ONCE {
            serde_json::from_slice(&body)
        } else {
            let read = spawn_blocking(move || serde_json::from_slice(&body));
            read.await.map_err(|_| BatchRefusal::Broken)?
        };
        Ok(self.engine.perform(batch.map_err(|error| malformed(&error))?).await?)
    }

    /// Room for a body, if there is any.
    fn room(&self, length: usize) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(length.div_ceil(BODY_UNIT).max(1)).ok()?;
        self.bodies.try_acquire_many(units).ok()
    }
}

/// Why a call is not answered.
struct CallError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

fn too_large() -> CallError {
    let message =
        format!("the body is larger than announced, or than the {BATCH_BYTES} bytes that are allowed");
    CallError { status: StatusCode::PAYLOAD_TOO_LARGE, code: "too-large", message }
}

fn too_slow() -> CallError {
    let message = format!("the body did not come in {} s", BODY_TIME.as_secs());
    CallError { status: StatusCode::REQUEST_TIMEOUT, code: "too-slow", message }
}

fn malformed(error: &serde_json::Error) -> CallError {
    let message = format!("the body is no batch of duties: {error}");
    CallError { status: StatusCode::BAD_REQUEST, code: "malformed", message }
}

impl From<BatchRefusal> for CallError {
    fn from(refusal: BatchRefusal) -> CallError {
        let status = match &refusal {
            BatchRefusal::NotPinned | BatchRefusal::StaleHeader { .. } | BatchRefusal::OtherLine { .. } => {
                StatusCode::CONFLICT
            }
            BatchRefusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
            BatchRefusal::Storage(error) if error.is_retry() => StatusCode::SERVICE_UNAVAILABLE,
            BatchRefusal::Storage(_) | BatchRefusal::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            BatchRefusal::TooManyDuties(_)
            | BatchRefusal::UnknownChain(_)
            | BatchRefusal::TwoHeaders(_)
            | BatchRefusal::NotFinal { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        CallError { status, code: refusal.code(), message: refusal.to_string() }
    }
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let CallError { status, code, message } = self;
        let body = Json(ErrorBody { code, message });
        match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(RETRY_AFTER, RETRY_SECONDS)], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}
