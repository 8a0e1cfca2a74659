//! Elementwise kernels: one value in, one value out, whatever lies beside it.

use crate::isa::{Isa, Kernel};
use crate::math;

/// A function of one value. The formulas are in chapter 6 of the numeric specification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// |x|.
    Abs,
    /// Smallest integer not below x.
    Ceil,
    /// `min(max(x, min), max)`.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// Cosine of x radians.
    Cos,
    /// x for x > 0, otherwise alpha · (eˣ − 1).
    Elu {
        /// Scale of the negative branch.
        alpha: f32,
    },
    /// Error function.
    Erf,
    /// eˣ.
    Exp,
    /// Largest integer not above x.
    Floor,
    /// x · ½(1 + erf(x/√2)).
    Gelu,
    /// The tanh approximation of [`Unary::Gelu`].
    GeluTanh,
    /// `clip(alpha · x + beta, 0, 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at zero.
        beta: f32,
    },
    /// x · `HardSigmoid(x)` with slope 1/6 and value ½ at zero.
    HardSwish,
    /// x for x ≥ 0, otherwise alpha · x.
    LeakyRelu {
        /// Slope of the negative branch.
        alpha: f32,
    },
    /// Natural logarithm.
    Log,
    /// −x.
    Neg,
    /// 1 ÷ x.
    Reciprocal,
    /// max(x, +0).
    Relu,
    /// Nearest integer, ties to even.
    Round,
    /// 1 ÷ √x.
    Rsqrt,
    /// 1 ÷ (1 + e⁻ˣ).
    Sigmoid,
    /// −1, 0 or 1.
    Sign,
    /// x · sigmoid(x).
    Silu,
    /// Sine of x radians.
    Sin,
    /// ln(1 + eˣ).
    Softplus,
    /// x ÷ (1 + |x|).
    Softsign,
    /// Square root.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
}

/// A function of two values. The formulas are in chapter 6 of the numeric specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a × b.
    Mul,
    /// a ÷ b.
    Div,
    /// The larger; NaN if either is; +0 over −0.
    Max,
    /// The smaller; NaN if either is; −0 under +0.
    Min,
    /// a to the power b.
    Pow,
    /// Remainder of a ÷ b, with the sign of a (C's `fmod`); exact.
    Fmod,
}

impl Binary {
    /// Whether the operands may change places.
    pub(crate) fn commutes(self) -> bool {
        matches!(self, Binary::Add | Binary::Mul | Binary::Max | Binary::Min)
    }
}

/// `y[i] = op(x[i])`.
///
/// # Panics
/// If the lengths differ.
pub fn unary(isa: Isa, op: Unary, x: &[f32], y: &mut [f32]) {
    assert_eq!(
        x.len(),
        y.len(),
        "unary: lengths of input and output differ"
    );
    // Through pieces that stay in the first-level cache, so that one loop serves both forms.
    for (x, y) in x.chunks(PIECE).zip(y.chunks_mut(PIECE)) {
        y.copy_from_slice(x);
        unary_in_place(isa, op, y);
    }
}

/// `y[i] = op(y[i])`.
pub fn unary_in_place(isa: Isa, op: Unary, y: &mut [f32]) {
    macro_rules! map {
        ($f:expr) => {
            isa.run(Map { y, f: $f })
        };
        ($first:expr, $second:expr) => {
            isa.run(Staged {
                y,
                first: $first,
                second: $second,
            })
        };
    }
    match op {
        Unary::Abs => map!(math::abs),
        Unary::Ceil => map!(math::ceil),
        Unary::Clip { min, max } => map!(move |x| math::clip(x, min, max)),
        Unary::Cos => map!(math::cos),
        Unary::Elu { alpha } => map!(move |x| math::elu(x, alpha)),
        Unary::Erf => map!(math::erf_stage, math::erf_by),
        Unary::Exp => map!(math::exp),
        Unary::Floor => map!(math::floor),
        Unary::Gelu => map!(math::gelu_stage, math::gelu_by),
        Unary::GeluTanh => map!(math::gelu_tanh_stage, math::gelu_tanh_by),
        Unary::HardSigmoid { alpha, beta } => map!(move |x| math::hard_sigmoid(x, alpha, beta)),
        Unary::HardSwish => map!(math::hard_swish),
        Unary::LeakyRelu { alpha } => map!(move |x| math::leaky_relu(x, alpha)),
        Unary::Log => map!(math::log),
        Unary::Neg => map!(math::neg),
        Unary::Reciprocal => map!(math::reciprocal),
        Unary::Relu => map!(math::relu),
        Unary::Round => map!(math::round),
        Unary::Rsqrt => map!(math::rsqrt),
        Unary::Sigmoid => map!(math::sigmoid_stage, math::sigmoid_by),
        Unary::Sign => map!(math::sign),
        Unary::Silu => map!(math::sigmoid_stage, math::silu_by),
        Unary::Sin => map!(math::sin),
        Unary::Softplus => map!(math::softplus),
        Unary::Softsign => map!(math::softsign),
        Unary::Sqrt => map!(math::sqrt),
        Unary::Tanh => map!(math::tanh_stage, math::tanh_by),
    }
}

/// `y[i] = op(a[i mod a.len()], b[i mod b.len()])`.
///
/// An operand that is shorter than the output is repeated; so a scalar has length 1 and a bias
/// over the last axis has that axis' length.
///
/// # Panics
/// If an operand's length does not divide the output's.
pub fn binary(isa: Isa, op: Binary, a: &[f32], b: &[f32], y: &mut [f32]) {
    for (name, operand) in [("left", a), ("right", b)] {
        assert!(
            y.is_empty() || (!operand.is_empty() && y.len().is_multiple_of(operand.len())),
            "binary: length {} of the {name} operand does not divide the output's {}",
            operand.len(),
            y.len()
        );
    }
    macro_rules! zip {
        ($f:expr) => {
            isa.run(Zip { a, b, y, f: $f })
        };
    }
    match op {
        Binary::Add => zip!(math::add),
        Binary::Sub => zip!(math::sub),
        Binary::Mul => zip!(math::mul),
        Binary::Div => zip!(math::div),
        Binary::Max => zip!(math::max),
        Binary::Min => zip!(math::min),
        Binary::Pow => match *b {
            [2.0] => zip!(|x, _| math::pow(x, 2.0)),
            [3.0] => zip!(|x, _| math::pow(x, 3.0)),
            _ => zip!(math::pow),
        },
        Binary::Fmod => zip!(math::fmod),
    }
}

/// `y[i] = op(y[i], other[i mod other.len()])`, or with `swapped` the operands the other way round.
///
/// # Panics
/// If the other operand's length does not divide the output's.
pub(crate) fn binary_in_place(isa: Isa, op: Binary, y: &mut [f32], other: &[f32], swapped: bool) {
    assert!(
        y.is_empty() || (!other.is_empty() && y.len().is_multiple_of(other.len())),
        "binary: length {} of an operand does not divide the output's {}",
        other.len(),
        y.len()
    );
    macro_rules! zip {
        ($f:expr) => {
            if swapped {
                isa.run(ZipInto {
                    y,
                    other,
                    f: |y, other| $f(other, y),
                })
            } else {
                isa.run(ZipInto { y, other, f: $f })
            }
        };
    }
    match op {
        Binary::Add => zip!(math::add),
        Binary::Sub => zip!(math::sub),
        Binary::Mul => zip!(math::mul),
        Binary::Div => zip!(math::div),
        Binary::Max => zip!(math::max),
        Binary::Min => zip!(math::min),
        Binary::Pow => match *other {
            [2.0] if !swapped => zip!(|x, _| math::pow(x, 2.0)),
            [3.0] if !swapped => zip!(|x, _| math::pow(x, 3.0)),
            _ => zip!(math::pow),
        },
        Binary::Fmod => zip!(math::fmod),
    }
}

struct ZipInto<'a, F> {
    y: &'a mut [f32],
    other: &'a [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Kernel for ZipInto<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let ZipInto { y, other, f } = self;
        if let &[other] = other {
            for y in y {
                *y = f(*y, other);
            }
            return;
        }
        for y in y.chunks_mut(other.len().max(1)) {
            for (y, &other) in y.iter_mut().zip(other) {
                *y = f(*y, other);
            }
        }
    }
}

/// Values handled at a time where a kernel makes more than one pass: 4 KiB.
pub(crate) const PIECE: usize = 1024;

struct Map<'a, F> {
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32) -> f32> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for v in self.y.iter_mut() {
            *v = (self.f)(*v);
        }
    }
}

/// A function of one value in two stages, each applied to many values before the next. Every step of a long computation
/// waits for the one before, and a processor looks ahead so far as to overlap a few values only; of short ones it
/// overlaps many.
pub(crate) struct Staged<'a, F, G> {
    pub(crate) y: &'a mut [f32],
    pub(crate) first: F,
    /// From the value and what the first stage made of it.
    pub(crate) second: G,
}

impl<F: Fn(f32) -> f32, G: Fn(f32, f32) -> f32> Kernel for Staged<'_, F, G> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Values between the stages: 1 KiB.
        const LEN: usize = 256;
        let mut between = [0.0; LEN];
        for y in self.y.chunks_mut(LEN) {
            let between = &mut between[..y.len()];
            for (z, &x) in between.iter_mut().zip(y.iter()) {
                *z = (self.first)(x);
            }
            for (x, &z) in y.iter_mut().zip(between.iter()) {
                *x = (self.second)(*x, z);
            }
        }
    }
}

struct Zip<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> Kernel for Zip<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Zip { a, b, y, f } = self;
        // Runs of output over which neither operand wraps around, or is one value.
        let run = match (a.len(), b.len()) {
            (1, n) | (n, 1) => n,
            (m, n) => m.min(n),
        };
        if run <= 1 {
            return scattered(a, b, y, f);
        }
        let mut start = 0;
        while start < y.len() {
            let (i, j) = (start % a.len(), start % b.len());
            let len = run.min(y.len() - start);
            // Where neither length divides the other a run may end early.
            let len = if a.len() == 1 {
                len
            } else {
                len.min(a.len() - i)
            };
            let len = if b.len() == 1 {
                len
            } else {
                len.min(b.len() - j)
            };
            let out = &mut y[start..start + len];
            match (a, b) {
                ([a], b) => {
                    for (y, &b) in out.iter_mut().zip(&b[j..j + len]) {
                        *y = f(*a, b);
                    }
                }
                (a, [b]) => {
                    for (y, &a) in out.iter_mut().zip(&a[i..i + len]) {
                        *y = f(a, *b);
                    }
                }
                (a, b) => {
                    for ((y, &a), &b) in out.iter_mut().zip(&a[i..i + len]).zip(&b[j..j + len]) {
                        *y = f(a, b);
                    }
                }
            }
            start += len;
        }
    }
}

/// Both operands are single values.
#[inline(always)]
fn scattered<F: Fn(f32, f32) -> f32>(a: &[f32], b: &[f32], y: &mut [f32], f: F) {
    if let (&[a], &[b]) = (a, b) {
        y.fill(f(a, b));
    }
}
