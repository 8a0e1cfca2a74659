//! Settles receipts: seals a batch, sends its root and totals to the ledger, notes where it was settled.

use std::{sync::Arc, time::Duration};

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lemma_ledger::modules::{RECEIPTS, abi::ILemmaReceipts};
use lemma_types::settlement::BatchRecord;
use tokio::sync::watch;

use super::journal::{Batch, Journal, JournalError};
use crate::{
    ledger::{Account, Ledger, LedgerError, backoff},
    metrics as names,
};

/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How a worker gathers receipts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batching {
    /// How long the first receipt of a batch waits for others.
    pub(crate) interval: Duration,
    /// A batch is sealed at once when so many receipts wait.
    pub(crate) threshold: u64,
    /// Most receipts in a batch.
    pub(crate) most: u64,
}

/// Settles one worker's receipts for as long as it is polled.
pub(crate) struct Settler {
    pub(crate) journal: Arc<Journal>,
    pub(crate) account: Account,
    pub(crate) ledger: Ledger,
    pub(crate) batching: Batching,
    /// How many receipts are not settled.
    pub(crate) waiting: watch::Sender<u64>,
}

#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the worker is stopping")]
    Stopping,
}

impl Settler {
    pub(crate) async fn run(self) {
        let mut failures = 0;
        loop {
            match self.settle_all().await {
                Ok(()) => {
                    failures = 0;
                    self.gather().await;
                }
                Err(error) => {
                    tracing::warn!(%error, worker = %self.account.address(), "batch not settled yet, trying again");
                    tokio::time::sleep(backoff(failures, LONGEST_PAUSE)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Waits until there is something to settle and others had time to join it.
    async fn gather(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives in `self`, so these do not fail.
        let _ = waiting.wait_for(|count| *count > 0).await;
        let enough = waiting.wait_for(|count| *count >= self.batching.threshold);
        let _ = tokio::time::timeout(self.batching.interval, enough).await;
    }

    /// Settles batches that were sealed before, then seals and settles until nothing waits.
    async fn settle_all(&self) -> Result<(), SettleError> {
        for batch in self.blocking(|journal, _| journal.unsettled()).await? {
            self.settle(&batch).await?;
        }
        while let Some(batch) = self
            .blocking(|journal, batching| journal.seal(batching.most))
            .await?
        {
            self.settle(&batch).await?;
        }
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal, Batching) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, SettleError> {
        let (journal, batching) = (Arc::clone(&self.journal), self.batching);
        let done = tokio::task::spawn_blocking(move || work(&journal, batching)).await;
        Ok(done.map_err(|_| SettleError::Stopping)??)
    }

    /// Brings one sealed batch to the ledger, unless it is there already.
    async fn settle(&self, batch: &Batch) -> Result<(), SettleError> {
        let worker = self.account.address();
        let record = match self.ledger.settled(worker, batch.root).await? {
            Some(record) => record,
            None => {
                let sent = self
                    .account
                    .send(RECEIPTS, U256::ZERO, call(batch).into())
                    .await;
                // It may have been settled by a transaction from before a crash: the ledger knows.
                match (self.ledger.settled(worker, batch.root).await?, sent) {
                    (Some(record), _) => record,
                    (None, Err(error)) => return Err(error.into()),
                    (None, Ok(_)) => return Err(LedgerError::Unexpected.into()),
                }
            }
        };
        self.note(batch, record).await
    }

    async fn note(&self, batch: &Batch, record: BatchRecord) -> Result<(), SettleError> {
        tracing::info!(
            worker = %record.worker,
            batch = record.index,
            receipts = record.count,
            height = record.height,
            "batch settled"
        );
        metrics::counter!(names::BATCHES_SETTLED).increment(1);
        metrics::counter!(names::RECEIPTS_SETTLED).increment(record.count);
        let batch = batch.clone();
        self.blocking(move |journal, _| journal.mark_settled(&batch, &record))
            .await?;
        self.waiting.send_replace(self.journal.waiting());
        let worker = self.account.address().to_string();
        metrics::gauge!(names::RECEIPTS_WAITING, "worker" => worker)
            .set(self.journal.waiting() as f64);
        Ok(())
    }
}

fn call(batch: &Batch) -> Vec<u8> {
    ILemmaReceipts::settleCall {
        root: batch.root,
        count: batch.count,
        computeUnits: batch.compute_units,
        fees: U256::from(batch.fees.units()),
    }
    .abi_encode()
}
