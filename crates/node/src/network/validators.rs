//! The validators of a local network: each on threads of its own, connected by real sockets.

use std::{net::SocketAddr, path::PathBuf};

use lemma_chain::{
    ChainHandle, Pace, Peer, PoolLimits, Validator, ValidatorConfig, ValidatorKeys,
    reserve_addresses,
};
use lemma_ledger::Genesis;
use tokio::sync::Mutex;

use super::{NetworkError, layout::Layout};

/// The validators. Each can be stopped and started alone.
pub(super) struct Validators {
    configs: Vec<ValidatorConfig>,
    running: Mutex<Vec<Option<Validator>>>,
}

impl Validators {
    /// Starts all validators at the same time.
    pub(super) async fn start(
        layout: &Layout,
        keys: Vec<ValidatorKeys>,
        genesis: &Genesis,
        pace: Pace,
    ) -> Result<Self, NetworkError> {
        let addresses = reserve_addresses(keys.len()).map_err(|error| NetworkError::Validator {
            index: 0,
            reason: format!("no free ports: {error}"),
        })?;
        let pairs = keys.iter().zip(&addresses);
        let peers: Vec<Peer> = pairs
            .map(|(keys, address)| Peer {
                id: keys.id(),
                address: *address,
            })
            .collect();
        let config =
            |(index, (keys, listen)): (usize, (ValidatorKeys, SocketAddr))| ValidatorConfig {
                keys,
                peers: peers.clone(),
                listen,
                data_dir: layout.validator_data(index),
                genesis: genesis.clone(),
                // Nobody: tips of a development network are burned.
                beneficiary: Default::default(),
                pace,
                pool: PoolLimits::default(),
            };
        let configs: Vec<_> = keys
            .into_iter()
            .zip(addresses)
            .enumerate()
            .map(config)
            .collect();
        let started = configs
            .iter()
            .enumerate()
            .map(|(index, config)| spawn(index, config.clone()));
        let mut running = Vec::new();
        for validator in futures::future::join_all(started).await {
            running.push(validator.map(Some));
        }
        // If one did not start, those that did are stopped by being dropped.
        let running = running.into_iter().collect::<Result<_, _>>()?;
        Ok(Self {
            configs,
            running: Mutex::new(running),
        })
    }

    /// Handles of those that run.
    pub(super) async fn handles(&self) -> Vec<ChainHandle> {
        let running = self.running.lock().await;
        running
            .iter()
            .flatten()
            .map(|validator| validator.handle().clone())
            .collect()
    }

    fn slot<'a>(
        &self,
        running: &'a mut [Option<Validator>],
        index: usize,
    ) -> Result<&'a mut Option<Validator>, NetworkError> {
        let count = running.len();
        running
            .get_mut(index)
            .ok_or_else(|| NetworkError::Validator {
                index,
                reason: format!("there are validators 0 to {}", count.saturating_sub(1)),
            })
    }

    /// Stops one as a crash would.
    pub(super) async fn kill(&self, index: usize) -> Result<(), NetworkError> {
        let mut running = self.running.lock().await;
        let validator = self
            .slot(&mut running, index)?
            .take()
            .ok_or_else(|| not(index, "it does not run"))?;
        let ended = tokio::task::spawn_blocking(move || validator.kill()).await;
        ended.map_err(|error| not(index, &error.to_string()))
    }

    /// Starts one again.
    pub(super) async fn restart(&self, index: usize) -> Result<ChainHandle, NetworkError> {
        let mut running = self.running.lock().await;
        let slot = self.slot(&mut running, index)?;
        if slot.is_some() {
            return Err(not(index, "it runs"));
        }
        let validator = spawn(index, self.configs[index].clone()).await?;
        let handle = validator.handle().clone();
        *slot = Some(validator);
        Ok(handle)
    }

    /// Stops all in order.
    pub(super) async fn stop(&self) {
        self.end(Validator::stop).await;
    }

    /// Stops all as a crash would.
    pub(super) async fn kill_all(&self) {
        self.end(Validator::kill).await;
    }

    async fn end(&self, end: fn(Validator)) {
        let mut running = self.running.lock().await;
        let ending = running
            .iter_mut()
            .filter_map(Option::take)
            .map(|validator| tokio::task::spawn_blocking(move || end(validator)));
        futures::future::join_all(ending).await;
    }
}

fn not(index: usize, reason: &str) -> NetworkError {
    NetworkError::Validator {
        index,
        reason: reason.to_owned(),
    }
}

async fn spawn(index: usize, config: ValidatorConfig) -> Result<Validator, NetworkError> {
    let data_dir: PathBuf = config.data_dir.clone();
    let spawned = tokio::task::spawn_blocking(move || Validator::spawn(config)).await;
    let validator = spawned
        .map_err(|error| not(index, &error.to_string()))?
        .map_err(|error| not(index, &error.to_string()))?;
    tracing::debug!(index, directory = %data_dir.display(), "validator started");
    Ok(validator)
}
