//! Why a well-formed transaction can not be part of a block.

use alloy_primitives::U256;
use revm::context_interface::result::InvalidTransaction as Evm;

/// Why a transaction can not be included in this block at this place. Nothing is charged and nothing
/// changes; a block that contains such a transaction is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransaction {
    /// The nonce was used before.
    #[error("nonce {nonce} was used already; the account's next nonce is {expected}")]
    NonceTooLow {
        /// The transaction's nonce.
        nonce: u64,
        /// The account's next nonce.
        expected: u64,
    },
    /// Earlier nonces are missing.
    #[error("nonce {nonce} leaves a gap; the account's next nonce is {expected}")]
    NonceTooHigh {
        /// The transaction's nonce.
        nonce: u64,
        /// The account's next nonce.
        expected: u64,
    },
    /// The sender can not pay value and gas.
    #[error(
        "insufficient funds: value and gas may cost {required} wei, the sender has {balance} wei"
    )]
    InsufficientFunds {
        /// Value plus gas limit times highest price.
        required: U256,
        /// The sender's balance.
        balance: U256,
    },
    /// Value and gas together exceed 256 bits: nobody has so much.
    #[error("value and gas together may cost more than 2^256 wei")]
    CostOverflows,
    /// The highest price per gas is below the block's base fee.
    #[error("max fee of {max_fee} wei per gas is below the block's base fee of {base_fee}")]
    FeeBelowBaseFee {
        /// The transaction's highest price per gas.
        max_fee: u128,
        /// The block's base fee.
        base_fee: u64,
    },
    /// The tip exceeds the highest price.
    #[error("max priority fee per gas exceeds max fee per gas")]
    TipAboveMaxFee,
    /// More gas than the block has left.
    #[error("gas limit {gas_limit} exceeds the {available} gas that the block has left")]
    GasAboveBlock {
        /// The transaction's gas limit.
        gas_limit: u64,
        /// Gas not yet used in the block.
        available: u64,
    },
    /// More gas than one transaction may have (EIP-7825).
    #[error("gas limit {gas_limit} exceeds the cap of {cap} for one transaction (EIP-7825)")]
    GasAboveCap {
        /// The transaction's gas limit.
        gas_limit: u64,
        /// The most that is allowed.
        cap: u64,
    },
    /// The gas limit does not cover what every such transaction costs.
    #[error(
        "gas limit {gas_limit} is below the {required} gas that this transaction needs at least"
    )]
    IntrinsicGas {
        /// The transaction's gas limit.
        gas_limit: u64,
        /// The least gas: base cost, call data, access list (EIP-2028, 2930, 3860, 7623).
        required: u64,
    },
    /// Init code over EIP-3860's limit.
    #[error("init code is longer than EIP-3860 allows (49152 bytes)")]
    InitCodeTooLarge,
    /// Contracts send no transactions (EIP-3607).
    #[error("the sender is a contract (EIP-3607)")]
    SenderHasCode,
    /// The nonce has reached its end (EIP-2681).
    #[error("the sender's nonce can not grow further (EIP-2681)")]
    NonceExhausted,
    /// Signed for another chain.
    #[error("the transaction is signed for another chain id")]
    ChainId,
    /// A type 4 transaction without authorizations.
    #[error("a type 4 transaction needs at least one authorization (EIP-7702)")]
    NoAuthorizations,
    /// Any other rule of the EVM.
    #[error("{0}")]
    Other(String),
}

impl InvalidTransaction {
    /// Whether a later state may accept the transaction as it is: a mempool keeps such a one.
    pub fn may_become_valid(&self) -> bool {
        matches!(
            self,
            Self::NonceTooHigh { .. }
                | Self::InsufficientFunds { .. }
                | Self::FeeBelowBaseFee { .. }
                | Self::GasAboveBlock { .. }
        )
    }

    pub(crate) fn from_evm(
        error: Evm,
        max_fee: u128,
        base_fee: u64,
        block_gas: u64,
        gas: u64,
    ) -> Self {
        match error {
            Evm::NonceTooLow { tx, state } => Self::NonceTooLow {
                nonce: tx,
                expected: state,
            },
            Evm::NonceTooHigh { tx, state } => Self::NonceTooHigh {
                nonce: tx,
                expected: state,
            },
            Evm::LackOfFundForMaxFee { fee, balance } => Self::InsufficientFunds {
                required: *fee,
                balance: *balance,
            },
            Evm::OverflowPaymentInTransaction => Self::CostOverflows,
            Evm::GasPriceLessThanBasefee => Self::FeeBelowBaseFee { max_fee, base_fee },
            Evm::PriorityFeeGreaterThanMaxFee => Self::TipAboveMaxFee,
            Evm::CallerGasLimitMoreThanBlock => Self::GasAboveBlock {
                gas_limit: gas,
                available: block_gas,
            },
            Evm::TxGasLimitGreaterThanCap { gas_limit, cap } => {
                Self::GasAboveCap { gas_limit, cap }
            }
            Evm::CallGasCostMoreThanGasLimit {
                initial_gas: required,
                gas_limit,
            }
            | Evm::GasFloorMoreThanGasLimit {
                gas_floor: required,
                gas_limit,
            } => Self::IntrinsicGas {
                gas_limit,
                required,
            },
            Evm::CreateInitCodeSizeLimit => Self::InitCodeTooLarge,
            Evm::RejectCallerWithCode => Self::SenderHasCode,
            Evm::NonceOverflowInTransaction => Self::NonceExhausted,
            Evm::InvalidChainId | Evm::MissingChainId => Self::ChainId,
            Evm::EmptyAuthorizationList => Self::NoAuthorizations,
            other => Self::Other(other.to_string()),
        }
    }
}
