//! `Pad`.

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::same_dtype;
use crate::tensor::{Element, Tensor, with_storage};

/// What stands outside the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PadMode {
    /// The third operand, a scalar, or zero.
    Constant,
    /// The nearest element.
    Edge,
    /// The elements mirrored at the outermost one.
    Reflect,
    /// The elements over again.
    Wrap,
}

/// Adds elements before and after each dimension; where negative, removes as many. The second
/// operand holds the numbers: all before, then all after.
#[derive(Debug)]
pub(crate) struct Pad {
    pub(crate) mode: PadMode,
}

/// Where an element of the padded dimension comes from.
fn source(mode: PadMode, at: i64, dim: i64) -> Option<usize> {
    let inside = match mode {
        _ if (0..dim).contains(&at) => Some(at),
        PadMode::Constant => None,
        PadMode::Edge => Some(at.clamp(0, dim - 1)),
        PadMode::Reflect if dim == 1 => Some(0),
        PadMode::Reflect => {
            let period = 2 * (dim - 1);
            let place = at.rem_euclid(period);
            Some(place.min(period - place))
        }
        PadMode::Wrap => Some(at.rem_euclid(dim)),
    };
    inside.and_then(|i| usize::try_from(i).ok())
}

impl Pad {
    fn pads(inputs: Operands<'_, Fact>, rank: usize) -> Result<Vec<Sym>, OpError> {
        let pads = inputs.need(1)?.shape_operand("pads")?;
        if pads.len() != 2 * rank {
            return Err(OpError::operand(
                "pads",
                format!("holds {} numbers for {rank} dimensions", pads.len()),
            ));
        }
        Ok(pads)
    }

    fn fill<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let pads = crate::fact::integers(cx.inputs.need(1)?)
            .ok_or_else(|| OpError::operand("pads", "must be integers"))?;
        let value = cx.maybe_slice::<T>(2)?.and_then(|v| v.first().copied());
        let value = value.unwrap_or_default();
        // For each dimension of the output, the offset in the operand that each place comes from.
        let own = strides(shape);
        let offsets: Vec<Vec<Option<usize>>> = cx
            .shape()
            .iter()
            .enumerate()
            .map(|(axis, &out)| {
                (0..out as i64)
                    .map(|i| {
                        source(self.mode, i.saturating_sub(pads[axis]), shape[axis] as i64)
                            .map(|i| i * own[axis])
                    })
                    .collect()
            })
            .collect();
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        let mut index = vec![0; shape.len()];
        for _ in 0..cx.outputs[0].len() {
            let at = index
                .iter()
                .zip(&offsets)
                .try_fold(0, |sum, (&i, o)| Some(sum + o[i]?));
            out.push(at.map_or(value, |at| x[at]));
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < cx.shape()[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        cx.output(out)
    }
}

impl Operator for Pad {
    fn name(&self) -> &'static str {
        "Pad/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.u8(match self.mode {
            PadMode::Constant => 0,
            PadMode::Edge => 1,
            PadMode::Reflect => 2,
            PadMode::Wrap => 3,
        });
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let pads = Pad::pads(inputs, x.rank())?;
        if let Some(value) = inputs.get(2) {
            same_dtype(value, "input 2", x.dtype())?;
            if value.shape().iter().any(|d| *d != Sym::Known(1)) {
                return Err(OpError::operand("input 2", "must be a scalar"));
            }
        }
        let (before, after) = pads.split_at(x.rank());
        let mut shape = Vec::with_capacity(x.rank());
        for (axis, dim) in x.shape().iter().enumerate() {
            let padded = dim.add(&before[axis]).add(&after[axis]);
            if self.mode != PadMode::Constant && *dim == Sym::Known(0) && padded != Sym::Known(0) {
                return Err(OpError::shape(format!(
                    "dimension {axis} is empty: nothing to repeat"
                )));
            }
            shape.push(padded);
        }
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.fill(cx, v))
    }

    fn scratch(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let places: usize = outputs[0].shape.iter().sum();
        (places as u64).saturating_mul(size_of::<Option<usize>>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_outside_come_from_where_the_mode_says() {
        let at = |mode, i| source(mode, i, 3);
        assert_eq!(
            [-2, -1, 0, 3, 4, 5].map(|i| at(PadMode::Reflect, i)),
            [2, 1, 0, 1, 0, 1].map(Some)
        );
        assert_eq!(
            [-2, -1, 3, 4].map(|i| at(PadMode::Edge, i)),
            [0, 0, 2, 2].map(Some)
        );
        assert_eq!(
            [-2, -1, 3, 4].map(|i| at(PadMode::Wrap, i)),
            [1, 2, 0, 1].map(Some)
        );
        assert_eq!(at(PadMode::Constant, -1), None);
    }
}
