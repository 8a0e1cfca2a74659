//! Products of 8-bit integers in 32 bits.
//!
//! `C = (A − a₀) · (B − b₀)` for `A` of u8 or i8 (activations) and `B` of u8 or i8 (weights), each
//! with its zero point, in i32 that wraps. Wrapping sums are exact whatever their order, so every
//! instruction set and any tiling gives the same values, and zero points may be folded:
//!
//! ```text
//! Σ (a − a₀)(b − b₀) = Σ a·b − a₀·Σ b − b₀·Σ a + k·a₀·b₀
//! ```
//!
//! The sums over b are taken when B is packed, those over a only where b₀ is not 0.
//!
//! # Use
//!
//! [`PackedInt8::pack`] arranges a constant B once and [`gemm_int8`] multiplies; for a B that is no
//! constant, pack in each run, which [`matmul_int8_with`] does for many, wherever they lie in a tensor. [`FiltersInt8::pack`] and [`conv_int8`] are the same for convolution.
//! [`gemm_int8_with`] and [`conv_int8_last`] (channels last) go on with the sums as f32: scales, biases
//! and what else elementwise follows, up to quantisation, are applied while they are in the cache.
//! Zero points are passed as `i32`, one for all or one for each row of A, column of B or output
//! channel. A place in the padding of a convolution has the value of the input's zero point, so
//! that it counts as 0.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod conv;
mod depthwise;
mod finish;
#[cfg(target_arch = "x86_64")]
mod finish512;
#[cfg(target_arch = "x86_64")]
mod fixed;
#[cfg(target_arch = "x86_64")]
mod fixed256;
#[cfg(target_arch = "x86_64")]
mod fixed512;
#[cfg(target_arch = "x86_64")]
mod gelu;
mod input;
mod last;
#[cfg(target_arch = "x86_64")]
mod near;
#[cfg(target_arch = "aarch64")]
mod neon;
mod ops;
mod pack;
mod pairs;
mod portable;
mod quantise;
mod table;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod walk;
mod ways;
#[cfg(target_arch = "x86_64")]
mod winograd;

use std::mem::MaybeUninit;

use crate::chain::Chain;
use crate::isa::Isa;
use crate::threads::{Slots, Threads};
pub use conv::{FiltersInt8, conv_int8};
use finish::Finished;
pub use finish::dequantize;
pub use last::{FiltersInt8Last, conv_int8_last, conv_int8_last_scratch};
pub use pack::PackedInt8;
pub use pairs::{MatricesInt8, matmul_int8_with};
pub use quantise::{Output, Quantisation, Quantised, quantize};
use walk::{Finish, Left, Sums, in_a_row, multiply_rows, raised};

/// A type of 8-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8<'a> {
    /// Without a sign.
    Unsigned(&'a [u8]),
    /// In two's complement.
    Signed(&'a [i8]),
}

impl<'a> Int8<'a> {
    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Int8::Unsigned(v) => v.len(),
            Int8::Signed(v) => v.len(),
        }
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `i` as it is.
    fn at(&self, i: usize) -> i32 {
        match self {
            Int8::Unsigned(v) => i32::from(v[i]),
            Int8::Signed(v) => i32::from(v[i]),
        }
    }

    /// The bits of the values.
    fn bits(self) -> &'a [u8] {
        match self {
            Int8::Unsigned(v) => v,
            // SAFETY: both types have one byte, and every byte is one of either.
            Int8::Signed(v) => unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), v.len()) },
        }
    }

    /// Some of the values.
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Int8<'_> {
        match self {
            Int8::Unsigned(v) => Int8::Unsigned(&v[range]),
            Int8::Signed(v) => Int8::Signed(&v[range]),
        }
    }

    /// The bytes, and the number to add to each, as one without a sign, to have the value: signed
    /// values are stored 128 higher.
    fn raise(&self, range: std::ops::Range<usize>, out: &mut [u8]) {
        match self {
            Int8::Unsigned(v) => out.copy_from_slice(&v[range]),
            Int8::Signed(v) => {
                for (out, &v) in out.iter_mut().zip(&v[range]) {
                    *out = v.cast_unsigned() ^ 0x80;
                }
            }
        }
    }

    /// [`raise`](Int8::raise) to memory of which nothing is known; all of it is written.
    fn write(&self, range: std::ops::Range<usize>, out: &mut [MaybeUninit<u8>]) {
        match self {
            Int8::Unsigned(v) => {
                out.write_copy_of_slice(&v[range]);
            }
            Int8::Signed(v) => {
                let v = &v[range];
                assert_eq!(v.len(), out.len(), "a place for each value");
                for (out, &v) in out.iter_mut().zip(v) {
                    out.write(v.cast_unsigned() ^ 0x80);
                }
            }
        }
    }

    /// One value as [`raise`](Int8::raise) stores it.
    fn raised(&self, i: usize) -> u8 {
        match self {
            Int8::Unsigned(v) => v[i],
            Int8::Signed(v) => v[i].cast_unsigned() ^ 0x80,
        }
    }

    fn raised_by(&self) -> i32 {
        match self {
            Int8::Unsigned(_) => 0,
            Int8::Signed(_) => 128,
        }
    }
}

/// Zero points: one for all rows or columns, or one for each.
pub type ZeroPoints<'a> = &'a [i32];

/// `C = (A − a₀) · (B − b₀)`: `a` is `m × k`, `c` is `m × n`, both row-major; sums wrap.
///
/// `a_zero` has one zero point, or one for each row; `b_zero` one, or one for each column.
///
/// # Panics
/// If a length is another than the shapes say.
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices with zero points, and how"
)]
pub fn gemm_int8(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: Int8<'_>,
    a_zero: ZeroPoints<'_>,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    c: &mut [i32],
) {
    let n = b.n();
    check_product(m, a.len(), b, c.len());
    assert!(
        (a_zero.len() == 1 || a_zero.len() == m) && (b_zero.len() == 1 || b_zero.len() == n),
        "gemm_int8: zero points of {m} × {n}"
    );
    let raised = a.raised_by();
    let zeros: Vec<i32> = a_zero.iter().map(|z| z.wrapping_add(raised)).collect();
    let out = Sums {
        out: Slots::of(c),
        n,
    };
    multiply_matrix(isa, threads, m, &a, &zeros, b, b_zero, &out);
}

/// A product of rows that lie one after another.
#[allow(clippy::too_many_arguments, reason = "as gemm_int8")]
fn multiply_matrix(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: &Int8<'_>,
    zeros: ZeroPoints<'_>,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    out: &impl Finish,
) {
    let mut copy = Vec::new();
    let (values, stride) = raised(threads, a, m, b.k(), &mut copy);
    let left = Left {
        values,
        starts: &in_a_row(stride),
        runs: if b.k() == 0 { &[] } else { &[0] },
        zeros,
        weight: stride,
    };
    multiply_rows(isa, threads, m, &left, b, b_zero, out);
}

/// Bytes that each thread of [`gemm_int8`] holds beside its operands, at most, for a left matrix that is `m × k`.
#[must_use]
pub fn gemm_int8_scratch(isa: Isa, m: usize, k: usize) -> u64 {
    walk::scratch(isa, m, k, k.div_ceil(pack::QUAD))
}

fn check_product(m: usize, a: usize, b: &PackedInt8, c: usize) {
    let (k, n) = (b.k(), b.n());
    assert_eq!(
        Some(a),
        m.checked_mul(k),
        "gemm_int8: left matrix is not {m} × {k}"
    );
    assert_eq!(
        Some(c),
        m.checked_mul(n),
        "gemm_int8: result is not {m} × {n}"
    );
}

/// [`gemm_int8`] with one zero point for all of A, whose sums become f32 (rounded to nearest); a
/// chain follows on them, and where the result is to be 8-bit integers, quantisation.
///
/// # Panics
/// If a length is another than the shapes say, or an operand of the chain does not fit.
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices with zero points, how, and what follows"
)]
pub fn gemm_int8_with(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: Int8<'_>,
    a_zero: i32,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    chain: &Chain<'_>,
    c: Output<'_>,
) {
    let n = b.n();
    check_product(m, a.len(), b, c.len());
    assert!(
        b_zero.len() == 1 || b_zero.len() == n,
        "gemm_int8: zero points of {n} columns"
    );
    chain.check("gemm_int8", m, n);
    assert!(!chain.by_rows(), "gemm_int8: a chain with softmax");
    let zero = a_zero.wrapping_add(a.raised_by());
    let out = Finished::of_sums(isa, n, chain, c);
    multiply_matrix(isa, threads, m, &a, &[zero], b, b_zero, &out);
}
