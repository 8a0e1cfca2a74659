//! From bytes to a bundle or a trusted root: bounded, and nothing unknown is ignored.

use lemma_types::{TrustedRoot, bundle::Bundle, limits};
use serde::de::DeserializeOwned;

/// Largest trusted root file, bytes. The format needs fewer than 500.
const TRUSTED_ROOT_BYTES: usize = 4_096;

/// Why bytes are not a bundle or a trusted root.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// More bytes than the format allows.
    #[error("{actual} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Bytes given.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON of the format: cut short, a field missing, unknown or twice, or a value that cannot be.
    #[error("not JSON of the format `{schema}`: {error}")]
    Json {
        /// The format.
        schema: &'static str,
        /// What is wrong, and where.
        error: serde_json::Error,
    },
    /// JSON of the right shape that names another format or version.
    #[error("the schema is `{actual}`, expected `{expected}`")]
    Schema {
        /// What the bytes say.
        actual: String,
        /// What this version reads.
        expected: &'static str,
    },
}

/// Decodes a bundle.
///
/// # Errors
/// See [`FormatError`].
pub fn decode_bundle(bytes: &[u8]) -> Result<Bundle, FormatError> {
    let bundle: Bundle = decode(bytes, limits::BUNDLE_BYTES, Bundle::SCHEMA)?;
    check_schema(&bundle.schema, Bundle::SCHEMA)?;
    Ok(bundle)
}

/// Decodes a trusted root. Whether its key is a key is checked by [`Verifier::new`](crate::Verifier::new).
///
/// # Errors
/// See [`FormatError`].
pub fn decode_trusted_root(bytes: &[u8]) -> Result<TrustedRoot, FormatError> {
    let root: TrustedRoot = decode(bytes, TRUSTED_ROOT_BYTES, TrustedRoot::SCHEMA)?;
    check_schema(&root.schema, TrustedRoot::SCHEMA)?;
    Ok(root)
}

pub(crate) fn check_schema(actual: &str, expected: &'static str) -> Result<(), FormatError> {
    if actual == expected {
        return Ok(());
    }
    Err(FormatError::Schema {
        actual: actual.chars().take(80).collect(),
        expected,
    })
}

fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    limit: usize,
    schema: &'static str,
) -> Result<T, FormatError> {
    if bytes.len() > limit {
        return Err(FormatError::TooLarge {
            actual: bytes.len(),
            limit,
        });
    }
    serde_json::from_slice(bytes).map_err(|error| FormatError::Json { schema, error })
}
