//! `Slice` and `Split`.

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::layout::{View, axis, copy_view, signed};
use crate::tensor::{Element, Tensor, with_storage};

/// Takes every `step`-th element from `start` to before `end` along some dimensions. Operands:
/// data, starts, ends, and optionally axes and steps. Positions count from the end where negative
/// and are clamped to the dimension.
#[derive(Debug)]
pub(crate) struct Slice;

/// One sliced dimension with everything known: the first element, the step, and how many.
struct Cut {
    start: i64,
    step: i64,
    count: i64,
}

/// Clamps a range to a dimension, as ONNX does.
fn cut(dim: i64, start: i64, end: i64, step: i64) -> Cut {
    let from_end = |i: i64| if i < 0 { i.saturating_add(dim) } else { i };
    // Going backwards, one before the first element is a place where a slice may end.
    let (start, end) = if step > 0 {
        (from_end(start).clamp(0, dim), from_end(end).clamp(0, dim))
    } else {
        (
            from_end(start).clamp(0, (dim - 1).max(0)),
            from_end(end).clamp(-1, dim - 1),
        )
    };
    let span = if step > 0 { end - start } else { start - end };
    // The step's size is at least 1 and at most 2^63, which the unsigned type holds.
    let count = match span {
        ..=0 => 0,
        span => ((span.unsigned_abs() - 1) / step.unsigned_abs() + 1).cast_signed(),
    };
    Cut {
        start,
        step,
        count: if dim == 0 { 0 } else { count },
    }
}

/// The sliced dimensions with their start, end and step.
type Ranges = Vec<(usize, [Sym; 3])>;

impl Slice {
    fn ranges(inputs: Operands<'_, Fact>) -> Result<Ranges, OpError> {
        let x = inputs.need(0)?;
        let starts = inputs.need(1)?.shape_operand("starts")?;
        let ends = inputs.need(2)?.shape_operand("ends")?;
        let axes = match inputs.get(3) {
            Some(axes) => axes.shape_operand("axes")?,
            None => (0..starts.len()).map(Sym::size).collect(),
        };
        let steps = match inputs.get(4) {
            Some(steps) => steps.shape_operand("steps")?,
            None => vec![Sym::Known(1); starts.len()],
        };
        if [ends.len(), axes.len(), steps.len()]
            .iter()
            .any(|&n| n != starts.len())
        {
            return Err(OpError::shape(
                "starts, ends, axes and steps differ in length",
            ));
        }
        let mut ranges: Ranges = Vec::new();
        for (i, a) in axes.iter().enumerate() {
            let a = a
                .known()
                .ok_or_else(|| OpError::operand("axes", "must be constant"))?;
            let a = axis(a, x.rank())?;
            if ranges.iter().any(|(other, _)| *other == a) {
                return Err(OpError::operand("axes", format!("axis {a} occurs twice")));
            }
            if steps[i] == Sym::Known(0) {
                return Err(OpError::operand("steps", "a step is 0"));
            }
            ranges.push((a, [starts[i].clone(), ends[i].clone(), steps[i].clone()]));
        }
        Ok(ranges)
    }
}

/// The size of a sliced dimension.
fn sliced(dim: &Sym, [start, end, step]: &[Sym; 3]) -> Sym {
    match (dim.known(), start.known(), end.known(), step.known()) {
        (Some(dim), Some(start), Some(end), Some(step)) => {
            Sym::Known(cut(dim, start, end, step).count)
        }
        // The whole dimension, whatever it is.
        (None, Some(0), Some(i64::MAX | 0x7fff_ffff), Some(1)) => dim.clone(),
        // From the start up to the dimension itself.
        (None, Some(0), None, Some(1)) if end == dim && *dim != Sym::Unknown => dim.clone(),
        _ => Sym::Unknown,
    }
}

impl Operator for Slice {
    fn name(&self) -> &'static str {
        "Slice/1"
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1, 2, 3, 4]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let mut shape = x.shape().to_vec();
        if inputs.get(3).is_some_and(Fact::is_data) {
            // Which dimensions are cut is not known yet.
            for operand in 1..inputs.len() {
                if let Some(fact) = inputs.get(operand) {
                    fact.shape_operand(&crate::operator::ordinal(operand))?;
                }
            }
            return Ok(vec![Type::new(x.dtype(), vec![Sym::Unknown; x.rank()])]);
        }
        for (axis, range) in Slice::ranges(inputs)? {
            shape[axis] = sliced(&x.shape()[axis], &range);
        }
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let values = inputs.get(0)?.integers()?;
        if inputs.get(0)?.rank() != 1 {
            return None;
        }
        let ranges = Slice::ranges(inputs).ok()?;
        let [(0, [start, end, step])] = &ranges[..] else {
            return None;
        };
        let dim = Sym::size(values.len()).known()?;
        let cut = cut(dim, start.known()?, end.known()?, step.known()?);
        let at = |i: i64| {
            values
                .get(usize::try_from(cut.start + i * cut.step).ok()?)
                .cloned()
        };
        (0..cut.count).map(at).collect()
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let facts: Vec<Option<Fact>> = (0..cx.inputs.len())
            .map(|i| cx.inputs.get(i).map(|t| Fact::constant(t.clone())))
            .collect();
        let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        let x = cx.inputs.need(0)?;
        let mut view = View {
            start: 0,
            shape: cx.shape().to_vec(),
            strides: signed(strides(x.shape())),
        };
        for (axis, [start, end, step]) in Slice::ranges(Operands(&facts))? {
            let (Some(start), Some(end), Some(step)) = (start.known(), end.known(), step.known())
            else {
                return Err(OpError::operand("starts", "are not known"));
            };
            let dim = Sym::size(x.shape()[axis]).known().unwrap_or(0);
            let cut = cut(dim, start, end, step);
            if cut.count > 1 {
                // More than one element is taken: the step is smaller than the dimension.
                view.strides[axis] *= cut.step as isize;
                view.start += cut.start as isize * (view.strides[axis] / cut.step as isize);
            } else {
                view.start += cut.start as isize * view.strides[axis];
            }
        }
        copy_view(cx, &view)
    }
}

/// Cuts the operand along one dimension into parts of these sizes.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) axis: usize,
    pub(crate) sizes: Vec<usize>,
}

impl Split {
    fn cut<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let own = signed(strides(shape));
        let mut first = 0;
        let parts = cx.outputs.iter().map(|out| {
            let view = View {
                start: first * own[self.axis],
                shape: out.shape.clone(),
                strides: own.clone(),
            };
            first += out.shape[self.axis] as isize;
            Tensor::from_parts(out.shape.clone(), view.copy(x))
        });
        Ok(parts.collect())
    }
}

impl Operator for Split {
    fn name(&self) -> &'static str {
        "Split/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis).sizes(&self.sizes);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let total = self.sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s));
        let dim = x
            .shape()
            .get(self.axis)
            .ok_or_else(|| OpError::attribute("axis", format!("{} is out of range", self.axis)))?;
        let fits = total
            .and_then(|n| i64::try_from(n).ok())
            .is_some_and(|n| dim.known().is_none_or(|d| d == n));
        if !fits {
            return Err(OpError::shape(format!(
                "parts of {:?} do not add up to a dimension of {dim}",
                self.sizes
            )));
        }
        let part = |&size: &usize| {
            let mut shape = x.shape().to_vec();
            shape[self.axis] = Sym::size(size);
            Type::new(x.dtype(), shape)
        };
        Ok(self.sizes.iter().map(part).collect())
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.cut(cx, v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(dim: i64, start: i64, end: i64, step: i64) -> i64 {
        cut(dim, start, end, step).count
    }

    #[test]
    fn ranges_are_clamped_as_numpy_does() {
        assert_eq!(count(10, 2, 8, 3), 2);
        assert_eq!(count(10, -3, i64::MAX, 1), 3);
        assert_eq!(count(10, -1, i64::MIN, -1), 10);
        assert_eq!(count(10, i64::MAX, i64::MIN, -3), 4);
        assert_eq!(count(10, 5, 5, 1), 0);
        assert_eq!(count(10, 20, 30, 1), 0);
        assert_eq!(count(0, 0, i64::MAX, 1), 0);
        assert_eq!(count(0, -1, i64::MIN, -1), 0);
        assert_eq!(count(10, 0, 10, i64::MAX), 1);
        assert_eq!(count(10, 9, i64::MIN, i64::MIN), 1);
    }
}
