//! Convolution over one to three spatial axes, as a matrix product that never stores its
//! unfolded input.

use crate::isa::Isa;
use crate::math::canonical;
use crate::window::{ShapeError, Window, WindowSpec, product};

/// What a convolution geometry is built from. Every list has one entry for each spatial axis,
/// outermost first (`[height, width]`).
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec<'a> {
    /// Number of inputs.
    pub batch: usize,
    /// Channels of the input, of all groups.
    pub in_channels: usize,
    /// Channels of the output, of all groups.
    pub out_channels: usize,
    /// Number of groups; each sees its share of the input channels only.
    pub groups: usize,
    /// Spatial sizes of the input.
    pub input: &'a [usize],
    /// Spatial sizes of the filters.
    pub kernel: &'a [usize],
    /// Steps between windows.
    pub strides: &'a [usize],
    /// Steps between the positions of one window.
    pub dilations: &'a [usize],
    /// Zeros added before each axis.
    pub pads_begin: &'a [usize],
    /// Zeros added after each axis.
    pub pads_end: &'a [usize],
}

/// A checked convolution geometry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    batch: usize,
    groups: usize,
    /// Channels of one group.
    group_in: usize,
    group_out: usize,
    window: Window,
}

impl Conv {
    /// Checks a geometry.
    ///
    /// # Errors
    /// Where sizes are zero or overflow, lists do not match, channels do not divide into the
    /// groups, or the window exceeds the padded input.
    pub fn new(spec: &ConvSpec<'_>) -> Result<Conv, ShapeError> {
        for (what, channels) in [
            ("input channels", spec.in_channels),
            ("output channels", spec.out_channels),
        ] {
            if channels == 0 {
                return Err(ShapeError::Zero(what));
            }
            if spec.groups == 0 {
                return Err(ShapeError::Zero("number of groups"));
            }
            if !channels.is_multiple_of(spec.groups) {
                return Err(ShapeError::Groups {
                    what,
                    channels,
                    groups: spec.groups,
                });
            }
        }
        let window = Window::new(&WindowSpec {
            input: spec.input,
            kernel: spec.kernel,
            strides: spec.strides,
            dilations: spec.dilations,
            pads_begin: spec.pads_begin,
            pads_end: spec.pads_end,
            ceil_mode: false,
        })?;
        let padded = window.axes.map(|a| a.begin + a.input + a.end);
        product([
            spec.batch,
            spec.in_channels,
            padded[0],
            padded[1],
            padded[2],
        ])?;
        product([spec.batch, spec.out_channels, window.output_len()])?;
        product([
            spec.out_channels,
            spec.in_channels / spec.groups,
            window.kernel_len(),
        ])?;
        Ok(Conv {
            batch: spec.batch,
            groups: spec.groups,
            group_in: spec.in_channels / spec.groups,
            group_out: spec.out_channels / spec.groups,
            window,
        })
    }

    /// Spatial sizes of the output, outermost first.
    #[must_use]
    pub fn output_shape(&self) -> Vec<usize> {
        self.window.output_shape()
    }

    /// Number of input values: batch × channels × spatial sizes.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.batch * self.groups * self.group_in * self.window.input_len()
    }

    /// Number of output values: batch × channels × spatial sizes of the output.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.batch * self.groups * self.group_out * self.window.output_len()
    }

    /// Number of filter values: output channels × channels of a group × spatial sizes.
    #[must_use]
    pub fn filter_len(&self) -> usize {
        self.groups * self.group_out * self.depth()
    }

    /// Number of output channels, of all groups.
    #[must_use]
    pub fn out_channels(&self) -> usize {
        self.groups * self.group_out
    }

    /// Products in one output: channels of a group × positions of the window.
    fn depth(&self) -> usize {
        self.group_in * self.window.kernel_len()
    }
}

/// The filters of a convolution, arranged once for the kernels.
#[derive(Clone, Debug)]
pub struct PackedFilters {
    filters: Vec<f32>,
}

impl PackedFilters {
    /// Packs filters in row-major order: output channels × channels of a group × spatial sizes.
    ///
    /// # Panics
    /// If `filters` has another length than [`Conv::filter_len`].
    #[must_use]
    pub fn pack(conv: &Conv, filters: &[f32]) -> PackedFilters {
        assert_eq!(
            filters.len(),
            conv.filter_len(),
            "pack: number of filter values"
        );
        PackedFilters {
            filters: filters.to_vec(),
        }
    }
}

/// Convolution (cross-correlation, as in machine learning) of `x`, shape batch × input channels ×
/// spatial sizes, into `y`, batch × output channels × spatial sizes of the output.
///
/// Each output is a matrix product in the order of [`gemm`](crate::gemm) with k running over
/// (channel, kernel positions row-major); a position in the padding contributes a fused
/// multiply-add with +0.0. The bias is added last.
///
/// # Panics
/// If a slice has another length than the geometry says, or `filters` were packed for another.
pub fn conv(
    isa: Isa,
    conv: &Conv,
    x: &[f32],
    filters: &PackedFilters,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), conv.input_len(), "conv: input length");
    assert_eq!(y.len(), conv.output_len(), "conv: output length");
    assert_eq!(
        filters.filters.len(),
        conv.filter_len(),
        "conv: filters of another geometry"
    );
    if let Some(bias) = bias {
        assert_eq!(bias.len(), conv.out_channels(), "conv: bias length");
    }
    let _ = isa;
    portable(conv, x, filters, bias, y);
}

/// The definition of the convolution.
fn portable(conv: &Conv, x: &[f32], filters: &PackedFilters, bias: Option<&[f32]>, y: &mut [f32]) {
    let (channels, depth) = (conv.out_channels(), conv.depth());
    let (plane, out_plane) = (conv.window.input_len(), conv.window.output_len());
    for (image, out) in y.chunks_exact_mut(channels * out_plane).enumerate() {
        for (channel, out) in out.chunks_exact_mut(out_plane).enumerate() {
            let group = channel / conv.group_out;
            let first = (image * conv.groups + group) * conv.group_in;
            let input = &x[first * plane..(first + conv.group_in) * plane];
            let filter = &filters.filters[channel * depth..(channel + 1) * depth];
            for (position, out) in out.iter_mut().enumerate() {
                let sum = crate::gemm::product(filter, |k| tap(conv, input, position, k));
                *out = canonical(match bias {
                    Some(bias) => sum + bias[channel],
                    None => sum,
                });
            }
        }
    }
}

/// The input value under window position `k` at output `position`: +0.0 in the padding.
fn tap(conv: &Conv, input: &[f32], position: usize, k: usize) -> f32 {
    let [a, b, c] = &conv.window.axes;
    let (oc, ob, oa) = (
        position % c.output,
        position / c.output % b.output,
        position / c.output / b.output,
    );
    let (kc, kb, ka) = (
        k % c.kernel,
        k / c.kernel % b.kernel,
        k / c.kernel / b.kernel % a.kernel,
    );
    let channel = k / conv.window.kernel_len();
    let ia = (oa * a.stride + ka * a.dilation).wrapping_sub(a.begin);
    let ib = (ob * b.stride + kb * b.dilation).wrapping_sub(b.begin);
    let ic = (oc * c.stride + kc * c.dilation).wrapping_sub(c.begin);
    if ia < a.input && ib < b.input && ic < c.input {
        input[((channel * a.input + ia) * b.input + ib) * c.input + ic]
    } else {
        0.0
    }
}
