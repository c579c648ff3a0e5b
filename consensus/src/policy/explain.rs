//! From a tally to words: which node holds, which fails, and who is missing.

use std::fmt;

use serde::Serialize;

use super::evaluate::{State, Tally};
use super::{Measure, NodeIndex, ROOT, Rule, SomeWord, VoterIndex};
use crate::name::Name;
use crate::time::UnixMillis;

/// How a rule, or a part of it, stands at one moment. Displayed as an indented list, one line for each part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// The part of the rule, in the words of the policy.
    pub rule: String,
    /// How it stands.
    pub state: NodeState,
    /// Since when it is so; nothing while it is open or waiting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// What was counted so far (approvals, weight or ballots), for a part that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// What must be counted, for a part that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<u64>,
    /// When the window ends, for a window that has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
    /// While the part can still make a difference: the members of its group whose ballots could still come.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Name>,
    /// The parts of this part, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Explanation>,
}

/// How a part of a rule stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// A level that has not begun.
    Waiting,
    /// It can still become true or false.
    Open,
    /// It is true, and stays so.
    True,
    /// It is false, and stays so.
    False,
}

impl Tally<'_> {
    /// How the rule stands at `now`, or at the deadline if that is earlier: which part holds, which fails, and who is
    /// missing.
    pub fn explain(&self, now: UnixMillis) -> Explanation {
        let mut states = vec![None; self.policy.nodes.len()];
        self.visit(now.get(), &mut |node, begin, state| states[usize::from(node.0)] = Some((begin, state)));
        self.explain_node(ROOT, &states, self.outcome(now).is_none())
    }

    /// `live`: the node can still make a difference.
    fn explain_node(&self, index: NodeIndex, states: &[Option<(u64, State)>], live: bool) -> Explanation {
        let standing = states[usize::from(index.0)];
        let (state, since) = match standing {
            None => (NodeState::Waiting, None),
            Some((_, State::Open)) => (NodeState::Open, None),
            Some((_, State::True(since))) => (NodeState::True, Some(UnixMillis::new(since))),
            Some((_, State::False(since))) => (NodeState::False, Some(UnixMillis::new(since))),
        };
        let live = live && matches!(state, NodeState::Open | NodeState::Waiting);
        let rule = &self.policy.node(index).rule;
        let mut explanation = Explanation {
            rule: self.words(rule),
            state,
            since,
            counted: None,
            needed: None,
            until: None,
            missing: Vec::new(),
            rules: Vec::new(),
        };
        match rule {
            Rule::Count { threshold, .. } => {
                explanation.counted = self.leaves[usize::from(index.0)].map(|leaf| leaf.gained);
                explanation.needed = Some(*threshold);
            }
            Rule::NoVeto { window, .. } => {
                explanation.until =
                    standing.map(|(begin, _)| UnixMillis::new(begin.saturating_add(window.get())));
            }
            Rule::Some { rules, .. } | Rule::Then { levels: rules } => {
                explanation.rules = rules.iter().map(|rule| self.explain_node(*rule, states, live)).collect();
            }
        }
        if let (true, Rule::Count { group, .. } | Rule::NoVeto { group, .. }) = (live, rule) {
            let members = self.policy.group(*group).members.iter();
            let left = |member: &&VoterIndex| {
                self.choices[member.place()].is_none() && self.barred != Some(**member)
            };
            let names = members.filter(left).map(|member| self.policy.voter(*member).name.clone());
            explanation.missing = names.collect();
        }
        explanation
    }

    fn words(&self, rule: &Rule) -> String {
        match rule {
            Rule::Count { measure, threshold, group } => {
                let group = &self.policy.group(*group).name;
                match measure {
                    Measure::Approvals => format!("at_least {threshold} of {group}"),
                    Measure::Weight => format!("weight {threshold} of {group}"),
                    Measure::Percent(share) => format!("percent {share} of {group}"),
                    Measure::Ballots => format!("quorum {threshold} of {group}"),
                }
            }
            Rule::NoVeto { group, window } => {
                format!("no_veto {} for {window}", self.policy.group(*group).name)
            }
            Rule::Some { word: SomeWord::All, .. } => "all".into(),
            Rule::Some { word: SomeWord::Any, .. } => "any".into(),
            Rule::Some { word: SomeWord::NOf, threshold, .. } => format!("n_of {threshold}"),
            Rule::Then { .. } => "then".into(),
        }
    }
}

impl Explanation {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        if depth > 0 {
            f.write_str("\n")?;
        }
        write!(f, "{:indent$}{}: {}", "", self.rule, self.state, indent = 2 * depth)?;
        if let Some(since) = self.since {
            write!(f, " since {since}")?;
        }
        if let (Some(counted), Some(needed)) = (self.counted, self.needed) {
            write!(f, ", {counted} of {needed}")?;
        }
        if let (Some(until), NodeState::Open) = (self.until, self.state) {
            write!(f, ", until {until}")?;
        }
        for (index, name) in self.missing.iter().enumerate() {
            write!(f, "{}{name}", if index == 0 { ", could still vote: " } else { ", " })?;
        }
        self.rules.iter().try_for_each(|rule| rule.write(f, depth + 1))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NodeState::Waiting => "waiting",
            NodeState::Open => "open",
            NodeState::True => "true",
            NodeState::False => "false",
        })
    }
}
