//! Broadcasting: operands of different shapes walked together.

use crate::error::OpError;
use crate::fact::{Sym, show};

/// The shape that several broadcast to, dimensions aligned at the innermost.
pub(crate) fn broadcast_shapes(shapes: &[&[Sym]]) -> Result<Vec<Sym>, OpError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Sym::Known(1); rank];
    for shape in shapes {
        for (dim, d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            *dim = dim.broadcast(d).ok_or_else(|| {
                let all: Vec<String> = shapes.iter().map(|s| show(s)).collect();
                OpError::shape(format!("shapes {} do not broadcast", all.join(" and ")))
            })?;
        }
    }
    Ok(out)
}

/// Row-major strides, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Strides of an operand seen in the broadcast shape `out`: 0 along repeated dimensions.
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<usize> {
    let skip = out.len() - shape.len();
    let own = strides(shape);
    (0..out.len())
        .map(|i| match i.checked_sub(skip) {
            Some(j) if shape[j] != 1 => own[j],
            _ => 0,
        })
        .collect()
}

/// A walk over a broadcast shape in runs along which each operand either advances by one element
/// or stays where it is.
pub(crate) struct Runs<const N: usize> {
    /// Elements of one run.
    pub(crate) len: usize,
    /// For each operand, 1 or 0: how far it advances within a run.
    pub(crate) steps: [usize; N],
    outer: Vec<usize>,
    outer_strides: Vec<[usize; N]>,
}

impl<const N: usize> Runs<N> {
    /// The walk over `out` for operands of `shapes`, which broadcast to it.
    pub(crate) fn new(out: &[usize], shapes: [&[usize]; N]) -> Runs<N> {
        let operand_strides = shapes.map(|shape| broadcast_strides(shape, out));
        // Dimensions are merged where every operand walks both in one stride.
        let (mut dims, mut steps): (Vec<usize>, Vec<[usize; N]>) = (Vec::new(), Vec::new());
        for (i, &dim) in out.iter().enumerate() {
            let stride: [usize; N] = std::array::from_fn(|n| operand_strides[n][i]);
            if dim == 1 {
                continue;
            }
            match (dims.last_mut(), steps.last_mut()) {
                (Some(last), Some(last_stride))
                    if (0..N).all(|n| last_stride[n] == stride[n] * dim) =>
                {
                    *last *= dim;
                    *last_stride = stride;
                }
                _ => {
                    dims.push(dim);
                    steps.push(stride);
                }
            }
        }
        // The innermost stride of an operand in row-major order is 1, or 0 where it is repeated.
        let (len, inner) = match (dims.pop(), steps.pop()) {
            (Some(len), Some(inner)) => (len, inner),
            _ => (1, [0; N]),
        };
        Runs {
            len,
            steps: inner,
            outer: dims,
            outer_strides: steps,
        }
    }

    /// Calls `visit` for each run with where it begins in the output and in each operand.
    pub(crate) fn visit(
        &self,
        mut visit: impl FnMut(usize, [usize; N]) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let mut index = vec![0; self.outer.len()];
        let mut offsets = [0; N];
        if self.len == 0 || self.outer.contains(&0) {
            return Ok(());
        }
        let mut start = 0;
        loop {
            visit(start, offsets)?;
            start += self.len;
            let mut axis = self.outer.len();
            loop {
                let Some(next) = axis.checked_sub(1) else {
                    return Ok(());
                };
                axis = next;
                index[axis] += 1;
                for (offset, stride) in offsets.iter_mut().zip(self.outer_strides[axis]) {
                    *offset += stride;
                }
                if index[axis] < self.outer[axis] {
                    break;
                }
                for (offset, stride) in offsets.iter_mut().zip(self.outer_strides[axis]) {
                    *offset -= stride * self.outer[axis];
                }
                index[axis] = 0;
            }
        }
    }
}

/// `out[i] = f(a[i], b[i])` over broadcast operands.
pub(crate) fn zip_with<A: Copy, B: Copy, C>(
    shape: &[usize],
    (a_shape, a): (&[usize], &[A]),
    (b_shape, b): (&[usize], &[B]),
    out: &mut [C],
    mut f: impl FnMut(A, B) -> Result<C, OpError>,
) -> Result<(), OpError> {
    let runs = Runs::new(shape, [a_shape, b_shape]);
    let [a_step, b_step] = runs.steps;
    runs.visit(|start, [i, j]| {
        for (n, out) in out[start..start + runs.len].iter_mut().enumerate() {
            *out = f(a[i + n * a_step], b[j + n * b_step])?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_the_operands_allow() {
        let whole = Runs::new(&[2, 3, 4], [&[2, 3, 4], &[]]);
        assert_eq!((whole.len, whole.steps), (24, [1, 0]));
        let channel = Runs::new(&[2, 3, 4], [&[2, 3, 4], &[3, 1]]);
        assert_eq!((channel.len, channel.steps), (4, [1, 0]));
        let row = Runs::new(&[2, 3, 4], [&[2, 3, 4], &[4]]);
        assert_eq!((row.len, row.steps), (4, [1, 1]));
    }

    #[test]
    fn both_sides_broadcast() {
        let mut out = [0; 6];
        zip_with(
            &[3, 2],
            (&[3, 1], &[10, 20, 30]),
            (&[2], &[1, 2]),
            &mut out,
            |a, b| Ok(a + b),
        )
        .unwrap();
        assert_eq!(out, [11, 12, 21, 22, 31, 32]);
    }

    #[test]
    fn empty_shapes_visit_nothing_and_scalars_one_element() {
        let mut none: [i32; 0] = [];
        zip_with(
            &[0, 2],
            (&[0, 1], &[]),
            (&[2], &[1, 2]),
            &mut none,
            |a: i32, b| Ok(a + b),
        )
        .unwrap();
        let mut one = [0];
        zip_with(&[], (&[], &[1]), (&[], &[2]), &mut one, |a, b| Ok(a + b)).unwrap();
        assert_eq!(one, [3]);
    }
}
