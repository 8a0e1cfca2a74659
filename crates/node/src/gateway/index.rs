//! What the gateway remembers: the receipts it served (never their salts), and where the ledger settled them.
//!
//! Served receipts are written behind, many in one durable step: an answer does not wait for this disk. Should a crash
//! lose the last ones, their workers still have them. All else is durable when a call returns.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use lemma_types::{
    Address, B256, Engine, SignedReceipt, TrustedRoot, merkle,
    settlement::{BatchRecord, receipt_leaf},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::mpsc;

type Word = [u8; 32];

/// Id of a receipt to its encoding.
const RECEIPTS: TableDefinition<Word, &[u8]> = TableDefinition::new("receipts");
/// Request ids that were served.
const REQUESTS: TableDefinition<Word, ()> = TableDefinition::new("requests");
/// Engine id to the engine in JSON.
const ENGINES: TableDefinition<Word, &[u8]> = TableDefinition::new("engines");
/// Id of a receipt whose batch is not here yet, to its worker.
const OPEN: TableDefinition<Word, [u8; 20]> = TableDefinition::new("open");
/// Id of a receipt to its batch and its position there.
const POSITIONS: TableDefinition<Word, (u64, u64)> = TableDefinition::new("positions");
/// Index of a batch to its record in JSON and the ids of its receipts.
const BATCHES: TableDefinition<u64, (&[u8], &[u8])> = TableDefinition::new("batches");
/// Index of a settled batch that may hold open receipts and was not collected yet, to its record in JSON.
const WANTED: TableDefinition<u64, &[u8]> = TableDefinition::new("wanted");
/// `network`: genesis hash. `cursor`: height up to which blocks were looked through.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Receipts that may wait to be written.
const QUEUE: usize = 4_096;
/// Receipts in one durable step.
const GROUP: usize = 512;
/// Receipts that are followed until they are settled. Beyond that, a bundle is asked of its worker when it is wanted.
const MAX_OPEN: usize = 1 << 20;

/// Why the index fails.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The disk, or the file on it.
    #[error("the receipt index: {0}")]
    Storage(Box<redb::Error>),
    /// It belongs to another network.
    #[error("the receipt index is that of another network: use another data directory")]
    Foreign,
    /// It holds something that this program did not write.
    #[error("the receipt index is damaged")]
    Damaged,
    /// No thread is to be had.
    #[error("the receipt index: {0}")]
    Thread(#[from] std::io::Error),
}

macro_rules! storage_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for IndexError {
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

/// A receipt that this gateway served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) receipt: SignedReceipt,
    pub(crate) engine: Engine,
}

/// Where a receipt is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) batch: BatchRecord,
    pub(crate) index: u64,
    /// From the receipt's id to the batch's root.
    pub(crate) path: Vec<B256>,
}

/// The index. Methods block on the disk, except where they are `async`.
pub(crate) struct Index {
    shared: Arc<Shared>,
    /// `None` once it is closed.
    queue: Mutex<Option<mpsc::Sender<Served>>>,
}

struct Shared {
    database: Database,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Served, but not on disk yet.
    unwritten: HashMap<B256, Served>,
    /// Receipts that are not settled, by worker.
    open: HashMap<Address, HashSet<B256>>,
    open_count: usize,
}

impl Memory {
    fn open(&mut self, worker: Address, id: B256) {
        if self.open_count < MAX_OPEN && self.open.entry(worker).or_default().insert(id) {
            self.open_count += 1;
        }
    }

    fn close(&mut self, worker: Address, id: B256) {
        if let Some(ids) = self.open.get_mut(&worker) {
            self.open_count -= usize::from(ids.remove(&id));
            if ids.is_empty() {
                self.open.remove(&worker);
            }
        }
    }
}

impl Index {
    /// Opens the index of a network, or makes it. The writer's thread ends when the index is dropped; join it to be sure
    /// that everything is on disk.
    pub(crate) fn open(
        path: &Path,
        network: &TrustedRoot,
    ) -> Result<(Self, thread::JoinHandle<()>), IndexError> {
        let database = Database::create(path)?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let genesis = network.genesis;
            let known = meta
                .get("network")?
                .map(|known| known.value() == genesis.as_slice());
            match known {
                Some(true) => {}
                Some(false) => return Err(IndexError::Foreign),
                None => drop(meta.insert("network", genesis.as_slice())?),
            }
        }
        {
            transaction.open_table(RECEIPTS)?;
            transaction.open_table(REQUESTS)?;
            transaction.open_table(ENGINES)?;
            transaction.open_table(OPEN)?;
            transaction.open_table(POSITIONS)?;
            transaction.open_table(BATCHES)?;
            transaction.open_table(WANTED)?;
        }
        transaction.commit()?;
        let mut memory = Memory::default();
        for entry in database.begin_read()?.open_table(OPEN)?.iter()? {
            let (id, worker) = entry?;
            memory.open(worker.value().into(), id.value().into());
        }
        let shared = Arc::new(Shared {
            database,
            memory: Mutex::new(memory),
        });
        let (queue, served) = mpsc::channel(QUEUE);
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("lemma-index".to_owned())
            .spawn(move || writer.write_behind(served))?;
        let queue = Mutex::new(Some(queue));
        Ok((Self { shared, queue }, thread))
    }

    /// Remembers a receipt. It is found from now on; soon after, it is durable.
    pub(crate) async fn served(&self, served: Served) {
        {
            let receipt = &served.receipt.receipt;
            let id = receipt.id();
            let mut memory = self.shared.memory();
            memory.open(receipt.worker, id);
            memory.unwritten.insert(id, served.clone());
        }
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let written = match queue {
            Some(queue) => queue.send(served).await.is_ok(),
            None => false,
        };
        if !written {
            tracing::error!("a served receipt was not written: the index is closed");
        }
    }

    /// Lets the writer's thread end when everything is on disk.
    pub(crate) fn close(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Whether this request id was served before.
    pub(crate) fn knows_request(&self, request_id: B256) -> Result<bool, IndexError> {
        let unwritten = {
            let memory = self.shared.memory();
            memory
                .unwritten
                .values()
                .any(|served| served.receipt.receipt.request_id == request_id)
        };
        let requests = self.shared.database.begin_read()?.open_table(REQUESTS)?;
        Ok(unwritten || requests.get(request_id.0)?.is_some())
    }

    /// A receipt that was served here.
    pub(crate) fn find(&self, id: B256) -> Result<Option<Served>, IndexError> {
        if let Some(served) = self.shared.memory().unwritten.get(&id) {
            return Ok(Some(served.clone()));
        }
        let transaction = self.shared.database.begin_read()?;
        let Some(value) = transaction.open_table(RECEIPTS)?.get(id.0)? else {
            return Ok(None);
        };
        let receipt = SignedReceipt::decode(value.value()).ok_or(IndexError::Damaged)?;
        let engines = transaction.open_table(ENGINES)?;
        let engine = engines
            .get(receipt.receipt.engine.0)?
            .ok_or(IndexError::Damaged)?;
        let engine = serde_json::from_slice(engine.value()).map_err(|_| IndexError::Damaged)?;
        Ok(Some(Served { receipt, engine }))
    }

    /// Where a receipt is settled, if its batch was collected.
    pub(crate) fn locate(&self, id: B256) -> Result<Option<Located>, IndexError> {
        let transaction = self.shared.database.begin_read()?;
        let Some(position) = transaction.open_table(POSITIONS)?.get(id.0)? else {
            return Ok(None);
        };
        let (batch_index, index) = position.value();
        let batches = transaction.open_table(BATCHES)?;
        let value = batches.get(batch_index)?.ok_or(IndexError::Damaged)?;
        let (record, ids) = value.value();
        let batch: BatchRecord = serde_json::from_slice(record).map_err(|_| IndexError::Damaged)?;
        let (ids, _) = ids.as_chunks::<32>();
        let leaves: Vec<B256> = ids.iter().map(|id| receipt_leaf((*id).into())).collect();
        let path = merkle::prove(&leaves, index as usize).ok_or(IndexError::Damaged)?;
        Ok(Some(Located { batch, index, path }))
    }

    /// Receipts served here that are not settled, as far as is known.
    pub(crate) fn open_count(&self) -> u64 {
        self.shared.memory().open_count as u64
    }

    /// Whether a worker has receipts here that are not settled.
    pub(crate) fn awaits(&self, worker: Address) -> bool {
        self.shared.memory().open.contains_key(&worker)
    }

    /// Notes that a settled batch is to be collected.
    pub(crate) fn want(&self, records: &[BatchRecord]) -> Result<(), IndexError> {
        let transaction = self.shared.database.begin_write()?;
        {
            let batches = transaction.open_table(BATCHES)?;
            let mut wanted = transaction.open_table(WANTED)?;
            for record in records {
                if batches.get(record.index)?.is_none() {
                    wanted.insert(record.index, json(record).as_slice())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Batches that are to be collected.
    pub(crate) fn wanted(&self) -> Result<Vec<BatchRecord>, IndexError> {
        let wanted = self.shared.database.begin_read()?.open_table(WANTED)?;
        let parse = |json: &[u8]| serde_json::from_slice(json).map_err(|_| IndexError::Damaged);
        wanted
            .iter()?
            .map(|entry| parse(entry?.1.value()))
            .collect()
    }

    /// Keeps a batch whose ids make its root, if any of them was served here; it is no longer wanted either way. Returns
    /// how many were served here.
    pub(crate) fn collect(&self, record: &BatchRecord, ids: &[B256]) -> Result<usize, IndexError> {
        let transaction = self.shared.database.begin_write()?;
        let mut found = Vec::new();
        {
            let receipts = transaction.open_table(RECEIPTS)?;
            let mut open = transaction.open_table(OPEN)?;
            let mut positions = transaction.open_table(POSITIONS)?;
            for (position, id) in (0..).zip(ids) {
                let unwritten = self.shared.memory().unwritten.contains_key(id);
                if unwritten || receipts.get(id.0)?.is_some() {
                    positions.insert(id.0, (record.index, position))?;
                    open.remove(id.0)?;
                    found.push(*id);
                }
            }
            if !found.is_empty() {
                let mut batches = transaction.open_table(BATCHES)?;
                batches.insert(
                    record.index,
                    (json(record).as_slice(), ids.concat().as_slice()),
                )?;
            }
            transaction.open_table(WANTED)?.remove(record.index)?;
        }
        transaction.commit()?;
        let mut memory = self.shared.memory();
        for id in &found {
            memory.close(record.worker, *id);
        }
        Ok(found.len())
    }

    /// Height up to which blocks were looked through; `None` in a new index.
    pub(crate) fn cursor(&self) -> Result<Option<u64>, IndexError> {
        let meta = self.shared.database.begin_read()?.open_table(META)?;
        let Some(value) = meta.get("cursor")? else {
            return Ok(None);
        };
        let bytes = value.value().try_into().map_err(|_| IndexError::Damaged)?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Moves the cursor.
    pub(crate) fn set_cursor(&self, height: u64) -> Result<(), IndexError> {
        let transaction = self.shared.database.begin_write()?;
        transaction
            .open_table(META)?
            .insert("cursor", height.to_be_bytes().as_slice())?;
        transaction.commit()?;
        Ok(())
    }

    /// Number of receipts on disk.
    #[cfg(test)]
    fn written(&self) -> u64 {
        let receipts = self
            .shared
            .database
            .begin_read()
            .unwrap()
            .open_table(RECEIPTS)
            .unwrap();
        receipts.iter().unwrap().count() as u64
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_behind(&self, mut queue: mpsc::Receiver<Served>) {
        let mut group = Vec::with_capacity(GROUP);
        while queue.blocking_recv_many(&mut group, GROUP) > 0 {
            if let Err(error) = self.write(&group) {
                tracing::error!(%error, receipts = group.len(), "served receipts were not written");
            }
            let mut memory = self.memory();
            for served in group.drain(..) {
                memory.unwritten.remove(&served.receipt.receipt.id());
            }
        }
    }

    fn write(&self, group: &[Served]) -> Result<(), IndexError> {
        let transaction = self.database.begin_write()?;
        {
            let mut receipts = transaction.open_table(RECEIPTS)?;
            let mut requests = transaction.open_table(REQUESTS)?;
            let mut engines = transaction.open_table(ENGINES)?;
            let mut open = transaction.open_table(OPEN)?;
            let positions = transaction.open_table(POSITIONS)?;
            for Served {
                receipt: signed,
                engine,
            } in group
            {
                let receipt = &signed.receipt;
                let id = receipt.id().0;
                receipts.insert(id, signed.encode().as_slice())?;
                requests.insert(receipt.request_id.0, ())?;
                if engines.get(receipt.engine.0)?.is_none() {
                    engines.insert(receipt.engine.0, json(engine).as_slice())?;
                }
                // Its batch may have been collected before it came to this.
                if positions.get(id)?.is_none() {
                    open.insert(id, receipt.worker.into_array())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records serialise to JSON")
}

#[cfg(test)]
mod tests {
    use lemma_types::{Amount, Bytes, Digest, Mode, Receipt, keys::SecretKey};

    use super::*;

    fn network() -> TrustedRoot {
        TrustedRoot::new(1, B256::repeat_byte(1), Bytes::new())
    }

    fn served(number: u8) -> Served {
        let key = SecretKey::from_bytes(&[5; 32]).unwrap();
        let engine = Engine {
            numeric_spec: 1,
            importer: 1,
            runtime: "test".to_owned(),
        };
        let receipt = Receipt {
            request_id: B256::repeat_byte(number),
            model_root: Digest::of(b"model"),
            engine: engine.id(),
            request_commitment: B256::ZERO,
            response_commitment: B256::ZERO,
            transcript_root: B256::ZERO,
            usage_in: 1,
            usage_out: 1,
            compute_units: 1,
            price: Amount::ZERO,
            payer: Address::ZERO,
            payment: B256::ZERO,
            mode: Mode::Signed,
            worker: key.address(),
            anchor_height: 1,
            anchor_hash: B256::ZERO,
            completed_at: 1,
            previous_receipt: B256::ZERO,
            evidence: B256::ZERO,
        };
        Served {
            receipt: receipt.sign(1, &key),
            engine,
        }
    }

    fn batch(ids: &[B256]) -> BatchRecord {
        let leaves: Vec<B256> = ids.iter().map(|id| receipt_leaf(*id)).collect();
        BatchRecord {
            index: 3,
            worker: served(1).receipt.receipt.worker,
            root: merkle::root(&leaves),
            count: ids.len() as u64,
            compute_units: 1,
            fees: Amount::ZERO,
            height: 9,
        }
    }

    #[tokio::test]
    async fn receipts_are_found_at_once_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.redb");
        let (index, writer) = Index::open(&path, &network()).unwrap();
        let one = served(1);
        let id = one.receipt.receipt.id();
        index.served(one.clone()).await;
        assert_eq!(index.find(id).unwrap(), Some(one.clone()));
        assert!(index.knows_request(B256::repeat_byte(1)).unwrap());
        assert!(!index.knows_request(B256::repeat_byte(2)).unwrap());
        assert!(index.awaits(one.receipt.receipt.worker));
        drop(index);
        writer.join().unwrap();

        let (index, _) = Index::open(&path, &network()).unwrap();
        assert_eq!(index.written(), 1);
        assert_eq!(index.find(id).unwrap(), Some(one));
        assert_eq!(index.open_count(), 1);
        assert_eq!(index.locate(id).unwrap(), None);
    }

    #[tokio::test]
    async fn a_collected_batch_locates_its_receipts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.redb");
        let (index, writer) = Index::open(&path, &network()).unwrap();
        let mine = served(1).receipt.receipt.id();
        index.served(served(1)).await;
        let ids = [B256::repeat_byte(8), mine, B256::repeat_byte(9)];
        let record = batch(&ids);
        index.want(std::slice::from_ref(&record)).unwrap();
        assert_eq!(index.wanted().unwrap(), std::slice::from_ref(&record));
        assert_eq!(index.collect(&record, &ids).unwrap(), 1);
        assert_eq!(index.wanted().unwrap(), []);
        assert_eq!(index.open_count(), 0);
        let located = index.locate(mine).unwrap().unwrap();
        assert_eq!((&located.batch, located.index), (&record, 1));
        assert!(merkle::verify(
            receipt_leaf(mine),
            1,
            3,
            &located.path,
            record.root
        ));
        assert_eq!(index.locate(ids[0]).unwrap(), None);
        // A collected batch is not wanted again.
        index.want(&[record]).unwrap();
        assert_eq!(index.wanted().unwrap(), []);
        index.set_cursor(77).unwrap();
        drop(index);
        writer.join().unwrap();
        let (index, _) = Index::open(&path, &network()).unwrap();
        assert_eq!(
            index.open_count(),
            0,
            "written after it was collected, and not open again"
        );
        assert_eq!(index.cursor().unwrap(), Some(77));
    }

    #[test]
    fn anothers_index_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.redb");
        let (index, writer) = Index::open(&path, &network()).unwrap();
        drop(index);
        writer.join().unwrap();
        let other = TrustedRoot {
            genesis: B256::ZERO,
            ..network()
        };
        assert!(matches!(
            Index::open(&path, &other),
            Err(IndexError::Foreign)
        ));
    }
}
