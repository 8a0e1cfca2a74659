//! The history of the chain: blocks, receipts, certificates, and the append-only logs that headers commit to.
//!
//! The state database holds the head's state only. What clients ask about the past is here, fed block by block as they
//! become final. A block is durable in the index before it is acknowledged to consensus, so that nothing that was
//! answered as final is ever lost; feeding a block twice changes nothing.

mod disk;
pub(crate) mod filter;
#[cfg(test)]
mod fixtures;
mod memory;
mod records;
mod tree;

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes};
use futures::future::BoxFuture;
use lemma_ledger::{Receipt, modules::receipts::settled_batch};
use lemma_types::block::Extension;

pub use disk::DiskIndex;
pub use filter::{FoundLog, LogFilter, LogLimits, LogQueryError};
pub use memory::MemoryIndex;

use crate::block::Block;

/// A final block with what its transactions did. Cheap to clone behind its `Arc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutedBlock {
    pub(crate) block: Block,
    pub(crate) receipts: Vec<Receipt>,
}

impl ExecutedBlock {
    /// The block's Ethereum hash.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.block.hash()
    }

    /// Height.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.block.number()
    }

    /// The Ethereum header.
    #[must_use]
    pub fn header(&self) -> &Header {
        self.block.header()
    }

    /// What the header commits to beyond Ethereum's fields.
    #[must_use]
    pub fn extension(&self) -> &Extension {
        self.block.extension()
    }

    /// EIP-2718 bytes of the transactions, in order.
    #[must_use]
    pub fn transactions(&self) -> &[Bytes] {
        self.block.transactions()
    }

    /// The transactions' receipts, in the same order.
    #[must_use]
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    /// The proposer's ed25519 signature over the hash; zeros for the genesis block.
    #[must_use]
    pub fn proposer_signature(&self) -> &[u8; 64] {
        self.block.proposer_signature()
    }

    /// Index in the block of the first log of the transaction at `index`.
    #[must_use]
    pub fn first_log(&self, index: usize) -> usize {
        self.receipts
            .iter()
            .take(index)
            .map(|receipt| receipt.logs.len())
            .sum()
    }
}

/// A transaction in its block.
#[derive(Clone, Debug)]
pub struct Located {
    /// The block.
    pub block: Arc<ExecutedBlock>,
    /// Position among the block's transactions.
    pub index: usize,
}

impl Located {
    /// The transaction's EIP-2718 bytes.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.block.transactions()[self.index]
    }

    /// What the transaction did.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.block.receipts()[self.index]
    }
}

/// An append-only log whose root is in every header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Log {
    /// Settled batches, by their number.
    Batches,
    /// Block hashes, by height.
    History,
}

/// Why the index can not answer or store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The store failed.
    #[error("block index: {0}")]
    Storage(String),
    /// What is stored can not be read.
    #[error("block index is damaged: {0}")]
    Damaged(String),
    /// The directory belongs to another network.
    #[error(
        "block index is of another network: its genesis block is {found}, this network's is {expected}"
    )]
    OtherNetwork {
        /// The genesis block of the index.
        found: B256,
        /// This network's genesis block.
        expected: B256,
    },
    /// Blocks come in order.
    #[error("block {found} can not follow block {tip} in the index")]
    OutOfOrder {
        /// Height of the last block.
        tip: u64,
        /// Height of the block that was to be appended.
        found: u64,
    },
    /// Two final blocks at one height: never, while less than a third of the validators are faulty.
    #[error("block {number} is {stored} in the index, but {found} was finalised")]
    Fork {
        /// The height.
        number: u64,
        /// The block in the index.
        stored: B256,
        /// The other block.
        found: B256,
    },
    /// The index is closed.
    #[error("block index is closed")]
    Closed,
}

/// The store of the chain's history. Reads are short and blocking; the genesis block is not part of it.
pub trait Index: Send + Sync + 'static {
    /// Appends a final block, and its certificate if it is at hand. Resolves when both are durable.
    ///
    /// A block that the index has already changes nothing.
    fn append(
        &self,
        block: Arc<ExecutedBlock>,
        certificate: Option<Bytes>,
    ) -> BoxFuture<'static, Result<(), IndexError>>;

    /// Height of the last block; 0 if there is none.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn tip(&self) -> Result<u64, IndexError>;

    /// The block at a height.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn block(&self, number: u64) -> Result<Option<Arc<ExecutedBlock>>, IndexError>;

    /// Height of the block with this hash.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn number(&self, hash: B256) -> Result<Option<u64>, IndexError>;

    /// Height of the block that has this transaction, and the transaction's position.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn locate(&self, transaction: B256) -> Result<Option<(u64, usize)>, IndexError>;

    /// The certificate of the first block at or after a height that has one, with that block's height.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn certificate(&self, from: u64) -> Result<Option<(u64, Bytes)>, IndexError>;

    /// The root of a perfect subtree of a log: `1 << level` leaves from leaf `index << level` on.
    ///
    /// # Errors
    /// See [`IndexError`].
    fn node(&self, log: Log, level: u8, index: u64) -> Result<Option<B256>, IndexError>;
}

/// The inclusion path (RFC 9162 §2.1.3.1) of leaf `index` in a log's tree of `size` leaves; `None` if the log does not
/// reach so far.
///
/// # Errors
/// See [`IndexError`].
pub(crate) fn path(
    index: &dyn Index,
    log: Log,
    leaf: u64,
    size: u64,
) -> Result<Option<Vec<B256>>, IndexError> {
    let last = size.checked_sub(1);
    match last.map(|last| index.node(log, 0, last)).transpose()? {
        Some(Some(_)) => {}
        _ => return Ok(None),
    }
    tree::path(leaf, size, &|level, position| {
        index.node(log, level, position)
    })
}

/// What is stored at a block's height is the block.
fn same(block: &ExecutedBlock, stored: B256) -> Result<(), IndexError> {
    let (number, found) = (block.number(), block.hash());
    if stored == found {
        Ok(())
    } else {
        Err(IndexError::Fork {
            number,
            stored,
            found,
        })
    }
}

/// Leaves of the logs that appending `block` adds.
fn new_leaves(block: &ExecutedBlock) -> Vec<(Log, u64, B256)> {
    let parent = block.number().saturating_sub(1);
    let history = lemma_types::settlement::history_leaf(block.header().parent_hash);
    let batches = block
        .receipts
        .iter()
        .flat_map(|receipt| &receipt.logs)
        .filter_map(|event| settled_batch(event, block.number()))
        .map(|record| (Log::Batches, record.index, record.leaf()));
    std::iter::once((Log::History, parent, history))
        .chain(batches)
        .collect()
}
