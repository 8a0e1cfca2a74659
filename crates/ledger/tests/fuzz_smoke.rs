//! The fuzz targets of `lemma-ledger` over their seeds and mutations of them.

// The ledger's strictness is for what validators run, not for what makes up bad bytes.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]
#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/ledger.rs"]
mod ledger;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn endpoint() {
    smoke::run("endpoint", ledger::endpoint);
}

#[test]
fn transaction() {
    smoke::run("transaction", ledger::transaction);
}
