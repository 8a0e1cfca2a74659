//! `Resize`: samples between elements, one axis after the other.

use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::{expect, unreachable_type};
use crate::tensor::{Element, Storage, Tensor, with_storage};

/// Where a place of the output lies in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Operand `roi` says which part of the input is sampled.
    CropAndResize,
}

/// Which way a place in the middle goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// How a value is made of its neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Interpolation {
    Nearest(Nearest),
    Linear,
    Cubic(f32),
}

/// Which of two scales counts where the ratio is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ratio {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// Operands: data, region (may be absent), then either scales or sizes, one for each axis.
#[derive(Debug)]
pub(crate) struct Resize {
    pub(crate) axes: Vec<usize>,
    pub(crate) by_size: bool,
    pub(crate) ratio: Ratio,
    pub(crate) coordinates: Coordinates,
    pub(crate) interpolation: Interpolation,
    pub(crate) antialias: bool,
    pub(crate) exclude_outside: bool,
    pub(crate) extrapolation: f32,
}

/// One axis: sizes, scale, and the part of the input.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: usize,
    output: usize,
    scale: f64,
    start: f64,
    end: f64,
}

/// What one output of an axis is made of: the first element, weights of it and those behind it,
/// indices clamped to the axis; or nothing, where it lies outside.
struct Taps {
    first: i64,
    weights: Vec<f32>,
    outside: bool,
}

impl Resize {
    fn place(&self, axis: &Axis, at: usize) -> f64 {
        let x = at as f64;
        let (input, output) = (axis.input as f64, axis.output as f64);
        match self.coordinates {
            Coordinates::HalfPixel => (x + 0.5) / axis.scale - 0.5,
            Coordinates::PytorchHalfPixel if axis.output == 1 => 0.0,
            Coordinates::PytorchHalfPixel => (x + 0.5) / axis.scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                // The sizes that scales give are rounded: the centre is kept.
                let adjustment = output / (axis.scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + (x + 0.5) / axis.scale - 0.5
            }
            Coordinates::AlignCorners if axis.output == 1 => 0.0,
            Coordinates::AlignCorners => x * (input - 1.0) / (axis.scale * input - 1.0).max(1e-300),
            Coordinates::Asymmetric => x / axis.scale,
            Coordinates::CropAndResize if axis.output > 1 => {
                axis.start * (input - 1.0)
                    + x * (axis.end - axis.start) * (input - 1.0) / (output - 1.0)
            }
            Coordinates::CropAndResize => 0.5 * (axis.start + axis.end) * (input - 1.0),
        }
    }

    fn taps(&self, axis: &Axis, at: usize) -> Taps {
        let place = self.place(axis, at);
        let outside = self.coordinates == Coordinates::CropAndResize
            && !(place >= 0.0 && place <= axis.input as f64 - 1.0);
        let (first, weights) = match self.interpolation {
            Interpolation::Nearest(way) => {
                let whole = match way {
                    Nearest::RoundPreferFloor => (place - 0.5).ceil(),
                    Nearest::RoundPreferCeil => (place + 0.5).floor(),
                    Nearest::Floor => place.floor(),
                    Nearest::Ceil => place.ceil(),
                };
                (whole, vec![1.0])
            }
            Interpolation::Linear => self.linear(axis, place),
            Interpolation::Cubic(a) => self.cubic(axis, place, f64::from(a)),
        };
        let first = first as i64;
        let weights = self.kept(axis, first, weights);
        Taps {
            first,
            weights: weights.into_iter().map(|w| w as f32).collect(),
            outside,
        }
    }

    /// A shrinking filter reaches as much further as it is slower.
    fn slowness(&self, axis: &Axis) -> f64 {
        if self.antialias {
            axis.scale.min(1.0)
        } else {
            1.0
        }
    }

    fn linear(&self, axis: &Axis, place: f64) -> (f64, Vec<f64>) {
        let slow = self.slowness(axis);
        let below = place.floor();
        if slow == 1.0 {
            let share = place - below;
            return (below, vec![1.0 - share, share]);
        }
        let share = place - below;
        let first = (-1.0 / slow).floor() + 1.0;
        let count = 2.0 - 2.0 * first;
        let weight = |i: usize| (1.0 - ((first + i as f64) - share).abs() * slow).max(0.0);
        (
            below + first,
            normalised((0..count as usize).map(weight).collect()),
        )
    }

    fn cubic(&self, axis: &Axis, place: f64, a: f64) -> (f64, Vec<f64>) {
        let slow = self.slowness(axis);
        let below = place.floor();
        let share = place - below;
        let kernel = |x: f64| {
            let x = x.abs();
            if x <= 1.0 {
                ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
            } else {
                0.0
            }
        };
        if slow == 1.0 {
            let weights = [-1.0, 0.0, 1.0, 2.0].map(|i: f64| kernel(i - share));
            return (below - 1.0, weights.to_vec());
        }
        let first = (-2.0 / slow).floor() + 1.0;
        let count = 2.0 - 2.0 * first;
        let weight = |i: usize| kernel(((first + i as f64) - share) * slow);
        (
            below + first,
            normalised((0..count as usize).map(weight).collect()),
        )
    }

    /// Weights of elements outside dropped, where that is asked for.
    fn kept(&self, axis: &Axis, first: i64, mut weights: Vec<f64>) -> Vec<f64> {
        if !self.exclude_outside || matches!(self.interpolation, Interpolation::Nearest(_)) {
            return weights;
        }
        for (i, weight) in weights.iter_mut().enumerate() {
            let at = first + i as i64;
            if at < 0 || at >= axis.input as i64 {
                *weight = 0.0;
            }
        }
        normalised(weights)
    }

    /// Sizes and scales of all axes.
    fn axes(&self, x: &[usize], roi: Option<&[f32]>, given: &Tensor) -> Result<Vec<Axis>, OpError> {
        let count = self.axes.len();
        let region = |i: usize| match roi {
            Some(roi) if roi.len() == 2 * count => (f64::from(roi[i]), f64::from(roi[count + i])),
            _ => (0.0, 1.0),
        };
        let cropped = self.coordinates == Coordinates::CropAndResize;
        if cropped && roi.is_none_or(|roi| roi.len() != 2 * count) {
            return Err(OpError::operand(
                "roi",
                "must hold a start and an end for each axis",
            ));
        }
        if given.len() != count {
            let what = if self.by_size { "sizes" } else { "scales" };
            return Err(OpError::operand(
                what,
                format!("holds {} numbers for {count} axes", given.len()),
            ));
        }
        let mut all: Vec<Axis> = x
            .iter()
            .map(|&input| Axis {
                input,
                output: input,
                scale: 1.0,
                start: 0.0,
                end: 1.0,
            })
            .collect();
        let scales = if self.by_size {
            self.scales_of_sizes(x, given)?
        } else {
            let scales = given
                .as_slice::<f32>()
                .ok_or_else(|| unreachable_type(given.dtype()))?;
            scales.iter().map(|&s| (f64::from(s), None)).collect()
        };
        for (i, (&axis, (scale, size))) in self.axes.iter().zip(scales).enumerate() {
            if !(scale.is_finite() && scale > 0.0) {
                return Err(OpError::operand("scales", format!("{scale} is no scale")));
            }
            let target = &mut all[axis];
            (target.start, target.end) = region(i);
            target.scale = scale;
            let share = if cropped {
                target.end - target.start
            } else {
                1.0
            };
            let size = size.unwrap_or((target.input as f64 * share * scale).floor());
            if !(0.0..9e15).contains(&size) {
                return Err(OpError::shape(format!("a dimension of {size}")));
            }
            target.output = size as usize;
        }
        Ok(all)
    }

    /// The scale, and the size where it is given itself.
    fn scales_of_sizes(
        &self,
        x: &[usize],
        given: &Tensor,
    ) -> Result<Vec<(f64, Option<f64>)>, OpError> {
        let sizes = crate::fact::integers(given).ok_or_else(|| unreachable_type(given.dtype()))?;
        if sizes.iter().any(|&n| n < 0) || self.axes.iter().any(|&a| x[a] == 0) {
            return Err(OpError::operand(
                "sizes",
                "a size is negative, or of an empty dimension",
            ));
        }
        let scale = |(&axis, &size): (&usize, &i64)| size as f64 / x[axis] as f64;
        let scales: Vec<f64> = self.axes.iter().zip(&sizes).map(scale).collect();
        let kept = match self.ratio {
            Ratio::Stretch => {
                let pairs = scales.into_iter().zip(&sizes);
                return Ok(pairs.map(|(s, &n)| (s, Some(n as f64))).collect());
            }
            Ratio::NotLarger => scales.iter().copied().fold(f64::INFINITY, f64::min),
            Ratio::NotSmaller => scales.iter().copied().fold(0.0, f64::max),
        };
        let size = |&axis: &usize| (kept, Some((kept * x[axis] as f64 + 0.5).floor()));
        Ok(self.axes.iter().map(size).collect())
    }

    fn nearest<T: Element>(
        &self,
        cx: &Eval<'_>,
        x: &[T],
        axes: &[Axis],
        outside: T,
    ) -> Result<Vec<Tensor>, OpError> {
        let own = crate::ops::broadcast::strides(cx.inputs.need(0)?.shape());
        let places: Vec<Vec<Option<usize>>> = axes
            .iter()
            .zip(&own)
            .map(|(axis, step)| {
                let place = |at| {
                    let taps = self.taps(axis, at);
                    (!taps.outside).then(|| clamped(taps.first, axis.input) * step)
                };
                (0..axis.output).map(place).collect()
            })
            .collect();
        let out = crate::ops::broadcast::strides(cx.shape());
        let pick = |o: usize| {
            let along = |(i, list): (usize, &Vec<Option<usize>>)| list[o / out[i] % list.len()];
            let at: Option<usize> = places.iter().enumerate().map(along).sum();
            at.map_or(outside, |at| x[at])
        };
        cx.output((0..cx.outputs[0].len()).map(pick).collect())
    }

    /// One axis after the other, the first first; an axis that stays as it is is left out.
    fn weighted(&self, cx: &Eval<'_>, x: &[f32], axes: &[Axis]) -> Result<Vec<Tensor>, OpError> {
        let mut values = x.to_vec();
        let mut shape: Vec<usize> = axes.iter().map(|a| a.input).collect();
        let mut outside: Vec<Vec<bool>> = Vec::new();
        for (i, axis) in axes.iter().enumerate() {
            let taps: Vec<Taps> = (0..axis.output).map(|at| self.taps(axis, at)).collect();
            outside.push(taps.iter().map(|t| t.outside).collect());
            let cropped = self.coordinates == Coordinates::CropAndResize;
            if axis.scale == 1.0 && axis.input == axis.output && !cropped {
                continue;
            }
            let inner: usize = shape[i + 1..].iter().product();
            let block = axis.input * inner;
            let outer = values.len() / block.max(1);
            let mut next = vec![0f32; outer * axis.output * inner];
            for o in 0..outer {
                for (at, taps) in taps.iter().enumerate() {
                    let row = &mut next[(o * axis.output + at) * inner..][..inner];
                    for (k, &weight) in taps.weights.iter().enumerate() {
                        let from = clamped(taps.first.saturating_add(k as i64), axis.input);
                        let from = &values[o * block + from * inner..][..inner];
                        for (y, &v) in row.iter_mut().zip(from) {
                            *y = v.mul_add(weight, *y);
                        }
                    }
                }
            }
            values = next;
            shape[i] = axis.output;
        }
        let out = crate::ops::broadcast::strides(&shape);
        for (o, v) in values.iter_mut().enumerate() {
            *v = lemma_kernels::canonical(*v);
            let along = |(i, list): (usize, &Vec<bool>)| list[o / out[i] % list.len()];
            if outside.iter().enumerate().any(along) {
                *v = self.extrapolation;
            }
        }
        cx.output(values)
    }

    fn known_axes(&self, inputs: Operands<'_, Fact>) -> Result<Option<Vec<Axis>>, OpError> {
        let (x, given) = (inputs.need(0)?, inputs.need(2)?);
        let roi = match inputs.get(1) {
            None => None,
            Some(fact) => match fact.tensor() {
                Some(tensor) => Some(tensor.as_slice::<f32>().unwrap_or(&[])),
                None => return Ok(None),
            },
        };
        match (x.ty.concrete(), given.tensor()) {
            (Some(shape), Some(given)) => self.axes(&shape, roi, given).map(Some),
            _ => Ok(None),
        }
    }
}

/// The sum brought to one.
fn normalised(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

fn clamped(at: i64, size: usize) -> usize {
    at.clamp(0, size as i64 - 1) as usize
}

impl Operator for Resize {
    fn name(&self) -> &'static str {
        "Resize/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.sizes(&self.axes).flag(self.by_size);
        canon.u8(self.ratio as u8).u8(self.coordinates as u8);
        match self.interpolation {
            Interpolation::Nearest(way) => canon.u8(0).u8(way as u8),
            Interpolation::Linear => canon.u8(1),
            Interpolation::Cubic(a) => canon.u8(2).f32(a),
        };
        canon
            .flag(self.antialias)
            .flag(self.exclude_outside)
            .f32(self.extrapolation);
    }

    fn shape_operands(&self) -> &'static [usize] {
        &[1, 2]
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, given) = (inputs.need(0)?, inputs.need(2)?);
        match self.interpolation {
            Interpolation::Nearest(_) => {}
            _ => expect(x, "input 0", &[DType::F32]).map(|_| ())?,
        }
        if let Some(roi) = inputs.get(1) {
            expect(roi, "roi", &[DType::F32])?;
        }
        if self.by_size {
            expect(given, "sizes", &[DType::I64])?;
        } else {
            expect(given, "scales", &[DType::F32])?;
        }
        if self.axes.iter().any(|&a| a >= x.rank()) {
            return Err(OpError::attribute("axes", "is out of range"));
        }
        let shape = match self.known_axes(inputs)? {
            Some(axes) => axes.iter().map(|a| Sym::size(a.output)).collect(),
            None => {
                let mut shape = x.shape().to_vec();
                let sizes = given.integers().filter(|v| {
                    self.by_size && self.ratio == Ratio::Stretch && v.len() == self.axes.len()
                });
                for (i, &axis) in self.axes.iter().enumerate() {
                    shape[axis] = sizes.as_ref().map_or(Sym::Unknown, |s| s[i].clone());
                }
                shape
            }
        };
        Ok(vec![Type::new(x.dtype(), shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        let axes = self.axes(x.shape(), cx.maybe_slice(1)?, cx.inputs.need(2)?)?;
        if cx.outputs[0].len() == 0 {
            return Ok(vec![Tensor::empty(x.dtype(), cx.shape().to_vec())]);
        }
        if x.is_empty() {
            return Err(OpError::shape("nothing to sample"));
        }
        match (self.interpolation, x.storage()) {
            (Interpolation::Nearest(_), Storage::F32(v)) => {
                self.nearest(cx, v, &axes, self.extrapolation)
            }
            (Interpolation::Nearest(_), other) => {
                with_storage!(other, v => self.nearest(cx, v, &axes, Default::default()))
            }
            (_, Storage::F32(v)) => self.weighted(cx, v, &axes),
            _ => Err(unreachable_type(x.dtype())),
        }
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let taps = match self.interpolation {
            Interpolation::Nearest(_) => 1,
            Interpolation::Linear => 2 * self.axes.len() as u64,
            Interpolation::Cubic(_) => 4 * self.axes.len() as u64,
        };
        let x = inputs.get(0).map_or(0, |x| x.len() as u64);
        x.max(outputs[0].len() as u64).saturating_mul(taps)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let Some(x) = inputs.get(0) else { return 0 };
        // Between axes some are as large as in the input, others as in the output.
        let pairs = x.shape.iter().zip(&outputs[0].shape);
        let between = pairs.fold(4u64, |n, (&a, &b)| n.saturating_mul(a.max(b) as u64));
        let reach = |(&a, &b): (&usize, &usize)| {
            let ratio = if self.antialias {
                a.div_ceil(b.max(1))
            } else {
                1
            };
            (b as u64).saturating_mul(64 + 32 * (ratio as u64 + 1))
        };
        let taps = x.shape.iter().zip(&outputs[0].shape).map(reach);
        taps.fold(between.saturating_mul(2), u64::saturating_add)
    }
}
