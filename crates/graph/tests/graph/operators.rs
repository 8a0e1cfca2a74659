//! Single operators and small networks against onnxruntime's results, on every instruction set.

use crate::common::{difference, fixtures, json, read, tensors};
use lemma_graph::{Isa, Limits, Model, NoFiles, RunOptions, Tensor};
use lemma_types::tensor::{Dim, TensorSpec};

#[test]
fn fixtures_give_the_expected_values_and_equal_bits_on_every_instruction_set() {
    let mut failures = Vec::new();
    for folder in fixtures("valid") {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if let Err(reason) = check(&folder) {
            failures.push(format!("{name}: {reason}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn check(folder: &std::path::Path) -> Result<(), String> {
    let model = Model::load(read(&folder.join("model.onnx")), &NoFiles, &Limits::small())
        .map_err(|error| format!("import: {error}"))?;
    let case = json(&folder.join("case.json"));
    let inputs = tensors(&case["inputs"]);
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(n, t)| (n.as_str(), t.clone()))
        .collect();
    let expected = tensors(&case["outputs"]);
    let (rtol, atol) = (
        case["rtol"].as_f64().unwrap(),
        case["atol"].as_f64().unwrap(),
    );
    let mut first: Option<Vec<Tensor>> = None;
    for isa in Isa::available() {
        for (threads, trace) in [(1, true), (1, false), (3, false)] {
            let options = RunOptions {
                isa,
                threads,
                trace,
                ..RunOptions::default()
            };
            let run = model
                .run(&inputs, &options)
                .map_err(|error| format!("run: {error}"))?;
            let first = first.get_or_insert_with(|| run.outputs.clone());
            for (a, b) in first.iter().zip(&run.outputs) {
                if !a.same_bits(b) {
                    return Err(format!("{isa} with {threads} threads gives other bits"));
                }
            }
        }
    }
    let outputs = first.unwrap();
    for (spec, found) in model.outputs().iter().zip(&outputs) {
        let (_, wanted) = expected
            .iter()
            .find(|(n, _)| *n == spec.name)
            .ok_or_else(|| format!("no output `{}` is expected", spec.name))?;
        if let Some(reason) = difference(found, wanted, rtol, atol) {
            return Err(format!("output `{}`: {reason}", spec.name));
        }
    }
    Ok(())
}

/// Row `i` of a tensor, as a batch of one.
fn row(tensor: &Tensor, i: usize) -> Tensor {
    let bytes = tensor.to_le_bytes();
    let per = bytes.len() / tensor.shape()[0];
    let shape = [&[1], &tensor.shape()[1..]].concat();
    Tensor::from_le_bytes(tensor.dtype(), &shape, &bytes[i * per..(i + 1) * per]).unwrap()
}

#[test]
fn a_row_of_a_network_alone_gives_the_bits_it_gives_in_a_batch() {
    let mut networks = 0;
    for folder in fixtures("valid") {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model =
            Model::load(read(&folder.join("model.onnx")), &NoFiles, &Limits::small()).unwrap();
        let batched = |specs: &[TensorSpec]| {
            specs
                .iter()
                .all(|s| matches!(s.shape.first(), Some(Dim::Symbol(n)) if n == "N"))
        };
        if !name.starts_with("network_") || !batched(model.inputs()) || !batched(model.outputs()) {
            continue;
        }
        let inputs = tensors(&json(&folder.join("case.json"))["inputs"]);
        let run = |inputs: Vec<(&str, Tensor)>, isa| {
            let options = RunOptions {
                isa,
                ..RunOptions::default()
            };
            model.run(&inputs, &options).unwrap().outputs
        };
        for isa in Isa::available() {
            let together = run(
                inputs
                    .iter()
                    .map(|(n, t)| (n.as_str(), t.clone()))
                    .collect(),
                isa,
            );
            for i in 0..inputs[0].1.shape()[0] {
                let alone = run(
                    inputs
                        .iter()
                        .map(|(n, t)| (n.as_str(), row(t, i)))
                        .collect(),
                    isa,
                );
                let same = alone
                    .iter()
                    .zip(&together)
                    .all(|(a, b)| a.same_bits(&row(b, i)));
                assert!(same, "{name}, row {i}, {isa}");
            }
        }
        networks += 1;
    }
    assert!(networks >= 3, "{networks} networks have a batch");
}

#[test]
fn models_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Model>();
    shared::<Tensor>();
}
