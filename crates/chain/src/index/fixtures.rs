//! Blocks for tests of the index: linked, but made of nothing.

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_primitives::{B256, Log as Event, keccak256};
use commonware_cryptography::{Signer as _, ed25519};
use lemma_ledger::{Receipt, logs_bloom};
use lemma_types::block::{Extension, LogHead, StateTarget};

use super::ExecutedBlock;
use crate::block::{Block, empty_header};

/// Blocks from height 1 on; for each, the events of each of its transactions.
pub(super) fn chain(blocks: &[Vec<Vec<Event>>]) -> Vec<Arc<ExecutedBlock>> {
    let mut parent_hash = B256::repeat_byte(7);
    let mut chain = Vec::new();
    for (number, transactions) in (1u64..).zip(blocks) {
        let receipts: Vec<_> = (0u8..)
            .zip(transactions)
            .map(|(position, events)| receipt(keccak256([number as u8, position]), events))
            .collect();
        let block = block(number, parent_hash, &receipts);
        parent_hash = block.hash();
        chain.push(Arc::new(ExecutedBlock { block, receipts }));
    }
    chain
}

fn receipt(transaction_hash: B256, events: &[Event]) -> Receipt {
    Receipt {
        transaction_hash,
        kind: 2,
        success: true,
        gas_used: 21_000,
        cumulative_gas_used: 21_000,
        effective_gas_price: 1,
        contract_address: None,
        logs: events.to_vec(),
        output: Default::default(),
    }
}

fn block(number: u64, parent_hash: B256, receipts: &[Receipt]) -> Block {
    let signer = ed25519::PrivateKey::from_seed(1);
    let extension = Extension {
        epoch: 0,
        view: number,
        parent_view: number - 1,
        leader: B256::from_slice(&signer.public_key()),
        timestamp_ms: number * 1000,
        state: StateTarget {
            ops_root: B256::ZERO,
            start: 0,
            end: number,
        },
        batches: LogHead::empty(),
        history: LogHead {
            size: number,
            root: B256::ZERO,
        },
        seed: None,
    };
    let header = Header {
        number,
        parent_hash,
        timestamp: number,
        logs_bloom: logs_bloom(receipts),
        extra_data: extension.commitment().to_vec().into(),
        ..empty_header()
    };
    Block::seal(&signer, header, extension, Vec::new())
}
