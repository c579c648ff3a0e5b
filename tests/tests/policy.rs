//! Policies that are replaced while the system works: with the programs that people use, from the document to the last
//! bundle.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use assent::api::{ContractView, RequestState, RequestView};
use assent::voter::policy;
use assent::voter::question::{Distrust, Question};
use assent_consensus::bundle::{self, Bundle, Lineage};
use assent_consensus::digest::Digest;
use assent_consensus::encoding::Bytes;
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::jws::Signed;
use assent_consensus::message::{KeyVersion, RequestId, VoteRequest};
use assent_consensus::vote::Choice::Approve;
use assent_tests::deployment::{Case, Deployment, Desk, name};
use serde_json::Value;

fn block_on<T>(work: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).unwrap_or_else(|error| panic!("{error:#}"))
}

fn started() -> Deployment {
    Deployment::start().unwrap_or_else(|error| panic!("{error:#}"))
}

/// What the `assent` program says, and how it ends.
fn said(deployment: &Deployment, arguments: &[&str]) -> (Option<i32>, String) {
    let output = deployment.assent(arguments).expect("it runs");
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    (output.status.code(), text)
}

/// What it says when it succeeds.
fn done(deployment: &Deployment, arguments: &[&str]) -> String {
    let (code, text) = said(deployment, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

/// The last policy of a contract, changed.
fn write_policy(deployment: &Deployment, contract: &str, file: &str, change: impl Fn(String) -> String) {
    let path = deployment.directory().join(file);
    done(deployment, &["policy", "show", contract, "--out", file]);
    let before = fs::read_to_string(&path).expect("it was written");
    let after = change(before.clone());
    assert_ne!(before, after);
    fs::write(path, after).expect("writable");
}

/// Proposes a policy; gives the case.
fn propose(deployment: &Deployment, process: &str, file: &str, case: &str) -> Case {
    let arguments = ["propose", process, "--policy", file, "--case", case, "--key", "ci.pem", "--json"];
    let told: Value = serde_json::from_str(&done(deployment, &arguments)).expect("JSON");
    let request: RequestId = told["request"].as_str().expect("a request").parse().expect("one");
    let requester = told["requester"].as_str().expect("a requester").parse().expect("a thumbprint");
    Case { name: name(case), requester, request }
}

/// Votes with the program; gives what it showed.
fn vote(deployment: &Deployment, case: &Case, voter: &str) -> String {
    let (request, key) = (case.request.to_string(), format!("{voter}.pem"));
    done(deployment, &["vote", &request, "--approve", "--yes", "--wait", "--key", &key])
}

/// A policy that is proposed, approved and in force.
fn replace(deployment: &Deployment, process: &str, file: &str, case: &str, voters: &[&str]) -> String {
    let case = propose(deployment, process, file, case);
    let shown = voters.iter().map(|voter| vote(deployment, &case, voter)).collect::<Vec<_>>();
    let (view, outcome) = block_on(deployment.desk().end(&case));
    assert_eq!(outcome, CaseOutcome::Done, "{view:?}");
    shown.concat()
}

fn asked(view: &RequestView) -> VoteRequest {
    let jws = view.vote_request.clone().expect("it is open");
    Signed::<VoteRequest>::from_jws(jws).expect("one").unverified().clone()
}

/// Starts cases until one is opened by this policy; the others are left open.
async fn opened_by(desk: &Desk, process: &str, policy: Digest) -> Result<(Case, RequestView)> {
    for number in 0.. {
        let case = format!("{process}-{number}-{}", &policy.to_string()[7..15]);
        let (case, _) = desk.start_case(process, "ci", &case, b"x").await?;
        let view = desk.open_request(&case).await?;
        if asked(&view).policy == policy {
            return Ok((case, view));
        }
    }
    unreachable!("it goes on for ever")
}

async fn bundle_of(desk: &Desk, case: &Case) -> Result<Bundle> {
    let bundle: Bundle = json::read(&desk.client().bundle(case.request).await?)?;
    bundle::verify(desk.genesis(), &bundle, &BTreeSet::new())?;
    Ok(bundle)
}

const BOTH: [&str; 2] = ["engineer-1", "engineer-2"];

#[test]
fn a_policy_is_replaced_and_every_bundle_is_proven_by_genesis_alone() {
    let mut deployment = started();
    let desk = deployment.desk().clone();
    let (before, open) = block_on(async {
        let (before, _) = desk.start_case("release-signing", "ci", "before", b"before").await?;
        desk.finish(&before, &BOTH).await?;
        let (open, _) = desk.start_case("release-signing", "ci", "open", b"open").await?;
        desk.open_request(&open).await?;
        Ok((before, open))
    });
    write_policy(&deployment, "release-approval", "one.toml", |policy| policy.replace("= 2", "= 1"));
    let shown = replace(&deployment, "change-release-approval", "one.toml", "to-one", &BOTH);
    // Who votes sees what changes, and what it will be.
    for line in ["  -at_least = 2", "  +at_least = 1", "1 of engineers"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let one = Digest::of(&fs::read(deployment.directory().join("one.toml")).expect("it is there"));
    let (after, view) = block_on(opened_by(&desk, "release-signing", one));
    block_on(desk.finish(&after, &["engineer-3"]));
    check_voters_sight(&desk, &view);

    // What is in force outlives both programs.
    deployment.node().kill().expect("it runs");
    deployment.kms().kill().expect("it runs");
    deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
    deployment.start_node().unwrap_or_else(|error| panic!("{error:#}"));
    block_on(async {
        let view = desk.open_request(&open).await?;
        desk.vote(&view, "engineer-3", Approve).await?;
        let view = desk.request_until(open.request, |view| !view.ballots.is_empty()).await?;
        anyhow::ensure!(view.summary.state == RequestState::Open, "it was opened by the old policy");
        desk.finish(&open, &["engineer-1"]).await?;
        let histories = [&before, &open, &after].map(|case| bundle_of(&desk, case));
        let mut lengths = Vec::new();
        for bundle in histories {
            lengths.push(bundle.await?.history.len());
        }
        assert_eq!(lengths, [0, 0, 1]);
        Ok(())
    });
    let fetched = done(
        &deployment,
        &["fetch", after.name.as_str(), "--key", "ci.pem", "--out", "out", "--name", "after"],
    );
    assert!(fetched.contains("after.bundle.json"), "{fetched}");
    let verified = done(&deployment, &["verify", "--genesis", "node/genesis.json", "out/after.bundle.json"]);
    assert!(verified.contains(&format!("by policy {one}")), "{verified}");
    let show = done(&deployment, &["policy", "show", "release-approval", "--json"]);
    assert!(show.contains(&one.to_string()), "{show}");
    let audited = deployment.assent_kms(&["audit", "verify"]).expect("it runs");
    assert!(audited.status.success(), "{}", String::from_utf8_lossy(&audited.stderr));
    deployment.node().kill().expect("it runs");
    deployment.check_ledgers().unwrap_or_else(|error| panic!("{error:#}"));
}

/// A voter is not talked into a policy that genesis and the history do not lead to.
fn check_voters_sight(desk: &Desk, view: &RequestView) {
    let request = view.summary.request;
    let question = Question::verify(desk.genesis(), request, view).expect("it is as it should be");
    assert_eq!(question.policy.digest(), asked(view).policy);
    let refused = |change: &dyn Fn(&mut RequestView)| {
        let mut view = view.clone();
        change(&mut view);
        Question::verify(desk.genesis(), request, &view).expect_err("it is not as it should be")
    };
    assert!(matches!(refused(&|view| view.lineage = None), Distrust::Newer(_)));
    assert!(matches!(refused(&|view| view.policy = None), Distrust::Missing("policy")));
    let of_genesis = desk.genesis().contract(&name("release-approval")).expect("it is there").policy.clone();
    let old = Bytes(of_genesis.document().to_vec());
    assert!(matches!(refused(&|view| view.policy = Some(old.clone())), Distrust::Policy(_)));
    let cut = refused(&|view| view.lineage.as_mut().expect("it is there").history.clear());
    assert!(matches!(cut, Distrust::Newer(_)), "{cut}");

    // Nor is he who is to change it talked into starting from another one.
    let contract = block_on(async { Ok(desk.client().contract(&name("release-approval")).await?) });
    let last = policy::last(desk.genesis(), &contract).expect("it is as it should be");
    assert_eq!(last.digest(), asked(view).policy);
    let other = Bytes([&contract.policy.0[..], b"# and more\n"].concat());
    let refused = policy::last(desk.genesis(), &ContractView { policy: other, ..contract.clone() });
    assert!(refused.is_err(), "another document");
    let history = Vec::new();
    let lineage = Lineage { history, ..contract.lineage.clone() };
    let refused = policy::last(desk.genesis(), &ContractView { lineage, ..contract });
    assert!(refused.is_err(), "without the approval");
}

#[test]
fn a_governed_contract_gets_a_voter_who_votes_and_whom_the_kms_can_suspend() {
    let deployment = started();
    let desk = deployment.desk().clone();
    done(&deployment, &["key", "generate", "--out", "newcomer.pem", "--no-passphrase"]);
    let key: Value =
        serde_json::from_str(&done(&deployment, &["key", "show", "newcomer.pem", "--json"])).expect("JSON");
    let (line, thumbprint) =
        (key["toml"].as_str().expect("a line"), key["thumbprint"].as_str().expect("one"));
    write_policy(&deployment, "night-approval", "night.toml", |policy| {
        let voter = format!("\n[[voter]]\nname = \"newcomer\"\n{line}\ngroups = [\"officers\"]\n");
        policy.replace("at_least = 2\nof = \"engineers\"", "at_least = 1\nof = \"officers\"") + &voter
    });
    replace(&deployment, "change-night-approval", "night.toml", "to-officers", &BOTH);
    let night = Digest::of(&fs::read(deployment.directory().join("night.toml")).expect("it is there"));
    let (case, view) = block_on(opened_by(&desk, "nightly-signing", night));
    // The governing contract's key is replaced, too: both stand in the history of what comes after.
    block_on(async {
        let (rotation, _) = desk.start_case("rotate-night-approval", "ci", "rotation", b"x").await?;
        desk.finish(&rotation, &BOTH).await
    });
    vote(&deployment, &case, "newcomer");
    let (_, outcome) = block_on(desk.end(&case));
    assert_eq!(outcome, CaseOutcome::Done);
    let after = block_on(async {
        for number in 0.. {
            let (case, _) =
                desk.start_case("nightly-signing", "ci", &format!("rotated-{number}"), b"x").await?;
            let view = desk.open_request(&case).await?;
            if asked(&view).key_version != KeyVersion::first() {
                return Ok(case);
            }
        }
        unreachable!("it goes on for ever")
    });
    vote(&deployment, &after, "newcomer");
    block_on(async {
        assert_eq!(desk.end(&after).await?.1, CaseOutcome::Done);
        assert_eq!(bundle_of(&desk, &case).await?.history.len(), 1);
        let bundle = bundle_of(&desk, &after).await?;
        assert_eq!((bundle.contract_transitions.len(), bundle.history.len()), (1, 2));
        Ok(())
    });
    assert!(view.lineage.is_some());
    // He is a voter for the KMS, too, which can turn his ballots away.
    let suspended = deployment.assent_kms(&["voter", "suspend", thumbprint]).expect("it runs");
    assert!(suspended.status.success(), "{}", String::from_utf8_lossy(&suspended.stderr));
}

#[test]
fn a_policy_that_cannot_be_is_refused_before_anything_is_sent() {
    let deployment = started();
    let desk = deployment.desk().clone();
    let process = "change-release-approval";
    write_policy(&deployment, "release-approval", "never.toml", |policy| policy.replace("= 2", "= 4"));
    let propose_it = |file: &str, more: &[&str]| {
        let arguments = [&["propose", process, "--policy", file, "--key", "ci.pem"][..], more].concat();
        said(&deployment, &arguments)
    };
    let (code, text) = propose_it("never.toml", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("never.toml:") && text.contains("nothing was sent"), "{text}");
    done(&deployment, &["policy", "show", "release-approval", "--out", "same.toml"]);
    let (code, text) = propose_it("same.toml", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("nothing to change"), "{text}");

    // One that starts from another policy is refused by the contract, and one whose document is none by the log.
    write_policy(&deployment, "release-approval", "one.toml", |policy| policy.replace("= 2", "= 1"));
    let other = format!("from={}", Digest::of(b"another"));
    let (code, text) = propose_it("one.toml", &["--input", &other, "--case", "other", "--wait"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("refused by the contract"), "{text}");
    let started = block_on(async {
        let file = fs::read(deployment.directory().join("never.toml"))?;
        desk.client().submit(&name("process"), file.clone()).await?;
        Ok(Digest::of(&file))
    });
    let of_genesis = desk.genesis().contract(&name("release-approval")).expect("there").policy.digest();
    let (from, to) = (format!("from={of_genesis}"), format!("to={started}"));
    let (code, text) =
        said(&deployment, &["propose", process, "--input", &from, "--input", &to, "--key", "ci.pem"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("`assent policy check` says why"), "{text}");
}

#[test]
fn of_two_approved_changes_from_one_policy_the_second_is_never_done() {
    let deployment = started();
    let desk = deployment.desk().clone();
    for (file, threshold) in [("one.toml", "= 1"), ("three.toml", "= 3")] {
        write_policy(&deployment, "release-approval", file, |policy| policy.replace("= 2", threshold));
    }
    let process = "change-release-approval";
    let cases = [("one.toml", "one"), ("three.toml", "three")]
        .map(|(file, case)| propose(&deployment, process, file, case));
    // Both are open before either is approved.
    block_on(async {
        for case in &cases {
            desk.open_request(case).await?;
        }
        desk.finish(&cases[0], &BOTH).await?;
        let view = desk.open_request(&cases[1]).await?;
        for voter in BOTH {
            desk.vote(&view, voter, Approve).await?;
        }
        let waits = |view: &assent::api::CaseView| {
            let last = view.duty.as_ref().and_then(|duty| duty.last.as_ref());
            last.is_some_and(|last| last.needs_person && last.refusal.reason == "policy-not-in-force")
        };
        desk.case_until(&cases[1], waits).await.context("the KMS refuses it")?;
        Ok(())
    });
    let show = done(&deployment, &["policy", "show", "release-approval"]);
    assert!(show.contains("at_least = 1"), "{show}");
}
