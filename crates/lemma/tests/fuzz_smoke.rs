//! The fuzz targets of the program over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/lemma.rs"]
mod decoders;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn hub_listing() {
    smoke::run("hub_listing", decoders::hub_listing);
}
