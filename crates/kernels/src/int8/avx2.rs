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
use std::mem::MaybeUninit;

use super::pack::{COLUMNS, QUAD, Quad};
use super::vnni::{AvxVnni, Vnni};
use super::walk::{Lines, Rows};
use crate::isa::Isa;

/// Steps of a panel that stay in the first-level cache for all rows of a tile.
pub(super) const STEPS: usize = 80;

/// Proof that this machine has AVX2, and not AVX-512 VNNI.
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

    /// The same where products of bytes are not exact.
    pub(super) fn alone(isa: Isa) -> Option<Avx2> {
        Avx2::on(isa).filter(|_| AvxVnni::on(isa).is_none())
    }

    /// Takes the values of rows apart.
    pub(super) fn apart(self, rows: &Rows<'_>) -> Apart {
        let len = rows.starts.len() * rows.runs.len() * rows.steps;
        let mut quads = Vec::with_capacity(len);
        let mut below = Vec::with_capacity(rows.starts.len());
        let mut places = quads.spare_capacity_mut()[..len].chunks_exact_mut(rows.steps.max(1));
        for &start in rows.starts {
            let of_run = |(run, places): (&usize, &mut [_])| {
                let values = &rows.values[start + run..][..rows.steps * QUAD];
                // SAFETY: `self` exists only where the machine has these instructions.
                unsafe { take_apart(values, places) }
            };
            below.push(rows.runs.iter().zip(&mut places).map(of_run).sum());
        }
        // SAFETY: each run of each row has been written.
        unsafe { quads.set_len(len) };
        Apart {
            avx2: self,
            quads,
            below,
        }
    }
}

impl Apart {
    /// Bytes of a row of so many steps; no row has more that are near a zero point.
    pub(super) fn bytes_of_row(steps: usize) -> usize {
        steps.saturating_mul(size_of::<[i32; 2]>()) + size_of::<i32>()
    }

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

/// Writes sizes and masks of whole quads; gives the sum of the sizes below the middle.
#[target_feature(enable = "avx2")]
fn take_apart(values: &[u8], quads: &mut [MaybeUninit<[i32; 2]>]) -> i32 {
    let (zero, middle) = (_mm256_setzero_si256(), _mm256_set1_epi8(-128));
    let apart = |values: __m256i| {
        let values = _mm256_xor_si256(values, middle);
        let (sizes, masks) = (_mm256_abs_epi8(values), _mm256_cmpgt_epi8(zero, values));
        let near = _mm256_unpacklo_epi32(sizes, masks);
        (near, _mm256_unpackhi_epi32(sizes, masks))
    };
    let ((many, values), (places, rest)) = (values.as_chunks::<32>(), quads.as_chunks_mut::<8>());
    let mut below = zero;
    for (values, places) in many.iter().zip(places) {
        // SAFETY: 32 bytes.
        let values = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
        let sizes = _mm256_subs_epu8(middle, values);
        below = _mm256_add_epi64(below, _mm256_sad_epu8(sizes, zero));
        let (near, far) = apart(values);
        let halves = [
            _mm256_permute2x128_si256::<0x20>(near, far),
            _mm256_permute2x128_si256::<0x31>(near, far),
        ];
        // SAFETY: 64 bytes.
        unsafe {
            places
                .as_mut_ptr()
                .cast::<[__m256i; 2]>()
                .write_unaligned(halves)
        };
    }
    for (&quad, place) in values.as_chunks::<QUAD>().0.iter().zip(rest) {
        let (near, _) = apart(_mm256_set1_epi32(i32::from_le_bytes(quad)));
        let near = _mm256_extract_epi64::<0>(near);
        place.write([near as i32, (near >> 32) as i32]);
    }
    let mut sums = [0u64; 4];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), below) };
    let more = values.iter().map(|&v| i32::from(128u8.saturating_sub(v)));
    sums.iter().sum::<u64>() as i32 + more.sum::<i32>()
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
    // SAFETY: the caller's promise.
    let mut sums: [_; U] = unsafe { begin(from, more) };
    let ones = _mm256_set1_epi16(1);
    // Each operation on the products of a unit waits for one on those of the next.
    let (mut pairs, mut fours) = ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
    for (units, &[size, mask]) in panel.as_chunks::<U>().0.iter().zip(quads) {
        let (size, mask) = (_mm256_set1_epi32(size), _mm256_set1_epi32(mask));
        for u in 0..U {
            let next = in_order(pairs.map(|pairs| _mm256_madd_epi16(pairs, ones)));
            add(&mut sums[(u + 2 * U - 2) % U], fours);
            let signed = in_order(halves(&units[u]).map(|b| _mm256_xor_si256(b, mask)));
            pairs = in_order(signed.map(|signed| _mm256_maddubs_epi16(size, signed)));
            fours = next;
        }
    }
    add(&mut sums[(2 * U - 2) % U], fours);
    add(
        &mut sums[U - 1],
        pairs.map(|pairs| _mm256_madd_epi16(pairs, ones)),
    );
    // SAFETY: the caller's promise.
    unsafe { end(sums, to) };
}

/// What the sums of `U` units begin with: the values at `from`, and `more`.
///
/// # Safety
/// There are 16 values for each unit.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn begin<const U: usize>(from: *const i32, more: i32) -> [[__m256i; 2]; U] {
    let more = _mm256_set1_epi32(more);
    std::array::from_fn(|u| {
        // SAFETY: the caller's promise.
        let from = [0, 8].map(|j| unsafe { _mm256_loadu_si256(from.add(16 * u + j).cast()) });
        from.map(|from| _mm256_add_epi32(from, more))
    })
}

/// Writes the sums of `U` units.
///
/// # Safety
/// There are 16 places for each unit.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn end<const U: usize>(sums: [[__m256i; 2]; U], to: *mut i32) {
    for (u, sums) in sums.into_iter().enumerate() {
        for (j, sum) in [0, 8].into_iter().zip(sums) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_si256(to.add(16 * u + j).cast(), sum) };
        }
    }
}

/// The values of a unit, eight columns and eight more.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn halves(unit: &Quad) -> [__m256i; 2] {
    // SAFETY: each a half of the unit's 64 bytes, aligned.
    [0, 32].map(|j| unsafe { _mm256_load_si256(unit.0.as_ptr().add(j).cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: &mut [__m256i; 2], more: [__m256i; 2]) {
    *sums = in_order([
        _mm256_add_epi32(sums[0], more[0]),
        _mm256_add_epi32(sums[1], more[1]),
    ]);
}

/// The same, computed before what follows: the compiler would put each operation next to what it waits for, and the
/// multipliers would have 4% less to do.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order([mut a, mut b]: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: nothing happens.
    unsafe {
        std::arch::asm!("/* {a} {b} */", a = inout(ymm_reg) a, b = inout(ymm_reg) b, options(nomem, nostack, preserves_flags));
    }
    [a, b]
}
