//! Products of many pairs of matrices that lie in larger tensors.
#![allow(unsafe_code)]

use super::{GROUP, Left, Order, Right, UNIT, Unit, group, multiply, pack_panels};
use crate::chain::Chain;
use crate::epilogue::Epilogue;
use crate::isa::Isa;
use crate::threads::{Slots, Threads};

/// Matrices inside a tensor, one for each place of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Strided<'a> {
    /// The tensor.
    pub values: &'a [f32],
    /// Values between two matrices, for each dimension of the batch; 0 where one serves all.
    pub batch: &'a [usize],
    /// Values between two rows.
    pub row: usize,
    /// Values between two columns.
    pub column: usize,
}

impl Strided<'_> {
    /// Where matrix `index` of a batch of these sizes begins.
    fn start(&self, sizes: &[usize], index: usize) -> usize {
        start(self.batch, sizes, index)
    }

    fn reaches(&self, sizes: &[usize], rows: usize, columns: usize) -> Option<usize> {
        let last = |n: usize, step: usize| n.checked_sub(1)?.checked_mul(step);
        let mut end = last(rows, self.row)?.checked_add(last(columns, self.column)?)?;
        for (&size, &step) in sizes.iter().zip(self.batch) {
            end = end.checked_add(last(size, step)?)?;
        }
        end.checked_add(1)
    }
}

fn start(steps: &[usize], sizes: &[usize], mut index: usize) -> usize {
    let mut start = 0;
    for (&step, &size) in steps.iter().zip(sizes).rev() {
        start += index % size * step;
        index /= size;
    }
    start
}

/// `C = A · B` for each pair of matrices of a batch, `[m, k, n]` in size, followed by a chain of
/// elementwise operations, whose rows are those of all results in the order of the batch.
///
/// `c` takes the rows of the results `c_row` values apart, those of different places of the batch
/// `c_batch` apart. What of `c` belongs to no row stays as it is.
///
/// # Panics
/// If a matrix reaches beyond its tensor, places of `c` overlap, or the chain does not fit.
#[allow(
    clippy::too_many_arguments,
    reason = "three matrices, and how they lie"
)]
pub fn matmul_strided(
    isa: Isa,
    threads: &Threads,
    [m, k, n]: [usize; 3],
    batch: &[usize],
    a: &Strided<'_>,
    b: &Strided<'_>,
    chain: &Chain<'_>,
    c: &mut [f32],
    c_batch: &[usize],
    c_row: usize,
) {
    let count: usize = batch.iter().product();
    if count * m * n == 0 {
        return;
    }
    let to = Places {
        steps: c_batch,
        row: c_row,
    };
    to.check(batch, m, n, c.len());
    chain.check("matmul", count * m, n);
    if k > 0 {
        for (what, operand, rows, columns) in [("left", a, m, k), ("right", b, k, n)] {
            let reaches = operand.reaches(batch, rows, columns);
            assert!(
                operand.batch.len() == batch.len()
                    && reaches.is_some_and(|end| end <= operand.values.len()),
                "matmul: the {what} matrices reach beyond their tensor"
            );
        }
    }
    // Few matrices are split by rows, so that all threads have work.
    let parts = if threads.count() > 1 && count < 2 * threads.count() && m >= 24 {
        threads.count()
    } else {
        1
    };
    let height = m.div_ceil(parts);
    let out = Slots::of(c);
    threads.run(count * parts, |task| {
        let (index, part) = (task / parts, task % parts);
        let first = (part * height).min(m);
        let rows = first..m.min(first + height);
        let pair = Pair {
            isa,
            sizes: [m, k, n],
            a: a.values.get(a.start(batch, index)..).unwrap_or(&[]),
            a_steps: [a.row, a.column],
            b: b.values.get(b.start(batch, index)..).unwrap_or(&[]),
            b_steps: [b.row, b.column],
        };
        let corner = start(c_batch, batch, index);
        pair.multiply(
            rows,
            index * m,
            chain,
            |row, rows| {
                // SAFETY: the places of different rows do not overlap, as was checked, and each row
                // is one task's.
                unsafe { out.pointer(corner + row * c_row, (rows - 1) * c_row + n) }
            },
            c_row,
        );
    });
}

/// Bytes that each thread holds in [`matmul_strided`] besides its operands: the right matrix packed,
/// and some rows of the left one if their values are not neighbours.
#[must_use]
pub fn matmul_scratch([m, k, n]: [usize; 3], a_column: usize) -> u64 {
    let rows = if a_column == 1 { 0 } else { group(k).min(m) };
    let rows = (rows as u64).saturating_mul(k as u64).saturating_mul(4);
    super::PackedB::bytes(k, n).saturating_add(rows)
}

/// Where the rows of the results go.
struct Places<'a> {
    steps: &'a [usize],
    row: usize,
}

impl Places<'_> {
    /// Checks that all rows lie within `len` values, and none in another: sorted by step, each
    /// step is beyond all that the smaller ones reach.
    fn check(&self, batch: &[usize], m: usize, n: usize, len: usize) {
        assert_eq!(self.steps.len(), batch.len(), "matmul: steps of the result");
        let mut steps: Vec<(usize, usize)> = batch
            .iter()
            .zip(self.steps)
            .map(|(&size, &step)| (step, size))
            .chain([(self.row, m)])
            .filter(|&(_, size)| size > 1)
            .collect();
        steps.sort_unstable();
        let mut end = n;
        for (step, size) in steps {
            assert!(step >= end, "matmul: rows of the result overlap");
            end += (size - 1).checked_mul(step).expect("a result fits memory");
        }
        assert!(end <= len, "matmul: the results reach beyond their tensor");
    }
}

struct Pair<'a> {
    isa: Isa,
    sizes: [usize; 3],
    a: &'a [f32],
    a_steps: [usize; 2],
    b: &'a [f32],
    b_steps: [usize; 2],
}

impl Pair<'_> {
    /// Some rows of one product; `place` gives where rows from a given one on go.
    fn multiply(
        &self,
        rows: std::ops::Range<usize>,
        first_of_chain: usize,
        chain: &Chain<'_>,
        place: impl Fn(usize, usize) -> *mut f32,
        stride: usize,
    ) {
        let [_, k, n] = self.sizes;
        let mut units = vec![Unit::ZERO; n.div_ceil(UNIT) * k];
        let order = Order::of(self.isa);
        pack_panels(order, self.b, k, n, self.b_steps, &mut units);
        let right = Right {
            units: &units,
            k,
            n,
            order,
        };
        let mut gathered = Vec::new();
        let group = group(k);
        for first in rows.clone().step_by(group) {
            let height = group.min(rows.end - first);
            let mut starts = [0; GROUP];
            let left = if self.a_steps[1] == 1 {
                for (i, start) in starts[..height].iter_mut().enumerate() {
                    *start = (first + i) * self.a_steps[0];
                }
                Left::rows(self.a)
            } else {
                gathered.clear();
                for i in first..first + height {
                    let row = &self.a[i * self.a_steps[0]..];
                    gathered.extend(row.iter().step_by(self.a_steps[1]).take(k));
                }
                for (i, start) in starts[..height].iter_mut().enumerate() {
                    *start = i * k;
                }
                Left::rows(&gathered)
            };
            let out = place(first, height);
            // SAFETY: `place` gives as many rows, which are this task's alone.
            unsafe {
                if k > 0 {
                    let starts = &starts[..height];
                    multiply(self.isa, &left, starts, right, &Epilogue::NONE, out, stride);
                }
                for i in 0..height {
                    let line = std::slice::from_raw_parts_mut(out.add(i * stride), n);
                    if k == 0 {
                        line.fill(0.0);
                    }
                    if stride != n || k == 0 {
                        chain.apply(self.isa, first_of_chain + first + i, n, line);
                    }
                }
                if stride == n && k > 0 {
                    let lines = std::slice::from_raw_parts_mut(out, height * n);
                    chain.apply(self.isa, first_of_chain + first, n, lines);
                }
            }
        }
    }
}
