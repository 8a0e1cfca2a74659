//! Selection: `Where` and `Clip`.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Eval, Operands, Operator, typed};
use crate::ops::broadcast::{Runs, broadcast_shapes};
use crate::ops::{INTEGERS, expect, same_dtype, unreachable_type, with_integers};
use crate::tensor::{Element, Storage, Tensor, with_storage};

/// The second operand where the first is true, otherwise the third; all broadcast.
#[derive(Debug)]
pub(crate) struct Where;

impl Where {
    fn select<T: Element>(cx: &Eval<'_>, yes: &[T]) -> Result<Vec<Tensor>, OpError> {
        let (condition, no) = (cx.slice::<bool>(0)?, cx.slice::<T>(2)?);
        let shapes = [0, 1, 2].map(|i| cx.inputs.get(i).map_or(&[][..], Tensor::shape));
        let runs = Runs::new(cx.shape(), shapes);
        let [c, y, n] = runs.steps;
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        runs.visit(|_, [i, j, k]| {
            out.extend((0..runs.len).map(|r| {
                if condition[i + r * c] {
                    yes[j + r * y]
                } else {
                    no[k + r * n]
                }
            }));
            Ok(())
        })?;
        cx.output(out)
    }
}

impl Operator for Where {
    fn name(&self) -> &'static str {
        "Where/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (condition, yes, no) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        expect(condition, "input 0", &[DType::Bool])?;
        same_dtype(no, "input 2", yes.dtype())?;
        let shape = broadcast_shapes(&[condition.shape(), yes.shape(), no.shape()])?;
        Ok(vec![Type::new(yes.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let yes = cx.inputs.need(1)?;
        with_storage!(yes.storage(), v => Where::select(cx, v))
    }
}

/// `min(max(x, low), high)`, with bounds that may be absent. The upper bound wins where they cross.
#[derive(Debug)]
pub(crate) struct Clip;

impl Clip {
    fn integers<T: Element + Ord>(cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let bound = |i| Ok::<_, OpError>(cx.maybe_slice::<T>(i)?.and_then(|b| b.first().copied()));
        let (low, high) = (bound(1)?, bound(2)?);
        cx.output(
            x.iter()
                .map(|&v| {
                    let v = low.map_or(v, |low| v.max(low));
                    high.map_or(v, |high| v.min(high))
                })
                .collect(),
        )
    }

    fn floats(cx: &Eval<'_>, x: &[f32]) -> Result<Vec<Tensor>, OpError> {
        let mut y = x.to_vec();
        for (index, op) in [(1, kernels::Binary::Max), (2, kernels::Binary::Min)] {
            let Some(bound) = cx.inputs.get(index) else {
                continue;
            };
            let x = std::mem::replace(&mut y, vec![0.0; x.len()]);
            kernels::binary(cx.isa, op, &x, typed(bound)?, &mut y);
        }
        cx.output(y)
    }
}

impl Operator for Clip {
    fn name(&self) -> &'static str {
        "Clip/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let dtype = expect(x, "input 0", &[&[DType::F32], &INTEGERS[..]].concat())?;
        for index in 1..inputs.len() {
            let Some(bound) = inputs.get(index) else {
                continue;
            };
            let what = crate::operator::ordinal(index);
            same_dtype(bound, &what, dtype)?;
            if bound.shape().iter().any(|d| *d != Sym::Known(1)) {
                return Err(OpError::operand(what, "must be a scalar"));
            }
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        match x.storage() {
            Storage::F32(x) => Clip::floats(cx, x),
            _ => {
                with_integers!(x, v => Clip::integers(cx, v), else Err(unreachable_type(x.dtype())))
            }
        }
    }

    fn scratch(
        &self,
        inputs: Operands<'_, crate::operator::Concrete>,
        _outputs: &[crate::operator::Concrete],
    ) -> u64 {
        inputs.get(0).map_or(0, crate::operator::Concrete::bytes)
    }
}
