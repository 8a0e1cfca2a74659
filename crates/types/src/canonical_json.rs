use serde::{Serialize, de::DeserializeOwned};

/// Why bytes are not canonical JSON of the expected type.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalJsonError {
    /// More bytes than the caller allows.
    #[error("{actual} bytes of JSON, at most {limit} are accepted")]
    TooLarge {
        /// Bytes given.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or not of this type.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// The same value, written in another way.
    #[error("not in canonical form (RFC 8785): keys sorted, no spaces, shortest numbers")]
    NotCanonical,
}

/// `value` in canonical JSON (RFC 8785, JSON Canonicalization Scheme).
///
/// # Panics
/// If `value` cannot be JSON (a map with keys that are not strings): no type of this crate is so.
#[must_use]
pub fn to_canonical_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).expect("types of this crate serialise to JSON")
}

/// Parses canonical JSON of at most `limit` bytes and refuses any other spelling of the same value, so that one value
/// has one digest.
///
/// # Errors
/// See [`CanonicalJsonError`].
pub fn from_canonical_json<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    limit: usize,
) -> Result<T, CanonicalJsonError> {
    if bytes.len() > limit {
        return Err(CanonicalJsonError::TooLarge {
            actual: bytes.len(),
            limit,
        });
    }
    let value: T = serde_json::from_slice(bytes)?;
    if to_canonical_json(&value) != bytes {
        return Err(CanonicalJsonError::NotCanonical);
    }
    Ok(value)
}
