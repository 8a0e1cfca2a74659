//! Tiles in AVX2 with FMA: up to 6 rows by 16 columns in 12 registers, so that a whole tile takes
//! up to four passes.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{BLOCK_K, Block, PANEL, Row, SLIVER};
use crate::isa::Isa;
use crate::math::CANONICAL_NAN;

/// Lanes of a register.
const LANES: usize = 8;

/// Rows of one pass.
const PASS: usize = 6;

/// Proof that this machine has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// The tiles of this instruction set, if `isa` is it.
    pub(super) fn on(isa: Isa) -> Option<Tiles> {
        isa.is_avx2().then_some(Tiles(()))
    }
}

impl super::Tiles for Tiles {
    #[inline(always)]
    fn tile(
        self,
        height: usize,
        sliver: &[f32],
        panel: &[Row],
        out: &mut [f32],
        stride: usize,
        block: Block,
    ) {
        macro_rules! of_height {
            ($($h:literal)+) => {
                match height {
                    $(
                        // SAFETY: `self` exists only where the machine has AVX2 and FMA.
                        $h => unsafe { tile::<$h>(sliver, panel, out, stride, block) },
                    )+
                    _ => unreachable!("slivers have 1 to {SLIVER} rows"),
                }
            };
        }
        of_height!(1 2 3 4 5 6 7 8 9 10 11 12)
    }

    fn row(self, row: &[f32], panels: &[Row], out: &mut [f32]) {
        for (panel, out) in panels
            .chunks_exact(row.len())
            .zip(out.chunks_exact_mut(PANEL))
        {
            // SAFETY: `self` exists only where the machine has AVX2 and FMA.
            unsafe { row_by_panel(row, panel, out) };
        }
    }
}

/// `sum` as it is, or added to what `out` holds; canonical where final.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(out: &mut [f32; LANES], sum: __m256, block: Block) {
    // SAFETY: the array has as many values as the register.
    let before = unsafe { _mm256_loadu_ps(out.as_ptr()) };
    let mut total = if block.first {
        sum
    } else {
        _mm256_add_ps(before, sum)
    };
    if block.last {
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(total, total);
        total = _mm256_blendv_ps(total, _mm256_set1_ps(CANONICAL_NAN), nan);
    }
    // SAFETY: as above.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
}

/// Register `i` of one row of a panel.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(row: &Row, i: usize) -> __m256 {
    let (registers, _) = row.0.as_chunks::<LANES>();
    // SAFETY: the array has as many values as the register.
    unsafe { _mm256_loadu_ps(registers[i].as_ptr()) }
}

#[target_feature(enable = "avx2,fma")]
fn tile<const H: usize>(
    sliver: &[f32],
    panel: &[Row],
    out: &mut [f32],
    stride: usize,
    block: Block,
) {
    for half in 0..2 {
        // A full pass takes six rows; what remains is a pass of its own.
        if H >= PASS {
            pass::<H, PASS>(sliver, 0, panel, half, out, stride, block);
        }
        let first = H / PASS * PASS;
        match H - first {
            0 if H == 2 * PASS => pass::<H, PASS>(sliver, PASS, panel, half, out, stride, block),
            1 => pass::<H, 1>(sliver, first, panel, half, out, stride, block),
            2 => pass::<H, 2>(sliver, first, panel, half, out, stride, block),
            3 => pass::<H, 3>(sliver, first, panel, half, out, stride, block),
            4 => pass::<H, 4>(sliver, first, panel, half, out, stride, block),
            5 => pass::<H, 5>(sliver, first, panel, half, out, stride, block),
            _ => {}
        }
    }
}

/// `R` rows of a sliver of height `H`, from row `first`, by one half of a panel.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn pass<const H: usize, const R: usize>(
    sliver: &[f32],
    first: usize,
    panel: &[Row],
    half: usize,
    out: &mut [f32],
    stride: usize,
    block: Block,
) {
    let (sliver, rest) = sliver.as_chunks::<H>();
    debug_assert!(rest.is_empty() && sliver.len() == panel.len() && first + R <= H);
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for (a, b) in sliver.iter().zip(panel) {
        let b = [load(b, 2 * half), load(b, 2 * half + 1)];
        for i in 0..R {
            let a = _mm256_set1_ps(a[first + i]);
            sums[i][0] = _mm256_fmadd_ps(a, b[0], sums[i][0]);
            sums[i][1] = _mm256_fmadd_ps(a, b[1], sums[i][1]);
        }
    }
    for (i, [left, right]) in sums.into_iter().enumerate() {
        let start = (first + i) * stride + half * 2 * LANES;
        let (line, _) = out[start..][..2 * LANES].as_chunks_mut::<LANES>();
        store(&mut line[0], left, block);
        store(&mut line[1], right, block);
    }
}

/// One row by one panel, all of k, in four independent chains.
#[target_feature(enable = "avx2,fma")]
fn row_by_panel(row: &[f32], panel: &[Row], out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<LANES>();
    let k = row.len();
    for start in (0..k).step_by(BLOCK_K) {
        let end = k.min(start + BLOCK_K);
        let block = Block {
            first: start == 0,
            last: end == k,
        };
        let mut sums = [_mm256_setzero_ps(); PANEL / LANES];
        for (&a, b) in row[start..end].iter().zip(&panel[start..end]) {
            let a = _mm256_set1_ps(a);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(a, load(b, i), *sum);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            store(out, sum, block);
        }
    }
}
