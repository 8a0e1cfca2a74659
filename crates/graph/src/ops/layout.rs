//! Operators that move elements without changing them, as walks with strides.

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::broadcast::{broadcast_shapes, broadcast_strides, strides};
use crate::tensor::{Element, Tensor, with_storage};

/// A view of a buffer: where it begins, and how far each dimension steps.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) start: isize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<isize>,
}

impl View {
    /// The dimensions that matter, neighbours that step as one merged into one.
    fn merged(&self) -> (Vec<usize>, Vec<isize>) {
        let (mut dims, mut steps): (Vec<usize>, Vec<isize>) = (Vec::new(), Vec::new());
        for (&dim, &stride) in self.shape.iter().zip(&self.strides) {
            if dim == 1 {
                continue;
            }
            match (dims.last_mut(), steps.last_mut()) {
                (Some(last), Some(step)) if *step == stride * dim as isize => {
                    *last *= dim;
                    *step = stride;
                }
                _ => {
                    dims.push(dim);
                    steps.push(stride);
                }
            }
        }
        (dims, steps)
    }

    /// The elements of the view, row-major.
    pub(crate) fn copy<T: Copy>(&self, x: &[T]) -> Vec<T> {
        let count = self.shape.iter().product();
        let mut out = Vec::with_capacity(count);
        if count == 0 {
            return out;
        }
        let (mut dims, mut steps) = self.merged();
        let (len, step) = (dims.pop().unwrap_or(1), steps.pop().unwrap_or(1));
        let mut index = vec![0usize; dims.len()];
        let mut at = self.start;
        loop {
            // The caller's view lies within the buffer: a negative position cannot occur, and
            // would be out of bounds.
            if step == 1 {
                let first = at as usize;
                out.extend_from_slice(&x[first..first + len]);
            } else {
                out.extend((0..len as isize).map(|i| x[(at + i * step) as usize]));
            }
            let mut axis = dims.len();
            loop {
                let Some(next) = axis.checked_sub(1) else {
                    return out;
                };
                axis = next;
                index[axis] += 1;
                at += steps[axis];
                if index[axis] < dims[axis] {
                    break;
                }
                at -= steps[axis] * dims[axis] as isize;
                index[axis] = 0;
            }
        }
    }
}

pub(crate) fn signed(strides: Vec<usize>) -> Vec<isize> {
    // Strides are at most the length of an allocation.
    strides.into_iter().map(usize::cast_signed).collect()
}

fn copy_as<T: Element>(cx: &Eval<'_>, x: &[T], view: &View) -> Result<Vec<Tensor>, OpError> {
    cx.output(view.copy(x))
}

/// Runs a view over the first operand.
pub(crate) fn copy_view(cx: &Eval<'_>, view: &View) -> Result<Vec<Tensor>, OpError> {
    with_storage!(cx.inputs.need(0)?.storage(), v => copy_as(cx, v, view))
}

/// Reorders dimensions: dimension `i` of the output is dimension `perm[i]` of the input.
#[derive(Debug)]
pub(crate) struct Transpose {
    pub(crate) perm: Vec<usize>,
}

impl Operator for Transpose {
    fn name(&self) -> &'static str {
        "Transpose/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.perm);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let mut seen = vec![false; x.rank()];
        for &axis in &self.perm {
            match seen.get_mut(axis) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(self.mismatch(x)),
            }
        }
        if self.perm.len() != x.rank() {
            return Err(self.mismatch(x));
        }
        let shape = self.perm.iter().map(|&i| x.shape()[i].clone()).collect();
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let own = signed(strides(cx.inputs.need(0)?.shape()));
        copy_view(
            cx,
            &View {
                start: 0,
                shape: cx.shape().to_vec(),
                strides: self.perm.iter().map(|&i| own[i]).collect(),
            },
        )
    }
}

impl Transpose {
    fn mismatch(&self, x: &Fact) -> OpError {
        OpError::attribute(
            "perm",
            format!(
                "{:?} is no permutation of {} dimensions",
                self.perm,
                x.rank()
            ),
        )
    }
}

/// Broadcasts the first operand to the shape that the second gives, and with it.
#[derive(Debug)]
pub(crate) struct Expand;

impl Operator for Expand {
    fn name(&self) -> &'static str {
        "Expand/1"
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, shape) = (inputs.need(0)?, inputs.need(1)?.shape_operand("input 1")?);
        let shape = broadcast_shapes(&[x.shape(), &shape])?;
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        copy_view(
            cx,
            &View {
                start: 0,
                shape: cx.shape().to_vec(),
                strides: signed(broadcast_strides(x.shape(), cx.shape())),
            },
        )
    }
}

/// Repeats the first operand along each dimension, as often as the second says.
#[derive(Debug)]
pub(crate) struct Tile;

impl Operator for Tile {
    fn name(&self) -> &'static str {
        "Tile/1"
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, repeats) = (inputs.need(0)?, inputs.need(1)?.shape_operand("input 1")?);
        if repeats.len() != x.rank() {
            return Err(OpError::shape(format!(
                "{} repeats for {} dimensions",
                repeats.len(),
                x.rank()
            )));
        }
        let shape = x
            .shape()
            .iter()
            .zip(&repeats)
            .map(|(d, r)| d.mul(r))
            .collect();
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        // Each dimension becomes two: the repeats, which do not step, and the dimension itself.
        let own = signed(strides(x.shape()));
        let (mut shape, mut steps) = (Vec::new(), Vec::new());
        for (i, (&dim, &out)) in x.shape().iter().zip(cx.shape()).enumerate() {
            shape.extend([out.checked_div(dim).unwrap_or(0), dim]);
            steps.extend([0, own[i]]);
        }
        copy_view(
            cx,
            &View {
                start: 0,
                shape,
                strides: steps,
            },
        )
    }
}

/// The part of each matrix (the two innermost dimensions) on one side of a diagonal; the rest is
/// zero. The second operand, a scalar constant, shifts the diagonal to the right.
#[derive(Debug)]
pub(crate) struct Trilu {
    pub(crate) upper: bool,
    pub(crate) shift: i64,
}

impl Trilu {
    fn mask<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let [.., rows, cols] = *cx.shape() else {
            return Err(OpError::shape("a matrix has two dimensions"));
        };
        let mut y = x.to_vec();
        for (i, v) in y.iter_mut().enumerate() {
            let (row, col) = ((i / cols) % rows, i % cols);
            let offset = (col as i64 - row as i64).saturating_sub(self.shift);
            let kept = if self.upper { offset >= 0 } else { offset <= 0 };
            if !kept {
                *v = T::default();
            }
        }
        cx.output(y)
    }
}

impl Operator for Trilu {
    fn name(&self) -> &'static str {
        "Trilu/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.flag(self.upper).u64(self.shift.cast_unsigned());
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        if x.rank() < 2 {
            return Err(OpError::shape("a matrix has two dimensions"));
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.mask(cx, v))
    }
}

/// Resolves an axis that may count from the end.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let signed = Sym::size(rank).known().unwrap_or(0);
    let resolved = if axis < 0 {
        axis.checked_add(signed)
    } else {
        Some(axis)
    };
    resolved
        .and_then(|a| usize::try_from(a).ok())
        .filter(|&a| a < rank)
        .ok_or_else(|| {
            OpError::attribute(
                "axis",
                format!("{axis} is out of range for {rank} dimensions"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_walk_backwards_and_transposed() {
        let x = [0, 1, 2, 3, 4, 5];
        let transposed = View {
            start: 0,
            shape: vec![3, 2],
            strides: vec![1, 3],
        };
        assert_eq!(transposed.copy(&x), [0, 3, 1, 4, 2, 5]);
        let reversed = View {
            start: 5,
            shape: vec![6],
            strides: vec![-1],
        };
        assert_eq!(reversed.copy(&x), [5, 4, 3, 2, 1, 0]);
        let nothing = View {
            start: 9,
            shape: vec![0, 2],
            strides: vec![1, 1],
        };
        assert!(nothing.copy(&x).is_empty());
    }

    #[test]
    fn axes_count_from_either_end() {
        assert_eq!(axis(-1, 3).unwrap(), 2);
        assert!(axis(3, 3).is_err() && axis(-4, 3).is_err() && axis(i64::MIN, 3).is_err());
    }
}
