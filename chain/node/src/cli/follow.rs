//! Waiting for a case or a request to go on.

use std::future::Future;
use std::time::{Duration, Instant};

use assent_consensus::event::CaseOutcome;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use hyper::StatusCode;

use crate::api::{CaseState, CaseView, RequestState, RequestView};
use crate::client::{Client, ClientError, Since};

use super::failure::Failure;
use super::show;

/// How long one call waits for news.
const WAIT: Duration = Duration::from_secs(30);
/// How many calls in a row may find no node (it may be starting again) before that is said.
const TRIES: u32 = 10;
/// How long to wait between such calls.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before a request that the node does not know yet is asked for again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Runs what talks to a node.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?.block_on(work)
}

/// Shows the case each time that it changes, until it ends.
pub(super) async fn case(
    client: &Client,
    requester: Thumbprint,
    case: &Name,
    mut changed: impl FnMut(&CaseView) -> Result<(), Failure>,
) -> Result<(CaseView, CaseOutcome), Failure> {
    let mut since: Option<Since> = None;
    loop {
        let view = patiently(|| client.case(requester, case, since.as_ref())).await?;
        if since.as_ref().is_none_or(|since| since.revision != view.revision) {
            changed(&view)?;
        }
        if let CaseState::Ended { outcome } = view.summary.state {
            return Ok((view, outcome));
        }
        since = Some(Since { revision: view.revision, wait: WAIT });
    }
}

/// Shows the request each time that it changes, until nothing about it will change any more.
pub(super) async fn request(
    client: &Client,
    request: RequestId,
    changed: impl FnMut(&RequestView) -> Result<(), Failure>,
) -> Result<RequestView, Failure> {
    request_until(client, request, changed, RequestState::is_final).await
}

/// Waits until the request is open for votes, or past that.
///
/// One that the node does not know yet may be on its way from the case that asks for it.
pub(super) async fn opened(client: &Client, request: RequestId) -> Result<RequestView, Failure> {
    let begun = Instant::now();
    while let Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) =
        client.request(request, None).await
    {
        if begun.elapsed() > WAIT {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    request_until(client, request, |_| Ok(()), |state| state != RequestState::Called).await
}

async fn request_until(
    client: &Client,
    request: RequestId,
    mut changed: impl FnMut(&RequestView) -> Result<(), Failure>,
    enough: impl Fn(RequestState) -> bool,
) -> Result<RequestView, Failure> {
    let mut since: Option<Since> = None;
    loop {
        let view = patiently(|| client.request(request, since.as_ref())).await?;
        if since.as_ref().is_none_or(|since| since.revision != view.revision) {
            changed(&view)?;
        }
        if enough(view.summary.state) {
            return Ok(view);
        }
        since = Some(Since { revision: view.revision, wait: WAIT });
    }
}

/// What a case's end means for who waits for it: nothing if it is done, a failure otherwise.
pub(super) fn judge(case: &Name, outcome: CaseOutcome) -> Result<(), Failure> {
    let message = format!("case `{case}` is {}", show::case_outcome(outcome));
    match outcome {
        CaseOutcome::Done => Ok(()),
        CaseOutcome::Rejected | CaseOutcome::Expired | CaseOutcome::Cancelled => {
            Err(Failure::not_approved(message))
        }
        CaseOutcome::Refused | CaseOutcome::Lapsed => Err(Failure::failed(message)),
    }
}

/// Calls again while the node cannot be reached, because it may be starting again. An answer is an answer.
pub(super) async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut tries = 0;
    loop {
        match call().await {
            Err(ClientError::Exchange(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(ClientError::Refused { retry_after: Some(after), .. }) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(after.min(WAIT)).await;
            }
            answer => return Ok(answer?),
        }
    }
}
