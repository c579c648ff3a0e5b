//! Where the parts of a request stand in the consensus ledger's state.

use super::consensus::LIVE;
use super::layout::{self, Key};
use super::record::{Opened, RequestState, RequestStatus};
use super::{Context, Rejection, State};
use crate::event::{Call, ProcessEvent};
use crate::jwk::Thumbprint;
use crate::jws::Jws;
use crate::message::RequestId;
use crate::name::{DisplayText, Name};
use crate::time::UnixMillis;

pub(super) fn status(state: &dyn State, request: RequestId) -> Option<RequestStatus> {
    layout::read(state, &Key::request(request, "status"))
}

pub(super) fn put_status(state: &mut dyn State, request: RequestId, status: &RequestStatus) {
    layout::write(state, &Key::request(request, "status"), status);
}

pub(super) fn opened(state: &dyn State, request: RequestId) -> Option<Opened> {
    layout::read(state, &Key::request(request, "opened"))
}

pub(super) fn call(state: &dyn State, request: RequestId) -> Option<Call> {
    match ProcessEvent::parse(&state.get(Key::request(request, "call").as_bytes())?) {
        Ok(ProcessEvent::Call(call)) => Some(call),
        _ => None,
    }
}

/// The ballot at a place in the order counted.
pub(super) fn ballot_at(state: &dyn State, request: RequestId, place: u32) -> Option<(UnixMillis, Jws)> {
    timed_message(&state.get(ballot_key(request, place).as_bytes())?)
}

/// A message that was kept with its block time.
pub(super) fn timed_message(bytes: &[u8]) -> Option<(UnixMillis, Jws)> {
    let (at, jws) = bytes.split_first_chunk::<8>()?;
    Some((UnixMillis::new(u64::from_be_bytes(*at)), Jws::parse(jws).ok()?))
}

pub(super) fn ballots_prefix(request: RequestId) -> Key {
    Key::request(request, "ballot").bytes(b"/")
}

pub(super) fn ballot_key(request: RequestId, place: u32) -> Key {
    ballots_prefix(request).bytes(&place.to_be_bytes())
}

/// The last request of a case that was called.
pub(super) fn case_key(calling_chain: &Name, requester: Thumbprint, case: &Name) -> Key {
    Key::table("case").bytes(requester.as_bytes()).part(calling_chain.as_str()).part(case.as_str())
}

pub(super) fn keep_cancel(state: &mut dyn State, request: RequestId, jws: &Jws, context: &Context<'_>) {
    let mut bytes = context.time.get().to_be_bytes().to_vec();
    bytes.extend_from_slice(jws.as_str().as_bytes());
    state.put(Key::request(request, "cancel").as_bytes(), bytes);
}

pub(super) fn remove_live(state: &mut dyn State, status: &RequestStatus) {
    state.delete(Key::table(LIVE).number(status.number).as_bytes());
}

pub(super) fn known(state: &dyn State, request: RequestId) -> Result<RequestStatus, Rejection> {
    status(state, request).ok_or_else(|| unknown_request(request))
}

pub(super) fn unknown_request(request: RequestId) -> Rejection {
    Rejection::new("unknown-request", format!("there is no request `{request}`"))
}

pub(super) fn wrong_state(code: &'static str, request: RequestId, state: &RequestState) -> Rejection {
    Rejection::new(code, format!("the request `{request}` is {}", state.as_str()))
}

/// A sentence as display text, cut where it is too long.
pub(super) fn shown(sentence: &str) -> DisplayText {
    let short: String = sentence.chars().take(DisplayText::LIMIT).collect();
    short.parse().unwrap_or_else(|_| "not decided here".parse().expect("this is display text"))
}
