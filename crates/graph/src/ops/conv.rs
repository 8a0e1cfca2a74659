//! Convolution, and the window geometry that it shares with pooling.

use lemma_kernels as kernels;
use lemma_kernels::{ConvSpec, FiltersLast, PackedFilters};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator, Prepared};
use crate::ops::expect;
use crate::tensor::Tensor;

/// How much is added around the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// As many positions before and after each axis.
    Explicit {
        before: Vec<usize>,
        after: Vec<usize>,
    },
    /// As many as make the output as large as the input divided by the stride, rounded up; an odd
    /// one goes to the end (`upper`) or to the beginning.
    Same { upper: bool },
}

/// Windows that slide over the spatial axes. Every list has one entry for each axis.
#[derive(Clone, Debug)]
pub(crate) struct Sliding {
    pub(crate) kernel: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) dilations: Vec<usize>,
    pub(crate) padding: Padding,
}

/// Padding in numbers.
pub(crate) struct Pads {
    pub(crate) before: Vec<usize>,
    pub(crate) after: Vec<usize>,
}

impl Sliding {
    pub(crate) fn attributes(&self, canon: &mut Canon) {
        canon
            .sizes(&self.kernel)
            .sizes(&self.strides)
            .sizes(&self.dilations);
        match &self.padding {
            Padding::Explicit { before, after } => canon.u8(0).sizes(before).sizes(after),
            Padding::Same { upper } => canon.u8(1).flag(*upper),
        };
    }

    /// Extent of the dilated window along an axis.
    fn extent(&self, axis: usize) -> Option<usize> {
        (self.kernel[axis].checked_sub(1)?)
            .checked_mul(self.dilations[axis])?
            .checked_add(1)
    }

    /// The padding for an input of these spatial sizes.
    pub(crate) fn pads(&self, input: &[usize]) -> Result<Pads, OpError> {
        match &self.padding {
            Padding::Explicit { before, after } => Ok(Pads {
                before: before.clone(),
                after: after.clone(),
            }),
            Padding::Same { upper } => {
                let total = (0..input.len())
                    .map(|i| {
                        let steps = input[i].div_ceil(self.strides[i].max(1)).saturating_sub(1);
                        let reach = steps
                            .checked_mul(self.strides[i])?
                            .checked_add(self.extent(i)?)?;
                        Some(reach.saturating_sub(input[i]))
                    })
                    .collect::<Option<Vec<usize>>>()
                    .ok_or_else(|| OpError::shape("sizes overflow"))?;
                let less = total.iter().map(|t| t / 2).collect();
                let more = total.iter().map(|t| t - t / 2).collect();
                Ok(match upper {
                    true => Pads {
                        before: less,
                        after: more,
                    },
                    false => Pads {
                        before: more,
                        after: less,
                    },
                })
            }
        }
    }

    /// The sizes of known spatial axes; those of the others are unknown. A stand-in of a size that
    /// surely fits takes their place, so that one symbolic axis does not hide errors in another.
    pub(crate) fn stand_in(&self, spatial: &[Sym]) -> Result<Vec<usize>, OpError> {
        let size = |(axis, dim): (usize, &Sym)| match dim.known() {
            Some(n) => usize::try_from(n).map_err(|_| OpError::shape("a dimension is negative")),
            None => self
                .extent(axis)
                .ok_or_else(|| OpError::shape("sizes overflow")),
        };
        spatial.iter().enumerate().map(size).collect()
    }

    /// Bytes of `planes` inputs with their padding written out, as the kernels lay them out: an
    /// upper bound.
    pub(crate) fn padded_bytes(&self, planes: usize, input: &[usize], output: &[usize]) -> u64 {
        let Ok(pads) = self.pads(input) else {
            return u64::MAX;
        };
        let span = |axis: usize| {
            let reach = output[axis]
                .saturating_sub(1)
                .saturating_mul(self.strides[axis]);
            let reach = reach.saturating_add(self.extent(axis).unwrap_or(usize::MAX));
            let padded = input[axis]
                .saturating_add(pads.before[axis])
                .saturating_add(pads.after[axis]);
            padded.max(reach).saturating_add(self.strides[axis]) as u64
        };
        let planes = (planes as u64).saturating_mul(size_of::<f32>() as u64);
        (0..input.len()).fold(planes, |bytes, axis| bytes.saturating_mul(span(axis)))
    }

    pub(crate) fn check_rank(&self, spatial: usize) -> Result<(), OpError> {
        let mut lists = vec![
            ("kernel_shape", self.kernel.len()),
            ("strides", self.strides.len()),
            ("dilations", self.dilations.len()),
        ];
        if let Padding::Explicit { before, after } = &self.padding {
            lists.extend([("pads", before.len()), ("pads", after.len())]);
        }
        match lists.iter().find(|(_, len)| *len != spatial) {
            Some((name, len)) => Err(OpError::attribute(
                name,
                format!("{len} entries for {spatial} spatial axes"),
            )),
            None => Ok(()),
        }
    }
}

/// The result's spatial sizes: those that follow from known ones.
pub(crate) fn known_where(spatial: &[Sym], sizes: &[usize]) -> Vec<Sym> {
    spatial
        .iter()
        .zip(sizes)
        .map(|(dim, &size)| dim.known().map_or(Sym::Unknown, |_| Sym::size(size)))
        .collect()
}

/// Convolution over one to three spatial axes. Operands: data `[batch, channels, …]`, filters
/// `[out channels, channels of a group, …]`, optionally a bias for each output channel.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) groups: usize,
    pub(crate) window: Sliding,
}

impl Conv {
    pub(crate) fn geometry(
        &self,
        batch: usize,
        channels: usize,
        spatial: &[usize],
        out: usize,
    ) -> Result<kernels::Conv, OpError> {
        let pads = self.window.pads(spatial)?;
        Ok(kernels::Conv::new(&ConvSpec {
            batch,
            in_channels: channels,
            out_channels: out,
            groups: self.groups,
            input: spatial,
            kernel: &self.window.kernel,
            strides: &self.window.strides,
            dilations: &self.window.dilations,
            pads_begin: &pads.before,
            pads_end: &pads.after,
        })?)
    }

    /// Bytes of packed filters: the output channels of a group are rounded up.
    fn packed_bytes(&self, filters: &[usize]) -> u64 {
        const ROUNDED_TO: u64 = 32;
        let (out, depth) = match filters.split_first() {
            Some((out, depth)) => (*out, depth.iter().product::<usize>() as u64),
            None => (0, 0),
        };
        let group = (out as u64 / self.groups.max(1) as u64).next_multiple_of(ROUNDED_TO);
        let values = (self.groups as u64)
            .saturating_mul(group)
            .saturating_mul(depth);
        values.saturating_mul(size_of::<f32>() as u64)
    }

    /// The geometry that packing asks for: it depends on the filters alone.
    pub(crate) fn filters_only(&self, filters: &Tensor) -> Option<kernels::Conv> {
        let [out, group, ..] = *filters.shape() else {
            return None;
        };
        let spatial: Vec<Sym> = self.window.kernel.iter().map(|_| Sym::Unknown).collect();
        let spatial = self.window.stand_in(&spatial).ok()?;
        self.geometry(1, group.checked_mul(self.groups)?, &spatial, out)
            .ok()
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        "Conv/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.groups);
        self.window.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        expect(x, "input 0", &[DType::F32])?;
        expect(w, "input 1", &[DType::F32])?;
        let ([batch, channels, spatial @ ..], [out, group, kernel @ ..]) = (x.shape(), w.shape())
        else {
            return Err(OpError::shape(
                "data and filters need a batch or output, a channel, and spatial dimensions",
            ));
        };
        self.window.check_rank(spatial.len())?;
        let fixed: Option<Vec<i64>> = kernel.iter().map(Sym::known).collect();
        let wanted: Vec<i64> = self
            .window
            .kernel
            .iter()
            .filter_map(|&k| i64::try_from(k).ok())
            .collect();
        let (Some(fixed), Some(out_count), Some(group)) = (fixed, out.known(), group.known())
        else {
            return Err(OpError::operand(
                "input 1",
                "the shape of the filters must be known",
            ));
        };
        if fixed != wanted {
            return Err(OpError::attribute(
                "kernel_shape",
                format!("{wanted:?} is not that of the filters, {fixed:?}"),
            ));
        }
        let expected = usize::try_from(group)
            .ok()
            .and_then(|g| g.checked_mul(self.groups));
        let count =
            |n: i64| usize::try_from(n).map_err(|_| OpError::shape("a dimension is negative"));
        let expected = expected.ok_or_else(|| OpError::shape("sizes overflow"))?;
        if channels.unify(&Sym::size(expected)).is_none() {
            return Err(OpError::shape(format!(
                "{channels} channels of data, but {} groups of {group} in the filters",
                self.groups
            )));
        }
        if let Some(bias) = inputs.get(2) {
            expect(bias, "input 2", &[DType::F32])?;
            if bias.rank() != 1 || bias.shape()[0].unify(out).is_none() {
                return Err(OpError::shape(format!(
                    "a bias of {} for {out} output channels",
                    show(bias.shape())
                )));
            }
        }
        let batch_count = batch.known().map_or(Ok(1), count)?;
        let sizes = self.window.stand_in(spatial)?;
        let geometry = self.geometry(batch_count, expected, &sizes, count(out_count)?)?;
        let mut shape = vec![batch.clone(), out.clone()];
        shape.extend(known_where(spatial, &geometry.output_shape()));
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let ([batch, channels, spatial @ ..], [out, ..]) = (x.shape(), w.shape()) else {
            return Err(OpError::shape(
                "data and filters need at least three dimensions",
            ));
        };
        let (values, bias) = (cx.slice::<f32>(0)?, cx.maybe_slice::<f32>(2)?);
        let mut y = cx.zeros();
        if y.is_empty() {
            return cx.output(y);
        }
        let geometry = self.geometry(*batch, *channels, spatial, *out)?;
        let packed;
        let filters = match cx.packed::<PackedFilters>() {
            Some(prepared) => prepared,
            None => {
                packed = PackedFilters::pack(&geometry, cx.slice(1)?);
                &packed
            }
        };
        // Images are independent, and shared out among the threads.
        let (image, result) = (values.len() / batch, y.len() / batch);
        let one = self.geometry(1, *channels, spatial, *out)?;
        cx.threads.chunks(&mut y, result, |i, y| {
            kernels::conv(
                cx.isa,
                &one,
                &values[i * image..][..image],
                filters,
                bias,
                y,
            );
        });
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let depth: usize = inputs.get(1).map_or(0, |w| w.shape[1..].iter().product());
        (outputs[0].len() as u64).saturating_mul(depth as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        // The filters packed, the padded input, and one unfolded block for each position.
        let filters = inputs.get(1).map_or(0, |w| self.packed_bytes(&w.shape));
        let output = &outputs[0].shape[2..];
        let padded = inputs.get(0).map_or(0, |x| {
            self.window
                .padded_bytes(x.shape[0] * x.shape[1], &x.shape[2..], output)
        });
        let unfolded =
            output.iter().product::<usize>() as u64 * (kernels::BLOCK_K * size_of::<f32>()) as u64;
        filters.saturating_add(padded).saturating_add(unfolded)
    }

    fn prepared_bytes(&self, constants: Operands<'_, Tensor>) -> u64 {
        constants.get(1).map_or(0, |w| self.packed_bytes(w.shape()))
    }

    fn prepare(&self, constants: Operands<'_, Tensor>) -> Option<Prepared> {
        let filters = constants.get(1)?;
        let geometry = self.filters_only(filters)?;
        let values = filters.as_slice()?;
        Some(match FiltersLast::pack(&geometry, values) {
            Some(packed) => Box::new(packed),
            None => Box::new(PackedFilters::pack(&geometry, values)),
        })
    }
}
