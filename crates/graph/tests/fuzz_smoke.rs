//! The fuzz targets of `lemma-graph` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/graph.rs"]
mod graph;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn integer_graph() {
    smoke::run("integer_graph", graph::integer_graph);
}

#[test]
fn npy() {
    smoke::run("npy", graph::npy);
}

#[test]
fn oip() {
    smoke::run("oip", graph::oip);
}

#[test]
fn onnx() {
    smoke::run("onnx", graph::onnx);
}
