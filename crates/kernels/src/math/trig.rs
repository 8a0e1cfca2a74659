//! Sine and cosine.

use super::canonical;

/// Sine of x radians.
#[must_use]
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    canonical(sin_cos(x).0)
}

/// Cosine of x radians.
#[must_use]
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    canonical(sin_cos(x).1)
}

#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    let tau = 2.0 * std::f64::consts::PI;
    let x = x as f64;
    let r = x - (x / tau).round_ties_even() * tau;
    let (mut sin, mut cos, mut term) = (0.0, 0.0, 1.0);
    for i in 0..24 {
        match i % 4 {
            0 => cos += term,
            1 => sin += term,
            2 => cos -= term,
            _ => sin -= term,
        }
        term = term * r / (i + 1) as f64;
    }
    (sin as f32, cos as f32)
}
