//! Decoders of `lemma-ledger`.

use lemma_ledger::Transaction;
use lemma_types::keccak256;

/// Ethereum transactions: one transaction has one encoding, and its hash is that of the bytes.
pub fn transaction(data: &[u8]) {
    if let Ok(transaction) = Transaction::decode(data, 1) {
        assert_eq!(transaction.raw().as_ref(), data);
        assert_eq!(transaction.hash(), keccak256(data));
    }
}
