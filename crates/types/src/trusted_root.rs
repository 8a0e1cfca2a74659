use serde::{Deserialize, Serialize};

use crate::{B256, Bytes};

/// All that an offline verifier has to trust: which network, and its one static BLS12-381 public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedRoot {
    /// Always [`TrustedRoot::SCHEMA`].
    pub schema: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hash of block 0.
    pub genesis: B256,
    /// The network's threshold public key: 96 bytes, a compressed point of G2 (certificates are in G1).
    pub network_key: Bytes,
}

impl TrustedRoot {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.trusted-root/1";

    /// A trusted root of the current format.
    #[must_use]
    pub fn new(chain_id: u64, genesis: B256, network_key: Bytes) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            chain_id,
            genesis,
            network_key,
        }
    }
}
