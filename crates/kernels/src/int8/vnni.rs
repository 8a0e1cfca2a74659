//! Tiles with AVX-512 VNNI: 8 rows by 48 columns in 24 registers.

use std::arch::x86_64::*;

use super::ROWS;
use super::pack::{COLUMNS, QUAD, Quad, UNITS};
use crate::isa::Isa;

/// Proof that this machine has AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct Vnni(());

impl Vnni {
    pub(super) fn on(isa: Isa) -> Option<Vnni> {
        (isa.is_avx512() && is_x86_feature_detected!("avx512vnni")).then_some(Vnni(()))
    }

    pub(super) fn multiply(
        self,
        count: usize,
        stride: usize,
        rows: &[u8],
        panel: &[Quad],
        tile: &mut [[i32; COLUMNS]; ROWS],
    ) {
        macro_rules! of {
            ($($h:literal)+) => {
                match count {
                    // SAFETY: `self` exists only where the machine has these instructions; rows and
                    // panel have been checked.
                    $($h => unsafe { multiply::<$h>(stride, rows, panel, tile) },)+
                    _ => unreachable!("tiles have 1 to 8 rows"),
                }
            };
        }
        of!(1 2 3 4 5 6 7 8);
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply<const H: usize>(
    stride: usize,
    rows: &[u8],
    panel: &[Quad],
    tile: &mut [[i32; COLUMNS]; ROWS],
) {
    let mut sums = [[_mm512_setzero_si512(); UNITS]; H];
    let starts: [*const u8; H] = std::array::from_fn(|i| rows[i * stride..].as_ptr());
    for (step, units) in panel.chunks_exact(UNITS).enumerate() {
        let b: [__m512i; UNITS] =
            // SAFETY: a unit is 64 bytes, aligned.
            std::array::from_fn(|u| unsafe { _mm512_load_si512(units[u].0.as_ptr().cast()) });
        for i in 0..H {
            // SAFETY: every row has four values for each step.
            let quad = unsafe { starts[i].add(step * QUAD).cast::<i32>().read_unaligned() };
            let a = _mm512_set1_epi32(quad);
            for u in 0..UNITS {
                sums[i][u] = _mm512_dpbusd_epi32(sums[i][u], a, b[u]);
            }
        }
    }
    for (line, sums) in tile.iter_mut().zip(sums) {
        for (out, sum) in line.chunks_exact_mut(16).zip(sums) {
            // SAFETY: 16 values of 32 bits.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
        }
    }
}
