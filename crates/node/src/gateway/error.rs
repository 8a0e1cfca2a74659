use lemma_types::{Address, Digest, Mode, manifest::ManifestError};

use super::index::IndexError;
use crate::ledger::LedgerError;

/// Why the gateway could not do what was asked, inference aside.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The ledger has no such name, or no host has such a manifest.
    #[error(
        "no model `{0}`: list models with `lemma models ls`, or publish it with `lemma models push`"
    )]
    UnknownModel(String),
    /// The manifest's bytes are not a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file of the manifest is not in the content store, or has another size.
    #[error("file `{path}` ({digest}) is not in the content store: upload it first")]
    MissingFile {
        /// Its path in the manifest.
        path: String,
        /// Its digest.
        digest: Digest,
    },
    /// The files do not make the model that the manifest describes.
    #[error("the files do not make this model: {0}")]
    Refused(String),
    /// No validator answers, or the ledger gave something that it should not.
    #[error("the ledger is not available: {0}")]
    Ledger(String),
    /// The disk, or the index on it.
    #[error("the gateway's own storage failed: {0}")]
    Storage(String),
}

impl From<LedgerError> for GatewayError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error.to_string())
    }
}

impl From<IndexError> for GatewayError {
    fn from(error: IndexError) -> Self {
        Self::Storage(error.to_string())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// No such model.
    #[error("no model `{0}`: list models with `lemma models ls`")]
    UnknownModel(String),
    /// The inputs do not fit the model's signature; says which, and what was expected.
    #[error("input is not what the model takes: {0}")]
    InvalidInput(String),
    /// Mode `proved` of a model that can not be proved.
    #[error(
        "mode `proved` is not offered for this model: only a quantised one can be proved, and `lemma models quantize` makes one \
         of an ONNX model"
    )]
    NotProvable,
    /// The mode is not offered.
    #[error("mode `{asked}` is not offered here: `{offered}` is")]
    ModeNotOffered {
        /// What was asked for.
        asked: Mode,
        /// What can be had.
        offered: Mode,
    },
    /// The request id was used before.
    #[error("request id {0} was used before: draw a new one for each request")]
    DuplicateRequest(lemma_types::B256),
    /// So many workers were asked, and had as much to do as they can queue; 0 if the gateway itself has.
    #[error("{}: try again in a moment", busy(*.0))]
    Busy(usize),
    /// No worker is registered, or none can be reached.
    #[error("no worker could serve the request: {0}")]
    NoWorker(String),
    /// Workers answered, but no answer stood up to its checks. Nothing of them is returned.
    #[error("the answer of worker {worker} was refused: {reason}")]
    Refused {
        /// The last worker whose answer was refused.
        worker: Address,
        /// Why.
        reason: String,
    },
    /// The worker failed after the first of its answer had been passed on. What was passed on has no receipt.
    #[error("worker {worker} failed in the middle of its answer: {reason}; ask again")]
    Broken {
        /// The worker.
        worker: Address,
        /// What happened.
        reason: String,
    },
    /// The gateway's own affairs: ledger or storage.
    #[error(transparent)]
    Gateway(GatewayError),
}

fn busy(workers: usize) -> String {
    match workers {
        0 => "too many requests are under way".to_owned(),
        1 => "the worker is busy".to_owned(),
        count => format!("{count} workers are busy"),
    }
}

impl InferError {
    /// A stable word for each case, for metrics and for machines.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel(_) => "model_not_found",
            Self::InvalidInput(_) => "invalid_input",
            Self::ModeNotOffered { .. } | Self::NotProvable => "mode_not_offered",
            Self::DuplicateRequest(_) => "duplicate_request",
            Self::Busy(_) => "busy",
            Self::NoWorker(_) => "no_worker",
            Self::Refused { .. } => "answer_refused",
            Self::Broken { .. } => "worker_failed",
            Self::Gateway(_) => "internal",
        }
    }
}

impl From<GatewayError> for InferError {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::UnknownModel(model) => Self::UnknownModel(model),
            other => Self::Gateway(other),
        }
    }
}
