//! A deployment whose logs are in a test's hand, and the engine that must not believe them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use assent_consensus::bundle::{ActionOutput, Bundle};
use assent_consensus::digest::Digest;
use assent_consensus::duty::{Duty, DutyAnswer, DutyBatch, DutyReport, Refusal};
use assent_consensus::encoding::Bytes;
use assent_consensus::event::{Call, ConsensusEvent, ProcessEvent};
use assent_consensus::genesis::{
    ChainDocument, ContractDocument, Genesis, GenesisDocument, KeyDocument, ProcessDocument,
};
use assent_consensus::header::Finality;
use assent_consensus::json::{Members, Value};
use assent_consensus::jws::{Jws, Signed};
use assent_consensus::message::{
    Ballot, BallotsRoot, Cancel, CountedMessage, Decision, RequestId, Start, VoteRequest,
};
use assent_consensus::name::Name;
use assent_consensus::operational_key::Algorithm;
use assent_consensus::subject::{SignatureFormat, Subject};
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::{Choice, Outcome};
use tokio::sync::watch;

use super::super::engine::Engine;
use super::super::refusal::BatchRefusal;
use super::books::Books;
use super::log::{Key, Log, number};
use crate::reload::Settings;
use crate::signing::KeyName;

pub(super) const MINUTE: u64 = 60_000;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const BEGIN: u64 = 1_800_000_000_000;

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn contract_key(contract: &str) -> KeyName {
    KeyName::Contract(name(contract))
}

pub(super) fn operational_key(key: &str) -> KeyName {
    KeyName::Operational(name(key))
}

/// Everybody and everything.
pub(super) struct World {
    pub(super) genesis: Arc<Genesis>,
    pub(super) processes: Log,
    pub(super) consensus: Log,
    pub(super) requester: Key,
    pub(super) voters: Vec<Key>,
    pub(super) stranger: Key,
    pub(super) contract: Key,
    pub(super) books: Arc<Books>,
    pub(super) engine: Arc<Engine>,
    pub(super) settings: watch::Sender<Settings>,
    /// The policy that `policy-change` proposes for `release-approval`.
    pub(super) proposed: Vec<u8>,
    clock: Arc<AtomicU64>,
}

/// A question that the KMS has signed.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) start: Jws,
    pub(super) call: Call,
    pub(super) request: RequestId,
    pub(super) jws: Jws,
    pub(super) vote_request: VoteRequest,
}

impl World {
    /// `release-approval` decides on the key `release`: two of three engineers in 48 hours, to be done in 7 days. `nightly`
    /// decides on the key `nightly`: one engineer, if no officer is against it for an hour. `hooks` decides on webhooks.
    pub(super) fn new() -> World {
        let (requester, contract, release) = (Key::new(1), Key::new(2), Key::new(3));
        let (nightly, nightly_contract, hooks) = (Key::new(4), Key::new(5), Key::new(6));
        let validators = [Key::new(7), Key::new(8)];
        let voters: Vec<Key> = (10..14).map(Key::new).collect();
        let voter = |place: usize, group: &str| {
            let key = voters[place].toml();
            format!("[[voter]]\nname = \"v{place}\"\nkey = {key}\ngroups = [\"{group}\"]\n")
        };
        let engineers = [0, 1, 2].map(|place| voter(place, "engineers")).concat();
        let policy = |id: &str, kinds: &str, rule: &str, voters: &str| {
            let times = "deadline = \"48h\"\nact_within = \"7d\"";
            format!("name = \"{id}\"\nkinds = [{kinds}]\n{times}\nrule = {rule}\n{voters}")
        };
        let contract_entry = |id: &str, policy: &str, key: &Key| ContractDocument {
            name: name(id),
            chain: name("consensus"),
            governed_by: None,
            policy: Bytes(policy.into()),
            key: key.public.clone(),
            attestation: None,
        };
        let process = |id: &str, ask: &str, subject: &str| {
            let requester = requester.toml();
            let text = format!(
                "name = \"{id}\"\ninput = {{ artifact = \"digest\", name = \"text\", size = \"integer\" }}\n\
                 [[requester]]\nname = \"ci\"\nkey = {requester}\n\
                 [[step]]\nname = \"approval\"\nask = \"{ask}\"\nsubject = {{ {subject} }}\n\
                 [[step]]\nname = \"signature\"\nact = \"approval\"\n"
            );
            ProcessDocument {
                name: name(id),
                chain: name("process"),
                governed_by: name("release-approval"),
                definition: Bytes(text.into_bytes()),
            }
        };
        let sign = |key: &str| {
            format!(
                "kind = \"sign\", key = \"{key}\", name = \"file\", digest = \"{{artifact}}\", size = \"{{size}}\""
            )
        };
        let key_entry = |id: &str, governed_by: &str, format, key: &Key| KeyDocument {
            name: name(id),
            governed_by: name(governed_by),
            alg: Algorithm::ES256,
            format,
            key: key.public.clone().into(),
            attestation: None,
            adopted: false,
        };
        let chain =
            |id: &str, key: &Key| ChainDocument { id: name(id), validators: vec![key.public.clone()] };
        let two = "{ at_least = 2, of = \"engineers\" }";
        let window =
            "{ all = [{ at_least = 1, of = \"engineers\" }, { no_veto = \"officers\", for = \"1h\" }] }";
        let approval = policy("release-approval", "\"sign\", \"change-policy\"", two, &engineers);
        let change = format!(
            "kind = \"change-policy\", contract = \"release-approval\", from = \"{}\", to = \"{{artifact}}\"",
            Digest::of(approval.as_bytes())
        );
        let document = GenesisDocument {
            version: number(1),
            name: name("test"),
            environment: "test".parse().unwrap(),
            created: UnixMillis::new(BEGIN),
            chains: vec![chain("process", &validators[0]), chain("consensus", &validators[1])],
            contracts: vec![
                contract_entry("release-approval", &approval, &contract),
                contract_entry(
                    "nightly",
                    &policy("nightly", "\"sign\"", window, &(engineers.clone() + &voter(3, "officers"))),
                    &nightly_contract,
                ),
                contract_entry("hooks", &policy("hooks", "\"webhook\"", two, &engineers), &hooks),
            ],
            processes: vec![
                process("release-signing", "release-approval", &sign("release")),
                process("nightly-signing", "nightly", &sign("nightly")),
                process("policy-change", "release-approval", &change),
                process("any-signing", "release-approval", &sign("{name}")),
                process(
                    "calling",
                    "hooks",
                    "kind = \"webhook\", url = \"https://example.org/\", digest = \"{artifact}\"",
                ),
            ],
            keys: vec![
                key_entry("release", "release-approval", SignatureFormat::Der, &release),
                key_entry("nightly", "nightly", SignatureFormat::Dsse, &nightly),
            ],
            recovery: None,
        };
        let genesis = Arc::new(document.to_genesis().unwrap());
        let books = Arc::new(Books::new(
            genesis.clone(),
            [
                (contract_key("release-approval"), contract.clone()),
                (contract_key("nightly"), nightly_contract),
                (contract_key("hooks"), hooks),
                (operational_key("release"), release),
                (operational_key("nightly"), nightly),
            ],
        ));
        let clock = Arc::new(AtomicU64::new(BEGIN));
        let settings = watch::Sender::new(Settings::default());
        let [first, second] = validators;
        World {
            processes: Log::new(genesis.id(), &name("process"), first),
            consensus: Log::new(genesis.id(), &name("consensus"), second),
            engine: engine(&books, &clock, &settings),
            settings,
            proposed: approval.replace("at_least = 2", "at_least = 1").into_bytes(),
            genesis,
            requester,
            voters,
            stranger: Key::new(99),
            contract,
            books,
            clock,
        }
    }

    /// The KMS starts again: what was on disk is there.
    pub(super) fn restart(&mut self) {
        self.engine = engine(&self.books, &self.clock, &self.settings);
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    pub(super) fn set_clock(&self, now: u64) {
        self.clock.store(now, Ordering::SeqCst);
    }

    /// The newest header of each log, tied to what the KMS trusts.
    pub(super) fn finality(&self) -> Vec<Finality> {
        let trusted = self.books.pages().trusted.clone();
        let logs = [&self.processes, &self.consensus].into_iter().filter(|log| log.height() > 0);
        logs.map(|log| log.finality(trusted.get(&log.chain).map(|trusted| trusted.height.get()))).collect()
    }

    pub(super) async fn batch(&self, duties: Vec<Duty>) -> Result<DutyReport, BatchRefusal> {
        self.engine.perform(DutyBatch { finality: self.finality(), duties }).await
    }

    pub(super) async fn perform(&self, duty: Duty) -> DutyAnswer {
        self.batch(vec![duty]).await.unwrap().answers.remove(0)
    }

    /// The message that a duty gives.
    pub(super) async fn signed(&self, duty: Duty) -> Jws {
        match self.perform(duty).await {
            DutyAnswer::Signed { message, .. } => message,
            other => panic!("not signed: {other:?}"),
        }
    }

    /// What an action gives.
    pub(super) async fn done(&self, duty: Duty) -> ActionOutput {
        match self.perform(duty).await {
            DutyAnswer::Performed { output, .. } => output,
            other => panic!("not done: {other:?}"),
        }
    }

    /// Checks that a duty is refused for this reason until a person has looked at it, and that no key has signed.
    pub(super) async fn needs_person(&self, duty: Duty, expected: &str) {
        let before = self.books.pages().orders.len();
        match self.perform(duty).await {
            DutyAnswer::NeedsPerson(Refusal { reason, message }) => assert_eq!(reason, expected, "{message}"),
            other => panic!("not refused: {other:?}"),
        }
        assert_eq!(self.books.pages().orders.len(), before);
    }

    /// Checks that a duty is refused for this reason for now, and that no key has signed.
    pub(super) async fn retry(&self, duty: Duty, expected: &str) {
        let before = self.books.pages().orders.len();
        match self.perform(duty).await {
            DutyAnswer::Retry(Refusal { reason, message }) => assert_eq!(reason, expected, "{message}"),
            other => panic!("not put off: {other:?}"),
        }
        assert_eq!(self.books.pages().orders.len(), before);
    }

    pub(super) fn start_of(&self, process: &str, case: &str) -> Start {
        let mut input = Members::default();
        let artifact = if process == "policy-change" { &self.proposed } else { case.as_bytes() };
        input.push("artifact", Value::String(Digest::of(artifact).to_string()));
        input.push("name", Value::String("release".into()));
        input.push("size", Value::Number(7));
        Start {
            deployment: self.genesis.id(),
            chain: name("process"),
            process: name(process),
            definition: self.genesis.process(&name(process)).unwrap().definition.digest(),
            case: name(case),
            nonce: Bytes(vec![1; 16]),
            input,
        }
    }

    /// The call to which a start leads.
    pub(super) fn call_of(&self, start: &Jws) -> Call {
        let message = Signed::<Start>::from_jws(start.clone()).unwrap();
        let message = message.unverified();
        let process = &self.genesis.process(&message.process).unwrap().definition;
        let step = process.first_step();
        let contract = match &step.action {
            assent_consensus::process::StepAction::Ask { contract, .. } => contract.clone(),
            assent_consensus::process::StepAction::Act { .. } => panic!("the first step asks"),
        };
        Call {
            contract,
            subject: process.derive_subject(&step.name, &message.input).unwrap(),
            process: message.process.clone(),
            definition: message.definition,
            case: message.case.clone(),
            step: step.name.clone(),
            attempt: number(1),
            requester: start.kid(),
            start: start.digest(),
        }
    }

    /// A case that was started and called.
    pub(super) fn case(&self, process: &str, case: &str) -> (Jws, Call) {
        let start = self.requester.sign(self.start_of(process, case));
        let call = self.call_of(&start);
        (start, call)
    }

    pub(super) fn request_of(&self, call: &Call) -> RequestId {
        call.request(self.genesis.id(), &name("process"))
    }

    /// The duty to sign the vote request of a call, recorded in both logs.
    pub(super) fn vote_request_duty(&mut self, start: &Jws, call: &Call) -> Duty {
        let request = self.request_of(call);
        let called = self.processes.append(ProcessEvent::Call(call.clone()).to_bytes());
        let due = self.consensus.append(ConsensusEvent::VoteRequestDue { request }.to_bytes());
        Duty::VoteRequest {
            start: start.clone(),
            call: self.processes.proof(called),
            due: self.consensus.proof(due),
        }
    }

    /// A case whose vote request is signed.
    pub(super) async fn ask(&mut self, process: &str, case: &str) -> Asked {
        let (start, call) = self.case(process, case);
        let duty = self.vote_request_duty(&start, &call);
        let jws = self.signed(duty).await;
        let vote_request = Signed::<VoteRequest>::from_jws(jws.clone()).unwrap().unverified().clone();
        Asked { start, request: self.request_of(&call), call, jws, vote_request }
    }

    /// A ballot of voter `place`, `after` milliseconds after the request was opened.
    pub(super) fn ballot(&self, asked: &Asked, place: usize, choice: Choice, after: u64) -> CountedMessage {
        let ballot = Ballot {
            deployment: self.genesis.id(),
            request: asked.request,
            vote_request: asked.jws.digest(),
            voter: name(&format!("v{place}")),
            choice,
            reason: None,
        };
        let at = UnixMillis::new(asked.vote_request.opened.get() + after);
        CountedMessage { at, jws: self.voters[place].sign(ballot) }
    }

    /// Approvals of the first two engineers, one and two minutes after the request was opened.
    pub(super) fn approvals(&self, asked: &Asked) -> Vec<CountedMessage> {
        vec![
            self.ballot(asked, 0, Choice::Approve, MINUTE),
            self.ballot(asked, 1, Choice::Approve, 2 * MINUTE),
        ]
    }

    pub(super) fn cancel_of(&self, asked: &Asked) -> Cancel {
        Cancel {
            deployment: self.genesis.id(),
            chain: name("process"),
            case: asked.call.case.clone(),
            nonce: Bytes(vec![2; 16]),
        }
    }

    /// The duty to sign a decision, recorded as it is said to be.
    pub(super) fn decision_duty(
        &mut self,
        asked: &Asked,
        ballots: &[CountedMessage],
        cancel: Option<CountedMessage>,
        outcome: Outcome,
        decided: UnixMillis,
    ) -> Duty {
        let root = BallotsRoot::of(ballots.iter().map(|ballot| (ballot.at, ballot.jws.as_str())));
        let event = ConsensusEvent::DecisionDue { request: asked.request, outcome, ballots: root, decided };
        let due = self.consensus.append(event.to_bytes());
        let due = self.consensus.proof(due);
        Duty::Decision { vote_request: asked.jws.clone(), ballots: ballots.to_vec(), cancel, due }
    }

    /// The duty to sign that the first two engineers approved; the clock shows the second ballot's time.
    pub(super) fn approval_duty(&mut self, asked: &Asked) -> Duty {
        let ballots = self.approvals(asked);
        let decided = ballots[1].at;
        self.set_clock(decided.get());
        self.decision_duty(asked, &ballots, None, Outcome::Approved, decided)
    }

    /// The bundle of a decision, which is recorded.
    pub(super) fn bundle(&mut self, asked: &Asked, ballots: Vec<CountedMessage>, decision: Jws) -> Bundle {
        let message = Signed::<Decision>::from_jws(decision.clone()).unwrap();
        let recorded = self.consensus.append(
            ConsensusEvent::DecisionRecorded {
                request: asked.request,
                outcome: message.unverified().outcome,
                decision: decision.digest(),
                audit: Digest::ZERO,
            }
            .to_bytes(),
        );
        let contract = self.genesis.contract(&asked.call.contract).unwrap();
        let process = self.genesis.process(&asked.call.process).unwrap();
        Bundle {
            version: number(1),
            genesis: self.genesis.id(),
            policy: Bytes(contract.policy.document().to_vec()),
            definition: Bytes(process.definition.document().to_vec()),
            start: asked.start.clone(),
            vote_request: asked.jws.clone(),
            ballots,
            cancel: None,
            decision,
            contract_transitions: Vec::new(),
            key_transitions: Vec::new(),
            history: Vec::new(),
            inclusion: self.consensus.inclusion(recorded),
            result: None,
        }
    }

    /// A case that the first two engineers approved.
    pub(super) async fn approve(&mut self, process: &str, case: &str) -> (Asked, Bundle) {
        let asked = self.ask(process, case).await;
        let duty = self.approval_duty(&asked);
        let decision = self.signed(duty).await;
        let ballots = self.approvals(&asked);
        let bundle = self.bundle(&asked, ballots, decision);
        (asked, bundle)
    }

    /// What the process log says is to be done with a bundle.
    pub(super) fn action_due(&self, asked: &Asked, bundle: &Bundle) -> ActionDue {
        ActionDue {
            case: asked.call.case.clone(),
            step: name("signature"),
            request: asked.request,
            decision: bundle.decision.digest(),
            subject: asked.call.subject.clone(),
        }
    }

    /// The duty to do what a bundle approves, recorded as `due` says.
    pub(super) fn action_duty(&mut self, bundle: &Bundle, due: ActionDue) -> Duty {
        let ActionDue { case, step, request, decision, subject } = due;
        let event = ProcessEvent::ActionDue { case, step, request, decision, subject };
        let due = self.processes.append(event.to_bytes());
        Duty::Action { bundle: Box::new(bundle.clone()), document: None, due: self.processes.proof(due) }
    }
}

/// The members of an `action-due`.
#[derive(Clone)]
pub(super) struct ActionDue {
    pub(super) case: Name,
    pub(super) step: Name,
    pub(super) request: RequestId,
    pub(super) decision: Digest,
    pub(super) subject: Subject,
}

fn engine(books: &Arc<Books>, clock: &Arc<AtomicU64>, settings: &watch::Sender<Settings>) -> Arc<Engine> {
    let clock = clock.clone();
    let now = move || UnixMillis::new(clock.load(Ordering::SeqCst));
    Arc::new(Engine::with(books.clone(), Arc::new(now), settings.subscribe()))
}
