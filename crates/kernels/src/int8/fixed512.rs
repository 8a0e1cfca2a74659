//! Chains in fixed point on tiles, with AVX-512.

use std::arch::x86_64::*;

use super::Int8;
use super::finish512::{each, mask};
use super::fixed::{Added, Bytes, Fixed, Other, Unit};
use super::gelu;
use super::pack::COLUMNS;
use super::quantise::SHIFT;

/// 64 numbers with 16 bits after the point.
type Fixed64 = [__m512i; 4];

/// Takes the sums of some rows, at most 8, to bytes. A bit for each of them that says whether these may not be what the chain
/// gives.
///
/// # Safety
/// This machine has these instructions. Each row has as many bytes as the width says, which nobody else uses.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn rows(bytes: &Bytes<'_>, tile: &[[i32; COLUMNS]]) -> u8 {
    // SAFETY: the caller's promise.
    unsafe {
        match bytes.width {
            COLUMNS => rows_of::<true>(bytes, tile),
            _ => rows_of::<false>(bytes, tile),
        }
    }
}

/// # Safety
/// As [`rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn rows_of<const FULL: bool>(bytes: &Bytes<'_>, tile: &[[i32; COLUMNS]]) -> u8 {
    let width = if FULL { COLUMNS } else { bytes.width };
    let mask = mask(width);
    let (fixed, column) = (bytes.fixed, bytes.column);
    let (by, more) = (&fixed.by[column..], &fixed.more[column..]);
    let (by, more) = (load(by), load(more));
    let near = _mm512_set1_epi16(fixed.near.cast_signed());
    let unknown = _mm512_add_epi16(near, near);
    let narrow = Narrow::new(fixed);
    let adding = fixed.added.as_ref().map(|added| Adding::new(added, column));
    let unit = fixed.unit.as_ref().map(|unit| Curve::new(unit));
    let mut uncertain = 0;
    for (i, sums) in tile.iter().enumerate() {
        // SAFETY: 16 of 64 sums each.
        let sums = each!(j in [0, 16, 32, 48] => unsafe { _mm512_loadu_si512(sums.as_ptr().add(j).cast()) });
        let sums = each!(sum in sums => _mm512_cvtepi32_ps(sum));
        let mut scaled = fused(sums, by, more);
        let mut least = unknown;
        if let Some(adding) = &adding {
            let steps = each!(number in scaled => _mm512_cvtps_epi32(number));
            least = above(steps, near);
            scaled = adding.add::<FULL>(steps, bytes.place + i * bytes.apart, mask);
        }
        if let Some(unit) = &unit {
            scaled = unit.apply(scaled);
        }
        let end = each!(number in scaled => _mm512_cvtps_epi32(number));
        least = _mm512_min_epu16(least, above(end, near));
        let (to, made) = (bytes.to.wrapping_add(i * bytes.apart), narrow.bytes(end));
        // SAFETY: the caller's promise: the mask has a bit for each byte.
        unsafe {
            match FULL {
                true => _mm512_storeu_si512(to.cast(), made),
                false => _mm512_mask_storeu_epi8(to.cast(), mask, made),
            }
        }
        let known = _mm512_cmplt_epu16_mask(least, unknown) == 0;
        uncertain |= u8::from(!known) << i;
    }
    uncertain
}

/// The first 64 values.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32]) -> [__m512; 4] {
    let values = &values[..COLUMNS];
    // SAFETY: 16 of 64 values each.
    each!(j in [0, 16, 32, 48] => unsafe { _mm512_loadu_ps(values.as_ptr().add(j)) })
}

/// [`Added`] in registers.
struct Adding<'a> {
    low: __m512i,
    high: __m512i,
    before: __m512,
    /// What is added to all rows.
    more: [__m512; 4],
    /// Bytes, and what each is multiplied by.
    bytes: Option<(Int8<'a>, __m512)>,
}

impl<'a> Adding<'a> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(added: &Added<'a>, column: usize) -> Adding<'a> {
        let [low, high] = added.ends;
        let (more, bytes) = match &added.other {
            Other::Columns(more) => (load(&more[column..]), None),
            Other::Bytes { x, by, more } => {
                let by = _mm512_set1_ps(*by);
                ([_mm512_set1_ps(*more); 4], Some((*x, by)))
            }
        };
        Adding {
            low: _mm512_set1_epi32(low),
            high: _mm512_set1_epi32(high),
            before: _mm512_set1_ps(added.before),
            more,
            bytes,
        }
    }

    /// The whole parts of numbers, cut off at the ends, as the steps of 8-bit integers to which something is added.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn add<const FULL: bool>(&self, numbers: Fixed64, place: usize, mask: u64) -> [__m512; 4] {
        let width = if FULL {
            COLUMNS
        } else {
            mask.count_ones() as usize
        };
        let mut others = self.more;
        if let Some((x, by)) = self.bytes {
            let bytes = match x.part(place..place + width) {
                // SAFETY: a byte for each bit of the mask.
                Int8::Unsigned(x) => each!(j in [0, 16, 32, 48] => unsafe {
                    _mm512_cvtepu8_epi32(quarter::<FULL>(x.as_ptr().cast(), j, mask))
                }),
                // SAFETY: as above.
                Int8::Signed(x) => each!(j in [0, 16, 32, 48] => unsafe {
                    _mm512_cvtepi8_epi32(quarter::<FULL>(x.as_ptr(), j, mask))
                }),
            };
            others = each!(byte, more in bytes, others => _mm512_fmadd_ps(_mm512_cvtepi32_ps(byte), by, more));
        }
        let steps = each!(number in numbers => _mm512_srai_epi32::<16>(number));
        let steps = each!(steps in steps => _mm512_min_epi32(steps, self.high));
        let steps = each!(steps in steps => _mm512_max_epi32(steps, self.low));
        fused(
            each!(steps in steps => _mm512_cvtepi32_ps(steps)),
            [self.before; 4],
            others,
        )
    }
}

/// [`Unit`] in registers.
struct Curve {
    by: __m512,
    more: __m512,
    powers: [__m512; 5],
}

impl Curve {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(unit: &Unit) -> Curve {
        let [a, b, c, d, e] = &unit.powers;
        // SAFETY: 16 values each.
        let load = |power: &[f32; 16]| unsafe { _mm512_loadu_ps(power.as_ptr()) };
        Curve {
            by: _mm512_set1_ps(unit.by),
            more: _mm512_set1_ps(unit.more),
            powers: [load(a), load(b), load(c), load(d), load(e)],
        }
    }

    /// The unit of 64 numbers, none of them NaN, in fixed point.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn apply(&self, x: [__m512; 4]) -> [__m512; 4] {
        let (per_unit, end) = (_mm512_set1_ps(gelu::PER_UNIT), _mm512_set1_ps(gelu::END));
        let place = each!(x in x => _mm512_mul_ps(_mm512_abs_ps(x), per_unit));
        let place = each!(place in place => _mm512_min_ps(place, end));
        // The low bits of what is raised are the nearest integer, and how far that is away.
        let shift = _mm512_set1_ps(SHIFT);
        let nearest = each!(place in place => _mm512_castps_si512(_mm512_add_ps(place, shift)));
        let away = each!(place in place => _mm512_reduce_ps::<0>(place));
        let [first, rest @ ..] = self.powers;
        let mut sum = each!(nearest in nearest => _mm512_permutexvar_ps(nearest, first));
        for power in rest {
            let factor = each!(nearest in nearest => _mm512_permutexvar_ps(nearest, power));
            sum = fused(sum, away, factor);
        }
        let above = each!(x in x => _mm512_max_ps(x, _mm512_setzero_ps()));
        let above = each!(x in above => _mm512_fmadd_ps(x, self.by, self.more));
        each!(above, sum in above, sum => _mm512_add_ps(above, sum))
    }
}

/// x · y + z, a register after the other: what waits for one goes on with the next.
#[inline]
#[target_feature(enable = "avx512f")]
fn fused([a, b, c, d]: [__m512; 4], y: [__m512; 4], z: [__m512; 4]) -> [__m512; 4] {
    [
        _mm512_fmadd_ps(a, y[0], z[0]),
        _mm512_fmadd_ps(b, y[1], z[1]),
        _mm512_fmadd_ps(c, y[2], z[2]),
        _mm512_fmadd_ps(d, y[3], z[3]),
    ]
}

/// 16 bytes from place `j` on, as far as the mask has bits for them.
///
/// # Safety
/// There is a byte for each bit of the mask, and 64 if it is full.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn quarter<const FULL: bool>(x: *const i8, j: usize, mask: u64) -> __m128i {
    let from = x.wrapping_add(j);
    // SAFETY: the caller's promise.
    unsafe {
        match FULL {
            true => _mm_loadu_si128(from.cast()),
            false => _mm_maskz_loadu_epi8((mask >> j) as u16, from),
        }
    }
}

/// The words of odd places.
const ODD: u32 = 0xAAAA_AAAA;

/// The bits after the point, raised by `near`, of which those near to an integer are then the least; of each pair of
/// words the lesser.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn above(numbers: Fixed64, near: __m512i) -> __m512i {
    let [a, b, c, d] = numbers;
    let ab = _mm512_mask_mov_epi16(a, ODD, _mm512_slli_epi32::<16>(b));
    let cd = _mm512_mask_mov_epi16(c, ODD, _mm512_slli_epi32::<16>(d));
    _mm512_min_epu16(_mm512_add_epi16(ab, near), _mm512_add_epi16(cd, near))
}

/// How whole parts become bytes.
struct Narrow {
    least: __m512i,
    flip: __m512i,
}

impl Narrow {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(fixed: &Fixed<'_>) -> Narrow {
        let [least, flip] = [fixed.least, fixed.flip].map(u8::cast_signed);
        Narrow {
            least: _mm512_set1_epi8(least),
            flip: _mm512_set1_epi8(flip),
        }
    }

    /// The whole parts, cut off at the ends and at the least one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn bytes(&self, numbers: Fixed64) -> __m512i {
        let [a, b, c, d] = numbers;
        let ab = _mm512_mask_mov_epi16(_mm512_srli_epi32::<16>(a), ODD, b);
        let cd = _mm512_mask_mov_epi16(_mm512_srli_epi32::<16>(c), ODD, d);
        let bytes = _mm512_max_epu8(_mm512_packus_epi16(ab, cd), self.least);
        // Each quarter has four values of each register: of the first and second turn by turn, then of the others.
        let apart = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
        let bytes = _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(apart));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_xor_si512(_mm512_permutexvar_epi32(order, bytes), self.flip)
    }
}
