//! The real KMS and a node in hostile hands, and what a test asks and finds.

use assent_consensus::bundle::Bundle;
use assent_consensus::duty::{Duty, DutyAnswer};
use assent_consensus::encoding::Bytes;
use assent_consensus::event::ProcessEvent;
use assent_consensus::jws::Jws;
use assent_consensus::message::{CountedMessage, RequestId};
use assent_consensus::subject::SignatureFormat;
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::Outcome;
use assent_tests::scripted::{AuditCounts, Case, Connection, Decided, Deployment, Kms, Opened, Plan};

pub const RELEASE: Plan = Plan {
    contract: "release-approval",
    rule: "{ at_least = 2, of = \"all\" }",
    voters: 3,
    act_within: "7d",
    key: Some(("release", SignatureFormat::Der)),
};
/// An approved action may be done for one millisecond.
pub const BRIEF: Plan = Plan {
    contract: "brief-approval",
    act_within: "1ms",
    key: Some(("brief", SignatureFormat::Raw)),
    ..RELEASE
};
/// Approves by time alone, an hour after it opened at the earliest.
pub const VETO: Plan = Plan {
    contract: "veto-approval",
    rule: "{ all = [{ at_least = 1, of = \"all\" }, { no_veto = \"all\", for = \"1h\" }] }",
    key: None,
    ..RELEASE
};

/// The KMS, and the node that asks it.
pub struct Scene {
    /// Stopped at the end.
    pub kms: Kms,
    pub node: Deployment,
    pub connection: Connection,
    reasons: Vec<String>,
}

/// What the KMS said to a duty.
pub enum Said {
    Signed(Jws),
    Performed(Bytes),
    Refused(String),
}

impl Scene {
    pub fn new(plans: &[Plan]) -> Scene {
        let (kms, node) = Kms::deploy(plans).expect("the KMS runs and is pinned");
        let connection = kms.connect().expect("it listens");
        Scene { kms, node, connection, reasons: Vec::new() }
    }

    pub fn ask(&mut self, duty: Duty) -> Said {
        let trusted = self.connection.trusted().expect("it says what it trusts");
        self.node.know(trusted);
        let batch = self.node.batch(vec![duty]);
        let mut report = self.connection.perform(&batch).expect("a report");
        assert_eq!(report.answers.len(), 1);
        match report.answers.remove(0) {
            DutyAnswer::Signed { message, .. } => Said::Signed(message),
            DutyAnswer::Performed { output, .. } => Said::Performed(output.signature),
            DutyAnswer::Rotated { transition, .. } => Said::Signed(transition.new),
            DutyAnswer::Changed { change, .. } => Said::Signed(change),
            DutyAnswer::Retry(refusal) | DutyAnswer::NeedsPerson(refusal) => Said::Refused(refusal.reason),
        }
    }

    pub fn audit(&self) -> AuditCounts {
        self.kms.audit().expect("the audit log is readable")
    }

    /// The KMS refuses the duty for this reason; that is in its audit log, and it has signed nothing.
    #[track_caller]
    pub fn refuses(&mut self, request: RequestId, duty: Duty, reason: &str) {
        let before = self.audit();
        match self.ask(duty) {
            Said::Refused(found) => assert_eq!(found, reason),
            Said::Signed(_) | Said::Performed(_) => panic!("signed, where `{reason}` was expected"),
        }
        self.has_refused(&before, request, reason);
    }

    /// The same, where another cause has that reason too.
    #[track_caller]
    pub fn refuses_again(&mut self, request: RequestId, duty: Duty, reason: &str) {
        self.refuses(request, duty, reason);
        self.reasons.pop();
    }

    #[track_caller]
    pub fn has_refused(&mut self, before: &AuditCounts, request: RequestId, reason: &str) {
        let after = self.audit();
        assert!(
            after.has_refused(request, reason),
            "`{reason}` is not in the audit log: {:?}",
            after.refusals
        );
        assert_eq!((after.intents, after.results), (before.intents, before.results), "something was signed");
        self.reasons.push(reason.to_owned());
    }

    #[track_caller]
    pub fn message(&mut self, duty: Duty) -> Jws {
        match self.ask(duty) {
            Said::Signed(message) => message,
            Said::Performed(_) => panic!("an action was done"),
            Said::Refused(reason) => panic!("refused: {reason}"),
        }
    }

    #[track_caller]
    pub fn signature(&mut self, duty: Duty) -> Bytes {
        match self.ask(duty) {
            Said::Performed(signature) => signature,
            Said::Signed(_) => panic!("a message was signed"),
            Said::Refused(reason) => panic!("refused: {reason}"),
        }
    }

    pub fn open(&mut self, contract: &str, case: &str) -> Opened {
        let case = self.node.case(contract, case);
        self.open_case(case)
    }

    pub fn open_case(&mut self, case: Case) -> Opened {
        let duty = self.node.vote_request_duty(&case);
        let vote_request = self.message(duty);
        Opened::new(case, vote_request)
    }

    pub fn approve(&mut self, opened: Opened) -> Decided {
        let ballots = self.node.approvals(&opened, 2);
        let due = self.node.tell_decision_due(&opened, Outcome::Approved, &ballots);
        let duty = self.node.decision_duty(&opened, ballots.clone(), due);
        let decision = self.message(duty);
        self.node.tell_recorded(opened, ballots, decision)
    }

    pub fn approved(&mut self, contract: &str, case: &str) -> Decided {
        let opened = self.open(contract, case);
        self.approve(opened)
    }

    /// The action that a decision approved, as an honest node asks for it.
    pub fn action(&mut self, decided: &Decided) -> Duty {
        let due = self.node.action_due(decided);
        self.action_on(decided, |_| {}, &due)
    }

    pub fn action_on(
        &mut self,
        decided: &Decided,
        change: impl FnOnce(&mut Bundle),
        due: &ProcessEvent,
    ) -> Duty {
        let place = self.node.tell_process(due);
        let mut bundle = self.node.bundle(decided);
        change(&mut bundle);
        self.node.action_duty(bundle, place)
    }

    /// A decision duty whose event says just what the ballots say.
    pub fn decision(&mut self, opened: &Opened, outcome: Outcome, ballots: Vec<CountedMessage>) -> Duty {
        let due = self.node.tell_decision_due(opened, outcome, &ballots);
        self.node.decision_duty(opened, ballots, due)
    }

    /// Each refusal had a reason of its own, and the log's chain holds.
    pub fn ends(self) {
        let mut distinct = self.reasons.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), self.reasons.len(), "a reason was given twice: {:?}", self.reasons);
        self.kms.run(&["audit", "verify"]).expect("the audit log verifies");
    }
}

pub fn later(moment: UnixMillis, milliseconds: u64) -> UnixMillis {
    UnixMillis::new(moment.get() + milliseconds)
}
