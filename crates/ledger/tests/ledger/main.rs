//! The ledger as its users see it: blocks of signed transactions go in, outcomes come out.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod blocks;
mod calls;
mod contracts;
mod equivalence;
mod evm;
mod golden;
mod history;
mod interruption;
mod models;
mod nodes;
mod proofs;
mod reference_model;
mod settlement;
mod support;
mod transactions;
