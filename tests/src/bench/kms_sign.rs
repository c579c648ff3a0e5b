//! `kms-sign`: duties a second through the whole of the KMS.

use anyhow::{Context as _, Result, bail};
use assent_consensus::duty::{Duty, DutyAnswer, DutyReport};
use assent_consensus::jws::Jws;
use assent_consensus::message::CountedMessage;
use assent_consensus::subject::SignatureFormat;
use assent_consensus::vote::Outcome;

use super::bare_loop::BareLoop;
use super::load::send_all;
use super::{Figure, Report};
use crate::scripted::case::{action_due, decision_due, recorded};
use crate::scripted::{Decided, Deployment, Kms, Opened, Plan, now};

pub(super) const THREE: Plan = Plan {
    contract: "three",
    rule: "{ at_least = 3, of = \"all\" }",
    voters: 3,
    act_within: "7d",
    key: Some(("release", SignatureFormat::Der)),
};
const TWENTY: Plan =
    Plan { contract: "twenty", rule: "{ at_least = 20, of = \"all\" }", voters: 20, key: None, ..THREE };
/// How many callers, and how many duties they send in one round.
const LOADS: [(usize, usize); 3] = [(1, 300), (8, 1_200), (64, 2_400)];
/// What part of the bare loop's rate is to be reached.
const GOAL: f64 = 0.8;
/// The KMS's own signature is verified before it is returned, whatever the duty.
const OWN: usize = 1;

/// Measures, and prints a figure for each case.
///
/// # Errors
/// The KMS refuses what it should sign, or is not there.
pub fn run(report: Report, rounds: usize) -> Result<()> {
    let (kms, deployment) = Kms::deploy(&[THREE, TWENTY])?;
    let bare = BareLoop::start(&kms)?;
    let mut bench = Bench { kms, deployment, bare, cases: 0, measured: 0 };
    // What happens once, such as opening sessions, is not measured.
    bench.round(64, 64)?;
    for (callers, duties) in LOADS {
        let all: Vec<Vec<Rates>> =
            (0..rounds).map(|_| bench.round(callers, duties)).collect::<Result<_>>()?;
        for place in 0..all.first().map_or(0, Vec::len) {
            let rounds: Vec<_> = all.iter().map(|round| (round[place].subject, round[place].bare)).collect();
            let case = format!("{}/{callers}", all[0][place].case);
            report.figure(&Figure::of("kms-sign", case, GOAL, &rounds));
        }
    }
    Ok(())
}

struct Bench {
    kms: Kms,
    deployment: Deployment,
    bare: BareLoop,
    /// How many cases there are, so that each has a name of its own.
    cases: usize,
    /// How many rates were measured.
    measured: usize,
}

/// Of one kind of duty, in one round.
struct Rates {
    case: &'static str,
    subject: f64,
    bare: f64,
}

impl Bench {
    /// One round of every kind of duty.
    fn round(&mut self, callers: usize, duties: usize) -> Result<Vec<Rates>> {
        let mut rates = Vec::new();
        let three = self.open(&THREE, callers, duties, &mut rates)?;
        let decided = self.decide(three, &THREE, callers, &mut rates)?;
        self.act(&decided, callers, &mut rates)?;
        let twenty = self.open(&TWENTY, callers, duties, &mut Vec::new())?;
        self.decide(twenty, &TWENTY, callers, &mut rates)?;
        Ok(rates)
    }

    fn open(
        &mut self,
        plan: &Plan,
        callers: usize,
        count: usize,
        rates: &mut Vec<Rates>,
    ) -> Result<Vec<Opened>> {
        let names: Vec<String> = (0..count).map(|case| format!("case-{}", self.cases + case)).collect();
        self.cases += count;
        let cases = self.deployment.cases(plan.contract, &names);
        let duties = cases.iter().map(|case| self.deployment.vote_request_duty(case)).collect();
        // The start.
        let answers = self.measure("vote-request", 1, callers, duties, rates)?;
        let messages = answers.into_iter().map(message).collect::<Result<Vec<Jws>>>()?;
        Ok(cases.into_iter().zip(messages).map(|(case, message)| Opened::new(case, message)).collect())
    }

    fn decide(
        &mut self,
        opened: Vec<Opened>,
        plan: &Plan,
        callers: usize,
        rates: &mut Vec<Rates>,
    ) -> Result<Vec<Decided>> {
        let voters = usize::from(plan.voters);
        let deployment = &mut self.deployment;
        let ballots: Vec<Vec<CountedMessage>> =
            opened.iter().map(|opened| deployment.approvals(opened, voters)).collect();
        let due = opened.iter().zip(&ballots).map(|(opened, ballots)| {
            decision_due(opened.case.request, Outcome::Approved, ballots, opened.says.opened).to_bytes()
        });
        let due = deployment.consensus.tell_all(now(), due.collect());
        let duties = opened.iter().zip(&ballots).zip(due);
        let duties = duties
            .map(|((opened, ballots), due)| deployment.decision_duty(opened, ballots.clone(), due))
            .collect();
        let case = if voters == 3 { "decision-3" } else { "decision-20" };
        // The vote request and the ballots.
        let answers = self.measure(case, 1 + voters, callers, duties, rates)?;
        let decisions = answers.into_iter().map(message).collect::<Result<Vec<Jws>>>()?;
        let events = opened.iter().zip(&decisions);
        let events = events.map(|(opened, decision)| recorded(opened.case.request, decision).to_bytes());
        let places = self.deployment.consensus.tell_all(now(), events.collect());
        let decided = opened.into_iter().zip(ballots).zip(decisions).zip(places);
        let decided = decided.map(|(((opened, ballots), decision), recorded)| Decided {
            opened,
            ballots,
            decision,
            recorded,
        });
        Ok(decided.collect())
    }

    fn act(&mut self, decided: &[Decided], callers: usize, rates: &mut Vec<Rates>) -> Result<()> {
        let events =
            decided.iter().map(|decided| action_due(decided, decided.opened.case.call.subject.clone()));
        let events = events.map(|event| event.to_bytes()).collect();
        let due = self.deployment.processes.tell_all(now(), events);
        let duties = decided.iter().zip(due);
        let duties = duties
            .map(|(decided, due)| self.deployment.action_duty(self.deployment.bundle(decided), due))
            .collect();
        // Start, vote request, three ballots, decision, and the certificate of the block that holds the decision.
        let answers = self.measure("action", 7, callers, duties, rates)?;
        answers.into_iter().try_for_each(|answer| match answer {
            DutyAnswer::Performed { .. } => Ok(()),
            other => bail!("the KMS did not act: {other:?}"),
        })
    }

    /// Has the KMS do all duties, each in a batch of its own, and the bare loop as many operations.
    fn measure(
        &mut self,
        case: &'static str,
        checked: usize,
        callers: usize,
        duties: Vec<Duty>,
        rates: &mut Vec<Rates>,
    ) -> Result<Vec<DutyAnswer>> {
        let bodies = batches_of_one(&self.kms, &mut self.deployment, duties)?;
        let mut bare = || self.bare.measure(callers, checked + OWN, bodies.len());
        let send = || send_all(&self.kms.socket(), "/v1/duties", callers, &bodies);
        // Each goes first every other time.
        self.measured += 1;
        let (bare, (subject, answers)) = if self.measured.is_multiple_of(2) {
            let bare = bare()?;
            (bare, send()?)
        } else {
            let sent = send()?;
            (bare()?, sent)
        };
        rates.push(Rates { case, subject, bare });
        let answers = answers.into_iter().map(|answer| {
            let mut report: DutyReport = serde_json::from_slice(&answer.body)?;
            report.answers.pop().context("an answer for the duty")
        });
        answers.collect()
    }
}

/// The bodies that ask for each duty in a batch of its own.
pub(super) fn batches_of_one(
    kms: &Kms,
    deployment: &mut Deployment,
    duties: Vec<Duty>,
) -> Result<Vec<Vec<u8>>> {
    let mut connection = kms.connect()?;
    deployment.know(connection.trusted()?);
    // An empty batch has the newest headers verified, as they are once for all that is proven by them.
    connection.perform(&deployment.batch(Vec::new()))?;
    let bodies = duties.into_iter().map(|duty| serde_json::to_vec(&deployment.batch(vec![duty])));
    Ok(bodies.collect::<Result<_, _>>()?)
}

fn message(answer: DutyAnswer) -> Result<Jws> {
    match answer {
        DutyAnswer::Signed { message, .. } => Ok(message),
        other => bail!("the KMS did not sign: {other:?}"),
    }
}
