//! A duty with what its event says of it, read once: for the log, and for the check. Nothing is verified yet.

use assent_consensus::bundle::Bundle;
use assent_consensus::duty::Duty;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::{ConsensusEvent, ProcessEvent};
use assent_consensus::header::EventProof;
use assent_consensus::jws::Jws;
use assent_consensus::message::{CountedMessage, RequestId};

use super::refusal::Refused;
use super::{action, decision};
use crate::signing::Purpose;

/// The most ballots of a duty that is verified on the thread that received it: less than 2 ms of work.
const QUICK_BALLOTS: usize = 20;

/// A duty whose event was read.
pub(super) enum Claimed {
    VoteRequest {
        start: Jws,
        call: EventProof,
        due: EventProof,
        request: RequestId,
    },
    Decision {
        vote_request: Jws,
        ballots: Vec<CountedMessage>,
        cancel: Option<CountedMessage>,
        due: EventProof,
        claim: decision::Claim,
    },
    Action {
        bundle: Box<Bundle>,
        document: Option<Bytes>,
        due: EventProof,
        claim: action::Claim,
    },
}

impl Claimed {
    /// Reads the event of a duty. It is refused if that cannot be read, or is another one.
    pub(super) fn read(duty: Duty) -> Result<Claimed, Refused> {
        match duty {
            Duty::VoteRequest { start, call, due } => match consensus_event(&due)? {
                ConsensusEvent::VoteRequestDue { request } => {
                    Ok(Claimed::VoteRequest { start, call, due, request })
                }
                _ => Err(other_event("vote-request-due")),
            },
            Duty::Decision { vote_request, ballots, cancel, due } => match consensus_event(&due)? {
                ConsensusEvent::DecisionDue { request, outcome, ballots: root, decided } => {
                    let claim = decision::Claim { request, outcome, root, decided };
                    Ok(Claimed::Decision { vote_request, ballots, cancel, due, claim })
                }
                _ => Err(other_event("decision-due")),
            },
            Duty::Action { bundle, document, due } => match process_event(&due)? {
                ProcessEvent::ActionDue { case, step, request, decision, subject } => {
                    let claim = action::Claim { case, step, request, decision, subject };
                    Ok(Claimed::Action { bundle, document, due, claim })
                }
                _ => Err(other_event("action-due")),
            },
        }
    }

    /// For which request it is said to be.
    pub(super) fn request(&self) -> RequestId {
        match self {
            Claimed::VoteRequest { request, .. } => *request,
            Claimed::Decision { claim, .. } => claim.request,
            Claimed::Action { claim, .. } => claim.request,
        }
    }

    /// The ballots, and what they answer.
    pub(super) fn ballots(&self) -> Option<(&Jws, &[CountedMessage])> {
        match self {
            Claimed::VoteRequest { .. } => None,
            Claimed::Decision { vote_request, ballots, .. } => Some((vote_request, ballots)),
            Claimed::Action { bundle, .. } => Some((&bundle.vote_request, &bundle.ballots)),
        }
    }

    /// Whether it has few signatures.
    pub(super) fn is_quick(&self) -> bool {
        self.ballots().is_none_or(|(_, ballots)| ballots.len() <= QUICK_BALLOTS)
    }
}

/// What a duty is for.
pub(super) fn purpose(duty: &Duty) -> Purpose {
    match duty {
        Duty::VoteRequest { .. } => Purpose::VoteRequest,
        Duty::Decision { .. } => Purpose::Decision,
        Duty::Action { .. } => Purpose::Action,
    }
}

fn consensus_event(proof: &EventProof) -> Result<ConsensusEvent, Refused> {
    ConsensusEvent::parse(&proof.event.0).map_err(unreadable)
}

pub(super) fn process_event(proof: &EventProof) -> Result<ProcessEvent, Refused> {
    ProcessEvent::parse(&proof.event.0).map_err(unreadable)
}

fn unreadable(error: impl std::fmt::Display) -> Refused {
    Refused::person("malformed-event", format!("the event cannot be read: {error}"))
}

fn other_event(expected: &str) -> Refused {
    Refused::person("other-event", format!("the event is no `{expected}`"))
}
