//! `lemma verify`: checks a bundle, with no network.

use std::{fs, io::Read as _, path::Path};

use lemma_graph::{Limits, Model, NUMERIC_SPEC_VERSION, RunOptions};
use lemma_types::{Digest, Mode, limits, tensor::TensorData, text::Transcript};
use lemma_verify::{
    Opened, Outcome, Recompute, Recomputed, Report, Verdict, Verifier, decode_bundle,
    decode_trusted_root,
};

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

/// Checks a bundle and says what was found.
pub(super) fn run(arguments: &Verify, shell: &mut Shell) -> CommandResult<ExitCode> {
    let bundle = read_bundle(&arguments.bundle)?;
    let verifier = read_trusted_root(&arguments.trusted_root)?;
    let opened = Opened {
        weights: match &arguments.model {
            Some(path) if quantized::is_one(path) => Some(quantized::weights(path)?),
            _ => None,
        },
        ..open(arguments, &bundle)?
    };
    let report = verifier.verify_bytes(&bundle, &opened);
    show(&report, shell)?;
    Ok(exit_code(&report))
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
    let most = limits::BUNDLE_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(most)
            .read_to_end(&mut bytes)
            .context(ExitCode::Failed, cannot)?;
    } else {
        let file = fs::File::open(path).context(ExitCode::NotFound, cannot)?;
        file.take(most)
            .read_to_end(&mut bytes)
            .context(ExitCode::Failed, cannot)?;
    }
    Ok(bytes)
}

/// The trusted root is the user's own: if it is broken, nothing was verified.
fn read_trusted_root(path: &Path) -> CommandResult<Verifier> {
    let cannot = || format!("can not use the trusted root {}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).context(ExitCode::NotFound, cannot)?;
    file.take(64 << 10)
        .read_to_end(&mut bytes)
        .context(ExitCode::Failed, cannot)?;
    let root = decode_trusted_root(&bytes).context(ExitCode::Failed, cannot)?;
    Verifier::new(&root).context(ExitCode::Failed, cannot)
}

/// What the user supplies beside the bundle.
fn open(arguments: &Verify, bundle: &[u8]) -> CommandResult<Opened> {
    let asked = !arguments.input.is_empty() || arguments.transcript.is_some();
    if arguments.recompute && !asked {
        return Err(CommandError::new(
            ExitCode::Usage,
            "--recompute needs what was asked: --input, or --transcript for a language model",
        ));
    }
    if !asked && arguments.output.is_empty() {
        return Ok(Opened::default());
    }
    // A bundle that can not be read fails its own check; what was asked then does not matter.
    let Ok(bundle) = decode_bundle(bundle) else {
        return Ok(Opened::default());
    };
    if let Some(path) = &arguments.transcript {
        return open_text(arguments, path, bundle.manifest.graph_root);
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
        text: None,
        inputs,
        outputs,
        recompute,
        weights: None,
    })
}

fn open_text(arguments: &Verify, path: &Path, expected: Digest) -> CommandResult<Opened> {
    let cannot = || format!("can not use the transcript {}", path.display());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).context(ExitCode::NotFound, cannot)?;
    file.take(MAX_TRANSCRIPT_BYTES)
        .read_to_end(&mut bytes)
        .context(ExitCode::Failed, cannot)?;
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
