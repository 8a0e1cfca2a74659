//! Tiles in plain Rust.

use super::pack::{COLUMNS, QUAD, Quad, UNIT};
use super::walk::{Rows, Tile};

pub(super) fn multiply(rows: &Rows<'_>, panel: &[Quad], units: usize, tile: &mut Tile) {
    for (&start, line) in rows.starts.iter().zip(tile) {
        let mut sums = [0i32; COLUMNS];
        let mut panel = panel.chunks_exact(units);
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
        *line = sums;
    }
}
