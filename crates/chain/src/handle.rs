//! What the rest of a node sees of its validator: no generics, no runtime of its own.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use lemma_ledger::{
    Account, BlockContext, Call, CallRequest, CallResult, Estimate, Genesis, Missing, State,
    StateKey, StateValue, Transaction,
};
use lemma_types::TrustedRoot;
use tokio::sync::{oneshot, watch};

use crate::{
    core::{Core, Head, Request},
    index::{
        ExecutedBlock, FoundLog, IndexError, Located, Log, LogFilter, LogLimits, LogQueryError,
        filter, path,
    },
    mempool::{Mempool, SubmitError},
};

/// How often a call begins anew because the head moved on while it was fetching state.
const CALL_ATTEMPTS: usize = 64;

/// Why a question to a validator has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The validator has stopped.
    #[error("the validator is not running")]
    Stopped,
    /// Blocks came faster than the state for the call could be read.
    #[error("the head moved on while the call was executed; try again")]
    Busy,
    /// The history can not be read.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The query for events is refused.
    #[error(transparent)]
    Logs(#[from] LogQueryError),
    /// Executing the call panicked.
    #[error("executing the call failed: {0}")]
    Execution(String),
}

/// Names a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockId {
    /// The last final block.
    Latest,
    /// By height; 0 is the genesis block.
    Number(u64),
    /// By Ethereum hash.
    Hash(B256),
}

/// A proof that a block is final, and with it all of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Height of the block.
    pub number: u64,
    /// RLP of the Ethereum header.
    pub header: Bytes,
    /// RLP of the extension that the header commits to.
    pub extension: Bytes,
    /// Encoded finalization: a threshold signature over the header's hash.
    pub finalization: Bytes,
}

/// Asks a validator, from any thread and any tokio runtime. Clones ask the same validator.
#[derive(Clone)]
pub struct ChainHandle(pub(crate) Arc<Core>);

impl ChainHandle {
    // Identity

    /// What the network started from.
    #[must_use]
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.0.genesis
    }

    /// EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.0.genesis.chain_id
    }

    /// All that an offline verifier has to trust.
    #[must_use]
    pub fn trusted_root(&self) -> TrustedRoot {
        let key = Bytes::copy_from_slice(&self.0.network_key);
        TrustedRoot::new(self.chain_id(), self.0.genesis_block.hash(), key)
    }

    /// Whether the validator is running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.0.requests.is_closed()
    }

    /// Metrics of consensus, storage and network in Prometheus' text format.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn metrics(&self) -> Result<String, ChainError> {
        let (reply, metrics) = oneshot::channel();
        let request = Request::Metrics { reply };
        self.0
            .requests
            .send(request)
            .await
            .map_err(|_| ChainError::Stopped)?;
        metrics.await.map_err(|_| ChainError::Stopped)
    }

    // Head

    /// The last final block.
    #[must_use]
    pub fn head(&self) -> Head {
        self.0.head.borrow().clone()
    }

    /// Follows the head. A slow receiver sees the latest only: read what is between by [`ChainHandle::block`].
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Head> {
        self.0.head.subscribe()
    }

    /// Resolves when the genesis allocation is in the state: block 1 is final.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn ready(&self) -> Result<Head, ChainError> {
        self.reached(1).await
    }

    /// Resolves when the block at `number` is final.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn reached(&self, number: u64) -> Result<Head, ChainError> {
        let mut heads = self.subscribe();
        tokio::select! {
            biased;
            head = heads.wait_for(|head| head.number >= number) => {
                head.map(|head| head.clone()).map_err(|_| ChainError::Stopped)
            }
            () = self.0.requests.closed() => Err(ChainError::Stopped),
        }
    }

    // Transactions

    /// Checks a transaction (EIP-2718 bytes) against the head, lets it wait for a block, and tells other validators.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, raw: &[u8]) -> Result<B256, SubmitError> {
        self.0.submit_local(raw).await
    }

    /// A transaction that waits for a block.
    #[must_use]
    pub fn pending(&self, hash: B256) -> Option<Arc<Transaction>> {
        self.0.pool.get(&hash)
    }

    /// The waiting transactions.
    #[must_use]
    pub fn pool(&self) -> &Mempool {
        &self.0.pool
    }

    /// A final transaction with its receipt.
    ///
    /// # Errors
    /// [`ChainError::Index`].
    pub fn transaction(&self, hash: B256) -> Result<Option<Located>, ChainError> {
        let Some((number, index)) = self.0.index.locate(hash)? else {
            return Ok(None);
        };
        // What is not the head's yet is not final for anyone who asks here.
        if number > self.head().number {
            return Ok(None);
        }
        Ok(self
            .0
            .index
            .block(number)?
            .map(|block| Located { block, index }))
    }

    /// Resolves when a transaction is final. Does not end if that never happens: bound it by a timeout.
    ///
    /// # Errors
    /// [`ChainError::Stopped`], [`ChainError::Index`].
    pub async fn included(&self, hash: B256) -> Result<Located, ChainError> {
        let mut heads = self.subscribe();
        loop {
            heads.mark_unchanged();
            if let Some(located) = self.transaction(hash)? {
                return Ok(located);
            }
            tokio::select! {
                biased;
                _ = heads.changed() => {}
                () = self.0.requests.closed() => return Err(ChainError::Stopped),
            }
        }
    }

    // History

    /// A final block with its receipts.
    ///
    /// # Errors
    /// [`ChainError::Index`].
    pub fn block(&self, id: BlockId) -> Result<Option<Arc<ExecutedBlock>>, ChainError> {
        let head = self.head().number;
        let number = match id {
            BlockId::Latest => head,
            BlockId::Number(number) => number,
            BlockId::Hash(hash) if hash == self.0.genesis_block.hash() => 0,
            BlockId::Hash(hash) => match self.0.index.number(hash)? {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        match number {
            0 => Ok(Some(self.0.genesis_block.clone())),
            number if number > head => Ok(None),
            number => Ok(self.0.index.block(number)?),
        }
    }

    /// Events between two heights, in order.
    ///
    /// # Errors
    /// [`ChainError::Logs`].
    pub async fn logs(
        &self,
        filter: LogFilter,
        limits: LogLimits,
    ) -> Result<Vec<FoundLog>, ChainError> {
        let filter = LogFilter {
            to: filter.to.min(self.head().number),
            ..filter
        };
        let core = self.0.clone();
        let search =
            tokio::task::spawn_blocking(move || filter::find(core.index.as_ref(), &filter, limits));
        Ok(search
            .await
            .map_err(|error| ChainError::Execution(error.to_string()))??)
    }

    /// The first certificate for a block at or after a height, if there is one yet.
    ///
    /// # Errors
    /// [`ChainError::Index`].
    pub fn certificate(&self, from: u64) -> Result<Option<Certificate>, ChainError> {
        let Some((number, finalization)) = self.0.index.certificate(from)? else {
            return Ok(None);
        };
        Ok(self.0.index.block(number)?.map(|block| Certificate {
            number,
            header: alloy_rlp::encode(block.header()).into(),
            extension: block.extension().encode().into(),
            finalization,
        }))
    }

    /// The path (RFC 9162, as [`lemma_types::merkle::verify`] takes it) of batch `index` in the log of `size` batches.
    ///
    /// # Errors
    /// [`ChainError::Index`].
    pub fn batch_path(&self, index: u64, size: u64) -> Result<Option<Vec<B256>>, ChainError> {
        Ok(path(self.0.index.as_ref(), Log::Batches, index, size)?)
    }

    /// The path of the block at `height` in the log of the hashes of `size` blocks: the one whose head is in the
    /// extension of block `size`.
    ///
    /// # Errors
    /// [`ChainError::Index`].
    pub fn history_path(&self, height: u64, size: u64) -> Result<Option<Vec<B256>>, ChainError> {
        Ok(path(self.0.index.as_ref(), Log::History, height, size)?)
    }

    // State at the head

    /// An account.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn account(&self, address: Address) -> Result<Account, ChainError> {
        self.0.account(address).await
    }

    /// An account's balance, in wei.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn balance(&self, address: Address) -> Result<U256, ChainError> {
        Ok(self.account(address).await?.balance)
    }

    /// The nonce of the next transaction at the head.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn nonce(&self, address: Address) -> Result<u64, ChainError> {
        Ok(self.account(address).await?.nonce)
    }

    /// The nonce of the next transaction after those that wait.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn pending_nonce(&self, address: Address) -> Result<u64, ChainError> {
        let nonce = self.nonce(address).await?;
        Ok(self.0.pool.next_nonce(address, nonce))
    }

    /// An account's code; empty if it has none.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn code(&self, address: Address) -> Result<Bytes, ChainError> {
        self.read(|state| state.code(address)).await
    }

    /// A word of a contract's storage.
    ///
    /// # Errors
    /// [`ChainError::Stopped`].
    pub async fn storage(&self, address: Address, slot: U256) -> Result<U256, ChainError> {
        self.read(|state| state.storage(address, slot)).await
    }

    /// Executes a call on the head's state and forgets what it did.
    ///
    /// # Errors
    /// [`ChainError::Stopped`], [`ChainError::Busy`], [`ChainError::Execution`].
    pub async fn call(&self, request: CallRequest) -> Result<CallResult, ChainError> {
        self.execute(request, Call::run).await
    }

    /// The least gas limit with which a call succeeds on the head's state.
    ///
    /// # Errors
    /// [`ChainError::Stopped`], [`ChainError::Busy`], [`ChainError::Execution`].
    pub async fn estimate_gas(&self, request: CallRequest) -> Result<Estimate, ChainError> {
        self.execute(request, Call::estimate).await
    }

    async fn read<T>(
        &self,
        mut read: impl FnMut(&State) -> Result<T, Missing>,
    ) -> Result<T, ChainError> {
        let mut state = State::new();
        loop {
            match read(&state) {
                Ok(value) => return Ok(value),
                Err(Missing(keys)) => {
                    let found = self.0.read(keys.clone()).await?;
                    for (key, value) in keys.into_iter().zip(found.values) {
                        state.supply(key, value);
                    }
                }
            }
        }
    }

    /// Runs a call until it has all state that it needs, all of one block.
    ///
    /// If the head moves on meanwhile, the call begins anew, with all keys that it is known to need read at once.
    async fn execute<T: Send + 'static>(
        &self,
        request: CallRequest,
        run: fn(&mut Call) -> Result<T, Missing>,
    ) -> Result<T, ChainError> {
        let mut known: Vec<StateKey> = Vec::new();
        for _ in 0..CALL_ATTEMPTS {
            let head = self.head();
            let context = self.call_context(&head)?;
            let mut call = Call::new(self.0.genesis.clone(), &context, request.clone());
            let mut wanted = call.prefetch();
            wanted.append(&mut known);
            loop {
                let found = self.0.read(wanted.clone()).await?;
                known.append(&mut wanted);
                if found.root != head.state_root {
                    break;
                }
                let new = known.len() - found.values.len();
                supply(&mut call, &known[new..], found.values);
                let (again, result) = run_apart(call, run).await?;
                call = again;
                match result {
                    Ok(result) => return Ok(result),
                    Err(Missing(keys)) => wanted = keys,
                }
            }
            self.0.settled(&head).await?;
        }
        Err(ChainError::Busy)
    }

    /// The environment of a call on the head: that of the head's own transactions.
    fn call_context(&self, head: &Head) -> Result<BlockContext, ChainError> {
        let block = self.block(BlockId::Hash(head.hash))?;
        let block = block
            .ok_or_else(|| IndexError::Damaged(format!("block {} is missing", head.number)))?;
        let header = block.header();
        Ok(BlockContext {
            number: header.number,
            timestamp: header.timestamp,
            parent_hash: header.parent_hash,
            beneficiary: header.beneficiary,
            randomness: header.mix_hash,
            gas_limit: header.gas_limit,
            base_fee: header.base_fee_per_gas.unwrap_or_default(),
        })
    }
}

fn supply(call: &mut Call, keys: &[StateKey], values: Vec<Option<StateValue>>) {
    for (key, value) in keys.iter().zip(values) {
        call.supply(*key, value);
    }
}

/// Runs the EVM where it may take its time.
async fn run_apart<T: Send + 'static>(
    mut call: Call,
    run: fn(&mut Call) -> Result<T, Missing>,
) -> Result<(Call, Result<T, Missing>), ChainError> {
    tokio::task::spawn_blocking(move || {
        let result = run(&mut call);
        (call, result)
    })
    .await
    .map_err(|error| ChainError::Execution(error.to_string()))
}
