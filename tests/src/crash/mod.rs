//! The campaign `crash`: the real node and the real KMS are killed, as `kill -9` does it, at a random moment of running
//! cases, and started again. Nothing may show it in the end: every case ends as its votes say, what was acknowledged is in
//! the log where it was said to be, and there is exactly one decision and one action of each. In some trials a key or a policy
//! is replaced meanwhile.
//!
//! ```text
//! plan (cases, moment, target) ─▶ trial: people work ║ kill, start ─▶ outcomes, bundles, events
//!                                              all trials ─▶ books: receipts against the logs' files, audit log
//! ```

mod books;
mod plan;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use assent::api::RequestState;
use assent_consensus::bundle::{self, Bundle};
use assent_consensus::event::CaseOutcome;
use assent_consensus::json;
use assent_consensus::message::RequestId;
use tokio::runtime::Runtime;

use crate::campaign::Campaign;
use crate::deployment::{Case, Deployment, Desk, Receipt};
use books::Books;
use plan::{Asks, CasePlan, Plan, Target};

/// The longest that a step of a case may take before what is to be killed is killed anyway.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs `count` trials, numbered from `seed`.
///
/// # Errors
/// There is no deployment to try anything with.
pub fn run(count: u64, seed: u64) -> Result<ExitCode> {
    let mut campaign = Campaign::new("crash", count);
    let mut world = World::start()?;
    for (trial, seed) in (0..count).map(|trial| (trial, seed.wrapping_add(trial))) {
        campaign.show(trial);
        let plan = Plan::draw(seed);
        match world.trial(seed, &plan) {
            Ok(()) => world.passed.push(seed),
            Err(error) => {
                campaign.fail(seed, format!("killed: {:?}; {error:#}", plan.target));
                campaign.say(format!("the deployment's files stay in {}", world.deployment.keep().display()));
                std::mem::replace(&mut world, World::start()?).close(&mut campaign)?;
            }
        }
    }
    world.close(&mut campaign)?;
    Ok(campaign.end())
}

/// A deployment that lives through many trials.
struct World {
    deployment: Deployment,
    runtime: Runtime,
    books: Books,
    passed: Vec<u64>,
}

impl World {
    fn start() -> Result<World> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(World { deployment: Deployment::start()?, runtime, books: Books::default(), passed: Vec::new() })
    }

    fn trial(&mut self, seed: u64, plan: &Plan) -> Result<()> {
        let (step, steps) = mpsc::channel();
        let desk = self.deployment.desk().clone();
        let people: Vec<_> = plan
            .cases
            .iter()
            .map(|case| self.runtime.spawn(play(desk.clone(), case.clone(), step.clone())))
            .collect();
        drop(step);
        for _ in 0..plan.after_steps {
            // When all people are done, or wait too long for something, the moment is now.
            if steps.recv_timeout(STEP_PATIENCE).is_err() {
                break;
            }
        }
        std::thread::sleep(plan.delay);
        self.kill_and_start(plan)?;
        let mut played = Vec::new();
        for person in people {
            played.push(self.runtime.block_on(person).context("what people do broke off")??);
        }
        for (case, planned) in played.iter().zip(&plan.cases) {
            self.books.keep(seed, &case.receipts);
            ensure!(case.outcome == planned.outcome, "{planned:?} ended as {:?}", case.outcome);
            let is_signed = planned.outcome == CaseOutcome::Done && planned.asks == Asks::Signature;
            let checked = self.runtime.block_on(check_proof(&desk, case, is_signed));
            checked.with_context(|| format!("{planned:?}"))?;
        }
        self.runtime.block_on(self.books.read_events(&desk))?;
        for (Played { case, outcome, .. }, planned) in played.iter().zip(&plan.cases) {
            self.books.check_once(case, *outcome).with_context(|| format!("{planned:?}"))?;
        }
        Ok(())
    }

    fn kill_and_start(&mut self, plan: &Plan) -> Result<()> {
        let (node, kms) = (plan.target != Target::Kms, plan.target != Target::Node);
        if node {
            self.deployment.node().kill()?;
        }
        if kms {
            self.deployment.kms().kill()?;
        }
        std::thread::sleep(plan.outage);
        if kms {
            self.deployment.start_kms()?;
        }
        if node {
            self.deployment.start_node()?;
        }
        Ok(())
    }

    /// Compares all receipts with the logs' files, and counts the trials that passed.
    fn close(mut self, campaign: &mut Campaign) -> Result<()> {
        let closed = self.books.close(&mut self.deployment);
        if closed.is_ok() {
            campaign.say(format!("{} receipts were compared with the logs", self.books.receipts()));
        }
        for seed in &self.passed {
            match closed.as_ref().map(|lost| lost.get(seed)) {
                Ok(None) => campaign.pass(),
                Ok(Some(lost)) => campaign.fail(*seed, lost),
                Err(error) => campaign.fail(*seed, format!("{error:#}")),
            }
        }
        if !self.passed.is_empty() && !closed.is_ok_and(|lost| lost.is_empty()) {
            campaign.say(format!("the deployment's files stay in {}", self.deployment.keep().display()));
        }
        Ok(())
    }
}

/// A case that was played to its end.
struct Played {
    case: Case,
    outcome: CaseOutcome,
    receipts: Vec<Receipt>,
}

/// What people do in one case, however often the node is gone.
async fn play(desk: Arc<Desk>, plan: CasePlan, step: Sender<()>) -> Result<Played> {
    // Nobody listens any more when the moment is past.
    let done = || {
        let _ = step.send(());
    };
    let mut receipts = Vec::new();
    let (process, name) = (plan.process, &plan.name);
    let case = match plan.asks {
        Asks::Signature | Asks::Rotation => {
            let (case, receipt) = desk.start_case(process, "ci", name, name.as_bytes()).await?;
            receipts.extend(receipt);
            case
        }
        Asks::Policy => {
            let rules = |policy: &str| policy.split("# by ").next().unwrap_or_default().to_owned();
            let next = |policy: String| rules(&policy) + &format!("# by {name}\n");
            desk.propose_policy(process, "release-approval", name, next).await?
        }
    };
    done();
    let view = desk.open_request(&case).await.context("the request does not open")?;
    done();
    for (voter, choice) in &plan.votes {
        receipts
            .extend(desk.vote(&view, voter, *choice).await.with_context(|| format!("{voter} cannot vote"))?);
        done();
    }
    if plan.taken_back {
        receipts.extend(desk.cancel("ci", &case).await.context("the case cannot be taken back")?);
        done();
    }
    let (_, outcome) = desk.end(&case).await.context("the case does not end")?;
    done();
    Ok(Played { case, outcome, receipts })
}

/// Verifies the proof of a case that has ended.
async fn check_proof(desk: &Desk, Played { case, .. }: &Played, is_signed: bool) -> Result<()> {
    let request: RequestId = case.request;
    let view = desk.request_until(request, |view| view.summary.state.is_final()).await?;
    ensure!(view.summary.state == RequestState::Decided, "the request is {:?}", view.summary.state);
    let bundle: Bundle = json::read(&desk.client().bundle(request).await?)?;
    bundle::verify(desk.genesis(), &bundle, &BTreeSet::new())?;
    ensure!(bundle.result.is_some() == is_signed, "a result exactly if a signature was approved");
    Ok(())
}
