//! Tiles with VNNI, instructions that add four products of bytes to each sum: of AVX-512, 6 rows by 64 columns in 24 registers;
//! of AVX, 6 rows by 16 columns in 12.

use std::arch::x86_64::*;

use super::avx2::{end, halves};
use super::pack::{COLUMNS, QUAD, Quad, UNIT};
use super::walk::{Lines, Rows};
use crate::isa::Isa;

/// Proof that this machine has AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct Vnni(());

impl Vnni {
    pub(super) fn on(isa: Isa) -> Option<Vnni> {
        (isa.is_avx512() && is_x86_feature_detected!("avx512vnni")).then_some(Vnni(()))
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
        macro_rules! of {
            ($($u:literal: $($h:literal)+;)+) => {
                match (units, rows.starts.len()) {
                    // SAFETY: `self` exists only where the machine has these instructions; rows and
                    // panel have been checked, lines are the caller's.
                    $($(($u, $h) => unsafe { multiply::<$h, $u>(rows, panel, begin, to) },)+)+
                    _ => unreachable!("tiles have 1 to 6 rows and 1 to 4 units"),
                }
            };
        }
        of!(1: 1 2 3 4 5 6; 2: 1 2 3 4 5 6; 3: 1 2 3 4 5 6; 4: 1 2 3 4 5 6;);
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply<const H: usize, const U: usize>(
    rows: &Rows<'_>,
    panel: &[Quad],
    begin: &[i32; COLUMNS],
    to: Lines,
) {
    let begin: [__m512i; U] =
        // SAFETY: 16 values of 32 bits each, and U is at most 4.
        std::array::from_fn(|u| unsafe { _mm512_loadu_si512(begin.as_ptr().add(16 * u).cast()) });
    let mut sums = [begin; H];
    let mut b = panel.as_ptr();
    for &run in rows.runs {
        let mut a: [*const u8; H] =
            // SAFETY: every row has all runs.
            std::array::from_fn(|i| unsafe { rows.values.as_ptr().add(rows.starts[i] + run) });
        for _ in 0..rows.steps {
            let units: [__m512i; U] =
                // SAFETY: a unit is 64 bytes, aligned; the panel has U for each step.
                std::array::from_fn(|u| unsafe { _mm512_load_si512(b.add(u).cast()) });
            for i in 0..H {
                // SAFETY: every row has four values for each step of a run.
                let quad = unsafe { a[i].cast::<i32>().read_unaligned() };
                let quad = _mm512_set1_epi32(quad);
                for u in 0..U {
                    sums[i][u] = _mm512_dpbusd_epi32(sums[i][u], quad, units[u]);
                }
            }
            b = b.wrapping_add(U);
            a = a.map(|a| a.wrapping_add(QUAD));
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (u, sum) in sums.into_iter().enumerate() {
            // SAFETY: 16 places of the caller's for each unit.
            unsafe { _mm512_storeu_si512(to.at(i, 16 * u).cast(), sum) };
        }
    }
}

/// Proof that this machine has AVX-VNNI, and that the instruction set is no wider.
#[derive(Clone, Copy)]
pub(super) struct AvxVnni(());

impl AvxVnni {
    pub(super) fn on(isa: Isa) -> Option<AvxVnni> {
        (isa.is_avx2() && is_x86_feature_detected!("avxvnni")).then_some(AvxVnni(()))
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
        for (unit, begin) in begin.as_chunks::<UNIT>().0[..units].iter().enumerate() {
            let (panel, column) = (&panel[unit..], unit * UNIT);
            macro_rules! of {
                ($($h:literal)+) => {
                    match rows.starts.len() {
                        // SAFETY: `self` exists only where the machine has these instructions; rows and panel have been
                        // checked, lines are the caller's.
                        $($h => unsafe { one_unit::<$h>(rows, panel, units, begin, to, column) },)+
                        _ => unreachable!("tiles have 1 to 6 rows"),
                    }
                };
            }
            of!(1 2 3 4 5 6);
        }
    }
}

/// Sums of `H` rows and the first of each `units` units.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn one_unit<const H: usize>(
    rows: &Rows<'_>,
    panel: &[Quad],
    units: usize,
    begin: &[i32; UNIT],
    to: Lines,
    column: usize,
) {
    // SAFETY: 8 values of 32 bits each.
    let begin = [0, 8].map(|j| unsafe { _mm256_loadu_si256(begin.as_ptr().add(j).cast()) });
    let mut sums = [begin; H];
    let mut b = panel.as_ptr();
    for &run in rows.runs {
        let mut a: [*const u8; H] =
            // SAFETY: every row has all runs.
            std::array::from_fn(|i| unsafe { rows.values.as_ptr().add(rows.starts[i] + run) });
        for _ in 0..rows.steps {
            // SAFETY: the panel has a unit for each step.
            let unit = halves(unsafe { &*b });
            for i in 0..H {
                // SAFETY: every row has four values for each step of a run.
                let quad = unsafe { a[i].cast::<i32>().read_unaligned() };
                let quad = _mm256_set1_epi32(quad);
                for j in 0..2 {
                    sums[i][j] = _mm256_dpbusd_avx_epi32(sums[i][j], quad, unit[j]);
                }
            }
            b = b.wrapping_add(units);
            a = a.map(|a| a.wrapping_add(QUAD));
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: 16 places of the caller's.
        unsafe { end([sums], to.at(i, column)) };
    }
}
