//! The exponential and what is built on it.

use super::{canonical, horner, with_sign};

/// 1.5 · 2²³: adding it leaves the nearest integer in the low bits of the mantissa.
const MAGIC: f32 = 12_582_912.0;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first short enough that its product with any exponent is exact.
const LN_2_HIGH: f32 = f32::from_bits(0x3f31_8000);
const LN_2_LOW: f32 = f32::from_bits(0xb95e_8083);

/// (eʳ − 1 − r) ÷ r² for |r| ≤ ½ ln 2.
const EXP: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_58e-2,
    1.666_666_5e-1,
    0.5,
];

/// eˣ.
#[must_use]
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    canonical(exp_raw(x))
}

/// [`exp`] with whatever NaN comes out.
#[inline(always)]
pub(super) fn exp_raw(x: f32) -> f32 {
    // Beyond these the result is infinite or zero whatever the value; NaN passes through.
    let x = if x > 90.0 { 90.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = x.mul_add(LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let y = 1.0 + (r * r).mul_add(horner(r, &EXP), r);
    // 2ⁿ in two factors, so that a subnormal result is rounded once.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let first = n >> 1;
    let second = n.wrapping_sub(first);
    y * power_of_two(first) * power_of_two(second)
}

/// 2ⁿ for −127 < n < 128.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// 1 ÷ (1 + e⁻ˣ).
#[must_use]
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let z = exp_raw(-x.abs());
    let top = if x < 0.0 { z } else { 1.0 };
    canonical(top / (1.0 + z))
}

/// Hyperbolic tangent.
#[must_use]
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let e = exp_raw(2.0 * x.abs());
    canonical(with_sign(1.0 - 2.0 / (e + 1.0), x))
}

/// Error function.
#[must_use]
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / a.mul_add(0.327_591_1, 1.0);
    let p = horner(
        t,
        &[
            1.061_405_4,
            -1.453_152_1,
            1.421_413_8,
            -0.284_496_74,
            0.254_829_6,
        ],
    );
    canonical(with_sign(1.0 - p * t * exp_raw(-a * a), x))
}
