//! Reductions along one axis: sixteen strided lanes that meet in a fixed tree.

use crate::isa::{Isa, Kernel};
use crate::math;

/// Number of strided lanes of a reduction: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Σ x; +0 of no values.
    Sum,
    /// Σ x ÷ n; NaN of no values.
    Mean,
    /// Π x; 1 of no values.
    Prod,
    /// Largest value; NaN if there is one; +0 over −0; −∞ of no values.
    Max,
    /// Smallest value; NaN if there is one; −0 under +0; +∞ of no values.
    Min,
    /// Σ |x|; +0 of no values.
    L1,
    /// √(Σ x²); +0 of no values.
    L2,
    /// Σ x²; +0 of no values.
    SumSquare,
    /// ln(Σ x); −∞ of no values.
    LogSum,
    /// m + ln(Σ e^(x − m)) with m the largest value; −∞ of no values.
    LogSumExp,
}

/// Reduces the middle axis of `x`, whose shape is `outer × len × inner`, into `y` of shape
/// `outer × inner`. With `inner = 1` these are row reductions.
///
/// # Panics
/// If `x` or `y` has another length than the shape says.
pub fn reduce(
    isa: Isa,
    op: Reduction,
    outer: usize,
    len: usize,
    inner: usize,
    x: &[f32],
    y: &mut [f32],
) {
    assert_eq!(x.len(), outer * len * inner, "reduce: input length");
    assert_eq!(y.len(), outer * inner, "reduce: output length");
    isa.run(Reduce {
        op,
        len,
        inner,
        x,
        y,
    });
}

/// The scalar product of two rows, in lanes: lane `i mod 16` runs a chain of fused multiply-adds.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: lengths differ");
    isa.run(Dot { a, b })
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (a, a_rest) = self.a.as_chunks::<LANES>();
        let (b, b_rest) = self.b.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                lanes[i] = a[i].mul_add(b[i], lanes[i]);
            }
        }
        for i in 0..a_rest.len() {
            lanes[i] = a_rest[i].mul_add(b_rest[i], lanes[i]);
        }
        math::canonical(tree(lanes, math::add))
    }
}

/// Joins the lanes: `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Folds a row into lanes (`lane[i mod 16] = step(lane, x[i])`, from `identity`) and joins them.
#[inline(always)]
pub(crate) fn fold(
    x: &[f32],
    identity: f32,
    step: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [identity; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for i in 0..LANES {
            lanes[i] = step(lanes[i], chunk[i]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, v);
    }
    tree(lanes, join)
}

#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    fold(x, 0.0, |s, v| s + v, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn sum_square(x: &[f32]) -> f32 {
    fold(x, 0.0, |s, v| v.mul_add(v, s), |a, b| a + b)
}

#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    fold(x, f32::NEG_INFINITY, math::max, math::max)
}

struct Reduce<'a> {
    op: Reduction,
    len: usize,
    inner: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Reduce {
            op,
            len,
            inner,
            x,
            y,
        } = self;
        if inner == 0 {
            return;
        }
        if inner == 1 {
            for (row, out) in y.iter_mut().enumerate() {
                *out = math::canonical(reduce_row(op, &x[row * len..(row + 1) * len]));
            }
            return;
        }
        for (o, out) in y.chunks_exact_mut(inner).enumerate() {
            let plane = &x[o * len * inner..(o + 1) * len * inner];
            let column = |first| Columns {
                plane,
                inner,
                first,
            };
            // Many columns at a time, so that memory is read in order.
            let (many, rest) = out.as_chunks_mut::<{ 4 * LANES }>();
            let (some, one) = rest.as_chunks_mut::<LANES>();
            let mut first = 0;
            for out in many {
                *out = column(first).reduce(op).map(math::canonical);
                first += out.len();
            }
            for out in some {
                *out = column(first).reduce(op).map(math::canonical);
                first += out.len();
            }
            for out in one {
                let [result] = column(first).reduce(op);
                *out = math::canonical(result);
                first += 1;
            }
        }
    }
}

/// Neighbouring columns of a matrix, which are reduced together, each in the order of a row.
struct Columns<'a> {
    plane: &'a [f32],
    /// Columns of the matrix.
    inner: usize,
    /// The first of those that are reduced.
    first: usize,
}

impl Columns<'_> {
    /// [`fold`] of `W` columns; `step` is told which of them.
    #[inline(always)]
    fn fold<const W: usize>(
        &self,
        identity: f32,
        step: impl Fn(f32, f32, usize) -> f32,
        join: impl Fn(f32, f32) -> f32,
    ) -> [f32; W] {
        let mut lanes = [[identity; W]; LANES];
        for (j, row) in self.plane.chunks_exact(self.inner).enumerate() {
            let lane = &mut lanes[j % LANES];
            let row = &row[self.first..][..W];
            for c in 0..W {
                lane[c] = step(lane[c], row[c], c);
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            let (near, far) = lanes.split_at_mut(half);
            for (near, far) in near.iter_mut().zip(far) {
                for c in 0..W {
                    near[c] = join(near[c], far[c]);
                }
            }
            half /= 2;
        }
        lanes[0]
    }

    /// [`reduce_row`] of `W` columns.
    #[inline(always)]
    fn reduce<const W: usize>(&self, op: Reduction) -> [f32; W] {
        let add = |a: f32, b: f32| a + b;
        let sum = || self.fold(0.0, |s, v, _| s + v, add);
        let squares = || self.fold(0.0, |s, v, _| v.mul_add(v, s), add);
        let max = || self.fold(f32::NEG_INFINITY, |m, v, _| math::max(m, v), math::max);
        match op {
            Reduction::Sum => sum(),
            Reduction::Mean => {
                let len = (self.plane.len() / self.inner) as f32;
                sum().map(|s: f32| s / len)
            }
            Reduction::Prod => self.fold(1.0, |s, v, _| s * v, |a, b| a * b),
            Reduction::Max => max(),
            Reduction::Min => self.fold(f32::INFINITY, |m, v, _| math::min(m, v), math::min),
            Reduction::L1 => self.fold(0.0, |s, v, _| s + v.abs(), add),
            Reduction::L2 => squares().map(f32::sqrt),
            Reduction::SumSquare => squares(),
            Reduction::LogSum => sum().map(math::log),
            Reduction::LogSumExp => {
                let shift: [f32; W] = max().map(shift);
                let totals: [f32; W] = self.fold(0.0, |s, v, c| s + math::exp(v - shift[c]), add);
                std::array::from_fn(|c| shift[c] + math::log(totals[c]))
            }
        }
    }
}

#[inline(always)]
fn reduce_row(op: Reduction, x: &[f32]) -> f32 {
    match op {
        Reduction::Sum => sum(x),
        Reduction::Mean => sum(x) / x.len() as f32,
        Reduction::Prod => fold(x, 1.0, |s, v| s * v, |a, b| a * b),
        Reduction::Max => max(x),
        Reduction::Min => fold(x, f32::INFINITY, math::min, math::min),
        Reduction::L1 => fold(x, 0.0, |s, v| s + v.abs(), |a, b| a + b),
        Reduction::L2 => sum_square(x).sqrt(),
        Reduction::SumSquare => sum_square(x),
        Reduction::LogSum => math::log(sum(x)),
        Reduction::LogSumExp => log_sum_exp(x),
    }
}

#[inline(always)]
fn log_sum_exp(x: &[f32]) -> f32 {
    let shift = shift(max(x));
    let total = fold(x, 0.0, |s, v| s + math::exp(v - shift), |a, b| a + b);
    shift + math::log(total)
}

/// What is subtracted before exponentials are summed: with an infinite maximum x − m would be ∞ − ∞.
#[inline(always)]
fn shift(top: f32) -> f32 {
    if top.abs() == f32::INFINITY { 0.0 } else { top }
}
