//! Blocks on demand: a leader waits until there is something to put into a block, or until the heartbeat.
//!
//! The waiting happens here, outside of `Stateful`: it holds back finality while it builds, and would for the whole
//! wait.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use alloy_primitives::B256;
use commonware_codec::Encode as _;
use commonware_consensus::{
    Application as ConsensusApplication, Handoff, marshal::ancestry::Ancestry,
};
use commonware_cryptography::Digested;
use commonware_runtime::{Clock, Metrics, Spawner};
use futures::StreamExt as _;
use lemma_types::block::Seed;

use crate::{
    block::Block,
    core::Core,
    execute::base_fee_after,
    rules::seed_round,
    scheme::{Context, Scheme},
    seeds::Seeds,
};

/// What a proposal is built with, besides the pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Build {
    /// The seed of the parent's round; none for the first block.
    pub(crate) seed: Option<Seed>,
    /// Transactions in ancestors that are not final yet.
    pub(crate) excluded: BTreeSet<B256>,
}

/// Holds proposals back until they are worth their block.
#[derive(Clone)]
pub(crate) struct OnDemand<A> {
    pub(crate) inner: A,
    pub(crate) core: Arc<Core>,
    pub(crate) seeds: Seeds,
    pub(crate) heartbeat: Duration,
}

impl<A> OnDemand<A> {
    /// What the proposal after `parent` is built with, as soon as it is worth it.
    async fn demand<E: Clock>(
        &self,
        runtime: &E,
        context: &Context,
        ancestry: impl Ancestry<Block>,
    ) -> Option<Build> {
        let parent = ancestry.peek()?.inner().clone();
        let excluded = self.unfinished(ancestry).await;
        let seed = self.seed(context, &parent).await;
        let base_fee = base_fee_after(&self.core.genesis, parent.header());
        if parent.number() == 0 {
            // The genesis allocation is in the first block: nobody could submit anything before it.
            return Some(Build { seed, excluded });
        }
        tokio::select! {
            biased;
            () = self.core.pool.wait(base_fee, &excluded) => {}
            () = runtime.sleep(self.heartbeat) => {}
        }
        Some(Build { seed, excluded })
    }

    /// Hashes of the transactions in ancestors above the head.
    async fn unfinished(&self, mut ancestry: impl Ancestry<Block>) -> BTreeSet<B256> {
        let head = self.core.head.borrow().number;
        let mut hashes = BTreeSet::new();
        while let Some(block) = ancestry.next().await {
            if block.inner().number() <= head {
                break;
            }
            hashes.extend(block.inner().transaction_hashes());
            if block.inner().number() == head + 1 {
                break;
            }
        }
        hashes
    }

    /// The parent is certified when this is called, so its round's seed exists; the report may lag a little.
    async fn seed(&self, context: &Context, parent: &Block) -> Option<Seed> {
        let round = seed_round(parent, context)?;
        let seed = self.seeds.wait(round).await;
        Some(Seed {
            epoch: round.epoch().get(),
            view: round.view().get(),
            signature: seed.signature.encode().to_vec().into(),
        })
    }
}

impl<E, A> ConsensusApplication<E> for OnDemand<A>
where
    E: Clock + Spawner + Metrics,
    A: ConsensusApplication<
            E,
            Block = Block,
            Context = Context,
            Input = Build,
            SigningScheme = Scheme,
        > + Sync,
{
    type SigningScheme = Scheme;
    type Context = Context;
    type Block = Block;
    type Input = ();

    /// Never builds on a parent that is not certified yet: there is no seed of its round to put in.
    async fn prepare(
        &mut self,
        _: (E, Context),
        _: impl Ancestry<Block>,
        (): (),
    ) -> Handoff<Digested<Block>> {
        Handoff::Wait
    }

    async fn propose(
        &mut self,
        (runtime, context): (E, Context),
        ancestry: impl Ancestry<Block>,
        (): (),
    ) -> Option<Digested<Block>> {
        let build = self.demand(&runtime, &context, ancestry.clone()).await?;
        self.inner
            .propose((runtime, context), ancestry, build)
            .await
    }

    async fn verify(&mut self, context: (E, Context), ancestry: impl Ancestry<Block>) -> bool {
        self.inner.verify(context, ancestry).await
    }
}
