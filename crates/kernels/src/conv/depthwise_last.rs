//! Convolution of each channel by its own filter, with the channels last.
//!
//! Outputs that are neighbours along a line share what they read: some of them, and a vector of channels, are computed
//! together, each value and each weight loaded once for a row of the window. Lines that are neighbours share it too: a task
//! computes a band of them, some channels at a time, so that what one line has read is in the nearest cache for the next.
#![allow(unsafe_code)]

use std::ops::Range;

use super::Conv;
use crate::chain::Chain;
use crate::epilogue::Epilogue;
use crate::gemm::BLOCK_K;
use crate::isa::Isa;
use crate::lanes::{self, LaneKernel, Lanes, WIDTH};
use crate::math;
use crate::threads::{Slots, Threads};

/// Most lines of a band.
const BAND: usize = 8;

/// Outputs of a line that are computed before the next line.
const SEGMENT: usize = 64;

/// Bytes of what the windows of a segment see of some channels, which stay in the first-level cache.
const NEAR: usize = 16 << 10;

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
    let [a, b, c] = &conv.window.axes;
    let line = c.output * channels;
    let zeros = vec![0.0; channels];
    let (epilogue, chain) = chain.split();
    let planes = conv.batch * a.output;
    let wanted = match threads.count() {
        1 => 1,
        count => (4 * count).div_ceil(planes).min(b.output),
    };
    let bands = b.output.div_ceil(BAND).max(wanted);
    let out = Slots::of(y);
    threads.run(planes * bands, |task| {
        let (plane, band) = (task / bands, task % bands);
        let lines = band * b.output / bands..(band + 1) * b.output / bands;
        let first = plane * b.output + lines.start;
        // SAFETY: each line is one task's.
        let y = unsafe { out.slice(first * line, lines.len() * line) };
        let band = Band {
            conv,
            plane,
            lines,
            x,
            taps,
            zeros: &zeros,
            epilogue: epilogue.part(first * c.output, 0, channels),
            places: Vec::new(),
            tall: 0,
            y,
        };
        lanes::run(isa, band);
        chain.apply(isa, first * c.output, channels, y);
    });
}

/// Neighbouring lines of outputs, all channels.
struct Band<'a> {
    conv: &'a Conv,
    /// The plane of the output, counted through all images, and the lines in it.
    plane: usize,
    lines: Range<usize>,
    x: &'a [f32],
    /// Tap after tap, a value for each channel.
    taps: &'a [f32],
    /// What lies in the padding.
    zeros: &'a [f32],
    epilogue: Epilogue<'a>,
    /// Where the values of some columns lie, line after line of what the windows see.
    places: Vec<*const f32>,
    /// How many of these lines there are on each plane that a window sees.
    tall: usize,
    y: &'a mut [f32],
}

impl LaneKernel for Band<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let (channels, axis) = (self.conv.groups, self.conv.window.axes[2]);
        let count = self.conv.window.kernel_len();
        let whole = |operand: Option<&[f32]>, len| operand.is_none_or(|o| o.len() >= len);
        assert!(
            count <= BLOCK_K
                && self.taps.len() == count * channels
                && self.zeros.len() == channels
                && whole(self.epilogue.bias, channels)
                && whole(self.epilogue.addend, self.y.len()),
            "depthwise: filters or operands of another geometry"
        );
        // Sums that fit the registers, with the values and weights of one row of the window. Most widths are multiples
        // of 7.
        macro_rules! shared {
            ($($kernel:literal $stride:literal: $many:literal, $few:literal;)+) => {
                match (axis.kernel, axis.stride, L::ROWS) {
                    $(
                        ($kernel, $stride, 8) if axis.output >= 7 => {
                            self.shared::<L, 7, $kernel, $stride, $many>(lanes)
                        }
                        ($kernel, $stride, _) if axis.output >= 2 => {
                            self.shared::<L, 2, $kernel, $stride, $few>(lanes)
                        }
                    )+
                    _ => self.apart(lanes),
                }
            };
        }
        let [_, b, c] = &self.conv.window.axes;
        match b.dilation.max(c.dilation) {
            1 if b.stride <= b.kernel => {
                shared!(3 1: 9, 4; 3 2: 15, 5; 5 1: 11, 6; 5 2: 17, 7; 7 1: 13, 8;)
            }
            _ => self.apart(lanes),
        }
    }
}

impl Band<'_> {
    /// `P` outputs at a time, of windows that are `K` wide and move on by `S`, over `C = (P − 1) · S + K` columns.
    #[inline(always)]
    fn shared<L: Lanes, const P: usize, const K: usize, const S: usize, const C: usize>(
        &mut self,
        lanes: L,
    ) {
        let (channels, [_, b, c]) = (self.conv.groups, self.conv.window.axes);
        let whole = channels - channels % WIDTH;
        for segment in (0..c.output).step_by(SEGMENT) {
            let outputs = SEGMENT.min(c.output - segment);
            // The last outputs of a line are taken together too: some of them are computed twice.
            let segment = segment.min(c.output - outputs.max(P));
            let outputs = outputs.max(P);
            let columns = (outputs - 1) * S + K;
            let seen = self.lines.start * b.stride..(self.lines.end - 1) * b.stride + b.kernel;
            self.find(seen, |column| segment * S + column, columns);
            let near = (NEAR / (b.kernel * columns * size_of::<f32>()) / WIDTH).max(1) * WIDTH;
            for first in (0..whole).step_by(near) {
                for line in 0..self.lines.len() {
                    for part in (0..outputs).step_by(P) {
                        let part = part.min(outputs - P);
                        for channel in (first..whole.min(first + near)).step_by(WIDTH) {
                            // SAFETY: each line of what the windows see has a place for each column, with a value for
                            // each channel.
                            unsafe {
                                let sums =
                                    self.sums::<L, P, K, S, C>(lanes, line, columns, part, channel);
                                for (p, sum) in sums.into_iter().enumerate() {
                                    let output = line * c.output + segment + part + p;
                                    self.store(lanes, sum, output, channel);
                                }
                            }
                        }
                    }
                }
            }
            for line in 0..self.lines.len() {
                for output in 0..outputs {
                    let at = line * c.output + segment + output;
                    // SAFETY: as above.
                    unsafe { self.rest(line, at, output * S, columns, whole) };
                }
            }
        }
    }

    /// The sums of `P` outputs of a line, one vector of channels.
    ///
    /// # Safety
    /// Each line of what the windows see has places for `columns` columns, which have these channels.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "sums in registers, which are laid out by hand"
    )]
    unsafe fn sums<L: Lanes, const P: usize, const K: usize, const S: usize, const C: usize>(
        &self,
        lanes: L,
        line: usize,
        columns: usize,
        part: usize,
        channel: usize,
    ) -> [L::V; P] {
        let mut sums = [lanes.splat(0.0); P];
        for (r, row) in self.rows(line).enumerate() {
            let places = &self.places[row * columns + part * S..][..C];
            let values: [L::V; C] = std::array::from_fn(|c| {
                // SAFETY: the caller's promise.
                unsafe { vector(lanes, places[c].add(channel)) }
            });
            for k in 0..K {
                let tap = (r * K + k) * self.conv.groups + channel;
                // SAFETY: every tap has a value for each channel.
                let weight = unsafe { vector(lanes, self.taps.as_ptr().add(tap)) };
                for p in 0..P {
                    sums[p] = lanes.fma(weight, values[p * S + k], sums[p]);
                }
            }
        }
        sums
    }

    /// The rows of the windows on a line of what has been found, as lines of that.
    #[inline(always)]
    fn rows(&self, line: usize) -> impl Iterator<Item = usize> + use<> {
        let ([a, b, _], tall) = (self.conv.window.axes, self.tall);
        (0..a.kernel).flat_map(move |ka| {
            let first = ka * tall + line * b.stride;
            first..first + b.kernel
        })
    }

    /// One output at a time, of any windows.
    #[inline(always)]
    fn apart<L: Lanes>(&mut self, lanes: L) {
        /// Vectors whose sums go on while one waits for its last.
        const VECTORS: usize = 4;
        let (channels, [_, b, axis]) = (self.conv.groups, self.conv.window.axes);
        for (line, place) in self.lines.clone().enumerate() {
            for output in 0..axis.output {
                let seen = (0..b.kernel).map(|k| place * b.stride + k * b.dilation);
                let column = |k| output * axis.stride + k * axis.dilation;
                self.find(seen, column, axis.kernel);
                let at = line * axis.output + output;
                let mut channel = 0;
                // SAFETY: there is a place for each tap, with a value for each channel.
                unsafe {
                    while channel + VECTORS * WIDTH <= channels {
                        self.one::<L, VECTORS>(lanes, at, channel);
                        channel += VECTORS * WIDTH;
                    }
                    while channel + WIDTH <= channels {
                        self.one::<L, 1>(lanes, at, channel);
                        channel += WIDTH;
                    }
                    self.rest(0, at, 0, axis.kernel, channel);
                }
            }
        }
    }

    /// `V` vectors of channels of one output.
    ///
    /// # Safety
    /// There is a place for each tap, which has these channels.
    #[inline(always)]
    unsafe fn one<L: Lanes, const V: usize>(&mut self, lanes: L, output: usize, channel: usize) {
        let mut sums = [lanes.splat(0.0); V];
        let kernel = self.conv.window.axes[2].kernel;
        for (r, row) in self.rows(0).enumerate() {
            for (k, place) in self.places[row * kernel..][..kernel].iter().enumerate() {
                let tap = (r * kernel + k) * self.conv.groups;
                for (v, sum) in sums.iter_mut().enumerate() {
                    let channel = channel + v * WIDTH;
                    // SAFETY: the caller's promise; taps have a value for each channel.
                    let (weight, value) = unsafe {
                        let tap = self.taps.as_ptr().add(tap + channel);
                        (vector(lanes, tap), vector(lanes, place.add(channel)))
                    };
                    *sum = lanes.fma(weight, value, *sum);
                }
            }
        }
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: the output has these channels.
            unsafe { self.store(lanes, sum, output, channel + v * WIDTH) };
        }
    }

    /// Stores a vector of an output's channels, after the epilogue.
    ///
    /// # Safety
    /// The output has these channels.
    #[inline(always)]
    unsafe fn store<L: Lanes>(&mut self, lanes: L, sum: L::V, output: usize, channel: usize) {
        let (at, e) = (output * self.conv.groups + channel, &self.epilogue);
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
            lanes.store(v, &mut *self.y.as_mut_ptr().add(at).cast());
        }
    }

    /// The channels from `begin` on of an output on a line of the band, whose window begins at column `column` of
    /// `columns`.
    ///
    /// # Safety
    /// Each line of what the windows see has a place for each column, with a value for each channel.
    #[inline(always)]
    unsafe fn rest(
        &mut self,
        line: usize,
        output: usize,
        column: usize,
        columns: usize,
        begin: usize,
    ) {
        let (channels, width) = (self.conv.groups, self.conv.window.axes[2].kernel);
        for channel in begin..channels {
            let mut sum = 0.0f32;
            for (r, row) in self.rows(line).enumerate() {
                let places = &self.places[row * columns + column..][..width];
                for (k, place) in places.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    let value = unsafe { *place.add(channel) };
                    sum = self.taps[(r * width + k) * channels + channel].mul_add(value, sum);
                }
            }
            let (at, e) = (output * channels + channel, &self.epilogue);
            sum = e.bias.map_or(sum, |bias| sum + bias[channel]);
            sum = e.addend.map_or(sum, |addend| sum + addend[at]);
            self.y[at] = math::clip(sum, e.low, e.high);
        }
    }

    /// Finds where the values of some columns of some lines of the padded input lie, on each plane that a window sees.
    #[inline(always)]
    fn find(
        &mut self,
        lines: impl ExactSizeIterator<Item = usize> + Clone,
        column: impl Fn(usize) -> usize,
        columns: usize,
    ) {
        let channels = self.conv.groups;
        let [a, b, c] = &self.conv.window.axes;
        let len = self.conv.window.input_len() * channels;
        let image = &self.x[self.plane / a.output * len..][..len];
        self.tall = lines.len();
        self.places.clear();
        for ka in 0..a.kernel {
            let ia = self.plane % a.output * a.stride + ka * a.dilation;
            let ia = ia.wrapping_sub(a.begin);
            for ib in lines.clone() {
                let ib = ib.wrapping_sub(b.begin);
                let inside = ia < a.input && ib < b.input;
                let line = ia.wrapping_mul(b.input).wrapping_add(ib);
                let line = line.wrapping_mul(c.input);
                self.places.extend((0..columns).map(|i| {
                    let ic = column(i).wrapping_sub(c.begin);
                    if inside && ic < c.input {
                        // SAFETY: the place lies in the image, which has so many channels there.
                        unsafe { image.as_ptr().add((line + ic) * channels) }
                    } else {
                        self.zeros.as_ptr()
                    }
                }));
            }
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
