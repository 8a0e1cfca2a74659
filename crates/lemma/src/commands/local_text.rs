//! `lemma infer --local MODEL --tokens …`: a language model on this machine, token by token, with no network and no receipt.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lemma_llm::{
    Cache, Chunk, Compute, Model, Scratch,
    engine::{Engine, Event, Limits, Request},
    sampling::Sampling,
};
use lemma_node::language::weights;
use lemma_types::tensor::{DType, TensorData};
use serde::Serialize;

use super::{
    language::{format_of, open_files},
    local::{Cost, measured, no_receipt, write_arrays},
};
use crate::{
    cli::Infer,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    shell::Shell,
    text::{harmless, size},
    usage,
};

/// Positions in a page of the cache.
const PAGE: usize = 16;

/// What was done, for programs.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    threads: usize,
    tokens: usize,
    vocabulary: usize,
    load: Cost,
    /// Forward passes over all tokens, one for each repetition; none if no logits were asked for.
    runs: &'a [Cost],
    #[serde(skip_serializing_if = "Option::is_none")]
    generated: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Cost>,
    /// Absent where the operating system does not tell.
    peak_memory_bytes: Option<u64>,
    files: Vec<PathBuf>,
}

/// Loads a language model, writes the logits of every position, and continues the tokens, as asked.
pub(super) fn run(arguments: &Infer, tokens: &[u32], shell: &mut Shell) -> CommandResult {
    let local = &arguments.local;
    if local.output_dir.is_none() && local.generate.is_none() {
        return Err(CommandError::new(ExitCode::Usage, "nothing is asked of the tokens")
            .hint("--output-dir DIR writes the logits of every position, --generate N goes on with N tokens"));
    }
    let compute = Compute::new(local.threads.get());
    let (model, load) = super::local::measured(|| load(Path::new(&arguments.model), &compute))?;
    check(&model, tokens)?;
    let mut runs = Vec::new();
    let mut files = Vec::new();
    if let Some(directory) = &local.output_dir {
        fits(&model, tokens, local.max_memory.0)?;
        let mut logits = None;
        for _ in 0..local.repeat.get() {
            let (found, cost) = measured(|| forward(&model, &compute, tokens))?;
            logits = Some(found);
            runs.push(cost);
        }
        files = write_arrays(directory, logits.as_slice())?;
    }
    let generated = match local.generate {
        Some(count) => {
            let sampling = match local.seed {
                Some(seed) => Sampling {
                    seed,
                    ..Sampling::default()
                },
                None => Sampling::greedy(),
            };
            let request = Request::new(&model, tokens.to_vec(), count.get(), sampling);
            Some(measured(|| generate(&model, compute, request))?)
        }
        None => None,
    };
    let document = Document {
        model: &arguments.model,
        threads: local.threads.get(),
        tokens: tokens.len(),
        vocabulary: model.config().vocab,
        load,
        runs: &runs,
        generated: generated.as_ref().map(|(tokens, _)| tokens.as_slice()),
        generation: generated.as_ref().map(|(_, cost)| *cost),
        peak_memory_bytes: usage::peak_memory(),
        files,
    };
    if shell.json() {
        return shell.document(&document);
    }
    show(&document, shell)
}

fn load(path: &Path, compute: &Compute) -> CommandResult<Arc<Model>> {
    let format = format_of(path).ok_or_else(|| {
        let message = format!("{} is no language model", path.display());
        CommandError::new(ExitCode::Usage, message)
            .hint("--tokens is for a GGUF file, or a folder with config.json and safetensors files")
    })?;
    let files = open_files(path, format)?;
    let cannot = || format!("can not run {}", path.display());
    weights(format, &files, compute)
        .map(Arc::new)
        .map_err(|error| CommandError::failed(cannot()).cause(harmless(&error.to_string())))
}

fn check(model: &Model, tokens: &[u32]) -> CommandResult {
    let (vocabulary, context) = (model.config().vocab, model.config().context);
    let wrong = |cause: String| {
        Err(CommandError::failed("the model does not run on these tokens").cause(cause))
    };
    if tokens.len() > context {
        return wrong(format!(
            "{} tokens, its context has {context}",
            tokens.len()
        ));
    }
    match tokens.iter().find(|token| **token as usize >= vocabulary) {
        Some(token) => wrong(format!("token {token}, its vocabulary has {vocabulary}")),
        None => Ok(()),
    }
}

/// Refuses what would hold more memory than allowed: logits of all positions, as floats and as a file, and the cache.
fn fits(model: &Model, tokens: &[u32], limit: u64) -> CommandResult {
    let config = model.config();
    let logits = (tokens.len() as u64).saturating_mul(config.vocab as u64 * 4);
    let cache = tokens.len().div_ceil(PAGE) as u64 * Cache::page_bytes(config) as u64;
    let needed = logits.saturating_mul(3).saturating_add(cache);
    if needed <= limit {
        return Ok(());
    }
    Err(
        CommandError::failed("the logits of so many tokens do not fit")
            .cause(format!(
                "{} are needed, {} allowed",
                size(needed),
                size(limit)
            ))
            .hint("allow more with --max-memory"),
    )
}

fn forward(model: &Model, compute: &Compute, tokens: &[u32]) -> CommandResult<TensorData> {
    let mut cache = Cache::new(model.config(), tokens.len().div_ceil(PAGE));
    let pages: Vec<_> = cache.ids().collect();
    let mut scratch = Scratch::default();
    let chunk = Chunk {
        tokens,
        position: 0,
        pages: &pages,
        logits: tokens.len(),
    };
    let logits = model.forward(compute, &mut cache, &[chunk], &mut scratch);
    let bytes = logits
        .iter()
        .flat_map(|logit| logit.to_le_bytes())
        .collect();
    let shape = vec![tokens.len() as u64, model.config().vocab as u64];
    TensorData::new("logits", DType::F32, shape, bytes)
        .context(ExitCode::Internal, || "the logits are no tensor".to_owned())
}

fn generate(model: &Arc<Model>, compute: Compute, request: Request) -> CommandResult<Vec<u32>> {
    let failed = |reason: String| {
        CommandError::failed("the model does not go on from these tokens").cause(harmless(&reason))
    };
    let mut engine = Engine::new(Arc::clone(model), compute, None, Limits::default());
    engine
        .submit(request)
        .map_err(|error| failed(error.to_string()))?;
    let mut tokens = Vec::new();
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Token { choice, .. } => tokens.push(choice.token),
                Event::Finished { .. } => {}
                Event::Failed { error, .. } => return Err(failed(error.to_string())),
            }
        }
    }
    Ok(tokens)
}

fn show(document: &Document, shell: &mut Shell) -> CommandResult {
    for file in &document.files {
        shell.line(file.display())?;
    }
    if let Some(tokens) = document.generated {
        let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
        shell.line(tokens.join(","))?;
    }
    shell.note(format_args!("load {}", document.load));
    for (index, run) in document.runs.iter().enumerate() {
        shell.note(format_args!("run {} {run}", index + 1));
    }
    if let Some(cost) = document.generation {
        shell.note(format_args!("generation {cost}"));
    }
    if let Some(peak) = document.peak_memory_bytes {
        shell.note(format_args!("peak memory {}", size(peak)));
    }
    no_receipt(shell);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nano() -> Arc<Model> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano/model.gguf");
        load(&path, &Compute::new(1)).unwrap()
    }

    #[test]
    fn the_best_logit_of_the_last_position_is_the_token_that_greedy_generation_chooses() {
        let model = nano();
        let tokens = [257, 72, 105, 259, 258];
        let logits = forward(&model, &Compute::new(2), &tokens).unwrap();
        let vocabulary = model.config().vocab;
        assert_eq!(logits.shape(), [5, vocabulary as u64]);
        let last = &logits.data()[4 * vocabulary * 4..];
        let last: Vec<f32> = last
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let best = (0..vocabulary)
            .max_by(|a, b| last[*a].total_cmp(&last[*b]))
            .unwrap();
        let request = Request::new(&model, tokens.to_vec(), 3, Sampling::greedy());
        let generated = generate(&model, Compute::new(1), request).unwrap();
        assert_eq!(generated[0], best as u32);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        let model = nano();
        let reason = |result: CommandResult| result.unwrap_err().to_string();
        let vocabulary = model.config().vocab as u32;
        assert!(reason(check(&model, &[vocabulary])).contains("vocabulary"));
        assert!(reason(check(&model, &vec![0; 100_000])).contains("context"));
        assert!(reason(fits(&model, &[0; 64], 1 << 10)).contains("allowed"));
    }
}
