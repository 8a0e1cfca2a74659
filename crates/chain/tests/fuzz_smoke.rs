//! The fuzz targets of `lemma-chain` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/chain.rs"]
mod chain;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn block() {
    smoke::run("block", chain::block);
}

#[test]
fn message() {
    smoke::run("message", chain::message);
}
