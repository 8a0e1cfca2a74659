//! Convolution into channels-last layout: every window is a row of a matrix product, read where it
//! lies.
#![allow(unsafe_code)]

use super::Conv;
use super::depthwise_last::depthwise;
use crate::chain::Chain;
use crate::gemm::{BLOCK_K, Left, PackedB, rows_by_panels};
use crate::isa::Isa;
use crate::threads::Threads;
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
            let offsets;
            let left = if input == Channels::Last && conv.window.kernel_len() == 1 {
                // The values of one place are neighbours.
                Left::rows(values)
            } else {
                offsets = sheet.offsets(conv);
                Left::gathered(values, &offsets)
            };
            let places = Windows::of(conv, &sheet);
            rows_by_panels(
                isa,
                threads,
                rows,
                &left,
                packed,
                chain,
                y,
                |first, rows| {
                    places.fill(first, rows);
                },
            );
        }
        Packed::Depthwise(taps) => {
            assert_eq!(input, Channels::Last, "conv: depthwise from channels last");
            depthwise(isa, threads, conv, x, taps, chain, y);
        }
    }
}

/// Where windows begin.
struct Windows {
    /// Windows along each axis.
    counts: [usize; AXES],
    /// Values between neighbours along each axis.
    steps: [usize; AXES],
    /// Values of an image.
    image: usize,
}

impl Windows {
    fn of(conv: &Conv, sheet: &Sheet) -> Windows {
        let axes = &conv.window.axes;
        Windows {
            counts: axes.map(|a| a.output),
            steps: std::array::from_fn(|i| axes[i].stride * sheet.steps[i]),
            image: sheet.image,
        }
    }

    /// Where windows from number `first` on begin.
    fn fill(&self, first: usize, places: &mut [usize]) {
        let [a, b, c] = self.counts;
        let (rest, mut ic) = (first / c, first % c);
        let (rest, mut ib) = (rest / b, rest % b);
        let (mut image, mut ia) = (rest / a, rest % a);
        for place in places {
            let [sa, sb, sc] = self.steps;
            *place = image * self.image + ia * sa + ib * sb + ic * sc;
            ic += 1;
            if ic == c {
                (ic, ib) = (0, ib + 1);
                if ib == b {
                    (ib, ia) = (0, ia + 1);
                    if ia == a {
                        (ia, image) = (0, image + 1);
                    }
                }
            }
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
