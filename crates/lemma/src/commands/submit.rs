//! `lemma proof submit`: the ledger checks the proof of a receipt.

use alloy_sol_types::SolCall;
use lemma_ledger::modules::{
    MODELS, PROOFS,
    abi::{ILemmaModels, ILemmaProofs},
};
use lemma_types::{
    B256, Mode, ModelName, U256,
    bundle::Bundle,
    commitment::{Openings, tensor_request},
    limits, tensor,
};
use lemma_verify::decode_bundle;
use serde_json::json;

use super::block_on;
use crate::{
    cli::SubmitProof,
    client::{Client, Mined, Transaction},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    input,
    shell::{Shell, paint, styles},
    wallet,
};

pub(super) fn run(arguments: &SubmitProof, config: &Config, shell: &mut Shell) -> CommandResult {
    let cannot = || format!("can not submit {}", arguments.path.display());
    let bytes = super::proof::read(&arguments.path, limits::BUNDLE_BYTES)?;
    let bundle = decode_bundle(&bytes).context(ExitCode::Failed, cannot)?;
    if bundle.proof.is_none() {
        return Err(CommandError::failed(cannot()).cause("it has no proof: whoever asked has it"));
    }
    let opening = match bundle.receipt.receipt.mode {
        Mode::Proved => None,
        _ => Some(opening(&bundle, arguments).map_err(|why| {
            CommandError::failed(cannot())
                .cause("its receipt names no proof: to raise it, its request is opened")
                .hint(why)
        })?),
    };
    let client = Client::new(config)?;
    let (id, mined) = block_on(submit(&client, config, &arguments.name, &bundle, opening))?;
    if shell.json() {
        return shell.document(&json!({
            "receipt_id": id,
            "transaction": mined.hash,
            "height": mined.height,
        }));
    }
    shell.line(format_args!("receipt {id}"))?;
    shell.note(format_args!(
        "{}: the ledger checked the proof in block {}, transaction {}",
        paint(styles::GOOD, "accepted"),
        mined.height,
        mined.hash
    ));
    Ok(())
}

/// What a receipt that is raised needs beside its proof.
struct Opening {
    inputs: Vec<u8>,
    salts: Openings,
}

/// Reads the inputs; says what is missing.
fn opening(bundle: &Bundle, arguments: &SubmitProof) -> Result<Opening, String> {
    let salts = bundle.openings.ok_or(
        "the bundle has no salts; `lemma receipts get ID` adds those of receipts that are yours",
    )?;
    if arguments.input.is_empty() {
        return Err("add --input FILE: the receipt's inputs, which everyone then sees".into());
    }
    let inputs = input::read_all(&arguments.input, &bundle.manifest.inputs)
        .map_err(|error| error.to_string())?;
    let committed = tensor_request(salts.request, bundle.manifest.root(), &inputs);
    if committed != bundle.receipt.receipt.request_commitment {
        return Err("these inputs are not the receipt's request".into());
    }
    let inputs = tensor::encode(&inputs);
    Ok(Opening { inputs, salts })
}

async fn submit(
    client: &Client,
    config: &Config,
    name: &ModelName,
    bundle: &Bundle,
    opening: Option<Opening>,
) -> CommandResult<(B256, Mined)> {
    let signer = wallet::signer(config, client).await?;
    let version = version(client, name, bundle).await?;
    let name = name.to_string();
    let manifest = bundle.manifest.encode().into();
    let receipt = bundle.receipt.encode().into();
    let evidence = bundle.proof.clone().unwrap_or_default();
    let input = match opening {
        None => ILemmaProofs::acceptCall {
            name,
            version,
            manifest,
            receipt,
            evidence,
        }
        .abi_encode(),
        Some(Opening { inputs, salts }) => ILemmaProofs::raiseCall {
            name,
            version,
            manifest,
            receipt,
            inputs: inputs.into(),
            requestSalt: salts.request,
            responseSalt: salts.response,
            evidence,
        }
        .abi_encode(),
    };
    let transaction = Transaction {
        to: PROOFS,
        value: U256::ZERO,
        input: input.into(),
    };
    let mined = client.transact(transaction, &signer.key).await?;
    Ok((bundle.receipt.receipt.id(), mined))
}

/// The version of the name that has the bundle's manifest, the newest first.
async fn version(client: &Client, name: &ModelName, bundle: &Bundle) -> CommandResult<u64> {
    let wanted = bundle.manifest.root().to_b256();
    let odd = || "the models module did not answer as it should".to_owned();
    let resolve = ILemmaModels::resolveCall {
        name: name.to_string(),
    };
    let newest = match client.call(MODELS, &resolve.abi_encode().into()).await? {
        Some(output) => {
            ILemmaModels::resolveCall::abi_decode_returns(&output)
                .context(ExitCode::Failed, odd)?
                .version
        }
        None => 0,
    };
    for version in (1..=newest).rev() {
        let at = ILemmaModels::manifestAtCall {
            name: name.to_string(),
            version,
        };
        let output = client.call(MODELS, &at.abi_encode().into()).await?;
        let found = ILemmaModels::manifestAtCall::abi_decode_returns(&output.unwrap_or_default())
            .context(ExitCode::Failed, odd)?;
        if found.manifest == wanted {
            return Ok(version);
        }
    }
    Err(CommandError::new(
        ExitCode::NotFound,
        format!("no version of {name} is the receipt's model"),
    )
    .hint("`lemma models show` tells what a name stands for"))
}
