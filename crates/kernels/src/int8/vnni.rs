//! Tiles with AVX-512 VNNI: 6 rows by 64 columns in 24 registers.

use std::arch::x86_64::*;

use super::ROWS;
use super::pack::{COLUMNS, QUAD, Quad};
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
        units: usize,
        tile: &mut [[i32; COLUMNS]; ROWS],
    ) {
        macro_rules! of {
            ($($u:literal: $($h:literal)+;)+) => {
                match (units, count) {
                    // SAFETY: `self` exists only where the machine has these instructions; rows and
                    // panel have been checked.
                    $($(($u, $h) => unsafe { multiply::<$h, $u>(stride, rows, panel, tile) },)+)+
                    _ => unreachable!("tiles have 1 to 6 rows and 1 to 4 units"),
                }
            };
        }
        of!(1: 1 2 3 4 5 6; 2: 1 2 3 4 5 6; 3: 1 2 3 4 5 6; 4: 1 2 3 4 5 6;);
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply<const H: usize, const U: usize>(
    stride: usize,
    rows: &[u8],
    panel: &[Quad],
    tile: &mut [[i32; COLUMNS]; ROWS],
) {
    let mut sums = [[_mm512_setzero_si512(); U]; H];
    let starts: [*const u8; H] = std::array::from_fn(|i| rows[i * stride..].as_ptr());
    for (step, units) in panel.chunks_exact(U).enumerate() {
        let b: [__m512i; U] =
            // SAFETY: a unit is 64 bytes, aligned.
            std::array::from_fn(|u| unsafe { _mm512_load_si512(units[u].0.as_ptr().cast()) });
        for i in 0..H {
            // SAFETY: every row has four values for each step.
            let quad = unsafe { starts[i].add(step * QUAD).cast::<i32>().read_unaligned() };
            let a = _mm512_set1_epi32(quad);
            for u in 0..U {
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
