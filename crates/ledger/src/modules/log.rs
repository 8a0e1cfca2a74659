//! An append-only log in storage slots: RFC 9162's Merkle tree over keccak-256, kept as its frontier.
//!
//! Appending reads one slot for each trailing one of the size's binary digits and writes one; the root
//! is folded from one slot for each one. The slots of a log: 0 size, 1 root, 256 + i the root of the
//! perfect subtree of 2^i leaves, if bit i of the size is set (stale otherwise).

use crate::{LogHead, Missing, State, slot_key};
use alloy_primitives::{Address, B256, U256};
use lemma_types::merkle::node_hash;

/// Storage words by slot, wherever they are.
pub(crate) trait Slots {
    /// Why a slot can not be accessed now.
    type Error;
    /// Reads a word; zero if it was never written.
    fn load(&mut self, slot: U256) -> Result<U256, Self::Error>;
    /// Writes a word.
    fn store(&mut self, slot: U256, word: U256) -> Result<(), Self::Error>;
}

pub(crate) const SIZE: U256 = U256::ZERO;
pub(crate) const ROOT: U256 = U256::ONE;

/// The slot of the perfect subtree of `2^level` leaves.
pub(crate) fn peak(level: u32) -> U256 {
    U256::from(256u64.saturating_add(u64::from(level)))
}

/// Slots that appending to a log of this size reads.
pub(crate) fn slots(size: u64) -> impl Iterator<Item = U256> {
    let peaks = levels(size).map(peak);
    [SIZE, ROOT].into_iter().chain(peaks)
}

/// Set bits, from the lowest.
fn levels(size: u64) -> impl Iterator<Item = u32> {
    (0..u64::BITS).filter(move |level| size & (1 << level) != 0)
}

/// Reads the head.
pub(crate) fn head<S: Slots>(storage: &mut S) -> Result<LogHead, S::Error> {
    let size = storage.load(SIZE)?;
    let root = storage.load(ROOT)?;
    Ok(decode_head(size, root))
}

fn decode_head(size: U256, root: U256) -> LogHead {
    let size = size.saturating_to::<u64>();
    LogHead {
        size,
        root: if size == 0 {
            LogHead::empty().root
        } else {
            B256::from(root)
        },
    }
}

/// Appends a leaf by its hash; returns its index.
///
/// The log is never full: 2^64 - 1 entries do not happen.
pub(crate) fn append<S: Slots>(storage: &mut S, leaf: B256) -> Result<u64, S::Error> {
    let index = storage.load(SIZE)?.saturating_to::<u64>();
    let mut subtree = leaf;
    for level in 0..index.trailing_ones() {
        let left = storage.load(peak(level))?.into();
        subtree = node_hash(left, subtree);
    }
    storage.store(peak(index.trailing_ones()), subtree.into())?;
    let size = index.saturating_add(1);
    // Of the levels of the new size, the lowest is the subtree's own.
    let mut root = subtree;
    for level in levels(size).skip(1) {
        let left = storage.load(peak(level))?.into();
        root = node_hash(left, root);
    }
    storage.store(ROOT, root.into())?;
    storage.store(SIZE, U256::from(size))?;
    Ok(index)
}

/// Slots of a module outside of any transaction.
pub(crate) struct Direct<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) address: Address,
}

impl Slots for Direct<'_> {
    type Error = Missing;

    fn load(&mut self, slot: U256) -> Result<U256, Missing> {
        self.state.storage(self.address, slot)
    }

    fn store(&mut self, slot: U256, word: U256) -> Result<(), Missing> {
        self.state.write_slot(self.address, slot, word);
        Ok(())
    }
}

impl Direct<'_> {
    /// Makes sure that a following [`append`] to a log of this size can not miss anything.
    pub(crate) fn require(&self, size: u64) -> Result<(), Missing> {
        let keys = slots(size).map(|slot| slot_key(self.address, slot));
        let missing: Vec<_> = keys.filter(|key| !self.state.knows(key)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Missing(missing))
        }
    }
}

/// Reads a head outside of any transaction.
pub(crate) fn head_in(state: &State, module: Address) -> Result<LogHead, Missing> {
    let size = state.storage(module, SIZE)?;
    let root = state.storage(module, ROOT)?;
    Ok(decode_head(size, root))
}
