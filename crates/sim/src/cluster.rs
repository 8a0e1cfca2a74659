//! Four validators and the links between them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use commonware_p2p::simulated::{Config, Link, Network, Oracle};
use commonware_runtime::{
    Clock as _, Handle, Metrics as _, Spawner as _, Supervisor as _, deterministic::Context,
};
use commonware_utils::{NZUsize, TestRng, channel::oneshot, probability};
use lemma_chain::{
    ChainHandle, MemoryIndex, Pace, PoolLimits, ValidatorKeys,
    scheme::PublicKey,
    validator::{CHANNELS, Setup, max_message_size, quota, start},
};
use lemma_ledger::Genesis;
use lemma_types::{Address, U256};

use crate::liar::{Liar, Lie, Mouth, Told};

/// Validators.
pub(crate) const VALIDATORS: usize = 4;
/// A leader without transactions proposes an empty block after this time.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// Chain id of simulated networks.
pub(crate) const CHAIN_ID: u64 = 31_337;

/// What outlives a crash of everything, besides the runtime's storage: keys, and the indices, which are durable before
/// a block is acknowledged.
#[derive(Clone)]
pub(crate) struct Durable {
    keys: Vec<ValidatorKeys>,
    indices: Vec<MemoryIndex>,
    pub(crate) genesis: Genesis,
}

impl Durable {
    /// A new network whose genesis pays to these accounts.
    pub(crate) fn new(seed: u64, alloc: BTreeMap<Address, U256>) -> Self {
        let keys = ValidatorKeys::deal_with(VALIDATORS, &mut TestRng::new(seed));
        Self {
            keys: keys.expect("four validators are a network"),
            indices: (0..VALIDATORS).map(|_| MemoryIndex::default()).collect(),
            genesis: Genesis::development(CHAIN_ID, 0, alloc),
        }
    }

    /// Gets the fees of the blocks that a validator proposes.
    pub(crate) fn beneficiary(index: usize) -> Address {
        Address::with_last_byte(u8::try_from(index).unwrap_or(u8::MAX).saturating_add(0xf0))
    }
}

/// The running network.
pub(crate) struct Cluster {
    context: Context,
    oracle: Oracle<PublicKey, Context>,
    durable: Durable,
    validators: Vec<Validator>,
    boots: u64,
    liar: Option<(usize, Lie)>,
    /// What the liar has told.
    pub(crate) told: Told,
}

#[derive(Default)]
struct Validator {
    task: Option<Handle<()>>,
    stop: Option<oneshot::Sender<()>>,
    handle: Arc<Mutex<Option<ChainHandle>>>,
}

/// 20 ms and back, and three of a hundred messages get lost.
fn link() -> Link {
    Link {
        latency: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        success_rate: probability!(0.97),
    }
}

impl Cluster {
    /// Starts all validators, linked with each other.
    pub(crate) async fn start(context: &Context, durable: Durable) -> Self {
        Self::start_with(context, durable, None).await
    }

    /// Starts all validators, of which one may lie.
    pub(crate) async fn start_with(
        context: &Context,
        durable: Durable,
        liar: Option<(usize, Lie)>,
    ) -> Self {
        let names: Vec<_> = durable.keys.iter().map(ValidatorKeys::public_key).collect();
        let config = Config {
            max_size: max_message_size(VALIDATORS as u32),
            max_peers_per_set: NZUsize!(VALIDATORS),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(3),
        };
        let (network, oracle) =
            Network::new_with_peers(context.child("network"), config, names).await;
        network.start();
        let mut cluster = Self {
            context: context.child("cluster"),
            oracle,
            durable,
            validators: (0..VALIDATORS).map(|_| Validator::default()).collect(),
            boots: 0,
            liar,
            told: Told::default(),
        };
        for index in 0..VALIDATORS {
            cluster.heal(index).await;
        }
        for index in 0..VALIDATORS {
            cluster.boot(index);
        }
        cluster
    }

    /// Starts a validator that is down.
    pub(crate) fn boot(&mut self, index: usize) {
        self.boots += 1;
        let durable = &self.durable;
        let setup = Setup {
            keys: durable.keys[index].clone(),
            genesis: durable.genesis.clone(),
            beneficiary: Durable::beneficiary(index),
            pace: Pace::with_heartbeat(HEARTBEAT),
            pool: PoolLimits::default(),
            index: Arc::new(durable.indices[index].clone()),
            partition: format!("validator-{index}"),
        };
        let lie = self.liar.filter(|(liar, _)| *liar == index);
        let lie = lie.map(|(_, lie)| (setup.keys.clone(), lie, self.told.clone()));
        let slot = Arc::new(Mutex::new(None));
        let (stop, stopping) = oneshot::channel();
        let (filled, oracle, name) = (slot.clone(), self.oracle.clone(), setup.keys.public_key());
        // Names of tasks are unique: a restarted validator is another task.
        let context = self
            .context
            .child("validator")
            .with_attribute("boot", self.boots);
        let task = context.spawn(move |context| async move {
            let control = oracle.control(name);
            let mut channels = Vec::new();
            for channel in 0..CHANNELS {
                channels.push(
                    control
                        .register(channel, quota())
                        .await
                        .expect("the validator is a peer"),
                );
            }
            let liar =
                lie.map(|(keys, lie, told)| Liar::new(keys, lie, told, channels[0].0.clone()));
            let channels = (0..CHANNELS)
                .zip(channels)
                .map(|(channel, (sender, receiver))| {
                    (Mouth::new(sender, channel, liar.as_ref()), receiver)
                })
                .collect();
            let running = start(context, setup, oracle.manager(), control, channels).await;
            let mut running = running.expect("the setup is valid");
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(running.handle.clone());
            tokio::select! {
                biased;
                () = running.failed() => panic!("consensus has ended"),
                Ok(()) = stopping => running.stop().await,
            }
        });
        self.validators[index] = Validator {
            task: Some(task),
            stop: Some(stop),
            handle: slot,
        };
    }

    /// Ends all validators in order, at once.
    pub(crate) async fn stop(&mut self) {
        let mut ending = Vec::new();
        for validator in &mut self.validators {
            let Validator { task, stop, .. } = std::mem::take(validator);
            // One that has ended already needs no word.
            let _ = stop.map(|stop| stop.send(()));
            ending.extend(task);
        }
        for task in ending {
            task.await.expect("a validator ends in order");
        }
    }

    /// Messages about transactions that a validator has sent.
    pub(crate) fn gossip(&self, index: usize) -> u64 {
        let origin = format!("origin=\"{}\"", self.durable.keys[index].public_key());
        let channel = format!("channel=\"{}\"", CHANNELS - 1);
        self.metric(&["messages_sent_total{", &origin, &channel])
    }

    /// Whether no transaction waits anywhere.
    pub(crate) fn is_idle(&self) -> bool {
        (0..VALIDATORS)
            .filter_map(|index| self.handle(index))
            .all(|handle| handle.pool().is_empty())
    }

    /// Whether any validator is checking a block.
    pub(crate) fn checks(&self) -> bool {
        self.metric(&["tasks_running{", "deferred_verify\""]) > 0
    }

    /// The sum of the runtime's metrics with these words in their names and labels.
    fn metric(&self, words: &[&str]) -> u64 {
        let metrics = self.context.encode();
        let counted = metrics
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        counted
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Ends a validator without warning: what it has not written is gone.
    pub(crate) fn abort(&mut self, index: usize) {
        let validator = std::mem::take(&mut self.validators[index]);
        if let Some(task) = validator.task {
            task.abort();
        }
    }

    /// Cuts a validator off from all others.
    pub(crate) async fn cut(&self, index: usize) {
        for (from, to) in self.links(index) {
            // A link that is cut already stays cut.
            let _ = self.oracle.remove_link(from, to).await;
        }
    }

    /// Links a validator with all others.
    pub(crate) async fn heal(&self, index: usize) {
        for (from, to) in self.links(index) {
            // A link that stands already stays.
            let _ = self.oracle.add_link(from, to, link()).await;
        }
    }

    fn links(&self, index: usize) -> Vec<(PublicKey, PublicKey)> {
        let name = |index: usize| self.durable.keys[index].public_key();
        (0..VALIDATORS)
            .filter(|other| *other != index)
            .flat_map(|other| [(name(index), name(other)), (name(other), name(index))])
            .collect()
    }

    /// A validator's handle; `None` while it is down or starting.
    pub(crate) fn handle(&self, index: usize) -> Option<ChainHandle> {
        self.validators[index]
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Each validator's height; 0 if it is down.
    pub(crate) fn heights(&self) -> Vec<u64> {
        (0..VALIDATORS)
            .map(|index| self.handle(index).map_or(0, |handle| handle.head().number))
            .collect()
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.context.sleep(time).await;
    }
}
