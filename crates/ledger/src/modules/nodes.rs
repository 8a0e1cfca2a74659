//! Workers: where they serve and who is paid for it.
//!
//! | slot | what |
//! | --- | --- |
//! | 0 | number of nodes that ever registered |
//! | `at(index)` | the node's address |
//! | `node(address)` | active (bit 0), ever registered (bit 1), height of registration (from bit 64) |
//! | the next slot | payee |
//! | the next slot | endpoint, a string |

use super::{
    abi::ILemmaNodes::{self, *},
    endpoint,
    frame::{self, Frame, Stop},
    log::Slots,
};
use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolCall, SolInterface};

/// Where the module lives.
pub const ADDRESS: Address = super::NODES;

const COUNT: U256 = U256::ZERO;
const PAYEE: U256 = U256::ONE;
const ENDPOINT: U256 = uint(2);

const fn uint(n: u64) -> U256 {
    U256::from_limbs([n, 0, 0, 0])
}

/// The first word of a node's entry.
#[derive(Clone, Copy, Default)]
struct Status {
    active: bool,
    known: bool,
    registered_at: u64,
}

impl Status {
    fn from_word(word: U256) -> Self {
        let [flags, registered_at, ..] = *word.as_limbs();
        Self {
            active: flags & 1 != 0,
            known: flags & 2 != 0,
            registered_at,
        }
    }

    fn word(self) -> U256 {
        let flags = u64::from(self.active) | (u64::from(self.known) << 1);
        U256::from_limbs([flags, self.registered_at, 0, 0])
    }
}

pub(super) fn call(frame: &mut Frame<'_>, data: &[u8]) -> Result<Vec<u8>, Stop> {
    use ILemmaNodes::ILemmaNodesCalls as Call;
    match Call::abi_decode_validate(data).map_err(|_| Frame::no_such_method())? {
        Call::register(call) => register(frame, call.endpoint, call.payee),
        Call::update(call) => update(frame, call.endpoint, call.payee),
        Call::deregister(_) => deregister(frame),
        Call::nodeOf(call) => node_of(frame, call.node),
        Call::count(_) => frame
            .load_u64(COUNT)
            .map(|count| countCall::abi_encode_returns(&count)),
        Call::nodeAt(call) => node_at(frame, call.index),
    }
}

/// Whether a node is registered now; for other modules.
pub(super) fn is_active(frame: &mut Frame<'_>, node: Address) -> Result<bool, Stop> {
    let slot = frame.slot("node", &[node.as_slice()])?;
    Ok(Status::from_word(frame.load_from(ADDRESS, slot)?).active)
}

/// The slot that [`is_active`] reads.
pub(super) fn status_slot(node: Address) -> U256 {
    frame::slot("node", &[node.as_slice()])
}

fn register(frame: &mut Frame<'_>, endpoint: String, payee: Address) -> Result<Vec<u8>, Stop> {
    frame.writable()?;
    let node = frame.caller();
    let (slot, status) = entry(frame, node)?;
    if status.active {
        return Err(Stop::error(AlreadyRegistered {}));
    }
    store_details(frame, slot, &endpoint, payee)?;
    if !status.known {
        let index = frame.load_u64(COUNT)?;
        let at = frame.slot("at", &[&index.to_be_bytes()])?;
        frame.store(at, node.into_word().into())?;
        frame.store(COUNT, U256::from(index.saturating_add(1)))?;
    }
    let status = Status {
        active: true,
        known: true,
        registered_at: frame.height(),
    };
    frame.store(slot, status.word())?;
    frame.emit(&NodeRegistered {
        node,
        payee,
        endpoint,
    })?;
    Ok(Vec::new())
}

fn update(frame: &mut Frame<'_>, endpoint: String, payee: Address) -> Result<Vec<u8>, Stop> {
    frame.writable()?;
    let node = frame.caller();
    let (slot, _) = active_entry(frame, node)?;
    store_details(frame, slot, &endpoint, payee)?;
    frame.emit(&NodeUpdated {
        node,
        payee,
        endpoint,
    })?;
    Ok(Vec::new())
}

fn deregister(frame: &mut Frame<'_>) -> Result<Vec<u8>, Stop> {
    frame.writable()?;
    let node = frame.caller();
    let (slot, status) = active_entry(frame, node)?;
    frame.store(
        slot,
        Status {
            active: false,
            ..status
        }
        .word(),
    )?;
    frame.emit(&NodeDeregistered { node })?;
    Ok(Vec::new())
}

fn node_of(frame: &mut Frame<'_>, node: Address) -> Result<Vec<u8>, Stop> {
    let (slot, status) = entry(frame, node)?;
    let payee = frame.load_address(slot.wrapping_add(PAYEE))?;
    let endpoint = frame.load_string(slot.wrapping_add(ENDPOINT))?;
    Ok(nodeOfCall::abi_encode_returns(&nodeOfReturn {
        endpoint,
        payee,
        registeredAt: status.registered_at,
        active: status.active,
    }))
}

fn node_at(frame: &mut Frame<'_>, index: u64) -> Result<Vec<u8>, Stop> {
    let count = frame.load_u64(COUNT)?;
    if index >= count {
        return Err(Stop::error(IndexOutOfRange { index, count }));
    }
    let slot = frame.slot("at", &[&index.to_be_bytes()])?;
    Ok(nodeAtCall::abi_encode_returns(&frame.load_address(slot)?))
}

fn entry(frame: &mut Frame<'_>, node: Address) -> Result<(U256, Status), Stop> {
    let slot = frame.slot("node", &[node.as_slice()])?;
    Ok((slot, Status::from_word(frame.load(slot)?)))
}

fn active_entry(frame: &mut Frame<'_>, node: Address) -> Result<(U256, Status), Stop> {
    let (slot, status) = entry(frame, node)?;
    if !status.active {
        return Err(Stop::error(NotRegistered { node }));
    }
    Ok((slot, status))
}

fn store_details(
    frame: &mut Frame<'_>,
    slot: U256,
    endpoint: &str,
    payee: Address,
) -> Result<(), Stop> {
    endpoint::check(endpoint).map_err(|reason| {
        Stop::error(InvalidEndpoint {
            reason: reason.to_string(),
        })
    })?;
    if payee.is_zero() {
        return Err(Stop::error(ZeroPayee {}));
    }
    frame.store(slot.wrapping_add(PAYEE), payee.into_word().into())?;
    frame.store_string(slot.wrapping_add(ENDPOINT), endpoint)
}
