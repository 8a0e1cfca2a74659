//! The index in one file, by redb.
//!
//! One thread writes; what has gathered while it was busy becomes durable together. Readers use snapshots and wait for
//! nobody.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock, mpsc},
    thread,
};

use alloy_primitives::{B256, Bytes};
use commonware_codec::Encode as _;
use futures::{FutureExt as _, channel::oneshot, future::BoxFuture};
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable,
    TableDefinition, WriteTransaction,
};

use super::{ExecutedBlock, Index, IndexError, Log, memory::gap, new_leaves, records, same, tree};
use crate::block::Block;

/// Height to encoded block.
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// Height to encoded receipts.
const RECEIPTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("receipts");
/// Block hash to height.
const NUMBERS: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("numbers");
/// Transaction hash to height and position.
const TRANSACTIONS: TableDefinition<'_, [u8; 32], (u64, u64)> =
    TableDefinition::new("transactions");
/// Height to encoded finalization.
const CERTIFICATES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("certificates");
/// Log, level and position to the root of a perfect subtree.
const NODES: TableDefinition<'_, (u8, u8, u64), [u8; 32]> = TableDefinition::new("nodes");
/// The genesis block's hash under [`GENESIS`].
const NETWORK: TableDefinition<'_, &str, [u8; 32]> = TableDefinition::new("network");
const GENESIS: &str = "genesis";

/// Memory for cached pages, bytes.
const CACHE: usize = 4 << 20;
/// Blocks that may wait for the writer. Consensus has at most a few unacknowledged at a time.
const QUEUE: usize = 64;

/// An [`Index`] in a file.
pub struct DiskIndex(RwLock<Option<Open>>);

struct Open {
    database: Arc<Database>,
    queue: mpsc::SyncSender<Append>,
    writer: thread::JoinHandle<()>,
}

struct Append {
    block: Arc<ExecutedBlock>,
    certificate: Option<Bytes>,
    done: oneshot::Sender<Result<(), IndexError>>,
}

impl DiskIndex {
    /// Opens or creates the index of the network with this genesis block.
    ///
    /// # Errors
    /// [`IndexError::Storage`], also if another process has the file open; [`IndexError::OtherNetwork`].
    pub fn open(path: &Path, genesis: B256) -> Result<Self, IndexError> {
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(storage)?;
        check_network(&database, genesis)?;
        let database = Arc::new(database);
        let (queue, appends) = mpsc::sync_channel(QUEUE);
        let written = database.clone();
        let writer = thread::Builder::new()
            .name("block-index".to_owned())
            .spawn(move || write_all(&written, &appends))
            .map_err(|error| IndexError::Storage(error.to_string()))?;
        Ok(Self(RwLock::new(Some(Open {
            database,
            queue,
            writer,
        }))))
    }

    /// Closes the file, after everything that was appended is durable: other handles to the index learn that it is
    /// closed, and the file may be opened again.
    pub fn close(&self) {
        let open = self
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Open {
            database,
            queue,
            writer,
        }) = open
        {
            drop(queue);
            // A writer that panicked has answered nobody; there is nothing to add.
            let _ = writer.join();
            drop(database);
        }
    }

    fn snapshot<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or(IndexError::Closed)?;
        read(&open.database.begin_read().map_err(storage)?)
    }

    fn read<K, V, T>(
        &self,
        table: TableDefinition<'_, K, V>,
        read: impl FnOnce(&ReadOnlyTable<K, V>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError>
    where
        K: redb::Key + 'static,
        V: redb::Value + 'static,
    {
        self.snapshot(|transaction| read(&transaction.open_table(table).map_err(storage)?))
    }
}

impl Drop for DiskIndex {
    fn drop(&mut self) {
        self.close();
    }
}

fn storage(error: impl Into<redb::Error>) -> IndexError {
    IndexError::Storage(error.into().to_string())
}

fn damaged(what: &str, number: u64, error: impl std::fmt::Display) -> IndexError {
    IndexError::Damaged(format!("{what} {number}: {error}"))
}

/// Creates all tables, and refuses the file of another network.
fn check_network(database: &Database, genesis: B256) -> Result<(), IndexError> {
    let transaction = database.begin_write().map_err(storage)?;
    {
        let mut network = transaction.open_table(NETWORK).map_err(storage)?;
        let found = network
            .get(GENESIS)
            .map_err(storage)?
            .map(|hash| B256::from(hash.value()));
        match found {
            Some(found) if found != genesis => {
                return Err(IndexError::OtherNetwork {
                    found,
                    expected: genesis,
                });
            }
            Some(_) => {}
            None => drop(network.insert(GENESIS, genesis.0).map_err(storage)?),
        }
        transaction.open_table(BLOCKS).map_err(storage)?;
        transaction.open_table(RECEIPTS).map_err(storage)?;
        transaction.open_table(NUMBERS).map_err(storage)?;
        transaction.open_table(TRANSACTIONS).map_err(storage)?;
        transaction.open_table(CERTIFICATES).map_err(storage)?;
        transaction.open_table(NODES).map_err(storage)?;
    }
    transaction.commit().map_err(storage)
}

/// The writer: ends when the index is dropped.
fn write_all(database: &Database, appends: &mpsc::Receiver<Append>) {
    while let Ok(first) = appends.recv() {
        let group: Vec<_> = std::iter::once(first).chain(appends.try_iter()).collect();
        let result = write_group(database, &group);
        for append in group {
            // Whoever asked may be gone.
            let _ = append.done.send(result.clone());
        }
    }
}

fn write_group(database: &Database, group: &[Append]) -> Result<(), IndexError> {
    let mut transaction = database.begin_write().map_err(storage)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(storage)?;
    for append in group {
        write(&transaction, &append.block, append.certificate.as_ref())?;
    }
    transaction.commit().map_err(storage)
}

fn write(
    transaction: &WriteTransaction,
    block: &ExecutedBlock,
    certificate: Option<&Bytes>,
) -> Result<(), IndexError> {
    let number = block.number();
    let mut blocks = transaction.open_table(BLOCKS).map_err(storage)?;
    let tip = last_key(&blocks)?;
    if let Some(stored) = blocks.get(number).map_err(storage)? {
        let stored = Block::decode_own(stored.value()).map_err(|e| damaged("block", number, e))?;
        same(block, stored.hash())?;
    }
    if let Some(certificate) = certificate {
        let mut certificates = transaction.open_table(CERTIFICATES).map_err(storage)?;
        certificates
            .insert(number, certificate.as_ref())
            .map_err(storage)?;
    }
    if number <= tip {
        return Ok(());
    }
    if number != tip + 1 {
        return Err(IndexError::OutOfOrder { tip, found: number });
    }
    blocks
        .insert(number, block.block.encode().as_ref())
        .map_err(storage)?;
    let mut receipts = transaction.open_table(RECEIPTS).map_err(storage)?;
    receipts
        .insert(number, records::encode(&block.receipts).as_slice())
        .map_err(storage)?;
    let mut numbers = transaction.open_table(NUMBERS).map_err(storage)?;
    numbers.insert(block.hash().0, number).map_err(storage)?;
    let mut transactions = transaction.open_table(TRANSACTIONS).map_err(storage)?;
    for (position, receipt) in (0u64..).zip(&block.receipts) {
        transactions
            .insert(receipt.transaction_hash.0, (number, position))
            .map_err(storage)?;
    }
    write_leaves(transaction, block)
}

fn write_leaves(transaction: &WriteTransaction, block: &ExecutedBlock) -> Result<(), IndexError> {
    let mut nodes = transaction.open_table(NODES).map_err(storage)?;
    for (log, index, leaf) in new_leaves(block) {
        let node = |level, position| {
            let found = nodes.get((log as u8, level, position)).map_err(storage)?;
            Ok(found.map(|root| B256::from(root.value())))
        };
        let new = tree::completed(index, leaf, &node)?.ok_or_else(|| gap(log, index))?;
        for (level, position, root) in new {
            nodes
                .insert((log as u8, level, position), root.0)
                .map_err(storage)?;
        }
    }
    Ok(())
}

fn last_key(blocks: &impl ReadableTable<u64, &'static [u8]>) -> Result<u64, IndexError> {
    Ok(blocks
        .last()
        .map_err(storage)?
        .map_or(0, |(number, _)| number.value()))
}

impl Index for DiskIndex {
    fn append(
        &self,
        block: Arc<ExecutedBlock>,
        certificate: Option<Bytes>,
    ) -> BoxFuture<'static, Result<(), IndexError>> {
        let (done, written) = oneshot::channel();
        let append = Append {
            block,
            certificate,
            done,
        };
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let sent = open
            .as_ref()
            .is_some_and(|open| open.queue.send(append).is_ok());
        async move {
            if !sent {
                return Err(IndexError::Closed);
            }
            written.await.unwrap_or(Err(IndexError::Closed))
        }
        .boxed()
    }

    fn tip(&self) -> Result<u64, IndexError> {
        self.read(BLOCKS, last_key)
    }

    fn block(&self, number: u64) -> Result<Option<Arc<ExecutedBlock>>, IndexError> {
        self.snapshot(|transaction| {
            let blocks = transaction.open_table(BLOCKS).map_err(storage)?;
            let Some(block) = blocks.get(number).map_err(storage)? else {
                return Ok(None);
            };
            let block =
                Block::decode_own(block.value()).map_err(|e| damaged("block", number, e))?;
            let receipts = transaction.open_table(RECEIPTS).map_err(storage)?;
            let receipts = receipts.get(number).map_err(storage)?;
            let receipts =
                receipts.ok_or_else(|| damaged("receipts of block", number, "missing"))?;
            let receipts = records::decode(receipts.value())
                .map_err(|error| damaged("receipts of block", number, error))?;
            Ok(Some(Arc::new(ExecutedBlock { block, receipts })))
        })
    }

    fn number(&self, hash: B256) -> Result<Option<u64>, IndexError> {
        self.read(NUMBERS, |numbers| {
            Ok(numbers
                .get(hash.0)
                .map_err(storage)?
                .map(|number| number.value()))
        })
    }

    fn locate(&self, transaction: B256) -> Result<Option<(u64, usize)>, IndexError> {
        self.read(TRANSACTIONS, |transactions| {
            let found = transactions
                .get(transaction.0)
                .map_err(storage)?
                .map(|place| place.value());
            Ok(found.map(|(number, position)| (number, position as usize)))
        })
    }

    fn certificate(&self, from: u64) -> Result<Option<(u64, Bytes)>, IndexError> {
        self.read(CERTIFICATES, |certificates| {
            let first = certificates
                .range(from..)
                .map_err(storage)?
                .next()
                .transpose()
                .map_err(storage)?;
            Ok(
                first
                    .map(|(number, bytes)| (number.value(), Bytes::copy_from_slice(bytes.value()))),
            )
        })
    }

    fn node(&self, log: Log, level: u8, index: u64) -> Result<Option<B256>, IndexError> {
        self.read(NODES, |nodes| {
            let found = nodes.get((log as u8, level, index)).map_err(storage)?;
            Ok(found.map(|root| B256::from(root.value())))
        })
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Log as Event};
    use futures::executor::block_on;
    use lemma_types::{merkle, settlement::history_leaf};

    use super::*;
    use crate::index::{MemoryIndex, fixtures, path};

    const GENESIS_HASH: B256 = B256::repeat_byte(7);

    fn chain() -> Vec<Arc<ExecutedBlock>> {
        let event = Event::new_unchecked(
            Address::repeat_byte(1),
            vec![B256::ZERO],
            Bytes::from_static(b"x"),
        );
        fixtures::chain(&[vec![vec![event.clone()], vec![]], vec![], vec![vec![event]]])
    }

    #[test]
    fn what_was_appended_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("index.redb");
        let blocks = chain();
        {
            let index = DiskIndex::open(&file, GENESIS_HASH).unwrap();
            assert_eq!(index.tip().unwrap(), 0);
            for block in &blocks {
                block_on(index.append(block.clone(), None)).unwrap();
            }
            block_on(index.append(blocks[1].clone(), Some(Bytes::from_static(b"proof")))).unwrap();
        }
        let index = DiskIndex::open(&file, GENESIS_HASH).unwrap();
        assert_eq!(index.tip().unwrap(), 3);
        for block in &blocks {
            assert_eq!(index.block(block.number()).unwrap().as_ref(), Some(block));
            assert_eq!(index.number(block.hash()).unwrap(), Some(block.number()));
            for (position, receipt) in block.receipts().iter().enumerate() {
                let place = index.locate(receipt.transaction_hash).unwrap();
                assert_eq!(place, Some((block.number(), position)));
            }
        }
        assert_eq!(index.block(4).unwrap(), None);
        assert_eq!(
            index.certificate(1).unwrap(),
            Some((2, Bytes::from_static(b"proof")))
        );
        assert_eq!(index.certificate(3).unwrap(), None);
        assert!(
            matches!(
                DiskIndex::open(&file, B256::ZERO),
                Err(IndexError::Storage(_))
            ),
            "locked"
        );
        index.close();
        assert!(matches!(index.tip(), Err(IndexError::Closed)));
        let late = block_on(index.append(blocks[0].clone(), None));
        assert!(matches!(late, Err(IndexError::Closed)));
        assert!(matches!(
            DiskIndex::open(&file, B256::ZERO),
            Err(IndexError::OtherNetwork { .. })
        ));
    }

    #[test]
    fn blocks_come_in_order_and_twice_is_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskIndex::open(&dir.path().join("i"), GENESIS_HASH).unwrap();
        let memory = MemoryIndex::default();
        let (blocks, other) = (chain(), fixtures::chain(&[vec![]]));
        for index in [&disk as &dyn Index, &memory] {
            block_on(index.append(blocks[0].clone(), None)).unwrap();
            let early = block_on(index.append(blocks[2].clone(), None));
            assert!(matches!(
                early,
                Err(IndexError::OutOfOrder { tip: 1, found: 3 })
            ));
            block_on(index.append(blocks[0].clone(), None)).unwrap();
            assert_eq!(index.tip().unwrap(), 1);
            let fork = block_on(index.append(other[0].clone(), None));
            assert!(matches!(fork, Err(IndexError::Fork { number: 1, .. })));
        }
    }

    #[test]
    fn history_paths_verify_against_the_root_of_all_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let index = DiskIndex::open(&dir.path().join("i"), GENESIS_HASH).unwrap();
        let blocks = chain();
        for block in &blocks {
            block_on(index.append(block.clone(), None)).unwrap();
        }
        let leaves: Vec<_> = blocks
            .iter()
            .map(|block| history_leaf(block.header().parent_hash))
            .collect();
        let root = merkle::root(&leaves);
        for (height, leaf) in (0u64..).zip(&leaves) {
            let path = path(&index, Log::History, height, 3).unwrap().unwrap();
            assert!(merkle::verify(*leaf, height, 3, &path, root));
        }
        assert_eq!(path(&index, Log::History, 0, 4).unwrap(), None);
        assert_eq!(path(&index, Log::Batches, 0, 1).unwrap(), None);
    }
}
