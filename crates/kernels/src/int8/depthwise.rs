//! Convolution of each channel by its own filter.

use super::Int8;
use crate::conv::Conv;
use crate::isa::Kernel;

/// One line of outputs, all channels, as f32.
pub(super) struct Depthwise<'a> {
    pub(super) conv: &'a Conv,
    pub(super) line: usize,
    pub(super) x: &'a Int8<'a>,
    pub(super) x_zero: i32,
    /// Tap after tap, each a value for every channel.
    pub(super) taps: &'a [i32],
    pub(super) y: &'a mut [f32],
}

/// Channels whose sums are in registers together.
const LANES: usize = 32;

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
        let window = self.conv.window();
        let channels = self.conv.out_channels();
        let [a, b, c] = &window.axes;
        let lines = a.output * b.output;
        let (oa, ob) = (self.line % lines / b.output, self.line % b.output);
        let len = window.input_len() * channels;
        let image = &x[self.line / lines * len..][..len];
        let ((a_first, a_last), (b_first, b_last)) = (a.inside(oa), b.inside(ob));
        for (oc, y) in self.y.chunks_exact_mut(channels).enumerate() {
            let (c_first, c_last) = c.inside(oc);
            for (part, y) in y.chunks_mut(LANES).enumerate() {
                let mut sums = [0i32; LANES];
                for ka in a_first..a_last {
                    let ia = oa * a.stride + ka * a.dilation - a.begin;
                    for kb in b_first..b_last {
                        let ib = ob * b.stride + kb * b.dilation - b.begin;
                        for kc in c_first..c_last {
                            let ic = oc * c.stride + kc * c.dilation - c.begin;
                            let at = ((ia * b.input + ib) * c.input + ic) * channels + part * LANES;
                            let tap = (ka * b.kernel + kb) * c.kernel + kc;
                            let tap = tap * channels + part * LANES;
                            let values = &image[at..at + y.len()];
                            let taps = &self.taps[tap..tap + y.len()];
                            if let (Some(values), Some(taps)) =
                                (values.as_array::<LANES>(), taps.as_array::<LANES>())
                            {
                                for j in 0..LANES {
                                    let v: i32 = values[j].into() - self.x_zero;
                                    sums[j] = sums[j].wrapping_add(v.wrapping_mul(taps[j]));
                                }
                            } else {
                                for ((sum, &v), &tap) in sums.iter_mut().zip(values).zip(taps) {
                                    let v: i32 = v.into() - self.x_zero;
                                    *sum = sum.wrapping_add(v.wrapping_mul(tap));
                                }
                            }
                        }
                    }
                }
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = sum as f32;
                }
            }
        }
    }
}
