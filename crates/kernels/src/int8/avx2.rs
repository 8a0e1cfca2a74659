//! Tiles with AVX2: products of widened values, which cannot saturate.

use std::arch::x86_64::*;

use super::pack::{COLUMNS, QUAD, Quad};
use super::walk::{Lines, Rows};
use crate::isa::Isa;

/// Proof that this machine has AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Rows of one pass.
const PASS: usize = 4;

impl Avx2 {
    pub(super) fn on(isa: Isa) -> Option<Avx2> {
        (isa.is_avx2() || isa.is_avx512()).then_some(Avx2(()))
    }

    /// # Safety
    /// The lines have 16 places for each unit, which nobody else uses.
    pub(super) unsafe fn multiply(
        self,
        rows: &Rows<'_>,
        panel: &[Quad],
        units: usize,
        begin: &[i32; COLUMNS],
        to: Lines,
    ) {
        for unit in 0..units {
            for first in (0..rows.starts.len()).step_by(PASS) {
                // SAFETY: `self` exists only where the machine has these instructions; rows and
                // panel have been checked, lines are the caller's.
                unsafe {
                    match rows.starts.len() - first {
                        1 => multiply::<1>(rows, first, panel, units, unit, begin, to),
                        2 => multiply::<2>(rows, first, panel, units, unit, begin, to),
                        3 => multiply::<3>(rows, first, panel, units, unit, begin, to),
                        _ => multiply::<PASS>(rows, first, panel, units, unit, begin, to),
                    }
                }
            }
        }
    }
}

/// `H` rows by one unit. A register holds pairs of products of four columns: two for each.
#[target_feature(enable = "avx2")]
unsafe fn multiply<const H: usize>(
    rows: &Rows<'_>,
    first: usize,
    panel: &[Quad],
    count: usize,
    unit: usize,
    begin: &[i32; COLUMNS],
    to: Lines,
) {
    // Two parts of the unit at a time: 8 columns.
    for half in 0..2 {
        let mut sums = [[_mm256_setzero_si256(); 2]; H];
        let mut units = panel.chunks_exact(count);
        for &run in rows.runs {
            let starts: [*const u8; H] =
                std::array::from_fn(|i| rows.values[rows.starts[first + i] + run..].as_ptr());
            for (step, units) in units.by_ref().take(rows.steps).enumerate() {
                let quads = units[unit].0.as_ptr();
                let b: [__m256i; 2] = std::array::from_fn(|p| {
                    // SAFETY: 16 of the unit's 64 bytes.
                    let bytes = unsafe { _mm_load_si128(quads.add((half * 2 + p) * 16).cast()) };
                    _mm256_cvtepi8_epi16(bytes)
                });
                for i in 0..H {
                    // SAFETY: every row has four values for each step of a run.
                    let quad = unsafe { starts[i].add(step * QUAD).cast::<i32>().read_unaligned() };
                    let a = _mm256_cvtepu8_epi16(_mm_set1_epi32(quad));
                    for p in 0..2 {
                        sums[i][p] = _mm256_add_epi32(sums[i][p], _mm256_madd_epi16(a, b[p]));
                    }
                }
            }
        }
        for i in 0..H {
            // Neighbours are added: four columns from each register, in two halves.
            let pairs = _mm256_hadd_epi32(sums[i][0], sums[i][1]);
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            let start = unit * 16 + half * 8;
            let begin = &begin[start..start + 8];
            // SAFETY: 8 values, and 8 places of the caller's.
            unsafe {
                let sums = _mm256_add_epi32(ordered, _mm256_loadu_si256(begin.as_ptr().cast()));
                _mm256_storeu_si256(to.at(first + i, start).cast(), sums);
            }
        }
    }
}
