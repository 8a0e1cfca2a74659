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

#[test]
fn text_work() {
    smoke::run("text_work", node::text_work);
}

#[test]
fn text_frames() {
    smoke::run("text_frames", node::text_frames);
}

#[test]
fn upstream_stream() {
    smoke::run("upstream_stream", node::upstream_stream);
}
