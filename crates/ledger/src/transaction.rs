//! Transactions as they come from outside: bounded, decoded once, the sender known.

use alloy_consensus::{
    EthereumTxEnvelope, Transaction as _, TxEip4844, Typed2718, crypto::RecoveryError,
    transaction::SignerRecoverable,
};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, uint};
use revm::{
    context::TxEnv,
    context_interface::{
        either::Either,
        transaction::{RecoveredAuthority, RecoveredAuthorization},
    },
};

/// The largest transaction accepted, in bytes of its EIP-2718 encoding.
/// Evidence of a model of four million parameters fits; as call data it takes 15.8 of the 16.8 million gas that a
/// transaction may have (EIP-7623, EIP-7825).
pub const MAX_TRANSACTION_BYTES: usize = 384 * 1024;

/// The most EIP-7702 authorizations in one transaction: each costs a signature recovery on decoding.
pub const MAX_AUTHORIZATIONS: usize = 128;

/// Half the order of secp256k1: a larger `s` is the same signature written another way (EIP-2).
const HALF_ORDER: U256 =
    uint!(0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0_U256);

type Envelope = EthereumTxEnvelope<TxEip4844>;

/// Why bytes are not a transaction of this network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Longer than [`MAX_TRANSACTION_BYTES`].
    #[error("transaction has {0} bytes, more than the {MAX_TRANSACTION_BYTES} allowed")]
    TooLarge(usize),
    /// Not an EIP-2718 transaction.
    #[error("transaction can not be decoded: {0}")]
    Malformed(String),
    /// Decodes, but its bytes are not the ones that encoding it again gives.
    #[error("transaction is not in its canonical encoding")]
    NotCanonical,
    /// A type that this network does not carry.
    #[error("transaction type {0} is not supported; use type 0, 1, 2 or 4")]
    UnsupportedType(u8),
    /// More than [`MAX_AUTHORIZATIONS`].
    #[error("transaction has {0} authorizations, more than the {MAX_AUTHORIZATIONS} allowed")]
    TooManyAuthorizations(usize),
    /// A type 0 transaction without EIP-155 replay protection.
    #[error("transaction has no chain id; sign it for chain id {expected} (EIP-155)")]
    NoChainId {
        /// This network's chain id.
        expected: u64,
    },
    /// Signed for another network.
    #[error("transaction is signed for chain id {found}, but this network has chain id {expected}")]
    WrongChainId {
        /// This network's chain id.
        expected: u64,
        /// The chain id in the transaction.
        found: u64,
    },
    /// The signature's `s` is in the upper half of the group order (EIP-2).
    #[error("signature is malleable: s is above half the group order (EIP-2); normalise it")]
    HighS,
    /// No key has made this signature.
    #[error("signature is invalid: no sender can be recovered")]
    BadSignature,
}

/// A signed Ethereum transaction of type 0, 1, 2 or 4, with its sender.
///
/// Made by [`Transaction::decode`] only, so a value of this type is well-formed, for the right network,
/// and signed by [`Transaction::sender`]. Whether it can be executed (nonce, funds, gas) is for the
/// state to say.
#[derive(Debug, Clone)]
pub struct Transaction {
    raw: Bytes,
    envelope: Envelope,
    hash: B256,
    sender: Address,
    environment: TxEnv,
}

impl PartialEq for Transaction {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for Transaction {}

impl Transaction {
    /// Decodes an EIP-2718 transaction, checks that it is for this network, and recovers its sender
    /// (the expensive part: some 30 microseconds).
    ///
    /// # Errors
    /// See [`TransactionError`]. No input panics or allocates more than a small multiple of
    /// [`MAX_TRANSACTION_BYTES`].
    pub fn decode(raw: &[u8], chain_id: u64) -> Result<Self, TransactionError> {
        if raw.len() > MAX_TRANSACTION_BYTES {
            return Err(TransactionError::TooLarge(raw.len()));
        }
        check_type(raw)?;
        let envelope = Envelope::decode_2718_exact(raw)
            .map_err(|error| TransactionError::Malformed(error.to_string()))?;
        if envelope.encoded_2718() != raw {
            return Err(TransactionError::NotCanonical);
        }
        let authorizations = envelope.authorization_list().unwrap_or_default().len();
        if authorizations > MAX_AUTHORIZATIONS {
            return Err(TransactionError::TooManyAuthorizations(authorizations));
        }
        match envelope.chain_id() {
            None => return Err(TransactionError::NoChainId { expected: chain_id }),
            Some(found) if found != chain_id => {
                return Err(TransactionError::WrongChainId {
                    expected: chain_id,
                    found,
                });
            }
            Some(_) => {}
        }
        if envelope.signature().s() > HALF_ORDER {
            return Err(TransactionError::HighS);
        }
        let sender = envelope
            .recover_signer()
            .map_err(|_: RecoveryError| TransactionError::BadSignature)?;
        let environment = environment(&envelope, sender);
        let hash = *envelope.hash();
        Ok(Self {
            raw: Bytes::copy_from_slice(raw),
            envelope,
            hash,
            sender,
            environment,
        })
    }

    /// The EIP-2718 bytes.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Keccak-256 of the EIP-2718 bytes.
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Who signed.
    pub fn sender(&self) -> Address {
        self.sender
    }

    /// The decoded transaction with its signature.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// EIP-2718 type: 0, 1, 2 or 4.
    pub fn kind(&self) -> u8 {
        self.envelope.ty()
    }

    /// The called account; `None` if the transaction creates a contract.
    pub fn to(&self) -> Option<Address> {
        self.envelope.to()
    }

    /// The sender's nonce that this transaction uses up.
    pub fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    /// Wei transferred to the recipient.
    pub fn value(&self) -> U256 {
        self.envelope.value()
    }

    /// Call data or init code.
    pub fn input(&self) -> &Bytes {
        self.envelope.input()
    }

    /// The most gas that the transaction may use.
    pub fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit()
    }

    /// The most the sender pays for a unit of gas, in wei.
    pub fn max_fee_per_gas(&self) -> u128 {
        self.envelope.max_fee_per_gas()
    }

    /// What the sender pays for a unit of gas at this base fee, in wei; `None` if the transaction does
    /// not even pay the base fee.
    pub fn effective_gas_price(&self, base_fee: u64) -> Option<u128> {
        let base_fee = u128::from(base_fee);
        let max_fee = self.envelope.max_fee_per_gas();
        if max_fee < base_fee {
            return None;
        }
        Some(match self.envelope.max_priority_fee_per_gas() {
            Some(tip) => max_fee.min(base_fee.saturating_add(tip)),
            None => max_fee,
        })
    }

    /// What the block's beneficiary gets for a unit of gas at this base fee, in wei: the order of a
    /// mempool. `None` if the transaction does not pay the base fee.
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        self.effective_gas_price(base_fee)?
            .checked_sub(u128::from(base_fee))
    }

    /// The most that the transaction can cost its sender, in wei: value and all gas at the highest
    /// price. Saturates; no account has that much.
    pub fn max_cost(&self) -> U256 {
        U256::from(self.max_fee_per_gas())
            .saturating_mul(U256::from(self.gas_limit()))
            .saturating_add(self.value())
    }

    /// Addresses of all accounts that executing this is certain to load: sender, recipient or created
    /// contract, access list, EIP-7702 authorities.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = Address> + '_ {
        let target = self
            .to()
            .unwrap_or_else(|| self.sender.create(self.nonce()));
        let listed = self
            .environment
            .access_list
            .0
            .iter()
            .map(|item| item.address);
        let authorities =
            self.environment
                .authorization_list
                .iter()
                .filter_map(|entry| match entry {
                    Either::Left(_) => None,
                    Either::Right(recovered) => recovered.authority(),
                });
        [self.sender, target]
            .into_iter()
            .chain(listed)
            .chain(authorities)
    }

    /// Slots of the access list.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (Address, U256)> + '_ {
        self.environment.access_list.0.iter().flat_map(|item| {
            item.storage_keys
                .iter()
                .map(|slot| (item.address, U256::from_be_bytes(slot.0)))
        })
    }

    pub(crate) fn environment(&self) -> &TxEnv {
        &self.environment
    }
}

/// The first byte of an EIP-2718 transaction: its type, or the head of an RLP list for type 0.
fn check_type(raw: &[u8]) -> Result<(), TransactionError> {
    match raw.first() {
        None => Err(TransactionError::Malformed("no bytes".into())),
        Some(1 | 2 | 4 | 0xc0..) => Ok(()),
        Some(kind @ ..0x80) => Err(TransactionError::UnsupportedType(*kind)),
        Some(_) => Err(TransactionError::Malformed(
            "begins like an RLP string".into(),
        )),
    }
}

fn environment(tx: &Envelope, sender: Address) -> TxEnv {
    TxEnv {
        tx_type: tx.ty(),
        caller: sender,
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.to().map_or(TxKind::Create, TxKind::Call),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: tx
            .authorization_list()
            .unwrap_or_default()
            .iter()
            .map(|signed| {
                let authority = signed
                    .recover_authority()
                    .map_or(RecoveredAuthority::Invalid, RecoveredAuthority::Valid);
                let authorization = signed.inner().clone();
                Either::Right(RecoveredAuthorization::new_unchecked(
                    authorization,
                    authority,
                ))
            })
            .collect(),
    }
}
