//! The index in memory: for simulations and tests, where a crash of the process is not part of the story.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::{B256, Bytes};
use futures::{FutureExt as _, future::BoxFuture};

use super::{ExecutedBlock, Index, IndexError, Log, new_leaves, same, tree};

/// An [`Index`] that is lost with the process. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryIndex(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    blocks: BTreeMap<u64, Arc<ExecutedBlock>>,
    numbers: BTreeMap<B256, u64>,
    transactions: BTreeMap<B256, (u64, usize)>,
    certificates: BTreeMap<u64, Bytes>,
    nodes: BTreeMap<(Log, u8, u64), B256>,
}

impl MemoryIndex {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn append(
        &mut self,
        block: Arc<ExecutedBlock>,
        certificate: Option<Bytes>,
    ) -> Result<(), IndexError> {
        let number = block.number();
        let stored = self
            .blocks
            .get(&number)
            .map(|stored| same(&block, stored.hash()))
            .transpose()?;
        if let Some(certificate) = certificate {
            self.certificates.insert(number, certificate);
        }
        if stored.is_some() {
            return Ok(());
        }
        let tip = self.blocks.last_key_value().map_or(0, |(tip, _)| *tip);
        if number != tip + 1 {
            return Err(IndexError::OutOfOrder { tip, found: number });
        }
        for (log, index, leaf) in new_leaves(&block) {
            let nodes = &self.nodes;
            let node = |level, position| Ok(nodes.get(&(log, level, position)).copied());
            let new = tree::completed(index, leaf, &node)?.ok_or_else(|| gap(log, index))?;
            self.nodes.extend(
                new.into_iter()
                    .map(|(level, position, root)| ((log, level, position), root)),
            );
        }
        for (position, receipt) in block.receipts().iter().enumerate() {
            self.transactions
                .insert(receipt.transaction_hash, (number, position));
        }
        self.numbers.insert(block.hash(), number);
        self.blocks.insert(number, block);
        Ok(())
    }
}

/// A leaf that is not the next one.
pub(super) fn gap(log: Log, index: u64) -> IndexError {
    IndexError::Damaged(format!("leaf {index} of {log:?} has no predecessor"))
}

impl Index for MemoryIndex {
    fn append(
        &self,
        block: Arc<ExecutedBlock>,
        certificate: Option<Bytes>,
    ) -> BoxFuture<'static, Result<(), IndexError>> {
        futures::future::ready(self.lock().append(block, certificate)).boxed()
    }

    fn tip(&self) -> Result<u64, IndexError> {
        Ok(self
            .lock()
            .blocks
            .last_key_value()
            .map_or(0, |(tip, _)| *tip))
    }

    fn block(&self, number: u64) -> Result<Option<Arc<ExecutedBlock>>, IndexError> {
        Ok(self.lock().blocks.get(&number).cloned())
    }

    fn number(&self, hash: B256) -> Result<Option<u64>, IndexError> {
        Ok(self.lock().numbers.get(&hash).copied())
    }

    fn locate(&self, transaction: B256) -> Result<Option<(u64, usize)>, IndexError> {
        Ok(self.lock().transactions.get(&transaction).copied())
    }

    fn certificate(&self, from: u64) -> Result<Option<(u64, Bytes)>, IndexError> {
        Ok(self
            .lock()
            .certificates
            .range(from..)
            .next()
            .map(|(number, bytes)| (*number, bytes.clone())))
    }

    fn node(&self, log: Log, level: u8, index: u64) -> Result<Option<B256>, IndexError> {
        Ok(self.lock().nodes.get(&(log, level, index)).copied())
    }
}
