//! How 8-bit integers stand for numbers, and the way to them.

use super::Int8;
#[cfg(target_arch = "x86_64")]
use super::finish512::Avx512;
use crate::isa::{Isa, Kernel};
use crate::math::canonical;
use crate::threads::Threads;

/// 8-bit integers that are written.
#[derive(Debug)]
pub enum Quantised<'a> {
    /// Without a sign.
    Unsigned(&'a mut [u8]),
    /// In two's complement.
    Signed(&'a mut [i8]),
}

impl<'a> Quantised<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Quantised::Unsigned(y) => y.len(),
            Quantised::Signed(y) => y.len(),
        }
    }

    /// Whether they have a sign.
    pub(super) fn signed(&self) -> bool {
        matches!(self, Quantised::Signed(_))
    }

    /// Their bits.
    pub(super) fn bits(self) -> &'a mut [u8] {
        match self {
            Quantised::Unsigned(y) => y,
            Quantised::Signed(y) => Byte::bytes(y),
        }
    }

    /// The same bytes, to be written with a sign or without.
    pub(super) fn with_sign(self, signed: bool) -> Quantised<'a> {
        match (self, signed) {
            (Quantised::Unsigned(y), true) => {
                // SAFETY: both types have one byte, and every byte is one of either.
                Quantised::Signed(unsafe { &mut *(&raw mut *y as *mut [i8]) })
            }
            (same, true) => same,
            (y, false) => Quantised::Unsigned(y.bits()),
        }
    }
}

/// Where the results of a product go.
#[derive(Debug)]
pub enum Output<'a> {
    /// As they are.
    Float(&'a mut [f32]),
    /// Quantised: round(x ÷ scale) + zero point, as [`quantize`] does it.
    Quantised {
        /// The integers.
        y: Quantised<'a>,
        /// What a step is worth.
        scale: f32,
        /// The integer that stands for 0.
        zero: i32,
    },
}

impl Output<'_> {
    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            Output::Float(y) => y.len(),
            Output::Quantised { y, .. } => y.len(),
        }
    }
}

/// How 8-bit integers stand for numbers: `(integer − zero) × scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantisation {
    /// What a step is worth.
    pub scale: f32,
    /// The integer that stands for 0; one of the type.
    pub zero: i32,
    /// Whether the integers have a sign.
    pub signed: bool,
}

/// Adding this rounds to an integer, ties to even, which the low bits then hold.
pub(super) const SHIFT: f32 = 12_582_912.0;

impl Quantisation {
    /// The fewest and most steps from 0.
    #[inline(always)]
    pub(super) fn ends(self) -> [i32; 2] {
        let [low, high] = if self.signed { [-128, 127] } else { [0, 255] };
        [low - self.zero, high - self.zero]
    }

    /// Steps of `x`, cut off and raised by `SHIFT`, so that they are an integer; 0 of NaN.
    #[inline(always)]
    fn shifted(self, x: f32) -> f32 {
        let [low, high] = self.ends().map(|end| end as f32);
        let steps = x / self.scale;
        let steps = if steps.is_nan() { 0.0 } else { steps };
        let steps = if steps > high { high } else { steps };
        let steps = if steps < low { low } else { steps };
        steps + SHIFT
    }

    /// The integer nearest to `x`, less the zero point.
    #[inline(always)]
    pub(super) fn round(self, x: f32) -> f32 {
        self.shifted(x) - SHIFT
    }

    /// The integer nearest to `x`.
    #[inline(always)]
    pub(super) fn nearest(self, x: f32) -> i32 {
        // Not far from 0.
        self.shifted(x).to_bits().cast_signed() - SHIFT.to_bits().cast_signed() + self.zero
    }

    /// What an integer stands for, but for the form of a NaN.
    #[inline(always)]
    pub(super) fn value(self, integer: i32) -> f32 {
        (integer - self.zero) as f32 * self.scale
    }

    /// What is left of `x` when it is quantised and dequantised.
    #[inline(always)]
    pub(crate) fn again(self, x: f32) -> f32 {
        canonical(self.round(x) * self.scale)
    }

    /// [`value`](Quantisation::value) of some integers.
    #[inline(always)]
    pub(crate) fn values(self, x: Int8<'_>, y: &mut [f32]) {
        match x {
            Int8::Unsigned(x) => self.widen(x, y),
            Int8::Signed(x) => self.widen(x, y),
        }
    }

    #[inline(always)]
    fn widen<T: Copy + Into<i32>>(self, x: &[T], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = canonical(self.value(x.into()));
        }
    }

    #[inline(always)]
    pub(super) fn narrow<T: Byte>(self, x: &[f32], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = T::of(self.nearest(x));
        }
    }
}

/// Values worth a task of their own.
pub(super) const TASK: usize = 1 << 14;

/// `y[i] = round(x[i] ÷ scale) + zero`, ties to even, clamped to the type's range; NaN gives the zero
/// point, which is one of the type.
///
/// # Panics
/// If the lengths differ.
pub fn quantize(isa: Isa, threads: &Threads, x: &[f32], scale: f32, zero: i32, y: Quantised<'_>) {
    assert_eq!(x.len(), y.len(), "quantize: lengths differ");
    match y {
        Quantised::Unsigned(y) => narrow_all(isa, threads, x, y, scale, zero),
        Quantised::Signed(y) => narrow_all(isa, threads, x, y, scale, zero),
    }
}

fn narrow_all<T: Byte + Send>(
    isa: Isa,
    threads: &Threads,
    x: &[f32],
    y: &mut [T],
    scale: f32,
    zero: i32,
) {
    let signed = T::SIGNED;
    let how = Quantisation {
        scale,
        zero,
        signed,
    };
    threads.chunks(y, TASK, |i, y| {
        let x = &x[i * TASK..][..y.len()];
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = Avx512::on(isa) {
            return wide.quantise(x, how, T::bytes(y));
        }
        isa.run(Narrow { x, how, y });
    });
}

/// An 8-bit integer.
pub(super) trait Byte: Copy + Into<i32> {
    const SIGNED: bool;
    /// The integer, which fits.
    fn of(value: i32) -> Self;
    /// The bits of some.
    fn bytes(values: &mut [Self]) -> &mut [u8];
}

impl Byte for u8 {
    const SIGNED: bool = false;
    #[inline(always)]
    fn of(value: i32) -> u8 {
        value as u8
    }
    fn bytes(values: &mut [u8]) -> &mut [u8] {
        values
    }
}

impl Byte for i8 {
    const SIGNED: bool = true;
    #[inline(always)]
    fn of(value: i32) -> i8 {
        value as i8
    }
    fn bytes(values: &mut [i8]) -> &mut [u8] {
        // SAFETY: both types have one byte, and every byte is one of either.
        unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
    }
}

/// Quantisation of some values.
struct Narrow<'a, T> {
    x: &'a [f32],
    how: Quantisation,
    y: &'a mut [T],
}

impl<T: Byte> Kernel for Narrow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.how.narrow(self.x, self.y);
    }
}
