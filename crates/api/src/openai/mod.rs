//! OpenAI's API: chat and text completions, whole or streamed, and embeddings. Clients that know nothing of Lemma work unmodified; what backs
//! an answer is in the key `lemma` of the body, or of the last chunk of a stream.

mod answer;
pub mod embeddings;
mod messages;
pub mod request;
mod responses;
pub mod shown;
mod tools;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use lemma_node::{
    gateway::{GenerateRequest, Generation, GenerationEvent, InferError, ModelRef, TextAnswer},
    keys::random_word,
};
use lemma_types::limits;

use self::{
    answer::{Answer, Kind},
    request::{Asked, Invalid, chat, completion},
};
use crate::{Api, error::ApiError, v1::parse_model};

pub(crate) fn routes() -> Router<Api> {
    let limit = DefaultBodyLimit::max(limits::TEXT_REQUEST_BYTES);
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/responses", post(responses))
        .layer(limit)
}

async fn chat_completions(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let asked = chat(&read(body)?, seed())?;
    answer(&api, Kind::Chat, asked).await
}

async fn completions(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let asked = completion(&read(body)?, seed())?;
    answer(&api, Kind::Completion, asked).await
}

async fn responses(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (asked, echo) = responses::read(&read(body)?, seed())?;
    let (stream, model) = (asked.stream, asked.model.clone());
    let generation = generate(&api, asked).await?;
    let shape = responses::Shape::new(model, generation.request_id, echo);
    if stream {
        return Ok(responses::stream(shape, generation));
    }
    whole(generation, |answer| {
        shape.whole(&answer.transcript.response)
    })
    .await
}

fn read(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| {
        let status = rejection.status();
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
            _ => "invalid_body",
        };
        ApiError::new(status, code, rejection.body_text())
    })
}

/// A seed for a request that names none. Small enough to be exact in every client's numbers, so that it can be asked for
/// again.
fn seed() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = random_word().0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 11
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        let error = Self::bad_request(invalid.code, invalid.message);
        match invalid.param {
            Some(param) => error.param(param),
            None => error,
        }
    }
}

async fn answer(api: &Api, kind: Kind, asked: Asked) -> Result<Response, ApiError> {
    let (streamed, include_usage) = (asked.stream, asked.include_usage);
    let model = asked.model.clone();
    let generation = generate(api, asked).await?;
    let shape = Answer::new(kind, model, generation.request_id);
    if streamed {
        return Ok(stream(shape, generation, include_usage));
    }
    whole(generation, |answer| shape.whole(&answer.transcript)).await
}

async fn generate(api: &Api, asked: Asked) -> Result<Generation, ApiError> {
    let model: ModelRef = parse_model(&asked.model)?;
    let request = GenerateRequest {
        model,
        request: asked.request,
        mode: asked.mode,
        request_id: asked.request_id,
    };
    Ok(api.gateway.generate(request).await?)
}

async fn whole(
    mut generation: Generation,
    body: impl Fn(&TextAnswer) -> serde_json::Value,
) -> Result<Response, ApiError> {
    loop {
        match generation.next().await {
            Some(
                GenerationEvent::Text(_) | GenerationEvent::Scored(_) | GenerationEvent::Calls(_),
            ) => {}
            Some(GenerationEvent::Done(answer)) => {
                let receipt = answer.receipt.receipt.id().to_string();
                let mode = answer.receipt.receipt.mode.name();
                let headers = [
                    ("x-lemma-receipt", receipt),
                    ("x-lemma-mode", mode.to_owned()),
                ];
                let mut body = body(&answer);
                body["lemma"] = answer::evidence(&answer);
                return Ok((headers, axum::Json(body)).into_response());
            }
            Some(GenerationEvent::Failed(error)) => return Err(error.into()),
            None => return Err(stopping().into()),
        }
    }
}

fn stopping() -> InferError {
    InferError::NoWorker("the gateway is stopping".to_owned())
}

/// How far a stream is.
enum Stage {
    Begin,
    Middle(Given),
    Over,
}

/// What of an answer has been given.
#[derive(Clone, Copy, Default)]
struct Given {
    calls: usize,
    /// Characters of the tokens.
    characters: usize,
}

/// Server-sent events. A client that goes away drops the stream, and with it the generation.
fn stream(shape: Answer, generation: Generation, include_usage: bool) -> Response {
    let state = (shape, generation, Stage::Begin);
    let events = futures::stream::unfold(state, move |(shape, mut generation, stage)| async move {
        let (text, stage) = match stage {
            Stage::Begin => {
                let given = Given::default();
                (shape.first(include_usage), Stage::Middle(given))
            }
            Stage::Middle(mut given) => match generation.next().await {
                Some(GenerationEvent::Text(text)) => {
                    (shape.delta(&text, include_usage), Stage::Middle(given))
                }
                Some(GenerationEvent::Scored(scored)) => {
                    let event = shape.scored(&scored, given.characters, include_usage);
                    for scored in &scored {
                        let text = String::from_utf8_lossy(&scored.chosen.bytes);
                        given.characters += text.chars().count();
                    }
                    (event, Stage::Middle(given))
                }
                Some(GenerationEvent::Calls(calls)) => {
                    let event = shape.called(&calls, given.calls, include_usage);
                    given.calls += calls.len();
                    (event, Stage::Middle(given))
                }
                Some(GenerationEvent::Done(answer)) => {
                    (shape.last(&answer, include_usage), Stage::Over)
                }
                Some(GenerationEvent::Failed(error)) => (failed(error), Stage::Over),
                None => (failed(stopping()), Stage::Over),
            },
            Stage::Over => return None,
        };
        Some((
            Ok::<_, std::convert::Infallible>(Bytes::from(text)),
            (shape, generation, stage),
        ))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// What OpenAI's clients raise as an error in the middle of a stream. Nothing follows it, not even the end mark.
fn failed(error: InferError) -> String {
    answer::event(&ApiError::from(error).body())
}
