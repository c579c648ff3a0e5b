//! From ballots to an outcome: one pure function of policy, requester, opening, ballots with their times, and now.
//!
//! A [`Tally`] keeps, for each leaf of the rule, what its group's ballots came to and when; everything above the leaves is
//! computed when it is asked for. So nothing can disagree with the ballots, and the past never depends on when one asks.

use std::fmt;

use super::{Measure, NodeIndex, OnDeadline, Policy, ROOT, Rule, VoterIndex};
use crate::jwk::Thumbprint;
use crate::time::UnixMillis;
use crate::vote::{Choice, Outcome};

/// The ballots accepted so far for one request.
#[derive(Clone)]
pub struct Tally<'p> {
    pub(super) policy: &'p Policy,
    pub(super) barred: Option<VoterIndex>,
    pub(super) opened: u64,
    /// What each leaf has counted, in the order of the policy's nodes; nothing for nodes that are no leaves.
    pub(super) leaves: Vec<Option<Leaf>>,
    /// What each voter chose, in the order of the policy's voters.
    pub(super) choices: Vec<Option<Choice>>,
    /// When the last accepted ballot was cast.
    latest: Option<u64>,
}

/// Why a ballot is not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BallotRefusal {
    /// The voter has cast one already.
    #[error("the voter has voted already")]
    AlreadyVoted,
    /// The voter is the requester.
    #[error("the requester may not vote on his own request")]
    MayNotVote,
    /// Before the request was opened.
    #[error("the request was not yet open")]
    TooEarly,
    /// At the deadline or after it.
    #[error("the deadline was past")]
    TooLate,
    /// Earlier than a ballot that was accepted before it.
    #[error("the ballot is older than one counted before it")]
    OutOfOrder,
    /// The rule was decided.
    #[error("the request was decided already")]
    AlreadyDecided,
    /// A level of `then` that the voter stands in had not begun.
    #[error("the voter's level had not begun")]
    LevelNotBegun,
}

impl BallotRefusal {
    /// The reason in a word that programs can rely on.
    pub fn reason(self) -> &'static str {
        match self {
            BallotRefusal::AlreadyVoted => "already-voted",
            BallotRefusal::MayNotVote => "requester-may-not-vote",
            BallotRefusal::TooEarly => "too-early",
            BallotRefusal::TooLate | BallotRefusal::AlreadyDecided => "too-late",
            BallotRefusal::OutOfOrder => "out-of-order",
            BallotRefusal::LevelNotBegun => "level-not-begun",
        }
    }
}

/// How a node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It can still become either.
    Open,
    /// True since this moment.
    True(u64),
    /// False since this moment.
    False(u64),
}

/// What a leaf has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    /// What the ballots brought: members, or their weight.
    pub(super) gained: u64,
    /// What the members who are left could bring.
    pub(super) left: u64,
    /// What the ballots made of it: for a `no_veto`, true when nobody was left.
    turned: Option<Turn>,
    /// For a `no_veto`, when the first member rejected.
    rejected: Option<u64>,
}

/// What a leaf was decided as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Turn {
    holds: bool,
    /// The ballot's moment; nothing if the leaf was decided before any ballot, so that it is so since it begins.
    at: Option<u64>,
}

impl<'p> Tally<'p> {
    /// No ballots yet, for a request that `requester` made and that was opened at `opened`.
    pub fn new(policy: &'p Policy, requester: Option<&Thumbprint>, opened: UnixMillis) -> Tally<'p> {
        Tally::barring(policy, policy.barred(requester), opened)
    }

    pub(super) fn barring(policy: &'p Policy, barred: Option<VoterIndex>, opened: UnixMillis) -> Tally<'p> {
        let choices = vec![None; policy.voters.len()];
        let leaves = policy.blank.clone();
        let mut tally = Tally { policy, barred, opened: opened.get(), leaves, choices, latest: None };
        if let Some(barred) = barred {
            tally.each_leaf(barred, |leaf, policy, rule| leaf.bar(policy, rule, barred));
        }
        tally
    }

    /// Counts a ballot.
    ///
    /// # Errors
    /// Why it is not counted; the tally is as it was.
    ///
    /// # Panics
    /// If `voter` came from a policy with more voters.
    pub fn cast(&mut self, voter: VoterIndex, choice: Choice, at: UnixMillis) -> Result<(), BallotRefusal> {
        self.may_cast(voter, at)?;
        self.count(voter, choice, at.get());
        Ok(())
    }

    /// Counts a ballot that [`cast`](Tally::cast) accepted before: again, in the same order, without asking whether it
    /// may be.
    ///
    /// # Panics
    /// If `voter` came from a policy with more voters.
    pub fn recount(&mut self, voter: VoterIndex, choice: Choice, at: UnixMillis) {
        self.count(voter, choice, at.get());
    }

    /// Whether a ballot by `voter` would be counted at the moment `at`, whatever it says.
    ///
    /// # Errors
    /// Why it would not be.
    ///
    /// # Panics
    /// If `voter` came from a policy with more voters.
    pub fn may_cast(&self, voter: VoterIndex, at: UnixMillis) -> Result<(), BallotRefusal> {
        let at = at.get();
        if self.choices[voter.place()].is_some() {
            return Err(BallotRefusal::AlreadyVoted);
        }
        if self.barred == Some(voter) {
            return Err(BallotRefusal::MayNotVote);
        }
        if at < self.opened {
            return Err(BallotRefusal::TooEarly);
        }
        if at >= self.end() {
            return Err(BallotRefusal::TooLate);
        }
        if self.latest.is_some_and(|latest| at < latest) {
            return Err(BallotRefusal::OutOfOrder);
        }
        let gates = &self.policy.seat(voter).gates;
        let mut begun = 0;
        let root = self.visit(at, &mut |node, _, _| begun += usize::from(gates.binary_search(&node).is_ok()));
        if root != State::Open {
            return Err(BallotRefusal::AlreadyDecided);
        }
        if begun < gates.len() {
            return Err(BallotRefusal::LevelNotBegun);
        }
        Ok(())
    }

    /// What the request has come to at `now`, and the moment since when: nothing while it is open. Never
    /// [`Outcome::Cancelled`], of which ballots know nothing.
    pub fn outcome(&self, now: UnixMillis) -> Option<(Outcome, UnixMillis)> {
        let (outcome, decided) = match self.state(now.get()) {
            State::True(since) => (Outcome::Approved, since),
            State::False(since) => (Outcome::Rejected, since),
            State::Open if now.get() < self.end() => return None,
            State::Open => match self.policy.on_deadline {
                OnDeadline::Expire => (Outcome::Expired, self.end()),
                OnDeadline::Reject => (Outcome::Rejected, self.end()),
            },
        };
        Some((outcome, UnixMillis::new(decided)))
    }

    /// Whether the outcome at `now` was made by time alone (the deadline, the end of a window, or before any ballot) and
    /// not by a ballot; false while the request is open.
    pub fn decided_by_time(&self, now: UnixMillis) -> bool {
        // A ballot is accepted only while the rule is open, so only the last one can have decided it, and at once.
        let by_ballot = self.latest.is_some_and(|latest| self.state(latest) != State::Open);
        self.outcome(now).is_some() && !by_ballot
    }

    /// The first moment after `now` at which the request is decided if no further ballot comes: the end of a window, or
    /// the deadline. Nothing if it is decided at `now`.
    pub fn next_change(&self, now: UnixMillis) -> Option<UnixMillis> {
        if self.outcome(now).is_some() {
            return None;
        }
        let mut at = now.get();
        loop {
            at = self.next_step(at);
            if at >= self.end() || self.state(at) != State::Open {
                return Some(UnixMillis::new(at));
            }
        }
    }

    /// How many ballots were counted.
    pub fn ballots(&self) -> usize {
        self.choices.iter().flatten().count()
    }

    /// What `voter` chose, if his ballot was counted.
    ///
    /// # Panics
    /// If `voter` came from a policy with more voters.
    pub fn choice(&self, voter: VoterIndex) -> Option<Choice> {
        self.choices[voter.place()]
    }

    /// The moment of the deadline.
    pub(super) fn end(&self) -> u64 {
        self.opened.saturating_add(self.policy.deadline.get())
    }

    /// Counts a ballot that may be cast.
    pub(super) fn count(&mut self, voter: VoterIndex, choice: Choice, at: u64) {
        self.choices[voter.place()] = Some(choice);
        self.latest = Some(at);
        self.each_leaf(voter, |leaf, policy, rule| leaf.count(policy, rule, voter, choice, at));
    }

    /// Changes the leaves that count a group of `voter`'s.
    fn each_leaf(&mut self, voter: VoterIndex, mut change: impl FnMut(&mut Leaf, &Policy, &Rule)) {
        for &node in &self.policy.seat(voter).leaves {
            if let Some(leaf) = &mut self.leaves[usize::from(node.0)] {
                change(leaf, self.policy, &self.policy.node(node).rule);
            }
        }
    }

    /// How the root stands at `now` or at the deadline, whichever is earlier.
    pub(super) fn state(&self, now: u64) -> State {
        self.visit(now, &mut |_, _, _| {})
    }

    /// The same, and shows `see` every node that has begun, with its begin and state, children first.
    pub(super) fn visit(&self, now: u64, see: &mut impl FnMut(NodeIndex, u64, State)) -> State {
        self.node_state(ROOT, self.opened, now.min(self.end()), see)
    }

    /// The first moment after `now` at which time alone changes any node; the deadline if nothing comes before.
    pub(super) fn next_step(&self, now: u64) -> u64 {
        if now < self.opened {
            return self.opened;
        }
        let mut next = self.end();
        self.visit(now, &mut |node, begin, state| {
            if let (Rule::NoVeto { window, .. }, State::Open) = (&self.policy.node(node).rule, state) {
                next = next.min(begin.saturating_add(window.get()));
            }
        });
        next
    }

    fn node_state(
        &self,
        index: NodeIndex,
        begin: u64,
        until: u64,
        see: &mut impl FnMut(NodeIndex, u64, State),
    ) -> State {
        if begin > until {
            return State::Open;
        }
        let state = match &self.policy.node(index).rule {
            Rule::Count { .. } => self.leaf(index).counted(begin),
            Rule::NoVeto { window, .. } => self.leaf(index).unvetoed(begin, window.get()),
            Rule::Some { threshold, rules, .. } => {
                let (mut holding, mut failing) = (Vec::new(), Vec::new());
                for rule in rules {
                    match self.node_state(*rule, begin, until, see) {
                        State::True(since) => holding.push(since),
                        State::False(since) => failing.push(since),
                        State::Open => {}
                    }
                }
                // Fewer than `threshold` can still be true when this many have failed.
                let too_many = rules.len() + 1 - threshold;
                if let Some(since) = nth_earliest(&mut holding, *threshold) {
                    State::True(since)
                } else if let Some(since) = nth_earliest(&mut failing, too_many) {
                    State::False(since)
                } else {
                    State::Open
                }
            }
            Rule::Then { levels } => {
                let mut state = State::True(begin);
                for level in levels {
                    let State::True(level_begin) = state else { break };
                    state = self.node_state(*level, level_begin, until, see);
                }
                state
            }
        };
        let state = match state {
            State::True(since) | State::False(since) if since > until => State::Open,
            known => known,
        };
        see(index, begin, state);
        state
    }

    fn leaf(&self, index: NodeIndex) -> &Leaf {
        self.leaves[usize::from(index.0)].as_ref().expect("a counting node was made with a leaf")
    }
}

impl Leaf {
    /// Nothing counted and nobody barred, for a group whose members can bring `left`, which is in every threshold's reach.
    pub(super) fn blank(left: u64) -> Leaf {
        Leaf { gained: 0, left, turned: None, rejected: None }
    }

    /// Takes out the requester, who may not vote.
    fn bar(&mut self, policy: &Policy, rule: &Rule, barred: VoterIndex) {
        let holds = match rule {
            Rule::Count { measure, threshold, .. } => {
                self.left -= measure.share(policy.voter(barred));
                (self.left < *threshold).then_some(false)
            }
            Rule::NoVeto { .. } => {
                self.left -= 1;
                (self.left == 0).then_some(true)
            }
            Rule::Some { .. } | Rule::Then { .. } => None,
        };
        self.turned = holds.map(|holds| Turn { holds, at: None });
    }

    fn count(&mut self, policy: &Policy, rule: &Rule, voter: VoterIndex, choice: Choice, at: u64) {
        match rule {
            Rule::Count { measure, threshold, .. } => {
                let share = measure.share(policy.voter(voter));
                self.left -= share;
                if choice == Choice::Approve || *measure == Measure::Ballots {
                    self.gained += share;
                }
                if self.gained >= *threshold {
                    self.turn(true, at);
                } else if self.gained + self.left < *threshold {
                    self.turn(false, at);
                }
            }
            Rule::NoVeto { .. } => {
                self.left -= 1;
                if choice == Choice::Reject {
                    self.rejected.get_or_insert(at);
                }
                if self.left == 0 {
                    self.turn(true, at);
                }
            }
            Rule::Some { .. } | Rule::Then { .. } => {}
        }
    }

    fn turn(&mut self, holds: bool, at: u64) {
        self.turned.get_or_insert(Turn { holds, at: Some(at) });
    }

    /// The state of a leaf that counts ballots.
    fn counted(&self, begin: u64) -> State {
        match self.turned {
            None => State::Open,
            Some(Turn { holds: true, at }) => State::True(at.unwrap_or(begin)),
            Some(Turn { holds: false, at }) => State::False(at.unwrap_or(begin)),
        }
    }

    /// The state of a `no_veto`; true since a moment that may lie ahead.
    fn unvetoed(&self, begin: u64, window: u64) -> State {
        let end = begin.saturating_add(window);
        match (self.rejected, self.turned) {
            (Some(rejected), _) if rejected < end => State::False(rejected),
            (_, Some(Turn { at, .. })) => State::True(at.unwrap_or(begin).min(end)),
            _ => State::True(end),
        }
    }
}

/// The `n`-th earliest of the moments, counted from 1.
fn nth_earliest(moments: &mut [u64], n: usize) -> Option<u64> {
    if n == 0 || moments.len() < n {
        return None;
    }
    Some(*moments.select_nth_unstable(n - 1).1)
}

impl fmt::Debug for Tally<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally")
            .field("policy", &self.policy.name)
            .field("opened", &self.opened)
            .field("choices", &self.choices)
            .field("leaves", &self.leaves)
            .finish_non_exhaustive()
    }
}
