//! Commitments: digests of tensors and operators, and the tree over them.
//!
//! Everything here is BLAKE3 in key-derivation mode, with one context string for each kind of
//! thing, so that the digest of one kind can never pass for another. The encoding of what is
//! hashed is the one of [`Canon`]: integers little-endian and of fixed width, byte strings and
//! lists preceded by their length.
//!
//! * `tensor`: dtype tag, rank, dimensions, then the BLAKE3 of the row-major little-endian bytes.
//!   The bytes are hashed by themselves so that slices of them can be opened.
//! * `operator`: name, attributes, and the identities of its operands. An operand is an input (by
//!   its declared name, dtype and dimensions), a constant (by its tensor digest) or an output of
//!   another operator (by that operator's digest and the output's number). An operator's digest
//!   therefore commits to everything it is computed from, and to no name or position in a file.
//! * `graph`: format version, inputs, outputs, and the roots of two trees: over the digests of
//!   the constants in ascending order, and over those of the operators in canonical order.

use lemma_types::Digest;

use crate::tensor::Tensor;

/// Version of the canonical form; part of every graph root.
pub const FORMAT_VERSION: u32 = 1;

const TENSOR_CONTEXT: &str = "lemma graph v1 tensor";
const NODE_CONTEXT: &str = "lemma graph v1 tree node";
const EMPTY_CONTEXT: &str = "lemma graph v1 tree empty";

/// An unambiguous byte encoding of what is committed to.
#[derive(Default)]
pub struct Canon {
    bytes: Vec<u8>,
}

impl Canon {
    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Canon {
        self.bytes.push(value);
        self
    }

    /// Appends a truth value.
    pub fn flag(&mut self, value: bool) -> &mut Canon {
        self.u8(u8::from(value))
    }

    /// Appends an unsigned number in 8 bytes.
    pub fn u64(&mut self, value: u64) -> &mut Canon {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Appends a size.
    pub fn size(&mut self, value: usize) -> &mut Canon {
        self.u64(value as u64)
    }

    /// Appends the bits of a float.
    pub fn f32(&mut self, value: f32) -> &mut Canon {
        self.bytes.extend(value.to_bits().to_le_bytes());
        self
    }

    /// Appends a list of sizes.
    pub fn sizes(&mut self, values: &[usize]) -> &mut Canon {
        self.size(values.len());
        values.iter().fold(self, |canon, &v| canon.size(v))
    }

    /// Appends a text.
    pub fn text(&mut self, value: &str) -> &mut Canon {
        self.size(value.len());
        self.bytes.extend(value.as_bytes());
        self
    }

    /// Appends a digest.
    pub fn digest(&mut self, value: &Digest) -> &mut Canon {
        self.bytes.extend(value.as_bytes());
        self
    }

    /// Everything appended.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of everything appended, under `context`.
    #[must_use]
    pub fn finish(&self, context: &str) -> Digest {
        Digest::new(blake3::derive_key(context, &self.bytes))
    }
}

/// The digest of a tensor's type, shape and elements.
#[must_use]
pub fn tensor_digest(tensor: &Tensor) -> Digest {
    let mut elements = blake3::Hasher::new();
    tensor.le_bytes(|bytes| {
        elements.update(bytes);
    });
    Canon::default()
        .text(tensor.dtype().name())
        .sizes(tensor.shape())
        .digest(&Digest::new(*elements.finalize().as_bytes()))
        .finish(TENSOR_CONTEXT)
}

/// The root of a binary tree over `leaves`, in order.
///
/// The shape is that of RFC 6962: the left subtree holds the largest power of two smaller than
/// the number of leaves. Inner nodes are hashed under a context of their own; the number of
/// leaves is bound by whoever hashes the root.
#[must_use]
pub fn tree_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::new(blake3::derive_key(EMPTY_CONTEXT, &[])),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            Canon::default()
                .digest(&tree_root(left))
                .digest(&tree_root(right))
                .finish(NODE_CONTEXT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u8) -> Digest {
        Digest::new([n; 32])
    }

    #[test]
    fn the_tree_splits_at_the_largest_power_of_two() {
        let pair = |a: Digest, b: Digest| tree_root(&[a, b]);
        let three = tree_root(&[leaf(1), leaf(2), leaf(3)]);
        assert_eq!(three, pair(pair(leaf(1), leaf(2)), leaf(3)));
        let five = tree_root(&[leaf(1), leaf(2), leaf(3), leaf(4), leaf(5)]);
        let four = pair(pair(leaf(1), leaf(2)), pair(leaf(3), leaf(4)));
        assert_eq!(five, pair(four, leaf(5)));
    }

    #[test]
    fn a_tensor_digest_binds_type_shape_and_bits() {
        let base = Tensor::new(&[2, 3], vec![0f32; 6]).unwrap();
        let others = [
            Tensor::new(&[3, 2], vec![0f32; 6]).unwrap(),
            Tensor::new(&[6], vec![0f32; 6]).unwrap(),
            Tensor::new(&[2, 3], vec![0i32; 6]).unwrap(),
            Tensor::new(&[2, 3], vec![-0f32; 6]).unwrap(),
        ];
        assert!(others.iter().all(|t| t.digest() != base.digest()));
        assert_eq!(base.clone().digest(), base.digest());
    }

    #[test]
    fn large_tensors_hash_as_their_bytes_do() {
        let values: Vec<f32> = (0..20_000u16).map(f32::from).collect();
        let tensor = Tensor::vector(values);
        let expected = Canon::default()
            .text("FP32")
            .sizes(&[20_000])
            .digest(&Digest::of(&tensor.to_le_bytes()))
            .finish(TENSOR_CONTEXT);
        assert_eq!(tensor.digest(), expected);
    }
}
