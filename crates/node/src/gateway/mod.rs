//! The gateway: resolves models on the ledger, picks workers, fails over, checks every receipt, hands out bundles.

mod bundles;
mod client;
mod collect;
mod error;
mod follow;
mod generate;
mod index;
mod infer;
mod pool;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard},
    thread,
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt};
use lemma_store::{BlobStore, FetchConfig, Fetcher, Source, StoreError};
use lemma_types::{
    Address, B256, Digest, Engine, Manifest, Mode, ModelName, SignedReceipt, TrustedRoot,
    bundle::Bundle, commitment::Openings, limits, tensor::TensorData,
};
use lemma_verify::Verifier;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::Instant,
};

use self::{client::WorkerClient, index::Index, infer::Resolved, pool::Pool};
use crate::{
    clock::{Clock, SystemClock},
    host::{self, Host},
    ledger::{Ledger, ModelRecord},
    model::{self, LoadError},
};

pub use error::{GatewayError, InferError};
pub use generate::{GenerateRequest, Generation, GenerationEvent, TextAnswer};

/// Questions to workers about receipts at the same time.
const LOOKUPS: usize = 32;
/// Manifests that are kept in memory.
const MANIFESTS: usize = 1_024;

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
    /// What shall back the result. [`Mode::Signed`], and of quantised models
    /// [`Mode::Proved`].
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
    /// What the receipt's engine id stands for.
    pub engine: Engine,
    /// The salts of its commitments: secret between worker, gateway and client. The gateway keeps no copy.
    pub openings: Openings,
    /// The proof, in mode `proved`. The gateway keeps no copy of it either.
    pub evidence: Option<lemma_types::Bytes>,
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

/// How to run a gateway.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Its own directory: content store and index of receipts.
    pub data_dir: PathBuf,
    /// Bases of other hosts, for manifests that are not in the own store.
    pub hosts: Vec<String>,
    /// How long a worker may take for one request, waiting included.
    pub request_timeout: Duration,
    /// Largest model that is taken into the store, bytes of files.
    pub max_model_bytes: u64,
    /// Not ready if the last final block is older than this.
    pub stale_after: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl GatewayConfig {
    /// The usual bounds.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            hosts: Vec::new(),
            request_timeout: Duration::from_secs(60),
            max_model_bytes: 2 << 30,
            stale_after: Duration::from_secs(15),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A running gateway. Clones share it.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: GatewayConfig,
    ledger: Ledger,
    store: BlobStore,
    index: Arc<Index>,
    pool: Pool,
    client: WorkerClient,
    fetcher: Fetcher,
    hosts: Vec<Source>,
    verifier: Verifier,
    /// Names on the ledger.
    models: RwLock<BTreeMap<ModelName, ModelRecord>>,
    manifests: Mutex<HashMap<Digest, Arc<Manifest>>>,
    /// Request ids that clients chose and that are being worked on.
    chosen: Mutex<HashSet<B256>>,
    /// Bounds the inputs of requests that are under way.
    room: Arc<Semaphore>,
    /// Bounds questions to workers about receipts.
    lookups: Semaphore,
    /// Wakes the collector.
    collect: Notify,
    /// Rises with each batch that was collected.
    collected: watch::Sender<u64>,
    /// Height up to which blocks were looked through.
    followed: watch::Sender<u64>,
    host_base: String,
    /// What has to be ended; taken by [`Gateway::stop`].
    running: Mutex<Option<Running>>,
}

struct Running {
    host: Host,
    tasks: JoinSet<()>,
    writer: thread::JoinHandle<()>,
}

/// Runs disk work off the async threads.
async fn blocking<T: Send + 'static, E: Into<GatewayError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, GatewayError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(GatewayError::Storage("the gateway is stopping".to_owned())),
    }
}

impl Inner {
    fn models(&self) -> RwLockWriteGuard<'_, BTreeMap<ModelName, ModelRecord>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn manifests(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Manifest>>> {
        self.manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn resolve(&self, model: &ModelRef) -> Result<Resolved, GatewayError> {
        let (name, root) = match model {
            ModelRef::Root(root) => (None, *root),
            ModelRef::Name(name) => {
                let known = self.models.read().unwrap_or_else(PoisonError::into_inner);
                let record = known
                    .get(name)
                    .ok_or_else(|| GatewayError::UnknownModel(name.to_string()))?;
                (Some(name.clone()), record.root)
            }
        };
        let manifest = self.manifest(root).await?;
        Ok(Resolved {
            name,
            root,
            manifest,
        })
    }

    /// A manifest: from memory, else from the store, else from a host.
    async fn manifest(&self, root: Digest) -> Result<Arc<Manifest>, GatewayError> {
        if let Some(manifest) = self.manifests().get(&root) {
            return Ok(Arc::clone(manifest));
        }
        let limit = limits::MANIFEST_BYTES as u64;
        let fetched = self
            .fetcher
            .fetch_small(root, limit, &self.hosts, &self.store)
            .await;
        let bytes = fetched.map_err(|error| {
            tracing::debug!(model = %root, %error, "manifest not found");
            GatewayError::UnknownModel(root.to_string())
        })?;
        let manifest = Arc::new(Manifest::decode(&bytes)?);
        let mut manifests = self.manifests();
        if manifests.len() >= MANIFESTS {
            manifests.clear();
        }
        manifests.insert(root, Arc::clone(&manifest));
        Ok(manifest)
    }
}

impl From<StoreError> for GatewayError {
    fn from(error: StoreError) -> Self {
        Self::Storage(error.to_string())
    }
}

impl Gateway {
    /// Starts a gateway. When this returns it knows the names and workers of the ledger's head, and its host serves.
    ///
    /// # Errors
    /// If its directory can not be used, or no validator answers.
    pub fn start(
        config: GatewayConfig,
        ledger: Ledger,
    ) -> BoxFuture<'static, Result<Self, GatewayError>> {
        async move {
            let storage = |error: &dyn fmt::Display| GatewayError::Storage(error.to_string());
            fs::create_dir_all(&config.data_dir).map_err(|error| storage(&error))?;
            let store = BlobStore::open(config.data_dir.join("store"))?;
            let (index, writer) =
                Index::open(&config.data_dir.join("index.redb"), ledger.trusted_root())?;
            let verifier = Verifier::new(ledger.trusted_root())
                .map_err(|error| GatewayError::Ledger(error.to_string()))?;
            let host = Host::start(store.clone())
                .await
                .map_err(|error| storage(&error))?;
            let cursor = match index.cursor()? {
                // Nothing was served before, so nothing that is settled already matters.
                None => ledger.head().number,
                Some(cursor) => cursor,
            };
            let inner = Arc::new(Inner {
                client: WorkerClient::new(config.request_timeout),
                fetcher: Fetcher::new(FetchConfig::default()),
                hosts: config.hosts.iter().map(|base| Source::host(base)).collect(),
                config,
                ledger,
                store,
                index: Arc::new(index),
                pool: Pool::default(),
                verifier,
                models: RwLock::default(),
                manifests: Mutex::default(),
                chosen: Mutex::default(),
                room: Arc::new(Semaphore::new(infer::ROOM)),
                lookups: Semaphore::new(LOOKUPS),
                collect: Notify::new(),
                collected: watch::Sender::new(0),
                followed: watch::Sender::new(cursor),
                host_base: host.base().to_owned(),
                running: Mutex::default(),
            });
            let snapshot = follow::snapshot(&inner).await?;
            let mut tasks = JoinSet::new();
            tasks.spawn(follow::follow(Arc::clone(&inner), cursor, snapshot));
            tasks.spawn(collect::collect(Arc::clone(&inner)));
            *inner.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running {
                host,
                tasks,
                writer,
            });
            Ok(Self { inner })
        }
        .boxed()
    }

    /// Stops the background work and the host, and returns when everything is on disk. Requests in flight may still end.
    pub fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            self.end(true).await;
        }
        .boxed()
    }

    /// Stops at once, as far as a crash can be imitated inside a process: what was not written stays unwritten.
    pub(crate) fn kill(&self) -> BoxFuture<'_, ()> {
        async move {
            self.end(false).await;
        }
        .boxed()
    }

    async fn end(&self, gracefully: bool) {
        let running = self
            .inner
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Running {
            host,
            mut tasks,
            writer,
        }) = running
        else {
            return;
        };
        tasks.shutdown().await;
        host.stop().await;
        if gracefully {
            let cursor = *self.inner.followed.borrow();
            follow::save_cursor(&self.inner, cursor).await;
        }
        self.inner.index.close();
        // A panic of the writer was logged as it happened.
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    }

    /// Resolves when the gateway has taken in the blocks up to `height`: names, workers and batches.
    pub async fn followed(&self, height: u64) {
        let mut followed = self.inner.followed.subscribe();
        // The sender lives in `self`, so this does not fail.
        let _ = followed.wait_for(|reached| *reached >= height).await;
    }

    /// What an offline verifier of this network's bundles has to trust.
    #[must_use]
    pub fn trusted_root(&self) -> &TrustedRoot {
        self.inner.ledger.trusted_root()
    }

    /// The ledger, as this gateway reaches it.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    /// The gateway's content store, which its host serves at `/blobs`.
    #[must_use]
    pub fn store(&self) -> &BlobStore {
        &self.inner.store
    }

    /// The base of the gateway's own host, from which workers of this machine fetch models.
    #[must_use]
    pub fn host_base(&self) -> &str {
        &self.inner.host_base
    }

    /// Routes that serve the content store: `GET|HEAD /blobs/{digest}` (with `Range`), `GET /blobs/{digest}/outline`.
    /// Mount them at the root of the API.
    pub fn host_routes(&self) -> axum::Router {
        host::routes(self.inner.store.clone())
    }

    /// All names on the ledger, sorted.
    ///
    /// # Errors
    /// None at present: the gateway follows the ledger and knows.
    pub async fn models(&self) -> Result<Vec<ModelEntry>, GatewayError> {
        let models = self
            .inner
            .models
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = |record: &ModelRecord| ModelEntry {
            name: record.name.clone(),
            root: record.root,
            author: record.owner,
        };
        Ok(models.values().map(entry).collect())
    }

    /// One model with its manifest.
    ///
    /// # Errors
    /// [`GatewayError::UnknownModel`], also if no host has its manifest.
    pub fn model<'a>(
        &'a self,
        model: &'a ModelRef,
    ) -> BoxFuture<'a, Result<ModelInfo, GatewayError>> {
        async move {
            let Resolved {
                name,
                root,
                manifest,
            } = self.inner.resolve(model).await?;
            Ok(ModelInfo {
                name,
                root,
                manifest: (*manifest).clone(),
            })
        }
        .boxed()
    }

    /// Takes a model into the content store, so that hosts and workers can serve it: checks the manifest, that each of
    /// its files is in the store with the stated size (upload them first with `store().put_*`), and that everything that
    /// it states follows from them. Idempotent.
    ///
    /// The name is registered by its author, with an ordinary transaction to the models module.
    ///
    /// # Errors
    /// [`GatewayError::Manifest`], [`GatewayError::MissingFile`], [`GatewayError::Refused`].
    pub fn publish<'a>(
        &'a self,
        manifest: &'a [u8],
    ) -> BoxFuture<'a, Result<Digest, GatewayError>> {
        async move {
            let bytes = manifest.to_vec();
            let manifest = Manifest::decode(&bytes)?;
            let (store, limit) = (self.inner.store.clone(), self.inner.config.max_model_bytes);
            blocking(move || {
                let present = |file: &lemma_types::manifest::File| {
                    store.size(&file.blake3) == Some(file.size)
                };
                if let Some(missing) = manifest.files.iter().find(|file| !present(file)) {
                    let (path, digest) = (missing.path.clone(), missing.blake3);
                    return Err(GatewayError::MissingFile { path, digest });
                }
                model::load_any(&manifest, &store, limit)
                    .map_err(|error: LoadError| GatewayError::Refused(error.to_string()))?;
                Ok(store.put_bytes(&bytes)?)
            })
            .await
        }
        .boxed()
    }

    /// Runs a model on a worker and checks the receipt before it returns.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn infer(&self, request: InferRequest) -> BoxFuture<'_, Result<Answer, InferError>> {
        async move { self.inner.infer(request).await }.boxed()
    }

    /// Lets a language model answer on a worker. Returns when the first of the answer is there, so that until then another
    /// worker could take over.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxFuture<'_, Result<Generation, InferError>> {
        async move { self.inner.generate(request).await }.boxed()
    }

    /// The receipt with this id and, once its batch is final, all that proves it.
    ///
    /// # Errors
    /// If no validator answers or the store fails.
    pub fn bundle(&self, receipt_id: B256) -> BoxFuture<'_, Result<BundleStatus, GatewayError>> {
        async move { self.inner.bundle(receipt_id).await }.boxed()
    }

    /// Waits until [`bundle`](Self::bundle) is final, at most `timeout`; then returns what it is.
    ///
    /// # Errors
    /// As [`bundle`](Self::bundle).
    pub fn wait_bundle(
        &self,
        receipt_id: B256,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<BundleStatus, GatewayError>> {
        async move {
            let deadline = Instant::now() + timeout;
            let mut heads = self.inner.ledger.heads();
            let mut collected = self.inner.collected.subscribe();
            loop {
                heads.mark_unchanged();
                collected.mark_unchanged();
                let status = self.bundle(receipt_id).await?;
                if !matches!(status, BundleStatus::Pending(_)) {
                    return Ok(status);
                }
                let news = async {
                    tokio::select! {
                        _ = heads.changed() => {}
                        _ = collected.changed() => {}
                    }
                };
                if tokio::time::timeout_at(deadline, news).await.is_err() {
                    return Ok(status);
                }
            }
        }
        .boxed()
    }

    /// Height, workers, models and receipts at a glance.
    ///
    /// # Errors
    /// If no validator answers.
    pub async fn status(&self) -> Result<GatewayStatus, GatewayError> {
        let head = self.inner.ledger.chain()?.head();
        Ok(GatewayStatus {
            chain_id: self.inner.ledger.chain_id(),
            height: head.number,
            block_time_ms: head.timestamp_ms,
            workers: self.inner.pool.status(),
            models: self
                .inner
                .models
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .len(),
            receipts_pending: self.inner.index.open_count(),
        })
    }

    /// Whether requests can be served: blocks finalise and a worker is available. `Err` says what is missing.
    ///
    /// # Errors
    /// A sentence for `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        let head = self
            .inner
            .ledger
            .chain()
            .map_err(|error| error.to_string())?
            .head();
        let age = self
            .inner
            .config
            .clock
            .now_ms()
            .saturating_sub(head.timestamp_ms);
        if u128::from(age) > self.inner.config.stale_after.as_millis() {
            return Err(format!(
                "no block was finalised for {} s: the ledger halts",
                age / 1000
            ));
        }
        let workers = self.inner.pool.status();
        if workers.is_empty() {
            return Err("no worker is registered on the ledger".to_owned());
        }
        if workers.iter().all(|worker| !worker.set_aside.is_zero()) {
            return Err("every worker failed lately".to_owned());
        }
        Ok(())
    }
}
