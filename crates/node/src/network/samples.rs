//! Publishes sample models, as their author would.

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lemma_graph::{Limits, Model, NoFiles};
use lemma_ledger::modules::{MODELS, abi::ILemmaModels};
use lemma_llm::Compute;
use lemma_types::{
    Digest, ModelName,
    manifest::{File, Format},
    upstream::UpstreamModel,
};

use super::{NetworkError, layout::Layout};
use crate::{
    Gateway,
    files::ModelFiles,
    integer,
    language::{self, LanguageModel},
    ledger::Account,
    model,
    worker::UpstreamConfig,
};

/// A model that a new network publishes.
#[derive(Clone, Debug)]
pub struct SampleModel {
    /// Its name on the ledger.
    pub name: ModelName,
    /// Its format, one whose models are a single file.
    pub format: Format,
    /// The file.
    pub content: &'static [u8],
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
    let failed = |reason: String| failed(&sample.name, reason);
    let folder = layout.sample(&sample.name);
    layout.write_sample(&folder, file_name(sample.format), sample.content)?;
    for (name, content) in &sample.examples {
        layout.write_sample(&folder, name, content)?;
    }
    let manifest = manifest(sample).map_err(failed)?;
    register(
        &sample.name,
        sample.content.to_vec(),
        manifest,
        gateway,
        author,
    )
    .await
}

/// Makes sure that the model of an upstream server has its name on the ledger. A name that is there already stays as it is.
pub(super) async fn publish_upstream(
    name: &ModelName,
    upstream: &UpstreamConfig,
    gateway: &Gateway,
    author: &Account,
) -> Result<(), NetworkError> {
    let model = UpstreamModel::new(&upstream.model);
    let model = model.map_err(|error| failed(name, error.to_string()))?;
    let terms = model::Terms {
        description: format!(
            "`{}` of another server: which model answers is not known",
            upstream.model
        ),
        ..model::Terms::default()
    };
    let manifest = model::upstream_manifest(&model, terms);
    let manifest = manifest.map_err(|error| failed(name, error.to_string()))?;
    register(name, model.encode(), manifest.encode(), gateway, author).await
}

fn failed(name: &ModelName, reason: String) -> NetworkError {
    let name = name.to_string();
    NetworkError::Sample { name, reason }
}

/// Puts a model of one file into the store and its name on the ledger.
async fn register(
    name: &ModelName,
    content: Vec<u8>,
    manifest: Vec<u8>,
    gateway: &Gateway,
    author: &Account,
) -> Result<(), NetworkError> {
    let failed = |reason: String| failed(name, reason);
    let store = gateway.store().clone();
    let stored = tokio::task::spawn_blocking(move || store.put_bytes(&content)).await;
    stored
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let root = gateway
        .publish(&manifest)
        .await
        .map_err(|error| failed(error.to_string()))?;

    let known = gateway.ledger().resolve(name).await;
    if known.map_err(|error| failed(error.to_string()))?.is_some() {
        return Ok(());
    }
    let call = ILemmaModels::registerCall {
        name: name.to_string(),
        manifest: root.to_b256(),
    };
    let sent = author
        .send(MODELS, U256::ZERO, call.abi_encode().into())
        .await;
    let sent = match sent {
        Ok(sent) => sent,
        // On a busy machine a transaction can be sent once more after it has taken effect.
        Err(_) if matches!(gateway.ledger().resolve(name).await, Ok(Some(found)) if found.root == root) =>
        {
            return Ok(());
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    tracing::info!(model = %name, root = %root.short(), height = sent.height, "sample model published");
    Ok(())
}

const fn file_name(format: Format) -> &'static str {
    match format {
        Format::Onnx => "model.onnx",
        Format::Integer => "model.integer",
        Format::Gguf => "model.gguf",
        Format::Safetensors | Format::Embedding => "model.safetensors",
        Format::Upstream => UpstreamModel::PATH,
    }
}

fn manifest(sample: &SampleModel) -> Result<Vec<u8>, String> {
    let (format, content) = (sample.format, sample.content);
    let file = File {
        path: file_name(format).to_owned(),
        size: content.len() as u64,
        blake3: Digest::of(content),
    };
    let terms = model::Terms {
        description: sample.description.to_owned(),
        licence: sample.licence.to_owned(),
        output_licence: sample.output_licence.to_owned(),
        ..model::Terms::default()
    };
    let manifest = if format.is_text() {
        let files = ModelFiles::from_iter([(file.path.clone(), content.to_vec())]);
        let language = LanguageModel::load(format, &files, &Compute::new(1))
            .map_err(|error| error.to_string())?;
        language::manifest(&language, format, vec![file], terms)
    } else if format == Format::Integer {
        let model = integer::register(content).map_err(|error| error.to_string())?;
        integer::manifest(&model, vec![file], terms)
    } else {
        let model =
            Model::load(content, &NoFiles, &Limits::small()).map_err(|error| error.to_string())?;
        model::manifest(&model, vec![file], terms)
    };
    Ok(manifest.map_err(|error| error.to_string())?.encode())
}
