//! Calls that change nothing: `eth_call` and `eth_estimateGas`.

use crate::{
    BlockContext, Genesis, InvalidTransaction, Missing, StateKey, StateValue, Transaction,
    account::account_key,
    evm::{self, Machine},
};
use alloy_primitives::{Address, Bytes, Log, TxKind, U256};
use revm::{
    context::TxEnv,
    context_interface::result::{EVMError, ExecutionResult, HaltReason},
};
use std::sync::Arc;

/// What to call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallRequest {
    /// The sender; nobody (the zero address) by default. No signature is needed.
    pub from: Option<Address>,
    /// The account called; `None` runs `input` as init code.
    pub to: Option<Address>,
    /// Gas allowed; the transaction cap or the block's limit by default.
    pub gas: Option<u64>,
    /// Wei per gas; 0 (free) by default. If positive, the sender must have the funds.
    pub gas_price: u128,
    /// Wei sent.
    pub value: U256,
    /// Call data or init code.
    pub input: Bytes,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallResult {
    /// It returned.
    Success {
        /// Return data.
        output: Bytes,
        /// Gas used, after refunds.
        gas_used: u64,
        /// Events that it would have emitted.
        logs: Vec<Log>,
    },
    /// It reverted.
    Revert {
        /// Revert data; Solidity's `Error(string)` is decoded by [`CallResult::revert_reason`].
        output: Bytes,
        /// Gas used.
        gas_used: u64,
    },
    /// It ran out of gas or did something illegal.
    Halt {
        /// What happened.
        reason: String,
        /// Whether more gas might have helped.
        out_of_gas: bool,
        /// Gas used: all of it.
        gas_used: u64,
    },
    /// It could not start.
    Refused(InvalidTransaction),
}

/// What came of an estimate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Estimate {
    /// The least gas limit with which the call succeeds.
    Gas(u64),
    /// The call does not succeed with any gas: how it fails with the most.
    Fails(CallResult),
}

/// A call on the state after a block, resumable like [`crate::Execution`].
pub struct Call {
    evm: Machine,
    request: CallRequest,
    gas_limit: u64,
    /// Gas limits that the estimate has tried: fails, succeeds.
    bounds: Option<(u64, u64)>,
}

impl Call {
    /// Prepares a call in the environment of `block` (the head's own context, usually).
    pub fn new(genesis: Arc<Genesis>, block: &BlockContext, request: CallRequest) -> Self {
        let mut evm = Machine::new(&genesis, block);
        evm.cfg.disable_eip3607 = true;
        evm.cfg.disable_nonce_check = true;
        if request.gas_price == 0 {
            // A free call is not held to the base fee; as in other clients, BASEFEE is then zero.
            evm.block.basefee = 0;
        }
        let most = block
            .gas_limit
            .min(revm::primitives::eip7825::TX_GAS_LIMIT_CAP);
        let gas_limit = request.gas.map_or(most, |gas| gas.min(most));
        Self {
            evm,
            request,
            gas_limit,
            bounds: None,
        }
    }

    /// The keys that the call is certain to read.
    pub fn prefetch(&self) -> Vec<StateKey> {
        let beneficiary = self.evm.block.beneficiary;
        let from = self.request.from.unwrap_or(evm::NOBODY);
        let mut keys: Vec<_> = [Some(from), self.request.to, Some(beneficiary)]
            .into_iter()
            .flatten()
            .map(account_key)
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Makes the value of a key known; `None` if the state has none.
    pub fn supply(&mut self, key: StateKey, value: Option<StateValue>) {
        self.evm.supply(key, value);
    }

    /// Runs the call. The state is left as it was, so it may be run again.
    ///
    /// # Errors
    /// [`Missing`]: supply the values and run again.
    pub fn run(&mut self) -> Result<CallResult, Missing> {
        self.run_with(self.gas_limit)
    }

    /// Finds the least gas limit with which the call succeeds, by bisection.
    ///
    /// # Errors
    /// [`Missing`]: supply the values and call again; bisection goes on where it was.
    pub fn estimate(&mut self) -> Result<Estimate, Missing> {
        let (mut fails, mut succeeds) = match self.bounds {
            Some(bounds) => bounds,
            None => match self.run_with(self.gas_limit)? {
                CallResult::Success { gas_used, .. } => {
                    let bounds = (gas_used.saturating_sub(1), self.gas_limit);
                    *self.bounds.insert(bounds)
                }
                failure => return Ok(Estimate::Fails(failure)),
            },
        };
        while succeeds.saturating_sub(fails) > 1 {
            let middle = fails.midpoint(succeeds);
            if matches!(self.run_with(middle)?, CallResult::Success { .. }) {
                succeeds = middle;
            } else {
                fails = middle;
            }
            self.bounds = Some((fails, succeeds));
        }
        Ok(Estimate::Gas(succeeds))
    }

    fn run_with(&mut self, gas_limit: u64) -> Result<CallResult, Missing> {
        let environment = self.environment(gas_limit);
        Ok(match self.evm.transact(&environment)? {
            Ok(executed) => CallResult::from(executed.result),
            Err(error) => CallResult::Refused(self.reason(error, gas_limit)),
        })
    }

    fn environment(&self, gas_limit: u64) -> TxEnv {
        TxEnv {
            tx_type: 0,
            caller: self.request.from.unwrap_or(evm::NOBODY),
            gas_limit,
            gas_price: self.request.gas_price,
            kind: self.request.to.map_or(TxKind::Create, TxKind::Call),
            value: self.request.value,
            data: self.request.input.clone(),
            nonce: 0,
            chain_id: None,
            access_list: Default::default(),
            gas_priority_fee: None,
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: Vec::new(),
        }
    }

    fn reason<E: std::fmt::Display>(
        &self,
        error: EVMError<E, revm::context_interface::result::InvalidTransaction>,
        gas_limit: u64,
    ) -> InvalidTransaction {
        let block = &self.evm.block;
        match error {
            EVMError::Transaction(invalid) => InvalidTransaction::from_evm(
                invalid,
                self.request.gas_price,
                block.basefee,
                block.gas_limit,
                gas_limit,
            ),
            other => InvalidTransaction::Other(other.to_string()),
        }
    }
}

impl CallResult {
    /// What revert data says in words: a module's error, or Solidity's `require` and `assert`.
    pub fn revert_reason(&self) -> Option<String> {
        match self {
            Self::Revert { output, .. } => crate::modules::explain(output),
            _ => None,
        }
    }
}

impl From<ExecutionResult> for CallResult {
    fn from(result: ExecutionResult) -> Self {
        let gas_used = result.tx_gas_used();
        match result {
            ExecutionResult::Success { output, logs, .. } => Self::Success {
                output: output.into_data(),
                gas_used,
                logs,
            },
            ExecutionResult::Revert { output, .. } => Self::Revert { output, gas_used },
            ExecutionResult::Halt { reason, .. } => Self::Halt {
                out_of_gas: matches!(reason, HaltReason::OutOfGas(_)),
                reason: reason.to_string(),
                gas_used,
            },
        }
    }
}

impl CallRequest {
    /// The call that a transaction makes.
    pub fn of(transaction: &Transaction) -> Self {
        Self {
            from: Some(transaction.sender()),
            to: transaction.to(),
            gas: Some(transaction.gas_limit()),
            gas_price: 0,
            value: transaction.value(),
            input: transaction.input().clone(),
        }
    }
}
