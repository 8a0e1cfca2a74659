//! Tiles in AVX-512: 6 rows by 64 columns, or 8 by up to 48, in 24 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::UNIT;
use super::walk::{ROWS, Tile};
use crate::isa::Isa;
use crate::math::CANONICAL_NAN;

/// Proof that this machine has AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Wide(());

impl Wide {
    /// The tiles of this instruction set, if `isa` is it.
    pub(super) fn on(isa: Isa) -> Option<Wide> {
        isa.is_avx512().then_some(Wide(()))
    }
}

impl super::walk::Tiles for Wide {
    const EDGES: bool = true;
    const MANY: usize = 3;

    fn most(units: usize) -> usize {
        // 8 rows in two halves as well: a product of so few waits for memory, which gives whole rows of a panel in one
        // stream twice as fast as half of each, and the second half of the rows finds the panel in the cache.
        if units == 4 { 6 } else { ROWS }
    }

    #[inline(always)]
    unsafe fn tile(self, t: &Tile<'_>) {
        macro_rules! of {
            ($($w:literal: $($h:literal)+;)+) => {
                match (t.width, t.rows.len(), t.offsets.is_null()) {
                    $($(
                        // SAFETY: `self` exists only where the machine has AVX-512; the caller
                        // answers for the tile.
                        ($w, $h, true) => unsafe { tile::<$h, $w, false>(t) },
                        // SAFETY: as above.
                        ($w, $h, false) => unsafe { tile::<$h, $w, true>(t) },
                    )+)+
                    _ => unreachable!("tiles have 1 to 8 rows and 1 to 4 units"),
                }
            };
        }
        of!(1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6 7 8; 3: 1 2 3 4 5 6 7 8; 4: 1 2 3 4 5 6;);
    }
}

/// Values of k between two times that a tile asks for what is not in the cache yet.
const STEP: usize = 8;

/// What a tile asks for while it multiplies: its own places in the result and in what is added to it, row by row, which it
/// needs at its end; and its share of what later tiles multiply by. Memory has answered by then. The machine would not
/// guess either in time: rows of a tile lie far apart, and blocks of a panel begin at other pages.
struct Ahead {
    next: *const super::Unit,
    /// Units each time.
    pace: usize,
    /// The row whose turn it is.
    row: usize,
}

impl Ahead {
    #[inline(always)]
    fn of(t: &Tile<'_>) -> Ahead {
        Ahead {
            next: t.ahead.as_ptr(),
            pace: t.ahead.len().div_ceil((t.k / STEP).max(1)),
            row: 0,
        }
    }

    #[inline(always)]
    fn ask<const H: usize, const W: usize>(&mut self, t: &Tile<'_>) {
        if self.row < H {
            let addend = t.end.map_or(std::ptr::null(), |end| end.addend);
            let place = self.row * t.stride;
            for w in 0..W {
                prefetch(t.out.wrapping_add(place + w * UNIT));
                if !addend.is_null() {
                    prefetch(addend.wrapping_add(place + w * UNIT));
                }
            }
            self.row += 1;
        }
        for _ in 0..self.pace {
            prefetch(self.next);
            self.next = self.next.wrapping_add(1);
        }
    }
}

/// Asks for a line of the cache; wherever that is, nothing else happens.
#[inline(always)]
fn prefetch<T>(line: *const T) {
    // SAFETY: a hint, which reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

/// A tile of `H` rows and `W` units, its left values neighbours or `GATHERED`.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const H: usize, const W: usize, const GATHERED: bool>(t: &Tile<'_>) {
    let mut sums = [[_mm512_setzero_ps(); W]; H];
    let rows: [*const f32; H] = std::array::from_fn(|i| t.rows[i]);
    debug_assert_eq!(t.unit_stride, UNIT, "units of a row side by side");
    let mut ahead = Ahead::of(t);
    for start in (0..t.k).step_by(STEP) {
        ahead.ask::<H, W>(t);
        for k in start..t.k.min(start + STEP) {
            // SAFETY: the tile has k values in each row, and as many rows of the panel.
            unsafe {
                let at = if GATHERED {
                    *t.offsets.add(k) as usize
                } else {
                    k
                };
                let b = t.b.add(k * t.b_stride);
                let b: [__m512; W] = std::array::from_fn(|w| _mm512_load_ps(b.add(w * UNIT)));
                for i in 0..H {
                    let a = _mm512_set1_ps(*rows[i].add(at));
                    for w in 0..W {
                        sums[i][w] = _mm512_fmadd_ps(a, b[w], sums[i][w]);
                    }
                }
            }
        }
    }
    // The last unit may be stored in part. Whole ones are loaded and stored without masks, which is faster.
    let edge: __mmask16 = !0 >> (UNIT - t.edge);
    let whole = |w: usize| w + 1 < W || t.edge == UNIT;
    let load = |from: *const f32, w: usize| match whole(w) {
        // SAFETY: the tile's part of its matrices is there.
        true => unsafe { _mm512_loadu_ps(from.add(w * UNIT)) },
        // SAFETY: as above, for the values that are not masked.
        false => unsafe { _mm512_maskz_loadu_ps(edge, from.add(w * UNIT)) },
    };
    let store = |to: *mut f32, w: usize, v: __m512| match whole(w) {
        // SAFETY: the tile's part of the result is the caller's.
        true => unsafe { _mm512_storeu_ps(to.add(w * UNIT), v) },
        // SAFETY: as above, for the values that are not masked.
        false => unsafe { _mm512_mask_storeu_ps(to.add(w * UNIT), edge, v) },
    };
    // SAFETY: each row of the tile has its place in the matrices.
    let line = |i: usize| unsafe { t.out.add(i * t.stride) };
    if !t.first {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (w, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_add_ps(load(line(i), w), *sum);
            }
        }
    }
    let Some(end) = t.end else {
        for (i, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                store(line(i), w, sum);
            }
        }
        return;
    };
    // What leaves every value as it is: −0 as a summand, infinite bounds.
    let bias = std::array::from_fn(|w| match end.bias.is_null() {
        true => _mm512_set1_ps(-0.0),
        false => load(end.bias, w),
    });
    let (low, high) = (_mm512_set1_ps(end.low), _mm512_set1_ps(end.high));
    let canonical = _mm512_set1_ps(CANONICAL_NAN);
    for (i, sums) in sums.into_iter().enumerate() {
        for w in 0..W {
            let bias: &[__m512; W] = &bias;
            let mut v = _mm512_add_ps(sums[w], bias[w]);
            if !end.addend.is_null() {
                // SAFETY: as `line`.
                v = _mm512_add_ps(v, load(unsafe { end.addend.add(i * t.stride) }, w));
            }
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            // Of equal values these give the second: see `Epilogue` for the zeros.
            v = _mm512_min_ps(_mm512_max_ps(v, low), high);
            store(line(i), w, _mm512_mask_blend_ps(nan, v, canonical));
        }
    }
}
