//! The packed form of a right operand of 8-bit integers.

use super::Int8;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, near::Order};
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::memory::{Zeroable, Zeros};

/// Values of k that lie together: one step of a dot product in 32 bits.
pub(crate) const QUAD: usize = 4;

/// Columns of a unit: one AVX-512 register of sums.
pub(crate) const UNIT: usize = 16;

/// Units of a panel; the last one has as many as it needs.
pub(crate) const UNITS: usize = 4;

/// Columns of a panel: with 6 rows they make 24 registers of sums.
pub(crate) const COLUMNS: usize = UNITS * UNIT;

/// Four values of k for each of 16 columns.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Quad(pub(crate) [i8; QUAD * UNIT]);

// SAFETY: 64 integers whose bits are zeros are 64 times 0.
#[allow(unsafe_code)]
unsafe impl Zeroable for Quad {
    const ZERO: Quad = Quad([0; QUAD * UNIT]);
}

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
    quads: Zeros<Quad>,
    /// Sums of the columns, as the values are.
    sums: Vec<i32>,
    /// 128 if the values had no sign: what is added to the zero point of a column.
    lowered: i32,
    /// Steps that may be taken together, on machines that multiply so.
    #[cfg(target_arch = "x86_64")]
    order: Option<Order>,
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
        let (row, column) = if transposed { (1, k) } else { (n, 1) };
        let offsets: Vec<usize> = (0..k).map(|i| i * row).collect();
        PackedInt8::pack_runs(b, n, &offsets, column.max(1), k)
    }

    /// The same matrix, of which is known what may be multiplied together, on machines that multiply so. To find that out
    /// takes a part of the time of packing: for a matrix that is multiplied more than once.
    #[must_use]
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(unused_mut, reason = "nothing to find")
    )]
    pub fn ordered(mut self) -> PackedInt8 {
        #[cfg(target_arch = "x86_64")]
        {
            self.order = Avx2::alone(Isa::detect()).map(|avx2| Order::of(avx2, &self));
        }
        self
    }

    /// [`pack`](PackedInt8::pack) for a left operand whose rows are runs of `run` values; value i of
    /// column j is at `offsets[i] + j × column`.
    pub(crate) fn pack_runs(
        b: Int8<'_>,
        n: usize,
        offsets: &[usize],
        column: usize,
        run: usize,
    ) -> PackedInt8 {
        let k = offsets.len();
        assert!(
            k == 0 || k.is_multiple_of(run),
            "pack: {k} is no number of runs of {run}"
        );
        let mut packed = PackedInt8 {
            k,
            n,
            run,
            quads: Zeros::new(0),
            sums: vec![0; n],
            lowered: 0,
            #[cfg(target_arch = "x86_64")]
            order: None,
        };
        let len = n.div_ceil(UNIT) * packed.steps();
        packed.quads = Zeros::new(len);
        match b {
            Int8::Signed(b) => packed.fill(b, offsets, column, |v| v),
            Int8::Unsigned(b) => {
                packed.lowered = 128;
                packed.fill(b, offsets, column, |v| (v ^ 0x80).cast_signed());
            }
        }
        packed
    }

    /// Puts every value in its place, and adds up the columns as they are stored.
    fn fill<T: Copy>(
        &mut self,
        b: &[T],
        offsets: &[usize],
        column: usize,
        stored: impl Fn(T) -> i8,
    ) {
        let (run, run_steps, steps) = (self.run, self.run.div_ceil(QUAD), self.steps());
        if run == offsets.len() {
            if column == 1 {
                return self.fill_rows(b, offsets, stored);
            }
            if let [start, ..] = *offsets
                && offsets.is_sorted_by(|a, b| a + 1 == *b)
            {
                return self.fill_columns(b, start, column, stored);
            }
        }
        for (panel, sums) in self.sums.chunks_mut(COLUMNS).enumerate() {
            let (first, count) = (panel * COLUMNS, sums.len().div_ceil(UNIT));
            let quads = &mut self.quads[first / UNIT * steps..][..count * steps];
            for (i, &offset) in offsets.iter().enumerate() {
                let (step, lane) = (i / run * run_steps + i % run / QUAD, i % run % QUAD);
                let values = b[offset + first * column..].iter().step_by(column);
                let units = &mut quads[step * count..(step + 1) * count];
                let places = units.iter_mut().flat_map(|u| u.0.chunks_exact_mut(QUAD));
                for ((place, &value), sum) in places.zip(values).zip(sums.iter_mut()) {
                    let value = stored(value);
                    place[lane] = value;
                    *sum = sum.wrapping_add(i32::from(value));
                }
            }
        }
    }

    /// [`fill`](PackedInt8::fill) of a matrix whose rows lie in one piece each: four of them at a time.
    fn fill_rows<T: Copy>(&mut self, b: &[T], offsets: &[usize], stored: impl Fn(T) -> i8) {
        let (n, steps) = (self.n, self.steps());
        for (step, rows) in offsets.chunks(QUAD).enumerate() {
            for first in (0..n).step_by(UNIT) {
                let (panel, width) = (first / COLUMNS, UNIT.min(n - first));
                let count = (n - panel * COLUMNS).min(COLUMNS).div_ceil(UNIT);
                let unit = panel * COLUMNS / UNIT * steps + step * count + first % COLUMNS / UNIT;
                let mut lines = [[0i8; UNIT]; QUAD];
                for (line, &offset) in lines.iter_mut().zip(rows) {
                    let from = &b[offset + first..][..width];
                    match from.as_array::<UNIT>() {
                        Some(from) => *line = from.map(&stored),
                        None => {
                            for (to, &from) in line.iter_mut().zip(from) {
                                *to = stored(from);
                            }
                        }
                    }
                }
                self.quads[unit].0 = interleaved(&lines);
            }
            for &offset in rows {
                for (sum, &value) in self.sums.iter_mut().zip(&b[offset..][..n]) {
                    *sum = sum.wrapping_add(i32::from(stored(value)));
                }
            }
        }
    }

    /// [`fill`](PackedInt8::fill) of a matrix whose columns lie in one piece each, `column` values apart.
    fn fill_columns<T: Copy>(
        &mut self,
        b: &[T],
        start: usize,
        column: usize,
        stored: impl Fn(T) -> i8,
    ) {
        let (k, steps) = (self.k, self.steps());
        for (j, sum) in self.sums.iter_mut().enumerate() {
            let (panel, unit, lane) = (j / COLUMNS, j % COLUMNS / UNIT, j % UNIT);
            let count = (self.n - panel * COLUMNS).min(COLUMNS).div_ceil(UNIT);
            let quads = &mut self.quads[panel * COLUMNS / UNIT * steps..][..count * steps];
            let places = quads[unit..].iter_mut().step_by(count);
            let values = &b[start + j * column..][..k];
            let part = |sum: i32, &value: &T| sum.wrapping_add(i32::from(stored(value)));
            *sum = values.iter().fold(0, part);
            for (four, place) in values.chunks(QUAD).zip(places) {
                let to = &mut place.0[lane * QUAD..][..QUAD];
                // A known length makes better code.
                match four.as_array::<QUAD>() {
                    Some(four) => to.copy_from_slice(&four.map(&stored)),
                    None => {
                        for (to, &value) in to.iter_mut().zip(four) {
                            *to = stored(value);
                        }
                    }
                }
            }
        }
    }

    /// The bytes of the matrix, row-major, as they were before [`pack`](PackedInt8::pack).
    ///
    /// # Panics
    /// If it is the filters of a convolution, which lie in runs.
    #[must_use]
    pub fn unpack(&self) -> Vec<u8> {
        assert_eq!(self.run, self.k, "unpack: filters are no matrix");
        let value = |row: usize, column: usize| {
            let (panel, place) = (column / COLUMNS, column % COLUMNS);
            let quads = self.panel(panel);
            let count = quads.len() / self.steps();
            let unit = &quads[row / QUAD * count + place / UNIT];
            let stored = unit.0[place % UNIT * QUAD + row % QUAD].cast_unsigned();
            if self.lowered == 0 {
                stored
            } else {
                stored ^ 0x80
            }
        };
        let places = (0..self.k).flat_map(|row| (0..self.n).map(move |column| (row, column)));
        places.map(|(row, column)| value(row, column)).collect()
    }

    /// Bytes that a packed matrix of this size occupies.
    #[must_use]
    pub fn bytes(k: usize, n: usize) -> u64 {
        PackedInt8::bytes_of_runs(k, n, k)
    }

    pub(crate) fn bytes_of_runs(k: usize, n: usize, run: usize) -> u64 {
        let k = k.checked_div(run).unwrap_or(0) as u64 * (run as u64).next_multiple_of(QUAD as u64);
        let columns = (n as u64).next_multiple_of(UNIT as u64);
        // Besides the values a sum for each column, and for each panel the order of its steps in blocks.
        let order = (k / QUAD as u64 * 2).saturating_mul(columns.div_ceil(COLUMNS as u64));
        columns
            .saturating_mul(k)
            .saturating_add(n as u64 * 4)
            .saturating_add(order)
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

    #[cfg(target_arch = "x86_64")]
    pub(super) fn order(&self) -> Option<&Order> {
        self.order.as_ref()
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

/// The first value of each line, then the second of each, and so on.
#[cfg(target_arch = "x86_64")]
fn interleaved(lines: &[[i8; UNIT]; QUAD]) -> [i8; QUAD * UNIT] {
    use std::arch::x86_64::*;
    let mut all = [0; QUAD * UNIT];
    // SAFETY: every x86-64 processor has these instructions; 16 values each.
    unsafe {
        let [a, b, c, d] = lines.each_ref().map(|l| _mm_loadu_si128(l.as_ptr().cast()));
        let near = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
        let far = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
        let quarters = [
            _mm_unpacklo_epi16(near.0, near.1),
            _mm_unpackhi_epi16(near.0, near.1),
            _mm_unpacklo_epi16(far.0, far.1),
            _mm_unpackhi_epi16(far.0, far.1),
        ];
        for (to, quarter) in all.chunks_exact_mut(16).zip(quarters) {
            _mm_storeu_si128(to.as_mut_ptr().cast(), quarter);
        }
    }
    all
}

/// The first value of each line, then the second of each, and so on.
#[cfg(not(target_arch = "x86_64"))]
fn interleaved(lines: &[[i8; UNIT]; QUAD]) -> [i8; QUAD * UNIT] {
    std::array::from_fn(|i| lines[i % QUAD][i / QUAD])
}

impl std::fmt::Debug for PackedInt8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedInt8({} × {})", self.k, self.n)
    }
}
