//! A fixed block's outcome, byte for byte. A change here is a change of the protocol.

use crate::support::*;
use alloy_primitives::{B256, Keccak256, TxKind, U256};
use alloy_sol_types::SolCall;
use lemma_ledger::modules::{
    MODELS, NODES, RECEIPTS,
    abi::{ILemmaModels, ILemmaNodes, ILemmaReceipts},
};

#[test]
fn the_outcome_of_a_fixed_block_is_frozen() {
    let mut chain = Chain::started();
    let worker = user(1);
    let transactions = [
        Draft::new(0)
            .to(user(9).address)
            .value(U256::from(1))
            .sign(&user(0)),
        Draft::new(1)
            .to(TxKind::Create)
            .input(deployer(&[0xfe; 100]))
            .sign(&user(0)),
        Draft::new(2)
            .to(MODELS)
            .input(
                ILemmaModels::registerCall {
                    name: "lemma/digits".into(),
                    manifest: B256::repeat_byte(7),
                }
                .abi_encode(),
            )
            .sign(&user(0)),
        Draft::new(0)
            .to(NODES)
            .input(
                ILemmaNodes::registerCall {
                    endpoint: "https://worker.example.org:8402/lemma".into(),
                    payee: user(2).address,
                }
                .abi_encode(),
            )
            .sign(&worker),
        Draft::new(1)
            .to(RECEIPTS)
            .input(
                ILemmaReceipts::settleCall {
                    root: B256::repeat_byte(8),
                    count: 100,
                    computeUnits: 12345,
                    fees: U256::from(6789),
                }
                .abi_encode(),
            )
            .sign(&worker),
    ];
    let outcome = chain.block(&transactions).outcome;
    assert!(outcome.receipts.iter().all(|receipt| receipt.success));
    let mut writes = Keccak256::new();
    for (key, value) in &outcome.writes {
        writes.update(key.0);
        writes.update(value.map_or(vec![0], |value| value.0.to_vec()));
    }
    let found = format!(
        "gas {}\nwrites {} {}\ntransactions {}\nreceipts {}\nbatches {} {}\nhistory {} {}\n",
        outcome.gas_used,
        outcome.writes.len(),
        writes.finalize(),
        outcome.transactions_root,
        outcome.receipts_root,
        outcome.batches.size,
        outcome.batches.root,
        outcome.history.size,
        outcome.history.root,
    );
    assert_eq!(found, include_str!("golden.txt"));
}
