//! `Concat`.

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Eval, Operands, Operator, ordinal, typed};
use crate::ops::same_dtype;
use crate::tensor::{Element, Tensor, with_storage};

/// Joins operands along one dimension.
#[derive(Debug)]
pub(crate) struct Concat {
    pub(crate) axis: usize,
}

impl Concat {
    fn join<T: Element>(&self, cx: &Eval<'_>, _: &[T]) -> Result<Vec<Tensor>, OpError> {
        let outer: usize = cx.shape()[..self.axis].iter().product();
        let parts: Vec<(&[T], usize)> = cx
            .inputs
            .all()?
            .into_iter()
            .map(|t| Ok((typed(t)?, t.shape()[self.axis..].iter().product())))
            .collect::<Result<_, OpError>>()?;
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        for row in 0..outer {
            for (values, len) in &parts {
                out.extend_from_slice(&values[row * len..(row + 1) * len]);
            }
        }
        cx.output(out)
    }
}

/// Tensors of one shape, joined along a new dimension `axis` of the result's `shape`.
pub(crate) fn stack(parts: &[&Tensor], axis: usize, shape: Vec<usize>) -> Result<Tensor, OpError> {
    fn join<T: Element>(
        parts: &[&Tensor],
        axis: usize,
        shape: Vec<usize>,
        _: &[T],
    ) -> Result<Tensor, OpError> {
        let outer: usize = shape[..axis].iter().product();
        let inner: usize = shape[axis + 1..].iter().product();
        let values: Vec<&[T]> = parts.iter().map(|t| typed(t)).collect::<Result<_, _>>()?;
        let mut out = Vec::with_capacity(outer * inner * parts.len());
        for row in 0..outer {
            for part in &values {
                out.extend_from_slice(&part[row * inner..(row + 1) * inner]);
            }
        }
        Ok(Tensor::from_parts(shape, out))
    }
    with_storage!(parts[0].storage(), v => join(parts, axis, shape, v))
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "Concat/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let first = inputs.need(0)?;
        if self.axis >= first.rank() {
            return Err(OpError::attribute(
                "axis",
                format!("{} is out of range", self.axis),
            ));
        }
        let mut shape = first.shape().to_vec();
        for (index, x) in inputs.all()?.into_iter().enumerate().skip(1) {
            same_dtype(x, &ordinal(index), first.dtype())?;
            let misfit = || {
                OpError::shape(format!(
                    "{} and {} differ in more than dimension {}",
                    show(first.shape()),
                    show(x.shape()),
                    self.axis
                ))
            };
            if x.rank() != shape.len() {
                return Err(misfit());
            }
            for (i, (dim, d)) in shape.iter_mut().zip(x.shape()).enumerate() {
                *dim = if i == self.axis {
                    dim.add(d)
                } else {
                    dim.unify(d).ok_or_else(misfit)?
                };
            }
        }
        Ok(vec![Type::new(first.dtype(), shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        if inputs.get(0)?.rank() != 1 {
            return None;
        }
        let parts: Option<Vec<Vec<Sym>>> = (0..inputs.len())
            .map(|i| inputs.get(i)?.integers())
            .collect();
        Some(parts?.concat())
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.join(cx, v))
    }
}
