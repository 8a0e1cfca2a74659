//! A whole network in one process, under one data directory.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use lemma_types::{Address, B256, ModelName, TrustedRoot};

use crate::Gateway;

mod error;

pub use error::NetworkError;

/// What to start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Where everything lives; made if it does not exist.
    pub data_dir: PathBuf,
    /// Validators of a new network: 1 to 16. An existing directory keeps its own number.
    pub validators: u32,
    /// Workers: 1 to 16.
    pub workers: u32,
    /// Threads that run models, for each worker.
    pub worker_threads: usize,
    /// How long a worker gathers receipts before it settles them.
    pub batch_interval: Duration,
    /// Blocks without transactions come this often.
    pub heartbeat: Duration,
    /// Models to publish at the first start.
    pub samples: Vec<SampleModel>,
}

impl NetworkConfig {
    /// Four validators, two workers, no sample models.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            validators: 4,
            workers: 2,
            worker_threads: 1,
            batch_interval: Duration::from_secs(1),
            heartbeat: Duration::from_secs(1),
            samples: Vec::new(),
        }
    }
}

/// A model that a new network publishes.
#[derive(Clone, Debug)]
pub struct SampleModel {
    /// Its name on the ledger.
    pub name: ModelName,
    /// The ONNX file.
    pub onnx: &'static [u8],
    /// Description and licences for the manifest.
    pub description: &'static str,
    /// SPDX expression of the model's licence.
    pub licence: &'static str,
    /// SPDX expression of the outputs' licence.
    pub output_licence: &'static str,
    /// Files that are laid beside it in `samples/<name>/` of the data directory: (file name, content).
    pub examples: Vec<(&'static str, &'static [u8])>,
}

/// An account that genesis funded. Its key is public knowledge: for development only.
#[derive(Clone, Debug)]
pub struct DevelopmentAccount {
    /// Address.
    pub address: Address,
    /// Secret key, 32 bytes.
    pub key: B256,
}

/// A running network.
pub struct Network {}

impl Network {
    /// Starts the network in `config.data_dir`, or resumes the one that is there. Returns when blocks finalise, workers
    /// are registered and sample models are published.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub async fn start(config: NetworkConfig) -> Result<Self, NetworkError> {
        let _ = config;
        unimplemented!()
    }

    /// The network's gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        unimplemented!()
    }

    /// What an offline verifier has to trust; also written to [`trusted_root_path`](Self::trusted_root_path).
    #[must_use]
    pub fn trusted_root(&self) -> &TrustedRoot {
        unimplemented!()
    }

    /// The file with the trusted root, JSON.
    #[must_use]
    pub fn trusted_root_path(&self) -> &Path {
        unimplemented!()
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        unimplemented!()
    }

    /// Accounts that genesis funded, for development.
    #[must_use]
    pub fn accounts(&self) -> &[DevelopmentAccount] {
        unimplemented!()
    }

    /// Stops everything in order: requests in flight are answered, receipts are durable, state is flushed.
    pub async fn stop(self) {
        unimplemented!()
    }

    /// Stops validator `index` at once, as a crash would.
    ///
    /// # Errors
    /// If there is no such validator, or it does not run.
    pub async fn kill_validator(&self, index: usize) -> Result<(), NetworkError> {
        let _ = index;
        unimplemented!()
    }

    /// Starts a killed validator again.
    ///
    /// # Errors
    /// If there is no such validator, it runs, or it does not start.
    pub async fn restart_validator(&self, index: usize) -> Result<(), NetworkError> {
        let _ = index;
        unimplemented!()
    }

    /// Stops worker `index` at once, as a crash would.
    ///
    /// # Errors
    /// If there is no such worker, or it does not run.
    pub async fn kill_worker(&self, index: usize) -> Result<(), NetworkError> {
        let _ = index;
        unimplemented!()
    }

    /// Starts a killed worker again.
    ///
    /// # Errors
    /// If there is no such worker, it runs, or it does not start.
    pub async fn restart_worker(&self, index: usize) -> Result<(), NetworkError> {
        let _ = index;
        unimplemented!()
    }
}
