//! What a network starts from.

use alloy_primitives::{Address, U256};
use std::collections::BTreeMap;

/// What all nodes of a network agree on beforehand.
///
/// The genesis block (height 0) commits to the empty state; the allocation and the system modules are
/// written by the block at height 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The EIP-155 chain id, in every transaction.
    pub chain_id: u64,
    /// Time of the genesis block, in seconds since 1970.
    pub timestamp: u64,
    /// Gas available to a block's transactions.
    pub gas_limit: u64,
    /// Base fee of the first block, in wei per gas.
    pub base_fee: u64,
    /// The base fee never falls below this, in wei per gas.
    pub min_base_fee: u64,
    /// Balances at height 1, in wei.
    pub alloc: BTreeMap<Address, U256>,
}

/// Why a genesis can not start a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Chain id 0 is not replay-protected.
    #[error("chain id is 0; choose a positive one")]
    ZeroChainId,
    /// A block must hold at least the system modules' largest calls.
    #[error("gas limit {0} is below the minimum of {min}", min = Genesis::MIN_GAS_LIMIT)]
    GasLimitTooLow(u64),
    /// The base fee would start below its own floor.
    #[error("base fee {base_fee} is below the minimum base fee {min_base_fee}")]
    BaseFeeBelowMinimum {
        /// The configured base fee.
        base_fee: u64,
        /// The configured floor.
        min_base_fee: u64,
    },
    /// All balances together must fit in 128 bits, so that no sum of balances ever overflows.
    #[error("the allocation exceeds 2^128 - 1 wei in total")]
    AllocationTooLarge,
    /// The addresses of system modules hold no funds.
    #[error("the allocation funds {0}, which is the address of a system module")]
    AllocatesToModule(Address),
    /// The verifier of proofs would not decide on this machine as on others.
    #[error("proofs can not be verified here: {0}")]
    Proofs(String),
}

impl Genesis {
    /// The least gas limit of a block.
    pub const MIN_GAS_LIMIT: u64 = 1_000_000;

    /// A local development network: 30 million gas a block, base fee from 1 gwei down to 1 wei.
    pub fn development(chain_id: u64, timestamp: u64, alloc: BTreeMap<Address, U256>) -> Self {
        Self {
            chain_id,
            timestamp,
            gas_limit: 30_000_000,
            base_fee: 1_000_000_000,
            min_base_fee: 1,
            alloc,
        }
    }

    /// Checks what [`crate::Execution`] relies on. Call once, when the genesis is loaded.
    ///
    /// # Errors
    /// See [`GenesisError`].
    pub fn validate(&self) -> Result<(), GenesisError> {
        if self.chain_id == 0 {
            return Err(GenesisError::ZeroChainId);
        }
        if self.gas_limit < Self::MIN_GAS_LIMIT {
            return Err(GenesisError::GasLimitTooLow(self.gas_limit));
        }
        if self.base_fee < self.min_base_fee {
            let (base_fee, min_base_fee) = (self.base_fee, self.min_base_fee);
            return Err(GenesisError::BaseFeeBelowMinimum {
                base_fee,
                min_base_fee,
            });
        }
        self.supply()
            .filter(|supply| *supply <= U256::from(u128::MAX))
            .ok_or(GenesisError::AllocationTooLarge)?;
        for module in crate::modules::ADDRESSES {
            if self.alloc.contains_key(&module) {
                return Err(GenesisError::AllocatesToModule(module));
            }
        }
        lemma_proof::check_parameters().map_err(GenesisError::Proofs)
    }

    /// The sum of all allocated balances; `None` if it exceeds 256 bits.
    pub fn supply(&self) -> Option<U256> {
        self.alloc
            .values()
            .try_fold(U256::ZERO, |sum, balance| sum.checked_add(*balance))
    }
}
