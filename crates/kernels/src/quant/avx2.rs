//! Tiles in AVX2 with FMA: blocks are unpacked to bytes once, then multiplied with row after row.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{BLOCK, Format, PAIR, PANEL, Panel, RowBlock, portable};
use crate::isa::Isa;

/// Proof that this machine has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// These tiles, if `isa` has the instructions: AVX2, or AVX-512 without its integer products.
    pub(super) fn on(isa: Isa) -> Option<Tiles> {
        (isa.is_avx2() || isa.is_avx512()).then_some(Tiles(()))
    }
}

impl super::Tiles for Tiles {
    fn tile(
        self,
        format: Format,
        panels: [Panel<'_>; 2],
        first: usize,
        blocks: usize,
        height: usize,
        x: &[RowBlock],
        sums: &mut [[f32; PAIR]],
    ) {
        // SAFETY: `self` exists only where the machine has AVX2 and FMA.
        unsafe { tile(format, panels, first, blocks, height, x, sums) };
    }
}

#[target_feature(enable = "avx2,fma")]
fn tile(
    format: Format,
    panels: [Panel<'_>; 2],
    first: usize,
    blocks: usize,
    height: usize,
    x: &[RowBlock],
    sums: &mut [[f32; PAIR]],
) {
    let mut codes = [0; PANEL * BLOCK];
    if first == 0 {
        sums[..height].fill([0.0; PAIR]);
    }
    for (side, panel) in panels.into_iter().enumerate() {
        for b in 0..blocks {
            portable::unpack(format, panel, first + b, &mut codes);
            let scales = portable::scales(format, panel, first + b);
            for (x, sums) in x[b * height..].iter().zip(&mut sums[..height]) {
                let sums = &mut sums[side * PANEL..(side + 1) * PANEL];
                let products = if format == Format::Q8_0 {
                    dot::<true>(&codes, x)
                } else {
                    dot::<false>(&codes, x)
                };
                portable::finish(format, &scales, x, &products, sums);
            }
        }
    }
}

/// Sums of products of codes for both halves of the block; of eight-bit codes in the first half
/// alone.
///
/// Neighbouring products are added in 16 bits. That is exact for unsigned codes below 64:
/// 2 · 63 · 127 < 2¹⁵. Eight-bit codes are made signed, and their sign is given to the other side:
/// 2 · 128 · 127 < 2¹⁵; what the sums then lack, 128 · Σ codes of x, is put back.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot<const EIGHT: bool>(codes: &[u8; PANEL * BLOCK], x: &RowBlock) -> [[i32; PANEL]; 2] {
    let (lines, _) = codes.as_chunks::<32>();
    let (x_codes, _) = x.codes.as_chunks::<4>();
    let ones = _mm256_set1_epi16(1);
    let start = if EIGHT { -x.offset } else { 0 };
    let mut out = [[0; PANEL]; 2];
    for side in 0..2 {
        let mut halves = [_mm256_set1_epi32(start), _mm256_setzero_si256()];
        for j in 0..8 {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x_codes[j].map(|code| code as u8)));
            // SAFETY: a line has as many bytes as the register.
            let w = unsafe { _mm256_loadu_si256(lines[2 * j + side].as_ptr().cast()) };
            let pairs = if EIGHT {
                let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
            } else {
                _mm256_maddubs_epi16(w, x)
            };
            let half = if EIGHT { 0 } else { j / 4 };
            halves[half] = _mm256_add_epi32(halves[half], _mm256_madd_epi16(pairs, ones));
        }
        for (half, out) in halves.into_iter().zip(&mut out) {
            let out = &mut out[side * 8..(side + 1) * 8];
            // SAFETY: eight values are what the register holds.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), half) };
        }
    }
    out
}
