//! System modules: native code behind Solidity interfaces at fixed addresses.
//!
//! A module is called like a contract, by transactions and by contracts. Its storage is ordinary EVM
//! storage of its address, so it is provable and reverts with the transaction; its events are ordinary
//! logs. Nobody administers a module. The interfaces for Solidity are in `contracts/`.
//!
//! | address | module | what |
//! | --- | --- | --- |
//! | `0x4c454d4d41000000000000000000000000000001` | [`models`] | names, versions and manifests of models |
//! | `0x4c454d4d41000000000000000000000000000002` | [`nodes`] | workers: endpoint and payee |
//! | `0x4c454d4d41000000000000000000000000000003` | [`receipts`] | settled batches of receipts, an append-only log |
//! | `0x4c454d4d41000000000000000000000000000004` | [`history`] | hashes of all ancestor blocks, an append-only log |
//! | `0x4c454d4d41000000000000000000000000000005` | [`proofs`] | a verifier of proofs of inference, accepted proofs |
//!
//! The prefix is `LEMMA` in ASCII. Each address holds the one-byte code `0xfe` (`INVALID`), so that
//! Solidity's check that the callee has code passes; the byte itself is never run.

#[allow(missing_docs, reason = "documented in the Solidity files")]
pub mod abi;
pub mod endpoint;
mod frame;
pub mod history;
mod log;
pub mod models;
pub mod nodes;
pub mod proofs;
pub mod receipts;

pub use abi::explain;

use crate::{
    Account, Genesis, SPEC, State, StateKey, Transaction,
    account::{account_key, slot_key},
    evm::LedgerContext,
};
use alloy_primitives::{Address, B256, U256, address, b256};
use frame::Frame;
use revm::{
    handler::{EthPrecompiles, PrecompileProvider},
    interpreter::{CallInputs, InterpreterResult},
    primitives::{AddressSet, hardfork::SpecId},
};
use std::sync::LazyLock;

/// Address of the models module.
pub const MODELS: Address = address!("4c454d4d41000000000000000000000000000001");
/// Address of the nodes module.
pub const NODES: Address = address!("4c454d4d41000000000000000000000000000002");
/// Address of the receipts module.
pub const RECEIPTS: Address = address!("4c454d4d41000000000000000000000000000003");
/// Address of the history module.
pub const HISTORY: Address = address!("4c454d4d41000000000000000000000000000004");
/// Address of the proofs module.
pub const PROOFS: Address = address!("4c454d4d41000000000000000000000000000005");

/// All modules.
pub const ADDRESSES: [Address; 5] = [MODELS, NODES, RECEIPTS, HISTORY, PROOFS];

/// The code at each module's address.
pub(crate) static CODE: [u8; 1] = [0xfe];

/// Keccak-256 of [`CODE`].
pub(crate) const CODE_HASH: B256 =
    b256!("bcc90f2d6dada5b18e155c17a1c0a55920aae94f39857d39d0d8ed07ae8f228b");

/// The EVM's native contracts: Ethereum's precompiles and this ledger's modules.
pub(crate) struct Modules {
    ethereum: EthPrecompiles,
}

/// Addresses that are warm from the start of each transaction: Ethereum's precompiles and the modules.
static WARM: LazyLock<AddressSet> = LazyLock::new(|| {
    let mut warm = EthPrecompiles::new(SPEC).warm_addresses().clone();
    warm.extend(ADDRESSES);
    warm
});

impl Modules {
    pub(crate) fn new() -> Self {
        let ethereum = EthPrecompiles::new(SPEC);
        Self { ethereum }
    }
}

impl PrecompileProvider<LedgerContext> for Modules {
    type Output = InterpreterResult;

    fn set_spec(&mut self, _: SpecId) -> bool {
        // The rules never change within one EVM.
        false
    }

    fn run(
        &mut self,
        context: &mut LedgerContext,
        inputs: &CallInputs,
    ) -> Result<Option<InterpreterResult>, String> {
        Ok(Some(match inputs.bytecode_address {
            MODELS => Frame::run(context, inputs, models::call),
            NODES => Frame::run(context, inputs, nodes::call),
            RECEIPTS => Frame::run(context, inputs, receipts::call),
            HISTORY => Frame::run(context, inputs, history::call),
            PROOFS => Frame::run(context, inputs, proofs::call),
            _ => return self.ethereum.run(context, inputs),
        }))
    }

    fn warm_addresses(&self) -> &AddressSet {
        &WARM
    }
}

/// Writes what height 1 brings into being: the allocation and the modules' accounts.
pub(crate) fn install(state: &mut State, genesis: &Genesis) {
    for (address, balance) in &genesis.alloc {
        state.write_account(*address, &Account::funded(*balance), None);
    }
    let account = Account {
        nonce: 1,
        code_hash: CODE_HASH,
        ..Account::default()
    };
    for module in ADDRESSES {
        state.write_account(module, &account, Some(&CODE));
    }
}

/// Keys that a block with these transactions is certain, or nearly so, to read from modules.
pub(crate) fn prefetch(number: u64, transactions: &[Transaction]) -> Vec<StateKey> {
    let mut keys: Vec<_> = history::prefetch(number).collect();
    keys.extend(receipts::prefetch(transactions));
    keys.extend(
        ADDRESSES
            .into_iter()
            .filter(|module| transactions.iter().any(|tx| tx.to() == Some(*module)))
            .map(account_key),
    );
    keys
}

/// Keys of slots of a module.
fn slot_keys(
    module: Address,
    slots: impl IntoIterator<Item = U256>,
) -> impl Iterator<Item = StateKey> {
    slots.into_iter().map(move |slot| slot_key(module, slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_hash_is_that_of_the_code() {
        assert_eq!(alloy_primitives::keccak256(CODE), CODE_HASH);
    }
}
