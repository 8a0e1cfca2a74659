//! Helpers for operators that are composed of others.

use lemma_kernels::{Reduction, Unary as U};
use lemma_types::tensor::DType;

use super::NodeContext;
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::arithmetic::Arithmetic;
use crate::ops::cast::Cast;
use crate::ops::compare::Compare;
use crate::ops::generate::{Fill, Shape};
use crate::ops::index::{Gather, GatherElements};
use crate::ops::join::Concat;
use crate::ops::layout::{Expand, Transpose};
use crate::ops::linear::MatMul;
use crate::ops::norm::Softmax;
use crate::ops::reduce::Reduce;
use crate::ops::reshape::{Reshape, Squeeze, Unsqueeze};
use crate::ops::select::Where;
use crate::ops::slice::Slice;
use crate::ops::unary::{Not, Unary};
use crate::tensor::Tensor;

type Built = Result<ValueId, OpError>;

/// A dimension of a shape that is put together.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// A number; −1 is what is left over.
    Is(i64),
    /// The dimension of a value.
    Of(ValueId, usize),
}

impl NodeContext<'_, '_> {
    pub(super) fn binary(&mut self, op: Arithmetic, a: ValueId, b: ValueId) -> Built {
        self.add(op, &[Some(a), Some(b)])
    }

    pub(super) fn plus(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Arithmetic::Add, a, b)
    }

    pub(super) fn minus(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Arithmetic::Sub, a, b)
    }

    pub(super) fn times(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Arithmetic::Mul, a, b)
    }

    pub(super) fn over(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Arithmetic::Div, a, b)
    }

    pub(super) fn compare(&mut self, op: Compare, a: ValueId, b: ValueId) -> Built {
        self.add(op, &[Some(a), Some(b)])
    }

    pub(super) fn function(&mut self, function: U, x: ValueId) -> Built {
        self.add(Unary(function), &[Some(x)])
    }

    pub(super) fn not(&mut self, x: ValueId) -> Built {
        self.add(Not, &[Some(x)])
    }

    /// `a` where the condition holds, `b` elsewhere.
    pub(super) fn choose(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Built {
        self.add(Where, &[Some(condition), Some(a), Some(b)])
    }

    /// An FP32 number.
    pub(super) fn number(&mut self, value: f32) -> ValueId {
        self.tensor(Tensor::scalar(value))
    }

    /// An integer of this type, as a scalar.
    pub(super) fn integer(&mut self, dtype: DType, value: i64) -> Built {
        let scalar = self.tensor(Tensor::scalar(value));
        if dtype == DType::I64 {
            return Ok(scalar);
        }
        self.add(Cast { to: dtype }, &[Some(scalar)])
    }

    pub(super) fn reduce(
        &mut self,
        op: Reduction,
        x: ValueId,
        axes: Vec<usize>,
        keep: bool,
    ) -> Built {
        self.add(Reduce { op, axes, keep }, &[Some(x)])
    }

    pub(super) fn matmul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.add(MatMul, &[Some(a), Some(b)])
    }

    pub(super) fn softmax_last(&mut self, x: ValueId) -> Built {
        let axis = self.rank_of(x).saturating_sub(1);
        let op = Softmax {
            axis,
            to_end: false,
            log: false,
        };
        self.add(op, &[Some(x)])
    }

    pub(super) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Built {
        let perm = perm.to_vec();
        self.add(Transpose { perm }, &[Some(x)])
    }

    pub(super) fn unsqueeze(&mut self, x: ValueId, axis: usize) -> Built {
        self.add(Unsqueeze { axes: vec![axis] }, &[Some(x)])
    }

    pub(super) fn squeeze(&mut self, x: ValueId, axis: usize) -> Built {
        self.add(Squeeze { axes: vec![axis] }, &[Some(x)])
    }

    pub(super) fn concat(&mut self, parts: &[ValueId], axis: usize) -> Built {
        if let [one] = *parts {
            return Ok(one);
        }
        let parts: Vec<Option<ValueId>> = parts.iter().copied().map(Some).collect();
        self.add(Concat { axis }, &parts)
    }

    pub(super) fn gather(&mut self, x: ValueId, indices: ValueId, axis: usize) -> Built {
        self.add(Gather { axis }, &[Some(x), Some(indices)])
    }

    pub(super) fn gather_elements(&mut self, x: ValueId, indices: ValueId, axis: usize) -> Built {
        self.add(GatherElements { axis }, &[Some(x), Some(indices)])
    }

    /// Elements `start..end` along an axis.
    pub(super) fn slice(&mut self, x: ValueId, axis: usize, start: i64, end: i64) -> Built {
        let bounds = [start, end, axis as i64].map(|n| self.ints_tensor(vec![n]));
        let operands = [Some(x), Some(bounds[0]), Some(bounds[1]), Some(bounds[2])];
        self.add(Slice, &operands)
    }

    /// A vector of dimensions.
    pub(super) fn shape(&mut self, parts: &[Part]) -> Built {
        let mut values = Vec::new();
        let mut numbers: Vec<i64> = Vec::new();
        for part in parts {
            match *part {
                Part::Is(n) => numbers.push(n),
                Part::Of(x, axis) => {
                    let dim = self
                        .builder
                        .fact(x)
                        .shape()
                        .get(axis)
                        .and_then(|d| d.known());
                    match dim {
                        Some(n) => numbers.push(n),
                        None => {
                            if !numbers.is_empty() {
                                values.push(self.ints_tensor(std::mem::take(&mut numbers)));
                            }
                            let op = Shape {
                                start: axis,
                                end: axis + 1,
                            };
                            values.push(self.add(op, &[Some(x)])?);
                        }
                    }
                }
            }
        }
        if !numbers.is_empty() || values.is_empty() {
            values.push(self.ints_tensor(numbers));
        }
        self.concat(&values, 0)
    }

    pub(super) fn reshape(&mut self, x: ValueId, parts: &[Part]) -> Built {
        let shape = self.shape(parts)?;
        // A dimension may be 0: it is not to be taken from the operand.
        self.add(Reshape { allow_zero: true }, &[Some(x), Some(shape)])
    }

    pub(super) fn fill(&mut self, value: Tensor, parts: &[Part]) -> Built {
        let shape = self.shape(parts)?;
        self.add(Fill { value }, &[Some(shape)])
    }

    pub(super) fn expand(&mut self, x: ValueId, parts: &[Part]) -> Built {
        let shape = self.shape(parts)?;
        self.add(Expand, &[Some(x), Some(shape)])
    }

    pub(super) fn rank_of(&self, x: ValueId) -> usize {
        self.builder.fact(x).rank()
    }

    pub(super) fn dtype_of(&self, x: ValueId) -> DType {
        self.builder.fact(x).dtype()
    }

    /// A dimension that must be known.
    pub(super) fn known_dim(&self, x: ValueId, axis: usize, what: &str) -> Result<usize, OpError> {
        let dim = self.builder.fact(x).shape().get(axis);
        dim.and_then(|d| usize::try_from(d.known()?).ok())
            .ok_or_else(|| OpError::shape(format!("{what} must be known")))
    }

    /// An attribute that must be a number of at least 1.
    pub(super) fn positive(&mut self, name: &str) -> Result<Option<usize>, OpError> {
        match self.maybe_int(name)? {
            None => Ok(None),
            Some(n) if n > 0 => Ok(Some(usize::try_from(n).unwrap_or(usize::MAX))),
            Some(n) => Err(OpError::attribute(
                name,
                format!("is {n}: at least 1 is expected"),
            )),
        }
    }
}
