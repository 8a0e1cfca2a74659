//! Fourier transforms and the windows that go with them. Angles are exact fractions of a turn;
//! sums are in binary64, rounded once.

use lemma_kernels::{canonical, wide};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::{expect, unreachable_type};
use crate::tensor::Tensor;

/// cos and sin of 2π·i/n for each i.
fn circle(n: usize) -> Vec<(f64, f64)> {
    (0..n)
        .map(|i| {
            let (s, c) = wide::turn(i as f64 / n as f64);
            (c, s)
        })
        .collect()
}

/// One value of a transform: Σ x[j] · e^(∓2πi·jk/n), in order; each part a chain of fused
/// multiply-adds. `circle` has n entries; elements beyond those given are zero.
fn bin(x: &[(f64, f64)], k: usize, circle: &[(f64, f64)], inverse: bool) -> (f64, f64) {
    let n = circle.len();
    let (mut re, mut im) = (0f64, 0f64);
    for (j, &(a, b)) in x.iter().enumerate() {
        let (c, s) = circle[(j as u128 * k as u128 % n as u128) as usize];
        let s = if inverse { s } else { -s };
        re = a.mul_add(c, re);
        re = (-b).mul_add(s, re);
        im = a.mul_add(s, im);
        im = b.mul_add(c, im);
    }
    (re, im)
}

/// A transform along an axis of `[…, 1 or 2]`, the last dimension real and imaginary parts.
#[derive(Debug)]
pub(crate) struct Dft {
    pub(crate) axis: usize,
    /// Elements that are transformed: more are cut off, fewer are followed by zeros.
    pub(crate) length: Option<usize>,
    pub(crate) inverse: bool,
    pub(crate) one_sided: bool,
}

impl Dft {
    fn sizes(&self, dim: usize) -> (usize, usize) {
        let n = self.length.unwrap_or(dim);
        (n, if self.one_sided { n / 2 + 1 } else { n })
    }
}

impl Operator for Dft {
    fn name(&self) -> &'static str {
        "DFT/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon
            .size(self.axis)
            .flag(self.inverse)
            .flag(self.one_sided);
        match self.length {
            None => canon.u8(0),
            Some(n) => canon.u8(1).size(n),
        };
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        let parts = x.shape().last().and_then(Sym::known);
        let parts = parts.filter(|p| (1..=2).contains(p));
        let (Some(_), true) = (parts, self.axis + 1 < x.rank()) else {
            return Err(OpError::shape(format!(
                "a transform along axis {} of {}, whose last dimension must be 1 or 2",
                self.axis,
                show(x.shape())
            )));
        };
        let mut shape = x.shape().to_vec();
        let dim = shape[self.axis]
            .known()
            .and_then(|n| usize::try_from(n).ok());
        shape[self.axis] = match (dim, self.length) {
            (Some(dim), _) => Sym::size(self.sizes(dim).1),
            (None, Some(n)) => Sym::size(self.sizes(n).1),
            (None, None) if self.one_sided => Sym::Unknown,
            (None, None) => shape[self.axis].clone(),
        };
        *shape
            .last_mut()
            .ok_or_else(|| OpError::shape("no dimension"))? = Sym::Known(2);
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.slice::<f32>(0)?;
        let shape = cx.inputs.need(0)?.shape();
        let dim = shape[self.axis];
        let (n, bins) = self.sizes(dim);
        let parts = shape[shape.len() - 1];
        let inner: usize = shape[self.axis + 1..shape.len() - 1].iter().product();
        let outer: usize = shape[..self.axis].iter().product();
        let circle = circle(n);
        let mut y = cx.zeros::<f32>();
        if y.is_empty() {
            return cx.output(y);
        }
        let mut row = Vec::with_capacity(n.min(dim));
        for o in 0..outer {
            for i in 0..inner {
                row.clear();
                row.extend((0..n.min(dim)).map(|j| {
                    let at = ((o * dim + j) * inner + i) * parts;
                    let imaginary = if parts == 2 { x[at + 1] } else { 0.0 };
                    (f64::from(x[at]), f64::from(imaginary))
                }));
                for k in 0..bins {
                    let (mut re, mut im) = bin(&row, k, &circle, self.inverse);
                    if self.inverse {
                        (re, im) = (re / n as f64, im / n as f64);
                    }
                    let at = ((o * bins + k) * inner + i) * 2;
                    y[at] = canonical(re as f32);
                    y[at + 1] = canonical(im as f32);
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let dim = inputs.get(0).map_or(0, |x| x.shape[self.axis]);
        let n = self.length.unwrap_or(dim) as u64;
        (outputs[0].len() as u64).saturating_mul(2 * n.max(1))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let dim = inputs.get(0).map_or(0, |x| x.shape[self.axis]);
        32 * self.length.unwrap_or(dim).max(dim) as u64
    }
}

/// Transforms of frames of a signal `[batch, length, 1 or 2]`, each multiplied by the window, if
/// the second operand is there. Output: `[batch, frames, bins, 2]`.
#[derive(Debug)]
pub(crate) struct Stft {
    pub(crate) step: usize,
    pub(crate) frame: usize,
    pub(crate) one_sided: bool,
}

impl Stft {
    fn bins(&self) -> usize {
        if self.one_sided {
            self.frame / 2 + 1
        } else {
            self.frame
        }
    }
}

impl Operator for Stft {
    fn name(&self) -> &'static str {
        "STFT/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.step).size(self.frame).flag(self.one_sided);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        let [batch, length, parts] = x.shape() else {
            return Err(OpError::shape("a signal has three dimensions"));
        };
        let real = *parts == Sym::Known(1);
        if !(real || *parts == Sym::Known(2)) || (self.one_sided && !real) {
            return Err(OpError::shape(
                "one or two parts: one side is enough for real signals only",
            ));
        }
        if let Some(window) = inputs.get(1) {
            expect(window, "the window", &[DType::F32])?;
            if window.rank() != 1 || window.shape()[0].unify(&Sym::size(self.frame)).is_none() {
                return Err(OpError::shape("the window is not as long as a frame"));
            }
        }
        let frames = match length.known() {
            None => Sym::Unknown,
            Some(length) => {
                let rest = usize::try_from(length)
                    .ok()
                    .and_then(|n| n.checked_sub(self.frame));
                let rest =
                    rest.ok_or_else(|| OpError::shape("a frame is longer than the signal"))?;
                Sym::size(rest / self.step + 1)
            }
        };
        let shape = vec![batch.clone(), frames, Sym::size(self.bins()), Sym::Known(2)];
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, window) = (cx.slice::<f32>(0)?, cx.maybe_slice::<f32>(1)?);
        let [batch, length, parts] = *cx.inputs.need(0)?.shape() else {
            return Err(OpError::shape("a signal has three dimensions"));
        };
        let (frames, bins) = (cx.shape()[1], self.bins());
        let circle = circle(self.frame);
        let mut y = Vec::with_capacity(cx.outputs[0].len());
        for b in 0..batch {
            for f in 0..frames {
                let row: Vec<(f64, f64)> = (0..self.frame)
                    .map(|j| {
                        let at = (b * length + f * self.step + j) * parts;
                        let factor = window.map_or(1.0, |w| w[j]);
                        let imaginary = if parts == 2 { x[at + 1] } else { 0.0 };
                        (f64::from(x[at] * factor), f64::from(imaginary * factor))
                    })
                    .collect();
                for k in 0..bins {
                    let (re, im) = bin(&row, k, &circle, false);
                    y.extend([canonical(re as f32), canonical(im as f32)]);
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        (outputs[0].len() as u64).saturating_mul(2 * self.frame as u64)
    }

    fn scratch(&self, _: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        (self.frame as u64).saturating_mul(48)
    }
}

/// a − b·cos(2πi/n) + c·cos(4πi/n) for i from 0 on, as many as the operand says; n is that
/// number, or (`symmetric`) one less.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) factors: [f64; 3],
    pub(crate) symmetric: bool,
    pub(crate) to: DType,
}

impl Operator for Window {
    fn name(&self) -> &'static str {
        "CosineWindow/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        self.factors.iter().for_each(|f| {
            canon.u64(f.to_bits());
        });
        canon.flag(self.symmetric).u8(self.to.code());
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[0]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let size = inputs.need(0)?.shape_operand("input 0")?;
        let [size] = &size[..] else {
            return Err(OpError::operand("input 0", "must be one number"));
        };
        Ok(vec![Type::new(self.to, vec![size.clone()])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let count = cx.outputs[0].len();
        let n = if self.symmetric {
            count.saturating_sub(1)
        } else {
            count
        };
        let [a, b, c] = self.factors;
        let value = |i: usize| {
            let turns = i as f64 / n.max(1) as f64;
            // Twice the angle is brought back below a turn.
            let (once, twice) = (
                wide::turn(turns).1,
                wide::turn((2 * i % n.max(1)) as f64 / n.max(1) as f64).1,
            );
            c.mul_add(twice, (-b).mul_add(once, a))
        };
        match self.to {
            DType::F32 => cx.output((0..count).map(|i| value(i) as f32).collect()),
            DType::F64 => cx.output((0..count).map(value).collect()),
            other => Err(unreachable_type(other)),
        }
    }
}
