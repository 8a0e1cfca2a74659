//! What a block must satisfy besides saying what executing it gives.
//!
//! These rules follow from the block, its parent and consensus alone: who breaks one has proposed an invalid block, for
//! everybody and for ever. A clock that is ahead of ours is no such thing; see [`early`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use commonware_codec::{Copying, DecodeExt as _};
use commonware_consensus::{
    CertifiableBlock as _,
    types::{Epoch, Round, View},
};

use crate::{
    block::Block,
    scheme::{Context, RoundSeed, Scheme, SeedSignature},
};

/// How far a block's time may be ahead of the parent's. Without a bound, one proposer could set the clock of the chain
/// to the end of time; a chain that stood still for longer catches up in steps of this size. The first block may follow
/// the genesis after any time.
const MAX_STEP_MS: u64 = 24 * 60 * 60 * 1000;
/// How far a block's time may be ahead of the local clock before a vote for it waits.
const CLOCK_TOLERANCE_MS: u64 = 500;

/// Why a block is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it was proposed in another round, by another leader or on another parent")]
    Context,
    #[error("its time is not after its parent's, or too long after")]
    Time,
    #[error("its seed is not the one of its parent's round")]
    Seed,
}

/// Checks a candidate.
pub(crate) fn check(
    block: &Block,
    parent: &Block,
    context: &Context,
    scheme: &Scheme,
) -> Result<(), Broken> {
    if block.context() != *context {
        return Err(Broken::Context);
    }
    let (earliest, latest) = times(parent);
    if !(earliest..=latest).contains(&block.extension().timestamp_ms) {
        return Err(Broken::Time);
    }
    if !is_seeded(block, parent, context, scheme) {
        return Err(Broken::Seed);
    }
    Ok(())
}

/// The time that a proposer gives a block: the clock's, within what the parent allows.
pub(crate) fn time_after(parent: &Block, clock: SystemTime) -> u64 {
    let (earliest, latest) = times(parent);
    milliseconds(clock).clamp(earliest, latest)
}

/// How long a block is ahead of the clock, beyond what clocks may differ. Nobody votes for it before.
pub(crate) fn early(block: &Block, clock: SystemTime) -> Duration {
    let voted = block
        .extension()
        .timestamp_ms
        .saturating_sub(CLOCK_TOLERANCE_MS);
    Duration::from_millis(voted.saturating_sub(milliseconds(clock)))
}

/// Times that the parent allows, in milliseconds since the Unix epoch.
fn times(parent: &Block) -> (u64, u64) {
    let before = parent.extension().timestamp_ms;
    let latest = match parent.number() {
        0 => u64::MAX,
        _ => before.saturating_add(MAX_STEP_MS),
    };
    (before.saturating_add(1), latest)
}

/// The round whose seed a block on this parent carries; none for the first block.
pub(crate) fn seed_round(parent: &Block, context: &Context) -> Option<Round> {
    (parent.number() > 0).then(|| Round::new(context.round.epoch(), context.parent.0))
}

/// The block carries the seed of its parent's round: known by now, and nobody could choose it.
fn is_seeded(block: &Block, parent: &Block, context: &Context, scheme: &Scheme) -> bool {
    match (&block.extension().seed, seed_round(parent, context)) {
        (None, None) => true,
        (Some(seed), Some(round)) => {
            Round::new(Epoch::new(seed.epoch), View::new(seed.view)) == round
                && SeedSignature::decode(Copying(&seed.signature))
                    .is_ok_and(|signature| RoundSeed::new(round, signature).verify(scheme))
        }
        _ => false,
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_consensus::Header;
    use alloy_primitives::B256;
    use commonware_codec::Encode as _;
    use commonware_consensus::simplex::{
        scheme::bls12381_threshold::vrf::Seedable as _,
        types::{Finalization, Finalize, Proposal},
    };
    use commonware_cryptography::Digestible as _;
    use commonware_parallel::Sequential;
    use commonware_utils::{TestRng, non_empty};
    use lemma_ledger::Genesis;
    use lemma_types::block::{Extension, LogHead, Seed, StateTarget};

    use super::*;
    use crate::{block::empty_header, keys::ValidatorKeys};

    const STATE: StateTarget = StateTarget {
        ops_root: B256::ZERO,
        start: 0,
        end: 1,
    };

    struct Fixture {
        keys: Vec<ValidatorKeys>,
        schemes: Vec<Scheme>,
    }

    impl Fixture {
        fn new() -> Self {
            let keys = ValidatorKeys::deal_with(4, &mut TestRng::new(5)).unwrap();
            let schemes = keys.iter().map(|keys| keys.scheme(1).unwrap()).collect();
            Self { keys, schemes }
        }

        /// The seed that the validators make in a view.
        fn seed(&self, view: u64) -> Seed {
            let payload = crate::scheme::digest(B256::ZERO);
            let round = Round::new(Epoch::zero(), View::new(view));
            let proposal = Proposal {
                round,
                parent: View::zero(),
                payload,
            };
            let votes: Vec<_> = self.schemes[..3]
                .iter()
                .map(|s| Finalize::sign(s, proposal.clone()).unwrap())
                .collect();
            let certificate = Finalization::from_finalizes(
                &self.schemes[0],
                non_empty![@votes.iter()],
                &Sequential,
            );
            let signature = certificate
                .unwrap()
                .seed()
                .signature
                .encode()
                .to_vec()
                .into();
            Seed {
                epoch: 0,
                view,
                signature,
            }
        }

        /// A block of validator 0 in this view.
        fn block(&self, parent: &Block, view: u64, timestamp_ms: u64, seed: Option<Seed>) -> Block {
            let extension = Extension {
                epoch: 0,
                view,
                parent_view: parent.extension().view,
                leader: B256::from(self.keys[0].id().0),
                timestamp_ms,
                state: STATE,
                batches: LogHead::empty(),
                history: LogHead::empty(),
                seed,
            };
            let header = Header {
                number: parent.number() + 1,
                parent_hash: parent.hash(),
                ..empty_header()
            };
            Block::seal(&self.keys[0].signer, header, extension, Vec::new())
        }

        fn check(&self, block: &Block, parent: &Block) -> Result<(), Broken> {
            check(block, parent, &block.context(), &self.schemes[3])
        }
    }

    fn genesis() -> Block {
        Block::genesis(&Genesis::development(1, 10, BTreeMap::new()), STATE)
    }

    #[test]
    fn time_goes_on_but_not_by_leaps() {
        let fixture = Fixture::new();
        let first = fixture.block(&genesis(), 3, 900_000_000_000, None);
        assert_eq!(fixture.check(&first, &genesis()), Ok(()));
        let at = |step| {
            let time = first.extension().timestamp_ms + step;
            fixture.check(
                &fixture.block(&first, 5, time, Some(fixture.seed(3))),
                &first,
            )
        };
        assert_eq!(at(0), Err(Broken::Time));
        assert_eq!(at(1), Ok(()));
        assert_eq!(at(MAX_STEP_MS), Ok(()));
        assert_eq!(at(MAX_STEP_MS + 1), Err(Broken::Time));
        let proposed = |clock| time_after(&first, UNIX_EPOCH + Duration::from_millis(clock));
        let time = first.extension().timestamp_ms;
        assert_eq!(proposed(5), time + 1);
        assert_eq!(proposed(time + 77), time + 77);
        assert_eq!(proposed(u64::MAX / 4), time + MAX_STEP_MS);
    }

    #[test]
    fn votes_wait_for_the_clock() {
        let fixture = Fixture::new();
        let block = fixture.block(&genesis(), 1, 60_000, None);
        let early = |clock| early(&block, UNIX_EPOCH + Duration::from_millis(clock)).as_millis();
        assert_eq!(early(59_500), 0);
        assert_eq!(early(59_499), 1);
        assert_eq!(early(0), 59_500);
        assert_eq!(early(90_000), 0);
    }

    #[test]
    fn the_seed_is_the_one_of_the_parents_round() {
        let fixture = Fixture::new();
        let first = fixture.block(&genesis(), 3, 20_000, None);
        let with = |seed| fixture.check(&fixture.block(&first, 5, 30_000, seed), &first);
        let seed = fixture.seed(3);
        assert_eq!(with(Some(seed.clone())), Ok(()));
        assert_eq!(with(None), Err(Broken::Seed));
        assert_eq!(with(Some(fixture.seed(4))), Err(Broken::Seed));
        assert_eq!(
            with(Some(Seed {
                view: 4,
                ..seed.clone()
            })),
            Err(Broken::Seed)
        );
        let relabelled = Seed {
            view: 3,
            ..fixture.seed(4)
        };
        assert_eq!(with(Some(relabelled)), Err(Broken::Seed));
        let cut = Seed {
            signature: seed.signature.slice(1..),
            ..seed.clone()
        };
        assert_eq!(with(Some(cut)), Err(Broken::Seed));
        let early = fixture.block(&genesis(), 3, 20_000, Some(seed));
        assert_eq!(
            fixture.check(&early, &genesis()),
            Err(Broken::Seed),
            "before any seed is there"
        );
    }

    #[test]
    fn the_context_is_the_one_of_consensus() {
        let fixture = Fixture::new();
        let block = fixture.block(&genesis(), 3, 20_000, None);
        let context = block.context();
        let check = |context: &Context| check(&block, &genesis(), context, &fixture.schemes[0]);
        assert_eq!(check(&context), Ok(()));
        let round = Round::new(Epoch::zero(), View::new(4));
        assert_eq!(
            check(&Context {
                round,
                ..context.clone()
            }),
            Err(Broken::Context)
        );
        let leader = fixture.keys[1].public_key();
        assert_eq!(
            check(&Context {
                leader,
                ..context.clone()
            }),
            Err(Broken::Context)
        );
        let parent = (View::new(2), block.digest());
        assert_eq!(check(&Context { parent, ..context }), Err(Broken::Context));
    }
}
