//! What is read and written for each ballot: who voted what and when, and the tree over the ballots.

use crate::digest::Digest;
use crate::json::Integer;
use crate::jwk::Thumbprint;
use crate::merkle::Frontier;
use crate::message::{BallotsRoot, RequestId};
use crate::policy::{Policy, Tally, VoterIndex};
use crate::time::UnixMillis;
use crate::vote::Choice;

use super::State;
use super::layout::{DUE, Key};

/// The counted ballots of an open request, without their bytes.
pub(super) struct Counting {
    /// The block time at which something happens by time alone; nothing once the outcome is fixed.
    due: Option<UnixMillis>,
    votes: Vec<Vote>,
    tree: Frontier,
}

struct Vote {
    voter: u16,
    choice: Choice,
    at: UnixMillis,
}

/// No moment: all that can be written are below 2^53.
const CLOSED: u64 = u64::MAX;
const HEAD: usize = 8 + 2;
const VOTE: usize = 2 + 1 + 8;

impl Counting {
    /// No ballots yet.
    pub(super) fn new() -> Counting {
        Counting { due: None, votes: Vec::new(), tree: Frontier::default() }
    }

    pub(super) fn read(state: &dyn State, request: RequestId) -> Option<Counting> {
        Counting::decode(&state.get(Key::request(request, "counting").as_bytes())?)
    }

    pub(super) fn write(&self, state: &mut dyn State, request: RequestId) {
        state.put(Key::request(request, "counting").as_bytes(), self.encode());
    }

    /// Sets when something happens by time alone: nothing closes the counting.
    pub(super) fn schedule(&mut self, state: &mut dyn State, request: RequestId, due: Option<UnixMillis>) {
        if self.due == due {
            return;
        }
        if let Some(due) = self.due {
            DUE.remove(state, due.get(), request);
        }
        if let Some(due) = due {
            DUE.add(state, due.get(), request, Vec::new());
        }
        self.due = due;
    }

    /// Whether the outcome is fixed.
    pub(super) fn is_closed(&self) -> bool {
        self.due.is_none()
    }

    /// The ballots so far, counted by the policy's rules.
    pub(super) fn tally<'p>(
        &self,
        policy: &'p Policy,
        requester: Thumbprint,
        opened: UnixMillis,
    ) -> Tally<'p> {
        let mut tally = Tally::new(policy, Some(&requester), opened);
        for vote in &self.votes {
            if let Some(voter) = policy.voter_at(usize::from(vote.voter)) {
                tally.recount(voter, vote.choice, vote.at);
            }
        }
        tally
    }

    /// Adds a ballot that the tally has accepted; gives its place in the order counted.
    pub(super) fn push(&mut self, voter: VoterIndex, choice: Choice, at: UnixMillis, jws: &str) -> u32 {
        let place = u32::try_from(self.votes.len()).unwrap_or(u32::MAX);
        let voter = u16::try_from(voter.place()).expect("a policy has at most 1,024 voters");
        self.votes.push(Vote { voter, choice, at });
        self.tree.push(BallotsRoot::leaf(at, jws), |_, _, _| {});
        place
    }

    /// The place of a voter's ballot in the order counted.
    pub(super) fn place(&self, voter: VoterIndex) -> Option<u32> {
        let found = self.votes.iter().position(|vote| usize::from(vote.voter) == voter.place());
        found.and_then(|place| u32::try_from(place).ok())
    }

    /// Count and root.
    pub(super) fn root(&self) -> BallotsRoot {
        BallotsRoot { count: Integer::saturating(self.tree.size()), root: self.tree.root() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.votes.len() * VOTE + self.tree.subtrees().len() * 32);
        bytes.extend_from_slice(&self.due.map_or(CLOSED, UnixMillis::get).to_be_bytes());
        let count = u16::try_from(self.votes.len()).expect("a policy has at most 1,024 voters");
        bytes.extend_from_slice(&count.to_be_bytes());
        for vote in &self.votes {
            bytes.extend_from_slice(&vote.voter.to_be_bytes());
            bytes.push(match vote.choice {
                Choice::Approve => 1,
                Choice::Reject => 2,
                Choice::Abstain => 3,
            });
            bytes.extend_from_slice(&vote.at.get().to_be_bytes());
        }
        for subtree in self.tree.subtrees() {
            bytes.extend_from_slice(subtree.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Counting> {
        let (due, rest) = bytes.split_first_chunk::<8>()?;
        let due = u64::from_be_bytes(*due);
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let count = usize::from(u16::from_be_bytes(*count));
        let (votes, rest) = rest.split_at_checked(count * VOTE)?;
        let (subtrees, []) = rest.as_chunks::<32>() else { return None };
        let (votes, []) = votes.as_chunks::<VOTE>() else { return None };
        Some(Counting {
            due: (due != CLOSED).then(|| UnixMillis::new(due)),
            votes: votes.iter().map(Vote::decode).collect::<Option<_>>()?,
            tree: Frontier::new(
                count as u64,
                subtrees.iter().map(|hash| Digest::from_bytes(*hash)).collect(),
            )?,
        })
    }
}

impl Vote {
    fn decode(bytes: &[u8; VOTE]) -> Option<Vote> {
        let (voter, _) = bytes.split_first_chunk::<2>()?;
        let (_, at) = bytes.split_last_chunk::<8>()?;
        let choice = match bytes[2] {
            1 => Choice::Approve,
            2 => Choice::Reject,
            3 => Choice::Abstain,
            _ => return None,
        };
        Some(Vote { voter: u16::from_be_bytes(*voter), choice, at: UnixMillis::new(u64::from_be_bytes(*at)) })
    }
}
