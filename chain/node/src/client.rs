//! The client of the node's API, over a Unix socket or loopback TCP.

use std::time::Duration;

use assent_consensus::digest::Digest;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::jws::Jws;
use assent_consensus::message::RequestId;
use assent_consensus::name::Name;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::api::{
    Batch, BatchReport, CaseList, CaseView, ContractView, DutyList, ErrorBody, EventList, Health,
    RequestList, RequestState, RequestView, Submitted,
};
pub use crate::http::{Address, AddressError, ExchangeError};
use crate::http::{Answer, exchange};

/// How long an answer may take, beside what the call itself asks to wait.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
/// The largest excerpt of an answer that is not ours, in characters.
const EXCERPT: usize = 200;

/// A client of one node. Cheap to clone; every call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node could not be reached.
    #[error("{0}; is the node running there?")]
    Exchange(#[from] ExchangeError),
    /// The node says no.
    #[error("{}", .body.message)]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// After how long it may be tried again, if the node is only busy.
        retry_after: Option<Duration>,
        /// Why.
        body: ErrorBody,
    },
    /// Something else than a node answered.
    #[error("`{address}` answered with something else than a node does (status {status}): {message}")]
    NotANode {
        /// Where.
        address: Address,
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong with the answer.
        message: String,
    },
}

impl ClientError {
    /// The word for the reason, if the node gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused { body, .. } => Some(&body.code),
            _ => None,
        }
    }
}

/// Which requests to list. The default is all of them, from the first.
#[derive(Clone, Debug, Default)]
pub struct RequestFilter {
    /// Only those in this state.
    pub state: Option<RequestState>,
    /// Only those that this key may vote on and has not voted on yet.
    pub voter: Option<Thumbprint>,
    /// From the page before.
    pub after: Option<String>,
    /// How many at most.
    pub limit: Option<usize>,
}

/// What the caller has seen already, and how long to wait for something newer.
#[derive(Clone, Debug)]
pub struct Since {
    /// The `revision` that the caller has.
    pub revision: String,
    /// How long to wait at most.
    pub wait: Duration,
}

impl Client {
    /// A client of the node at `address`. Nothing is sent yet.
    pub fn new(address: Address) -> Client {
        Client { address }
    }

    /// Where the node is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Has a transaction recorded: returns when it is on disk, with a receipt.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn submit(&self, chain: &Name, transaction: Vec<u8>) -> Result<Submitted, ClientError> {
        let path = format!("/v1/ledgers/{chain}/transactions");
        let answer = self.call(Method::POST, &path, "application/octet-stream", transaction, TIMEOUT).await?;
        self.read(&answer)
    }

    /// Has many messages recorded, each on its own.
    ///
    /// # Errors
    /// [`ClientError`], for the batch as a whole.
    pub async fn submit_batch(
        &self,
        chain: &Name,
        messages: &[Jws],
        receipts: bool,
    ) -> Result<BatchReport, ClientError> {
        let transactions = messages.iter().map(|jws| jws.as_str().to_owned()).collect();
        let body = assent_consensus::json::write(&Batch { transactions });
        let path = format!("/v1/ledgers/{chain}/transactions/batch?receipts={receipts}");
        let answer = self.call(Method::POST, &path, "application/json", body, TIMEOUT).await?;
        self.read(&answer)
    }

    /// The genesis file's exact bytes. Whoever relies on them compares their digest with the deployment id he knows.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn genesis(&self) -> Result<Vec<u8>, ClientError> {
        Ok(self.get_raw("/v1/genesis", Duration::ZERO).await?.body.to_vec())
    }

    /// How the node is.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("/v1/health", Duration::ZERO).await
    }

    /// A page of requests.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn requests(&self, filter: &RequestFilter) -> Result<RequestList, ClientError> {
        let mut query = Query::default();
        query.add("state", filter.state.map(RequestState::as_str));
        query.add("voter", filter.voter);
        query.add("after", filter.after.as_deref());
        query.add("limit", filter.limit);
        self.get(&query.path("/v1/requests"), Duration::ZERO).await
    }

    /// One request: at once, or as soon as it is another than `since`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn request(
        &self,
        request: RequestId,
        since: Option<&Since>,
    ) -> Result<RequestView, ClientError> {
        self.get_since(&format!("/v1/requests/{request}"), since).await
    }

    /// The exact bytes of the bundle of a decided request.
    ///
    /// # Errors
    /// [`ClientError`], with code `undecided` while there is no decision.
    pub async fn bundle(&self, request: RequestId) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/requests/{request}/bundle");
        Ok(self.get_raw(&path, Duration::ZERO).await?.body.to_vec())
    }

    /// The rules of a consensus contract.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn contract(&self, contract: &Name) -> Result<ContractView, ClientError> {
        self.get(&format!("/v1/contracts/{contract}"), Duration::ZERO).await
    }

    /// A page of cases.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn cases(&self, after: Option<&str>, limit: Option<usize>) -> Result<CaseList, ClientError> {
        let mut query = Query::default();
        query.add("after", after);
        query.add("limit", limit);
        self.get(&query.path("/v1/cases"), Duration::ZERO).await
    }

    /// One case: at once, or as soon as it is another than `since`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn case(
        &self,
        requester: Thumbprint,
        case: &Name,
        since: Option<&Since>,
    ) -> Result<CaseView, ClientError> {
        self.get_since(&format!("/v1/cases/{requester}/{case}"), since).await
    }

    /// An attachment's bytes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn attachment(&self, digest: Digest) -> Result<Vec<u8>, ClientError> {
        Ok(self.get_raw(&format!("/v1/attachments/{digest}"), Duration::ZERO).await?.body.to_vec())
    }

    /// The duties that wait for the KMS.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn duties(&self) -> Result<DutyList, ClientError> {
        self.get("/v1/duties", Duration::ZERO).await
    }

    /// The events of a ledger after the height `after`: at once, or as soon as there is a newer block.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn events(&self, chain: &Name, after: u64, wait: Duration) -> Result<EventList, ClientError> {
        let mut query = Query::default();
        query.add("chain", Some(chain));
        query.add("after", Some(after));
        query.add("wait", Some(wait.as_millis()));
        self.get(&query.path("/v1/events"), wait).await
    }

    async fn get_since<T: DeserializeOwned>(
        &self,
        path: &str,
        since: Option<&Since>,
    ) -> Result<T, ClientError> {
        let mut query = Query::default();
        query.add("since", since.map(|since| since.revision.as_str()));
        query.add("wait", since.map(|since| since.wait.as_millis()));
        self.get(&query.path(path), since.map_or(Duration::ZERO, |since| since.wait)).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<T, ClientError> {
        let answer = self.get_raw(path, wait).await?;
        self.read(&answer)
    }

    async fn get_raw(&self, path: &str, wait: Duration) -> Result<Answer, ClientError> {
        self.call(Method::GET, path, "application/json", Vec::new(), TIMEOUT + wait).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let answer = exchange(&self.address, method, path, content_type, body, ANSWER_LIMIT, timeout).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        match serde_json::from_slice(&answer.body) {
            Ok(body) => {
                let Answer { status, retry_after, .. } = answer;
                Err(ClientError::Refused { status, retry_after, body })
            }
            Err(_) => {
                let text = String::from_utf8_lossy(&answer.body);
                Err(self.not_a_node(&answer, text.chars().take(EXCERPT).collect()))
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, ClientError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.not_a_node(answer, error.to_string()))
    }

    fn not_a_node(&self, answer: &Answer, message: String) -> ClientError {
        ClientError::NotANode { address: self.address.clone(), status: answer.status, message }
    }
}

/// A query string. Every value that we send is of characters that need no escape, or is escaped here.
#[derive(Default)]
struct Query(String);

impl Query {
    fn add(&mut self, name: &str, value: Option<impl ToString>) {
        let Some(value) = value else { return };
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.to_string().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                self.0.push_str(&format!("%{byte:02X}"));
            }
        }
    }

    fn path(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}
