//! OpenAI's API: chat and text completions, whole or streamed. Clients that know nothing of Lemma work unmodified; what backs
//! an answer is in the key `lemma` of the body, or of the last chunk of a stream.

mod answer;
pub mod request;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use lemma_node::{
    gateway::{GenerateRequest, Generation, GenerationEvent, InferError, ModelRef},
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
        .route("/v1/embeddings", post(embeddings))
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

async fn embeddings() -> ApiError {
    not_yet("embeddings are not supported yet")
}

async fn responses() -> ApiError {
    not_yet("the responses API is not supported yet: use /v1/chat/completions")
}

fn not_yet(message: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_supported", message)
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
    let model: ModelRef = parse_model(&asked.model)?;
    let generation = api
        .gateway
        .generate(GenerateRequest {
            model,
            request: asked.request,
            mode: asked.mode,
            request_id: asked.request_id,
        })
        .await?;
    let shape = Answer::new(kind, asked.model, generation.request_id);
    if asked.stream {
        return Ok(stream(shape, generation, asked.include_usage));
    }
    whole(&shape, generation).await
}

async fn whole(shape: &Answer, mut generation: Generation) -> Result<Response, ApiError> {
    loop {
        match generation.next().await {
            Some(GenerationEvent::Text(_)) => {}
            Some(GenerationEvent::Done(answer)) => {
                let receipt = answer.receipt.receipt.id().to_string();
                let mode = answer.receipt.receipt.mode.name();
                let headers = [
                    ("x-lemma-receipt", receipt),
                    ("x-lemma-mode", mode.to_owned()),
                ];
                return Ok((headers, axum::Json(shape.whole(&answer))).into_response());
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
    Middle,
    Over,
}

/// Server-sent events. A client that goes away drops the stream, and with it the generation.
fn stream(shape: Answer, generation: Generation, include_usage: bool) -> Response {
    let state = (shape, generation, Stage::Begin);
    let events = futures::stream::unfold(state, move |(shape, mut generation, stage)| async move {
        let (text, stage) = match stage {
            Stage::Begin => (shape.first(include_usage), Stage::Middle),
            Stage::Middle => match generation.next().await {
                Some(GenerationEvent::Text(text)) => {
                    (shape.delta(&text, include_usage), Stage::Middle)
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
