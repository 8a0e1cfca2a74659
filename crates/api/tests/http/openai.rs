//! OpenAI's API: chat and completions, whole and streamed, refusals.

use std::sync::OnceLock;

use axum::http::StatusCode;
use lemma_llm::Compute;
use lemma_node::{
    language::{LanguageModel, manifest},
    model::Terms,
};
use lemma_types::{
    Manifest,
    manifest::{File, Format},
    text::Transcript,
};
use lemma_verify::Opened;
use serde_json::{Value, json};

use crate::support::{Answer, check_opened, fixture, get, post};

#[path = "../../../node/tests/support/language.rs"]
mod language;

/// A language model that the gateway has.
pub(crate) fn model() -> &'static Manifest {
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
    let transcript: Transcript = serde_json::from_value(lemma["transcript"].clone()).unwrap();
    let opened = Opened {
        text: Some(transcript.clone()),
        ..Opened::default()
    };
    check_opened(lemma, model(), &opened);
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

/// No token that ends answers, and none for the blanks that JSON may have anywhere: forms are then short, whatever the model.
fn compact() -> Value {
    json!({ "257": -1000, "9": -1000, "10": -1000, "32": -1000 })
}

/// Tools whose calls are short, whatever the model.
fn tools() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": { "city": { "enum": ["Oslo", "Rome"] }, "sunny": { "type": "boolean" } },
        "required": ["city", "sunny"],
        "additionalProperties": false,
    });
    json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }])
}

/// Every token of the answer, chosen again under the same constraint.
fn replay(transcript: &Transcript) -> Option<String> {
    let local = LanguageModel::from_gguf(&language::gguf(1), &Compute::new(1)).unwrap();
    local.replay(transcript, &Compute::new(2)).unwrap()
}

#[test]
fn tools_are_called_and_the_call_is_part_of_the_receipt() {
    let ask = |stream: bool| {
        chat(move |body| {
            body["tools"] = tools();
            body["tool_choice"] = json!("required");
            body["parallel_tool_calls"] = json!(false);
            body["max_tokens"] = json!(120);
            body["logit_bias"] = compact();
            body["stream"] = json!(stream);
        })
    };
    let answer = ask(false);
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["type"], &call["function"]["name"]),
        (&json!("function"), &json!("weather"))
    );
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["Oslo", "Rome"].contains(&arguments["city"].as_str().unwrap()));
    assert!(arguments["sunny"].is_boolean());

    let transcript = check(&body["lemma"]);
    assert_eq!(replay(&transcript), None);
    let mut forged = transcript.clone();
    forged.response.calls[0].arguments.push(' ');
    assert!(replay(&forged).unwrap().contains("calls of tools"));
    let mut free = transcript.clone();
    free.request.form = None;
    assert!(replay(&free).unwrap().contains("the model chooses"));
    let mut other = transcript;
    other.request.tools = other
        .request
        .tools
        .map(|tools| tools.replace("Rome", "Lima"));
    assert!(replay(&other).unwrap().contains("of the prompt"));

    // Streamed, the same call comes whole, then the reason.
    let events = events(&ask(true));
    let streamed: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"].get("tool_calls"))
        .collect();
    assert_eq!(streamed.len(), 1);
    assert_eq!(streamed[0][0]["function"], call["function"]);
    assert_eq!(streamed[0][0]["index"], 0);

    // The result goes back, and the conversation on.
    let next = chat(|body| {
        body["tools"] = tools();
        body["max_tokens"] = json!(4);
        body["messages"] = json!([
            { "role": "user", "content": "Hi" },
            choice["message"],
            { "role": "tool", "tool_call_id": call["id"], "content": "12 degrees" },
        ]);
    });
    assert_eq!(next.status, StatusCode::OK, "{next:?}");
    let never = chat(|body| {
        body["tools"] = tools();
        body["tool_choice"] = json!("none");
    });
    assert_eq!(never.json()["choices"], chat(|_| {}).json()["choices"]);
}

#[test]
fn an_answer_keeps_to_its_form() {
    let schema = r#"{"type":"object","properties":{"z":{"type":"boolean"},"a":{"enum":[1,2]}},"required":["z","a"],"additionalProperties":false}"#;
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": serde_json::from_str::<Value>(schema).unwrap() } });
    let answer = chat(|body| {
        body["response_format"] = format;
        body["max_tokens"] = json!(100);
        body["logit_bias"] = compact();
    });
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.json();
    let text = body["choices"][0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    assert!(value["z"].is_boolean() && value["a"].is_u64(), "{text}");
    let transcript = check(&body["lemma"]);
    assert_eq!(replay(&transcript), None);
    let mut free = transcript;
    free.request.form = None;
    assert!(replay(&free).is_some());
}

#[test]
fn probabilities_are_those_of_the_model_and_checked_by_replay() {
    let asked = |stream: bool| {
        chat(move |body| {
            body["logprobs"] = json!(true);
            body["top_logprobs"] = json!(3);
            body["stream"] = json!(stream);
        })
    };
    let body = asked(false).json();
    let content = body["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(content.len(), 24);
    for token in content {
        let own = token["logprob"].as_f64().unwrap();
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert!(
            own <= 0.0
                && top
                    .iter()
                    .all(|one| one["logprob"].as_f64().unwrap()
                        >= top[2]["logprob"].as_f64().unwrap())
        );
        assert!(token["bytes"].is_array());
    }
    let transcript = check(&body["lemma"]);
    assert_eq!(replay(&transcript), None);
    let mut forged = transcript;
    forged.response.logprobs[5].top[0].logprob -= 0.25;
    assert!(
        replay(&forged)
            .unwrap()
            .contains("probabilities at token 5")
    );
    let streamed: Vec<Value> = events(&asked(true))
        .iter()
        .filter_map(|event| {
            event["choices"][0]["logprobs"]["content"]
                .as_array()
                .cloned()
        })
        .flatten()
        .collect();
    assert_eq!(streamed, *content);

    let text = json!({
        "model": model().root(), "prompt": "Hi", "logprobs": 2, "max_tokens": 5, "logit_bias": { "257": -1000 },
    });
    let body = post("/v1/completions", text.to_string()).json();
    let logprobs = &body["choices"][0]["logprobs"];
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[field].as_array().unwrap().len(), 5, "{field}");
    }
}

#[test]
fn responses_are_chats_in_other_words() {
    let ask = |change: fn(&mut Value)| {
        let mut body = json!({
            "model": model().root(), "input": "Hi", "max_output_tokens": 24, "seed": 3,
            "logit_bias": { "257": -1000 },
        });
        change(&mut body);
        post("/v1/responses", body.to_string())
    };
    let answer = ask(|_| {});
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.json();
    let expected = &chat(|_| {}).json()["choices"][0]["message"]["content"];
    assert_eq!(body["object"], "response");
    assert_eq!(
        (&body["status"], &body["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(body["output"][0]["content"][0]["text"], *expected);
    assert_eq!(body["usage"]["output_tokens"], 24);
    check(&body["lemma"]);

    let streamed = ask(|body| body["stream"] = json!(true));
    let text = std::str::from_utf8(&streamed.body).unwrap();
    let events: Vec<Value> = text
        .split_terminator("\n\n")
        .map(|event| {
            let (kind, data) = event.split_once("\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(kind.strip_prefix("event: ").unwrap(), data["type"]);
            data
        })
        .collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let said: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(said, *expected);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(
        last["response"]["output"],
        body["output"]
            .as_array()
            .map(|items| {
                // Each response has an id of its own.
                let mut items = items.clone();
                items[0]["id"] = last["response"]["output"][0]["id"].clone();
                json!(items)
            })
            .unwrap()
    );

    let called = ask(|body| {
        let tool = tools()[0]["function"].clone();
        body["tools"] =
            json!([{ "type": "function", "name": "weather", "parameters": tool["parameters"] }]);
        body["tool_choice"] = json!({ "type": "function", "name": "weather" });
        body["max_output_tokens"] = json!(120);
        body["logit_bias"] = compact();
        body["parallel_tool_calls"] = json!(false);
    });
    let body = called.json();
    assert_eq!(body["status"], "completed", "{body}");
    assert_eq!(
        (&body["output"][0]["type"], &body["output"][0]["name"]),
        (&json!("function_call"), &json!("weather"))
    );
    assert_eq!(replay(&check(&body["lemma"])), None);
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
        "invalid_value",
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
    refused(
        post("/v1/responses", "{}"),
        400,
        "missing_parameter",
        Some("input"),
    );
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": "nonsense" } } });
    refused(with("response_format", schema), 400, "invalid_input", None);
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
