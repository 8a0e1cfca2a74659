//! Chains in fixed point on tiles, with AVX-512.

use std::arch::x86_64::*;

use super::Int8;
use super::finish512::each;
use super::fixed::{Added, Fixed};
use super::pack::COLUMNS;

/// 64 numbers with 16 bits after the point.
type Fixed64 = [__m512i; 4];

/// The bytes that the sums of a tile become, from a first one on.
pub(super) struct Bytes<'a> {
    pub(super) fixed: &'a Fixed<'a>,
    /// The column of the first, and its place in the result.
    pub(super) column: usize,
    pub(super) place: usize,
    pub(super) to: *mut u8,
    /// How far rows are apart.
    pub(super) apart: usize,
}

/// Takes the sums of row `i` through a chain to 64 bytes; says whether these are what the chain gives.
///
/// This and what it calls are always inlined, so that the sums stay in registers: they are compiled for the caller's
/// instructions.
///
/// # Safety
/// The caller is compiled for AVX-512 F, BW, DQ and VL. The row has 64 bytes, which nobody else uses.
#[inline(always)]
pub(super) unsafe fn row(bytes: &Bytes<'_>, i: usize, sums: Fixed64) -> bool {
    let (fixed, column) = (bytes.fixed, bytes.column);
    let by = fixed.by[column..][..COLUMNS].as_ptr();
    let more = fixed.more[column..][..COLUMNS].as_ptr();
    let to = bytes.to.wrapping_add(i * bytes.apart);
    // SAFETY: the caller's promise; `by` and `more` have 64 values.
    unsafe {
        let scaled = each!(sums, j in sums, [0, 16, 32, 48] => {
            let (by, more) = (_mm512_loadu_ps(by.add(j)), _mm512_loadu_ps(more.add(j)));
            _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), by, more))
        });
        let near = _mm512_set1_epi16(fixed.near.cast_signed());
        let mut least = above(scaled, near);
        let mut end = scaled;
        if let Some(added) = &fixed.added {
            end = add(added, scaled, bytes.place + i * bytes.apart);
            least = _mm512_min_epu16(least, above(end, near));
        }
        _mm512_storeu_si512(to.cast(), narrow(end, fixed));
        _mm512_cmplt_epu16_mask(least, _mm512_add_epi16(near, near)) == 0
    }
}

/// The whole parts of numbers, cut off at the ends, as the steps of 8-bit integers to which others are added.
///
/// # Safety
/// The caller is compiled for these instructions.
#[inline(always)]
unsafe fn add(added: &Added<'_>, numbers: Fixed64, place: usize) -> Fixed64 {
    let others = added.x.part(place..place + COLUMNS);
    // SAFETY: the caller's promise; there are 64 others.
    unsafe {
        let [low, high] = [
            _mm512_set1_epi32(added.ends[0]),
            _mm512_set1_epi32(added.ends[1]),
        ];
        let [before, by] = [_mm512_set1_ps(added.before), _mm512_set1_ps(added.by)];
        let more = _mm512_set1_ps(added.more);
        let others = match others {
            Int8::Unsigned(x) => each!(j in [0, 16, 32, 48] => {
                _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().add(j).cast()))
            }),
            Int8::Signed(x) => each!(j in [0, 16, 32, 48] => {
                _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().add(j).cast()))
            }),
        };
        each!(number, others in numbers, others => {
            let steps = _mm512_srai_epi32::<16>(number);
            let steps = _mm512_cvtepi32_ps(_mm512_max_epi32(_mm512_min_epi32(steps, high), low));
            let others = _mm512_fmadd_ps(_mm512_cvtepi32_ps(others), by, more);
            _mm512_cvtps_epi32(_mm512_fmadd_ps(steps, before, others))
        })
    }
}

/// The words of odd places.
const ODD: u32 = 0xAAAA_AAAA;

/// The bits after the point, raised by `near`, of which those near to an integer are then the least; of each pair of
/// words the lesser.
///
/// # Safety
/// The caller is compiled for these instructions.
#[inline(always)]
unsafe fn above(numbers: Fixed64, near: __m512i) -> __m512i {
    let [a, b, c, d] = numbers;
    // SAFETY: the caller's promise.
    unsafe {
        let ab = _mm512_mask_mov_epi16(a, ODD, _mm512_slli_epi32::<16>(b));
        let cd = _mm512_mask_mov_epi16(c, ODD, _mm512_slli_epi32::<16>(d));
        _mm512_min_epu16(_mm512_add_epi16(ab, near), _mm512_add_epi16(cd, near))
    }
}

/// The whole parts as bytes, cut off at the ends and at the least one.
///
/// # Safety
/// The caller is compiled for these instructions.
#[inline(always)]
unsafe fn narrow(numbers: Fixed64, fixed: &Fixed<'_>) -> __m512i {
    let [a, b, c, d] = numbers;
    // SAFETY: the caller's promise.
    unsafe {
        let ab = _mm512_mask_mov_epi16(_mm512_srli_epi32::<16>(a), ODD, b);
        let cd = _mm512_mask_mov_epi16(_mm512_srli_epi32::<16>(c), ODD, d);
        let least = _mm512_set1_epi8(fixed.least.cast_signed());
        let bytes = _mm512_max_epu8(_mm512_packus_epi16(ab, cd), least);
        // Each quarter has four values of each register: of the first and second turn by turn, then of the others.
        let apart = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
        let bytes = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(apart));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let flip = _mm512_set1_epi8(fixed.flip.cast_signed());
        _mm512_xor_si512(_mm512_permutexvar_epi32(order, bytes), flip)
    }
}
