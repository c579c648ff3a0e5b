//! From syntax tree to policy: names are resolved, and every node is looked at by itself.

use std::collections::BTreeMap;

use toml::Spanned;

use super::document::{Document, Form, RuleEntry, VoterEntry};
use super::evaluate::Leaf;
use super::finding::{Finding, Lines};
use super::table::nearest;
use super::{
    FINDING_LIMIT, Group, GroupIndex, Measure, Node, NodeIndex, Policy, ROOT, Rule, Seat, SomeWord, Voter,
    VoterIndex,
};
use crate::digest::Digest;
use crate::jwk::Thumbprint;
use crate::name::Name;
use crate::time::Millis;

/// Makes a policy of what `bytes` were read as; on failure every finding, in no order.
pub(super) fn check(document: Document, bytes: &[u8]) -> Result<Policy, Vec<Finding>> {
    let text = String::from_utf8_lossy(bytes);
    let mut checker =
        Checker { lines: Lines::of(&text), deadline: *document.deadline.get_ref(), findings: Vec::new() };
    let (by_name, by_key) = checker.electorate(&document.voters);
    let groups = Groups::of(&document.voters);
    for pair in &document.exclusive {
        checker.exclusive(pair, &document.voters, &groups);
    }
    let mut nodes = Vec::new();
    checker.node(&document.rule, &document.voters, &groups, &mut nodes);
    if !checker.findings.is_empty() {
        return Err(checker.findings);
    }
    let seat = |voter: &VoterEntry| Seat {
        position: checker.lines.position(voter.name.span().start),
        leaves: Vec::new(),
        gates: Vec::new(),
    };
    let seats = document.voters.iter().map(seat).collect();
    let voters = document.voters.into_iter().map(Voter::from).collect();
    let mut policy = Policy {
        document: bytes.into(),
        digest: Digest::of(bytes),
        name: document.name,
        kinds: document.kinds,
        deadline: checker.deadline,
        on_deadline: document.on_deadline,
        act_within: document.act_within,
        requester_may_vote: document.requester_may_vote,
        voters,
        by_key,
        by_name,
        groups: groups.list,
        nodes,
        blank: Vec::new(),
        seats,
    };
    policy.blank = policy.nodes.iter().map(|node| blank(&policy, &node.rule)).collect();
    checker.seats(&mut policy);
    if checker.findings.is_empty() { Ok(policy) } else { Err(checker.findings) }
}

/// Among how many groups the one that was meant is looked for.
const NEAREST_OF: usize = 256;

struct Checker<'d> {
    lines: Lines<'d>,
    deadline: Millis,
    findings: Vec<Finding>,
}

/// The groups that voters are in.
struct Groups {
    list: Vec<Group>,
    by_name: BTreeMap<Name, GroupIndex>,
}

type Electorate = (BTreeMap<Name, VoterIndex>, BTreeMap<Thumbprint, VoterIndex>);

impl Checker<'_> {
    fn report(&mut self, offset: usize, message: String) {
        self.report_with_help(offset, message, None);
    }

    fn report_with_help(&mut self, offset: usize, message: String, help: Option<String>) {
        if self.findings.len() < FINDING_LIMIT {
            let position = self.lines.position(offset);
            self.findings.push(Finding { position, message, help });
        }
    }

    /// The voters by name and by key.
    fn electorate(&mut self, voters: &[VoterEntry]) -> Electorate {
        let (mut by_name, mut by_key) = Electorate::default();
        for (index, voter) in indexed(voters) {
            let name = voter.name.get_ref();
            if by_name.insert(name.clone(), index).is_some() {
                self.report(voter.name.span().start, format!("the voter `{name}` is listed twice"));
            }
            if let Some(other) = by_key.insert(voter.key.get_ref().thumbprint(), index) {
                let other = voters[other.place()].name.get_ref();
                let message = format!("the key of voter `{name}` is listed twice: `{other}` has it too");
                self.report(voter.key.span().start, message);
            }
        }
        (by_name, by_key)
    }

    fn exclusive(&mut self, [first, second]: &[Spanned<Name>; 2], voters: &[VoterEntry], groups: &Groups) {
        if first.get_ref() == second.get_ref() {
            let message = format!("`exclusive` must name two groups, not `{}` twice", first.get_ref());
            return self.report(second.span().start, message);
        }
        let known = (self.known_group(first, groups), self.known_group(second, groups));
        let (Some(first), Some(second)) = known else { return };
        let (first, second) = (groups.group(first), groups.group(second));
        // Members are in the order of the voters.
        let in_both = |member: &&VoterIndex| second.members.binary_search(member).is_ok();
        for &member in first.members.iter().filter(in_both) {
            let voter = &voters[member.place()];
            let message = format!(
                "the voter `{}` is in `{}` and in `{}`, which are exclusive",
                voter.name.get_ref(),
                first.name,
                second.name
            );
            self.report(voter.name.span().start, message);
        }
    }

    fn known_group(&mut self, name: &Spanned<Name>, groups: &Groups) -> Option<GroupIndex> {
        let known = groups.by_name.get(name.get_ref()).copied();
        if known.is_none() {
            // A document that anybody may send must not make many comparisons of it.
            let names = groups.by_name.keys().take(NEAREST_OF).map(Name::as_str);
            let near = nearest(name.get_ref().as_str(), names);
            let help = near.map(|near| format!("did you mean `{near}`?"));
            let message = format!("no voter is in the group `{}`", name.get_ref());
            self.report_with_help(name.span().start, message, help);
        }
        known
    }

    /// Appends the node and all below it; nothing if something is wrong with it.
    fn node(
        &mut self,
        entry: &RuleEntry,
        voters: &[VoterEntry],
        groups: &Groups,
        nodes: &mut Vec<Node>,
    ) -> Option<NodeIndex> {
        let index = NodeIndex(u16::try_from(nodes.len()).expect("a rule has at most NODE_LIMIT nodes"));
        let position = self.lines.position(entry.start);
        // Children come after their parent, which is put right when they are known.
        nodes.push(Node { position, rule: Rule::Then { levels: Vec::new() } });
        let rule = match &entry.form {
            Form::AtLeast { threshold, group } => {
                self.count(Measure::Approvals, threshold, group, voters, groups)?
            }
            Form::Weight { threshold, group } => {
                self.count(Measure::Weight, threshold, group, voters, groups)?
            }
            Form::Percent { threshold, group } => {
                let share = *threshold.get_ref();
                self.count(Measure::Percent(share), threshold, group, voters, groups)?
            }
            Form::Quorum { threshold, group } => {
                self.count(Measure::Ballots, threshold, group, voters, groups)?
            }
            Form::NoVeto { group, window } => self.no_veto(group, window, groups)?,
            Form::All(rules) => {
                let threshold = rules.len();
                let rules = self.children(rules, voters, groups, nodes);
                Rule::Some { word: SomeWord::All, threshold, rules }
            }
            Form::Any(rules) => {
                let rules = self.children(rules, voters, groups, nodes);
                Rule::Some { word: SomeWord::Any, threshold: 1, rules }
            }
            Form::NOf { threshold, rules } => {
                let wanted = usize::try_from(*threshold.get_ref()).unwrap_or(usize::MAX);
                if wanted == 0 {
                    self.report(threshold.span().start, "`n_of` must be at least 1".into());
                } else if wanted > rules.len() {
                    let message = format!("`n_of` is out of reach: {wanted} of {} rules", rules.len());
                    self.report(threshold.span().start, message);
                }
                let rules = self.children(rules, voters, groups, nodes);
                Rule::Some { word: SomeWord::NOf, threshold: wanted, rules }
            }
            Form::Then(rules) => Rule::Then { levels: self.children(rules, voters, groups, nodes) },
        };
        nodes[usize::from(index.0)].rule = rule;
        Some(index)
    }

    fn children(
        &mut self,
        entries: &[RuleEntry],
        voters: &[VoterEntry],
        groups: &Groups,
        nodes: &mut Vec<Node>,
    ) -> Vec<NodeIndex> {
        entries.iter().filter_map(|entry| self.node(entry, voters, groups, nodes)).collect()
    }

    fn count(
        &mut self,
        measure: Measure,
        threshold: &Spanned<u64>,
        group: &Spanned<Name>,
        voters: &[VoterEntry],
        groups: &Groups,
    ) -> Option<Rule> {
        let index = self.known_group(group, groups)?;
        let members = &groups.group(index).members;
        let weight: u64 = members.iter().map(|member| voters[member.place()].weight).sum();
        let wanted = *threshold.get_ref();
        let start = threshold.span().start;
        let name = group.get_ref();
        let (word, reach, of_what) = match measure {
            Measure::Approvals => ("at_least", members.len() as u64, "members"),
            Measure::Ballots => ("quorum", members.len() as u64, "members"),
            Measure::Weight => ("weight", weight, "weights"),
            Measure::Percent(_) if (1..=100).contains(&wanted) => {
                // The group's weight is below 2^41, so this is exact.
                let threshold = (wanted * weight).div_ceil(100);
                return Some(Rule::Count { measure, threshold, group: index });
            }
            Measure::Percent(_) => {
                self.report(start, format!("`percent` must be from 1 to 100, not {wanted}"));
                return None;
            }
        };
        if wanted == 0 {
            self.report(start, format!("`{word}` must be at least 1"));
            return None;
        }
        if wanted > reach {
            let message =
                format!("`{word}` is out of reach: {wanted}, and the {of_what} of `{name}` come to {reach}");
            self.report(start, message);
            return None;
        }
        Some(Rule::Count { measure, threshold: wanted, group: index })
    }

    fn no_veto(&mut self, group: &Spanned<Name>, window: &Spanned<Millis>, groups: &Groups) -> Option<Rule> {
        if *window.get_ref() > self.deadline {
            let message = format!(
                "the window of {} is longer than the deadline of {}",
                window.get_ref(),
                self.deadline
            );
            self.report(window.span().start, message);
        }
        let group = self.known_group(group, groups)?;
        Some(Rule::NoVeto { group, window: *window.get_ref() })
    }

    /// What each voter's ballot counts for; reports voters who stand in two levels of one `then`.
    fn seats(&mut self, policy: &mut Policy) {
        let mut seats = std::mem::take(&mut policy.seats);
        self.standing(policy, ROOT, &mut seats);
        for seat in &mut seats {
            seat.leaves.sort_unstable();
            seat.gates.sort_unstable();
        }
        policy.seats = seats;
    }

    /// Whether each voter stands in the node or below it.
    fn standing(&mut self, policy: &Policy, index: NodeIndex, seats: &mut [Seat]) -> Vec<bool> {
        let mut here = vec![false; policy.voters.len()];
        match &policy.node(index).rule {
            Rule::Count { group, .. } | Rule::NoVeto { group, .. } => {
                for member in &policy.group(*group).members {
                    here[member.place()] = true;
                    seats[member.place()].leaves.push(index);
                }
            }
            Rule::Some { rules, .. } => {
                for rule in rules {
                    let below = self.standing(policy, *rule, seats);
                    here.iter_mut().zip(below).for_each(|(here, below)| *here |= below);
                }
            }
            Rule::Then { levels } => {
                for level in levels {
                    let below = self.standing(policy, *level, seats);
                    for (place, _) in below.iter().enumerate().filter(|(_, below)| **below) {
                        if here[place] {
                            let message = format!(
                                "the voter `{}` stands in two levels of one `then`",
                                policy.voters[place].name
                            );
                            let position = policy.node(*level).position;
                            if self.findings.len() < FINDING_LIMIT {
                                self.findings.push(Finding { position, message, help: None });
                            }
                        }
                        here[place] = true;
                        seats[place].gates.push(*level);
                    }
                }
            }
        }
        here
    }
}

/// What a node has counted before any ballot.
fn blank(policy: &Policy, rule: &Rule) -> Option<Leaf> {
    let (group, measure) = match rule {
        Rule::Count { group, measure, .. } => (group, *measure),
        Rule::NoVeto { group, .. } => (group, Measure::Ballots),
        Rule::Some { .. } | Rule::Then { .. } => return None,
    };
    let members = policy.group(*group).members.iter();
    Some(Leaf::blank(members.map(|member| measure.share(policy.voter(*member))).sum()))
}

impl Groups {
    fn of(voters: &[VoterEntry]) -> Groups {
        let mut groups = Groups { list: Vec::new(), by_name: BTreeMap::new() };
        for (index, voter) in indexed(voters) {
            for name in &voter.groups {
                let name = name.get_ref();
                let next = groups.list.len();
                let group = *groups.by_name.entry(name.clone()).or_insert_with(|| {
                    groups.list.push(Group { name: name.clone(), members: Vec::new() });
                    GroupIndex(u16::try_from(next).expect("VOTER_LIMIT * GROUP_LIMIT groups fit in 16 bits"))
                });
                groups.list[usize::from(group.0)].members.push(index);
            }
        }
        groups
    }

    fn group(&self, index: GroupIndex) -> &Group {
        &self.list[usize::from(index.0)]
    }
}

impl From<VoterEntry> for Voter {
    fn from(entry: VoterEntry) -> Voter {
        Voter {
            name: entry.name.into_inner(),
            key: entry.key.into_inner(),
            groups: entry.groups.into_iter().map(Spanned::into_inner).collect(),
            weight: entry.weight,
        }
    }
}

/// The voters with their indexes.
fn indexed<V>(voters: &[V]) -> impl Iterator<Item = (VoterIndex, &V)> {
    let index = |place| VoterIndex(u16::try_from(place).expect("a policy has at most VOTER_LIMIT voters"));
    voters.iter().enumerate().map(move |(place, voter)| (index(place), voter))
}
