//! Softmax and the normalisations: whole rows in, whole rows out.

use crate::isa::{Isa, Kernel};
use crate::math;
use crate::reduce::{fold, max, sum, sum_square};

/// Softmax of each row of `cols` values: `y = e^(x − max) ÷ Σ e^(x − max)`.
///
/// # Panics
/// If the lengths differ or are no multiple of `cols`.
pub fn softmax(isa: Isa, cols: usize, x: &[f32], y: &mut [f32]) {
    check_rows("softmax", cols, x, y);
    isa.run(Softmax { cols, x, y });
}

/// [`softmax`] in place.
pub(crate) fn softmax_in_place(isa: Isa, cols: usize, y: &mut [f32]) {
    isa.run(SoftmaxInPlace { cols, y });
}

/// Natural logarithm of the softmax of each row: `y = (x − max) − ln(Σ e^(x − max))`.
///
/// # Panics
/// If the lengths differ or are no multiple of `cols`.
pub fn log_softmax(isa: Isa, cols: usize, x: &[f32], y: &mut [f32]) {
    check_rows("log_softmax", cols, x, y);
    isa.run(LogSoftmax { cols, x, y });
}

/// Normalises each row to mean 0 and variance 1, then scales and shifts:
/// `y = ((x − μ) · 1/√(σ² + epsilon)) · scale + bias`, the last product and sum fused.
/// Row length is that of `scale`.
///
/// # Panics
/// If the lengths of `x` and `y` differ or are no multiple of `scale`'s, or `bias` has another
/// length than `scale`.
pub fn layer_norm(
    isa: Isa,
    epsilon: f32,
    scale: &[f32],
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
) {
    check_rows("layer_norm", scale.len(), x, y);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), scale.len(), "layer_norm: bias length");
    }
    isa.run(LayerNorm {
        epsilon,
        scale,
        bias,
        x,
        y,
    });
}

/// Divides each row by its root mean square, then scales:
/// `y = (x · 1/√(Σx²/n + epsilon)) · scale`. Row length is that of `scale`.
///
/// # Panics
/// If the lengths of `x` and `y` differ or are no multiple of `scale`'s.
pub fn rms_norm(isa: Isa, epsilon: f32, scale: &[f32], x: &[f32], y: &mut [f32]) {
    check_rows("rms_norm", scale.len(), x, y);
    isa.run(RmsNorm {
        epsilon,
        scale,
        x,
        y,
    });
}

fn check_rows(what: &str, cols: usize, x: &[f32], y: &[f32]) {
    assert_eq!(
        x.len(),
        y.len(),
        "{what}: lengths of input and output differ"
    );
    assert!(
        x.is_empty() || (cols > 0 && x.len().is_multiple_of(cols)),
        "{what}: {} values are no whole number of rows of {cols}",
        x.len()
    );
}

/// Pairs of rows; none where the input is empty.
#[inline(always)]
fn rows<'a>(
    cols: usize,
    x: &'a [f32],
    y: &'a mut [f32],
) -> impl Iterator<Item = (&'a [f32], &'a mut [f32])> {
    let cols = cols.max(1);
    x.chunks_exact(cols).zip(y.chunks_exact_mut(cols))
}

struct Softmax<'a> {
    cols: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (x, y) in rows(self.cols, self.x, self.y) {
            let top = largest(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = math::exp_of_negative(x - top);
            }
            divide_by_sum(y);
        }
    }
}

/// The largest value, or another one where some are NaN, a zero of any sign where it is zero: neither makes a difference
/// to a softmax, which is all NaN in the first case.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    fold(x, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
fn divide_by_sum(y: &mut [f32]) {
    let total = sum(y);
    for y in y.iter_mut() {
        *y = math::canonical(*y / total);
    }
}

struct SoftmaxInPlace<'a> {
    cols: usize,
    y: &'a mut [f32],
}

impl Kernel for SoftmaxInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for y in self.y.chunks_exact_mut(self.cols.max(1)) {
            let top = largest(y);
            for y in y.iter_mut() {
                *y = math::exp_of_negative(*y - top);
            }
            divide_by_sum(y);
        }
    }
}

struct LogSoftmax<'a> {
    cols: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for LogSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (x, y) in rows(self.cols, self.x, self.y) {
            let top = max(x);
            let total = fold(x, 0.0, |s, v| s + math::exp(v - top), |a, b| a + b);
            let log_total = math::log(total);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = math::canonical((x - top) - log_total);
            }
        }
    }
}

struct LayerNorm<'a> {
    epsilon: f32,
    scale: &'a [f32],
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let count = self.scale.len() as f32;
        for (x, y) in rows(self.scale.len(), self.x, self.y) {
            let mean = sum(x) / count;
            let squares = fold(
                x,
                0.0,
                |s, v| {
                    let d = v - mean;
                    d.mul_add(d, s)
                },
                |a, b| a + b,
            );
            let factor = 1.0 / (squares / count + self.epsilon).sqrt();
            match self.bias {
                Some(bias) => {
                    for (((y, &x), &g), &b) in y.iter_mut().zip(x).zip(self.scale).zip(bias) {
                        *y = math::canonical(((x - mean) * factor).mul_add(g, b));
                    }
                }
                None => {
                    for ((y, &x), &g) in y.iter_mut().zip(x).zip(self.scale) {
                        *y = math::canonical(((x - mean) * factor) * g);
                    }
                }
            }
        }
    }
}

struct RmsNorm<'a> {
    epsilon: f32,
    scale: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let count = self.scale.len() as f32;
        for (x, y) in rows(self.scale.len(), self.x, self.y) {
            let factor = 1.0 / (sum_square(x) / count + self.epsilon).sqrt();
            for ((y, &x), &g) in y.iter_mut().zip(x).zip(self.scale) {
                *y = math::canonical((x * factor) * g);
            }
        }
    }
}
