//! One case, told as an honest node would tell it; a test changes what it likes before it is told.

use assent_consensus::bundle::Bundle;
use assent_consensus::digest::Digest;
use assent_consensus::duty::Duty;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::{Call, ConsensusEvent, ProcessEvent};
use assent_consensus::json::{self, Integer, Members, Value};
use assent_consensus::jws::Jws;
use assent_consensus::message::{
    Ballot, BallotsRoot, CountedMessage, Decision, RequestId, Start, VoteRequest,
};
use assent_consensus::name::Name;
use assent_consensus::subject::Subject;
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::{Choice, Outcome};

use super::{Deployment, Key, Place, name, now};

/// A case that has called its contract: `call` and `vote-request-due` are told.
#[derive(Clone, Debug)]
pub struct Case {
    /// The start.
    pub start: Jws,
    /// What was called.
    pub call: Call,
    /// The request.
    pub request: RequestId,
    /// Where the `call` stands on the process log.
    pub called: Place,
    /// Where the `vote-request-due` stands on the consensus log.
    pub due: Place,
}

/// A case whose vote request the KMS has signed.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The case.
    pub case: Case,
    /// The vote request.
    pub vote_request: Jws,
    /// What it says.
    pub says: VoteRequest,
}

/// A case whose decision the KMS has signed.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The open case.
    pub opened: Opened,
    /// The ballots, in the order counted.
    pub ballots: Vec<CountedMessage>,
    /// The decision.
    pub decision: Jws,
    /// Where the `decision-recorded` stands on the consensus log.
    pub recorded: Place,
}

impl Deployment {
    /// The start of a case that asks `contract`, about the artifact with this digest, to be signed by `key`.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn start_of(&self, contract: &str, case: &str, key: &str, artifact: Digest) -> Start {
        let mut input = Members::default();
        input.push("key", Value::String(key.to_owned()));
        input.push("artifact", Value::String(artifact.to_string()));
        input.push("name", Value::String(format!("{case}.tar")));
        input.push("size", Value::Number(7));
        let process = self.genesis.process(&name(contract)).expect("there is such a process");
        Start {
            deployment: self.genesis.id(),
            chain: name("process"),
            process: process.name.clone(),
            definition: process.definition.digest(),
            case: name(case),
            nonce: Bytes(Digest::of(case.as_bytes()).as_bytes()[..16].to_vec()),
            input,
        }
    }

    /// The call that an honest process contract makes of a start.
    ///
    /// # Panics
    /// If the process gives no subject.
    pub fn call_of(&self, start: &Start, jws: &Jws) -> Call {
        let process = self.genesis.process(&start.process).expect("there is such a process");
        Call {
            contract: start.process.clone(),
            subject: process.definition.derive_subject(&name("approval"), &start.input).expect("a subject"),
            process: start.process.clone(),
            definition: start.definition,
            case: start.case.clone(),
            step: name("approval"),
            attempt: Integer::saturating(1),
            requester: jws.kid(),
            start: jws.digest(),
        }
    }

    /// A case of the requester, called.
    pub fn case(&mut self, contract: &str, case: &str) -> Case {
        let key = self.key_of(contract);
        let start = self.start_of(contract, case, &key, Digest::of(case.as_bytes()));
        let jws = self.requester.sign(start.clone());
        let call = self.call_of(&start, &jws);
        self.tell_call(jws, call)
    }

    /// The name of the operational key that a contract governs; `none` if there is none.
    pub fn key_of(&self, contract: &str) -> String {
        let governed = self.genesis.keys().iter().find(|key| key.governed_by.as_str() == contract);
        governed.map_or("none".to_owned(), |key| key.name.to_string())
    }

    /// Cases of the requester, called. Each is one of many in its blocks.
    pub fn cases(&mut self, contract: &str, names: &[String]) -> Vec<Case> {
        let key = self.key_of(contract);
        let calls = names.iter().map(|case| {
            let start = self.start_of(contract, case, &key, Digest::of(case.as_bytes()));
            let jws = self.requester.sign(start.clone());
            let call = self.call_of(&start, &jws);
            (jws, call)
        });
        let calls = calls.collect();
        self.tell_calls(calls)
    }

    /// Puts any call into a block, and says on the consensus log that its vote request is due.
    pub fn tell_call(&mut self, start: Jws, call: Call) -> Case {
        self.tell_calls(vec![(start, call)]).remove(0)
    }

    fn tell_calls(&mut self, calls: Vec<(Jws, Call)>) -> Vec<Case> {
        let request = |call: &Call| call.request(self.genesis.id(), &self.processes.chain);
        let requests: Vec<RequestId> = calls.iter().map(|(_, call)| request(call)).collect();
        let called = calls.iter().map(|(_, call)| ProcessEvent::Call(call.clone()).to_bytes()).collect();
        let due =
            requests.iter().map(|request| ConsensusEvent::VoteRequestDue { request: *request }.to_bytes());
        let called = self.processes.tell_all(now(), called);
        let due = self.consensus.tell_all(now(), due.collect());
        let places = called.into_iter().zip(due).zip(requests);
        let case = |((start, call), ((called, due), request))| Case { start, call, request, called, due };
        calls.into_iter().zip(places).map(case).collect()
    }

    /// Puts any event into a block of the consensus log.
    pub fn tell_consensus(&mut self, event: &ConsensusEvent) -> Place {
        self.consensus.tell(now(), vec![event.to_bytes()])[0]
    }

    /// Puts any event into a block of the process log.
    pub fn tell_process(&mut self, event: &ProcessEvent) -> Place {
        self.processes.tell(now(), vec![event.to_bytes()])[0]
    }

    /// The duty to sign a vote request.
    pub fn vote_request_duty(&self, case: &Case) -> Duty {
        Duty::VoteRequest {
            start: case.start.clone(),
            call: self.processes.proof(case.called),
            due: self.consensus.proof(case.due),
        }
    }

    /// A ballot of voter `voter`, signed by `key`.
    pub fn ballot_by(
        &self,
        opened: &Opened,
        key: &Key,
        voter: &str,
        choice: Choice,
        at: UnixMillis,
    ) -> CountedMessage {
        let ballot = Ballot {
            deployment: self.genesis.id(),
            request: opened.case.request,
            vote_request: opened.vote_request.digest(),
            voter: name(voter),
            choice,
            reason: None,
        };
        CountedMessage { at, jws: key.sign(ballot) }
    }

    /// The ballot of a voter, counted `later` milliseconds after the request opened.
    pub fn ballot(&self, opened: &Opened, voter: usize, choice: Choice, later: u64) -> CountedMessage {
        let at = UnixMillis::new(opened.says.opened.get() + later);
        self.ballot_by(opened, &self.voters[voter], &format!("v{voter}"), choice, at)
    }

    /// The first `count` voters approve, all at the moment when the request opened.
    pub fn approvals(&self, opened: &Opened, count: usize) -> Vec<CountedMessage> {
        (0..count).map(|voter| self.ballot(opened, voter, Choice::Approve, 0)).collect()
    }

    /// Says that a decision is due with the outcome that these ballots have, if the last of them decides.
    pub fn tell_decision_due(
        &mut self,
        opened: &Opened,
        outcome: Outcome,
        ballots: &[CountedMessage],
    ) -> Place {
        let decided = ballots.last().map_or(opened.says.opened, |last| last.at);
        self.tell_decision_due_at(opened, outcome, ballots, decided)
    }

    /// Says that a decision is due.
    pub fn tell_decision_due_at(
        &mut self,
        opened: &Opened,
        outcome: Outcome,
        ballots: &[CountedMessage],
        decided: UnixMillis,
    ) -> Place {
        let event = decision_due(opened.case.request, outcome, ballots, decided);
        self.tell_consensus(&event)
    }

    /// The duty to sign a decision.
    pub fn decision_duty(&self, opened: &Opened, ballots: Vec<CountedMessage>, due: Place) -> Duty {
        let vote_request = opened.vote_request.clone();
        Duty::Decision { vote_request, ballots, cancel: None, due: self.consensus.proof(due) }
    }

    /// Says that a decision is recorded.
    pub fn tell_recorded(&mut self, opened: Opened, ballots: Vec<CountedMessage>, decision: Jws) -> Decided {
        let event = recorded(opened.case.request, &decision);
        let recorded = self.tell_consensus(&event);
        Decided { opened, ballots, decision, recorded }
    }

    /// The bundle of a decision, without a result.
    ///
    /// # Panics
    /// If genesis has no such contract or process.
    pub fn bundle(&self, decided: &Decided) -> Bundle {
        let Decided { opened, ballots, decision, recorded } = decided;
        let contract = self.genesis.contract(&opened.says.contract).expect("there is such a contract");
        let process = self.genesis.process(&opened.says.process).expect("there is such a process");
        Bundle {
            version: Integer::saturating(1),
            genesis: self.genesis.id(),
            policy: Bytes(contract.policy.document().to_vec()),
            definition: Bytes(process.definition.document().to_vec()),
            start: opened.case.start.clone(),
            vote_request: opened.vote_request.clone(),
            ballots: ballots.clone(),
            cancel: None,
            decision: decision.clone(),
            contract_transitions: Vec::new(),
            key_transitions: Vec::new(),
            history: Vec::new(),
            inclusion: self.consensus.inclusion(*recorded),
            result: None,
        }
    }

    /// The event that an action is due, as an honest process contract tells it.
    pub fn action_due(&self, decided: &Decided) -> ProcessEvent {
        action_due(decided, decided.opened.case.call.subject.clone())
    }

    /// The duty to do an action.
    pub fn action_duty(&self, bundle: Bundle, due: Place) -> Duty {
        Duty::Action { bundle: Box::new(bundle), document: None, due: self.processes.proof(due) }
    }
}

impl Opened {
    /// A case with the vote request that the KMS gave.
    ///
    /// # Panics
    /// If it is none.
    pub fn new(case: Case, vote_request: Jws) -> Opened {
        let says = json::read(vote_request.payload()).expect("the payload of a vote request");
        Opened { case, vote_request, says }
    }
}

/// The event that a decision is due.
pub fn decision_due(
    request: RequestId,
    outcome: Outcome,
    ballots: &[CountedMessage],
    decided: UnixMillis,
) -> ConsensusEvent {
    let ballots = BallotsRoot::of(ballots.iter().map(|counted| (counted.at, counted.jws.as_str())));
    ConsensusEvent::DecisionDue { request, outcome, ballots, decided }
}

/// The event that a decision is recorded.
///
/// # Panics
/// If it is none.
pub fn recorded(request: RequestId, decision: &Jws) -> ConsensusEvent {
    let says: Decision = json::read(decision.payload()).expect("the payload of a decision");
    let audit = Digest::of(b"audit");
    ConsensusEvent::DecisionRecorded { request, outcome: says.outcome, decision: decision.digest(), audit }
}

/// The event that an action is due, with any subject.
pub fn action_due(decided: &Decided, subject: Subject) -> ProcessEvent {
    let Case { call, request, .. } = &decided.opened.case;
    ProcessEvent::ActionDue {
        case: call.case.clone(),
        step: signature_step(),
        request: *request,
        decision: decided.decision.digest(),
        subject,
    }
}

fn signature_step() -> Name {
    name("signature")
}
