//! Sliding windows over up to three spatial axes: the geometry that convolution and pooling share.

/// Why a convolution or pooling geometry was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Not one, two or three spatial axes.
    #[error("{0} spatial axes: 1, 2 or 3 are supported")]
    Rank(usize),
    /// A per-axis list has another length than the input's list of spatial sizes.
    #[error("{what} has {found} entries for {expected} spatial axes")]
    Length {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The number of spatial axes.
        expected: usize,
    },
    /// A size that must be at least one is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// Channels do not divide into the groups.
    #[error("{channels} {what} do not divide into {groups} groups")]
    Groups {
        /// Which channels.
        what: &'static str,
        /// How many.
        channels: usize,
        /// The number of groups.
        groups: usize,
    },
    /// The dilated window is larger than the padded input.
    #[error(
        "window of {window} is larger than the padded input of {padded} on spatial axis {axis}"
    )]
    Window {
        /// Which spatial axis.
        axis: usize,
        /// Extent of the dilated window.
        window: usize,
        /// Extent of the padded input.
        padded: usize,
    },
    /// A padding reaches beyond the window, so that a window could lie wholly in the padding.
    #[error("padding {pad} is not smaller than the window of {window} on spatial axis {axis}")]
    Padding {
        /// Which spatial axis.
        axis: usize,
        /// The padding.
        pad: usize,
        /// Extent of the dilated window.
        window: usize,
    },
    /// A size does not fit the address space.
    #[error("sizes overflow")]
    Overflow,
}

/// Number of axes every geometry is widened to, by leading axes of size 1.
pub(crate) const AXES: usize = 3;

/// One spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) output: usize,
}

impl Axis {
    const UNIT: Axis = Axis {
        input: 1,
        kernel: 1,
        stride: 1,
        dilation: 1,
        begin: 0,
        end: 0,
        output: 1,
    };

    /// Kernel positions `first..last` of the window at output `o` that lie inside the input.
    pub(crate) fn inside(&self, o: usize) -> (usize, usize) {
        let start = o * self.stride;
        let first = self.begin.saturating_sub(start).div_ceil(self.dilation);
        let reach = (self.begin + self.input).saturating_sub(start);
        let last = reach.div_ceil(self.dilation).min(self.kernel);
        (first.min(last), last)
    }

    /// Positions that the windows reach over, and the padded input at least.
    pub(crate) fn span(&self) -> usize {
        let padded = self.begin + self.input + self.end;
        padded.max((self.output - 1) * self.stride + self.extent())
    }

    /// Extent of the dilated window.
    pub(crate) fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }
}

/// The three axes, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) axes: [Axis; AXES],
    pub(crate) rank: usize,
}

/// What a window is built from; every list has one entry for each spatial axis, outermost first.
pub(crate) struct WindowSpec<'a> {
    pub(crate) input: &'a [usize],
    pub(crate) kernel: &'a [usize],
    pub(crate) strides: &'a [usize],
    pub(crate) dilations: &'a [usize],
    pub(crate) pads_begin: &'a [usize],
    pub(crate) pads_end: &'a [usize],
    pub(crate) ceil_mode: bool,
}

impl Window {
    pub(crate) fn new(spec: &WindowSpec<'_>) -> Result<Window, ShapeError> {
        let rank = spec.input.len();
        if rank == 0 || rank > AXES {
            return Err(ShapeError::Rank(rank));
        }
        for (what, list) in [
            ("kernel shape", spec.kernel),
            ("strides", spec.strides),
            ("dilations", spec.dilations),
            ("pads at the beginning", spec.pads_begin),
            ("pads at the end", spec.pads_end),
        ] {
            if list.len() != rank {
                return Err(ShapeError::Length {
                    what,
                    found: list.len(),
                    expected: rank,
                });
            }
        }
        let mut axes = [Axis::UNIT; AXES];
        for i in 0..rank {
            axes[AXES - rank + i] = axis(spec, i)?;
        }
        let window = Window { axes, rank };
        product(axes.map(|a| a.input))?;
        product(axes.map(|a| a.output))?;
        product(axes.map(|a| a.kernel))?;
        Ok(window)
    }

    /// Values of some planes with their padding written out.
    pub(crate) fn padded_len(&self, planes: usize) -> Result<usize, ShapeError> {
        let [a, b, c] = self.axes.map(|a| a.span().saturating_add(a.stride));
        product([planes, a, b, c])
    }

    /// The same windows with fewer axes, where two neighbours may be taken for one: every output
    /// sees exactly the input of the same place.
    pub(crate) fn flattened(mut self) -> Window {
        // A single window has no stride, so the sizes have to tell.
        let plain = |a: &Axis| {
            a.kernel == 1 && a.stride == 1 && a.output == a.input && a.begin == 0 && a.end == 0
        };
        for outer in [1, 0] {
            let [before, after] = [self.axes[outer], self.axes[2]];
            if !plain(&before) || !plain(&after) {
                break;
            }
            let size = before.input * after.input;
            self.axes[2] = Axis {
                input: size,
                output: size,
                ..Axis::UNIT
            };
            self.axes[outer] = Axis::UNIT;
        }
        self
    }

    pub(crate) fn input_len(&self) -> usize {
        self.axes.iter().map(|a| a.input).product()
    }

    pub(crate) fn output_len(&self) -> usize {
        self.axes.iter().map(|a| a.output).product()
    }

    pub(crate) fn kernel_len(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }

    /// Spatial sizes of the output, outermost first, as many as the input has.
    pub(crate) fn output_shape(&self) -> Vec<usize> {
        self.axes[AXES - self.rank..]
            .iter()
            .map(|a| a.output)
            .collect()
    }
}

/// The product of all factors, or an error where it overflows.
pub(crate) fn product<const N: usize>(factors: [usize; N]) -> Result<usize, ShapeError> {
    factors
        .into_iter()
        .try_fold(1usize, usize::checked_mul)
        .filter(|&n| n <= isize::MAX as usize / 8)
        .ok_or(ShapeError::Overflow)
}

fn axis(spec: &WindowSpec<'_>, i: usize) -> Result<Axis, ShapeError> {
    let (input, kernel) = (spec.input[i], spec.kernel[i]);
    let (stride, dilation) = (spec.strides[i], spec.dilations[i]);
    let (begin, end) = (spec.pads_begin[i], spec.pads_end[i]);
    for (what, value) in [
        ("input size", input),
        ("kernel size", kernel),
        ("stride", stride),
        ("dilation", dilation),
    ] {
        if value == 0 {
            return Err(ShapeError::Zero(what));
        }
    }
    let window = (kernel - 1)
        .checked_mul(dilation)
        .and_then(|n| n.checked_add(1))
        .ok_or(ShapeError::Overflow)?;
    let padded = input
        .checked_add(begin)
        .and_then(|n| n.checked_add(end))
        .ok_or(ShapeError::Overflow)?;
    let steps = padded.checked_sub(window).ok_or(ShapeError::Window {
        axis: i,
        window,
        padded,
    })?;
    let mut output = steps / stride + 1;
    if spec.ceil_mode && !steps.is_multiple_of(stride) {
        // One more, partial, window, unless it would start in the padding at the end.
        let start = output.checked_mul(stride).ok_or(ShapeError::Overflow)?;
        if start < input + begin {
            output += 1;
        }
    }
    Ok(Axis {
        input,
        kernel,
        // Steps that are never taken must not size anything.
        stride: if output == 1 { 1 } else { stride },
        dilation: if kernel == 1 { 1 } else { dilation },
        begin,
        end,
        output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
        pads: (usize, usize),
        ceil: bool,
    ) -> Result<Axis, ShapeError> {
        Window::new(&WindowSpec {
            input: &[input],
            kernel: &[kernel],
            strides: &[stride],
            dilations: &[dilation],
            pads_begin: &[pads.0],
            pads_end: &[pads.1],
            ceil_mode: ceil,
        })
        .map(|w| w.axes[2])
    }

    #[test]
    fn output_sizes_follow_the_formula() {
        assert_eq!(one(5, 3, 1, 1, (1, 1), false).unwrap().output, 5);
        assert_eq!(one(224, 7, 2, 1, (3, 3), false).unwrap().output, 112);
        assert_eq!(one(5, 2, 2, 1, (0, 0), false).unwrap().output, 2);
        assert_eq!(one(5, 2, 2, 1, (0, 0), true).unwrap().output, 3);
        // The extra window would lie in the padding only.
        assert_eq!(one(2, 1, 3, 1, (0, 3), true).unwrap().output, 2);
        assert_eq!(one(7, 3, 1, 2, (0, 0), false).unwrap().output, 3);
    }

    #[test]
    fn windows_know_which_positions_lie_inside() {
        let a = one(5, 3, 2, 1, (1, 1), false).unwrap();
        assert_eq!(a.output, 3);
        assert_eq!(
            [a.inside(0), a.inside(1), a.inside(2)],
            [(1, 3), (0, 3), (0, 2)]
        );
        let d = one(4, 3, 1, 2, (2, 2), false).unwrap();
        assert_eq!(
            [d.inside(0), d.inside(1), d.inside(2), d.inside(3)],
            [(1, 3), (1, 3), (0, 2), (0, 2)]
        );
        // Padding wider than the window: nothing inside.
        let w = one(1, 1, 1, 1, (2, 2), false).unwrap();
        assert_eq!(w.inside(0).0, w.inside(0).1);
        assert_eq!(w.inside(2), (0, 1));
        assert_eq!(w.inside(4).0, w.inside(4).1);
    }

    #[test]
    fn hostile_geometries_are_refused() {
        assert_eq!(
            one(0, 1, 1, 1, (0, 0), false),
            Err(ShapeError::Zero("input size"))
        );
        assert_eq!(
            one(3, 1, 0, 1, (0, 0), false),
            Err(ShapeError::Zero("stride"))
        );
        assert!(matches!(
            one(3, 5, 1, 1, (0, 0), false),
            Err(ShapeError::Window { .. })
        ));
        assert_eq!(
            one(3, usize::MAX, 1, 3, (0, 0), false),
            Err(ShapeError::Overflow)
        );
        assert_eq!(
            one(3, 1, 1, 1, (usize::MAX, 0), false),
            Err(ShapeError::Overflow)
        );
        assert_eq!(
            one(3, 1, 1, 1, (usize::MAX / 2, 0), false),
            Err(ShapeError::Overflow)
        );
    }
}
