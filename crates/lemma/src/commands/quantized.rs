//! Quantised models on this machine's disk: made, described, registered, run again.

use std::{fs, path::Path, sync::Arc};

use lemma_graph::{
    Limits, Model as Float, Tensor,
    integer::{Accuracy, IntegerGraph, Options, Sample, quantise},
};
use lemma_node::integer;
use lemma_proof::{HeldWeights, Model};
use lemma_types::{
    Digest, Manifest,
    tensor::{Dim, TensorData, TensorSpec},
};
use lemma_verify::{Recompute, Weight};
use serde_json::json;

use super::{
    push::{Terms, beside, describe_file, folder_of},
    verify::recomputed,
};
use crate::{
    cli::Quantize,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    input, progress,
    shell::{Shell, paint, styles},
    table::Table,
    text::{grouped, harmless, size},
};

/// From so many samples on, a part is kept to measure the accuracy on.
const ENOUGH: usize = 8;
/// Every so many samples one is kept.
const KEPT: usize = 4;

/// Whether the path is that of a quantised model.
pub(super) fn is_one(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(integer::EXTENSION))
}

/// Reads a quantised model.
pub(super) fn read(path: &Path) -> CommandResult<IntegerGraph> {
    let cannot = || format!("can not use {} as a quantised model", path.display());
    let metadata = fs::metadata(path).context(ExitCode::NotFound, || {
        format!("can not read {}", path.display())
    })?;
    if !metadata.is_file() || metadata.len() > lemma_graph::integer::MAX_BYTES as u64 {
        return Err(CommandError::failed(cannot()).cause("it is no file, or too large"));
    }
    let bytes = fs::read(path).context(ExitCode::Failed, cannot)?;
    IntegerGraph::from_bytes(&bytes).map_err(|error| {
        CommandError::failed(cannot())
            .cause(harmless(&error.to_string()))
            .hint("`lemma models quantize` makes one of an ONNX model")
    })
}

/// Reads a quantised model and commits to it.
pub(super) fn register(path: &Path) -> CommandResult<Model> {
    Model::register(read(path)?).context(ExitCode::Failed, || {
        format!("can not register {}", path.display())
    })
}

/// The weights of a model, for the verifier of a bundle.
pub(super) fn weights(path: &Path) -> CommandResult<Weight> {
    Ok(Weight(Arc::new(HeldWeights::new(&register(path)?))))
}

/// Describes a model. What can be derived is derived; only the terms are taken on trust.
pub(super) fn derive(path: &Path, terms: &Terms) -> CommandResult<Manifest> {
    let cannot = || format!("can not describe {}", path.display());
    let model = register(path)?;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| CommandError::failed(cannot()).cause("its name is not UTF-8"))?;
    let file = describe_file(&folder_of(path), name)?;
    integer::manifest(&model, vec![file], terms.stated()).context(ExitCode::Failed, cannot)
}

/// Runs a model again. Whether it is the one with root `expected` is for the verifier to say.
pub(super) fn recompute(
    path: &Path,
    expected: Digest,
    inputs: &[TensorData],
) -> CommandResult<Recompute> {
    let model = register(path)?;
    let graph_root = integer::graph_root(&model);
    let outputs = model.graph().infer(inputs);
    let outputs = outputs.map_err(|error| error.to_string());
    Ok(recomputed(graph_root, expected, outputs))
}

/// Makes a quantised model and says how far it is from the float one.
pub(super) fn quantize(arguments: &Quantize, shell: &mut Shell) -> CommandResult {
    let Quantize { path, output, .. } = arguments;
    let cannot = || format!("can not quantise {}", path.display());
    let bytes = fs::read(path).context(ExitCode::NotFound, || {
        format!("can not read {}", path.display())
    })?;
    let float = Float::load(&bytes, &beside(path), &Limits::default()).map_err(|error| {
        CommandError::failed(format!("can not import {}", path.display()))
            .cause(harmless(&error.to_string()))
    })?;
    let mut calibration = samples(&arguments.calibration, &float)?;
    let mut evaluation = samples(&arguments.evaluation, &float)?;
    let kept = evaluation.is_empty() && calibration.len() >= ENOUGH;
    if kept {
        let all = std::mem::take(&mut calibration);
        for (index, sample) in all.into_iter().enumerate() {
            match index % KEPT {
                0 => evaluation.push(sample),
                _ => calibration.push(sample),
            }
        }
    }
    let bar = progress::spinner("quantising", shell);
    let quantised = quantise(&float, &calibration, &evaluation, &Options::default());
    bar.finish_and_clear();
    let quantised = quantised.map_err(|error| {
        CommandError::failed(cannot())
            .cause(harmless(&error.to_string()))
            .hint("docs/integer-spec.md says what can be quantised, and why")
    })?;
    let bytes = quantised.graph.to_bytes();
    fs::write(output, &bytes).context(ExitCode::Failed, || {
        format!("can not write {}", output.display())
    })?;
    let registered = Model::register(quantised.graph).context(ExitCode::Failed, cannot)?;
    let measured = match evaluation.is_empty() {
        true => "the calibration samples, there are no others",
        false => "samples that were not used for calibration",
    };
    let made = Made {
        path: output,
        bytes: bytes.len(),
        root: integer::graph_root(&registered),
        graph: registered.graph(),
        accuracy: &quantised.accuracy,
        measured,
    };
    made.show(shell)
}

struct Made<'a> {
    path: &'a Path,
    bytes: usize,
    root: Digest,
    graph: &'a IntegerGraph,
    accuracy: &'a Accuracy,
    /// What the accuracy was measured on.
    measured: &'static str,
}

impl Made<'_> {
    fn show(&self, shell: &mut Shell) -> CommandResult {
        let parameters = self.graph.parameters();
        let outputs = &self.accuracy.outputs;
        if shell.json() {
            let outputs: Vec<_> = outputs
                .iter()
                .map(|o| {
                    json!({
                        "name": o.name,
                        "largest_difference": o.largest,
                        "relative_difference": o.relative,
                        "same_top1": o.same_top,
                        "rows": o.rows,
                    })
                })
                .collect();
            return shell.document(&json!({
                "path": self.path,
                "bytes": self.bytes,
                "model_root": self.root,
                "parameters": parameters,
                "samples": self.accuracy.samples,
                "measured_on": self.measured,
                "outputs": outputs,
            }));
        }
        shell.note(format_args!(
            "against the float model, on {} {}:",
            self.accuracy.samples, self.measured
        ));
        let mut table = Table::new(&["output", "largest difference", "relative", "same top-1"]);
        for output in outputs {
            table.row([
                harmless(&output.name),
                format!("{:.6}", output.largest),
                format!("{:.3} %", 100.0 * output.relative),
                format!("{} of {}", output.same_top, output.rows),
            ]);
        }
        shell.table(&table)?;
        shell.line(format_args!("model root {}", self.root))?;
        shell.note(format_args!(
            "{} {}: {}, {} integers",
            paint(styles::GOOD, "wrote"),
            self.path.display(),
            size(self.bytes as u64),
            grouped(parameters as u64),
        ));
        if !is_one(self.path) {
            shell.hint("a quantised model is published from a file whose name ends in .integer");
        }
        Ok(())
    }
}

/// The samples in files: each input's along its first axis.
fn samples(files: &[String], model: &Float) -> CommandResult<Vec<Sample>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let tensors = input::read_all(files, model.inputs())?;
    let mut samples: Vec<Sample> = Vec::new();
    for (index, (tensor, spec)) in tensors.iter().zip(model.inputs()).enumerate() {
        let parts = split(tensor, spec)?;
        if index > 0 && parts.len() != samples.len() {
            return Err(CommandError::failed(format!(
                "`{}` has {} samples, other inputs have {}",
                harmless(&spec.name),
                parts.len(),
                samples.len()
            )));
        }
        if index == 0 {
            samples.resize_with(parts.len(), Vec::new);
        }
        for (sample, part) in samples.iter_mut().zip(parts) {
            sample.push((spec.name.clone(), part));
        }
    }
    Ok(samples)
}

/// One tensor for each sample. The first axis counts samples, be it the model's own batch axis, whose size is then 1, or
/// one before the axes of the model.
fn split(tensor: &TensorData, spec: &TensorSpec) -> CommandResult<Vec<Tensor>> {
    let unfit = |reason: String| {
        CommandError::failed(format!(
            "the samples of `{}` do not fit the model",
            harmless(&spec.name)
        ))
        .cause(reason)
    };
    let shape = tensor.shape();
    let fits = |dims: &[Dim], shape: &[u64]| {
        dims.len() == shape.len()
            && dims.iter().zip(shape).all(|(dim, size)| match dim {
                Dim::Fixed(fixed) => fixed == size,
                Dim::Symbol(_) => *size > 0,
            })
    };
    let (count, each): (u64, Vec<u64>) = match (shape, &spec.shape[..]) {
        ([count, rest @ ..], dims) if fits(dims, rest) => (*count, rest.to_vec()),
        ([count, rest @ ..], [Dim::Symbol(_) | Dim::Fixed(1), dims @ ..]) if fits(dims, rest) => {
            (*count, [&[1], rest].concat())
        }
        (shape, dims) if fits(dims, shape) => (1, shape.to_vec()),
        _ => {
            let dims: Vec<String> = spec.shape.iter().map(Dim::to_string).collect();
            return Err(unfit(format!(
                "they have shape {shape:?}, the model takes [{}]",
                dims.join(", ")
            )));
        }
    };
    if count == 0 {
        return Err(unfit("there are none".to_owned()));
    }
    let data = tensor.data();
    let bytes = data.len() / usize::try_from(count).unwrap_or(usize::MAX);
    data.chunks(bytes.max(1))
        .map(|part| {
            let part = TensorData::new(&spec.name[..], tensor.dtype(), each.clone(), part.to_vec());
            let part = part.map_err(|error| unfit(error.to_string()))?;
            Tensor::from_data(&part).map_err(|error| unfit(error.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use lemma_types::tensor::DType;

    use super::*;

    fn spec(shape: &[Dim]) -> TensorSpec {
        TensorSpec {
            name: "x".to_owned(),
            dtype: DType::F32,
            shape: shape.to_vec(),
        }
    }

    fn tensor(shape: &[u64]) -> TensorData {
        let count = shape.iter().product::<u64>() as usize;
        TensorData::new("x", DType::F32, shape.to_vec(), vec![0; 4 * count]).unwrap()
    }

    #[test]
    fn samples_lie_along_the_first_axis() {
        let batch = [Dim::Symbol("N".to_owned()), Dim::Fixed(3)];
        let fixed = [Dim::Fixed(4), Dim::Fixed(3)];
        for (spec, shape, count, each) in [
            (spec(&batch), &[5, 3][..], 5, [1, 3]),
            (spec(&batch), &[5, 1, 3], 5, [1, 3]),
            (spec(&fixed), &[4, 3], 1, [4, 3]),
            (spec(&fixed), &[2, 4, 3], 2, [4, 3]),
        ] {
            let parts = split(&tensor(shape), &spec).unwrap();
            assert_eq!(parts.len(), count, "{shape:?}");
            assert_eq!(parts[0].shape(), each, "{shape:?}");
        }
        for shape in [&[5, 4][..], &[0, 3], &[3]] {
            assert!(split(&tensor(shape), &spec(&batch)).is_err(), "{shape:?}");
        }
    }
}
