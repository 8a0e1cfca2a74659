//! Tiles in AVX-512: 6 rows by 64 columns, or 8 by up to 48, in 24 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::UNIT;
use super::walk::Tile;
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

/// A tile of `H` rows and `W` units, its left values neighbours or `GATHERED`.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const H: usize, const W: usize, const GATHERED: bool>(t: &Tile<'_>) {
    let mut sums = [[_mm512_setzero_ps(); W]; H];
    let rows: [*const f32; H] = std::array::from_fn(|i| t.rows[i]);
    for k in 0..t.k {
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
    for (i, sums) in sums.into_iter().enumerate() {
        for (w, sum) in sums.into_iter().enumerate() {
            // SAFETY: the tile's part of the result is the caller's.
            unsafe {
                let out = t.out.add(i * t.stride + w * UNIT);
                let mut total = if t.first {
                    sum
                } else {
                    _mm512_add_ps(_mm512_loadu_ps(out), sum)
                };
                if t.last {
                    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(total, total);
                    total = _mm512_mask_blend_ps(nan, total, _mm512_set1_ps(CANONICAL_NAN));
                }
                _mm512_storeu_ps(out, total);
            }
        }
    }
}
