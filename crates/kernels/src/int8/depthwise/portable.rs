//! Convolution of each channel by its own filter.

use crate::conv::Conv;
use crate::int8::Int8;
use crate::int8::pack::COLUMNS;
use crate::int8::walk::{Place, Tile};
use crate::isa::Kernel;

/// Sums of a tile: its rows are outputs that are neighbours in a line, its columns channels.
pub(super) struct Depthwise<'a> {
    pub(super) conv: &'a Conv,
    pub(super) x: Int8<'a>,
    pub(super) x_zero: i32,
    /// Tap after tap, each a value for every channel.
    pub(super) taps: &'a [i32],
    pub(super) at: Place,
    pub(super) tile: &'a mut Tile,
}

impl Kernel for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.x {
            Int8::Unsigned(x) => self.values(x),
            Int8::Signed(x) => self.values(x),
        }
    }
}

impl Depthwise<'_> {
    #[inline(always)]
    fn values<T: Copy + Into<i32>>(self, x: &[T]) {
        let (window, at) = (self.conv.window(), self.at);
        let channels = self.conv.out_channels();
        let [a, b, c] = &window.axes;
        let (line, first) = (at.row / c.output, at.row % c.output);
        let lines = a.output * b.output;
        let (oa, ob) = (line % lines / b.output, line % b.output);
        let len = window.input_len() * channels;
        let image = &x[line / lines * len..][..len];
        let ((a_first, a_last), (b_first, b_last)) = (a.inside(oa), b.inside(ob));
        for (oc, out) in (first..).zip(&mut self.tile[..at.count]) {
            let (c_first, c_last) = c.inside(oc);
            // Apart from the tile, so that they stay in registers.
            let mut sums = [0i32; COLUMNS];
            for ka in a_first..a_last {
                let ia = oa * a.stride + ka * a.dilation - a.begin;
                for kb in b_first..b_last {
                    let ib = ob * b.stride + kb * b.dilation - b.begin;
                    for kc in c_first..c_last {
                        let ic = oc * c.stride + kc * c.dilation - c.begin;
                        let place = (ia * b.input + ib) * c.input + ic;
                        let tap = (ka * b.kernel + kb) * c.kernel + kc;
                        let values = &image[place * channels + at.column..][..at.width];
                        let taps = &self.taps[tap * channels + at.column..][..at.width];
                        let add = |sum: &mut i32, value: T, tap: i32| {
                            *sum = sum.wrapping_add((value.into() - self.x_zero).wrapping_mul(tap));
                        };
                        // A known length makes a better loop.
                        match (values.as_array::<COLUMNS>(), taps.as_array::<COLUMNS>()) {
                            (Some(values), Some(taps)) => {
                                for j in 0..COLUMNS {
                                    add(&mut sums[j], values[j], taps[j]);
                                }
                            }
                            _ => {
                                for ((sum, &value), &tap) in sums.iter_mut().zip(values).zip(taps) {
                                    add(sum, value, tap);
                                }
                            }
                        }
                    }
                }
            }
            *out = sums;
        }
    }
}
