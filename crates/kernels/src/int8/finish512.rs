//! Operations on 64 columns at a time in four registers of AVX-512.

use std::arch::x86_64::*;

use super::Int8;
use super::finish::{Finished, Quantisation, SHIFT, To};
use super::ops::{Op, Operand};
use super::pack::COLUMNS;
use super::walk::{Fold, Place, Tile};
use crate::elementwise::Binary;
use crate::isa::Isa;
use crate::math::CANONICAL_NAN;

/// Proof that this machine has AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

type V = [__m512; 4];

impl Avx512 {
    pub(super) fn on(isa: Isa) -> Option<Avx512> {
        isa.is_avx512().then_some(Avx512(()))
    }

    /// Takes a tile through `ops` to the result.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    pub(super) unsafe fn tile(
        self,
        store: &Finished<'_, '_>,
        ops: &[Op<'_>],
        at: Place,
        fold: &Fold<'_>,
        tile: &Tile,
    ) {
        // SAFETY: `self` exists only where the machine has these instructions; the caller's part.
        unsafe {
            match at.width {
                COLUMNS => finish::<true>(store, ops, at, fold, tile),
                _ => finish::<false>(store, ops, at, fold, tile),
            }
        }
    }

    /// Takes integers of row `row` through `ops` to the result.
    ///
    /// # Safety
    /// Nobody else uses this row of the result.
    pub(super) unsafe fn row(
        self,
        store: &Finished<'_, '_>,
        ops: &[Op<'_>],
        row: usize,
        x: Int8<'_>,
        how: Quantisation,
    ) {
        // SAFETY: `self` exists only where the machine has these instructions; the caller's part.
        unsafe { dequantise(store, ops, row, x, how) }
    }
}

/// A bit for each of `width` columns.
fn mask(width: usize) -> u64 {
    u64::MAX >> (COLUMNS - width)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn finish<const FULL: bool>(
    store: &Finished<'_, '_>,
    ops: &[Op<'_>],
    at: Place,
    fold: &Fold<'_>,
    tile: &Tile,
) {
    let mask = if FULL { u64::MAX } else { mask(at.width) };
    for (i, sums) in tile[..at.count].iter().enumerate() {
        let values: V = std::array::from_fn(|j| {
            // SAFETY: 64 values each.
            unsafe {
                let sums = _mm512_loadu_si512(sums.as_ptr().add(16 * j).cast());
                let less = _mm512_loadu_si512(fold.columns.as_ptr().add(16 * j).cast());
                _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, less))
            }
        });
        // SAFETY: the caller's part of the result.
        unsafe { go_on::<FULL>(store, ops, at.row + i, at.column, mask, values) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn dequantise(
    store: &Finished<'_, '_>,
    ops: &[Op<'_>],
    row: usize,
    x: Int8<'_>,
    how: Quantisation,
) {
    for column in (0..x.len()).step_by(COLUMNS) {
        let width = COLUMNS.min(x.len() - column);
        let mask = mask(width);
        let part = x.part(column..column + width);
        // SAFETY: the caller's part of the result.
        unsafe {
            if width == COLUMNS {
                let values = widen::<true>(part, how, mask);
                go_on::<true>(store, ops, row, column, mask, values);
            } else {
                let values = widen::<false>(part, how, mask);
                go_on::<false>(store, ops, row, column, mask, values);
            }
        }
    }
}

/// Floats of the columns of a mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load<const FULL: bool>(x: &[f32], mask: u64) -> V {
    assert!(
        x.len() == mask.count_ones() as usize,
        "a value for each column"
    );
    std::array::from_fn(|j| {
        // SAFETY: the mask has a bit for each value, 64 if all are there.
        unsafe {
            let from = x.as_ptr().wrapping_add(16 * j);
            match FULL {
                true => _mm512_loadu_ps(from),
                false => _mm512_maskz_loadu_ps((mask >> (16 * j)) as u16, from),
            }
        }
    })
}

/// What the integers of the columns of a mask stand for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn widen<const FULL: bool>(x: Int8<'_>, how: Quantisation, mask: u64) -> V {
    assert!(
        x.len() == mask.count_ones() as usize,
        "a value for each column"
    );
    let from = match x {
        Int8::Unsigned(x) => x.as_ptr(),
        Int8::Signed(x) => x.as_ptr().cast(),
    };
    let (zero, scale) = (_mm512_set1_epi32(how.zero), _mm512_set1_ps(how.scale));
    std::array::from_fn(|j| {
        // SAFETY: the mask has a bit for each value, 64 if all are there.
        let bytes = unsafe {
            let from = from.wrapping_add(16 * j);
            match FULL {
                true => _mm_loadu_si128(from.cast()),
                false => _mm_maskz_loadu_epi8((mask >> (16 * j)) as u16, from.cast()),
            }
        };
        let wide = match x {
            Int8::Unsigned(_) => _mm512_cvtepu8_epi32(bytes),
            Int8::Signed(_) => _mm512_cvtepi8_epi32(bytes),
        };
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(wide, zero)), scale)
    })
}

/// Steps from 0, cut off at the ends; 0 of NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn steps(v: V, how: Quantisation) -> V {
    let [low, high] = how.ends().map(|end| _mm512_set1_ps(end as f32));
    let scale = _mm512_set1_ps(how.scale);
    v.map(|v| {
        let steps = _mm512_div_ps(v, scale);
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(steps, steps);
        _mm512_max_ps(_mm512_maskz_min_ps(number, steps, high), low)
    })
}

/// Applies `ops` to columns of a row and writes them.
///
/// # Safety
/// Nobody else uses this part of the result.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn go_on<const FULL: bool>(
    store: &Finished<'_, '_>,
    ops: &[Op<'_>],
    row: usize,
    column: usize,
    mask: u64,
    mut values: V,
) {
    let width = if FULL {
        COLUMNS
    } else {
        mask.count_ones() as usize
    };
    let at = row * store.n + column;
    for op in ops {
        values = match *op {
            Op::Relu => values.map(|v| {
                let above = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(v, _mm512_setzero_ps());
                _mm512_maskz_mov_ps(above, v)
            }),
            Op::Requantise(how) => {
                let (scale, shift) = (_mm512_set1_ps(how.scale), _mm512_set1_ps(SHIFT));
                steps(values, how).map(|v| {
                    // Rounds; 0 has no sign.
                    let whole = _mm512_sub_ps(_mm512_add_ps(v, shift), shift);
                    _mm512_mul_ps(whole, scale)
                })
            }
            Op::Binary(op, other) => {
                let other = match other {
                    Operand::Scalar(x) => [_mm512_set1_ps(x); 4],
                    Operand::Columns(x) => load::<FULL>(&x[column..column + width], mask),
                    Operand::Matrix(x) => load::<FULL>(&x[at..at + width], mask),
                    Operand::Bytes(x, how) => widen::<FULL>(x.part(at..at + width), how, mask),
                };
                binary(op, values, other)
            }
        };
    }
    // SAFETY: the caller's part of the result.
    unsafe {
        match &store.to {
            To::Float(y) => float(values, y.slice(at, width), mask),
            To::Unsigned(y, how) => {
                let y = y.slice(at, width).as_mut_ptr();
                narrow::<FULL>(values, *how, y, mask);
            }
            To::Signed(y, how) => {
                let y = y.slice(at, width).as_mut_ptr().cast();
                narrow::<FULL>(values, *how, y, mask);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn binary(op: Binary, a: V, b: V) -> V {
    match op {
        Binary::Add => std::array::from_fn(|j| _mm512_add_ps(a[j], b[j])),
        Binary::Sub => std::array::from_fn(|j| _mm512_sub_ps(a[j], b[j])),
        Binary::Mul => std::array::from_fn(|j| _mm512_mul_ps(a[j], b[j])),
        Binary::Div => std::array::from_fn(|j| _mm512_div_ps(a[j], b[j])),
        Binary::Max => std::array::from_fn(|j| {
            // +0 is larger than −0, NaN than everything.
            let larger = _mm512_max_ps(a[j], b[j]);
            let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a[j], b[j]);
            let larger = _mm512_mask_and_ps(larger, equal, a[j], b[j]);
            ordered(a[j], b[j], larger)
        }),
        _ => std::array::from_fn(|j| {
            let smaller = _mm512_min_ps(a[j], b[j]);
            let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a[j], b[j]);
            let smaller = _mm512_mask_or_ps(smaller, equal, a[j], b[j]);
            ordered(a[j], b[j], smaller)
        }),
    }
}

/// NaN where one of two values is, else the third.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn ordered(a: __m512, b: __m512, chosen: __m512) -> __m512 {
    let neither = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b);
    _mm512_mask_mov_ps(chosen, neither, _mm512_set1_ps(CANONICAL_NAN))
}

/// Writes floats; NaN in its one form.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn float(values: V, y: &mut [f32], mask: u64) {
    assert!(
        y.len() == mask.count_ones() as usize,
        "a place for each column"
    );
    for (j, v) in values.into_iter().enumerate() {
        let v = ordered(v, v, v);
        // SAFETY: the mask has a bit for each place.
        unsafe {
            let to = y.as_mut_ptr().wrapping_add(16 * j);
            _mm512_mask_storeu_ps(to, (mask >> (16 * j)) as u16, v);
        }
    }
}

/// Writes quantised values.
///
/// # Safety
/// Each bit of the mask has a place in `y`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn narrow<const FULL: bool>(values: V, how: Quantisation, y: *mut u8, mask: u64) {
    let zero = _mm512_set1_epi32(how.zero);
    // To nearest, ties to even, which is the mode that Rust programs run in.
    let [a, b, c, d] = steps(values, how).map(|v| _mm512_add_epi32(_mm512_cvtps_epi32(v), zero));
    // All are within the type: nothing saturates.
    let (ab, cd) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    let bytes = match how.signed {
        true => _mm512_packs_epi16(ab, cd),
        false => _mm512_packus_epi16(ab, cd),
    };
    // Each quarter has four values of each register.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let bytes = _mm512_permutexvar_epi32(order, bytes);
    // SAFETY: the caller's promise.
    unsafe {
        match FULL {
            true => _mm512_storeu_si512(y.cast(), bytes),
            false => _mm512_mask_storeu_epi8(y.cast(), mask, bytes),
        }
    }
}
