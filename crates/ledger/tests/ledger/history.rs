//! The log of block hashes.

use crate::support::*;
use alloy_primitives::B256;
use lemma_ledger::{
    Execution, LogHead, Missing,
    modules::{HISTORY, abi::ILemmaHistory::*, history::RECENT},
};
use lemma_types::{merkle, settlement::history_leaf};

fn grow(chain: &mut Chain, to: usize) {
    while chain.hashes.len() < to {
        let outcome = chain.execute(&[], Fetch::Prefetched).outcome;
        chain.adopt(&outcome);
    }
}

#[test]
fn every_header_covers_all_ancestors() {
    let mut chain = Chain::new();
    for _ in 0..40 {
        let leaves: Vec<_> = chain
            .hashes
            .iter()
            .map(|hash| history_leaf(*hash))
            .collect();
        let number = chain.context().number;
        let outcome = chain.block(&[]).outcome;
        assert_eq!(
            outcome.history,
            LogHead {
                size: number,
                root: merkle::root(&leaves)
            }
        );
        assert_eq!(chain.view(HISTORY, sizeCall {}), number);
        assert_eq!(chain.view(HISTORY, rootCall {}), outcome.history.root);
    }
}

#[test]
fn prefetching_suffices_to_begin_at_any_height() {
    let mut chain = Chain::new();
    for _ in 0..70 {
        let mut execution = Execution::new(chain.genesis.clone(), chain.context());
        for key in execution.prefetch(&[]) {
            execution.supply(key, chain.get(&key));
        }
        assert_eq!(execution.begin(), Ok(()));
        assert_eq!(execution.begin(), Ok(()), "a second time changes nothing");
        let outcome = execution.finish();
        assert!(outcome.writes.len() < 12 || chain.hashes.len() == 1);
        chain.adopt(&outcome);
    }
}

#[test]
fn a_block_that_misses_its_head_says_what_it_needs() {
    let chain = Chain::started();
    let mut execution = Execution::new(chain.genesis.clone(), chain.context());
    let Err(Missing(keys)) = execution.begin() else {
        panic!("nothing was supplied")
    };
    assert!(keys.iter().all(|key| execution.prefetch(&[]).contains(key)));
}

#[test]
fn recent_hashes_can_be_looked_up() {
    let mut chain = Chain::started();
    grow(&mut chain, 30);
    for height in 0..29 {
        let hash = chain.view(HISTORY, blockHashCall { height });
        assert_eq!(hash, chain.hashes[height as usize]);
    }
    for height in [29, 30, u64::MAX] {
        let no = chain.view_error(HISTORY, blockHashCall { height });
        assert_eq!(no, format!("block {height} is not among the recent ones"));
    }
}

#[test]
fn old_hashes_make_room() {
    let mut chain = Chain::started();
    grow(&mut chain, RECENT as usize + 10);
    let oldest = RECENT + 9 - RECENT;
    assert_ne!(
        chain.view(HISTORY, blockHashCall { height: oldest }),
        B256::ZERO
    );
    assert_eq!(
        chain.view(HISTORY, blockHashCall { height: oldest }),
        chain.hashes[oldest as usize]
    );
    assert!(
        chain
            .view_error(HISTORY, blockHashCall { height: oldest - 1 })
            .contains("recent")
    );
}
