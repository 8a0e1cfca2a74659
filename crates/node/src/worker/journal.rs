//! The worker's memory on disk: every receipt it signed, and the batches in which it settles them.
//!
//! Receipts are numbered in the order of their signatures, and each names the one before it, so a batch is a range of
//! numbers. A receipt is in the [log](super::wal) before its answer leaves, and in the database soon after. A batch is in
//! the database before its transaction is sent, and is sealed over exactly the receipts that the transaction will state.
//! After a crash the same batch is sent again: the ledger knows it by its root.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lemma_types::{
    Address, Amount, B256, Engine, SignedReceipt, TrustedRoot, merkle,
    settlement::{BatchRecord, receipt_leaf},
};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::wal::Numbered;
use crate::protocol::{Position, ReceiptState, Stage};

type Word = [u8; 32];

/// Number of a receipt to its id (32 bytes) and its encoding.
const RECEIPTS: TableDefinition<u64, &[u8]> = TableDefinition::new("receipts");
/// Id of a receipt to its number.
const IDS: TableDefinition<Word, u64> = TableDefinition::new("ids");
/// Id of a request to the number of its receipt.
const REQUESTS: TableDefinition<Word, u64> = TableDefinition::new("requests");
/// Number of a batch's first receipt to the batch.
const BATCHES: TableDefinition<u64, &[u8]> = TableDefinition::new("batches");
/// Root of a batch to the number of its first receipt.
const ROOTS: TableDefinition<Word, u64> = TableDefinition::new("roots");
/// Engine id to the engine in JSON: what the ids in receipts stand for, also after an upgrade.
const ENGINES: TableDefinition<Word, &[u8]> = TableDefinition::new("engines");
/// Whose journal it is, and of which network.
const OWNER: TableDefinition<&str, &[u8]> = TableDefinition::new("owner");

/// Receipts that enter the database in one step.
const GROUP: usize = 2_048;

/// Why the journal fails.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk, or the file on it.
    #[error("the receipt journal: {0}")]
    Storage(Box<redb::Error>),
    /// The log of receipts that are not in the database yet.
    #[error("the receipt log: {0}")]
    Log(#[from] std::io::Error),
    /// It belongs to another worker or network.
    #[error("the receipt journal is that of another {0}: use another data directory")]
    Foreign(&'static str),
    /// It holds something that this program did not write.
    #[error("the receipt journal is damaged: {0}")]
    Damaged(&'static str),
}

macro_rules! storage_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for JournalError {
            fn from(error: $error) -> Self {
                Self::Storage(Box::new(error.into()))
            }
        }
    )*};
}
storage_errors!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

/// A range of receipts that is settled as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// Number of its first receipt.
    pub(crate) first: u64,
    /// Number of receipts.
    pub(crate) count: u64,
    /// Root over their ids.
    pub(crate) root: B256,
    /// Sum of their compute units.
    pub(crate) compute_units: u64,
    /// Sum of their prices.
    pub(crate) fees: Amount,
    /// Where the ledger settled it: position in its log, and height.
    pub(crate) settled: Option<(u64, u64)>,
}

/// The journal. All methods but [`note`](Self::note) block on the disk.
pub(crate) struct Journal {
    database: Database,
    engine: Engine,
    /// Receipts that are signed and in the log, but not in the database yet.
    unstored: Mutex<Unstored>,
    /// Receipts that are in no settled batch.
    waiting: AtomicU64,
    /// All receipts below this number are in the database.
    stored: AtomicU64,
    /// Held while receipts move into the database: the clerk and the settler may both want them there.
    storing: Mutex<()>,
}

#[derive(Default)]
struct Unstored {
    by_number: BTreeMap<u64, SignedReceipt>,
    /// By receipt id.
    ids: HashMap<B256, u64>,
    requests: HashSet<B256>,
}

impl Journal {
    /// Opens the journal of a worker on a network, or makes it. `engine` is the one that makes receipts from now on.
    pub(crate) fn open(
        path: &Path,
        worker: Address,
        network: &TrustedRoot,
        engine: &Engine,
    ) -> Result<Self, JournalError> {
        let database = Database::create(path)?;
        let transaction = database.begin_write()?;
        {
            let mut owner = transaction.open_table(OWNER)?;
            for (name, value) in [
                ("worker", worker.as_slice()),
                ("network", network.genesis.as_slice()),
            ] {
                let known = owner.get(name)?.map(|known| known.value() == value);
                match known {
                    Some(true) => {}
                    Some(false) => return Err(JournalError::Foreign(name)),
                    None => drop(owner.insert(name, value)?),
                }
            }
            let json = serde_json::to_vec(engine).expect("an engine serialises to JSON");
            transaction
                .open_table(ENGINES)?
                .insert(engine.id().0, json.as_slice())?;
            transaction.open_table(RECEIPTS)?;
            transaction.open_table(IDS)?;
            transaction.open_table(REQUESTS)?;
            transaction.open_table(BATCHES)?;
            transaction.open_table(ROOTS)?;
        }
        transaction.commit()?;
        let journal = Self {
            database,
            engine: engine.clone(),
            unstored: Mutex::default(),
            waiting: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            storing: Mutex::default(),
        };
        let next = journal.last()?.map_or(0, |(number, _)| number + 1);
        let batches = journal.batches()?;
        let settled = batches.iter().filter(|batch| batch.settled.is_some());
        let settled: u64 = settled.map(|batch| batch.count).sum();
        journal.stored.store(next, Ordering::Release);
        journal
            .waiting
            .store(next.saturating_sub(settled), Ordering::Relaxed);
        Ok(journal)
    }

    fn unstored(&self) -> MutexGuard<'_, Unstored> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number below which all receipts are in the database.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    /// Receipts that no settled batch holds.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Number and id of the last receipt.
    pub(crate) fn last(&self) -> Result<Option<(u64, B256)>, JournalError> {
        let receipts = self.database.begin_read()?.open_table(RECEIPTS)?;
        let Some((number, value)) = receipts.last()? else {
            return Ok(None);
        };
        let (id, _) = split(value.value())?;
        Ok(Some((number.value(), id)))
    }

    /// Whether a receipt for this request id exists.
    pub(crate) fn answered(&self, request_id: B256) -> Result<bool, JournalError> {
        if self.unstored().requests.contains(&request_id) {
            return Ok(true);
        }
        let requests = self.database.begin_read()?.open_table(REQUESTS)?;
        Ok(requests.get(request_id.0)?.is_some())
    }

    /// Takes note of receipts that are in the log: from now on they are found, and counted as waiting.
    pub(crate) fn note(&self, receipts: &[Numbered]) {
        let mut unstored = self.unstored();
        for (number, receipt) in receipts {
            unstored.ids.insert(receipt.receipt.id(), *number);
            unstored.requests.insert(receipt.receipt.request_id);
            unstored.by_number.insert(*number, receipt.clone());
        }
        self.waiting
            .fetch_add(receipts.len() as u64, Ordering::Relaxed);
    }

    /// Brings what was noted into the database, in one durable step. Returns whether there was anything.
    pub(crate) fn store(&self) -> Result<bool, JournalError> {
        let _turn = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let receipts: Vec<Numbered> = {
            let unstored = self.unstored();
            let all = unstored.by_number.iter().take(GROUP);
            all.map(|(number, receipt)| (*number, receipt.clone()))
                .collect()
        };
        let Some((last, _)) = receipts.last() else {
            return Ok(false);
        };
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(RECEIPTS)?;
            let mut ids = transaction.open_table(IDS)?;
            let mut requests = transaction.open_table(REQUESTS)?;
            for (number, receipt) in &receipts {
                let id = receipt.receipt.id();
                let value = [id.as_slice(), &receipt.encode()].concat();
                table.insert(number, value.as_slice())?;
                ids.insert(id.0, number)?;
                requests.insert(receipt.receipt.request_id.0, number)?;
            }
        }
        transaction.commit()?;
        self.stored.store(last + 1, Ordering::Release);
        let mut unstored = self.unstored();
        for (number, receipt) in &receipts {
            unstored.by_number.remove(number);
            unstored.ids.remove(&receipt.receipt.id());
            unstored.requests.remove(&receipt.receipt.request_id);
        }
        Ok(true)
    }

    /// Seals a batch of all receipts that are in none, at most `most`. `None` if there are no such receipts.
    ///
    /// What was noted until now belongs to it, whether the clerk has come to it or not: it was counted as waiting, and
    /// would cost a transaction of its own.
    pub(crate) fn seal(&self, most: u64) -> Result<Option<Batch>, JournalError> {
        let last = self.unstored().by_number.keys().next_back().copied();
        while last.is_some_and(|last| self.stored() <= last) && self.store()? {}
        let transaction = self.database.begin_write()?;
        let batch = Self::next_batch(&transaction, most)?;
        if let Some(batch) = &batch {
            let mut batches = transaction.open_table(BATCHES)?;
            batches.insert(batch.first, encode(batch).as_slice())?;
            let mut roots = transaction.open_table(ROOTS)?;
            roots.insert(batch.root.0, batch.first)?;
        }
        transaction.commit()?;
        Ok(batch)
    }

    fn next_batch(
        transaction: &WriteTransaction,
        most: u64,
    ) -> Result<Option<Batch>, JournalError> {
        let batches = transaction.open_table(BATCHES)?;
        let first = match batches.last()? {
            Some((_, value)) => {
                let last = decode(value.value())?;
                last.first + last.count
            }
            None => 0,
        };
        let receipts = transaction.open_table(RECEIPTS)?;
        let mut frontier = merkle::Frontier::default();
        let (mut compute_units, mut fees) = (0u64, Amount::ZERO);
        for entry in receipts.range(first..first.saturating_add(most))? {
            let (_, value) = entry?;
            let (id, encoded) = split(value.value())?;
            let receipt = SignedReceipt::decode(encoded)
                .ok_or(DAMAGED_RECEIPT)?
                .receipt;
            let sums = (
                compute_units.checked_add(receipt.compute_units),
                fees.checked_add(receipt.price),
            );
            let (Some(units), Some(sum)) = sums else {
                // The next batch takes the rest.
                break;
            };
            (compute_units, fees) = (units, sum);
            frontier.append(receipt_leaf(id));
        }
        let (count, root) = (frontier.size(), frontier.root());
        Ok((count > 0).then_some(Batch {
            first,
            count,
            root,
            compute_units,
            fees,
            settled: None,
        }))
    }

    fn batches(&self) -> Result<Vec<Batch>, JournalError> {
        let batches = self.database.begin_read()?.open_table(BATCHES)?;
        batches
            .iter()?
            .map(|entry| decode(entry?.1.value()))
            .collect()
    }

    /// Batches that are not settled, oldest first.
    pub(crate) fn unsettled(&self) -> Result<Vec<Batch>, JournalError> {
        // Batches settle in order, so the unsettled ones are the last ones.
        let batches = self.database.begin_read()?.open_table(BATCHES)?;
        let mut unsettled = Vec::new();
        for entry in batches.iter()?.rev() {
            let batch = decode(entry?.1.value())?;
            if batch.settled.is_some() {
                break;
            }
            unsettled.insert(0, batch);
        }
        Ok(unsettled)
    }

    /// Notes where the ledger settled a batch.
    pub(crate) fn mark_settled(
        &self,
        batch: &Batch,
        record: &BatchRecord,
    ) -> Result<(), JournalError> {
        let settled = Batch {
            settled: Some((record.index, record.height)),
            ..batch.clone()
        };
        let transaction = self.database.begin_write()?;
        transaction
            .open_table(BATCHES)?
            .insert(batch.first, encode(&settled).as_slice())?;
        transaction.commit()?;
        self.waiting.fetch_sub(batch.count, Ordering::Relaxed);
        Ok(())
    }

    /// Ids of the receipts of the batch with this root, in order; `None` if there is no such batch.
    pub(crate) fn batch_ids(&self, root: B256) -> Result<Option<Vec<B256>>, JournalError> {
        let transaction = self.database.begin_read()?;
        let Some(first) = transaction
            .open_table(ROOTS)?
            .get(root.0)?
            .map(|first| first.value())
        else {
            return Ok(None);
        };
        let batches = transaction.open_table(BATCHES)?;
        let batch = decode(batches.get(first)?.ok_or(DAMAGED_BATCH)?.value())?;
        self.ids(&batch).map(Some)
    }

    fn ids(&self, batch: &Batch) -> Result<Vec<B256>, JournalError> {
        let receipts = self.database.begin_read()?.open_table(RECEIPTS)?;
        receipts
            .range(batch.first..batch.first + batch.count)?
            .map(|entry| Ok(split(entry?.1.value())?.0))
            .collect()
    }

    /// A receipt and how far it is; `None` if there is no such receipt.
    pub(crate) fn find(&self, id: B256) -> Result<Option<ReceiptState>, JournalError> {
        let unstored = {
            let unstored = self.unstored();
            unstored
                .ids
                .get(&id)
                .and_then(|number| unstored.by_number.get(number))
                .cloned()
        };
        if let Some(receipt) = unstored {
            return Ok(Some(ReceiptState {
                receipt,
                engine: self.engine.clone(),
                stage: Stage::Pending,
            }));
        }
        let transaction = self.database.begin_read()?;
        let Some(number) = transaction
            .open_table(IDS)?
            .get(id.0)?
            .map(|number| number.value())
        else {
            return Ok(None);
        };
        let receipts = transaction.open_table(RECEIPTS)?;
        let value = receipts.get(number)?.ok_or(DAMAGED_RECEIPT)?;
        let (_, encoded) = split(value.value())?;
        let receipt = SignedReceipt::decode(encoded).ok_or(DAMAGED_RECEIPT)?;
        let engines = transaction.open_table(ENGINES)?;
        let engine = engines
            .get(receipt.receipt.engine.0)?
            .ok_or(DAMAGED_RECEIPT)?;
        let engine = serde_json::from_slice(engine.value()).map_err(|_| DAMAGED_RECEIPT)?;
        let stage = self.stage(&transaction, number)?;
        Ok(Some(ReceiptState {
            receipt,
            engine,
            stage,
        }))
    }

    fn stage(&self, transaction: &ReadTransaction, number: u64) -> Result<Stage, JournalError> {
        let batches = transaction.open_table(BATCHES)?;
        let batch = match batches.range(..=number)?.next_back() {
            Some(entry) => decode(entry?.1.value())?,
            None => return Ok(Stage::Pending),
        };
        if number >= batch.first + batch.count {
            return Ok(Stage::Pending);
        }
        let index = number - batch.first;
        let leaves: Vec<B256> = self.ids(&batch)?.into_iter().map(receipt_leaf).collect();
        let path = merkle::prove(&leaves, index as usize).ok_or(DAMAGED_BATCH)?;
        let position = Position {
            batch_root: batch.root,
            count: batch.count,
            index,
            path,
        };
        Ok(match batch.settled {
            None => Stage::Sealed(position),
            Some((batch_index, height)) => Stage::Settled {
                position,
                batch_index,
                height,
            },
        })
    }
}

const DAMAGED_RECEIPT: JournalError = JournalError::Damaged("a receipt");
const DAMAGED_BATCH: JournalError = JournalError::Damaged("a batch");

fn split(value: &[u8]) -> Result<(B256, &[u8]), JournalError> {
    let (id, encoded) = value.split_first_chunk::<32>().ok_or(DAMAGED_RECEIPT)?;
    Ok((B256::new(*id), encoded))
}

fn encode(batch: &Batch) -> Vec<u8> {
    serde_json::to_vec(batch).expect("a batch serialises to JSON")
}

fn decode(bytes: &[u8]) -> Result<Batch, JournalError> {
    serde_json::from_slice(bytes).map_err(|_| DAMAGED_BATCH)
}

#[cfg(test)]
pub(super) mod tests {
    use lemma_types::{Bytes, Digest, Mode, Receipt, keys::SecretKey};

    use super::*;

    pub(in super::super) fn network() -> TrustedRoot {
        TrustedRoot::new(1, B256::repeat_byte(1), Bytes::new())
    }

    pub(in super::super) fn key() -> SecretKey {
        SecretKey::from_bytes(&[5; 32]).unwrap()
    }

    pub(in super::super) fn engine() -> Engine {
        Engine {
            numeric_spec: 1,
            importer: 1,
            runtime: "test".to_owned(),
        }
    }

    pub(in super::super) fn draft(request: u8) -> Receipt {
        Receipt {
            request_id: B256::repeat_byte(request),
            model_root: Digest::of(b"model"),
            engine: engine().id(),
            request_commitment: B256::ZERO,
            response_commitment: B256::ZERO,
            transcript_root: B256::ZERO,
            usage_in: 1,
            usage_out: 1,
            compute_units: u64::from(request),
            price: Amount::from_units(10),
            payer: Address::ZERO,
            payment: B256::ZERO,
            mode: Mode::Signed,
            worker: key().address(),
            anchor_height: 1,
            anchor_hash: B256::ZERO,
            completed_at: 1,
            previous_receipt: B256::ZERO,
            evidence: B256::ZERO,
        }
    }

    /// A signed receipt for a request.
    pub(in super::super) fn receipt(request: u8) -> SignedReceipt {
        draft(request).sign(1, &key())
    }

    /// Signs receipts for requests, notes and stores them.
    fn append(journal: &Journal, requests: impl IntoIterator<Item = u8>) -> Vec<SignedReceipt> {
        let (first, mut previous) = match journal.last().unwrap() {
            Some((number, id)) => (number + 1, id),
            None => (0, B256::ZERO),
        };
        let mut receipts = Vec::new();
        for request in requests {
            let receipt = Receipt {
                previous_receipt: previous,
                ..draft(request)
            };
            previous = receipt.id();
            receipts.push(receipt.sign(1, &key()));
        }
        let numbered: Vec<Numbered> = (first..).zip(receipts.iter().cloned()).collect();
        journal.note(&numbered);
        assert!(journal.store().unwrap());
        receipts
    }

    fn open(directory: &tempfile::TempDir) -> Journal {
        Journal::open(
            &directory.path().join("journal.redb"),
            key().address(),
            &network(),
            &engine(),
        )
        .unwrap()
    }

    fn record(batch: &Batch, index: u64) -> BatchRecord {
        BatchRecord {
            index,
            worker: key().address(),
            root: batch.root,
            count: batch.count,
            compute_units: batch.compute_units,
            fees: batch.fees,
            height: 40,
        }
    }

    #[test]
    fn what_is_noted_is_found_before_and_after_it_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(&directory);
        let one = receipt(1);
        let id = one.receipt.id();
        journal.note(&[(0, one.clone())]);
        let found = ReceiptState {
            receipt: one,
            engine: engine(),
            stage: Stage::Pending,
        };
        for stored in [false, true] {
            assert_eq!(journal.find(id).unwrap(), Some(found.clone()));
            assert!(journal.answered(B256::repeat_byte(1)).unwrap());
            assert!(!journal.answered(B256::repeat_byte(2)).unwrap());
            assert_eq!(
                (journal.waiting(), journal.stored()),
                (1, u64::from(stored))
            );
            assert_eq!(journal.store().unwrap(), !stored);
        }
        drop(journal);
        let journal = open(&directory);
        assert_eq!((journal.waiting(), journal.stored()), (1, 1));
        assert_eq!(journal.last().unwrap(), Some((0, id)));
    }

    #[test]
    fn batches_are_sealed_once_and_settled_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(&directory);
        assert_eq!(journal.seal(10).unwrap(), None);
        append(&journal, 1..=5);
        let first = journal.seal(3).unwrap().unwrap();
        assert_eq!(
            (first.first, first.count, first.compute_units, first.fees),
            (0, 3, 6, Amount::from_units(30))
        );
        drop(journal);
        let journal = open(&directory);
        assert_eq!(journal.unsettled().unwrap(), std::slice::from_ref(&first));
        let second = journal.seal(3).unwrap().unwrap();
        assert_eq!(
            (second.first, second.count, second.compute_units),
            (3, 2, 9)
        );
        assert_eq!(journal.seal(3).unwrap(), None);
        journal.mark_settled(&first, &record(&first, 7)).unwrap();
        assert_eq!(journal.unsettled().unwrap(), std::slice::from_ref(&second));
        assert_eq!(journal.waiting(), 2);
        drop(journal);
        assert_eq!(open(&directory).waiting(), 2);
    }

    #[test]
    fn a_batch_holds_what_was_counted_though_the_clerk_has_not_come_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(&directory);
        let count = GROUP as u64 + 3;
        let noted: Vec<Numbered> = (0..count)
            .map(|number| (number, receipt(number as u8)))
            .collect();
        journal.note(&noted);
        assert_eq!((journal.waiting(), journal.stored()), (count, 0));
        let batch = journal.seal(u64::MAX).unwrap().unwrap();
        assert_eq!((batch.first, batch.count), (0, count));
        assert_eq!(journal.seal(u64::MAX).unwrap(), None);
    }

    #[test]
    fn every_receipt_is_provable_in_its_batch() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(&directory);
        let receipts = append(&journal, 1..=7);
        let ids: Vec<B256> = receipts.iter().map(|signed| signed.receipt.id()).collect();
        assert_eq!(journal.find(ids[0]).unwrap().unwrap().stage, Stage::Pending);
        let batch = journal.seal(5).unwrap().unwrap();
        assert_eq!(journal.batch_ids(batch.root).unwrap().unwrap(), ids[..5]);
        assert_eq!(journal.batch_ids(B256::ZERO).unwrap(), None);
        for (index, id) in ids[..5].iter().enumerate() {
            let ReceiptState {
                receipt,
                engine: found,
                stage,
            } = journal.find(*id).unwrap().unwrap();
            assert_eq!(receipt, receipts[index]);
            assert_eq!(found, engine());
            let Stage::Sealed(position) = stage else {
                panic!("{stage:?}")
            };
            assert!(merkle::verify(
                receipt_leaf(*id),
                index as u64,
                5,
                &position.path,
                batch.root
            ));
        }
        assert_eq!(journal.find(ids[5]).unwrap().unwrap().stage, Stage::Pending);
        journal.mark_settled(&batch, &record(&batch, 9)).unwrap();
        let stage = journal.find(ids[4]).unwrap().unwrap().stage;
        assert!(matches!(
            stage,
            Stage::Settled {
                batch_index: 9,
                height: 40,
                ..
            }
        ));
        assert_eq!(journal.find(B256::ZERO).unwrap(), None);
    }

    #[test]
    fn a_batch_holds_as_many_as_it_may_and_the_next_one_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(&directory);
        let signed = receipt(1);
        let count = 10_001u64;
        let numbered: Vec<Numbered> = (0..count)
            .map(|number| {
                let request_id = B256::from(lemma_types::U256::from(number));
                let receipt = Receipt {
                    request_id,
                    ..signed.receipt.clone()
                };
                // The journal does not check signatures: it has only its own worker's.
                (
                    number,
                    SignedReceipt {
                        receipt,
                        signature: signed.signature.clone(),
                    },
                )
            })
            .collect();
        journal.note(&numbered);
        while journal.store().unwrap() {}
        let first = journal.seal(10_000).unwrap().unwrap();
        let second = journal.seal(10_000).unwrap().unwrap();
        assert_eq!((first.count, second.count), (10_000, 1));
        let ids = journal.batch_ids(first.root).unwrap().unwrap();
        let leaves: Vec<B256> = ids.into_iter().map(receipt_leaf).collect();
        assert_eq!(merkle::root(&leaves), first.root);
    }

    #[test]
    fn anothers_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&directory));
        let path = directory.path().join("journal.redb");
        assert!(matches!(
            Journal::open(&path, Address::ZERO, &network(), &engine()),
            Err(JournalError::Foreign("worker"))
        ));
        let other = TrustedRoot {
            genesis: B256::ZERO,
            ..network()
        };
        assert!(matches!(
            Journal::open(&path, key().address(), &other, &engine()),
            Err(JournalError::Foreign("network"))
        ));
    }
}
