//! What is lawful in a policy, but worth knowing before it is approved.

use super::finding::Finding;
use super::futures::approves;
use super::{Measure, NodeIndex, Policy, ROOT, Rule, VoterIndex};
use crate::vote::Choice;

/// How many voters, at most.
const UNLIMITED: u64 = u64::MAX;

impl Policy {
    /// What is lawful but worth knowing: windows that rest on an honest validator (DESIGN section 5), voters whose ballots
    /// count for nothing, requesters whose requests could not be approved, and how many voters and keys may be lost
    /// (section 6, Key transitions). In the order of the document.
    pub fn warnings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.warn_of_windows(&mut findings);
        self.warn_of_voters(&mut findings);
        self.warn_of_losses(&mut findings);
        findings.sort();
        findings
    }

    /// How many voters, whoever they are, may be lost so that a request by nobody of them can still be approved. Never too
    /// many; too few perhaps where groups overlap under `any` or `n_of`.
    pub fn voters_that_may_be_lost(&self) -> usize {
        let single = || self.indexes().all(|voter| approves(self, None, Choice::Approve, &[voter]));
        let losses = if self.levels_wait_only_for_their_own() {
            self.stopped_by(ROOT, self.windows_fit()) - 1
        } else {
            u64::from(single())
        };
        usize::try_from(losses).map_or(self.voters.len(), |losses| losses.min(self.voters.len()))
    }

    /// How many stolen voter keys, whoever's they are, cannot approve while everybody else is silent. Never too many; too
    /// few perhaps where groups overlap.
    pub fn keys_that_may_be_stolen(&self) -> usize {
        let losses = self.passed_by(ROOT).saturating_sub(1);
        usize::try_from(losses).map_or(self.voters.len(), |losses| losses.min(self.voters.len()))
    }

    fn warn_of_windows(&self, findings: &mut Vec<Finding>) {
        for node in &self.nodes {
            if let Rule::NoVeto { group, window } = &node.rule {
                let group = &self.group(*group).name;
                findings.push(Finding {
                    position: node.position,
                    message: format!(
                        "`no_veto` of `{group}` rests on an honest validator, who could leave a veto out until its {window} \
                         are over; an `at_least` does not"
                    ),
                    help: None,
                });
            }
        }
        if !self.windows_fit() {
            findings.push(Finding {
                position: self.node(ROOT).position,
                message: format!(
                    "its windows, one after the other, can take longer than the deadline of {}: then it can be approved \
                     only if members vote before their window ends",
                    self.deadline
                ),
                help: None,
            });
        }
    }

    fn warn_of_voters(&self, findings: &mut Vec<Finding>) {
        for (index, (voter, seat)) in self.indexes().zip(self.voters.iter().zip(&self.seats)) {
            if seat.leaves.is_empty() {
                findings.push(Finding {
                    position: seat.position,
                    message: format!("the ballot of `{}` counts for nothing", voter.name),
                    help: Some("put him into a group that the rule names".into()),
                });
            }
            if !self.requester_may_vote && !approves(self, Some(index), Choice::Approve, &[]) {
                findings.push(Finding {
                    position: seat.position,
                    message: format!(
                        "a request by `{}` could never be approved: too few others vote",
                        voter.name
                    ),
                    help: None,
                });
            }
        }
    }

    fn warn_of_losses(&self, findings: &mut Vec<Finding>) {
        let lost = match self.voters_that_may_be_lost() {
            0 => "the loss of one voter may make approval impossible".into(),
            1 => "requests can still be approved after the loss of any one voter".into(),
            lost => format!("requests can still be approved after the loss of any {lost} voters"),
        };
        let stolen = match self.keys_that_may_be_stolen() {
            0 => "one stolen voter key may be enough to approve".into(),
            1 => "any one stolen voter key is not enough to approve".into(),
            stolen => format!("any {stolen} stolen voter keys are not enough to approve"),
        };
        let position = self.node(ROOT).position;
        findings.push(Finding { position, message: format!("{lost}; {stolen}"), help: None });
    }

    /// Whether no voter waits for a level that is not above all that his ballot counts for.
    fn levels_wait_only_for_their_own(&self) -> bool {
        let mut ends: Vec<usize> = (1..=self.nodes.len()).collect();
        for (place, node) in self.nodes.iter().enumerate().rev() {
            if let Rule::Some { rules, .. } | Rule::Then { levels: rules } = &node.rule
                && let Some(last) = rules.last()
            {
                ends[place] = ends[usize::from(last.0)];
            }
        }
        let above = |gate: NodeIndex, leaf: NodeIndex| {
            leaf >= gate && usize::from(leaf.0) < ends[usize::from(gate.0)]
        };
        self.seats
            .iter()
            .all(|seat| seat.gates.iter().all(|gate| seat.leaves.iter().all(|leaf| above(*gate, *leaf))))
    }

    /// Whether all windows can end before the deadline though nobody closes one early, with time for ballots between.
    fn windows_fit(&self) -> bool {
        self.longest(ROOT) <= self.deadline.get()
    }

    /// How long a node takes if ballots come at once and nobody closes a window early, in milliseconds.
    fn longest(&self, index: NodeIndex) -> u64 {
        match &self.node(index).rule {
            // A ballot must be cast before the deadline, where a window may end at it.
            Rule::Count { .. } => 1,
            Rule::NoVeto { window, .. } => window.get(),
            Rule::Some { rules, .. } => rules.iter().map(|rule| self.longest(*rule)).max().unwrap_or(0),
            Rule::Then { levels } => {
                levels.iter().fold(0, |sum, level| sum.saturating_add(self.longest(*level)))
            }
        }
    }

    /// The fewest silent voters that can keep a node from becoming true, or fewer, but at least 1. `windows_fit`: every
    /// window ends before the deadline, whoever is silent.
    fn stopped_by(&self, index: NodeIndex, windows_fit: bool) -> u64 {
        let below = |rules: &[NodeIndex]| {
            let mut below: Vec<u64> = rules.iter().map(|rule| self.stopped_by(*rule, windows_fit)).collect();
            below.sort_unstable();
            below
        };
        match &self.node(index).rule {
            Rule::Count { threshold, .. } => {
                let shares = self.shares(index);
                let spare = shares.iter().sum::<u64>() - threshold;
                fewest_over(&shares, spare)
            }
            Rule::NoVeto { .. } if windows_fit => UNLIMITED,
            Rule::NoVeto { .. } => 1,
            // So many of them must be stopped that fewer than `threshold` are left; the last one alone takes this many.
            Rule::Some { threshold, rules, .. } => below(rules)[rules.len() - threshold],
            Rule::Then { levels } => below(levels)[0],
        }
    }

    /// The fewest ballots that can make a node true, or fewer.
    fn passed_by(&self, index: NodeIndex) -> u64 {
        match &self.node(index).rule {
            Rule::Count { threshold, .. } => fewest_over(&self.shares(index), threshold - 1),
            Rule::NoVeto { .. } => 0,
            Rule::Some { threshold, rules, .. } => {
                let mut below: Vec<u64> = rules.iter().map(|rule| self.passed_by(*rule)).collect();
                below.sort_unstable();
                below[threshold - 1]
            }
            // Nobody stands in two levels.
            Rule::Then { levels } => levels.iter().map(|level| self.passed_by(*level)).sum(),
        }
    }

    /// What each member can bring to a node that counts, the largest first.
    fn shares(&self, index: NodeIndex) -> Vec<u64> {
        let Rule::Count { measure, group, .. } = &self.node(index).rule else { return Vec::new() };
        let share = |member: &VoterIndex| match measure {
            Measure::Approvals | Measure::Ballots => 1,
            Measure::Weight | Measure::Percent(_) => self.voter(*member).weight,
        };
        let mut shares: Vec<u64> = self.group(*group).members.iter().map(share).collect();
        shares.sort_unstable_by(|one, other| other.cmp(one));
        shares
    }
}

/// How many of the largest shares come to more than `bound`.
fn fewest_over(shares: &[u64], bound: u64) -> u64 {
    let mut sum = 0;
    let mut count = 0;
    for share in shares {
        sum += share;
        count += 1;
        if sum > bound {
            return count;
        }
    }
    UNLIMITED
}
