//! Convolution into channels-last layout: every window is a row of a matrix product.

use super::Conv;
use super::depthwise_last::depthwise;
use super::windows::{Gated, Padded, Plain, Sheet};
use crate::chain::Chain;
use crate::gemm::{BLOCK_K, PackedB, rows_by_panels};
use crate::isa::Isa;
use crate::threads::Threads;

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

/// Values before those of filters, at most, so that these begin a line of the cache.
const SPARE: usize = 15;

#[derive(Clone, Debug)]
enum Packed {
    Dense(PackedB),
    /// Tap after tap, each a value for every channel; they begin at this value, and so at the beginning of a line of the
    /// cache.
    Depthwise(Vec<f32>, usize),
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
            let mut taps: Vec<f32> = Vec::with_capacity(filters.len() + SPARE);
            let start = taps.as_ptr().align_offset(64).min(SPARE);
            taps.resize(start, 0.0);
            for tap in 0..depth {
                taps.extend(filters.iter().skip(tap).step_by(depth));
            }
            Packed::Depthwise(taps, start)
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
            (conv.filter_len() + SPARE) as u64 * size_of::<f32>() as u64
        }
    }
}

/// Values that each thread keeps in [`conv_last`] besides its operands, at most: parts of the input with their padding, if
/// there is any.
#[must_use]
pub fn conv_last_scratch(conv: &Conv, input: Channels) -> usize {
    if conv.groups > 1 || Sheet::is_plain(conv) {
        0
    } else {
        // That of the portable set is the largest.
        Sheet::of(Isa::PORTABLE, conv, input).scratch(conv)
    }
}

/// Whether [`conv_last_gated`] knows such convolutions: those of single places, all channels in one group.
#[must_use]
pub fn conv_last_takes_gate(conv: &Conv) -> bool {
    Gated::serves(conv)
}

/// Values that each thread keeps in [`conv_last_gated`] besides its operands, at most.
#[must_use]
pub fn conv_last_gated_scratch(conv: &Conv) -> usize {
    Gated::scratch(conv)
}

/// [`conv_last`] of an input with its channels last, each channel of each image multiplied first by a value of its own, as a
/// Squeeze-and-Excitation block does. `gate` has the shape batch × input channels.
///
/// # Panics
/// As [`conv_last`], or if [`conv_last_takes_gate`] says no, or the gate has another length.
#[allow(clippy::too_many_arguments, reason = "as conv_last")]
pub fn conv_last_gated(
    isa: Isa,
    threads: &Threads,
    conv: &Conv,
    x: &[f32],
    gate: &[f32],
    filters: &FiltersLast,
    chain: &Chain<'_>,
    y: &mut [f32],
) {
    let rows = check(conv, x, filters, chain, y);
    assert_eq!(gate.len(), conv.batch * conv.group_in, "conv: gate length");
    let Packed::Dense(packed) = &filters.packed else {
        panic!("conv: a gate before depthwise filters");
    };
    assert!(Gated::serves(conv), "conv: a gate before windows");
    let places = Gated { isa, conv, x, gate };
    rows_by_panels(isa, threads, rows, &places, packed, chain, y);
}

/// Checks the operands of a convolution; gives the number of its places.
fn check(conv: &Conv, x: &[f32], filters: &FiltersLast, chain: &Chain<'_>, y: &[f32]) -> usize {
    assert_eq!(x.len(), conv.input_len(), "conv: input length");
    assert_eq!(y.len(), conv.output_len(), "conv: output length");
    assert_eq!(
        filters.shape,
        conv.filter_shape(),
        "conv: filters of another geometry"
    );
    let rows = conv.batch * conv.window.output_len();
    chain.check("conv", rows, conv.out_channels());
    rows
}

/// [`conv`](crate::conv) into channels-last layout, from either; a chain of elementwise operations
/// follows, whose rows are the outputs of all channels at one place. The bits are those of `conv`
/// and the operations one by one.
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
    y: &mut [f32],
) {
    let rows = check(conv, x, filters, chain, y);
    match &filters.packed {
        Packed::Dense(packed) => {
            if Sheet::is_plain(conv) {
                let windows = Plain::of(conv, input, x);
                rows_by_panels(isa, threads, rows, &windows, packed, chain, y);
            } else {
                let windows = Padded::of(isa, conv, input, x);
                rows_by_panels(isa, threads, rows, &windows, packed, chain, y);
            }
        }
        Packed::Depthwise(taps, start) => {
            let taps = &taps[*start..];
            assert_eq!(input, Channels::Last, "conv: depthwise from channels last");
            depthwise(isa, threads, conv, x, taps, chain, y);
        }
    }
}
