//! `assent fetch` from nodes that tell the truth, and from nodes that do not.

mod scripted_node;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use assent::api::{CaseRequest, CaseState, CaseSummary, CaseView, RequestState};
use assent_consensus::bundle::Bundle;
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::jws::Signed;
use assent_consensus::message::{Decision, VoteRequest};

const GENESIS: &[u8] = include_bytes!("../../../tests/vectors/flat.genesis.json");
const APPROVED: &[u8] = include_bytes!("../../../tests/vectors/approved.bundle.json");
const REJECTED: &[u8] = include_bytes!("../../../tests/vectors/rejected.bundle.json");
const PAYLOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/payload.bin");

/// A node with one case, and whatever bundle it likes to give.
struct Node {
    home: tempfile::TempDir,
    case: String,
    requester: String,
}

impl Node {
    fn with(proof: &[u8], sent: &[u8], outcome: CaseOutcome) -> Node {
        let bundle: Bundle = json::read(proof).expect("well formed");
        let signed = Signed::<VoteRequest>::from_jws(bundle.vote_request.clone()).expect("well formed");
        let claim = signed.unverified();
        let decision = Signed::<Decision>::from_jws(bundle.decision.clone()).expect("well formed");
        let view = CaseView {
            revision: "1".into(),
            summary: CaseSummary {
                requester: claim.requester,
                case: claim.case.clone(),
                process: claim.process.clone(),
                state: CaseState::Ended { outcome },
            },
            definition: claim.definition,
            start: bundle.start.clone(),
            requests: vec![CaseRequest {
                step: claim.step.clone(),
                attempt: claim.attempt.get(),
                request: claim.request,
                state: Some(RequestState::Decided),
                outcome: Some(decision.unverified().outcome),
            }],
            results: Vec::new(),
            duty: None,
        };
        let home = tempfile::tempdir().expect("a directory");
        fs::write(home.path().join("genesis.json"), GENESIS).expect("writable");
        let (case, requester) = (claim.case.to_string(), claim.requester.to_string());
        let answers = BTreeMap::from([
            (format!("/v1/cases/{requester}/{case}"), serde_json::to_vec(&view).expect("JSON")),
            (format!("/v1/requests/{}/bundle", claim.request), sent.to_vec()),
        ]);
        scripted_node::start(&home.path().join("node.sock"), move |_, path, _| answers.get(path).cloned());
        Node { home, case, requester }
    }

    fn fetch(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_assent"))
            .args(["fetch", &self.case, "--requester", &self.requester, "--out", "out"])
            .args(["--genesis", "genesis.json", "--node", "node.sock"])
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .output()
            .expect("the program runs")
    }

    /// What was written, by name.
    fn written(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.home.path().join("out")) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_was_signed_is_written_and_verifies_by_itself() {
    let node = Node::with(APPROVED, APPROVED, CaseOutcome::Done);
    let output = node.fetch();
    assert_eq!(output.status.code(), Some(0), "{}", error_of(&output));
    let written = node.written();
    let name = written.iter().find_map(|name| name.strip_suffix(".sig")).expect("a signature");
    assert_eq!(
        written,
        [
            "genesis.json".to_owned(),
            format!("{name}.bundle.json"),
            format!("{name}.sig"),
            "release.pub.pem".into()
        ]
    );
    let out = node.home.path().join("out");
    assert_eq!(fs::read(out.join("genesis.json")).expect("there"), GENESIS);
    assert_eq!(fs::read(out.join(format!("{name}.bundle.json"))).expect("there"), APPROVED);
    verify_with_stock_code(&out.join("release.pub.pem"), &out.join(format!("{name}.sig")));
}

/// What `openssl dgst -sha256 -verify` does, with a library that shares no code with ours.
fn verify_with_stock_code(key: &Path, signature: &Path) {
    use p256::ecdsa::signature::Verifier as _;
    use p256::pkcs8::DecodePublicKey as _;
    let key = fs::read_to_string(key).expect("there");
    let key = p256::ecdsa::VerifyingKey::from_public_key_pem(&key).expect("SubjectPublicKeyInfo in PEM");
    let signature = p256::ecdsa::Signature::from_der(&fs::read(signature).expect("there")).expect("DER");
    key.verify(&fs::read(PAYLOAD).expect("there"), &signature).expect("the signature verifies");
}

#[test]
fn a_rejected_case_gives_its_proof_no_signature_and_exit_code_3() {
    let node = Node::with(REJECTED, REJECTED, CaseOutcome::Rejected);
    let output = node.fetch();
    assert_eq!(output.status.code(), Some(3), "{}", error_of(&output));
    let written = node.written();
    assert!(written.iter().any(|name| name.ends_with(".bundle.json")), "{written:?}");
    assert!(!written.iter().any(|name| name.ends_with(".sig")), "{written:?}");
}

#[test]
fn a_proof_that_does_not_verify_is_not_written() {
    let text = String::from_utf8(APPROVED.to_vec()).expect("UTF-8");
    let cut = text.replacen("\"signature\": \"", "\"signature\": \"A", 1);
    assert_ne!(cut, text);
    for sent in [cut.as_bytes(), b"{}", b"", REJECTED] {
        let node = Node::with(APPROVED, sent, CaseOutcome::Done);
        let output = node.fetch();
        assert_eq!(output.status.code(), Some(4), "{}", error_of(&output));
        assert_eq!(node.written(), Vec::<String>::new());
    }
}

#[test]
fn the_nodes_word_alone_makes_no_signature() {
    // The node says that the case is done, and has only the proof of a rejection.
    let node = Node::with(REJECTED, REJECTED, CaseOutcome::Done);
    let output = node.fetch();
    assert_eq!(output.status.code(), Some(4), "{}", error_of(&output));
    assert_eq!(node.written(), Vec::<String>::new());
}
