//! Tiles with AVX2, whose products of bytes saturate where two of them together have more than 16 bits. Those of a size
//! up to 128 and a byte with a sign never do. So every a is taken apart, a = 128 ± u, and with the sign as a mask m of
//! 0 or −1, as b ⊕ −1 is −b − 1:
//!
//! ```text
//! Σ a·b = 128·Σ b + Σ u·(b ⊕ m) + Σ u·[m ≠ 0]
//! ```
//!
//! The first of these sums is known of the columns, the last of the rows.

use std::arch::x86_64::*;

use super::pack::{COLUMNS, QUAD, Quad};
use super::vnni::Vnni;
use super::walk::{Lines, Rows};
use crate::isa::Isa;

/// What is subtracted from the values on the left.
pub(super) const MIDDLE: i32 = 128;

/// Steps of a panel that stay in the first-level cache for all rows of a tile.
const STEPS: usize = 80;

/// Proof that this machine has AVX2, and nothing better for this.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Rows whose values are taken apart.
pub(super) struct Apart {
    avx2: Avx2,
    /// For each four values, row after row, their sizes and their masks.
    quads: Vec<[i32; 2]>,
    /// Sizes of the values of each row that are below the middle, added up.
    below: Vec<i32>,
}

impl Avx2 {
    pub(super) fn on(isa: Isa) -> Option<Avx2> {
        let fits = isa.is_avx2() || isa.is_avx512();
        (fits && Vnni::on(isa).is_none()).then_some(Avx2(()))
    }

    /// Takes the values of rows apart.
    pub(super) fn apart(self, rows: &Rows<'_>) -> Apart {
        let len = rows.starts.len() * rows.runs.len() * rows.steps;
        let mut quads = Vec::with_capacity(len);
        let mut below = Vec::with_capacity(rows.starts.len());
        for &start in rows.starts {
            let mut sum = 0;
            for &run in rows.runs {
                let values = &rows.values[start + run..][..rows.steps * QUAD];
                // SAFETY: `self` exists only where the machine has these instructions.
                sum += unsafe { take_apart(values, &mut quads) };
            }
            below.push(sum);
        }
        Apart {
            avx2: self,
            quads,
            below,
        }
    }
}

impl Apart {
    /// Sums of `count` rows from row `first` on.
    ///
    /// # Safety
    /// The lines have 16 places for each unit, which nobody else uses.
    pub(super) unsafe fn multiply(
        &self,
        [first, count]: [usize; 2],
        panel: &[Quad],
        units: usize,
        begin: &[i32; COLUMNS],
        to: Lines,
    ) {
        let Avx2(()) = self.avx2;
        let steps = self.quads.len() / self.below.len();
        for (block, panel) in panel.chunks(units * STEPS).enumerate() {
            for i in 0..count {
                let quads = &self.quads[(first + i) * steps + block * STEPS..];
                let line = to.at(i, 0);
                let (from, more) = match block {
                    0 => (begin.as_ptr(), self.below[first + i]),
                    _ => (line.cast_const(), 0),
                };
                // SAFETY: `avx2` exists only where the machine has these instructions; the line is the caller's.
                unsafe {
                    match units {
                        1 => multiply::<1>(quads, panel, from, more, line),
                        2 => multiply::<2>(quads, panel, from, more, line),
                        3 => multiply::<3>(quads, panel, from, more, line),
                        _ => multiply::<4>(quads, panel, from, more, line),
                    }
                }
            }
        }
    }
}

/// Adds sizes and masks of whole quads; gives the sum of the sizes below the middle.
#[target_feature(enable = "avx2")]
fn take_apart(values: &[u8], quads: &mut Vec<[i32; 2]>) -> i32 {
    let (zero, middle) = (_mm_setzero_si128(), _mm_set1_epi8(-128));
    let mut below = zero;
    let mut apart = |values: __m128i| {
        let values = _mm_xor_si128(values, middle);
        let (sizes, masks) = (_mm_abs_epi8(values), _mm_cmpgt_epi8(zero, values));
        below = _mm_add_epi64(below, _mm_sad_epu8(_mm_and_si128(sizes, masks), zero));
        [
            _mm_unpacklo_epi32(sizes, masks),
            _mm_unpackhi_epi32(sizes, masks),
        ]
    };
    let (sixteens, rest) = values.as_chunks::<16>();
    for values in sixteens {
        // SAFETY: 16 bytes.
        let apart = apart(unsafe { _mm_loadu_si128(values.as_ptr().cast()) });
        // SAFETY: both have 32 bytes, and any are integers.
        quads.extend(unsafe { std::mem::transmute::<[__m128i; 2], [[i32; 2]; 4]>(apart) });
    }
    for &values in rest.as_chunks::<QUAD>().0 {
        let [first, _] = apart(_mm_set_epi32(
            0x8080_8080u32.cast_signed(),
            0x8080_8080u32.cast_signed(),
            0x8080_8080u32.cast_signed(),
            i32::from_le_bytes(values),
        ));
        quads.push([_mm_extract_epi32::<0>(first), _mm_extract_epi32::<1>(first)]);
    }
    _mm_extract_epi32::<0>(below) + _mm_extract_epi32::<2>(below)
}

/// Adds the sums of a row and `U` units to the values at `from`, and `more` to each.
///
/// # Safety
/// There are 16 values and as many places for each unit, and a quad for each step.
#[target_feature(enable = "avx2")]
unsafe fn multiply<const U: usize>(
    quads: &[[i32; 2]],
    panel: &[Quad],
    from: *const i32,
    more: i32,
    to: *mut i32,
) {
    let more = _mm256_set1_epi32(more);
    let mut sums: [[__m256i; 2]; U] = std::array::from_fn(|u| {
        // SAFETY: 16 values for each unit.
        [0, 8].map(|j| unsafe { _mm256_loadu_si256(from.add(16 * u + j).cast()) })
    });
    for sum in sums.as_flattened_mut() {
        *sum = _mm256_add_epi32(*sum, more);
    }
    let ones = _mm256_set1_epi16(1);
    // Products wait for the next ones before they are added: it takes more of the time of the multipliers.
    let mut late = [_mm256_setzero_si256(); 2];
    for (units, &[size, mask]) in panel.as_chunks::<U>().0.iter().zip(quads) {
        let (size, mask) = (_mm256_set1_epi32(size), _mm256_set1_epi32(mask));
        for u in 0..U {
            let before = late.map(|products| _mm256_madd_epi16(products, ones));
            late = [0, 32].map(|j| {
                // SAFETY: a half of the unit's 64 bytes, aligned.
                let b = unsafe { _mm256_load_si256(units[u].0.as_ptr().add(j).cast()) };
                _mm256_maddubs_epi16(size, _mm256_xor_si256(b, mask))
            });
            let sums = &mut sums[(u + U - 1) % U];
            sums[0] = _mm256_add_epi32(sums[0], before[0]);
            sums[1] = _mm256_add_epi32(sums[1], before[1]);
        }
    }
    for (sum, products) in sums[U - 1].iter_mut().zip(late) {
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, ones));
    }
    for (u, sums) in sums.into_iter().enumerate() {
        for (j, sum) in [0, 8].into_iter().zip(sums) {
            // SAFETY: 16 places for each unit.
            unsafe { _mm256_storeu_si256(to.add(16 * u + j).cast(), sum) };
        }
    }
}
