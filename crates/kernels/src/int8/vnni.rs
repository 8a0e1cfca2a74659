//! Tiles with AVX-512 VNNI: 6 rows by 64 columns in 24 registers.

use std::arch::x86_64::*;

use super::fixed512::{self, Bytes};
use super::pack::{COLUMNS, QUAD, Quad, UNITS};
use super::walk::{Lines, Rows, Tile};
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
        to: Lines<'_>,
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

    /// Multiplies a whole panel and takes the sums to bytes; those of rows where these are not certain go to the tile. A
    /// bit for each of these rows.
    ///
    /// # Safety
    /// Nobody else uses the bytes.
    pub(super) unsafe fn finish(
        self,
        rows: &Rows<'_>,
        panel: &[Quad],
        begin: &[i32; COLUMNS],
        to: &Bytes<'_>,
        tile: &mut Tile,
    ) -> u8 {
        macro_rules! of {
            ($($h:literal)+) => {
                match rows.starts.len() {
                    // SAFETY: as above; the bytes are the caller's.
                    $($h => unsafe { finish::<$h>(rows, panel, begin, to, tile) },)+
                    _ => unreachable!("tiles have 1 to 6 rows"),
                }
            };
        }
        of!(1 2 3 4 5 6)
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn multiply<const H: usize, const U: usize>(
    rows: &Rows<'_>,
    panel: &[Quad],
    begin: &[i32; COLUMNS],
    to: Lines<'_>,
) {
    // SAFETY: the caller's promise.
    let sums = unsafe { sums::<H, U>(rows, panel, begin) };
    for (i, sums) in sums.into_iter().enumerate() {
        for (u, sum) in sums.into_iter().enumerate() {
            // SAFETY: 16 places of the caller's for each unit.
            unsafe { _mm512_storeu_si512(to.at(i, 16 * u).cast(), sum) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn finish<const H: usize>(
    rows: &Rows<'_>,
    panel: &[Quad],
    begin: &[i32; COLUMNS],
    to: &Bytes<'_>,
    tile: &mut Tile,
) -> u8 {
    // SAFETY: the caller's promise.
    let sums = unsafe { sums::<H, UNITS>(rows, panel, begin) };
    let mut uncertain = 0;
    for (i, sums) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        if !unsafe { fixed512::row(to, i, sums) } {
            uncertain |= 1 << i;
            for (u, sum) in sums.into_iter().enumerate() {
                // SAFETY: a row of the tile has 16 places for each unit.
                unsafe { _mm512_storeu_si512(tile[i].as_mut_ptr().add(16 * u).cast(), sum) };
            }
        }
    }
    uncertain
}

/// The sums of `H` rows and `U` units. Always inlined, so that they stay in registers.
///
/// # Safety
/// The caller is compiled for AVX-512 VNNI; rows and panel have been checked.
#[inline(always)]
unsafe fn sums<const H: usize, const U: usize>(
    rows: &Rows<'_>,
    panel: &[Quad],
    begin: &[i32; COLUMNS],
) -> [[__m512i; U]; H] {
    // SAFETY: the caller's promise. A unit has 16 columns, of 32 bits in `begin` and of 4 bytes, aligned, in the panel, which
    // has U of them for each step; every row has all runs, and four values for each step of them.
    unsafe {
        let zero = _mm512_setzero_si512();
        let mut sums = [[zero; U]; H];
        for u in 0..U {
            let begin = _mm512_loadu_si512(begin.as_ptr().add(16 * u).cast());
            for sums in &mut sums {
                sums[u] = begin;
            }
        }
        let mut b = panel.as_ptr();
        for &run in rows.runs {
            let mut a = [rows.values.as_ptr(); H];
            for (a, &start) in a.iter_mut().zip(rows.starts) {
                *a = a.add(start + run);
            }
            for _ in 0..rows.steps {
                let mut units = [zero; U];
                for (u, unit) in units.iter_mut().enumerate() {
                    *unit = _mm512_load_si512(b.add(u).cast());
                }
                for i in 0..H {
                    let quad = _mm512_set1_epi32(a[i].cast::<i32>().read_unaligned());
                    for u in 0..U {
                        sums[i][u] = _mm512_dpbusd_epi32(sums[i][u], quad, units[u]);
                    }
                    a[i] = a[i].wrapping_add(QUAD);
                }
                b = b.wrapping_add(U);
            }
        }
        sums
    }
}
