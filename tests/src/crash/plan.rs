//! What one trial does, drawn by chance: its cases, how they must end, and when what is killed.

use std::time::Duration;

use assent_consensus::event::CaseOutcome;
use assent_consensus::vote::Choice;

use crate::chance::Chance;

/// One trial.
pub(super) struct Plan {
    pub(super) cases: Vec<CasePlan>,
    pub(super) target: Target,
    /// After how many steps of the cases.
    pub(super) after_steps: usize,
    /// And how long after the last of them.
    pub(super) delay: Duration,
    /// How long what was killed stays away.
    pub(super) outage: Duration,
}

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Node,
    Kms,
    Both,
}

/// One case: what people do, and what it must come to.
#[derive(Clone, Debug)]
pub(super) struct CasePlan {
    pub(super) name: String,
    pub(super) process: &'static str,
    pub(super) asks: Asks,
    pub(super) votes: Vec<(&'static str, Choice)>,
    /// Whether the requester takes it back after the votes.
    pub(super) taken_back: bool,
    pub(super) outcome: CaseOutcome,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asks {
    /// A signature.
    Signature,
    /// The next version of a key.
    Rotation,
    /// Another policy.
    Policy,
}

const CASES: u64 = 3;
const VOTERS: [&str; 3] = ["engineer-1", "engineer-2", "engineer-3"];
const PROCESSES: [&str; 4] = ["release-signing", "hotfix-signing", "package-signing", "image-signing"];
/// A case's steps: started, open, up to three votes, ended.
const STEPS: usize = 6;
/// The longest delay after a step: longer than anything takes that follows a step at once.
const DELAY_US: u64 = 40_000;
const OUTAGE_US: u64 = 100_000;

impl Plan {
    pub(super) fn draw(seed: u64) -> Plan {
        let mut chance = Chance::of(seed);
        let count = chance.between(1, CASES);
        let mut cases: Vec<_> =
            (0..count).map(|place| CasePlan::draw(&mut chance, format!("case-{seed}-{place}"))).collect();
        // One at most: each replaces what was there before.
        match chance.between(1, 8) {
            1 => cases[0] = CasePlan::ceremony("rotate-release", Asks::Rotation, seed),
            2 | 3 => cases[0] = CasePlan::ceremony("change-release-approval", Asks::Policy, seed),
            _ => {}
        }
        let target = *chance.one(&[Target::Node, Target::Node, Target::Kms, Target::Kms, Target::Both]);
        let after_steps = chance.place(STEPS * cases.len());
        let delay = Duration::from_micros(chance.between(0, DELAY_US));
        let outage = Duration::from_micros(chance.between(0, OUTAGE_US));
        Plan { cases, target, after_steps, delay, outage }
    }
}

impl CasePlan {
    fn ceremony(process: &'static str, asks: Asks, seed: u64) -> CasePlan {
        let votes = VOTERS[..2].iter().map(|voter| (*voter, Choice::Approve)).collect();
        let (name, outcome) = (format!("case-{seed}-0"), CaseOutcome::Done);
        CasePlan { name, process, asks, votes, taken_back: false, outcome }
    }

    fn draw(chance: &mut Chance, name: String) -> CasePlan {
        let asks = Asks::Signature;
        match chance.between(1, 10) {
            // Nobody votes, and the deadline is short.
            1 => {
                let outcome = CaseOutcome::Expired;
                CasePlan {
                    name,
                    process: "brief-signing",
                    asks,
                    votes: Vec::new(),
                    taken_back: false,
                    outcome,
                }
            }
            2 => {
                let votes = vec![(*chance.one(&VOTERS), Choice::Approve)];
                let process = *chance.one(&PROCESSES);
                CasePlan { name, process, asks, votes, taken_back: true, outcome: CaseOutcome::Cancelled }
            }
            _ => {
                let mut voters = VOTERS;
                chance.shuffle(&mut voters);
                let mut votes = Vec::new();
                let (mut approvals, mut others) = (0, 0);
                // Two of three: what two say decides.
                for voter in voters {
                    if approvals == 2 || others == 2 {
                        break;
                    }
                    let choice = match chance.between(1, 10) {
                        1..=2 => Choice::Reject,
                        3 => Choice::Abstain,
                        _ => Choice::Approve,
                    };
                    if choice == Choice::Approve {
                        approvals += 1
                    } else {
                        others += 1
                    }
                    votes.push((voter, choice));
                }
                let outcome = if approvals == 2 { CaseOutcome::Done } else { CaseOutcome::Rejected };
                let process = *chance.one(&PROCESSES);
                CasePlan { name, process, asks, votes, taken_back: false, outcome }
            }
        }
    }
}
