//! Keys that reach their limits while the system works: with the real programs and a real token.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use assent::api::{DutyView, RequestState, RequestView};
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::message::KeyVersion;
use assent_consensus::vote::Choice::Approve;
use assent_tests::deployment::{Case, Deployment, Desk};

fn block_on<T>(work: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work).unwrap_or_else(|error| panic!("{error:#}"))
}

fn started() -> Deployment {
    Deployment::start().unwrap_or_else(|error| panic!("{error:#}"))
}

/// What the security officer is told.
fn told(deployment: &Deployment, arguments: &[&str]) -> Result<String> {
    let output = deployment.assent_kms(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn started_case(desk: &Desk, process: &str, case: &str) -> Result<Case> {
    Ok(desk.start_case(process, "ci", case, case.as_bytes()).await?.0)
}

async fn approve(desk: &Desk, view: &RequestView) -> Result<()> {
    for voter in ["engineer-1", "engineer-2"] {
        desk.vote(view, voter, Approve).await?;
    }
    Ok(())
}

/// A case that is approved, and not done yet.
async fn approved(desk: &Desk, process: &str, case: &str) -> Result<Case> {
    let case = started_case(desk, process, case).await?;
    approve(desk, &desk.open_request(&case).await?).await?;
    Ok(case)
}

async fn ended(desk: &Desk, case: &Case) -> Result<Bundle> {
    let (view, outcome) = desk.end(case).await?;
    ensure!(outcome == CaseOutcome::Done, "{outcome:?}: {view:?}");
    let bundle: Bundle = json::read(&desk.client().bundle(case.request).await?)?;
    bundle::verify(desk.genesis(), &bundle, &BTreeSet::new())?;
    Ok(bundle)
}

/// Whether a duty was refused for this reason, and until a person has looked.
fn waits(duty: &Option<DutyView>, reason: &str) -> bool {
    let last = duty.as_ref().and_then(|duty| duty.last.as_ref());
    last.is_some_and(|last| last.needs_person && last.refusal.reason == reason)
}

#[test]
fn a_release_key_that_is_used_up_signs_nothing_more_and_its_next_version_goes_on() {
    let mut deployment = started();
    let desk = deployment.desk().clone();
    let second = block_on(async {
        told(&deployment, &["key", "limit", "--key", "release", "--uses", "1"])?;
        let first = approved(&desk, "release-signing", "first").await?;
        ensure!(ended(&desk, &first).await?.result.context("it was signed")?.version == KeyVersion::first());
        let second = approved(&desk, "release-signing", "second").await?;
        desk.case_until(&second, |view| waits(&view.duty, "key-not-active")).await?;
        ensure!(told(&deployment, &["key", "list"])?.contains("deactivated"));
        let rotation = approved(&desk, "rotate-release", "rotation").await?;
        ensure!(desk.end(&rotation).await?.1 == CaseOutcome::Done);
        Ok(second)
    });
    deployment.kms().kill().expect("it runs");
    deployment.node().kill().expect("it runs");
    deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
    deployment.start_node().unwrap_or_else(|error| panic!("{error:#}"));
    block_on(async {
        let result = ended(&desk, &second).await?.result.context("it was signed")?;
        ensure!(result.version == KeyVersion::first().next());
        // The count came with the new version, and is used up again.
        let third = approved(&desk, "release-signing", "third").await?;
        desk.case_until(&third, |view| waits(&view.duty, "key-not-active")).await?;
        told(&deployment, &["audit", "verify"]).map(drop)
    });
}

#[test]
fn cases_above_a_rate_are_done_later_without_a_person() {
    let deployment = started();
    let desk = deployment.desk().clone();
    block_on(async {
        told(&deployment, &["key", "limit", "--key", "release", "--rate", "1/1s"])?;
        let mut cases = Vec::new();
        for number in 0..3 {
            cases.push(approved(&desk, "release-signing", &format!("case-{number}")).await?);
        }
        for case in &cases {
            ended(&desk, case).await?;
        }
        let log = std::fs::read_to_string(deployment.directory().join("kms.log"))?;
        ensure!(log.contains("rate-reached"), "{log}");
        told(&deployment, &["audit", "verify"]).map(drop)
    });
}

#[test]
fn a_contract_whose_key_is_used_up_ends_what_is_open_and_opens_more_with_its_next_version() {
    let mut deployment = started();
    let desk = deployment.desk().clone();
    let (open, waiting) = block_on(async {
        told(&deployment, &["key", "limit", "--contract", "night-approval", "--uses", "1"])?;
        let open = started_case(&desk, "nightly-signing", "open").await?;
        desk.open_request(&open).await?;
        let waiting = started_case(&desk, "nightly-signing", "waiting").await?;
        let view = desk.request_until(waiting.request, |view| waits(&view.duty, "key-not-active")).await?;
        assert_eq!(view.summary.state, RequestState::Called);
        let rotation = approved(&desk, "rotate-night-approval", "rotation").await?;
        ensure!(desk.end(&rotation).await?.1 == CaseOutcome::Done);
        Ok((open, waiting))
    });
    deployment.kms().kill().expect("it runs");
    deployment.node().kill().expect("it runs");
    deployment.start_kms().unwrap_or_else(|error| panic!("{error:#}"));
    deployment.start_node().unwrap_or_else(|error| panic!("{error:#}"));
    block_on(async {
        approve(&desk, &desk.open_request(&open).await?).await?;
        let bundle = ended(&desk, &open).await?;
        assert_eq!(bundle.contract_transitions.len(), 0, "by the version that opened it");
        approve(&desk, &desk.open_request(&waiting).await?).await?;
        let bundle = ended(&desk, &waiting).await?;
        assert_eq!(bundle.contract_transitions.len(), 1, "by the next one");
        told(&deployment, &["audit", "verify"]).map(drop)
    });
}
