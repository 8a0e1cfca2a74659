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
mod definition;
mod pack;
mod portable;
mod walk;

use std::ops::Range;

use crate::chain::Chain;
use crate::isa::Isa;
use crate::threads::{Slots, Threads};
pub use batch::{Strided, matmul_scratch, matmul_strided};
pub use definition::product;
pub use pack::PackedB;
pub(crate) use pack::{Unit, pack_panels};
pub(crate) use walk::{Left, Right, multiply};

/// Length of one chain of fused multiply-adds.
pub const BLOCK_K: usize = 256;

/// Columns of a unit: one AVX-512 register.
pub(crate) const UNIT: usize = 16;

/// Most columns of a packed panel: with 6 rows they make 24 sums, which fill AVX-512's 32 registers
/// with room for the operands.
pub(crate) const PANEL: usize = 4 * UNIT;

/// Bytes of the left operand that stay in the second-level cache while the panels pass by.
const HELD_LEFT: usize = 512 << 10;

/// Bytes of a result that a chain finds in the second-level cache.
const HELD_RESULT: usize = 256 << 10;

/// Most rows that are multiplied together.
pub(crate) const GROUP: usize = 240;

/// Rows that are multiplied together for a given k, so that they stay in the cache.
pub(crate) fn group(k: usize) -> usize {
    (HELD_LEFT / (k.max(1) * size_of::<f32>()) / 6 * 6).clamp(12, GROUP)
}

/// Multiply-accumulates that are worth a task of their own.
pub(crate) const WORTH_A_TASK: usize = 1 << 18;

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
    let left = Left::rows(a);
    rows_by_panels(isa, threads, m, &left, b, chain, c, |first, rows| {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = (first + i) * k;
        }
    });
}

/// All rows of a product by all panels, in tasks of some rows and some panels. `place` says where in the left operand
/// some rows begin, from a given one on.
#[allow(
    clippy::too_many_arguments,
    reason = "three matrices, where and how they are multiplied"
)]
pub(crate) fn rows_by_panels(
    isa: Isa,
    threads: &Threads,
    m: usize,
    left: &Left<'_>,
    b: &PackedB,
    chain: &Chain<'_>,
    c: &mut [f32],
    place: impl Fn(usize, &mut [usize]) + Sync,
) {
    let (k, n) = (b.k(), b.n());
    let (epilogue, chain) = chain.split();
    let cut = Cut::of(threads, [m, k, n], &chain);
    let out = Slots::of(c);
    threads.run(cut.tasks(), |task| {
        let (rows, panels) = cut.task(task);
        let (first, height) = (rows.start, rows.len());
        let mut places = [0; GROUP];
        place(first, &mut places[..height]);
        let columns = panels.start * PANEL..n.min(panels.end * PANEL);
        let epilogue = epilogue.part(first, columns.start, n);
        // SAFETY: tasks have different rows or different columns of the result.
        unsafe {
            let corner = out.pointer(first * n, height * n).add(columns.start);
            multiply(
                isa,
                left,
                &places[..height],
                b.right(panels),
                &epilogue,
                corner,
                n,
            );
            if columns.len() == n {
                let lines = out.slice(first * n, height * n);
                chain.apply(isa, first, n, lines);
            } else {
                for row in rows {
                    let line = out.slice(row * n + columns.start, columns.len());
                    chain.apply_part(isa, row, n, columns.start, line);
                }
            }
        }
    });
}

/// How a product is cut into tasks: groups of rows, and for each the same parts of all panels.
struct Cut {
    m: usize,
    group: usize,
    panels: usize,
    /// Panels of a part.
    together: usize,
}

impl Cut {
    fn of(threads: &Threads, [m, k, n]: [usize; 3], chain: &Chain<'_>) -> Cut {
        let panels = n.div_ceil(PANEL);
        let group = if threads.count() == 1 {
            group(k)
        } else {
            // As many groups as keep all threads busy to the end.
            let even = m.div_ceil(threads.count() * 4).next_multiple_of(6);
            group(k).min(even.max(12))
        };
        let groups = m.div_ceil(group);
        let parts = if chain.by_rows() {
            1
        } else if groups >= 2 * threads.count() || threads.count() == 1 {
            // A chain finds its values in the cache.
            let held = group.min(m) * n * size_of::<f32>();
            if chain.is_empty() {
                1
            } else {
                held.div_ceil(HELD_RESULT)
            }
        } else {
            // Few rows are split by columns.
            (m * k * n / WORTH_A_TASK).clamp(1, 4 * threads.count()) / groups
        };
        Cut {
            m,
            group,
            panels,
            together: panels.div_ceil(parts.clamp(1, panels)),
        }
    }

    fn parts(&self) -> usize {
        self.panels.div_ceil(self.together)
    }

    fn tasks(&self) -> usize {
        self.m.div_ceil(self.group) * self.parts()
    }

    /// The rows and the panels of a task.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (group, part) = (task / self.parts(), task % self.parts());
        let rows = group * self.group..self.m.min((group + 1) * self.group);
        let panels = part * self.together..self.panels.min((part + 1) * self.together);
        (rows, panels)
    }
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
