//! Signs receipts, one after the other, each naming the one before it, and makes them durable before anybody sees them.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use lemma_types::{B256, Receipt, SignedReceipt, keys::SecretKey};
use tokio::sync::{oneshot, watch};

use super::journal::{Journal, JournalError};
use crate::metrics as names;

/// Most receipts in one durable step.
const GROUP: usize = 256;
/// Receipts that may wait for their turn.
const QUEUE: usize = 1_024;

/// Why a receipt was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotaryError {
    /// This worker has a receipt for the request id: a second would be equivocation.
    #[error("request id {0} was answered before by this worker")]
    Duplicate(B256),
    /// The journal failed; nothing was signed.
    #[error("{0}")]
    Journal(String),
    /// The worker is stopping.
    #[error("the worker is stopping")]
    Stopped,
}

struct Draft {
    /// Complete but for the receipt before it.
    receipt: Receipt,
    reply: oneshot::Sender<Result<SignedReceipt, NotaryError>>,
}

/// A thread of its own that holds the key. It ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Notary {
    drafts: mpsc::SyncSender<Draft>,
}

impl Notary {
    /// Starts the thread. `waiting` is told how many receipts are not settled.
    pub(crate) fn start(
        journal: Arc<Journal>,
        key: SecretKey,
        chain_id: u64,
        waiting: watch::Sender<u64>,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (drafts, queue) = mpsc::sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("lemma-notary".to_owned())
            .spawn(move || {
                while let Some(group) = next_group(&queue) {
                    let signed = sign(&journal, &group, &key, chain_id);
                    // Told before the answers leave, so that whoever has an answer sees it counted.
                    waiting.send_replace(journal.waiting());
                    answer(group, signed);
                }
            })?;
        Ok((Self { drafts }, thread))
    }

    /// Signs a receipt whose `previous_receipt` is yet to be filled in; returns when it is durable.
    pub(crate) async fn sign(&self, receipt: Receipt) -> Result<SignedReceipt, NotaryError> {
        let (reply, signed) = oneshot::channel();
        // A full queue means that the disk cannot keep up: the caller's own limit on requests bounds who waits here.
        match self.drafts.try_send(Draft { receipt, reply }) {
            Ok(()) => signed.await.map_err(|_| NotaryError::Stopped)?,
            Err(mpsc::TrySendError::Full(_)) => Err(NotaryError::Journal(
                "the disk cannot keep up with receipts".to_owned(),
            )),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(NotaryError::Stopped),
        }
    }
}

/// Waits for a draft, and takes along those that wait already.
fn next_group(queue: &mpsc::Receiver<Draft>) -> Option<Vec<Draft>> {
    let mut group = vec![queue.recv().ok()?];
    group.extend(queue.try_iter().take(GROUP - 1));
    Some(group)
}

fn sign(
    journal: &Journal,
    group: &[Draft],
    key: &SecretKey,
    chain_id: u64,
) -> Result<Vec<Option<SignedReceipt>>, JournalError> {
    journal.append(
        group,
        |draft| draft.receipt.request_id,
        |draft, previous_receipt| {
            let receipt = Receipt {
                previous_receipt,
                ..draft.receipt.clone()
            };
            receipt.sign(chain_id, key)
        },
    )
}

fn answer(group: Vec<Draft>, signed: Result<Vec<Option<SignedReceipt>>, JournalError>) {
    let signed = match signed {
        Ok(signed) => signed,
        Err(error) => {
            tracing::error!(%error, "receipts could not be made durable");
            for draft in group {
                let _ = draft
                    .reply
                    .send(Err(NotaryError::Journal(error.to_string())));
            }
            return;
        }
    };
    for (draft, signed) in group.into_iter().zip(signed) {
        let request_id = draft.receipt.request_id;
        if signed.is_some() {
            metrics::counter!(names::RECEIPTS_SIGNED).increment(1);
        }
        // Nobody may be waiting any more; the receipt stands all the same.
        let _ = draft
            .reply
            .send(signed.ok_or(NotaryError::Duplicate(request_id)));
    }
}
