//! Whole models: quantised from ONNX, registered, proved, verified; and refused where something is
//! changed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::path::{Path, PathBuf};

use lemma_graph::integer::{Options, Sample, quantise};
use lemma_graph::{Limits, Model as Float, NoFiles, Tensor};
use lemma_proof::{
    Check, Evidence, HeldWeights, Model, Profile, Proof, Security, VerifyError, VerifyingKey,
    Weights, prove_inference, verify_inference, verify_with_weights,
};
use lemma_types::tensor::{DType, Dim};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sample(model: &Float, seed: u64) -> Sample {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let input = |spec: &lemma_types::tensor::TensorSpec| {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(n) => *n as usize,
            Dim::Symbol(_) => 1,
        };
        let shape: Vec<usize> = spec.shape.iter().map(size).collect();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        let tensor = match spec.dtype {
            DType::I64 => {
                let indices = values.iter().map(|v| ((v + 1.0) * 2.0) as i64).collect();
                Tensor::new::<i64>(&shape, indices).unwrap()
            }
            _ => Tensor::new::<f32>(&shape, values).unwrap(),
        };
        (spec.name.clone(), tensor)
    };
    model.inputs().iter().map(input).collect()
}

/// A model of a file, and integer inputs for some samples.
fn registered(path: &str, samples: usize) -> (Model, Vec<Vec<i32>>) {
    let bytes = std::fs::read(root().join(path)).unwrap();
    let float = Float::load(&bytes, &NoFiles, &Limits::small()).unwrap();
    let calibration: Vec<Sample> = (0..4).map(|i| sample(&float, i)).collect();
    let graph = quantise(&float, &calibration, &[], &Options::default())
        .unwrap()
        .graph;
    let inputs: Vec<Vec<f32>> = (0..graph.skeleton().inputs.len())
        .map(|input| {
            (0..samples as u64)
                .flat_map(|s| {
                    let tensor = sample(&float, 90 + s)[input].1.clone();
                    let indices = tensor.as_slice::<i64>();
                    let indices = indices.map(|i| i.iter().map(|&v| v as f32).collect());
                    indices.unwrap_or_else(|| tensor.as_slice::<f32>().unwrap().to_vec())
                })
                .collect()
        })
        .collect();
    let borrowed: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let inputs = graph.round_inputs(&borrowed).unwrap();
    (Model::register(graph).unwrap(), inputs)
}

/// Proves a model for everyone and for holders, and refuses a changed output and a changed input.
fn proved(path: &str, samples: usize) {
    let (model, inputs) = registered(path, samples);
    let expected = model.graph().run(&inputs, samples).unwrap().outputs;
    for weights in [Weights::Succinct, Weights::Holder] {
        let profile = Profile {
            security: Security::Bits100,
            weights,
        };
        let (statement, proof) = prove_inference(&model, inputs.clone(), samples, profile).unwrap();
        assert_eq!(statement.outputs, expected);
        let proof = Proof::from_bytes(&proof.to_bytes()).unwrap();
        let key = VerifyingKey::from_bytes(&model.key().to_bytes()).unwrap();
        assert_eq!(key.model_root(), model.root());
        let held = HeldWeights::new(&model);
        let verify = |statement: &_| match weights {
            Weights::Succinct => verify_inference(&key, statement, &proof, profile),
            Weights::Holder => verify_with_weights(&held, statement, &proof, profile),
        };
        let soundness = verify(&statement).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(soundness.bits >= 100.0, "{soundness:?}");
        let mut other = statement.clone();
        other.outputs[0][0] += 1;
        assert!(verify(&other).is_err());
        other = statement.clone();
        other.inputs[0][0] ^= 1;
        assert!(verify(&other).is_err());
        other = statement;
        other.model_root[0] ^= 1;
        assert_eq!(verify(&other), Err(VerifyError::Rejected(Check::ModelRoot)));
    }
}

const FIXTURES: &str = "crates/graph/tests/data/valid";

#[test]
fn a_convolutional_classifier_with_softmax() {
    proved("models/digits/model.onnx", 1);
    proved("models/digits/model.onnx", 3);
}

#[test]
fn a_perceptron() {
    proved(&format!("{FIXTURES}/network_mlp/model.onnx"), 2);
}

#[test]
fn a_residual_convolutional_network() {
    proved(&format!("{FIXTURES}/network_residual_cnn/model.onnx"), 1);
}

#[test]
fn choices_by_index_and_of_the_largest() {
    for name in ["gather_rows", "argmax_last"] {
        proved(&format!("{FIXTURES}/{name}/model.onnx"), 2);
    }
    proved("models/iris/model.onnx", 3);
}

#[test]
fn a_transformer_block() {
    proved(
        &format!("{FIXTURES}/network_transformer_block/model.onnx"),
        2,
    );
}

#[test]
fn what_a_proof_takes_is_known_before() {
    let (model, inputs) = registered("models/digits/model.onnx", 1);
    let operations = |samples| model.proving_operations(samples).unwrap();
    // A sample more is work more; and proving is far more work than executing.
    assert!(operations(16) > operations(1));
    assert!(operations(1) > 10 * model.graph().skeleton().operations());
    // Constants as integers, as field elements, and four code words for each.
    assert!(model.memory() > 6 * 4 * model.graph().parameters() as u64);

    let profile = Profile::default();
    let (statement, proof) = prove_inference(&model, inputs, 1, profile).unwrap();
    let key = model.key().clone();
    let evidence = Evidence {
        key,
        statement,
        proof,
    };
    let checked = evidence.verification().unwrap();
    let work = checked.work();
    assert_eq!(checked.run(), Ok(()));
    // The same model and number of samples, the same work, whatever the proof.
    let mut other = evidence.clone();
    other.statement.outputs[0][0] += 1;
    let other = other.verification().unwrap();
    assert_eq!(other.work(), work);
    assert!(other.run().is_err());
}
