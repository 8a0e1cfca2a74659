//! What a transaction must satisfy in every state: whoever takes transactions in can refuse others at once.

use crate::{
    BlockContext, Genesis, InvalidTransaction, SPEC, Transaction,
    evm::{block_environment, rules},
};
use alloy_primitives::{Address, B256};
use revm::{
    Context, MainContext,
    context_interface::{Cfg as _, ContextTr as _},
    handler::validation::{validate_initial_tx_gas, validate_tx_env},
};

impl Transaction {
    /// Checks all that does not depend on the state: the gas limit covers what such a transaction costs at least and
    /// stays within a transaction's cap and the block's limit, the tip does not exceed the highest price, init code has
    /// its bounds.
    ///
    /// # Errors
    /// See [`InvalidTransaction`].
    pub fn check(&self, genesis: &Genesis) -> Result<(), InvalidTransaction> {
        let block = BlockContext {
            number: 1,
            timestamp: 0,
            parent_hash: B256::ZERO,
            beneficiary: Address::ZERO,
            randomness: B256::ZERO,
            gas_limit: genesis.gas_limit,
            base_fee: 0,
        };
        let mut context = Context::mainnet()
            .with_cfg(rules(genesis))
            .with_block(block_environment(&block))
            .with_tx(self.environment().clone());
        let cap = context.cfg().tx_gas_limit_cap();
        validate_tx_env(&mut context, SPEC)
            .and_then(|()| {
                validate_initial_tx_gas(context.tx(), SPEC, false, false, cap, None).map(drop)
            })
            .map_err(|error| {
                InvalidTransaction::from_evm(
                    error,
                    self.max_fee_per_gas(),
                    0,
                    genesis.gas_limit,
                    self.gas_limit(),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::TxEip1559;
    use alloy_primitives::{Bytes, TxKind};
    use lemma_types::{keys::SecretKey, transaction::sign_eip1559};
    use std::collections::BTreeMap;

    fn check(change: impl FnOnce(&mut TxEip1559)) -> Result<(), InvalidTransaction> {
        let genesis = Genesis::development(7, 0, BTreeMap::new());
        let mut transaction = TxEip1559 {
            chain_id: 7,
            gas_limit: 21_000,
            max_fee_per_gas: 1,
            to: Address::ZERO.into(),
            ..TxEip1559::default()
        };
        change(&mut transaction);
        let key = SecretKey::from_bytes(&[1; 32]).expect("a valid key");
        let raw = sign_eip1559(transaction, &key);
        Transaction::decode(&raw, 7)
            .expect("well-formed")
            .check(&genesis)
    }

    #[test]
    fn what_no_state_makes_valid_is_refused() {
        assert_eq!(check(|_| {}), Ok(()));
        let required = 21_000;
        assert_eq!(
            check(|tx| tx.gas_limit = 20_999),
            Err(InvalidTransaction::IntrinsicGas {
                gas_limit: 20_999,
                required
            })
        );
        assert!(matches!(
            check(|tx| tx.input = Bytes::from_static(&[1; 100])),
            Err(InvalidTransaction::IntrinsicGas { .. })
        ));
        assert!(matches!(
            check(|tx| tx.gas_limit = 17_000_000),
            Err(InvalidTransaction::GasAboveCap { .. })
        ));
        assert_eq!(
            check(|tx| tx.max_priority_fee_per_gas = 2),
            Err(InvalidTransaction::TipAboveMaxFee)
        );
        let create = |length: usize| {
            check(|tx| {
                tx.to = TxKind::Create;
                tx.gas_limit = 16_000_000;
                tx.input = vec![0; length].into();
            })
        };
        assert_eq!(create(49_152), Ok(()));
        assert_eq!(create(49_153), Err(InvalidTransaction::InitCodeTooLarge));
        assert_eq!(
            check(|tx| tx.nonce = u64::MAX),
            Err(InvalidTransaction::NonceExhausted)
        );
    }
}
