//! Transactions that need one value after the other.

use crate::support::*;
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use lemma_ledger::{Applied, Execution, Missing, StateKey, Transaction};

/// Length of the chain of slots.
const SLOTS: u64 = 300;

/// A chain with a contract in which slot i holds i + 1.
fn chain_of_slots() -> (Chain, Address) {
    let mut chain = Chain::started();
    let contract = chain.deploy(&user(0), CALLER);
    for from in (0..SLOTS).step_by(100) {
        let (from, n, value) = (U256::from(from), U256::from(100), U256::from(from + 1));
        chain
            .transact(&user(0), contract, Caller::writeManyCall { from, n, value })
            .unwrap();
    }
    (chain, contract)
}

fn chase(contract: Address, sender: u64, nonce: u64) -> Transaction {
    let (slot, n) = (U256::ZERO, U256::from(SLOTS));
    let call = Caller::chaseCall { slot, n }.abi_encode();
    Draft::new(nonce)
        .to(contract)
        .input(call)
        .sign(&user(sender))
}

fn begun(chain: &Chain, transactions: &[Transaction]) -> Execution {
    let mut execution = Execution::new(chain.genesis.clone(), chain.context());
    for key in execution.prefetch(transactions) {
        execution.supply(key, chain.get(&key));
    }
    execution.begin().unwrap();
    execution
}

fn supply(chain: &Chain, execution: &mut Execution, keys: Vec<StateKey>) {
    keys.into_iter()
        .for_each(|key| execution.supply(key, chain.get(&key)));
}

fn finish(chain: &Chain, execution: &mut Execution, transaction: &Transaction) -> Applied {
    loop {
        match execution.apply(transaction) {
            Ok(applied) => return applied,
            Err(Missing(keys)) => supply(chain, execution, keys),
        }
    }
}

/// Applies until this many values were missing, one at a time.
fn interrupt(chain: &Chain, execution: &mut Execution, tx: &Transaction, times: usize) {
    for _ in 0..times {
        let Missing(keys) = execution.apply(tx).unwrap_err();
        supply(chain, execution, keys);
    }
}

#[test]
fn a_long_chain_of_reads_ends() {
    let (mut chain, contract) = chain_of_slots();
    let transaction = chase(contract, 1, 0);
    let mut execution = begun(&chain, std::slice::from_ref(&transaction));
    interrupt(&chain, &mut execution, &transaction, SLOTS as usize);
    let Applied::Included { receipt } = finish(&chain, &mut execution, &transaction) else {
        panic!("rejected")
    };
    assert_eq!(U256::from_be_slice(&receipt.output), U256::from(SLOTS));
    assert_eq!(
        chain.include(&transaction),
        receipt,
        "the same in all ways of fetching"
    );
}

#[test]
fn asking_again_without_an_answer_gives_the_same_question() {
    let (chain, contract) = chain_of_slots();
    let transaction = chase(contract, 1, 0);
    let mut execution = begun(&chain, std::slice::from_ref(&transaction));
    for round in 0..40 {
        let first = execution.apply(&transaction).unwrap_err();
        assert_eq!(
            execution.apply(&transaction),
            Err(first.clone()),
            "round {round}"
        );
        supply(&chain, &mut execution, first.0);
    }
}

#[test]
fn an_interrupted_transaction_can_be_left_and_taken_up_again() {
    let (chain, contract) = chain_of_slots();
    let transactions = [chase(contract, 1, 0), chase(contract, 2, 0)];
    let expected = chain.execute(&transactions, Fetch::Everything).outcome;
    for times in [1, 7, 8, 9, 10, 50] {
        let mut execution = begun(&chain, &transactions);
        interrupt(&chain, &mut execution, &transactions[1], times);
        for transaction in &transactions {
            let applied = finish(&chain, &mut execution, transaction);
            assert!(matches!(applied, Applied::Included { .. }));
        }
        assert_eq!(execution.finish(), expected, "{times} interruptions");
    }
}

#[test]
fn a_block_can_close_on_an_interrupted_transaction() {
    let (chain, contract) = chain_of_slots();
    let transfer = Draft::new(0).value(U256::ONE).sign(&user(2));
    let expected = chain
        .execute(std::slice::from_ref(&transfer), Fetch::Everything)
        .outcome;
    for times in [3, 30] {
        let mut execution = begun(&chain, std::slice::from_ref(&transfer));
        let applied = finish(&chain, &mut execution, &transfer);
        assert!(matches!(applied, Applied::Included { .. }));
        interrupt(&chain, &mut execution, &chase(contract, 1, 0), times);
        assert_eq!(execution.finish(), expected);
        let mut dropped = begun(&chain, std::slice::from_ref(&transfer));
        interrupt(&chain, &mut dropped, &chase(contract, 1, 0), times);
    }
}
