//! Follows the ledger block by block: names of models, registered workers, settled batches.

use std::{sync::Arc, time::Duration};

use alloy_sol_types::SolEventInterface;
use lemma_chain::{BlockId, ExecutedBlock};
use lemma_ledger::modules::{
    MODELS, NODES, RECEIPTS,
    abi::{
        ILemmaModels::ILemmaModelsEvents, ILemmaNodes::ILemmaNodesEvents,
        ILemmaReceipts::ILemmaReceiptsEvents,
    },
};
use lemma_types::{Amount, settlement::BatchRecord};

use super::{Inner, blocking};
use crate::{
    ledger::{LedgerError, ModelRecord, NodeRecord, backoff},
    metrics as names,
    protocol::MAX_BATCH,
};

/// The cursor is written at least this often, so that a restart has little to look through again.
const CURSOR_EVERY: u64 = 256;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reads names and workers as they are now, and returns a height that they are not older than. Events of later blocks keep
/// them up to date.
pub(super) async fn snapshot(inner: &Inner) -> Result<u64, LedgerError> {
    let height = inner.ledger.chain()?.head().number;
    for node in inner.ledger.nodes().await? {
        inner.pool.update(&node);
    }
    let models = inner.ledger.models().await?;
    let mut known = inner.models();
    known.extend(models.into_iter().map(|model| (model.name.clone(), model)));
    Ok(height)
}

/// Goes through final blocks, from the one after `cursor` on: batches from there, names and workers after `snapshot`.
pub(super) async fn follow(inner: Arc<Inner>, mut cursor: u64, snapshot: u64) {
    let mut heads = inner.ledger.heads();
    let mut failures = 0;
    loop {
        let target = heads.borrow_and_update().number;
        match catch_up(&inner, &mut cursor, snapshot, target).await {
            Ok(()) => {
                failures = 0;
                metrics::gauge!(names::CHAIN_HEIGHT).set(cursor as f64);
                inner.pool.record();
                inner.followed.send_replace(cursor);
                if heads.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, height = cursor + 1, "block not read yet, trying again");
                tokio::time::sleep(backoff(failures, LONGEST_PAUSE)).await;
                failures += 1;
            }
        }
    }
}

async fn catch_up(
    inner: &Arc<Inner>,
    cursor: &mut u64,
    snapshot: u64,
    target: u64,
) -> Result<(), LedgerError> {
    while *cursor < target {
        let chain = inner.ledger.chain()?;
        let number = *cursor + 1;
        // The validator that told of the head may have stopped, and this one may be behind: it will catch up.
        let Some(block) = chain.block(BlockId::Number(number))? else {
            return Ok(());
        };
        take_in(inner, &block, number > snapshot).await;
        *cursor = number;
        if number.is_multiple_of(CURSOR_EVERY) {
            save_cursor(inner, number).await;
        }
    }
    Ok(())
}

pub(super) async fn save_cursor(inner: &Arc<Inner>, height: u64) {
    let index = Arc::clone(&inner.index);
    if let Err(error) = blocking(move || index.set_cursor(height)).await {
        tracing::error!(%error, "the receipt index did not take its cursor");
    }
}

/// `new`: the block's names and workers are not in the snapshot yet.
async fn take_in(inner: &Arc<Inner>, block: &ExecutedBlock, new: bool) {
    let mut settled = Vec::new();
    for log in block.receipts().iter().flat_map(|receipt| &receipt.logs) {
        match log.address {
            MODELS if new => inner.models_event(ILemmaModelsEvents::decode_log(log)),
            NODES if new => inner.nodes_event(ILemmaNodesEvents::decode_log(log)),
            RECEIPTS => settled.extend(record(
                ILemmaReceiptsEvents::decode_log(log),
                block.number(),
            )),
            _ => {}
        }
    }
    settled.retain(|record| inner.index.awaits(record.worker) && record.count <= MAX_BATCH as u64);
    if settled.is_empty() {
        return;
    }
    let index = Arc::clone(&inner.index);
    let height = block.number();
    let noted = blocking(move || {
        index.want(&settled)?;
        index.set_cursor(height)
    });
    match noted.await {
        Ok(()) => inner.collect.notify_one(),
        // The bundle will be asked of its worker when it is wanted.
        Err(error) => tracing::error!(%error, "a settled batch was not noted"),
    }
}

type Decoded<E> = Result<alloy_primitives::Log<E>, alloy_sol_types::Error>;

fn record(event: Decoded<ILemmaReceiptsEvents>, height: u64) -> Option<BatchRecord> {
    let ILemmaReceiptsEvents::BatchSettled(settled) = event.ok()?.data;
    Some(BatchRecord {
        index: settled.index,
        worker: settled.worker,
        root: settled.root,
        count: settled.count,
        compute_units: settled.computeUnits,
        fees: Amount::from_units(settled.fees.try_into().ok()?),
        height,
    })
}

impl Inner {
    fn models_event(&self, event: Decoded<ILemmaModelsEvents>) {
        let Ok(ILemmaModelsEvents::ModelRegistered(registered)) = event.map(|log| log.data) else {
            return;
        };
        let Ok(name) = registered.name.parse::<lemma_types::ModelName>() else {
            return;
        };
        let record = ModelRecord {
            name: name.clone(),
            root: registered.manifest.into(),
            owner: registered.owner,
            version: registered.version,
        };
        self.models().insert(name, record);
    }

    fn nodes_event(&self, event: Decoded<ILemmaNodesEvents>) {
        let Ok(event) = event.map(|log| log.data) else {
            return;
        };
        let node = match event {
            ILemmaNodesEvents::NodeRegistered(node) => NodeRecord {
                address: node.node,
                endpoint: node.endpoint,
                payee: node.payee,
                active: true,
            },
            ILemmaNodesEvents::NodeUpdated(node) => NodeRecord {
                address: node.node,
                endpoint: node.endpoint,
                payee: node.payee,
                active: true,
            },
            ILemmaNodesEvents::NodeDeregistered(gone) => NodeRecord {
                address: gone.node,
                endpoint: String::new(),
                payee: gone.node,
                active: false,
            },
        };
        self.pool.update(&node);
    }
}
