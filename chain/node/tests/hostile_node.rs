//! A node that lies to a voter: `assent vote` signs nothing (invariant I4).

mod scripted_node;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use assent::api::{BallotView, RequestState, RequestSummary, RequestView};
use assent_consensus::bundle::Bundle;
use assent_consensus::digest::Digest;
use assent_consensus::json;
use assent_consensus::jws::Signed;
use assent_consensus::message::{Ballot, RequestId, VoteRequest};

const GENESIS: &[u8] = include_bytes!("../../../tests/vectors/flat.genesis.json");
const OTHER_GENESIS: &[u8] = include_bytes!("../../../tests/vectors/deep.genesis.json");
const APPROVED: &[u8] = include_bytes!("../../../tests/vectors/approved.bundle.json");
const REJECTED: &[u8] = include_bytes!("../../../tests/vectors/rejected.bundle.json");

/// A node that gives the same answer to whatever it is asked, and remembers by which method.
struct Liar {
    home: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    fn saying(view: &RequestView) -> Liar {
        let home = tempfile::tempdir().expect("a directory");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (body, log) = (serde_json::to_vec(view).expect("JSON"), Arc::clone(&asked));
        scripted_node::start(&home.path().join("node.sock"), move |method, _, _| {
            log.lock().expect("not poisoned").push(method.to_owned());
            Some(body.clone())
        });
        Liar { home, asked }
    }

    fn vote(&self, genesis: &[u8], request: RequestId) -> Output {
        let here = self.home.path();
        fs::write(here.join("genesis.json"), genesis).expect("writable");
        run(here, &["key", "generate", "--out", "voter.pem", "--no-passphrase"]);
        let request = request.to_string();
        let arguments = ["vote", &request, "--approve", "--yes", "--key", "voter.pem"];
        run(here, &[&arguments[..], &["--genesis", "genesis.json", "--node", "node.sock"]].concat())
    }

    #[track_caller]
    fn is_refused(&self, genesis: &[u8], request: RequestId, code: i32, words: &str) {
        let output = self.vote(genesis, request);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(words), "{words:?} is not in {error:?}");
        let asked = self.asked.lock().expect("not poisoned");
        assert!(asked.iter().all(|method| method == "GET"), "nothing is submitted: {asked:?}");
    }
}

fn run(here: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assent"))
        .args(arguments)
        .current_dir(here)
        .env("HOME", here)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .expect("the program runs")
}

/// What an honest node shows while the request of this bundle is open.
fn honest(bundle: &[u8]) -> (RequestId, RequestView) {
    let bundle: Bundle = json::read(bundle).expect("well formed");
    let signed = Signed::<VoteRequest>::from_jws(bundle.vote_request.clone()).expect("well formed");
    let claim = signed.unverified().clone();
    let ballots = bundle.ballots.iter().map(|counted| {
        let ballot = Signed::<Ballot>::from_jws(counted.jws.clone()).expect("well formed");
        BallotView {
            at: counted.at,
            voter: ballot.unverified().voter.clone(),
            choice: ballot.unverified().choice,
            reason: None,
            jws: counted.jws.clone(),
        }
    });
    let view = RequestView {
        revision: "1".into(),
        summary: RequestSummary {
            request: claim.request,
            state: RequestState::Open,
            contract: claim.contract,
            process: claim.process,
            case: claim.case,
            step: claim.step,
            attempt: claim.attempt.get(),
            requester: claim.requester,
            subject: claim.subject,
            opened: Some(claim.opened),
            deadline: Some(claim.deadline),
            outcome: None,
            decided: None,
        },
        policy: None,
        definition: None,
        start: Some(bundle.start),
        vote_request: Some(bundle.vote_request),
        lineage: None,
        ballots: ballots.collect(),
        decision: None,
        explain: None,
        refused: None,
        duty: None,
    };
    (claim.request, view)
}

#[test]
fn a_strangers_vote_on_an_honest_request_is_not_signed() {
    let (request, view) = honest(APPROVED);
    Liar::saying(&view).is_refused(GENESIS, request, 1, "is not among the voters of `release-approval`");
}

#[test]
fn a_request_of_another_deployment_is_refused() {
    let (request, view) = honest(APPROVED);
    Liar::saying(&view).is_refused(OTHER_GENESIS, request, 4, "the deployment of the vote request");
}

#[test]
fn a_genesis_with_a_changed_key_is_not_the_one_that_the_request_was_signed_under() {
    let (request, view) = honest(APPROVED);
    let changed = String::from_utf8(GENESIS.to_vec()).expect("UTF-8").replace("\"test\"", "\"production\"");
    Liar::saying(&view).is_refused(changed.as_bytes(), request, 4, "the deployment of the vote request");
    let broken = String::from_utf8(GENESIS.to_vec()).expect("UTF-8").replacen("\"x\": \"", "\"x\": \"A", 1);
    Liar::saying(&view).is_refused(broken.as_bytes(), request, 4, "genesis.json");
}

#[test]
fn a_request_other_than_the_one_asked_for_is_refused() {
    let (request, _) = honest(APPROVED);
    let (other, view) = honest(REJECTED);
    assert_ne!(request, other);
    Liar::saying(&view).is_refused(GENESIS, request, 4, "nothing was signed");
    let unknown = RequestId(Digest::of(b"no request"));
    Liar::saying(&view).is_refused(GENESIS, unknown, 4, "nothing was signed");
}

#[test]
fn a_start_of_another_case_is_refused() {
    let (request, mut view) = honest(APPROVED);
    view.start = honest(REJECTED).1.start;
    Liar::saying(&view).is_refused(GENESIS, request, 4, "the start of the case");
}

#[test]
fn what_the_summary_says_is_not_believed() {
    let (request, mut view) = honest(APPROVED);
    // The subject of the summary is another; what is verified and shown is the signed one.
    view.summary.subject = assent_consensus::subject::Subject::Record {
        title: "harmless".parse().expect("text"),
        text: None,
        digest: None,
        context: None,
    };
    view.summary.contract = "another".parse().expect("a name");
    let liar = Liar::saying(&view);
    liar.is_refused(GENESIS, request, 1, "is not among the voters of `release-approval`");
}

#[test]
fn a_missing_signature_is_refused() {
    let (request, mut view) = honest(APPROVED);
    view.vote_request = None;
    Liar::saying(&view).is_refused(GENESIS, request, 4, "did not send the vote request");
}

#[test]
fn a_ballot_that_was_left_where_it_does_not_belong_is_refused() {
    let (request, mut view) = honest(APPROVED);
    view.ballots = honest(REJECTED).1.ballots;
    Liar::saying(&view).is_refused(GENESIS, request, 4, "of a ballot");
}

#[test]
fn a_request_that_is_over_is_not_voted_on() {
    let (request, mut view) = honest(APPROVED);
    view.summary.state = RequestState::Void;
    Liar::saying(&view).is_refused(GENESIS, request, 1, "the request is over");
}

#[test]
fn who_waits_is_asked_when_the_request_is_open() {
    let (request, open) = honest(APPROVED);
    let mut called = open.clone();
    (called.revision, called.summary.state) = ("0".into(), RequestState::Called);
    let home = tempfile::tempdir().expect("a directory");
    fs::write(home.path().join("genesis.json"), GENESIS).expect("writable");
    run(home.path(), &["key", "generate", "--out", "voter.pem", "--no-passphrase"]);
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    scripted_node::start(&home.path().join("node.sock"), move |_, _, _| {
        let mut asked = count.lock().expect("not poisoned");
        *asked += 1;
        let view = match *asked {
            1 => return None,
            2 | 3 => &called,
            _ => &open,
        };
        Some(serde_json::to_vec(view).expect("JSON"))
    });
    let request = request.to_string();
    let arguments = ["vote", &request, "--wait", "--approve", "--yes", "--key", "voter.pem"];
    let output =
        run(home.path(), &[&arguments[..], &["--genesis", "genesis.json", "--node", "node.sock"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("is not among the voters of"), "it got as far as an open request: {error}");
    assert_eq!(*asked.lock().expect("not poisoned"), 4);
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let home = tempfile::tempdir().expect("a directory");
    fs::write(home.path().join("genesis.json"), GENESIS).expect("writable");
    run(home.path(), &["key", "generate", "--out", "voter.pem", "--no-passphrase"]);
    let request = RequestId(Digest::of(b"any")).to_string();
    let arguments = ["vote", &request, "--approve", "--yes", "--key", "voter.pem"];
    let output = run(
        home.path(),
        &[&arguments[..], &["--genesis", "genesis.json", "--node", "nowhere.sock"]].concat(),
    );
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("nowhere.sock") && error.contains("is the node running there?"), "{error}");
}
