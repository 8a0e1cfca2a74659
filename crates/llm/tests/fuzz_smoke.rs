//! The fuzz targets of `lemma-llm` over their seeds and mutations of them.

#![allow(unreachable_pub)]

#[path = "../../../fuzz/src/llm.rs"]
mod llm;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

#[test]
fn gguf() {
    smoke::run("gguf", llm::gguf);
}

#[test]
fn safetensors_folder() {
    smoke::run("safetensors_folder", llm::safetensors_folder);
}

#[test]
fn answer_schema() {
    smoke::run("answer_schema", llm::answer_schema);
}

#[test]
fn tools() {
    smoke::run("tools", llm::tools);
}

#[test]
fn tokenizer_json() {
    smoke::run("tokenizer_json", llm::tokenizer_json);
}
