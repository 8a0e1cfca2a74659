//! Chains in fixed point on tiles, with AVX-512.

use std::arch::x86_64::*;

use super::Int8;
use super::finish512::each;
use super::fixed::{Added, Fixed};
use super::pack::COLUMNS;

/// 64 numbers with 16 bits after the point.
type Fixed64 = [__m512i; 4];

/// Takes 64 sums, which begin in column `column` and at `place` of the result, through a chain to 64 bytes; says whether
/// these are what the chain gives.
///
/// # Safety
/// This machine has these instructions, and `to` 64 places.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn row(
    fixed: &Fixed<'_>,
    sums: &[i32; COLUMNS],
    column: usize,
    place: usize,
    to: *mut u8,
) -> bool {
    let (by, more) = (
        &fixed.by[column..][..COLUMNS],
        &fixed.more[column..][..COLUMNS],
    );
    let scaled = each!(j in [0, 16, 32, 48] => {
        // SAFETY: 16 values each.
        let (sums, by, more) = unsafe {
            let sums = _mm512_loadu_si512(sums.as_ptr().add(j).cast());
            (sums, _mm512_loadu_ps(by.as_ptr().add(j)), _mm512_loadu_ps(more.as_ptr().add(j)))
        };
        _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), by, more))
    });
    let near = _mm512_set1_epi16(fixed.near.cast_signed());
    let (end, least) = match &fixed.added {
        None => (scaled, above(scaled, near)),
        Some(added) => {
            let end = add(added, scaled, place);
            (end, _mm512_min_epu16(above(scaled, near), above(end, near)))
        }
    };
    let bytes = narrow(end, fixed.least, fixed.signed);
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_si512(to.cast(), bytes) };
    _mm512_cmplt_epu16_mask(least, _mm512_add_epi16(near, near)) == 0
}

/// The whole parts of numbers, cut off at the ends, as the steps of 8-bit integers to which others are added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add(added: &Added<'_>, numbers: Fixed64, place: usize) -> Fixed64 {
    let [low, high] = added.ends.map(|end| _mm512_set1_epi32(end));
    let [before, by, more] = [added.before, added.by, added.more].map(|x| _mm512_set1_ps(x));
    let (from, signed) = match added.x.part(place..place + COLUMNS) {
        Int8::Unsigned(x) => (x.as_ptr(), false),
        Int8::Signed(x) => (x.as_ptr().cast(), true),
    };
    each!(number, j in numbers, [0, 16, 32, 48] => {
        // SAFETY: 64 bytes.
        let bytes = unsafe { _mm_loadu_si128(from.add(j).cast()) };
        let bytes = match signed {
            false => _mm512_cvtepu8_epi32(bytes),
            true => _mm512_cvtepi8_epi32(bytes),
        };
        let steps = _mm512_srai_epi32::<16>(number);
        let steps = _mm512_cvtepi32_ps(_mm512_max_epi32(_mm512_min_epi32(steps, high), low));
        let others = _mm512_fmadd_ps(_mm512_cvtepi32_ps(bytes), by, more);
        _mm512_cvtps_epi32(_mm512_fmadd_ps(steps, before, others))
    })
}

/// The words of odd places.
const ODD: u32 = 0xAAAA_AAAA;

/// The bits after the point, raised by `near`, of which those near to an integer are then the least; of each pair of
/// words the lesser.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn above(numbers: Fixed64, near: __m512i) -> __m512i {
    let [a, b, c, d] = numbers;
    let pair = |a, b| _mm512_mask_mov_epi16(a, ODD, _mm512_slli_epi32::<16>(b));
    let (ab, cd) = (pair(a, b), pair(c, d));
    _mm512_min_epu16(_mm512_add_epi16(ab, near), _mm512_add_epi16(cd, near))
}

/// The whole parts as 8-bit integers, cut off at the ends of their type and at `least`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn narrow(numbers: Fixed64, least: i32, signed: bool) -> __m512i {
    let [a, b, c, d] = numbers;
    let pair = |a, b| _mm512_mask_mov_epi16(_mm512_srli_epi32::<16>(a), ODD, b);
    let (ab, cd) = (pair(a, b), pair(c, d));
    let least = _mm512_set1_epi8(least as i8);
    let bytes = match signed {
        true => _mm512_max_epi8(_mm512_packs_epi16(ab, cd), least),
        false => _mm512_max_epu8(_mm512_packus_epi16(ab, cd), least),
    };
    // Each quarter has four values of each register: of the first and second turn by turn, then of the others.
    let apart = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    let bytes = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(apart));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, bytes)
}
