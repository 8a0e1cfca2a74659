//! The packed form of the right operand.

use std::ops::Range;

use super::{PANEL, Right, UNIT};
use crate::memory::{Zeroable, Zeros};

/// One row of 16 columns, aligned to a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Unit(pub(crate) [f32; UNIT]);

impl Unit {
    pub(crate) const ZERO: Unit = Unit([0.0; UNIT]);
}

// SAFETY: 16 floats whose bits are zeros are 16 times 0.
#[allow(unsafe_code)]
unsafe impl Zeroable for Unit {
    const ZERO: Unit = Unit::ZERO;
}

/// The right-hand matrix of a product, rearranged once into panels of 64 columns.
///
/// Packing depends on no instruction set; a packed matrix serves them all.
#[derive(Clone)]
pub struct PackedB {
    k: usize,
    n: usize,
    /// Panel after panel, each of `k` rows of up to four units; the last panel has as many as it
    /// needs, and columns beyond `n` are zero.
    units: Zeros<Unit>,
}

impl PackedB {
    /// Packs a `k × n` matrix in row-major order, or with `transposed` one that is stored as its
    /// transpose, `n × k`.
    ///
    /// # Panics
    /// If `b` does not have `k · n` values.
    #[must_use]
    pub fn pack(b: &[f32], k: usize, n: usize, transposed: bool) -> PackedB {
        assert_eq!(
            Some(b.len()),
            k.checked_mul(n),
            "pack: {} values are no {k} × {n} matrix",
            b.len()
        );
        let mut units = Zeros::new(n.div_ceil(UNIT) * k);
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        pack_panels(b, k, n, row, column, &mut units);
        PackedB { k, n, units }
    }

    /// The matrix as it was before [`pack`](PackedB::pack) with the same `transposed`.
    #[must_use]
    pub fn unpack(&self, transposed: bool) -> Vec<f32> {
        let (k, n) = (self.k, self.n);
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        let mut b = vec![0.0; k * n];
        for left in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - left);
            let count = width.div_ceil(UNIT);
            let panel = &self.units[left / UNIT * k..][..count * k];
            for (i, units) in panel.chunks_exact(count).enumerate() {
                let values = units.iter().flat_map(|unit| unit.0).take(width);
                for (j, value) in values.enumerate() {
                    b[i * row + (left + j) * column] = value;
                }
            }
        }
        b
    }

    /// Bytes that a packed matrix of this size occupies: its columns are rounded up to 16.
    #[must_use]
    pub fn bytes(k: usize, n: usize) -> u64 {
        let columns = (n as u64).next_multiple_of(UNIT as u64);
        columns
            .saturating_mul(k as u64)
            .saturating_mul(size_of::<f32>() as u64)
    }

    /// Rows of the matrix.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the matrix.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Some panels.
    pub(crate) fn right(&self, panels: Range<usize>) -> Right<'_> {
        let start = panels.start * PANEL;
        let end = self.n.min(panels.end * PANEL);
        Right {
            units: &self.units[start / UNIT * self.k..end.div_ceil(UNIT) * self.k],
            k: self.k,
            n: end - start,
        }
    }
}

impl std::fmt::Debug for PackedB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} × {})", self.k, self.n)
    }
}

/// Packs all panels of a `k × n` matrix whose value at row i and column j is
/// `b[i · row_step + j · column_step]`.
pub(crate) fn pack_panels(
    b: &[f32],
    k: usize,
    n: usize,
    row_step: usize,
    column_step: usize,
    units: &mut [Unit],
) {
    if k == 0 {
        return;
    }
    for left in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - left);
        let count = width.div_ceil(UNIT);
        let panel = &mut units[left / UNIT * k..][..count * k];
        if column_step == 1 {
            for (i, units) in panel.chunks_exact_mut(count).enumerate() {
                let start = i * row_step + left;
                fill(&b[start..start + width], units);
            }
        } else {
            for (unit, columns) in (0..width).step_by(UNIT).enumerate() {
                let width = UNIT.min(width - columns);
                let start = (left + columns) * column_step;
                let values = &b[start..];
                turn(
                    values,
                    k,
                    width,
                    row_step,
                    column_step,
                    &mut panel[unit..],
                    count,
                );
            }
        }
    }
}

/// One row of a panel.
fn fill(values: &[f32], units: &mut [Unit]) {
    let (whole, rest) = values.as_chunks::<UNIT>();
    for (unit, values) in units.iter_mut().zip(whole) {
        unit.0 = *values;
    }
    if !rest.is_empty() {
        let unit = &mut units[whole.len()];
        unit.0[..rest.len()].copy_from_slice(rest);
        unit.0[rest.len()..].fill(0.0);
    }
}

/// Up to 16 columns that lie `column_step` apart become one unit of each row; the units of two rows
/// are `stride` apart.
fn turn(
    values: &[f32],
    k: usize,
    width: usize,
    row_step: usize,
    column_step: usize,
    units: &mut [Unit],
    stride: usize,
) {
    if width < UNIT {
        units
            .iter_mut()
            .step_by(stride)
            .for_each(|u| *u = Unit::ZERO);
    }
    if row_step != 1 {
        for (i, unit) in units.iter_mut().step_by(stride).take(k).enumerate() {
            for (j, value) in unit.0[..width].iter_mut().enumerate() {
                *value = values[i * row_step + j * column_step];
            }
        }
        return;
    }
    // A few rows at a time, so that the lines written to stay in the cache.
    const ROWS: usize = 16;
    for first in (0..k).step_by(ROWS) {
        let rows = ROWS.min(k - first);
        for j in 0..width {
            let column = &values[j * column_step + first..][..rows];
            let units = units[first * stride..].iter_mut().step_by(stride);
            for (unit, &value) in units.zip(column) {
                unit.0[j] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_of_a_matrix_packs_alike() {
        let (k, n) = (37, 105);
        let b: Vec<f32> = (0..k * n).map(|i| i as f32 + 1.0).collect();
        let transposed: Vec<f32> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
        let one = PackedB::pack(&b, k, n, false);
        let other = PackedB::pack(&transposed, k, n, true);
        // Every second value of both.
        let spread: Vec<f32> = b.iter().flat_map(|&v| [v, -1.0]).collect();
        let mut strided = vec![Unit([7.0; UNIT]); one.units.len()];
        pack_panels(&spread, k, n, 2 * n, 2, &mut strided);
        assert_eq!(one.units.len(), 7 * k);
        assert_eq!(one.unpack(false), b);
        assert_eq!(other.unpack(true), transposed);
        assert_eq!(one.unpack(true), transposed);
        for (i, unit) in one.units.iter().enumerate() {
            assert_eq!(unit.0, other.units[i].0);
            assert_eq!(unit.0, strided[i].0);
            let (panel, count) = if i < 4 * k { (0, 4) } else { (4, 3) };
            let (row, left) = (
                (i - panel * k) / count,
                (panel + (i - panel * k) % count) * UNIT,
            );
            for (j, &v) in unit.0.iter().enumerate() {
                let column = left + j;
                let expected = if column < n { b[row * n + column] } else { 0.0 };
                assert_eq!(v, expected);
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 values are no 2 × 2 matrix")]
    fn a_wrong_length_is_refused() {
        let _ = PackedB::pack(&[0.0; 3], 2, 2, false);
    }
}
