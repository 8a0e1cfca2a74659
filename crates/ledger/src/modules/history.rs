//! Hashes of all ancestor blocks as an append-only log, so that any header proves any earlier block.

use super::{log, slot_keys};
use crate::{LogHead, Missing, State, StateKey};
use alloy_primitives::{Address, B256, U256};
use lemma_types::settlement::history_leaf;

/// Where the history lives.
pub const ADDRESS: Address = super::HISTORY;

/// How many recent block hashes are kept for direct look-up (EIP-2935's number is 8191).
pub const RECENT: u64 = 8192;

const RECENT_BASE: u64 = 1 << 16;

/// The slot with the hash of block `number`, while it is one of the [`RECENT`] last.
pub fn recent_slot(number: u64) -> U256 {
    U256::from(RECENT_BASE.saturating_add(number & (RECENT - 1)))
}

/// Keys that [`append`] reads at this height.
pub(super) fn prefetch(number: u64) -> impl Iterator<Item = StateKey> {
    slot_keys(ADDRESS, log::slots(number.saturating_sub(1)))
}

/// Enters the hash of block `number - 1` when block `number` begins.
pub(crate) fn append(state: &mut State, number: u64, parent: B256) -> Result<(), Missing> {
    let mut slots = log::Direct {
        state,
        address: ADDRESS,
    };
    slots.require(number.saturating_sub(1))?;
    log::append(&mut slots, history_leaf(parent))?;
    state.write_slot(
        ADDRESS,
        recent_slot(number.saturating_sub(1)),
        parent.into(),
    );
    Ok(())
}

/// The head of the history.
pub(crate) fn head(state: &State) -> Result<LogHead, Missing> {
    log::head_in(state, ADDRESS)
}
