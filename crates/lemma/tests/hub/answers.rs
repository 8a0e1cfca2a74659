//! Answers that somebody has edited: whatever they show is what their receipt is for, or `lemma verify` says no.

use std::fs;

use serde_json::{Value, json};

use super::{post, support::User};

/// A field that is edited, by its JSON pointer, and what it says then.
type Edit = (&'static str, Value);

/// Holds the honest answer to be one, and every edited one not to be.
fn check(user: &User, root: &str, honest: &Value, edits: &[Edit]) {
    let verify = |answer: &Value| {
        fs::write(user.path("kept.json"), answer.to_string()).unwrap();
        user.run(&["verify", "kept.json", "--trusted-root", root])
    };
    // Its settlement alone is missing.
    let report = verify(honest);
    assert_eq!(report.code, 8, "{}\n{}\n{honest}", report.out, report.err);
    assert!(!report.out.contains("FAILED"), "{}", report.out);
    let unsigned = "in the answer: the model's name (the receipt has its root), the time";
    assert!(report.out.contains(unsigned), "{}", report.out);
    for (pointer, value) in edits {
        let mut edited = honest.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        match edited.pointer_mut(parent).expect(pointer) {
            Value::Array(items) if field == "-" => items.push(value.clone()),
            Value::Array(items) => items[field.parse::<usize>().unwrap()] = value.clone(),
            object => object[field] = value.clone(),
        }
        assert_ne!(&edited, honest, "{pointer} is edited");
        let report = verify(&edited);
        assert_eq!(report.code, 7, "{pointer}: {}\n{}", report.out, report.err);
    }
}

/// The last chunk of a stream.
fn last_chunk(user: &User, path: &str, body: &Value) -> Value {
    let stream = post(user, path, body);
    let mut data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let last = data.rfind(|data| *data != "[DONE]").expect("a chunk");
    serde_json::from_str(last).unwrap()
}

/// Needs a network whose gateway serves the sample language model, and an embedding model `acme/tiny`.
pub(crate) fn edited_ones_are_caught(user: &User, root: &str) {
    let ask = |path: &str, body: Value| -> Value {
        serde_json::from_str(&post(user, path, &body)).unwrap()
    };
    let message = json!([{ "role": "user", "content": "3 + 4 = ?" }]);
    let chat = json!({ "model": "lemma/nano", "messages": message, "temperature": 0, "max_tokens": 4, "logprobs": true });
    let call =
        json!([{ "id": "x", "type": "function", "function": { "name": "f", "arguments": "{}" } }]);
    let honest = ask("/v1/chat/completions", chat.clone());
    let second = honest["choices"][0].clone();
    let edits = [
        ("/choices/0/message/content", json!("Else")),
        (
            "/choices/0/message/content",
            json!([{ "type": "text", "text": "Else" }]),
        ),
        ("/choices/0/message/refusal", json!("Else")),
        ("/choices/0/message/reasoning_content", json!("Else")),
        ("/choices/0/message/tool_calls", call.clone()),
        ("/choices/0/finish_reason", json!("tool_calls")),
        ("/choices/0/logprobs/content/0/token", json!("Else")),
        ("/choices/0/logprobs/content/0/logprob", json!(-0.5)),
        ("/choices/-", second),
        ("/usage/completion_tokens", json!(1)),
        ("/id", json!("chatcmpl-1")),
        ("/object", json!("chat.completion.chunk")),
    ];
    check(user, root, &honest, &edits);

    let mut streamed = chat;
    streamed["stream"] = json!(true);
    let edits = [
        ("/choices/0/delta/content", json!("Else")),
        ("/choices/0/message", json!({ "content": "Else" })),
        ("/choices/0/finish_reason", json!("content_filter")),
    ];
    check(
        user,
        root,
        &last_chunk(user, "/v1/chat/completions", &streamed),
        &edits,
    );

    let mut completion = json!({ "model": "lemma/nano", "prompt": "3 + 4 =", "temperature": 0, "max_tokens": 4, "logprobs": 1 });
    let edits = [
        ("/choices/0/text", json!("Else")),
        ("/choices/0/message", json!({ "content": "Else" })),
        ("/choices/0/finish_reason", json!("content_filter")),
        ("/choices/0/logprobs/tokens/0", json!("Else")),
        ("/choices/0/logprobs/token_logprobs/0", json!(-0.5)),
        (
            "/choices/0/logprobs/top_logprobs/0",
            json!({ "Else": -0.5 }),
        ),
        ("/usage/prompt_tokens", json!(1)),
    ];
    check(
        user,
        root,
        &ask("/v1/completions", completion.clone()),
        &edits,
    );
    completion["stream"] = json!(true);
    completion["stream_options"] = json!({ "include_usage": true });
    let edits = [
        (
            "/choices/-",
            json!({ "index": 0, "text": "Else", "finish_reason": "stop" }),
        ),
        ("/usage/total_tokens", json!(1)),
    ];
    check(
        user,
        root,
        &last_chunk(user, "/v1/completions", &completion),
        &edits,
    );

    let asked = json!({ "model": "lemma/nano", "input": "3 + 4 = ?", "temperature": 0, "instructions": "Be brief", "max_output_tokens": 4 });
    let mut called = call[0]["function"].clone();
    called["type"] = json!("function_call");
    let edits = [
        ("/output/0/content/0/text", json!("Else")),
        (
            "/output/0/content/0/annotations",
            json!([{ "title": "Else" }]),
        ),
        (
            "/output/0/content/-",
            json!({ "type": "refusal", "refusal": "Else" }),
        ),
        ("/output/0/role", json!("user")),
        ("/output/-", called),
        ("/output_text", json!("Else")),
        ("/status", json!("failed")),
        ("/incomplete_details", json!({ "reason": "content_filter" })),
        ("/error", json!({ "message": "Else" })),
        ("/usage/output_tokens", json!(1)),
    ];
    check(user, root, &ask("/v1/responses", asked), &edits);

    for format in ["float", "base64"] {
        let body =
            json!({ "model": "acme/tiny", "input": ["the fox", "dog"], "encoding_format": format });
        let honest = ask("/v1/embeddings", body);
        let mut swapped = honest["data"].clone();
        swapped[0]["embedding"] = honest["data"][1]["embedding"].clone();
        swapped[1]["embedding"] = honest["data"][0]["embedding"].clone();
        let edits = [
            ("/data/0/embedding", honest["data"][1]["embedding"].clone()),
            ("/data", swapped),
            ("/data", json!([honest["data"][0]])),
            ("/data/0/embedding", json!([0.5])),
            ("/data/0/index", json!(1)),
            ("/data/-", honest["data"][0].clone()),
            ("/usage/prompt_tokens", json!(1)),
            ("/lemma/lengths/0", json!(1)),
        ];
        check(user, root, &honest, &edits);
    }
}
