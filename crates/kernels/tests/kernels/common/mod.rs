//! What the tests of the kernels share: fixed inputs and comparison of bits.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod reference;

use lemma_kernels::{Isa, Threads};

/// Calls `check` with each instruction set and 1, 2 and 3 threads.
pub(crate) fn everywhere(mut check: impl FnMut(Isa, &Threads)) {
    for threads in 1..=3 {
        let threads = Threads::new(threads);
        for isa in Isa::available() {
            check(isa, &threads);
        }
    }
}

/// A product of 8-bit integers by its definition; zero points are one, or one for each row or column.
pub(crate) fn product(
    [m, k, n]: [usize; 3],
    [a, b]: [&[i32]; 2],
    [a_zero, b_zero]: [&[i32]; 2],
) -> Vec<i32> {
    let of = |i: usize| {
        let (row, column) = (i / n, i % n);
        let (za, zb) = (a_zero[row % a_zero.len()], b_zero[column % b_zero.len()]);
        (0..k).fold(0i32, |s, j| {
            s.wrapping_add((a[row * k + j] - za).wrapping_mul(b[j * n + column] - zb))
        })
    };
    (0..m * n).map(of).collect()
}

/// A small generator of fixed pseudo-random numbers (xorshift64*).
pub(crate) struct Source(u64);

impl Source {
    pub(crate) fn new(seed: u64) -> Source {
        Source(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() >> 33) as usize % bound
    }

    /// In (−1, 1), with 24 significant bits.
    pub(crate) fn value(&mut self) -> f32 {
        (self.bits() >> 39) as f32 / (1u32 << 24) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Values of every kind: ordinary ones, wide exponents, and specials.
    pub(crate) fn wild(&mut self, n: usize) -> Vec<f32> {
        let specials = specials();
        (0..n)
            .map(|_| match self.below(8) {
                0 => specials[self.below(specials.len())],
                1 | 2 => f32::from_bits(self.bits() as u32),
                _ => self.value(),
            })
            .collect()
    }
}

/// Zeros, subnormals, the extremes, infinities, and NaNs of several payloads and signs.
pub(crate) fn specials() -> Vec<f32> {
    let mut all = Vec::new();
    for bits in [
        0u32,
        1,
        2,
        0x007f_ffff,
        0x0080_0000,
        0x0080_0001,
        0x3400_0000,
        0x3f00_0000,
        0x3f7f_ffff,
        0x3f80_0000,
        0x3f80_0001,
        0x4000_0000,
        0x4b00_0000,
        0x4b80_0001,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0x7fa0_0000,
        0x7fc0_0000,
        0x7fff_ffff,
    ] {
        all.push(f32::from_bits(bits));
        all.push(f32::from_bits(bits | 0x8000_0000));
    }
    all
}

/// Fails at the first value whose bits differ.
#[track_caller]
pub(crate) fn assert_same_bits(found: &[f32], expected: &[f32], what: impl std::fmt::Display) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            f.to_bits() == e.to_bits(),
            "{what}: value {i} is {f:e} ({:#010x}), not {e:e} ({:#010x})",
            f.to_bits(),
            e.to_bits()
        );
    }
}

/// Fails unless every NaN among the values is the canonical one.
#[track_caller]
pub(crate) fn assert_canonical(values: &[f32], what: impl std::fmt::Display) {
    for (i, v) in values.iter().enumerate() {
        assert!(
            !v.is_nan() || v.to_bits() == 0x7fc0_0000,
            "{what}: value {i} is a NaN of bits {:#010x}",
            v.to_bits()
        );
    }
}
