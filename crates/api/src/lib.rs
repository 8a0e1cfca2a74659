//! The HTTP surface of a gateway: Open Inference Protocol at `/v2`, OpenAI's API at `/v1`, Ethereum JSON-RPC at `/rpc`, models,
//! receipts and status at `/v1`, health, and metrics on a listener of their own. `docs/http-api.md` is the reference.
//!
//! Everything here translates: what is decided is decided by the gateway and the ledger. Bodies, headers and batches are
//! bounded before they are read.

mod body;
mod error;
mod health;
pub mod metrics;
pub mod oip;
pub mod openai;
mod request;
mod rpc;
mod v1;

use std::time::Instant;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
    routing::{get, post},
};
use lemma_node::{Gateway, Ledger};
use lemma_store::StoreError;
use rpc::Rpc;
pub use rpc::holds_a_call as rpc_holds_a_call;
use v1::Uploads;

/// Bounds that an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest blob that can be uploaded, bytes.
    pub blob_bytes: u64,
    /// Bytes of all blobs together beyond which uploads are refused.
    pub store_bytes: u64,
}

impl Default for Limits {
    /// 4 GiB for a blob, 64 GiB for all.
    fn default() -> Self {
        Self {
            blob_bytes: 4 << 30,
            store_bytes: 64 << 30,
        }
    }
}

/// What requests are answered from. Clones share it.
#[derive(Clone)]
pub struct Api {
    gateway: Gateway,
    rpc: Rpc,
    uploads: Uploads,
    started: Instant,
}

impl Api {
    /// An API over this gateway and ledger.
    ///
    /// # Errors
    /// If the content store can not be read.
    pub fn new(gateway: Gateway, ledger: Ledger, limits: &Limits) -> Result<Self, StoreError> {
        let uploads = Uploads::new(gateway.store(), limits)?;
        let rpc = Rpc::new(ledger);
        Ok(Self {
            gateway,
            rpc,
            uploads,
            started: Instant::now(),
        })
    }

    /// All routes.
    pub fn router(&self) -> Router {
        let rpc = post(rpc::post).layer(DefaultBodyLimit::max(rpc::MAX_BODY_BYTES));
        Router::new()
            .merge(v1::routes())
            .merge(oip::routes())
            .merge(openai::routes())
            .merge(health::routes())
            .route("/rpc", rpc)
            .route("/", get(index))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(self.clone())
            .merge(self.gateway.host_routes())
            .layer(middleware::from_fn(request::observe))
    }

    /// Routes of the metrics listener: `/metrics`, `/healthz`, `/readyz`, `/livez`.
    pub fn metrics_router(&self, exporter: metrics::Exporter) -> Router {
        health::routes()
            .with_state(self.clone())
            .merge(metrics::routes(exporter, self.rpc.ledger()))
    }
}

impl FromRef<Api> for Rpc {
    fn from_ref(api: &Api) -> Self {
        api.rpc.clone()
    }
}

/// `GET /`: where everything is.
async fn index() -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({
        "name": "lemma",
        "version": env!("CARGO_PKG_VERSION"),
        "endpoints": {
            "open_inference_protocol": "/v2",
            "openai": "/v1",
            "ethereum_json_rpc": "/rpc",
            "models": "/v1/models",
            "receipts": "/v1/receipts/{id}",
            "trusted_root": "/v1/trusted-root",
            "status": "/v1/status",
            "health": "/healthz",
        },
    }))
}

async fn not_found(uri: axum::http::Uri) -> error::ApiError {
    let path: String = uri.path().chars().take(120).collect();
    error::ApiError::not_found(format!("no such endpoint: {path}"))
}

async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> error::ApiError {
    let path: String = uri.path().chars().take(120).collect();
    error::ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path} does not take {method}"),
    )
}
