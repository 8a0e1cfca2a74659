//! A validator over any of commonware's runtimes: sockets and files, or a simulation.
//!
//! The order in which the parts are made is the order in which they need each other; see [`start`].

use std::{
    num::{NonZeroU16, NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use commonware_broadcast::buffered;
use commonware_consensus::{
    Reporters,
    marshal::{
        self,
        core::{Actor as Marshal, Mailbox as MarshalMailbox},
        resolver::p2p as marshal_resolver,
        standard::{Deferred, Standard},
    },
    simplex::{
        self,
        config::{Floor, ForwardPolicy, SkipBudget, SkipPolicy},
    },
    types::{Epoch, FixedEpocher, ViewDelta},
};
use commonware_cryptography::{Digested, Digestible as _, certificate::ConstantProvider};
use commonware_glue::stateful::{
    self, PruneConfig, Stateful, SyncPlan,
    db::{SyncEngineConfig, p2p as state_sync},
};
use commonware_p2p::{Blocker, Provider, Receiver, Sender, max_message_size as largest};
use commonware_parallel::Sequential;
use commonware_runtime::{Handle, Quota, buffer::paged::CacheRef};
use commonware_storage::{
    archive::prunable,
    journal::contiguous::fixed::Config as LogConfig,
    mmr::{self, full::Config as MmrConfig},
    qmdb::{any::unordered::fixed::Operation, current::FixedConfig},
    translator::{EightCap, TwoCap},
};
use commonware_utils::{NZDuration, NZU16, NZU32, NZU64, NZUsize};
use lemma_ledger::Genesis;
use lemma_types::Address;
use rand_core::CryptoRng;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::database::Runtime;
use crate::{
    application::{Application, Parts},
    block::Block,
    config::{Pace, StartError, TIMEOUT_RETRY},
    core::{Core, Head},
    database::{Database, Value, empty_target},
    gossip,
    handle::ChainHandle,
    index::{ExecutedBlock, Index},
    keys::ValidatorKeys,
    mempool::{Mempool, PoolLimits},
    mesh::{Mesh, PATIENCE, quorum_besides_me},
    on_demand::OnDemand,
    scheme::{Digest, PublicKey, Scheme, elector},
    seeds::Seeds,
    service, wire,
};

/// Number of p2p channels: votes, certificates, certificate resolver, block resolver, block broadcast, state sync,
/// transactions.
pub const CHANNELS: u64 = 7;

/// Messages a second on each channel from each peer. Every channel keeps room for a burst from every peer, so that the
/// burst decides how much memory a validator needs.
#[must_use]
pub fn quota() -> Quota {
    Quota::per_second(NZU32!(2_048)).allow_burst(NZU32!(64))
}

/// Operations of the state database in one message of state sync.
const SYNC_OPERATIONS: NonZeroU64 = NZU64!(256);
/// Requests that may wait for a validator's own runtime, and transactions that may wait for gossip.
const QUEUE: usize = 256;
const MAILBOX: NonZeroUsize = NZUsize!(128);
const BUFFER: NonZeroUsize = NZUsize!(64 << 10);
const PAGE: NonZeroU16 = NZU16!(4_096);
const PAGES: NonZeroUsize = NZUsize!(256);
/// Rounds before the last final one of which votes are kept.
const VIEWS_KEPT: ViewDelta = ViewDelta::new(64);
/// Items in a section or blob. Part of the format on disk: it can not be changed later.
const SECTION: NonZeroU64 = NZU64!(1_024);
const LOG_BLOB: NonZeroU64 = NZU64!(1 << 16);
/// Final blocks that are kept for validators that were away. One that was away for longer needs state sync.
const BLOCKS_KEPT: usize = 1 << 15;

/// What a validator is made of, apart from runtime and network.
pub struct Setup {
    /// Its keys.
    pub keys: ValidatorKeys,
    /// What the network starts from.
    pub genesis: Genesis,
    /// Gets the priority fees of the blocks that it proposes.
    pub beneficiary: Address,
    /// The pace of consensus.
    pub pace: Pace,
    /// Bounds of its mempool.
    pub pool: PoolLimits,
    /// Where its history goes.
    pub index: Arc<dyn Index>,
    /// Begins the names of its storage partitions, so that several validators can share a storage.
    pub partition: String,
}

/// A validator that was started.
pub struct Running {
    /// Asks it.
    pub handle: ChainHandle,
    /// Resolves when it can answer.
    pub ready: oneshot::Receiver<()>,
    consensus: Handle<()>,
    /// What else is to end in order; see [`Running::stop`].
    others: [Handle<()>; 3],
}

impl Running {
    /// Resolves if consensus fails; its log says why. Otherwise consensus ends with the validator only.
    pub async fn failed(&mut self) {
        let _ = (&mut self.consensus).await;
    }

    /// Ends the validator in order: whoever relies on another part ends before it. What is left, blocks and network,
    /// ends with the context that the validator was started with.
    ///
    /// Nothing is lost by not waiting for what is under way: everything final is durable, and so is every vote that was
    /// sent.
    pub async fn stop(self) {
        for part in [self.consensus].into_iter().chain(self.others) {
            part.abort();
            // An error says that it was aborted.
            let _ = part.await;
        }
    }
}

/// The genesis block of a network: what its blocks descend from.
#[must_use]
pub fn genesis_block<E: Runtime>(genesis: &Genesis) -> Block {
    Block::genesis(genesis, empty_target::<E>())
}

/// The largest message of a network of so many validators.
#[must_use]
pub fn max_message_size(validators: u32) -> u32 {
    let operation = <Operation<mmr::Family, Digest, Value> as commonware_codec::FixedSize>::SIZE;
    largest(&[
        simplex::max_payload_size::<Scheme, Digest>(validators),
        marshal::max_payload_size::<Standard<Block>, Scheme>(validators, &()),
        state_sync::max_payload_size::<mmr::Family, Digest>(SYNC_OPERATIONS, operation),
        wire::MAX_MESSAGE,
    ])
}

/// Starts a validator: all tasks are children of `context`, and end with it.
///
/// `channels` are [`CHANNELS`] pairs, registered in this order by every validator.
///
/// # Errors
/// [`StartError::Genesis`], [`StartError::Share`], [`StartError::Pace`].
///
/// # Panics
/// If there are fewer channels, or the stored state can not be read.
pub async fn start<E, P, B, S, R>(
    context: E,
    setup: Setup,
    peers: P,
    blocker: B,
    channels: Vec<(S, R)>,
) -> Result<Running, StartError>
where
    E: Runtime + CryptoRng,
    P: Provider<PublicKey = PublicKey> + Sync,
    B: Blocker<PublicKey = PublicKey> + Sync,
    S: Sender<PublicKey = PublicKey> + Sync,
    R: Receiver<PublicKey = PublicKey> + Sync,
{
    let [
        votes,
        certificates,
        resolver,
        backfill,
        broadcast,
        sync,
        transactions,
    ] = <[_; CHANNELS as usize]>::try_from(channels)
        .unwrap_or_else(|_| panic!("{CHANNELS} channels"));
    setup.genesis.validate()?;
    setup.pace.check()?;
    let scheme = setup
        .keys
        .scheme(setup.genesis.chain_id)
        .ok_or(StartError::Share)?;
    let me = setup.keys.public_key();
    let genesis = genesis_block::<E>(&setup.genesis);
    let storage = Files::new(&setup.partition);

    let block_resolver = marshal_resolver::init(
        context.child("block_resolver"),
        marshal_resolver::Config {
            public_key: me.clone(),
            peer_provider: peers.clone(),
            blocker: blocker.clone(),
            mailbox_size: MAILBOX,
            fetch_timeout: NZDuration!(Duration::from_secs(1)),
            fetch_retry_delay: Duration::from_millis(100),
            priority_requests: false,
            priority_responses: false,
        },
        backfill,
    );
    let (engine, buffer) = buffered::Engine::new(
        context.child("broadcast"),
        buffered::Config {
            public_key: me.clone(),
            mailbox_size: MAILBOX,
            deque_size: 8,
            priority: false,
            codec_config: (),
            peer_provider: peers.clone(),
            strategy: Sequential,
        },
    );
    engine.start(broadcast);

    let plan = SyncPlan::init(context.child("sync_plan"), setup.partition.clone()).await;
    let finalizations = prunable::Archive::init(
        context.child("finalizations"),
        storage.archive("finalizations"),
    );
    let blocks = prunable::Archive::init(context.child("blocks"), storage.archive("blocks"));
    let epocher = FixedEpocher::new(NonZeroU64::MAX);
    let (marshal_actor, marshal, floor) = Marshal::<_, Standard<Block>, _, _, _, _, _>::init(
        context.child("marshal"),
        finalizations
            .await
            .expect("stored finalizations can not be read"),
        blocks.await.expect("stored blocks can not be read"),
        marshal::Config {
            provider: ConstantProvider::new(scheme.clone()),
            epocher: epocher.clone(),
            start: plan.marshal_start(Digested::precomputed(genesis.clone(), genesis.digest())),
            partition_prefix: storage.name("marshal"),
            mailbox_size: MAILBOX,
            view_retention: VIEWS_KEPT,
            prunable_items_per_section: SECTION,
            page_cache: storage.pages.clone(),
            replay_buffer: BUFFER,
            key_write_buffer: BUFFER,
            value_write_buffer: BUFFER,
            block_codec_config: (),
            max_repair: NZUsize!(16),
            max_pending_acks: NZUsize!(8),
            strategy: Sequential,
        },
    )
    .await;

    let (sync_actor, sync_mailbox) =
        state_sync::Actor::<_, PublicKey, _, _, mmr::Family, Database<E>>::new(
            context.child("state_sync"),
            state_sync::Config {
                peer_provider: peers,
                blocker: blocker.clone(),
                database: None,
                mailbox_size: MAILBOX,
                me: Some(me),
                fetch_timeout: NZDuration!(Duration::from_secs(2)),
                fetch_retry_delay: Duration::from_millis(100),
                max_serve_ops: SYNC_OPERATIONS,
                priority_requests: false,
                priority_responses: false,
            },
        );
    sync_actor.start(sync);

    let seeds = Seeds::default();
    let Wired {
        core,
        requests,
        local,
    } = setup.wire(genesis.clone());
    let application =
        setup.application(core.clone(), scheme.clone(), seeds.clone(), marshal.clone());
    let (state_actor, state) = Stateful::new(
        context.child("state"),
        stateful::Config {
            application,
            db_config: storage.database(),
            provider: (),
            marshal: (marshal.clone(), floor),
            mailbox_size: MAILBOX,
            plan,
            resolvers: sync_mailbox,
            sync_config: SyncEngineConfig {
                fetch_batch_size: SYNC_OPERATIONS,
                apply_batch_size: NZU64!(1_024),
                max_outstanding_requests: NZUsize!(4),
            },
            prune_config: Some(PruneConfig {
                maintenance_interval: NZUsize!(64),
                retained_marshal_blocks: BLOCKS_KEPT,
                retained_qmdb_blocks: 64,
            }),
            strategy: Sequential,
        },
    );
    let on_demand = OnDemand {
        inner: state.clone(),
        core: core.clone(),
        seeds: seeds.clone(),
        heartbeat: setup.pace.heartbeat,
    };
    marshal_actor.start(state.clone(), buffer, block_resolver);
    let state_keeper = state_actor.start();

    let (ready_sender, ready) = oneshot::channel();
    let serving = core.clone();
    let service = context.child("service").spawn(move |context| {
        service::run(context, serving, state, requests, move || {
            // Whoever started the validator may be gone.
            let _ = ready_sender.send(());
        })
    });
    let mesh = Mesh::new(quorum_besides_me(setup.keys.participants.len()));
    let mut stands = mesh.watch();
    let gossiping = core.clone();
    let gossip = context
        .child("gossip")
        .spawn(move |context| gossip::run(context, gossiping, local, mesh, transactions));

    let pace = setup.pace;
    // One task with all of its children, votes under way included, so that it can end before what it relies on.
    let consensus = context.child("consensus").spawn(move |context| async move {
        tokio::select! {
            biased;
            _ = stands.wait_for(|stands| *stands) => {}
            () = context.sleep(PATIENCE) => {}
        }
        let deferred = Deferred::new(context.child("deferred"), on_demand, marshal, epocher);
        let config = simplex::Config {
            scheme,
            elector: elector(),
            blocker,
            automaton: deferred.clone(),
            relay: deferred.clone(),
            reporter: Reporters::from((seeds, deferred)),
            strategy: Sequential,
            partition: storage.name("simplex"),
            mailbox_size: MAILBOX,
            epoch: Epoch::zero(),
            floor: Floor::Genesis(genesis.digest()),
            replay_buffer: BUFFER,
            write_buffer: BUFFER,
            page_cache: storage.pages,
            leader_timeout: pace.leader_timeout,
            certification_timeout: pace.certification_timeout,
            timeout_retry: TIMEOUT_RETRY,
            view_retention: VIEWS_KEPT,
            skip: SkipPolicy::Enabled {
                timeout: pace.skip_timeout,
                budget: SkipBudget::Participants,
            },
            fetch_timeout: NZDuration!(Duration::from_secs(1)),
            fetch_retry_delay: Duration::from_millis(200),
            forward: ForwardPolicy::Disabled,
            track_historical_votes: false,
        };
        let engine = simplex::Engine::new(context.child("simplex"), config);
        // Ends with the runtime, or if consensus fails; why is in its log.
        let _ = engine.start(votes, certificates, resolver).await;
    });
    Ok(Running {
        handle: ChainHandle(core),
        ready,
        consensus,
        others: [service, gossip, state_keeper],
    })
}

/// The shared part, and the ends of its queues.
struct Wired {
    core: Arc<Core>,
    requests: mpsc::Receiver<crate::core::Request>,
    local: mpsc::Receiver<Arc<lemma_ledger::Transaction>>,
}

impl Setup {
    fn wire(&self, genesis_block: Block) -> Wired {
        let genesis = Arc::new(self.genesis.clone());
        let genesis_block = Arc::new(ExecutedBlock {
            block: genesis_block,
            receipts: Vec::new(),
        });
        let (request_sender, requests) = mpsc::channel(QUEUE);
        let (local_sender, local) = mpsc::channel(QUEUE);
        let core = Arc::new(Core {
            head: watch::Sender::new(Head::of(&genesis, &genesis_block)),
            genesis,
            genesis_block,
            network_key: self.keys.network_key(),
            pool: Mempool::new(self.pool),
            index: self.index.clone(),
            requests: request_sender,
            local: local_sender,
        });
        Wired {
            core,
            requests,
            local,
        }
    }

    fn application(
        &self,
        core: Arc<Core>,
        scheme: Scheme,
        seeds: Seeds,
        marshal: MarshalMailbox<Scheme, Standard<Block>>,
    ) -> Application {
        Application::new(Parts {
            core,
            scheme,
            signer: self.keys.signer.clone(),
            beneficiary: self.beneficiary,
            seeds,
            marshal,
            executed: Default::default(),
        })
    }
}

/// Names and settings of what is stored.
struct Files {
    prefix: String,
    pages: CacheRef,
}

impl Files {
    fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            pages: CacheRef::new(PAGE, PAGES),
        }
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    fn archive(&self, part: &str) -> prunable::Config<TwoCap, ()> {
        prunable::Config {
            translator: TwoCap,
            metadata_partition: self.name(&format!("{part}-meta")),
            key_partition: self.name(&format!("{part}-key")),
            key_page_cache: self.pages.clone(),
            value_partition: self.name(&format!("{part}-value")),
            compression: None,
            codec_config: (),
            items_per_section: SECTION,
            key_write_buffer: BUFFER,
            value_write_buffer: BUFFER,
            replay_buffer: BUFFER,
        }
    }

    fn database(&self) -> FixedConfig<EightCap, Sequential> {
        FixedConfig {
            merkle_config: MmrConfig {
                journal_partition: self.name("mmr"),
                metadata_partition: self.name("mmr-meta"),
                items_per_blob: LOG_BLOB,
                write_buffer: BUFFER,
                replay_buffer: BUFFER,
                strategy: Sequential,
                page_cache: self.pages.clone(),
            },
            journal_config: LogConfig {
                partition: self.name("log"),
                items_per_blob: LOG_BLOB,
                page_cache: self.pages.clone(),
                write_buffer: BUFFER,
                replay_buffer: BUFFER,
            },
            grafted_metadata_partition: self.name("grafted"),
            translator: EightCap,
            init_cache: Some(NZUsize!(1_024)),
            init_buffer: NZUsize!(256 << 10),
            init_concurrency: (),
        }
    }
}
