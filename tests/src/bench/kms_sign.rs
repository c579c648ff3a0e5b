//! `kms-sign` and `kms-sign-slow`: duties a second through the whole of the KMS, with SoftHSM as it is and as a slow device.

use anyhow::{Context as _, Result, bail};
use assent_consensus::duty::{Duty, DutyAnswer, DutyReport};
use assent_consensus::jws::Jws;
use assent_consensus::message::CountedMessage;
use assent_consensus::subject::SignatureFormat;
use assent_consensus::vote::Outcome;
use assent_hsm_mock::Latency;

use super::bare_loop::{BareLoop, Work};
use super::load::send_all;
use super::usage::Watch;
use super::{Figure, Report, Usage};
use crate::scripted::case::{action_due, decision_due, recorded};
use crate::scripted::{Answer, Decided, Deployment, Equipment, Kms, Opened, Plan, now};

pub(super) const THREE: Plan = Plan {
    contract: "three",
    rule: "{ at_least = 3, of = \"all\" }",
    voters: 3,
    act_within: "7d",
    key: Some(("release", SignatureFormat::Der)),
};
const TWENTY: Plan =
    Plan { contract: "twenty", rule: "{ at_least = 20, of = \"all\" }", voters: 20, key: None, ..THREE };
/// The KMS's own signature is verified before it is returned, whatever the duty.
const OWN: usize = 1;
/// How many sessions the KMS has with a slow device: one for each of the most callers, as the bare loop has.
const SLOW_SESSIONS: usize = 64;

/// A device, and what is done with it.
struct Setting {
    bench: &'static str,
    /// What stands before the name of a case.
    prefix: &'static str,
    /// How slow the device is; nothing if it stays as it is.
    latency: Option<Latency>,
    /// How many callers, and how many duties they send in one round.
    loads: [(usize, usize); 3],
    /// What part of the bare loop's rate is to be reached.
    goal: f64,
}

const AS_IS: Setting = Setting {
    bench: "kms-sign",
    prefix: "",
    latency: None,
    loads: [(1, 300), (8, 1_200), (64, 2_400)],
    goal: 0.8,
};
const SLOW: [Setting; 2] = [
    Setting {
        bench: "kms-sign-slow",
        prefix: "1ms/",
        latency: Some(Latency::Network),
        loads: [(1, 200), (8, 1_200), (64, 2_400)],
        goal: 0.97,
    },
    Setting {
        bench: "kms-sign-slow",
        prefix: "75ms/",
        latency: Some(Latency::YubiHsm),
        loads: [(1, 20), (8, 40), (64, 96)],
        goal: 0.97,
    },
];

/// Measures, and prints a figure for each case.
///
/// # Errors
/// The KMS refuses what it should sign, or is not there.
pub fn run(report: Report, rounds: usize) -> Result<()> {
    Bench::start(Equipment::default())?.run(&AS_IS, report, rounds)
}

/// The same with slow devices, against signatures alone: what the KMS does besides should vanish behind the device.
///
/// # Errors
/// As [`run`]; the module that delays is not built.
pub fn run_slow(report: Report, rounds: usize) -> Result<()> {
    for setting in &SLOW {
        let equipment = Equipment { sessions: SLOW_SESSIONS, has_faults: true, ..Equipment::default() };
        Bench::start(equipment)?.run(setting, report, rounds)?;
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

/// What is measured of one kind of duty, in one round.
struct Rates {
    case: &'static str,
    subject: f64,
    bare: f64,
    /// Of the bare loop for callers at its socket.
    at_socket: f64,
    usage: Usage,
}

/// One round: the callers, the device, and what comes of it.
struct Round<'s> {
    setting: &'s Setting,
    callers: usize,
    duties: usize,
    rates: Vec<Rates>,
}

/// How a kind of duty is measured.
#[derive(Clone, Copy)]
struct Kind {
    case: &'static str,
    /// How many signatures it makes the KMS check.
    checked: usize,
}

impl Bench {
    fn start(equipment: Equipment) -> Result<Bench> {
        let (kms, deployment) = Kms::deploy_with(&[THREE, TWENTY], equipment)?;
        let bare = BareLoop::start(&kms)?;
        Ok(Bench { kms, deployment, bare, cases: 0, measured: 0 })
    }

    fn run(&mut self, setting: &Setting, report: Report, rounds: usize) -> Result<()> {
        // What happens once, such as opening sessions, is not measured.
        self.round(&Setting { latency: None, ..*setting }, 64, 64)?;
        for (callers, duties) in setting.loads {
            let all: Vec<Vec<Rates>> =
                (0..rounds).map(|_| self.round(setting, callers, duties)).collect::<Result<_>>()?;
            for place in 0..all.first().map_or(0, Vec::len) {
                let of = |round: &Vec<Rates>| (round[place].subject, round[place].bare);
                let rates: Vec<_> = all.iter().map(of).collect();
                let usage: Vec<Usage> = all.iter().map(|round| round[place].usage).collect();
                let case = format!("{}{}/{callers}", setting.prefix, all[0][place].case);
                let figure = Figure::of(setting.bench, case, setting.goal, &rates);
                let at_socket = all.iter().map(|round| round[place].at_socket / round[place].bare);
                report.figure(&figure.with_socket(at_socket).with_usage(&usage));
            }
        }
        Ok(())
    }

    /// One round of every kind of duty.
    fn round(&mut self, setting: &Setting, callers: usize, duties: usize) -> Result<Vec<Rates>> {
        let mut round = Round { setting, callers, duties, rates: Vec::new() };
        // The start.
        let opened = Kind { case: "vote-request", checked: 1 };
        let three = self.open(&THREE, Some(opened), &mut round)?;
        let decided = self.decide(three, &THREE, &mut round)?;
        self.act(&decided, &mut round)?;
        let twenty = self.open(&TWENTY, None, &mut round)?;
        self.decide(twenty, &TWENTY, &mut round)?;
        Ok(round.rates)
    }

    /// Has vote requests signed, and measures that if it is of a kind.
    fn open(&mut self, plan: &Plan, kind: Option<Kind>, round: &mut Round<'_>) -> Result<Vec<Opened>> {
        let count = round.duties;
        let names: Vec<String> = (0..count).map(|case| format!("case-{}", self.cases + case)).collect();
        self.cases += count;
        let cases = self.deployment.cases(plan.contract, &names);
        let duties = cases.iter().map(|case| self.deployment.vote_request_duty(case)).collect();
        let answers = match kind {
            Some(kind) => self.measure(kind, duties, round)?,
            None => {
                let bodies = batches_of_one(&self.kms, &mut self.deployment, duties)?;
                answers(send_all(&self.kms.socket(), "/v1/duties", round.callers, &bodies)?.1)?
            }
        };
        let messages = answers.into_iter().map(message).collect::<Result<Vec<Jws>>>()?;
        Ok(cases.into_iter().zip(messages).map(|(case, message)| Opened::new(case, message)).collect())
    }

    fn decide(&mut self, opened: Vec<Opened>, plan: &Plan, round: &mut Round<'_>) -> Result<Vec<Decided>> {
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
        let answers = self.measure(Kind { case, checked: 1 + voters }, duties, round)?;
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

    fn act(&mut self, decided: &[Decided], round: &mut Round<'_>) -> Result<()> {
        let events =
            decided.iter().map(|decided| action_due(decided, decided.opened.case.call.subject.clone()));
        let events = events.map(|event| event.to_bytes()).collect();
        let due = self.deployment.processes.tell_all(now(), events);
        let duties = decided.iter().zip(due);
        let duties = duties
            .map(|(decided, due)| self.deployment.action_duty(self.deployment.bundle(decided), due))
            .collect();
        // Start, vote request, three ballots, decision, and the certificate of the block that holds the decision.
        let answers = self.measure(Kind { case: "action", checked: 7 }, duties, round)?;
        answers.into_iter().try_for_each(|answer| match answer {
            DutyAnswer::Performed { .. } => Ok(()),
            other => bail!("the KMS did not act: {other:?}"),
        })
    }

    /// Has the KMS do all duties, each in a batch of its own, and the bare loop as many operations.
    fn measure(&mut self, kind: Kind, duties: Vec<Duty>, round: &mut Round<'_>) -> Result<Vec<DutyAnswer>> {
        let bodies = batches_of_one(&self.kms, &mut self.deployment, duties)?;
        let Round { callers, setting, .. } = *round;
        let verifications = kind.checked + OWN;
        let work = match setting.latency {
            None => Work::Duty { verifications },
            Some(latency) => {
                be(&mut self.kms, latency)?;
                Work::Signature
            }
        };
        let process = self.kms.process().context("the KMS runs")?;
        let mut bare = || self.bare.measure(callers, bodies.len(), work);
        let send = || -> Result<_> {
            let watch = Watch::begin(process)?;
            let (subject, answers) = send_all(&self.kms.socket(), "/v1/duties", callers, &bodies)?;
            Ok((subject, answers, watch.end(bodies.len())?))
        };
        // Each goes first every other time.
        self.measured += 1;
        let (bare, (subject, sent, usage)) = if self.measured.is_multiple_of(2) {
            let bare = bare()?;
            (bare, send()?)
        } else {
            let sent = send()?;
            (bare()?, sent)
        };
        let (at_socket, _) = send_all(self.bare.socket(), &format!("/{verifications}"), callers, &bodies)?;
        if setting.latency.is_some() {
            be(&mut self.kms, Latency::AsIs)?;
        }
        round.rates.push(Rates { case: kind.case, subject, bare, at_socket, usage });
        answers(sent)
    }
}

/// How slow the device is from now on.
fn be(kms: &mut Kms, latency: Latency) -> Result<()> {
    Ok(kms.faults_mut().context("the device can be made slow")?.be(latency, None)?)
}

/// What the answers say of the one duty in each.
fn answers(all: Vec<Answer>) -> Result<Vec<DutyAnswer>> {
    let answers = all.into_iter().map(|answer| {
        let mut report: DutyReport = serde_json::from_slice(&answer.body)?;
        report.answers.pop().context("an answer for the duty")
    });
    answers.collect()
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
