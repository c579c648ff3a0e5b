//! What `assent propose`, `vote` and `cancel` sign, and which receipts they take for it.

mod scripted_node;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use assent::api::{CaseState, CaseSummary, CaseView, RequestState, RequestSummary, RequestView, Submitted};
use assent::voter::key_file::KeyFile;
use assent::voter::{Signer, sign_message};
use assent_consensus::digest::Digest;
use assent_consensus::genesis::Genesis;
use assent_consensus::json::Integer;
use assent_consensus::jws::{Jws, Signed, Verified};
use assent_consensus::message::{Ballot, Cancel, KeyVersion, Receipt, RequestId, Start, VoteRequest};
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use assent_consensus::vote::Choice;
use serde_json::Value;

/// A deployment whose every key is a file, and a node of it that a test writes.
struct World {
    home: tempfile::TempDir,
    genesis: Genesis,
    submitted: Arc<Mutex<Submissions>>,
}

/// To which log what was submitted, in order.
type Submissions = Vec<(String, Vec<u8>)>;

/// What is wrong with the receipts that the node gives.
#[derive(Clone, Copy)]
enum Flaw {
    None,
    Missing,
    OtherKey,
    OtherTransaction,
    OtherHeight,
    OtherLog,
}

impl World {
    fn new() -> World {
        let home = tempfile::tempdir().expect("a directory");
        let here = home.path();
        for name in ["voter", "requester", "contract", "release", "stranger"] {
            let file = format!("{name}.pem");
            done(run(here, &["key", "generate", "--out", &file, "--no-passphrase"]));
        }
        let line = |name: &str| {
            let file = format!("{name}.pem");
            let shown = done(run(here, &["key", "show", &file, "--json"]));
            shown["toml"].as_str().expect("text").to_owned()
        };
        let policy = format!(
            "name = \"release-approval\"\nkinds = [\"sign\"]\ndeadline = \"1h\"\nrule = {{ at_least = 1, of = \"all\" }}\n\
             [[voter]]\nname = \"alice\"\n{}\ngroups = [\"all\"]\n",
            line("voter")
        );
        let process = format!(
            "name = \"release-signing\"\ninput = {{ artifact = \"digest\", name = \"text\", size = \"integer\" }}\n\
             [[requester]]\nname = \"ci\"\n{}\n[[step]]\nname = \"approval\"\nask = \"release-approval\"\n\
             subject = {{ kind = \"sign\", key = \"release\", name = \"{{name}}\", digest = \"{{artifact}}\", size = \"{{size}}\" }}\n\
             [[step]]\nname = \"signature\"\nact = \"approval\"\n",
            line("requester")
        );
        let deployment = "name = \"test\"\nenvironment = \"a test\"\n\
             [[contract]]\npolicy = \"policy.toml\"\nkey = \"contract.jwk\"\n\
             [[process]]\ndefinition = \"process.toml\"\ngoverned_by = \"release-approval\"\n\
             [[key]]\nname = \"release\"\ngoverned_by = \"release-approval\"\nformat = \"der\"\nkey = \"release.jwk\"\n";
        for (name, text) in
            [("policy.toml", &policy[..]), ("process.toml", &process), ("deployment.toml", deployment)]
        {
            fs::write(here.join(name), text).expect("writable");
        }
        done(run(here, &["init", "deployment.toml", "--out", ".", "--json"]));
        fs::write(here.join("artifact.bin"), "what is to be signed").expect("writable");
        let genesis = Genesis::parse(&fs::read(here.join("genesis.json")).expect("there")).expect("valid");
        World { home, genesis, submitted: Arc::default() }
    }

    fn key(&self, name: &str) -> KeyFile {
        let path = self.home.path().join(format!("{name}.pem"));
        KeyFile::read(&path, || panic!("it is not encrypted")).expect("a key")
    }

    /// Starts the node: it records what is submitted, gives receipts with a flaw, and shows `view` for every request and
    /// `case` for every case.
    fn serve(&self, flaw: Flaw, view: Option<RequestView>, case: Option<CaseView>) {
        let submitted = Arc::clone(&self.submitted);
        let deployment = self.genesis.id();
        let keys = ["process", "consensus"].map(|chain| self.key(&format!("{chain}.validator")));
        let stranger = self.key("stranger");
        scripted_node::start(&self.home.path().join("node.sock"), move |method, path, body| {
            if method == "GET" {
                return match path.starts_with("/v1/requests/") {
                    true => view.as_ref().map(|view| serde_json::to_vec(view).expect("JSON")),
                    false => case.as_ref().map(|case| serde_json::to_vec(case).expect("JSON")),
                };
            }
            let chain = path.split('/').nth(3).expect("a log").to_owned();
            submitted.lock().expect("not poisoned").push((chain.clone(), body.to_vec()));
            let mut receipt = Receipt {
                deployment,
                chain: chain.parse().expect("a name"),
                transaction: Digest::of(body),
                height: Integer::saturating(7),
                index: Integer::saturating(0),
            };
            let mut key = &keys[usize::from(chain != "process")];
            match flaw {
                Flaw::OtherKey => key = &stranger,
                Flaw::OtherTransaction => receipt.transaction = Digest::of(b"another"),
                Flaw::OtherHeight => receipt.height = Integer::saturating(8),
                Flaw::OtherLog => receipt.chain = "another".parse().expect("a name"),
                Flaw::None | Flaw::Missing => {}
            }
            let receipt = sign_message(key, receipt).expect("signed").jws().clone();
            let answer = Submitted {
                transaction: Digest::of(body),
                height: 7,
                index: 0,
                receipt: (!matches!(flaw, Flaw::Missing)).then_some(receipt),
            };
            Some(serde_json::to_vec(&answer).expect("JSON"))
        });
    }

    fn assent(&self, arguments: &[&str]) -> Output {
        let node = ["--genesis", "genesis.json", "--node", "node.sock", "--json"];
        run(self.home.path(), &[arguments, &node[..]].concat())
    }

    /// What was submitted last, and to which log.
    fn last(&self) -> (String, Jws) {
        let submitted = self.submitted.lock().expect("not poisoned");
        let (chain, bytes) = submitted.last().expect("something was submitted");
        (chain.clone(), Jws::parse(bytes).expect("a message"))
    }

    fn submissions(&self) -> usize {
        self.submitted.lock().expect("not poisoned").len()
    }

    fn start(&self) -> Verified<Start> {
        let process = &self.genesis.processes()[0];
        let input = format!(r#"{{"artifact":"{}","name":"artifact.bin","size":20}}"#, Digest::of(b"x"));
        let start = Start {
            deployment: self.genesis.id(),
            chain: process.chain.clone(),
            process: process.name.clone(),
            definition: process.definition.digest(),
            case: name("case-1"),
            nonce: assent_consensus::encoding::Bytes(vec![1; 16]),
            input: serde_json::from_str(&input).expect("members"),
        };
        sign_message(&self.key("requester"), start).expect("signed")
    }

    /// The vote request of that start, with whatever `change` makes of it, signed by `key`.
    fn open(&self, key: &str, change: impl FnOnce(&mut VoteRequest)) -> (RequestId, RequestView) {
        let start = self.start();
        let (contract, process) = (&self.genesis.contracts()[0], &self.genesis.processes()[0]);
        let (step, attempt) = (name("approval"), Integer::saturating(1));
        let opened = now();
        let mut vote_request = VoteRequest {
            deployment: self.genesis.id(),
            chain: contract.chain.clone(),
            contract: contract.name.clone(),
            request: RequestId::derive(&start, self.genesis.id(), start.signer(), &step, attempt),
            policy: contract.policy.digest(),
            process: process.name.clone(),
            definition: process.definition.digest(),
            case: start.case.clone(),
            subject: process.definition.derive_subject(&step, &start.input).expect("a subject"),
            step,
            attempt,
            requester: start.signer(),
            start: start.digest(),
            opened,
            deadline: opened.after(contract.policy.deadline()),
            key_version: KeyVersion::first(),
        };
        change(&mut vote_request);
        let signed = sign_message(&self.key(key), vote_request.clone()).expect("signed");
        let view = RequestView {
            revision: "1".into(),
            summary: RequestSummary {
                request: vote_request.request,
                state: RequestState::Open,
                contract: vote_request.contract,
                process: vote_request.process,
                case: vote_request.case,
                step: vote_request.step,
                attempt: 1,
                requester: vote_request.requester,
                subject: vote_request.subject,
                opened: Some(vote_request.opened),
                deadline: Some(vote_request.deadline),
                outcome: None,
                decided: None,
            },
            policy: None,
            definition: None,
            start: Some(start.jws().clone()),
            vote_request: Some(signed.jws().clone()),
            lineage: None,
            ballots: Vec::new(),
            decision: None,
            explain: None,
            refused: None,
            duty: None,
        };
        (vote_request.request, view)
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    UnixMillis::new(u64::try_from(since.as_millis()).expect("before the year 500 million"))
}

fn run(here: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assent"))
        .args(arguments)
        .current_dir(here)
        .env("HOME", here)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

#[track_caller]
fn done(output: Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(words), "{words:?} is not in {error:?}");
}

const PROPOSE: [&str; 6] =
    ["propose", "release-signing", "--artifact", "artifact.bin", "--key", "requester.pem"];

#[test]
fn a_start_is_signed_by_the_requester_and_says_what_the_file_is() {
    let world = World::new();
    world.serve(Flaw::None, None, None);
    let proposed = done(world.assent(&PROPOSE));
    let (chain, jws) = world.last();
    assert_eq!(chain, "process");
    let signed = Signed::<Start>::from_jws(jws).expect("a start");
    let start = signed.verify(world.key("requester").public_key()).expect("by the requester");
    let process = &world.genesis.processes()[0];
    assert_eq!(start.deployment, world.genesis.id());
    assert_eq!(start.definition, process.definition.digest());
    assert_eq!(start.nonce.0.len(), 16);
    process.definition.check_input(&start.input).expect("complete");
    let digest = Digest::of(b"what is to be signed").to_string();
    let input = serde_json::to_value(&start.input).expect("JSON");
    assert_eq!((&input["artifact"], &input["size"]), (&Value::from(digest), &Value::from(20)));
    let request = RequestId::derive(
        &start,
        world.genesis.id(),
        start.signer(),
        &name("approval"),
        Integer::saturating(1),
    );
    assert_eq!(proposed["request"], request.to_string());
    assert_eq!(proposed["case"], start.case.to_string());
}

#[test]
fn two_starts_differ_in_case_and_nonce() {
    let world = World::new();
    world.serve(Flaw::None, None, None);
    let mut seen = Vec::new();
    for _ in 0..2 {
        done(world.assent(&PROPOSE));
        let signed = Signed::<Start>::from_jws(world.last().1).expect("a start");
        seen.push((signed.unverified().case.clone(), signed.unverified().nonce.clone()));
    }
    assert_ne!(seen[0].0, seen[1].0);
    assert_ne!(seen[0].1, seen[1].1);
}

#[test]
fn a_receipt_that_no_validator_of_genesis_signed_for_this_message_is_refused() {
    for flaw in [Flaw::Missing, Flaw::OtherKey, Flaw::OtherTransaction, Flaw::OtherHeight, Flaw::OtherLog] {
        let world = World::new();
        world.serve(flaw, None, None);
        refused(&world.assent(&PROPOSE), 4, "the node's receipt does not verify");
    }
}

#[test]
fn who_may_not_start_a_case_sends_nothing() {
    let world = World::new();
    world.serve(Flaw::None, None, None);
    let stranger = ["propose", "release-signing", "--artifact", "artifact.bin", "--key", "stranger.pem"];
    refused(&world.assent(&stranger), 1, "may not start a case of `release-signing`");
    let unknown = ["propose", "release-singing", "--artifact", "artifact.bin", "--key", "requester.pem"];
    refused(&world.assent(&unknown), 2, "genesis has `release-signing`");
    let missing = ["propose", "release-signing", "--artifact", "missing.bin", "--key", "requester.pem"];
    refused(&world.assent(&missing), 1, "no such file");
    assert_eq!(world.submissions(), 0);
}

#[test]
fn a_ballot_is_signed_for_exactly_what_was_verified_and_shown() {
    let world = World::new();
    let (request, view) = world.open("contract", |_| {});
    let vote_request = view.vote_request.clone().expect("there");
    world.serve(Flaw::None, Some(view), None);
    let id = request.to_string();
    let output =
        world.assent(&["vote", &id, "--approve", "--yes", "--reason", "looks good", "--key", "voter.pem"]);
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    done(output);
    for words in [
        "a test",
        "release-approval",
        "artifact.bin",
        "ci (",
        "at_least 1 of all",
        "you vote as alice",
        "UTC (in ",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown:?}");
    }
    let (chain, jws) = world.last();
    assert_eq!(chain, "consensus");
    let signed = Signed::<Ballot>::from_jws(jws).expect("a ballot");
    let ballot = signed.verify(world.key("voter").public_key()).expect("by the voter");
    assert_eq!(ballot.deployment, world.genesis.id());
    assert_eq!(ballot.request, request);
    assert_eq!(ballot.vote_request, vote_request.digest());
    assert_eq!((ballot.voter.as_str(), ballot.choice), ("alice", Choice::Approve));
    assert_eq!(ballot.reason.as_ref().map(|reason| reason.as_str()), Some("looks good"));
}

#[test]
fn without_a_terminal_nothing_is_signed_unless_the_choice_is_given() {
    let world = World::new();
    let (request, view) = world.open("contract", |_| {});
    world.serve(Flaw::None, Some(view), None);
    let id = request.to_string();
    refused(&world.assent(&["vote", &id, "--key", "voter.pem"]), 2, "no terminal");
    refused(&world.assent(&["vote", &id, "--approve", "--key", "voter.pem"]), 2, "no terminal");
    assert_eq!(world.assent(&["vote", &id, "--yes", "--key", "voter.pem"]).status.code(), Some(2));
    assert_eq!(
        world.assent(&["vote", &id, "--approve", "--reject", "--yes", "--key", "voter.pem"]).status.code(),
        Some(2)
    );
    assert_eq!(world.submissions(), 0);
}

/// Votes at a terminal at which `typed` is typed.
fn vote_at_terminal(world: &World, request: RequestId, flags: &[&str], typed: &str) -> Output {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it can be opened");
    let theirs = ptsname(&ours, Vec::new()).expect("it has a name");
    let theirs = fs::OpenOptions::new().read(true).open(theirs.to_str().expect("UTF-8")).expect("it opens");
    // What is typed before it is asked for waits in the terminal.
    let mut ours = fs::File::from(ours);
    std::io::Write::write_all(&mut ours, typed.as_bytes()).expect("typed");
    let request = request.to_string();
    let arguments =
        ["vote", &request, "--key", "voter.pem", "--genesis", "genesis.json", "--node", "node.sock"];
    Command::new(env!("CARGO_BIN_EXE_assent"))
        .args(arguments)
        .args(flags)
        .current_dir(world.home.path())
        .env("HOME", world.home.path())
        .env_remove("XDG_CONFIG_HOME")
        .stdin(theirs)
        .output()
        .expect("the program runs")
}

#[test]
fn at_a_terminal_the_word_that_is_typed_is_what_is_signed() {
    let world = World::new();
    let (request, view) = world.open("contract", |_| {});
    world.serve(Flaw::None, Some(view), None);
    for (flags, typed) in [(&[][..], "yes\n"), (&[], "\n"), (&["--approve"], "reject\n"), (&[], "approved\n")]
    {
        refused(&vote_at_terminal(&world, request, flags, typed), 1, "nothing was signed");
        assert_eq!(world.submissions(), 0, "{typed:?}");
    }
    for (flags, typed, choice) in [
        (&[][..], "approve\n", Choice::Approve),
        (&[], "abstain\n", Choice::Abstain),
        (&["--reject"], "reject\n", Choice::Reject),
    ] {
        let output = vote_at_terminal(&world, request, flags, typed);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let ballot = Signed::<Ballot>::from_jws(world.last().1).expect("a ballot");
        assert_eq!(ballot.unverified().choice, choice);
    }
}

/// One way in which a vote request can be wrong although the contract's key signed it.
type Change = fn(&mut VoteRequest);

#[test]
fn what_the_contract_would_never_sign_is_refused_even_with_its_signature() {
    let changes: [(&str, Change); 9] = [
        ("the log", |request| request.chain = name("process")),
        ("policy", |request| request.policy = Digest::of(b"another")),
        ("process document", |request| request.definition = Digest::of(b"another")),
        ("the case", |request| request.case = name("case-2")),
        ("step", |request| request.step = name("signature")),
        ("attempt", |request| request.attempt = Integer::saturating(2)),
        ("deadline", |request| request.deadline = UnixMillis::new(request.deadline.get() + 1)),
        ("version 2", |request| request.key_version = KeyVersion(Integer::saturating(2))),
        ("subject", |request| {
            request.subject = assent_consensus::subject::Subject::Sign {
                key: name("release"),
                name: "artifact.bin".parse().expect("text"),
                digest: Digest::of(b"another"),
                size: Integer::saturating(20),
                context: None,
            };
        }),
    ];
    for (what, change) in changes {
        let world = World::new();
        let (request, view) = world.open("contract", change);
        world.serve(Flaw::None, Some(view), None);
        let output =
            world.assent(&["vote", &request.to_string(), "--approve", "--yes", "--key", "voter.pem"]);
        assert_eq!(output.status.code(), Some(4), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(world.submissions(), 0, "{what}");
    }
}

#[test]
fn a_vote_request_by_another_key_of_the_deployment_is_refused() {
    for key in ["stranger", "voter", "requester", "release", "process.validator"] {
        let world = World::new();
        let (request, view) = world.open(key, |_| {});
        world.serve(Flaw::None, Some(view), None);
        let output =
            world.assent(&["vote", &request.to_string(), "--approve", "--yes", "--key", "voter.pem"]);
        refused(&output, 4, "nothing was signed, because the request does not verify");
        assert_eq!(world.submissions(), 0, "{key}");
    }
}

#[test]
fn a_request_whose_deadline_is_past_is_not_voted_on() {
    let world = World::new();
    let (request, view) = world.open("contract", |request| {
        let hours = |hours: u64| UnixMillis::new(request.opened.get() - hours * 3_600_000);
        (request.opened, request.deadline) = (hours(2), hours(1));
    });
    world.serve(Flaw::None, Some(view), None);
    let output = world.assent(&["vote", &request.to_string(), "--approve", "--yes", "--key", "voter.pem"]);
    refused(&output, 1, "the deadline is past");
    assert_eq!(world.submissions(), 0);
}

#[test]
fn a_cancellation_is_signed_by_the_requester() {
    let world = World::new();
    let start = world.start();
    let (request, _) = world.open("contract", |_| {});
    let view = CaseView {
        revision: "1".into(),
        summary: CaseSummary {
            requester: start.signer(),
            case: start.case.clone(),
            process: start.process.clone(),
            state: CaseState::Asking { step: name("approval"), attempt: 1, request },
        },
        definition: start.definition,
        start: start.jws().clone(),
        requests: Vec::new(),
        results: Vec::new(),
        duty: None,
    };
    world.serve(Flaw::None, None, Some(view));
    done(world.assent(&["cancel", "case-1", "--key", "requester.pem"]));
    let (chain, jws) = world.last();
    let signed = Signed::<Cancel>::from_jws(jws).expect("a cancellation");
    let cancel = signed.verify(world.key("requester").public_key()).expect("by the requester");
    assert_eq!((chain.as_str(), cancel.case.as_str()), ("process", "case-1"));
    assert_eq!(cancel.deployment, world.genesis.id());
}
