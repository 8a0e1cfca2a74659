//! The worker: takes requests over HTTP, runs models exactly, signs a receipt for each answer, settles receipts in
//! batches on the ledger.
//!
//! It is stateless towards models: it loads them by content id from its own store, else from hosts, checking every byte,
//! derives the graph root again and refuses a mismatch. What it must not lose is its journal of receipts.

mod execute;
mod generate;
mod http;
mod journal;
mod models;
mod notary;
mod queue;
mod register;
mod settle;
mod text;
mod upstream;
mod wal;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt};
use lemma_store::{BlobStore, FetchConfig, Fetcher, Source, StoreError};
use lemma_types::{Address, Amount};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{oneshot, watch},
};

pub use journal::JournalError;
pub use upstream::{Relay, UpstreamConfig, read_stream};

use self::{
    execute::{ExecutionLimits, Executor},
    http::Service,
    journal::Journal,
    models::Models,
    notary::Notary,
    queue::Queue,
    settle::{Batching, Settler},
    text::EngineLimits,
    upstream::Upstream,
};
use crate::{
    clock::{Clock, SystemClock},
    keys,
    ledger::{Account, Ledger},
    model::engine,
    protocol,
    serve::serve,
};

/// How long a graceful stop waits for requests in flight.
const GRACE: Duration = Duration::from_secs(10);

/// What a receipt withstands when its answer leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Loss of power: the disk has confirmed it. Costs the disk's time for a flush.
    #[default]
    Power,
    /// A crash of the program (`kill -9`): the operating system has it. Loss of power within the next moments may lose it,
    /// and the worker would then sign another successor to the same receipt: for networks where nothing is at stake.
    Process,
}

/// How to run a worker.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Its own directory: key, journal and models.
    pub data_dir: PathBuf,
    /// Where it listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// What to register as its endpoint; where it listens, if `None`.
    pub endpoint: Option<String>,
    /// Who is paid for its work; its own account, if `None`.
    pub payee: Option<Address>,
    /// Bases of hosts to fetch models from.
    pub hosts: Vec<String>,
    /// Models that run at the same time.
    pub threads: usize,
    /// Requests that may wait for a thread; more are turned away.
    pub queue: usize,
    /// Bound on one model and on all that are kept in memory, bytes of files.
    pub max_model_bytes: u64,
    /// Bytes that one execution may hold besides the model and its inputs, and that keys and values of all requests to one
    /// language model may take.
    pub max_execution_bytes: u64,
    /// Operations that one execution may take.
    pub max_operations: u64,
    /// How long the first receipt of a batch waits for others.
    pub batch_interval: Duration,
    /// A batch is sealed at once when so many receipts wait.
    pub batch_threshold: u64,
    /// Asked for each compute unit; zero serves for nothing.
    pub price_per_unit: Amount,
    /// A server to front: it answers for models of format `upstream`, and receipts for its answers are `relayed`.
    pub upstream: Option<UpstreamConfig>,
    /// What a receipt withstands when its answer leaves.
    pub durability: Durability,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl WorkerConfig {
    /// A worker on a free loopback port that serves for nothing, with one thread.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            endpoint: None,
            payee: None,
            hosts: Vec::new(),
            threads: 1,
            queue: 256,
            max_model_bytes: 2 << 30,
            max_execution_bytes: 2 << 30,
            max_operations: 1 << 42,
            batch_interval: Duration::from_secs(1),
            batch_threshold: 10_000,
            price_per_unit: Amount::ZERO,
            upstream: None,
            durability: Durability::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A file of its directory.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The address can not be listened on.
    #[error("can not listen on {address}: {error}; choose another port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The journal of receipts.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The content store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server to front is none.
    #[error("the upstream server can not be used: {0}")]
    Upstream(String),
    /// No threads are to be had.
    #[error("threads can not be started: {0}")]
    Threads(io::Error),
}

/// A running worker, on threads of its own. Dropping it ends it at once, as a crash would.
pub struct Worker {
    address: Address,
    endpoint: String,
    registered: watch::Receiver<bool>,
    /// `None` once it is being ended.
    parts: Option<Parts>,
}

/// What has to be ended.
struct Parts {
    service: Arc<Service>,
    shutdown: oneshot::Sender<()>,
    served: oneshot::Receiver<()>,
    runtime: Runtime,
    notary: thread::JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // A runtime must not be waited for on an async thread.
            parts.runtime.shutdown_background();
        }
    }
}

/// The path of a worker's key in its directory.
#[must_use]
pub fn key_path(data_dir: &Path) -> PathBuf {
    data_dir.join("worker.key")
}

impl Worker {
    /// Starts a worker: it listens when this returns, and registers itself on the ledger in the background.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub fn start(
        config: WorkerConfig,
        ledger: Ledger,
    ) -> BoxFuture<'static, Result<Self, WorkerError>> {
        async move {
            let file_error = |path: &Path| {
                let path = path.to_owned();
                move |error| WorkerError::File { path, error }
            };
            fs::create_dir_all(&config.data_dir).map_err(file_error(&config.data_dir))?;
            let upstream = config.upstream.clone().map(Upstream::new).transpose();
            let upstream = upstream.map_err(WorkerError::Upstream)?;
            let key_path = key_path(&config.data_dir);
            let key = keys::load_or_create(&key_path).map_err(file_error(&key_path))?;
            let address = key.address();
            let journal_path = config.data_dir.join("journal.redb");
            let journal = Arc::new(Journal::open(
                &journal_path,
                address,
                ledger.trusted_root(),
                &engine(),
            )?);
            let store = BlobStore::open(config.data_dir.join("store"))?;

            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(config.threads + 8)
                .thread_name("lemma-worker")
                .enable_all()
                .build()
                .map_err(WorkerError::Threads)?;
            let waiting = watch::Sender::new(journal.waiting());
            let (notary, notary_thread) = Notary::start(
                &config.data_dir,
                config.durability,
                Arc::clone(&journal),
                key.clone(),
                ledger.chain_id(),
                waiting.clone(),
            )?;
            let executor = executor(&config, address, &ledger, store, notary, upstream);
            let service = Arc::new(Service {
                executor,
                journal: Arc::clone(&journal),
                stopping: AtomicBool::new(false),
            });
            let listen = config.listen;
            let bound = runtime.spawn(TcpListener::bind(listen)).await;
            let listener = bound
                .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
                .map_err(|error| WorkerError::Listen {
                    address: listen,
                    error,
                })?;
            let address_bound = listener.local_addr().map_err(|error| WorkerError::Listen {
                address: listen,
                error,
            })?;
            let endpoint = config
                .endpoint
                .clone()
                .unwrap_or_else(|| format!("http://{address_bound}"));

            let account = Account::new(key, ledger.clone());
            let settler = Settler {
                journal,
                account: account.clone(),
                ledger: ledger.clone(),
                batching: Batching {
                    // Receipts reach the database within this time.
                    interval: config.batch_interval.max(Duration::from_millis(10)),
                    threshold: config.batch_threshold.clamp(1, protocol::MAX_BATCH as u64),
                    most: protocol::MAX_BATCH as u64,
                },
                waiting,
            };
            let (registered, registered_receiver) = watch::channel(false);
            let payee = config.payee.unwrap_or(address);
            let registration = (endpoint.clone(), payee);
            runtime.spawn(async move {
                let (endpoint, payee) = registration;
                register::register(&ledger, &account, &endpoint, payee).await;
                registered.send_replace(true);
                // Only registered workers settle.
                settler.run().await;
            });
            let (shutdown, stop) = oneshot::channel();
            let (done, served) = oneshot::channel();
            let server = serve(listener, http::routes(Arc::clone(&service)), async {
                // Dropped or told: either way it is over.
                let _ = stop.await;
            });
            runtime.spawn(async move {
                if let Err(error) = server.await {
                    tracing::error!(%error, "the worker's server failed");
                }
                let _ = done.send(());
            });
            tracing::info!(worker = %address, %endpoint, "worker listens");
            Ok(Self {
                address,
                endpoint,
                registered: registered_receiver,
                parts: Some(Parts {
                    service,
                    shutdown,
                    served,
                    runtime,
                    notary: notary_thread,
                }),
            })
        }
        .boxed()
    }

    /// Its account.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Where it can be reached.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Tells when the ledger knows the worker and its endpoint.
    #[must_use]
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }

    /// Stops gracefully: takes no more requests, answers those in flight. Receipts that are not settled yet are settled
    /// after the next start.
    pub fn stop(mut self) -> BoxFuture<'static, ()> {
        async move {
        let Some(mut parts) = self.parts.take() else {
            return;
        };
        parts.service.stopping.store(true, Ordering::Relaxed);
        let (shutdown, served) = (parts.shutdown, &mut parts.served);
        let _ = shutdown.send(());
        if tokio::time::timeout(GRACE, served).await.is_err() {
            tracing::warn!(worker = %self.address, "requests were still in flight when the worker stopped");
        }
        end(parts.runtime, parts.service, parts.notary).await;
        }.boxed()
    }

    /// Stops at once, as a crash would: connections break, nothing is answered any more. Returns when it is gone.
    pub fn kill(mut self) -> BoxFuture<'static, ()> {
        async move {
            if let Some(parts) = self.parts.take() {
                end(parts.runtime, parts.service, parts.notary).await;
            }
        }
        .boxed()
    }
}

/// Ends all tasks, then the notary, so that nobody has the journal open any more.
async fn end(runtime: Runtime, service: Arc<Service>, notary: thread::JoinHandle<()>) {
    let ended = tokio::task::spawn_blocking(move || {
        runtime.shutdown_timeout(Duration::from_secs(2));
        // The last of what holds the notary: its thread ends.
        drop(service);
        notary.join()
    });
    if !matches!(ended.await, Ok(Ok(()))) {
        tracing::warn!("the worker did not end in order");
    }
}

fn executor(
    config: &WorkerConfig,
    worker: Address,
    ledger: &Ledger,
    store: BlobStore,
    notary: Notary,
    upstream: Option<Upstream>,
) -> Executor {
    let fetcher = Fetcher::new(FetchConfig {
        max_bytes: config.max_model_bytes,
        ..FetchConfig::default()
    });
    let hosts = config.hosts.iter().map(|base| Source::host(base)).collect();
    let engines = EngineLimits {
        threads: config.threads,
        queue: config.queue,
        cache_bytes: config.max_execution_bytes,
    };
    Executor {
        worker,
        ledger: ledger.clone(),
        models: Models::new(
            store,
            fetcher,
            hosts,
            config.max_model_bytes,
            engines,
            worker,
        ),
        notary,
        clock: Arc::clone(&config.clock),
        queue: Queue::new(config.threads, config.queue, worker),
        upstream,
        limits: ExecutionLimits {
            memory: config.max_execution_bytes,
            operations: config.max_operations,
        },
        price_per_unit: config.price_per_unit,
    }
}
