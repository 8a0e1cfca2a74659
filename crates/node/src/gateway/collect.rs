//! Collects settled batches from their workers as soon as they are final, so that a bundle outlives its worker.

use std::{sync::Arc, time::Duration};

use lemma_types::{
    B256, merkle,
    settlement::{BatchRecord, receipt_leaf},
};

use super::{GatewayError, Inner, blocking, client::WorkerFailure};
use crate::ledger::backoff;

/// Longest time until batches that could not be collected are tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    #[error(transparent)]
    Index(#[from] GatewayError),
    #[error("where the worker listens is not known")]
    NoEndpoint,
    #[error("the worker does not know its own batch")]
    Unknown,
    #[error("the ids that the worker gave do not make the settled root")]
    WrongIds,
}

/// Collects for as long as it is polled.
pub(super) async fn collect(inner: Arc<Inner>) {
    let mut failures = 0;
    loop {
        let index = Arc::clone(&inner.index);
        let wanted = blocking(move || index.wanted())
            .await
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the receipt index could not be read");
                Vec::new()
            });
        let mut left = 0;
        for record in wanted {
            match collect_one(&inner, &record).await {
                Ok(found) => {
                    tracing::debug!(batch = record.index, found, "batch collected");
                    inner.collected.send_modify(|count| *count += 1);
                }
                Err(error) => {
                    left += 1;
                    tracing::debug!(batch = record.index, worker = %record.worker, %error, "batch not collected yet");
                }
            }
        }
        if left == 0 {
            failures = 0;
            inner.collect.notified().await;
            continue;
        }
        let retry = tokio::time::sleep(backoff(failures, LONGEST_PAUSE));
        tokio::select! {
            () = inner.collect.notified() => {}
            () = retry => failures += 1,
        }
    }
}

async fn collect_one(inner: &Arc<Inner>, record: &BatchRecord) -> Result<usize, CollectError> {
    let endpoint = inner
        .pool
        .endpoint(record.worker)
        .ok_or(CollectError::NoEndpoint)?;
    let ids = inner
        .client
        .batch(&endpoint, record.root)
        .await?
        .ok_or(CollectError::Unknown)?;
    let (index, record) = (Arc::clone(&inner.index), record.clone());
    let kept = blocking(move || {
        if !makes(&ids, &record) {
            return Ok(None);
        }
        index.collect(&record, &ids).map(Some)
    });
    kept.await?.ok_or(CollectError::WrongIds)
}

/// Whether these ids are the batch that the ledger settled.
fn makes(ids: &[B256], record: &BatchRecord) -> bool {
    let leaves: Vec<B256> = ids.iter().map(|id| receipt_leaf(*id)).collect();
    ids.len() as u64 == record.count && merkle::root(&leaves) == record.root
}
