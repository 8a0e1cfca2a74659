//! The fuzz target of `lemma-proof` over its seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/proof.rs"]
mod proof;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn proofs() {
    smoke::run("proof", proof::proof);
}
