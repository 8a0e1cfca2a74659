//! The sample models: golden roots and costs, the example inputs, and the laws every model obeys.

use std::path::{Path, PathBuf};

use crate::common::read;
use lemma_graph::io::{npy, oip};
use lemma_graph::{Isa, Limits, Model, NoFiles, OpenError, RunOptions, Tensor, compute_units};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(name)
}

fn model(name: &str) -> Model {
    let bytes = read(&folder(name).join("model.onnx"));
    Model::load(bytes, &NoFiles, &Limits::small()).unwrap()
}

fn example(name: &str) -> Tensor {
    let file = read(&folder(name).join("example.npy"));
    Tensor::from_data(&npy::read("x", &file).unwrap()).unwrap()
}

/// Rows stacked into one batch.
fn stack(rows: &[Tensor]) -> Tensor {
    let mut shape = rows[0].shape().to_vec();
    shape[0] = rows.iter().map(|r| r.shape()[0]).sum();
    let elements = rows
        .iter()
        .flat_map(|r| r.as_slice::<f32>().unwrap().to_vec());
    Tensor::new(&shape, elements.collect()).unwrap()
}

/// Rows that differ from the example and from each other.
fn variants(example: &Tensor, count: usize) -> Vec<Tensor> {
    (0..count)
        .map(|i| {
            let values = example.as_slice::<f32>().unwrap().iter().enumerate();
            let values = values.map(|(j, v)| v + ((i * 31 + j * 7) % 13) as f32 * 0.25);
            Tensor::new(example.shape(), values.collect()).unwrap()
        })
        .collect()
}

#[test]
fn roots_and_costs_are_frozen() {
    let found: Vec<String> = ["digits", "iris"]
        .into_iter()
        .map(|name| {
            let model = model(name);
            let shape = example(name).shape().to_vec();
            let cost = model.cost(&[shape]).unwrap();
            format!("{name} {} {cost} {}", model.root(), compute_units(cost))
        })
        .collect();
    // A change of these is a change of the importer's version.
    assert_eq!(
        found.join("\n"),
        include_str!("../data/samples.golden").trim_end()
    );
}

#[test]
fn example_files_in_both_forms_hold_the_same_tensor() {
    for name in ["digits", "iris"] {
        let json = oip::read_inputs(&read(&folder(name).join("example.json"))).unwrap();
        assert_eq!(json.len(), 1);
        assert!(
            Tensor::from_data(&json[0])
                .unwrap()
                .same_bits(&example(name)),
            "{name}"
        );
        assert_eq!(json[0].name(), model(name).inputs()[0].name);
    }
}

#[test]
fn a_row_alone_gives_the_bits_it_gives_in_a_batch() {
    for name in ["digits", "iris"] {
        let model = model(name);
        let input = model.inputs()[0].name.clone();
        let rows = variants(&example(name), 9);
        let run = |tensor: Tensor, isa, threads| {
            let options = RunOptions {
                isa,
                threads,
                ..RunOptions::default()
            };
            model
                .run(&[(input.as_str(), tensor)], &options)
                .unwrap()
                .outputs
        };
        for isa in Isa::available() {
            let together = run(stack(&rows), isa, 4);
            for (i, row) in rows.iter().enumerate() {
                for (alone, batch) in run(row.clone(), isa, 1).iter().zip(&together) {
                    let per = batch.byte_len() / rows.len();
                    let bytes = &batch.to_le_bytes()[i * per..(i + 1) * per];
                    assert_eq!(alone.to_le_bytes(), bytes, "{name}, row {i}, {isa}");
                }
            }
        }
    }
}

#[test]
fn a_trace_has_the_digest_of_every_operator_and_ends_in_the_outputs() {
    let model = model("digits");
    let input = model.inputs()[0].name.clone();
    let trace = |isa| {
        let options = RunOptions {
            isa,
            trace: true,
            ..RunOptions::default()
        };
        let run = model
            .run(&[(input.as_str(), example("digits"))], &options)
            .unwrap();
        (run.trace.unwrap(), run.outputs)
    };
    let (first, outputs) = trace(Isa::PORTABLE);
    assert_eq!(first.len(), model.operators());
    assert!(first.contains(&outputs[0].digest()));
    for isa in Isa::available() {
        assert_eq!(trace(isa).0, first, "{isa}");
    }
}

#[test]
fn limits_of_a_run_are_checked_before_it() {
    let model = model("digits");
    let input = model.inputs()[0].name.clone();
    let run = |options: RunOptions| {
        let error = model
            .run(&[(input.as_str(), example("digits"))], &options)
            .unwrap_err();
        error.to_string()
    };
    let memory = run(RunOptions {
        memory: 1000,
        ..RunOptions::default()
    });
    assert!(
        memory.contains("bytes of memory") && memory.contains("1000"),
        "{memory}"
    );
    let cost = run(RunOptions {
        cost: 1000,
        ..RunOptions::default()
    });
    assert!(
        cost.contains("operations") && cost.contains("1000"),
        "{cost}"
    );
}

#[test]
fn special_values_are_data() {
    for name in ["digits", "iris"] {
        let model = model(name);
        let input = model.inputs()[0].name.clone();
        let shape = example(name).shape().to_vec();
        let count = example(name).len();
        for special in [
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            1e-45,
            -0.0,
        ] {
            let tensor = Tensor::new(&shape, vec![special; count]).unwrap();
            let run = |isa| {
                let options = RunOptions {
                    isa,
                    ..RunOptions::default()
                };
                model
                    .run(&[(input.as_str(), tensor.clone())], &options)
                    .unwrap()
                    .outputs
            };
            let first = run(Isa::PORTABLE);
            for isa in Isa::available() {
                let same = run(isa).iter().zip(&first).all(|(a, b)| a.same_bits(b));
                assert!(same, "{name} on {special} differs on {isa}");
            }
        }
    }
}

#[test]
fn a_file_is_the_model_that_its_bytes_are() {
    let path = folder("digits").join("model.onnx");
    let open = |path: &Path| Model::open(path, &NoFiles, &Limits::small());
    let (opened, loaded) = (open(&path).unwrap(), model("digits"));
    assert_eq!(opened.root(), loaded.root());
    assert_eq!(opened.parameters(), loaded.parameters());
    let name = &opened.inputs()[0].name;
    let run = |model: &Model| {
        let inputs = [(name.as_str(), example("digits"))];
        model.run(&inputs, &RunOptions::default()).unwrap().outputs
    };
    let (found, expected) = (run(&opened), run(&loaded));
    assert!(found.iter().zip(&expected).all(|(a, b)| a.same_bits(b)));

    let cut = std::env::temp_dir().join(format!("lemma-cut-{}.onnx", std::process::id()));
    let bytes = read(&path);
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        assert!(matches!(open(&cut), Err(OpenError::Import(_))));
    }
    std::fs::write(&cut, &bytes).unwrap();
    let tight = Limits {
        model_bytes: bytes.len() as u64 - 1,
        ..Limits::small()
    };
    assert!(Model::open(&cut, &NoFiles, &tight).is_err());
    std::fs::remove_file(&cut).unwrap();
    assert!(matches!(open(&cut), Err(OpenError::File(_))));
}
