//! Tiles in plain Rust.

use super::ROWS;
use super::pack::{COLUMNS, QUAD, Quad, UNIT};

pub(super) fn multiply(
    count: usize,
    stride: usize,
    rows: &[u8],
    panel: &[Quad],
    units: usize,
    tile: &mut [[i32; COLUMNS]; ROWS],
) {
    for i in 0..count {
        let row = &rows[i * stride..(i + 1) * stride];
        let mut sums = [0i32; COLUMNS];
        for (values, units) in row.chunks_exact(QUAD).zip(panel.chunks_exact(units)) {
            for (sums, unit) in sums.chunks_exact_mut(UNIT).zip(units) {
                for (sum, column) in sums.iter_mut().zip(unit.0.chunks_exact(QUAD)) {
                    for (&a, &b) in values.iter().zip(column) {
                        *sum = sum.wrapping_add(i32::from(a) * i32::from(b));
                    }
                }
            }
        }
        tile[i] = sums;
    }
}
