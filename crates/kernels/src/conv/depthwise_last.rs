//! Convolution of each channel by its own filter, with the channels last.
#![allow(unsafe_code)]

use super::Conv;
use crate::chain::Chain;
use crate::gemm::BLOCK_K;
use crate::isa::Isa;
use crate::lanes::{self, LaneKernel, Lanes, WIDTH};
use crate::math::canonical;
use crate::threads::{Slots, Threads};

/// Outputs that share what they read of the filters.
const TOGETHER: usize = 4;

/// Each channel by its own filter.
pub(super) fn depthwise(
    isa: Isa,
    threads: &Threads,
    conv: &Conv,
    x: &[f32],
    taps: &[f32],
    chain: &Chain<'_>,
    y: &mut [f32],
) {
    let channels = conv.groups;
    let width = conv.window.axes[2].output;
    let line = width * channels;
    let zeros = vec![0.0; channels];
    // Lines of at least some thousand values make a task.
    let together = (8192 / line.max(1)).max(1);
    let out = Slots::of(y);
    let lines = conv.batch * conv.window.output_len() / width;
    threads.run(lines.div_ceil(together), |task| {
        for index in task * together..lines.min((task + 1) * together) {
            // SAFETY: each line is one task's.
            let y = unsafe { out.slice(index * line, line) };
            let line = DepthwiseLine {
                conv,
                index,
                x,
                taps,
                zeros: &zeros,
                y,
            };
            lanes::run(isa, line);
            chain.apply(isa, index * width, channels, y);
        }
    });
}

/// One line of outputs, all channels.
struct DepthwiseLine<'a> {
    conv: &'a Conv,
    index: usize,
    x: &'a [f32],
    taps: &'a [f32],
    zeros: &'a [f32],
    y: &'a mut [f32],
}

/// Where the values under each tap lie, for each of some neighbouring outputs.
type Places = [[*const f32; BLOCK_K]; TOGETHER];

impl LaneKernel for DepthwiseLine<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let DepthwiseLine {
            conv,
            index,
            x,
            taps,
            zeros,
            y,
        } = self;
        let (channels, count) = (conv.groups, conv.window.kernel_len());
        assert!(
            count <= BLOCK_K && taps.len() == count * channels && zeros.len() == channels,
            "depthwise: filters of another geometry"
        );
        let mut places: Places = [[std::ptr::null(); BLOCK_K]; TOGETHER];
        for (part, out) in y.chunks_mut(TOGETHER * channels).enumerate() {
            let outputs = out.len() / channels;
            for (i, places) in places.iter_mut().enumerate() {
                // Where there are fewer outputs the last is computed again.
                let oc = part * TOGETHER + i.min(outputs - 1);
                Self::under(conv, index, x, zeros, oc, places);
            }
            let group = Group {
                places: &places,
                taps,
                count,
                channels,
                outputs,
            };
            let mut channel = 0;
            // SAFETY: every place and every tap has a value for each channel.
            unsafe {
                while channel + 2 * WIDTH <= channels {
                    group.vectors::<L, 2>(lanes, channel, out);
                    channel += 2 * WIDTH;
                }
                while channel + WIDTH <= channels {
                    group.vectors::<L, 1>(lanes, channel, out);
                    channel += WIDTH;
                }
                for channel in channel..channels {
                    group.single(channel, out);
                }
            }
        }
    }
}

/// Neighbouring outputs.
struct Group<'a> {
    places: &'a Places,
    taps: &'a [f32],
    /// Number of taps.
    count: usize,
    channels: usize,
    outputs: usize,
}

impl Group<'_> {
    /// `V` vectors of channels.
    ///
    /// # Safety
    /// Every place and every tap has a value for each of these channels.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "sums in registers, which are laid out by hand"
    )]
    unsafe fn vectors<L: Lanes, const V: usize>(&self, lanes: L, channel: usize, out: &mut [f32]) {
        let mut sums = [[lanes.splat(0.0); V]; TOGETHER];
        for t in 0..self.count {
            // SAFETY: the caller's promise.
            let load = |from: *const f32, v: usize| unsafe {
                lanes.load(&*from.add(channel + v * WIDTH).cast::<[f32; WIDTH]>())
            };
            // SAFETY: as above.
            let tap = unsafe { self.taps.as_ptr().add(t * self.channels) };
            let weights: [L::V; V] = std::array::from_fn(|v| load(tap, v));
            for p in 0..TOGETHER {
                for v in 0..V {
                    let value = load(self.places[p][t], v);
                    sums[p][v] = lanes.fma(weights[v], value, sums[p][v]);
                }
            }
        }
        for (p, sums) in sums.iter().enumerate().take(self.outputs) {
            let out = &mut out[p * self.channels + channel..][..V * WIDTH];
            let (blocks, _) = out.as_chunks_mut::<WIDTH>();
            for (block, &sum) in blocks.iter_mut().zip(sums) {
                lanes.store(sum, block);
                *block = block.map(canonical);
            }
        }
    }

    /// One channel.
    ///
    /// # Safety
    /// Every place has a value for it.
    #[inline(always)]
    unsafe fn single(&self, channel: usize, out: &mut [f32]) {
        for (p, places) in self.places.iter().enumerate().take(self.outputs) {
            let mut sum = 0.0f32;
            for (t, place) in places[..self.count].iter().enumerate() {
                // SAFETY: the caller's promise.
                let value = unsafe { *place.add(channel) };
                sum = self.taps[t * self.channels + channel].mul_add(value, sum);
            }
            out[p * self.channels + channel] = canonical(sum);
        }
    }
}

impl DepthwiseLine<'_> {
    /// Fills in where the values under each tap of output `oc` of the line lie.
    #[inline(always)]
    fn under(
        conv: &Conv,
        index: usize,
        x: &[f32],
        zeros: &[f32],
        oc: usize,
        rows: &mut [*const f32],
    ) {
        let channels = conv.groups;
        let [a, b, c] = &conv.window.axes;
        let lines = a.output * b.output;
        let (oa, ob) = (index % lines / b.output, index % b.output);
        let len = conv.window.input_len() * channels;
        let image = &x[index / lines * len..][..len];
        let mut tap = 0;
        for ka in 0..a.kernel {
            let ia = (oa * a.stride + ka * a.dilation).wrapping_sub(a.begin);
            for kb in 0..b.kernel {
                let ib = (ob * b.stride + kb * b.dilation).wrapping_sub(b.begin);
                let inside = ia < a.input && ib < b.input;
                let line = ia
                    .wrapping_mul(b.input)
                    .wrapping_add(ib)
                    .wrapping_mul(c.input);
                for kc in 0..c.kernel {
                    let ic = (oc * c.stride + kc * c.dilation).wrapping_sub(c.begin);
                    rows[tap] = if inside && ic < c.input {
                        // SAFETY: the place lies in the image, which has so many channels there.
                        unsafe { image.as_ptr().add((line + ic) * channels) }
                    } else {
                        zeros.as_ptr()
                    };
                    tap += 1;
                }
            }
        }
    }
}
