//! Hashes of all ancestor blocks as an append-only log, so that any header proves any earlier block.
//!
//! | slot | what |
//! | --- | --- |
//! | 0, 1, from 256 | the log: size, root, frontier (see the `log` module) |
//! | 65536 + (i mod 8192) | the hash of block i, for the last 8192 blocks |

use super::{
    abi::ILemmaHistory::{self, *},
    frame::{Frame, Stop},
    log::{self, Slots},
    slot_keys,
};
use crate::{LogHead, Missing, State, StateKey};
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolInterface};
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
///
/// # Panics
/// If the state is not that after block `number - 1`: going on would end in a state that nobody else has.
pub(crate) fn append(state: &mut State, number: u64, parent: B256) -> Result<(), Missing> {
    let parent_number = number.saturating_sub(1);
    let mut slots = log::Direct {
        state,
        address: ADDRESS,
    };
    slots.require(parent_number)?;
    let size = log::head(&mut slots)?.size;
    assert_eq!(
        size, parent_number,
        "block {number} was begun on the state after block {size}"
    );
    log::append(&mut slots, history_leaf(parent))?;
    state.write_slot(ADDRESS, recent_slot(parent_number), parent.into());
    Ok(())
}

/// The head of the history.
pub(crate) fn head(state: &State) -> Result<LogHead, Missing> {
    log::head_in(state, ADDRESS)
}

pub(super) fn call(frame: &mut Frame<'_>, data: &[u8]) -> Result<Vec<u8>, Stop> {
    use ILemmaHistory::ILemmaHistoryCalls as Call;
    match Call::abi_decode_validate(data).map_err(|_| Frame::no_such_method())? {
        Call::size(_) => Ok(sizeCall::abi_encode_returns(&log::head(frame)?.size)),
        Call::root(_) => Ok(rootCall::abi_encode_returns(&log::head(frame)?.root)),
        Call::blockHash(call) => {
            let size = frame.load_u64(log::SIZE)?;
            if call.height >= size || call.height.saturating_add(RECENT) < size {
                return Err(Stop::error(UnknownBlock {
                    height: call.height,
                }));
            }
            let hash = frame.load(recent_slot(call.height))?.into();
            Ok(blockHashCall::abi_encode_returns(&hash))
        }
    }
}
