//! The natural logarithm and what is built on it.

use super::exp::{LN_2_HIGH, LN_2_LOW, exp_of_negative_raw};
use super::{canonical, horner, max};

/// Bits of √½: mantissas run from it to √2.
const SQRT_HALF: i32 = 0x3f35_04f3;

/// (ln(1 + f) − f + ½f²) ÷ f³ for √½ ≤ 1 + f ≤ √2, to 2⁻²⁹ of ln(1 + f).
const LOG: [f32; 9] = [
    f32::from_bits(0x3d5a_9104), // f⁸
    f32::from_bits(0xbddf_8a1c), // f⁷
    f32::from_bits(0x3df7_fe58), // f⁶
    f32::from_bits(0xbe00_82ab), // f⁵
    f32::from_bits(0x3e11_8187), // f⁴
    f32::from_bits(0xbe2a_9786), // f³
    f32::from_bits(0x3e4c_d2a1), // f²
    f32::from_bits(0xbe80_0038), // f
    f32::from_bits(0x3eaa_aaa4), // 1
];

/// Natural logarithm, with an error below 1 ulp; −∞ of zero, NaN below it.
#[must_use]
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let (m, e) = split(x);
    let y = log_of(m - 1.0, e as f32);
    // +∞ and NaN stand for themselves.
    let y = if x < f32::INFINITY { y } else { x };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f32::NAN } else { y };
    canonical(y)
}

/// x = m · 2ᵉ with √½ ≤ m < √2, for positive finite x; for others anything.
#[inline(always)]
fn split(x: f32) -> (f32, i32) {
    let tiny = x < f32::MIN_POSITIVE;
    let normal = if tiny { x * 8_388_608.0 } else { x };
    let bits = normal.to_bits() as i32;
    let e = bits.wrapping_sub(SQRT_HALF) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32);
    (m, e - if tiny { 23 } else { 0 })
}

/// ln(1 + f) + e·ln 2, for √½ ≤ 1 + f ≤ √2.
#[inline(always)]
fn log_of(f: f32, e: f32) -> f32 {
    let q = f * f;
    let tail = (f * q).mul_add(horner(f, &LOG), e * LN_2_LOW);
    let sum = f + (-0.5f32).mul_add(q, tail);
    e.mul_add(LN_2_HIGH, sum)
}

/// ln(1 + eˣ), with an error below 1.8 ulp.
#[must_use]
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    /// √2 − 1.
    const HALVED_FROM: f32 = f32::from_bits(0x3ed4_13cd);
    // 0 ≤ z ≤ 1; from √2 on, 1 + z is halved, and the difference to 1 taken without rounding 1 + z.
    let z = exp_of_negative_raw(-x.abs());
    let halved = z >= HALVED_FROM;
    let f = if halved { 0.5 * (z - 1.0) } else { z };
    let e = if halved { 1.0 } else { 0.0 };
    canonical(max(x, 0.0) + log_of(f, e))
}

/// log₂((1 + s)/(1 − s)) ÷ s in s² for 1 + s over 1 − s between √½ and √2, to 2⁻⁵².
const LOG2: [f64; 7] = [
    f64::from_bits(0x3fcf_171e_b7e6_8de0), // s¹²
    f64::from_bits(0x3fd0_bb8a_fc88_a8d8), // s¹⁰
    f64::from_bits(0x3fd4_84fa_2d2d_181c), // s⁸
    f64::from_bits(0x3fda_6175_6a2f_aba3), // s⁶
    f64::from_bits(0x3fe2_776c_5167_7294), // s⁴
    f64::from_bits(0x3fee_c709_dc39_ccf4), // s²
    f64::from_bits(0x4007_1547_652b_82ff), // 1
];

/// 2ʳ for |r| ≤ ½, to 2⁻⁴⁰.
const EXP2: [f64; 9] = [
    f64::from_bits(0x3eb6_1af4_2dc4_40e2), // r⁸
    f64::from_bits(0x3ef0_0db4_f109_472a), // r⁷
    f64::from_bits(0x3f24_30ac_e675_bb9c), // r⁶
    f64::from_bits(0x3f55_d874_77eb_e021), // r⁵
    f64::from_bits(0x3f83_b2ab_5c34_cafe), // r⁴
    f64::from_bits(0x3fac_6b08_dd50_60e7), // r³
    f64::from_bits(0x3fce_bfbd_ff93_3b4c), // r²
    f64::from_bits(0x3fe6_2e42_fef8_5d9e), // r
    f64::from_bits(0x3fef_ffff_ffff_f78e), // 1
];

/// x to the power y, with an error below 0.501 ulp; x² is exactly x · x, and x³ a product in binary64. Special cases are
/// those of IEEE 754 `pow`: in particular `pow(x, 0)` and `pow(1, y)` are 1 even for NaN.
///
/// Of a constant y of 2 or 3, which models take most, nothing but the products is compiled.
#[must_use]
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let a = x.abs();
    let whole = y.round_ties_even() == y;
    let half = 0.5 * y;
    let odd = whole & (half.round_ties_even() != half);

    let power = exp2(f64::from(y) * log2(a));
    let power = if a == 1.0 { 1.0 } else { power };
    let negative = x.is_sign_negative() & odd;
    let result = if negative { -power } else { power };
    let undefined = (x < 0.0) & (a < f32::INFINITY) & !whole & (y.abs() < f32::INFINITY);
    let result = if undefined | x.is_nan() | y.is_nan() {
        f32::NAN
    } else {
        result
    };
    let result = if y == 2.0 { x * x } else { result };
    // The square is exact: 48 bits.
    let wide = f64::from(x);
    let result = if y == 3.0 {
        (wide * wide * wide) as f32
    } else {
        result
    };
    let result = if (y == 0.0) | (x == 1.0) { 1.0 } else { result };
    canonical(result)
}

/// log₂ a for a ≥ 0, infinities included; NaN gives anything.
#[inline(always)]
fn log2(a: f32) -> f64 {
    let (m, e) = split(a);
    let m = f64::from(m);
    let s = (m - 1.0) / (m + 1.0);
    let y = s.mul_add(horner64(s * s, &LOG2), f64::from(e));
    let y = if a < f32::INFINITY { y } else { f64::INFINITY };
    if a == 0.0 { f64::NEG_INFINITY } else { y }
}

/// 2ᵗ, rounded to binary32 once.
#[inline(always)]
fn exp2(t: f64) -> f32 {
    /// 1.5 · 2⁵²: a sum with it is rounded to an integer, which stands in the low bits.
    const MAGIC: f64 = f64::from_bits(0x4338_0000_0000_0000);
    let t = if t > 200.0 { 200.0 } else { t };
    let t = if t < -200.0 { -200.0 } else { t };
    let shifted = t + MAGIC;
    let p = horner64(t - (shifted - MAGIC), &EXP2);
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits());
    let scale = f64::from_bits(n.wrapping_add(1023) << 52);
    (p * scale) as f32
}

/// Horner's scheme in fused multiply-adds, highest coefficient first.
#[inline(always)]
fn horner64<const N: usize>(x: f64, coefficients: &[f64; N]) -> f64 {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = sum.mul_add(x, c);
    }
    sum
}
