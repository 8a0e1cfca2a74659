//! Matrix products.
//!
//! Each output is one sum with one order: k is cut into blocks of [`BLOCK_K`]; within a block a
//! chain of fused multiply-adds runs from +0.0 in ascending k; the block sums are added in
//! ascending order, the first one standing as it is. With k = 0 the result is +0.0. Vectors hold
//! neighbouring outputs, so neither width nor tiling can touch that order.
//!
//! The right operand is packed into panels of 64 columns ([`PackedB`]). The left one is read where
//! it lies: a row is a pointer, and its values are at given distances from there ([`Left`]), so a
//! window of a convolution is a row like any other. A tile, the product of up to 8 rows and one
//! panel over one block, lives in registers; [`walk`] goes over the tiles.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod batch;
mod cut;
mod definition;
mod pack;
mod portable;
mod walk;

use std::ops::Range;

use crate::chain::Chain;
use crate::isa::Isa;
use crate::threads::{Slots, Threads};
pub use batch::{Strided, matmul_scratch, matmul_strided};
use cut::Cut;
pub use definition::product;
pub use pack::PackedB;
pub(crate) use pack::{Order, Unit, pack_panels};
pub(crate) use walk::{Left, Right, multiply};

/// Length of one chain of fused multiply-adds.
pub const BLOCK_K: usize = 256;

/// Columns of a unit: one AVX-512 register.
pub(crate) const UNIT: usize = 16;

/// Most columns of a packed panel: with 6 rows they make 24 sums, which fill AVX-512's 32 registers
/// with room for the operands.
pub(crate) const PANEL: usize = 4 * UNIT;

/// Bytes of the left operand that stay in a cache while the panels pass by. The third level serves: a value of it is
/// multiplied by a whole row of a panel, and a value of a panel, which comes from memory, by as many rows as there are.
const HELD_LEFT: usize = 3 << 20;

/// Most rows that are multiplied together.
pub(crate) const GROUP: usize = 240;

/// Rows that are multiplied together, so that they stay in the cache, if each brings so many values.
pub(crate) fn group(weight: usize) -> usize {
    (HELD_LEFT / (weight.max(1) * size_of::<f32>()) / 6 * 6).clamp(12, GROUP)
}

/// `C = A · B`: `a` is `m × k`, `c` is `m × n`, both row-major.
///
/// # Panics
/// If `a` or `c` has another length than the shapes say.
pub fn gemm(isa: Isa, m: usize, a: &[f32], b: &PackedB, c: &mut [f32]) {
    gemm_with(isa, &Threads::single(), m, a, b, &Chain::NONE, c);
}

/// [`gemm`] on several threads, followed by a chain of elementwise operations on its result.
///
/// # Panics
/// If `a` or `c` has another length than the shapes say, or an operand of the chain does not fit.
pub fn gemm_with(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: &[f32],
    b: &PackedB,
    chain: &Chain<'_>,
    c: &mut [f32],
) {
    let (k, n) = (b.k(), b.n());
    assert_eq!(
        Some(a.len()),
        m.checked_mul(k),
        "gemm: left matrix is not {m} × {k}"
    );
    assert_eq!(
        Some(c.len()),
        m.checked_mul(n),
        "gemm: result is not {m} × {n}"
    );
    chain.check("gemm", m, n);
    if k == 0 || c.is_empty() {
        c.fill(0.0);
        return chain.apply(isa, 0, n, c);
    }
    rows_by_panels(isa, threads, m, &Matrix { values: a, k }, b, chain, c);
}

/// The left operand of a product, of which a task takes some rows.
pub(crate) trait Rows: Sync {
    /// Values that a row adds to what a task reads.
    fn weight(&self) -> usize;

    /// Calls `with` with an operand that has these rows, and where in it each of them begins. There are at most
    /// [`GROUP`] of them.
    fn with(&self, rows: Range<usize>, with: impl FnOnce(&Left<'_>, &[usize]));
}

/// Rows of `k` values, one after another.
struct Matrix<'a> {
    values: &'a [f32],
    k: usize,
}

impl Rows for Matrix<'_> {
    fn weight(&self) -> usize {
        self.k
    }

    fn with(&self, rows: Range<usize>, with: impl FnOnce(&Left<'_>, &[usize])) {
        let places: [usize; GROUP] = std::array::from_fn(|i| (rows.start + i) * self.k);
        with(&Left::rows(self.values), &places[..rows.len()]);
    }
}

/// All rows of a product by all panels, in tasks of some rows and some panels.
pub(crate) fn rows_by_panels(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: &impl Rows,
    b: &PackedB,
    chain: &Chain<'_>,
    c: &mut [f32],
) {
    let (k, n) = (b.k(), b.n());
    let (epilogue, chain) = chain.split();
    let cut = Cut::of(threads.count(), [m, k, n], a.weight(), &chain);
    let out = Slots::of(c);
    threads.run(cut.tasks(), |task| {
        let (rows, columns) = cut.task(task);
        let (first, height) = (rows.start, rows.len());
        let panels = columns.start / PANEL..columns.end.div_ceil(PANEL);
        let epilogue = epilogue.part(first, columns.start, n);
        a.with(rows.clone(), |left, places| {
            // SAFETY: tasks have different rows or different columns of the result.
            unsafe {
                let corner = out.pointer(first * n, height * n).add(columns.start);
                multiply(isa, left, places, b.right(panels), &epilogue, corner, n);
            }
        });
        // SAFETY: as above.
        unsafe {
            if columns.len() == n {
                let lines = out.slice(first * n, height * n);
                chain.apply(isa, first, n, lines);
            } else {
                let line = |row: usize| out.slice(row * n + columns.start, columns.len());
                chain.apply_block(isa, rows, n, columns.clone(), line);
            }
        }
    });
}

/// `C[i] = A[i] · B[i]` for each of `batch` pairs of matrices: `A[i]` is `m × k`, `B[i]` is
/// `k × n` (stored as `n × k` with `b_transposed`), `C[i]` is `m × n`, all row-major, one after
/// another. A single matrix in `a` or `b` serves the whole batch.
///
/// The same bits as [`gemm`] on each pair.
///
/// # Panics
/// If a slice has another length than the shapes say.
#[allow(
    clippy::too_many_arguments,
    reason = "three shapes and three matrices, as in BLAS"
)]
pub fn matmul(
    isa: Isa,
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
    a: &[f32],
    b: &[f32],
    b_transposed: bool,
    c: &mut [f32],
) {
    let size = |rows: usize, cols: usize| rows.checked_mul(cols).expect("matrix fits memory");
    let (a_len, b_len, c_len) = (size(m, k), size(k, n), size(m, n));
    assert!(
        a.len() == size(batch, a_len) || a.len() == a_len,
        "matmul: left operand is not {batch} × {m} × {k}"
    );
    assert!(
        b.len() == size(batch, b_len) || b.len() == b_len,
        "matmul: right operand is not {batch} × {k} × {n}"
    );
    assert_eq!(
        c.len(),
        size(batch, c_len),
        "matmul: result is not {batch} × {m} × {n}"
    );
    if b.len() == b_len && a.len() > a_len {
        // One right matrix for all: the batch is so many more rows.
        return matmul(isa, 1, batch * m, k, n, a, b, b_transposed, c);
    }
    let step = |len: usize, one: usize| if len > one { one } else { 0 };
    let (b_row, b_column) = if b_transposed { (1, k) } else { (n, 1) };
    matmul_strided(
        isa,
        &Threads::single(),
        [m, k, n],
        &[batch],
        &Strided {
            values: a,
            batch: &[step(a.len(), a_len)],
            row: k,
            column: 1,
        },
        &Strided {
            values: b,
            batch: &[step(b.len(), b_len)],
            row: b_row,
            column: b_column,
        },
        &Chain::NONE,
        c,
        &[c_len],
        n,
    );
}
