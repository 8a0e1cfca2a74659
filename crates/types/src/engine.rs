use serde::{Deserialize, Serialize};

use crate::{B256, keccak256, to_canonical_json};

/// The engine that gave a result its meaning: two engines with the same numeric specification and importer give the
/// same bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Version of the numeric specification (`docs/numeric-spec.md`).
    pub numeric_spec: u32,
    /// Version of the rules that derive a canonical graph from a model file.
    pub importer: u32,
    /// The program that ran, for diagnosis: its version never changes a bit of the result.
    pub runtime: String,
}

impl Engine {
    /// The id that receipts carry: keccak-256 of a tag and the engine in canonical JSON.
    #[must_use]
    pub fn id(&self) -> B256 {
        let mut bytes = b"lemma/engine/1\0".to_vec();
        bytes.extend(to_canonical_json(self));
        keccak256(bytes)
    }
}
