//! Convolution of 8-bit integers with the channels last.

use super::depthwise::Depthwise;
use super::{Finished, Int8, Output, PackedInt8, Store, multiply_rows};
use crate::chain::Chain;
use crate::conv::Conv;
use crate::isa::Isa;
use crate::threads::Threads;
use crate::window::Axis;

/// The filters of an integer convolution and their zero points, arranged once for
/// [`conv_int8_last`].
#[derive(Clone, Debug)]
pub struct FiltersInt8Last {
    shape: [usize; 3],
    packed: Packed,
}

#[derive(Clone, Debug)]
enum Packed {
    /// Places of the window, then channels, by output channels.
    Dense(PackedInt8, Vec<i32>),
    /// Tap after tap, each a value for every channel, less its zero point.
    Depthwise(Vec<i32>),
}

impl FiltersInt8Last {
    /// Packs filters in row-major order: output channels × channels of a group × spatial sizes,
    /// with one zero point or one for each output channel; `None` if [`conv_int8_last`] does not
    /// know such groups: it takes one group, or as many as there are channels in and out.
    ///
    /// # Panics
    /// If `filters` has another length than [`Conv::filter_len`], or there is another number of
    /// zero points.
    #[must_use]
    pub fn pack(conv: &Conv, filters: Int8<'_>, zeros: &[i32]) -> Option<FiltersInt8Last> {
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
        let packed = if groups == 1 {
            let channels = depth / kernel;
            let turned = |i: usize| {
                let (filter, rest) = (i / depth, i % depth);
                filter * depth + rest % channels * kernel + rest / channels
            };
            let len = filters.len();
            let packed = match filters {
                Int8::Unsigned(v) => {
                    let v: Vec<u8> = (0..len).map(|i| v[turned(i)]).collect();
                    PackedInt8::pack(Int8::Unsigned(&v), depth, out, true)
                }
                Int8::Signed(v) => {
                    let v: Vec<i8> = (0..len).map(|i| v[turned(i)]).collect();
                    PackedInt8::pack(Int8::Signed(&v), depth, out, true)
                }
            };
            Packed::Dense(packed, zeros.to_vec())
        } else if out == 1 && depth == kernel {
            let tap = |i: usize| {
                let (tap, channel) = (i / groups, i % groups);
                filters.at(channel * depth + tap) - zeros[channel % zeros.len()]
            };
            Packed::Depthwise((0..filters.len()).map(tap).collect())
        } else {
            return None;
        };
        Some(FiltersInt8Last { shape, packed })
    }

    /// Bytes that packed filters occupy, at most.
    #[must_use]
    pub fn bytes(conv: &Conv) -> u64 {
        let [groups, out, depth] = conv.filter_shape();
        match groups {
            1 => PackedInt8::bytes(depth, out),
            _ => 4 * conv.filter_len() as u64,
        }
    }
}

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
    let whole = chain.by_rows();
    let store = Finished::new(isa, n, chain, y);
    match &filters.packed {
        Packed::Dense(packed, zeros) => {
            let zero = x_zero.wrapping_add(x.raised_by());
            let fill = |row: usize, to: &mut [u8]| gather(conv, &x, zero as u8, row, to);
            multiply_rows(isa, threads, m, |_| zero, fill, packed, zeros, whole, store);
        }
        Packed::Depthwise(taps) => {
            let width = conv.window().axes[2].output;
            let lines = m / width;
            // Lines of at least some thousand values make a task.
            let together = (8192 / (width * n)).max(1);
            threads.run(lines.div_ceil(together), |task| {
                let mut sums = vec![0.0; width * n];
                for line in task * together..lines.min((task + 1) * together) {
                    isa.run(Depthwise {
                        conv,
                        line,
                        x: &x,
                        x_zero,
                        taps,
                        y: &mut sums,
                    });
                    // SAFETY: each line is one task's.
                    unsafe { store.store(line * width, 0, n, &mut sums) };
                }
            });
        }
    }
}

/// The values under one window, place by place, all channels of each.
fn gather(conv: &Conv, x: &Int8<'_>, padding: u8, row: usize, to: &mut [u8]) {
    let [a, b, c] = &conv.window().axes;
    let (rest, oc) = (row / c.output, row % c.output);
    let (rest, ob) = (rest / b.output, rest % b.output);
    let (image, oa) = (rest / a.output, rest % a.output);
    let input = conv.window().input_len();
    let channels = conv.input_len() / (input * conv.batch());
    let place = |axis: &Axis, o: usize, k: usize| {
        let at = (o * axis.stride + k * axis.dilation).wrapping_sub(axis.begin);
        (at < axis.input).then_some(at)
    };
    let mut lines = to.chunks_exact_mut(c.kernel * channels);
    // Neighbours in the window are neighbours in memory, unless they are spread.
    let (first, last) = c.inside(oc);
    for ka in 0..a.kernel {
        let ia = place(a, oa, ka);
        for kb in 0..b.kernel {
            let at = ia.and_then(|ia| Some((image * a.input + ia) * b.input + place(b, ob, kb)?));
            let Some(to) = lines.next() else { return };
            let Some(at) = at.filter(|_| first < last) else {
                to.fill(padding);
                continue;
            };
            let start = (at * c.input + oc * c.stride + first * c.dilation - c.begin) * channels;
            to[..first * channels].fill(padding);
            to[last * channels..].fill(padding);
            let inner = &mut to[first * channels..last * channels];
            if c.dilation == 1 {
                x.raise(start..start + inner.len(), inner);
            } else {
                for (i, to) in inner.chunks_exact_mut(channels).enumerate() {
                    let start = start + i * c.dilation * channels;
                    x.raise(start..start + channels, to);
                }
            }
        }
    }
}
