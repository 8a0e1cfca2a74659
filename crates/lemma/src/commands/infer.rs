//! `lemma infer`: run a model, check the receipt, print the answer. Fails closed: what does not check out is not shown.

use std::path::Path;

use lemma_api::oip::JsonTensors;
use lemma_graph::io::npy;
use lemma_kernels::half::{bf16_to_f32, f16_to_f32};
use lemma_node::protocol::Signed;
use lemma_types::{
    Address, B256, Bytes, Digest, Mode, ModelName,
    bundle::Bundle,
    tensor::{DType, TensorData},
};
use lemma_verify::{Check, CheckName, Opened, Outcome, Report, Verdict, verify_answer};
use serde::Serialize;

use super::{block_on, local, push::resolve};
use crate::{
    cli::Infer,
    client::{Answer, Client, ModelInfo},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    input,
    receipts_store::{ReceiptStore, StoredReceipt},
    shell::{Shell, paint, styles},
    text::harmless,
};

/// Elements of an output that are printed before the rest is left out.
const SHOWN: usize = 64;

/// An answer that was checked, and whose receipt is stored.
pub(super) struct Checked {
    pub(super) model: String,
    pub(super) answer: Answer,
    pub(super) report: Report,
}

/// Runs a model.
pub(super) fn run(arguments: &Infer, config: &Config, shell: &mut Shell) -> CommandResult {
    if arguments.local.local {
        return local::run(arguments, shell);
    }
    let client = Client::new(config)?;
    let store = ReceiptStore::open(config)?;
    let checked = block_on(async {
        let model = client.model(&arguments.model).await?;
        let inputs = input::read_all(&arguments.input, &model.manifest.inputs)?;
        execute(&client, &store, &model, inputs, arguments.mode).await
    })?;
    if let Some(path) = &arguments.output {
        write_outputs(path, &checked.answer.outputs)?;
    }
    if shell.json() {
        return shell.document(&Document::new(&checked));
    }
    for output in &checked.answer.outputs {
        print_tensor(output, shell)?;
    }
    let id = checked.answer.receipt.receipt.id();
    shell.line(format_args!("receipt {id}"))?;
    shell.note(format_args!(
        "{} in mode `{}`: signature, model, request and answer of worker {}",
        paint(styles::GOOD, "checked"),
        checked.answer.receipt.receipt.mode,
        checked.answer.receipt.receipt.worker,
    ));
    let mut proof = checked.report.checks.iter();
    if let Some(check) =
        proof.rfind(|check| check.name == CheckName::Proof && check.outcome == Outcome::Ok)
    {
        shell.note(format_args!(
            "{} {}",
            paint(styles::GOOD, "proved"),
            harmless(&check.detail)
        ));
    }
    Ok(())
}

/// Asks the gateway, checks everything that can be checked now, and stores the receipt.
pub(super) async fn execute(
    client: &Client,
    store: &ReceiptStore,
    model: &ModelInfo,
    inputs: Vec<TensorData>,
    mode: Mode,
) -> CommandResult<Checked> {
    registered(client, model).await?;
    let chain_id = client.chain_id().await?;
    let answer = client.infer(&model.id, &inputs, mode).await?;
    let report = check(model, &inputs, &answer, mode, chain_id)?;
    let stored = StoredReceipt::new(
        chain_id,
        &model.id,
        client.address(),
        answer.receipt.clone(),
        answer.openings,
    );
    if let Some(proof) = &answer.proof {
        store.put_proof(stored.id(), proof)?;
    }
    store.put(&stored)?;
    Ok(Checked {
        model: model.id.clone(),
        answer,
        report,
    })
}

/// Whether the ledger says the same of the name as the gateway's list of models.
pub(super) async fn registered(client: &Client, model: &ModelInfo) -> CommandResult {
    let Ok(name) = model.id.parse::<ModelName>() else {
        // Asked for by its root: there is no name to be wrong about.
        return Ok(());
    };
    match resolve(client, &name).await? {
        Some(root) if root == model.root => Ok(()),
        Some(root) => Err(CommandError::new(
            ExitCode::VerificationFailed,
            format!("the gateway's model `{name}` is not the registered one"),
        )
        .cause(format!(
            "the ledger says {root}, the gateway {}",
            model.root
        ))
        .hint("if the model was updated this moment, try again")),
        None => Err(CommandError::new(
            ExitCode::NotFound,
            format!("no model `{name}` on the ledger"),
        )),
    }
}

fn check(
    model: &ModelInfo,
    inputs: &[TensorData],
    answer: &Answer,
    mode: Mode,
    chain_id: u64,
) -> CommandResult<Report> {
    let signed = Signed {
        receipt: answer.receipt.clone(),
        openings: answer.openings,
        engine: answer.engine.clone(),
    };
    let opened = Opened {
        inputs: Some(inputs.to_vec()),
        outputs: Some(answer.outputs.clone()),
        ..Opened::default()
    };
    check_signed(
        model,
        &signed,
        answer.proof.as_ref(),
        answer.request_id,
        mode,
        chain_id,
        &opened,
    )
}

/// Everything that can be checked of an answer of any kind before its receipt is settled.
pub(super) fn check_signed(
    model: &ModelInfo,
    signed: &Signed,
    proof: Option<&Bytes>,
    request_id: B256,
    mode: Mode,
    chain_id: u64,
    opened: &Opened,
) -> CommandResult<Report> {
    let receipt = &signed.receipt.receipt;
    if receipt.mode != mode {
        return Err(refused(&format!(
            "asked for mode `{mode}`, the receipt is `{}`",
            receipt.mode
        )));
    }
    if receipt.request_id != request_id {
        return Err(refused("the receipt is for another request"));
    }
    if receipt.model_root != model.root {
        return Err(refused(&format!(
            "asked for model {}, the receipt names {}",
            model.root, receipt.model_root
        )));
    }
    let bundle = Bundle {
        schema: Bundle::SCHEMA.to_owned(),
        chain_id,
        receipt: signed.receipt.clone(),
        engine: signed.engine.clone(),
        manifest: model.manifest.clone(),
        openings: Some(signed.openings),
        settlement: None,
        proof: proof.cloned(),
    };
    let report = verify_answer(&bundle, chain_id, opened);
    let proof = (mode == Mode::Proved).then_some(CheckName::Proof);
    let needed = [
        CheckName::Network,
        CheckName::Signature,
        CheckName::Mode,
        CheckName::Engine,
        CheckName::Model,
        CheckName::Request,
        CheckName::Response,
        CheckName::Transcript,
    ];
    if let Some(failure) = report.checks.iter().find(|check| {
        check.outcome == Outcome::Failed
            || (needed.iter().chain(&proof).any(|name| *name == check.name)
                && check.outcome != Outcome::Ok)
    }) {
        return Err(refused(&format!("{}: {}", failure.name, failure.detail)));
    }
    if report.verdict != Verdict::Verified {
        return Err(refused("the evidence is not complete"));
    }
    Ok(report)
}

/// An answer that does not check out.
pub(super) fn refused(reason: &str) -> CommandError {
    CommandError::new(
        ExitCode::VerificationFailed,
        "the answer was refused: it does not check out",
    )
    .cause(harmless(reason))
    .hint("do not rely on any of it; another gateway or worker may answer rightly")
}

/// The result for programs.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    model_root: Digest,
    mode: Mode,
    outputs: JsonTensors<'a>,
    receipt_id: B256,
    worker: Address,
    compute_units: u64,
    completed_at: u64,
    checks: &'a [Check],
}

impl<'a> Document<'a> {
    fn new(checked: &'a Checked) -> Self {
        let receipt = &checked.answer.receipt.receipt;
        Self {
            model: &checked.model,
            model_root: receipt.model_root,
            mode: receipt.mode,
            outputs: JsonTensors(&checked.answer.outputs),
            receipt_id: receipt.id(),
            worker: receipt.worker,
            compute_units: receipt.compute_units,
            completed_at: receipt.completed_at,
            checks: &checked.report.checks,
        }
    }
}

/// Stores outputs as JSON or, if there is one, as a numpy array.
pub(super) fn write_outputs(path: &Path, outputs: &[TensorData]) -> CommandResult {
    let is_npy = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
    let bytes = match (is_npy, outputs) {
        (true, [only]) => npy::write(only).context(ExitCode::Failed, || {
            format!("can not write {}", path.display())
        })?,
        (true, _) => {
            return Err(CommandError::new(
                ExitCode::Usage,
                "a .npy file holds one tensor, the model has several outputs",
            )
            .hint("write them to a .json file"));
        }
        (false, _) => {
            #[derive(Serialize)]
            struct File<'a> {
                outputs: JsonTensors<'a>,
            }
            let file = File {
                outputs: JsonTensors(outputs),
            };
            serde_json::to_vec(&file).map_err(|error| {
                CommandError::failed(format!("can not write {}", path.display()))
                    .because(&error)
                    .hint("write it to a .npy file")
            })?
        }
    };
    std::fs::write(path, bytes).context(ExitCode::Failed, || {
        format!("can not write {}", path.display())
    })
}

/// Prints a tensor: name, type and shape, then the elements, one row of the last dimension a line.
pub(super) fn print_tensor(tensor: &TensorData, shell: &mut Shell) -> CommandResult {
    let heading = format!(
        "{} {} {:?}",
        harmless(tensor.name()),
        tensor.dtype(),
        tensor.shape()
    );
    shell.line(paint(styles::HEADING, heading))?;
    let elements = elements(tensor);
    let row = tensor
        .shape()
        .last()
        .map_or(1, |last| usize::try_from(*last).unwrap_or(1))
        .clamp(1, 16);
    for line in elements[..elements.len().min(SHOWN)].chunks(row) {
        shell.line(format_args!("  {}", line.join(" ")))?;
    }
    if elements.len() > SHOWN {
        shell.line(format_args!(
            "  … {} more; --output FILE writes all",
            elements.len() - SHOWN
        ))?;
    }
    Ok(())
}

/// Every element as text.
pub(super) fn elements(tensor: &TensorData) -> Vec<String> {
    let chunks = tensor.data().chunks_exact(tensor.dtype().size());
    chunks.map(|bytes| element(tensor.dtype(), bytes)).collect()
}

fn element(dtype: DType, bytes: &[u8]) -> String {
    /// The bytes as a number; their count follows from the element type.
    macro_rules! number {
        ($type:ty) => {
            <[u8; size_of::<$type>()]>::try_from(bytes)
                .map_or_else(|_| String::new(), |b| <$type>::from_le_bytes(b).to_string())
        };
    }
    let float = |value: f32| {
        if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e7) {
            format!("{value:e}")
        } else {
            value.to_string()
        }
    };
    let half = |convert: fn(u16) -> f32| {
        <[u8; 2]>::try_from(bytes)
            .map_or_else(|_| String::new(), |b| float(convert(u16::from_le_bytes(b))))
    };
    match dtype {
        DType::Bool => (bytes == [1]).to_string(),
        DType::U8 => number!(u8),
        DType::I8 => number!(i8),
        DType::U16 => number!(u16),
        DType::I16 => number!(i16),
        DType::U32 => number!(u32),
        DType::I32 => number!(i32),
        DType::U64 => number!(u64),
        DType::I64 => number!(i64),
        DType::F16 => half(f16_to_f32),
        DType::Bf16 => half(bf16_to_f32),
        DType::F32 => <[u8; 4]>::try_from(bytes)
            .map_or_else(|_| String::new(), |b| float(f32::from_le_bytes(b))),
        DType::F64 => number!(f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_shown_as_their_type_has_them() {
        for (dtype, data, text) in [
            (DType::Bool, vec![0, 1], vec!["false", "true"]),
            (DType::I8, vec![255], vec!["-1"]),
            (DType::U16, vec![1, 1], vec!["257"]),
            (DType::F32, 0.5f32.to_le_bytes().to_vec(), vec!["0.5"]),
            (DType::F32, 1e-9f32.to_le_bytes().to_vec(), vec!["1e-9"]),
            (DType::F32, f32::NAN.to_le_bytes().to_vec(), vec!["NaN"]),
            (DType::F16, vec![0x00, 0x3c], vec!["1"]),
            (DType::Bf16, vec![0x80, 0x3f], vec!["1"]),
            (DType::I64, (-5i64).to_le_bytes().to_vec(), vec!["-5"]),
        ] {
            let count = data.len() / dtype.size();
            let tensor = TensorData::new("x", dtype, vec![count as u64], data).unwrap();
            assert_eq!(elements(&tensor), text, "{dtype}");
        }
    }
}
