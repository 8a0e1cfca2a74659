//! The quantiser: from a float model and calibration samples to an integer graph.

mod build;
mod lower;
mod products;
mod rows;
mod select;
mod windows;

use std::borrow::Cow;

use lemma_types::tensor::TensorSpec;

use crate::model::{Model, RunOptions};
use crate::tensor::Tensor;

use super::{IntegerError, IntegerGraph, Port, QuantiseError, TensorRange};
use build::{Builder, Width};

/// How to quantise.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest magnitude of values between operators that are no products of many terms, such as
    /// the operands of a normalisation. Made smaller by the quantiser where a sum would overflow.
    pub wide: i32,
    /// Bits that the index of a table for 8-bit results may have, two less than for wider ones: more
    /// are more exact, and cost a prover more.
    pub table_bits: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            wide: 2047,
            table_bits: 13,
        }
    }
}

/// How far an output is from the float model's.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputAccuracy {
    /// The output's name.
    pub name: String,
    /// Largest difference of an element.
    pub largest: f64,
    /// Mean over the samples of ‖difference‖ ÷ ‖float output‖.
    pub relative: f64,
    /// Samples (and rows, where an output has several) with the same largest element.
    pub same_top: usize,
    /// Samples and rows compared.
    pub rows: usize,
}

/// The comparison of an integer graph with the float model.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// Each output.
    pub outputs: Vec<OutputAccuracy>,
    /// Samples compared.
    pub samples: usize,
}

/// A quantised model.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// The integer graph.
    pub graph: IntegerGraph,
    /// Its accuracy on the samples that were not used for calibration, or on those that were if
    /// there are no others.
    pub accuracy: Accuracy,
}

/// One sample: named inputs, as for [`Model::run`].
pub type Sample = Vec<(String, Tensor)>;

/// Quantises a model for inputs of the shapes of the samples.
///
/// Scales are chosen on `calibration`; the accuracy is measured on `evaluation`, or on the
/// calibration samples where it is empty.
///
/// # Errors
/// Which operator has no integer form and why; which sum could overflow; what is wrong with the
/// samples.
pub fn quantise(
    model: &Model,
    calibration: &[Sample],
    evaluation: &[Sample],
    options: &Options,
) -> Result<Quantised, QuantiseError> {
    let arranged = calibration
        .iter()
        .map(|sample| arrange(model, sample))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = arranged.first() else {
        return Err(QuantiseError::Calibration("no sample is given".into()));
    };
    let shapes: Vec<Vec<usize>> = first.iter().map(|t| t.shape().to_vec()).collect();
    if let Some(other) = arranged.iter().find(|sample| {
        !sample
            .iter()
            .map(Tensor::shape)
            .eq(shapes.iter().map(Vec::as_slice))
    }) {
        return Err(QuantiseError::Calibration(format!(
            "samples differ in shape: {:?} and {shapes:?}",
            other.iter().map(Tensor::shape).collect::<Vec<_>>()
        )));
    }
    let mut wide = options.wide;
    let graph = loop {
        let options = Options {
            wide,
            ..options.clone()
        };
        match lower::lower(model, &arranged, &shapes, &options) {
            Err(QuantiseError::Integer(IntegerError::Overflow { .. })) if wide > 511 => wide /= 2,
            result => break result?,
        }
    };
    let evaluation = if evaluation.is_empty() {
        calibration
    } else {
        evaluation
    };
    let accuracy = compare(model, &graph, evaluation)?;
    Ok(Quantised { graph, accuracy })
}

fn arrange(model: &Model, sample: &Sample) -> Result<Vec<Tensor>, QuantiseError> {
    let named: Vec<(&str, Tensor)> = sample
        .iter()
        .map(|(n, t)| (n.as_str(), t.clone()))
        .collect();
    Ok(model.arrange(&named)?.into_iter().cloned().collect())
}

/// The elements of an input or output: real numbers, or indices as such.
fn floats<'a>(name: &str, tensor: &'a Tensor) -> Result<Cow<'a, [f32]>, QuantiseError> {
    if let Some(values) = tensor.as_slice::<f32>() {
        return Ok(Cow::Borrowed(values));
    }
    let indices = match (tensor.as_slice::<i64>(), tensor.as_slice::<i32>()) {
        (Some(values), _) => values.iter().map(|&v| v as f32).collect(),
        (_, Some(values)) => values.iter().map(|&v| v as f32).collect(),
        _ => {
            let found = tensor.dtype();
            let reason = format!("`{name}` is {found}: FP32 is needed, or INT64 for indices");
            return Err(QuantiseError::Calibration(reason));
        }
    };
    Ok(Cow::Owned(indices))
}

/// Adds an input of indices, 0 to `count` − 1.
fn add_indices(
    builder: &mut Builder,
    spec: &TensorSpec,
    shape: &[usize],
    samples: &[Cow<'_, [f32]>],
    count: usize,
) -> Result<(), QuantiseError> {
    let values: Vec<i32> = samples
        .iter()
        .flat_map(|s| s.iter())
        .map(|&v| v as i32)
        .collect();
    if let Some(other) = values.iter().find(|&&v| v < 0 || v as usize >= count) {
        let name = &spec.name;
        let reason = format!(
            "`{name}` holds index {other}: 0 to {} are needed",
            count - 1
        );
        return Err(QuantiseError::Calibration(reason));
    }
    let port = Port {
        name: spec.name.clone(),
        scale: 1.0,
        dtype: spec.dtype,
    };
    let range = TensorRange {
        shape: shape.to_vec(),
        low: 0,
        high: count as i32 - 1,
    };
    builder.input(port, range, values);
    Ok(())
}

/// Adds an input whose scale maps the largest calibration value to `top`.
fn add_input(
    builder: &mut Builder,
    name: &str,
    shape: &[usize],
    samples: &[Cow<'_, [f32]>],
    Width(top): Width,
) -> f32 {
    let largest = samples
        .iter()
        .flat_map(|s| s.iter())
        .fold(0f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { m });
    let scale = if largest > 0.0 {
        largest / top as f32
    } else {
        1.0 / top as f32
    };
    let one = |v: &f32| {
        (f64::from(*v) / f64::from(scale))
            .round_ties_even()
            .clamp(-f64::from(top), f64::from(top)) as i32
    };
    let values = samples.iter().flat_map(|s| s.iter()).map(one).collect();
    let port = Port::real(name, scale);
    let range = TensorRange {
        shape: shape.to_vec(),
        low: -top,
        high: top,
    };
    builder.input(port, range, values);
    scale
}

/// Compares outputs with those of the float model.
fn compare(
    model: &Model,
    graph: &IntegerGraph,
    samples: &[Sample],
) -> Result<Accuracy, QuantiseError> {
    let mut outputs: Vec<OutputAccuracy> = graph
        .skeleton()
        .outputs
        .iter()
        .map(|(port, _)| OutputAccuracy {
            name: port.name.clone(),
            largest: 0.0,
            relative: 0.0,
            same_top: 0,
            rows: 0,
        })
        .collect();
    for sample in samples {
        let tensors = arrange(model, sample)?;
        let named: Vec<(&str, Tensor)> = model
            .inputs()
            .iter()
            .zip(&tensors)
            .map(|(spec, t)| (spec.name.as_str(), t.clone()))
            .collect();
        let run = model.run(&named, &RunOptions::default())?;
        let real = named
            .iter()
            .map(|(name, t)| floats(name, t))
            .collect::<Result<Vec<_>, _>>()?;
        let real: Vec<&[f32]> = real.iter().map(|v| &v[..]).collect();
        let trace = graph.run(&graph.round_inputs(&real)?, 1)?;
        for (index, report) in outputs.iter_mut().enumerate() {
            let expected = floats(&report.name, &run.outputs[index])?;
            let scale = f64::from(graph.skeleton().outputs[index].0.scale);
            let got: Vec<f64> = trace.outputs[index]
                .iter()
                .map(|&v| f64::from(v) * scale)
                .collect();
            let row = run.outputs[index]
                .shape()
                .last()
                .copied()
                .unwrap_or(1)
                .max(1);
            report.add(&expected, &got, row, samples.len());
        }
    }
    Ok(Accuracy {
        outputs,
        samples: samples.len(),
    })
}

impl OutputAccuracy {
    fn add(&mut self, expected: &[f32], got: &[f64], row: usize, samples: usize) {
        let (mut distance, mut norm) = (0f64, 0f64);
        for (e, g) in expected.iter().zip(got) {
            let e = f64::from(*e);
            self.largest = self.largest.max((e - g).abs());
            distance += (e - g) * (e - g);
            norm += e * e;
        }
        if norm > 0.0 {
            self.relative += (distance / norm).sqrt() / samples as f64;
        }
        for (e, g) in expected.chunks(row).zip(got.chunks(row)) {
            let expected = top(e.iter().map(|&v| f64::from(v)));
            self.same_top += usize::from(expected == top(g.iter().copied()));
            self.rows += 1;
        }
    }
}

fn top(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}
