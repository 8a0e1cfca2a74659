//! A whole network in one process, under one data directory.

mod accounts;
mod error;
mod layout;
mod samples;
mod validators;

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy_primitives::U256;
use futures::future::{BoxFuture, FutureExt};
use lemma_chain::Pace;
use lemma_types::{Address, Bytes, ModelName, TrustedRoot};
use tokio::sync::Mutex;

pub use accounts::DevelopmentAccount;
pub use error::NetworkError;
pub use layout::LOCAL_CHAIN_ID;
pub use samples::SampleModel;

use self::{
    accounts::{development_accounts, funds},
    layout::{Definition, Layout},
    validators::Validators,
};
use crate::{
    Gateway, Ledger, Worker,
    clock::{Clock, SystemClock},
    gateway::GatewayConfig,
    keys,
    ledger::Account,
    worker::{Durability, UpstreamConfig, WorkerConfig, key_path},
};

/// Most validators and most workers of a local network.
const MOST: u32 = 16;
/// How long the network may take until it is ready.
const START: Duration = Duration::from_secs(60);
/// A worker with less than this is given as much again, wei: 0.1 LEM.
const LOW_FUNDS: u128 = 100_000_000_000_000_000;
/// What a worker is given, wei: 100 LEM.
const WORKER_FUNDS: u128 = 100_000_000_000_000_000_000;

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
    /// How long a worker may take for one request before the gateway asks another.
    pub request_timeout: Duration,
    /// Models to publish at the first start.
    pub samples: Vec<SampleModel>,
    /// A server that all workers front, and the name under which its model is published.
    pub upstream: Option<(ModelName, UpstreamConfig)>,
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
            request_timeout: Duration::from_secs(60),
            samples: Vec::new(),
            upstream: None,
        }
    }

    fn check(&self) -> Result<(), NetworkError> {
        for (field, value) in [("validators", self.validators), ("workers", self.workers)] {
            if !(1..=MOST).contains(&value) {
                let reason = format!("{value}, expected 1 to {MOST}");
                return Err(NetworkError::Config { field, reason });
            }
        }
        if self.worker_threads == 0 {
            return Err(NetworkError::Config {
                field: "worker_threads",
                reason: "0, expected at least 1".to_owned(),
            });
        }
        if self.heartbeat.is_zero() {
            return Err(NetworkError::Config {
                field: "heartbeat",
                reason: "zero, expected a time".to_owned(),
            });
        }
        Ok(())
    }
}

/// A running network.
pub struct Network {
    config: NetworkConfig,
    layout: Layout,
    validators: Validators,
    ledger: Ledger,
    gateway: Gateway,
    workers: Mutex<Vec<Option<Worker>>>,
    accounts: Vec<DevelopmentAccount>,
    trusted_root_path: PathBuf,
}

impl Network {
    /// Starts the network in `config.data_dir`, or resumes the one that is there. Returns when blocks finalise, workers
    /// are registered and sample models are published.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn start(config: NetworkConfig) -> BoxFuture<'static, Result<Self, NetworkError>> {
        async move {
            config.check()?;
            let (accounts, operator) = development_accounts();
            let layout = Layout::take(&config.data_dir)?;
            let workers = worker_addresses(&layout, config.workers)?;
            let (definition, keys) = layout.open(|| {
                let funded = accounts
                    .iter()
                    .chain([&operator])
                    .map(|account| (account.address, funds()));
                let workers = workers
                    .iter()
                    .map(|worker| (*worker, U256::from(WORKER_FUNDS)));
                let seconds = SystemClock.now_ms() / 1000;
                Definition::new(
                    seconds,
                    config.validators,
                    funded.chain(workers).collect::<BTreeMap<_, _>>(),
                )
            })?;
            let pace = Pace::with_heartbeat(config.heartbeat);
            let validators = Validators::start(&layout, keys, &definition.genesis(), pace).await?;
            let ledger = ledger(&validators).await?;
            layout.write_trusted_root(ledger.trusted_root())?;
            in_time("the first block", ledger.reached(1)).await?;

            let gateway = Gateway::start(
                GatewayConfig {
                    request_timeout: config.request_timeout,
                    ..GatewayConfig::new(layout.gateway())
                },
                ledger.clone(),
            )
            .await
            .map_err(|error| NetworkError::Gateway(error.to_string()))?;
            let operator = Account::new(operator.secret(), ledger.clone());
            let network = Self {
                trusted_root_path: layout.trusted_root(),
                config,
                layout,
                validators,
                ledger,
                gateway,
                workers: Mutex::default(),
                accounts,
            };
            network.bring_up(&operator, &workers).await?;
            Ok(network)
        }
        .boxed()
    }

    /// Workers and sample models, at the same time.
    async fn bring_up(
        &self,
        operator: &Account,
        addresses: &[Address],
    ) -> Result<(), NetworkError> {
        let samples = async {
            for sample in &self.config.samples {
                in_time(
                    "a sample model",
                    samples::publish(sample, &self.layout, &self.gateway, operator),
                )
                .await??;
            }
            if let Some((name, upstream)) = &self.config.upstream {
                let published = samples::publish_upstream(name, upstream, &self.gateway, operator);
                in_time("the upstream server's model", published).await??;
            }
            Ok::<_, NetworkError>(())
        };
        let workers = async {
            for (index, address) in addresses.iter().enumerate() {
                in_time("a worker's funds", self.fund(operator, index, *address)).await??;
            }
            for index in 0..addresses.len() {
                let worker = self.start_worker(index).await?;
                self.workers.lock().await.push(Some(worker));
            }
            let registered: Vec<_> = self
                .workers
                .lock()
                .await
                .iter()
                .flatten()
                .map(Worker::registered)
                .collect();
            for mut registered in registered {
                let done = async { registered.wait_for(|done| *done).await.is_ok() };
                if !in_time("a worker's registration", done).await? {
                    return Err(NetworkError::NotReady(
                        "a worker ended while it registered".to_owned(),
                    ));
                }
            }
            Ok(())
        };
        tokio::try_join!(samples, workers)?;
        // The gateway has to have heard of it all.
        let height = self.ledger.head().number;
        in_time("the gateway", self.gateway.followed(height)).await
    }

    async fn fund(
        &self,
        operator: &Account,
        index: usize,
        address: Address,
    ) -> Result<(), NetworkError> {
        let failed = |error: crate::ledger::LedgerError| NetworkError::Worker {
            index,
            reason: error.to_string(),
        };
        let chain = self.ledger.chain().map_err(failed)?;
        let balance = chain
            .balance(address)
            .await
            .map_err(|error| failed(error.into()))?;
        if balance < U256::from(LOW_FUNDS) {
            let sent = operator
                .send(address, U256::from(WORKER_FUNDS), Bytes::new())
                .await;
            sent.map_err(failed)?;
        }
        Ok(())
    }

    async fn start_worker(&self, index: usize) -> Result<Worker, NetworkError> {
        let config = WorkerConfig {
            hosts: vec![self.gateway.host_base().to_owned()],
            threads: self.config.worker_threads,
            batch_interval: self.config.batch_interval,
            upstream: self
                .config
                .upstream
                .as_ref()
                .map(|(_, config)| config.clone()),
            // Nothing is at stake in a local network.
            durability: Durability::Process,
            ..WorkerConfig::new(self.layout.worker(index))
        };
        let started = Worker::start(config, self.ledger.clone()).await;
        started.map_err(|error| NetworkError::Worker {
            index,
            reason: error.to_string(),
        })
    }

    /// The network's gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The ledger, through whichever validator runs.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What an offline verifier has to trust; also written to [`trusted_root_path`](Self::trusted_root_path).
    #[must_use]
    pub fn trusted_root(&self) -> &TrustedRoot {
        self.ledger.trusted_root()
    }

    /// The file with the trusted root, JSON.
    #[must_use]
    pub fn trusted_root_path(&self) -> &Path {
        &self.trusted_root_path
    }

    /// The name of the model that an upstream server answers for, if there is one.
    #[must_use]
    pub fn upstream(&self) -> Option<&ModelName> {
        self.config.upstream.as_ref().map(|(name, _)| name)
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.layout.root()
    }

    /// Accounts that genesis funded, for development.
    #[must_use]
    pub fn accounts(&self) -> &[DevelopmentAccount] {
        &self.accounts
    }

    /// Stops everything in order: requests in flight are answered, receipts are durable, state is flushed.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        async move {
            let workers = std::mem::take(&mut *self.workers.lock().await);
            futures::future::join_all(workers.into_iter().flatten().map(Worker::stop)).await;
            self.gateway.stop().await;
            self.validators.stop().await;
            tracing::info!("the network has stopped");
        }
        .boxed()
    }

    /// Stops everything at once, as far as a crash can be imitated inside a process.
    pub fn kill(self) -> BoxFuture<'static, ()> {
        async move {
            let workers = std::mem::take(&mut *self.workers.lock().await);
            futures::future::join_all(workers.into_iter().flatten().map(Worker::kill)).await;
            self.gateway.kill().await;
            self.validators.kill_all().await;
        }
        .boxed()
    }

    /// Stops validator `index` at once, as a crash would.
    ///
    /// # Errors
    /// If there is no such validator, or it does not run.
    pub fn kill_validator(&self, index: usize) -> BoxFuture<'_, Result<(), NetworkError>> {
        async move { self.validators.kill(index).await }.boxed()
    }

    /// Starts a killed validator again.
    ///
    /// # Errors
    /// If there is no such validator, it runs, or it does not start.
    pub fn restart_validator(&self, index: usize) -> BoxFuture<'_, Result<(), NetworkError>> {
        async move {
            let handle = self.validators.restart(index).await?;
            self.ledger.add(handle);
            Ok(())
        }
        .boxed()
    }

    /// Stops worker `index` at once, as a crash would.
    ///
    /// # Errors
    /// If there is no such worker, or it does not run.
    pub fn kill_worker(&self, index: usize) -> BoxFuture<'_, Result<(), NetworkError>> {
        async move {
            let worker = self
                .workers
                .lock()
                .await
                .get_mut(index)
                .and_then(Option::take);
            let worker = worker.ok_or_else(|| NetworkError::Worker {
                index,
                reason: "it does not run".to_owned(),
            })?;
            worker.kill().await;
            Ok(())
        }
        .boxed()
    }

    /// Starts a killed worker again.
    ///
    /// # Errors
    /// If there is no such worker, it runs, or it does not start.
    pub fn restart_worker(&self, index: usize) -> BoxFuture<'_, Result<(), NetworkError>> {
        async move {
            let mut workers = self.workers.lock().await;
            match workers.get_mut(index) {
                Some(slot @ None) => *slot = Some(self.start_worker(index).await?),
                _ => {
                    return Err(NetworkError::Worker {
                        index,
                        reason: "it runs, or there is none".to_owned(),
                    });
                }
            }
            Ok(())
        }
        .boxed()
    }
}

/// Accounts of the workers, whose keys are made if they are not there.
fn worker_addresses(layout: &Layout, count: u32) -> Result<Vec<Address>, NetworkError> {
    let address = |index: usize| {
        let folder = layout.worker(index);
        let path = key_path(&folder);
        let key = std::fs::create_dir_all(&folder).and_then(|()| keys::load_or_create(&path));
        key.map(|key| key.address())
            .map_err(|error| NetworkError::File {
                path,
                reason: error.to_string(),
            })
    };
    (0..count as usize).map(address).collect()
}

async fn ledger(validators: &Validators) -> Result<Ledger, NetworkError> {
    let mut handles = validators.handles().await.into_iter();
    let none = || NetworkError::NotReady("no validator runs".to_owned());
    let ledger = Ledger::new(&handles.next().ok_or_else(none)?);
    handles.for_each(|handle| ledger.add(handle));
    Ok(ledger)
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> Result<T, NetworkError> {
    let late = |_| {
        NetworkError::NotReady(format!(
            "{what} did not become ready within {} s",
            START.as_secs()
        ))
    };
    tokio::time::timeout(START, work).await.map_err(late)
}
