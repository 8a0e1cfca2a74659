//! The ledger as consensus drives it: propose a block, process one, and note that one is final.
//!
//! State that is not final lives in memory only; commonware's `Stateful` forks it from block to block, and calls
//! [`Application::process`](stateful::Application::process) again for whatever it has lost by a restart.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use alloy_primitives::{Address, B256, Bytes};
use commonware_codec::Encode as _;
use commonware_consensus::{
    CertifiableBlock as _,
    marshal::{ancestry::Ancestry, core::Mailbox as MarshalMailbox, standard::Standard},
    types::Height,
};
use commonware_cryptography::{Digestible as _, ed25519};
use commonware_glue::stateful::{self, Finality, Input, Proposed, db::DatabaseSet};
use futures::{StreamExt as _, future::pending};
use lemma_ledger::{InvalidTransaction, Receipt, Transaction};

use crate::{
    block::{Block, MAX_TRANSACTIONS, MAX_TRANSACTIONS_BYTES},
    core::{Core, Head},
    database::{Batch, BlockState, Databases, Runtime, commitments, sync_target},
    execute::{Claims, Executed, execute},
    index::ExecutedBlock,
    mempool::Room,
    on_demand::Build,
    rules,
    scheme::{Context, Scheme},
    seeds::Seeds,
};

/// The ledger of one validator. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Application(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) core: Arc<Core>,
    pub(crate) scheme: Scheme,
    pub(crate) signer: ed25519::PrivateKey,
    pub(crate) beneficiary: Address,
    pub(crate) seeds: Seeds,
    pub(crate) marshal: MarshalMailbox<Scheme, Standard<Block>>,
    /// Blocks that were executed and are not final yet, by height and hash.
    pub(crate) executed: Mutex<BTreeMap<(u64, B256), Effects>>,
}

/// What is remembered of a block's execution until the block is final.
pub(crate) struct Effects {
    receipts: Vec<Receipt>,
    /// Each transaction's sender and the nonce that it has used.
    used: Vec<(Address, u64)>,
}

impl Application {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    fn remember(&self, block: &Block, receipts: Vec<Receipt>, included: &[Transaction]) {
        let used = included
            .iter()
            .map(|transaction| (transaction.sender(), transaction.nonce()))
            .collect();
        let mut executed = self
            .0
            .executed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        executed.insert((block.number(), block.hash()), Effects { receipts, used });
    }

    /// What a block did that is final now; what blocks did that lost against it is dropped.
    fn recall(&self, block: &Block) -> Effects {
        let mut executed = self
            .0
            .executed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let effects = executed.remove(&(block.number(), block.hash()));
        *executed = executed.split_off(&(block.number() + 1, B256::ZERO));
        effects.expect("a block is executed in this process before it is final in it")
    }

    /// The block's transactions with their senders; `None` if any is not of this network.
    fn decode(&self, block: &Block) -> Option<Vec<Transaction>> {
        let chain_id = self.0.core.genesis.chain_id;
        let decode = |(raw, hash): (&Bytes, &B256)| match self.0.core.pool.get(hash) {
            // Recovering the sender is the expensive part, and it was done when the transaction came in.
            Some(known) => Some(Transaction::clone(&known)),
            None => Transaction::decode(raw, chain_id).ok(),
        };
        block
            .transactions()
            .iter()
            .zip(block.transaction_hashes())
            .map(decode)
            .collect()
    }

    async fn build<E: Runtime>(
        &self,
        claims: Claims,
        parent: &Block,
        batch: Batch<E>,
        transactions: Vec<Transaction>,
    ) -> Proposed<Self, E> {
        let core = &self.0.core;
        let context = claims.block_context(&core.genesis, parent);
        let executed = execute::<E>(&core.genesis, &context, transactions, batch, false).await;
        let Executed {
            outcome,
            state,
            included,
            rejected,
        } = executed.expect("what can not be included is left out");
        for (transaction, reason) in rejected {
            if !may_wait(&reason) {
                tracing::debug!(hash = %transaction.hash(), %reason, "transaction dropped");
                core.pool.remove(&transaction);
            }
        }
        let (header, extension) = claims.assemble(&context, &outcome, commitments::<E>(&state));
        let raw = included
            .iter()
            .map(|transaction| transaction.raw().clone())
            .collect();
        let block = Block::seal(&self.0.signer, header, extension, raw);
        self.remember(&block, outcome.receipts, &included);
        Proposed {
            block,
            merkleized: state,
        }
    }

    /// Stores a final block for good, and makes it the head.
    async fn publish<E: Runtime>(&self, runtime: E, block: &Block) {
        let core = &self.0.core;
        let Effects { receipts, used } = self.recall(block);
        let executed = Arc::new(ExecutedBlock {
            block: block.clone(),
            receipts,
        });
        let certificate = self
            .0
            .seeds
            .finalization(block.context().round, &block.digest());
        if certificate.is_none() {
            self.fetch_certificate(runtime, executed.clone());
        }
        let head = Head::of(&core.genesis, &executed);
        core.index
            .append(executed, certificate.map(Bytes::from))
            .await
            .expect("the block index can not be written");
        core.pool.finalized(used);
        core.head.send_replace(head);
    }

    /// A block that was caught up with brings its certificate by way of marshal, if it has one of its own.
    fn fetch_certificate<E: Runtime>(&self, runtime: E, block: Arc<ExecutedBlock>) {
        let parts = self.0.clone();
        runtime.child("certificate").spawn(move |_| async move {
            let height = Height::new(block.number());
            if let Some(finalization) = parts.marshal.get_finalization(height).await {
                let bytes = Bytes::from(finalization.encode().to_vec());
                if let Err(error) = parts.core.index.append(block, Some(bytes)).await {
                    tracing::warn!(%error, "certificate not stored");
                }
            }
        });
    }
}

/// The block that an ancestry starts with, and its parent.
///
/// Never resolves if either can not be had. Whether a parent fits its child is settled before anybody asks here, so an
/// ancestry ends early only if the store of blocks has ended, and with it the validator: that is no verdict on a block.
async fn lineage(mut ancestry: impl Ancestry<Block>) -> (Block, Block) {
    let Some(block) = ancestry.next().await else {
        return pending().await;
    };
    let Some(parent) = ancestry.next().await else {
        return pending().await;
    };
    (block.inner().clone(), parent.inner().clone())
}

/// Whether a transaction that could not be part of a block may wait for another one.
///
/// A leader whose pool offers what no block can hold proposes one empty block after the other, without pause. So a
/// sender who lacks the funds loses its place, although it may have them one day, and has to submit again. What pays
/// too little or leaves a gap is not offered, and what found no room was in the way of others.
fn may_wait(reason: &InvalidTransaction) -> bool {
    reason.may_become_valid() && !matches!(reason, InvalidTransaction::InsufficientFunds { .. })
}

impl<E: Runtime> stateful::Application<E> for Application {
    type SigningScheme = Scheme;
    type Context = Context;
    type Block = Block;
    type Databases = Databases<E>;
    type Captured = ();
    type Provider = ();
    type Input = Build;

    fn sync_targets(block: &Block) -> <Databases<E> as DatabaseSet<E>>::SyncTargets {
        sync_target(&block.extension().state).expect("decoding a block checks its target")
    }

    async fn genesis(&mut self) -> Block {
        self.0.core.genesis_block.block.clone()
    }

    async fn propose(
        &mut self,
        (runtime, context): (E, Context),
        ancestry: impl Ancestry<Block>,
        batches: Batch<E>,
        input: Input<Build, ()>,
    ) -> Option<Proposed<Self, E>> {
        let parent = ancestry.peek()?.inner().clone();
        let core = &self.0.core;
        let Build { seed, excluded } = input.upstream;
        let claims = Claims {
            context,
            timestamp_ms: rules::time_after(&parent, runtime.current()),
            beneficiary: self.0.beneficiary,
            seed,
        };
        let base_fee = claims.block_context(&core.genesis, &parent).base_fee;
        let room = Room {
            bytes: MAX_TRANSACTIONS_BYTES,
            transactions: MAX_TRANSACTIONS,
            // Most transactions use less gas than they allow for.
            gas: core.genesis.gas_limit.saturating_mul(2),
        };
        let chosen = core.pool.select(base_fee, &excluded, room);
        let transactions = chosen
            .iter()
            .map(|transaction| Transaction::clone(transaction))
            .collect();
        Some(
            self.build::<E>(claims, &parent, batches, transactions)
                .await,
        )
    }

    async fn process(
        &mut self,
        (runtime, context): (E, Context),
        ancestry: impl Ancestry<Block>,
        batches: Batch<E>,
        finality: Finality,
    ) -> Option<BlockState<E>> {
        let (block, parent) = lineage(ancestry).await;
        if finality == Finality::Candidate {
            if let Err(reason) = rules::check(&block, &parent, &context, &self.0.scheme) {
                tracing::warn!(?block, %reason, "block refused");
                return None;
            }
            // It may be right yet: only local clocks say otherwise.
            runtime.sleep(rules::early(&block, runtime.current())).await;
        }
        let genesis = &self.0.core.genesis;
        let claims = Claims::of(&block, context);
        let context = claims.block_context(genesis, &parent);
        let transactions = self.decode(&block)?;
        let executed = execute::<E>(genesis, &context, transactions, batches, true).await?;
        let expected = claims.assemble(
            &context,
            &executed.outcome,
            commitments::<E>(&executed.state),
        );
        if (block.header(), block.extension()) != (&expected.0, &expected.1) {
            tracing::warn!(?block, "block does not say what executing it gives");
            return None;
        }
        self.remember(&block, executed.outcome.receipts, &executed.included);
        Some(executed.state)
    }

    async fn capture(
        &mut self,
        _: (E, Context),
        _: &Block,
        _: &BlockState<E>,
        _: <Databases<E> as DatabaseSet<E>>::Readers,
    ) {
    }

    async fn finalized(
        &mut self,
        (runtime, _): (E, Context),
        block: &Block,
        (): (),
        _: <Databases<E> as DatabaseSet<E>>::Readers,
    ) {
        self.publish(runtime, block).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_primitives::U256;
    use commonware_consensus::marshal::ancestry::from_iter;
    use commonware_cryptography::Digested;
    use lemma_ledger::Genesis;
    use lemma_types::block::StateTarget;

    use super::*;

    /// An ancestry of one block whose parent nobody has.
    fn orphan() -> impl Ancestry<Block> {
        let state = StateTarget {
            ops_root: B256::ZERO,
            start: 0,
            end: 1,
        };
        let block = Block::genesis(&Genesis::development(1, 10, BTreeMap::new()), state);
        let digest = block.digest();
        from_iter([Digested::precomputed(block, digest)])
    }

    #[test]
    fn without_the_parent_there_is_no_verdict() {
        let lineage = lineage(orphan());
        futures::pin_mut!(lineage);
        let polled = futures::executor::block_on(async { futures::poll!(lineage) });
        assert!(polled.is_pending());
    }

    #[test]
    fn only_what_the_next_blocks_can_hold_waits() {
        let no_room = InvalidTransaction::GasAboveBlock {
            gas_limit: 2,
            available: 1,
        };
        let gap = InvalidTransaction::NonceTooHigh {
            nonce: 2,
            expected: 1,
        };
        assert!(may_wait(&no_room) && may_wait(&gap));
        let poor = InvalidTransaction::InsufficientFunds {
            required: U256::from(2),
            balance: U256::from(1),
        };
        let used = InvalidTransaction::NonceTooLow {
            nonce: 1,
            expected: 2,
        };
        assert!(!may_wait(&poor) && !may_wait(&used));
    }
}
