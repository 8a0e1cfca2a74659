//! What happens to every request: an id, a log line, metrics, bounds on its headers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tracing::Instrument as _;

use crate::{error::ApiError, metrics};

/// Carries the id of a request, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is echoed, bytes.
const MAX_ID_BYTES: usize = 128;
/// Largest header section, bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Wraps every request.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The route, not the path: strangers must not make labels.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", id = %id.to_str().unwrap_or_default(), %method, path = request.uri().path());

    let mut response = if header_bytes(request.headers()) > MAX_HEADER_BYTES {
        too_large()
    } else {
        next.run(request).instrument(span.clone()).await
    };

    let status = response.status().as_u16();
    let seconds = started.elapsed().as_secs_f64();
    let labels = [
        ("route", route),
        ("method", method.to_string()),
        ("status", status.to_string()),
    ];
    ::metrics::counter!(metrics::HTTP_REQUESTS, &labels).increment(1);
    ::metrics::histogram!(metrics::HTTP_SECONDS, &labels[..1]).record(seconds);
    tracing::debug!(parent: &span, status, seconds, "answered");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The client's id if it is plain, otherwise one of ours.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= MAX_ID_BYTES
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    match headers.get(REQUEST_ID).filter(plain) {
        Some(id) => id.clone(),
        None => {
            HeaderValue::from_str(&new_id()).unwrap_or_else(|_| HeaderValue::from_static("req"))
        }
    }
}

/// Unique within this process; ids are for finding log lines, so nothing depends on more.
fn new_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    format!(
        "req-{millis:x}-{:x}",
        COUNTER.fetch_add(1, Ordering::Relaxed)
    )
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

fn too_large() -> Response {
    ApiError::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        format!("the headers are larger than the {MAX_HEADER_BYTES} bytes that are accepted"),
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids_are_echoed() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(text).unwrap());
            request_id(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(id("abc-1.2_3:4"), "abc-1.2_3:4");
        for strange in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert!(id(strange).starts_with("req-"), "{strange}");
        }
        assert_ne!(new_id(), new_id());
    }
}
