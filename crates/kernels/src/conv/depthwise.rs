//! Convolution of single channels by few filters: too little work for tiles.

use crate::isa::Kernel;
use crate::math::canonical;
use crate::sheet::{Layout, slide};
use crate::window::Window;

/// Each input plane by its filters, one for each of `multiplier` output planes; a filter is at
/// most one block of k.
pub(super) struct Depthwise<'a> {
    pub(super) window: &'a Window,
    pub(super) multiplier: usize,
    pub(super) x: &'a [f32],
    pub(super) filters: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let layout = Layout::of(self.window);
        let mut sheet = layout.empty(1, 0.0);
        let mut taps: Vec<(usize, f32)> = layout.taps().into_iter().map(|tap| (tap, 0.0)).collect();
        let mut filters = self.filters.chunks_exact(taps.len()).cycle();
        let planes = self.y.chunks_exact_mut(self.window.output_len());
        let mut inputs = self.x.chunks_exact(self.window.input_len());
        for (i, y) in planes.enumerate() {
            if i % self.multiplier == 0
                && let Some(x) = inputs.next()
            {
                layout.write(x, &mut sheet);
            }
            if let Some(filter) = filters.next() {
                for (tap, &weight) in taps.iter_mut().zip(filter) {
                    tap.1 = weight;
                }
            }
            let step = |sum: f32, weight: f32, v: f32| weight.mul_add(v, sum);
            slide(&layout, &sheet, &taps, 0.0, step, |_, _| {}, y);
        }
        for y in self.y.iter_mut() {
            *y = canonical(*y);
        }
    }
}
