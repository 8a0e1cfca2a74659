//! The packed form of a right operand of 8-bit integers.

use super::Int8;

/// Values of k that lie together: one step of a dot product in 32 bits.
pub(crate) const QUAD: usize = 4;

/// Columns of a unit: one AVX-512 register of sums.
const UNIT: usize = 16;

/// Units of a panel.
pub(crate) const UNITS: usize = 3;

/// Columns of a panel: with 8 rows they make 24 registers of sums.
pub(crate) const COLUMNS: usize = UNITS * UNIT;

/// Four values of k for each of 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Quad(pub(crate) [i8; QUAD * UNIT]);

/// The right-hand matrix of an integer product, rearranged once. Values without a sign are stored
/// 128 lower.
#[derive(Clone)]
pub struct PackedInt8 {
    k: usize,
    n: usize,
    /// Panel after panel; in each, for every four values of k, three units.
    quads: Vec<Quad>,
    /// Sums of the columns, as the values are.
    sums: Vec<i32>,
    /// 128 if the values had no sign: what is added to the zero point of a column.
    lowered: i32,
}

impl PackedInt8 {
    /// Packs a `k × n` matrix in row-major order, or with `transposed` one that is stored as its
    /// transpose, `n × k`.
    ///
    /// # Panics
    /// If `b` does not have `k · n` values.
    #[must_use]
    pub fn pack(b: Int8<'_>, k: usize, n: usize, transposed: bool) -> PackedInt8 {
        assert_eq!(
            Some(b.len()),
            k.checked_mul(n),
            "pack: {} values are no {k} × {n} matrix",
            b.len()
        );
        let lowered = match b {
            Int8::Unsigned(_) => 128,
            Int8::Signed(_) => 0,
        };
        let per_panel = k.div_ceil(QUAD) * UNITS;
        let mut quads = vec![Quad([0; QUAD * UNIT]); n.div_ceil(COLUMNS) * per_panel];
        let mut sums = vec![0i32; n];
        for row in 0..k {
            for (column, sum) in sums.iter_mut().enumerate() {
                let at = if transposed {
                    column * k + row
                } else {
                    row * n + column
                };
                let value = b.at(at) - lowered;
                let (panel, inside) = (column / COLUMNS, column % COLUMNS);
                let unit = panel * per_panel + row / QUAD * UNITS + inside / UNIT;
                // Between −128 and 127.
                quads[unit].0[inside % UNIT * QUAD + row % QUAD] = value as i8;
                *sum = sum.wrapping_add(value);
            }
        }
        PackedInt8 {
            k,
            n,
            quads,
            sums,
            lowered,
        }
    }

    /// Bytes that a packed matrix of this size occupies.
    #[must_use]
    pub fn bytes(k: usize, n: usize) -> u64 {
        let columns = (n as u64).next_multiple_of(COLUMNS as u64);
        columns
            .saturating_mul((k as u64).next_multiple_of(QUAD as u64))
            .saturating_add(n as u64 * 4)
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

    /// What is subtracted from the values besides a zero point: 128 where they had no sign.
    pub(crate) fn lowered(&self) -> i32 {
        self.lowered
    }

    pub(crate) fn panel(&self, panel: usize) -> &[Quad] {
        let len = self.k.div_ceil(QUAD) * UNITS;
        &self.quads[panel * len..(panel + 1) * len]
    }

    /// Sums of some columns.
    pub(crate) fn sums(&self, first: usize, count: usize) -> &[i32] {
        &self.sums[first..first + count]
    }
}

impl std::fmt::Debug for PackedInt8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedInt8({} × {})", self.k, self.n)
    }
}
