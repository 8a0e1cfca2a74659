//! Settlement of batches and the log that they form.

use crate::support::*;
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use lemma_ledger::{
    LogHead,
    modules::{
        NODES, RECEIPTS,
        abi::{ILemmaNodes, ILemmaReceipts::*},
    },
    slot_key,
};
use lemma_types::{Amount, merkle, settlement::BatchRecord};

fn settle(number: u64) -> settleCall {
    settleCall {
        root: keccak256(number.to_be_bytes()),
        count: number + 1,
        computeUnits: 100 * number,
        fees: U256::from(7 * number),
    }
}

fn with_workers(count: u64) -> Chain {
    let mut chain = Chain::started();
    for n in 0..count {
        let call = ILemmaNodes::registerCall {
            endpoint: "http://w:1".into(),
            payee: user(n).address,
        };
        chain.transact(&user(n), NODES, call).unwrap();
    }
    chain
}

#[test]
fn the_log_is_the_merkle_tree_over_all_batches() {
    let mut chain = with_workers(3);
    let mut leaves = Vec::new();
    for number in 0..20 {
        let worker = user(number % 3);
        let height = chain.context().number;
        let nonce = chain.account(worker.address).nonce;
        let call = settle(number);
        let draft = Draft::new(nonce).to(RECEIPTS).input(call.abi_encode());
        let outcome = chain.block(&[draft.sign(&worker)]).outcome;
        let record = BatchRecord {
            index: number,
            worker: worker.address,
            root: call.root,
            count: call.count,
            compute_units: call.computeUnits,
            fees: Amount::from_units(call.fees.to()),
            height,
        };
        leaves.push(record.leaf());
        assert_eq!(record.leaf(), merkle::leaf_hash(&record.encode()));
        assert_eq!(record.encode().len(), 7 * 32);
        let head = LogHead {
            size: number + 1,
            root: merkle::root(&leaves),
        };
        assert_eq!(outcome.batches, head);
        let log = chain.view(RECEIPTS, logCall {});
        assert_eq!((log.size, log.root), (head.size, head.root));

        let batch = chain.view(RECEIPTS, batchAtCall { index: number });
        assert_eq!((batch.worker, batch.root), (worker.address, call.root));
        assert_eq!(
            (batch.count, batch.computeUnits),
            (call.count, call.computeUnits)
        );
        assert_eq!((batch.fees, batch.height), (call.fees, height));
    }
    let proof = merkle::prove(&leaves, 11).unwrap();
    let log = chain.view(RECEIPTS, logCall {});
    assert!(merkle::verify(leaves[11], 11, log.size, &proof, log.root));
    // The head is in ordinary storage, so a proof of the state proves it too.
    let slot = chain.get(&slot_key(RECEIPTS, U256::ONE)).unwrap();
    assert_eq!(slot.0[..32], log.root.0);
}

#[test]
fn several_batches_fit_in_a_block() {
    let mut chain = with_workers(2);
    let mut transactions = Vec::new();
    for number in 0..6 {
        let worker = user(number % 2);
        let draft = Draft::new(1 + number / 2)
            .to(RECEIPTS)
            .input(settle(number).abi_encode());
        transactions.push(draft.sign(&worker));
    }
    let block = chain.block(&transactions);
    assert_eq!(block.outcome.batches.size, 6);
    for (index, receipt) in (0..).zip(&block.outcome.receipts) {
        assert!(receipt.success);
        let event = BatchSettled::decode_log(&receipt.logs[0]).unwrap();
        assert_eq!(
            (event.index, event.worker),
            (index, user(index % 2).address)
        );
        assert_eq!((event.root, event.count), (settle(index).root, index + 1));
        assert_eq!(
            (event.computeUnits, event.fees),
            (100 * index, U256::from(7 * index))
        );
        assert!(
            block
                .outcome
                .logs_bloom
                .contains_raw_log(RECEIPTS, receipt.logs[0].topics())
        );
    }
}

#[test]
fn totals_add_up_per_worker() {
    let mut chain = with_workers(2);
    for (worker, number) in [(0, 1), (1, 2), (0, 3)] {
        chain
            .transact(&user(worker), RECEIPTS, settle(number))
            .unwrap();
    }
    let totals = chain.view(
        RECEIPTS,
        totalsOfCall {
            worker: user(0).address,
        },
    );
    assert_eq!(
        (totals.batches, totals.count, totals.computeUnits),
        (2, 6, 400)
    );
    assert_eq!(totals.fees, U256::from(28));
    let totals = chain.view(
        RECEIPTS,
        totalsOfCall {
            worker: Address::ZERO,
        },
    );
    assert_eq!((totals.batches, totals.fees), (0, U256::ZERO));
}

#[test]
fn the_largest_values_are_kept_exactly_and_overflow_is_refused() {
    let mut chain = with_workers(1);
    let fees = U256::from(u128::MAX);
    let call = |n: u8, count: u64| settleCall {
        root: B256::repeat_byte(n),
        count,
        computeUnits: u64::MAX,
        fees,
    };
    assert_eq!(chain.transact(&user(0), RECEIPTS, call(1, u64::MAX)), Ok(0));
    let batch = chain.view(RECEIPTS, batchAtCall { index: 0 });
    assert_eq!(
        (batch.count, batch.computeUnits, batch.fees),
        (u64::MAX, u64::MAX, fees)
    );
    let over = chain.transact(&user(0), RECEIPTS, call(2, 1)).unwrap_err();
    assert!(over.contains("overflow"), "{over}");
    let over = settleCall {
        fees: fees + U256::ONE,
        ..settle(1)
    };
    let over = chain.transact(&user(0), RECEIPTS, over).unwrap_err();
    assert!(over.contains("128 bits"), "{over}");
    assert_eq!(chain.view(RECEIPTS, logCall {}).size, 1);
}

#[test]
fn a_root_settles_once_per_worker() {
    let mut chain = with_workers(2);
    let worker = user(0).address;
    let settled = |chain: &Chain| {
        let seen = chain.view(
            RECEIPTS,
            isSettledCall {
                worker,
                root: settle(5).root,
            },
        );
        (seen.settled, seen.index)
    };
    chain.transact(&user(0), RECEIPTS, settle(4)).unwrap();
    assert_eq!(settled(&chain), (false, 0));
    assert_eq!(chain.transact(&user(0), RECEIPTS, settle(5)), Ok(1));
    assert_eq!(settled(&chain), (true, 1));
    let again = settleCall {
        count: 1,
        ..settle(5)
    };
    let reason = chain.transact(&user(0), RECEIPTS, again).unwrap_err();
    assert_eq!(reason, "this root was settled before, as batch 1");
    assert_eq!(
        chain.transact(&user(1), RECEIPTS, settle(5)),
        Ok(2),
        "another worker's own"
    );
}

#[test]
fn only_active_nodes_settle() {
    let mut chain = with_workers(1);
    let stranger = user(5);
    let reason = chain.transact(&stranger, RECEIPTS, settle(0)).unwrap_err();
    assert_eq!(
        reason,
        format!("{} is not a registered node", stranger.address)
    );
    chain.transact(&user(0), RECEIPTS, settle(0)).unwrap();
    chain
        .transact(&user(0), NODES, ILemmaNodes::deregisterCall {})
        .unwrap();
    assert!(chain.transact(&user(0), RECEIPTS, settle(1)).is_err());
}

#[test]
fn empty_batches_are_refused() {
    let mut chain = with_workers(1);
    for call in [
        settleCall {
            count: 0,
            ..settle(1)
        },
        settleCall {
            root: B256::ZERO,
            ..settle(1)
        },
    ] {
        let reason = chain.transact(&user(0), RECEIPTS, call).unwrap_err();
        assert_eq!(reason, "a batch needs a root and at least one receipt");
    }
    let no = chain.view_error(RECEIPTS, batchAtCall { index: 0 });
    assert_eq!(no, "index 0 is out of range: there are 0 entries");
    let log = chain.view(RECEIPTS, logCall {});
    assert_eq!((log.size, log.root), (0, keccak256("")));
}

#[test]
fn a_reverted_settlement_leaves_the_log_as_it_was() {
    let mut chain = with_workers(1);
    let caller = chain.deploy(&user(0), CALLER);
    let call = ILemmaNodes::registerCall {
        endpoint: "http://c:1".into(),
        payee: caller,
    };
    let forward = Caller::forwardCall {
        to: NODES,
        data: call.abi_encode().into(),
    };
    chain.transact(&user(0), caller, forward).unwrap();
    let data: alloy_primitives::Bytes = settle(3).abi_encode().into();
    let undone = Caller::attemptAndUndoCall {
        to: RECEIPTS,
        data: data.clone(),
    };
    chain.transact(&user(0), caller, undone).unwrap();
    let before = chain.view(RECEIPTS, logCall {});
    assert_eq!(before.size, 0);
    let kept = Caller::attemptCall {
        to: RECEIPTS,
        data,
        undo: false,
    };
    assert!(chain.transact(&user(0), caller, kept).unwrap());
    assert_eq!(chain.view(RECEIPTS, logCall {}).size, 1);
}

#[test]
fn settling_stays_cheap_as_the_log_grows() {
    let mut chain = with_workers(1);
    let mut most = 0;
    for number in 0..33 {
        let receipt = chain.send(&user(0), RECEIPTS, settle(number).abi_encode());
        assert!(receipt.success);
        if number > 0 {
            most = most.max(receipt.gas_used);
        }
    }
    assert!(most < 200_000, "{most}");
}
