//! Convolution of each channel by its own filter, with the channels last.
//!
//! Outputs that are neighbours along a line share what they read: some of them, and a vector of channels, are computed
//! together, each value and each weight loaded once for a row of the window.
#![allow(unsafe_code)]

use std::iter::repeat_n;
use std::ops::Range;

use super::Conv;
use crate::chain::Chain;
use crate::epilogue::Epilogue;
use crate::gemm::BLOCK_K;
use crate::isa::Isa;
use crate::lanes::{self, LaneKernel, Lanes, WIDTH};
use crate::math;
use crate::threads::{Slots, Threads};

/// Values of an image that does not stay in the second-level cache between the layer that made it and this one.
const FAR: usize = 1 << 17;

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
    let (channels, axis) = (conv.groups, conv.window.axes[2]);
    let width = axis.output;
    let columns = (width - 1) * axis.stride + axis.extent();
    let line = width * channels;
    let zeros = vec![0.0; channels];
    let (epilogue, chain) = chain.split();
    // Lines of at least some thousand values make a task.
    let together = (8192 / line.max(1)).max(1);
    let out = Slots::of(y);
    let lines = conv.batch * conv.window.output_len() / width;
    threads.run(lines.div_ceil(together), |task| {
        let mut places = Vec::new();
        for index in task * together..lines.min((task + 1) * together) {
            // SAFETY: each line is one task's.
            let y = unsafe { out.slice(index * line, line) };
            find(conv, index, x, &zeros, columns, &mut places);
            let line = Line {
                conv,
                channels,
                index,
                x,
                taps,
                epilogue: epilogue.part(index * width, 0, channels),
                places: &places,
                columns,
                y: y.as_mut_ptr(),
            };
            lanes::run(isa, line);
            chain.apply(isa, index * width, channels, y);
        }
    });
}

/// One line of outputs, all channels. Methods take it by value: so the compiler knows that no result changes it.
#[derive(Clone, Copy)]
struct Line<'a> {
    conv: &'a Conv,
    channels: usize,
    index: usize,
    x: &'a [f32],
    /// Tap after tap, a value for each channel.
    taps: &'a [f32],
    epilogue: Epilogue<'a>,
    /// Where the values of each column that a window sees lie, for each row of the window: each has one for each channel.
    places: &'a [*const f32],
    columns: usize,
    /// Where the results go, which are nobody else's meanwhile.
    y: *mut f32,
}

impl LaneKernel for Line<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (channels, axis) = (self.channels, self.conv.window.axes[2]);
        let count = self.conv.window.kernel_len();
        let whole = |operand: Option<&[f32]>, len| operand.is_none_or(|o| o.len() >= len);
        assert!(
            count <= BLOCK_K
                && self.taps.len() == count * channels
                && self.places.len() * axis.kernel == count * self.columns
                && whole(self.epilogue.bias, channels)
                && whole(self.epilogue.addend, axis.output * channels),
            "depthwise: filters or operands of another geometry"
        );
        // Sums that fit 32 registers, with the values and weights of one row of the window; most widths are multiples of 7.
        // Of 16 narrow registers eight are sums, so that no product waits for the one before it.
        macro_rules! shared {
            ($($kernel:literal $stride:literal: $many:literal, $few:literal;)+) => {
                match (axis.kernel, axis.stride, L::ROWS) {
                    $(
                        ($kernel, $stride, 8) if axis.output >= 7 => {
                            self.shared::<L, 7, $kernel, $stride, $many>(lanes)
                        }
                        ($kernel, $stride, _) if axis.output >= 4 => {
                            self.shared::<L, 4, $kernel, $stride, $few>(lanes)
                        }
                    )+
                    _ => self.apart(lanes),
                }
            };
        }
        match axis.dilation {
            1 => shared!(3 1: 9, 6; 3 2: 15, 9; 5 1: 11, 8; 5 2: 17, 11; 7 1: 13, 10;),
            _ => self.apart(lanes),
        }
    }
}

impl Line<'_> {
    /// `P` outputs at a time, of windows that are `K` wide and move on by `S`, over `C = (P − 1) · S + K` columns.
    #[inline(always)]
    fn shared<L: Lanes, const P: usize, const K: usize, const S: usize, const C: usize>(
        self,
        lanes: L,
    ) {
        let (channels, width) = (self.channels, self.conv.window.axes[2].output);
        let whole = channels - channels % WIDTH;
        for part in (0..width).step_by(P) {
            // The last outputs are taken together too: some of them are computed twice.
            let first = part.min(width - P);
            self.fetch(lanes, part * S..(part + P) * S);
            // SAFETY: the line has these outputs, which have these channels.
            unsafe {
                for channel in (0..whole).step_by(WIDTH) {
                    let sums = self.sums::<L, P, K, S, C>(lanes, first, channel);
                    for (p, sum) in sums.into_iter().enumerate() {
                        self.store(lanes, sum, first + p, channel);
                    }
                }
            }
            for p in 0..P {
                // SAFETY: as above.
                unsafe { self.rest(first + p, whole) };
            }
        }
    }

    /// The sums of `P` outputs from `first` on, one vector of channels.
    ///
    /// # Safety
    /// There are these outputs and these channels.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "sums in registers, which are laid out by hand"
    )]
    unsafe fn sums<L: Lanes, const P: usize, const K: usize, const S: usize, const C: usize>(
        self,
        lanes: L,
        first: usize,
        channel: usize,
    ) -> [L::V; P] {
        let mut sums = [lanes.splat(0.0); P];
        for r in 0..self.places.len() / self.columns {
            // SAFETY: a row of the window has a place for each of these columns, and each place a value for each channel.
            let values: [L::V; C] = std::array::from_fn(|c| unsafe {
                let place = self.places.as_ptr().add(r * self.columns + first * S + c);
                vector(lanes, (*place).add(channel))
            });
            for k in 0..K {
                let tap = (r * K + k) * self.channels + channel;
                // SAFETY: every tap has a value for each channel.
                let weight = unsafe { vector(lanes, self.taps.as_ptr().add(tap)) };
                for p in 0..P {
                    sums[p] = lanes.fma(weight, values[p * S + k], sums[p]);
                }
            }
        }
        sums
    }

    /// One output at a time, of any windows.
    #[inline(always)]
    fn apart<L: Lanes>(self, lanes: L) {
        /// Vectors whose sums go on while one waits for its last.
        const VECTORS: usize = 4;
        let (channels, axis) = (self.channels, self.conv.window.axes[2]);
        for output in 0..axis.output {
            let mut channel = 0;
            // SAFETY: the line has this output, which has these channels.
            unsafe {
                while channel + VECTORS * WIDTH <= channels {
                    self.one::<L, VECTORS>(lanes, output, channel);
                    channel += VECTORS * WIDTH;
                }
                while channel + WIDTH <= channels {
                    self.one::<L, 1>(lanes, output, channel);
                    channel += WIDTH;
                }
                self.rest(output, channel);
            }
        }
    }

    /// `V` vectors of channels of one output.
    ///
    /// # Safety
    /// There are this output and these channels.
    #[inline(always)]
    unsafe fn one<L: Lanes, const V: usize>(self, lanes: L, output: usize, channel: usize) {
        let mut sums = [lanes.splat(0.0); V];
        for (t, place) in self.seen(output).enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                let channel = channel + v * WIDTH;
                // SAFETY: the caller's promise; taps have a value for each channel.
                let (weight, value) = unsafe {
                    let tap = self.taps.as_ptr().add(t * self.channels + channel);
                    (vector(lanes, tap), vector(lanes, place.add(channel)))
                };
                *sum = lanes.fma(weight, value, *sum);
            }
        }
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.store(lanes, sum, output, channel + v * WIDTH) };
        }
    }

    /// Stores a vector of an output's channels, after the epilogue.
    ///
    /// # Safety
    /// There are this output and these channels.
    #[inline(always)]
    unsafe fn store<L: Lanes>(self, lanes: L, sum: L::V, output: usize, channel: usize) {
        let (at, e) = (output * self.channels + channel, &self.epilogue);
        let mut v = sum;
        // SAFETY: the operands of the epilogue have a value for each channel, or for each result.
        unsafe {
            if let Some(bias) = e.bias {
                v = lanes.add(v, vector(lanes, bias.as_ptr().add(channel)));
            }
            if let Some(addend) = e.addend {
                v = lanes.add(v, vector(lanes, addend.as_ptr().add(at)));
            }
            v = lanes.bounded(v, lanes.splat(e.low), lanes.splat(e.high));
            lanes.store(v, &mut *self.y.add(at).cast());
        }
    }

    /// The channels of an output from `begin` on.
    ///
    /// # Safety
    /// There is this output.
    #[inline(always)]
    unsafe fn rest(self, output: usize, begin: usize) {
        let channels = self.channels;
        for channel in begin..channels {
            let mut sum = 0.0f32;
            for (t, place) in self.seen(output).enumerate() {
                // SAFETY: each place has a value for each channel.
                let value = unsafe { *place.add(channel) };
                sum = self.taps[t * channels + channel].mul_add(value, sum);
            }
            let (at, e) = (output * channels + channel, &self.epilogue);
            sum = e.bias.map_or(sum, |bias| sum + bias[channel]);
            sum = e.addend.map_or(sum, |addend| sum + addend[at]);
            // SAFETY: the caller's promise.
            unsafe { *self.y.add(at) = math::clip(sum, e.low, e.high) };
        }
    }

    /// Fetches what the next line of outputs sees for the first time, in some columns: a line of the input is too far from
    /// the next one for the processor to do so by itself. Where vectors are narrow it has the time: to ask makes it slower.
    #[inline(always)]
    fn fetch<L: Lanes>(self, lanes: L, columns: Range<usize>) {
        let [a, b, c] = &self.conv.window.axes;
        if L::ROWS < 8 || a.input * b.input * c.input * self.channels < FAR {
            return;
        }
        let (image, line) = (self.index / (a.output * b.output), self.index % b.output);
        let plane = image * a.input + self.index / b.output % a.output * a.stride;
        let columns = columns.start.min(c.input)..columns.end.min(c.input);
        let seen = (line * b.stride + b.extent()).saturating_sub(b.begin);
        for line in seen..(seen + b.stride).min(b.input) {
            let line = (plane.min(a.input * (image + 1) - 1) * b.input + line) * c.input;
            let values =
                (line + columns.start) * self.channels..(line + columns.end) * self.channels;
            for value in values.step_by(WIDTH) {
                lanes.prefetch(self.x.as_ptr().wrapping_add(value));
            }
        }
    }

    /// The places of the values that the window of an output sees, tap after tap.
    #[inline(always)]
    fn seen(self, output: usize) -> impl Iterator<Item = *const f32> {
        let axis = self.conv.window.axes[2];
        let rows = self.places.chunks_exact(self.columns);
        rows.flat_map(move |row| {
            let first = row[output * axis.stride..].iter();
            first.step_by(axis.dilation).take(axis.kernel).copied()
        })
    }
}

/// Finds where the values of so many columns of the padded line lie, for each row of the windows of a line of outputs; in
/// the padding lie `zeros`, one for each channel.
fn find(
    conv: &Conv,
    index: usize,
    x: &[f32],
    zeros: &[f32],
    columns: usize,
    places: &mut Vec<*const f32>,
) {
    let channels = zeros.len();
    let [a, b, c] = &conv.window.axes;
    let lines = a.output * b.output;
    let (oa, ob) = (index % lines / b.output, index % b.output);
    let len = conv.window.input_len() * channels;
    let image = &x[index / lines * len..][..len];
    places.clear();
    for ka in 0..a.kernel {
        let ia = (oa * a.stride + ka * a.dilation).wrapping_sub(a.begin);
        for kb in 0..b.kernel {
            let ib = (ob * b.stride + kb * b.dilation).wrapping_sub(b.begin);
            let end = places.len() + columns;
            if ia < a.input && ib < b.input {
                let line = (ia * b.input + ib) * c.input * channels;
                let values = image[line..line + c.input * channels].chunks_exact(channels);
                places.extend(repeat_n(zeros.as_ptr(), c.begin.min(columns)));
                places.extend(values.take(end - places.len()).map(<[f32]>::as_ptr));
            }
            places.resize(end, zeros.as_ptr());
        }
    }
}

/// A vector of values.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn vector<L: Lanes>(lanes: L, from: *const f32) -> L::V {
    // SAFETY: the caller's promise.
    lanes.load(unsafe { &*from.cast::<[f32; WIDTH]>() })
}
