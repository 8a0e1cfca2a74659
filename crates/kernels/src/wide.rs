//! Arithmetic on binary64: the functions, sums and products that are defined on it, and functions
//! of binary32 that are computed through it.
//!
//! These are scalar loops, written for exactness rather than speed: no model that matters is
//! bound by them. The formulas are in chapter 10 of the numeric specification.

use std::f64::consts::{FRAC_PI_2, LN_2, LOG2_E};

use crate::gemm::BLOCK_K;
use crate::math::{canonical, quarter_turns};
use crate::reduce::{LANES, Reduction};

/// The NaN of every binary64 result that is one.
pub const CANONICAL_NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0000);

/// `x`, with every NaN replaced by [`CANONICAL_NAN`].
#[must_use]
pub fn canonical_f64(x: f64) -> f64 {
    if x.is_nan() { CANONICAL_NAN } else { x }
}

/// ln 2 − f64(ln 2).
const LN_2_REST: f64 = f64::from_bits(0x3c7a_bc9e_3b39_803f);

fn horner(x: f64, coefficients: &[f64]) -> f64 {
    coefficients[1..]
        .iter()
        .fold(coefficients[0], |sum, &c| sum.mul_add(x, c))
}

/// 1/n!, from 1/13! down to 1/0!.
const FACTORIALS: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// eˣ, with an error below 1 ulp.
#[must_use]
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return CANONICAL_NAN;
    }
    let x = x.clamp(-760.0, 710.0);
    let n = (x * LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN_2_REST, (-n).mul_add(LN_2, x));
    let half = (n / 2.0).floor();
    // Powers of two from −550 to 550: normal numbers.
    let power = |k: f64| f64::from_bits(((k as i64 + 1023) as u64) << 52);
    (horner(r, &FACTORIALS) * power(half)) * power(n - half)
}

/// 1/(2k + 1), from k = 11 down to 0.
const ODD: [f64; 12] = [
    1.0 / 23.0,
    1.0 / 21.0,
    1.0 / 19.0,
    1.0 / 17.0,
    1.0 / 15.0,
    1.0 / 13.0,
    1.0 / 11.0,
    1.0 / 9.0,
    1.0 / 7.0,
    1.0 / 5.0,
    1.0 / 3.0,
    1.0,
];

/// Natural logarithm, with an error below 1 ulp.
#[must_use]
pub fn log(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return CANONICAL_NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    let (x, shift) = if x < f64::MIN_POSITIVE {
        (x * 18_014_398_509_481_984.0, 54)
    } else {
        (x, 0)
    };
    // x = m · 2ᵉ with √½ ≤ m < √2.
    let root_half = 0x3fe6_a09e_667f_3bcdu64;
    let e = (x.to_bits() as i64 - root_half as i64) >> 52;
    let f = f64::from_bits((x.to_bits() as i64 - (e << 52)) as u64) - 1.0;
    let e = (e - shift) as f64;
    // ln(1 + f) = f − (½f² − s·(½f² + r)) with s = f ÷ (2 + f) and r the series behind 2s.
    let s = f / (2.0 + f);
    let z = s * s;
    let half = 0.5 * f * f;
    let r = (2.0 * z) * horner(z, &ODD[..11]);
    let rest = half - s.mul_add(half + r, e * LN_2_REST);
    e.mul_add(LN_2, f - rest)
}

/// atan(k/4) for k = 0 … 4.
const ARCS: [f64; 5] = [
    0.0,
    f64::from_bits(0x3fcf_5b75_f92c_80dd),
    f64::from_bits(0x3fdd_ac67_0561_bb4f),
    f64::from_bits(0x3fe4_978f_a326_9ee1),
    f64::from_bits(0x3fe9_21fb_5444_2d18),
];

fn arc_tangent(x: f64) -> f64 {
    let a = x.abs();
    let inner = if a > 1.0 { 1.0 / a } else { a };
    let k = (4.0 * inner).round_ties_even();
    let c = k / 4.0;
    let t = (inner - c) / inner.mul_add(c, 1.0);
    let q = -(t * t);
    // (1/8)²ᵏ falls below 2⁻⁵³ behind the ninth term.
    let arc = t.mul_add(horner(q, &ODD[3..]), ARCS[k as usize]);
    let arc = if a > 1.0 { FRAC_PI_2 - arc } else { arc };
    arc.copysign(x)
}

/// Below this, two terms of a series are exact enough.
const SMALL: f64 = 1.0 / 4096.0;

macro_rules! through_f64 {
    ($($(#[$doc:meta])* $name:ident = |$x:ident| $body:expr;)+) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(x: f32) -> f32 {
            let $x = f64::from(x);
            canonical($body as f32)
        }
    )+};
}

through_f64! {
    /// Arc tangent, in radians.
    atan = |x| if x.is_nan() { x } else { arc_tangent(x) };
    /// Arc sine, in radians; NaN beyond ±1.
    asin = |x| if x.abs() <= 1.0 { arc_tangent(x / ((1.0 - x) * (1.0 + x)).sqrt()) } else { f64::NAN };
    /// Arc cosine, in radians; NaN beyond ±1.
    acos = |x| if x.abs() <= 1.0 { 2.0 * arc_tangent(((1.0 - x) / (1.0 + x)).sqrt()) } else { f64::NAN };
    /// Hyperbolic sine.
    sinh = |x| if x.abs() < SMALL { x + x * x * x / 6.0 } else { 0.5 * exp(x) - 0.5 * exp(-x) };
    /// Hyperbolic cosine.
    cosh = |x| 0.5 * exp(x) + 0.5 * exp(-x);
    /// Inverse of [`sinh`].
    asinh = |x| if x.abs() < SMALL {
        // Of −0 the difference is +0.
        (x - x * x * x / 6.0).copysign(x)
    } else {
        log(x.abs() + (x * x + 1.0).sqrt()).copysign(x)
    };
    /// Inverse of [`cosh`]; NaN below 1.
    acosh = |x| if x < 1.0 { f64::NAN } else { log(x + ((x - 1.0) * (x + 1.0)).sqrt()) };
    /// Inverse hyperbolic tangent; NaN beyond ±1.
    atanh = |x| if x.abs() < SMALL {
        x + x * x * x / 3.0
    } else if x.abs() <= 1.0 {
        0.5 * log((1.0 + x) / (1.0 - x))
    } else {
        f64::NAN
    };
}

/// 1/(2k + 1)! with alternating sign, from k = 8 down to 0.
const SINE: [f64; 9] = [
    1.0 / 355_687_428_096_000.0,
    -1.0 / 1_307_674_368_000.0,
    1.0 / 6_227_020_800.0,
    -1.0 / 39_916_800.0,
    1.0 / 362_880.0,
    -1.0 / 5_040.0,
    1.0 / 120.0,
    -1.0 / 6.0,
    1.0,
];

/// 1/(2k)! with alternating sign, from k = 8 down to 0.
const COSINE: [f64; 9] = [
    1.0 / 20_922_789_888_000.0,
    -1.0 / 87_178_291_200.0,
    1.0 / 479_001_600.0,
    -1.0 / 3_628_800.0,
    1.0 / 40_320.0,
    -1.0 / 720.0,
    1.0 / 24.0,
    -0.5,
    1.0,
];

/// Tangent of x radians; NaN of an infinity.
#[must_use]
pub fn tan(x: f32) -> f32 {
    if !x.is_finite() {
        return crate::math::CANONICAL_NAN;
    }
    let (quadrant, r) = quarter_turns(x.abs());
    let (s, c) = (r * horner(r * r, &SINE), horner(r * r, &COSINE));
    let t = if quadrant & 1 == 0 { s / c } else { -c / s };
    canonical((if x.is_sign_negative() { -t } else { t }) as f32)
}

/// sin and cos of `turns` full turns, |turns| ≤ 1, in binary64: used for Fourier transforms and
/// windows, where the angle is a fraction of a turn.
#[must_use]
pub fn turn(turns: f64) -> (f64, f64) {
    let quarters = 4.0 * turns;
    let quadrant = quarters.round_ties_even();
    let r = (quarters - quadrant) * FRAC_PI_2;
    let (s, c) = (r * horner(r * r, &SINE), horner(r * r, &COSINE));
    match (quadrant as i64).rem_euclid(4) {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// The larger of two values; NaN if either is; +0 is larger than −0.
#[must_use]
pub fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return CANONICAL_NAN;
    }
    // For equal values only the zeros differ in bits.
    if a > b || (a == b && b.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// The smaller of two values; NaN if either is; −0 is smaller than +0.
#[must_use]
pub fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

fn fold(
    x: &[f64],
    identity: f64,
    step: impl Fn(f64, f64) -> f64,
    join: impl Fn(f64, f64) -> f64,
) -> f64 {
    let mut lanes = [identity; LANES];
    for (i, &v) in x.iter().enumerate() {
        lanes[i % LANES] = step(lanes[i % LANES], v);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

fn add(a: f64, b: f64) -> f64 {
    a + b
}

/// A reduction of a row: lanes and tree as for binary32.
#[must_use]
pub fn reduce(op: Reduction, x: &[f64]) -> f64 {
    let sum = || fold(x, 0.0, add, add);
    let squares = || fold(x, 0.0, |s, v| v.mul_add(v, s), add);
    canonical_f64(match op {
        Reduction::Sum => sum(),
        Reduction::Mean => sum() / x.len() as f64,
        Reduction::Prod => fold(x, 1.0, |s, v| s * v, |a, b| a * b),
        Reduction::Max => fold(x, f64::NEG_INFINITY, max, max),
        Reduction::Min => fold(x, f64::INFINITY, min, min),
        Reduction::L1 => fold(x, 0.0, |s, v| s + v.abs(), add),
        Reduction::L2 => squares().sqrt(),
        Reduction::SumSquare => squares(),
        Reduction::LogSum => log(sum()),
        Reduction::LogSumExp => {
            let top = fold(x, f64::NEG_INFINITY, max, max);
            let shift = if top.is_infinite() { 0.0 } else { top };
            shift + log(fold(x, 0.0, |s, v| s + exp(v - shift), add))
        }
    })
}

/// One output of a matrix product: chains of fused multiply-adds over blocks of [`BLOCK_K`], whose
/// sums are added in order.
#[must_use]
pub fn product(k: usize, a: impl Fn(usize) -> f64, b: impl Fn(usize) -> f64) -> f64 {
    let mut total = 0.0f64;
    for start in (0..k).step_by(BLOCK_K) {
        let end = k.min(start + BLOCK_K);
        let sum = (start..end).fold(0.0f64, |sum, i| a(i).mul_add(b(i), sum));
        total = if start == 0 { sum } else { total + sum };
    }
    canonical_f64(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place between two values.
    fn ulps(a: f64, b: f64) -> u64 {
        if a.is_nan() && b.is_nan() {
            return 0;
        }
        (a.to_bits() as i64).abs_diff(b.to_bits() as i64)
    }

    /// The C library's functions are within an ulp.
    #[test]
    fn wide_functions_are_close_to_those_of_the_platform() {
        let mut x = -745.0;
        while x < 709.0 {
            assert!(ulps(exp(x), x.exp()) <= 2, "exp({x})");
            x += 0.37;
        }
        let mut x = 1e-310;
        while x < 1e308 {
            assert!(ulps(log(x), x.ln()) <= 2, "log({x})");
            x *= 1.37;
        }
        for i in -2000..2000 {
            let x = f64::from(i) / 2000.0;
            let (s, c) = turn(x);
            let angle = x * std::f64::consts::TAU;
            assert!((s - angle.sin()).abs() < 1e-15 && (c - angle.cos()).abs() < 1e-15);
        }
        assert_eq!(log(0.5).to_bits(), 0.5f64.ln().to_bits());
        assert_eq!(
            [exp(f64::INFINITY), exp(f64::NEG_INFINITY)],
            [f64::INFINITY, 0.0]
        );
        assert!(log(-1.0).is_nan() && exp(f64::NAN).is_nan());
    }

    /// Every 4093rd binary32, against the platform's binary64.
    #[test]
    fn narrow_functions_are_correct_to_a_unit() {
        type Pair = (&'static str, fn(f32) -> f32, fn(f64) -> f64);
        let pairs: [Pair; 9] = [
            ("tan", tan, f64::tan),
            ("atan", atan, f64::atan),
            ("asin", asin, f64::asin),
            ("acos", acos, f64::acos),
            ("sinh", sinh, f64::sinh),
            ("cosh", cosh, f64::cosh),
            ("asinh", asinh, f64::asinh),
            ("acosh", acosh, f64::acosh),
            ("atanh", atanh, f64::atanh),
        ];
        for bits in (0..=u32::MAX).step_by(4093) {
            let x = f32::from_bits(bits);
            for (name, ours, reference) in pairs {
                let (found, wanted) = (ours(x), reference(f64::from(x)) as f32);
                let close = (found.is_nan() && wanted.is_nan())
                    || found.to_bits().abs_diff(wanted.to_bits()) <= 1;
                assert!(close, "{name}({x:e}): {found:e}, {wanted:e} is expected");
            }
        }
    }

    #[test]
    fn zeros_keep_their_sign() {
        for f in [tan, atan, asin, sinh, asinh, atanh] {
            assert_eq!(f(-0.0).to_bits(), (-0.0f32).to_bits());
        }
        assert_eq!(min(0.0, -0.0).to_bits(), (-0.0f64).to_bits());
        assert_eq!(max(-0.0, 0.0).to_bits(), 0);
    }

    #[test]
    fn products_and_sums_have_the_order_of_binary32() {
        let x: Vec<f64> = (0..700).map(|i| 1.0 / f64::from(i + 1)).collect();
        let blocks: Vec<f64> = x
            .chunks(256)
            .map(|b| b.iter().fold(0.0, |s, v| v.mul_add(2.0, s)))
            .collect();
        assert_eq!(
            product(700, |i| x[i], |_| 2.0),
            (blocks[0] + blocks[1]) + blocks[2]
        );
        assert_eq!(
            reduce(Reduction::Sum, &[1e300, 1.0, -1e300]),
            1.0 + (1e300 - 1e300)
        );
    }
}
