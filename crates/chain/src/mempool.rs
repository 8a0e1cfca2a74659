//! Transactions that wait for a block: bounded, by sender and nonce.
//!
//! The pool is shared by whoever submits (any runtime), by gossip, by the proposer, and by the application, which drops
//! what was finalised. It knows each sender's next nonce as of the last finalised block that concerned it; what is in
//! blocks that are not final yet stays in the pool, and a proposer leaves it out by hash.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::{Address, B256, U256};
use lemma_ledger::{Account, Transaction, TransactionError};
use tokio::sync::watch;

/// Bounds of a [`Mempool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Most transactions.
    pub transactions: usize,
    /// Most bytes of all transactions together.
    pub bytes: usize,
    /// Most transactions of one sender; also how far its nonces may run ahead.
    pub per_sender: usize,
    /// A transaction with the same nonce must raise both of its prices by so many per cent.
    pub replacement_percent: u128,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            transactions: 8_192,
            bytes: 32 << 20,
            per_sender: 256,
            replacement_percent: 10,
        }
    }
}

/// Why a transaction is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Not a transaction of this network.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// The nonce is used up.
    #[error("nonce too low: {nonce} was used already, the account's next nonce is {expected}")]
    NonceTooLow {
        /// The transaction's nonce.
        nonce: u64,
        /// The account's next nonce.
        expected: u64,
    },
    /// The nonce is too far ahead of the account's.
    #[error("nonce too high: {nonce} is too far ahead of the account's next nonce {expected}")]
    NonceTooHigh {
        /// The transaction's nonce.
        nonce: u64,
        /// The account's next nonce.
        expected: u64,
    },
    /// The sender can not pay for this transaction and those it has waiting.
    #[error(
        "insufficient funds: this and the sender's waiting transactions may cost {required} wei, its balance is \
         {balance} wei"
    )]
    InsufficientFunds {
        /// The most that all may cost.
        required: U256,
        /// The sender's balance.
        balance: U256,
    },
    /// Pays less than the base fee.
    #[error("underpriced: max fee of {max_fee} wei per gas is below the base fee of {base_fee}")]
    Underpriced {
        /// The transaction's highest price.
        max_fee: u128,
        /// The base fee of the next block.
        base_fee: u64,
    },
    /// Another transaction waits with this nonce, and this one does not pay enough more.
    #[error(
        "replacement transaction underpriced: raise max fee and priority fee per gas by {percent} %"
    )]
    ReplacementUnderpriced {
        /// The least rise.
        percent: u128,
    },
    /// Invalid in every state.
    #[error("{0}")]
    Invalid(lemma_ledger::InvalidTransaction),
    /// It waits already.
    #[error("already known: {0}")]
    AlreadyKnown(B256),
    /// No room, and nothing that pays less could make room.
    #[error("transaction pool is full; pay more or try again later")]
    PoolFull,
    /// The validator has stopped, or can not read its state.
    #[error("the validator is not running")]
    Stopped,
}

/// What a submitted transaction is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// The sender's account at the finalised head.
    pub account: Account,
    /// The base fee of the next block, in wei per gas.
    pub base_fee: u64,
}

/// The pool. Clones share it.
#[derive(Clone)]
pub struct Mempool {
    inner: Arc<Mutex<Inner>>,
    /// Rises with each insertion.
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Inner {
    limits: PoolLimits,
    senders: BTreeMap<Address, Sender>,
    /// Only looked up, never iterated.
    by_hash: HashMap<B256, Arc<Transaction>>,
    bytes: usize,
    arrivals: u64,
}

#[derive(Default)]
struct Sender {
    /// Next nonce at the last finalised block that concerned the sender.
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    transaction: Arc<Transaction>,
    arrival: u64,
}

impl Mempool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        let inner = Inner {
            limits,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Lets a transaction wait for a block.
    ///
    /// # Errors
    /// See [`SubmitError`]; the pool is unchanged.
    pub fn insert(
        &self,
        transaction: Arc<Transaction>,
        admission: &Admission,
    ) -> Result<(), SubmitError> {
        self.lock().insert(transaction, admission)?;
        self.changed
            .send_modify(|version| *version = version.wrapping_add(1));
        Ok(())
    }

    /// A waiting transaction.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<Arc<Transaction>> {
        self.lock().by_hash.get(hash).cloned()
    }

    /// The nonce that follows a sender's waiting transactions without a gap, given its nonce in the state.
    #[must_use]
    pub fn next_nonce(&self, sender: Address, state_nonce: u64) -> u64 {
        let inner = self.lock();
        let Some(queue) = inner.senders.get(&sender) else {
            return state_nonce;
        };
        let first = state_nonce.max(queue.next);
        let run = queue
            .waiting
            .range(first..)
            .zip(first..)
            .take_while(|((nonce, _), next)| *nonce == next);
        first.saturating_add(run.count() as u64)
    }

    /// Number of waiting transactions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_hash.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Transactions for the next block: each sender's in order of nonce without gaps, among senders by tip and then
    /// by arrival. Those in `excluded` are taken as done: they are in blocks that are not final yet.
    #[must_use]
    pub fn select(
        &self,
        base_fee: u64,
        excluded: &BTreeSet<B256>,
        room: Room,
    ) -> Vec<Arc<Transaction>> {
        let inner = self.lock();
        let mut queues: BTreeMap<Address, _> = BTreeMap::new();
        let mut first = BTreeSet::new();
        for (address, sender) in &inner.senders {
            let mut queue = sender.ready(base_fee, excluded);
            if let Some(rank) = queue.next() {
                first.insert((rank, *address));
                queues.insert(*address, queue);
            }
        }
        let (mut selected, mut left) = (Vec::new(), room);
        while let Some((rank, address)) = first.pop_first() {
            let transaction = inner.by_hash.get(&rank.hash);
            // What does not fit leaves its sender's later ones out too: they could not come before it.
            let Some(transaction) = transaction.filter(|transaction| left.take(transaction)) else {
                continue;
            };
            selected.push(transaction.clone());
            if let Some(next) = queues.get_mut(&address).and_then(Iterator::next) {
                first.insert((next, address));
            }
        }
        selected
    }

    /// Resolves when a block could be made of waiting transactions other than `excluded`.
    pub async fn wait(&self, base_fee: u64, excluded: &BTreeSet<B256>) {
        let mut changed = self.changed.subscribe();
        while !self
            .lock()
            .senders
            .values()
            .any(|s| s.ready(base_fee, excluded).next().is_some())
        {
            // The sender lives in `self`, so this can only mean a change.
            let _ = changed.changed().await;
        }
    }

    /// Drops what a finalised block has made obsolete: each item is a sender and the nonce that it used.
    pub fn finalized(&self, used: impl IntoIterator<Item = (Address, u64)>) {
        let mut inner = self.lock();
        for (sender, nonce) in used {
            inner.advance(sender, nonce.saturating_add(1));
        }
    }

    /// Drops a transaction that can never be part of a block.
    pub fn remove(&self, transaction: &Transaction) {
        let mut inner = self.lock();
        if inner.by_hash.contains_key(&transaction.hash()) {
            inner.take(transaction.sender(), transaction.nonce());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room in a block for transactions.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes of all together.
    pub bytes: usize,
    /// Number of transactions.
    pub transactions: usize,
    /// Sum of gas limits: executing may use less, so this can be more than a block's gas.
    pub gas: u64,
}

impl Room {
    fn take(&mut self, transaction: &Transaction) -> bool {
        let (bytes, gas) = (transaction.raw().len(), transaction.gas_limit());
        let fits = bytes <= self.bytes && gas <= self.gas && self.transactions > 0;
        if fits {
            self.bytes -= bytes;
            self.gas -= gas;
            self.transactions -= 1;
        }
        fits
    }
}

/// Order among senders: higher tips first, then earlier arrivals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tip: std::cmp::Reverse<u128>,
    arrival: u64,
    hash: B256,
}

impl Sender {
    /// What may be in the next block, in order.
    fn ready<'a>(
        &'a self,
        base_fee: u64,
        excluded: &'a BTreeSet<B256>,
    ) -> impl Iterator<Item = Rank> + 'a {
        self.waiting
            .range(self.next..)
            .zip(self.next..)
            .take_while(|((nonce, _), next)| *nonce == next)
            .map(|((_, waiting), _)| waiting)
            .skip_while(|waiting| excluded.contains(&waiting.transaction.hash()))
            .map_while(move |waiting| {
                let tip = waiting.transaction.effective_tip(base_fee)?;
                let hash = waiting.transaction.hash();
                Some(Rank {
                    tip: std::cmp::Reverse(tip),
                    arrival: waiting.arrival,
                    hash,
                })
            })
    }

    /// The most that the waiting transactions may cost, but for the one with this nonce.
    fn cost_besides(&self, nonce: u64) -> U256 {
        self.waiting
            .iter()
            .filter(|(other, _)| **other != nonce)
            .fold(U256::ZERO, |sum, (_, waiting)| {
                sum.saturating_add(waiting.transaction.max_cost())
            })
    }
}

impl Inner {
    fn insert(
        &mut self,
        transaction: Arc<Transaction>,
        admission: &Admission,
    ) -> Result<(), SubmitError> {
        if self.by_hash.contains_key(&transaction.hash()) {
            return Err(SubmitError::AlreadyKnown(transaction.hash()));
        }
        let sender = transaction.sender();
        self.advance(sender, admission.account.nonce);
        self.check(&transaction, admission)?;
        let replaced = self
            .senders
            .get(&sender)
            .and_then(|s| s.waiting.get(&transaction.nonce()));
        match replaced {
            Some(old) => check_replacement(
                &old.transaction,
                &transaction,
                self.limits.replacement_percent,
            )?,
            None => self.make_room(&transaction, admission.base_fee)?,
        }
        self.take(sender, transaction.nonce());
        self.put(transaction, admission.account.nonce);
        Ok(())
    }

    fn check(&self, transaction: &Transaction, admission: &Admission) -> Result<(), SubmitError> {
        let nonce = transaction.nonce();
        if transaction.effective_tip(admission.base_fee).is_none() {
            let (max_fee, base_fee) = (transaction.max_fee_per_gas(), admission.base_fee);
            return Err(SubmitError::Underpriced { max_fee, base_fee });
        }
        let queue = self.senders.get(&transaction.sender());
        let expected = queue
            .map_or(0, |queue| queue.next)
            .max(admission.account.nonce);
        if nonce < expected {
            return Err(SubmitError::NonceTooLow { nonce, expected });
        }
        if nonce - expected >= self.limits.per_sender as u64 {
            return Err(SubmitError::NonceTooHigh { nonce, expected });
        }
        let others = queue.map_or(U256::ZERO, |queue| queue.cost_besides(nonce));
        let required = others.saturating_add(transaction.max_cost());
        let balance = admission.account.balance;
        if required > balance {
            return Err(SubmitError::InsufficientFunds { required, balance });
        }
        Ok(())
    }

    /// Makes room for a transaction by dropping what pays less, from the ends of queues so that no gap arises.
    fn make_room(&mut self, transaction: &Transaction, base_fee: u64) -> Result<(), SubmitError> {
        let size = transaction.raw().len();
        let tip = transaction.effective_tip(base_fee);
        while self.by_hash.len() >= self.limits.transactions
            || self.bytes + size > self.limits.bytes
        {
            let cheapest = self
                .senders
                .iter()
                .filter(|(address, _)| **address != transaction.sender())
                .filter_map(|(address, sender)| {
                    let (nonce, last) = sender.waiting.last_key_value()?;
                    let arrival = std::cmp::Reverse(last.arrival);
                    Some((
                        last.transaction.effective_tip(base_fee),
                        arrival,
                        *address,
                        *nonce,
                    ))
                })
                .min();
            match cheapest {
                Some((paid, _, address, nonce)) if paid < tip => self.take(address, nonce),
                _ => return Err(SubmitError::PoolFull),
            }
        }
        Ok(())
    }

    fn put(&mut self, transaction: Arc<Transaction>, state_nonce: u64) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.bytes += transaction.raw().len();
        self.by_hash.insert(transaction.hash(), transaction.clone());
        let queue = self.senders.entry(transaction.sender()).or_default();
        queue.next = queue.next.max(state_nonce);
        queue.waiting.insert(
            transaction.nonce(),
            Waiting {
                transaction,
                arrival,
            },
        );
    }

    /// Removes one transaction, and its sender with the last one.
    fn take(&mut self, sender: Address, nonce: u64) {
        let Some(queue) = self.senders.get_mut(&sender) else {
            return;
        };
        if let Some(old) = queue.waiting.remove(&nonce) {
            self.bytes -= old.transaction.raw().len();
            self.by_hash.remove(&old.transaction.hash());
        }
        if queue.waiting.is_empty() {
            self.senders.remove(&sender);
        }
    }

    /// A sender's next nonce is at least `next`: whatever waits below is obsolete.
    fn advance(&mut self, sender: Address, next: u64) {
        let Some(queue) = self.senders.get_mut(&sender) else {
            return;
        };
        queue.next = queue.next.max(next);
        let obsolete: Vec<_> = queue
            .waiting
            .range(..queue.next)
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in obsolete {
            self.take(sender, nonce);
        }
    }
}

/// Both prices of the new transaction are at least so many per cent above the old ones.
fn check_replacement(
    old: &Transaction,
    new: &Transaction,
    percent: u128,
) -> Result<(), SubmitError> {
    let least = |price: u128| {
        price
            .saturating_add(price.saturating_mul(percent).div_ceil(100))
            .max(1)
    };
    let tip = |transaction: &Transaction| transaction.effective_tip(0).unwrap_or(0);
    if new.max_fee_per_gas() < least(old.max_fee_per_gas()) || tip(new) < least(tip(old)) {
        return Err(SubmitError::ReplacementUnderpriced { percent });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lemma_types::{keys::SecretKey, transaction::sign_eip1559};

    use super::*;

    const CHAIN: u64 = 31_337;
    const ROOM: Room = Room {
        bytes: usize::MAX,
        transactions: usize::MAX,
        gas: u64::MAX,
    };

    fn transaction(key: u8, nonce: u64, tip: u128) -> Arc<Transaction> {
        let key = SecretKey::from_bytes(&[key; 32]).unwrap();
        let raw = sign_eip1559(
            alloy_consensus::TxEip1559 {
                chain_id: CHAIN,
                nonce,
                gas_limit: 21_000,
                max_fee_per_gas: 100 + tip,
                max_priority_fee_per_gas: tip,
                to: Address::ZERO.into(),
                value: U256::from(1),
                ..Default::default()
            },
            &key,
        );
        Arc::new(Transaction::decode(&raw, CHAIN).unwrap())
    }

    fn admission(nonce: u64) -> Admission {
        let account = Account {
            nonce,
            ..Account::funded(U256::from(1u64) << 80)
        };
        Admission {
            account,
            base_fee: 100,
        }
    }

    fn pool(limits: PoolLimits) -> Mempool {
        Mempool::new(limits)
    }

    fn selected(pool: &Mempool, excluded: &[&Arc<Transaction>]) -> Vec<B256> {
        let excluded = excluded.iter().map(|t| t.hash()).collect();
        pool.select(100, &excluded, ROOM)
            .iter()
            .map(|t| t.hash())
            .collect()
    }

    #[test]
    fn senders_compete_by_tip_and_keep_their_order() {
        let pool = pool(PoolLimits::default());
        let (a0, a1, b0, c1) = (
            transaction(1, 0, 5),
            transaction(1, 1, 50),
            transaction(2, 0, 9),
            transaction(3, 1, 99),
        );
        for t in [&a1, &a0, &b0, &c1] {
            pool.insert(t.clone(), &admission(0)).unwrap();
        }
        // c1 waits for nonce 0; a1 pays more than b0 but has to wait for a0.
        assert_eq!(selected(&pool, &[]), [b0.hash(), a0.hash(), a1.hash()]);
        assert_eq!(selected(&pool, &[&a0]), [a1.hash(), b0.hash()]);
        assert_eq!(pool.next_nonce(a0.sender(), 0), 2);
        assert_eq!(pool.next_nonce(c1.sender(), 0), 0);
        pool.finalized([(a0.sender(), 0), (b0.sender(), 0)]);
        assert_eq!(selected(&pool, &[]), [a1.hash()]);
        assert_eq!(pool.len(), 2);
        assert!(pool.get(&a0.hash()).is_none());
    }

    #[test]
    fn room_in_a_block_is_respected() {
        let pool = pool(PoolLimits::default());
        for nonce in 0..5 {
            pool.insert(transaction(1, nonce, 1), &admission(0))
                .unwrap();
        }
        let taken = |room| pool.select(100, &BTreeSet::new(), room).len();
        assert_eq!(
            taken(Room {
                transactions: 3,
                ..ROOM
            }),
            3
        );
        assert_eq!(
            taken(Room {
                gas: 43_000,
                ..ROOM
            }),
            2
        );
        let size = transaction(1, 0, 1).raw().len();
        assert_eq!(
            taken(Room {
                bytes: size,
                ..ROOM
            }),
            1
        );
    }

    #[test]
    fn what_can_not_be_included_is_refused_with_the_reason() {
        let pool = pool(PoolLimits::default());
        let refuse =
            |t: Arc<Transaction>, admission: Admission| pool.insert(t, &admission).unwrap_err();
        assert_eq!(
            refuse(transaction(1, 1, 1), admission(2)),
            SubmitError::NonceTooLow {
                nonce: 1,
                expected: 2
            }
        );
        assert_eq!(
            refuse(transaction(1, 256, 1), admission(0)),
            SubmitError::NonceTooHigh {
                nonce: 256,
                expected: 0
            }
        );
        let expensive = Admission {
            base_fee: 102,
            ..admission(0)
        };
        assert_eq!(
            refuse(transaction(1, 0, 1), expensive),
            SubmitError::Underpriced {
                max_fee: 101,
                base_fee: 102
            }
        );
        let poor = Admission {
            account: Account::funded(U256::from(5)),
            ..admission(0)
        };
        assert!(matches!(
            refuse(transaction(1, 0, 1), poor),
            SubmitError::InsufficientFunds { .. }
        ));
        pool.insert(transaction(1, 0, 1), &admission(0)).unwrap();
        assert!(matches!(
            refuse(transaction(1, 0, 1), admission(0)),
            SubmitError::AlreadyKnown(_)
        ));
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn waiting_transactions_count_against_the_balance() {
        let pool = pool(PoolLimits::default());
        let one = transaction(1, 0, 1).max_cost();
        let account = Account::funded(one * U256::from(2));
        let admission = Admission {
            account,
            ..admission(0)
        };
        pool.insert(transaction(1, 0, 1), &admission).unwrap();
        pool.insert(transaction(1, 1, 1), &admission).unwrap();
        assert!(matches!(
            pool.insert(transaction(1, 2, 1), &admission),
            Err(SubmitError::InsufficientFunds { .. })
        ));
    }

    #[test]
    fn a_replacement_pays_more() {
        let pool = pool(PoolLimits::default());
        pool.insert(transaction(1, 0, 100), &admission(0)).unwrap();
        assert_eq!(
            pool.insert(transaction(1, 0, 105), &admission(0)),
            Err(SubmitError::ReplacementUnderpriced { percent: 10 })
        );
        let better = transaction(1, 0, 130);
        pool.insert(better.clone(), &admission(0)).unwrap();
        assert_eq!(selected(&pool, &[]), [better.hash()]);
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn a_full_pool_keeps_what_pays_most() {
        let pool = pool(PoolLimits {
            transactions: 2,
            ..PoolLimits::default()
        });
        let (low, high) = (transaction(1, 0, 1), transaction(2, 0, 9));
        pool.insert(low.clone(), &admission(0)).unwrap();
        pool.insert(high.clone(), &admission(0)).unwrap();
        assert_eq!(
            pool.insert(transaction(3, 0, 1), &admission(0)),
            Err(SubmitError::PoolFull)
        );
        let middle = transaction(4, 0, 5);
        pool.insert(middle.clone(), &admission(0)).unwrap();
        assert_eq!(selected(&pool, &[]), [high.hash(), middle.hash()]);
        assert!(pool.get(&low.hash()).is_none());
    }

    #[test]
    fn bytes_are_bounded_and_accounted() {
        let size = transaction(1, 0, 1).raw().len();
        let pool = pool(PoolLimits {
            bytes: 2 * size + 1,
            ..PoolLimits::default()
        });
        for key in 1..=2 {
            pool.insert(transaction(key, 0, 1), &admission(0)).unwrap();
        }
        assert_eq!(
            pool.insert(transaction(3, 0, 1), &admission(0)),
            Err(SubmitError::PoolFull)
        );
        pool.remove(&transaction(1, 0, 1));
        pool.insert(transaction(3, 0, 1), &admission(0)).unwrap();
        pool.finalized([2, 3].map(|key| (transaction(key, 0, 1).sender(), 0)));
        assert!(pool.is_empty());
        assert_eq!(pool.lock().bytes, 0);
    }

    #[test]
    fn waiting_ends_with_the_first_transaction_that_fits() {
        futures::executor::block_on(async {
            let pool = pool(PoolLimits::default());
            let first = transaction(1, 0, 1);
            pool.insert(first.clone(), &admission(0)).unwrap();
            let excluded = BTreeSet::from([first.hash()]);
            pool.wait(100, &BTreeSet::new()).await;
            let wait = pool.wait(100, &excluded);
            futures::pin_mut!(wait);
            assert!(futures::poll!(&mut wait).is_pending());
            pool.insert(transaction(2, 1, 1), &admission(0)).unwrap();
            assert!(
                futures::poll!(&mut wait).is_pending(),
                "a gap is no reason to build"
            );
            pool.insert(transaction(1, 1, 1), &admission(0)).unwrap();
            assert!(futures::poll!(&mut wait).is_ready());
        });
    }
}
