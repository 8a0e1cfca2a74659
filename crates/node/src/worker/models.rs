//! Models in memory: loaded once by content id, bounded together, the least recently used leaves first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use lemma_graph::Model;
use lemma_store::{BlobStore, FetchError, Fetcher, Source};
use lemma_types::{
    Address, Digest, Manifest, limits, manifest::ManifestError, upstream::UpstreamModel,
};
use tokio::sync::OnceCell;

use super::text::{EngineLimits, TextEngine};
use crate::{
    embedding::Embedder,
    metrics as names,
    model::{self, AnyModel, LoadError},
};

/// A model that can be run, with its manifest.
pub(crate) struct Loaded {
    pub(crate) manifest: Manifest,
    pub(crate) model: Runnable,
}

/// What runs a model.
pub(crate) enum Runnable {
    /// Tensors in, tensors out: runs on the thread of a request.
    Graph(Box<Model>),
    /// The same on integers; can be proved.
    Integer(Box<lemma_proof::Model>),
    /// Texts in, vectors out: runs on the thread of a request.
    Embedding(Box<Embedder>),
    /// Text in, text out: an engine that requests share.
    Language(TextEngine),
    /// Text in, text out: another server answers.
    Upstream(UpstreamModel),
}

/// Why a model can not be run here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("model {root}: {reason}")]
pub(crate) struct Unavailable {
    root: Digest,
    reason: String,
}

/// Loads models and keeps them.
pub(crate) struct Models {
    store: BlobStore,
    fetcher: Fetcher,
    hosts: Vec<Source>,
    /// Largest model, and bound on all that are kept, bytes in memory (of files, where these are about as long).
    max_bytes: u64,
    /// What the engine of each language model may use.
    engines: EngineLimits,
    /// The worker, for metrics.
    worker: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<Digest, Slot>,
    uses: u64,
}

struct Slot {
    /// Filled once, however many requests wait for it.
    cell: Arc<OnceCell<Arc<Loaded>>>,
    bytes: u64,
    last_use: u64,
}

impl Models {
    pub(crate) fn new(
        store: BlobStore,
        fetcher: Fetcher,
        hosts: Vec<Source>,
        max_bytes: u64,
        engines: EngineLimits,
        worker: Address,
    ) -> Self {
        let worker = worker.to_string();
        Self {
            store,
            fetcher,
            hosts,
            max_bytes,
            engines,
            worker,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model with this root: from memory, else from the store, else from a host.
    pub(crate) async fn get(&self, root: Digest) -> Result<Arc<Loaded>, Unavailable> {
        let cell = self.kept().touch(root);
        let loaded = cell.get_or_try_init(|| self.load(root)).await;
        match loaded {
            Ok(loaded) => {
                let bytes = match &loaded.model {
                    // A model that can be proved holds its commitment, several times its file.
                    Runnable::Integer(model) => model.memory(),
                    _ => model::total_bytes(&loaded.manifest),
                };
                self.keep(root, bytes);
                Ok(Arc::clone(loaded))
            }
            Err(reason) => {
                self.kept().forget_empty(root);
                Err(Unavailable { root, reason })
            }
        }
    }

    async fn load(&self, root: Digest) -> Result<Arc<Loaded>, String> {
        let manifest = self
            .manifest(root)
            .await
            .map_err(|error| error.to_string())?;
        let size = model::total_bytes(&manifest);
        if size > self.max_bytes {
            let limit = self.max_bytes;
            return Err(LoadError::TooLarge { size, limit }.to_string());
        }
        for file in &manifest.files {
            let fetched = self
                .fetcher
                .fetch(file.blake3, file.size, &self.hosts, &self.store, &|_| {})
                .await
                .map_err(|error| format!("file `{}`: {error}", file.path))?;
            metrics::counter!(names::BLOB_BYTES_FETCHED).increment(fetched.fetched);
        }
        let (store, limit, engines) = (self.store.clone(), self.max_bytes, self.engines);
        let loaded = tokio::task::spawn_blocking(move || {
            let model = match model::load_any(&manifest, &store, limit)? {
                AnyModel::Graph(model) => Runnable::Graph(model),
                AnyModel::Integer(model) => {
                    let size = model.memory();
                    if size > limit {
                        return Err(LoadError::TooLarge { size, limit }.into());
                    }
                    Runnable::Integer(model)
                }
                AnyModel::Embedding(model) => Runnable::Embedding(model),
                AnyModel::Upstream(model) => Runnable::Upstream(model),
                AnyModel::Language(language) => {
                    Runnable::Language(TextEngine::start(*language, engines)?)
                }
            };
            Ok::<_, Unloadable>(Loaded { manifest, model })
        });
        match loaded.await {
            Ok(Ok(loaded)) => {
                tracing::info!(model = %root.short(), bytes = size, "model loaded");
                Ok(Arc::new(loaded))
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("loading it was cancelled".to_owned()),
        }
    }

    async fn manifest(&self, root: Digest) -> Result<Manifest, ManifestUnavailable> {
        let fetched = self
            .fetcher
            .fetch_small(
                root,
                limits::MANIFEST_BYTES as u64,
                &self.hosts,
                &self.store,
            )
            .await?;
        Ok(Manifest::decode(&fetched)?)
    }

    /// Counts a model that has been loaded, and lets others go if all together are too large.
    fn keep(&self, root: Digest, bytes: u64) {
        let mut kept = self.kept();
        if let Some(slot) = kept.slots.get_mut(&root) {
            slot.bytes = bytes;
        }
        while kept.bytes() > self.max_bytes {
            let others = kept
                .slots
                .iter()
                .filter(|(other, slot)| **other != root && slot.bytes > 0);
            let Some(oldest) = others
                .min_by_key(|(_, slot)| slot.last_use)
                .map(|(root, _)| *root)
            else {
                break;
            };
            tracing::info!(model = %oldest.short(), "model leaves memory");
            kept.slots.remove(&oldest);
        }
        metrics::gauge!(names::MODEL_BYTES, "worker" => self.worker.clone())
            .set(kept.bytes() as f64);
    }
}

impl Kept {
    fn touch(&mut self, root: Digest) -> Arc<OnceCell<Arc<Loaded>>> {
        self.uses += 1;
        let uses = self.uses;
        let slot = self.slots.entry(root).or_insert_with(|| Slot {
            cell: Arc::default(),
            bytes: 0,
            last_use: 0,
        });
        slot.last_use = uses;
        Arc::clone(&slot.cell)
    }

    /// A root that can not be loaded leaves nothing behind.
    fn forget_empty(&mut self, root: Digest) {
        let empty = |slot: &Slot| !slot.cell.initialized() && Arc::strong_count(&slot.cell) <= 2;
        if self.slots.get(&root).is_some_and(empty) {
            self.slots.remove(&root);
        }
    }

    fn bytes(&self) -> u64 {
        self.slots.values().map(|slot| slot.bytes).sum()
    }
}

#[derive(Debug, thiserror::Error)]
enum Unloadable {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("its engine's thread can not be started: {0}")]
    Thread(#[from] std::io::Error),
}

#[derive(Debug, thiserror::Error)]
enum ManifestUnavailable {
    #[error("its manifest: {0}")]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

#[cfg(test)]
mod tests {
    use lemma_store::FetchConfig;

    use super::*;
    use crate::{host::Host, model::tests::samples};

    struct Fixture {
        _directory: tempfile::TempDir,
        host: Host,
        hosted: BlobStore,
        own: BlobStore,
        roots: [Digest; 2],
    }

    async fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let hosted = BlobStore::open(directory.path().join("host")).unwrap();
        let own = BlobStore::open(directory.path().join("own")).unwrap();
        let roots = samples(&hosted).map(|manifest| manifest.root());
        let host = Host::start(hosted.clone()).await.unwrap();
        Fixture {
            _directory: directory,
            host,
            hosted,
            own,
            roots,
        }
    }

    const ENGINES: EngineLimits = EngineLimits {
        threads: 1,
        queue: 8,
        cache_bytes: 1 << 20,
    };

    fn models(fixture: &Fixture, max_bytes: u64) -> Models {
        let hosts = vec![Source::host(fixture.host.base())];
        let fetcher = Fetcher::new(FetchConfig::default());
        Models::new(
            fixture.own.clone(),
            fetcher,
            hosts,
            max_bytes,
            ENGINES,
            Address::ZERO,
        )
    }

    #[tokio::test]
    async fn models_are_fetched_once_and_kept() {
        let fixture = fixture().await;
        let models = models(&fixture, 1 << 20);
        let [digits, iris] = fixture.roots;
        let loads = (0..8).map(|_| models.get(digits));
        let loaded: Vec<_> = futures::future::join_all(loads)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert!(loaded.iter().all(|one| Arc::ptr_eq(one, &loaded[0])));
        models.get(iris).await.unwrap();
        // What was fetched is here when the host is gone.
        let Fixture { host, own, .. } = fixture;
        host.stop().await;
        let alone = Models::new(
            own,
            Fetcher::new(FetchConfig::default()),
            vec![],
            1 << 20,
            ENGINES,
            Address::ZERO,
        );
        alone.get(digits).await.unwrap();
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_least_used_leaves() {
        let fixture = fixture().await;
        let [digits, iris] = fixture.roots;
        let probe = models(&fixture, 1 << 20);
        let bytes = model::total_bytes(&probe.get(digits).await.unwrap().manifest);
        // Room for digits, the larger one, alone.
        let models = models(&fixture, bytes);
        let first = models.get(digits).await.unwrap();
        models.get(iris).await.unwrap();
        assert!(models.kept().bytes() <= bytes);
        let again = models.get(digits).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &again), "it had left");
        assert_eq!(models.kept().slots.len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_what_it_claims_to_be_is_refused_and_leaves_nothing() {
        let fixture = fixture().await;
        let [digits, _] = fixture.roots;
        let bytes = fixture.hosted.read(&digits, 1 << 20).unwrap();
        let mut forged = Manifest::decode(&bytes).unwrap();
        forged.graph_root = Digest::of(b"other");
        let forged = fixture.hosted.put_bytes(&forged.encode()).unwrap();
        let garbage = fixture.hosted.put_bytes(b"{}").unwrap();
        let models = models(&fixture, 1 << 20);
        for (root, reason) in [
            (forged, "graph_root"),
            (garbage, "manifest"),
            (Digest::of(b"nowhere"), "does not have the blob"),
        ] {
            let error = models.get(root).await.err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(models.kept().slots.len(), 0);
    }
}
