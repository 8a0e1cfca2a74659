//! `lemma proof submit`: the ledger checks the proof of a receipt.

use alloy_sol_types::SolCall;
use lemma_ledger::modules::{
    MODELS, PROOFS,
    abi::{ILemmaModels, ILemmaProofs},
};
use lemma_types::{B256, Mode, ModelName, U256, bundle::Bundle, limits};
use lemma_verify::decode_bundle;
use serde_json::json;

use super::block_on;
use crate::{
    cli::SubmitProof,
    client::{Client, Mined, Transaction},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    shell::{Shell, paint, styles},
    wallet,
};

pub(super) fn run(arguments: &SubmitProof, config: &Config, shell: &mut Shell) -> CommandResult {
    let cannot = || format!("can not submit {}", arguments.path.display());
    let bytes = super::proof::read(&arguments.path, limits::BUNDLE_BYTES)?;
    let bundle = decode_bundle(&bytes).context(ExitCode::Failed, cannot)?;
    let refuse = |why: &str| CommandError::failed(cannot()).cause(why);
    if bundle.receipt.receipt.mode != Mode::Proved {
        return Err(refuse(
            "its receipt names no proof: only one of mode `proved` does",
        ));
    }
    if bundle.proof.is_none() {
        return Err(refuse("it has no proof: whoever asked has it"));
    }
    let client = Client::new(config)?;
    let (id, mined) = block_on(submit(&client, config, &arguments.name, &bundle))?;
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

async fn submit(
    client: &Client,
    config: &Config,
    name: &ModelName,
    bundle: &Bundle,
) -> CommandResult<(B256, Mined)> {
    let signer = wallet::signer(config, client).await?;
    let call = ILemmaProofs::acceptCall {
        name: name.to_string(),
        version: version(client, name, bundle).await?,
        manifest: bundle.manifest.encode().into(),
        receipt: bundle.receipt.encode().into(),
        evidence: bundle.proof.clone().unwrap_or_default(),
    };
    let transaction = Transaction {
        to: PROOFS,
        value: U256::ZERO,
        input: call.abi_encode().into(),
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
