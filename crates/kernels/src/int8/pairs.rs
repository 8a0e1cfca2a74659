//! Products of many pairs of matrices, none of them constant, wherever they lie in their tensors.

use super::finish::Finished;
use super::pack::QUAD;
use super::walk::{From, Left, multiply_rows};
use super::{Int8, Output, PackedInt8};
use crate::chain::Chain;
use crate::isa::Isa;
use crate::threads::Threads;

/// Matrices inside a tensor of 8-bit integers.
#[derive(Clone, Copy, Debug)]
pub struct MatricesInt8<'a> {
    /// The tensor.
    pub values: Int8<'a>,
    /// Where each matrix begins.
    pub starts: &'a [usize],
    /// How far its rows are apart.
    pub row: usize,
    /// How far its columns are apart.
    pub column: usize,
}

impl MatricesInt8<'_> {
    fn check(&self, what: &str, rows: usize, columns: usize) {
        let reach = rows
            .saturating_sub(1)
            .saturating_mul(self.row)
            .saturating_add(columns.saturating_sub(1).saturating_mul(self.column));
        let fits = |start: &usize| start.saturating_add(reach) < self.values.len();
        assert!(
            rows == 0 || columns == 0 || self.starts.iter().all(fits),
            "matmul_int8: {what} matrices of {rows} × {columns} do not lie in {} values",
            self.values.len()
        );
    }
}

/// Products of pairs of matrices, `m × k` by `k × n`, each less its zero point, the sums as f32; a chain follows, and
/// where the result is to be 8-bit integers, quantisation.
///
/// C is a matrix of rows of `c_row` values, to which the chain is applied; product `i` begins at `c_starts[i]` in it.
///
/// # Panics
/// If a matrix does not lie in its tensor, the columns of a left one are not neighbours, the products do not fill C
/// without overlap, or an operand of the chain does not fit C.
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices with zero points, how, and what follows"
)]
pub fn matmul_int8_with(
    isa: Isa,
    threads: &Threads,
    [m, k, n]: [usize; 3],
    a: &MatricesInt8<'_>,
    a_zero: i32,
    b: &MatricesInt8<'_>,
    b_zero: i32,
    chain: &Chain<'_>,
    c: Output<'_>,
    c_starts: &[usize],
    c_row: usize,
) {
    let batch = c_starts.len();
    a.check("left", m, k);
    b.check("right", k, n);
    assert!(
        a.starts.len() == batch && b.starts.len() == batch && (a.column == 1 || k <= 1),
        "matmul_int8: other numbers of matrices, or rows that are no pieces"
    );
    assert!(
        batch.checked_mul(m).and_then(|rows| rows.checked_mul(n)) == Some(c.len()),
        "matmul_int8: result is not {batch} × {m} × {n}"
    );
    if c.len() == 0 {
        return;
    }
    check_places(m, n, c.len(), c_starts, c_row);
    chain.check("matmul_int8", c.len() / c_row, c_row);
    assert!(!chain.by_rows(), "matmul_int8: a chain with softmax");
    let out = Finished::of_sums(isa, c_row, chain, c);
    let one = |threads: &Threads, i: usize| {
        let offsets: Vec<usize> = (0..k).map(|row| b.starts[i] + row * b.row).collect();
        let packed = PackedInt8::pack_runs(b.values, n, &offsets, b.column, k);
        let mut copy = Vec::new();
        let (values, start, stride) = rows(a, a.starts[i], m, k, &mut copy);
        let left = Left {
            values,
            starts: &|first, count| {
                (first..first + count)
                    .map(|row| start + row * stride)
                    .collect()
            },
            runs: if k == 0 { &[] } else { &[0] },
            zeros: &[a_zero.wrapping_add(a.values.raised_by())],
            weight: k,
        };
        let out = From {
            row: c_starts[i] / c_row,
            column: c_starts[i] % c_row,
            of: &out,
        };
        multiply_rows(isa, threads, m, &left, &packed, &[b_zero], &out);
    };
    match batch {
        1 => one(threads, 0),
        _ => threads.run(batch, |i| one(&Threads::single(), i)),
    }
}

/// Refuses results that overlap or lie across the end of a row.
fn check_places(m: usize, n: usize, len: usize, starts: &[usize], c_row: usize) {
    assert!(
        c_row >= n && len.is_multiple_of(c_row),
        "matmul_int8: rows of {c_row} hold no {n} columns"
    );
    let mut places: Vec<_> = starts.iter().map(|s| (s % c_row, s / c_row)).collect();
    places.sort_unstable();
    let inside = |&(column, row): &(usize, usize)| {
        column.is_multiple_of(n) && column + n <= c_row && row + m <= len / c_row
    };
    let apart = |pair: &[(usize, usize)]| pair[0].0 != pair[1].0 || pair[0].1 + m <= pair[1].1;
    assert!(
        places.iter().all(inside) && places.windows(2).all(apart),
        "matmul_int8: results overlap"
    );
}

/// Bytes without a sign that begin and step so: where they lie if they are that, and what is read after a row is there.
fn rows<'a>(
    a: &MatricesInt8<'a>,
    start: usize,
    m: usize,
    k: usize,
    copy: &'a mut Vec<u8>,
) -> (&'a [u8], usize, usize) {
    if let (Int8::Unsigned(values), true) = (a.values, k.is_multiple_of(QUAD)) {
        return (values, start, a.row);
    }
    let stride = k.next_multiple_of(QUAD);
    copy.resize(m * stride, 0);
    for (row, to) in copy.chunks_exact_mut(stride.max(1)).enumerate() {
        let from = start + row * a.row;
        a.values.raise(from..from + k, &mut to[..k]);
    }
    (copy, 0, stride)
}
