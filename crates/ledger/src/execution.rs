//! One block under execution.

use crate::{
    Genesis, InvalidTransaction, LogHead, Missing, Receipt, StateKey, StateValue, Transaction,
    account::{account_key, slot_key},
    evm::Machine,
    modules::{self, history, receipts as batches},
    receipt::{logs_bloom, raw_transactions_root, receipts_root},
};
use alloy_primitives::{Address, B256, Bloom, Bytes};
use revm::context_interface::result::{EVMError, ExecutionResult};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a block's transactions see of their block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockContext {
    /// Height; the first executed block is 1.
    pub number: u64,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Hash of the block at `number - 1`.
    pub parent_hash: B256,
    /// Gets the priority fees.
    pub beneficiary: Address,
    /// The beacon's value (`PREVRANDAO`).
    pub randomness: B256,
    /// Gas available to the transactions.
    pub gas_limit: u64,
    /// Wei per gas that is burned.
    pub base_fee: u64,
}

/// What came of one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// Part of the block, whether it succeeded or not.
    Included {
        /// What it did.
        receipt: Receipt,
    },
    /// Can not be part of the block. Nothing changed.
    Rejected(InvalidTransaction),
}

/// What a block changes and what its header commits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Values to store; `None` removes the key.
    pub writes: BTreeMap<StateKey, Option<StateValue>>,
    /// One for each included transaction, in order.
    pub receipts: Vec<Receipt>,
    /// Gas used by all transactions.
    pub gas_used: u64,
    /// Commitment to the receipts.
    pub receipts_root: B256,
    /// Commitment to the included transactions.
    pub transactions_root: B256,
    /// Union of the receipts' blooms.
    pub logs_bloom: Bloom,
    /// The log of settled batches after this block.
    pub batches: LogHead,
    /// The log of block hashes after this block: all of its ancestors.
    pub history: LogHead,
}

/// One block under execution over a partial view of the state.
///
/// Order of calls: [`prefetch`](Self::prefetch) and [`supply`](Self::supply) what it names, then
/// [`begin`](Self::begin) once, [`apply`](Self::apply) for each transaction in order,
/// [`finish`](Self::finish). `begin` and `apply` may return [`Missing`]: supply, and make that call again.
///
/// # Panics
/// `apply` and `finish` panic if `begin` has not succeeded.
pub struct Execution {
    genesis: Arc<Genesis>,
    block: BlockContext,
    evm: Machine,
    begun: bool,
    gas_used: u64,
    included: Vec<Bytes>,
    receipts: Vec<Receipt>,
}

impl Execution {
    /// Starts a block over an empty view of its parent's state.
    ///
    /// # Panics
    /// If the block's number is 0: the genesis block is not executed.
    pub fn new(genesis: Arc<Genesis>, block: BlockContext) -> Self {
        assert_ne!(block.number, 0, "the genesis block is not executed");
        let evm = Machine::new(&genesis, &block);
        Self {
            genesis,
            block,
            evm,
            begun: false,
            gas_used: 0,
            included: Vec::new(),
            receipts: Vec::new(),
        }
    }

    /// The keys that executing these transactions is certain to read, sorted: one batched read ahead
    /// of execution spares most of the rounds by way of [`Missing`].
    pub fn prefetch(&self, transactions: &[Transaction]) -> Vec<StateKey> {
        let mut keys = BTreeSet::from([account_key(self.block.beneficiary)]);
        for transaction in transactions {
            keys.extend(transaction.accounts().map(account_key));
            keys.extend(
                transaction
                    .slots()
                    .map(|(address, slot)| slot_key(address, slot)),
            );
        }
        keys.extend(modules::prefetch(self.block.number, transactions));
        keys.into_iter().collect()
    }

    /// Makes the value of a key in the parent's state known; `None` if it has none.
    pub fn supply(&mut self, key: StateKey, value: Option<StateValue>) {
        self.evm.supply(key, value);
    }

    /// The block's own part, before any transaction: at height 1 the allocation and the modules' accounts,
    /// and always the parent's hash, which goes into the history.
    ///
    /// # Errors
    /// [`Missing`]: supply the values and call again.
    ///
    /// # Panics
    /// If the values supplied are not those of the state after the block before this one.
    pub fn begin(&mut self) -> Result<(), Missing> {
        if self.begun {
            return Ok(());
        }
        let state = self.evm.state();
        batches::head(state)?;
        history::append(state, self.block.number, self.block.parent_hash)?;
        if self.block.number == 1 {
            modules::install(state, &self.genesis);
        }
        self.begun = true;
        Ok(())
    }

    /// Executes the next transaction.
    ///
    /// # Errors
    /// [`Missing`]: nothing was executed; supply the values and call again with the same transaction.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<Applied, Missing> {
        assert!(self.begun, "begin the block before applying transactions");
        let available = self.block.gas_limit.saturating_sub(self.gas_used);
        let gas_limit = transaction.gas_limit();
        if gas_limit > available {
            let reason = InvalidTransaction::GasAboveBlock {
                gas_limit,
                available,
            };
            return Ok(Applied::Rejected(reason));
        }
        match self.evm.transact(transaction.environment())? {
            Ok(executed) => {
                self.evm.state().commit(executed.state);
                let receipt = self.receipt(transaction, executed.result);
                self.gas_used = receipt.cumulative_gas_used;
                self.included.push(transaction.raw().clone());
                self.receipts.push(receipt.clone());
                Ok(Applied::Included { receipt })
            }
            Err(error) => Ok(Applied::Rejected(self.reason(transaction, error))),
        }
    }

    /// Closes the block.
    pub fn finish(mut self) -> Outcome {
        assert!(self.begun, "begin the block before finishing it");
        let state = std::mem::take(self.evm.state());
        let known = "begin made the heads of both logs known";
        Outcome {
            batches: batches::head(&state).expect(known),
            history: history::head(&state).expect(known),
            receipts_root: receipts_root(&self.receipts),
            transactions_root: raw_transactions_root(&self.included),
            logs_bloom: logs_bloom(&self.receipts),
            gas_used: self.gas_used,
            receipts: self.receipts,
            writes: state.into_writes(),
        }
    }

    /// Gas used so far.
    pub fn gas_used(&self) -> u64 {
        self.gas_used
    }

    fn receipt(&self, transaction: &Transaction, result: ExecutionResult) -> Receipt {
        let gas_used = result.tx_gas_used();
        let success = result.is_success();
        Receipt {
            transaction_hash: transaction.hash(),
            kind: transaction.kind(),
            success,
            gas_used,
            cumulative_gas_used: self.gas_used.saturating_add(gas_used),
            effective_gas_price: transaction
                .effective_gas_price(self.block.base_fee)
                .unwrap_or_default(),
            contract_address: result.created_address(),
            output: result.output().cloned().unwrap_or_default(),
            logs: if success {
                result.into_logs()
            } else {
                Vec::new()
            },
        }
    }

    fn reason<E: std::fmt::Display>(
        &self,
        transaction: &Transaction,
        error: EVMError<E, revm::context_interface::result::InvalidTransaction>,
    ) -> InvalidTransaction {
        match error {
            EVMError::Transaction(invalid) => InvalidTransaction::from_evm(
                invalid,
                transaction.max_fee_per_gas(),
                self.block.base_fee,
                self.block.gas_limit,
                transaction.gas_limit(),
            ),
            other => InvalidTransaction::Other(other.to_string()),
        }
    }
}
