//! Tiles in AVX2 with FMA: 6 rows by 16 columns in 12 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::UNIT;
use super::walk::Tile;
use crate::isa::Isa;
use crate::math::CANONICAL_NAN;

/// Lanes of a register.
const LANES: usize = 8;

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
    const EDGES: bool = true;
    const MANY: usize = 2;

    fn most(_: usize) -> usize {
        6
    }

    #[inline(always)]
    unsafe fn tile(self, t: &Tile<'_>) {
        let mut ahead = Ahead::of(t);
        let mut unit = 0;
        while unit < t.width {
            macro_rules! of {
                ($($h:literal: $($w:literal)+;)+) => {
                    match (t.rows.len(), t.offsets.is_null()) {
                        $($(
                            // SAFETY: `self` exists only where the machine has AVX2 and FMA; the caller answers for
                            // the tile.
                            ($h, true) if t.width - unit >= $w => unsafe {
                                ahead = pass::<$h, $w, false>(t, unit, ahead);
                                unit += $w;
                            },
                            // SAFETY: as above.
                            ($h, false) if t.width - unit >= $w => unsafe {
                                ahead = pass::<$h, $w, true>(t, unit, ahead);
                                unit += $w;
                            },
                        )+)+
                        _ => unreachable!("tiles have 1 to 6 rows"),
                    }
                };
            }
            // A few rows take several units at once: eight sums keep both multipliers busy.
            of!(1: 4 1; 2: 2 1; 3: 1; 4: 1; 5: 1; 6: 1;);
        }
    }
}

/// Values of k between two times that a tile asks for what is not in the cache yet.
const STEP: usize = 8;

/// What a tile asks for while it multiplies: its share of what later tiles multiply by. They find it in the second-level
/// cache; the first is full.
#[derive(Clone, Copy)]
struct Ahead {
    next: *const super::Unit,
    /// Units each time.
    pace: usize,
}

impl Ahead {
    #[inline(always)]
    fn of(t: &Tile<'_>) -> Ahead {
        let times = t.k.div_ceil(STEP) * t.width;
        Ahead {
            next: t.ahead.as_ptr(),
            pace: (t.ahead.len() as u32).div_ceil(times as u32) as usize,
        }
    }

    #[inline(always)]
    fn ask(&mut self) {
        for _ in 0..self.pace {
            // SAFETY: a hint, which reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(1);
        }
    }
}

/// A tile's `H` rows by `W` of its units, the left values neighbours or `GATHERED`.
#[target_feature(enable = "avx2,fma")]
unsafe fn pass<const H: usize, const W: usize, const GATHERED: bool>(
    t: &Tile<'_>,
    unit: usize,
    mut ahead: Ahead,
) -> Ahead {
    let mut sums = [[[_mm256_setzero_ps(); 2]; H]; W];
    let rows: [*const f32; H] = std::array::from_fn(|i| t.rows[i]);
    // SAFETY: the tile has these units.
    let units: [*const f32; W] =
        std::array::from_fn(|w| unsafe { t.b.add((unit + w) * t.unit_stride) });
    for i in 0..H {
        for w in 0..W {
            let place = i * t.stride + (unit + w) * UNIT;
            _mm_prefetch::<_MM_HINT_T0>(t.out.wrapping_add(place).cast());
        }
    }
    // Who asks for nothing need not stop for it.
    let step = if ahead.pace == 0 { t.k } else { STEP };
    for start in (0..t.k).step_by(step) {
        ahead.ask();
        for k in start..t.k.min(start + step) {
            // SAFETY: the tile has k values in each row, and as many rows of the panel.
            unsafe {
                let at = if GATHERED {
                    *t.offsets.add(k) as usize
                } else {
                    k
                };
                for w in 0..W {
                    let b = units[w].add(k * t.b_stride);
                    let b = [_mm256_load_ps(b), _mm256_load_ps(b.add(LANES))];
                    for i in 0..H {
                        let a = _mm256_set1_ps(*rows[i].add(at));
                        sums[w][i][0] = _mm256_fmadd_ps(a, b[0], sums[w][i][0]);
                        sums[w][i][1] = _mm256_fmadd_ps(a, b[1], sums[w][i][1]);
                    }
                }
            }
        }
    }
    for (w, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller answers for the tile.
        unsafe {
            if unit + w + 1 < t.width || t.edge == UNIT {
                finish::<true>(t, unit + w, &sums);
            } else {
                finish::<false>(t, unit + w, &sums);
            }
        }
    }
    ahead
}

/// Stores the sums of one unit, `WHOLE` or as many columns of it as are wanted, and what the epilogue makes of them.
#[target_feature(enable = "avx2,fma")]
unsafe fn finish<const WHOLE: bool>(t: &Tile<'_>, unit: usize, sums: &[[__m256; 2]]) {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let edge = t.edge as i32;
    let masks = [edge, edge - LANES as i32]
        .map(|wanted| _mm256_cmpgt_epi32(_mm256_set1_epi32(wanted), lanes));
    // SAFETY: the tile's part of its matrices is there.
    let load = |from: *const f32, half: usize| unsafe {
        match WHOLE {
            true => _mm256_loadu_ps(from.wrapping_add(half * LANES)),
            false => _mm256_maskload_ps(from.wrapping_add(half * LANES), masks[half]),
        }
    };
    let column = unit * UNIT;
    // What leaves every value as it is: −0 as a summand, infinite bounds.
    let bias = [0, 1].map(|half| match t.end {
        Some(end) if !end.bias.is_null() => load(end.bias.wrapping_add(column), half),
        _ => _mm256_set1_ps(-0.0),
    });
    for (i, sums) in sums.iter().enumerate() {
        let place = i * t.stride + column;
        for half in 0..2 {
            let mut v = sums[half];
            if !t.first {
                v = _mm256_add_ps(load(t.out.wrapping_add(place), half), v);
            }
            if let Some(end) = &t.end {
                v = _mm256_add_ps(v, bias[half]);
                if !end.addend.is_null() {
                    v = _mm256_add_ps(v, load(end.addend.wrapping_add(place), half));
                }
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
                // Of equal values these give the second: see `Epilogue` for the zeros.
                v = _mm256_max_ps(v, _mm256_set1_ps(end.low));
                v = _mm256_min_ps(v, _mm256_set1_ps(end.high));
                v = _mm256_blendv_ps(v, _mm256_set1_ps(CANONICAL_NAN), nan);
            }
            let to = t.out.wrapping_add(place + half * LANES);
            // SAFETY: the tile's part of the result is the caller's.
            unsafe {
                match WHOLE {
                    true => _mm256_storeu_ps(to, v),
                    false => _mm256_maskstore_ps(to, masks[half], v),
                }
            }
        }
    }
}
