use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use lemma_types::Digest;
use reqwest::Client;

use crate::{
    BlobStore, GROUP_BYTES, Outline, Source, SourceError, StoreError,
    blob_store::blocking,
    http,
    partial::{Partial, TransferLock, saved_outline},
    source::{fetch_group, fetch_outline, fetch_whole},
};

/// Bounds of a [`Fetcher`].
#[derive(Clone, Copy, Debug)]
pub struct FetchConfig {
    /// Largest blob that is fetched, bytes.
    pub max_bytes: u64,
    /// Requests in flight to one source.
    pub per_source: usize,
    /// Tries in a row that a source may fail before it is given up.
    pub tries: u32,
    /// How long a source may send nothing.
    pub idle: Duration,
    /// How long a connection may take.
    pub connect: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 30,
            per_source: 2,
            tries: 3,
            idle: Duration::from_secs(15),
            connect: Duration::from_secs(5),
        }
    }
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here and checked.
    pub done: u64,
    /// Size of the blob.
    pub total: u64,
}

/// What a transfer took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Bytes fetched and kept; zero if the blob was here already.
    pub fetched: u64,
    /// Sources that were given up, and why.
    pub dropped: Vec<(Source, SourceError)>,
}

/// Why a blob could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Larger than this fetcher accepts.
    #[error("blob {digest} has {size} bytes: at most {limit} are accepted")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its stated size.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The blob is in the store with another size than the one stated.
    #[error("blob {digest} has {actual} bytes, not {stated}")]
    Size {
        /// The blob.
        digest: Digest,
        /// The size that was stated.
        stated: u64,
        /// Its true size.
        actual: u64,
    },
    /// Every source was given up. What was fetched is kept for the next try.
    #[error("blob {digest} could not be fetched: {}", reasons(.dropped))]
    Sources {
        /// The blob.
        digest: Digest,
        /// Each source, and why it was given up.
        dropped: Vec<(Source, SourceError)>,
    },
    /// The store's error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<std::io::Error> for FetchError {
    fn from(error: std::io::Error) -> Self {
        Self::Store(error.into())
    }
}

fn reasons(dropped: &[(Source, SourceError)]) -> String {
    if dropped.is_empty() {
        return "no source is known".to_owned();
    }
    let reasons: Vec<_> = dropped
        .iter()
        .map(|(source, error)| format!("{source}: {error}"))
        .collect();
    reasons.join("; ")
}

/// Fetches blobs from many sources at once, checking each group before it is kept.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    config: FetchConfig,
}

impl Fetcher {
    /// A fetcher with a connection pool of its own.
    ///
    /// # Panics
    /// If the operating system offers no way to make an HTTP client.
    #[must_use]
    pub fn new(config: FetchConfig) -> Self {
        let client = http::client()
            .connect_timeout(config.connect)
            .redirect(reqwest::redirect::Policy::limited(3))
            .build()
            .expect("an HTTP client needs nothing that can be missing");
        Self { client, config }
    }

    /// Brings the blob of this digest and size into the store. Returns at once if it is there. An interrupted transfer
    /// goes on where it ended; dropping the future interrupts it. `progress` is called after each group.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(
        &self,
        digest: Digest,
        size: u64,
        sources: &[Source],
        store: &BlobStore,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<FetchReport, FetchError> {
        let limit = self.config.max_bytes;
        if size > limit {
            return Err(FetchError::TooLarge {
                digest,
                size,
                limit,
            });
        }
        if present(store, digest, size)? {
            return Ok(FetchReport::default());
        }
        let (in_store, lock) = blocking({
            let store = store.clone();
            move || {
                let lock = TransferLock::acquire(&store, &digest)?;
                Ok::<_, FetchError>((present(&store, digest, size)?, lock))
            }
        })
        .await?;
        if in_store {
            return Ok(FetchReport::default());
        }
        let mut live = Live::new(sources);
        let outline = self.outline(digest, size, &mut live, store).await?;
        let partial = blocking({
            let store = store.clone();
            move || Partial::resume(&store, outline, lock)
        })
        .await?;
        let transfer = Transfer::new(self, partial, live, progress);
        transfer.run().await
    }

    /// Brings a blob of unknown size, at most `limit` bytes and one group, into the store, and returns it.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch_small(
        &self,
        digest: Digest,
        limit: u64,
        sources: &[Source],
        store: &BlobStore,
    ) -> Result<Vec<u8>, FetchError> {
        let limit = limit.min(GROUP_BYTES).min(self.config.max_bytes);
        if store.contains(&digest) {
            let store = store.clone();
            return Ok(blocking(move || store.read(&digest, limit)).await?);
        }
        let mut live = Live::new(sources);
        for (index, source) in sources.iter().enumerate() {
            loop {
                let fetched =
                    fetch_whole(&self.client, source, digest, limit, self.config.idle).await;
                match fetched {
                    Ok(bytes) => {
                        let store = store.clone();
                        return Ok(blocking(move || store.put_bytes(&bytes).map(|_| bytes)).await?);
                    }
                    Err(error) => match live.fail(index, error, self.config.tries) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => break,
                    },
                }
            }
        }
        Err(FetchError::Sources {
            digest,
            dropped: live.dropped,
        })
    }

    /// The outline: derived for one group, saved by an earlier transfer, or from the first source that has it.
    async fn outline(
        &self,
        digest: Digest,
        size: u64,
        live: &mut Live,
        store: &BlobStore,
    ) -> Result<Outline, FetchError> {
        if size <= GROUP_BYTES {
            return Ok(Outline::of_one_group(digest, size));
        }
        if let Some(outline) = saved_outline(store, digest, size) {
            return Ok(outline);
        }
        let mut without = Vec::new();
        for index in 0..live.sources.len() {
            let source = live.sources[index].source.clone();
            loop {
                let fetched =
                    fetch_outline(&self.client, &source, digest, size, self.config.idle).await;
                match fetched {
                    Ok(outline) => return Ok(outline),
                    Err(error @ SourceError::NoOutline) => {
                        without.push((source, error));
                        break;
                    }
                    Err(error) => match live.fail(index, error, self.config.tries) {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => break,
                    },
                }
            }
        }
        let mut dropped = std::mem::take(&mut live.dropped);
        dropped.extend(without);
        Err(FetchError::Sources { digest, dropped })
    }
}

fn present(store: &BlobStore, digest: Digest, stated: u64) -> Result<bool, FetchError> {
    match store.size(&digest) {
        None => Ok(false),
        Some(actual) if actual == stated => Ok(true),
        Some(actual) => Err(FetchError::Size {
            digest,
            stated,
            actual,
        }),
    }
}

/// Sources and how they fare.
struct Live {
    sources: Vec<LiveSource>,
    dropped: Vec<(Source, SourceError)>,
}

struct LiveSource {
    source: Source,
    failures: u32,
    live: bool,
}

impl Live {
    fn new(sources: &[Source]) -> Self {
        let live = |source: &Source| LiveSource {
            source: source.clone(),
            failures: 0,
            live: true,
        };
        Self {
            sources: sources.iter().map(live).collect(),
            dropped: Vec::new(),
        }
    }

    /// Notes a failure. Returns how long to wait before the next try, or `None` if the source is given up.
    fn fail(&mut self, index: usize, error: SourceError, tries: u32) -> Option<Duration> {
        let state = &mut self.sources[index];
        state.failures += 1;
        if state.live && error.is_passing() && state.failures < tries {
            return Some(Duration::from_millis(50 << state.failures.min(6)));
        }
        if state.live {
            state.live = false;
            tracing::warn!(source = %state.source, %error, "source given up");
            self.dropped.push((state.source.clone(), error));
        }
        None
    }

    fn any(&self) -> bool {
        self.sources.iter().any(|state| state.live)
    }
}

/// One transfer: lanes take groups from a common queue until it is empty.
struct Transfer<'a> {
    fetcher: &'a Fetcher,
    partial: Arc<Partial>,
    progress: &'a (dyn Fn(Progress) + Sync),
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<u64>,
    live: Live,
    done: u64,
    fetched: u64,
    /// A disk error ends the transfer.
    broken: Option<FetchError>,
}

impl<'a> Transfer<'a> {
    fn new(
        fetcher: &'a Fetcher,
        partial: Partial,
        live: Live,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Self {
        let queue: VecDeque<u64> = partial.missing().into();
        let outline = partial.outline();
        let missing: u64 = queue
            .iter()
            .map(|group| outline.group_range(*group).1)
            .sum();
        let done = outline.size() - missing;
        let state = Mutex::new(State {
            queue,
            live,
            done,
            fetched: 0,
            broken: None,
        });
        Self {
            fetcher,
            partial: Arc::new(partial),
            progress,
            state,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn is_unfinished(&self) -> bool {
        let state = self.state();
        state.broken.is_none() && !state.queue.is_empty() && state.live.any()
    }

    async fn run(self) -> Result<FetchReport, FetchError> {
        // A lane ends when the queue is empty; a group that another lane gives back then starts another round.
        while self.is_unfinished() {
            let lanes = {
                let state = self.state();
                let live = state
                    .live
                    .sources
                    .iter()
                    .enumerate()
                    .filter(|(_, source)| source.live);
                live.flat_map(|(index, _)| {
                    std::iter::repeat_n(index, self.fetcher.config.per_source)
                })
                .collect::<Vec<_>>()
            };
            join_all(lanes.into_iter().map(|index| self.lane(index))).await;
        }
        let digest = self.partial.outline().digest();
        let state = self
            .state
            .into_inner()
            .expect("no holder of this lock panics");
        if let Some(error) = state.broken {
            return Err(error);
        }
        let dropped = state.live.dropped;
        if !state.queue.is_empty() {
            return Err(FetchError::Sources { digest, dropped });
        }
        let partial = Arc::into_inner(self.partial).expect("all lanes have ended");
        blocking(move || partial.complete()).await?;
        Ok(FetchReport {
            fetched: state.fetched,
            dropped,
        })
    }

    async fn lane(&self, index: usize) {
        while let Some((group, source)) = self.take(index) {
            match self.bring(group, &source).await {
                Ok(bytes) => self.note_kept(index, bytes),
                Err(Failure::Store(error)) => self.state().broken = Some(error),
                Err(Failure::Source(error)) => {
                    let pause = {
                        let mut state = self.state();
                        state.queue.push_front(group);
                        state.live.fail(index, error, self.fetcher.config.tries)
                    };
                    match pause {
                        Some(pause) => tokio::time::sleep(pause).await,
                        None => return,
                    }
                }
            }
        }
    }

    /// The next group for a source, as long as the transfer and the source are sound.
    fn take(&self, index: usize) -> Option<(u64, Source)> {
        let mut state = self.state();
        if state.broken.is_some() || !state.live.sources[index].live {
            return None;
        }
        let group = state.queue.pop_front()?;
        Some((group, state.live.sources[index].source.clone()))
    }

    /// Fetches, checks and keeps a group; returns its length.
    async fn bring(&self, group: u64, source: &Source) -> Result<u64, Failure> {
        let fetcher = self.fetcher;
        let outline = self.partial.outline();
        let bytes = fetch_group(&fetcher.client, source, outline, group, fetcher.config.idle)
            .await
            .map_err(Failure::Source)?;
        let length = bytes.len() as u64;
        let partial = Arc::clone(&self.partial);
        let kept = blocking(move || partial.keep(group, &bytes)).await;
        match kept {
            Ok(true) => Ok(length),
            Ok(false) => Err(Failure::Source(SourceError::WrongBytes(group))),
            Err(error) => Err(Failure::Store(error.into())),
        }
    }

    fn note_kept(&self, index: usize, bytes: u64) {
        let progress = {
            let mut state = self.state();
            state.live.sources[index].failures = 0;
            state.done += bytes;
            state.fetched += bytes;
            Progress {
                done: state.done,
                total: self.partial.outline().size(),
            }
        };
        (self.progress)(progress);
    }
}

enum Failure {
    Source(SourceError),
    Store(FetchError),
}
