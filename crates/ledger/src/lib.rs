//! The ledger's state machine: Ethereum transactions executed by the EVM, with system modules
//! (models, nodes, receipts, history) at fixed addresses beside user contracts.
//!
//! Everything here is a pure function of (state, block): synchronous, without I/O, clock, randomness
//! or floats, and independent of hash-map order. Where the state lives is the caller's affair:
//!
//! * State is a map from 32-byte [`StateKey`]s to fixed-size [`StateValue`]s.
//! * [`Execution`] runs one block over what it has been given so far. A value that it lacks makes the
//!   call return [`Missing`]: fetch those keys, [`Execution::supply`] them, call again. Only that
//!   transaction runs again, a few times at most; one that needs value after value is suspended in
//!   the middle of its run instead, so work is linear in gas whatever a contract does.
//! * [`Execution::finish`] yields the [`Outcome`]: the writes to store and what the header commits to.
//!
//! The same type serves a proposer (which skips rejected transactions), a verifier (to which one
//! rejected transaction makes the block invalid) and whoever executes a finalised block again.
//! [`Call`] answers read-only questions (`eth_call`, `eth_estimateGas`) by the same protocol, and
//! [`State`] reads balances, nonces, code and storage.

mod account;
mod admission;
mod call;
mod evm;
mod execution;
mod fees;
mod genesis;
mod invalid;
mod key;
pub mod modules;
mod receipt;
mod state;
mod transaction;
mod view;

pub use account::{Account, account_key, code_key, code_keys, decode_account, slot_key};
pub use call::{Call, CallRequest, CallResult, Estimate};
pub use execution::{Applied, BlockContext, Execution, Outcome};
pub use fees::next_base_fee;
pub use genesis::{Genesis, GenesisError};
pub use invalid::InvalidTransaction;
pub use key::{Missing, StateKey, StateValue};
pub use lemma_types::block::LogHead;
pub use receipt::{Receipt, logs_bloom, receipts_root, transactions_root};
pub use state::State;
pub use transaction::{MAX_AUTHORIZATIONS, MAX_TRANSACTION_BYTES, Transaction, TransactionError};

/// The EVM rules in force: Osaka, from block 1 on.
pub const SPEC: revm::primitives::hardfork::SpecId = revm::primitives::hardfork::SpecId::OSAKA;
