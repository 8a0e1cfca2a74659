//! The packed form of the right operand.

use std::ops::Range;

use super::{BLOCK_K, PANEL, Right, UNIT};
use crate::isa::Isa;
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

/// How the units of one block of a panel follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Row after row, each of all units: for tiles as wide as a panel.
    Rows,
    /// Unit after unit, each of all rows: for tiles of one unit. What such a tile reads is one stream then, and fills all
    /// sets of the first-level cache alike; units that lie four apart would crowd a quarter of them.
    Units,
}

impl Order {
    /// The one that suits an instruction set; each can read both.
    pub(crate) fn of(isa: Isa) -> Order {
        #[cfg(target_arch = "x86_64")]
        if isa.is_avx512() {
            return Order::Rows;
        }
        let _ = isa;
        Order::Units
    }

    /// Units between two rows, and between two units of a row, in a block of `k` rows of `count` units.
    pub(crate) fn steps(self, k: usize, count: usize) -> [usize; 2] {
        match self {
            Order::Rows => [count, 1],
            Order::Units => [1, k],
        }
    }
}

/// The right-hand matrix of a product, rearranged once into panels of 64 columns.
///
/// It is packed for the fastest instruction set of the machine, and serves all.
#[derive(Clone)]
pub struct PackedB {
    k: usize,
    n: usize,
    order: Order,
    /// Panel after panel, each of `k` rows of up to four units, block after block; the last panel has as many as it needs,
    /// and columns beyond `n` are zero.
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
        PackedB::pack_in(Order::of(Isa::detect()), b, k, n, transposed)
    }

    /// [`pack`](PackedB::pack) in a given order.
    pub(crate) fn pack_in(
        order: Order,
        b: &[f32],
        k: usize,
        n: usize,
        transposed: bool,
    ) -> PackedB {
        assert_eq!(
            Some(b.len()),
            k.checked_mul(n),
            "pack: {} values are no {k} × {n} matrix",
            b.len()
        );
        let mut units = Zeros::new(n.div_ceil(UNIT) * k);
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        pack_panels(order, b, k, n, [row, column], &mut units);
        PackedB { k, n, order, units }
    }

    /// The matrix as it was before [`pack`](PackedB::pack) with the same `transposed`.
    #[must_use]
    pub fn unpack(&self, transposed: bool) -> Vec<f32> {
        let (k, n) = (self.k, self.n);
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        let mut b = vec![0.0; k * n];
        for block in blocks(k, n) {
            let [row_step, unit_step] = self.order.steps(block.rows.len(), block.count());
            let units = &self.units[block.units(k)];
            for (i, k) in block.rows.clone().enumerate() {
                let units = units[i * row_step..].iter().step_by(unit_step);
                let values = units.flat_map(|unit| unit.0);
                for (j, value) in block.columns.clone().zip(values) {
                    b[k * row + j * column] = value;
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
            order: self.order,
        }
    }
}

impl std::fmt::Debug for PackedB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} × {})", self.k, self.n)
    }
}

/// One block of one panel.
struct Block {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Block {
    /// Units of a row.
    fn count(&self) -> usize {
        self.columns.len().div_ceil(UNIT)
    }

    /// Where its units are among those of a matrix of `k` rows.
    fn units(&self, k: usize) -> Range<usize> {
        let start = self.columns.start / UNIT * k + self.rows.start * self.count();
        start..start + self.rows.len() * self.count()
    }
}

/// The blocks of a `k × n` matrix, in the order of their units.
fn blocks(k: usize, n: usize) -> impl Iterator<Item = Block> {
    let cut = |size: usize, step: usize| {
        (0..size)
            .step_by(step)
            .map(move |first| first..size.min(first + step))
    };
    cut(n, PANEL).flat_map(move |columns| {
        cut(k, BLOCK_K).map(move |rows| Block {
            rows,
            columns: columns.clone(),
        })
    })
}

/// Packs all panels of a `k × n` matrix whose value at row i and column j is `b[i · row_step + j · column_step]`.
pub(crate) fn pack_panels(
    order: Order,
    b: &[f32],
    k: usize,
    n: usize,
    [row_step, column_step]: [usize; 2],
    units: &mut [Unit],
) {
    for block in blocks(k, n) {
        let steps = order.steps(block.rows.len(), block.count());
        let units = &mut units[block.units(k)];
        if column_step == 1 {
            for (i, row) in block.rows.enumerate() {
                let values = &b[row * row_step..][block.columns.clone()];
                fill(values, units[i * steps[0]..].iter_mut().step_by(steps[1]));
            }
        } else {
            let (first, k) = (block.rows.start * row_step, block.rows.len());
            for (unit, column) in block.columns.clone().step_by(UNIT).enumerate() {
                turn(
                    &b[first + column * column_step..],
                    k,
                    UNIT.min(block.columns.end - column),
                    row_step,
                    column_step,
                    &mut units[unit * steps[1]..],
                    steps[0],
                );
            }
        }
    }
}

/// One row of a panel.
fn fill<'a>(values: &[f32], units: impl Iterator<Item = &'a mut Unit>) {
    for (unit, values) in units.zip(values.chunks(UNIT)) {
        match values.first_chunk() {
            Some(whole) => unit.0 = *whole,
            None => {
                unit.0[..values.len()].copy_from_slice(values);
                unit.0[values.len()..].fill(0.0);
            }
        }
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
            .take(k)
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
        let (k, n) = (BLOCK_K + 37, 105);
        let b: Vec<f32> = (0..k * n).map(|i| i as f32 + 1.0).collect();
        let transposed: Vec<f32> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
        // Every second value of both.
        let spread: Vec<f32> = b.iter().flat_map(|&v| [v, -1.0]).collect();
        for order in [Order::Rows, Order::Units] {
            let one = PackedB::pack_in(order, &b, k, n, false);
            let other = PackedB::pack_in(order, &transposed, k, n, true);
            let mut strided = vec![Unit([7.0; UNIT]); one.units.len()];
            pack_panels(order, &spread, k, n, [2 * n, 2], &mut strided);
            assert_eq!(one.units.len(), 7 * k);
            assert_eq!(one.unpack(false), b);
            assert_eq!(other.unpack(true), transposed);
            assert_eq!(one.unpack(true), transposed);
            for (i, unit) in one.units.iter().enumerate() {
                assert_eq!(unit.0, other.units[i].0);
                assert_eq!(unit.0, strided[i].0);
                let (panel, count) = if i < 4 * k { (0, 4) } else { (4, 3) };
                let at = i - panel * k;
                let (row, unit_of_row) = match order {
                    Order::Rows => (at / count, at % count),
                    Order::Units => {
                        let block = at / count / BLOCK_K * BLOCK_K;
                        let (at, len) = (at - block * count, BLOCK_K.min(k - block));
                        (block + at % len, at / len)
                    }
                };
                let left = (panel + unit_of_row) * UNIT;
                for (j, &v) in unit.0.iter().enumerate() {
                    let column = left + j;
                    let expected = if column < n { b[row * n + column] } else { 0.0 };
                    assert_eq!(v, expected);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 values are no 2 × 2 matrix")]
    fn a_wrong_length_is_refused() {
        let _ = PackedB::pack(&[0.0; 3], 2, 2, false);
    }
}
