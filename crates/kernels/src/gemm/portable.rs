//! The definition of the matrix product.

use super::{BLOCK_K, PANEL, PackedB};
use crate::math::canonical;

/// `C = A · B`, each output by itself.
pub(crate) fn gemm(m: usize, a: &[f32], b: &PackedB, c: &mut [f32]) {
    for i in 0..m {
        let row = &a[i * b.k..(i + 1) * b.k];
        for j in 0..b.n {
            let panel = &b.panels[j / PANEL * b.k * PANEL..];
            c[i * b.n + j] = canonical(product(row, |k| panel[k * PANEL + j % PANEL]));
        }
    }
}

/// The sum of `row[k] · column(k)`, in the order that the specification fixes.
pub(crate) fn product(row: &[f32], column: impl Fn(usize) -> f32) -> f32 {
    let mut total = 0.0f32;
    for (block, values) in row.chunks(BLOCK_K).enumerate() {
        let mut sum = 0.0f32;
        for (k, &value) in values.iter().enumerate() {
            sum = value.mul_add(column(block * BLOCK_K + k), sum);
        }
        total = if block == 0 { sum } else { total + sum };
    }
    total
}
