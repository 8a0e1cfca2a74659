//! Matrix products.
//!
//! Each output is one sum with one order: k is cut into blocks of [`BLOCK_K`]; within a block a
//! chain of fused multiply-adds runs from +0.0 in ascending k; the block sums are added in
//! ascending order, the first one standing as it is. With k = 0 the result is +0.0. Vectors hold
//! neighbouring outputs, so neither width nor tiling can touch that order.

mod portable;

pub(crate) use portable::product;

use crate::isa::Isa;

/// Length of one chain of fused multiply-adds.
pub const BLOCK_K: usize = 256;

/// Columns of a packed panel: two AVX-512 registers.
pub(crate) const PANEL: usize = 32;

/// The right-hand matrix, rearranged once into panels of 32 columns, each stored row after row
/// and padded with zeros.
#[derive(Clone)]
pub struct PackedB {
    k: usize,
    n: usize,
    panels: Vec<f32>,
}

impl PackedB {
    /// Packs a `k × n` matrix in row-major order, or with `transposed` one that is stored as its
    /// transpose, `n × k`.
    ///
    /// # Panics
    /// If `b` does not have `k · n` values.
    #[must_use]
    pub fn pack(b: &[f32], k: usize, n: usize, transposed: bool) -> PackedB {
        assert_eq!(
            Some(b.len()),
            k.checked_mul(n),
            "pack: {k} × {n} matrix has {} values",
            b.len()
        );
        let mut panels = vec![0.0; n.div_ceil(PANEL) * k * PANEL];
        for (p, panel) in panels.chunks_exact_mut((k * PANEL).max(1)).enumerate() {
            let first = p * PANEL;
            let width = PANEL.min(n - first);
            for (row, out) in panel.chunks_exact_mut(PANEL).enumerate() {
                if transposed {
                    for (j, out) in out[..width].iter_mut().enumerate() {
                        *out = b[(first + j) * k + row];
                    }
                } else {
                    out[..width].copy_from_slice(&b[row * n + first..row * n + first + width]);
                }
            }
        }
        PackedB { k, n, panels }
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
}

impl std::fmt::Debug for PackedB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} × {})", self.k, self.n)
    }
}

/// `C = A · B`: `a` is `m × k`, `c` is `m × n`, both row-major.
///
/// # Panics
/// If `a` or `c` has another length than the shapes say.
pub fn gemm(isa: Isa, m: usize, a: &[f32], b: &PackedB, c: &mut [f32]) {
    assert_eq!(a.len(), m * b.k, "gemm: left matrix is not {m} × {}", b.k);
    assert_eq!(c.len(), m * b.n, "gemm: result is not {m} × {}", b.n);
    let _ = isa;
    portable::gemm(m, a, b, c);
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
    let (a_len, b_len, c_len) = (m * k, k * n, m * n);
    assert!(
        a.len() == batch * a_len || a.len() == a_len,
        "matmul: left operand is not {batch} × {m} × {k}"
    );
    assert!(
        b.len() == batch * b_len || b.len() == b_len,
        "matmul: right operand is not {batch} × {k} × {n}"
    );
    assert_eq!(
        c.len(),
        batch * c_len,
        "matmul: result is not {batch} × {m} × {n}"
    );
    let a_step = if a.len() == batch * a_len { a_len } else { 0 };
    let b_step = if b.len() == batch * b_len { b_len } else { 0 };
    for i in 0..batch {
        let packed = PackedB::pack(&b[i * b_step..i * b_step + b_len], k, n, b_transposed);
        gemm(
            isa,
            m,
            &a[i * a_step..i * a_step + a_len],
            &packed,
            &mut c[i * c_len..(i + 1) * c_len],
        );
    }
}
