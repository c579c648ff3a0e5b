//! Calls that wait for news.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::api::WAIT_LIMIT;

use super::Api;
use super::problem::Problem;

/// How often a waiting call looks at most: blocks can follow each other faster than anybody reads.
const LOOK: Duration = Duration::from_millis(20);

/// The query of a call that can wait.
#[derive(Deserialize)]
pub(super) struct Since {
    since: Option<String>,
    wait: Option<u64>,
}

/// The moment until which a call waits that asks for `wait` milliseconds.
pub(super) fn until(wait: Option<u64>) -> Instant {
    Instant::now() + Duration::from_millis(wait.unwrap_or(0).min(WAIT_LIMIT))
}

/// What `look` sees: at once if its revision is another than the caller's, or else as soon as it is, or when the time is
/// over.
pub(super) async fn for_news<T: Send + 'static>(
    api: &Arc<Api>,
    since: Since,
    look: impl Fn(&Api) -> Result<T, Problem> + Clone + Send + 'static,
    revision: impl Fn(&T) -> &str,
) -> Result<T, Problem> {
    let deadline = until(since.wait);
    let mut stop = api.stop.clone();
    let (mut logs, mut book) = (api.ledgers.changes(), api.book.changes());
    loop {
        logs.mark_unchanged();
        book.mark_unchanged();
        let looked = Instant::now();
        let seen = api.read(look.clone()).await?;
        let is_news = since.since.as_deref().is_none_or(|since| since != revision(&seen));
        if is_news || Instant::now() >= deadline || *stop.borrow() {
            return Ok(seen);
        }
        tokio::select! {
            changed = logs.changed() => if changed.is_err() { return Ok(seen) },
            changed = book.changed() => if changed.is_err() { return Ok(seen) },
            _ = stop.wait_for(|stop| *stop) => return Ok(seen),
            () = tokio::time::sleep_until(deadline) => {}
        }
        tokio::time::sleep_until((looked + LOOK).min(deadline)).await;
    }
}
