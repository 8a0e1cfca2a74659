//! The natural logarithm and what is built on it.

use super::{canonical, exp, max};

/// Natural logarithm.
#[must_use]
#[inline(always)]
pub fn log(x: f32) -> f32 {
    canonical(log64(x as f64) as f32)
}

/// ln(1 + eˣ).
#[must_use]
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let z = exp(-x.abs());
    canonical(max(x, 0.0) + log64(1.0 + z as f64) as f32)
}

/// x to the power y.
#[must_use]
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let magnitude = exp((y as f64 * log64(x.abs() as f64)) as f32);
    let odd = y.abs() < 16_777_216.0 && y as i32 as f32 == y && (y as i32) & 1 == 1;
    let integer = y == y.round_ties_even();
    let signed = if x < 0.0 && odd {
        -magnitude
    } else {
        magnitude
    };
    let y_ok = if x < 0.0 && !integer {
        f32::NAN
    } else {
        signed
    };
    canonical(if y == 0.0 || x == 1.0 { 1.0 } else { y_ok })
}

#[inline(always)]
fn log64(x: f64) -> f64 {
    let special = if x == 0.0 {
        f64::NEG_INFINITY
    } else if x < 0.0 {
        f64::NAN
    } else {
        x
    };
    let bits = x.to_bits();
    let e = ((bits >> 52) as i64 - 1023) as f64;
    let m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut p = 0.0;
    let mut k = 25.0;
    while k > 0.0 {
        p = p * q + 1.0 / k;
        k -= 2.0;
    }
    let y = e * std::f64::consts::LN_2 + 2.0 * s * p;
    if x > 0.0 && x < f64::INFINITY {
        y
    } else {
        special
    }
}
