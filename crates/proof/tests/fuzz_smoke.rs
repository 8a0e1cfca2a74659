//! The fuzz targets of `lemma-proof` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/proof.rs"]
mod proof;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn proofs() {
    smoke::run("proof", proof::proof);
}

#[test]
fn evidence() {
    smoke::run("evidence", proof::evidence);
}
