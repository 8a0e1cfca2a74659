//! The cryptography of consensus: ed25519 names validators, BLS12-381 threshold signatures make certificates.
//!
//! Certificates are in G1 (48 bytes) under one key in G2 (96 bytes) that never changes, however often validators do.
//! Every vote also carries a partial signature over the round alone; together they are the round's *seed*, which is
//! unique, so that nobody can choose it: the random beacon.

use std::num::NonZeroU32;

use commonware_consensus::simplex::{
    elector,
    scheme::bls12381_threshold::vrf,
    types::{Context as ConsensusContext, Finalization as Certificate},
};
use commonware_cryptography::{
    Sha256,
    bls12381::primitives::{sharing::ModeVersion, variant::MinSig},
    ed25519, sha256,
};

/// The variant with short signatures.
pub type Variant = MinSig;
/// Names a validator.
pub type PublicKey = ed25519::PublicKey;
/// What consensus agrees on: a block's Ethereum hash, in the type that commonware uses for 32 bytes.
pub type Digest = sha256::Digest;
/// How votes are signed and certificates checked.
pub type Scheme = vrf::Scheme<PublicKey, Variant>;
/// Chooses each view's leader by the seed of the view before.
pub type Elector = elector::Random<Sha256>;
/// Round, leader and parent of a proposal.
pub type Context = ConsensusContext<Digest, PublicKey>;
/// Proves that a block is final.
pub type Finalization = Certificate<Scheme, Digest>;
/// The beacon's signature for one round.
pub type RoundSeed = vrf::Seed<Variant>;

/// The signature in a [`RoundSeed`].
pub(crate) type SeedSignature =
    <Variant as commonware_cryptography::bls12381::primitives::variant::Variant>::Signature;

/// Most validators of one network.
pub const MAX_VALIDATORS: NonZeroU32 = NonZeroU32::new(256).expect("positive");

/// How shares are numbered.
pub(crate) const SHARING: ModeVersion = ModeVersion::v0();

/// The leader election.
pub(crate) fn elector() -> Elector {
    elector::Random::new(elector::RandomVersion::V1)
}

/// A block hash as consensus carries it.
pub(crate) fn digest(hash: alloy_primitives::B256) -> Digest {
    Digest::from(hash.0)
}

/// The block hash that consensus carries.
pub(crate) fn hash(digest: &Digest) -> alloy_primitives::B256 {
    alloy_primitives::B256::from_slice(digest.as_ref())
}
