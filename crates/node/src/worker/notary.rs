//! Signs receipts, one after the other, each naming the one before it, and makes them durable before anybody sees them.
//!
//! Two threads: the notary signs and writes the log; the clerk brings what is in the log into the journal's database.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use lemma_types::{B256, Receipt, SignedReceipt, keys::SecretKey};
use tokio::sync::{oneshot, watch};

use super::{
    Durability,
    journal::{Journal, JournalError},
    wal::{Log, Numbered},
};
use crate::metrics as names;

/// Most receipts in one step.
const GROUP: usize = 256;
/// Receipts that may wait for their turn.
const QUEUE: usize = 1_024;
/// How long the clerk waits after the database failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a receipt was not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotaryError {
    /// This worker has a receipt for the request id: a second would be equivocation.
    #[error("request id {0} was answered before by this worker")]
    Duplicate(B256),
    /// The disk failed; nothing was signed.
    #[error("{0}")]
    Disk(String),
    /// The worker is stopping.
    #[error("the worker is stopping")]
    Stopped,
}

type Reply = oneshot::Sender<Result<SignedReceipt, NotaryError>>;

struct Draft {
    /// Complete but for the receipt before it.
    receipt: Receipt,
    reply: Reply,
}

/// The way to the notary's thread, which ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Notary {
    drafts: mpsc::SyncSender<Draft>,
}

/// What the notary's thread holds.
struct Office {
    journal: Arc<Journal>,
    log: Log,
    key: SecretKey,
    chain_id: u64,
    /// Number of the next receipt, and id of the one before it.
    next: u64,
    previous: B256,
}

impl Notary {
    /// Opens the log beside the journal, completes the journal with what a crash left there, and starts the threads.
    /// `waiting` is told how many receipts are not settled. The handle ends when everything is in the database.
    pub(crate) fn start(
        directory: &Path,
        durability: Durability,
        journal: Arc<Journal>,
        key: SecretKey,
        chain_id: u64,
        waiting: watch::Sender<u64>,
    ) -> Result<(Self, thread::JoinHandle<()>), JournalError> {
        let office = Office::open(directory, durability, journal, key, chain_id)?;
        waiting.send_replace(office.journal.waiting());
        let (drafts, queue) = mpsc::sync_channel(QUEUE);
        let (wake, woken) = mpsc::sync_channel(1);
        let clerk = {
            let journal = Arc::clone(&office.journal);
            spawn("lemma-clerk", move || store(&journal, &woken))?
        };
        let notary = spawn("lemma-notary", move || {
            office.run(&queue, &waiting, &wake);
            drop(wake);
            if clerk.join().is_err() {
                tracing::error!("the clerk did not end in order");
            }
        })?;
        Ok((Self { drafts }, notary))
    }

    /// Signs a receipt whose `previous_receipt` is yet to be filled in; returns when it is durable.
    pub(crate) async fn sign(&self, receipt: Receipt) -> Result<SignedReceipt, NotaryError> {
        let (reply, signed) = oneshot::channel();
        match self.drafts.try_send(Draft { receipt, reply }) {
            Ok(()) => signed.await.map_err(|_| NotaryError::Stopped)?,
            Err(mpsc::TrySendError::Full(_)) => Err(NotaryError::Disk(
                "the disk does not keep up with receipts".to_owned(),
            )),
            Err(mpsc::TrySendError::Disconnected(_)) => Err(NotaryError::Stopped),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// The clerk: brings noted receipts into the database whenever it is woken, and once more at the end.
fn store(journal: &Journal, woken: &mpsc::Receiver<()>) {
    loop {
        let open = woken.recv().is_ok();
        loop {
            match journal.store() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "receipts are in the log, but not in the journal yet");
                    if !open {
                        return;
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
        if !open {
            return;
        }
    }
}

impl Office {
    fn open(
        directory: &Path,
        durability: Durability,
        journal: Arc<Journal>,
        key: SecretKey,
        chain_id: u64,
    ) -> Result<Self, JournalError> {
        let (mut log, logged) = Log::open(directory, durability)?;
        let mut missing = Vec::new();
        for (number, receipt) in logged {
            if number == journal.stored() + missing.len() as u64 {
                missing.push((number, receipt));
            }
        }
        if !missing.is_empty() {
            tracing::info!(receipts = missing.len(), "receipts recovered from the log");
            journal.note(&missing);
            while journal.store()? {}
        }
        log.clear()?;
        let (next, previous) = match journal.last()? {
            Some((number, id)) => (number + 1, id),
            None => (0, B256::ZERO),
        };
        Ok(Self {
            journal,
            log,
            key,
            chain_id,
            next,
            previous,
        })
    }

    fn run(
        mut self,
        queue: &mpsc::Receiver<Draft>,
        waiting: &watch::Sender<u64>,
        wake: &mpsc::SyncSender<()>,
    ) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            group.extend(queue.try_iter().take(GROUP - 1));
            self.serve(group);
            waiting.send_replace(self.journal.waiting());
            // If the clerk was woken already, it will see these as well.
            let _ = wake.try_send(());
        }
    }

    /// Signs a group, writes it to the log in one step, and answers.
    fn serve(&mut self, group: Vec<Draft>) {
        let (before, mut signed, mut replies) =
            ((self.next, self.previous), Vec::new(), Vec::new());
        let mut requests = HashSet::new();
        for Draft { receipt, reply } in group {
            match self.refusal(&receipt, &mut requests) {
                Some(refusal) => drop(reply.send(Err(refusal))),
                None => {
                    signed.push(self.sign(receipt));
                    replies.push(reply);
                }
            }
        }
        match self.log.append(&signed, self.journal.stored()) {
            Ok(()) => {
                self.journal.note(&signed);
                metrics::counter!(names::RECEIPTS_SIGNED).increment(signed.len() as u64);
                for (reply, (_, receipt)) in replies.into_iter().zip(signed) {
                    // Nobody may be waiting any more; the receipt stands all the same.
                    let _ = reply.send(Ok(receipt));
                }
            }
            Err(error) => {
                tracing::error!(%error, "receipts could not be made durable");
                // Nobody has seen them: their numbers are free again.
                (self.next, self.previous) = before;
                for reply in replies {
                    let _ = reply.send(Err(NotaryError::Disk(error.to_string())));
                }
            }
        }
    }

    fn refusal(&self, receipt: &Receipt, requests: &mut HashSet<B256>) -> Option<NotaryError> {
        let request_id = receipt.request_id;
        match self.journal.answered(request_id) {
            Ok(false) if requests.insert(request_id) => None,
            Ok(_) => Some(NotaryError::Duplicate(request_id)),
            Err(error) => Some(NotaryError::Disk(error.to_string())),
        }
    }

    fn sign(&mut self, receipt: Receipt) -> Numbered {
        let receipt = Receipt {
            previous_receipt: self.previous,
            ..receipt
        };
        let number = self.next;
        self.next += 1;
        self.previous = receipt.id();
        (number, receipt.sign(self.chain_id, &self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::journal::tests::{draft, engine, key, network};

    fn journal(directory: &Path) -> Arc<Journal> {
        let path = directory.join("journal.redb");
        Arc::new(Journal::open(&path, key().address(), &network(), &engine()).unwrap())
    }

    fn start(directory: &Path) -> (Notary, Arc<Journal>, thread::JoinHandle<()>) {
        let journal = journal(directory);
        let waiting = watch::Sender::new(0);
        let (notary, thread) = Notary::start(
            directory,
            Durability::Power,
            Arc::clone(&journal),
            key(),
            1,
            waiting,
        )
        .unwrap();
        (notary, journal, thread)
    }

    #[tokio::test]
    async fn receipts_form_one_chain_across_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let mut previous = B256::ZERO;
        for round in 0..3u8 {
            let (notary, journal, thread) = start(directory.path());
            for request in 0..5 {
                let signed = notary.sign(draft(1 + round * 5 + request)).await.unwrap();
                assert_eq!(signed.receipt.previous_receipt, previous);
                signed.verify_signature(1).unwrap();
                previous = signed.receipt.id();
                assert!(journal.find(previous).unwrap().is_some());
            }
            let again = notary.sign(draft(1)).await;
            assert!(matches!(again, Err(NotaryError::Duplicate(_))));
            drop(notary);
            thread.join().unwrap();
            assert_eq!(journal.stored(), u64::from(round + 1) * 5);
        }
    }

    #[tokio::test]
    async fn one_request_id_is_answered_once_however_close_together() {
        let directory = tempfile::tempdir().unwrap();
        let (notary, _, _) = start(directory.path());
        let same = (0..8).map(|_| notary.sign(draft(7)));
        let signed = futures::future::join_all(same).await;
        assert_eq!(signed.iter().filter(|signed| signed.is_ok()).count(), 1);
    }

    #[test]
    fn what_a_crash_left_in_the_log_is_recovered() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path());
        let mut office =
            Office::open(directory.path(), Durability::Process, journal, key(), 1).unwrap();
        let first = office.sign(draft(1));
        let second = office.sign(draft(2));
        let ids = [&first, &second].map(|(_, receipt)| receipt.receipt.id());
        office.log.append(&[first, second], 0).unwrap();
        // The crash: signed, logged, perhaps answered, never stored.
        drop(office);

        let journal = self::journal(directory.path());
        assert_eq!(journal.last().unwrap(), None);
        let office =
            Office::open(directory.path(), Durability::Process, journal, key(), 1).unwrap();
        assert_eq!((office.next, office.previous), (2, ids[1]));
        assert_eq!(office.journal.waiting(), 2);
        for id in ids {
            assert!(office.journal.find(id).unwrap().is_some());
        }
    }
}
