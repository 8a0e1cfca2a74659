//! Tiles in plain Rust.
#![allow(unsafe_code)]

use super::UNIT;
use super::walk::{End, ROWS, Tile};
use crate::math;

/// Tiles that any machine can compute.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl super::walk::Tiles for Plain {
    const EDGES: bool = false;
    const MANY: usize = usize::MAX;

    fn most(_: usize) -> usize {
        ROWS
    }

    unsafe fn tile(self, t: &Tile<'_>) {
        for (i, &row) in t.rows.iter().enumerate() {
            for unit in 0..t.width {
                let mut sums = [0.0f32; UNIT];
                for k in 0..t.k {
                    // SAFETY: the tile has k values in each row, and as many rows of the panel.
                    let (a, b) = unsafe {
                        let at = if t.offsets.is_null() {
                            k
                        } else {
                            *t.offsets.add(k) as usize
                        };
                        let b = t.b.add(k * t.b_stride + unit * t.unit_stride);
                        (*row.add(at), &*b.cast::<[f32; UNIT]>())
                    };
                    for (sum, &b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
                for (j, sum) in sums.into_iter().enumerate() {
                    let column = unit * UNIT + j;
                    let place = i * t.stride + column;
                    // SAFETY: the tile's part of its matrices is there, and that of the result the caller's.
                    unsafe {
                        let out = t.out.add(place);
                        let total = if t.first { sum } else { *out + sum };
                        *out = match &t.end {
                            Some(end) => finish(total, end, column, place),
                            None => total,
                        };
                    }
                }
            }
        }
    }
}

/// What the epilogue makes of the result at a column, and at a place in its matrix.
unsafe fn finish(mut v: f32, end: &End, column: usize, place: usize) -> f32 {
    // SAFETY: the tile's part of the epilogue's operands is there.
    unsafe {
        if !end.bias.is_null() {
            v += *end.bias.add(column);
        }
        if !end.addend.is_null() {
            v += *end.addend.add(place);
        }
    }
    math::min(math::max(v, end.low), end.high)
}
