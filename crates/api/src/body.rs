//! Reading bodies: never more than the limit, and a stated length is refused before a byte is read.

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, header},
};

/// Why a body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// Larger than the limit.
    #[error("the body is larger than the {limit} bytes that are accepted")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The connection broke.
    #[error("the body could not be read: {0}")]
    Broken(String),
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, BodyError> {
    let stated = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|stated| stated > limit as u64) {
        return Err(BodyError::TooLarge { limit });
    }
    to_bytes(body, limit).await.map_err(|error| {
        let text = error.to_string();
        if text.contains("length limit exceeded") {
            BodyError::TooLarge { limit }
        } else {
            BodyError::Broken(text)
        }
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn bodies_are_bounded_with_and_without_a_stated_length() {
        let empty = HeaderMap::new();
        assert_eq!(
            read(&empty, Body::from("abc"), 3).await.as_deref(),
            Ok(b"abc".as_slice())
        );
        assert_eq!(
            read(&empty, Body::from("abcd"), 3).await,
            Err(BodyError::TooLarge { limit: 3 })
        );
        let mut lying = HeaderMap::new();
        lying.insert(
            header::CONTENT_LENGTH,
            HeaderValue::from_static("10737418240"),
        );
        assert_eq!(
            read(&lying, Body::empty(), 3).await,
            Err(BodyError::TooLarge { limit: 3 })
        );
    }
}
