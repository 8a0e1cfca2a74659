//! The worker's protocol over HTTP (see [`protocol`](crate::protocol)).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lemma_types::{B256, limits};

use super::{
    execute::{Executor, error},
    generate,
    journal::{Journal, JournalError},
    queue::Place,
};
use crate::protocol::{
    self, ErrorBody, ErrorCode, ProtocolError, WorkRequest, encode_answer, text::TextWork,
};

/// What handlers share.
pub(crate) struct Service {
    pub(crate) executor: Executor,
    pub(crate) journal: Arc<Journal>,
    pub(crate) stopping: AtomicBool,
}

pub(crate) fn routes(service: Arc<Service>) -> Router {
    // The tensors of the largest request, and the fields before them.
    let body = DefaultBodyLimit::max(limits::HTTP_BODY_BYTES + 4096);
    let text = DefaultBodyLimit::max(limits::TEXT_REQUEST_BYTES + 4096);
    Router::new()
        .route(protocol::INFER, post(infer).layer(body))
        .route(protocol::GENERATE, post(generate_text).layer(text))
        .route(&format!("{}/{{id}}", protocol::RECEIPTS), get(receipt))
        .route(&format!("{}/{{root}}", protocol::BATCHES), get(batch))
        .route(protocol::HEALTH, get(health))
        .with_state(service)
}

impl IntoResponse for ErrorBody {
    fn into_response(self) -> Response {
        (self.code.status(), Json(self)).into_response()
    }
}

async fn infer(
    State(service): State<Arc<Service>>,
    _place: Place,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ErrorBody> {
    let request: WorkRequest = accept(&service, body, WorkRequest::decode)?;
    refuse_duplicate(&service, request.terms.request_id).await?;
    let answer = service.executor.infer(request).await?;
    let answer = encode_answer(&answer);
    Ok(([(header::CONTENT_TYPE, protocol::MEDIA_TYPE)], answer).into_response())
}

async fn generate_text(
    State(service): State<Arc<Service>>,
    place: Place,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ErrorBody> {
    let work: TextWork = accept(&service, body, TextWork::decode)?;
    let generation = generate::begin(service, place, work).await?;
    let frames = Body::from_stream(generation.frames());
    Ok(([(header::CONTENT_TYPE, protocol::MEDIA_TYPE)], frames).into_response())
}

/// Decodes a body, unless the worker is stopping.
fn accept<T>(
    service: &Service,
    body: Result<Bytes, BytesRejection>,
    decode: fn(&[u8]) -> Result<T, ProtocolError>,
) -> Result<T, ErrorBody> {
    if service.stopping.load(Ordering::Relaxed) {
        return Err(error(ErrorCode::Stopping, "the worker is stopping"));
    }
    let body = body.map_err(|rejection| error(ErrorCode::BadRequest, rejection.body_text()))?;
    decode(&body).map_err(|reason| error(ErrorCode::BadRequest, reason.to_string()))
}

pub(super) async fn refuse_duplicate(service: &Service, request_id: B256) -> Result<(), ErrorBody> {
    blocking(service, move |journal| Ok(check_new(journal, request_id))).await?
}

/// Refuses a request that was answered before. For a thread that may wait for the disk.
pub(super) fn check_new(journal: &Journal, request_id: B256) -> Result<(), ErrorBody> {
    match journal.answered(request_id) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let message = format!("request id {request_id} was answered before by this worker");
            Err(error(ErrorCode::DuplicateRequest, message))
        }
        Err(reason) => Err(journal_failed(&reason)),
    }
}

fn journal_failed(reason: &JournalError) -> ErrorBody {
    tracing::error!(%reason, "the receipt journal failed");
    let message = "the worker's receipt journal failed";
    error(ErrorCode::Internal, message)
}

async fn receipt(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Response, ErrorBody> {
    let id = parse_word(&id)?;
    let found = blocking(&service, move |journal| journal.find(id)).await?;
    Ok(match found {
        Some(state) => Json(state).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn batch(
    State(service): State<Arc<Service>>,
    Path(root): Path<String>,
) -> Result<Response, ErrorBody> {
    let root = parse_word(&root)?;
    let found = blocking(&service, move |journal| journal.batch_ids(root)).await?;
    Ok(match found {
        Some(ids) => ids.concat().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn health(State(service): State<Arc<Service>>) -> StatusCode {
    match service.stopping.load(Ordering::Relaxed) {
        false => StatusCode::OK,
        true => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn parse_word(text: &str) -> Result<B256, ErrorBody> {
    text.parse().map_err(|_| {
        error(
            ErrorCode::BadRequest,
            "expected 0x and 64 hexadecimal digits",
        )
    })
}

async fn blocking<T: Send + 'static>(
    service: &Service,
    work: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
) -> Result<T, ErrorBody> {
    let journal = Arc::clone(&service.journal);
    match tokio::task::spawn_blocking(move || work(&journal)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(reason)) => Err(journal_failed(&reason)),
        Err(_) => Err(error(ErrorCode::Stopping, "the worker is stopping")),
    }
}
