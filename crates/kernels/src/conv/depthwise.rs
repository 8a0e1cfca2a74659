//! Convolution of one channel by few filters: too little work for tiles.

use crate::isa::Kernel;
use crate::math::canonical;
use crate::sheet::{Sheet, slide};
use crate::window::Window;

/// One input plane by one filter for each output plane; a filter is at most one block of k.
pub(super) struct Depthwise<'a> {
    pub(super) window: &'a Window,
    pub(super) x: &'a [f32],
    pub(super) filters: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let sheet = Sheet::new(self.window, self.x, 0.0);
        let taps = sheet.taps();
        let filters = self.filters.chunks_exact(taps.len());
        let planes = self.y.chunks_exact_mut(self.window.output_len());
        for (filter, y) in filters.zip(planes) {
            let step = |sum: f32, tap: usize, v: f32| filter[tap].mul_add(v, sum);
            slide(&sheet, 0, &taps, 0.0, step, |sum, _| canonical(sum), y);
        }
    }
}
