//! Uploads: content-addressed, verified while they stream, bounded.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, TryStreamExt as _};
use lemma_store::{BlobStore, StoreError};
use lemma_types::Digest;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{Api, Limits, error::ApiError};

/// Uploads at the same time; others wait.
const CONCURRENT: usize = 8;

/// What uploads may take up.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    max_blob_bytes: u64,
    quota_bytes: u64,
    used_bytes: Arc<AtomicU64>,
    slots: Arc<Semaphore>,
}

impl Uploads {
    /// Counts what the store holds already.
    pub(crate) fn new(store: &BlobStore, limits: &Limits) -> Result<Self, StoreError> {
        let digests = store.list()?;
        let used = digests.iter().filter_map(|digest| store.size(digest)).sum();
        Ok(Self {
            max_blob_bytes: limits.blob_bytes,
            quota_bytes: limits.store_bytes,
            used_bytes: Arc::new(AtomicU64::new(used)),
            slots: Arc::new(Semaphore::new(CONCURRENT)),
        })
    }

    pub(crate) const fn max_blob_bytes(&self) -> u64 {
        self.max_blob_bytes
    }

    /// Sets bytes aside, or says that there is no room.
    fn reserve(&self, bytes: u64) -> Result<Reservation, ApiError> {
        let add = |used: u64| {
            used.checked_add(bytes)
                .filter(|sum| *sum <= self.quota_bytes)
        };
        match self
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
        {
            Ok(_) => Ok(Reservation {
                used_bytes: self.used_bytes.clone(),
                bytes,
            }),
            Err(used) => Err(ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "store_full",
                format!(
                    "the store holds {used} of at most {} bytes: {bytes} more do not fit",
                    self.quota_bytes
                ),
            )),
        }
    }
}

/// Bytes set aside for an upload; given back if it fails.
struct Reservation {
    used_bytes: Arc<AtomicU64>,
    bytes: u64,
}

impl Reservation {
    /// Keeps `bytes` of what was set aside.
    fn keep(mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// `PUT /v1/blobs/{digest}`: stores the body, if it has this digest. 201 if it is new, 200 if it was here.
pub(super) async fn put(
    State(api): State<Api>,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let digest: Digest = digest.parse().map_err(|error: lemma_types::DigestError| {
        ApiError::bad_request("invalid_digest", error.to_string()).param("digest")
    })?;
    let store = api.gateway.store();
    if let Some(size) = store.size(&digest) {
        return Ok((
            StatusCode::OK,
            Json(json!({ "digest": digest, "size": size })),
        )
            .into_response());
    }
    let stated = stated_length(&headers);
    let limit = api.uploads.max_blob_bytes;
    if stated.is_some_and(|stated| stated > limit) {
        return Err(too_large(limit));
    }
    // A body of unknown length may take all that one blob may.
    let reservation = api.uploads.reserve(stated.unwrap_or(limit))?;
    let _slot = api.uploads.slots.acquire().await.map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the gateway is stopping",
        )
    })?;
    let stream = body
        .into_data_stream()
        .map_err(|error| error.to_string())
        .boxed();
    store
        .put_stream(stream, stated.unwrap_or(limit), Some(digest))
        .await
        .map_err(refused)?;
    let size = store.size(&digest).unwrap_or_default();
    reservation.keep(size);
    Ok((
        StatusCode::CREATED,
        Json(json!({ "digest": digest, "size": size })),
    )
        .into_response())
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large(limit: u64) -> ApiError {
    let message = format!("the blob is larger than the {limit} bytes that are accepted");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "blob_too_large", message)
}

fn refused(error: StoreError) -> ApiError {
    let message = error.to_string();
    match error {
        StoreError::TooLarge { limit } => too_large(limit),
        StoreError::Mismatch { .. } => {
            ApiError::bad_request("digest_mismatch", message).param("digest")
        }
        StoreError::Stream(_) => ApiError::bad_request("upload_broken", message),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_failed", message),
    }
}
