//! Convolution into channels-last layout: every window is a row of a matrix product, read where it
//! lies.
#![allow(unsafe_code)]

use super::Conv;
use crate::chain::Chain;
use crate::gemm::{BLOCK_K, Left, PackedB, rows_by_panels};
use crate::isa::{Isa, Kernel};
use crate::math::canonical;
use crate::threads::{Slots, Threads};
use crate::window::{AXES, Window};

/// Which axis of a tensor holds the channels; the batch comes before, the spatial axes keep their
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// `[batch, channels, …]`, as in ONNX.
    First,
    /// `[batch, …, channels]`.
    Last,
}

/// The filters of a convolution, arranged once for [`conv_last`].
#[derive(Clone, Debug)]
pub struct FiltersLast {
    shape: [usize; 3],
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    Dense(PackedB),
    /// Tap after tap, each a value for every channel.
    Depthwise(Vec<f32>),
}

impl FiltersLast {
    /// Packs filters in row-major order: output channels × channels of a group × spatial sizes;
    /// `None` if [`conv_last`] does not know such groups: it takes one group, or as many as there
    /// are channels in and out.
    ///
    /// # Panics
    /// If `filters` has another length than [`Conv::filter_len`].
    #[must_use]
    pub fn pack(conv: &Conv, filters: &[f32]) -> Option<FiltersLast> {
        assert_eq!(
            filters.len(),
            conv.filter_len(),
            "pack: number of filter values"
        );
        let depth = conv.depth();
        let packed = if conv.groups == 1 {
            Packed::Dense(PackedB::pack(filters, depth, conv.group_out, true))
        } else if conv.group_in == 1 && conv.group_out == 1 && depth <= BLOCK_K {
            let mut taps = Vec::with_capacity(filters.len());
            for tap in 0..depth {
                taps.extend(filters.iter().skip(tap).step_by(depth));
            }
            Packed::Depthwise(taps)
        } else {
            return None;
        };
        Some(FiltersLast {
            shape: conv.filter_shape(),
            packed,
        })
    }

    /// Bytes that packed filters occupy, at most.
    #[must_use]
    pub fn bytes(conv: &Conv) -> u64 {
        if conv.groups == 1 {
            PackedB::bytes(conv.depth(), conv.group_out)
        } else {
            conv.filter_len() as u64 * size_of::<f32>() as u64
        }
    }
}

/// Values that [`conv_last`] keeps besides its operands: the input with its padding, if there is
/// any.
#[must_use]
pub fn conv_last_scratch(conv: &Conv, input: Channels) -> usize {
    let sheet = Sheet::of(conv, input);
    if conv.groups > 1 || sheet.is_plain(&conv.window) {
        0
    } else {
        conv.batch * sheet.image
    }
}

/// [`conv`](crate::conv) into channels-last layout, from either; a chain of elementwise operations
/// follows, whose rows are the outputs of all channels at one place. The bits are those of `conv`
/// and the operations one by one.
///
/// `scratch` is memory to use, whatever is in it.
///
/// # Panics
/// If a slice has another length than the geometry says, `filters` were packed for another, the
/// chain does not fit, or the filters are depthwise and the input has its channels first.
#[allow(clippy::too_many_arguments, reason = "as conv, how and what follows")]
pub fn conv_last(
    isa: Isa,
    threads: &Threads,
    conv: &Conv,
    input: Channels,
    x: &[f32],
    filters: &FiltersLast,
    chain: &Chain<'_>,
    scratch: &mut Vec<f32>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), conv.input_len(), "conv: input length");
    assert_eq!(y.len(), conv.output_len(), "conv: output length");
    assert_eq!(
        filters.shape,
        conv.filter_shape(),
        "conv: filters of another geometry"
    );
    let rows = conv.batch * conv.window.output_len();
    chain.check("conv", rows, conv.out_channels());
    match &filters.packed {
        Packed::Dense(packed) => {
            let sheet = Sheet::of(conv, input);
            let values = if sheet.is_plain(&conv.window) {
                x
            } else {
                scratch.resize(scratch.len().max(conv.batch * sheet.image), 0.0);
                let padded = &mut scratch[..conv.batch * sheet.image];
                sheet.write(threads, conv, x, padded);
                &*padded
            };
            let offsets = sheet.offsets(conv);
            let left = Left::gathered(values, &offsets);
            let outputs = conv.window.output_len();
            let [_, b, c] = conv.window.axes;
            let steps: [usize; AXES] =
                std::array::from_fn(|i| conv.window.axes[i].stride * sheet.steps[i]);
            rows_by_panels(isa, threads, rows, &left, packed, chain, y, |row| {
                let (image, at) = (row / outputs, row % outputs);
                let (line, oc) = (at / c.output, at % c.output);
                image * sheet.image
                    + line / b.output * steps[0]
                    + line % b.output * steps[1]
                    + oc * steps[2]
            });
        }
        Packed::Depthwise(taps) => {
            assert_eq!(input, Channels::Last, "conv: depthwise from channels last");
            depthwise(isa, threads, conv, x, taps, chain, y);
        }
    }
}

/// How images with their padding lie in memory.
struct Sheet {
    /// Values between neighbours along each spatial axis.
    steps: [usize; AXES],
    /// Values between channels.
    channel: usize,
    /// Spatial sizes with the padding.
    sizes: [usize; AXES],
    /// Values of an image.
    image: usize,
    input: Channels,
}

impl Sheet {
    fn of(conv: &Conv, input: Channels) -> Sheet {
        let sizes = conv.window.axes.map(|a| a.span());
        let places: usize = sizes.iter().product();
        let (place, channel) = match input {
            Channels::First => (1, places),
            Channels::Last => (conv.group_in * conv.groups, 1),
        };
        Sheet {
            steps: [sizes[1] * sizes[2] * place, sizes[2] * place, place],
            channel,
            sizes,
            image: places * conv.group_in * conv.groups,
            input,
        }
    }

    fn is_plain(&self, window: &Window) -> bool {
        self.sizes == window.axes.map(|a| a.input)
    }

    /// Distances of the values under a window from its first, channel by channel.
    fn offsets(&self, conv: &Conv) -> Vec<u32> {
        let [a, b, c] = &conv.window.axes;
        let mut offsets = Vec::with_capacity(conv.depth());
        for channel in 0..conv.group_in {
            for ka in 0..a.kernel {
                for kb in 0..b.kernel {
                    for kc in 0..c.kernel {
                        let at = channel * self.channel
                            + ka * a.dilation * self.steps[0]
                            + kb * b.dilation * self.steps[1]
                            + kc * c.dilation * self.steps[2];
                        offsets.push(u32::try_from(at).expect("an image has less than 2³² values"));
                    }
                }
            }
        }
        offsets
    }

    /// Writes images with their padding.
    fn write(&self, threads: &Threads, conv: &Conv, x: &[f32], padded: &mut [f32]) {
        let [a, b, c] = conv.window.axes;
        // A line is what lies together along the innermost axis, with all channels if they are last.
        let (planes, wide) = match self.input {
            Channels::First => (conv.group_in, 1),
            Channels::Last => (1, conv.group_in),
        };
        let (line, source_line) = (self.sizes[2] * wide, c.input * wide);
        let per_task = (1 << 14) / line.max(1) + 1;
        threads.chunks(padded, per_task * line, |task, lines| {
            for (i, to) in lines.chunks_exact_mut(line).enumerate() {
                let at = task * per_task + i;
                let (rest, ib) = (at / self.sizes[1], at % self.sizes[1]);
                let (image_plane, ia) = (rest / self.sizes[0], rest % self.sizes[0]);
                let (ia, ib) = (ia.wrapping_sub(a.begin), ib.wrapping_sub(b.begin));
                if ia >= a.input || ib >= b.input {
                    to.fill(0.0);
                    continue;
                }
                debug_assert!(image_plane < conv.batch * planes);
                let source = ((image_plane * a.input + ia) * b.input + ib) * source_line;
                let begin = c.begin * wide;
                to[..begin].fill(0.0);
                to[begin..begin + source_line].copy_from_slice(&x[source..source + source_line]);
                to[begin + source_line..].fill(0.0);
            }
        });
    }
}

/// Each channel by its own filter.
fn depthwise(
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
            isa.run(DepthwiseLine {
                conv,
                index,
                x,
                taps,
                zeros: &zeros,
                y,
            });
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

impl Kernel for DepthwiseLine<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.conv.window.kernel_len() {
            9 => self.line::<9>(),
            25 => self.line::<25>(),
            _ => self.any(),
        }
    }
}

impl DepthwiseLine<'_> {
    /// Calls `visit` for each output with the values under each tap, in order.
    #[inline(always)]
    fn each(
        conv: &Conv,
        index: usize,
        x: &[f32],
        zeros: &[f32],
        mut visit: impl FnMut(usize, &[*const f32]),
    ) {
        let channels = conv.groups;
        let [a, b, c] = &conv.window.axes;
        let (image, at) = (index / (a.output * b.output), index % (a.output * b.output));
        let (oa, ob) = (at / b.output, at % b.output);
        let image =
            &x[image * conv.window.input_len() * channels..][..conv.window.input_len() * channels];
        let count = conv.window.kernel_len();
        let mut rows = [std::ptr::null(); BLOCK_K];
        for oc in 0..c.output {
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
            visit(oc, &rows[..count]);
        }
    }

    #[inline(always)]
    fn line<const T: usize>(self) {
        const LANES: usize = 16;
        let DepthwiseLine {
            conv,
            index,
            x,
            taps,
            zeros,
            y,
        } = self;
        let channels = conv.groups;
        assert!(taps.len() == T * channels && zeros.len() == channels);
        Self::each(conv, index, x, zeros, |oc, rows| {
            let rows: &[*const f32; T] = rows.try_into().expect("as many rows as taps");
            let out = &mut y[oc * channels..(oc + 1) * channels];
            let whole = channels / LANES * LANES;
            let mut channel = 0;
            while channel < whole {
                let mut sums = [0.0f32; LANES];
                for t in 0..T {
                    // SAFETY: every row and every tap has a value for each channel.
                    let (w, v) = unsafe {
                        (
                            &*taps
                                .as_ptr()
                                .add(t * channels + channel)
                                .cast::<[f32; LANES]>(),
                            &*rows[t].add(channel).cast::<[f32; LANES]>(),
                        )
                    };
                    for j in 0..LANES {
                        sums[j] = w[j].mul_add(v[j], sums[j]);
                    }
                }
                for (out, sum) in out[channel..channel + LANES].iter_mut().zip(sums) {
                    *out = canonical(sum);
                }
                channel += LANES;
            }
            for (channel, out) in out.iter_mut().enumerate().skip(whole) {
                let mut sum = 0.0f32;
                for (t, row) in rows.iter().enumerate() {
                    // SAFETY: as above.
                    let v = unsafe { *row.add(channel) };
                    sum = taps[t * channels + channel].mul_add(v, sum);
                }
                *out = canonical(sum);
            }
        });
    }

    /// Any number of taps.
    #[inline(always)]
    fn any(self) {
        let DepthwiseLine {
            conv,
            index,
            x,
            taps,
            zeros,
            y,
        } = self;
        let channels = conv.groups;
        assert!(zeros.len() == channels);
        Self::each(conv, index, x, zeros, |oc, rows| {
            let out = &mut y[oc * channels..(oc + 1) * channels];
            out.fill(0.0);
            for (row, weights) in rows.iter().zip(taps.chunks_exact(channels)) {
                // SAFETY: every row has a value for each channel.
                let row = unsafe { std::slice::from_raw_parts(*row, channels) };
                for ((out, &w), &v) in out.iter_mut().zip(weights).zip(row) {
                    *out = w.mul_add(v, *out);
                }
            }
            for out in out {
                *out = canonical(*out);
            }
        });
    }
}
