//! `lemma receipts`

use std::{fs, path::Path, time::Duration};

use lemma_types::{B256, bundle::Bundle};
use serde_json::{Value, json};

use super::block_on;
use crate::{
    cli::Receipts,
    client::{BundleState, Client},
    config::Config,
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    receipts_store::{ReceiptStore, StoredReceipt},
    shell::{Shell, paint, styles},
    table::Table,
    text::{harmless, size},
};

/// Fetches and lists receipts.
pub(super) fn run(
    command: Receipts,
    config: &Config,
    shell: &mut Shell,
) -> CommandResult<ExitCode> {
    match command {
        Receipts::Ls => list(config, shell).map(|()| ExitCode::Ok),
        Receipts::Get {
            id, output, wait, ..
        } => {
            let client = Client::new(config)?;
            let store = ReceiptStore::open(config)?;
            let wait = if wait {
                client.timeout()
            } else {
                Duration::ZERO
            };
            let bundle = block_on(fetch(&client, &store, id, wait))?;
            deliver(&bundle, output.as_deref(), shell).map(|()| ExitCode::Ok)
        }
    }
}

/// The bundle of a receipt, opened with the salts that the user has.
pub(super) async fn fetch(
    client: &Client,
    store: &ReceiptStore,
    id: B256,
    wait: Duration,
) -> CommandResult<Bundle> {
    let stored = store.get(id)?;
    match client.bundle(id, wait).await? {
        BundleState::Final(bundle) => Ok(Bundle {
            proof: store.proof(id)?,
            ..opened(*bundle, stored)
        }),
        BundleState::Pending => {
            let error = CommandError::new(
                ExitCode::Inconclusive,
                format!("receipt {id} is not settled yet"),
            )
            .cause("the ledger has not made its batch final");
            Err(if wait.is_zero() {
                error.hint("add --wait to wait for it")
            } else {
                error.hint("wait longer with --timeout, or look at `lemma status`")
            })
        }
    }
}

fn opened(bundle: Bundle, stored: Option<StoredReceipt>) -> Bundle {
    Bundle {
        openings: stored.map(|stored| stored.openings),
        ..bundle
    }
}

/// Encodes a bundle as it is stored: indented, so that people can read it too.
pub(super) fn encode(bundle: &Bundle) -> CommandResult<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(bundle).context(ExitCode::Internal, || {
        "can not encode the bundle".to_owned()
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a file that may hold salts: for the user alone.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> CommandResult {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().context(ExitCode::Failed, || {
        format!("can not write {}", path.display())
    })
}

fn deliver(bundle: &Bundle, output: Option<&Path>, shell: &mut Shell) -> CommandResult {
    let bytes = encode(bundle)?;
    if bundle.openings.is_none() {
        shell.warning("you do not have the salts of this receipt: inputs and outputs can not be checked against it");
    }
    let Some(path) = output else {
        return shell.bytes(&bytes);
    };
    write_private(path, &bytes)?;
    let id = bundle.receipt.receipt.id();
    if shell.json() {
        return shell.document(&json!({
            "receipt_id": id,
            "path": path,
            "bytes": bytes.len(),
            "opened": bundle.openings.is_some(),
        }));
    }
    shell.line(format_args!(
        "{} ({})",
        path.display(),
        size(bytes.len() as u64)
    ))?;
    let command = format!("lemma verify {} --trusted-root root.json", path.display());
    shell.hint(format_args!(
        "check it offline: {}",
        paint(styles::COMMAND, command)
    ));
    Ok(())
}

fn list(config: &Config, shell: &mut Shell) -> CommandResult {
    let receipts = ReceiptStore::open(config)?.list()?;
    if shell.json() {
        let data: Vec<Value> = receipts.iter().map(describe).collect();
        return shell.document(&json!({ "receipts": data }));
    }
    let mut table = Table::new(&["receipt", "model", "mode", "chain"]);
    for stored in &receipts {
        table.row([
            stored.id().to_string(),
            harmless(&stored.model),
            stored.receipt.receipt.mode.to_string(),
            stored.chain_id.to_string(),
        ]);
    }
    if receipts.is_empty() {
        shell.note("no receipts yet: `lemma infer` keeps one for each answer");
    }
    shell.table(&table)
}

fn describe(stored: &StoredReceipt) -> Value {
    let receipt = &stored.receipt.receipt;
    json!({
        "receipt_id": stored.id(),
        "model": stored.model,
        "model_root": receipt.model_root,
        "mode": receipt.mode,
        "worker": receipt.worker,
        "completed_at": receipt.completed_at,
        "chain_id": stored.chain_id,
        "gateway": stored.gateway,
    })
}
