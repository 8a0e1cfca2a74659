//! The fuzz targets of `lemma-ledger` over their seeds and mutations of them.

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
