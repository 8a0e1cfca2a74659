//! Windows the other way: every input is spread over the places of its window.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::conv::{Padding, Sliding};
use crate::ops::expect;
use crate::tensor::{Element, Tensor, with_storage};

/// Transposed convolution. Operands: data `[batch, channels, …]`, filters `[channels, out channels
/// of a group, …]`, optionally a bias.
#[derive(Debug)]
pub(crate) struct ConvTranspose {
    pub(crate) groups: usize,
    /// Padding is what is cut off; `Same` lets the output be the input times the stride.
    pub(crate) window: Sliding,
    /// Added at the end of each axis.
    pub(crate) extra: Vec<usize>,
    /// The spatial sizes of the output, where they are given: padding follows from them.
    pub(crate) sizes: Option<Vec<usize>>,
}

impl ConvTranspose {
    /// Size of the output along an axis, and what is cut off before it.
    fn axis(&self, axis: usize, input: usize) -> Option<(usize, usize)> {
        let w = &self.window;
        let reach = w.kernel[axis]
            .checked_sub(1)?
            .checked_mul(w.dilations[axis])?;
        let full = input
            .checked_sub(1)?
            .checked_mul(w.strides[axis])?
            .checked_add(reach)?
            .checked_add(1)?
            .checked_add(self.extra[axis])?;
        let (output, upper) = match (&self.sizes, &w.padding) {
            (None, Padding::Explicit { before, after }) => {
                let output = full.checked_sub(before[axis])?.checked_sub(after[axis])?;
                return Some((output, before[axis]));
            }
            (Some(sizes), Padding::Same { upper }) => (sizes[axis], *upper),
            (Some(sizes), Padding::Explicit { .. }) => (sizes[axis], false),
            (None, Padding::Same { upper }) => (input.checked_mul(w.strides[axis])?, *upper),
        };
        let total = full.saturating_sub(output);
        // The larger half is cut off before, unless the padding is at the upper end.
        let before = if upper { total / 2 } else { total - total / 2 };
        Some((output, before))
    }

    fn geometry(&self, input: &[usize]) -> Result<(Vec<usize>, Vec<usize>), OpError> {
        let axes: Option<Vec<_>> = (0..input.len()).map(|i| self.axis(i, input[i])).collect();
        let axes = axes.ok_or_else(|| OpError::shape("sizes overflow, or nothing is left"))?;
        Ok(axes.into_iter().unzip())
    }
}

/// For each position of a window and each input: the place in the output. Position first.
struct Places {
    taps: Vec<Vec<Option<usize>>>,
}

impl Places {
    fn new(window: &Sliding, input: &[usize], output: &[usize], before: &[usize]) -> Places {
        let count: usize = window.kernel.iter().product();
        let own = crate::ops::broadcast::strides(input);
        let out = crate::ops::broadcast::strides(output);
        let steps = crate::ops::broadcast::strides(&window.kernel);
        let inputs: usize = input.iter().product();
        let place = |tap: usize, i: usize| {
            let mut at = 0;
            for axis in 0..input.len() {
                let from = i / own[axis] % input[axis] * window.strides[axis];
                let k = tap / steps[axis] % window.kernel[axis] * window.dilations[axis];
                let to = (from + k).checked_sub(before[axis])?;
                if to >= output[axis] {
                    return None;
                }
                at += to * out[axis];
            }
            Some(at)
        };
        let taps = (0..count)
            .map(|tap| (0..inputs).map(|i| place(tap, i)).collect())
            .collect();
        Places { taps }
    }

    fn bytes(window: &Sliding, input: &[usize]) -> u64 {
        let count = window.kernel.iter().chain(input);
        count.fold(16u64, |n, &d| n.saturating_mul(d as u64))
    }
}

impl Operator for ConvTranspose {
    fn name(&self) -> &'static str {
        "ConvTranspose/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.groups);
        self.window.attributes(canon);
        canon.sizes(&self.extra);
        match &self.sizes {
            None => canon.u8(0),
            Some(sizes) => canon.u8(1).sizes(sizes),
        };
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        expect(x, "input 0", &[DType::F32])?;
        expect(w, "input 1", &[DType::F32])?;
        let ([batch, channels, spatial @ ..], [from, per_group, kernel @ ..]) =
            (x.shape(), w.shape())
        else {
            return Err(OpError::shape("data and filters need spatial dimensions"));
        };
        self.window.check_rank(spatial.len())?;
        let lists = [Some(&self.extra), self.sizes.as_ref()];
        if spatial.is_empty() || lists.iter().flatten().any(|l| l.len() != spatial.len()) {
            return Err(OpError::attribute(
                "output_padding",
                "does not fit the spatial axes",
            ));
        }
        let wanted: Vec<Sym> = self.window.kernel.iter().map(|&k| Sym::size(k)).collect();
        let divides = from
            .known()
            .is_none_or(|n| usize::try_from(n).is_ok_and(|n| n.is_multiple_of(self.groups)));
        if kernel != wanted || channels.unify(from).is_none() || !divides {
            return Err(OpError::shape(format!(
                "filters of {} in {} groups for data of {}",
                show(w.shape()),
                self.groups,
                show(x.shape())
            )));
        }
        let out = per_group.mul(&Sym::size(self.groups));
        if let Some(bias) = inputs.get(2) {
            expect(bias, "input 2", &[DType::F32])?;
            if bias.rank() != 1 || bias.shape()[0].unify(&out).is_none() {
                return Err(OpError::shape("a bias for each output channel is expected"));
            }
        }
        let stand_in: Vec<usize> = spatial
            .iter()
            .map(|d| {
                d.known()
                    .and_then(|n| usize::try_from(n).ok())
                    .unwrap_or(1 << 16)
            })
            .collect();
        let (sizes, _) = self.geometry(&stand_in)?;
        let mut shape = vec![batch.clone(), out];
        for (dim, size) in spatial.iter().zip(sizes) {
            shape.push(match (dim.known(), &self.sizes) {
                (None, None) => Sym::Unknown,
                _ => Sym::size(size),
            });
        }
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.slice::<f32>(0)?, cx.slice::<f32>(1)?);
        let [batch, channels, input @ ..] = cx.inputs.need(0)?.shape() else {
            return Err(OpError::shape("data needs spatial dimensions"));
        };
        let per_group = cx.inputs.need(1)?.shape()[1];
        let (output, before) = self.geometry(input)?;
        let places = Places::new(&self.window, input, &output, &before);
        let taps = places.taps.len();
        let (plane, out): (usize, usize) = (input.iter().product(), output.iter().product());
        let of_group = channels / self.groups;
        let filters = per_group * self.groups;
        let bias = cx.maybe_slice::<f32>(2)?;
        let mut y = cx.zeros::<f32>();
        for n in 0..*batch {
            for f in 0..filters {
                let group = f / per_group;
                let row = &mut y[(n * filters + f) * out..][..out];
                // Channels in order, then positions of the window: each output is one chain.
                for c in group * of_group..(group + 1) * of_group {
                    let values = &x[(n * channels + c) * plane..][..plane];
                    let weights = &w[(c * per_group + f % per_group) * taps..][..taps];
                    for (list, &weight) in places.taps.iter().zip(weights) {
                        for (place, &v) in list.iter().zip(values) {
                            if let Some(at) = *place {
                                row[at] = v.mul_add(weight, row[at]);
                            }
                        }
                    }
                }
                for v in row.iter_mut() {
                    *v = kernels::canonical(bias.map_or(*v, |b| *v + b[f]));
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let (Some(x), Some(w)) = (inputs.get(0), inputs.get(1)) else {
            return 0;
        };
        let each = w.shape[1..].iter().product::<usize>() as u64;
        (x.len() as u64).saturating_mul(each)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs
            .get(0)
            .map_or(0, |x| Places::bytes(&self.window, &x.shape[2..]))
    }
}

/// Columns put back into an image, where they overlap added up: positions of the window in order,
/// from +0. Operand: `[batch, channels · window, columns]`.
#[derive(Debug)]
pub(crate) struct Col2Im {
    /// Spatial sizes of the image.
    pub(crate) image: Vec<usize>,
    pub(crate) window: Sliding,
}

impl Col2Im {
    /// How many columns there are along each axis, and what padding is before it.
    fn columns(&self) -> Result<(Vec<usize>, Vec<usize>), OpError> {
        self.window.check_rank(self.image.len())?;
        let pads = self.window.pads(&self.image)?;
        let along = |i: usize| {
            let extent = self.window.kernel[i]
                .checked_sub(1)?
                .checked_mul(self.window.dilations[i])?;
            let padded = self.image[i]
                .checked_add(pads.before[i])?
                .checked_add(pads.after[i])?;
            Some(padded.checked_sub(extent)?.checked_sub(1)? / self.window.strides[i] + 1)
        };
        let counts: Option<Vec<usize>> = (0..self.image.len()).map(along).collect();
        let counts = counts.ok_or_else(|| OpError::shape("the window is larger than the image"))?;
        Ok((counts, pads.before))
    }
}

impl Operator for Col2Im {
    fn name(&self) -> &'static str {
        "Col2Im/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.image);
        self.window.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        let (counts, _) = self.columns()?;
        let product = |list: &[usize]| list.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(columns), Some(taps)) = (product(&counts), product(&self.window.kernel)) else {
            return Err(OpError::shape("sizes overflow"));
        };
        let [batch, rows, given] = x.shape() else {
            return Err(OpError::shape("columns have three dimensions"));
        };
        let channels = rows.known().and_then(|n| usize::try_from(n).ok());
        let channels = channels
            .filter(|n| n.is_multiple_of(taps))
            .map(|n| n / taps);
        let (Some(channels), Some(_)) = (channels, given.unify(&Sym::size(columns))) else {
            return Err(OpError::shape(format!(
                "{} is not {columns} columns of windows of {taps}",
                show(x.shape())
            )));
        };
        let mut shape = vec![batch.clone(), Sym::size(channels)];
        shape.extend(self.image.iter().map(|&d| Sym::size(d)));
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.slice::<f32>(0)?;
        let (counts, before) = self.columns()?;
        let places = Places::new(&self.window, &counts, &self.image, &before);
        let (columns, out): (usize, usize) = (counts.iter().product(), self.image.iter().product());
        let mut y = cx.zeros::<f32>();
        let rows = x.chunks_exact((columns * places.taps.len()).max(1));
        for (rows, image) in rows.zip(y.chunks_exact_mut(out.max(1))) {
            for (list, row) in places.taps.iter().zip(rows.chunks_exact(columns.max(1))) {
                for (place, &v) in list.iter().zip(row) {
                    if let Some(at) = *place {
                        image[at] = kernels::math::add(image[at], v);
                    }
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| x.len() as u64)
    }

    fn scratch(&self, _: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        self.columns()
            .map_or(0, |(counts, _)| Places::bytes(&self.window, &counts))
    }
}

/// Elements put at positions of a larger image, zeros elsewhere; of two at one place the last
/// stays. Positions count through images of the size that the windows have, which the result may
/// exceed: then what is added is zero.
#[derive(Debug)]
pub(crate) struct MaxUnpool {
    /// Spatial sizes that positions count through.
    pub(crate) inner: Vec<usize>,
    /// Spatial sizes of the result.
    pub(crate) outer: Vec<usize>,
}

impl MaxUnpool {
    fn place<T: Element>(&self, cx: &Eval<'_>, x: &[T]) -> Result<Vec<Tensor>, OpError> {
        let [batch, channels, ..] = *cx.shape() else {
            return Err(OpError::shape("data needs spatial dimensions"));
        };
        let inner: usize = self.inner.iter().product();
        let (own, out) = (
            crate::ops::broadcast::strides(&self.inner),
            crate::ops::broadcast::strides(&self.outer),
        );
        let outer: usize = self.outer.iter().product();
        let mut y = cx.zeros::<T>();
        for (&v, &position) in x.iter().zip(cx.slice::<i64>(1)?) {
            let position = crate::ops::index::resolve(position, batch * channels * inner)?;
            let (plane, at) = (position / inner, position % inner);
            let place: usize = (0..self.inner.len())
                .map(|i| at / own[i] % self.inner[i] * out[i])
                .sum();
            y[plane * outer + place] = v;
        }
        cx.output(y)
    }
}

impl Operator for MaxUnpool {
    fn name(&self) -> &'static str {
        "MaxUnpool/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.inner).sizes(&self.outer);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, positions) = (inputs.need(0)?, inputs.need(1)?);
        expect(positions, "input 1", &[DType::I64])?;
        let alike = x.rank() == self.outer.len() + 2
            && positions.rank() == x.rank()
            && self.inner.len() == self.outer.len()
            && x.shape()
                .iter()
                .zip(positions.shape())
                .all(|(a, b)| a.unify(b).is_some())
            && self.inner.iter().zip(&self.outer).all(|(a, b)| a <= b);
        if !alike {
            return Err(OpError::shape("data, positions and sizes do not fit"));
        }
        let mut shape = x.shape()[..2].to_vec();
        shape.extend(self.outer.iter().map(|&d| Sym::size(d)));
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        with_storage!(cx.inputs.need(0)?.storage(), v => self.place(cx, v))
    }
}
