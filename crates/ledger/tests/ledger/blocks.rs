//! Transfers, fees, and transactions that can not be included.

use crate::support::*;
use alloy_primitives::{Address, B256, TxKind, U256};
use lemma_ledger::{
    Applied, Execution, Genesis, GenesisError, InvalidTransaction, Missing, Outcome, account_key,
    decode_account, modules, receipts_root, transactions_root,
};
use std::collections::BTreeMap;

fn total(chain: &Chain, addresses: &[Address]) -> U256 {
    addresses
        .iter()
        .map(|address| chain.balance(*address))
        .sum()
}

#[test]
fn the_allocation_appears_with_the_first_block() {
    let mut chain = Chain::new();
    assert_eq!(chain.balance(user(0).address), U256::ZERO);
    let block = chain.block(&[]);
    assert_eq!(chain.balance(user(0).address), U256::from(1000 * ETHER));
    assert_eq!(chain.balance(user(7).address), U256::from(1000 * ETHER));
    let key = account_key(user(3).address);
    assert_eq!(
        decode_account(&block.outcome.writes[&key].unwrap()),
        chain.account(user(3).address)
    );
    for module in modules::ADDRESSES {
        assert_eq!(chain.read(|state| state.code(module)).as_ref(), [0xfe]);
    }
}

#[test]
fn the_first_block_can_spend_the_allocation() {
    let mut chain = Chain::new();
    let receipt = chain.send_value(&user(0), user(100).address, vec![], U256::from(5));
    assert!(receipt.success);
    assert_eq!(chain.balance(user(100).address), U256::from(5));
}

#[test]
fn transfers_of_types_0_and_2_move_funds_and_pay_fees() {
    let mut chain = Chain::started();
    let (sender, recipient) = (user(0), user(50).address);
    let base_fee = u128::from(chain.base_fee);

    let draft = Draft::new(0)
        .to(recipient)
        .value(U256::from(7))
        .gas(21_000)
        .fees(3 * base_fee, 5);
    let receipt = chain.include(&draft.sign(&sender));
    assert!(receipt.success);
    assert_eq!((receipt.kind, receipt.gas_used), (2, 21_000));
    assert_eq!(receipt.effective_gas_price, base_fee + 5);
    assert_eq!(chain.balance(recipient), U256::from(7));
    assert_eq!(chain.balance(chain.beneficiary), U256::from(21_000 * 5));
    let paid = U256::from(21_000 * (base_fee + 5) + 7);
    assert_eq!(
        chain.balance(sender.address),
        U256::from(1000 * ETHER) - paid
    );

    let base_fee = u128::from(chain.base_fee);
    let draft = Draft::new(1)
        .to(recipient)
        .value(U256::from(1))
        .gas(21_000)
        .fees(base_fee + 2, 0);
    let raw = encode(draft.legacy(Some(CHAIN_ID)), &sender);
    let receipt = chain.include(&lemma_ledger::Transaction::decode(&raw, CHAIN_ID).unwrap());
    assert_eq!(
        (receipt.kind, receipt.effective_gas_price),
        (0, base_fee + 2)
    );
    assert_eq!(chain.balance(recipient), U256::from(8));
    assert_eq!(chain.account(sender.address).nonce, 2);
}

#[test]
fn only_the_base_fee_leaves_circulation() {
    let mut chain = Chain::started();
    let base_fee = U256::from(chain.base_fee);
    let transactions: Vec<_> = (0..5)
        .map(|n| {
            Draft::new(0)
                .to(user(n + 1).address)
                .value(U256::from(n))
                .fees(20_000_000_000, 9)
        })
        .zip(0..)
        .map(|(draft, n)| draft.sign(&user(n)))
        .collect();
    let addresses: Vec<_> = (0..9)
        .map(|n| user(n).address)
        .chain([chain.beneficiary])
        .collect();
    let before = total(&chain, &addresses);
    let outcome = chain.block(&transactions).outcome;
    let burned = base_fee * U256::from(outcome.gas_used);
    assert_eq!(total(&chain, &addresses) + burned, before);
}

#[test]
fn nonces_must_follow_each_other() {
    let mut chain = Chain::started();
    let sender = user(0);
    let gap = Draft::new(3).sign(&sender);
    let reason = chain.reject(&gap);
    assert_eq!(
        reason,
        InvalidTransaction::NonceTooHigh {
            nonce: 3,
            expected: 0
        }
    );
    assert!(reason.may_become_valid());
    assert!(reason.to_string().contains("gap"), "{reason}");

    let first = Draft::new(0).sign(&sender);
    chain.include(&first);
    let reason = chain.reject(&first);
    assert_eq!(
        reason,
        InvalidTransaction::NonceTooLow {
            nonce: 0,
            expected: 1
        }
    );
    assert!(!reason.may_become_valid());
}

#[test]
fn senders_must_have_the_funds() {
    let mut chain = Chain::started();
    let poor = user(60);
    chain.send_value(&user(0), poor.address, vec![], U256::from(100));
    let price = 2 * u128::from(chain.base_fee);
    let transaction = Draft::new(0)
        .gas(21_000)
        .fees(price, 0)
        .value(U256::from(1))
        .sign(&poor);
    assert_eq!(
        chain.reject(&transaction),
        InvalidTransaction::InsufficientFunds {
            required: U256::from(21_000 * price + 1),
            balance: U256::from(100),
        }
    );
    let everything = Draft::new(1).value(U256::MAX).sign(&user(0));
    assert_eq!(chain.reject(&everything), InvalidTransaction::CostOverflows);
}

#[test]
fn gas_limits_are_held_to_block_cap_and_need() {
    let mut chain = Chain::started();
    let sender = user(0);
    let limit = chain.genesis.gas_limit;
    let over = Draft::new(0).gas(limit + 1).sign(&sender);
    assert_eq!(
        chain.reject(&over),
        InvalidTransaction::GasAboveBlock {
            gas_limit: limit + 1,
            available: limit
        }
    );
    let cap = 1 << 24;
    let over = Draft::new(0).gas(cap + 1).sign(&sender);
    assert_eq!(
        chain.reject(&over),
        InvalidTransaction::GasAboveCap {
            gas_limit: cap + 1,
            cap
        }
    );
    let under = Draft::new(0).gas(20_999).sign(&sender);
    assert_eq!(
        chain.reject(&under),
        InvalidTransaction::IntrinsicGas {
            gas_limit: 20_999,
            required: 21_000
        }
    );
    // The second finds only what the first has really used gone.
    let block = chain.block(&[
        Draft::new(0).gas(cap).sign(&sender),
        Draft::new(1).gas(cap).sign(&sender),
    ]);
    assert!(
        block
            .results
            .iter()
            .all(|result| matches!(result, Applied::Included { .. }))
    );
}

#[test]
fn fees_must_cover_the_base_fee() {
    let mut chain = Chain::started();
    let base_fee = chain.base_fee;
    let max_fee = u128::from(base_fee) - 1;
    let cheap = Draft::new(0).fees(max_fee, 0).sign(&user(0));
    assert_eq!(
        chain.reject(&cheap),
        InvalidTransaction::FeeBelowBaseFee { max_fee, base_fee }
    );
    let odd = Draft::new(0)
        .fees(u128::from(base_fee), u128::MAX)
        .sign(&user(0));
    assert_eq!(chain.reject(&odd), InvalidTransaction::TipAboveMaxFee);
}

#[test]
fn init_code_is_bounded() {
    let mut chain = Chain::started();
    let code = vec![0; 49_153];
    let create = Draft::new(0)
        .to(TxKind::Create)
        .input(code)
        .gas(10_000_000)
        .sign(&user(0));
    assert_eq!(chain.reject(&create), InvalidTransaction::InitCodeTooLarge);
}

#[test]
fn rejected_transactions_leave_nothing() {
    let mut chain = Chain::started();
    let good = |nonce| Draft::new(nonce).value(U256::from(1)).sign(&user(0));
    let block = chain.block(&[good(0), good(0), good(5), good(1)]);
    let included = block
        .results
        .iter()
        .map(|r| matches!(r, Applied::Included { .. }));
    assert_eq!(included.collect::<Vec<_>>(), [true, false, false, true]);
    let Outcome {
        receipts, gas_used, ..
    } = &block.outcome;
    assert_eq!(receipts.len(), 2);
    assert_eq!(receipts[1].cumulative_gas_used, *gas_used);
    assert_eq!(
        block.outcome.transactions_root,
        transactions_root(&[good(0), good(1)])
    );
    assert_eq!(block.outcome.receipts_root, receipts_root(receipts));
}

#[test]
fn an_empty_block_has_the_empty_roots() {
    let mut chain = Chain::started();
    let outcome = chain.block(&[]).outcome;
    let empty = alloy_consensus::EMPTY_ROOT_HASH;
    assert_eq!(
        (outcome.receipts_root, outcome.transactions_root),
        (empty, empty)
    );
    assert_eq!((outcome.gas_used, outcome.logs_bloom.is_zero()), (0, true));
    assert_eq!(outcome.batches, lemma_ledger::LogHead::empty());
}

#[test]
fn equal_inputs_give_equal_outcomes() {
    let chain = Chain::started();
    let transactions: Vec<_> = (0..8)
        .map(|n| Draft::new(0).value(U256::from(n)).sign(&user(n)))
        .collect();
    let first = chain.execute(&transactions, Fetch::Prefetched).outcome;
    let second = chain.execute(&transactions, Fetch::Prefetched).outcome;
    assert_eq!(first, second);
}

#[test]
fn prefetched_transfers_miss_nothing() {
    let chain = Chain::started();
    let transactions: Vec<_> = (0..8).map(|n| Draft::new(0).sign(&user(n))).collect();
    let mut execution = Execution::new(chain.genesis.clone(), chain.context());
    for key in execution.prefetch(&transactions) {
        execution.supply(key, chain.get(&key));
    }
    execution.begin().unwrap();
    for transaction in &transactions {
        assert!(matches!(
            execution.apply(transaction),
            Ok(Applied::Included { .. })
        ));
    }
    assert_eq!(execution.gas_used(), 8 * 21_000);
}

#[test]
fn one_round_discovers_many_keys() {
    let mut chain = Chain::started();
    let caller = chain.deploy(&user(0), CALLER);
    use alloy_sol_types::SolCall;
    let call = Caller::readManyCall {
        from: U256::from(1000),
        n: U256::from(20),
    }
    .abi_encode();
    let transaction = Draft::new(1).to(caller).input(call).sign(&user(0));
    let mut execution = Execution::new(chain.genesis.clone(), chain.context());
    for key in execution.prefetch(std::slice::from_ref(&transaction)) {
        execution.supply(key, chain.get(&key));
    }
    execution.begin().unwrap();
    let mut rounds = Vec::new();
    while let Err(Missing(keys)) = execution.apply(&transaction) {
        rounds.push(keys.len());
        keys.into_iter()
            .for_each(|key| execution.supply(key, chain.get(&key)));
    }
    // The code's first chunk, its other chunks, all slots.
    assert_eq!((rounds.len(), rounds[0], rounds[2]), (3, 1, 20));
}

#[test]
#[should_panic(expected = "begin the block")]
fn transactions_need_a_begun_block() {
    let chain = Chain::started();
    let _ = chain.execute(&[], Fetch::Prefetched);
    let mut execution = Execution::new(chain.genesis.clone(), chain.context());
    let _ = execution.apply(&Draft::new(0).sign(&user(0)));
}

#[test]
#[should_panic(expected = "block 5 was begun on the state after block 1")]
fn a_block_begins_on_its_parents_state_only() {
    let mut chain = Chain::started();
    chain.hashes.resize(5, B256::ZERO);
    chain.execute(&[], Fetch::OnDemand);
}

#[test]
fn a_genesis_is_checked() {
    let good = genesis();
    let check = |change: &dyn Fn(&mut Genesis)| {
        let mut genesis = good.clone();
        change(&mut genesis);
        genesis.validate()
    };
    assert_eq!(good.validate(), Ok(()));
    assert_eq!(check(&|g| g.chain_id = 0), Err(GenesisError::ZeroChainId));
    assert_eq!(
        check(&|g| g.gas_limit = 1),
        Err(GenesisError::GasLimitTooLow(1))
    );
    assert_eq!(
        check(&|g| (g.base_fee, g.min_base_fee) = (1, 2)),
        Err(GenesisError::BaseFeeBelowMinimum {
            base_fee: 1,
            min_base_fee: 2
        })
    );
    let rich = BTreeMap::from([
        (Address::ZERO, U256::MAX),
        (Address::with_last_byte(1), U256::ONE),
    ]);
    assert_eq!(
        check(&|g| g.alloc = rich.clone()),
        Err(GenesisError::AllocationTooLarge)
    );
    let funded = BTreeMap::from([(modules::NODES, U256::ONE)]);
    assert_eq!(
        check(&|g| g.alloc = funded.clone()),
        Err(GenesisError::AllocatesToModule(modules::NODES))
    );
    assert_ne!(B256::from(good.supply().unwrap()), B256::ZERO);
}
