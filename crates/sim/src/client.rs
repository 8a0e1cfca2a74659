//! Clients: accounts that pay each other, and remember what they were told.

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::TxEip1559;
use lemma_chain::ChainHandle;
use lemma_types::{
    Address, B256, Bytes, U256, keccak256, keys::SecretKey, transaction::sign_eip1559,
};

use crate::cluster::{CHAIN_ID, Cluster, VALIDATORS};

/// Ticks after which a client that has no answer asks another validator.
const PATIENCE: u64 = 10;

/// Accounts with transactions under way, one for each.
#[derive(Clone)]
pub(crate) struct Clients {
    accounts: Vec<Account>,
    tick: u64,
    /// Transactions that a validator has shown as final, and the block in which it has.
    pub(crate) acknowledged: BTreeMap<B256, (u64, B256)>,
}

#[derive(Clone)]
struct Account {
    key: Arc<SecretKey>,
    nonce: u64,
    waiting: Option<Waiting>,
}

#[derive(Clone)]
struct Waiting {
    raw: Bytes,
    hash: B256,
    since: u64,
    asked: usize,
}

impl Clients {
    /// So many clients, the same for the same seed.
    pub(crate) fn new(seed: u64, count: u64) -> Self {
        let accounts = (0..count)
            .map(|index| Account {
                key: Arc::new(key(seed, index)),
                nonce: 0,
                waiting: None,
            })
            .collect();
        Self {
            accounts,
            tick: 0,
            acknowledged: BTreeMap::new(),
        }
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.accounts
            .iter()
            .map(|account| account.key.address())
            .collect()
    }

    /// Everybody looks for an answer; who has it sends the next transaction, who waits too long asks elsewhere.
    pub(crate) async fn tick(&mut self, cluster: &Cluster) {
        self.tick += 1;
        for index in 0..self.accounts.len() {
            let to = self.accounts[(index * 7 + 3) % self.accounts.len()]
                .key
                .address();
            self.look(index, cluster);
            let account = &mut self.accounts[index];
            let waiting = match account.waiting.take() {
                Some(waiting) if self.tick - waiting.since < PATIENCE => {
                    account.waiting = Some(waiting);
                    continue;
                }
                Some(waiting) => Waiting {
                    since: self.tick,
                    asked: (waiting.asked + 1) % VALIDATORS,
                    ..waiting
                },
                None => account.pay(to, self.tick, index % VALIDATORS),
            };
            if let Some(handle) = cluster.handle(waiting.asked) {
                // Whether it was accepted shows in whether it becomes final.
                let _ = handle.submit(&waiting.raw).await;
            }
            account.waiting = Some(waiting);
        }
    }

    /// Everybody looks for an answer, and does nothing else.
    pub(crate) fn listen(&mut self, cluster: &Cluster) {
        for index in 0..self.accounts.len() {
            self.look(index, cluster);
        }
    }

    /// Looks for an account's transaction at the validator that it asked.
    fn look(&mut self, index: usize, cluster: &Cluster) {
        let account = &mut self.accounts[index];
        let Some(waiting) = &account.waiting else {
            return;
        };
        let located = cluster
            .handle(waiting.asked)
            .and_then(|handle| locate(&handle, waiting.hash));
        if let Some(place) = located {
            self.acknowledged.insert(waiting.hash, place);
            account.nonce += 1;
            account.waiting = None;
        }
    }
}

/// Where a validator shows a transaction as final.
pub(crate) fn locate(handle: &ChainHandle, hash: B256) -> Option<(u64, B256)> {
    let located = handle
        .transaction(hash)
        .expect("an index in memory can be read")?;
    Some((located.block.number(), located.block.hash()))
}

/// A client's key.
pub(crate) fn key(seed: u64, index: u64) -> SecretKey {
    let secret = keccak256([seed.to_be_bytes(), index.to_be_bytes()].concat());
    SecretKey::from_bytes(&secret).expect("a hash is a valid key but for one in 2^128")
}

/// A signed transfer.
pub(crate) fn payment(key: &SecretKey, nonce: u64, to: Address, value: U256) -> Bytes {
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: to.into(),
        value,
        ..TxEip1559::default()
    };
    sign_eip1559(transaction, key)
}

impl Account {
    fn pay(&self, to: Address, since: u64, asked: usize) -> Waiting {
        let raw = payment(&self.key, self.nonce, to, U256::from(1_000_000));
        Waiting {
            hash: keccak256(&raw),
            raw,
            since,
            asked,
        }
    }
}
