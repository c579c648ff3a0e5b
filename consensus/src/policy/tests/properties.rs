//! Rules by chance: what must hold for every policy and all ballots.

use proptest::prelude::*;

use super::toml;
use crate::policy::document::Document;
use crate::policy::{Explanation, NodeState, Policy, Tally, VoterIndex, check, futures};
use crate::time::UnixMillis;
use crate::vote::{Choice, Outcome};

const GROUPS: [&str; 4] = ["a", "b", "c", "d"];
/// Short, so that windows, levels, ballots and deadline often meet in one millisecond.
const DEADLINE: u64 = 8;

fn group() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&GROUPS)
}

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (1..4_u64, group()).prop_map(|(n, of)| format!("{{ at_least = {n}, of = {of:?} }}")),
        2 => (1..5_u64, group()).prop_map(|(n, of)| format!("{{ weight = {n}, of = {of:?} }}")),
        1 => (1..101_u64, group()).prop_map(|(n, of)| format!("{{ percent = {n}, of = {of:?} }}")),
        2 => (1..4_u64, group()).prop_map(|(n, of)| format!("{{ quorum = {n}, of = {of:?} }}")),
        3 => (group(), 1..=DEADLINE).prop_map(|(of, d)| format!("{{ no_veto = {of:?}, for = \"{d}ms\" }}")),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        let rules = prop::collection::vec(inner, 1..4);
        (rules, 0..8_usize, 1..4_usize).prop_map(|(rules, word, n)| {
            let list = rules.join(", ");
            match word {
                0 | 1 => format!("{{ all = [{list}] }}"),
                2 => format!("{{ any = [{list}] }}"),
                3 => format!("{{ n_of = {}, rules = [{list}] }}", n.min(rules.len())),
                _ => format!("{{ then = [{list}] }}"),
            }
        })
    })
}

/// A policy's text, lawful or not.
fn text(voters: usize) -> impl Strategy<Value = String> {
    let voter = (prop::sample::subsequence(&GROUPS[..], 1..3), 1..4_u64);
    (rule(), prop::collection::vec(voter, 1..=voters), any::<bool>(), any::<bool>()).prop_map(
        |(rule, voters, reject, may_vote)| {
            let voters: Vec<_> = voters.iter().map(|(groups, weight)| (&groups[..], *weight)).collect();
            let on_deadline = if reject { "reject" } else { "expire" };
            let top = format!("on_deadline = \"{on_deadline}\"\nrequester_may_vote = {may_vote}");
            toml(&top, &rule, &voters).replace("\"48h\"", &format!("\"{DEADLINE}ms\""))
        },
    )
}

/// A policy that is right node by node, whatever its futures.
fn compiled(text: &str) -> Option<Policy> {
    check::check(Document::parse(text.as_bytes()).ok()?, text.as_bytes()).ok()
}

/// A policy that is shown as its text when a property fails.
struct Shown(Policy);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0.document()))
    }
}

fn compiled_policy(voters: usize) -> impl Strategy<Value = Shown> {
    text(voters).prop_filter_map("refused node by node", |text| compiled(&text).map(Shown))
}

#[derive(Clone, Debug)]
struct Attempt {
    voter: prop::sample::Index,
    choice: Choice,
    wait: u64,
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let choice =
        prop_oneof![4 => Just(Choice::Approve), 1 => Just(Choice::Reject), 1 => Just(Choice::Abstain)];
    let wait = prop_oneof![3 => Just(0), 2 => 1..3_u64, 1 => 3..6_u64];
    let attempt = (any::<prop::sample::Index>(), choice, wait);
    prop::collection::vec(attempt.prop_map(|(voter, choice, wait)| Attempt { voter, choice, wait }), 0..12)
}

fn at(moment: u64) -> UnixMillis {
    UnixMillis::new(moment)
}

const OPENED: u64 = 100;
const LATEST: u64 = OPENED + DEADLINE + 3;

/// Casts what can be cast, and tells which.
fn play<'p>(
    policy: &'p Policy,
    tally: &mut Tally<'p>,
    attempts: &[Attempt],
) -> Vec<(VoterIndex, Choice, UnixMillis)> {
    let voters: Vec<_> = policy.indexes().collect();
    let mut now = OPENED;
    let mut accepted = Vec::new();
    for attempt in attempts {
        now += attempt.wait;
        let ballot = (*attempt.voter.get(&voters), attempt.choice, at(now));
        let before = format!("{tally:?}");
        match tally.cast(ballot.0, ballot.1, ballot.2) {
            Ok(()) => accepted.push(ballot),
            Err(_) => assert_eq!(before, format!("{tally:?}"), "a refused ballot leaves no trace"),
        }
    }
    accepted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, max_global_rejects: 1_000_000, max_local_rejects: 1_000_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_decided_stays_decided_and_time_decides_exactly_when_it_was_foretold(
        Shown(policy) in compiled_policy(6),
        requester in any::<Option<prop::sample::Index>>(),
        attempts in attempts(),
    ) {
        let requester = requester.map(|index| index.get(policy.voters()).key.thumbprint());
        let mut tally = Tally::new(&policy, requester.as_ref(), at(OPENED));
        let accepted = play(&policy, &mut tally, &attempts);
        let last = accepted.last().map_or(0, |(_, _, at)| at.get());

        // The past does not change with the present.
        let outcomes: Vec<_> = (0..=LATEST).map(|now| tally.outcome(at(now))).collect();
        let (outcome, decided) = outcomes[LATEST as usize].expect("decided after the deadline");
        prop_assert!((OPENED..=OPENED + DEADLINE).contains(&decided.get()));
        for now in 0..=LATEST {
            let expected = (now >= decided.get()).then_some((outcome, decided));
            prop_assert_eq!(outcomes[now as usize], expected, "at {}", now);
        }
        for now in last..=LATEST {
            let foretold = (now < decided.get()).then_some(decided);
            prop_assert_eq!(tally.next_change(at(now)), foretold, "at {}", now);
        }

        // Counted from scratch it is the same, and every ballot was needed in its place.
        let mut again = Tally::new(&policy, requester.as_ref(), at(OPENED));
        for (index, (voter, choice, moment)) in accepted.iter().enumerate() {
            prop_assert_eq!(again.outcome(*moment), None, "open before the ballot");
            let before = decided_nodes(&again, *moment);
            again.cast(*voter, *choice, *moment).expect("accepted before");
            let after = decided_nodes(&again, at(LATEST));
            for (before, after) in before.iter().zip(&after).filter(|(before, _)| before.is_some()) {
                prop_assert_eq!(before, after, "once true or false a node stays so");
            }
            let now_decided = again.outcome(*moment).is_some();
            prop_assert_eq!(again.decided_by_time(at(LATEST)), !now_decided);
            prop_assert!(!now_decided || index + 1 == accepted.len());
            prop_assert!(!now_decided || again.outcome(*moment).unwrap().1 == *moment);
        }
        prop_assert_eq!(format!("{again:?}"), format!("{tally:?}"));
        for now in [0, OPENED, last, decided.get(), LATEST] {
            let explanation = tally.explain(at(now));
            prop_assert_eq!(&explanation, &again.explain(at(now)));
            prop_assert_eq!(explanation.to_string().lines().count(), policy.nodes.len());
        }
    }

    #[test]
    fn the_order_of_ballots_of_one_moment_and_one_choice_does_not_matter(
        Shown(policy) in compiled_policy(6),
        choice in prop_oneof![Just(Choice::Approve), Just(Choice::Abstain)],
        order in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        // Two rounds, so that whoever waited for a level votes in the second.
        let indexes: Vec<_> = policy.indexes().collect();
        let outcome = |order: &[usize]| {
            let mut tally = Tally::new(&policy, None, at(OPENED));
            for _ in 0..policy.nodes.len() {
                for voter in order.iter().filter_map(|place| indexes.get(*place)) {
                    let _ = tally.cast(*voter, choice, at(OPENED));
                }
            }
            tally.outcome(at(OPENED)).filter(|(outcome, _)| *outcome == Outcome::Approved)
        };
        let straight: Vec<usize> = (0..9).collect();
        prop_assert_eq!(outcome(&order), outcome(&straight));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in text(4), cut in any::<prop::sample::Index>(), with in ".{0,8}") {
        let mut cut = cut.index(text.len());
        while !text.is_char_boundary(cut) { cut -= 1; }
        let _ = Policy::parse(format!("{}{with}{}", &text[..cut], &text[cut..]).as_bytes());
        let _ = Policy::parse(&text.as_bytes()[..cut]);
        let _ = crate::policy::simulate(&with);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, max_global_rejects: 1_000_000, max_local_rejects: 1_000_000, ..ProptestConfig::default() })]

    #[test]
    fn the_linter_refuses_exactly_what_no_future_or_a_future_without_approvals_approves(Shown(policy) in compiled_policy(3)) {
        let requesters: Vec<_> = policy.requesters().collect();
        let approvable = |choices: &[Choice]| {
            requesters.iter().any(|barred| {
                search(Tally::barring(&policy, *barred, at(0)), 0, choices)
            })
        };
        let mut expected = Vec::new();
        if !approvable(&[Choice::Approve, Choice::Reject, Choice::Abstain]) {
            expected.push("never approve");
        }
        if approvable(&[Choice::Reject, Choice::Abstain]) {
            expected.push("no approving ballot");
        }
        let found = futures::findings(&policy);
        prop_assert_eq!(found.len(), expected.len(), "{:?} {:?}", found, expected);
        for (found, expected) in found.iter().zip(expected) {
            prop_assert!(found.message.contains(expected), "{:?} {:?}", found, expected);
        }
    }

    #[test]
    fn no_promise_about_losses_is_broken(Shown(policy) in compiled_policy(6)) {
        prop_assume!(futures::findings(&policy).is_empty());
        let (lost, stolen) = (policy.voters_that_may_be_lost(), policy.keys_that_may_be_stolen());
        let voters: Vec<_> = policy.indexes().collect();
        for subset in 0_u32..1 << voters.len() {
            let (some, others): (Vec<_>, Vec<_>) =
                voters.iter().partition(|voter| subset >> voter.place() & 1 == 1);
            if some.len() <= lost {
                prop_assert!(futures::approves(&policy, None, Choice::Approve, &some), "without {:?}", some);
            }
            if some.len() <= stolen {
                prop_assert!(!futures::approves(&policy, None, Choice::Approve, &others), "by {:?}", some);
            }
        }
        policy.warnings();
    }
}

/// Since when which node is true or false, in the order of the rule.
fn decided_nodes(tally: &Tally<'_>, now: UnixMillis) -> Vec<Option<(NodeState, UnixMillis)>> {
    fn flatten(explanation: &Explanation, into: &mut Vec<Option<(NodeState, UnixMillis)>>) {
        into.push(explanation.since.map(|since| (explanation.state, since)));
        explanation.rules.iter().for_each(|rule| flatten(rule, into));
    }
    let mut nodes = Vec::new();
    flatten(&tally.explain(now), &mut nodes);
    nodes
}

/// Whether some way to cast ballots of `choices` from the moment `now` on leads to an approval: all ways are tried.
fn search(tally: Tally<'_>, now: u64, choices: &[Choice]) -> bool {
    if let Some((outcome, _)) = tally.outcome(at(now)) {
        return outcome == Outcome::Approved;
    }
    let voters = tally.policy.indexes().filter(|voter| tally.may_cast(*voter, at(now)).is_ok());
    for voter in voters {
        for choice in choices {
            let mut next = tally.clone();
            next.cast(voter, *choice, at(now)).expect("it may be cast");
            if search(next, now, choices) {
                return true;
            }
        }
    }
    search(tally, now + 1, choices)
}
