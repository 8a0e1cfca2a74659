//! Consensus, blocks, mempool and state storage: a validator of Lemma's ledger.
//!
//! [`Validator::spawn`] starts one on a thread of its own; a [`ChainHandle`] is how the rest of the node asks it, from
//! any runtime. What the ledger *means* is in `lemma-ledger`; this crate orders transactions (commonware's simplex with
//! BLS threshold certificates), stores the state (QMDB) and the history (redb), and moves both among validators.
//!
//! The validator itself ([`validator::start`]) is generic over commonware's runtimes: the same code runs on sockets and
//! in the deterministic simulation.
//!
//! ```text
//!   client ── ChainHandle ──► mempool ◄── gossip ◄──► other validators
//!                  │             │
//!                  │          on_demand (waits for transactions)
//!                  │             │
//!                  │          Stateful ── application ──► lemma-ledger (propose, process)
//!                  │             │            │
//!                  └──► reads ─► QMDB         └─ finalized ──► index (history), head
//! ```

mod application;
mod block;
mod config;
mod core;
mod database;
mod execute;
mod gossip;
mod handle;
mod index;
mod keys;
mod mempool;
// Everything generic is instantiated from here, which takes long and which unit tests do not need.
mod mesh;
#[cfg(not(test))]
mod network;
mod on_demand;
mod rules;
pub mod scheme;
mod seeds;
mod service;
pub mod validator;
mod wire;

pub use block::{Block, MAX_TRANSACTIONS, MAX_TRANSACTIONS_BYTES};
pub use config::{Pace, Peer, StartError, ValidatorConfig};
pub use core::Head;
pub use handle::{BlockId, Certificate, ChainError, ChainHandle};
pub use index::{
    DiskIndex, ExecutedBlock, FoundLog, Index, IndexError, Located, Log, LogFilter, LogLimits,
    LogQueryError, MemoryIndex,
};
pub use keys::{KeyError, ValidatorId, ValidatorKeys};
pub use mempool::{Admission, Mempool, PoolLimits, Room, SubmitError};
#[cfg(not(test))]
pub use network::{Validator, reserve_addresses};
pub use wire::Message;
