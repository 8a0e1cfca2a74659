//! The beacon: the seeds of recent rounds, collected from the certificates that pass by.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use commonware_actor::Feedback;
use commonware_codec::Encode as _;
use commonware_consensus::{
    Reporter,
    simplex::{scheme::bls12381_threshold::vrf::Seedable as _, types::Activity},
    types::Round,
};
use tokio::sync::watch;

use crate::scheme::{Digest, Finalization, RoundSeed, Scheme};

/// Seeds and finalizations of so many rounds are kept.
const KEPT: usize = 256;

/// Reports of consensus that outlive the round: seeds by round, finalizations by block.
#[derive(Clone, Default)]
pub(crate) struct Seeds {
    recent: Arc<Mutex<Recent>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Default)]
struct Recent {
    seeds: BTreeMap<Round, RoundSeed>,
    finalizations: BTreeMap<Round, (Digest, Vec<u8>)>,
}

impl Seeds {
    /// The seed of a round, as soon as one of the round's certificates has been seen.
    pub(crate) async fn wait(&self, round: Round) -> RoundSeed {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(seed) = self.lock().seeds.get(&round) {
                return seed.clone();
            }
            // The sender lives in `self`, so this can only mean a change.
            let _ = changed.changed().await;
        }
    }

    /// Notes the seed of a round that was learned otherwise.
    pub(crate) fn insert(&self, seed: RoundSeed) {
        let mut recent = self.lock();
        recent.seeds.insert(seed.round(), seed);
        while recent.seeds.len() > KEPT {
            recent.seeds.pop_first();
        }
        drop(recent);
        self.changed.send_replace(());
    }

    /// The encoded finalization of the block proposed in `round`, if it was seen and is the block's.
    pub(crate) fn finalization(&self, round: Round, block: &Digest) -> Option<Vec<u8>> {
        let recent = self.lock();
        let (digest, bytes) = recent.finalizations.get(&round)?;
        (digest == block).then(|| bytes.clone())
    }

    fn finalized(&self, finalization: &Finalization) {
        let proposal = &finalization.proposal;
        let mut recent = self.lock();
        recent.finalizations.insert(
            proposal.round,
            (proposal.payload, finalization.encode().to_vec()),
        );
        while recent.finalizations.len() > KEPT {
            recent.finalizations.pop_first();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter for Seeds {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        match activity {
            Activity::Notarization(notarization) | Activity::Certification(notarization) => {
                self.insert(notarization.seed());
            }
            Activity::Finalization(finalization) => {
                self.finalized(&finalization);
                self.insert(finalization.seed());
            }
            _ => {}
        }
        Feedback::Ok
    }
}
