//! The campaign `rotation`: cases go through the real programs while their keys are replaced, three times each, and their
//! policies, twice each; one contract's key is compromised in the midst. Every case ends as its votes say, no duty is refused
//! but for a moment (and those of the compromised key), and every bundle is proven by genesis alone.
//!
//! ```text
//! callers ─▶ case ─▶ votes ─▶ done ─▶ bundle ─▶ verified        cases of `release-approval` and of `night-approval`
//! officer ─▶ at each eighth of them: [`CEREMONIES`]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use assent::api::RequestState;
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::digest::Digest;
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::message::KeyVersion;
use assent_consensus::vote::Choice::Approve;
use tokio::sync::watch;
use tokio::task::JoinSet;

use Ceremony::{Compromise, Policy, Rotation};

use crate::campaign::Campaign;
use crate::deployment::{Case, Deployment, Desk};

/// How many cases are under way at the same time.
const CALLERS: u64 = 48;
/// The cases' processes, in turn: of the contract that governs itself, and of the one that another governs.
const PROCESSES: [&str; 2] = ["release-signing", "nightly-signing"];

/// What the officer does.
#[derive(Clone, Copy)]
enum Ceremony {
    /// A key is followed by its next version.
    Rotation(&'static str),
    /// So is one that is not trusted any more.
    Compromise(&'static str, &'static str),
    /// A contract gets another policy.
    Policy(&'static str, &'static str),
}

/// What is done when so many eighths of the cases are done.
const CEREMONIES: [(u64, Ceremony); 13] = [
    (1, Rotation("rotate-release")),
    (1, Rotation("rotate-release-approval")),
    (2, Policy("change-release-approval", "release-approval")),
    (2, Rotation("rotate-night-approval")),
    (3, Rotation("rotate-release")),
    (3, Policy("change-night-approval", "night-approval")),
    (3, Rotation("rotate-release-approval")),
    (4, Compromise("night-approval-compromised", "night-approval")),
    (5, Policy("change-night-approval", "night-approval")),
    (5, Rotation("rotate-night-approval")),
    (6, Rotation("rotate-release")),
    (6, Policy("change-release-approval", "release-approval")),
    (6, Rotation("rotate-release-approval")),
];
/// Why a person may be asked for: nothing is signed by a compromised key, and what it has opened is void.
const EXPECTED: [&str; 1] = ["key-compromised"];
/// How long the whole may take for each case, and at least.
const PATIENCE: Duration = Duration::from_secs(600);

/// Has `count` cases done.
///
/// # Errors
/// There is no deployment.
pub fn run(count: u64, seed: u64) -> Result<ExitCode> {
    let mut campaign = Campaign::new("rotation", count);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut deployment = Deployment::start()?;
    let (told, done) = watch::channel(0);
    let shared = Arc::new(Shared { desk: deployment.desk().clone(), next: AtomicU64::new(0), count, told });
    let work = runtime.block_on(async {
        let mut callers: JoinSet<Result<Vec<Done>>> = JoinSet::new();
        (0..CALLERS.min(count)).for_each(|_| drop(callers.spawn(shared.clone().call())));
        let officer = officer(&deployment, count, done.clone());
        let (all, officer) = tokio::join!(callers.join_all(), tokio::time::timeout(PATIENCE, officer));
        officer.context("the officer has not ended")??;
        all.into_iter().collect::<Result<Vec<_>>>()
    });
    let ended = work.and_then(|done| check(&deployment, done.into_iter().flatten().collect(), &campaign));
    match ended {
        Ok(()) => (0..count).for_each(|_| campaign.pass()),
        Err(error) => {
            campaign.fail(seed, format!("{error:#}"));
            campaign.say(format!("the deployment's files stay in {}", deployment.keep().display()));
        }
    }
    Ok(campaign.end())
}

struct Shared {
    desk: Arc<Desk>,
    next: AtomicU64,
    count: u64,
    /// How many cases are done.
    told: watch::Sender<u64>,
}

/// A case that was done, and what its bundle shows.
struct Done {
    process: &'static str,
    attempts: u64,
    contract_version: KeyVersion,
    key_version: KeyVersion,
    policy: Digest,
}

impl Shared {
    async fn call(self: Arc<Self>) -> Result<Vec<Done>> {
        let mut done = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return Ok(done);
            }
            let process = PROCESSES[number as usize % PROCESSES.len()];
            let case = self.case(process, number).await;
            done.push(case.with_context(|| format!("case {number} of {process}"))?);
            self.told.send_modify(|done| *done += 1);
        }
    }

    async fn case(&self, process: &'static str, number: u64) -> Result<Done> {
        let (desk, name) = (&self.desk, format!("case-{number}"));
        let (mut case, _) = desk.start_case(process, "ci", &name, name.as_bytes()).await?;
        let mut attempts = 1;
        decide(desk, &case).await?;
        while let Some(again) = desk.next_request(&case).await? {
            case = again;
            attempts += 1;
            decide(desk, &case).await?;
        }
        let (view, outcome) = desk.end(&case).await?;
        ensure!(outcome == CaseOutcome::Done, "{outcome:?}: {view:?}");
        let bundle: Bundle = json::read(&desk.client().bundle(case.request).await?)?;
        let proof = bundle::verify(desk.genesis(), &bundle, &BTreeSet::new())?;
        let contract_version = proof.decision.key_version;
        let policy = proof.policy.digest();
        let key_version = bundle.result.context("it was signed")?.version;
        Ok(Done { process, attempts, contract_version, key_version, policy })
    }
}

/// Has a request approved, unless it ends unsigned.
async fn decide(desk: &Desk, case: &Case) -> Result<()> {
    let view = desk.open_request(case).await?;
    if view.summary.state == RequestState::Void {
        return Ok(());
    }
    for voter in ["engineer-1", "engineer-2"] {
        match desk.vote(&view, voter, Approve).await {
            Ok(_) => {}
            Err(error) => {
                // It may have ended meanwhile.
                let now = desk.request_until(case.request, |_| true).await?;
                ensure!(now.summary.state == RequestState::Void, "{error:#}");
                return Ok(());
            }
        }
    }
    desk.request_until(case.request, |view| view.summary.state.is_final()).await?;
    Ok(())
}

/// Replaces keys and policies while cases are done.
async fn officer(deployment: &Deployment, count: u64, mut done: watch::Receiver<u64>) -> Result<()> {
    let desk = deployment.desk();
    for (number, (eighth, ceremony)) in CEREMONIES.into_iter().enumerate() {
        done.wait_for(|done| *done >= count * eighth / 8).await?;
        let name = format!("ceremony-{number}");
        let (process, case) = match ceremony {
            Rotation(process) => (process, desk.start_case(process, "ci", &name, b"x").await?.0),
            Compromise(process, contract) => {
                let told = deployment.assent_kms(&["key", "compromised", "--contract", contract])?;
                ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
                (process, desk.start_case(process, "ci", &name, b"x").await?.0)
            }
            Policy(process, contract) => {
                let change = |policy: String| {
                    let hours =
                        if policy.contains("deadline = \"1h\"") { ("1h", "2h") } else { ("2h", "3h") };
                    policy.replace(hours.0, hours.1)
                };
                (process, desk.propose_policy(process, contract, &name, change).await?)
            }
        };
        decide(desk, &case).await?;
        let (view, outcome) = desk.end(&case).await?;
        ensure!(outcome == CaseOutcome::Done, "{process}: {outcome:?}: {view:?}");
    }
    Ok(())
}

/// What must be so in the end.
fn check(deployment: &Deployment, done: Vec<Done>, campaign: &Campaign) -> Result<()> {
    let mut by_version: BTreeMap<_, u64> = BTreeMap::new();
    let mut policies: BTreeMap<_, BTreeSet<Digest>> = BTreeMap::new();
    let again = done.iter().filter(|done| done.attempts > 1).count();
    for Done { process, contract_version, key_version, policy, .. } in &done {
        policies.entry(*process).or_default().insert(*policy);
        *by_version.entry((*process, *contract_version, *key_version)).or_default() += 1;
    }
    for ((process, contract, key), count) in by_version {
        campaign.say(format!(
            "{process}: {count} with version {contract} of the contract's key and {key} of the other"
        ));
    }
    for (process, policies) in policies {
        campaign.say(format!("{process}: by {} policies", policies.len()));
    }
    campaign.say(format!("{again} asked again, because the key that had asked was compromised"));
    let audited = deployment.assent_kms(&["audit", "verify"])?;
    ensure!(audited.status.success(), "{}", String::from_utf8_lossy(&audited.stderr));

    let mut refused: BTreeMap<(bool, String), u64> = BTreeMap::new();
    for line in std::fs::read_to_string(deployment.directory().join("node.log"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let fields = &line["fields"];
        if let (Some(reason), Some(person)) = (fields["reason"].as_str(), fields["needs_person"].as_bool()) {
            *refused.entry((person, reason.to_owned())).or_default() += 1;
        }
    }
    for ((person, reason), count) in &refused {
        let remedy = if *person { "a person" } else { "retry" };
        campaign.say(format!("{count} duties were told: {remedy}: {reason}"));
        ensure!(!person || EXPECTED.contains(&reason.as_str()), "a duty needs a person: {reason}");
    }
    Ok(())
}
