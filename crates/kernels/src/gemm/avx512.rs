//! Tiles in AVX-512: up to 12 rows by 32 columns in 24 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{BLOCK_K, Block, PANEL, Row, SLIVER};
use crate::isa::Isa;
use crate::math::CANONICAL_NAN;

/// Lanes of a register.
const LANES: usize = 16;

/// Proof that this machine has AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// The tiles of this instruction set, if `isa` is it.
    pub(super) fn on(isa: Isa) -> Option<Tiles> {
        isa.is_avx512().then_some(Tiles(()))
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
                        // SAFETY: `self` exists only where the machine has AVX-512.
                        $h => unsafe { tile::<$h>(sliver, panel, out, stride, block) },
                    )+
                    _ => unreachable!("slivers have 1 to {SLIVER} rows"),
                }
            };
        }
        of_height!(1 2 3 4 5 6 7 8 9 10 11 12)
    }

    fn row(self, row: &[f32], panels: &[Row], out: &mut [f32]) {
        const TOGETHER: usize = 4;
        let k = row.len();
        let (many, one) = panels.split_at(panels.len() / (TOGETHER * k) * TOGETHER * k);
        let (many_out, one_out) = out.split_at_mut(many.len() / k * PANEL);
        for (panels, out) in many
            .chunks_exact(TOGETHER * k)
            .zip(many_out.chunks_exact_mut(TOGETHER * PANEL))
        {
            // SAFETY: `self` exists only where the machine has AVX-512.
            unsafe { row_by_panels::<TOGETHER>(row, panels, out) };
        }
        for (panel, out) in one.chunks_exact(k).zip(one_out.chunks_exact_mut(PANEL)) {
            // SAFETY: as above.
            unsafe { row_by_panels::<1>(row, panel, out) };
        }
    }
}

/// `sum` as it is, or added to what `out` holds; canonical where final.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [f32; LANES], sum: __m512, block: Block) {
    // SAFETY: the array has as many values as the register.
    let before = unsafe { _mm512_loadu_ps(out.as_ptr()) };
    let mut total = if block.first {
        sum
    } else {
        _mm512_add_ps(before, sum)
    };
    if block.last {
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(total, total);
        total = _mm512_mask_blend_ps(nan, total, _mm512_set1_ps(CANONICAL_NAN));
    }
    // SAFETY: as above.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
}

/// Both registers of one row of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &Row) -> [__m512; 2] {
    // SAFETY: a row is 32 values, aligned to 64 bytes.
    unsafe {
        [
            _mm512_load_ps(row.0.as_ptr()),
            _mm512_load_ps(row.0.as_ptr().add(LANES)),
        ]
    }
}

#[target_feature(enable = "avx512f")]
fn tile<const H: usize>(
    sliver: &[f32],
    panel: &[Row],
    out: &mut [f32],
    stride: usize,
    block: Block,
) {
    let (sliver, rest) = sliver.as_chunks::<H>();
    debug_assert!(rest.is_empty() && sliver.len() == panel.len());
    let mut sums = [[_mm512_setzero_ps(); 2]; H];
    for (a, b) in sliver.iter().zip(panel) {
        let b = load(b);
        for i in 0..H {
            let a = _mm512_set1_ps(a[i]);
            sums[i][0] = _mm512_fmadd_ps(a, b[0], sums[i][0]);
            sums[i][1] = _mm512_fmadd_ps(a, b[1], sums[i][1]);
        }
    }
    for (i, [left, right]) in sums.into_iter().enumerate() {
        let (line, _) = out[i * stride..][..PANEL].as_chunks_mut::<LANES>();
        store(&mut line[0], left, block);
        store(&mut line[1], right, block);
    }
}

/// One row by `P` panels, all of k, in 2 · P independent chains.
#[target_feature(enable = "avx512f")]
fn row_by_panels<const P: usize>(row: &[f32], panels: &[Row], out: &mut [f32]) {
    let k = row.len();
    assert_eq!(panels.len(), P * k, "panels of the row's length");
    let (out, _) = out.as_chunks_mut::<LANES>();
    for start in (0..k).step_by(BLOCK_K) {
        let end = k.min(start + BLOCK_K);
        let block = Block {
            first: start == 0,
            last: end == k,
        };
        let mut sums = [[_mm512_setzero_ps(); 2]; P];
        for (i, &a) in row[start..end].iter().enumerate() {
            let a = _mm512_set1_ps(a);
            for (p, sums) in sums.iter_mut().enumerate() {
                // SAFETY: p < P and start + i < k, and there are P · k rows. A check in this
                // place keeps the compiler from holding the sums in registers.
                let b = load(unsafe { panels.get_unchecked(p * k + start + i) });
                sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
            }
        }
        for (p, [left, right]) in sums.into_iter().enumerate() {
            store(&mut out[2 * p], left, block);
            store(&mut out[2 * p + 1], right, block);
        }
    }
}
