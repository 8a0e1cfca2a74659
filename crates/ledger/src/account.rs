//! How accounts, storage slots and code are laid out in the state.
//!
//! | what | key = keccak-256 of | value |
//! | --- | --- | --- |
//! | account | `"a" ‖ address` | balance (32, big endian) ‖ nonce (8) ‖ code hash (32) |
//! | storage slot | `"s" ‖ address ‖ slot (32)` | word (32) ‖ zeros |
//! | code chunk i | `"c" ‖ code hash ‖ i (4)` | the i-th 72 bytes of: length (4) ‖ code ‖ zeros |
//!
//! Empty accounts (EIP-161) and zero words are absent. Code is addressed by its hash, shared by all
//! contracts that have it, and never removed.

use crate::{StateKey, StateValue};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, Keccak256, U256};
use revm::state::AccountInfo;

/// What the state says about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// In wei (10^-18 LEM).
    pub balance: U256,
    /// Number of transactions sent; for a contract, 1 plus the number of contracts created.
    pub nonce: u64,
    /// Keccak-256 of the code; of the empty string for an account without code.
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            balance: U256::ZERO,
            nonce: 0,
            code_hash: KECCAK256_EMPTY,
        }
    }
}

impl Account {
    /// An account that has only a balance.
    pub fn funded(balance: U256) -> Self {
        Self {
            balance,
            ..Self::default()
        }
    }

    /// No balance, no nonce, no code: such an account is not stored (EIP-161).
    pub fn is_empty(&self) -> bool {
        self.balance.is_zero() && self.nonce == 0 && !self.has_code()
    }

    /// Whether the account has code.
    pub fn has_code(&self) -> bool {
        self.code_hash != KECCAK256_EMPTY
    }

    /// The stored form.
    pub fn encode(&self) -> StateValue {
        let mut value = [0; StateValue::SIZE];
        value[..32].copy_from_slice(&self.balance.to_be_bytes::<32>());
        value[32..40].copy_from_slice(&self.nonce.to_be_bytes());
        value[40..].copy_from_slice(self.code_hash.as_slice());
        StateValue(value)
    }

    pub(crate) fn info(&self) -> AccountInfo {
        AccountInfo {
            balance: self.balance,
            nonce: self.nonce,
            code_hash: self.code_hash,
            code: None,
            account_id: None,
        }
    }
}

impl From<&AccountInfo> for Account {
    fn from(info: &AccountInfo) -> Self {
        Self {
            balance: info.balance,
            nonce: info.nonce,
            code_hash: info.code_hash,
        }
    }
}

/// Reads an account from its stored form. Every value is a valid account.
pub fn decode_account(value: &StateValue) -> Account {
    let (balance, rest) = value.0.split_at(32);
    let (nonce, code_hash) = rest.split_at(8);
    Account {
        balance: U256::from_be_slice(balance),
        nonce: u64::from_be_bytes(nonce.try_into().expect("split at 8")),
        code_hash: B256::from_slice(code_hash),
    }
}

/// The key of an account.
pub fn account_key(address: Address) -> StateKey {
    key(b'a', &[address.as_slice()])
}

/// The key of a storage slot of a contract or module.
pub fn slot_key(address: Address, slot: U256) -> StateKey {
    key(b's', &[address.as_slice(), &slot.to_be_bytes::<32>()])
}

/// The key of the `index`-th chunk of the code with this hash.
pub fn code_key(code_hash: B256, index: u32) -> StateKey {
    key(b'c', &[code_hash.as_slice(), &index.to_be_bytes()])
}

/// The keys of all chunks of a code of `length` bytes, in order.
pub fn code_keys(code_hash: B256, length: usize) -> Vec<StateKey> {
    let chunks = length
        .saturating_add(LENGTH_PREFIX)
        .div_ceil(StateValue::SIZE);
    (0..u32::try_from(chunks).unwrap_or(u32::MAX))
        .map(|i| code_key(code_hash, i))
        .collect()
}

fn key(tag: u8, parts: &[&[u8]]) -> StateKey {
    let mut hasher = Keccak256::new();
    hasher.update([tag]);
    for part in parts {
        hasher.update(part);
    }
    StateKey(hasher.finalize().0)
}

const LENGTH_PREFIX: usize = 4;

/// The word in a slot's value.
pub(crate) fn decode_word(value: &StateValue) -> U256 {
    U256::from_be_slice(&value.0[..32])
}

/// A slot's value; a zero word is not stored.
pub(crate) fn encode_word(word: U256) -> Option<StateValue> {
    (!word.is_zero()).then(|| StateValue::padded(&word.to_be_bytes::<32>()))
}

/// The chunks of a code, in order.
pub(crate) fn encode_code(code: &[u8]) -> Vec<StateValue> {
    let length = u32::try_from(code.len()).expect("EIP-170 bounds code far below 4 GiB");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(code);
    bytes
        .chunks(StateValue::SIZE)
        .map(StateValue::padded)
        .collect()
}

/// The code's length, by its first chunk.
pub(crate) fn code_length(first: &StateValue) -> usize {
    let prefix = first.0[..LENGTH_PREFIX].try_into().expect("four bytes");
    usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX)
}

/// Puts the chunks together again.
pub(crate) fn decode_code(chunks: &[StateValue], length: usize) -> Vec<u8> {
    chunks
        .iter()
        .flat_map(|chunk| chunk.0)
        .skip(LENGTH_PREFIX)
        .take(length)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn accounts_survive_encoding(balance: [u8; 32], nonce: u64, hash: [u8; 32]) {
            let account = Account {
                balance: U256::from_be_bytes(balance),
                nonce,
                code_hash: B256::from(hash),
            };
            prop_assert_eq!(decode_account(&account.encode()), account);
        }

        #[test]
        fn code_survives_chunking(code in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let chunks = encode_code(&code);
            prop_assert_eq!(chunks.len(), code_keys(B256::ZERO, code.len()).len());
            prop_assert_eq!(code_length(&chunks[0]), code.len());
            prop_assert_eq!(decode_code(&chunks, code.len()), code);
        }

        #[test]
        fn words_survive_encoding(word: [u8; 32]) {
            let word = U256::from_be_bytes(word);
            let decoded = encode_word(word).as_ref().map(decode_word).unwrap_or_default();
            prop_assert_eq!(decoded, word);
        }
    }

    #[test]
    fn keys_of_different_kinds_differ() {
        let keys = [
            account_key(Address::ZERO),
            slot_key(Address::ZERO, U256::ZERO),
            slot_key(Address::ZERO, U256::from(1)),
            code_key(B256::ZERO, 0),
            code_key(B256::ZERO, 1),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
