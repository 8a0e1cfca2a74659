//! Signing of Ethereum transactions by node roles and the command line.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;

use crate::{Bytes, keys::SecretKey};

/// Signs an EIP-1559 transaction and returns its EIP-2718 bytes, ready for `eth_sendRawTransaction`.
#[must_use]
pub fn sign_eip1559(transaction: TxEip1559, key: &SecretKey) -> Bytes {
    let signature = key.sign(transaction.signature_hash());
    TxEnvelope::from(transaction.into_signed(signature))
        .encoded_2718()
        .into()
}
