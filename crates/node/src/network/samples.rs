//! Publishes sample models, as their author would.

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lemma_graph::{Limits, Model, NoFiles};
use lemma_ledger::modules::{MODELS, abi::ILemmaModels};
use lemma_types::{Digest, ModelName, manifest::File};

use super::{NetworkError, layout::Layout};
use crate::{Gateway, ledger::Account, model};

/// A model that a new network publishes.
#[derive(Clone, Debug)]
pub struct SampleModel {
    /// Its name on the ledger.
    pub name: ModelName,
    /// The ONNX file.
    pub onnx: &'static [u8],
    /// Description and licences for the manifest.
    pub description: &'static str,
    /// SPDX expression of the model's licence.
    pub licence: &'static str,
    /// SPDX expression of the outputs' licence.
    pub output_licence: &'static str,
    /// Files that are laid beside it in `samples/<name>/` of the data directory: (file name, content).
    pub examples: Vec<(&'static str, &'static [u8])>,
}

/// Makes sure that the sample is in the store, its examples in the data directory, and its name on the ledger. A name that
/// is there already stays as it is.
pub(super) async fn publish(
    sample: &SampleModel,
    layout: &Layout,
    gateway: &Gateway,
    author: &Account,
) -> Result<(), NetworkError> {
    let failed = |reason: String| NetworkError::Sample {
        name: sample.name.to_string(),
        reason,
    };
    let folder = layout.sample(&sample.name);
    layout.write_sample(&folder, "model.onnx", sample.onnx)?;
    for (name, content) in &sample.examples {
        layout.write_sample(&folder, name, content)?;
    }
    let manifest = manifest(sample).map_err(failed)?;
    let store = gateway.store().clone();
    let onnx = sample.onnx;
    let stored = tokio::task::spawn_blocking(move || store.put_bytes(onnx)).await;
    stored
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let root = gateway
        .publish(&manifest)
        .await
        .map_err(|error| failed(error.to_string()))?;

    let known = gateway.ledger().resolve(&sample.name).await;
    if known.map_err(|error| failed(error.to_string()))?.is_some() {
        return Ok(());
    }
    let call = ILemmaModels::registerCall {
        name: sample.name.to_string(),
        manifest: root.to_b256(),
    };
    let sent = author
        .send(MODELS, U256::ZERO, call.abi_encode().into())
        .await;
    let sent = sent.map_err(|error| failed(error.to_string()))?;
    tracing::info!(model = %sample.name, root = %root.short(), height = sent.height, "sample model published");
    Ok(())
}

fn manifest(sample: &SampleModel) -> Result<Vec<u8>, String> {
    let model =
        Model::load(sample.onnx, &NoFiles, &Limits::small()).map_err(|error| error.to_string())?;
    let file = File {
        path: "model.onnx".to_owned(),
        size: sample.onnx.len() as u64,
        blake3: Digest::of(sample.onnx),
    };
    let terms = model::Terms {
        description: sample.description.to_owned(),
        licence: sample.licence.to_owned(),
        output_licence: sample.output_licence.to_owned(),
        ..model::Terms::default()
    };
    let manifest = model::manifest(&model, vec![file], terms).map_err(|error| error.to_string())?;
    Ok(manifest.encode())
}
