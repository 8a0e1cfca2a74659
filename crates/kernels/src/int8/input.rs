//! The input of a convolution with the channels last, with its padding, and where the values under each window lie.

use std::mem::MaybeUninit;

use super::Int8;
use crate::conv::Conv;
use crate::threads::Threads;
use crate::window::{AXES, Axis, Window};

/// Values under a window that are neighbours in memory, with the channels last.
pub(super) fn run(conv: &Conv) -> usize {
    let [groups, _, depth] = conv.filter_shape();
    let window = conv.window();
    let channels = groups * depth / window.kernel_len();
    let axis = &window.axes[2];
    match axis.dilation {
        1 => channels * axis.kernel,
        _ => channels,
    }
}

/// Places of an axis that the windows reach over.
pub(super) fn reach(axis: &Axis) -> usize {
    (axis.begin + axis.input).max((axis.output - 1) * axis.stride + axis.extent())
}

/// The channels of an input, and the places of each axis that the windows reach over.
fn reached(conv: &Conv, x: &Int8<'_>) -> (usize, [usize; AXES]) {
    let window = conv.window();
    let channels = x.len() / (window.input_len() * conv.batch());
    (channels, window.axes.each_ref().map(reach))
}

fn fill(to: &mut [MaybeUninit<u8>], value: u8) {
    to.fill(MaybeUninit::new(value));
}

/// Bytes that may be read after the last run.
pub(super) const SLACK: usize = 3;

/// The input of a convolution with its padding, as bytes without a sign.
pub(super) struct Input<'a> {
    pub(super) values: &'a [u8],
    pub(super) channels: usize,
    /// Places of each axis.
    sizes: [usize; AXES],
}

impl<'a> Input<'a> {
    /// The input where it lies, if that will do, else in `copy`.
    pub(super) fn of(
        threads: &Threads,
        conv: &Conv,
        x: &Int8<'a>,
        padding: u8,
        copy: &'a mut Vec<u8>,
    ) -> Input<'a> {
        let (channels, sizes) = reached(conv, x);
        let padded = (conv.window().axes.iter())
            .zip(sizes)
            .any(|(axis, n)| n != axis.input);
        if let (Int8::Unsigned(values), false, true) = (x, padded, run(conv).is_multiple_of(4)) {
            return Input {
                values,
                channels,
                sizes,
            };
        }
        Input::padded(threads, conv, x, padding, copy)
    }

    /// The input in `copy`.
    pub(super) fn padded(
        threads: &Threads,
        conv: &Conv,
        x: &Int8<'_>,
        padding: u8,
        copy: &'a mut Vec<u8>,
    ) -> Input<'a> {
        let [a, b, c] = &conv.window().axes;
        let (channels, sizes) = reached(conv, x);
        let line = sizes[2] * channels;
        let len = conv.batch() * sizes[0] * sizes[1] * line;
        copy.clear();
        copy.reserve_exact(len + SLACK);
        let (lines, slack) = copy.spare_capacity_mut()[..len + SLACK].split_at_mut(len);
        fill(slack, padding);
        threads.chunks(lines, line, |i, to| {
            let (image, ia, ib) = (
                i / sizes[1] / sizes[0],
                i / sizes[1] % sizes[0],
                i % sizes[1],
            );
            let inside = |axis: &Axis, i: usize| {
                let i = i.wrapping_sub(axis.begin);
                (i < axis.input).then_some(i)
            };
            let (Some(ia), Some(ib)) = (inside(a, ia), inside(b, ib)) else {
                fill(to, padding);
                return;
            };
            let from = ((image * a.input + ia) * b.input + ib) * c.input * channels;
            let (before, to) = to.split_at_mut(c.begin * channels);
            let (to, after) = to.split_at_mut(c.input * channels);
            fill(before, padding);
            x.write(from..from + to.len(), to);
            fill(after, padding);
        });
        // SAFETY: all of it has been written: every line, whole, and the slack.
        unsafe { copy.set_len(len + SLACK) };
        Input {
            values: copy,
            channels,
            sizes,
        }
    }

    /// All places, of an input that was padded.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn places(&self) -> &'a [u8] {
        &self.values[..self.values.len() - SLACK]
    }

    /// How far the runs of a window are from its beginning.
    pub(super) fn runs(&self, window: &Window) -> Vec<usize> {
        let [a, b, c] = &window.axes;
        let apart = if c.dilation == 1 { 1 } else { c.kernel };
        let mut runs = Vec::with_capacity(a.kernel * b.kernel * apart);
        for ka in 0..a.kernel {
            for kb in 0..b.kernel {
                for kc in 0..apart {
                    let line = ka * a.dilation * self.sizes[1] + kb * b.dilation;
                    runs.push((line * self.sizes[2] + kc * c.dilation) * self.channels);
                }
            }
        }
        runs
    }

    /// Where the windows of some outputs begin.
    pub(super) fn starts(&self, window: &Window, first: usize, count: usize) -> Vec<usize> {
        let [a, b, c] = &window.axes;
        let (rest, mut oc) = (first / c.output, first % c.output);
        let (rest, mut ob) = (rest / b.output, rest % b.output);
        let (mut image, mut oa) = (rest / a.output, rest % a.output);
        let mut starts = Vec::with_capacity(count);
        while starts.len() < count {
            let line = (image * self.sizes[0] + oa * a.stride) * self.sizes[1] + ob * b.stride;
            let last = c.output.min(oc + count - starts.len());
            let place = |oc| (line * self.sizes[2] + oc * c.stride) * self.channels;
            starts.extend((oc..last).map(place));
            // The next line of outputs.
            (oc, ob) = (0, ob + 1);
            if ob == b.output {
                (ob, oa) = (0, oa + 1);
            }
            if oa == a.output {
                (oa, image) = (0, image + 1);
            }
        }
        starts
    }
}
