//! Convolution of 8-bit integers with the channels last.

use std::mem::MaybeUninit;

use super::depthwise::Depthwise;
#[cfg(target_arch = "x86_64")]
use super::depthwise512::{Depthwise as Wide, Taps};
#[cfg(target_arch = "x86_64")]
use super::fold;
use super::pack::COLUMNS;
#[cfg(target_arch = "x86_64")]
use super::vnni::Vnni;
use super::walk::{Finish, InLines, Place, ROWS};
#[cfg(target_arch = "x86_64")]
use super::winograd::{self, Winograd};
use super::{Finished, Int8, Left, Output, PackedInt8, multiply_rows};
use crate::chain::Chain;
use crate::conv::Conv;
use crate::isa::Isa;
use crate::threads::Threads;
use crate::window::{AXES, Axis, Window};

/// The filters of an integer convolution and their zero points, arranged once for
/// [`conv_int8_last`].
#[derive(Clone, Debug)]
pub struct FiltersInt8Last {
    shape: [usize; 3],
    /// Values of one filter that are neighbours in the input.
    run: usize,
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    /// Places of the window, then channels, by output channels.
    Dense(PackedInt8, Vec<i32>),
    /// For windows of 3 × 3, where the instruction set does better so.
    #[cfg(target_arch = "x86_64")]
    Winograd(Winograd),
    /// Tap after tap, each a value for every channel, less its zero point.
    Depthwise(Vec<i32>, Wider),
}

impl FiltersInt8Last {
    /// Packs filters for an instruction set (any other takes them too), in row-major order: output channels × channels of a
    /// group × spatial sizes, with one zero point or one for each output channel; `None` if [`conv_int8_last`] does not know such
    /// groups: it takes one group, or as many as there are channels in and out.
    ///
    /// # Panics
    /// If `filters` has another length than [`Conv::filter_len`], or there is another number of
    /// zero points.
    #[must_use]
    pub fn pack(
        isa: Isa,
        conv: &Conv,
        filters: Int8<'_>,
        zeros: &[i32],
    ) -> Option<FiltersInt8Last> {
        assert_eq!(
            filters.len(),
            conv.filter_len(),
            "pack: number of filter values"
        );
        assert!(
            zeros.len() == 1 || zeros.len() == conv.out_channels(),
            "pack: zero points of the filters"
        );
        let shape @ [groups, out, depth] = conv.filter_shape();
        let kernel = conv.window().kernel_len();
        let run = run(conv);
        #[cfg(target_arch = "x86_64")]
        if winograd::is_worth(isa, conv)
            && let Some(packed) = Winograd::pack(conv, filters, zeros)
        {
            let packed = Packed::Winograd(packed);
            return Some(FiltersInt8Last { shape, run, packed });
        }
        let packed = if groups == 1 {
            let channels = depth / kernel;
            let offset = |i: usize| i % channels * kernel + i / channels;
            let offsets: Vec<usize> = (0..depth).map(offset).collect();
            let packed = PackedInt8::pack_runs(filters, out, &offsets, depth, run);
            Packed::Dense(packed, zeros.to_vec())
        } else if out == 1 && depth == kernel {
            let tap = |i: usize| {
                let (tap, channel) = (i / groups, i % groups);
                filters.at(channel * depth + tap) - zeros[channel % zeros.len()]
            };
            let taps: Vec<i32> = (0..filters.len()).map(tap).collect();
            #[cfg(target_arch = "x86_64")]
            let wide = Taps::pack(&taps, groups);
            #[cfg(not(target_arch = "x86_64"))]
            let wide = ();
            Packed::Depthwise(taps, wide)
        } else {
            return None;
        };
        Some(FiltersInt8Last { shape, run, packed })
    }

    /// Bytes that packed filters occupy, at most.
    #[must_use]
    pub fn bytes(isa: Isa, conv: &Conv) -> u64 {
        let [groups, out, depth] = conv.filter_shape();
        #[cfg(target_arch = "x86_64")]
        if winograd::is_worth(isa, conv) {
            return winograd::bytes(conv);
        }
        match groups {
            1 => PackedInt8::bytes_of_runs(depth, out, run(conv)),
            // As taps of 32 bits, and of 8 for as many channels as registers have, with a sum for each channel, which may be
            // repeated.
            _ => {
                let channels = (4 * groups).next_multiple_of(COLUMNS) as u64;
                4 * conv.filter_len() as u64 + channels * (4 + depth.next_multiple_of(4) as u64)
            }
        }
    }
}

/// The taps as the widest instructions read them, if they can.
#[cfg(target_arch = "x86_64")]
type Wider = Option<Taps>;
#[cfg(not(target_arch = "x86_64"))]
type Wider = ();

/// Convolution of `x`, `[batch, …, channels]`, less its zero point, by filters less theirs, into `y`,
/// `[batch, …, output channels]`. The sums, which wrap, become f32; a chain follows whose rows are the
/// outputs of all channels at one place.
///
/// # Panics
/// If a slice has another length than the geometry says, `filters` were packed for another, or the
/// chain does not fit.
#[allow(clippy::too_many_arguments, reason = "as conv_last")]
pub fn conv_int8_last(
    isa: Isa,
    threads: &Threads,
    conv: &Conv,
    x: Int8<'_>,
    x_zero: i32,
    filters: &FiltersInt8Last,
    chain: &Chain<'_>,
    y: Output<'_>,
) {
    assert_eq!(x.len(), conv.input_len(), "conv_int8: input length");
    assert_eq!(y.len(), conv.output_len(), "conv_int8: output length");
    assert_eq!(
        filters.shape,
        conv.filter_shape(),
        "conv_int8: filters of another geometry"
    );
    let n = conv.out_channels();
    let m = y.len() / n;
    chain.check("conv_int8", m, n);
    assert!(!chain.by_rows(), "conv_int8: a chain with softmax");
    #[cfg(target_arch = "x86_64")]
    if let Packed::Depthwise(_, Some(taps)) = &filters.packed
        && let Some(vnni) = Vnni::on(isa)
    {
        let zero = x_zero.wrapping_add(x.raised_by());
        let axis = &conv.window().axes[2];
        let folds = axis.stride == 1 && axis.output.is_multiple_of(taps.fold);
        let mut copy = Vec::new();
        if let (true, 2.., Ok(padding)) =
            (folds && fold::repeats(chain), taps.fold, u8::try_from(zero))
        {
            let input = Input::padded(threads, conv, &x, padding, &mut copy);
            let padded = Int8::Unsigned(&input.values[..input.values.len() - SLACK]);
            let wide = Wide::new(vnni, conv, taps, padded, zero, taps.fold);
            if let Some(wide) = wide {
                return fold::repeated(chain, n, taps.fold, |chain| {
                    let out = Finished::new(isa, n * taps.fold, chain, y);
                    wide.lines(threads, m / axis.output, &out);
                });
            }
        } else if let Some(wide) = Wide::new(vnni, conv, taps, x, x_zero, 1) {
            let out = Finished::new(isa, n, chain, y);
            return wide.lines(threads, m / axis.output, &out);
        }
    }
    let out = Finished::new(isa, n, chain, y);
    match &filters.packed {
        Packed::Dense(packed, zeros) => {
            assert_eq!(
                filters.run,
                run(conv),
                "conv_int8: filters of another dilation"
            );
            let zero = x_zero.wrapping_add(x.raised_by());
            let mut copy = Vec::new();
            let input = Input::of(threads, conv, &x, zero as u8, &mut copy);
            let runs = input.runs(conv.window());
            let [_, b, c] = &conv.window().axes;
            let left = Left {
                values: input.values,
                starts: &|first, count| input.starts(conv.window(), first, count),
                runs: &runs,
                zeros: &[zero],
                weight: input.channels * b.stride * c.stride,
            };
            multiply_rows(isa, threads, m, &left, packed, zeros, &out);
        }
        #[cfg(target_arch = "x86_64")]
        Packed::Winograd(filters) => filters.conv(isa, threads, conv, x, x_zero, &out),
        Packed::Depthwise(taps, _) => {
            let width = conv.window().axes[2].output;
            let lines = m / width;
            let together = lines_of_a_task(width * n);
            threads.run(lines.div_ceil(together), |task| {
                let InLines(tile) = &mut InLines::new();
                for line in task * together..lines.min((task + 1) * together) {
                    for at in places(line, width, n) {
                        isa.run(Depthwise {
                            conv,
                            x,
                            x_zero,
                            taps,
                            at,
                            tile,
                        });
                        // SAFETY: each line is one task's.
                        unsafe { out.finish(at, tile) };
                    }
                }
            });
        }
    }
}

/// Lines of so many values that make a task: of at least some thousand.
pub(super) fn lines_of_a_task(len: usize) -> usize {
    (8192 / len).max(1)
}

/// The tiles of a line of outputs.
fn places(line: usize, width: usize, n: usize) -> impl Iterator<Item = Place> {
    (0..n).step_by(COLUMNS).flat_map(move |column| {
        (0..width).step_by(ROWS).map(move |first| Place {
            row: line * width + first,
            count: ROWS.min(width - first),
            column,
            width: COLUMNS.min(n - column),
        })
    })
}

/// Values under a window that are neighbours in memory, with the channels last.
fn run(conv: &Conv) -> usize {
    let [groups, _, depth] = conv.filter_shape();
    let window = conv.window();
    let channels = groups * depth / window.kernel_len();
    let axis = &window.axes[2];
    match axis.dilation {
        1 => channels * axis.kernel,
        _ => channels,
    }
}

/// Bytes that [`conv_int8_last`] holds beside its operands, and each thread besides, at most.
#[must_use]
pub fn conv_int8_last_scratch(isa: Isa, conv: &Conv) -> (u64, u64) {
    #[cfg(target_arch = "x86_64")]
    let each = match winograd::is_worth(isa, conv) {
        true => winograd::scratch(conv),
        false => 0,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let each = 0;
    let channels = conv.input_len() / conv.window().input_len();
    let places = conv.window().axes.iter().map(reach);
    let padded = places.fold(channels as u64, |n, len| n.saturating_mul(len as u64));
    (padded.saturating_add(SLACK as u64), each)
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
const SLACK: usize = 3;

/// The input of a convolution with its padding, as bytes without a sign.
struct Input<'a> {
    values: &'a [u8],
    channels: usize,
    /// Places of each axis.
    sizes: [usize; AXES],
}

impl<'a> Input<'a> {
    /// The input where it lies, if that will do, else in `copy`.
    fn of(
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
    fn padded(
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

    /// How far the runs of a window are from its beginning.
    fn runs(&self, window: &Window) -> Vec<usize> {
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
    fn starts(&self, window: &Window, first: usize, count: usize) -> Vec<usize> {
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
