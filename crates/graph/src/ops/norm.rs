//! Softmax and normalisations.

use lemma_kernels as kernels;
use lemma_kernels::math;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::broadcast_strides;
use crate::ops::expect;
use crate::ops::layout::{View, signed};
use crate::tensor::Tensor;

/// Softmax or its logarithm, over one axis or over all from it on.
#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) axis: usize,
    /// Whether the axes after `axis` belong to the row, as before operator set 13.
    pub(crate) to_end: bool,
    pub(crate) log: bool,
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        if self.log {
            "LogSoftmax/1"
        } else {
            "Softmax/1"
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis).flag(self.to_end);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        if self.axis >= x.rank() {
            return Err(OpError::attribute(
                "axis",
                format!("{} is out of range", self.axis),
            ));
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, shape) = (cx.slice::<f32>(0)?, cx.shape());
        let kernel = if self.log {
            kernels::log_softmax
        } else {
            kernels::softmax
        };
        let inner: usize = shape[self.axis + 1..].iter().product();
        let mut y = cx.zeros();
        if y.is_empty() {
            return cx.output(y);
        }
        if self.to_end || inner == 1 {
            kernel(cx.isa, shape[self.axis..].iter().product(), x, &mut y);
            return cx.output(y);
        }
        // The axis is brought to the end and back.
        let (dim, outer) = (shape[self.axis], shape[..self.axis].iter().product());
        let turn = |x: &[f32], rows: usize, cols: usize| {
            View {
                start: 0,
                shape: vec![outer, cols, rows],
                strides: vec![(rows * cols) as isize, 1, cols as isize],
            }
            .copy(x)
        };
        kernel(cx.isa, dim, &turn(x, dim, inner), &mut y);
        cx.output(turn(&y, inner, dim))
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| 2 * x.bytes())
    }
}

/// Which statistics a row is normalised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowNorm {
    /// Mean and variance; operands scale and optionally bias.
    Layer,
    /// The root mean square; operand scale.
    RootMeanSquare,
}

/// Normalisation of rows, which are all axes from `axis` on.
#[derive(Debug)]
pub(crate) struct Normalize {
    pub(crate) kind: RowNorm,
    pub(crate) axis: usize,
    pub(crate) epsilon: f32,
}

impl Operator for Normalize {
    fn name(&self) -> &'static str {
        match self.kind {
            RowNorm::Layer => "LayerNormalization/1",
            RowNorm::RootMeanSquare => "RMSNormalization/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.axis).f32(self.epsilon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        let row = x
            .shape()
            .get(self.axis..)
            .filter(|row| !row.is_empty())
            .ok_or_else(|| OpError::attribute("axis", format!("{} is out of range", self.axis)))?;
        for index in 1..inputs.len() {
            let Some(operand) = inputs.get(index) else {
                continue;
            };
            let what = crate::operator::ordinal(index);
            expect(operand, &what, &[DType::F32])?;
            let fits = operand.rank() <= row.len()
                && operand
                    .shape()
                    .iter()
                    .rev()
                    .zip(row.iter().rev())
                    .all(|(s, d)| *s == Sym::Known(1) || s.unify(d).is_some());
            if !fits {
                return Err(OpError::operand(
                    what,
                    format!(
                        "{} does not broadcast to a row of {}",
                        show(operand.shape()),
                        show(row)
                    ),
                ));
            }
        }
        inputs.need(1)?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let row = &cx.shape()[self.axis..];
        // Scale and bias spread over a whole row.
        let spread = |index: usize| {
            let Some(operand) = cx.inputs.get(index) else {
                return Ok(None);
            };
            let view = View {
                start: 0,
                shape: row.to_vec(),
                strides: signed(broadcast_strides(operand.shape(), row)),
            };
            Ok::<_, OpError>(Some(view.copy(cx.slice::<f32>(index)?)))
        };
        let scale = spread(1)?.ok_or_else(|| OpError::operand("input 1", "is missing"))?;
        let x = cx.slice::<f32>(0)?;
        let mut y = cx.zeros();
        if y.is_empty() {
            return cx.output(y);
        }
        match self.kind {
            RowNorm::Layer => {
                kernels::layer_norm(
                    cx.isa,
                    self.epsilon,
                    &scale,
                    spread(2)?.as_deref(),
                    x,
                    &mut y,
                );
            }
            RowNorm::RootMeanSquare => kernels::rms_norm(cx.isa, self.epsilon, &scale, x, &mut y),
        }
        cx.output(y)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| {
            8 * x.shape[self.axis..].iter().product::<usize>() as u64
        })
    }
}

/// Batch normalisation with given statistics. Operands: data `[batch, channels, …]`, then scale,
/// bias, mean and variance of each channel. With `a = scale · rsqrt(variance + epsilon)` and
/// `b = bias − mean · a`, the result is `x · a + b`; each operation rounds once.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    pub(crate) epsilon: f32,
}

/// Shapes of operands that hold one number for each channel.
fn per_channel(
    inputs: Operands<'_, Fact>,
    operands: std::ops::Range<usize>,
) -> Result<(), OpError> {
    let x = inputs.need(0)?;
    expect(x, "input 0", &[DType::F32])?;
    let Some(channels) = x.shape().get(1) else {
        return Err(OpError::shape("data needs a batch and a channel dimension"));
    };
    for index in operands {
        let operand = inputs.need(index)?;
        let what = crate::operator::ordinal(index);
        expect(operand, &what, &[DType::F32])?;
        if operand.rank() != 1 || operand.shape()[0].unify(channels).is_none() {
            return Err(OpError::operand(
                what,
                format!(
                    "{} is not one number for each of {channels} channels",
                    show(operand.shape())
                ),
            ));
        }
    }
    Ok(())
}

impl Operator for BatchNorm {
    fn name(&self) -> &'static str {
        "BatchNormalization/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.f32(self.epsilon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        per_channel(inputs, 1..5)?;
        Ok(vec![inputs.need(0)?.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.slice::<f32>(0)?;
        let operands = [
            cx.slice(1)?,
            cx.slice(2)?,
            cx.slice(3)?,
            cx.slice::<f32>(4)?,
        ];
        let [scale, bias, mean, variance] = operands;
        let plane: usize = cx.shape()[2..].iter().product();
        let mut y = cx.zeros();
        if y.is_empty() {
            return cx.output(y);
        }
        let mut scaled = vec![0.0; plane];
        for (i, (x, y)) in x
            .chunks_exact(plane)
            .zip(y.chunks_exact_mut(plane))
            .enumerate()
        {
            let c = i % scale.len();
            let a = scale[c] * math::rsqrt(variance[c] + self.epsilon);
            affine(cx, x, a, bias[c] - mean[c] * a, &mut scaled, y);
        }
        cx.output(y)
    }

    fn scratch(&self, _: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        outputs[0].shape[2..].iter().product::<usize>() as u64 * 4
    }
}

/// `y = x · a + b`, through a buffer as long as `x`.
fn affine(cx: &Eval<'_>, x: &[f32], a: f32, b: f32, scaled: &mut [f32], y: &mut [f32]) {
    kernels::binary(cx.isa, kernels::Binary::Mul, x, &[a], scaled);
    kernels::binary(cx.isa, kernels::Binary::Add, scaled, &[b], y);
}

/// Group normalisation: the channels of an image fall into groups; each is normalised to mean 0
/// and variance 1 as a row of layer normalisation without scale, then scaled and shifted by its
/// channel, `n · scale + bias`. Instance normalisation has as many groups as channels.
#[derive(Debug)]
pub(crate) struct GroupNorm {
    /// `None` for one group for each channel.
    pub(crate) groups: Option<usize>,
    pub(crate) epsilon: f32,
}

impl Operator for GroupNorm {
    fn name(&self) -> &'static str {
        if self.groups.is_some() {
            "GroupNormalization/1"
        } else {
            "InstanceNormalization/1"
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.groups.unwrap_or(0)).f32(self.epsilon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        per_channel(inputs, 1..3)?;
        let x = inputs.need(0)?;
        let divides = |n: i64| {
            self.groups
                .is_none_or(|g| g > 0 && usize::try_from(n).is_ok_and(|n| n.is_multiple_of(g)))
        };
        if x.rank() < 3 || x.shape()[1].known().is_some_and(|n| !divides(n)) {
            return Err(OpError::shape(format!(
                "{} does not divide into {:?} groups of channels",
                show(x.shape()),
                self.groups
            )));
        }
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let shape = cx.shape();
        let (x, scale, bias) = (
            cx.slice::<f32>(0)?,
            cx.slice::<f32>(1)?,
            cx.slice::<f32>(2)?,
        );
        let plane: usize = shape[2..].iter().product();
        let channels = shape[1];
        let row = channels / self.groups.unwrap_or(channels).max(1) * plane;
        let mut y = cx.zeros();
        if y.is_empty() {
            return cx.output(y);
        }
        let mut normal = y.clone();
        kernels::layer_norm(cx.isa, self.epsilon, &vec![1.0; row], None, x, &mut normal);
        let mut scaled = vec![0.0; plane];
        for (i, (x, y)) in normal
            .chunks_exact(plane)
            .zip(y.chunks_exact_mut(plane))
            .enumerate()
        {
            let c = i % channels;
            affine(cx, x, scale[c], bias[c], &mut scaled, y);
        }
        cx.output(y)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, Concrete::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::broadcast::strides;

    #[test]
    fn an_inner_axis_is_normalised_as_an_outer_one_would_be() {
        let x = Tensor::new(&[2, 3, 2], (0..12).map(|i| i as f32 * 0.5).collect()).unwrap();
        let op = Softmax {
            axis: 1,
            to_end: false,
            log: false,
        };
        let facts = [Some(&Fact::constant(x.clone()))];
        let y = crate::operator::deduce(&op, &facts).unwrap().remove(0);
        let y = y.tensor().unwrap().as_slice::<f32>().unwrap().to_vec();
        let own = strides(&[2, 3, 2]);
        for (outer, inner) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let column: Vec<f32> = (0..3)
                .map(|d| x.as_slice::<f32>().unwrap()[outer * own[0] + d * own[1] + inner])
                .collect();
            let mut expected = vec![0.0; 3];
            kernels::softmax(kernels::Isa::PORTABLE, 3, &column, &mut expected);
            let found: Vec<f32> = (0..3)
                .map(|d| y[outer * own[0] + d * own[1] + inner])
                .collect();
            assert_eq!(found, expected);
        }
    }
}
