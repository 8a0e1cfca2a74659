//! The gateway: resolves models on the ledger, picks workers, fails over, checks every receipt, hands out bundles.

use std::{fmt, str::FromStr, time::Duration};

use lemma_store::BlobStore;
use lemma_types::{
    Address, B256, Digest, Manifest, Mode, ModelName, SignedReceipt, TrustedRoot, bundle::Bundle,
    commitment::Openings, tensor::TensorData,
};

mod error;

pub use error::{GatewayError, InferError};

/// A model as a client names it: by its name on the ledger, or by the root of its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// `owner/model` or `owner/model:tag`, resolved on the ledger.
    Name(ModelName),
    /// BLAKE3 of the manifest: exactly this model, whatever names point to.
    Root(Digest),
}

impl FromStr for ModelRef {
    type Err = lemma_types::name::ModelNameError;

    /// 64 lower-case hex digits are a root; anything else must be a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(root) => Ok(Self::Root(root)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Root(root) => root.fmt(f),
        }
    }
}

/// A name on the ledger and what it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// The name.
    pub name: ModelName,
    /// BLAKE3 of the manifest that the name points to now.
    pub root: Digest,
    /// The account that registered it.
    pub author: Address,
}

/// A model with its manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The name it was asked by, if it was.
    pub name: Option<ModelName>,
    /// BLAKE3 of the manifest.
    pub root: Digest,
    /// The manifest, checked against `root`.
    pub manifest: Manifest,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// Which model.
    pub model: ModelRef,
    /// Its inputs by name, in any order. They are put into the order of the model's signature.
    pub inputs: Vec<TensorData>,
    /// What shall back the result. Only [`Mode::Signed`] is offered now.
    pub mode: Mode,
    /// The request's id, never used before; `None` draws one.
    pub request_id: Option<B256>,
}

/// An answer whose receipt was checked.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The name it was asked by, if it was.
    pub model_name: Option<ModelName>,
    /// Outputs, in the order of the model's signature.
    pub outputs: Vec<TensorData>,
    /// The worker's receipt.
    pub receipt: SignedReceipt,
    /// The salts of its commitments: secret between worker, gateway and client. The gateway keeps no copy.
    pub openings: Openings,
    /// The account of the worker that ran it.
    pub worker: Address,
    /// How many workers were tried before this one.
    pub failovers: u32,
}

impl Answer {
    /// The receipt's id.
    #[must_use]
    pub fn receipt_id(&self) -> B256 {
        self.receipt.receipt.id()
    }
}

/// Where a receipt is on its way to the ledger.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "made once for each request")]
pub enum BundleStatus {
    /// No gateway or worker that could be asked knows it.
    Unknown,
    /// Signed, but no final block has settled its batch yet.
    Pending(SignedReceipt),
    /// Settled and final. `openings` is absent: whoever holds them may put them in.
    Final(Bundle),
}

/// How the gateway sees one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its account.
    pub address: Address,
    /// Where it listens, as registered on the ledger.
    pub endpoint: String,
    /// Requests that it is working on for this gateway.
    pub in_flight: u64,
    /// Failures since its last success.
    pub failures: u32,
    /// How much longer it is set aside; zero if it is available.
    pub set_aside: Duration,
}

/// A summary for `lemma status` and readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayStatus {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Height of the last finalised block.
    pub height: u64,
    /// When that block was made, milliseconds since the Unix epoch.
    pub block_time_ms: u64,
    /// Workers registered on the ledger.
    pub workers: Vec<WorkerStatus>,
    /// Names registered on the ledger.
    pub models: usize,
    /// Receipts served by this gateway that are not settled yet.
    pub receipts_pending: u64,
}

/// A running gateway. Clones share it.
#[derive(Clone)]
pub struct Gateway {}

impl Gateway {
    /// What an offline verifier of this network's bundles has to trust.
    #[must_use]
    pub fn trusted_root(&self) -> &TrustedRoot {
        unimplemented!()
    }

    /// The gateway's content store, which its host serves at `/blobs`.
    #[must_use]
    pub fn store(&self) -> &BlobStore {
        unimplemented!()
    }

    /// Routes that serve the content store: `GET|HEAD /blobs/{digest}` (with `Range`), `GET /blobs/{digest}/outline`.
    /// Mount them at the root of the API.
    pub fn host_routes(&self) -> axum::Router {
        unimplemented!()
    }

    /// All names on the ledger, sorted.
    ///
    /// # Errors
    /// If no validator answers.
    pub async fn models(&self) -> Result<Vec<ModelEntry>, GatewayError> {
        unimplemented!()
    }

    /// One model with its manifest.
    ///
    /// # Errors
    /// [`GatewayError::UnknownModel`], or that the manifest can not be had.
    pub async fn model(&self, model: &ModelRef) -> Result<ModelInfo, GatewayError> {
        let _ = model;
        unimplemented!()
    }

    /// Takes a model into the content store, so that hosts and workers can serve it: checks the manifest, that each of
    /// its files is in the store with the stated size (upload them first with `store().put_*`), and that they derive the
    /// stated graph root. Idempotent.
    ///
    /// The name is registered by its author, with an ordinary transaction to the models module.
    ///
    /// # Errors
    /// [`GatewayError::Manifest`], [`GatewayError::MissingFile`], [`GatewayError::Refused`].
    pub async fn publish(&self, manifest: &[u8]) -> Result<Digest, GatewayError> {
        let _ = manifest;
        unimplemented!()
    }

    /// Runs a model on a worker and checks the receipt before it returns.
    ///
    /// # Errors
    /// See [`InferError`].
    pub async fn infer(&self, request: InferRequest) -> Result<Answer, InferError> {
        let _ = request;
        unimplemented!()
    }

    /// The receipt with this id and, once its batch is final, all that proves it.
    ///
    /// # Errors
    /// If no validator answers or the store fails.
    pub async fn bundle(&self, receipt_id: B256) -> Result<BundleStatus, GatewayError> {
        let _ = receipt_id;
        unimplemented!()
    }

    /// Waits until [`bundle`](Self::bundle) is final, at most `timeout`; then returns what it is.
    ///
    /// # Errors
    /// As [`bundle`](Self::bundle).
    pub async fn wait_bundle(
        &self,
        receipt_id: B256,
        timeout: Duration,
    ) -> Result<BundleStatus, GatewayError> {
        let _ = (receipt_id, timeout);
        unimplemented!()
    }

    /// Height, workers, models and receipts at a glance.
    ///
    /// # Errors
    /// If no validator answers.
    pub async fn status(&self) -> Result<GatewayStatus, GatewayError> {
        unimplemented!()
    }

    /// Whether requests can be served: blocks finalise and a worker is available. `Err` says what is missing.
    ///
    /// # Errors
    /// A sentence for `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        unimplemented!()
    }
}
