//! Convolution over one to three spatial axes, as a matrix product that never stores its
//! unfolded input: with the channels first ([`conv`]), and with the channels last ([`conv_last`]),
//! which is faster.

mod depthwise;
mod depthwise_last;
mod last;
mod unfold;
mod windows;

use crate::gemm::BLOCK_K;
use crate::isa::{Isa, Kernel};
use crate::math::canonical;
use crate::window::{ShapeError, Window, WindowSpec, product};
pub use last::{
    Channels, FiltersLast, conv_last, conv_last_gated, conv_last_gated_scratch, conv_last_scratch,
    conv_last_takes_gate,
};

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
    output_shape: Vec<usize>,
    padded_len: usize,
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
        let padded_len = window.padded_len(spec.in_channels / spec.groups)?;
        product([spec.batch, spec.in_channels, window.input_len()])?;
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
            window: window.flattened(),
            output_shape: window.output_shape(),
            padded_len,
        })
    }

    /// Spatial sizes of the output, outermost first.
    #[must_use]
    pub fn output_shape(&self) -> Vec<usize> {
        self.output_shape.clone()
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

    /// Bound on the values of one group's input with its padding written out, which [`conv`]
    /// holds in memory while it works on that group. Padding costs its author nothing: who takes
    /// geometries from strangers bounds this.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        self.padded_len
    }

    /// The geometry of one of `count` equal shares of the batch.
    #[must_use]
    pub fn share(&self, count: usize) -> Option<Conv> {
        let batch = self.batch.checked_div(count)?;
        (batch * count == self.batch).then(|| Conv {
            batch,
            ..self.clone()
        })
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

    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// Groups, output channels of a group, products in one output.
    pub(crate) fn filter_shape(&self) -> [usize; 3] {
        [self.groups, self.group_out, self.depth()]
    }

    /// Whether the sums are too small to gain from tiles: one channel in and few out, in a single
    /// block of k.
    fn is_depthwise(&self) -> bool {
        self.group_in == 1 && self.group_out <= 4 && self.depth() <= BLOCK_K
    }
}

/// The filters of a convolution.
#[derive(Clone)]
pub struct PackedFilters {
    /// Groups, output channels of a group, products in one output.
    shape: [usize; 3],
    values: Vec<f32>,
}

impl PackedFilters {
    /// Takes filters in row-major order: output channels × channels of a group × spatial sizes.
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
            shape: conv.filter_shape(),
            values: filters.to_vec(),
        }
    }
}

impl std::fmt::Debug for PackedFilters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [groups, channels, depth] = self.shape;
        write!(f, "PackedFilters({groups} × {channels} × {depth})")
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
        filters.shape,
        conv.filter_shape(),
        "conv: filters of another geometry"
    );
    if let Some(bias) = bias {
        assert_eq!(bias.len(), conv.out_channels(), "conv: bias length");
    }
    if conv.is_depthwise() {
        isa.run(depthwise::Depthwise {
            window: &conv.window,
            multiplier: conv.group_out,
            x,
            filters: &filters.values,
            y,
        });
    } else {
        let inputs = x.chunks_exact(conv.group_in * conv.window.input_len());
        let outputs = y.chunks_exact_mut(conv.group_out * conv.window.output_len());
        let groups = filters.values.chunks_exact(conv.group_out * conv.depth());
        for ((x, y), filters) in inputs.zip(outputs).zip(groups.cycle()) {
            unfold::convolve(isa, &conv.window, conv.depth(), x, filters, y);
        }
    }
    if let Some(bias) = bias {
        let plane = conv.window.output_len();
        isa.run(AddBias { bias, plane, y });
    }
}

/// Adds to each plane its value.
struct AddBias<'a> {
    bias: &'a [f32],
    plane: usize,
    y: &'a mut [f32],
}

impl Kernel for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, &bias) in self
            .y
            .chunks_exact_mut(self.plane)
            .zip(self.bias.iter().cycle())
        {
            for y in y {
                *y = canonical(*y + bias);
            }
        }
    }
}
