//! Paths in Merkle trees of which the completed subtrees are kept: O(log n) for any leaf of any size.

use assent_consensus::digest::Digest;
use assent_consensus::event::EventBytes;
use assent_consensus::merkle::{self, Frontier};

/// The RFC 9162 path from leaf `index` to the root over the first `size` leaves, from the bottom up. `subtree` gives the
/// root of a completed subtree by its level (0 for leaves) and its place among those of that level.
pub(crate) fn path<E>(
    index: u64,
    size: u64,
    subtree: &impl Fn(u32, u64) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    debug_assert!(index < size, "there is no leaf {index} among {size}");
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(root(middle, end, subtree)?);
            end = middle;
        } else {
            path.push(root(start, middle, subtree)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root over the leaves from `start` to `end`, where `start` is a multiple of a power of two that is no smaller than
/// their number.
fn root<E>(start: u64, end: u64, subtree: &impl Fn(u32, u64) -> Result<Digest, E>) -> Result<Digest, E> {
    let count = end - start;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        return subtree(level, start >> level);
    }
    let middle = start + split(count);
    Ok(merkle::node_hash(&root(start, middle, subtree)?, &root(middle, end, subtree)?))
}

/// The largest power of two below `count`, which is 2 or more.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// A block's events as a tree, made once for all proofs of its events.
#[derive(Debug)]
pub(crate) struct EventTree {
    pub(crate) events: Vec<EventBytes>,
    levels: Vec<Vec<Digest>>,
}

impl EventTree {
    pub(crate) fn new(events: Vec<EventBytes>) -> EventTree {
        let mut frontier = Frontier::default();
        let mut levels: Vec<Vec<Digest>> = Vec::new();
        for event in &events {
            frontier.push(merkle::leaf_hash(&event.0), |level, _, hash| {
                // Subtrees of one level are completed in order.
                match levels.get_mut(level as usize) {
                    Some(hashes) => hashes.push(hash),
                    None => levels.push(vec![hash]),
                }
            });
        }
        EventTree { events, levels }
    }

    /// The path from an event to the root. There must be such an event.
    pub(crate) fn path(&self, index: u64) -> Vec<Digest> {
        let subtree = |level: u32, place: u64| {
            Ok::<_, std::convert::Infallible>(self.levels[level as usize][place as usize])
        };
        match path(index, self.events.len() as u64, &subtree) {
            Ok(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_from_kept_subtrees_is_the_path_from_all_leaves(size in 1usize..200, index in 0usize..200) {
            let index = index % size;
            let events: Vec<_> = (0..size).map(|i| EventBytes(i.to_be_bytes().to_vec())).collect();
            let leaves: Vec<_> = events.iter().map(|event| merkle::leaf_hash(&event.0)).collect();
            prop_assert_eq!(EventTree::new(events).path(index as u64), merkle::path(&leaves, index));
        }
    }
}
