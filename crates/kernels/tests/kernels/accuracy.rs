//! The transcendental functions stay within their stated errors.
//!
//! Every 9973rd bit pattern is tried here; the example `accuracy` tries all of them.

use crate::common::reference::{FUNCTIONS, largest_error};

#[test]
fn errors_stay_within_their_bounds_over_the_whole_range() {
    for function in FUNCTIONS {
        let worst = largest_error(function, 9973);
        assert!(
            worst.ulps < function.bound,
            "{} of {:e} is wrong by {} ulp",
            function.name,
            worst.x,
            worst.ulps
        );
        // A reference that agreed with everything would prove nothing.
        assert!(worst.ulps > 0.4, "{}: {} ulp", function.name, worst.ulps);
    }
}

/// Products of π/2 lie close to some binary32 values: there a remainder loses the most bits.
#[test]
fn sine_and_cosine_hold_beside_their_zeros() {
    use lemma_kernels::math::{cos, sin};
    let check = |found: f32, exact: f64, x: f32| {
        let error = (f64::from(found) - exact).abs();
        let last_place = 2f64.powi(exact.abs().log2().floor() as i32 - 23);
        assert!(error < last_place, "at {x:e}: {found:e} for {exact:e}");
    };
    for quadrant in 1..200_000u32 {
        let x = (f64::from(quadrant) * std::f64::consts::FRAC_PI_2) as f32;
        check(sin(x), f64::from(x).sin(), x);
        check(cos(x), f64::from(x).cos(), x);
    }
    // The binary32 value closest of all to a multiple of π/2.
    let x = 16_367_173.0f32 * 2f32.powi(72);
    check(cos(x), f64::from(x).cos(), x);
    check(sin(x), f64::from(x).sin(), x);
}

#[test]
fn products_are_fused_on_this_machine() {
    // The portable path rests on `f32::mul_add`, which some platforms take from their C library.
    let cases = [
        (
            1.0f32 + f32::EPSILON,
            1.0 - f32::EPSILON,
            -1.0,
            -(f32::EPSILON * f32::EPSILON),
        ),
        (f32::MAX, 2.0, -f32::MAX, f32::MAX),
        (f32::from_bits(1), 0.5, f32::from_bits(1), f32::from_bits(2)),
        (
            f32::from_bits(1),
            0.25,
            f32::from_bits(1),
            f32::from_bits(1),
        ),
        (
            f32::MIN_POSITIVE,
            0.5,
            -f32::from_bits(1),
            f32::from_bits(0x003f_ffff),
        ),
    ];
    for (a, b, c, expected) in cases.map(std::hint::black_box) {
        assert_eq!(
            a.mul_add(b, c).to_bits(),
            expected.to_bits(),
            "{a:e} · {b:e} + {c:e}"
        );
    }
}
