//! Inclusion paths in a growing RFC 9162 tree whose perfect subtrees are stored.
//!
//! A tree of n leaves has fewer than n perfect inner subtrees; their roots never change. Any other subtree that a path
//! needs lies on the right edge and is put together from O(log n) of them.

use alloy_primitives::B256;
use lemma_types::merkle::node_hash;

/// Root of a perfect subtree, with its level and its position among those of the level.
pub(super) type Node = (u8, u64, B256);

/// Roots of the perfect subtrees that leaf `index` completes, the leaf itself first.
/// `node` yields earlier ones; `None` if one is missing, so that the leaf is not the next.
pub(super) fn completed<E>(
    index: u64,
    leaf: B256,
    node: &dyn Fn(u8, u64) -> Result<Option<B256>, E>,
) -> Result<Option<Vec<Node>>, E> {
    let mut nodes = vec![(0, index, leaf)];
    let (mut level, mut position, mut root) = (0u8, index, leaf);
    while position & 1 == 1 {
        let Some(left) = node(level, position - 1)? else {
            return Ok(None);
        };
        root = node_hash(left, root);
        level += 1;
        position >>= 1;
        nodes.push((level, position, root));
    }
    Ok(Some(nodes))
}

/// The inclusion path of leaf `index` among `size`, lowest sibling first.
pub(super) fn path<E>(
    index: u64,
    size: u64,
    node: &dyn Fn(u8, u64) -> Result<Option<B256>, E>,
) -> Result<Option<Vec<B256>>, E> {
    if index >= size {
        return Ok(None);
    }
    let mut path = Vec::new();
    let (mut start, mut length) = (0, size);
    while length > 1 {
        let split = largest_power_below(length);
        let sibling = if index - start < split {
            let sibling = subtree(start + split, length - split, node)?;
            length = split;
            sibling
        } else {
            let sibling = subtree(start, split, node)?;
            start += split;
            length -= split;
            sibling
        };
        let Some(sibling) = sibling else {
            return Ok(None);
        };
        path.push(sibling);
    }
    path.reverse();
    Ok(Some(path))
}

/// The root over `length` leaves from `start` on, which is a multiple of the power of two at or above `length`.
fn subtree<E>(
    start: u64,
    length: u64,
    node: &dyn Fn(u8, u64) -> Result<Option<B256>, E>,
) -> Result<Option<B256>, E> {
    if length.is_power_of_two() {
        let level = length.trailing_zeros();
        return node(level as u8, start >> level);
    }
    let split = largest_power_below(length);
    let left = subtree(start, split, node)?;
    let right = subtree(start + split, length - split, node)?;
    Ok(left.zip(right).map(|(left, right)| node_hash(left, right)))
}

/// The largest power of two below `length`, which is at least 2.
fn largest_power_below(length: u64) -> u64 {
    1 << (63 - (length - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use lemma_types::merkle;

    use super::*;

    #[test]
    fn stored_nodes_give_every_path_of_every_size() {
        let leaves: Vec<_> = (0..40u64)
            .map(|i| merkle::leaf_hash(&i.to_be_bytes()))
            .collect();
        let mut nodes = BTreeMap::new();
        for (size, leaf) in (1u64..).zip(&leaves) {
            let get = |level, position| Ok::<_, Infallible>(nodes.get(&(level, position)).copied());
            let Ok(Some(new)) = completed(size - 1, *leaf, &get) else {
                panic!("leaf {size} fits")
            };
            nodes.extend(
                new.into_iter()
                    .map(|(level, position, root)| ((level, position), root)),
            );
            let get = |level, position| Ok::<_, Infallible>(nodes.get(&(level, position)).copied());
            let all = &leaves[..size as usize];
            for past in 1..=size {
                for index in 0..past {
                    let Ok(found) = path(index, past, &get);
                    assert_eq!(found, merkle::prove(&all[..past as usize], index as usize));
                }
            }
            assert_eq!(path(size, size, &get), Ok(None));
            assert_eq!(path(0, size + 1, &get), Ok(None));
        }
    }

    #[test]
    fn a_leaf_out_of_turn_is_noticed() {
        let none = |_, _| Ok::<_, Infallible>(None);
        assert_eq!(completed(1, B256::ZERO, &none), Ok(None));
    }
}
