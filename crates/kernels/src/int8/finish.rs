//! From sums to values: f32, a chain of elementwise operations, and 8-bit integers again.

use super::{Int8, Store};
use crate::chain::Chain;
use crate::isa::{Isa, Kernel};
use crate::math::canonical;
use crate::threads::{Slots, Threads};

/// 8-bit integers that are written.
#[derive(Debug)]
pub enum Quantised<'a> {
    /// Without a sign.
    Unsigned(&'a mut [u8]),
    /// In two's complement.
    Signed(&'a mut [i8]),
}

impl Quantised<'_> {
    fn len(&self) -> usize {
        match self {
            Quantised::Unsigned(y) => y.len(),
            Quantised::Signed(y) => y.len(),
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

/// Values worth a task of their own.
const TASK: usize = 1 << 14;

/// `y[i] = round(x[i] ÷ scale) + zero`, ties to even, clamped to the type's range; NaN gives the zero
/// point.
///
/// # Panics
/// If the lengths differ.
pub fn quantize(isa: Isa, threads: &Threads, x: &[f32], scale: f32, zero: i32, y: Quantised<'_>) {
    assert_eq!(x.len(), y.len(), "quantize: lengths differ");
    match y {
        Quantised::Unsigned(y) => threads.chunks(y, TASK, |i, y| {
            let x = &x[i * TASK..][..y.len()];
            isa.run(Narrow { x, scale, zero, y });
        }),
        Quantised::Signed(y) => threads.chunks(y, TASK, |i, y| {
            let x = &x[i * TASK..][..y.len()];
            isa.run(Narrow { x, scale, zero, y });
        }),
    }
}

/// `y[i] = f32(x[i] − zero) × scale`, followed by a chain, on rows of `n` values.
///
/// # Panics
/// If the lengths differ, the values are no whole number of rows, or an operand of the chain does
/// not fit.
#[allow(clippy::too_many_arguments, reason = "what, how, and what follows")]
pub fn dequantize(
    isa: Isa,
    threads: &Threads,
    x: Int8<'_>,
    scale: f32,
    zero: i32,
    n: usize,
    chain: &Chain<'_>,
    y: Output<'_>,
) {
    assert_eq!(x.len(), y.len(), "dequantize: lengths differ");
    assert!(
        n > 0 && x.len().is_multiple_of(n),
        "dequantize: {} values are no rows of {n}",
        x.len()
    );
    let m = x.len() / n;
    chain.check("dequantize", m, n);
    let together = (TASK / n).max(1);
    let store = Finished::new(isa, n, chain, y);
    threads.run(m.div_ceil(together), |task| {
        let row = task * together;
        let rows = together.min(m - row);
        let range = row * n..(row + rows) * n;
        let mut values = vec![0.0; range.len()];
        match x {
            Int8::Unsigned(x) => isa.run(Widen {
                x: &x[range],
                scale,
                zero,
                y: &mut values,
            }),
            Int8::Signed(x) => isa.run(Widen {
                x: &x[range],
                scale,
                zero,
                y: &mut values,
            }),
        }
        // SAFETY: rows of a task are its own.
        unsafe { store.store(row, 0, n, &mut values) };
    });
}

/// Takes sums through a chain to an output.
pub(super) struct Finished<'a, 'c> {
    isa: Isa,
    n: usize,
    chain: &'a Chain<'c>,
    to: To<'a>,
}

enum To<'a> {
    Float(Slots<'a, f32>),
    Unsigned(Slots<'a, u8>, f32, i32),
    Signed(Slots<'a, i8>, f32, i32),
}

impl<'a, 'c> Finished<'a, 'c> {
    pub(super) fn new(isa: Isa, n: usize, chain: &'a Chain<'c>, out: Output<'a>) -> Self {
        let to = match out {
            Output::Float(y) => To::Float(Slots::of(y)),
            Output::Quantised { y, scale, zero } => match y {
                Quantised::Unsigned(y) => To::Unsigned(Slots::of(y), scale, zero),
                Quantised::Signed(y) => To::Signed(Slots::of(y), scale, zero),
            },
        };
        Finished { isa, n, chain, to }
    }
}

impl Store for Finished<'_, '_> {
    type Sum = f32;

    unsafe fn store(&self, row: usize, column: usize, width: usize, values: &mut [f32]) {
        let (isa, n) = (self.isa, self.n);
        if width == n {
            self.chain.apply(isa, row, n, values);
        } else {
            for (i, line) in values.chunks_exact_mut(width).enumerate() {
                self.chain.apply_part(isa, row + i, n, column, line);
            }
        }
        for (i, x) in values.chunks_exact(width).enumerate() {
            let start = (row + i) * n + column;
            // SAFETY: the caller's part of the result.
            unsafe {
                match &self.to {
                    To::Float(y) => y.slice(start, width).copy_from_slice(x),
                    &To::Unsigned(ref y, scale, zero) => isa.run(Narrow {
                        x,
                        scale,
                        zero,
                        y: y.slice(start, width),
                    }),
                    &To::Signed(ref y, scale, zero) => isa.run(Narrow {
                        x,
                        scale,
                        zero,
                        y: y.slice(start, width),
                    }),
                }
            }
        }
    }
}

/// An 8-bit integer.
trait Byte: Copy + Into<i32> {
    const LOW: i32;
    const HIGH: i32;
    fn of(value: i32) -> Self;
}

impl Byte for u8 {
    const LOW: i32 = 0;
    const HIGH: i32 = 255;
    #[inline(always)]
    fn of(value: i32) -> u8 {
        value as u8
    }
}

impl Byte for i8 {
    const LOW: i32 = -128;
    const HIGH: i32 = 127;
    #[inline(always)]
    fn of(value: i32) -> i8 {
        value as i8
    }
}

/// Quantisation of some values.
struct Narrow<'a, T> {
    x: &'a [f32],
    scale: f32,
    zero: i32,
    y: &'a mut [T],
}

impl<T: Byte> Kernel for Narrow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Beyond so many steps every integer of 8 bits is at its end, whatever the zero point.
        const FAR: f32 = 1024.0;
        /// Adding this rounds to an integer, ties to even, which the low bits then hold.
        const SHIFT: f32 = 12_582_912.0;
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            let steps = x / self.scale;
            let steps = if steps.is_nan() { 0.0 } else { steps };
            let steps = if steps > FAR { FAR } else { steps };
            let steps = if steps < -FAR { -FAR } else { steps };
            let steps = (steps + SHIFT).to_bits().cast_signed() - SHIFT.to_bits().cast_signed();
            *y = T::of((steps + self.zero).clamp(T::LOW, T::HIGH));
        }
    }
}

/// Dequantisation of some values.
struct Widen<'a, T> {
    x: &'a [T],
    scale: f32,
    zero: i32,
    y: &'a mut [f32],
}

impl<T: Byte> Kernel for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            let steps: i32 = x.into() - self.zero;
            *y = canonical(steps as f32 * self.scale);
        }
    }
}
