//! Sixteen-bit storage formats: exact widening, and narrowing by round to nearest even.

use crate::isa::{Isa, Kernel};
use crate::math::CANONICAL_NAN;

/// The value of IEEE binary16 bits: exact; NaN becomes [`CANONICAL_NAN`].
#[must_use]
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // The exponent and mantissa fields moved into place, then rebased from 15 to 127 by an exact
    // multiplication with 2^112, which also normalises binary16's subnormals.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((112 + 127) << 23);
    let finite = scaled.to_bits();
    let infinite = 0x7f80_0000;
    let rest = if magnitude == 0x7c00 {
        infinite
    } else {
        finite
    };
    f32::from_bits(if magnitude > 0x7c00 {
        CANONICAL_NAN.to_bits()
    } else {
        sign | rest
    })
}

/// The value of bfloat16 bits: exact; NaN becomes [`CANONICAL_NAN`].
#[must_use]
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    crate::math::canonical(f32::from_bits(u32::from(bits) << 16))
}

/// The nearest IEEE binary16, ties to even; overflow gives infinity, NaN gives `0x7e00`.
#[must_use]
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    // Normal result: rebase the exponent, then add half of the last place (less one where the
    // last place is even) before the shift.
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude
        .wrapping_sub((127 - 15) << 23)
        .wrapping_add(0x0fff + odd)
        >> 13;
    // Subnormal result: adding 0.5, whose last place is 2^-24, rounds at the right position.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits() & 0x7ff;
    let rounded = if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    // 65520 is the first value that rounds up to infinity.
    let finite = if magnitude >= 0x477f_f000 {
        0x7c00
    } else {
        rounded
    };
    if magnitude > 0x7f80_0000 {
        0x7e00
    } else {
        sign | finite as u16
    }
}

/// The nearest bfloat16, ties to even; overflow gives infinity, NaN gives `0x7fc0`.
#[must_use]
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    let rounded = (bits.wrapping_add(0x7fff + odd) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fc0
    } else {
        rounded
    }
}

macro_rules! slice_form {
    ($(#[$doc:meta])* $name:ident, $scalar:ident, $from:ty => $to:ty) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// If the lengths differ.
        pub fn $name(isa: Isa, x: &[$from], y: &mut [$to]) {
            assert_eq!(x.len(), y.len(), concat!(stringify!($name), ": lengths differ"));
            struct Convert<'a> {
                x: &'a [$from],
                y: &'a mut [$to],
            }
            impl Kernel for Convert<'_> {
                type Output = ();
                #[inline(always)]
                fn run(self) {
                    for (y, &x) in self.y.iter_mut().zip(self.x) {
                        *y = $scalar(x);
                    }
                }
            }
            isa.run(Convert { x, y });
        }
    };
}

slice_form!(
    /// [`f16_to_f32`] of each value.
    f16_to_f32_slice, f16_to_f32, u16 => f32
);
slice_form!(
    /// [`bf16_to_f32`] of each value.
    bf16_to_f32_slice, bf16_to_f32, u16 => f32
);
slice_form!(
    /// [`f32_to_f16`] of each value.
    f32_to_f16_slice, f32_to_f16, f32 => u16
);
slice_form!(
    /// [`f32_to_bf16`] of each value.
    f32_to_bf16_slice, f32_to_bf16, f32 => u16
);

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of binary16 bits, by the definition of the format.
    fn reference(bits: u16) -> f64 {
        let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
        let (e, m) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
        sign * match e {
            0 => m * 2f64.powi(-24),
            31 if m == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1.0 + m / 1024.0) * 2f64.powi(e - 15),
        }
    }

    #[test]
    fn every_binary16_widens_exactly_and_returns() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32(bits);
            let expected = reference(bits);
            if expected.is_nan() {
                assert_eq!(wide.to_bits(), CANONICAL_NAN.to_bits());
                assert_eq!(f32_to_f16(wide), 0x7e00);
            } else {
                assert_eq!((wide as f64).to_bits(), expected.to_bits(), "{bits:#06x}");
                assert_eq!(f32_to_f16(wide), bits);
            }
        }
    }

    #[test]
    fn narrowing_picks_the_nearest_and_the_even_one_of_two() {
        // Around every midpoint of neighbouring finite halves, and just beside it.
        for bits in 0..0x7bffu16 {
            let (low, high) = (reference(bits), reference(bits + 1));
            let middle = ((low + high) / 2.0) as f32;
            assert_eq!(middle as f64, (low + high) / 2.0);
            let even = if bits & 1 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_f16(middle), even);
            assert_eq!(f32_to_f16(-middle), even | 0x8000);
            assert_eq!(f32_to_f16(middle.next_down()), bits);
            assert_eq!(f32_to_f16(middle.next_up()), bits + 1);
        }
        assert_eq!(f32_to_f16(65519.996), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(f32::INFINITY), 0x7c00);
        assert_eq!(f32_to_f16(f32::NEG_INFINITY), 0xfc00);
        assert_eq!(f32_to_f16(f32::MAX), 0x7c00);
        assert_eq!(f32_to_f16(f32::from_bits(1)), 0);
    }

    #[test]
    fn every_bfloat16_returns_and_ties_go_to_even() {
        for bits in 0..=u16::MAX {
            let wide = bf16_to_f32(bits);
            if wide.is_nan() {
                assert_eq!(wide.to_bits(), CANONICAL_NAN.to_bits());
                assert_eq!(f32_to_bf16(f32::from_bits(u32::from(bits) << 16)), 0x7fc0);
                continue;
            }
            assert_eq!(wide.to_bits(), u32::from(bits) << 16);
            assert_eq!(f32_to_bf16(wide), bits);
            if bits & 0x7fff < 0x7f80 {
                let middle = f32::from_bits(u32::from(bits) << 16 | 0x8000);
                let even = bits + (bits & 1);
                assert_eq!(f32_to_bf16(middle), even);
                assert_eq!(f32_to_bf16(f32::from_bits(middle.to_bits() - 1)), bits);
                assert_eq!(f32_to_bf16(f32::from_bits(middle.to_bits() + 1)), bits + 1);
            }
        }
    }

    #[test]
    fn slices_agree_with_scalars_on_every_instruction_set() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let floats: Vec<f32> = (0..200_003u32)
            .map(|i| f32::from_bits(i.wrapping_mul(21_473)))
            .collect();
        for isa in Isa::available() {
            let mut wide = vec![0.0; all.len()];
            f16_to_f32_slice(isa, &all, &mut wide);
            assert!(
                wide.iter()
                    .zip(&all)
                    .all(|(w, &b)| w.to_bits() == f16_to_f32(b).to_bits())
            );
            bf16_to_f32_slice(isa, &all, &mut wide);
            assert!(
                wide.iter()
                    .zip(&all)
                    .all(|(w, &b)| w.to_bits() == bf16_to_f32(b).to_bits())
            );
            let mut narrow = vec![0; floats.len()];
            f32_to_f16_slice(isa, &floats, &mut narrow);
            assert!(
                narrow
                    .iter()
                    .zip(&floats)
                    .all(|(&n, &v)| n == f32_to_f16(v))
            );
            f32_to_bf16_slice(isa, &floats, &mut narrow);
            assert!(
                narrow
                    .iter()
                    .zip(&floats)
                    .all(|(&n, &v)| n == f32_to_bf16(v))
            );
        }
    }
}
