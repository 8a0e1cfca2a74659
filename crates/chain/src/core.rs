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
        self.admit(transaction.clone()).await?;
        let hash = transaction.hash();
        // If gossip is behind, its next round over the pool will find the transaction.
        let _ = self.local.try_send(transaction);
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
