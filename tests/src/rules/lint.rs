//! What the linter must refuse: what is wrong node by node, and, by trying futures, what could never approve or could
//! approve with no approving ballot (invariant I9).

use super::drawn::{Choice, Node, Policy};
use super::naive::{Request, State, stands_in};
use crate::chance::Chance;

/// What is wrong with a policy before any ballot is thought of.
pub(super) fn faults(policy: &Policy) -> Vec<String> {
    let mut faults = Vec::new();
    for (place, voter) in policy.voters.iter().enumerate() {
        for other in &policy.voters[..place] {
            if other.name == voter.name {
                faults.push(format!("the voter {} is there twice", voter.name));
            }
            if other.key == voter.key {
                faults.push(format!("the key of {} is there twice", voter.name));
            }
        }
    }
    for [first, second] in &policy.exclusive {
        let (one, other) = (policy.members(first), policy.members(second));
        if one.is_empty() || other.is_empty() {
            faults.push(format!("{first} or {second} has no members"));
        } else if one.iter().any(|member| other.contains(member)) {
            faults.push(format!("{first} and {second} share a member"));
        }
    }
    node_faults(policy, &policy.rule, &mut faults);
    faults
}

fn node_faults(policy: &Policy, node: &Node, faults: &mut Vec<String>) {
    let wrong = match node {
        Node::AtLeast(n, group) | Node::Quorum(n, group) => {
            out_of_reach(*n, policy.members(group).len() as u64)
        }
        Node::Weight(n, group) => {
            out_of_reach(*n, policy.members(group).iter().map(|member| policy.voters[*member].weight).sum())
        }
        Node::Percent(n, _) => out_of_reach(*n, 100),
        Node::NoVeto(_, window) => *window > policy.deadline,
        Node::NOf(n, rules) => out_of_reach(*n, rules.len() as u64),
        Node::All(_) | Node::Any(_) => false,
        Node::Then(levels) => (0..policy.voters.len())
            .any(|voter| levels.iter().filter(|level| stands_in(policy, level, voter)).count() > 1),
    };
    if wrong {
        faults.push(format!("{node:?}"));
    }
    if node.group().is_some_and(|group| policy.members(group).is_empty()) {
        faults.push(format!("{node:?} has a group without members"));
    }
    node.below().iter().for_each(|node| node_faults(policy, node, faults));
}

fn out_of_reach(threshold: u64, reach: u64) -> bool {
    threshold == 0 || threshold > reach
}

/// What was found about the futures of a policy.
pub(super) struct Futures {
    /// Whether one approves.
    pub(super) approves: bool,
    /// Whether one approves in which nobody approved.
    pub(super) approves_unapproved: bool,
    /// Whether all futures were tried, so that what was not found is not there.
    pub(super) all: bool,
}

/// Futures that are tried of a policy that is too large for all of them.
const FUTURES: usize = 150;
const OPENED: u64 = 1;

pub(super) fn futures(policy: &Policy, chance: &mut Chance) -> Futures {
    let requesters = || std::iter::once(None).chain((0..policy.voters.len()).map(Some));
    if policy.is_small() {
        let any = |choices: &[Choice]| {
            requesters()
                .any(|requester| some_future_approves(Request::open(policy, requester, OPENED), choices))
        };
        return Futures {
            approves: any(&Choice::ALL),
            approves_unapproved: any(&[Choice::Reject, Choice::Abstain]),
            all: true,
        };
    }
    let mut found = Futures { approves: false, approves_unapproved: false, all: false };
    for _ in 0..FUTURES {
        let requesters: Vec<_> = requesters().collect();
        let request = Request::open(policy, *chance.one(&requesters), OPENED);
        let choices =
            *chance.one(&[&[Choice::Approve][..], &[Choice::Abstain], &Choice::ALL, &Choice::ALL[1..]]);
        if let Some(with_approvals) = some_future(request, choices, chance) {
            found.approves = true;
            found.approves_unapproved |= !with_approvals;
        }
    }
    found
}

/// Whether some way to cast ballots of these choices leads to an approval: all ways are tried, at all moments and in all
/// orders.
fn some_future_approves(mut request: Request<'_>, choices: &[Choice]) -> bool {
    if request.moment() < OPENED {
        request.advance(OPENED);
    }
    match request.root.state {
        State::True(_) => return true,
        State::False(_) => return false,
        State::Open if request.moment() >= request.end() => return false,
        State::Open => {}
    }
    for voter in 0..request.voters() {
        for choice in choices {
            let mut next = request.clone();
            if next.cast(voter, *choice, request.moment()).is_empty() && some_future_approves(next, choices) {
                return true;
            }
        }
    }
    let next = request.moment() + 1;
    request.advance(next);
    some_future_approves(request, choices)
}

/// Plays one future: whether it approves, and then whether somebody approved in it.
fn some_future(mut request: Request<'_>, choices: &[Choice], chance: &mut Chance) -> Option<bool> {
    let hurry = *chance.one(&[100, 60, 20]);
    let mut approved = false;
    request.advance(OPENED);
    loop {
        match request.root.state {
            State::True(_) => return Some(approved),
            State::False(_) => return None,
            State::Open if request.moment() >= request.end() => return None,
            State::Open => {}
        }
        let mut voters: Vec<usize> = (0..request.voters()).collect();
        chance.shuffle(&mut voters);
        let mut any = false;
        for voter in voters {
            let choice = *chance.one(choices);
            if chance.percent(hurry) && request.cast(voter, choice, request.moment()).is_empty() {
                approved |= choice == Choice::Approve;
                any = true;
            }
        }
        if !any {
            request.pass_a_unit();
        }
    }
}
