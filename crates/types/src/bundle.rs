//! Bundles: one JSON file with everything that is needed to check a receipt offline.

use serde::{Deserialize, Serialize};

use crate::{
    B256, Bytes, Engine, Manifest, SignedReceipt, commitment::Openings, settlement::BatchRecord,
};

/// A receipt with all that backs it. Nothing in it is believed: [`lemma-verify`] checks each part against a trusted root.
///
/// [`lemma-verify`]: https://docs.rs/lemma-verify
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Always [`Bundle::SCHEMA`].
    pub schema: String,
    /// EIP-155 chain id of the network.
    pub chain_id: u64,
    /// What the worker signed.
    pub receipt: SignedReceipt,
    /// What the receipt's engine id stands for.
    pub engine: Engine,
    /// What the receipt's model root stands for.
    pub manifest: Manifest,
    /// The salts; absent in a bundle from somebody who may not learn the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openings: Option<Openings>,
    /// Where the ledger settled the receipt; absent until the batch is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<Settlement>,
    /// A succinct argument of the receipt's computation, in the encoding of `lemma-proof`: of a receipt of mode `proved` the
    /// evidence that it names; of another one, what was proved later. It tells inputs and outputs, so it travels only with
    /// whoever may learn them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Bytes>,
}

/// The way from a receipt to a finality certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    /// The batch that holds the receipt.
    pub batch: BatchRecord,
    /// The receipt's position in the batch.
    pub receipt_index: u64,
    /// From the receipt's id to the batch root.
    pub receipt_path: Vec<B256>,
    /// From the batch record to the header's batch log.
    pub batch_path: Vec<B256>,
    /// From the receipt's anchor block to the header's history log.
    pub anchor_path: Vec<B256>,
    /// RLP of the Ethereum header.
    pub header: Bytes,
    /// RLP of the header's extension.
    pub extension: Bytes,
    /// The validators' certificate that the header is final.
    pub finalization: Bytes,
}

impl Bundle {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.bundle/1";
    /// Media type over HTTP.
    pub const MEDIA_TYPE: &'static str = "application/vnd.lemma.bundle.v1+json";
}
