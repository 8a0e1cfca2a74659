//! A network of validators on loopback sockets.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use alloy_consensus::TxEip1559;
use lemma_chain::{
    ChainHandle, Located, Pace, Peer, PoolLimits, Validator, ValidatorConfig, ValidatorKeys,
    reserve_addresses,
};
use lemma_ledger::Genesis;
use lemma_types::{Address, B256, Bytes, U256, keys::SecretKey, transaction::sign_eip1559};

/// Chain id of the tests' networks.
pub const CHAIN_ID: u64 = 31_337;

/// Validators, their keys and their directory.
pub struct Network {
    keys: Vec<ValidatorKeys>,
    addresses: Vec<SocketAddr>,
    genesis: Genesis,
    dir: tempfile::TempDir,
    validators: Vec<Option<Validator>>,
}

impl Network {
    /// Starts four validators in a directory that is removed in the end.
    pub fn start() -> Self {
        let alloc = BTreeMap::from([(key().address(), U256::from(10).pow(U256::from(24)))]);
        let mut network = Self {
            keys: ValidatorKeys::deal(4).unwrap(),
            addresses: reserve_addresses(4).unwrap(),
            genesis: Genesis::development(CHAIN_ID, 1_700_000_000, alloc),
            dir: tempfile::tempdir().unwrap(),
            validators: (0..4).map(|_| None).collect(),
        };
        (0..4).for_each(|index| network.spawn(index));
        network
    }

    pub fn spawn(&mut self, index: usize) {
        self.validators[index] = Some(Validator::spawn(self.config(index)).unwrap());
    }

    pub fn config(&self, index: usize) -> ValidatorConfig {
        let peers = self.keys.iter().zip(&self.addresses);
        ValidatorConfig {
            keys: self.keys[index].clone(),
            peers: peers
                .map(|(keys, address)| Peer {
                    id: keys.id(),
                    address: *address,
                })
                .collect(),
            listen: self.addresses[index],
            data_dir: self.directory(index),
            genesis: self.genesis.clone(),
            beneficiary: Address::repeat_byte(0xfe),
            pace: Pace::default(),
            pool: PoolLimits::default(),
        }
    }

    pub fn directory(&self, index: usize) -> PathBuf {
        self.dir.path().join(index.to_string())
    }

    pub fn handle(&self, index: usize) -> ChainHandle {
        self.validators[index].as_ref().unwrap().handle().clone()
    }

    pub fn take(&mut self, index: usize) -> Validator {
        self.validators[index].take().unwrap()
    }
}

/// The funded account's key.
pub fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).unwrap()
}

/// A transfer of one wei, or a call with this input.
pub fn transaction(nonce: u64, to: Address, input: Bytes) -> Bytes {
    let transfer = input.is_empty();
    sign(TxEip1559 {
        nonce,
        gas_limit: if transfer { 21_000 } else { 1_000_000 },
        to: to.into(),
        value: if transfer { U256::from(1) } else { U256::ZERO },
        input,
        ..TxEip1559::default()
    })
}

/// A transaction with this gas limit.
pub fn gas(nonce: u64, gas_limit: u64) -> Bytes {
    sign(TxEip1559 {
        nonce,
        gas_limit,
        to: Address::ZERO.into(),
        ..TxEip1559::default()
    })
}

fn sign(transaction: TxEip1559) -> Bytes {
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        ..transaction
    };
    sign_eip1559(transaction, &key())
}

/// Resolves when the transaction is final at this validator.
pub async fn included(chain: &ChainHandle, hash: B256) -> Located {
    within(chain.included(hash)).await.unwrap()
}

/// Fails instead of waiting forever; no test depends on how long anything takes.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future)
        .await
        .expect("nothing happens")
}
