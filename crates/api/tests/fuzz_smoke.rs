//! The fuzz targets of `lemma-api` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/api.rs"]
mod api;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn http_request() {
    smoke::run("http_request", api::http_request);
}

#[test]
fn http_response() {
    smoke::run("http_response", api::http_response);
}

#[test]
fn tensor_file() {
    smoke::run("tensor_file", api::tensor_file);
}

#[test]
fn json_rpc() {
    smoke::run("json_rpc", api::json_rpc);
}

#[test]
fn openai_request() {
    smoke::run("openai_request", api::openai_request);
}
