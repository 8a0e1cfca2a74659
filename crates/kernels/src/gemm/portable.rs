//! Tiles in plain Rust.
#![allow(unsafe_code)]

use super::UNIT;
use super::walk::Tile;
use crate::math::canonical;

/// Tiles that any machine can compute.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl super::walk::Tiles for Plain {
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
                        let b = t.b.add(k * t.b_stride + unit * UNIT);
                        (*row.add(at), &*b.cast::<[f32; UNIT]>())
                    };
                    for (sum, &b) in sums.iter_mut().zip(b) {
                        *sum = a.mul_add(b, *sum);
                    }
                }
                // SAFETY: the tile's part of the result is the caller's.
                let out =
                    unsafe { &mut *t.out.add(i * t.stride + unit * UNIT).cast::<[f32; UNIT]>() };
                for (out, sum) in out.iter_mut().zip(sums) {
                    let total = if t.first { sum } else { *out + sum };
                    *out = if t.last { canonical(total) } else { total };
                }
            }
        }
    }
}
