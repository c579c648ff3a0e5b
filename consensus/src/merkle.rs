//! Merkle trees of RFC 9162 section 2.1: roots, and the paths that prove a leaf's place.
//!
//! [`Frontier`] is a growing tree of which only the O(log n) roots of its perfect subtrees are kept.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// The hash of a leaf: SHA-256 of a zero byte and the leaf's bytes.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    Digest::of_pieces(&[&[0], leaf])
}

/// The hash of an inner node: SHA-256 of a one byte and both children.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_pieces(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// The root over leaf hashes, in order. The root of no leaves is SHA-256 of nothing.
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::from_bytes(Sha256::digest([]).into()),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The path from leaf `index` to the root of all `leaves`, from the bottom up (RFC 9162 section 2.1.3.1).
///
/// # Panics
/// If there is no such leaf.
pub fn path(leaves: &[Digest], index: usize) -> Vec<Digest> {
    assert!(index < leaves.len(), "there is no leaf {index} among {}", leaves.len());
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut inner, sibling) = match index.checked_sub(left.len()) {
        None => (path(left, index), root(right)),
        Some(index) => (path(right, index), root(left)),
    };
    inner.push(sibling);
    inner
}

/// The root to which `path` leads from a leaf hash at `index` in a tree of `size` leaves (RFC 9162 section 2.1.3.2).
/// `None` if there can be no such path.
pub fn root_of_path(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The largest power of two below `count`, which is 2 or more.
fn split(count: usize) -> usize {
    1 << (usize::BITS - 1 - (count - 1).leading_zeros())
}

/// The perfect subtrees of a tree that grows at its right end, largest first: enough for its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Digest>,
}

impl Frontier {
    /// The frontier of a tree with `size` leaves whose perfect subtrees have these roots, largest first.
    /// `None` if a tree of that size has another number of them.
    pub fn new(size: u64, subtrees: Vec<Digest>) -> Option<Frontier> {
        (size.count_ones() as usize == subtrees.len()).then_some(Frontier { size, subtrees })
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, largest first.
    pub fn subtrees(&self) -> &[Digest] {
        &self.subtrees
    }

    /// Appends a leaf hash; `completed` is told each perfect subtree that it completes: its level (0 for the leaf), its
    /// place among those of that level, and its root.
    pub fn push(&mut self, leaf: Digest, mut completed: impl FnMut(u32, u64, Digest)) {
        let mut hash = leaf;
        completed(0, self.size, hash);
        for level in 0..self.size.trailing_ones() {
            let left = self.subtrees.pop().expect("a set bit of the size has its subtree");
            hash = node_hash(&left, &hash);
            completed(level + 1, self.size >> (level + 1), hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Digest {
        match self.subtrees.split_last() {
            None => root(&[]),
            Some((last, rest)) => rest.iter().rev().fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// Published by the Certificate Transparency project (transparency-dev/merkle, testonly): leaves and roots.
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let hex = |text: &str| format!("sha256:{text}").parse::<Digest>().unwrap();
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let expected = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let hashes: Vec<Digest> = inputs.iter().map(|input| leaf_hash(input)).collect();
        for (count, expected) in expected.iter().enumerate() {
            assert_eq!(root(&hashes[..count]), hex(expected), "{count} leaves");
        }
    }

    proptest! {
        #[test]
        fn every_leaf_has_one_path_and_one_place(count in 1usize..70, index in 0usize..70, other in 0u64..80) {
            let index = index % count;
            let leaves = leaves(count);
            let path = path(&leaves, index);
            let found = root_of_path(leaves[index], index as u64, count as u64, &path);
            prop_assert_eq!(found, Some(root(&leaves)));
            if other != index as u64 {
                let elsewhere = root_of_path(leaves[index], other, count as u64, &path);
                prop_assert_ne!(elsewhere, Some(root(&leaves)));
            }
            if !path.is_empty() {
                prop_assert_eq!(root_of_path(leaves[index], index as u64, count as u64, &path[1..]), None);
            }
        }

        #[test]
        fn a_frontier_has_the_root_of_all_leaves(count in 0usize..70) {
            let leaves = leaves(count);
            let mut frontier = Frontier::default();
            let mut completed = Vec::new();
            for leaf in &leaves {
                frontier.push(*leaf, |level, place, hash| completed.push((level, place, hash)));
            }
            prop_assert_eq!(frontier.root(), root(&leaves));
            for (level, place, hash) in completed {
                let (width, from) = (1usize << level, (place as usize) << level);
                prop_assert_eq!(hash, root(&leaves[from..from + width]));
            }
        }
    }
}
