//! Elements chosen by indices. An index counts from the end where negative; one out of range is an
//! error of the run.

use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, integers, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::expect;
use crate::tensor::{Element, Tensor, with_storage};

/// Resolves an index into a dimension.
pub(crate) fn resolve(index: i64, dim: usize) -> Result<usize, OpError> {
    let signed = dim as i64;
    let resolved = if index < 0 { index + signed } else { index };
    usize::try_from(resolved)
        .ok()
        .filter(|&i| i < dim)
        .ok_or_else(|| {
            OpError::value(format!(
                "index {index} is out of range for a dimension of {dim}"
            ))
        })
}

/// Refuses constant indices that are out of range, before any run.
fn check_constant(index: &Fact, dim: &Sym) -> Result<(), OpError> {
    let dim = dim.known().and_then(|d| usize::try_from(d).ok());
    let (Some(tensor), Some(dim)) = (index.tensor(), dim) else {
        return Ok(());
    };
    let indices = integers(tensor).unwrap_or_default();
    indices
        .into_iter()
        .try_for_each(|i| resolve(i, dim).map(|_| ()))
}

fn indices(cx: &Eval<'_>, operand: usize) -> Result<Vec<i64>, OpError> {
    let tensor = cx.inputs.need(operand)?;
    integers(tensor).ok_or_else(|| crate::ops::unreachable_type(tensor.dtype()))
}

const INDEX_TYPES: [DType; 2] = [DType::I64, DType::I32];

fn index_bytes(inputs: Operands<'_, Concrete>) -> u64 {
    inputs.get(1).map_or(0, |i| i.len() as u64 * 8)
}

/// Slices of the first operand along one dimension, at the indices of the second.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) axis: usize,
}

impl Gather {
    fn take<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let dim = shape[self.axis];
        let outer: usize = shape[..self.axis].iter().product();
        let inner: usize = shape[self.axis + 1..].iter().product();
        let rows = indices(cx, 1)?
            .into_iter()
            .map(|i| resolve(i, dim))
            .collect::<Result<Vec<_>, _>>()?;
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        for o in 0..outer {
            for row in &rows {
                let at = (o * dim + row) * inner;
                out.extend_from_slice(&x[at..at + inner]);
            }
        }
        cx.output(out)
    }
}

impl Operator for Gather {
    fn name(&self) -> &'static str {
        "Gather/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, index) = (inputs.need(0)?, inputs.need(1)?);
        expect(index, "input 1", &INDEX_TYPES)?;
        if self.axis >= x.rank() {
            return Err(OpError::attribute(
                "axis",
                format!("{} is out of range", self.axis),
            ));
        }
        check_constant(index, &x.shape()[self.axis])?;
        let shape = [
            &x.shape()[..self.axis],
            index.shape(),
            &x.shape()[self.axis + 1..],
        ]
        .concat();
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        let (x, index) = (inputs.get(0)?, inputs.get(1)?);
        if x.rank() != 1 {
            return None;
        }
        let values = x.integers()?;
        let at = |i: &Sym| values.get(resolve(i.known()?, values.len()).ok()?).cloned();
        index.integers()?.iter().map(at).collect()
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.take(cx, v))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        2 * index_bytes(inputs)
    }
}

/// Single elements: at each place of the output the index says where along the dimension, the
/// place itself says where along the others.
#[derive(Debug)]
pub(crate) struct GatherElements {
    pub(crate) axis: usize,
}

impl GatherElements {
    fn take<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let own = strides(shape);
        let out_strides = strides(cx.shape());
        let indices = indices(cx, 1)?;
        let mut out = Vec::with_capacity(indices.len());
        for (place, &index) in indices.iter().enumerate() {
            let mut at = 0;
            for (axis, &dim) in cx.shape().iter().enumerate() {
                let i = if axis == self.axis {
                    resolve(index, shape[axis])?
                } else {
                    place / out_strides[axis] % dim
                };
                at += i * own[axis];
            }
            out.push(x[at]);
        }
        cx.output(out)
    }
}

impl Operator for GatherElements {
    fn name(&self) -> &'static str {
        "GatherElements/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, index) = (inputs.need(0)?, inputs.need(1)?);
        expect(index, "input 1", &INDEX_TYPES)?;
        if self.axis >= x.rank() {
            return Err(OpError::attribute(
                "axis",
                format!("{} is out of range", self.axis),
            ));
        }
        let fits = index.rank() == x.rank()
            && (0..x.rank()).all(|i| {
                let pair = (x.shape()[i].known(), index.shape()[i].known());
                i == self.axis || !matches!(pair, (Some(d), Some(n)) if n > d)
            });
        check_constant(index, &x.shape()[self.axis])?;
        if !fits {
            return Err(OpError::shape(format!(
                "indices of {} reach beyond {}",
                show(index.shape()),
                show(x.shape())
            )));
        }
        Ok(vec![Type::new(x.dtype(), index.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.take(cx, v))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        index_bytes(inputs)
    }
}

/// Slices of the first operand at index tuples, which are the rows of the second; the first
/// `batch` dimensions of both go together.
#[derive(Debug)]
pub(crate) struct GatherNd {
    pub(crate) batch: usize,
}

impl GatherNd {
    fn take<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let (shape, index_shape) = (cx.inputs.need(0)?.shape(), cx.inputs.need(1)?.shape());
        let depth = index_shape.last().copied().unwrap_or(0);
        let batches: usize = shape[..self.batch].iter().product();
        let tuples: usize = index_shape[self.batch..index_shape.len() - 1]
            .iter()
            .product();
        let dims = &shape[self.batch..self.batch + depth];
        let inner: usize = shape[self.batch + depth..].iter().product();
        let plane = dims.iter().product::<usize>() * inner;
        let indices = indices(cx, 1)?;
        let mut out = Vec::with_capacity(cx.outputs[0].len());
        for batch in 0..batches {
            for tuple in 0..tuples {
                let first = (batch * tuples + tuple) * depth;
                let mut at = 0;
                for (&index, &dim) in indices[first..first + depth].iter().zip(dims) {
                    at = at * dim + resolve(index, dim)?;
                }
                let at = batch * plane + at * inner;
                out.extend_from_slice(&x[at..at + inner]);
            }
        }
        cx.output(out)
    }
}

impl Operator for GatherNd {
    fn name(&self) -> &'static str {
        "GatherND/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.batch);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, index) = (inputs.need(0)?, inputs.need(1)?);
        expect(index, "input 1", &INDEX_TYPES)?;
        let misfit = || {
            OpError::shape(format!(
                "indices of {} do not fit {} with {} dimensions in common",
                show(index.shape()),
                show(x.shape()),
                self.batch
            ))
        };
        let (Some(depth), batch) = (index.shape().last(), self.batch) else {
            return Err(misfit());
        };
        let depth = depth
            .known()
            .and_then(|d| usize::try_from(d).ok())
            .filter(|&d| d >= 1)
            .ok_or_else(|| {
                OpError::shape("the length of an index tuple must be known, and at least 1")
            })?;
        if batch >= index.rank() || depth > x.rank().saturating_sub(batch) {
            return Err(misfit());
        }
        let common: Option<Vec<Sym>> = (0..batch)
            .map(|i| x.shape()[i].unify(&index.shape()[i]))
            .collect();
        let shape = [
            &common.ok_or_else(misfit)?[..],
            &index.shape()[batch..index.rank() - 1],
            &x.shape()[batch + depth..],
        ]
        .concat();
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.take(cx, v))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        index_bytes(inputs)
    }
}

/// A vector for each index of the first operand, along a new dimension `axis`: the third operand's
/// second value at the index, its first value elsewhere. The second operand is the length; an index
/// out of range sets nothing.
#[derive(Debug)]
pub(crate) struct OneHot {
    /// A place of the output.
    pub(crate) axis: usize,
}

impl OneHot {
    fn fill<T: Element>(&self, cx: &Eval<'_>, values: &[T]) -> Result<Vec<Tensor>, OpError> {
        let &[off, on] = values else {
            return Err(OpError::operand("input 2", "must hold two values"));
        };
        let dim = cx.shape()[self.axis];
        let inner: usize = cx.shape()[self.axis + 1..].iter().product();
        let mut out = vec![off; cx.outputs[0].len()];
        for (place, index) in indices(cx, 0)?.into_iter().enumerate() {
            if let Ok(i) = resolve(index, dim) {
                out[(place / inner * dim + i) * inner + place % inner] = on;
            }
        }
        cx.output(out)
    }
}

impl Operator for OneHot {
    fn name(&self) -> &'static str {
        "OneHot/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis);
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (index, values) = (inputs.need(0)?, inputs.need(2)?);
        expect(index, "input 0", &INDEX_TYPES)?;
        let depth = inputs.need(1)?.shape_operand("input 1")?;
        let [depth] = &depth[..] else {
            return Err(OpError::operand("input 1", "must be one number"));
        };
        if values.shape() != [Sym::Known(2)] {
            return Err(OpError::operand("input 2", "must hold two values"));
        }
        if self.axis > index.rank() {
            return Err(OpError::attribute(
                "axis",
                format!("{} is out of range", self.axis),
            ));
        }
        let mut shape = index.shape().to_vec();
        shape.insert(self.axis, depth.clone());
        Ok(vec![Type::new(values.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(2)?.storage(), v => self.fill(cx, v))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |i| i.len() as u64 * 8)
    }
}
