//! The node's API over HTTP (see [`crate::api`]): one router for the Unix socket and, if it is asked for, loopback TCP.
//!
//! `submit` takes transactions, `requests` and `cases` show what came of them, `status` says how the node is and what
//! happens; `listen` opens the sockets, `connections` bounds who is let in, `waiting` makes calls wait for news, `problem`
//! says no.

mod cases;
mod connections;
mod contracts;
mod listen;
mod problem;
mod requests;
mod status;
mod submit;
mod waiting;

use std::sync::Arc;

use assent_consensus::policy::ReadPolicies;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};

use super::agent::DutyBook;
use super::ledgers::{Ledgers, Log};
use super::places::Places;
pub use listen::{ListenError, Listeners};
use problem::Problem;

/// How many calls read the logs at once; each ledger has more connections than that for readers.
const READERS: usize = 20;
/// How many bodies are read at once; who comes later waits for its turn.
const BODIES: usize = 16;

/// What the API shows and where it writes.
pub struct Api {
    ledgers: Arc<Ledgers>,
    places: Arc<Places>,
    book: Arc<DutyBook>,
    /// Bounds how many threads read the disk.
    readers: Arc<Semaphore>,
    /// Bounds how much memory calls take.
    bodies: Semaphore,
    /// A list asks for the same policy with each of its entries.
    policies: ReadPolicies,
    /// Set when the node stops, so that nobody is kept waiting.
    stop: watch::Receiver<bool>,
}

impl Api {
    /// The API of a node.
    pub fn new(
        ledgers: Arc<Ledgers>,
        places: Arc<Places>,
        book: Arc<DutyBook>,
        stop: watch::Receiver<bool>,
    ) -> Api {
        Api {
            ledgers,
            places,
            book,
            readers: Arc::new(Semaphore::new(READERS)),
            bodies: Semaphore::new(BODIES),
            policies: ReadPolicies::default(),
            stop,
        }
    }

    /// The routes of the API.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/ledgers/{chain}/transactions", post(submit::one))
            .route("/v1/ledgers/{chain}/transactions/batch", post(submit::batch))
            .route("/v1/genesis", get(status::genesis))
            .route("/v1/health", get(status::health))
            .route("/v1/requests", get(requests::list))
            .route("/v1/requests/{request}", get(requests::one))
            .route("/v1/requests/{request}/bundle", get(requests::bundle))
            .route("/v1/contracts/{contract}", get(contracts::one))
            .route("/v1/cases", get(cases::list))
            .route("/v1/cases/{requester}/{case}", get(cases::one))
            .route("/v1/attachments/{digest}", get(status::attachment))
            .route("/v1/duties", get(status::duties))
            .route("/v1/events", get(status::events))
            .fallback(|| async { Problem::not_found("unknown-path", "the API has no such path") })
            .method_not_allowed_fallback(|| async {
                let message = "the API's path takes another method";
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message)
            })
            .layer(middleware::from_fn(refuse_browsers))
            .with_state(Arc::new(self))
    }

    /// Does `work`, which reads the disk, on a thread of its own.
    async fn read<T: Send + 'static>(
        self: &Arc<Api>,
        work: impl FnOnce(&Api) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.readers.clone().acquire_owned().await.map_err(|_| Problem::fault())?;
        let api = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&api);
            drop(permit);
            result
        });
        done.await.unwrap_or_else(|_| Err(Problem::fault()))
    }

    /// The log of this name.
    fn log(&self, chain: &str) -> Result<&Log, Problem> {
        let log = chain.parse().ok().and_then(|chain| self.ledgers.log(&chain));
        log.ok_or_else(|| {
            let known: Vec<_> = self.ledgers.logs().iter().map(|log| format!("`{}`", log.chain.id)).collect();
            let message = format!("this node keeps no such log; it keeps {}", known.join(", "));
            Problem::not_found("unknown-log", message)
        })
    }
}

/// A page in a browser may send calls to a loopback address, but not without saying where it is from, or by what name it
/// found the address.
async fn refuse_browsers(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if headers.contains_key(header::ORIGIN) || !host.is_some_and(is_here) {
        let message = "the API takes no calls from pages in a browser; call it by its address";
        return Problem::new(StatusCode::FORBIDDEN, "from-a-browser", message).into_response();
    }
    next.run(request).await
}

/// Whether a `Host` is a name or an address that no page elsewhere has: no dot, or loopback.
fn is_here(host: &str) -> bool {
    if let Ok(address) = host.parse::<std::net::SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    address.map_or_else(|_| !name.contains('.'), |address| address.is_loopback())
}

/// A value in a path.
fn in_path<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Problem::bad_request(format!("the path names no {what}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_page_elsewhere_could_have_is_refused() {
        for here in
            ["assent", "localhost", "localhost:7420", "127.0.0.1:7420", "127.0.0.1", "[::1]:7420", "[::1]"]
        {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["evil.example", "evil.example:7420", "192.168.0.1:80", "[fe80::1]:80"] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
