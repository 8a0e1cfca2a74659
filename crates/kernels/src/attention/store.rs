//! Keys and values enter the cache.

use super::{Attention, PAGE};
use crate::half::f32_to_f16;
use crate::isa::{Isa, Kernel};

/// Writes keys and values of one position, a row of `kv_heads × head_dim` each, to `slot` of one
/// layer's part of a page, narrowed to binary16: to nearest, ties to even, magnitudes above 65504
/// to ±65504, NaN to +0. So a cache never holds anything that would not vanish under a weight of
/// zero.
///
/// # Panics
/// If a slice has another length than the shape says, or the page has no such slot.
pub fn store_kv(isa: Isa, shape: &Attention, page: &mut [u16], slot: usize, k: &[f32], v: &[f32]) {
    let width = shape.kv_heads * shape.head_dim;
    assert!(slot < PAGE, "store: slot {slot} of {PAGE}");
    assert!(
        page.len() == shape.page_len() && k.len() == width && v.len() == width,
        "store: lengths of page, keys or values"
    );
    isa.run(Store {
        dim: shape.head_dim,
        page,
        slot,
        k,
        v,
    });
}

struct Store<'a> {
    dim: usize,
    page: &'a mut [u16],
    slot: usize,
    k: &'a [f32],
    v: &'a [f32],
}

impl Kernel for Store<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let dim = self.dim.max(1);
        let rows = self.k.chunks_exact(dim).zip(self.v.chunks_exact(dim));
        for (page, (k, v)) in self.page.chunks_exact_mut(2 * PAGE * dim).zip(rows) {
            let (keys, values) = page.split_at_mut(PAGE * dim);
            for (run, k) in keys.chunks_exact_mut(PAGE).zip(k) {
                run[self.slot] = narrow(*k);
            }
            let values = &mut values[self.slot * dim..(self.slot + 1) * dim];
            for (value, v) in values.iter_mut().zip(v) {
                *value = narrow(*v);
            }
        }
    }
}

#[inline(always)]
fn narrow(x: f32) -> u16 {
    let x = if x > 65504.0 { 65504.0 } else { x };
    let x = if x < -65504.0 { -65504.0 } else { x };
    if x.is_nan() { 0 } else { f32_to_f16(x) }
}
