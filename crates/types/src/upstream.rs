//! Models that other servers answer for.

use serde::{Deserialize, Serialize};

use crate::{CanonicalJsonError, Digest, from_canonical_json, to_canonical_json};

/// Longest name of a model at an upstream server, bytes.
pub const MODEL_BYTES: usize = 256;

/// The file of a model of format [`Upstream`](crate::manifest::Format::Upstream): by which name workers ask their upstream
/// servers for it. Where these are, and with which key, is the affair of each worker alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamModel {
    /// Always [`UpstreamModel::SCHEMA`].
    pub schema: String,
    /// The model's name at upstream servers.
    pub model: String,
}

/// Why bytes are no such file.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamModelError {
    /// Not canonical JSON of the format.
    #[error(transparent)]
    Json(#[from] CanonicalJsonError),
    /// Of another schema.
    #[error("the schema is not `{}`", UpstreamModel::SCHEMA)]
    Schema,
    /// The name is empty, too long, or has control characters.
    #[error(
        "the model's name at the upstream server has to have 1 to {MODEL_BYTES} bytes, none of them a control character"
    )]
    Name,
}

impl UpstreamModel {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.upstream-model/1";
    /// The path of the file in manifests.
    pub const PATH: &'static str = "upstream.json";
    /// Most bytes of the file.
    pub const MAX_BYTES: usize = 4_096;

    /// The model with this name at upstream servers.
    ///
    /// # Errors
    /// [`UpstreamModelError::Name`].
    pub fn new(model: &str) -> Result<Self, UpstreamModelError> {
        let new = Self {
            schema: Self::SCHEMA.to_owned(),
            model: model.to_owned(),
        };
        new.check()?;
        Ok(new)
    }

    /// Parses and checks canonical JSON.
    ///
    /// # Errors
    /// See [`UpstreamModelError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, UpstreamModelError> {
        let model: Self = from_canonical_json(bytes, Self::MAX_BYTES)?;
        model.check()?;
        Ok(model)
    }

    /// Canonical JSON (RFC 8785).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// The digest of the file, which manifests name as the graph root.
    #[must_use]
    pub fn root(&self) -> Digest {
        Digest::of(&self.encode())
    }

    fn check(&self) -> Result<(), UpstreamModelError> {
        if self.schema != Self::SCHEMA {
            return Err(UpstreamModelError::Schema);
        }
        let fits = (1..=MODEL_BYTES).contains(&self.model.len());
        match fits && !self.model.chars().any(char::is_control) {
            true => Ok(()),
            false => Err(UpstreamModelError::Name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_the_file_is_strict() {
        let model = UpstreamModel::new("meta-llama/Llama-3.1-8B").unwrap();
        assert_eq!(UpstreamModel::decode(&model.encode()).unwrap(), model);
        assert_eq!(
            String::from_utf8(model.encode()).unwrap(),
            r#"{"model":"meta-llama/Llama-3.1-8B","schema":"lemma.upstream-model/1"}"#
        );
        for bad in [
            String::new(),
            "a\nb".to_owned(),
            "x".repeat(MODEL_BYTES + 1),
        ] {
            assert!(UpstreamModel::new(&bad).is_err(), "{bad}");
        }
        for bad in [
            &br#"{"model":"x","schema":"lemma.upstream-model/2"}"#[..],
            br#"{"model":"x","schema":"lemma.upstream-model/1","url":"http://h"}"#,
            br#"{"model":"","schema":"lemma.upstream-model/1"}"#,
        ] {
            assert!(UpstreamModel::decode(bad).is_err());
        }
    }
}
