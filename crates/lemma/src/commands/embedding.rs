//! Embedding models on this machine's disk: told apart, described, run again.

use std::{fs, path::Path, thread};

use lemma_llm::Compute;
pub(super) use lemma_node::embedding::POOLING;
use lemma_node::embedding::{self, Embedder};
use lemma_types::{Digest, Manifest, tensor::TensorData};
use lemma_verify::Recompute;

use super::{
    push::{Terms, describe_file},
    verify::recomputed,
};
use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    text::harmless,
};

/// Whether the path is that of a folder with an embedding model.
pub(super) fn is_one(path: &Path) -> bool {
    fs::read(path.join("config.json")).is_ok_and(|config| embedding::is_one(&config))
}

/// The names of its files within the folder.
fn names(path: &Path) -> CommandResult<Vec<String>> {
    let cannot = || format!("can not read {}", path.display());
    let fixed = ["config.json", "tokenizer.json", POOLING];
    let mut names: Vec<String> = fixed
        .iter()
        .filter(|name| path.join(name).is_file())
        .map(|name| (*name).to_owned())
        .collect();
    for entry in fs::read_dir(path).context(ExitCode::NotFound, cannot)? {
        let name = entry.context(ExitCode::Failed, cannot)?.file_name();
        if let Some(name) = name.to_str()
            && name.ends_with(".safetensors")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn load(path: &Path) -> CommandResult<Embedder> {
    let mut files = Vec::new();
    for name in names(path)? {
        let file = path.join(&name);
        let bytes = fs::read(&file).context(ExitCode::NotFound, || {
            format!("can not read {}", file.display())
        })?;
        files.push((name, bytes));
    }
    Embedder::load(&files).map_err(|error| {
        CommandError::failed(format!("can not import {}", path.display()))
            .cause(harmless(&error.to_string()))
    })
}

/// Loads an embedding model and describes it.
pub(super) fn derive(path: &Path, terms: &Terms) -> CommandResult<Manifest> {
    let model = load(path)?;
    let files = names(path)?;
    let files = files.iter().map(|name| describe_file(path, name));
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
    // All cores: how many changes no bit.
    let compute = Compute::new(thread::available_parallelism().map_or(1, usize::from));
    let outputs = model.infer(inputs, &compute);
    let outputs = outputs.map_err(|error| error.to_string());
    Ok(recomputed(model.root(), expected, outputs))
}
