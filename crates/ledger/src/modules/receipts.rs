//! Settled batches of receipts, an append-only log whose head is in every block header.
//!
//! | slot | what |
//! | --- | --- |
//! | 0, 1, from 256 | the log: size, root, frontier (see the `log` module) |
//! | `batch(index)` | worker (low 20 bytes), height (next 8 bytes) |
//! | the next slot | root over the receipts |
//! | the next slot | fees (low 16 bytes), compute units (next 8), number of receipts (highest 8) |
//! | `settled(worker, root)` | index + 1 of the batch |
//! | `totals(worker)` | compute units (low 16 bytes), receipts (next 8), batches (highest 8) |
//! | the next slot | fees |

use super::{
    abi::ILemmaReceipts::{self, *},
    frame::{Frame, HASH_GAS, Stop, to_address},
    log::{self, Slots},
    nodes, slot_keys,
};
use crate::{LogHead, Missing, State, StateKey, Transaction, slot_key};
use alloy_primitives::{Address, B256, Log, U256};
use alloy_sol_types::{SolCall, SolEvent, SolInterface};
use lemma_types::{Amount, settlement::BatchRecord};

/// Where the module lives.
pub const ADDRESS: Address = super::RECEIPTS;

const ROOT: U256 = U256::ONE;
const SUMS: U256 = U256::from_limbs([2, 0, 0, 0]);
const FEES: U256 = U256::ONE;

/// How large a log is foreseen by [`prefetch`]; a larger one costs one more round of fetching.
const FORESEEN_LOG: u64 = (1 << 20) - 1;

/// Keys that every block reads, and those that settling batches reads.
pub(super) fn prefetch(transactions: &[Transaction]) -> Vec<StateKey> {
    let mut keys = Vec::new();
    let mut size = 0;
    for transaction in transactions.iter().filter(|tx| tx.to() == Some(ADDRESS)) {
        size = FORESEEN_LOG;
        let worker = transaction.sender();
        keys.push(slot_key(nodes::ADDRESS, nodes::status_slot(worker)));
        keys.extend(slot_keys(
            ADDRESS,
            pair(super::frame::slot("totals", &[worker.as_slice()])),
        ));
    }
    keys.extend(slot_keys(ADDRESS, log::slots(size)));
    keys
}

fn pair(first: U256) -> [U256; 2] {
    [first, first.wrapping_add(U256::ONE)]
}

/// The head of the log of batches.
pub(crate) fn head(state: &State) -> Result<LogHead, Missing> {
    log::head_in(state, ADDRESS)
}

pub(super) fn call(frame: &mut Frame<'_>, data: &[u8]) -> Result<Vec<u8>, Stop> {
    use ILemmaReceipts::ILemmaReceiptsCalls as Call;
    match Call::abi_decode_validate(data).map_err(|_| Frame::no_such_method())? {
        Call::settle(call) => {
            settle(frame, &call).map(|index| settleCall::abi_encode_returns(&index))
        }
        Call::log(_) => {
            let LogHead { size, root } = log::head(frame)?;
            Ok(logCall::abi_encode_returns(&logReturn { size, root }))
        }
        Call::batchAt(call) => batch_at(frame, call.index),
        Call::isSettled(call) => {
            let slot = settled_slot(frame, call.worker, call.root)?;
            let position = frame.load_u64(slot)?;
            let index = position.saturating_sub(1);
            let settled = position != 0;
            Ok(isSettledCall::abi_encode_returns(&isSettledReturn {
                settled,
                index,
            }))
        }
        Call::totalsOf(call) => {
            let slot = frame.slot("totals", &[call.worker.as_slice()])?;
            Ok(totalsOfCall::abi_encode_returns(&load_totals(frame, slot)?))
        }
    }
}

fn settle(frame: &mut Frame<'_>, batch: &settleCall) -> Result<u64, Stop> {
    frame.writable()?;
    let worker = frame.caller();
    if !nodes::is_active(frame, worker)? {
        return Err(Stop::error(NotActiveNode { sender: worker }));
    }
    if batch.count == 0 || batch.root.is_zero() {
        return Err(Stop::error(EmptyBatch {}));
    }
    let fees =
        u128::try_from(batch.fees).map_err(|_| Stop::error(FeesTooLarge { fees: batch.fees }))?;
    let settled = settled_slot(frame, worker, batch.root)?;
    if let Some(index) = frame.load_u64(settled)?.checked_sub(1) {
        return Err(Stop::error(AlreadySettled { index }));
    }
    add_to_totals(frame, worker, batch)?;
    let record = BatchRecord {
        index: frame.load_u64(log::SIZE)?,
        worker,
        root: batch.root,
        count: batch.count,
        compute_units: batch.computeUnits,
        fees: Amount::from_units(fees),
        height: frame.height(),
    };
    store_batch(frame, &record)?;
    append(frame, record.leaf())?;
    frame.store(settled, U256::from(record.index.saturating_add(1)))?;
    let settleCall {
        root,
        count,
        computeUnits,
        fees,
    } = *batch;
    let index = record.index;
    frame.emit(&BatchSettled {
        index,
        worker,
        root,
        count,
        computeUnits,
        fees,
    })?;
    Ok(index)
}

/// The batch that an event of a block at `height` tells of; `None` if it tells of something else.
///
/// Only this module emits at [`ADDRESS`], so such an event is the truth.
pub fn settled_batch(event: &Log, height: u64) -> Option<BatchRecord> {
    if event.address != ADDRESS {
        return None;
    }
    let settled = BatchSettled::decode_log_data(&event.data).ok()?;
    Some(BatchRecord {
        index: settled.index,
        worker: settled.worker,
        root: settled.root,
        count: settled.count,
        compute_units: settled.computeUnits,
        fees: Amount::from_units(settled.fees.try_into().ok()?),
        height,
    })
}

/// Appends to the log and pays for the hashes.
fn append(frame: &mut Frame<'_>, leaf: B256) -> Result<(), Stop> {
    let size = frame.load_u64(log::SIZE)?;
    // One hash for the leaf (8 words), one for each carry and one for each further peak.
    let hashes = u64::from(size.trailing_ones())
        .saturating_add(u64::from(size.saturating_add(1).count_ones()))
        .saturating_add(2);
    frame.charge(hashes.saturating_mul(HASH_GAS))?;
    log::append(frame, leaf).map(|_| ())
}

fn store_batch(frame: &mut Frame<'_>, record: &BatchRecord) -> Result<(), Stop> {
    let slot = frame.slot("batch", &[&record.index.to_be_bytes()])?;
    let who: U256 = record.worker.into_word().into();
    let when = U256::from(record.height).wrapping_shl(160);
    frame.store(slot, who | when)?;
    frame.store(slot.wrapping_add(ROOT), record.root.into())?;
    let sums = pack(record.count, record.compute_units, record.fees.units());
    frame.store(slot.wrapping_add(SUMS), sums)
}

fn batch_at(frame: &mut Frame<'_>, index: u64) -> Result<Vec<u8>, Stop> {
    let count = frame.load_u64(log::SIZE)?;
    if index >= count {
        return Err(Stop::error(IndexOutOfRange { index, count }));
    }
    let slot = frame.slot("batch", &[&index.to_be_bytes()])?;
    let head = frame.load(slot)?;
    let root = frame.load(slot.wrapping_add(ROOT))?.into();
    let (count, compute_units, fees) = unpack(frame.load(slot.wrapping_add(SUMS))?);
    let worker = to_address(head);
    let height = head.wrapping_shr(160).saturating_to();
    let fees = U256::from(fees);
    let batch = batchAtReturn {
        worker,
        root,
        count,
        computeUnits: compute_units,
        fees,
        height,
    };
    Ok(batchAtCall::abi_encode_returns(&batch))
}

fn add_to_totals(frame: &mut Frame<'_>, worker: Address, batch: &settleCall) -> Result<(), Stop> {
    let slot = frame.slot("totals", &[worker.as_slice()])?;
    let totals = load_totals(frame, slot)?;
    let sum = || {
        Some((
            pack(
                totals.batches.checked_add(1)?,
                totals.count.checked_add(batch.count)?,
                totals
                    .computeUnits
                    .checked_add(u128::from(batch.computeUnits))?,
            ),
            totals.fees.checked_add(batch.fees)?,
        ))
    };
    let (counts, fees) = sum().ok_or_else(|| Stop::error(TotalsOverflow {}))?;
    frame.store(slot, counts)?;
    frame.store(slot.wrapping_add(FEES), fees)
}

fn load_totals(frame: &mut Frame<'_>, slot: U256) -> Result<totalsOfReturn, Stop> {
    let (batches, count, compute_units) = unpack(frame.load(slot)?);
    let fees = frame.load(slot.wrapping_add(FEES))?;
    Ok(totalsOfReturn {
        batches,
        count,
        computeUnits: compute_units,
        fees,
    })
}

fn settled_slot(frame: &mut Frame<'_>, worker: Address, root: B256) -> Result<U256, Stop> {
    frame.slot("settled", &[worker.as_slice(), root.as_slice()])
}

/// Two 64-bit numbers and a 128-bit one in a word, highest first.
fn pack(high: u64, middle: u64, low: u128) -> U256 {
    let [low0, low1, ..] = *U256::from(low).as_limbs();
    U256::from_limbs([low0, low1, middle, high])
}

fn unpack(word: U256) -> (u64, u64, u128) {
    let [low0, low1, middle, high] = *word.as_limbs();
    (high, middle, u128::from(low0) | (u128::from(low1) << 64))
}
