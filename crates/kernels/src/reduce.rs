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
            for (i, out) in out.chunks_mut(COLUMNS).enumerate() {
                let first = i * COLUMNS;
                let columns = Columns {
                    plane,
                    inner,
                    first,
                };
                columns.reduce(op, out);
            }
        }
    }
}

/// Columns that are reduced together: so many that memory is read in order, so few that their lanes stay in the cache.
const COLUMNS: usize = 256;

/// Neighbouring columns of a matrix, which are reduced together, each in the order of a row.
struct Columns<'a> {
    plane: &'a [f32],
    /// Columns of the matrix.
    inner: usize,
    /// The first of those that are reduced.
    first: usize,
}

impl Columns<'_> {
    /// [`fold`] of as many columns as `out` has; `step` is told which of them.
    #[inline(always)]
    fn fold(
        &self,
        identity: f32,
        step: impl Fn(f32, f32, usize) -> f32,
        join: impl Fn(f32, f32) -> f32,
        out: &mut [f32],
    ) {
        let n = out.len();
        let mut lanes = [[0.0; COLUMNS]; LANES];
        for lane in &mut lanes {
            lane[..n].fill(identity);
        }
        for (j, row) in self.plane.chunks_exact(self.inner).enumerate() {
            let lane = &mut lanes[j % LANES][..n];
            let row = &row[self.first..][..n];
            for (c, (lane, &v)) in lane.iter_mut().zip(row).enumerate() {
                *lane = step(*lane, v, c);
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            let (near, far) = lanes.split_at_mut(half);
            for (near, far) in near.iter_mut().zip(far) {
                for (near, &far) in near[..n].iter_mut().zip(&far[..n]) {
                    *near = join(*near, far);
                }
            }
            half /= 2;
        }
        out.copy_from_slice(&lanes[0][..n]);
    }

    /// [`reduce_row`] of as many columns as `out` has.
    #[inline(always)]
    fn reduce(&self, op: Reduction, out: &mut [f32]) {
        let add = |a: f32, b: f32| a + b;
        let sum = |out: &mut [f32]| self.fold(0.0, |s, v, _| s + v, add, out);
        let squares = |out: &mut [f32]| self.fold(0.0, |s, v, _| v.mul_add(v, s), add, out);
        let max = |out: &mut [f32]| {
            self.fold(f32::NEG_INFINITY, |m, v, _| math::max(m, v), math::max, out);
        };
        match op {
            Reduction::Sum | Reduction::Mean | Reduction::LogSum => sum(out),
            Reduction::Prod => self.fold(1.0, |s, v, _| s * v, |a, b| a * b, out),
            Reduction::Max => max(out),
            Reduction::Min => self.fold(f32::INFINITY, |m, v, _| math::min(m, v), math::min, out),
            Reduction::L1 => self.fold(0.0, |s, v, _| s + v.abs(), add, out),
            Reduction::L2 | Reduction::SumSquare => squares(out),
            Reduction::LogSumExp => {
                max(out);
                let mut shifts = [0.0; COLUMNS];
                for (shift_of, &top) in shifts.iter_mut().zip(out.iter()) {
                    *shift_of = shift(top);
                }
                self.fold(0.0, |s, v, c| s + math::exp(v - shifts[c]), add, out);
                for (total, shift) in out.iter_mut().zip(shifts) {
                    *total = shift + math::log(*total);
                }
            }
        }
        let len = (self.plane.len() / self.inner) as f32;
        for total in out {
            *total = math::canonical(match op {
                Reduction::Mean => *total / len,
                Reduction::L2 => total.sqrt(),
                Reduction::LogSum => math::log(*total),
                _ => *total,
            });
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
