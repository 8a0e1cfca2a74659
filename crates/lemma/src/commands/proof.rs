//! `lemma proof`: proofs of what quantised models compute, with no network but for `submit`.

use std::{fs, path::Path};

use lemma_node::integer::graph_root;
use lemma_proof::{
    Evidence, HeldWeights, MAX_EVIDENCE_BYTES, Model, Profile, Security, Soundness, VerifyError,
    Weights, prove_inference_watched,
};
use lemma_types::{Digest, bundle::Bundle, limits};
use lemma_verify::{CheckName, Opened, Outcome, decode_bundle, verify_answer};
use serde_json::{Value, json};

use super::{
    infer::{print_tensor, write_outputs},
    quantized,
    receipts::{encode, write_private},
};
use crate::{
    cli::{ProofCommand, Prove, VerifyProof},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    input, progress,
    shell::{Shell, paint, styles},
    text::{harmless, size},
};

/// What a proof that holds does not establish.
const NOT_COVERED: &str = "not covered: how far the integer model is from a float one; anything secret: this is a succinct \
                           argument, not zero-knowledge";

pub(super) fn run(command: &ProofCommand, config: &Config, shell: &mut Shell) -> CommandResult {
    match command {
        ProofCommand::Prove(arguments) => prove(arguments, shell),
        ProofCommand::Verify(arguments) => verify(arguments, shell),
        ProofCommand::Show { path } => show(path, shell),
        ProofCommand::Submit(arguments) => super::submit::run(arguments, config, shell),
    }
}

fn prove(arguments: &Prove, shell: &mut Shell) -> CommandResult {
    let model = quantized::register(&arguments.model)?;
    let skeleton = model.graph().skeleton();
    let inputs = input::read_all(&arguments.input, &skeleton.input_specs())?;
    // Before the work: a receipt of something else can not be raised.
    let bundle = match &arguments.receipt {
        Some(path) => Some(read_bundle(path, &model)?),
        None => None,
    };
    let profile = Profile {
        security: match arguments.security.as_str() {
            "112" => Security::Bits112,
            _ => Security::Bits100,
        },
        weights: match arguments.holder {
            true => Weights::Holder,
            false => Weights::Succinct,
        },
    };
    let cannot = || format!("can not prove {} on this input", arguments.model.display());
    let rounded = skeleton
        .round(&inputs)
        .map_err(|error| CommandError::failed(cannot()).cause(harmless(&error.to_string())))?;
    let bar = progress::steps("proving", shell);
    let shown = shell.shows_progress();
    let proved = prove_inference_watched(&model, rounded.inputs, rounded.samples, profile, &|p| {
        progress::step(&bar, shown, p.done, p.of, p.step);
    });
    bar.finish_and_clear();
    let (statement, proof) = proved.context(ExitCode::Failed, cannot)?;
    let evidence = Evidence {
        key: model.key().clone(),
        statement,
        proof,
    };
    let bytes = evidence.to_bytes();
    let soundness = evidence
        .soundness(profile)
        .context(ExitCode::Internal, cannot)?;
    match bundle {
        None => fs::write(&arguments.output, &bytes).context(ExitCode::Failed, || {
            format!("can not write {}", arguments.output.display())
        })?,
        Some(bundle) => {
            let bundle = raise(bundle, &bytes, inputs, &model)?;
            write_private(&arguments.output, &encode(&bundle)?)?;
        }
    }
    if shell.json() {
        return shell.document(&json!({
            "path": arguments.output,
            "model_root": graph_root(&model),
            "samples": evidence.statement.samples,
            "bits": soundness.bits,
            "proof_bytes": evidence.proof.to_bytes().len(),
            "bytes": bytes.len(),
            "receipt": arguments.receipt,
        }));
    }
    shell.line(format_args!("model root {}", graph_root(&model)))?;
    shell.note(format_args!(
        "{} {}: a proof of {} with {:.1} bits of soundness",
        paint(styles::GOOD, "wrote"),
        arguments.output.display(),
        size(evidence.proof.to_bytes().len() as u64),
        soundness.bits
    ));
    shell.note(paint(styles::DIM, NOT_COVERED));
    Ok(())
}

/// Reads the bundle of a receipt that is to be raised.
fn read_bundle(path: &Path, model: &Model) -> CommandResult<Bundle> {
    let cannot = || format!("can not raise the receipt in {}", path.display());
    let bytes = read(path, limits::BUNDLE_BYTES)?;
    let bundle = decode_bundle(&bytes).context(ExitCode::Failed, cannot)?;
    if bundle.manifest.graph_root != graph_root(model) {
        return Err(CommandError::failed(cannot()).cause(format!(
            "it is of a model with root {}, this one has {}",
            bundle.manifest.graph_root,
            graph_root(model)
        )));
    }
    if bundle.openings.is_none() {
        return Err(CommandError::failed(cannot())
            .cause("it has no salts: nobody can see that the proof is of its request")
            .hint("`lemma receipts get ID` adds the salts of receipts that are yours"));
    }
    Ok(bundle)
}

/// Adds a proof to a bundle; the receipt stays as it is.
fn raise(
    bundle: Bundle,
    proof: &[u8],
    inputs: Vec<lemma_types::tensor::TensorData>,
    model: &Model,
) -> CommandResult<Bundle> {
    if proof.len() > limits::PROOF_BYTES {
        return Err(CommandError::failed(format!(
            "the proof has {}, a bundle holds at most {}",
            size(proof.len() as u64),
            size(limits::PROOF_BYTES as u64)
        )));
    }
    let raised = Bundle {
        proof: Some(proof.to_vec().into()),
        ..bundle
    };
    let opened = Opened {
        inputs: Some(inputs),
        weights: Some(lemma_verify::Weight(HeldWeights::new(model).into())),
        ..Opened::default()
    };
    // The signature's network is the verifier's affair; that the proof fits the receipt is ours.
    let report = verify_answer(&raised, raised.chain_id, &opened);
    for name in [CheckName::Request, CheckName::Proof] {
        let check = report.checks.iter().find(|check| check.name == name);
        if let Some(check) = check.filter(|check| check.outcome != Outcome::Ok) {
            return Err(CommandError::new(
                ExitCode::VerificationFailed,
                "the receipt can not be raised by this proof",
            )
            .cause(harmless(&format!("{}: {}", check.name, check.detail))));
        }
    }
    Ok(raised)
}

pub(super) fn read(path: &Path, most: usize) -> CommandResult<Vec<u8>> {
    let cannot = || format!("can not read {}", path.display());
    input::read_at_most(path, most as u64 + 1, cannot)
}

fn read_evidence(path: &Path, code: ExitCode) -> CommandResult<Evidence> {
    let bytes = read(path, MAX_EVIDENCE_BYTES)?;
    Evidence::from_bytes(&bytes).map_err(|error| {
        CommandError::new(code, format!("{} is no proof", path.display()))
            .cause(harmless(&error.to_string()))
    })
}

fn verify(arguments: &VerifyProof, shell: &mut Shell) -> CommandResult {
    let wrong = |cause: String| {
        CommandError::new(
            ExitCode::VerificationFailed,
            format!(
                "{} does not hold: do not rely on it",
                arguments.path.display()
            ),
        )
        .cause(cause)
    };
    let evidence = read_evidence(&arguments.path, ExitCode::VerificationFailed)?;
    let root = Digest::new(evidence.model_root());
    let weights = match &arguments.model {
        Some(path) => Some(HeldWeights::new(&quantized::register(path)?)),
        None => None,
    };
    let derived = weights.as_ref().map(|held| Digest::new(held.model_root()));
    for trusted in arguments.model_root.into_iter().chain(derived) {
        if trusted != root {
            return Err(wrong(format!(
                "it is of model root {root}, not of {trusted}"
            )));
        }
    }
    let skeleton = evidence.key.skeleton();
    let statement = &evidence.statement;
    if !arguments.input.is_empty() {
        let inputs = input::read_all(&arguments.input, &skeleton.input_specs())?;
        let rounded = skeleton
            .round(&inputs)
            .map_err(|error| wrong(harmless(&error.to_string())))?;
        if rounded.samples != statement.samples || rounded.inputs != statement.inputs {
            return Err(wrong("it is of other inputs".to_owned()));
        }
    }
    let soundness = match evidence.verify(weights.as_ref()) {
        Err(VerifyError::WeightsNeeded) => {
            return Err(CommandError::new(
                ExitCode::Inconclusive,
                "the proof is for holders of the model",
            )
            .hint("give the quantised model with --model"));
        }
        result => result.map_err(|error| wrong(error.to_string()))?,
    };
    let outputs = skeleton
        .real_outputs(&statement.outputs, statement.samples)
        .map_err(|error| wrong(error.to_string()))?;
    if let Some(path) = &arguments.output {
        write_outputs(path, &outputs)?;
    }
    if shell.json() {
        return shell.document(&json!({
            "holds": true,
            "model_root": root,
            "samples": statement.samples,
            "bits": soundness.bits,
            "inputs_compared": !arguments.input.is_empty(),
            "root_derived": derived.is_some(),
            "outputs": lemma_api::oip::JsonTensors(&outputs),
        }));
    }
    for output in &outputs {
        print_tensor(output, shell)?;
    }
    shell.line(format_args!(
        "{} with {:.1} bits: model root {root} gives these outputs on {} inputs",
        paint(styles::GOOD, "proved"),
        soundness.bits,
        match arguments.input.is_empty() {
            true => "the proof's",
            false => "these",
        }
    ))?;
    if derived.is_none() {
        shell.note(paint(
            styles::DIM,
            "not covered: that the root was derived from a graph whose integers keep their bounds; --model derives it",
        ));
    }
    shell.note(paint(styles::DIM, NOT_COVERED));
    Ok(())
}

fn show(path: &Path, shell: &mut Shell) -> CommandResult {
    let evidence = read_evidence(path, ExitCode::Failed)?;
    let profile = evidence.proof.profile();
    let soundness = evidence.soundness(profile).context(ExitCode::Failed, || {
        format!("{} states what can not be proved", path.display())
    })?;
    let key = evidence.key.to_bytes().len();
    let proof = evidence.proof.to_bytes().len();
    let whole = evidence.to_bytes().len();
    let parts = evidence.proof.sizes();
    if shell.json() {
        return shell.document(&document(&evidence, &soundness, [key, proof, whole]));
    }
    let statement = &evidence.statement;
    let skeleton = evidence.key.skeleton();
    let weights = match profile.weights {
        Weights::Succinct => "everyone who has the model root",
        Weights::Holder => "whoever holds the model",
    };
    shell.line(paint(
        styles::HEADING,
        "Statement (not checked: `lemma proof verify` does)",
    ))?;
    shell.line(format_args!(
        "  model root  {}",
        Digest::new(evidence.model_root())
    ))?;
    shell.line(format_args!("  samples     {}", statement.samples))?;
    for spec in skeleton.input_specs() {
        shell.line(format_args!(
            "  input       {}",
            super::models::describe_spec(&spec)
        ))?;
    }
    for spec in skeleton.output_specs() {
        shell.line(format_args!(
            "  output      {}",
            super::models::describe_spec(&spec)
        ))?;
    }
    shell.line(format_args!("  for         {weights}"))?;
    shell.line(paint(styles::HEADING, "Soundness, bits"))?;
    for term in &soundness.terms {
        shell.line(format_args!("  {:<24}{:>7.1}", term.name, term.bits))?;
    }
    shell.line(format_args!("  {:<24}{:>7.1}", "together", soundness.bits))?;
    shell.line(paint(styles::HEADING, "Sizes"))?;
    for (name, bytes) in parts {
        shell.line(format_args!("  {name:<24}{}", size(bytes as u64)))?;
    }
    shell.line(format_args!("  {:<24}{}", "proof", size(proof as u64)))?;
    shell.line(format_args!(
        "  {:<24}{}",
        "verifying key",
        size(key as u64)
    ))?;
    shell.line(format_args!("  {:<24}{}", "file", size(whole as u64)))?;
    shell.note(paint(styles::DIM, NOT_COVERED));
    Ok(())
}

fn document(evidence: &Evidence, soundness: &Soundness, sizes: [usize; 3]) -> Value {
    let profile = evidence.proof.profile();
    let terms: Vec<Value> = soundness
        .terms
        .iter()
        .map(|term| json!({ "name": term.name, "bits": term.bits }))
        .collect();
    let parts: serde_json::Map<String, Value> = evidence
        .proof
        .sizes()
        .into_iter()
        .map(|(name, bytes)| (name.replace(' ', "_"), json!(bytes)))
        .collect();
    json!({
        "model_root": Digest::new(evidence.model_root()),
        "samples": evidence.statement.samples,
        "inputs": evidence.key.skeleton().input_specs(),
        "outputs": evidence.key.skeleton().output_specs(),
        "profile": profile.code(),
        "for_holders": profile.weights == Weights::Holder,
        "bits": soundness.bits,
        "terms": terms,
        "parts": parts,
        "key_bytes": sizes[0],
        "proof_bytes": sizes[1],
        "bytes": sizes[2],
    })
}
