//! The native API: models, receipts, blobs, status.

mod blobs;
mod models;
mod receipts;
mod status;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post, put},
};
pub(crate) use blobs::Uploads;
pub(crate) use models::parse_model;

use crate::Api;

pub(crate) fn routes() -> Router<Api> {
    // A manifest is small; blobs are streamed and bounded by their own limit.
    let manifests =
        post(models::publish).layer(DefaultBodyLimit::max(lemma_types::limits::MANIFEST_BYTES));
    let blobs = put(blobs::put).layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/v1/models", get(models::list).merge(manifests))
        .route("/v1/models/{*name}", get(models::show))
        .route("/v1/blobs/{digest}", blobs)
        .route("/v1/receipts/{id}", get(receipts::receipt))
        .route("/v1/receipts/{id}/bundle", get(receipts::bundle))
        .route("/v1/trusted-root", get(status::trusted_root))
        .route("/v1/status", get(status::status))
}
