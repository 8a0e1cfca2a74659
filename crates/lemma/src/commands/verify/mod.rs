//! `lemma verify`: checks a bundle or an answer, with no network.

mod answer;

use std::{fs, path::Path};

use lemma_graph::{Limits, Model, NUMERIC_SPEC_VERSION, RunOptions};
use lemma_types::{Digest, Mode, bundle::Bundle, limits, tensor::TensorData, text::Transcript};
use lemma_verify::{
    Opened, Outcome, Recompute, Recomputed, Report, Verdict, Verifier, decode_bundle,
    decode_trusted_root,
};

use self::answer::Answer;
use super::{embedding, language, push::beside, quantized};
use crate::{
    cli::Verify,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    input,
    shell::{Shell, paint, styles},
    text::harmless,
};

/// Largest transcript that is read, bytes.
const MAX_TRANSCRIPT_BYTES: u64 = 64 << 20;

/// Checks a bundle, or an answer of OpenAI's API, and says what was found.
pub(super) fn run(arguments: &Verify, shell: &mut Shell) -> CommandResult<ExitCode> {
    let bytes = read_bundle(&arguments.bundle)?;
    let (verifier, chain_id) = read_trusted_root(&arguments.trusted_root)?;
    let answer = Answer::read(&bytes, chain_id)?;
    let report = match &answer {
        Some(answer) => check_answer(arguments, answer, &verifier)?,
        None => check_bundle(arguments, &bytes, &verifier, chain_id)?,
    };
    show(&report, shell)?;
    if let Some(answer) = &answer
        && report.verdict == Verdict::Inconclusive
    {
        hint_settlement(answer, &arguments.bundle, shell);
    }
    Ok(exit_code(&report))
}

/// What an answer can not show by itself, and how to show it.
fn hint_settlement(answer: &Answer, path: &Path, shell: &mut Shell) {
    let id = answer.bundle.receipt.receipt.id();
    shell.hint(format_args!(
        "an answer has no settlement: `lemma receipts get {id} --wait --output bundle.json`, then `lemma verify bundle.json --transcript {}`",
        path.display()
    ));
}

fn check_bundle(
    arguments: &Verify,
    bytes: &[u8],
    verifier: &Verifier,
    chain_id: u64,
) -> CommandResult<Report> {
    // A bundle that can not be read fails its own check; what was asked then does not matter.
    let Ok(mut bundle) = decode_bundle(bytes) else {
        check_arguments(arguments)?;
        return Ok(verifier.verify_bytes(bytes, &Opened::default()));
    };
    let opened = open(arguments, &mut bundle, chain_id)?;
    Ok(verifier.verify(&bundle, &opened))
}

/// What an answer says of itself is what is checked; flags may add a second run.
fn check_answer(arguments: &Verify, answer: &Answer, verifier: &Verifier) -> CommandResult<Report> {
    if !arguments.input.is_empty() || !arguments.output.is_empty() || arguments.transcript.is_some()
    {
        return Err(CommandError::new(
            ExitCode::Usage,
            "an answer has what was asked and answered in it: leave --input, --output and --transcript out",
        ));
    }
    let opened = open_answer(arguments, answer, answer.bundle.manifest.graph_root)?;
    Ok(verifier.verify(&answer.bundle, &opened))
}

/// What an answer opens, with a second run if that is asked for.
fn open_answer(arguments: &Verify, answer: &Answer, expected: Digest) -> CommandResult<Opened> {
    let model = arguments.model.as_deref().filter(|_| arguments.recompute);
    let again = match (model, &answer.transcript, &answer.inputs) {
        // One that is impossible fails the verifier's checks; it need not be replayed.
        (Some(model), Some(transcript), _) if transcript.check().is_ok() => {
            language::replay(model, expected, transcript)?
        }
        (Some(model), None, Some(inputs)) => recompute(model, expected, inputs)?,
        _ => Recompute::NotAsked,
    };
    answer.check()?;
    Ok(Opened {
        text: answer.transcript.clone(),
        inputs: answer.inputs.clone(),
        outputs: answer.outputs.clone(),
        recompute: again,
        answer: true,
        ..Opened::default()
    })
}

/// The exit code of a verdict.
const fn exit_code(report: &Report) -> ExitCode {
    match report.verdict {
        Verdict::Verified => ExitCode::Ok,
        Verdict::Wrong => ExitCode::VerificationFailed,
        Verdict::Inconclusive => ExitCode::Inconclusive,
    }
}

/// Prints a report.
fn show(report: &Report, shell: &mut Shell) -> CommandResult {
    if shell.json() {
        return shell.document(report);
    }
    if let Some(id) = report.receipt_id {
        shell.line(format_args!("Receipt {id}"))?;
    }
    for check in &report.checks {
        let (mark, style) = match check.outcome {
            Outcome::Ok => ("ok", styles::GOOD),
            Outcome::Failed => ("FAILED", styles::ERROR),
            Outcome::Missing => ("missing", styles::WARNING),
            Outcome::NotAsked => ("--", styles::DIM),
        };
        let mark = paint(style, format!("{mark:<7}"));
        shell.line(format_args!(
            "  {mark}  {:<13}  {}",
            check.name,
            harmless(&check.detail)
        ))?;
    }
    if !report.does_not_cover.is_empty() {
        shell.line("Not covered:")?;
        for gap in &report.does_not_cover {
            shell.line(format_args!("  - {}", harmless(gap)))?;
        }
    }
    let mode = report.mode.map_or("unknown", Mode::name);
    match report.verdict {
        Verdict::Verified if report.raised() => shell.line(paint(
            styles::GOOD,
            format!("Verified in mode `{mode}`, raised to `proved` by a later proof"),
        )),
        Verdict::Verified if report.mode == Some(Mode::Relayed) => shell.line(paint(
            styles::WARNING,
            "Relayed: signed by the worker that passed it on; which model ran is not known",
        )),
        Verdict::Verified => shell.line(paint(styles::GOOD, format!("Verified in mode `{mode}`"))),
        Verdict::Wrong => shell.line(paint(styles::ERROR, "WRONG: do not rely on it")),
        Verdict::Inconclusive => {
            shell.line(paint(styles::WARNING, "Inconclusive: evidence is missing"))
        }
    }
}

fn read_bundle(path: &Path) -> CommandResult<Vec<u8>> {
    let cannot = || format!("can not read {}", path.display());
    // One byte more than allowed, so that the verifier sees that it is too much.
    input::read_or_stdin(path, limits::BUNDLE_BYTES as u64 + 1, cannot)
}

/// The trusted root is the user's own: if it is broken, nothing was verified.
fn read_trusted_root(path: &Path) -> CommandResult<(Verifier, u64)> {
    let cannot = || format!("can not use the trusted root {}", path.display());
    let bytes = input::read_at_most(path, 64 << 10, cannot)?;
    let root = decode_trusted_root(&bytes).context(ExitCode::Failed, cannot)?;
    let verifier = Verifier::new(&root).context(ExitCode::Failed, cannot)?;
    Ok((verifier, root.chain_id))
}

/// Refuses flags that ask for what can not be.
fn check_arguments(arguments: &Verify) -> CommandResult {
    let asked = !arguments.input.is_empty() || arguments.transcript.is_some();
    if arguments.recompute && !asked {
        return Err(CommandError::new(
            ExitCode::Usage,
            "--recompute needs what was asked: --input, or --transcript for a language model",
        ));
    }
    Ok(())
}

/// What the user supplies beside the bundle. An answer as transcript brings the salts, if the bundle has none.
fn open(arguments: &Verify, bundle: &mut Bundle, chain_id: u64) -> CommandResult<Opened> {
    check_arguments(arguments)?;
    let weights = match &arguments.model {
        Some(path) if quantized::is_one(path) => Some(quantized::weights(path)?),
        _ => None,
    };
    if let Some(path) = &arguments.transcript {
        return Ok(Opened {
            weights,
            ..open_text(arguments, path, bundle, chain_id)?
        });
    }
    let manifest = &bundle.manifest;
    let read = |files: &[String], specs| {
        (!files.is_empty())
            .then(|| input::read_all(files, specs))
            .transpose()
    };
    let inputs = read(&arguments.input, &manifest.inputs)?;
    let outputs = read(&arguments.output, &manifest.outputs)?;
    let recompute = match (&arguments.model, &inputs) {
        (Some(path), Some(inputs)) if arguments.recompute => {
            recompute(path, manifest.graph_root, inputs)?
        }
        _ => Recompute::NotAsked,
    };
    Ok(Opened {
        inputs,
        outputs,
        recompute,
        weights,
        ..Opened::default()
    })
}

fn open_text(
    arguments: &Verify,
    path: &Path,
    bundle: &mut Bundle,
    chain_id: u64,
) -> CommandResult<Opened> {
    let cannot = || format!("can not use the transcript {}", path.display());
    let bytes = input::read_at_most(path, MAX_TRANSCRIPT_BYTES, cannot)?;
    let expected = bundle.manifest.graph_root;
    if let Some(answer) = Answer::read(&bytes, chain_id)? {
        bundle.openings = bundle.openings.or(answer.bundle.openings);
        return open_answer(arguments, &answer, expected);
    }
    let transcript: Transcript =
        serde_json::from_slice(&bytes).context(ExitCode::Failed, cannot)?;
    // One that is impossible fails the verifier's checks; it need not be replayed.
    let recompute = match &arguments.model {
        Some(model) if arguments.recompute && transcript.check().is_ok() => {
            language::replay(model, expected, &transcript)?
        }
        _ => Recompute::NotAsked,
    };
    Ok(Opened {
        text: Some(transcript),
        recompute,
        ..Opened::default()
    })
}

/// Runs a model again. Whether it is the one with root `expected` is for the verifier to say.
fn recompute(path: &Path, expected: Digest, inputs: &[TensorData]) -> CommandResult<Recompute> {
    if quantized::is_one(path) {
        return quantized::recompute(path, expected, inputs);
    }
    if embedding::is_one(path) {
        return embedding::recompute(path, expected, inputs);
    }
    let bytes = fs::read(path).context(ExitCode::NotFound, || {
        format!("can not read {}", path.display())
    })?;
    let model = Model::load(bytes, &beside(path), &Limits::default())
        .context(ExitCode::Failed, || {
            format!("can not run {}", path.display())
        })?;
    let outputs = model.infer(inputs, &RunOptions::default());
    let outputs = outputs.map_err(|error| error.to_string());
    Ok(recomputed(model.root(), expected, outputs))
}

/// What a second run shows, of the model with this root.
pub(super) fn recomputed(
    graph_root: Digest,
    expected: Digest,
    outputs: Result<Vec<TensorData>, String>,
) -> Recompute {
    let outputs = match outputs {
        Ok(outputs) => outputs,
        // Another model need not take these inputs; that it is another one is what matters.
        Err(_) if graph_root != expected => Vec::new(),
        Err(error) => return Recompute::Unable(harmless(&error)),
    };
    Recompute::Done(Recomputed {
        graph_root,
        numeric_spec: NUMERIC_SPEC_VERSION,
        outputs,
    })
}
