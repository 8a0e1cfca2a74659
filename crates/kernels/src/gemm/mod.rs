//! Matrix products.
//!
//! Each output is one sum with one order: k is cut into blocks of [`BLOCK_K`]; within a block a
//! chain of fused multiply-adds runs from +0.0 in ascending k; the block sums are added in
//! ascending order, the first one standing as it is. With k = 0 the result is +0.0. Vectors hold
//! neighbouring outputs, so neither width nor tiling can touch that order.
//!
//! Both operands are packed: the right one into panels of 32 columns ([`Row`]s), the left one
//! into slivers of up to 12 rows ([`Slivers`]). A tile, the product of one sliver and one panel
//! over one block, lives in registers; [`multiply`] walks the tiles.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod definition;
mod multiply;
mod pack;
mod portable;

use crate::isa::Isa;
pub use definition::product;
pub(crate) use multiply::multiply;
pub use pack::PackedB;
use pack::pack_panels;
pub(crate) use pack::{Row, Slivers};

/// Length of one chain of fused multiply-adds.
pub const BLOCK_K: usize = 256;

/// Columns of a packed panel: two AVX-512 registers.
pub(crate) const PANEL: usize = 32;

/// Most rows of a packed sliver: with two registers a row, 12 fill AVX-512's 32 registers with
/// room for the operands, and twice 6 do so for AVX2's 16.
pub(crate) const SLIVER: usize = 12;

/// Rows of the left matrix that are packed and multiplied together, so that one block of them
/// stays in the second-level cache.
const GROUP: usize = 10 * SLIVER;

/// Which block of k a tile computes, and so what happens to the sums.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// The sums stand as they are; otherwise they are added to what is there.
    pub(crate) first: bool,
    /// The results are final: NaN is made canonical.
    pub(crate) last: bool,
}

/// The innermost loops, for one instruction set.
///
/// A sliver is `k × height` values, k-major; a panel is `k` rows; `out` starts at the tile's upper
/// left corner in a matrix whose rows are `stride` apart, of which `PANEL` columns are written.
pub(crate) trait Tiles: Copy {
    /// One block of k: `height` rows (1 to [`SLIVER`]) by one panel.
    fn tile(
        self,
        height: usize,
        sliver: &[f32],
        panel: &[Row],
        out: &mut [f32],
        stride: usize,
        block: Block,
    );

    /// All of k: one row by `panels.len() / row.len()` panels, side by side.
    fn row(self, row: &[f32], panels: &[Row], out: &mut [f32]) {
        for (panel, out) in panels
            .chunks_exact(row.len())
            .zip(out.chunks_exact_mut(PANEL))
        {
            for (block, (row, panel)) in blocks(row, panel) {
                self.tile(1, row, panel, out, PANEL, block);
            }
        }
    }
}

/// Cuts one row and one panel along k.
#[inline(always)]
fn blocks<'a>(
    row: &'a [f32],
    panel: &'a [Row],
) -> impl Iterator<Item = (Block, (&'a [f32], &'a [Row]))> {
    let count = row.len().div_ceil(BLOCK_K);
    row.chunks(BLOCK_K)
        .zip(panel.chunks(BLOCK_K))
        .enumerate()
        .map(move |(i, pieces)| {
            (
                Block {
                    first: i == 0,
                    last: i + 1 == count,
                },
                pieces,
            )
        })
}

/// `C = A · B`: `a` is `m × k`, `c` is `m × n`, both row-major.
///
/// # Panics
/// If `a` or `c` has another length than the shapes say.
pub fn gemm(isa: Isa, m: usize, a: &[f32], b: &PackedB, c: &mut [f32]) {
    assert_eq!(
        Some(a.len()),
        m.checked_mul(b.k()),
        "gemm: left matrix is not {m} × {}",
        b.k()
    );
    assert_eq!(
        Some(c.len()),
        m.checked_mul(b.n()),
        "gemm: result is not {m} × {}",
        b.n()
    );
    let mut slivers = Slivers::empty();
    product_into(isa, a, b, c, &mut slivers);
}

/// [`gemm`] with checked shapes and scratch space to pack rows of `a` into.
fn product_into(isa: Isa, a: &[f32], b: &PackedB, c: &mut [f32], scratch: &mut Slivers) {
    let (k, n) = (b.k(), b.n());
    if k == 0 || n == 0 {
        c.fill(0.0);
        return;
    }
    for (a, c) in a.chunks(GROUP * k).zip(c.chunks_mut(GROUP * n)) {
        scratch.pack(a, k);
        multiply(isa, scratch, b.rows(), n, c, n);
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
    if k == 0 || c_len == 0 {
        return c.fill(0.0);
    }
    let (a_step, b_step) = (
        a_len * usize::from(a.len() > a_len),
        b_len * usize::from(b.len() > b_len),
    );
    let (mut slivers, mut panels) = (Slivers::empty(), Vec::new());
    for (i, c) in c.chunks_exact_mut(c_len).enumerate() {
        let a = &a[i * a_step..i * a_step + a_len];
        let b = &b[i * b_step..i * b_step + b_len];
        if i == 0 || a_step > 0 {
            slivers.pack(a, k);
        }
        multiply_made(isa, &slivers, n, c, &mut panels, |first, rows| {
            pack_panels(b, k, n, b_transposed, first, rows);
        });
    }
}

/// Bytes of panels that [`multiply_made`] holds at a time: they stay in the second-level cache.
const HELD: usize = 512 * 1024;

/// `C = A · B`, row-major, where the panels of B are made when they are needed: `make` fills as
/// many as there is room for, from the given one on.
pub(crate) fn multiply_made(
    isa: Isa,
    a: &Slivers,
    n: usize,
    c: &mut [f32],
    scratch: &mut Vec<Row>,
    mut make: impl FnMut(usize, &mut [Row]),
) {
    let (k, count) = (a.k(), n.div_ceil(PANEL));
    let together = (HELD / (k * size_of::<Row>())).clamp(2, count.max(2));
    for first in (0..count).step_by(together) {
        let panels = together.min(count - first);
        if scratch.len() < panels * k {
            scratch.resize(panels * k, Row::ZERO);
        }
        let rows = &mut scratch[..panels * k];
        make(first, rows);
        let left = first * PANEL;
        let width = n.min(left + panels * PANEL) - left;
        multiply(isa, a, rows, width, &mut c[left..], n);
    }
}
