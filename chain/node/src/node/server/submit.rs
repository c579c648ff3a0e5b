//! Taking transactions. Nothing is answered before it is on disk.

use std::sync::Arc;
use std::time::Duration;

use assent_consensus::transaction::{ATTACHMENT_LIMIT, Content, Transaction};
use assent_ledger::{Placed, SubmitError};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::api::{BATCH_BYTES, BATCH_LIMIT, Batch, BatchReport, BatchResult, Submitted};
use crate::node::ledgers::Log;

use super::Api;
use super::problem::Problem;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /v1/ledgers/{chain}/transactions`
pub(super) async fn one(
    State(api): State<Arc<Api>>,
    Path(chain): Path<String>,
    body: Body,
) -> Result<Json<Submitted>, Problem> {
    api.log(&chain)?;
    // A transaction of any kind is no larger than an attachment may be.
    let bytes = api.whole(body, ATTACHMENT_LIMIT).await?;
    let transaction = blocking(move || Ok(Transaction::parse(bytes.into())?)).await?;
    let placed = record(api.log(&chain)?, vec![transaction]).await?;
    let placed = placed.into_iter().next().ok_or_else(Problem::fault)??;
    blocking(move || submitted(api.log(&chain)?, &placed, true)).await.map(Json)
}

/// The query of a batch.
#[derive(Deserialize)]
pub(super) struct BatchQuery {
    #[serde(default)]
    receipts: bool,
}

/// `POST /v1/ledgers/{chain}/transactions/batch`
pub(super) async fn batch(
    State(api): State<Arc<Api>>,
    Path(chain): Path<String>,
    query: Result<Query<BatchQuery>, QueryRejection>,
    body: Body,
) -> Result<Json<BatchReport>, Problem> {
    let Query(BatchQuery { receipts }) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    api.log(&chain)?;
    let bytes = api.whole(body, BATCH_BYTES).await?;
    let messages = blocking(move || read_batch(&bytes)).await?;
    let mut transactions = Vec::with_capacity(messages.len());
    let mut results: Vec<Option<Problem>> = Vec::with_capacity(messages.len());
    for message in messages {
        match message {
            Ok(transaction) => {
                transactions.push(transaction);
                results.push(None);
            }
            Err(problem) => results.push(Some(problem)),
        }
    }
    let placed = record(api.log(&chain)?, transactions).await?;
    blocking(move || {
        let log = api.log(&chain)?;
        let mut placed = placed.into_iter();
        let result = |refused: Option<Problem>| {
            let answer = match refused {
                Some(problem) => Err(problem),
                None => match placed.next().unwrap_or(Err(SubmitError::Stopped)) {
                    Ok(placed) => submitted(log, &placed, receipts),
                    Err(error) => Err(error.into()),
                },
            };
            answer.map_or_else(|problem| BatchResult::Refused(problem.into_body()), BatchResult::Recorded)
        };
        Ok(BatchReport { results: results.into_iter().map(result).collect() })
    })
    .await
    .map(Json)
}

fn read_batch(bytes: &[u8]) -> Result<Vec<Result<Transaction, Problem>>, Problem> {
    let Batch { transactions } = serde_json::from_slice(bytes)
        .map_err(|error| Problem::bad_request(format!("the body is no batch: {error}")))?;
    if transactions.len() > BATCH_LIMIT {
        let message =
            format!("the batch has {} transactions, and up to {BATCH_LIMIT} are taken", transactions.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many", message));
    }
    let read = |text: String| {
        let transaction = Transaction::parse(text.into_bytes())?;
        match transaction.content() {
            Content::Message(_) => Ok(transaction),
            Content::Carrier(_) | Content::Attachment => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "bad-message",
                "a batch has signed messages in compact serialisation alone",
            )),
        }
    };
    Ok(transactions.into_iter().map(read).collect())
}

/// Has transactions recorded; gives what became of each, in order.
async fn record(
    log: &Log,
    transactions: Vec<Transaction>,
) -> Result<Vec<Result<Placed, SubmitError>>, Problem> {
    let (sender, receiver) = oneshot::channel();
    // Who has hung up meanwhile is told nothing.
    log.driver.submit_then(transactions, move |answers| drop(sender.send(answers)));
    receiver.await.map_err(|_| SubmitError::Stopped.into())
}

fn submitted(log: &Log, placed: &Placed, receipt: bool) -> Result<Submitted, Problem> {
    let receipt = receipt.then(|| log.validator.receipt(log.reader.deployment(), &log.chain, placed));
    let receipt = receipt.transpose().map_err(|error| {
        tracing::error!(%error, "a receipt could not be signed");
        Problem::fault()
    })?;
    let Placed { transaction, height, index } = *placed;
    Ok(Submitted { transaction, height, index, receipt })
}

impl Api {
    /// A body, which must arrive in time.
    async fn whole(&self, body: Body, limit: usize) -> Result<Bytes, Problem> {
        let read = async {
            let _turn = self.bodies.acquire().await;
            read_whole(body, limit).await
        };
        let read = tokio::time::timeout(BODY_TIMEOUT, read).await.map_err(|_| {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
        })?;
        let body = read.map_err(|error| Problem::bad_request(format!("the body did not arrive: {error}")))?;
        body.ok_or_else(|| {
            let message = format!("the body has more than {limit} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
        })
    }
}

/// A body of up to `limit` bytes; nothing if there are more. Some more are read and dropped: a connection that is closed
/// while its client still writes breaks before he reads why.
async fn read_whole(mut body: Body, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let (mut whole, mut length) = (Vec::new(), 0);
    while length <= limit.saturating_mul(2) {
        let Some(frame) = body.frame().await.transpose()? else { break };
        let data = frame.into_data().unwrap_or_default();
        length = data.len().saturating_add(length);
        match length <= limit {
            true => whole.extend_from_slice(&data),
            false => whole = Vec::new(),
        }
    }
    Ok((length <= limit).then(|| whole.into()))
}

/// Does what keeps a processor busy for a while.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Problem::fault()))
}
