//! The state database: commonware's QMDB with 32-byte keys and 72-byte values.
//!
//! Values are of one size so that a node can join by fetching operations of one size. A block commits to two roots: the
//! canonical one (proofs of current values) in its header, and the one over operations in its state target.

use commonware_cryptography::Sha256;
use commonware_glue::stateful::db::{DatabaseSet, Merkleized as _, Shared};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Metrics, Spawner, Storage};
use commonware_storage::{
    mmr::{self, Location},
    qmdb::{current::unordered::fixed, sync::Target},
    translator::EightCap,
};
use commonware_utils::{range::NonEmptyRange, sequence::FixedBytes};
use lemma_ledger::{StateKey, StateValue};
use lemma_types::block::StateTarget;

use crate::scheme::{Digest, digest, hash};

/// Bytes of activity bitmap in one chunk.
const CHUNK: usize = 64;

pub(crate) type Value = FixedBytes<{ StateValue::SIZE }>;
pub(crate) type Database<E> =
    fixed::Db<mmr::Family, E, Digest, Value, Sha256, EightCap, CHUNK, Sequential>;
pub(crate) type Databases<E> = Shared<Database<E>>;
/// Writes that have no root yet.
pub(crate) type Batch<E> = <Databases<E> as DatabaseSet<E>>::Unmerkleized;
/// A block's state, not yet applied.
pub(crate) type BlockState<E> = <Databases<E> as DatabaseSet<E>>::Merkleized;
pub(crate) type SyncTarget = Target<mmr::Family, Digest>;

/// What the code of a validator needs of a runtime, besides randomness.
pub trait Runtime: Spawner + Clock + Storage + Metrics {}
impl<E: Spawner + Clock + Storage + Metrics> Runtime for E {}

pub(crate) fn key(key: &StateKey) -> Digest {
    Digest::from(key.0)
}

pub(crate) fn value(value: &StateValue) -> Value {
    Value::new(value.0)
}

pub(crate) fn state_value(value: &Value) -> StateValue {
    let mut bytes = [0; StateValue::SIZE];
    bytes.copy_from_slice(value.as_ref());
    StateValue(bytes)
}

/// The target of the empty database, to which the genesis block commits.
pub(crate) fn empty_target<E: Runtime>() -> StateTarget {
    state_target(&<Databases<E> as DatabaseSet<E>>::initial_sync_targets())
}

fn state_target(target: &SyncTarget) -> StateTarget {
    StateTarget {
        ops_root: hash(&target.root),
        start: target.range.start().as_u64(),
        end: target.range.end().as_u64(),
    }
}

/// The target that a block commits to; `None` if it commits to nothing that can be.
pub(crate) fn sync_target(state: &StateTarget) -> Option<SyncTarget> {
    let (start, end) = (Location::new(state.start), Location::new(state.end));
    let range = NonEmptyRange::new(start..end)
        .ok()
        .filter(|_| end.is_valid())?;
    Some(Target::new(digest(state.ops_root), range))
}

/// Canonical root and target of a block's state.
pub(crate) fn commitments<E: Runtime>(
    state: &BlockState<E>,
) -> (alloy_primitives::B256, StateTarget) {
    let target = StateTarget {
        ops_root: hash(&state.ops_root()),
        start: state.sync_boundary().as_u64(),
        end: state.bounds().tip.size.as_u64(),
    };
    (hash(&state.root()), target)
}
