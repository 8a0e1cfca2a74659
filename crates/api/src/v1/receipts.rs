//! Receipts and bundles. Salts are never handed out: whoever may learn the content got them with the answer.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use lemma_node::gateway::BundleStatus;
use lemma_types::{B256, bundle::Bundle};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Api, error::ApiError};

/// Longest wait that a client may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Query of a bundle.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// Milliseconds to wait until the receipt is settled.
    #[serde(default)]
    wait_ms: u64,
}

fn parse_id(text: &str) -> Result<B256, ApiError> {
    let parsed = text
        .strip_prefix("0x")
        .filter(|digits| digits.len() == 64)
        .and(text.parse().ok());
    parsed.ok_or_else(|| {
        ApiError::bad_request(
            "invalid_receipt_id",
            "a receipt's id is 0x and 64 hexadecimal digits",
        )
        .param("id")
    })
}

fn unknown(id: B256) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "receipt_not_found",
        format!("no receipt {id} is known here"),
    )
    .param("id")
}

/// `GET /v1/receipts/{id}`: the signed receipt and where it is on its way to the ledger.
pub(super) async fn receipt(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = parse_id(&id)?;
    let (status, receipt, settlement) = match api.gateway.bundle(id).await? {
        BundleStatus::Unknown => return Err(unknown(id)),
        BundleStatus::Pending(receipt) => ("pending", receipt, Value::Null),
        BundleStatus::Final(bundle) => {
            let batch = bundle.settlement.as_ref().map(|settlement| {
                json!({ "batch": settlement.batch, "receipt_index": settlement.receipt_index })
            });
            ("final", bundle.receipt, json!(batch))
        }
    };
    Ok(Json(
        json!({ "id": id, "status": status, "receipt": receipt, "settlement": settlement }),
    ))
}

/// `GET /v1/receipts/{id}/bundle[?wait_ms=N]`: the bundle, or 202 while the receipt is not settled.
pub(super) async fn bundle(
    State(api): State<Api>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let Query(wait) =
        wait.map_err(|error| ApiError::bad_request("invalid_query", error.body_text()))?;
    let status = match Duration::from_millis(wait.wait_ms).min(MAX_WAIT) {
        Duration::ZERO => api.gateway.bundle(id).await?,
        timeout => api.gateway.wait_bundle(id, timeout).await?,
    };
    match status {
        BundleStatus::Unknown => Err(unknown(id)),
        BundleStatus::Pending(_) => {
            let body = json!({ "id": id, "status": "pending", "message": "the ledger has not settled the receipt yet" });
            let retry = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
            Ok((StatusCode::ACCEPTED, retry, Json(body)).into_response())
        }
        BundleStatus::Final(bundle) => {
            let public = Bundle {
                openings: None,
                proof: None,
                ..bundle
            };
            let kind = [(
                header::CONTENT_TYPE,
                HeaderValue::from_static(Bundle::MEDIA_TYPE),
            )];
            Ok((kind, Json(public)).into_response())
        }
    }
}
