//! Settled batches of receipts.

use super::{log, slot_keys};
use crate::{LogHead, Missing, State, StateKey};
use alloy_primitives::Address;

/// Where the module lives.
pub const ADDRESS: Address = super::RECEIPTS;

/// Keys that every block reads, and those that settling a batch reads.
pub(super) fn prefetch(settles: bool) -> impl Iterator<Item = StateKey> {
    let size = if settles { u64::from(u16::MAX) } else { 0 };
    slot_keys(ADDRESS, log::slots(size))
}

/// The head of the log of batches.
pub(crate) fn head(state: &State) -> Result<LogHead, Missing> {
    log::head_in(state, ADDRESS)
}
