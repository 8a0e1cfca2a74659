//! The fuzz targets of `lemma-node` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/node.rs"]
mod node;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn work_answer() {
    smoke::run("work_answer", node::work_answer);
}

#[test]
fn work_request() {
    smoke::run("work_request", node::work_request);
}
