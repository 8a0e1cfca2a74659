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
        macro_rules! of {
            ($($h:literal: $w:literal;)+) => {
                match (t.rows.len(), t.offsets.is_null()) {
                    $(
                        // SAFETY: `self` exists only where the machine has AVX2 and FMA; the caller answers for the tile.
                        ($h, true) => unsafe { tile::<$h, $w, false>(t) },
                        // SAFETY: as above.
                        ($h, false) => unsafe { tile::<$h, $w, true>(t) },
                    )+
                    _ => unreachable!("tiles have 1 to 6 rows"),
                }
            };
        }
        // A few rows take several units at once: eight sums keep both multipliers busy.
        of!(1: 4; 2: 2; 3: 1; 4: 1; 5: 1; 6: 1;);
    }
}

/// A tile of `H` rows, `W` of its units at a time as long as there are so many.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const H: usize, const W: usize, const GATHERED: bool>(t: &Tile<'_>) {
    let mut ahead = Ahead::of(t);
    let mut unit = 0;
    while unit < t.width {
        // SAFETY: the caller answers for the tile.
        unsafe {
            if W > 1 && t.width - unit >= W {
                ahead = pass::<H, W, GATHERED>(t, unit, ahead);
                unit += W;
            } else {
                ahead = pass::<H, 1, GATHERED>(t, unit, ahead);
                unit += 1;
            }
        }
    }
}

/// Values of k between two times that a tile asks for what is not in the cache yet.
const STEP: usize = 32;

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
#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(
    clippy::needless_range_loop,
    reason = "sums in registers, which are laid out by hand"
)]
unsafe fn pass<const H: usize, const W: usize, const GATHERED: bool>(
    t: &Tile<'_>,
    unit: usize,
    mut ahead: Ahead,
) -> Ahead {
    let mut sums = [[[_mm256_setzero_ps(); 2]; H]; W];
    let rows: [*const f32; H] = *t.rows.first_chunk().expect("a row for each of the tile's");
    // SAFETY: the tile has these units.
    let mut units: [*const f32; W] =
        std::array::from_fn(|w| unsafe { t.b.add((unit + w) * t.unit_stride) });
    let addend = t.end.map_or(std::ptr::null(), |end| end.addend);
    for i in 0..H {
        for w in 0..W {
            let place = i * t.stride + (unit + w) * UNIT;
            _mm_prefetch::<_MM_HINT_T0>(t.out.wrapping_add(place).cast());
            if !addend.is_null() {
                _mm_prefetch::<_MM_HINT_T0>(addend.wrapping_add(place).cast());
            }
        }
    }
    let mut add = |k: usize| {
        // SAFETY: the tile has k values in each row, and as many rows of the panel.
        unsafe {
            let at = if GATHERED {
                *t.offsets.add(k) as usize
            } else {
                k
            };
            for w in 0..W {
                let b = units[w];
                units[w] = b.wrapping_add(t.b_stride);
                let b = [_mm256_load_ps(b), _mm256_load_ps(b.add(LANES))];
                for i in 0..H {
                    let a = _mm256_set1_ps(*rows[i].add(at));
                    sums[w][i][0] = _mm256_fmadd_ps(a, b[0], sums[w][i][0]);
                    sums[w][i][1] = _mm256_fmadd_ps(a, b[1], sums[w][i][1]);
                }
            }
        }
    };
    for start in (0..t.k).step_by(STEP) {
        ahead.ask();
        for k in start..t.k.min(start + STEP) {
            add(k);
        }
    }
    for (w, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller answers for the tile.
        unsafe {
            if unit + w + 1 < t.width || t.edge == UNIT {
                finish::<H, true>(t, unit + w, sums);
            } else {
                finish::<H, false>(t, unit + w, sums);
            }
        }
    }
    ahead
}

/// Stores the sums of one unit, `WHOLE` or as many columns of it as are wanted, and what the epilogue makes of them.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[allow(
    clippy::needless_range_loop,
    reason = "sums in registers, which are laid out by hand"
)]
unsafe fn finish<const H: usize, const WHOLE: bool>(
    t: &Tile<'_>,
    unit: usize,
    mut sums: [[__m256; 2]; H],
) {
    // Vectors that hold columns that are wanted. Masks are slow: whole vectors do without.
    let edge = if WHOLE { UNIT } else { t.edge };
    let halves = edge.div_ceil(LANES);
    let whole = |half: usize| WHOLE || (half + 1) * LANES <= edge;
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((edge % LANES) as i32), lanes);
    // SAFETY: the tile's part of its matrices is there.
    let load = |from: *const f32, half: usize| unsafe {
        match whole(half) {
            true => _mm256_loadu_ps(from.wrapping_add(half * LANES)),
            false => _mm256_maskload_ps(from.wrapping_add(half * LANES), mask),
        }
    };
    let column = unit * UNIT;
    let place = |i: usize| i * t.stride + column;
    if !t.first {
        for i in 0..H {
            for half in 0..halves {
                sums[i][half] =
                    _mm256_add_ps(load(t.out.wrapping_add(place(i)), half), sums[i][half]);
            }
        }
    }
    if let Some(end) = &t.end {
        if !end.bias.is_null() {
            for half in 0..halves {
                let bias = load(end.bias.wrapping_add(column), half);
                for i in 0..H {
                    sums[i][half] = _mm256_add_ps(sums[i][half], bias);
                }
            }
        }
        if !end.addend.is_null() {
            for i in 0..H {
                for half in 0..halves {
                    let addend = load(end.addend.wrapping_add(place(i)), half);
                    sums[i][half] = _mm256_add_ps(sums[i][half], addend);
                }
            }
        }
        let (low, high) = (_mm256_set1_ps(end.low), _mm256_set1_ps(end.high));
        let canonical = _mm256_set1_ps(CANONICAL_NAN);
        for i in 0..H {
            for half in 0..halves {
                let v = sums[i][half];
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
                // Of equal values these give the second: see `Epilogue` for the zeros.
                let v = _mm256_min_ps(_mm256_max_ps(v, low), high);
                sums[i][half] = _mm256_blendv_ps(v, canonical, nan);
            }
        }
    }
    for i in 0..H {
        for half in 0..halves {
            let to = t.out.wrapping_add(place(i) + half * LANES);
            // SAFETY: the tile's part of the result is the caller's.
            unsafe {
                match whole(half) {
                    true => _mm256_storeu_ps(to, sums[i][half]),
                    false => _mm256_maskstore_ps(to, mask, sums[i][half]),
                }
            }
        }
    }
}
