//! Memory and work follow from shapes, and are bounded before anything is done.

use crate::common::onnx::{Field, floats, ints, model, node, typed, value};
use lemma_graph::{Limits, Model, NoFiles, RunOptions, Tensor};
use lemma_types::tensor::{DType, TensorData};

fn load(graph: &[Field]) -> Model {
    Model::load(model(graph), &NoFiles, &Limits::small()).unwrap()
}

fn refusal(model: &Model, x: Tensor) -> String {
    let options = RunOptions {
        memory: 64 << 20,
        ..RunOptions::default()
    };
    model.run(&[("x", x)], &options).unwrap_err().to_string()
}

/// The padded input is 256 MiB, the output nine numbers.
#[test]
fn padding_that_only_the_stride_skips_counts_as_memory() {
    let huge = 4096;
    let window: [(&str, &[i64]); 3] = [
        ("pads", &[huge, huge, huge, huge]),
        ("strides", &[huge, huge]),
        ("kernel_shape", &[1, 1]),
    ];
    let conv = load(&[
        node("Conv", &["x", "w"], "y", &window),
        floats("w", &[1, 1, 1, 1], &[1.0]),
        value(11, "x", &[1, 1, 3, 3]),
        value(12, "y", &[1, 1, 3, 3]),
    ]);
    let x = Tensor::new(&[1, 1, 3, 3], vec![1f32; 9]).unwrap();
    assert!(refusal(&conv, x).contains("bytes of memory"));
}

/// The same with a constant for the input: then it is the import that would compute.
#[test]
fn constants_are_folded_within_limits() {
    let huge = 4096;
    let window: [(&str, &[i64]); 3] = [
        ("pads", &[huge, huge, huge, huge]),
        ("strides", &[huge, huge]),
        ("kernel_shape", &[1, 1]),
    ];
    let graph = [
        node("Conv", &["c", "w"], "y", &window),
        floats("w", &[1, 1, 1, 1], &[1.0]),
        floats("c", &[1, 1, 3, 3], &[1.0; 9]),
        value(12, "y", &[1, 1, 3, 3]),
    ];
    let error = Model::load(model(&graph), &NoFiles, &Limits::small())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bytes of constants") && error.contains("Conv"),
        "{error}"
    );
}

/// A thousand vectors of 2^14 numbers that all follow from one shape.
#[test]
fn values_from_shapes_are_not_kept_in_plans() {
    let mut graph = vec![
        node("Shape", &["x"], "v0", &[]),
        ints("many", &[1 << 14]),
        node("Expand", &["v0", "many"], "e0", &[]),
    ];
    for i in 0..1000 {
        let [from, to] = [format!("e{i}"), format!("e{}", i + 1)];
        graph.push(node("Add", &[&from, &from], &to, &[]));
    }
    graph.extend([
        node("Cast", &["e1000"], "y", &[]),
        value(11, "x", &[-1]),
        value(12, "y", &[1 << 14]),
    ]);
    // The attribute of Cast is one integer, not a list.
    let last = graph.len() - 3;
    let fields = [
        Field::Bytes(1, b"e1000".to_vec()),
        Field::Bytes(2, b"y".to_vec()),
        Field::Bytes(4, b"Cast".to_vec()),
        Field::Bytes(
            5,
            crate::common::onnx::encode(&[
                Field::Bytes(1, b"to".to_vec()),
                Field::Varint(20, 2),
                Field::Varint(3, 1),
            ]),
        ),
    ];
    graph[last] = Field::Bytes(1, crate::common::onnx::encode(&fields));
    let model = load(&graph);
    let run = |memory| {
        let options = RunOptions {
            memory,
            ..RunOptions::default()
        };
        let x = Tensor::vector(vec![0f32; 3]);
        model
            .run(&[("x", x)], &options)
            .map(|run| run.outputs[0].clone())
    };
    // Two vectors of 128 KiB live at a time, and the result.
    assert_eq!(run(300 << 10).unwrap().as_slice::<f32>().unwrap()[0], 0.0);
    assert!(run(200 << 10).is_err());
}

/// A column is packed into whole panels, many times its size: only as far as constants may grow.
#[test]
fn packing_stays_within_the_limit_on_constants() {
    let k = 1 << 16;
    let graph = [
        node("MatMul", &["x", "w"], "y", &[]),
        floats("w", &[k, 1], &vec![1.0; 1 << 16]),
        value(11, "x", &[-1, k]),
        value(12, "y", &[-1, 1]),
    ];
    let limits = Limits {
        constant_bytes: 1 << 19,
        ..Limits::small()
    };
    let model = Model::load(model(&graph), &NoFiles, &limits).unwrap();
    let run = |memory| {
        let options = RunOptions {
            memory,
            ..RunOptions::default()
        };
        let x = Tensor::new(&[1, 1 << 16], vec![1f32; 1 << 16]).unwrap();
        model
            .run(&[("x", x)], &options)
            .map(|run| run.outputs[0].as_slice::<f32>().unwrap().to_vec())
    };
    assert!(run(1 << 20).is_err());
    assert_eq!(run(32 << 20).unwrap(), [65536.0]);
}

/// A dimension of 0 makes the number of elements 0, and hides what the others would make of it.
#[test]
fn dimensions_that_overflow_beside_a_zero_are_refused() {
    let graph = [
        node("Relu", &["x"], "y", &[]),
        value(11, "x", &[0, -1, -1]),
        value(12, "y", &[0, -1, -1]),
    ];
    let model = load(&graph);
    for huge in [usize::MAX, 1 << 62] {
        assert!(model.cost(&[vec![0, huge, huge]]).is_err());
        assert!(Tensor::new(&[0, huge, huge], Vec::<f32>::new()).is_err());
        let data = TensorData::new(
            "x",
            DType::F32,
            vec![0, huge as u64, huge as u64],
            Vec::new(),
        );
        assert!(
            model
                .infer(&[data.unwrap()], &RunOptions::default())
                .is_err()
        );
    }
    assert_eq!(model.cost(&[vec![0, 3, 4]]), Ok(0));
}

/// Every shape that a caller may ask the cost of has an answer.
#[test]
fn the_cost_of_absurd_shapes_is_an_error_or_a_number() {
    let graph = [
        node("MatMul", &["x", "x"], "y", &[]),
        value(11, "x", &[-1, -1]),
        value(12, "y", &[-1, -1]),
    ];
    let model = load(&graph);
    assert!(model.cost(&[vec![usize::MAX, usize::MAX]]).is_err());
    assert!(model.cost(&[vec![1 << 31, 1 << 31]]).is_err());
    assert!(model.cost(&[vec![2]]).is_err());
    assert!(model.cost(&[]).is_err());
    assert!(model.cost(&[vec![2, 2], vec![2, 2]]).is_err());
    assert_eq!(model.cost(&[vec![1 << 20, 1 << 20]]), Ok(1 << 60));
}

/// A model that reshapes `x` to the shape `s`, which each run gives.
fn reshaping() -> Model {
    load(&[
        node("Reshape", &["x", "s"], "y", &[]),
        value(11, "x", &[2, 6]),
        typed(11, "s", 7, &[2]),
        value(12, "y", &[-1, -1]),
    ])
}

#[test]
fn what_depends_on_data_has_no_cost_beforehand_and_one_afterwards() {
    let model = reshaping();
    assert!(model.is_dynamic());
    let error = model.cost(&[vec![2, 6], vec![2]]).unwrap_err().to_string();
    assert!(error.contains("Reshape"), "{error}");
    let x = Tensor::new(&[2, 6], vec![1f32; 12]).unwrap();
    let shape = |a: i64, b: i64| Tensor::vector(vec![a, b]);
    let run = |s: Tensor| model.run(&[("x", x.clone()), ("s", s)], &RunOptions::default());
    assert_eq!(run(shape(3, -1)).unwrap().outputs[0].shape(), [3, 4]);
    assert_eq!(run(shape(-1, 2)).unwrap().outputs[0].shape(), [6, 2]);
    let error = run(shape(5, -1)).unwrap_err().to_string();
    assert!(error.contains("Reshape"), "{error}");
}

#[test]
fn a_run_whose_shapes_are_data_traces_and_counts_each_operator() {
    let model = reshaping();
    let x = Tensor::new(&[2, 6], vec![1f32; 12]).unwrap();
    let options = RunOptions {
        trace: true,
        ..RunOptions::default()
    };
    let inputs = [("x", x), ("s", Tensor::vector(vec![4i64, 3]))];
    let run = model.run(&inputs, &options).unwrap();
    assert_eq!(run.trace.unwrap(), [run.outputs[0].digest()]);
    assert_eq!(run.cost, 0);
}

#[test]
fn a_loop_without_an_end_takes_no_more_than_its_budget() {
    let folder = crate::common::fixtures("hostile")
        .into_iter()
        .find(|f| f.ends_with("loop_unbounded"))
        .unwrap();
    let bytes = crate::common::read(&folder.join("model.onnx"));
    let model = Model::load(bytes, &NoFiles, &Limits::small()).unwrap();
    let x = Tensor::new(&[1, 3], vec![1f32; 3]).unwrap();
    let options = RunOptions {
        cost: 1000,
        ..RunOptions::default()
    };
    let error = model.run(&[("x", x)], &options).unwrap_err().to_string();
    assert!(error.contains("1000 are allowed"), "{error}");
}
