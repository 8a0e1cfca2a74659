//! Sine and cosine, for arguments of any size.

use super::{canonical, horner};

/// Sine of x radians, with an error below 1.1 ulp; NaN of an infinity.
#[must_use]
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (quadrant, r) = reduce(x.abs());
    let (s, c) = (sin_of(r), cos_of(r));
    let y = if quadrant & 1 == 0 { s } else { c };
    let flip = (quadrant & 2) << 30 ^ x.to_bits() & 0x8000_0000;
    finite(x, f32::from_bits(y.to_bits() ^ flip))
}

/// Cosine of x radians, with an error below 1.1 ulp; NaN of an infinity.
#[must_use]
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (quadrant, r) = reduce(x.abs());
    let (s, c) = (sin_of(r), cos_of(r));
    let y = if quadrant & 1 == 0 { c } else { s };
    let flip = (quadrant.wrapping_add(1) & 2) << 30;
    finite(x, f32::from_bits(y.to_bits() ^ flip))
}

/// |x| = quadrant · π/2 + remainder (mod 2π), for finite x, the remainder in binary64.
pub(crate) fn quarter_turns(a: f32) -> (u32, f64) {
    if a <= QUARTER_PI {
        return (0, f64::from(a));
    }
    let (quadrant, fraction) = fraction(a);
    const STEP: f64 = std::f64::consts::FRAC_PI_2 / (1u64 << 62) as f64;
    (quadrant, fraction as f64 * STEP)
}

#[inline(always)]
fn finite(x: f32, y: f32) -> f32 {
    let y = if x.abs() < f32::INFINITY { y } else { f32::NAN };
    canonical(y)
}

/// A remainder as an unevaluated sum.
#[derive(Clone, Copy)]
struct Remainder {
    high: f32,
    low: f32,
}

/// Largest argument that needs no reduction: π/4.
const QUARTER_PI: f32 = f32::from_bits(0x3f49_0fdb);

/// 2/π as a binary fraction, 32 bits a word, after one word of zeros.
const TWO_OVER_PI: [u32; 8] = [
    0,
    0xa2f9_836e,
    0x4e44_1529,
    0xfc27_57d1,
    0xf534_ddc0,
    0xdb62_9599,
    0x3c43_9041,
    0xfe51_63ab,
];

/// π/2 · 2⁻⁶² in two parts.
const STEP_HIGH: f32 = f32::from_bits(0x20c9_0fdb);
const STEP_LOW: f32 = f32::from_bits(0x943b_bd2e);

/// a = quadrant · π/2 + remainder (mod 2π), for a ≥ 0; of an infinity or NaN, anything.
///
/// The product of a's mantissa with 96 bits of 2/π, chosen by its exponent so that multiples of
/// four fall out at the top, is the number of quadrants as a fixed-point number of 64 bits.
#[inline(always)]
fn fraction(a: f32) -> (u32, i64) {
    let bits = a.to_bits();
    let mantissa = u64::from(bits & 0x007f_ffff | 0x0080_0000);
    // The exponent, less 23 and 2, counted from the beginning of the table. Arguments that need no
    // reduction, and infinities, read some words, which are not used.
    let position = (bits >> 23).wrapping_sub(127).wrapping_add(7);
    let first = position >> 5;
    let word = |i: u32| u64::from(TWO_OVER_PI[(first.wrapping_add(i) & 7) as usize]);
    let shift = position & 31;
    let window = |i: u32| ((word(i) << 32 | word(i + 1)) << shift) >> 32;
    let turns = (mantissa.wrapping_mul(window(0)) << 32)
        .wrapping_add(mantissa.wrapping_mul(window(1)))
        .wrapping_add(mantissa.wrapping_mul(window(2)) >> 32);

    let quadrant = turns.wrapping_add(1 << 61) >> 62;
    (quadrant as u32, turns.wrapping_sub(quadrant << 62) as i64)
}

#[inline(always)]
fn reduce(a: f32) -> (u32, Remainder) {
    let (quadrant, fraction) = fraction(a);
    let high = fraction as f32;
    let low = fraction.wrapping_sub(high as i64) as f32;
    let product = high * STEP_HIGH;
    let error = high.mul_add(STEP_HIGH, -product);
    let reduced = Remainder {
        high: product,
        low: high.mul_add(STEP_LOW, low.mul_add(STEP_HIGH, error)),
    };

    let small = a <= QUARTER_PI;
    let whole = Remainder { high: a, low: 0.0 };
    (
        if small { 0 } else { quadrant as u32 },
        if small { whole } else { reduced },
    )
}

/// (sin(r)/r − 1) ÷ r² in r² for |r| ≤ π/4, to 2⁻³² of sin(r)/r.
const SIN: [f32; 4] = [
    f32::from_bits(0x363e_1627), // r⁶
    f32::from_bits(0xb950_2caa), // r⁴
    f32::from_bits(0x3c08_88ba), // r²
    f32::from_bits(0xbe2a_aaab), // 1
];

/// (cos(r) − 1 + ½r²) ÷ r⁴ in r² for |r| ≤ π/4, to 2⁻³² of cos(r).
const COS: [f32; 3] = [
    f32::from_bits(0x37cc_f406), // r⁴
    f32::from_bits(0xbab6_0614), // r²
    f32::from_bits(0x3d2a_aaa5), // 1
];

#[inline(always)]
fn sin_of(r: Remainder) -> f32 {
    let q = r.high * r.high;
    r.high + (r.high * q).mul_add(horner(q, &SIN), r.low)
}

#[inline(always)]
fn cos_of(r: Remainder) -> f32 {
    let q = r.high * r.high;
    let half = 0.5 * q;
    let top = 1.0 - half;
    // What the rounding of `top` lost comes back with the rest.
    let lost = (1.0 - top) - half;
    let rest = (q * q).mul_add(horner(q, &COS), -(r.high * r.low));
    top + (lost + rest)
}
