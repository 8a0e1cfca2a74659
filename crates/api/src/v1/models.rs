//! Models: list, show, publish.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use lemma_node::gateway::{ModelEntry, ModelInfo, ModelRef};
use serde_json::{Value, json};

use crate::{Api, error::ApiError};

/// `GET /v1/models`
pub(super) async fn list(State(api): State<Api>) -> Result<Response, ApiError> {
    let entries = api.gateway.models().await?;
    let data: Vec<Value> = entries.iter().map(entry).collect();
    Ok(Json(json!({ "object": "list", "data": data })).into_response())
}

fn entry(entry: &ModelEntry) -> Value {
    json!({
        "id": entry.name,
        "object": "model",
        // OpenAI's clients expect a time; names on the ledger have none.
        "created": 0,
        "owned_by": entry.name.owner(),
        "root": entry.root,
        "author": entry.author,
    })
}

/// `GET /v1/models/{name}`: what the name points to, with the manifest.
///
/// The manifest's canonical JSON has the BLAKE3 digest `root`.
pub(super) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let model = parse_model(&name)?;
    let ModelInfo {
        name,
        root,
        manifest,
    } = api.gateway.model(&model).await?;
    let body = json!({
        "id": name.as_ref().map_or_else(|| root.to_string(), ToString::to_string),
        "object": "model",
        "created": 0,
        "owned_by": name.as_ref().map(|name| name.owner()),
        "root": root,
        "manifest": manifest,
    });
    Ok(Json(body).into_response())
}

/// `POST /v1/models`: takes a model into the store. The body is the manifest in canonical JSON; its files are uploaded
/// before.
pub(super) async fn publish(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let root = api.gateway.publish(&body).await?;
    Ok((StatusCode::CREATED, Json(json!({ "root": root }))).into_response())
}

/// Parses a model's name or root.
pub(crate) fn parse_model(text: &str) -> Result<ModelRef, ApiError> {
    text.parse()
        .map_err(|error: lemma_types::name::ModelNameError| {
            ApiError::bad_request("invalid_model_name", error.to_string()).param("model")
        })
}
