//! Conversions between numbers: truncation toward zero, saturation, NaN to zero.
//!
//! These are the semantics of Rust's `as`, named here because the specification rests on them.

macro_rules! float_to_int {
    ($($name:ident -> $to:ty),+) => {$(
        #[doc = concat!("`x` truncated toward zero, clamped to the range of `", stringify!($to), "`; NaN gives 0.")]
        #[must_use]
        #[inline(always)]
        pub fn $name(x: f32) -> $to {
            x as $to
        }
    )+};
}

float_to_int!(
    f32_to_i8 -> i8, f32_to_u8 -> u8, f32_to_i16 -> i16, f32_to_u16 -> u16,
    f32_to_i32 -> i32, f32_to_u32 -> u32, f32_to_i64 -> i64, f32_to_u64 -> u64
);

/// The nearest binary32 of an integer, ties to even.
#[must_use]
#[inline(always)]
pub fn i64_to_f32(x: i64) -> f32 {
    x as f32
}

/// The nearest binary32 of an unsigned integer, ties to even.
#[must_use]
#[inline(always)]
pub fn u64_to_f32(x: u64) -> f32 {
    x as f32
}

/// True unless `x` is +0 or −0: NaN is true.
#[must_use]
#[inline(always)]
pub fn f32_to_bool(x: f32) -> bool {
    x != 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_truncate_and_saturate() {
        assert_eq!([f32_to_i32(2.9), f32_to_i32(-2.9)], [2, -2]);
        assert_eq!([f32_to_i32(3e9), f32_to_i32(-3e9)], [i32::MAX, i32::MIN]);
        assert_eq!([f32_to_u8(-1.0), f32_to_u8(256.0)], [0, 255]);
        assert_eq!([f32_to_i8(127.9), f32_to_i8(-200.0)], [127, -128]);
        assert_eq!(f32_to_i64(f32::INFINITY), i64::MAX);
        assert_eq!(f32_to_u64(f32::NEG_INFINITY), 0);
        assert_eq!(f32_to_i64(f32::NAN), 0);
    }

    #[test]
    fn integers_round_to_nearest_even() {
        assert_eq!(i64_to_f32(16_777_217), 16_777_216.0);
        assert_eq!(i64_to_f32(16_777_219), 16_777_220.0);
        assert_eq!(u64_to_f32(u64::MAX), 18_446_744_073_709_551_616.0);
    }

    #[test]
    fn only_zero_is_false() {
        assert!(!f32_to_bool(0.0) && !f32_to_bool(-0.0));
        assert!(f32_to_bool(f32::NAN) && f32_to_bool(f32::from_bits(1)));
    }
}
