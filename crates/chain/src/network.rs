//! A validator on sockets and files: one commonware runtime on one thread, with a directory of its own.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::Duration,
};

use commonware_cryptography::{ChaCha20Poly1305, ed25519};
use commonware_p2p::{Address, AddressableManager as _, authenticated::lookup};
use commonware_runtime::{Quota, Runner as _, Supervisor as _, tokio as sockets};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{NZU32, NZUsize, TryCollect as _, ordered::Map, sys_rng};
use lemma_types::consensus_namespace;
use rand_core::Rng as _;
use tokio::sync::oneshot;

use crate::{
    config::{StartError, ValidatorConfig},
    handle::ChainHandle,
    index::{DiskIndex, Index},
    keys::{KeyError, ValidatorId},
    scheme::PublicKey,
    validator::{self, CHANNELS, Running, Setup, genesis_block, max_message_size, quota},
};

/// The block index in a validator's directory.
const INDEX_FILE: &str = "index.redb";
/// What consensus stores in a validator's directory.
const CONSENSUS_DIRECTORY: &str = "consensus";
/// Stack of a validator's thread, bytes: consensus is made of large futures, above all in builds without optimisation.
const STACK: usize = 16 << 20;
/// Ports that Linux and others do not give to outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

type Handshake = Cups<Sake<ed25519::PrivateKey>, ChaCha20Poly1305>;

/// How a validator is to end.
enum End {
    Gracefully,
    AtOnce,
}

/// A running validator. Dropping it ends it gracefully.
pub struct Validator {
    handle: ChainHandle,
    end: Option<oneshot::Sender<End>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Validator {
    /// Starts a validator on a thread of its own. Blocks until it can answer, which takes a moment; it need not have
    /// met another validator by then.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn spawn(config: ValidatorConfig) -> Result<Self, StartError> {
        config.genesis.validate()?;
        config.pace.check()?;
        let addresses = addresses(&config)?;
        let directory_error = |error| StartError::Directory {
            path: config.data_dir.clone(),
            error,
        };
        fs::create_dir_all(&config.data_dir).map_err(directory_error)?;
        check_listen(config.listen)?;
        let genesis = genesis_block::<sockets::Context>(&config.genesis);
        let index = DiskIndex::open(&config.data_dir.join(INDEX_FILE), genesis.hash())?;
        let (started, starting) = oneshot::channel();
        let (end, ending) = oneshot::channel();
        let data_dir = config.data_dir.clone();
        let thread = thread::Builder::new()
            .name("validator".to_owned())
            .stack_size(STACK)
            .spawn(move || run(config, addresses, Arc::new(index), started, ending))
            .map_err(|error| StartError::Directory {
                path: data_dir,
                error,
            })?;
        match wait(starting) {
            Some(Ok(handle)) => Ok(Self {
                handle,
                end: Some(end),
                thread: Some(thread),
            }),
            Some(Err(error)) => Err(error),
            None => Err(StartError::Died),
        }
    }

    /// Asks the validator.
    #[must_use]
    pub fn handle(&self) -> &ChainHandle {
        &self.handle
    }

    /// Ends it gracefully, and returns when it has ended.
    pub fn stop(mut self) {
        self.end(End::Gracefully);
    }

    /// Ends it as a crash would, without a word to anybody, and returns when it has ended.
    pub fn kill(mut self) {
        self.end(End::AtOnce);
    }

    fn end(&mut self, how: End) {
        if let Some(end) = self.end.take() {
            // If it has ended already, nobody listens.
            let _ = end.send(how);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a validator has failed; its panic says why");
        }
    }
}

impl Drop for Validator {
    fn drop(&mut self) {
        self.end(End::Gracefully);
    }
}

/// Waits on a thread that may or may not belong to a runtime.
fn wait<T>(receiver: oneshot::Receiver<T>) -> Option<T> {
    futures::executor::block_on(receiver).ok()
}

/// The validator's thread.
fn run(
    config: ValidatorConfig,
    addresses: Map<PublicKey, Address>,
    index: Arc<DiskIndex>,
    started: oneshot::Sender<Result<ChainHandle, StartError>>,
    ending: oneshot::Receiver<End>,
) {
    let runtime = sockets::Config::new()
        .with_storage_directory(config.data_dir.join(CONSENSUS_DIRECTORY))
        .with_worker_threads(1)
        .with_max_blocking_threads(8)
        .with_tcp_nodelay(Some(true));
    let closing = Closing(index.clone());
    sockets::Runner::new(runtime).start(|context| async move {
        match Box::pin(connect(&context, config, addresses, index)).await {
            Ok(mut running) => {
                // Without a service nobody can be told; the caller sees the channel closed.
                if (&mut running.ready).await.is_ok() {
                    let _ = started.send(Ok(running.handle.clone()));
                }
                tokio::select! {
                    () = running.failed() => tracing::error!("consensus has ended"),
                    how = ending => if !matches!(how, Ok(End::AtOnce)) {
                        running.stop().await;
                    },
                }
                // The runtime ends whatever is left.
            }
            Err(error) => drop(started.send(Err(error))),
        }
    });
    drop(closing);
}

/// Closes the index when the thread ends, however it does: handles live longer.
struct Closing(Arc<DiskIndex>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn connect(
    context: &sockets::Context,
    config: ValidatorConfig,
    addresses: Map<PublicKey, Address>,
    index: Arc<dyn Index>,
) -> Result<Running, StartError> {
    let (mut network, mut oracle) = lookup::Network::new(
        context.child("network"),
        network_config(&config, addresses.len()),
    );
    oracle.track(0, addresses);
    let channels = (0..CHANNELS)
        .map(|channel| network.register(channel, quota()))
        .collect();
    network.start();
    let setup = Setup {
        keys: config.keys,
        genesis: config.genesis,
        beneficiary: config.beneficiary,
        pace: config.pace,
        pool: config.pool,
        index,
        partition: "validator".to_owned(),
    };
    validator::start(
        context.child("validator"),
        setup,
        oracle.clone(),
        oracle,
        channels,
    )
    .await
}

/// Dials eagerly, so that the mesh stands soon after start: the network is small and everybody in it is known.
fn network_config(config: &ValidatorConfig, validators: usize) -> lookup::Config<Handshake> {
    let handshake = Cups::new(
        Sake {
            signer: config.keys.signer.clone(),
            synchrony_bound: Duration::from_secs(5),
            max_handshake_age: Duration::from_secs(10),
            version: sake::Version::V1,
        },
        cups::Version::V1,
    );
    let namespace = [
        consensus_namespace(config.genesis.chain_id),
        b"/p2p".to_vec(),
    ]
    .concat();
    let mut network = lookup::Config::local(
        handshake,
        &namespace,
        config.listen,
        NonZeroUsize::new(validators).unwrap_or(NonZeroUsize::MIN),
        max_message_size(u32::try_from(validators).unwrap_or(u32::MAX)),
        NZUsize!(128),
    );
    network.dial_frequency = Duration::from_millis(50);
    network.peer_connection_cooldown = Duration::from_millis(250);
    network.allowed_handshake_rate_per_ip = Quota::per_second(NZU32!(128));
    network.allowed_handshake_rate_per_subnet = Quota::per_second(NZU32!(256));
    network.tracked_peer_sets = NZUsize!(1);
    network.block_duration = Duration::from_secs(60);
    network
}

/// The peers' addresses, for all validators of the keys.
fn addresses(config: &ValidatorConfig) -> Result<Map<PublicKey, Address>, StartError> {
    let me = config.keys.id();
    config
        .keys
        .participants()
        .into_iter()
        .map(|id| {
            let peer = config
                .peers
                .iter()
                .find(|peer| peer.id == id)
                .map(|peer| peer.address);
            let address = peer.or((id == me).then_some(config.listen));
            let address = address.ok_or(StartError::MissingPeer(id))?;
            Ok((id.key()?, Address::from(address)))
        })
        .collect::<Result<Vec<_>, StartError>>()?
        .into_iter()
        .try_collect()
        .map_err(|_| StartError::Keys(KeyError::NotAPoint(ValidatorId([0; 32]))))
}

/// An address in use is said so here; later it would be a panic on another thread.
fn check_listen(address: SocketAddr) -> Result<(), StartError> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|error| StartError::Listen { address, error })
}

/// Loopback addresses with ports that are free now, outside the range from which the system takes ports for outgoing
/// connections, so that they stay free unless another program asks for just them.
///
/// # Errors
/// What the system says, if it does not give that many.
pub fn reserve_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let mut held = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..64 * count.max(1) {
        if held.len() == count {
            break;
        }
        let port = PORTS.start + (sys_rng().next_u32() % u32::from(PORTS.end - PORTS.start)) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => held.push(listener),
            Err(error) => last = error,
        }
    }
    if held.len() < count {
        return Err(last);
    }
    held.iter().map(TcpListener::local_addr).collect()
}
