//! The table of DESIGN section 7, read as naively as it can be: nothing is computed ahead. Time goes from one moment to
//! the next, ballots come one by one, and each time every node that is open is asked whether the words of its row are now
//! true. A moment "since" is the moment at which that was so for the first time.

use super::drawn::{Ballot, Choice, Node, Policy, Question};

/// How a request stands, at one moment.
#[derive(Clone)]
pub(super) struct Request<'p> {
    policy: &'p Policy,
    barred: Option<usize>,
    opened: u64,
    /// Until when all has been looked at.
    moment: u64,
    /// What was accepted, in order: voter, choice and time.
    accepted: Vec<(usize, Choice, u64)>,
    pub(super) root: Standing,
}

/// How a node stands.
#[derive(Clone)]
pub(super) struct Standing {
    /// When it began, if it has.
    pub(super) begin: Option<u64>,
    pub(super) state: State,
    pub(super) below: Vec<Standing>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Open,
    True(u64),
    False(u64),
}

/// What the simulation should say.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: &'static str,
    pub(super) decided: Option<u64>,
    pub(super) counted: Vec<String>,
    /// With every reason that holds.
    pub(super) refused: Vec<(String, Vec<&'static str>)>,
}

/// Answers a question about a policy that the linter lets pass.
pub(super) fn answer(question: &Question) -> (Answer, Standing) {
    let policy = &question.policy;
    let place = |name: &str| policy.voters.iter().position(|voter| voter.name == name);
    let requester = question.requester.as_deref().and_then(place);
    let mut request = Request::open(policy, requester, question.opened);
    let (mut counted, mut refused) = (Vec::new(), Vec::new());
    let mut largest = 0;
    for Ballot { voter, choice, at } in &question.ballots {
        let mut why = Vec::new();
        if *at > question.now {
            why.push("the ballot is later than now");
        } else if *at < largest {
            why.push("the ballot is older than one counted before it");
        } else {
            largest = *at;
            match place(voter) {
                None => why.push("not a voter of this policy"),
                Some(voter) => why = request.cast(voter, *choice, *at),
            }
        }
        match why.is_empty() {
            true => counted.push(voter.clone()),
            false => refused.push((voter.clone(), why)),
        }
    }
    request.advance(question.now);
    let end = request.end();
    let (outcome, decided) = match request.root.state {
        State::True(since) => ("approved", Some(since)),
        State::False(since) => ("rejected", Some(since)),
        State::Open if question.now < end => ("open", None),
        State::Open if policy.reject_on_deadline => ("rejected", Some(end)),
        State::Open => ("expired", Some(end)),
    };
    (Answer { outcome, decided, counted, refused }, request.root)
}

impl<'p> Request<'p> {
    /// A request of `requester`, if he is a voter.
    pub(super) fn open(policy: &'p Policy, requester: Option<usize>, opened: u64) -> Request<'p> {
        let barred = requester.filter(|_| !policy.requester_may_vote);
        let root = Standing::of(&policy.rule);
        Request { policy, barred, opened, moment: opened - 1, accepted: Vec::new(), root }
    }

    pub(super) fn end(&self) -> u64 {
        self.opened + self.policy.deadline
    }

    /// The moment to which all has come; one before the opening at first.
    pub(super) fn moment(&self) -> u64 {
        self.moment
    }

    pub(super) fn voters(&self) -> usize {
        self.policy.voters.len()
    }

    /// Lets one unit of time pass.
    pub(super) fn pass_a_unit(&mut self) {
        self.advance(self.moment + self.policy.unit);
    }

    /// Lets time pass up to `until`, or to the deadline.
    pub(super) fn advance(&mut self, until: u64) {
        while self.moment < until.min(self.end()) {
            self.moment += 1;
            self.skip_idle(until);
            self.look();
        }
    }

    /// Leaves out moments that are neither a whole number of units after the opening nor a millisecond beside: there no
    /// ballot is cast and no window ends, since all of them are whole numbers of units, counted from such moments.
    fn skip_idle(&mut self, until: u64) {
        let unit = self.policy.unit;
        let beyond = (self.moment - self.opened) % unit;
        if unit > 3 && beyond > 1 && beyond < unit - 1 {
            self.moment = (self.moment - beyond + unit - 1).min(until).min(self.end());
        }
    }

    /// Casts a ballot; returns every reason for which it may not be.
    pub(super) fn cast(&mut self, voter: usize, choice: Choice, at: u64) -> Vec<&'static str> {
        self.advance(at);
        let mut why = Vec::new();
        if self.accepted.iter().any(|(other, ..)| *other == voter) {
            why.push("the voter has voted already");
        }
        if self.barred == Some(voter) {
            why.push("the requester may not vote on his own request");
        }
        if at < self.opened {
            why.push("the request was not yet open");
        }
        if at >= self.end() {
            why.push("the deadline was past");
        }
        if self.root.state != State::Open {
            why.push("the request was decided already");
        }
        if waits(self.policy, &self.policy.rule, &self.root, voter) {
            why.push("the voter's level had not begun");
        }
        if why.is_empty() {
            self.accepted.push((voter, choice, at));
            self.look();
        }
        why
    }

    /// Asks every node.
    fn look(&mut self) {
        let mut root = self.root.clone();
        self.look_at(&self.policy.rule, &mut root, self.opened);
        self.root = root;
    }

    fn look_at(&self, node: &Node, standing: &mut Standing, begin: u64) {
        standing.begin = Some(begin);
        // Parts begin with the whole; a level of `then` when the one before became true.
        let mut begins = Some(begin);
        for (part, below) in node.below().iter().zip(&mut standing.below) {
            let Some(begin) = begins else { break };
            self.look_at(part, below, begin);
            if let Node::Then(_) = node {
                begins = match below.state {
                    State::True(since) => Some(since),
                    State::Open | State::False(_) => None,
                };
            }
        }
        if standing.state == State::Open {
            match self.holds(node, &standing.below, begin) {
                Some(true) => standing.state = State::True(self.moment),
                Some(false) => standing.state = State::False(self.moment),
                None => {}
            }
        }
    }

    /// Whether the row of the node says that it is true, or that it is false, now.
    #[allow(clippy::manual_div_ceil, reason = "`percent` is written as it stands in the table")]
    fn holds(&self, node: &Node, below: &[Standing], begin: u64) -> Option<bool> {
        let is_true = |standing: &&Standing| matches!(standing.state, State::True(_));
        let is_false = |standing: &&Standing| matches!(standing.state, State::False(_));
        let (trues, falses) = (below.iter().filter(is_true).count(), below.iter().filter(is_false).count());
        match node {
            Node::AtLeast(n, group) => {
                let approvals =
                    self.ballots_of(group).filter(|(_, choice, _)| *choice == Choice::Approve).count();
                self.reached(approvals as u64, self.left(group).count() as u64, *n)
            }
            Node::Quorum(n, group) => {
                self.reached(self.ballots_of(group).count() as u64, self.left(group).count() as u64, *n)
            }
            Node::Weight(w, group) => self.weighed(group, *w),
            Node::Percent(p, group) => {
                let whole: u64 = self.policy.members(group).iter().map(|member| self.weight(*member)).sum();
                self.weighed(group, (p * whole + 99) / 100)
            }
            Node::NoVeto(group, window) => {
                let vetoed = self
                    .ballots_of(group)
                    .any(|(_, choice, at)| *choice == Choice::Reject && *at < begin + window);
                if vetoed {
                    Some(false)
                } else {
                    (self.moment >= begin + window || self.left(group).next().is_none()).then_some(true)
                }
            }
            Node::All(rules) if trues == rules.len() => Some(true),
            Node::All(_) => (falses > 0).then_some(false),
            Node::Any(_) if trues > 0 => Some(true),
            Node::Any(rules) => (falses == rules.len()).then_some(false),
            Node::NOf(n, _) if trues as u64 >= *n => Some(true),
            Node::NOf(n, rules) => (((rules.len() - falses) as u64) < *n).then_some(false),
            Node::Then(_) if falses > 0 => Some(false),
            Node::Then(rules) => (trues == rules.len()).then_some(true),
        }
    }

    fn weighed(&self, group: &str, threshold: u64) -> Option<bool> {
        let approving = self.ballots_of(group).filter(|(_, choice, _)| *choice == Choice::Approve);
        let approving = approving.map(|(voter, ..)| self.weight(*voter)).sum();
        self.reached(approving, self.left(group).map(|voter| self.weight(voter)).sum(), threshold)
    }

    fn reached(&self, have: u64, left: u64, threshold: u64) -> Option<bool> {
        if have >= threshold { Some(true) } else { (have + left < threshold).then_some(false) }
    }

    fn weight(&self, voter: usize) -> u64 {
        self.policy.voters[voter].weight
    }

    fn ballots_of(&self, group: &str) -> impl Iterator<Item = &(usize, Choice, u64)> {
        let members = self.policy.members(group);
        self.accepted.iter().filter(move |(voter, ..)| members.contains(voter))
    }

    /// A group's members who have cast no ballot and are not barred as requester.
    fn left(&self, group: &str) -> impl Iterator<Item = usize> {
        let has_cast = |voter: &usize| self.accepted.iter().any(|(other, ..)| other == voter);
        self.policy
            .members(group)
            .into_iter()
            .filter(move |voter| !has_cast(voter) && self.barred != Some(*voter))
    }
}

impl Standing {
    fn of(node: &Node) -> Standing {
        Standing { begin: None, state: State::Open, below: node.below().iter().map(Standing::of).collect() }
    }
}

/// Whether the voter stands in some level that has not begun.
fn waits(policy: &Policy, node: &Node, standing: &Standing, voter: usize) -> bool {
    let below = || node.below().iter().zip(&standing.below);
    let in_level = matches!(node, Node::Then(_))
        && below().any(|(level, standing)| standing.begin.is_none() && stands_in(policy, level, voter));
    in_level || below().any(|(node, standing)| waits(policy, node, standing, voter))
}

/// Whether the voter is a member of a group that the node or one below it counts.
pub(super) fn stands_in(policy: &Policy, node: &Node, voter: usize) -> bool {
    let is_member = |group: &str| policy.members(group).contains(&voter);
    node.group().is_some_and(is_member) || node.below().iter().any(|node| stands_in(policy, node, voter))
}
