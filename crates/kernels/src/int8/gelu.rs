//! The Gaussian error linear unit between fixed points: x · ½(1 + erf(x ÷ √2)), less what is above 0 of x.
//!
//! That difference is −|x| · ½(1 − erf(|x| ÷ √2)), small and the same on both sides of 0, so that 16 short polynomials give it
//! far more exactly than a step of 8 bits. Where they cannot be looked up in registers, one polynomial gives the eighth root
//! of ½(1 − erf(|x| ÷ √2)), which is flat enough for few powers. Neither is what the operations, rounded one by one, give:
//! where that may be quantised to another integer, the operations decide (see [`fixed`](super::fixed)).

use std::arch::x86_64::*;

use super::ops::{Op, Operand};
use crate::elementwise::Binary;

/// Polynomials to a unit of |x|.
pub(super) const PER_UNIT: f32 = 2.75;

/// Where the last polynomial ends, in polynomials: what is left beyond is less than [`ERROR`].
pub(super) const END: f32 = 15.25;

/// How far, at most, the polynomials are from the difference, as they are evaluated, in units of 2⁻²⁴.
pub(super) const ERROR: f64 = 7.0;

/// For |x| = (i + f) ÷ 2.75, |f| ≤ ½, the difference in f: factors of each power for every i.
const DIFFERENCE: [[u32; 16]; 5] = [
    // f⁴
    [
        0xba95_49a2,
        0xba5b_260e,
        0xb908_d4d7,
        0x39f1_ee43,
        0x3a26_575a,
        0x39ef_105d,
        0x393d_3ff6,
        0xb6b8_70a7,
        0xb88f_3c59,
        0xb87b_185c,
        0xb80d_e962,
        0xb774_4064,
        0xb6a9_3f00,
        0xb5c1_f1b8,
        0xb4ba_913c,
        0xb398_1a93,
    ],
    // f³
    [
        0xb766_d877,
        0xbb88_b490,
        0xbbc9_82b1,
        0xbbb0_4c63,
        0xbb47_8e44,
        0xba4f_082d,
        0x39f9_265b,
        0x3a4d_4430,
        0x3a1d_dc35,
        0x39ae_a698,
        0x3918_cbff,
        0x385b_9355,
        0x3784_1d79,
        0x3686_aad2,
        0x356a_4823,
        0x342e_cdc0,
    ],
    // f²
    [
        0x3d58_161c,
        0x3d3c_e08e,
        0x3cf3_ff92,
        0x3c41_0d0a,
        0xba8a_d37a,
        0xbbd8_1dc2,
        0xbbdc_c53e,
        0xbb97_ad8c,
        0xbb22_59d4,
        0xba8e_39ca,
        0xb9d0_b2d4,
        0xb901_e176,
        0xb80a_33fb,
        0xb6fc_c0e5,
        0xb5c7_5866,
        0xb487_f74a,
    ],
    // f
    [
        0xbe3a_2e98,
        0xbda5_8a2f,
        0xbb80_ef71,
        0x3d18_7b86,
        0x3d3f_824d,
        0x3d1b_7a4f,
        0x3cc4_90c0,
        0x3c4c_8562,
        0x3bb3_5d9d,
        0x3b06_3f89,
        0x3a2c_c112,
        0x393f_fc19,
        0x3838_d3a9,
        0x371a_7a63,
        0x35e0_89c9,
        0x348e_10fa,
    ],
    // 1
    [
        0x3103_a4a4,
        0xbe05_548e,
        0xbe2d_ea6f,
        0xbe19_c657,
        0xbdd9_27be,
        0xbd80_887b,
        0xbd02_21c7,
        0xbc63_92cc,
        0xbbac_c491,
        0xbae4_7490,
        0xba03_cb2a,
        0xb904_d6c8,
        0xb7ea_1f36,
        0xb6b4_7a06,
        0xb573_7e87,
        0xb40f_c82f,
    ],
];

/// The polynomials, each power apart, times `by`.
pub(super) fn difference(by: f64) -> [[f32; 16]; 5] {
    DIFFERENCE.map(|power| power.map(|bits| (f64::from(f32::from_bits(bits)) * by) as f32))
}

/// The eighth root of ½(1 − erf(x ÷ √2)) in x from 0 to the end: factors of each power, the highest first. It is as exact as
/// the difference that is made of it needs.
const ROOT: [u32; 8] = [
    0x3659_3110,
    0xb815_9d7e,
    0xb827_def6,
    0x3ad5_b9b8,
    0xba4f_d29f,
    0xbd02_8643,
    0xbdbb_55bc,
    0x3f6a_c0da,
];

/// |x| · ½(1 − erf(|x| ÷ √2)) of 16 numbers, by no more than [`ERROR`] from it: what is above 0 of x, less the unit.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn below([a, b]: [__m256; 2]) -> [__m256; 2] {
    let (sign, end) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(END / PER_UNIT));
    let size = |x| _mm256_min_ps(_mm256_andnot_ps(sign, x), end);
    let (a, b) = (size(a), size(b));
    let [first, rest @ ..] = ROOT.map(f32::from_bits);
    let (mut root, mut other) = (_mm256_set1_ps(first), _mm256_set1_ps(first));
    for factor in rest {
        let factor = _mm256_set1_ps(factor);
        root = _mm256_fmadd_ps(root, a, factor);
        other = _mm256_fmadd_ps(other, b, factor);
    }
    let square = |x| _mm256_mul_ps(x, x);
    [(root, a), (other, b)].map(|(root, x)| _mm256_mul_ps(square(square(square(root))), x))
}

/// The operations before the unit, if these end with it, written as its definition is.
pub(super) fn before<'o, 'a>(ops: &'o [Op<'a>]) -> Option<&'o [Op<'a>]> {
    match ops {
        [
            before @ ..,
            Op::Keep,
            Op::Binary(Binary::Div, Operand::Scalar(root)),
            Op::Erf,
            Op::Binary(Binary::Add, Operand::Scalar(one)),
            Op::Binary(Binary::Mul, Operand::Kept),
            Op::Binary(Binary::Mul, Operand::Scalar(half)),
        ] if [*root, *one, *half] == [std::f32::consts::SQRT_2, 1.0, 0.5] => Some(before),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::math;

    /// The difference by the polynomials, rounded as the kernels round.
    fn by_polynomials(x: f32) -> f32 {
        let place = (x.abs() * PER_UNIT).min(END);
        let i = place.round_ties_even();
        let [first, rest @ ..] = difference(1.0).map(|power| power[i as usize]);
        let step = |sum: f32, factor| sum.mul_add(place - i, factor);
        rest.into_iter().fold(first, step)
    }

    /// The error function of x, summed until nothing is added any more.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-22 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        (-x * x).exp() * sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// How far values for the difference are from it, at most, in units of 2⁻²⁴.
    fn worst(difference: impl Fn(f32) -> f32) -> f64 {
        let mut worst = 0.0f64;
        for i in 0..120_000 {
            let x = i as f32 * 5e-5;
            let wide = f64::from(x);
            let exact = wide * 0.5 * (1.0 - erf(wide * std::f64::consts::FRAC_1_SQRT_2));
            worst = worst.max((f64::from(difference(x)) + exact).abs());
        }
        worst * f64::from(1 << 24)
    }

    #[test]
    fn the_polynomials_err_by_less_than_they_may() {
        let units = worst(by_polynomials);
        assert!((1.0..ERROR - 1.0).contains(&units), "{units}");
    }

    #[test]
    fn the_eighth_root_errs_by_less_than_it_may() {
        // A processor without AVX2 never takes it.
        let places = match Isa::detect() {
            Isa::PORTABLE => 0..0,
            _ => 0..2,
        };
        for place in places {
            let units = worst(|x| {
                // SAFETY: this machine has AVX2.
                let below = unsafe { below([_mm256_set1_ps(x); 2]) };
                // SAFETY: both have eight numbers.
                let all = unsafe { std::mem::transmute::<__m256, [f32; 8]>(below[place]) };
                -all[5]
            });
            assert!((1.0..ERROR - 1.0).contains(&units), "{units}");
        }
    }

    /// What [`fixed`](crate::int8::fixed) takes for granted: beyond the last polynomial nothing is left of the definition either.
    #[test]
    fn the_definition_ends_where_the_polynomials_end() {
        for i in 0..20_000 {
            let x = -f32::from_bits((END / PER_UNIT).to_bits() + i * 700);
            let unit = x * (math::erf(x / std::f32::consts::SQRT_2) + 1.0) * 0.5;
            let most = ERROR / f64::from(1 << 24);
            assert!(f64::from(unit).abs() <= most, "{x} {unit}");
        }
    }
}
