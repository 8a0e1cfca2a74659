//! The part of the state that is at hand.

use crate::{
    Account, Missing, StateKey, StateValue,
    account::{
        account_key, code_key, code_keys, code_length, decode_account, decode_code, decode_word,
        encode_code, encode_word, slot_key,
    },
    modules,
};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use revm::state::{AccountInfo, Bytecode, EvmState};
use std::collections::BTreeMap;

/// A partial view of the state: what was supplied, and what was written since.
#[derive(Debug, Clone, Default)]
pub struct State {
    supplied: BTreeMap<StateKey, Option<StateValue>>,
    written: BTreeMap<StateKey, Option<StateValue>>,
    /// Analysed once, looked up by content.
    codes: BTreeMap<B256, Bytecode>,
}

impl State {
    /// A view in which everything is still missing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the value of a key known; `None` if the state has none.
    pub fn supply(&mut self, key: StateKey, value: Option<StateValue>) {
        self.supplied.insert(key, value);
    }

    /// Whether the key's value is known.
    pub fn knows(&self, key: &StateKey) -> bool {
        self.written.contains_key(key) || self.supplied.contains_key(key)
    }

    /// Reads an account; the default account if the state has none.
    ///
    /// # Errors
    /// [`Missing`], if its key was not supplied.
    pub fn account(&self, address: Address) -> Result<Account, Missing> {
        Ok(self
            .get(account_key(address))?
            .map(|v| decode_account(&v))
            .unwrap_or_default())
    }

    /// Reads a storage slot.
    ///
    /// # Errors
    /// [`Missing`], if its key was not supplied.
    pub fn storage(&self, address: Address, slot: U256) -> Result<U256, Missing> {
        Ok(self
            .get(slot_key(address, slot))?
            .map(|v| decode_word(&v))
            .unwrap_or_default())
    }

    /// Reads an account's code; empty if it has none.
    ///
    /// # Errors
    /// [`Missing`]: first the account, then the first chunk, then the rest.
    pub fn code(&self, address: Address) -> Result<Bytes, Missing> {
        self.code_by_hash(self.account(address)?.code_hash)
    }

    fn code_by_hash(&self, hash: B256) -> Result<Bytes, Missing> {
        if hash == KECCAK256_EMPTY || hash.is_zero() {
            return Ok(Bytes::new());
        }
        if hash == modules::CODE_HASH {
            return Ok(Bytes::from_static(&modules::CODE));
        }
        let Some(first) = self.get(code_key(hash, 0))? else {
            return Ok(Bytes::new());
        };
        let length = code_length(&first);
        let keys = code_keys(hash, length);
        let missing: Vec<_> = keys
            .iter()
            .filter(|key| !self.knows(key))
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(Missing(missing));
        }
        let mut chunks = Vec::with_capacity(keys.len());
        for key in keys {
            chunks.push(self.get(key)?.unwrap_or(StateValue([0; StateValue::SIZE])));
        }
        Ok(decode_code(&chunks, length).into())
    }

    fn get(&self, key: StateKey) -> Result<Option<StateValue>, Missing> {
        match self.written.get(&key).or_else(|| self.supplied.get(&key)) {
            Some(value) => Ok(*value),
            None => Err(Missing(vec![key])),
        }
    }

    /// An account in the EVM's terms; `None` if the state has none.
    pub(crate) fn info(&self, address: Address) -> Result<Option<AccountInfo>, Missing> {
        Ok(self
            .get(account_key(address))?
            .map(|value| decode_account(&value).info()))
    }

    /// Analysed code.
    pub(crate) fn bytecode(&mut self, hash: B256) -> Result<Bytecode, Missing> {
        if let Some(code) = self.codes.get(&hash) {
            return Ok(code.clone());
        }
        let code = Bytecode::new_raw(self.code_by_hash(hash)?);
        self.codes.insert(hash, code.clone());
        Ok(code)
    }

    /// Writes a word of a system module outside of any transaction.
    pub(crate) fn write_slot(&mut self, address: Address, slot: U256, word: U256) {
        self.written
            .insert(slot_key(address, slot), encode_word(word));
    }

    /// Writes an account, and its code if it is given.
    pub(crate) fn write_account(
        &mut self,
        address: Address,
        account: &Account,
        code: Option<&[u8]>,
    ) {
        if let Some(code) = code {
            self.write_code(account.code_hash, code);
        }
        let value = (!account.is_empty()).then(|| account.encode());
        self.written.insert(account_key(address), value);
    }

    fn write_code(&mut self, hash: B256, code: &[u8]) {
        for (index, chunk) in (0..).zip(encode_code(code)) {
            self.written.insert(code_key(hash, index), Some(chunk));
        }
    }

    /// Takes over what a transaction changed. What is written depends on the transaction and the state
    /// alone, never on which values happened to be supplied.
    pub(crate) fn commit(&mut self, changes: EvmState) {
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            let key = account_key(address);
            let old = self.get(key).ok().flatten();
            let gone = account.is_selfdestructed() || account.is_empty();
            let new = (!gone).then(|| Account::from(&account.info));
            if old != new.as_ref().map(Account::encode) {
                self.written.insert(key, new.as_ref().map(Account::encode));
            }
            let Some(new) = new else { continue };
            let old_code = old.map_or(KECCAK256_EMPTY, |value| decode_account(&value).code_hash);
            if new.has_code()
                && new.code_hash != old_code
                && let Some(code) = &account.info.code
            {
                self.write_code(new.code_hash, code.original_byte_slice());
                self.codes.insert(new.code_hash, code.clone());
            }
            for (slot, value) in account.changed_storage_slots() {
                self.written
                    .insert(slot_key(address, *slot), encode_word(value.present_value));
            }
        }
    }

    /// All writes so far.
    pub(crate) fn into_writes(self) -> BTreeMap<StateKey, Option<StateValue>> {
        self.written
    }
}
