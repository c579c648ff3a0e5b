//! Policies: who votes, by which rules, and what a set of ballots comes to (DESIGN section 7).
//!
//! A pipeline: `document` reads TOML into a tree as written; `check` resolves its names and looks at every node; `futures`
//! plays what could come of it, and refuses what could never approve or could approve with no approving ballot (invariant
//! I9); that makes a [`Policy`]. `advise` says what is lawful but worth knowing. `evaluate` counts ballots in a [`Tally`],
//! `explain` says how the rule stands, and `simulate` runs all of it on one JSON line.

mod advise;
mod check;
mod document;
mod evaluate;
mod explain;
mod finding;
mod futures;
mod simulate;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;
use crate::jwk::{PublicKey, Thumbprint};
use crate::name::Name;
use crate::subject::SubjectKind;
use crate::time::Millis;

pub use evaluate::{BallotRefusal, Tally};
pub use explain::{Explanation, NodeState};
pub use finding::{Finding, PolicyError, Position};
pub use simulate::simulate;

/// The most bytes that a policy's document may have.
pub const DOCUMENT_LIMIT: usize = 1 << 20;
/// The most voters that a policy may have.
pub const VOTER_LIMIT: usize = 1_024;
/// The most groups that a voter may be in, and the most pairs in `exclusive`.
pub const GROUP_LIMIT: usize = 64;
/// The most nodes that a rule may have.
pub const NODE_LIMIT: usize = 256;
/// How deep a rule may be nested, in nodes from the root to a leaf.
pub const DEPTH_LIMIT: usize = 16;
/// The most findings that are shown of one document.
pub const FINDING_LIMIT: usize = 100;
/// The largest weight that a voter may have.
pub const WEIGHT_LIMIT: u64 = 1_000_000_000;

/// Policies that were read before, by digest: what a document says depends on its bytes alone.
#[derive(Default)]
pub struct ReadPolicies(Mutex<BTreeMap<Digest, Arc<Policy>>>);

impl ReadPolicies {
    /// The policy of this digest; `document` gives its document, if it was not read before. Nothing if there is none, or if
    /// it is no policy.
    pub fn read(&self, digest: &Digest, document: impl FnOnce() -> Option<Vec<u8>>) -> Option<Arc<Policy>> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = known().get(digest) {
            return Some(policy.clone());
        }
        let policy = Arc::new(Policy::parse(&document()?).ok()?);
        known().insert(*digest, policy.clone());
        Some(policy)
    }
}

/// The rules and the electorate of a consensus contract, parsed and linted: there is none that could never approve, or
/// could approve with no approving ballot.
pub struct Policy {
    document: Box<[u8]>,
    digest: Digest,
    name: Name,
    kinds: Vec<SubjectKind>,
    deadline: Millis,
    on_deadline: OnDeadline,
    act_within: Millis,
    requester_may_vote: bool,
    voters: Vec<Voter>,
    by_key: BTreeMap<Thumbprint, VoterIndex>,
    by_name: BTreeMap<Name, VoterIndex>,
    groups: Vec<Group>,
    /// The rule's nodes, each before its children; the first is the root.
    nodes: Vec<Node>,
    /// For each node what it has counted before any ballot, if it counts ballots.
    blank: Vec<Option<evaluate::Leaf>>,
    /// For each voter, in the same order, what his ballot counts for.
    seats: Vec<Seat>,
}

/// What a request that is still open at its deadline comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDeadline {
    /// It expires.
    Expire,
    /// It is rejected.
    Reject,
}

/// A voter's place in his policy, from 0, in the order of the document.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VoterIndex(u16);

/// One who may vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    /// The name by which the policy knows him.
    pub name: Name,
    /// The key that he signs ballots with.
    pub key: PublicKey,
    /// The groups that he is in, in the order of the document.
    pub groups: Vec<Name>,
    /// What his approval weighs in `weight` and `percent`, from 1 to [`WEIGHT_LIMIT`].
    pub weight: u64,
}

/// A group and its members.
struct Group {
    name: Name,
    members: Vec<VoterIndex>,
}

/// A node's place in [`Policy::nodes`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct NodeIndex(u16);

/// A group's place in [`Policy::groups`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct GroupIndex(u16);

/// A node of the rule.
struct Node {
    position: Position,
    rule: Rule,
}

/// What a node asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    /// That the ballots of a group, as `measure` counts them, reach `threshold`, which is at least 1.
    Count { measure: Measure, threshold: u64, group: GroupIndex },
    /// That no member of `group` rejects during `window` from the node's begin.
    NoVeto { group: GroupIndex, window: Millis },
    /// That `threshold` of the rules become true: all of them, any, or some number between.
    Some { word: SomeWord, threshold: usize, rules: Vec<NodeIndex> },
    /// That the rules become true one after the other.
    Then { levels: Vec<NodeIndex> },
}

/// How a ballot counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Measure {
    /// An approval is one: `at_least`.
    Approvals,
    /// An approval has its voter's weight: `weight`.
    Weight,
    /// The same, the threshold being this share of the group's weight: `percent`.
    Percent(u64),
    /// Every ballot is one: `quorum`.
    Ballots,
}

/// The word for a [`Rule::Some`] in the document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SomeWord {
    All,
    Any,
    NOf,
}

/// What one voter's ballot counts for.
struct Seat {
    /// Where the policy names him.
    position: Position,
    /// The leaves that count a group of his, in order.
    leaves: Vec<NodeIndex>,
    /// The levels of `then` that he stands in, in order: his ballot is refused until all of them have begun.
    gates: Vec<NodeIndex>,
}

const ROOT: NodeIndex = NodeIndex(0);

impl Policy {
    /// Reads a policy's TOML, and refuses one that could never approve, or could approve with no approving ballot
    /// (invariant I9), or is not of the form of DESIGN section 7.
    ///
    /// # Errors
    /// All findings, with line and column.
    pub fn parse(document: &[u8]) -> Result<Policy, PolicyError> {
        document::Document::parse(document)
            .and_then(|parsed| check::check(parsed, document))
            .and_then(|policy| match futures::findings(&policy) {
                findings if findings.is_empty() => Ok(policy),
                findings => Err(findings),
            })
            .map_err(PolicyError::new)
    }

    /// The policy's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The SHA-256 of the document's bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The exact bytes that the policy was read from.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Whether subjects of this kind are decided here.
    pub fn decides(&self, kind: SubjectKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The kinds of subjects that are decided here, in the order of the document.
    pub fn kinds(&self) -> &[SubjectKind] {
        &self.kinds
    }

    /// How long a request is open.
    pub fn deadline(&self) -> Millis {
        self.deadline
    }

    /// What a request that is still open at its deadline comes to.
    pub fn on_deadline(&self) -> OnDeadline {
        self.on_deadline
    }

    /// How long after approval the action may still be done.
    pub fn act_within(&self) -> Millis {
        self.act_within
    }

    /// Whether a requester who is a voter may vote on his own request.
    pub fn requester_may_vote(&self) -> bool {
        self.requester_may_vote
    }

    /// The voters, in the order of the document; a [`VoterIndex`] is a place in it.
    pub fn voters(&self) -> &[Voter] {
        &self.voters
    }

    /// The voter at `index`.
    ///
    /// # Panics
    /// If the index came from a policy with more voters.
    pub fn voter(&self, index: VoterIndex) -> &Voter {
        &self.voters[index.place()]
    }

    /// The voter at this place in the document, from 0.
    pub fn voter_at(&self, place: usize) -> Option<VoterIndex> {
        self.voters.get(place)?;
        u16::try_from(place).ok().map(VoterIndex)
    }

    /// The voter whose key has this thumbprint.
    pub fn voter_by_key(&self, key: &Thumbprint) -> Option<VoterIndex> {
        self.by_key.get(key).copied()
    }

    /// The voter of this name.
    pub fn voter_by_name(&self, name: &Name) -> Option<VoterIndex> {
        self.by_name.get(name).copied()
    }

    /// The voter who may not vote because he is the requester.
    fn barred(&self, requester: Option<&Thumbprint>) -> Option<VoterIndex> {
        let requester = requester.filter(|_| !self.requester_may_vote)?;
        self.voter_by_key(requester)
    }

    /// All voters' indexes, in order.
    fn indexes(&self) -> impl Iterator<Item = VoterIndex> + use<> {
        let count = u16::try_from(self.voters.len()).expect("a policy has at most VOTER_LIMIT voters");
        (0..count).map(VoterIndex)
    }

    /// Everybody whom a request can bar from voting: nobody, and then each voter unless requesters may vote.
    fn requesters(&self) -> impl Iterator<Item = Option<VoterIndex>> + use<> {
        let may_vote = self.requester_may_vote;
        std::iter::once(None).chain(self.indexes().map(Some).filter(move |_| !may_vote))
    }

    fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[usize::from(index.0)]
    }

    fn group(&self, index: GroupIndex) -> &Group {
        &self.groups[usize::from(index.0)]
    }

    fn seat(&self, index: VoterIndex) -> &Seat {
        &self.seats[index.place()]
    }
}

impl VoterIndex {
    /// The place, from 0.
    pub fn place(self) -> usize {
        usize::from(self.0)
    }
}

impl Measure {
    /// What one voter can bring.
    fn share(self, voter: &Voter) -> u64 {
        match self {
            Measure::Approvals | Measure::Ballots => 1,
            Measure::Weight | Measure::Percent(_) => voter.weight,
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
