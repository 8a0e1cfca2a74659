//! Tiles in plain Rust.

use super::{Block, PANEL, Row};
use crate::math::canonical;

/// Tiles that any machine can compute.
#[derive(Clone, Copy)]
pub(super) struct Tiles;

impl super::Tiles for Tiles {
    fn tile(
        self,
        height: usize,
        sliver: &[f32],
        panel: &[Row],
        out: &mut [f32],
        stride: usize,
        block: Block,
    ) {
        for i in 0..height {
            let mut sums = [0.0f32; PANEL];
            for (values, row) in sliver.chunks_exact(height).zip(panel) {
                for (sum, &b) in sums.iter_mut().zip(&row.0) {
                    *sum = values[i].mul_add(b, *sum);
                }
            }
            for (out, sum) in out[i * stride..][..PANEL].iter_mut().zip(sums) {
                let total = if block.first { sum } else { *out + sum };
                *out = if block.last { canonical(total) } else { total };
            }
        }
    }
}
