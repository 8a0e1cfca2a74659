//! A worker that fronts a server with OpenAI's API: its answers are relayed, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::StreamExt as _;
use lemma_node::{
    gateway::{GenerateRequest, GenerationEvent, InferError, ModelRef},
    network::NetworkConfig,
    worker::UpstreamConfig,
};
use lemma_types::{
    Mode,
    bundle::Bundle,
    text::{Call, Finish, Form, Prompt, Sampling, TextRequest},
};
use lemma_verify::{Opened, Recompute, Verdict};
use serde_json::{Value, json};

use super::{asked, generate, infer, verify};
use crate::support::{config, final_bundle, start, until};

const KEY: &str = "sk-of-the-worker";
const NAME: &str = "acme/big";

/// What the server has seen.
#[derive(Default)]
struct Seen {
    /// Streams that are open.
    open: AtomicUsize,
}

/// Counts a stream for as long as somebody reads it.
struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A small server as vLLM or llama-server would be. What it does, the last message says.
async fn serve(seen: Arc<Seen>) -> String {
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat))
        .with_state(seen);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    base
}

async fn chat(
    State(seen): State<Arc<Seen>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if headers["authorization"] != format!("Bearer {KEY}") {
        return refuse(StatusCode::UNAUTHORIZED, "wrong key");
    }
    assert_eq!(
        (&body["model"], &body["stream"]),
        (&json!("big-model"), &json!(true))
    );
    let messages = body["messages"].as_array().unwrap();
    let delta = |text: &str| {
        format!(
            "data: {}\n\n",
            json!({ "model": "big-model-2026", "choices": [{ "delta": { "content": text } }] })
        )
    };
    let end = concat!(
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":3}}\n\n",
        "data: [DONE]\n\n"
    );
    match messages.last().unwrap()["content"].as_str().unwrap() {
        "refuse" => refuse(StatusCode::BAD_REQUEST, "too hot"),
        "limit" => refuse(StatusCode::TOO_MANY_REQUESTS, "slow down"),
        "fail" => refuse(StatusCode::INTERNAL_SERVER_ERROR, "on fire"),
        "redirect" => (
            StatusCode::TEMPORARY_REDIRECT,
            [("location", "http://127.0.0.1:9/")],
        )
            .into_response(),
        "call" => {
            assert_eq!(body["tools"][0]["function"]["name"], "weather");
            assert_eq!(body["tool_choice"], "required");
            assert_eq!(
                (&body["logprobs"], &body["top_logprobs"]),
                (&json!(true), &json!(1))
            );
            Response::new(Body::from(CALL))
        }
        "uninvited" => Response::new(Body::from(CALL)),
        "break" => Response::new(Body::from(delta("Half"))),
        "flood" => Response::new(Body::from("x".repeat(3 << 20))),
        "silent" => Response::new(Body::from_stream(futures::stream::pending::<
            Result<Bytes, std::io::Error>,
        >())),
        "endless" => {
            seen.open.fetch_add(1, Ordering::SeqCst);
            let open = Open(seen);
            let pieces = futures::stream::unfold(open, move |open| async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"on \"}}]}\n\n";
                Some((Ok::<_, std::io::Error>(Bytes::from(piece)), open))
            });
            Response::new(Body::from_stream(pieces.boxed()))
        }
        text => {
            let said = format!("{} {} ", body["seed"], body["temperature"]);
            Response::new(Body::from(delta(&said) + &delta(text) + end))
        }
    }
}

/// A token with its probability, then a call in pieces.
const CALL: &str = concat!(
    r#"data: {"choices":[{"delta":{"content":"So"},"logprobs":{"content":[{"token":"So","logprob":-0.25,"top_logprobs":[]}]}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"weather","arguments":"{\"city\""}}]}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":":\"Oslo\"}"}}]},"finish_reason":"tool_calls"}]}"#,
    "\n\ndata: [DONE]\n\n"
);

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": { "message": message } }))).into_response()
}

fn say(text: &str) -> TextRequest {
    let mut request = asked(5, 80);
    let Prompt::Messages(messages) = &mut request.prompt else {
        unreachable!()
    };
    messages[1].content = text.to_owned();
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_servers_answers_are_relayed_and_say_so() {
    let seen = Arc::new(Seen::default());
    let upstream = UpstreamConfig {
        base: serve(Arc::clone(&seen)).await,
        model: "big-model".to_owned(),
        key: Some(KEY.to_owned()),
        timeout: Duration::from_secs(2),
    };
    let directory = tempfile::tempdir().unwrap();
    let network = start(NetworkConfig {
        workers: 1,
        upstream: Some((NAME.parse().unwrap(), upstream)),
        ..config(directory.path())
    })
    .await;
    let gateway = network.gateway();
    let model = gateway.model(&NAME.parse().unwrap()).await.unwrap().root;

    let (answer, streamed) = generate(&network, model, say("Grüße!")).await.unwrap();
    assert_eq!(streamed, "5 1.0 Grüße!");
    let (receipt, response) = (&answer.receipt.receipt, &answer.transcript.response);
    assert_eq!(receipt.mode, Mode::Relayed);
    assert_eq!(
        (response.text.as_str(), response.finish),
        (streamed.as_str(), Finish::Token)
    );
    assert!(response.tokens.is_empty() && answer.transcript.prompt.is_empty());
    assert_eq!(response.upstream.as_ref().unwrap().model, "big-model-2026");
    assert_eq!(
        (receipt.usage_in, receipt.usage_out, receipt.compute_units),
        (11, 3, 0)
    );
    let bundle = Bundle {
        openings: Some(answer.openings),
        ..final_bundle(&network, receipt.id()).await
    };
    let mut opened = Opened {
        text: Some(answer.transcript.clone()),
        ..Opened::default()
    };
    let report = verify(&network, &bundle, &opened);
    assert_eq!(
        (report.verdict, report.mode),
        (Verdict::Verified, Some(Mode::Relayed)),
        "{report}"
    );
    assert!(!report.render().contains("Verified"), "{report}");
    opened.text.as_mut().unwrap().response.text.push('!');
    assert_eq!(verify(&network, &bundle, &opened).verdict, Verdict::Wrong);
    opened.recompute = Recompute::Unable("no model".to_owned());
    opened.text = Some(answer.transcript);
    assert_eq!(
        verify(&network, &bundle, &opened).verdict,
        Verdict::Inconclusive
    );

    // Asked for as `signed` it is not to be had.
    let signed = GenerateRequest {
        model: ModelRef::Root(model),
        request: say("x"),
        mode: Some(Mode::Signed),
        request_id: None,
    };
    let error = gateway.generate(signed).await.unwrap_err();
    let offered = |error: &InferError| {
        matches!(
            error,
            InferError::ModeNotOffered {
                offered: Mode::Relayed,
                ..
            }
        )
    };
    assert!(offered(&error), "{error}");

    tools_and_probabilities_are_passed_on(&network, model).await;

    let failure =
        async |request: TextRequest| generate(&network, model, request).await.unwrap_err();
    for (text, reason) in [
        ("fail", "says 500 Internal Server Error: on fire"),
        ("redirect", "307"),
        ("flood", "too long"),
        ("silent", "silent for 2 s"),
    ] {
        let error = failure(say(text)).await;
        assert!(
            matches!(&error, InferError::NoWorker(said) if said.contains(reason)),
            "{text}: {error}"
        );
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
    let error = failure(say("uninvited")).await;
    assert!(
        matches!(&error, InferError::Broken { reason, .. } if reason.contains("called a tool")),
        "{error}"
    );
    let error = failure(say("refuse")).await;
    assert!(
        matches!(&error, InferError::InvalidInput(said) if said.contains("too hot")),
        "{error}"
    );
    assert!(matches!(failure(say("limit")).await, InferError::Busy(1)));
    let error = failure(say("break")).await;
    assert!(
        matches!(&error, InferError::Broken { reason, .. } if reason.contains("before its end")),
        "{error}"
    );
    let tokens = TextRequest {
        prompt: Prompt::Tokens(vec![1]),
        sampling: Sampling::default(),
        ..asked(0, 5)
    };
    assert!(matches!(failure(tokens).await, InferError::InvalidInput(_)));
    // All of that is the server's affair: the worker is none the worse for it.
    infer(&network).await.unwrap();

    whoever_goes_away_closes_the_stream(&network, model, &seen).await;
    network.stop().await;
}

async fn tools_and_probabilities_are_passed_on(
    network: &lemma_node::Network,
    model: lemma_types::Digest,
) {
    let tools = r#"[{"type":"function","function":{"name":"weather","parameters":{}}}]"#;
    let request = TextRequest {
        tools: Some(tools.to_owned()),
        form: Some(Form::Calls {
            only: None,
            several: true,
        }),
        logprobs: Some(1),
        ..say("call")
    };
    let (answer, streamed) = generate(network, model, request).await.unwrap();
    let response = &answer.transcript.response;
    assert_eq!((streamed.as_str(), response.finish), ("So", Finish::Token));
    let call = Call {
        name: "weather".to_owned(),
        arguments: r#"{"city":"Oslo"}"#.to_owned(),
    };
    assert_eq!(response.calls, [call]);
    assert_eq!(&response.logprobs[0].chosen.bytes[..], b"So");
    assert_eq!(response.logprobs[0].chosen.logprob, -0.25);
    let bundle = Bundle {
        openings: Some(answer.openings),
        ..final_bundle(network, answer.receipt.receipt.id()).await
    };
    let mut opened = Opened {
        text: Some(answer.transcript),
        ..Opened::default()
    };
    assert_eq!(verify(network, &bundle, &opened).verdict, Verdict::Verified);
    let response = &mut opened.text.as_mut().unwrap().response;
    response.calls[0].arguments = r#"{"city":"Rome"}"#.to_owned();
    assert_eq!(verify(network, &bundle, &opened).verdict, Verdict::Wrong);
}

async fn whoever_goes_away_closes_the_stream(
    network: &lemma_node::Network,
    model: lemma_types::Digest,
    seen: &Seen,
) {
    let request = GenerateRequest {
        model: ModelRef::Root(model),
        request: say("endless"),
        mode: None,
        request_id: None,
    };
    let mut generation = network.gateway().generate(request).await.unwrap();
    assert!(matches!(
        generation.next().await,
        Some(GenerationEvent::Text(_))
    ));
    assert_eq!(seen.open.load(Ordering::SeqCst), 1);
    drop(generation);
    until("the stream ends", || seen.open.load(Ordering::SeqCst) == 0).await;
}
