//! Integer graphs: quantisation of sample models, encoding, refusal of what could overflow.

use std::path::{Path, PathBuf};

use crate::common::{json, read, tensor};
use lemma_graph::integer::{
    Expression, Factor, IntegerError, IntegerGraph, Node, Options, Port, Relation, Sample,
    Skeleton, Source, Table, TensorRange, Term, View, quantise,
};
use lemma_graph::{Limits, Model, NoFiles, Tensor};
use lemma_types::tensor::{DType, TensorData};

fn sample_model(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(name);
    Model::load(read(&folder.join("model.onnx")), &NoFiles, &Limits::small()).unwrap()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed * 2 + 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        })
        .collect()
}

fn images(first: u64, count: u64) -> Vec<Sample> {
    (first..first + count)
        .map(|seed| {
            let pixels = noise(seed, 64).iter().map(|v| v * 16.0).collect();
            vec![(
                "image".to_owned(),
                Tensor::new(&[1, 1, 8, 8], pixels).unwrap(),
            )]
        })
        .collect()
}

#[test]
fn a_convolutional_classifier_keeps_its_answers() {
    let model = sample_model("digits");
    let quantised = quantise(&model, &images(0, 8), &images(100, 24), &Options::default()).unwrap();
    let accuracy = &quantised.accuracy.outputs[0];
    assert_eq!(accuracy.name, "probabilities");
    // Noise is no digit: the answers are close calls.
    assert_eq!(accuracy.rows, 24);
    assert!(accuracy.same_top >= 22, "{accuracy:?}");
    assert!(accuracy.relative < 0.05, "{accuracy:?}");
    // Weights and their operands are 8-bit.
    let weights = &quantised.graph.skeleton().constants[0];
    assert_eq!((weights.low, weights.high), (-127, 127));
}

#[test]
fn a_batch_is_its_samples_one_by_one() {
    let model = sample_model("digits");
    let graph = quantise(&model, &images(0, 4), &[], &Options::default())
        .unwrap()
        .graph;
    let pixels: Vec<f32> = (0..3)
        .flat_map(|s| noise(s + 50, 64))
        .map(|v| v * 16.0)
        .collect();
    let inputs = graph.round_inputs(&[&pixels]).unwrap();
    let together = graph.run(&inputs, 3).unwrap();
    for sample in 0..3 {
        let own = inputs[0][sample * 64..][..64].to_vec();
        let alone = graph.run(&[own], 1).unwrap();
        assert_eq!(alone.outputs[0], together.outputs[0][sample * 10..][..10]);
    }
}

#[test]
fn an_operator_without_an_integer_form_is_named() {
    let error = distance("argmin_middle").unwrap_err();
    assert!(error.contains("ArgMin/1"), "{error}");
}

fn sample(name: &str, shape: &[usize], values: Vec<i64>) -> Sample {
    vec![(name.to_owned(), Tensor::new(shape, values).unwrap())]
}

#[test]
fn indices_are_what_a_caller_sees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/valid/gather_rows");
    let model = Model::load(read(&folder.join("model.onnx")), &NoFiles, &Limits::small()).unwrap();
    let rows = sample("i", &[2, 3], vec![1, 5, 5, 4, 1, 4]);
    let graph = quantise(&model, &[rows], &[], &Options::default())
        .unwrap()
        .graph;
    let spec = &graph.skeleton().input_specs()[0];
    assert_eq!(spec.dtype, DType::I64);
    let range = &graph.skeleton().inputs[0].1;
    assert_eq!((range.low, range.high), (0, 6));
    let indices = |values: [i64; 6]| {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorData::new("i", DType::I64, vec![2, 3], data).unwrap()
    };
    assert!(graph.infer(&[indices([0, 1, 2, 3, 4, 6])]).is_ok());
    // One that is not there has no nearest one.
    for bad in [7, -1, i64::MAX] {
        let error = graph.infer(&[indices([0, 0, 0, 0, 0, bad])]).unwrap_err();
        assert!(error.to_string().contains("0 to 6 exist"), "{error}");
    }
    let bad = sample("i", &[2, 3], vec![7; 6]);
    assert!(quantise(&model, &[bad], &[], &Options::default()).is_err());
}

#[test]
fn a_classifier_answers_with_an_index() {
    let model = sample_model("iris");
    let name = model.inputs()[0].name.clone();
    let flower = |seed| {
        let values = noise(seed, 4).iter().map(|v| v * 6.0).collect();
        vec![(name.clone(), Tensor::new(&[1, 4], values).unwrap())]
    };
    let flowers: Vec<Sample> = (0..40).map(flower).collect();
    let quantised = quantise(&model, &flowers[..8], &flowers[8..], &Options::default()).unwrap();
    let outputs = quantised.graph.skeleton().output_specs();
    let index = outputs.iter().position(|o| o.dtype == DType::I64).unwrap();
    let accuracy = &quantised.accuracy.outputs[index];
    assert!(accuracy.relative < 0.1, "{accuracy:?}");
}

#[test]
fn samples_that_do_not_fit_are_refused() {
    let model = sample_model("digits");
    assert!(quantise(&model, &[], &[], &Options::default()).is_err());
    let wrong = vec![("picture".to_owned(), Tensor::new(&[1], vec![0f32]).unwrap())];
    assert!(quantise(&model, &[wrong], &[], &Options::default()).is_err());
}

fn straight(source: Source, axes: &[usize]) -> View {
    let factors = axes.iter().enumerate().map(|(dim, &axis)| Factor {
        axes: vec![axis],
        dims: vec![dim],
        relation: Relation::Identity,
    });
    View {
        source,
        factors: factors.collect(),
    }
}

/// y = T[(w · x + offset) >> shift], and y as the output.
fn layer(weight: i32, top: i32, shift: u32, offset: i32) -> Result<IntegerGraph, IntegerError> {
    let range = |shape: &[usize], top: i32| TensorRange {
        shape: shape.to_vec(),
        low: -top,
        high: top,
    };
    let port = |name: &str| Port::real(name, 1.0);
    let expression = Expression {
        shape: vec![2],
        terms: vec![Term::Product {
            coefficient: 1,
            left: straight(Source::Input(0), &[1]),
            right: straight(Source::Constant(0), &[0, 1]),
            contracted: vec![3],
        }],
    };
    let skeleton = Skeleton {
        inputs: vec![(port("x"), range(&[3], top))],
        constants: vec![range(&[2, 3], 127)],
        tables: vec![Table {
            entries: (0..256).map(|i| i - 128).collect(),
        }],
        nodes: vec![Node {
            label: "the layer".into(),
            expression,
            offset,
            shift,
            table: 0,
        }],
        outputs: vec![(
            port("y"),
            Expression {
                shape: vec![2],
                terms: vec![Term::Linear {
                    coefficient: 1,
                    view: straight(Source::Node(0), &[0]),
                }],
            },
        )],
    };
    IntegerGraph::new(skeleton, vec![vec![weight, 1, 2, 3, 4, 5]])
}

#[test]
fn sums_round_as_specified() {
    // 10 · 7 + 1 · −20 + 2 · 3 = 56; 3 · 7 − 4 · 20 + 5 · 3 = −44
    let graph = layer(10, 100, 4, 128 * 16 + 8).unwrap();
    let trace = graph.run(&[vec![7, -20, 3]], 1).unwrap();
    assert_eq!(trace.sums[0], [2056 + 56, 2056 - 44]);
    // (56 + 8) >> 4 = 4; (−44 + 8) >> 4 = −3, towards minus infinity
    assert_eq!(trace.values[0], [4, -3]);
    assert_eq!(trace.outputs[0], [4, -3]);
}

#[test]
fn what_could_overflow_is_refused_with_place_and_bounds() {
    // |10 · x| + |x| + |2x| ≤ 1300 fits 256 entries of 16; at 127 · x it does not.
    assert!(layer(10, 100, 4, 2056).is_ok());
    let Err(IntegerError::Overflow {
        place,
        low,
        high,
        floor,
        ceiling,
    }) = layer(127, 100, 4, 2056)
    else {
        panic!("accepted");
    };
    assert_eq!((place.as_str(), low, high), ("the layer", -13_000, 13_000));
    assert_eq!((floor, ceiling), (-2056, 4095 - 2056));
    // An offset too small for the most negative sum.
    assert!(layer(10, 100, 4, 100).is_err());
}

#[test]
fn inputs_out_of_range_are_refused() {
    let graph = layer(10, 100, 4, 2056).unwrap();
    for input in [vec![101, 0, 0], vec![0, 0], vec![0; 4]] {
        let error = graph.run(&[input], 1).unwrap_err();
        assert!(matches!(error, IntegerError::Input { .. }), "{error}");
    }
    assert!(graph.run(&[], 1).is_err());
}

#[test]
fn encodings_are_canonical() {
    let graph = layer(10, 100, 4, 2056).unwrap();
    let bytes = graph.to_bytes();
    assert_eq!(IntegerGraph::from_bytes(&bytes).unwrap(), graph);
    // What is read back from changed bytes is another graph, with another digest, or nothing.
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            if let Ok(other) = IntegerGraph::from_bytes(&changed) {
                assert_ne!(other.digest(), graph.digest());
                assert_eq!(other.to_bytes(), changed, "byte {place}, bit {bit}");
            }
        }
        assert!(IntegerGraph::from_bytes(&bytes[..place]).is_err());
    }
    assert!(IntegerGraph::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    // A change of this is a change of the format.
    assert_eq!(
        graph.digest().to_string(),
        include_str!("../data/integer.golden").trim_end()
    );
}

/// Operator fixtures that have an integer form.
const QUANTISED: [&str; 64] = [
    "add_both_broadcast",
    "add_row",
    "add_same",
    "add_scalar",
    "argmax_first_of_ties",
    "argmax_last",
    "argmax_last_of_ties",
    "averagepool_1d",
    "averagepool_pads_included",
    "averagepool_plain",
    "batchnorm_2d",
    "batchnorm_flat",
    "clip_both",
    "concat_last",
    "concat_middle",
    "conv_1d",
    "conv_1d_dilated_groups",
    "conv_depthwise",
    "conv_depthwise_multiplier",
    "conv_dilations",
    "conv_everything",
    "conv_groups",
    "conv_no_bias",
    "conv_pads_asymmetric",
    "conv_plain",
    "conv_pointwise",
    "conv_same_lower",
    "conv_same_upper",
    "conv_strides",
    "conv_valid",
    "flatten_default",
    "gather_rows",
    "gelu_exact",
    "gelu_tanh",
    "gemm_plain",
    "gemm_transposed_b",
    "gemm_without_c",
    "globalaveragepool_2d",
    "globalmaxpool_2d",
    "hardswish",
    "layernorm_last",
    "layernorm_without_bias",
    "leakyrelu",
    "matmul_2d",
    "matmul_batched",
    "matmul_broadcast",
    "maxpool_1d",
    "maxpool_pads",
    "maxpool_plain",
    "mul_same",
    "network_mlp",
    "network_residual_cnn",
    "network_transformer_block",
    "pad_default_zero",
    "reducemean_last",
    "reducesum_last",
    "relu",
    "reshape_to_vector",
    "sigmoid",
    "slice_steps",
    "softmax_last",
    "split_sizes",
    "sub_broadcast_left",
    "transpose_perm",
];

/// Relative distance of the outputs of a fixture, quantised on its own input.
fn distance(name: &str) -> Result<f64, String> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/valid")
        .join(name);
    let model = Model::load(read(&folder.join("model.onnx")), &NoFiles, &Limits::small()).unwrap();
    let case = json(&folder.join("case.json"));
    let sample: Sample = case["inputs"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), tensor(value)))
        .collect();
    let quantised =
        quantise(&model, &[sample], &[], &Options::default()).map_err(|e| e.to_string())?;
    let bytes = quantised.graph.to_bytes();
    assert_eq!(IntegerGraph::from_bytes(&bytes).unwrap(), quantised.graph);
    let outputs = quantised.accuracy.outputs.iter();
    Ok(outputs.map(|o| o.relative).fold(0.0, f64::max))
}

#[test]
fn operators_are_quantised_closely() {
    let mut failures = Vec::new();
    for name in QUANTISED {
        match distance(name) {
            Ok(relative) if relative < 0.05 => {}
            Ok(relative) => failures.push(format!("{name}: {relative:.3}")),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
