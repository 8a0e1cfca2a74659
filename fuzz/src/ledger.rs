//! Decoders of `lemma-ledger`.

use lemma_ledger::{Transaction, modules::endpoint};
use lemma_types::keccak256;

/// Ethereum transactions: one transaction has one encoding, and its hash is that of the bytes.
pub fn transaction(data: &[u8]) -> bool {
    let Ok(transaction) = Transaction::decode(data, 1) else {
        return false;
    };
    assert_eq!(transaction.raw().as_ref(), data);
    assert_eq!(transaction.hash(), keccak256(data));
    true
}

/// Endpoints of nodes: an accepted one is a URL that any client reads in the same way.
pub fn endpoint(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    if endpoint::check(text).is_err() {
        return false;
    }
    assert!(text.starts_with("http") && text.is_ascii());
    assert!(!text.contains(['@', '?', '#', ' ', '\\']));
    true
}
