//! OpenAI's API: chat and completions, whole and streamed, refusals.

use std::sync::OnceLock;

use axum::http::StatusCode;
use lemma_llm::Compute;
use lemma_node::{
    language::{LanguageModel, manifest},
    model::Terms,
};
use lemma_types::{
    Manifest, SignedReceipt,
    bundle::Bundle,
    manifest::{File, Format},
    text::Transcript,
};
use lemma_verify::{CheckName, Opened, Outcome, verify_answer};
use serde_json::{Value, json};

use crate::support::{Answer, fixture, get, post};

#[path = "../../../node/tests/support/language.rs"]
mod language;

/// A language model that the gateway has.
fn model() -> &'static Manifest {
    static MODEL: OnceLock<Manifest> = OnceLock::new();
    MODEL.get_or_init(|| {
        let bytes = language::gguf(1);
        let gateway = fixture().network.gateway();
        let file = File {
            path: "model.gguf".to_owned(),
            size: bytes.len() as u64,
            blake3: gateway.store().put_bytes(&bytes).unwrap(),
        };
        let local = LanguageModel::from_gguf(&bytes, &Compute::new(1)).unwrap();
        let manifest = manifest(&local, Format::Gguf, vec![file], Terms::default()).unwrap();
        let published = post("/v1/models", manifest.encode());
        assert_eq!(published.status, StatusCode::CREATED, "{published:?}");
        manifest
    })
}

fn chat(change: impl FnOnce(&mut Value)) -> Answer {
    let mut body = json!({
        "model": model().root(),
        "messages": [{ "role": "user", "content": "Hi" }],
        "max_tokens": 24,
        "seed": 3,
        // The token that ends answers: not here.
        "logit_bias": { "257": -1000 },
    });
    change(&mut body);
    post("/v1/chat/completions", body.to_string())
}

/// The events of a stream; the last one has to be the end mark.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let text = std::str::from_utf8(&answer.body).unwrap();
    let data: Vec<&str> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    let (last, rest) = data.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    rest.iter()
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// Checks the key `lemma` as a client of its own would.
fn check(lemma: &Value) -> Transcript {
    let part = |name: &str| lemma[name].clone();
    let receipt: SignedReceipt = serde_json::from_value(part("receipt")).unwrap();
    assert_eq!(lemma["receipt_id"], json!(receipt.receipt.id()));
    let transcript: Transcript = serde_json::from_value(part("transcript")).unwrap();
    let chain_id = fixture().network.trusted_root().chain_id;
    let bundle = Bundle {
        schema: Bundle::SCHEMA.to_owned(),
        chain_id,
        receipt,
        engine: serde_json::from_value(part("engine")).unwrap(),
        manifest: model().clone(),
        openings: Some(serde_json::from_value(part("openings")).unwrap()),
        settlement: None,
        proof: None,
    };
    let opened = Opened {
        text: Some(transcript.clone()),
        ..Opened::default()
    };
    let report = verify_answer(&bundle, chain_id, &opened);
    for name in [
        CheckName::Request,
        CheckName::Response,
        CheckName::Transcript,
    ] {
        assert_eq!(report.outcome(name), Some(Outcome::Ok), "{report}");
    }
    transcript
}

#[test]
fn a_chat_is_answered_with_its_receipt() {
    let answer = chat(|_| {});
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["model"], json!(model().root()));
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 24);
    let total = body["usage"]["prompt_tokens"].as_u64().unwrap() + 24;
    assert_eq!(body["usage"]["total_tokens"], total);
    let transcript = check(&body["lemma"]);
    assert_eq!(
        choice["message"]["content"],
        json!(transcript.response.text)
    );
    assert_eq!(transcript.request.sampling.seed, 3);
    assert_eq!(
        answer.header("x-lemma-receipt"),
        body["lemma"]["receipt_id"]
    );
    assert_eq!(answer.header("x-lemma-mode"), "signed");
}

#[test]
fn a_stream_says_the_same_piece_by_piece() {
    let whole = chat(|_| {}).json();
    for include_usage in [false, true] {
        let answer = chat(|body| {
            body["stream"] = json!(true);
            body["stream_options"] = json!({ "include_usage": include_usage });
        });
        let events = events(&answer);
        assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
        assert_eq!(events[0]["object"], "chat.completion.chunk");
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        let text: String = events
            .iter()
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, whole["choices"][0]["message"]["content"]);
        let reasons: Vec<&str> = events
            .iter()
            .filter_map(|event| event["choices"][0]["finish_reason"].as_str())
            .collect();
        assert_eq!(reasons, ["length"]);
        let (last, before) = events.split_last().unwrap();
        check(&last["lemma"]);
        assert!(before.iter().all(|event| event.get("lemma").is_none()));
        if include_usage {
            assert_eq!(last["usage"], whole["usage"]);
            assert_eq!(last["choices"], json!([]));
            assert!(before.iter().all(|event| event["usage"].is_null()));
        } else {
            assert!(events.iter().all(|event| event.get("usage").is_none()));
        }
    }
}

#[test]
fn completions_go_on_from_texts_and_tokens() {
    let ask = |prompt: Value, stream: bool| {
        let body = json!({
            "model": model().root(), "prompt": prompt, "temperature": 0, "stream": stream,
            "logit_bias": { "257": -1000 },
        });
        post("/v1/completions", body.to_string())
    };
    let text = ask(json!("Hi"), false).json();
    assert_eq!(text["object"], "text_completion");
    // As OpenAI's API has it.
    assert_eq!(text["usage"]["completion_tokens"], 16);
    check(&text["lemma"]);
    let tokens = ask(json!([72, 105]), false).json();
    assert_eq!(tokens["choices"][0]["text"], text["choices"][0]["text"]);
    let streamed: String = events(&ask(json!("Hi"), true))
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(streamed, text["choices"][0]["text"]);
}

#[test]
fn a_seed_that_nobody_names_is_drawn_and_reported() {
    let ask = |seed: Value| chat(|body| body["seed"] = seed).json();
    let seed = |body: &Value| -> u64 {
        let seed = &body["lemma"]["transcript"]["request"]["sampling"]["seed"];
        seed.as_str().unwrap().parse().unwrap()
    };
    let (one, two) = (ask(Value::Null), ask(Value::Null));
    assert_ne!(seed(&one), seed(&two));
    let again = ask(json!(seed(&one)));
    assert_eq!(again["choices"], one["choices"]);
}

#[test]
fn refusals_have_the_shape_and_status_that_clients_know() {
    let refused = |answer: Answer, status: u16, code: &str, param: Option<&str>| {
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        let body = answer.json();
        let error = &body["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &json!(param)),
            "{error}"
        );
        assert!(error["type"].is_string());
    };
    let with = |field: &'static str, value: Value| chat(move |body| body[field] = value);
    refused(
        with("model", json!("a/absent")),
        404,
        "model_not_found",
        Some("model"),
    );
    refused(
        with("model", json!("nonsense")),
        400,
        "invalid_model_name",
        Some("model"),
    );
    refused(
        with("model", json!("lemma/digits")),
        400,
        "invalid_input",
        None,
    );
    refused(
        with("messages", json!([])),
        400,
        "invalid_value",
        Some("messages"),
    );
    refused(with("n", json!(2)), 400, "unsupported_parameter", Some("n"));
    refused(
        with("tools", json!([{}])),
        400,
        "unsupported_parameter",
        Some("tools"),
    );
    refused(
        with("temprature", json!(1)),
        400,
        "unknown_parameter",
        Some("temprature"),
    );
    refused(
        with("lemma", json!({ "mode": "proved" })),
        400,
        "mode_not_offered",
        None,
    );
    let long = "x".repeat(600);
    let long = json!([{ "role": "user", "content": long }]);
    refused(with("messages", long.clone()), 400, "invalid_input", None);
    // The same before the first event of a stream.
    let streamed = chat(|body| {
        body["messages"] = long;
        body["stream"] = json!(true);
    });
    refused(streamed, 400, "invalid_input", None);
    refused(post("/v1/chat/completions", "{"), 400, "invalid_json", None);
    refused(
        post("/v1/chat/completions", vec![b' '; 9 << 20]),
        413,
        "body_too_large",
        None,
    );
    refused(post("/v1/embeddings", "{}"), 404, "not_supported", None);
    refused(post("/v1/responses", "{}"), 404, "not_supported", None);
    refused(get("/v1/chat/completions"), 405, "method_not_allowed", None);
    let id = json!({ "request_id": "0x0000000000000000000000000000000000000000000000000000000000000042" });
    assert_eq!(with("lemma", id.clone()).status, StatusCode::OK);
    refused(with("lemma", id), 409, "duplicate_request", None);
}

#[test]
fn models_are_listed_as_clients_of_the_api_expect() {
    let list = get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let first = &list["data"][0];
    for (field, kind) in [
        ("id", "string"),
        ("object", "string"),
        ("owned_by", "string"),
    ] {
        assert!(first[field].is_string(), "{field} is no {kind}");
    }
    assert!(first["created"].is_u64());
    let id = first["id"].as_str().unwrap();
    assert_eq!(get(&format!("/v1/models/{id}")).json()["id"], first["id"]);
}
