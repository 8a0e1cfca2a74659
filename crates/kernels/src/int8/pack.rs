//! The packed form of a right operand of 8-bit integers.

use super::Int8;

/// Values of k that lie together: one step of a dot product in 32 bits.
pub(crate) const QUAD: usize = 4;

/// Columns of a unit: one AVX-512 register of sums.
pub(crate) const UNIT: usize = 16;

/// Units of a panel; the last one has as many as it needs.
pub(crate) const UNITS: usize = 4;

/// Columns of a panel: with 6 rows they make 24 registers of sums.
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
    /// Values of k that lie together in a row of the left operand; after each run, the rest of its last
    /// four is 0.
    run: usize,
    /// Panel after panel; in each, for every four values of k, its units.
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
        PackedInt8::pack_runs(b, k, n, transposed, k)
    }

    /// [`pack`](PackedInt8::pack) for a left operand whose rows are runs of `run` values.
    pub(crate) fn pack_runs(
        b: Int8<'_>,
        k: usize,
        n: usize,
        transposed: bool,
        run: usize,
    ) -> PackedInt8 {
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
        assert!(
            k == 0 || k.is_multiple_of(run),
            "pack: {k} is no number of runs of {run}"
        );
        let steps = k.checked_div(run).unwrap_or(0) * run.div_ceil(QUAD);
        let mut quads = vec![Quad([0; QUAD * UNIT]); n.div_ceil(UNIT) * steps];
        let mut sums = vec![0i32; n];
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        for (panel, sums) in sums.chunks_mut(COLUMNS).enumerate() {
            let count = sums.len().div_ceil(UNIT);
            let first = panel * COLUMNS;
            let quads = &mut quads[first / UNIT * steps..][..count * steps];
            // A few rows at a time, so that the lines written to stay in the cache.
            for start in (0..k).step_by(UNIT) {
                for (inside, sum) in sums.iter_mut().enumerate() {
                    let at = (first + inside) * column;
                    for i in start..k.min(start + UNIT) {
                        let value = b.at(at + i * row) - lowered;
                        let step = i / run * run.div_ceil(QUAD) + i % run / QUAD;
                        let unit = &mut quads[step * count + inside / UNIT];
                        // Between −128 and 127.
                        unit.0[inside % UNIT * QUAD + i % run % QUAD] = value as i8;
                        *sum = sum.wrapping_add(value);
                    }
                }
            }
        }
        PackedInt8 {
            k,
            n,
            run,
            quads,
            sums,
            lowered,
        }
    }

    /// Bytes that a packed matrix of this size occupies.
    #[must_use]
    pub fn bytes(k: usize, n: usize) -> u64 {
        PackedInt8::bytes_of_runs(k, n, k)
    }

    pub(crate) fn bytes_of_runs(k: usize, n: usize, run: usize) -> u64 {
        let k = k.checked_div(run).unwrap_or(0) as u64 * (run as u64).next_multiple_of(QUAD as u64);
        let columns = (n as u64).next_multiple_of(UNIT as u64);
        columns.saturating_mul(k).saturating_add(n as u64 * 4)
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

    /// Values of a run of k.
    pub(crate) fn run(&self) -> usize {
        self.run
    }

    /// What is subtracted from the values besides a zero point: 128 where they had no sign.
    pub(crate) fn lowered(&self) -> i32 {
        self.lowered
    }

    /// Steps of four values of k.
    pub(crate) fn steps(&self) -> usize {
        self.k.checked_div(self.run).unwrap_or(0) * self.run.div_ceil(QUAD)
    }

    /// A panel: for every four values of k, a unit for each 16 columns begun.
    pub(crate) fn panel(&self, panel: usize) -> &[Quad] {
        let (first, steps) = (panel * COLUMNS, self.steps());
        let count = (self.n - first).min(COLUMNS).div_ceil(UNIT);
        &self.quads[first / UNIT * steps..][..count * steps]
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
