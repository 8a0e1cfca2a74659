//! Executing a block's transactions over storage that is asynchronous.
//!
//! The ledger is synchronous and reports what it misses; this module fetches that and goes on with the transaction that
//! missed it. What is certain to be read is fetched first, at once.

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_primitives::Address;
use commonware_glue::stateful::db::Unmerkleized as _;
use lemma_ledger::{
    Applied, BlockContext, Execution, Genesis, InvalidTransaction, Missing, Outcome, StateKey,
    Transaction, next_base_fee,
};
use lemma_types::block::{Extension, Seed, StateTarget};

use crate::{
    block::{Block, empty_header},
    database::{Batch, BlockState, Runtime, key, state_value, value},
    scheme::Context,
};

/// What a proposer decides about a block, besides its transactions.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) context: Context,
    pub(crate) timestamp_ms: u64,
    pub(crate) beneficiary: Address,
    pub(crate) seed: Option<Seed>,
}

impl Claims {
    /// What the proposer of `block` has decided.
    pub(crate) fn of(block: &Block, context: Context) -> Self {
        Self {
            context,
            timestamp_ms: block.extension().timestamp_ms,
            beneficiary: block.header().beneficiary,
            seed: block.extension().seed.clone(),
        }
    }

    /// What transactions of the block after `parent` see.
    pub(crate) fn block_context(&self, genesis: &Genesis, parent: &Block) -> BlockContext {
        BlockContext {
            number: parent.number().saturating_add(1),
            timestamp: self.timestamp_ms / 1000,
            parent_hash: parent.hash(),
            beneficiary: self.beneficiary,
            randomness: self.seed.as_ref().map(Seed::randomness).unwrap_or_default(),
            gas_limit: genesis.gas_limit,
            base_fee: base_fee_after(genesis, parent.header()),
        }
    }

    /// The block's header and extension: every field follows from the claims, the execution and the state. So comparing
    /// with these leaves nothing in a proposed block unchecked.
    pub(crate) fn assemble(
        &self,
        block: &BlockContext,
        outcome: &Outcome,
        (state_root, state): (alloy_primitives::B256, StateTarget),
    ) -> (Header, Extension) {
        let extension = Extension {
            epoch: self.context.round.epoch().get(),
            view: self.context.round.view().get(),
            parent_view: self.context.parent.0.get(),
            leader: alloy_primitives::B256::from_slice(&self.context.leader),
            timestamp_ms: self.timestamp_ms,
            state,
            batches: outcome.batches,
            history: outcome.history,
            seed: self.seed.clone(),
        };
        let header = Header {
            parent_hash: block.parent_hash,
            beneficiary: block.beneficiary,
            state_root,
            transactions_root: outcome.transactions_root,
            receipts_root: outcome.receipts_root,
            logs_bloom: outcome.logs_bloom,
            number: block.number,
            gas_limit: block.gas_limit,
            gas_used: outcome.gas_used,
            timestamp: block.timestamp,
            extra_data: extension.commitment().to_vec().into(),
            mix_hash: block.randomness,
            base_fee_per_gas: Some(block.base_fee),
            ..empty_header()
        };
        (header, extension)
    }
}

/// The base fee of the block after the one with this header.
pub(crate) fn base_fee_after(genesis: &Genesis, header: &Header) -> u64 {
    match header.number {
        0 => genesis.base_fee,
        _ => {
            let base_fee = header.base_fee_per_gas.unwrap_or_default();
            next_base_fee(genesis, header.gas_used, header.gas_limit, base_fee)
        }
    }
}

/// What came of a block's transactions.
pub(crate) struct Executed<E: Runtime> {
    pub(crate) outcome: Outcome,
    /// The state after the block.
    pub(crate) state: BlockState<E>,
    /// Those that are part of the block, in order.
    pub(crate) included: Vec<Transaction>,
    /// Those that can not be, and why.
    pub(crate) rejected: Vec<(Transaction, InvalidTransaction)>,
}

/// Executes transactions on the parent's state. `all_or_nothing`: gives up with the first that can not be part of the
/// block (`None`); otherwise it is left out.
///
/// # Panics
/// If storage fails.
pub(crate) async fn execute<E: Runtime>(
    genesis: &Arc<Genesis>,
    context: &BlockContext,
    transactions: Vec<Transaction>,
    mut batch: Batch<E>,
    all_or_nothing: bool,
) -> Option<Executed<E>> {
    let mut execution = Execution::new(genesis.clone(), context.clone());
    let certain = execution.prefetch(&transactions);
    fetch::<E>(&batch, &mut execution, certain).await;
    while let Err(Missing(keys)) = execution.begin() {
        fetch::<E>(&batch, &mut execution, keys).await;
    }
    let (mut included, mut rejected) = (Vec::new(), Vec::new());
    for transaction in transactions {
        match apply::<E>(&batch, &mut execution, &transaction).await {
            Applied::Included { .. } => included.push(transaction),
            Applied::Rejected(_) if all_or_nothing => return None,
            Applied::Rejected(reason) => rejected.push((transaction, reason)),
        }
    }
    let outcome = execution.finish();
    for (name, content) in &outcome.writes {
        batch = batch.write(key(name), content.as_ref().map(value));
    }
    let state = batch
        .merkleize()
        .await
        .expect("the state database can not be read");
    Some(Executed {
        outcome,
        state,
        included,
        rejected,
    })
}

async fn apply<E: Runtime>(
    batch: &Batch<E>,
    execution: &mut Execution,
    transaction: &Transaction,
) -> Applied {
    loop {
        match execution.apply(transaction) {
            Ok(applied) => return applied,
            Err(Missing(keys)) => fetch::<E>(batch, execution, keys).await,
        }
    }
}

async fn fetch<E: Runtime>(batch: &Batch<E>, execution: &mut Execution, keys: Vec<StateKey>) {
    let names: Vec<_> = keys.iter().map(key).collect();
    let names: Vec<_> = names.iter().collect();
    let values = batch
        .get_many(&names)
        .await
        .expect("the state database can not be read");
    for (key, value) in keys.into_iter().zip(values) {
        execution.supply(key, value.as_ref().map(state_value));
    }
}
