//! Policies by chance, as data of our own, and their text: every form of rule, also many that are wrong.

use std::fmt::Write as _;

use assent_consensus::jwk::PublicKey;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use serde_json::json;

use crate::chance::Chance;

/// A policy.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// What all times of this policy are multiples of, in milliseconds.
    pub(super) unit: u64,
    /// In milliseconds.
    pub(super) deadline: u64,
    pub(super) reject_on_deadline: bool,
    pub(super) requester_may_vote: bool,
    pub(super) exclusive: Vec<[String; 2]>,
    pub(super) voters: Vec<Voter>,
    pub(super) rule: Node,
}

#[derive(Clone, Debug)]
pub(super) struct Voter {
    pub(super) name: String,
    /// Which of the keys that there are.
    pub(super) key: usize,
    pub(super) groups: Vec<String>,
    pub(super) weight: u64,
}

/// A node of the rule, as DESIGN section 7 lists them.
#[derive(Clone, Debug)]
pub(super) enum Node {
    AtLeast(u64, String),
    Weight(u64, String),
    Percent(u64, String),
    Quorum(u64, String),
    /// The group, and the window in milliseconds.
    NoVeto(String, u64),
    All(Vec<Node>),
    Any(Vec<Node>),
    NOf(u64, Vec<Node>),
    Then(Vec<Node>),
}

/// A ballot that somebody tries to cast.
#[derive(Clone, Debug)]
pub(super) struct Ballot {
    pub(super) voter: String,
    pub(super) choice: Choice,
    pub(super) at: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    Approve,
    Reject,
    Abstain,
}

/// One question to the simulation.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) policy: Policy,
    pub(super) requester: Option<String>,
    pub(super) opened: u64,
    pub(super) now: u64,
    pub(super) ballots: Vec<Ballot>,
}

const GROUPS: [&str; 5] = ["a", "b", "c", "d", "e"];
const UNITS: [(u64, &str); 5] = [(1, "ms"), (1_000, "s"), (60_000, "m"), (3_600_000, "h"), (86_400_000, "d")];
/// How often one thing of a policy is made wrong, in a hundred.
const WRONG: u64 = 2;

impl Question {
    pub(super) fn draw(chance: &mut Chance) -> Question {
        let policy = Policy::draw(chance);
        let voters: Vec<_> = policy.voters.iter().map(|voter| voter.name.clone()).collect();
        let requester = chance.percent(50).then(|| chance.one(&voters).clone());
        let opened = chance.between(1, 3) * 10 * policy.unit;
        let end = opened + policy.deadline;
        let now = match chance.between(0, 3) {
            0 => end,
            1 => end + policy.unit * chance.between(1, 3),
            _ => moment(chance, &policy, opened, opened.saturating_sub(1), end),
        };
        let ballots = ballots(chance, &policy, opened, &voters);
        Question { policy, requester, opened, now, ballots }
    }

    /// The line that `assent policy simulate` reads.
    pub(super) fn to_line(&self) -> String {
        let ballot = |ballot: &Ballot| json!({ "voter": ballot.voter, "choice": ballot.choice.word(), "at": ballot.at });
        json!({
            "policy": self.policy.to_toml(),
            "requester": self.requester,
            "opened": self.opened,
            "now": self.now,
            "ballots": self.ballots.iter().map(ballot).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

/// A moment at which something may happen: some units after the opening, or a millisecond beside.
fn moment(chance: &mut Chance, policy: &Policy, opened: u64, low: u64, high: u64) -> u64 {
    let units = chance.between(0, policy.deadline / policy.unit + 1);
    let at = opened + units * policy.unit;
    let at = match chance.between(0, 5) {
        0 => at - 1,
        1 => at + 1,
        _ => at,
    };
    at.clamp(low, high.max(low))
}

fn ballots(chance: &mut Chance, policy: &Policy, opened: u64, voters: &[String]) -> Vec<Ballot> {
    let count = chance.between(0, 2 * voters.len() as u64 + 3);
    let rejects = *chance.one(&[2, 10, 40]);
    let mut times: Vec<u64> =
        (0..count).map(|_| moment(chance, policy, opened, opened - 1, u64::MAX >> 12)).collect();
    // Many at once, mostly in order.
    if chance.percent(30) {
        times.fill(opened);
    } else if chance.percent(90) {
        times.sort_unstable();
    }
    let cast = |at| {
        let voter = if chance.percent(WRONG) { "nobody".to_owned() } else { chance.one(voters).clone() };
        let choice = match chance.between(1, 100) {
            drawn if drawn <= rejects => Choice::Reject,
            drawn if drawn <= rejects + 15 => Choice::Abstain,
            _ => Choice::Approve,
        };
        Ballot { voter, choice, at }
    };
    times.into_iter().map(cast).collect()
}

impl Policy {
    /// Few voters and short times half of the time, so that all futures can be tried.
    fn draw(chance: &mut Chance) -> Policy {
        let small = chance.percent(50);
        let unit = if small || chance.percent(40) { 1 } else { chance.one(&UNITS).0 };
        let deadline = unit * chance.between(1, if small { SMALL_DEADLINE } else { 12 });
        let groups = &GROUPS[..chance.place(GROUPS.len()) + 1];
        let count = chance.between(1, if small { SMALL_ELECTORATE as u64 } else { 9 });
        let voters: Vec<_> = (0..count as usize).map(|place| Voter::draw(chance, place, groups)).collect();
        let mut policy = Policy {
            unit,
            deadline,
            reject_on_deadline: chance.percent(40),
            requester_may_vote: chance.percent(30),
            exclusive: Vec::new(),
            rule: Node::All(Vec::new()),
            voters,
        };
        let known: Vec<_> = GROUPS.into_iter().filter(|group| !policy.members(group).is_empty()).collect();
        if known.is_empty() {
            policy.voters[0].groups.push("a".into());
            policy.rule = Node::AtLeast(1, "a".into());
            return policy;
        }
        policy.rule = Node::draw(chance, &policy, &known, 3);
        if chance.percent(15) {
            policy.exclusive.push([chance.one(groups).to_string(), chance.one(&GROUPS).to_string()]);
        }
        policy
    }

    pub(super) fn members(&self, group: &str) -> Vec<usize> {
        let is_member = |place: &usize| self.voters[*place].groups.iter().any(|name| name == group);
        (0..self.voters.len()).filter(is_member).collect()
    }

    /// Whether all futures can be tried.
    pub(super) fn is_small(&self) -> bool {
        self.voters.len() <= SMALL_ELECTORATE && self.unit == 1 && self.deadline <= SMALL_DEADLINE
    }

    fn to_toml(&self) -> String {
        let mut text = String::from("name = \"drawn\"\nkinds = [\"record\"]\n");
        let mut line = |line: String| writeln!(text, "{line}").expect("a text takes all");
        line(format!("deadline = \"{}\"", duration(self.deadline)));
        if self.reject_on_deadline {
            line("on_deadline = \"reject\"".into());
        }
        if self.requester_may_vote {
            line("requester_may_vote = true".into());
        }
        if !self.exclusive.is_empty() {
            line(format!("exclusive = {:?}", self.exclusive));
        }
        line(format!("rule = {}", self.rule.to_toml()));
        for voter in &self.voters {
            let (x, y) = key(voter.key);
            line("\n[[voter]]".into());
            line(format!("name = {:?}", voter.name));
            line(format!(r#"key = {{ kty = "EC", crv = "P-256", x = "{x}", y = "{y}" }}"#));
            line(format!("groups = {:?}", voter.groups));
            if voter.weight != 1 {
                line(format!("weight = {}", voter.weight));
            }
        }
        text
    }
}

/// The most voters of a small policy.
const SMALL_ELECTORATE: usize = 3;
/// The longest deadline of a small policy, in milliseconds.
const SMALL_DEADLINE: u64 = 6;

impl Voter {
    fn draw(chance: &mut Chance, place: usize, groups: &[&str]) -> Voter {
        let count = match chance.between(0, 9) {
            0 => 0,
            1..7 => 1,
            _ => 2,
        };
        let mut groups = groups.to_vec();
        chance.shuffle(&mut groups);
        groups.truncate(count);
        let mut voter = Voter {
            name: format!("v{place}"),
            key: place,
            groups: groups.iter().map(ToString::to_string).collect(),
            weight: *chance.one(&[1, 1, 1, 2, 3, 5, 1_000_000_000]),
        };
        if place > 0 && chance.percent(WRONG) {
            voter.name = "v0".into();
        }
        if place > 0 && chance.percent(WRONG) {
            voter.key = 0;
        }
        voter
    }
}

impl Node {
    /// A rule over `groups`, nested at most `depth` deeper.
    fn draw(chance: &mut Chance, policy: &Policy, groups: &[&str], depth: u64) -> Node {
        if depth == 0 || chance.percent(30) {
            return Node::draw_leaf(chance, policy, groups);
        }
        let several = |chance: &mut Chance| -> Vec<Node> {
            (0..chance.between(1, 3)).map(|_| Node::draw(chance, policy, groups, depth - 1)).collect()
        };
        match chance.between(0, 9) {
            0..=2 => Node::All(several(chance)),
            3 => Node::Any(several(chance)),
            4 | 5 => {
                let rules = several(chance);
                let count = rules.len() as u64;
                let threshold = if chance.percent(WRONG) {
                    *chance.one(&[0, count + 1])
                } else {
                    chance.between(1, count)
                };
                Node::NOf(threshold, rules)
            }
            _ => {
                // Levels over groups of their own, since no voter may stand in two.
                let mut groups = groups.to_vec();
                chance.shuffle(&mut groups);
                let size = groups.len().div_ceil(chance.place(3) + 1);
                let levels = groups.chunks(size);
                Node::Then(levels.map(|level| Node::draw(chance, policy, level, depth - 1)).collect())
            }
        }
    }

    fn draw_leaf(chance: &mut Chance, policy: &Policy, groups: &[&str]) -> Node {
        let group = if chance.percent(WRONG) { "z" } else { *chance.one(groups) };
        let members = policy.members(group);
        let count = members.len() as u64;
        let weight: u64 = members.iter().map(|member| policy.voters[*member].weight).sum();
        let mut reach = |reach: u64| match chance.percent(WRONG) {
            true => *chance.one(&[0, reach + 1]),
            false => chance.between(1, reach.max(1)),
        };
        let (heads, weight) = (reach(count), reach(weight));
        let percent = if chance.percent(WRONG) { *chance.one(&[0, 101]) } else { chance.between(1, 100) };
        let window = if chance.percent(WRONG) {
            policy.deadline + policy.unit
        } else {
            policy.unit * chance.between(1, policy.deadline / policy.unit)
        };
        let group = group.to_owned();
        match chance.between(0, 10) {
            0..=3 => Node::AtLeast(heads, group),
            4 | 5 => Node::Weight(weight, group),
            6 => Node::Percent(percent, group),
            7 | 8 => Node::Quorum(heads, group),
            _ => Node::NoVeto(group, window),
        }
    }

    /// The nodes right below.
    pub(super) fn below(&self) -> &[Node] {
        match self {
            Node::All(rules) | Node::Any(rules) | Node::NOf(_, rules) | Node::Then(rules) => rules,
            _ => &[],
        }
    }

    /// The group of a leaf.
    pub(super) fn group(&self) -> Option<&str> {
        match self {
            Node::AtLeast(_, group)
            | Node::Weight(_, group)
            | Node::Percent(_, group)
            | Node::Quorum(_, group)
            | Node::NoVeto(group, _) => Some(group),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        let list = |rules: &[Node]| rules.iter().map(Node::to_toml).collect::<Vec<_>>().join(", ");
        match self {
            Node::AtLeast(n, group) => format!("{{ at_least = {n}, of = {group:?} }}"),
            Node::Weight(n, group) => format!("{{ weight = {n}, of = {group:?} }}"),
            Node::Percent(n, group) => format!("{{ of = {group:?}, percent = {n} }}"),
            Node::Quorum(n, group) => format!("{{ quorum = {n}, of = {group:?} }}"),
            Node::NoVeto(group, window) => {
                format!("{{ no_veto = {group:?}, for = \"{}\" }}", duration(*window))
            }
            Node::All(rules) => format!("{{ all = [{}] }}", list(rules)),
            Node::Any(rules) => format!("{{ any = [{}] }}", list(rules)),
            Node::NOf(n, rules) => format!("{{ n_of = {n}, rules = [{}] }}", list(rules)),
            Node::Then(rules) => format!("{{ then = [{}] }}", list(rules)),
        }
    }
}

impl Choice {
    pub(super) const ALL: [Choice; 3] = [Choice::Approve, Choice::Reject, Choice::Abstain];

    fn word(self) -> &'static str {
        match self {
            Choice::Approve => "approve",
            Choice::Reject => "reject",
            Choice::Abstain => "abstain",
        }
    }
}

/// In the largest unit that fits.
fn duration(milliseconds: u64) -> String {
    let (unit, word) =
        UNITS.iter().rev().find(|(unit, _)| milliseconds.is_multiple_of(*unit)).expect("1 divides all");
    format!("{}{word}", milliseconds / unit)
}

/// The coordinates of the `place`-th key: whose it is does not matter here.
fn key(place: usize) -> (String, String) {
    let mut scalar = [0; 32];
    scalar[31] = u8::try_from(place + 1).expect("there are few voters");
    let secret = p256::SecretKey::from_slice(&scalar).expect("a small number is a key");
    let point = secret.public_key().to_sec1_point(false);
    let point = point.as_bytes().try_into().expect("an uncompressed point has 65 bytes");
    let jwk = serde_json::to_value(PublicKey::from_point(point).expect("it is on the curve"));
    let jwk = jwk.expect("a JWK is JSON");
    let member = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
    (member("x"), member("y"))
}
