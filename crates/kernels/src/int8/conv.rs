//! Convolution of 8-bit integers in 32 bits.

use super::{Int8, Left, PackedInt8, Sums, ZeroPoints, in_a_row, multiply_rows};
use crate::conv::Conv;
use crate::isa::Isa;
use crate::threads::{Slots, Threads};
use crate::transpose::transpose;
use crate::window::Axis;

/// The filters of an integer convolution, arranged once.
#[derive(Clone, Debug)]
pub struct FiltersInt8 {
    groups: Vec<PackedInt8>,
}

impl FiltersInt8 {
    /// Packs filters in row-major order: output channels × channels of a group × spatial sizes.
    ///
    /// # Panics
    /// If `filters` has another length than [`Conv::filter_len`].
    #[must_use]
    pub fn pack(conv: &Conv, filters: Int8<'_>) -> FiltersInt8 {
        assert_eq!(
            filters.len(),
            conv.filter_len(),
            "pack: number of filter values"
        );
        let [groups, out, depth] = conv.filter_shape();
        let group = |g: usize| {
            let range = g * out * depth..(g + 1) * out * depth;
            let values = match filters {
                Int8::Unsigned(v) => Int8::Unsigned(&v[range]),
                Int8::Signed(v) => Int8::Signed(&v[range]),
            };
            PackedInt8::pack(values, depth, out, true)
        };
        FiltersInt8 {
            groups: (0..groups).map(group).collect(),
        }
    }
}

/// Windows that are gathered together.
const BLOCK: usize = 384;

/// Convolution of `x`, `[batch, channels, …]`, less its zero point, by filters less theirs (one, or
/// one for each output channel), into `y`, `[batch, output channels, …]`; sums wrap.
///
/// # Panics
/// If a slice has another length than the geometry says, or `filters` were packed for another.
#[allow(clippy::too_many_arguments, reason = "as gemm_int8")]
pub fn conv_int8(
    isa: Isa,
    threads: &Threads,
    conv: &Conv,
    x: Int8<'_>,
    x_zero: i32,
    filters: &FiltersInt8,
    filter_zero: ZeroPoints<'_>,
    y: &mut [i32],
) {
    let [groups, out, depth] = conv.filter_shape();
    assert_eq!(x.len(), conv.input_len(), "conv_int8: input length");
    assert_eq!(y.len(), conv.output_len(), "conv_int8: output length");
    assert!(
        filters.groups.len() == groups
            && filters
                .groups
                .iter()
                .all(|g| (g.k(), g.n()) == (depth, out)),
        "conv_int8: filters of another geometry"
    );
    assert!(
        filter_zero.len() == 1 || filter_zero.len() == conv.out_channels(),
        "conv_int8: zero points of the filters"
    );
    let zero = x_zero.wrapping_add(x.raised_by());
    // A zero point outside the values of x (which no type of x allows) would not fit a byte.
    let padding = zero as u8;
    let outputs = conv.window().output_len();
    let input = conv.window().input_len();
    let channels = depth / conv.window().kernel_len();
    let mut rows = vec![0; outputs * out];
    let stride = depth.next_multiple_of(4);
    let mut gathered = Vec::new();
    for (index, y) in y.chunks_exact_mut(out * outputs).enumerate() {
        let group = index % groups;
        let zeros = match filter_zero.len() {
            1 => filter_zero,
            _ => &filter_zero[group * out..(group + 1) * out],
        };
        let start = index * channels * input;
        let b = &filters.groups[group];
        for (block, rows) in rows.chunks_mut(BLOCK * out).enumerate() {
            let m = rows.len() / out;
            gathered.resize(m * stride, 0);
            threads.chunks(&mut gathered, stride, |row, to| {
                gather(
                    conv,
                    &x,
                    start,
                    block * BLOCK + row,
                    padding,
                    &mut to[..depth],
                );
            });
            let left = Left {
                values: &gathered,
                starts: &in_a_row(stride),
                runs: &[0],
                zeros: &[zero],
                weight: stride,
            };
            let store = Sums {
                out: Slots::of(rows),
                n: out,
            };
            multiply_rows(isa, threads, m, &left, b, zeros, &store);
        }
        transpose(threads, 1, outputs, out, &rows, y);
    }
}

/// The values under one window, channel by channel.
fn gather(conv: &Conv, x: &Int8<'_>, start: usize, row: usize, padding: u8, to: &mut [u8]) {
    let [a, b, c] = &conv.window().axes;
    let (rest, oc) = (row / c.output, row % c.output);
    let (oa, ob) = (rest / b.output, rest % b.output);
    let place = |axis: &Axis, o: usize, k: usize| {
        let at = (o * axis.stride + k * axis.dilation).wrapping_sub(axis.begin);
        (at < axis.input).then_some(at)
    };
    let kernel = conv.window().kernel_len();
    for (channel, to) in to.chunks_exact_mut(kernel).enumerate() {
        let plane = start + channel * conv.window().input_len();
        let mut taps = to.iter_mut();
        for ka in 0..a.kernel {
            let ia = place(a, oa, ka);
            for kb in 0..b.kernel {
                let line = ia.and_then(|ia| Some((ia * b.input + place(b, ob, kb)?) * c.input));
                for (kc, to) in taps.by_ref().take(c.kernel).enumerate() {
                    *to = match (line, place(c, oc, kc)) {
                        (Some(line), Some(ic)) => x.raised(plane + line + ic),
                        _ => padding,
                    };
                }
            }
        }
    }
}
