//! What a validator's parts share with one another and with its handles: nothing here knows of a runtime.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use lemma_ledger::{
    Account, Genesis, StateKey, StateValue, Transaction, account_key, decode_account,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    execute::base_fee_after,
    handle::ChainError,
    index::{ExecutedBlock, Index},
    mempool::{Admission, Mempool, SubmitError},
};

/// The last final block, in brief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Height.
    pub number: u64,
    /// Ethereum hash.
    pub hash: B256,
    /// Time, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Canonical root of the state after the block.
    pub state_root: B256,
    /// Base fee of the block, in wei per gas.
    pub base_fee: u64,
    /// Base fee of the block that comes next, in wei per gas.
    pub next_base_fee: u64,
    /// Gas of a block.
    pub gas_limit: u64,
}

impl Head {
    pub(crate) fn of(genesis: &Genesis, block: &ExecutedBlock) -> Self {
        let header = block.header();
        Self {
            number: header.number,
            hash: block.hash(),
            timestamp_ms: block.extension().timestamp_ms,
            state_root: header.state_root,
            base_fee: header.base_fee_per_gas.unwrap_or_default(),
            next_base_fee: base_fee_after(genesis, header),
            gas_limit: header.gas_limit,
        }
    }
}

/// What a validator is asked on its own runtime.
pub(crate) enum Request {
    /// Values of the state that was applied last.
    Read {
        keys: Vec<StateKey>,
        reply: oneshot::Sender<Found>,
    },
    /// The runtime's metrics, in Prometheus' text format.
    Metrics { reply: oneshot::Sender<String> },
}

/// Values in the order of the keys, and the root of the state that they are from.
pub(crate) struct Found {
    pub(crate) root: B256,
    pub(crate) values: Vec<Option<StateValue>>,
}

/// The shared part of a validator.
pub(crate) struct Core {
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) genesis_block: Arc<ExecutedBlock>,
    pub(crate) network_key: [u8; 96],
    pub(crate) pool: Mempool,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) head: watch::Sender<Head>,
    /// To the validator's own runtime; closed when it has stopped.
    pub(crate) requests: mpsc::Sender<Request>,
    /// To gossip: transactions that were submitted here.
    pub(crate) local: mpsc::Sender<Arc<Transaction>>,
}

impl Core {
    /// Reads values of the state that was applied last.
    pub(crate) async fn read(&self, keys: Vec<StateKey>) -> Result<Found, ChainError> {
        let (reply, found) = oneshot::channel();
        self.requests
            .send(Request::Read { keys, reply })
            .await
            .map_err(|_| ChainError::Stopped)?;
        found.await.map_err(|_| ChainError::Stopped)
    }

    pub(crate) async fn account(&self, address: Address) -> Result<Account, ChainError> {
        let found = self.read(vec![account_key(address)]).await?;
        Ok(found
            .values
            .first()
            .and_then(Option::as_ref)
            .map(decode_account)
            .unwrap_or_default())
    }

    /// Resolves when another block than `head` is the head.
    pub(crate) async fn settled(&self, head: &Head) -> Result<(), ChainError> {
        let mut heads = self.head.subscribe();
        tokio::select! {
            biased;
            _ = heads.wait_for(|now| now.hash != head.hash) => Ok(()),
            () = self.requests.closed() => Err(ChainError::Stopped),
        }
    }

    /// Admits a transaction of a client, and passes it on to the other validators.
    pub(crate) async fn submit_local(&self, raw: &[u8]) -> Result<B256, SubmitError> {
        let transaction = Arc::new(Transaction::decode(raw, self.genesis.chain_id)?);
        // First a place in the queue: nothing may get into the pool that gossip does not get, even if the client gives
        // up while it waits.
        let place = self.local.reserve().await;
        let place = place.map_err(|_| SubmitError::Stopped)?;
        self.admit(transaction.clone()).await?;
        let hash = transaction.hash();
        place.send(transaction);
        Ok(hash)
    }

    /// Lets a transaction wait for a block, if it may be part of one.
    pub(crate) async fn admit(&self, transaction: Arc<Transaction>) -> Result<(), SubmitError> {
        transaction
            .check(&self.genesis)
            .map_err(SubmitError::Invalid)?;
        let head = self.head.borrow().clone();
        let account = self
            .account(transaction.sender())
            .await
            .map_err(|_| SubmitError::Stopped)?;
        let admission = Admission {
            account,
            base_fee: head.next_base_fee,
        };
        self.pool.insert(transaction, &admission)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_consensus::TxEip1559;
    use alloy_primitives::{Bytes, U256};
    use futures::{
        executor::block_on,
        future::{join, join3},
    };
    use lemma_types::{block::StateTarget, keys::SecretKey, transaction::sign_eip1559};

    use super::*;
    use crate::{block::Block, index::MemoryIndex, mempool::PoolLimits};

    const CHAIN_ID: u64 = 31_337;

    struct Ends {
        requests: mpsc::Receiver<Request>,
        local: mpsc::Receiver<Arc<Transaction>>,
    }

    /// A core without a validator, and with room for so many transactions on their way to gossip.
    fn core(room: usize) -> (Core, Ends) {
        let genesis = Arc::new(Genesis::development(CHAIN_ID, 10, BTreeMap::new()));
        let state = StateTarget {
            ops_root: B256::ZERO,
            start: 0,
            end: 1,
        };
        let genesis_block = Arc::new(ExecutedBlock {
            block: Block::genesis(&genesis, state),
            receipts: Vec::new(),
        });
        let (request_sender, requests) = mpsc::channel(8);
        let (local_sender, local) = mpsc::channel(room);
        let core = Core {
            head: watch::Sender::new(Head::of(&genesis, &genesis_block)),
            genesis,
            genesis_block,
            network_key: [0; 96],
            pool: Mempool::new(PoolLimits::default()),
            index: Arc::new(MemoryIndex::default()),
            requests: request_sender,
            local: local_sender,
        };
        (core, Ends { requests, local })
    }

    /// Answers that every account is rich.
    async fn serve(mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            let Request::Read { keys, reply } = request else {
                continue;
            };
            let account = Account::funded(U256::from(1) << 200).encode();
            let _ = reply.send(Found {
                root: B256::ZERO,
                values: keys.iter().map(|_| Some(account)).collect(),
            });
        }
    }

    fn transaction(nonce: u64) -> Bytes {
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 10_000_000_000,
            to: Address::ZERO.into(),
            ..TxEip1559::default()
        };
        sign_eip1559(transaction, &SecretKey::from_bytes(&[7; 32]).unwrap())
    }

    /// Long enough for everything that does not wait for gossip.
    async fn a_while() {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn gossip_gets_every_transaction_however_far_it_is_behind() {
        let (
            core,
            Ends {
                requests,
                mut local,
            },
        ) = core(2);
        let submit = async move {
            let mut hashes = Vec::new();
            for nonce in 0..6 {
                hashes.push(core.submit_local(&transaction(nonce)).await.unwrap());
            }
            hashes
        };
        let gossip = async {
            a_while().await;
            let mut told = Vec::new();
            while let Some(transaction) = local.recv().await {
                told.push(transaction.hash());
            }
            told
        };
        let (submitted, told, ()) = block_on(join3(submit, gossip, serve(requests)));
        assert_eq!(told, submitted);
    }

    #[test]
    fn who_gives_up_leaves_nothing_that_gossip_does_not_get() {
        let (
            core,
            Ends {
                requests,
                mut local,
            },
        ) = core(1);
        let submit = async move {
            core.submit_local(&transaction(0)).await.unwrap();
            let second = transaction(1);
            tokio::select! {
                biased;
                outcome = core.submit_local(&second) => panic!("no room, but {outcome:?}"),
                () = a_while() => {}
            }
            core.pool.len()
        };
        let (waiting, ()) = block_on(join(submit, serve(requests)));
        assert_eq!(waiting, 1);
        assert!(local.try_recv().is_ok() && local.try_recv().is_err());
    }
}
