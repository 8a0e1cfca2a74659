//! Embeddings: vectors with their receipt, in both encodings, and refusals.

use std::sync::OnceLock;

use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use lemma_api::oip;
use lemma_llm::Compute;
use lemma_node::{
    embedding::{Embedder, manifest},
    files::ModelFiles,
    model::Terms,
};
use lemma_types::{Manifest, SignedReceipt, manifest::File};
use lemma_verify::Opened;
use serde_json::{Value, json};

use crate::support::{Answer, check_opened, fixture, get, post};

fn publish(names: &[&str]) -> (Embedder, Manifest) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../llm/tests/fixtures/bert/");
    let store = fixture().network.gateway().store().clone();
    let listed = names.iter().map(|name| {
        let bytes = std::fs::read(format!("{folder}{name}")).unwrap();
        File {
            path: (*name).to_owned(),
            size: bytes.len() as u64,
            blake3: store.put_bytes(&bytes).unwrap(),
        }
    });
    let names = names.iter().map(|name| (*name).to_owned());
    let files = ModelFiles::open(folder.as_ref(), names).unwrap();
    let model = Embedder::load(&files).unwrap();
    let manifest = manifest(&model, listed.collect(), Terms::default()).unwrap();
    let published = post("/v1/models", manifest.encode());
    assert_eq!(published.status, StatusCode::CREATED, "{published:?}");
    (model, manifest)
}

fn local() -> &'static (Embedder, Manifest) {
    static MODEL: OnceLock<(Embedder, Manifest)> = OnceLock::new();
    MODEL.get_or_init(|| publish(&["config.json", "model.safetensors", "tokenizer.json"]))
}

fn embed(change: impl FnOnce(&mut Value)) -> Answer {
    let mut body = json!({ "model": local().1.root(), "input": ["a text", "another one"] });
    change(&mut body);
    post("/v1/embeddings", body.to_string())
}

fn vector(entry: &Value) -> Vec<f32> {
    match &entry["embedding"] {
        Value::String(text) => {
            let bytes = STANDARD.decode(text).unwrap();
            let (values, _) = bytes.as_chunks();
            values
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect()
        }
        numbers => serde_json::from_value(numbers.clone()).unwrap(),
    }
}

#[test]
fn vectors_come_with_a_receipt_that_anybody_can_recompute() {
    let answer = embed(|_| {});
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.json();
    let lemma = &body["lemma"];
    let inputs = json!({ "inputs": lemma["inputs"] }).to_string();
    let inputs = oip::decode_tensors(inputs.as_bytes()).unwrap();
    let (model, manifest) = local();
    // What the receipt is for is what this machine computes, with any number of threads.
    let outputs = model.infer(&inputs, &Compute::new(2)).unwrap();
    let receipt: SignedReceipt = serde_json::from_value(lemma["receipt"].clone()).unwrap();
    assert_eq!(
        answer.header("x-lemma-receipt"),
        receipt.receipt.id().to_string()
    );
    assert!(receipt.receipt.compute_units > 0);
    let opened = Opened {
        inputs: Some(inputs),
        outputs: Some(outputs.clone()),
        ..Opened::default()
    };
    check_opened(lemma, manifest, &opened);
    // And the vectors in the body are those.
    let data = body["data"].as_array().unwrap();
    let bytes: Vec<u8> = data
        .iter()
        .flat_map(vector)
        .flat_map(f32::to_le_bytes)
        .collect();
    assert_eq!(bytes, outputs[0].data());
    assert_eq!((data.len(), &data[1]["index"]), (2, &json!(1)));
    let length: f32 = vector(&data[0]).iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);
    let lengths = outputs[1].data().as_chunks().0.iter();
    let tokens: u32 = lengths.map(|length| u32::from_le_bytes(*length)).sum();
    assert_eq!(
        body["usage"],
        json!({ "prompt_tokens": tokens, "total_tokens": tokens })
    );
}

#[test]
fn encodings_and_batches_change_no_bit() {
    let numbers = embed(|_| {}).json();
    let base64 = embed(|body| body["encoding_format"] = json!("base64")).json();
    let dim = vector(&numbers["data"][0]).len();
    let alone = embed(|body| {
        body["input"] = json!("another one");
        body["dimensions"] = json!(dim);
    });
    let bits = |entry: &Value| {
        vector(entry)
            .into_iter()
            .map(f32::to_bits)
            .collect::<Vec<_>>()
    };
    for index in [0, 1] {
        assert_eq!(bits(&numbers["data"][index]), bits(&base64["data"][index]));
    }
    assert_eq!(bits(&alone.json()["data"][0]), bits(&numbers["data"][1]));
    let tokens = embed(|body| body["input"] = json!([[2, 5, 3], [2, 6, 7, 3]])).json();
    assert_eq!(tokens["usage"]["prompt_tokens"], 7, "{tokens}");
}

#[test]
fn a_gguf_file_serves_the_vectors_of_its_folder() {
    let (_, file) = publish(&["model.gguf"]);
    assert_ne!(file.root(), local().1.root());
    let answer = embed(|body| body["model"] = json!(file.root()));
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json()["data"], embed(|_| {}).json()["data"]);
    let shown = get(&format!("/v2/models/{}", file.root()));
    assert_eq!(shown.json()["platform"], "lemma_embedding", "{shown:?}");
}

#[test]
fn refusals_name_what_is_wrong() {
    let long = "long ".repeat(4_000);
    let cases: [(&str, Value, &str); 7] = [
        ("input", json!([]), "input"),
        ("input", json!(["x", ""]), "text 1"),
        ("input", json!(long), "at most"),
        ("input", json!([4_000_000]), "vocabulary"),
        ("input", json!(vec!["x"; 2_049]), "2048"),
        ("dimensions", json!(3), "dimensions"),
        ("encoding_format", json!("hex"), "base64"),
    ];
    for (param, value, reason) in cases {
        let answer = embed(|body| body[param] = value);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        let error = answer.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(
            error["message"].as_str().unwrap().contains(reason),
            "{error}"
        );
    }
    let digits = embed(|body| body["model"] = json!("lemma/digits"));
    assert_eq!(digits.json()["error"]["param"], "model", "{digits:?}");
    let absent = embed(|body| body["model"] = json!("nobody/nothing"));
    assert_eq!(absent.status, StatusCode::NOT_FOUND);
}
