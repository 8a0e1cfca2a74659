//! Convolution of 8-bit integers with the channels last.

use super::depthwise;
use super::input::{Input, SLACK, reach, run};
use super::pack::QUAD;
use super::walk;
#[cfg(target_arch = "x86_64")]
use super::winograd::{self, Winograd};
use super::{Finished, Int8, Left, Output, PackedInt8, multiply_rows};
use crate::chain::Chain;
use crate::conv::Conv;
use crate::isa::Isa;
use crate::threads::Threads;

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
    /// For as many groups as there are channels.
    Depthwise(depthwise::Filters),
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
            Packed::Depthwise(depthwise::Filters::pack(isa, conv, filters, zeros))
        } else {
            return None;
        };
        Some(FiltersInt8Last { shape, run, packed })
    }

    /// Bytes that packed filters occupy, at most.
    #[must_use]
    pub fn bytes(isa: Isa, conv: &Conv) -> u64 {
        let [groups, out, depth] = conv.filter_shape();
        if let Some([bytes, _]) = of_winograd(isa, conv) {
            return bytes;
        }
        match groups {
            1 => PackedInt8::bytes_of_runs(depth, out, run(conv)),
            _ => depthwise::Filters::bytes(conv),
        }
    }
}

/// Convolution of `x`, `[batch, …, channels]`, less its zero point, by filters less theirs, into `y`,
/// `[batch, …, output channels]`. The sums, which wrap, become f32; a chain follows whose rows are the
/// outputs of all channels at one place.
///
/// # Panics
/// If a slice has another length than the geometry says, `filters` were packed for another, the chain does not fit, or
/// `x_zero` is no value of the type of `x`.
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
    let zero = u8::try_from(x_zero.saturating_add(x.raised_by()))
        .expect("conv_int8: the zero point is no value of the input's type");
    match &filters.packed {
        Packed::Dense(packed, zeros) => {
            assert_eq!(
                filters.run,
                run(conv),
                "conv_int8: filters of another dilation"
            );
            let mut copy = Vec::new();
            let input = Input::of(threads, conv, &x, zero, &mut copy);
            let runs = input.runs(conv.window());
            let left = Left {
                values: input.values,
                starts: &|first, count| input.starts(conv.window(), first, count),
                runs: &runs,
                zeros: &[zero.into()],
                weight: weight(conv),
            };
            let out = Finished::of_sums(isa, n, chain, y);
            multiply_rows(isa, threads, m, &left, packed, zeros, &out);
        }
        #[cfg(target_arch = "x86_64")]
        Packed::Winograd(filters) => {
            let out = Finished::of_sums(isa, n, chain, y);
            filters.conv(isa, threads, conv, (x, zero), &out);
        }
        Packed::Depthwise(filters) => filters.conv(isa, threads, conv, (x, zero), chain, y),
    }
}

/// Bytes of the input that a place of the output has for itself.
fn weight(conv: &Conv) -> usize {
    let [_, b, c] = &conv.window().axes;
    let channels = conv.input_len() / (conv.window().input_len() * conv.batch());
    channels * b.stride * c.stride
}

/// Bytes that filters occupy, and that a thread holds, where windows are taken in fewer multiplications.
#[cfg(target_arch = "x86_64")]
fn of_winograd(isa: Isa, conv: &Conv) -> Option<[u64; 2]> {
    winograd::is_worth(isa, conv).then(|| [winograd::bytes(conv), winograd::scratch(conv)])
}
#[cfg(not(target_arch = "x86_64"))]
fn of_winograd(_: Isa, _: &Conv) -> Option<[u64; 2]> {
    None
}

/// Bytes that [`conv_int8_last`] holds beside its operands, and each thread besides, at most.
#[must_use]
pub fn conv_int8_last_scratch(isa: Isa, conv: &Conv) -> (u64, u64) {
    let each = match (of_winograd(isa, conv), conv.filter_shape()) {
        (Some([_, each]), _) => each,
        (None, [1, _, depth]) => {
            let steps = depth / run(conv) * run(conv).div_ceil(QUAD);
            walk::scratch(
                isa,
                conv.output_len() / conv.out_channels(),
                weight(conv),
                steps,
            )
        }
        _ => 0,
    };
    let channels = conv.input_len() / conv.window().input_len();
    let places = conv.window().axes.iter().map(reach);
    let padded = places.fold(channels as u64, |n, len| n.saturating_mul(len as u64));
    (padded.saturating_add(SLACK as u64), each)
}
