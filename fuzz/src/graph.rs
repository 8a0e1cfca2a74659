//! Decoders of `lemma-graph`.

use lemma_graph::integer::Skeleton;
use lemma_graph::io::{npy, oip};
use lemma_graph::{Isa, Limits, Model, NoFiles, RunOptions, Tensor};
use lemma_types::tensor::{Dim, TensorData};

/// ONNX models: what imports has a root that importing again finds, and runs on small inputs or says why not, on every
/// instruction set to the same bits.
pub fn onnx(data: &[u8]) -> bool {
    let limits = Limits {
        constant_bytes: 4 << 20,
        constant_operations: 10_000_000,
        elements: 1 << 20,
        nodes: 1_000,
        ..Limits::small()
    };
    let Ok(model) = Model::load(data, &NoFiles, &limits) else {
        return false;
    };
    assert_eq!(
        lemma_graph::import(data, &NoFiles, &limits),
        Ok(model.root())
    );
    let Some(inputs) = inputs(&model) else {
        return true;
    };
    let run = |isa| {
        let options = RunOptions {
            isa,
            memory: 4 << 20,
            cost: 10_000_000,
            ..RunOptions::default()
        };
        model.infer(&inputs, &options)
    };
    let result = run(Isa::PORTABLE);
    assert_eq!(run(Isa::detect()), result);
    if let Ok(outputs) = result {
        assert_eq!(outputs.len(), model.outputs().len());
    }
    true
}

/// Inputs of small numbers with every symbol 2, unless they are large.
fn inputs(model: &Model) -> Option<Vec<TensorData>> {
    let tensor = |spec: &lemma_types::tensor::TensorSpec| {
        let shape: Vec<u64> = spec
            .shape
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Symbol(_) => 2,
            })
            .collect();
        let bytes = shape
            .iter()
            .try_fold(spec.dtype.size() as u64, |n, d| n.checked_mul(*d))
            .filter(|&n| n <= 1 << 16)?;
        let data = (0..bytes).map(|i| (i % 2) as u8).collect();
        TensorData::new(&*spec.name, spec.dtype, shape, data).ok()
    };
    model.inputs().iter().map(tensor).collect()
}

/// `.npy` files: what is read is written and read again as the same tensor.
pub fn npy(data: &[u8]) -> bool {
    let Ok(tensor) = npy::read("x", data) else {
        return false;
    };
    let again = npy::write(&tensor).and_then(|file| npy::read("x", &file));
    assert_eq!(again, Ok(tensor));
    true
}

/// Inputs in JSON: what is read is finite, and survives the way through JSON.
pub fn oip(data: &[u8]) -> bool {
    let Ok(tensors) = oip::read_inputs(data) else {
        return false;
    };
    for tensor in tensors {
        let text =
            serde_json::to_string(&oip::AsJson(&tensor)).expect("numbers of JSON are finite");
        let json: oip::JsonTensor = serde_json::from_str(&text).expect("what was written is read");
        let again = TensorData::try_from(json).expect("what was written is a tensor");
        assert_eq!(again, tensor);
        assert!(Tensor::from_data(&tensor).is_ok());
    }
    true
}

/// Integer graphs without their constants: what is read is written in the same bytes.
pub fn integer_graph(data: &[u8]) -> bool {
    let Ok(skeleton) = Skeleton::from_bytes(data) else {
        return false;
    };
    assert_eq!(skeleton.to_bytes(), data);
    true
}
