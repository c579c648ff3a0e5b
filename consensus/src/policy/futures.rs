//! What could come of a policy: the part of the linter that plays whole requests.
//!
//! Two futures are played with the evaluator itself: everybody who may approves as soon as he may, and everybody abstains
//! as soon as he may. No node becomes true later because a ballot is cast earlier, or approves instead of rejecting or
//! missing. So if the first future does not approve, none does; and if the second does not, none without an approving
//! ballot does.

use super::evaluate::{State, Tally};
use super::finding::Finding;
use super::{Measure, NodeIndex, Policy, ROOT, Rule, VoterIndex};
use crate::time::UnixMillis;
use crate::vote::Choice;

/// How many nodes and voters are looked at while the futures of one policy are played. A policy that approves does so within
/// a few thousand, whoever asks; the others may be sent by anybody, and must not keep a log from its work.
const PLAY_LIMIT: u64 = 2_000_000;

/// Why the policy is refused, though every node of its rule is right by itself (invariant I9).
pub(super) fn findings(policy: &Policy) -> Vec<Finding> {
    let position = policy.node(ROOT).position;
    let finding = |message: String| Finding { position, message, help: None };
    let mut findings = Vec::new();
    let mut left = PLAY_LIMIT;
    // The first requester with whom it comes to approve, if any; nothing if that takes too long.
    let mut first = |choice| {
        for barred in policy.requesters() {
            if play(policy, barred, choice, &[], &mut left)? {
                return Some(Some(barred));
            }
        }
        Some(None)
    };
    let too_long =
        "the rule has so many nodes, windows and voters that it cannot be seen whether it could approve";
    match first(Choice::Approve) {
        Some(Some(_)) => {}
        Some(None) => findings.push(finding(
            "the rule could never approve, not even if everybody approves as soon as he may".into(),
        )),
        None => return vec![finding(too_long.into())],
    }
    if may_hold_unapproved(policy, ROOT) {
        let Some(found) = first(Choice::Abstain) else { return vec![finding(too_long.into())] };
        let Some(barred) = found else { return findings };
        let requester = match barred {
            None => String::new(),
            Some(voter) => format!(", if `{}` is the requester", policy.voter(voter).name),
        };
        findings.push(finding(format!("the rule could approve with no approving ballot{requester}")));
    }
    findings
}

/// Whether the rule comes to approve if all voters but the barred and the `silent` ones vote `choice` as soon as they may.
pub(super) fn approves(
    policy: &Policy,
    barred: Option<VoterIndex>,
    choice: Choice,
    silent: &[VoterIndex],
) -> bool {
    play(policy, barred, choice, silent, &mut u64::MAX.clone()).unwrap_or(false)
}

/// The same, as long as there are nodes and voters `left` to be looked at.
fn play(
    policy: &Policy,
    barred: Option<VoterIndex>,
    choice: Choice,
    silent: &[VoterIndex],
    left: &mut u64,
) -> Option<bool> {
    let mut tally = Tally::barring(policy, barred, UnixMillis::new(0));
    let mut waiting: Vec<VoterIndex> =
        policy.indexes().filter(|voter| Some(*voter) != barred && !silent.contains(voter)).collect();
    let mut begun = vec![false; policy.nodes.len()];
    let mut now = 0;
    loop {
        match tally.visit(now, &mut |node, _, _| begun[usize::from(node.0)] = true) {
            State::True(_) => return Some(true),
            State::False(_) => return Some(false),
            State::Open if now >= tally.end() => return Some(false),
            State::Open => {}
        }
        let before = waiting.len();
        *left = left.checked_sub((before + policy.nodes.len()) as u64)?;
        waiting.retain(|voter| {
            let may = policy.seat(*voter).gates.iter().all(|gate| begun[usize::from(gate.0)]);
            if may {
                tally.count(*voter, choice, now);
            }
            !may
        });
        if waiting.len() == before {
            now = tally.next_step(now);
        }
    }
}

/// Whether the node could become true with no approving ballot if every moment and every threshold were in reach: what
/// spares most policies from being played for every requester.
fn may_hold_unapproved(policy: &Policy, index: NodeIndex) -> bool {
    match &policy.node(index).rule {
        Rule::Count { measure, .. } => *measure == Measure::Ballots,
        Rule::NoVeto { .. } => true,
        Rule::Some { threshold, rules, .. } => {
            rules.iter().filter(|rule| may_hold_unapproved(policy, **rule)).count() >= *threshold
        }
        Rule::Then { levels } => levels.iter().all(|level| may_hold_unapproved(policy, *level)),
    }
}
