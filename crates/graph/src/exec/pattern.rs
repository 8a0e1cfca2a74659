//! Which operators can be fused, and how.

use std::any::Any;

use lemma_kernels::{Binary, Unary};

use crate::graph::Node;
use crate::ops::arithmetic::Arithmetic;
use crate::ops::layout::Transpose;
use crate::ops::norm::Softmax;
use crate::ops::reshape::{Flatten, Reshape, Squeeze, Unsqueeze};
use crate::ops::select::Clip;
use crate::ops::unary;

/// An operator that can be a link, or several, of a chain.
pub(super) enum Elementwise {
    Unary(Unary),
    Binary(Binary),
    /// The larger of the first and the second operand, then the smaller of that and the third.
    Clip,
    /// Of the last dimension.
    Softmax,
}

/// The operator as one of its type.
pub(super) fn as_op<T: Any>(node: &Node) -> Option<&T> {
    let op: &dyn Any = node.op.as_ref();
    op.downcast_ref()
}

/// Of an operator on f32, its form as a link, for operands of this rank.
pub(super) fn elementwise(node: &Node, rank: usize) -> Option<Elementwise> {
    if let Some(op) = as_op::<unary::Unary>(node) {
        return Some(Elementwise::Unary(op.0));
    }
    if let Some(op) = as_op::<Arithmetic>(node) {
        return op.kernel().map(Elementwise::Binary);
    }
    if as_op::<Clip>(node).is_some() {
        return Some(Elementwise::Clip);
    }
    let softmax = as_op::<Softmax>(node)?;
    (!softmax.log && softmax.axis + 1 == rank).then_some(Elementwise::Softmax)
}

/// Whether an operator gives its first operand another shape and does nothing else.
pub(super) fn is_alias(node: &Node) -> bool {
    as_op::<Reshape>(node).is_some()
        || as_op::<Squeeze>(node).is_some()
        || as_op::<Unsqueeze>(node).is_some()
        || as_op::<Flatten>(node).is_some()
}

/// The order of dimensions of a transposition.
pub(super) fn permutation(node: &Node) -> Option<&[usize]> {
    as_op::<Transpose>(node).map(|op| &op.perm[..])
}
