//! Scalar functions with one meaning each: the elementwise part of the numeric specification.
//!
//! Everything is branch-free where it matters, so that a loop over a slice vectorises at any width
//! without changing a bit.

mod exp;
mod log;
mod trig;

pub use exp::{erf, exp, sigmoid, tanh};
pub(crate) use exp::{
    erf_by, erf_stage, exp_of_negative, gated_by_sigmoid, sigmoid_by, sigmoid_stage, tanh_by,
    tanh_stage,
};
pub use log::{log, pow, softplus};
pub(crate) use trig::quarter_turns;
pub use trig::{cos, sin};

/// The only NaN that a kernel ever writes: quiet, positive, empty payload.
pub const CANONICAL_NAN: f32 = f32::from_bits(0x7fc0_0000);

/// `x`, with every NaN replaced by [`CANONICAL_NAN`].
///
/// The choice is made between integers: for floats the compiler may reason that one NaN is as good
/// as another, and drop it.
#[must_use]
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    let is_nan = bits & 0x7fff_ffff > f32::INFINITY.to_bits();
    f32::from_bits(if is_nan {
        CANONICAL_NAN.to_bits()
    } else {
        bits
    })
}

/// a + b.
#[must_use]
#[inline(always)]
pub fn add(a: f32, b: f32) -> f32 {
    canonical(a + b)
}

/// a − b.
#[must_use]
#[inline(always)]
pub fn sub(a: f32, b: f32) -> f32 {
    canonical(a - b)
}

/// a × b.
#[must_use]
#[inline(always)]
pub fn mul(a: f32, b: f32) -> f32 {
    canonical(a * b)
}

/// a ÷ b.
#[must_use]
#[inline(always)]
pub fn div(a: f32, b: f32) -> f32 {
    canonical(a / b)
}

/// Remainder of a ÷ b with the sign of a, exact (C's `fmod`).
#[must_use]
#[inline(always)]
pub fn fmod(a: f32, b: f32) -> f32 {
    canonical(a % b)
}

/// The larger of two values; NaN if either is; +0 is larger than −0.
#[must_use]
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    // For equal values only the zeros differ in bits: `and` keeps −0 for two of them only.
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let larger = if a > b { a } else { b };
    let ordered = if a == b { equal } else { larger };
    canonical(if a.is_nan() | b.is_nan() {
        f32::NAN
    } else {
        ordered
    })
}

/// The smaller of two values; NaN if either is; −0 is smaller than +0.
#[must_use]
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let smaller = if a < b { a } else { b };
    let ordered = if a == b { equal } else { smaller };
    canonical(if a.is_nan() | b.is_nan() {
        f32::NAN
    } else {
        ordered
    })
}

/// `min(max(x, low), high)`: where `low > high` the result is `high`.
#[must_use]
#[inline(always)]
pub fn clip(x: f32, low: f32, high: f32) -> f32 {
    min(max(x, low), high)
}

/// max(x, +0).
#[must_use]
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    // Negative values and −0 give +0; NaN fails the comparison and stays.
    let y = if x <= 0.0 { 0.0 } else { x };
    canonical(y)
}

/// |x|.
#[must_use]
#[inline(always)]
pub fn abs(x: f32) -> f32 {
    canonical(x.abs())
}

/// −x: the sign bit flipped, unless NaN.
#[must_use]
#[inline(always)]
pub fn neg(x: f32) -> f32 {
    canonical(-x)
}

/// −1, +1, or `x` itself for a zero or NaN.
#[must_use]
#[inline(always)]
pub fn sign(x: f32) -> f32 {
    let y = if x > 0.0 { 1.0 } else { x };
    let y = if x < 0.0 { -1.0 } else { y };
    canonical(y)
}

/// Largest integer not above x; keeps −0.
#[must_use]
#[inline(always)]
pub fn floor(x: f32) -> f32 {
    canonical(x.floor())
}

/// Smallest integer not below x; (−1, −0] gives −0.
#[must_use]
#[inline(always)]
pub fn ceil(x: f32) -> f32 {
    canonical(x.ceil())
}

/// Nearest integer, ties to even; keeps the sign of zero.
#[must_use]
#[inline(always)]
pub fn round(x: f32) -> f32 {
    canonical(x.round_ties_even())
}

/// √x, correctly rounded; √−0 = −0; NaN for x < 0.
#[must_use]
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    canonical(x.sqrt())
}

/// 1 ÷ x.
#[must_use]
#[inline(always)]
pub fn reciprocal(x: f32) -> f32 {
    canonical(1.0 / x)
}

/// 1 ÷ √x, both operations rounded.
#[must_use]
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    canonical(1.0 / x.sqrt())
}

/// x · ½(1 + erf(x/√2)).
#[must_use]
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    gelu_by(x, gelu_stage(x))
}

/// What [`gelu_by`] takes besides x: the stage of the error function.
#[inline(always)]
pub(crate) fn gelu_stage(x: f32) -> f32 {
    erf_stage(x * std::f32::consts::FRAC_1_SQRT_2)
}

/// [`gelu`] of x, whose stage is z.
#[inline(always)]
pub(crate) fn gelu_by(x: f32, z: f32) -> f32 {
    let erf = erf_by(x * std::f32::consts::FRAC_1_SQRT_2, z);
    gate(0.5 * x, 1.0 + erf)
}

/// x · ½(1 + tanh(√(2/π)·(x + 0.044715·x³))).
#[must_use]
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    gelu_tanh_by(x, gelu_tanh_stage(x))
}

/// What [`gelu_tanh_by`] takes besides x: the argument of the hyperbolic tangent.
#[inline(always)]
pub(crate) fn gelu_tanh_stage(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = f32::from_bits(0x3f4c_422a);
    let cubic = (0.044715 * x) * (x * x);
    SQRT_2_OVER_PI * (x + cubic)
}

/// [`gelu_tanh`] of x, whose stage is z.
#[inline(always)]
pub(crate) fn gelu_tanh_by(x: f32, z: f32) -> f32 {
    gate(0.5 * x, 1.0 + tanh(z))
}

/// x · sigmoid(x).
#[must_use]
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    silu_by(x, sigmoid_stage(x))
}

/// [`silu`] of x; the sigmoid's stage is z.
#[inline(always)]
pub(crate) fn silu_by(x: f32, z: f32) -> f32 {
    gate(x, sigmoid_by(x, z))
}

/// `x · g` where a gate of zero closes for −∞ too, with −0 as the limit.
#[inline(always)]
fn gate(x: f32, g: f32) -> f32 {
    let y = if g == 0.0 { -0.0 } else { x * g };
    canonical(y)
}

/// x for x > 0, otherwise alpha · (eˣ − 1).
#[must_use]
#[inline(always)]
pub fn elu(x: f32, alpha: f32) -> f32 {
    let negative = alpha * exp::exp_minus_one_of_negative(x);
    let y = if x > 0.0 { x } else { negative };
    canonical(y)
}

/// x for x ≥ 0, otherwise alpha · x.
#[must_use]
#[inline(always)]
pub fn leaky_relu(x: f32, alpha: f32) -> f32 {
    let negative = alpha * x;
    let y = if x < 0.0 { negative } else { x };
    canonical(y)
}

/// `clip(alpha · x + beta, 0, 1)`, product and sum rounded separately.
#[must_use]
#[inline(always)]
pub fn hard_sigmoid(x: f32, alpha: f32, beta: f32) -> f32 {
    clip(alpha * x + beta, 0.0, 1.0)
}

/// x · `hard_sigmoid(x, 1/6, ½)`.
#[must_use]
#[inline(always)]
pub fn hard_swish(x: f32) -> f32 {
    gate(x, hard_sigmoid(x, 1.0 / 6.0, 0.5))
}

/// x ÷ (1 + |x|).
#[must_use]
#[inline(always)]
pub fn softsign(x: f32) -> f32 {
    canonical(x / (1.0 + x.abs()))
}

/// `magnitude` with the sign bit of `sign`.
#[inline(always)]
pub(crate) fn with_sign(magnitude: f32, sign: f32) -> f32 {
    magnitude.copysign(sign)
}

/// Horner's scheme in fused multiply-adds, highest coefficient first.
#[inline(always)]
pub(crate) fn horner<const N: usize>(x: f32, coefficients: &[f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = sum.mul_add(x, c);
    }
    sum
}
