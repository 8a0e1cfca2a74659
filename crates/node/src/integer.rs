//! Quantised models as manifests describe them: made from an integer graph, and loaded again from a content store.

use lemma_graph::{
    compute_units,
    integer::{IntegerError, IntegerGraph, MAX_BYTES},
};
use lemma_proof::{Evidence, Model, Profile, ProveError, on_threads, prove_inference};
use lemma_store::BlobStore;
use lemma_types::{
    Digest, Manifest,
    manifest::{File, Format},
    tensor::TensorData,
};

use crate::model::{Derived, LoadError, Terms, read};

/// How the path of an integer graph ends.
pub const EXTENSION: &str = ".integer";

/// Why a file is no quantised model.
#[derive(Debug, thiserror::Error)]
pub enum IntegerModelError {
    /// The graph.
    #[error(transparent)]
    Graph(#[from] IntegerError),
    /// Its registration.
    #[error(transparent)]
    Registration(#[from] ProveError),
}

/// Reads an integer graph and registers it with the proof system: derives the root that its proofs name.
///
/// # Errors
/// What is wrong with the graph.
pub fn register(bytes: &[u8]) -> Result<Model, IntegerModelError> {
    Ok(Model::register(IntegerGraph::from_bytes(bytes)?)?)
}

/// The root of a model's graph, as manifests name it.
#[must_use]
pub fn graph_root(model: &Model) -> Digest {
    Digest::new(model.root())
}

/// Makes the manifest of a quantised model. The first of `files` whose path ends in [`EXTENSION`] must be the model's.
///
/// # Errors
/// [`LoadError::Manifest`] if a path or text is not acceptable.
pub fn manifest(model: &Model, files: Vec<File>, terms: Terms) -> Result<Manifest, LoadError> {
    derived(model).manifest(Format::Integer, files, terms)
}

fn derived(model: &Model) -> Derived {
    let skeleton = model.graph().skeleton();
    Derived {
        graph_root: graph_root(model),
        inputs: skeleton.input_specs(),
        outputs: skeleton.output_specs(),
        compute_units: compute_units(skeleton.operations()),
    }
}

/// Loads a quantised model whose file is in the store, derives everything that the manifest states, and refuses any
/// difference. Registers it: from then on it can be proved.
pub(crate) fn load(manifest: &Manifest, store: &BlobStore) -> Result<Model, LoadError> {
    let file = manifest
        .files
        .iter()
        .find(|file| file.path.ends_with(EXTENSION))
        .ok_or(LoadError::NoModel)?;
    if file.size > MAX_BYTES as u64 {
        return Err(LoadError::TooLarge {
            size: file.size,
            limit: MAX_BYTES as u64,
        });
    }
    let model = register(&read(store, file)?)?;
    derived(&model).check(manifest)?;
    Ok(model)
}

/// Runs a model on real inputs and proves it: the outputs, and the evidence in bytes.
///
/// # Errors
/// What does not fit.
pub(crate) fn prove(
    model: &Model,
    inputs: &[TensorData],
) -> Result<(Vec<TensorData>, Vec<u8>), IntegerModelError> {
    let skeleton = model.graph().skeleton();
    let rounded = skeleton.round(inputs)?;
    // On one thread, as every request: proofs do not take the other requests' processors.
    let proved = on_threads(1, || {
        prove_inference(model, rounded.inputs, rounded.samples, Profile::default())
    });
    let (statement, proof) = proved?;
    let outputs = skeleton.real_outputs(&statement.outputs, statement.samples)?;
    let evidence = Evidence {
        key: model.key().clone(),
        statement,
        proof,
    };
    Ok((outputs, evidence.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &[u8] = include_bytes!("../../../models/digits-int8/model.integer");

    #[test]
    fn a_quantised_model_loads_only_as_its_manifest_states_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let file = File {
            path: "model.integer".to_owned(),
            size: DIGITS.len() as u64,
            blake3: store.put_bytes(DIGITS).unwrap(),
        };
        let model = register(DIGITS).unwrap();
        let honest = manifest(&model, vec![file], Terms::default()).unwrap();
        assert_eq!(load(&honest, &store).unwrap().root(), model.root());

        type Lie = fn(&mut Manifest);
        let lies: [(&str, Lie); 4] = [
            ("graph_root", |m| m.graph_root = Digest::of(b"other")),
            ("inputs", |m| m.inputs[0].name.push('x')),
            ("outputs", |m| m.outputs.clear()),
            ("compute_units", |m| m.compute_units += 1),
        ];
        for (field, lie) in lies {
            let mut manifest = honest.clone();
            lie(&mut manifest);
            assert!(
                matches!(load(&manifest, &store), Err(LoadError::Mismatch { field: found, .. }) if found == field),
                "{field}"
            );
        }
        let mut other = honest.clone();
        other.files[0].path = "model.onnx".to_owned();
        assert!(matches!(load(&other, &store), Err(LoadError::NoModel)));
    }
}
