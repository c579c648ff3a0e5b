//! A case that moves on, and where its parts stand in the process ledger's state.

use super::layout::{self, Key};
use super::process::LIVE;
use super::record::{AskedRequest, CaseStage, CaseStatus};
use super::{Context, Rejection, State};
use crate::digest::Digest;
use crate::event::{CaseOutcome, EventBytes, ProcessEvent};
use crate::jwk::Thumbprint;
use crate::jws::Jws;
use crate::message::{RequestId, Start};
use crate::name::Name;
use crate::process::Process;

/// A case that is being moved on: what is read before, written after, and told on the way.
pub(super) struct Walk<'a> {
    pub(super) requester: Thumbprint,
    pub(super) case: &'a Name,
    pub(super) start: &'a Start,
    pub(super) process: &'a Process,
    pub(super) status: CaseStatus,
    pub(super) events: Vec<EventBytes>,
}

impl Walk<'_> {
    /// Ends the case.
    pub(super) fn end(&mut self, outcome: CaseOutcome, context: &Context<'_>) {
        self.status.stage = CaseStage::Ended { outcome, height: context.height };
        self.events.push(ProcessEvent::CaseEnded { case: self.case.clone(), outcome }.to_bytes());
    }

    /// Writes the case; gives the events.
    pub(super) fn finish(self, state: &mut dyn State) -> Vec<EventBytes> {
        put_case(state, self.requester, self.case, &self.status);
        if let CaseStage::Ended { .. } = self.status.stage {
            state.delete(Key::table(LIVE).number(self.status.number).as_bytes());
        }
        self.events
    }
}

pub(super) fn decision_key(decision: &Digest) -> Key {
    Key::table("decision").digest(decision)
}

pub(super) fn case_status(state: &dyn State, requester: Thumbprint, case: &Name) -> Option<CaseStatus> {
    layout::read(state, &Key::case(requester, case, "status"))
}

pub(super) fn put_case(state: &mut dyn State, requester: Thumbprint, case: &Name, status: &CaseStatus) {
    layout::write(state, &Key::case(requester, case, "status"), status);
}

pub(super) fn start(state: &dyn State, requester: Thumbprint, case: &Name) -> Option<Jws> {
    Jws::parse(&state.get(Key::case(requester, case, "start").as_bytes())?).ok()
}

pub(super) fn asked(state: &dyn State, request: RequestId) -> Option<AskedRequest> {
    layout::read(state, &Key::request(request, "asked"))
}

pub(super) fn put_asked(state: &mut dyn State, request: RequestId, asked: &AskedRequest) {
    layout::write(state, &Key::request(request, "asked"), asked);
}

pub(super) fn known(state: &dyn State, request: RequestId) -> Result<AskedRequest, Rejection> {
    asked(state, request)
        .ok_or_else(|| Rejection::new("unknown-request", format!("there is no request `{request}`")))
}

pub(super) fn wrong_process(process: &Process) -> Rejection {
    Rejection::new("wrong-definition", format!("the process `{}` has no such step", process.name()))
}
