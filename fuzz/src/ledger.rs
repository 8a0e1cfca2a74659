//! Decoders of `lemma-ledger`.

use lemma_ledger::{Transaction, modules::endpoint};
use lemma_types::keccak256;

/// Ethereum transactions: one transaction has one encoding, and its hash is that of the bytes.
pub fn transaction(data: &[u8]) {
    if let Ok(transaction) = Transaction::decode(data, 1) {
        assert_eq!(transaction.raw().as_ref(), data);
        assert_eq!(transaction.hash(), keccak256(data));
    }
}

/// Endpoints of nodes: an accepted one is a URL that any client reads in the same way.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if endpoint::check(text).is_ok() {
        assert!(text.starts_with("http") && text.is_ascii());
        assert!(!text.contains(['@', '?', '#', ' ', '\\']));
    }
}
