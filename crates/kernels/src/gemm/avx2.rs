//! Tiles in AVX2 with FMA: passes of 6 rows by 16 columns in 12 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::UNIT;
use super::walk::{End, Tile};
use crate::isa::Isa;
use crate::math::CANONICAL_NAN;

/// Lanes of a register.
const LANES: usize = 8;

/// Most rows of one pass.
const PASS: usize = 6;

/// Proof that this machine has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Wide(());

impl Wide {
    /// The tiles of this instruction set, if `isa` is it.
    pub(super) fn on(isa: Isa) -> Option<Wide> {
        isa.is_avx2().then_some(Wide(()))
    }
}

impl super::walk::Tiles for Wide {
    const EDGES: bool = false;

    unsafe fn tile(self, t: &Tile<'_>) {
        let height = t.rows.len();
        for unit in 0..t.width {
            let mut first = 0;
            while first < height {
                // Eight rows are twice four, not six and two.
                let rows = if height > PASS {
                    (height - first).min(4)
                } else {
                    height
                };
                macro_rules! of {
                    ($($h:literal)+) => {
                        match (rows, t.offsets.is_null()) {
                            $(
                                // SAFETY: `self` exists only where the machine has AVX2 and FMA;
                                // the caller answers for the tile.
                                ($h, true) => unsafe { pass::<$h, false>(t, first, unit) },
                                // SAFETY: as above.
                                ($h, false) => unsafe { pass::<$h, true>(t, first, unit) },
                            )+
                            _ => unreachable!("a pass has 1 to 6 rows"),
                        }
                    };
                }
                of!(1 2 3 4 5 6);
                first += rows;
            }
        }
    }
}

/// `H` rows of a tile by one of its units.
#[target_feature(enable = "avx2,fma")]
unsafe fn pass<const H: usize, const GATHERED: bool>(t: &Tile<'_>, first: usize, unit: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; H];
    let rows: [*const f32; H] = std::array::from_fn(|i| t.rows[first + i]);
    for k in 0..t.k {
        // SAFETY: the tile has k values in each row, and as many rows of the panel.
        unsafe {
            let at = if GATHERED {
                *t.offsets.add(k) as usize
            } else {
                k
            };
            let b = t.b.add(k * t.b_stride + unit * UNIT);
            let b = [_mm256_load_ps(b), _mm256_load_ps(b.add(LANES))];
            for i in 0..H {
                let a = _mm256_set1_ps(*rows[i].add(at));
                sums[i][0] = _mm256_fmadd_ps(a, b[0], sums[i][0]);
                sums[i][1] = _mm256_fmadd_ps(a, b[1], sums[i][1]);
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            let column = unit * UNIT + half * LANES;
            // SAFETY: the tile's part of its matrices is there, and that of the result the caller's.
            unsafe {
                let row = (first + i) * t.stride + column;
                let mut v = sum;
                if !t.first {
                    v = _mm256_add_ps(_mm256_loadu_ps(t.out.add(row)), v);
                }
                if let Some(end) = &t.end {
                    v = finish(v, end, column, row);
                }
                _mm256_storeu_ps(t.out.add(row), v);
            }
        }
    }
}

/// What the epilogue makes of results at a column, and at a place in their matrix.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn finish(mut v: __m256, end: &End, column: usize, place: usize) -> __m256 {
    // SAFETY: the tile's part of the epilogue's operands is there.
    unsafe {
        if !end.bias.is_null() {
            v = _mm256_add_ps(v, _mm256_loadu_ps(end.bias.add(column)));
        }
        if !end.addend.is_null() {
            v = _mm256_add_ps(v, _mm256_loadu_ps(end.addend.add(place)));
        }
    }
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
    // Of equal values these give the second: see `Epilogue` for the zeros.
    v = _mm256_max_ps(v, _mm256_set1_ps(end.low));
    v = _mm256_min_ps(v, _mm256_set1_ps(end.high));
    _mm256_blendv_ps(v, _mm256_set1_ps(CANONICAL_NAN), nan)
}
