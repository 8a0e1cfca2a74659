//! Chains in fixed point on tiles, with AVX2.

use std::arch::x86_64::*;

use super::Int8;
use super::fixed::{Added, Bytes, Other, Unit};
use super::gelu;
use super::pack::COLUMNS;

/// Columns that are handled at a time.
const PIECE: usize = 16;

/// Numbers of a piece: of eight columns and of eight more.
type Two = [__m256; 2];

/// The same with 16 bits after the point.
type Fixed16 = [__m256i; 2];

/// Takes the sums of some rows, at most 8, to bytes. A bit for each of them that says whether these may not be what the chain
/// gives.
///
/// # Safety
/// This machine has these instructions. Each row has as many bytes as the width says, which nobody else uses.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn rows(bytes: &Bytes<'_>, tile: &[[i32; COLUMNS]]) -> u8 {
    let mut uncertain = 0;
    // SAFETY: the caller's promise.
    unsafe {
        if bytes.width < PIECE {
            return piece::<false>(bytes, 0, tile);
        }
        for first in (0..bytes.width).step_by(PIECE) {
            // The last one goes over some columns again rather than over fewer.
            uncertain |= piece::<true>(bytes, first.min(bytes.width - PIECE), tile);
        }
    }
    uncertain
}

/// The columns from `first` on: a whole piece, or all there are.
///
/// # Safety
/// As [`rows`].
#[target_feature(enable = "avx2,fma")]
unsafe fn piece<const FULL: bool>(bytes: &Bytes<'_>, first: usize, tile: &[[i32; COLUMNS]]) -> u8 {
    let width = if FULL { PIECE } else { bytes.width };
    let (fixed, column) = (bytes.fixed, bytes.column + first);
    let (by, more) = (load(&fixed.by[column..]), load(&fixed.more[column..]));
    let near = _mm256_set1_epi16(fixed.near.cast_signed());
    let unknown = _mm256_add_epi16(near, near);
    let missing = if FULL {
        _mm256_setzero_si256()
    } else {
        missing(width)
    };
    let [least, flip] = [fixed.least, fixed.flip].map(|byte| _mm_set1_epi8(byte.cast_signed()));
    let adding = fixed.added.as_ref().map(|added| Adding::new(added, column));
    let mut uncertain = 0;
    for (i, sums) in tile.iter().enumerate() {
        let sums = &sums[first..][..PIECE];
        // SAFETY: eight of 16 sums each.
        let sum = |j| unsafe { _mm256_loadu_si256(sums.as_ptr().add(j).cast()) };
        let [a, b] = [sum(0), sum(8)];
        let mut scaled = fused([_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)], by, more);
        let mut nearest = unknown;
        let place = first + i * bytes.apart;
        if let Some(adding) = &adding {
            let steps = nearest_to(scaled);
            nearest = _mm256_min_epu16(nearest, above(steps, near, missing));
            scaled = adding.add::<FULL>(steps, bytes.place + place, width);
        }
        if let Some(unit) = &fixed.unit {
            scaled = apply(unit, scaled);
        }
        let end = nearest_to(scaled);
        nearest = _mm256_min_epu16(nearest, above(end, near, missing));
        let made = _mm_xor_si128(_mm_max_epu8(narrow(end), least), flip);
        let to = bytes.to.wrapping_add(place);
        // SAFETY: the caller's promise.
        unsafe {
            match FULL {
                true => _mm_storeu_si128(to.cast(), made),
                false => to.copy_from_nonoverlapping((&raw const made).cast(), width),
            }
        }
        let known = _mm256_cmpeq_epi16(nearest, unknown);
        uncertain |= u8::from(_mm256_movemask_epi8(known) != -1) << i;
    }
    uncertain
}

/// The first 16 values.
#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[f32]) -> Two {
    let values = &values[..PIECE];
    // SAFETY: eight of 16 values each.
    let half = |j| unsafe { _mm256_loadu_ps(values.as_ptr().add(j)) };
    [half(0), half(8)]
}

/// x · y + z.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fused([a, b]: Two, y: Two, z: Two) -> Two {
    [
        _mm256_fmadd_ps(a, y[0], z[0]),
        _mm256_fmadd_ps(b, y[1], z[1]),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn nearest_to([a, b]: Two) -> Fixed16 {
    [_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)]
}

/// The words of odd places.
const ODD: i32 = 0xAA;

/// The words, as [`above`] has them, of columns that are not there.
#[inline]
#[target_feature(enable = "avx2")]
fn missing(width: usize) -> __m256i {
    let columns = _mm256_setr_epi16(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    _mm256_cmpgt_epi16(columns, _mm256_set1_epi16(width as i16 - 1))
}

/// The bits after the point, raised by `near`, of which those near to an integer are then the least; columns that are
/// missing have the most.
#[inline]
#[target_feature(enable = "avx2")]
fn above([a, b]: Fixed16, near: __m256i, missing: __m256i) -> __m256i {
    let after = _mm256_blend_epi16::<ODD>(a, _mm256_slli_epi32::<16>(b));
    _mm256_or_si256(_mm256_add_epi16(after, near), missing)
}

/// The whole parts, cut off at the ends of bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow([a, b]: Fixed16) -> __m128i {
    let words = _mm256_blend_epi16::<ODD>(_mm256_srli_epi32::<16>(a), b);
    let [low, high] = [
        _mm256_castsi256_si128(words),
        _mm256_extracti128_si256::<1>(words),
    ];
    // Columns of the first half and of the second turn by turn.
    let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    _mm_shuffle_epi8(_mm_packus_epi16(low, high), order)
}

/// [`Added`] in registers.
struct Adding<'a> {
    low: __m256i,
    high: __m256i,
    before: __m256,
    /// What is added to all rows.
    more: Two,
    /// Bytes, and what each is multiplied by.
    bytes: Option<(Int8<'a>, __m256)>,
}

impl<'a> Adding<'a> {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(added: &Added<'a>, column: usize) -> Adding<'a> {
        let [low, high] = added.ends;
        let (more, bytes) = match &added.other {
            Other::Columns(more) => (load(&more[column..]), None),
            Other::Bytes { x, by, more } => {
                ([_mm256_set1_ps(*more); 2], Some((*x, _mm256_set1_ps(*by))))
            }
        };
        Adding {
            low: _mm256_set1_epi32(low),
            high: _mm256_set1_epi32(high),
            before: _mm256_set1_ps(added.before),
            more,
            bytes,
        }
    }

    /// The whole parts of numbers, cut off at the ends, as the steps of 8-bit integers to which something is added.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn add<const FULL: bool>(&self, [a, b]: Fixed16, place: usize, width: usize) -> Two {
        let mut others = self.more;
        if let Some((x, by)) = self.bytes {
            let x = x.part(place..place + width);
            let [low, high] = halves::<FULL>(x.bits());
            let [a, b] = match x {
                Int8::Unsigned(_) => [_mm256_cvtepu8_epi32(low), _mm256_cvtepu8_epi32(high)],
                Int8::Signed(_) => [_mm256_cvtepi8_epi32(low), _mm256_cvtepi8_epi32(high)],
            };
            others = fused(
                [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)],
                [by; 2],
                others,
            );
        }
        let steps = |number| {
            let steps = _mm256_min_epi32(_mm256_srai_epi32::<16>(number), self.high);
            _mm256_cvtepi32_ps(_mm256_max_epi32(steps, self.low))
        };
        fused([steps(a), steps(b)], [self.before; 2], others)
    }
}

/// Eight bytes and eight more, or those there are and zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn halves<const FULL: bool>(x: &[u8]) -> [__m128i; 2] {
    let mut all = [0; PIECE];
    let x = match FULL {
        true => &x[..PIECE],
        false => {
            all[..x.len()].copy_from_slice(x);
            &all
        }
    };
    // SAFETY: eight of 16 bytes each.
    let half = |j| unsafe { _mm_loadl_epi64(x.as_ptr().add(j).cast()) };
    [half(0), half(8)]
}

/// The unit of numbers, none of them NaN, in fixed point.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn apply(unit: &Unit, x: Two) -> Two {
    let [by, more] = [unit.by, unit.more].map(|x| _mm256_set1_ps(x));
    let above = |x| _mm256_fmadd_ps(_mm256_max_ps(x, _mm256_setzero_ps()), by, more);
    let below = gelu::below(x);
    [
        _mm256_fnmadd_ps(below[0], by, above(x[0])),
        _mm256_fnmadd_ps(below[1], by, above(x[1])),
    ]
}
