//! Keys that are replaced while the system works: with the real programs, from the approval to the last bundle.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use assent::api::{RequestState, RequestView};
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::json;
use assent_consensus::jws::Signed;
use assent_consensus::message::{KeyVersion, VoteRequest};
use assent_consensus::vote::Choice::Approve;
use assent_tests::deployment::{Case, Deployment, Desk};

const VOTERS: [&str; 2] = ["engineer-1", "engineer-2"];

fn block_on<T>(work: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).unwrap_or_else(|error| panic!("{error:#}"))
}

fn second() -> KeyVersion {
    KeyVersion::first().next()
}

/// The version of its contract's key that a request uses.
fn version_of(view: &RequestView) -> Result<KeyVersion> {
    let jws = view.vote_request.clone().context("it is open")?;
    Ok(Signed::<VoteRequest>::from_jws(jws)?.unverified().key_version)
}

/// A case that is approved and done.
async fn done(desk: &Desk, process: &str, case: &str) -> Result<Case> {
    let (case, _) = desk.start_case(process, "ci", case, case.as_bytes()).await?;
    desk.finish(&case, &VOTERS).await?;
    Ok(case)
}

/// Starts cases until one uses another version than the first.
async fn after_rotation(desk: &Desk, process: &str) -> Result<(Case, RequestView)> {
    for number in 0.. {
        let (case, _) = desk.start_case(process, "ci", &format!("{process}-after-{number}"), b"x").await?;
        let view = desk.open_request(&case).await?;
        if version_of(&view)? != KeyVersion::first() {
            return Ok((case, view));
        }
        desk.finish(&case, &VOTERS).await?;
    }
    unreachable!("it goes on for ever")
}

async fn bundle_of(desk: &Desk, case: &Case) -> Result<Bundle> {
    let bundle: Bundle = json::read(&desk.client().bundle(case.request).await?)?;
    bundle::verify(desk.genesis(), &bundle, &BTreeSet::new())?;
    Ok(bundle)
}

fn started() -> Deployment {
    Deployment::start().unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn contract_and_release_key_are_replaced_and_every_bundle_is_proven_by_genesis_alone() {
    let mut deployment = started();
    let desk = deployment.desk().clone();
    let (case, before, open) = block_on(async {
        let before = done(&desk, "release-signing", "before").await?;
        let (open, _) = desk.start_case("release-signing", "ci", "open", b"open").await?;
        desk.open_request(&open).await?;
        done(&desk, "rotate-release", "release-rotation").await?;
        done(&desk, "rotate-release-approval", "first-rotation").await?;
        let (case, view) = after_rotation(&desk, "release-signing").await?;
        assert_eq!(version_of(&view)?, second());
        desk.finish(&case, &VOTERS).await?;
        Ok((case, before, open))
    });
    // What is in force outlives both programs.
    deployment.kms().kill().expect("it runs");
    deployment.node().kill().expect("it runs");
    deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
    deployment.start_node().unwrap_or_else(|error| panic!("{error:#}"));
    block_on(async {
        // What was open ends with the version that opened it.
        desk.finish(&open, &VOTERS).await?;
        let before = bundle_of(&desk, &before).await?;
        assert_eq!((before.contract_transitions.len(), before.history.len()), (0, 0));
        let meanwhile = bundle_of(&desk, &open).await?;
        assert_eq!((meanwhile.contract_transitions.len(), meanwhile.key_transitions.len()), (0, 1));
        let after = bundle_of(&desk, &case).await?;
        assert_eq!((after.contract_transitions.len(), after.key_transitions.len()), (1, 1));
        assert_eq!(after.history.len(), 2);
        assert_eq!(after.result.context("it was signed")?.version, second());
        Ok(())
    });
    // With the programs that people use: who votes is shown how the key came to be, and who audits needs genesis alone.
    let said = |arguments: &[&str]| {
        let output = deployment.assent(arguments).expect("it runs");
        let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let (asked, _) = block_on(async {
        let (case, _) = desk.start_case("release-signing", "ci", "voted", b"voted").await?;
        let view = desk.open_request(&case).await?;
        assert!(view.lineage.is_some());
        Ok((case, view))
    });
    for voter in VOTERS {
        let vote =
            ["vote", &asked.request.to_string(), "--approve", "--yes", "--key", &format!("{voter}.pem")];
        assert_eq!(said(&vote).0, Some(0), "{}", said(&vote).1);
    }
    let fetched = said(&["fetch", "voted", "--wait", "--out", "out", "--name", "voted"]);
    assert_eq!(fetched.0, Some(0), "{}", fetched.1);
    let verified = said(&["verify", "--genesis", "node/genesis.json", "out/voted.bundle.json"]);
    assert_eq!(verified.0, Some(0), "{}", verified.1);
    deployment.check_ledgers().unwrap_or_else(|error| panic!("{error:#}"));
    let audited = deployment.assent_kms(&["audit", "verify"]).expect("it runs");
    assert!(audited.status.success(), "{}", String::from_utf8_lossy(&audited.stderr));
    let keys = deployment.assent_kms(&["key", "list", "--json"]).expect("it runs");
    let keys = String::from_utf8_lossy(&keys.stdout).into_owned();
    assert_eq!(keys.matches("\"version\": 2").count() + keys.matches("\"version\":2").count(), 2, "{keys}");
}

#[test]
fn a_compromise_voids_what_is_open_and_the_case_ends_under_the_new_key() {
    let deployment = started();
    let desk = deployment.desk().clone();
    block_on(async {
        let (case, _) = desk.start_case("nightly-signing", "ci", "nightly", b"nightly").await?;
        let view = desk.open_request(&case).await?;
        desk.vote(&view, "engineer-1", Approve).await?;
        let told = deployment.assent_kms(&["key", "compromised", "--contract", "night-approval"])?;
        anyhow::ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        done(&desk, "night-approval-compromised", "emergency").await?;
        let void = desk.request_until(case.request, |view| view.summary.state.is_final()).await?;
        assert_eq!(void.summary.state, RequestState::Void);
        // The process asks again, under the new key.
        let again = desk.next_request(&case).await?.context("it has retries")?;
        let view = desk.open_request(&again).await?;
        assert_eq!(version_of(&view)?, second());
        desk.finish(&again, &VOTERS).await?;
        let bundle = bundle_of(&desk, &again).await?;
        assert_eq!((bundle.contract_transitions.len(), bundle.history.len()), (1, 1));
        Ok(())
    });
}
