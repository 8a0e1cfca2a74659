//! Transaction receipts and the roots that a block header commits to.

use crate::Transaction;
use alloy_consensus::{
    Eip658Value, ReceiptEnvelope, ReceiptWithBloom, TxType,
    proofs::{calculate_receipt_root, ordered_trie_root_with_encoder},
};
use alloy_primitives::{Address, B256, Bloom, Bytes, Log};

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction's hash.
    pub transaction_hash: B256,
    /// EIP-2718 type: 0, 1, 2 or 4.
    pub kind: u8,
    /// Whether it took effect. A transaction that reverts or runs out of gas pays and changes nothing else.
    pub success: bool,
    /// Gas used by this transaction.
    pub gas_used: u64,
    /// Gas used by the block up to and including this transaction.
    pub cumulative_gas_used: u64,
    /// Wei paid per gas.
    pub effective_gas_price: u128,
    /// The contract created, if the transaction created one.
    pub contract_address: Option<Address>,
    /// Events, in order; none if the transaction failed.
    pub logs: Vec<Log>,
    /// Return or revert data. Not committed to by the block.
    pub output: Bytes,
}

impl Receipt {
    /// The form that Ethereum hashes: type, status, cumulative gas, bloom and logs.
    pub fn envelope(&self) -> ReceiptEnvelope {
        let receipt = alloy_consensus::Receipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.clone(),
        };
        let receipt: ReceiptWithBloom<_> = receipt.with_bloom();
        match TxType::try_from(self.kind) {
            Ok(TxType::Eip2930) => ReceiptEnvelope::Eip2930(receipt),
            Ok(TxType::Eip1559) => ReceiptEnvelope::Eip1559(receipt),
            Ok(TxType::Eip7702) => ReceiptEnvelope::Eip7702(receipt),
            _ => ReceiptEnvelope::Legacy(receipt),
        }
    }
}

/// The header's `receiptsRoot`: a Merkle Patricia trie from RLP index to EIP-2718 receipt.
pub fn receipts_root(receipts: &[Receipt]) -> B256 {
    let envelopes: Vec<_> = receipts.iter().map(Receipt::envelope).collect();
    calculate_receipt_root(&envelopes)
}

/// The header's `transactionsRoot`: a Merkle Patricia trie from RLP index to EIP-2718 transaction.
pub fn transactions_root(transactions: &[Transaction]) -> B256 {
    let raw: Vec<_> = transactions.iter().map(Transaction::raw).collect();
    raw_transactions_root(&raw)
}

pub(crate) fn raw_transactions_root<T: AsRef<[u8]>>(raw: &[T]) -> B256 {
    ordered_trie_root_with_encoder(raw, |tx, out| out.extend_from_slice(tx.as_ref()))
}

/// The header's bloom filter: the union over all receipts' logs.
pub fn logs_bloom(receipts: &[Receipt]) -> Bloom {
    alloy_primitives::logs_bloom(receipts.iter().flat_map(|receipt| &receipt.logs))
}
