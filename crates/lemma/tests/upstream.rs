//! `lemma up --upstream`: what a user sees of another server's answers. They are relayed, and nowhere said to be more.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::fs;

use axum::{Json, Router, http::HeaderMap, routing::post};
use serde_json::{Value, json};
use support::{User, repository};

const KEY: &str = "sk-never-shown";

/// A server with OpenAI's API, as long as the runtime lives.
fn serve() -> (tokio::runtime::Runtime, String) {
    support::serve(|address| {
        let routes = Router::new().route("/v1/chat/completions", post(chat));
        (routes, format!("{address}/v1"))
    })
}

async fn chat(headers: HeaderMap, Json(body): Json<Value>) -> String {
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(body["model"], "org/Big-1");
    let said = &body["messages"][0]["content"];
    let piece = json!({ "model": "big-1", "choices": [{ "delta": { "content": format!("You said {said}") } }] });
    let end = json!({
        "choices": [{ "delta": {}, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 4, "completion_tokens": 3 },
    });
    format!("data: {piece}\n\ndata: {end}\n\ndata: [DONE]\n\n")
}

#[test]
fn another_servers_answers_are_relayed_and_never_called_verified() {
    let (_runtime, base) = serve();
    let mut user = User::new();
    user.run(&["up", "--upstream", &base])
        .failed(3, "--upstream-model");
    let network = user.up_with(
        &["--upstream", &base, "--upstream-model", "org/Big-1"],
        &[("LEMMA_UPSTREAM_KEY", KEY)],
    );
    let told = user
        .run(&["run", "upstream/big-1", "Hi", "--transcript", "t.json"])
        .ok();
    assert_eq!(told.out, "You said \"Hi\"\n");
    assert!(
        told.err.contains("relayed: another server's answer"),
        "{}",
        told.err
    );
    assert!(!told.err.contains("checked"), "{}", told.err);
    let document = user
        .run(&["run", "upstream/big-1", "Hi", "--json"])
        .ok()
        .json();
    assert_eq!(
        (&document["mode"], &document["answer_tokens"]),
        (&json!("relayed"), &json!(3))
    );
    user.run(&["run", "upstream/big-1", "Hi", "--mode", "signed"])
        .failed(1, "`relayed` is");
    user.run(&["run", "lemma/nano", "Hi", "--mode", "relayed"])
        .failed(1, "`signed` is");
    let shown = user.run(&["models", "show", "upstream/big-1"]).ok().out;
    assert!(
        shown.contains("which model answers is not known") && shown.contains("relayed"),
        "{shown}"
    );

    let id = told
        .err
        .lines()
        .find_map(|line| line.strip_prefix("receipt "))
        .unwrap();
    user.run(&["receipts", "get", id, "--wait", "--output", "r.json"])
        .ok();
    let root = network.ready["trusted_root"].as_str().unwrap();
    let verify = |more: &[&str]| {
        let fixed = [
            "verify",
            "r.json",
            "--trusted-root",
            root,
            "--transcript",
            "t.json",
        ];
        user.run(&[&fixed[..], more].concat())
    };
    let report = verify(&[]).ok().out;
    assert!(
        report.contains("Relayed:") && report.contains("which model ran"),
        "{report}"
    );
    assert!(!report.contains("Verified"), "{report}");
    let nano = repository("models/nano/model.gguf");
    assert_eq!(verify(&["--recompute", "--model", &nano]).code, 8);
    let mut forged: Value =
        serde_json::from_slice(&fs::read(user.path("t.json")).unwrap()).unwrap();
    forged["response"]["text"] = json!("I said nothing");
    fs::write(user.path("t.json"), forged.to_string()).unwrap();
    assert_eq!(verify(&[]).code, 7);
    assert!(!fs::read_to_string(user.path("log")).unwrap().contains(KEY));
}
