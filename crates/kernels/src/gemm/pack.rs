//! The packed forms of both operands.

use super::{PANEL, SLIVER};

/// One row of a panel, aligned to a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Row(pub(crate) [f32; PANEL]);

impl Row {
    pub(crate) const ZERO: Row = Row([0.0; PANEL]);
}

/// The right-hand matrix of a product, rearranged once into panels of 32 columns.
///
/// Packing depends on no instruction set; a packed matrix serves them all.
#[derive(Clone)]
pub struct PackedB {
    k: usize,
    n: usize,
    /// Panel after panel, each of `k` rows; columns beyond `n` are zero.
    rows: Vec<Row>,
}

impl PackedB {
    /// Packs a `k × n` matrix in row-major order, or with `transposed` one that is stored as its
    /// transpose, `n × k`.
    ///
    /// # Panics
    /// If `b` does not have `k · n` values.
    #[must_use]
    pub fn pack(b: &[f32], k: usize, n: usize, transposed: bool) -> PackedB {
        let mut packed = PackedB {
            k,
            n,
            rows: Vec::new(),
        };
        packed.repack(b, k, n, transposed);
        packed
    }

    /// Packs another matrix into the same memory.
    pub(crate) fn repack(&mut self, b: &[f32], k: usize, n: usize, transposed: bool) {
        assert_eq!(
            Some(b.len()),
            k.checked_mul(n),
            "pack: {} values are no {k} × {n} matrix",
            b.len()
        );
        self.k = k;
        self.n = n;
        self.rows.clear();
        self.rows.resize(n.div_ceil(PANEL) * k, Row::ZERO);
        pack_panels(b, k, n, transposed, 0, &mut self.rows);
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

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// Packs panels of a matrix, from number `first` on, as many as there is room for.
pub(crate) fn pack_panels(
    b: &[f32],
    k: usize,
    n: usize,
    transposed: bool,
    first: usize,
    rows: &mut [Row],
) {
    if k == 0 {
        return;
    }
    for (i, panel) in rows.chunks_exact_mut(k).enumerate() {
        let left = (first + i) * PANEL;
        let width = PANEL.min(n - left);
        if width < PANEL {
            panel.fill(Row::ZERO);
        }
        if transposed {
            pack_columns(&b[left * k..(left + width) * k], panel);
        } else {
            for (row, out) in panel.iter_mut().enumerate() {
                let start = row * n + left;
                out.0[..width].copy_from_slice(&b[start..start + width]);
            }
        }
    }
}

/// Columns of the matrix, stored one after another, become the columns of a panel.
fn pack_columns(columns: &[f32], panel: &mut [Row]) {
    // A few rows at a time, so that the lines written to stay in the cache.
    const ROWS: usize = 16;
    let k = panel.len();
    for (i, rows) in panel.chunks_mut(ROWS).enumerate() {
        for (j, column) in columns.chunks_exact(k).enumerate() {
            for (row, &value) in rows.iter_mut().zip(&column[i * ROWS..]) {
                row.0[j] = value;
            }
        }
    }
}

impl std::fmt::Debug for PackedB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} × {})", self.k, self.n)
    }
}

/// The left-hand matrix of a product, cut into slivers of about equal height, at most [`SLIVER`]
/// rows each, stored k-major.
#[derive(Clone, Default)]
pub(crate) struct Slivers {
    m: usize,
    k: usize,
    values: Vec<f32>,
}

impl Slivers {
    pub(crate) fn empty() -> Slivers {
        Slivers::default()
    }

    /// Packs rows of `k` values each, `k > 0`.
    pub(crate) fn of(rows: &[f32], k: usize) -> Slivers {
        let mut slivers = Slivers::empty();
        slivers.pack(rows, k);
        slivers
    }

    /// Packs other rows into the same memory.
    pub(crate) fn pack(&mut self, rows: &[f32], k: usize) {
        self.m = rows.len() / k;
        self.k = k;
        self.values.resize(rows.len(), 0.0);
        let count = self.count();
        for i in 0..count {
            let (first, height) = share(self.m, count, i);
            let span = first * k..(first + height) * k;
            interleave(&rows[span.clone()], k, height, &mut self.values[span]);
        }
    }

    /// Number of rows.
    pub(crate) fn m(&self) -> usize {
        self.m
    }

    /// Length of a row.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Number of slivers.
    pub(crate) fn count(&self) -> usize {
        self.m.div_ceil(SLIVER)
    }

    /// Sliver `i`: its first row, its height, and its values, `k × height`.
    #[inline(always)]
    pub(crate) fn get(&self, i: usize) -> (usize, usize, &[f32]) {
        let (first, height) = share(self.m, self.count(), i);
        let start = first * self.k;
        (first, height, &self.values[start..start + height * self.k])
    }
}

/// First row and height of part `i` where `m` rows are cut into `count` parts.
#[inline(always)]
fn share(m: usize, count: usize, i: usize) -> (usize, usize) {
    let (height, taller) = (m / count, m % count);
    (i * height + i.min(taller), height + usize::from(i < taller))
}

/// `height` rows become one sliver.
fn interleave(rows: &[f32], k: usize, height: usize, sliver: &mut [f32]) {
    if height == 1 {
        return sliver.copy_from_slice(rows);
    }
    for (i, row) in rows.chunks_exact(k).enumerate() {
        for (out, &v) in sliver.chunks_exact_mut(height).zip(row) {
            out[i] = v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_row_once_and_differ_by_one_at_most() {
        for m in 1..200usize {
            let count = m.div_ceil(SLIVER);
            let mut next = 0;
            for i in 0..count {
                let (first, height) = share(m, count, i);
                assert_eq!(first, next);
                assert!((1..=SLIVER).contains(&height) && height.abs_diff(m / count) <= 1);
                next += height;
            }
            assert_eq!(next, m);
        }
    }

    #[test]
    fn both_layouts_of_a_matrix_pack_alike() {
        let (k, n) = (37, 41);
        let b: Vec<f32> = (0..k * n).map(|i| i as f32).collect();
        let transposed: Vec<f32> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
        let (one, other) = (
            PackedB::pack(&b, k, n, false),
            PackedB::pack(&transposed, k, n, true),
        );
        assert_eq!(one.rows.len(), 2 * k);
        for (i, (a, b)) in one.rows.iter().zip(&other.rows).enumerate() {
            assert_eq!(a.0, b.0);
            for (j, &v) in a.0.iter().enumerate() {
                let column = i / k * PANEL + j;
                let expected = if column < n {
                    (i % k * n + column) as f32
                } else {
                    0.0
                };
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
