//! The fuzz targets of `lemma-store` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;
#[path = "../../../fuzz/src/store.rs"]
mod store;

#[test]
fn outline() {
    smoke::run("outline", store::outline);
}
