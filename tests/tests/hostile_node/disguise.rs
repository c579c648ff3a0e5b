//! A file whose digest is that of a message of Assent: the release key signs it as the file that was approved, and what
//! comes out is, by its mathematics, a signature over that message. Nobody takes it for one (invariant I13).

use std::collections::{BTreeMap, BTreeSet};

use assent::api::{RequestState, RequestSummary, RequestView};
use assent::voter::question::Question;
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::contract::consensus::ConsensusContracts;
use assent_consensus::contract::process::ProcessContracts;
use assent_consensus::contract::{Context, Contract, State};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::{self, Bytes};
use assent_consensus::json;
use assent_consensus::jwk::Thumbprint;
use assent_consensus::jws::{CheckedSignatures, Jws, Payload, Unsigned};
use assent_consensus::message::{Ballot, Cancel, CountedMessage, Decision, Start, VoteRequest};
use assent_consensus::operational_key::RawSignature;
use assent_consensus::subject::SignatureFormat;
use assent_consensus::time::UnixMillis;
use assent_consensus::transaction::{Carrier, Transaction};
use assent_consensus::vote::{Choice, Outcome};
use assent_tests::scripted::{Case, Decided, Opened, Plan, name, now};

use super::scene::{RELEASE, Scene};

/// Gives r and s as they are.
const RAW: Plan = Plan { key: Some(("release", SignatureFormat::Raw)), ..RELEASE };

/// Whose thumbprint the disguised message names.
#[derive(Clone, Copy)]
enum Names {
    /// The key that signs: the release key.
    Itself,
    /// The key that would have to sign such a message.
    TheRightful,
}

impl Scene {
    /// Has the message signed as if it were a file, approved by two voters.
    fn disguised<P: Payload>(&mut self, names: Names, rightful: Thumbprint, payload: P) -> Jws {
        let release = self.node.genesis.key(&name("release")).expect("it is in genesis").key.clone();
        let kid = match names {
            Names::Itself => release.thumbprint(),
            Names::TheRightful => rightful,
        };
        let unsigned = Unsigned::new(kid, payload);
        let digest = unsigned.digest();
        let case = format!("file-{}", &digest.to_string()[7..27]);
        let start = self.node.start_of(RAW.contract, &case, "release", digest);
        let jws = self.node.requester.sign(start.clone());
        let call = self.node.call_of(&start, &jws);
        let case = self.node.tell_call(jws, call);
        let opened = self.open_case(case);
        let decided = self.approve(opened);
        let duty = self.action(&decided);
        let signature = self.signature(duty).0;
        let signed = release.algorithm().digest(unsigned.signing_input());
        release
            .verify(&signed, &RawSignature(signature.clone()))
            .expect("it is a signature over the message");
        let input = std::str::from_utf8(unsigned.signing_input()).expect("text");
        Jws::parse(format!("{input}.{}", encoding::encode(&signature)).as_bytes()).expect("the form is right")
    }
}

/// The state of a ledger in memory.
#[derive(Clone, Default)]
struct Memory(BTreeMap<Vec<u8>, Vec<u8>>);

impl State for Memory {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.0.insert(key.to_vec(), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    fn scan(&self, prefix: &[u8], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let from = self.0.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        from.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// A contract, what it has recorded, and its clock.
struct Ledger {
    contract: Box<dyn Contract>,
    state: Memory,
    time: UnixMillis,
}

impl Ledger {
    fn new(contract: impl Contract + 'static) -> Ledger {
        Ledger { contract: Box::new(contract), state: Memory::default(), time: now() }
    }

    /// The word for which it rejects a transaction, if it does.
    fn rejects(&mut self, transaction: impl Into<Vec<u8>>) -> Option<&'static str> {
        let transaction = Transaction::parse(transaction.into()).expect("a transaction");
        let checked = CheckedSignatures::default();
        let context = Context { height: 1, time: self.time, checked: &checked };
        let mut state = self.state.clone();
        match self.contract.execute(&mut state, &transaction, &context) {
            Ok(_) => {
                self.state = state;
                None
            }
            Err(rejection) => Some(rejection.code),
        }
    }

    #[track_caller]
    fn takes(&mut self, transaction: impl Into<Vec<u8>>) {
        assert_eq!(self.rejects(transaction), None);
    }
}

fn carrier(carrier: &Carrier) -> Vec<u8> {
    json::write(carrier)
}

#[test]
fn a_file_with_the_digest_of_a_message_is_signed_as_a_file_and_taken_for_a_message_by_nobody() {
    for names in [Names::Itself, Names::TheRightful] {
        nobody_takes_it(names);
    }
}

fn nobody_takes_it(names: Names) {
    // Who looks for the key by the thumbprint does not find it, and who finds the rightful one sees that it did not sign.
    let word = |unknown: &'static str| match names {
        Names::Itself => unknown,
        Names::TheRightful => "bad-signature",
    };
    let mut scene = Scene::new(&[RAW]);
    let contract =
        scene.node.genesis.contract(&name(RAW.contract)).expect("it is in genesis").key.thumbprint();
    let requester = scene.node.requester.public.thumbprint();

    let called = scene.node.case(RAW.contract, "called");
    let start: Start = json::read(called.start.payload()).expect("a start");
    let mut start_of_nobody = start.clone();
    start_of_nobody.case = name("case-of-nobody");
    let false_start = scene.disguised(names, requester, start_of_nobody.clone());
    let cancel = Cancel {
        deployment: start.deployment,
        chain: start.chain.clone(),
        case: start.case.clone(),
        nonce: Bytes(vec![1; 16]),
    };
    let false_cancel = scene.disguised(names, requester, cancel);
    let opened = scene.open_case(called.clone());
    let mut question: VoteRequest = json::read(opened.vote_request.payload()).expect("a vote request");
    question.opened = UnixMillis::new(question.opened.get() + 1);
    question.deadline = UnixMillis::new(question.deadline.get() + 1);
    let false_question = scene.disguised(names, contract, question);
    let ballot = Ballot {
        deployment: start.deployment,
        request: called.request,
        vote_request: opened.vote_request.digest(),
        voter: name("v2"),
        choice: Choice::Reject,
        reason: None,
    };
    let voter = scene.node.voters[2].public.thumbprint();
    let false_ballot = scene.disguised(names, voter, ballot);
    let decided = scene.approve(opened.clone());
    let votes = decided.ballots.clone();
    let says: Decision = json::read(decided.decision.payload()).expect("a decision");
    let false_decision = scene.disguised(names, contract, says);

    the_kms_refuses(
        &mut scene,
        &decided,
        &start_of_nobody,
        &word,
        [&false_start, &false_cancel, &false_question, &false_ballot, &false_decision],
    );

    // The process contract.
    let mut processes = Ledger::new(ProcessContracts::new(scene.node.genesis.clone(), name("process")));
    assert_eq!(processes.rejects(false_start.as_str()), Some(word("not-a-requester")));
    processes.takes(called.start.as_str());
    let no_case = processes.rejects(false_cancel.as_str());
    assert_eq!(no_case, Some(word("unknown-case")));

    // The consensus contract.
    let mut consensus = Ledger::new(ConsensusContracts::new(scene.node.genesis.clone(), name("consensus")));
    let inclusion = scene.node.processes.inclusion(called.called);
    consensus.takes(carrier(&Carrier::Call { inclusion }));
    let audit = Digest::of(b"audit");
    let vote_request =
        |vote_request: &Jws| carrier(&Carrier::VoteRequest { vote_request: vote_request.clone(), audit });
    assert_eq!(consensus.rejects(vote_request(&false_question)), Some(word("wrong-key")));
    consensus.takes(vote_request(&opened.vote_request));
    consensus.time = opened.says.opened;
    assert_eq!(consensus.rejects(false_ballot.as_str()), Some(word("not-a-voter")));
    assert_eq!(consensus.rejects(false_cancel.as_str()), Some(word("unknown-request")));
    for vote in &votes {
        consensus.takes(vote.jws.as_str());
    }
    let decision = |decision: &Jws| carrier(&Carrier::Decision { decision: decision.clone(), audit });
    assert_eq!(consensus.rejects(decision(&false_decision)), Some(word("wrong-key")));
    consensus.takes(decision(&decided.decision));

    // Who verifies a bundle.
    let good = scene.node.bundle(&decided);
    let verdict = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bundle::verify(&scene.node.genesis, &bundle, &BTreeSet::new()).err().map(|error| error.reason())
    };
    assert_eq!(verdict(&|_| {}), None);
    assert_eq!(verdict(&|bundle| bundle.start = false_start.clone()), Some(word("not-a-requester")));
    assert_eq!(verdict(&|bundle| bundle.vote_request = false_question.clone()), Some(word("wrong-key")));
    assert_eq!(verdict(&|bundle| bundle.ballots[1].jws = false_ballot.clone()), Some(word("stranger")));
    assert_eq!(verdict(&|bundle| bundle.decision = false_decision.clone()), Some(word("wrong-key")));
    let cancelled = |bundle: &mut Bundle| {
        bundle.cancel = Some(CountedMessage { at: opened.says.opened, jws: false_cancel.clone() });
    };
    assert_eq!(verdict(&cancelled), Some(word("wrong-key")));

    // A voter's client.
    let asked = |vote_request: &Jws, start: &Jws| {
        let view = view(&opened, vote_request, start);
        Question::verify(&scene.node.genesis, called.request, &view).err().map(|error| error.to_string())
    };
    assert_eq!(asked(&opened.vote_request, &called.start), None);
    for (vote_request, start) in [(&false_question, &called.start), (&opened.vote_request, &false_start)] {
        assert!(asked(vote_request, start).is_some(), "a voter is asked on the word of the release key");
    }
}

/// Every message in disguise, handed to the KMS where such a message belongs.
fn the_kms_refuses(
    scene: &mut Scene,
    decided: &Decided,
    start_of_nobody: &Start,
    word: &dyn Fn(&'static str) -> &'static str,
    [start, cancel, question, ballot, decision]: [&Jws; 5],
) {
    let (opened, votes) = (&decided.opened, &decided.ballots);
    let request = opened.case.request;
    let call = scene.node.call_of(start_of_nobody, start);
    let case: Case = scene.node.tell_call(start.clone(), call);
    let duty = scene.node.vote_request_duty(&case);
    scene.refuses(case.request, duty, word("not-a-requester"));

    let other = Opened { vote_request: question.clone(), ..opened.clone() };
    let duty = scene.decision(&other, Outcome::Approved, votes.clone());
    scene.refuses_again(request, duty, word("wrong-key"));

    let false_vote = CountedMessage { at: opened.says.opened, jws: ballot.clone() };
    let duty = scene.decision(opened, Outcome::Approved, vec![votes[0].clone(), false_vote]);
    scene.refuses_again(request, duty, word("stranger"));

    let mut duty = scene.decision(opened, Outcome::Cancelled, Vec::new());
    if let assent_consensus::duty::Duty::Decision { cancel: with, .. } = &mut duty {
        *with = Some(CountedMessage { at: opened.says.opened, jws: cancel.clone() });
    }
    scene.refuses_again(request, duty, word("wrong-key"));

    let decided = Decided { decision: decision.clone(), ..decided.clone() };
    let duty = scene.action(&decided);
    scene.refuses_again(request, duty, word("wrong-key"));
}

/// What a node shows to a voter.
fn view(opened: &Opened, vote_request: &Jws, start: &Jws) -> RequestView {
    let says = opened.says.clone();
    RequestView {
        revision: "1".into(),
        summary: RequestSummary {
            request: says.request,
            state: RequestState::Open,
            contract: says.contract,
            process: says.process,
            case: says.case,
            step: says.step,
            attempt: says.attempt.get(),
            requester: says.requester,
            subject: says.subject,
            opened: Some(says.opened),
            deadline: Some(says.deadline),
            outcome: None,
            decided: None,
        },
        policy: None,
        definition: None,
        start: Some(start.clone()),
        vote_request: Some(vote_request.clone()),
        lineage: None,
        ballots: Vec::new(),
        decision: None,
        explain: None,
        refused: None,
        duty: None,
    }
}
