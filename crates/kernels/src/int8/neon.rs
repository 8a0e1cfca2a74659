//! Tiles with NEON's dot products of signed bytes: 6 rows by 16 columns in 24 registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::pack::{COLUMNS, QUAD, Quad, UNIT};
use super::walk::{Lines, Rows};
use crate::isa::Isa;

/// Sums of one register.
const LANES: usize = 4;

/// Registers of a unit.
const PARTS: usize = UNIT / LANES;

/// Proof that this machine has NEON with dot products.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn on(isa: Isa) -> Option<Neon> {
        isa.is_neon().then_some(Neon(()))
    }

    /// Σ (a − 128)·b, added to what the sums of a row begin with.
    ///
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
            macro_rules! of {
                ($($h:literal)+) => {
                    match rows.starts.len() {
                        // SAFETY: `self` exists only where the machine has these instructions; rows and panel have
                        // been checked, lines are the caller's.
                        $($h => unsafe { multiply::<$h>(rows, panel, [unit, units], begin, to) },)+
                        _ => unreachable!("tiles have 1 to 6 rows"),
                    }
                };
            }
            of!(1 2 3 4 5 6);
        }
    }
}

/// `H` rows by unit `unit` of so many.
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply<const H: usize>(
    rows: &Rows<'_>,
    panel: &[Quad],
    [unit, units]: [usize; 2],
    begin: &[i32; COLUMNS],
    to: Lines,
) {
    let mut first = [vdupq_n_s32(0); PARTS];
    for (part, first) in first.iter_mut().enumerate() {
        // SAFETY: four of 64 values.
        *first = unsafe { vld1q_s32(begin.as_ptr().add(unit * UNIT + part * LANES)) };
    }
    let mut sums = [first; H];
    let mut panel = panel.chunks_exact(units);
    for &run in rows.runs {
        for (step, units) in panel.by_ref().take(rows.steps).enumerate() {
            let quads = units[unit].0.as_ptr();
            let mut b = [vdupq_n_s8(0); PARTS];
            for (part, b) in b.iter_mut().enumerate() {
                // SAFETY: 16 of the unit's 64 bytes.
                *b = unsafe { vld1q_s8(quads.add(part * 16).cast()) };
            }
            for (sums, &start) in sums.iter_mut().zip(rows.starts) {
                // SAFETY: every row has four values for each step of a run.
                let quad = unsafe {
                    let quad = rows.values.as_ptr().add(start + run + step * QUAD);
                    quad.cast::<u32>().read_unaligned()
                };
                let a = vreinterpretq_s8_u32(vdupq_n_u32(quad ^ 0x8080_8080));
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = dot(*sum, a, b);
                }
            }
        }
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (part, sum) in sums.into_iter().enumerate() {
            // SAFETY: 16 places of the caller's for each unit.
            unsafe { vst1q_s32(to.at(i, unit * UNIT + part * LANES), sum) };
        }
    }
}

/// Adds to each lane four products of neighbours.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction on registers alone, which the caller's machine has; the language has no name for it yet.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
