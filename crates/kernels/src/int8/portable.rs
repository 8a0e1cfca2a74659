//! Tiles in plain Rust.

use super::pack::{COLUMNS, QUAD, Quad, UNIT};
use super::walk::{Lines, Rows};

/// # Safety
/// The lines have 16 places for each unit, or all 64 if there is none, and nobody else uses these.
pub(super) unsafe fn multiply(
    rows: &Rows<'_>,
    panel: &[Quad],
    units: usize,
    begin: &[i32; COLUMNS],
    to: Lines,
) {
    let width = if units == 0 { COLUMNS } else { units * UNIT };
    for (i, &start) in rows.starts.iter().enumerate() {
        let mut sums = *begin;
        let mut panel = panel.chunks_exact(units.max(1));
        for run in rows.runs {
            let values = &rows.values[start + run..][..rows.steps * QUAD];
            for (values, units) in values.chunks_exact(QUAD).zip(&mut panel) {
                for (sums, unit) in sums.chunks_exact_mut(UNIT).zip(units) {
                    for (sum, column) in sums.iter_mut().zip(unit.0.chunks_exact(QUAD)) {
                        for (&a, &b) in values.iter().zip(column) {
                            *sum = sum.wrapping_add(i32::from(a) * i32::from(b));
                        }
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), to.at(i, 0), width) };
    }
}
