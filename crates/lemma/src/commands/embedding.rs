//! Embedding models on this machine's disk: told apart, described, run again.

use std::{fs, path::Path};

pub(super) use lemma_node::embedding::POOLING;
use lemma_node::embedding::{self, Embedder};
use lemma_types::{Digest, Manifest, tensor::TensorData};
use lemma_verify::Recompute;

use super::{
    folder,
    push::{Terms, describe_file, folder_of},
    verify::recomputed,
};
use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    text::harmless,
};

/// Whether an embedding model is at the path: a GGUF file, or a folder.
pub(super) fn is_one(path: &Path) -> bool {
    if folder::is_gguf(path) {
        return names(path)
            .and_then(|names| folder::open(&folder_of(path), names))
            .is_ok_and(|files| embedding::are_of_one(&files));
    }
    fs::read(path.join("config.json")).is_ok_and(|config| embedding::is_one(&config))
}

/// The names of its files within their folder.
fn names(path: &Path) -> CommandResult<Vec<String>> {
    if folder::is_gguf(path) {
        return Ok(vec![folder::file_name(path)?]);
    }
    let mut names = folder::names(path, &["config.json", "tokenizer.json"])?;
    if path.join(POOLING).is_file() {
        names.push(POOLING.to_owned());
    }
    Ok(names)
}

fn load(path: &Path) -> CommandResult<Embedder> {
    let files = folder::open(&folder_of(path), names(path)?)?;
    Embedder::load(&files).map_err(|error| {
        CommandError::failed(format!("can not import {}", path.display()))
            .cause(harmless(&error.to_string()))
    })
}

/// Loads an embedding model and describes it.
pub(super) fn derive(path: &Path, terms: &Terms) -> CommandResult<Manifest> {
    let model = load(path)?;
    let (folder, files) = (folder_of(path), names(path)?);
    let files = files.iter().map(|name| describe_file(&folder, name));
    let files = files.collect::<CommandResult<_>>()?;
    embedding::manifest(&model, files, terms.stated()).context(ExitCode::Failed, || {
        format!("can not import {}", path.display())
    })
}

/// Embeds again. Whether the model is the one with root `expected` is for the verifier to say.
pub(super) fn recompute(
    path: &Path,
    expected: Digest,
    inputs: &[TensorData],
) -> CommandResult<Recompute> {
    let model = load(path)?;
    let outputs = model.infer(inputs, &folder::compute());
    let outputs = outputs.map_err(|error| error.to_string());
    Ok(recomputed(model.root(), expected, outputs))
}
