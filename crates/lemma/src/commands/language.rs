//! Language models on this machine's disk: told apart, described, replayed.

use std::path::Path;

use lemma_graph::NUMERIC_SPEC_VERSION;
use lemma_llm::Compute;
use lemma_node::{
    files::ModelFiles,
    language::{LanguageModel, manifest},
};
use lemma_types::{Digest, Manifest, manifest::Format, text::Transcript};
use lemma_verify::{Recompute, Replayed};

use super::{
    folder::{self, compute},
    push::{Terms, describe_file, folder_of},
};
use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    text::harmless,
};

/// Files of a model folder beside its weights.
pub(super) const FOLDER: [&str; 4] = [
    "chat_template.jinja",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The format of the language model at `path`; `None` if it is none.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    if folder::is_gguf(path) {
        return Some(Format::Gguf);
    }
    path.join("config.json")
        .is_file()
        .then_some(Format::Safetensors)
}

/// The names of its files within their folder, sorted.
fn names(path: &Path, format: Format) -> CommandResult<Vec<String>> {
    if format != Format::Gguf {
        return folder::names(path, &FOLDER);
    }
    Ok(vec![folder::file_name(path)?])
}

/// Its files; weights are mapped.
pub(super) fn open_files(path: &Path, format: Format) -> CommandResult<ModelFiles> {
    folder::open(&folder_of(path), names(path, format)?)
}

fn load(path: &Path, format: Format, compute: &Compute) -> CommandResult<LanguageModel> {
    let files = open_files(path, format)?;
    LanguageModel::load(format, &files, compute).map_err(|error| {
        CommandError::failed(format!("can not import {}", path.display()))
            .cause(harmless(&error.to_string()))
    })
}

/// Loads a language model and describes it.
pub(super) fn derive(path: &Path, format: Format, terms: &Terms) -> CommandResult<Manifest> {
    let language = load(path, format, &compute())?;
    let folder = folder_of(path);
    let files = names(path, format)?
        .iter()
        .map(|name| describe_file(&folder, name))
        .collect::<CommandResult<_>>()?;
    manifest(&language, format, files, terms.stated()).context(ExitCode::Failed, || {
        format!("can not import {}", path.display())
    })
}

/// Replays a transcript with the model at `path`. Whether it is the one with root `expected` is for the verifier to say.
pub(super) fn replay(
    path: &Path,
    expected: Digest,
    transcript: &Transcript,
) -> CommandResult<Recompute> {
    let Some(format) = format_of(path) else {
        return Ok(Recompute::Unable(format!(
            "{} is no language model: expected a GGUF file, or a folder with config.json",
            path.display()
        )));
    };
    let compute = compute();
    let language = load(path, format, &compute)?;
    let done = |difference| {
        Recompute::Replayed(Replayed {
            graph_root: language.root(),
            numeric_spec: NUMERIC_SPEC_VERSION,
            difference,
        })
    };
    Ok(match language.replay(transcript, &compute) {
        Ok(difference) => done(difference),
        // Another model need not be able to; that it is another one is what matters.
        Err(reason) if language.root() != expected => done(Some(harmless(&reason))),
        Err(reason) => Recompute::Unable(harmless(&reason)),
    })
}
