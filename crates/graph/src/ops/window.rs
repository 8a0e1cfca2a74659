//! Pooling beyond means and maxima of FP32, and normalisation over neighbouring channels.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::expect;
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::reduce::Ranked;
use crate::ops::unreachable_type;
use crate::tensor::{Storage, Tensor};

/// What is made of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// The largest element, NaN above all, and where it was found: its position in the whole
    /// tensor, spatial axes counted in row-major order or (`columns`) the first axis fastest.
    MaxAt { columns: bool },
    /// (Σ |x|ᵖ) to the power 1/p.
    Lp(u32),
}

/// Pooling of `[batch, channels, …]`, window by window.
#[derive(Debug)]
pub(crate) struct WindowPool {
    pub(crate) kind: Kind,
    /// Geometry; its own kind is not looked at.
    pub(crate) pool: Pool,
}

impl WindowPool {
    fn largest<T: Ranked>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let (input, output) = (&shape[2..], &cx.shape()[2..]);
        let taps = self.pool.window.taps(input, output)?;
        let (plane, out): (usize, usize) = (input.iter().product(), output.iter().product());
        let columns = self.kind == Kind::MaxAt { columns: true };
        let own = crate::ops::broadcast::strides(input);
        // The same place with the first axis counted fastest.
        let turned = |at: usize| {
            let mut step = 1;
            let mut place = 0;
            for (axis, &dim) in input.iter().enumerate() {
                place += at / own[axis] % dim * step;
                step *= dim;
            }
            place
        };
        let mut values = cx.zeros::<T>();
        let mut places = vec![0i64; values.len()];
        for n in 0..values.len() / out.max(1) {
            let from = &x[n * plane..][..plane];
            for o in 0..out {
                let mut best: Option<usize> = None;
                for (_, at) in taps.window(o) {
                    if best.is_none_or(|b| from[at].rank(from[b]).is_gt()) {
                        best = Some(at);
                    }
                }
                let at = best.ok_or_else(|| OpError::value("a window holds nothing"))?;
                values[n * out + o] = from[at];
                let place = if columns { turned(at) } else { at };
                places[n * out + o] = (n * plane + place) as i64;
            }
        }
        let shape = cx.shape().to_vec();
        Ok(vec![
            Tensor::from_parts(shape.clone(), values),
            Tensor::from_parts(shape, places),
        ])
    }

    fn norm(&self, cx: &Eval<'_>, x: &[f32], p: u32) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let (input, output) = (&shape[2..], &cx.shape()[2..]);
        let taps = self.pool.window.taps(input, output)?;
        let (plane, out): (usize, usize) = (input.iter().product(), output.iter().product());
        let power = |v: f32| match p {
            1 => v.abs(),
            2 => v * v,
            _ => kernels::math::pow(v.abs(), p as f32),
        };
        let mut y = cx.zeros::<f32>();
        for n in 0..y.len() / out.max(1) {
            let from = &x[n * plane..][..plane];
            for o in 0..out {
                let sum = taps
                    .window(o)
                    .fold(0f32, |sum, (_, at)| sum + power(from[at]));
                y[n * out + o] = kernels::canonical(match p {
                    1 => sum,
                    2 => sum.sqrt(),
                    _ => kernels::math::pow(sum, 1.0 / p as f32),
                });
            }
        }
        cx.output(y)
    }
}

impl Operator for WindowPool {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::MaxAt { .. } => "MaxPoolWithIndices/1",
            Kind::Lp(_) => "LpPool/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        match self.kind {
            Kind::MaxAt { columns } => canon.flag(columns),
            Kind::Lp(p) => canon.u64(u64::from(p)),
        };
        self.pool.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        let supported: &[DType] = match self.kind {
            Kind::MaxAt { .. } => &[DType::F32, DType::U8, DType::I8],
            Kind::Lp(_) => &[DType::F32],
        };
        let dtype = expect(x, "input 0", supported)?;
        let float = Fact::of_type(Type::new(DType::F32, x.shape().to_vec()));
        let mut types = self.pool.infer(Operands(&[Some(&float)]))?;
        let shape = types.remove(0).shape;
        Ok(match self.kind {
            Kind::Lp(_) => vec![Type::new(dtype, shape)],
            Kind::MaxAt { .. } => vec![
                Type::new(dtype, shape.clone()),
                Type::new(DType::I64, shape),
            ],
        })
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        match (self.kind, x.storage()) {
            (Kind::Lp(p), Storage::F32(v)) => self.norm(cx, v, p),
            (Kind::MaxAt { .. }, Storage::F32(v)) => self.largest(cx, v),
            (Kind::MaxAt { .. }, Storage::U8(v)) => self.largest(cx, v),
            (Kind::MaxAt { .. }, Storage::I8(v)) => self.largest(cx, v),
            _ => Err(unreachable_type(x.dtype())),
        }
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        self.pool.cost(inputs, outputs)
    }

    fn scratch(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        self.pool.window.tap_bytes(&outputs[0].shape[2..])
    }
}

impl WindowPool {
    /// The geometry for one of these.
    pub(crate) fn geometry(window: crate::ops::conv::Sliding, ceil_mode: bool) -> Pool {
        Pool {
            kind: PoolKind::Max,
            ceil_mode,
            window,
        }
    }
}

/// x ÷ (bias + alpha ÷ size · Σ x²)^beta, the sum over neighbouring channels.
#[derive(Debug)]
pub(crate) struct Lrn {
    pub(crate) size: usize,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) bias: f32,
}

impl Operator for Lrn {
    fn name(&self) -> &'static str {
        "LRN/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.size);
        canon.f32(self.alpha).f32(self.beta).f32(self.bias);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        if x.rank() < 3 {
            return Err(OpError::shape("data needs channels and spatial dimensions"));
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.slice::<f32>(0)?;
        let channels = cx.shape()[1];
        let plane: usize = cx.shape()[2..].iter().product();
        let factor = self.alpha / self.size as f32;
        let mut y = cx.zeros::<f32>();
        if y.is_empty() {
            return cx.output(y);
        }
        let (before, after) = ((self.size - 1) / 2, self.size / 2);
        for (i, out) in y.chunks_exact_mut(plane).enumerate() {
            let (image, c) = (i / channels, i % channels);
            let (first, last) = (c.saturating_sub(before), (c + after).min(channels - 1));
            for other in first..=last {
                let row = &x[(image * channels + other) * plane..][..plane];
                for (sum, &v) in out.iter_mut().zip(row) {
                    *sum = v.mul_add(v, *sum);
                }
            }
            for (sum, &v) in out.iter_mut().zip(&x[i * plane..]) {
                let divisor = kernels::math::pow(self.bias + factor * *sum, self.beta);
                *sum = kernels::math::div(v, divisor);
            }
        }
        cx.output(y)
    }

    fn cost(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        (outputs[0].len() as u64).saturating_mul(self.size as u64)
    }
}

/// Determinants of square matrices: elimination from the first column on, each pivot the largest of
/// its column (the first of equals), rows below less fma(−factor, pivot row).
#[derive(Debug)]
pub(crate) struct Det;

fn determinant(mut m: Vec<f32>, n: usize) -> f32 {
    let mut result = 1.0f32;
    for column in 0..n {
        let size = |row: usize| kernels::math::abs(m[row * n + column]);
        let pivot = (column..n).fold(column, |best, row| {
            if size(row).rank(size(best)).is_gt() {
                row
            } else {
                best
            }
        });
        if pivot != column {
            for k in 0..n {
                m.swap(pivot * n + k, column * n + k);
            }
            result = -result;
        }
        let head = m[column * n + column];
        result *= head;
        if head == 0.0 {
            return result;
        }
        for row in column + 1..n {
            let factor = m[row * n + column] / head;
            for k in column..n {
                m[row * n + k] = (-factor).mul_add(m[column * n + k], m[row * n + k]);
            }
        }
    }
    kernels::canonical(result)
}

impl Operator for Det {
    fn name(&self) -> &'static str {
        "Det/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        match x.shape() {
            [outer @ .., rows, cols] if rows.unify(cols).is_some() => {
                Ok(vec![Type::new(DType::F32, outer.to_vec())])
            }
            _ => Err(OpError::shape("a determinant is one of square matrices")),
        }
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.inputs.need(0)?.shape();
        let [.., rows, n] = *shape else {
            return Err(OpError::shape("a matrix has two dimensions"));
        };
        if rows != n {
            return Err(OpError::shape("a determinant is one of square matrices"));
        }
        let x = cx.slice::<f32>(0)?;
        let matrix = |i: usize| determinant(x[i * n * n..][..n * n].to_vec(), n);
        cx.output((0..cx.outputs[0].len()).map(matrix).collect())
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let Some(x) = inputs.get(0) else { return 0 };
        (x.len() as u64).saturating_mul(x.shape.last().copied().unwrap_or(0) as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| {
            let n = x.shape.last().copied().unwrap_or(0) as u64;
            n.saturating_mul(n).saturating_mul(4)
        })
    }
}
