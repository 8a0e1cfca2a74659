//! The words that every part of Lemma shares: ids, digests, amounts, tensors, manifests, receipts, settlement
//! records, block headers and bundles.
//!
//! This crate is pure: no async, no I/O, no clock and no randomness. Every type is parsed once, from bounded bytes,
//! into a value that cannot be wrong, and every byte format that is signed, hashed or stored is frozen by golden
//! vectors in `tests/`.

mod amount;
pub mod block;
pub mod bundle;
mod canonical_json;
pub mod commitment;
mod digest;
mod engine;
pub mod keys;
pub mod limits;
pub mod manifest;
pub mod merkle;
mod mode;
pub mod name;
pub mod receipt;
pub mod settlement;
pub mod tensor;
pub mod text;
pub mod transaction;
mod trusted_root;
pub mod upstream;

pub use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
pub use amount::{Amount, AmountError};
pub use canonical_json::{CanonicalJsonError, from_canonical_json, to_canonical_json};
pub use digest::{Digest, DigestError};
pub use engine::Engine;
pub use manifest::Manifest;
pub use mode::Mode;
pub use name::ModelName;
pub use receipt::{Receipt, SignedReceipt};
pub use trusted_root::TrustedRoot;

/// The domain under which validators sign consensus messages of the network with `chain_id`.
///
/// It is part of every signed message, so a certificate of one network is void on another.
#[must_use]
pub fn consensus_namespace(chain_id: u64) -> Vec<u8> {
    format!("lemma/consensus/1/{chain_id}").into_bytes()
}
