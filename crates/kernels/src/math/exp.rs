//! The exponential and what is built on it.

use super::{CANONICAL_NAN, canonical, horner, with_sign};

/// 1.5 · 2²³: a sum with it is rounded to an integer, which stands in the low bits.
const MAGIC: f32 = f32::from_bits(0x4b40_0000);

/// log₂ e.
const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);

/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
pub(super) const LN_2_HIGH: f32 = f32::from_bits(0x3f31_8000);
pub(super) const LN_2_LOW: f32 = f32::from_bits(0xb95e_8083);

/// (eʳ − 1 − r) ÷ r² for |r| ≤ ½ ln 2, to 2⁻²⁸ of eʳ.
const EXP: [f32; 5] = [
    f32::from_bits(0x3ab5_6431), // r⁴
    f32::from_bits(0x3c09_1ef9), // r³
    f32::from_bits(0x3d2a_ac2c), // r²
    f32::from_bits(0x3e2a_aa46), // r
    f32::from_bits(0x3eff_fffe), // 1
];

/// Bounds of the argument: beyond them eˣ is zero or infinite in any case.
const EXP_MIN: f32 = -105.0;
const EXP_MAX: f32 = 90.0;

/// eˣ, with an error below 1 ulp; subnormal results included.
#[must_use]
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    canonical(exp_raw(x))
}

/// [`exp`] with whatever NaN comes out.
#[inline(always)]
pub(super) fn exp_raw(x: f32) -> f32 {
    // NaN fails both comparisons and stays.
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let x = if x < EXP_MIN { EXP_MIN } else { x };
    let (shifted, t) = reduce(x);
    let y = 1.0 + t;
    // 2ⁿ in two factors, so that a subnormal result is rounded once.
    let n = exponent(shifted);
    let first = n >> 1;
    y * power_of_two(first) * power_of_two(n.wrapping_sub(first))
}

/// [`exp`] of x ≤ 0, in fewer steps; anything for other x.
///
/// The sum 1 + t is rounded when it is 2⁶⁴ times as large, which leaves room for every n: then n enters as an integer,
/// and one product gives the result, which is rounded once if it is subnormal.
#[inline(always)]
pub(super) fn exp_of_negative_raw(x: f32) -> f32 {
    const SCALE: f32 = power_of_two(64);
    let x = if x < EXP_MIN { EXP_MIN } else { x };
    let (shifted, t) = reduce(x);
    with_exponent(t.mul_add(SCALE, SCALE), shifted) * power_of_two(-64)
}

/// [`exp`] of x ≥ 0, likewise: here 2⁶⁴ times as small.
#[inline(always)]
fn exp_of_positive_raw(x: f32) -> f32 {
    const SCALE: f32 = power_of_two(-64);
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let (shifted, t) = reduce(x);
    with_exponent(t.mul_add(SCALE, SCALE), shifted) * power_of_two(64)
}

/// [`exp`] of x ≤ 0 or NaN.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    unless_nan(x, exp_of_negative_raw(x))
}

/// `y`, unless `x` is NaN: then the canonical one.
#[inline(always)]
fn unless_nan(x: f32, y: f32) -> f32 {
    if canonical(x).to_bits() == CANONICAL_NAN.to_bits() {
        CANONICAL_NAN
    } else {
        y
    }
}

/// A number whose last bits are n, and t, where eˣ = 2ⁿ · (1 + t) and |t| < 0.42.
#[inline(always)]
fn reduce(x: f32) -> (f32, f32) {
    let shifted = x.mul_add(LOG2_E, MAGIC);
    let whole = shifted - MAGIC;
    // x − n·ln 2: the first difference is exact, what the second one loses is kept.
    let most = whole.mul_add(-LN_2_HIGH, x);
    let r = whole.mul_add(-LN_2_LOW, most);
    let lost = whole.mul_add(-LN_2_LOW, most - r);
    let t = r + (r * r).mul_add(horner(r, &EXP), lost);
    (shifted, t)
}

/// The n of [`reduce`].
#[inline(always)]
fn exponent(shifted: f32) -> i32 {
    (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32)
}

/// y · 2ⁿ with the n of [`reduce`], where both are normal.
#[inline(always)]
fn with_exponent(y: f32, shifted: f32) -> f32 {
    f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// 2ⁿ for −127 < n < 128.
#[inline(always)]
const fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// eˣ − 1 for x ≤ 0, without cancellation; for x > 0 anything.
#[inline(always)]
pub(super) fn exp_minus_one_of_negative(x: f32) -> f32 {
    // e⁻⁶⁴ vanishes beside 1.
    let x = if x < -64.0 { -64.0 } else { x };
    let (shifted, t) = reduce(x);
    let scale = power_of_two(exponent(shifted));
    scale.mul_add(t, scale - 1.0)
}

/// 1 ÷ (1 + e⁻ˣ), with an error below 1.6 ulp.
#[must_use]
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    sigmoid_by(x, sigmoid_stage(x))
}

/// What [`sigmoid_by`] takes besides x: e to the power −|x|.
#[inline(always)]
pub(crate) fn sigmoid_stage(x: f32) -> f32 {
    exp_of_negative_raw(-x.abs())
}

/// [`sigmoid`] of x, whose stage is z.
#[inline(always)]
pub(crate) fn sigmoid_by(x: f32, z: f32) -> f32 {
    unless_nan(x, sigmoid_raw(x, z))
}

/// x · [`sigmoid`]`(x)`, both rounded; the sigmoid's stage is z.
#[inline(always)]
pub(crate) fn gated_by_sigmoid(x: f32, z: f32) -> f32 {
    // NaN times anything is NaN.
    canonical(x * sigmoid_raw(x, z))
}

/// [`sigmoid_by`], for NaN anything.
#[inline(always)]
fn sigmoid_raw(x: f32, z: f32) -> f32 {
    let top = if x < 0.0 { z } else { 1.0 };
    // top ÷ (1 + z), corrected by what the sum and the quotient lost.
    let sum = 1.0 + z;
    let lost = (1.0 - sum) + z;
    let inverse = 1.0 / sum;
    let y = top * inverse;
    let rest = (-y).mul_add(lost, (-y).mul_add(sum, top));
    rest.mul_add(inverse, y)
}

/// Where tanh passes from the polynomial to the exponential.
const TANH_SMALL: f32 = 0.625;

/// (tanh(x)/x − 1) ÷ x² in x² for |x| < 0.625, to 2⁻²⁷ of tanh(x)/x.
const TANH: [f32; 5] = [
    f32::from_bits(0xbbba_8672), // x⁸
    f32::from_bits(0x3ca8_fc67), // x⁶
    f32::from_bits(0xbd5c_1ad2), // x⁴
    f32::from_bits(0x3e08_837b), // x²
    f32::from_bits(0xbeaa_aa99), // 1
];

/// Hyperbolic tangent, with an error below 1.4 ulp.
#[must_use]
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    tanh_by(x, tanh_stage(x))
}

/// What [`tanh_by`] takes besides x: e to the power 2·|x|.
#[inline(always)]
pub(crate) fn tanh_stage(x: f32) -> f32 {
    exp_of_positive_raw(2.0 * x.abs())
}

/// [`tanh`] of x, whose stage is z.
#[inline(always)]
pub(crate) fn tanh_by(x: f32, z: f32) -> f32 {
    let a = x.abs();
    let q = a * a;
    let small = (a * q).mul_add(horner(q, &TANH), a);
    let large = 1.0 - 2.0 / (z + 1.0);
    let y = if a < TANH_SMALL { small } else { large };
    unless_nan(x, with_sign(y, x))
}

/// Where erf passes from the polynomial to the exponential, and where it is 1.
const ERF_SMALL: f32 = 0.9375;
const ERF_ONE: f32 = 4.0;

/// erf(x)/x − 1 in x² for |x| < 0.9375, to 2⁻³⁰ of erf(x)/x.
const ERF: [f32; 7] = [
    f32::from_bits(0x38a7_c72c), // x¹²
    f32::from_bits(0xba53_0937), // x¹⁰
    f32::from_bits(0x3baa_2554), // x⁸
    f32::from_bits(0xbcdc_0090), // x⁶
    f32::from_bits(0x3de7_16b2), // x⁴
    f32::from_bits(0xbec0_93a0), // x²
    f32::from_bits(0x3e03_75d4), // 1
];

/// ln(1 − erf(t)) for 0.9375 ≤ t ≤ 4: the error times 1 − erf(t) is below 2⁻³⁴.
const LN_ERFC: [f32; 8] = [
    f32::from_bits(0xb7b3_34da), // t⁷
    f32::from_bits(0x39e5_68b8), // t⁶
    f32::from_bits(0xbb89_2b64), // t⁵
    f32::from_bits(0x3cce_1a1a), // t⁴
    f32::from_bits(0xbddd_e1ed), // t³
    f32::from_bits(0xbf22_1f66), // t²
    f32::from_bits(0xbf90_94d7), // t
    f32::from_bits(0x393d_1c2c), // 1
];

/// Error function, with an error below 1.2 ulp.
#[must_use]
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    erf_by(x, erf_stage(x))
}

/// What [`erf_by`] takes besides x: the logarithm of 1 − erf(|x|) for large |x|.
#[inline(always)]
pub(crate) fn erf_stage(x: f32) -> f32 {
    let a = x.abs();
    let t = if a > ERF_ONE { ERF_ONE } else { a };
    // For t < 0.9375 this may be a positive number, near 0.
    horner(t, &LN_ERFC)
}

/// [`erf`] of x, whose stage is z.
#[inline(always)]
pub(crate) fn erf_by(x: f32, z: f32) -> f32 {
    let a = x.abs();
    let small = a.mul_add(horner(a * a, &ERF), a);
    let large = 1.0 - exp_of_negative_raw(z);
    let y = if a < ERF_SMALL { small } else { large };
    unless_nan(x, with_sign(y, x))
}
