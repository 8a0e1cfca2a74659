//! Merkle trees as in RFC 9162 §2.1 (Certificate Transparency), with keccak-256 for SHA-256.
//!
//! A leaf's hash is `keccak256(0x00 ‖ data)`, an inner node's `keccak256(0x01 ‖ left ‖ right)`, and the left part of a
//! tree of n leaves has the largest power of two below n. The root of no leaves is `keccak256("")`.

use crate::{B256, keccak256, limits};

/// The hash of a leaf with this data.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> B256 {
    let mut hasher = alloy_primitives::Keccak256::new();
    hasher.update([0]);
    hasher.update(data);
    hasher.finalize()
}

/// The hash of an inner node.
#[must_use]
pub fn node_hash(left: B256, right: B256) -> B256 {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left.as_slice());
    bytes[33..].copy_from_slice(right.as_slice());
    keccak256(bytes)
}

/// The root of the tree over these leaf hashes.
#[must_use]
pub fn root(leaves: &[B256]) -> B256 {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.append(*leaf);
    }
    frontier.root()
}

/// The inclusion path of leaf `index` (RFC 9162 §2.1.3.1), lowest sibling first. `None` if there is no such leaf.
#[must_use]
pub fn prove(leaves: &[B256], index: usize) -> Option<Vec<B256>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut part, mut index) = (leaves, index);
    while part.len() > 1 {
        let split = 1 << (usize::BITS - 1 - (part.len() - 1).leading_zeros());
        let (left, right) = part.split_at(split);
        if index < split {
            path.push(root(right));
            part = left;
        } else {
            path.push(root(left));
            part = right;
            index -= split;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that `leaf` is leaf `index` of the tree of `size` leaves with this root (RFC 9162 §2.1.3.2).
#[must_use]
pub fn verify(leaf: B256, index: u64, size: u64, path: &[B256], root: B256) -> bool {
    if index >= size || path.len() > limits::MERKLE_PATH {
        return false;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(*sibling, hash);
            if position & 1 == 0 {
                // The right edge of the tree: levels without a right sibling are skipped.
                let skip = position.trailing_zeros();
                position = position.checked_shr(skip).unwrap_or(0);
                last = last.checked_shr(skip).unwrap_or(0);
            }
        } else {
            hash = node_hash(hash, *sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// The right edge of a growing tree: enough to append leaves and to compute the root, in O(log n) space.
///
/// Peaks are the roots of the perfect subtrees that the tree of `size` leaves consists of, largest first: one for each
/// bit that is set in `size`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<B256>,
}

impl Frontier {
    /// The frontier with these parts, or `None` if `peaks` has another length than `size` has bits set.
    #[must_use]
    pub fn from_parts(size: u64, peaks: Vec<B256>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// Appends a leaf's hash.
    ///
    /// # Panics
    /// After 2^64 - 1 leaves.
    pub fn append(&mut self, leaf: B256) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("one peak for each bit set in size");
            hash = node_hash(left, hash);
        }
        self.peaks.push(hash);
        self.size = self
            .size
            .checked_add(1)
            .expect("a log of 2^64 leaves cannot be reached");
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> B256 {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return keccak256([]);
        };
        peaks.fold(*last, |right, left| node_hash(*left, right))
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the perfect subtrees, largest first.
    #[must_use]
    pub fn peaks(&self) -> &[B256] {
        &self.peaks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<B256> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// RFC 9162 §2.1.1, word for word.
    fn naive_root(leaves: &[B256]) -> B256 {
        match leaves {
            [] => keccak256([]),
            [leaf] => *leaf,
            _ => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                node_hash(naive_root(&leaves[..split]), naive_root(&leaves[split..]))
            }
        }
    }

    #[test]
    fn frontier_and_recursion_agree() {
        for count in 0..70 {
            assert_eq!(
                root(&leaves(count)),
                naive_root(&leaves(count)),
                "{count} leaves"
            );
        }
    }

    #[test]
    fn every_leaf_is_provable_and_nothing_else() {
        for count in 1..40u64 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for index in 0..count {
                let leaf = leaves[index as usize];
                let path = prove(&leaves, index as usize).unwrap();
                assert!(verify(leaf, index, count, &path, root));
                for other in 0..count {
                    assert_eq!(verify(leaf, other, count, &path, root), other == index);
                }
                assert!(!verify(leaf_hash(b"x"), index, count, &path, root));
                assert!(!verify(leaf, index, count, &path, leaf_hash(b"x")));
                if let Some(shorter) = path.split_last().map(|(_, rest)| rest) {
                    assert!(!verify(leaf, index, count, shorter, root));
                }
                let mut longer = path.clone();
                longer.push(root);
                assert!(!verify(leaf, index, count, &longer, root));
                for position in 0..path.len() {
                    let mut forged = path.clone();
                    forged[position].0[7] ^= 1;
                    assert!(!verify(leaf, index, count, &forged, root));
                }
            }
            assert_eq!(prove(&leaves, count as usize), None);
        }
    }

    #[test]
    fn parts_of_a_frontier_are_checked() {
        let mut frontier = Frontier::default();
        for leaf in leaves(13) {
            frontier.append(leaf);
        }
        let again = Frontier::from_parts(frontier.size(), frontier.peaks().to_vec());
        assert_eq!(again, Some(frontier));
        assert_eq!(Frontier::from_parts(3, vec![]), None);
    }
}
