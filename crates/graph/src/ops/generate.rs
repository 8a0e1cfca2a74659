//! Operators that make values from shapes and scalars.

use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator, typed};
use crate::ops::{expect, same_dtype, unreachable_type};
use crate::tensor::{Element, Storage, Tensor, with_storage};

/// The dimensions `start..end` of the operand.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Operator for Shape {
    fn name(&self) -> &'static str {
        "Shape/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.start).size(self.end);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        inputs.need(0)?;
        let count = self.end.saturating_sub(self.start);
        Ok(vec![Type::new(DType::I64, vec![Sym::size(count)])])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let shape = inputs.get(0)?.shape();
        Some(shape.get(self.start..self.end).unwrap_or(&[]).to_vec())
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let part = shape.get(self.start..self.end).unwrap_or(&[]);
        cx.output(part.iter().map(|&d| d as i64).collect())
    }
}

/// The number of elements of the operand.
#[derive(Debug)]
pub(crate) struct Size;

impl Operator for Size {
    fn name(&self) -> &'static str {
        "Size/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        inputs.need(0)?;
        Ok(vec![Type::new(DType::I64, Vec::new())])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let shape = inputs.get(0)?.shape();
        Some(vec![shape.iter().fold(Sym::Known(1), |n, d| n.mul(d))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        cx.output(vec![cx.inputs.need(0)?.len() as i64])
    }
}

/// The first operand, if the second and third are equal everywhere; else an error of the run.
#[derive(Debug)]
pub(crate) struct Checked;

impl Operator for Checked {
    fn name(&self) -> &'static str {
        "Checked/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        expect(inputs.need(1)?, "input 1", &[DType::I64])?;
        expect(inputs.need(2)?, "input 2", &[DType::I64])?;
        Ok(vec![inputs.need(0)?.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (found, wanted) = (cx.slice::<i64>(1)?, cx.slice::<i64>(2)?);
        let [wanted] = wanted else {
            return Err(OpError::value("one length is expected"));
        };
        if found.iter().any(|n| n != wanted) {
            return Err(OpError::value(format!(
                "sequences of {found:?} in a batch of length {wanted}: padded batches are not supported"
            )));
        }
        Ok(vec![cx.inputs.need(0)?.clone()])
    }
}

/// A tensor, whatever the operands.
#[derive(Debug)]
pub(crate) struct Given(pub(crate) Tensor);

impl Operator for Given {
    fn name(&self) -> &'static str {
        "Given/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.digest(&self.0.digest());
    }

    fn infer(&self, _: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Fact::constant(self.0.clone()).ty])
    }

    fn integers(&self, _: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        Fact::constant(self.0.clone()).integers()
    }

    fn eval(&self, _: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![self.0.clone()])
    }
}

/// One value, in the shape that the operand gives.
#[derive(Debug)]
pub(crate) struct Fill {
    /// Of one element.
    pub(crate) value: Tensor,
}

impl Fill {
    fn fill<T: Element>(cx: &Eval<'_>, value: &[T]) -> Result<Vec<Tensor>, OpError> {
        let value = value.first().copied().unwrap_or_default();
        cx.output(vec![value; cx.outputs[0].len()])
    }
}

impl Operator for Fill {
    fn name(&self) -> &'static str {
        "ConstantOfShape/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.digest(&self.value.digest());
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[0]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let shape = inputs.need(0)?.shape_operand("input 0")?;
        Ok(vec![Type::new(self.value.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(self.value.storage(), v => Fill::fill(cx, v))
    }
}

/// `start`, `start + delta`, … up to but without `limit`: element `i` is `start + i · delta`.
#[derive(Debug)]
pub(crate) struct Range;

/// The number of elements; for floats, computed in f64.
fn count(operands: [&Tensor; 3]) -> Result<i64, OpError> {
    let single = || OpError::operand("start, limit and delta", "must be scalars of one type");
    let zero = || OpError::operand("input 2", "a step is 0");
    if let Some(values) = scalars::<f32>(operands) {
        let [start, limit, delta] = values.map(f64::from);
        let steps = ((limit - start) / delta).ceil();
        return match steps {
            _ if delta == 0.0 => Err(zero()),
            _ if steps.is_nan() => {
                Err(OpError::value("start, limit and delta do not make a range"))
            }
            _ => Ok((steps as i64).max(0)),
        };
    }
    let [start, limit, delta] = operands.map(crate::fact::integers);
    let (Some(start), Some(limit), Some(delta)) = (start, limit, delta) else {
        return Err(single());
    };
    let ([start], [limit], [delta]) = (&start[..], &limit[..], &delta[..]) else {
        return Err(single());
    };
    let span = i128::from(*limit) - i128::from(*start);
    let delta = i128::from(*delta);
    if delta == 0 {
        return Err(zero());
    }
    // Rounded up: a remainder makes one more step.
    let steps = span / delta + i128::from(span % delta != 0 && (span < 0) == (delta < 0));
    i64::try_from(steps.max(0)).map_err(|_| OpError::shape("the range is too long"))
}

fn scalars<T: Element>(operands: [&Tensor; 3]) -> Option<[T; 3]> {
    let one = |t: &Tensor| t.as_slice::<T>().and_then(|v| v.first().copied());
    Some([one(operands[0])?, one(operands[1])?, one(operands[2])?])
}

impl Operator for Range {
    fn name(&self) -> &'static str {
        "Range/1"
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[0, 1, 2]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let operands = [inputs.need(0)?, inputs.need(1)?, inputs.need(2)?];
        let dtype = expect(
            operands[0],
            "input 0",
            &[DType::F32, DType::I64, DType::I32],
        )?;
        for (index, operand) in operands.into_iter().enumerate() {
            let what = crate::operator::ordinal(index);
            same_dtype(operand, &what, dtype)?;
            if operand.shape().iter().any(|d| *d != Sym::Known(1)) {
                return Err(OpError::operand(what, "must be a scalar"));
            }
        }
        let tensors = operands.map(Fact::tensor);
        let steps = match tensors {
            [Some(a), Some(b), Some(c)] => Sym::Known(count([a, b, c])?),
            _ => from_zero(operands),
        };
        Ok(vec![Type::new(dtype, vec![steps])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let start = cx.inputs.need(0)?;
        let n = cx.outputs[0].len();
        macro_rules! walk {
            ($start:expr, $at:expr) => {{
                let delta = typed($start.1)?[0];
                cx.output(
                    (0..n)
                        .map(|i| $at(i, $start.0[0], delta))
                        .collect::<Vec<_>>(),
                )
            }};
        }
        let delta = cx.inputs.need(2)?;
        match start.storage() {
            Storage::F32(v) => walk!((v, delta), |i, a: f32, d: f32| lemma_kernels::canonical(
                a + i as f32 * d
            )),
            Storage::I64(v) => walk!((v, delta), |i, a: i64, d: i64| a
                .wrapping_add((i as i64).wrapping_mul(d))),
            Storage::I32(v) => walk!((v, delta), |i, a: i32, d: i32| a
                .wrapping_add((i as i32).wrapping_mul(d))),
            _ => Err(unreachable_type(start.dtype())),
        }
    }

    fn cost(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        outputs[0].len() as u64
    }
}

/// The length of a range from 0 in steps of 1 is its limit.
fn from_zero([start, limit, delta]: [&Fact; 3]) -> Sym {
    match (start.integers(), limit.integers(), delta.integers()) {
        (Some(start), Some(limit), Some(delta))
            if start == [Sym::Known(0)] && delta == [Sym::Known(1)] && limit.len() == 1 =>
        {
            limit[0].clone()
        }
        _ => Sym::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_their_steps() {
        let int = |a: i64, b: i64, c: i64| {
            count([&Tensor::scalar(a), &Tensor::scalar(b), &Tensor::scalar(c)])
        };
        assert_eq!(int(3, 9, 3).unwrap(), 2);
        assert_eq!(int(10, 4, -2).unwrap(), 3);
        assert_eq!(int(10, 5, -2).unwrap(), 3);
        assert_eq!(int(0, 10, -1).unwrap(), 0);
        assert_eq!(int(0, 7, 2).unwrap(), 4);
        assert!(int(0, 7, 0).is_err());
        assert!(int(i64::MIN, i64::MAX, 1).is_err());
        let float = |a: f32, b: f32, c: f32| {
            count([&Tensor::scalar(a), &Tensor::scalar(b), &Tensor::scalar(c)])
        };
        assert_eq!(float(1.0, 5.0, 2.0).unwrap(), 2);
        assert_eq!(float(0.0, 1.0, -1.0).unwrap(), 0);
        assert!(float(f32::NAN, 1.0, 1.0).is_err());
        assert!(float(0.0, 1.0, 0.0).is_err());
    }
}
