//! A thousand requests at once: each is answered as it would be alone, or told when to come back.

use std::{collections::BTreeSet, fs, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    openai::model,
    support::{fixture, post, run, undisturbed},
};

const CROWD: usize = 1_000;
const KINDS: usize = 8;
/// What a thousand requests may add to this process's memory, bytes: bodies, queues, connections and cached tokens.
const MEMORY: u64 = 512 << 20;

fn question(kind: usize, stream: bool) -> String {
    json!({
        "model": model().root(),
        "messages": [{ "role": "user", "content": format!("Question {kind}") }],
        "max_tokens": 6,
        "seed": kind,
        "stream": stream,
        "logit_bias": { "257": -1000 },
    })
    .to_string()
}

/// The text of an answer and its receipt's id, whole or streamed.
fn said(body: &[u8], stream: bool) -> (String, String) {
    let id = |lemma: &Value| lemma["receipt_id"].as_str().unwrap().to_owned();
    if !stream {
        let body: Value = serde_json::from_slice(body).unwrap();
        let text = body["choices"][0]["message"]["content"].as_str().unwrap();
        return (text.to_owned(), id(&body["lemma"]));
    }
    let events = std::str::from_utf8(body).unwrap();
    let events: Vec<Value> = events
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let text = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    (text, id(&events.last().unwrap()["lemma"]))
}

/// Memory of this process, bytes; zero where the operating system does not tell.
fn memory() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    resident.unwrap_or(0) * 4_096
}

/// Whether the gateway soon has no request under way. The place of one is free a moment after its answer has been read.
async fn is_idle() -> bool {
    for _ in 0..100 {
        let status = fixture().network.gateway().status().await.unwrap();
        if status.workers.iter().all(|worker| worker.in_flight == 0) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[test]
fn a_thousand_at_once_are_answered_as_alone_or_told_when_to_come_back() {
    let alone: Vec<String> = (0..KINDS)
        .map(|kind| {
            said(
                &post("/v1/chat/completions", question(kind, false)).body,
                false,
            )
            .0
        })
        .collect();
    let before = memory();
    let queue = undisturbed();
    let answers = run(async {
        let asked: Vec<_> = (0..CROWD)
            .map(|number| {
                tokio::spawn(async move {
                    let body = Body::from(question(number % KINDS, number % 3 == 0));
                    let request = Request::post("/v1/chat/completions").body(body).unwrap();
                    let response = fixture().router.clone().oneshot(request).await.unwrap();
                    let (parts, body) = response.into_parts();
                    (parts, body.collect().await.unwrap().to_bytes())
                })
            })
            .collect();
        let mut answers = Vec::new();
        for asked in asked {
            answers.push(asked.await.unwrap());
        }
        answers
    });
    assert!(run(is_idle()), "requests that nobody made are under way");
    drop(queue);
    let grown = memory().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more than before");
    let mut receipts = BTreeSet::new();
    for (number, (parts, body)) in answers.iter().enumerate() {
        if parts.status == StatusCode::OK {
            let (text, receipt) = said(body, number % 3 == 0);
            assert_eq!(text, alone[number % KINDS], "request {number}");
            assert!(
                receipts.insert(receipt),
                "a receipt that another request has"
            );
            continue;
        }
        let error: Value = serde_json::from_slice(body).unwrap();
        let error = &error["error"];
        let kind = match parts.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            other => panic!("{other}: {error}"),
        };
        assert_eq!(error["type"], kind);
        assert!(
            error["message"].as_str().unwrap().contains("try again"),
            "{error}"
        );
        let pause = parts.headers["retry-after"].to_str().unwrap();
        assert!(pause.parse::<u64>().unwrap() > 0);
    }
    // As many as may wait, and those that came when some of them had been answered.
    assert!(receipts.len() > 200, "{} were answered", receipts.len());
    assert!(
        receipts.len() < CROWD,
        "none had to wait: the test asks too little"
    );
    // Nothing is left behind.
    let after = post("/v1/chat/completions", question(0, false));
    assert_eq!(said(&after.body, false).0, alone[0]);
}
