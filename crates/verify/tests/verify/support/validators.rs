//! A dealt validator set of the consensus engine itself, with its real votes and certificates.

use commonware_codec::{Copying, DecodeExt as _, Encode as _};
use commonware_consensus::{
    simplex::{
        scheme::bls12381_threshold::vrf::{self, Seedable as _},
        types::{Finalization, Finalize, Notarization, Notarize, Proposal},
    },
    types::{Epoch, View},
};
use commonware_cryptography::{
    Signer as _,
    bls12381::{
        dkg::feldman_desmedt,
        primitives::{
            sharing::Mode,
            variant::{MinSig, Variant},
        },
    },
    ed25519,
    keccak256::Digest,
};
use commonware_parallel::Sequential;
use commonware_utils::{N3f1, TestRng, TryCollect as _, non_empty, ordered::Set};
use lemma_types::{B256, consensus_namespace};

pub type Scheme = vrf::Scheme<ed25519::PublicKey, MinSig>;
pub type RealFinalization = Finalization<Scheme, Digest>;

/// The round of a proposal, and the view of its parent.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub epoch: u64,
    pub view: u64,
    pub parent: u64,
}

/// Validators with their shares of one key.
pub struct Validators {
    schemes: Vec<Scheme>,
    required: usize,
}

impl Validators {
    /// Deals keys for the network with this chain id.
    pub fn deal(chain_id: u64, count: u64, seed: u64) -> Self {
        let keys: Vec<_> = (0..count).map(ed25519::PrivateKey::from_seed).collect();
        let set: Set<ed25519::PublicKey> = keys
            .iter()
            .map(|key| key.public_key())
            .try_collect()
            .unwrap();
        let (output, shares) = feldman_desmedt::deal::<MinSig, _, N3f1>(
            TestRng::new(seed),
            Mode::NonZeroCounter,
            set.clone(),
        )
        .unwrap();
        let namespace = consensus_namespace(chain_id);
        let schemes = keys
            .iter()
            .map(|key| {
                let share = shares.get_value(&key.public_key()).unwrap().clone();
                let sharing = output.public().clone();
                Scheme::signer(&namespace, set.clone(), sharing, share).unwrap()
            })
            .collect();
        Self {
            schemes,
            required: output.public().required() as usize,
        }
    }

    /// The one static public key.
    pub fn identity(&self) -> Vec<u8> {
        self.schemes[0].identity().encode().to_vec()
    }

    /// The certificate that the block is final.
    pub fn finalize(&self, round: Round, block: B256) -> Vec<u8> {
        let proposal = proposal(round, block);
        let votes: Vec<_> = self
            .quorum()
            .map(|s| Finalize::sign(s, proposal.clone()).unwrap())
            .collect();
        Finalization::from_finalizes(&self.schemes[0], non_empty![@votes.iter()], &Sequential)
            .unwrap()
            .encode()
            .to_vec()
    }

    /// The certificate that the block was notarised, which does not make it final.
    pub fn notarize(&self, round: Round, block: B256) -> Vec<u8> {
        self.notarization(round, block).encode().to_vec()
    }

    /// The seed signature of the round.
    pub fn seed(&self, round: Round) -> Vec<u8> {
        let seed = self.notarization(round, B256::ZERO).seed();
        let encoded = seed.encode();
        encoded[encoded.len() - 48..].to_vec()
    }

    fn notarization(&self, round: Round, block: B256) -> Notarization<Scheme, Digest> {
        let proposal = proposal(round, block);
        let votes: Vec<_> = self
            .quorum()
            .map(|s| Notarize::sign(s, proposal.clone()).unwrap())
            .collect();
        Notarization::from_notarizes(&self.schemes[0], non_empty![@votes.iter()], &Sequential)
            .unwrap()
    }

    fn quorum(&self) -> impl Iterator<Item = &Scheme> {
        self.schemes.iter().take(self.required)
    }
}

fn proposal(round: Round, block: B256) -> Proposal<Digest> {
    Proposal::new(
        (Epoch::new(round.epoch), View::new(round.view)).into(),
        View::new(round.parent),
        Digest(block.0),
    )
}

/// Whether the engine itself accepts these bytes as the finalization of this proposal.
pub fn engine_accepts(
    chain_id: u64,
    identity: &[u8],
    round: Round,
    block: B256,
    finalization: &[u8],
) -> bool {
    let Ok(key) = <MinSig as Variant>::Public::decode(Copying(identity)) else {
        return false;
    };
    let Ok(finalization) = RealFinalization::decode(Copying(finalization)) else {
        return false;
    };
    let scheme = Scheme::certificate_verifier(&consensus_namespace(chain_id), key);
    finalization.proposal == proposal(round, block)
        && finalization.verify(&mut TestRng::new(0), &scheme, &Sequential)
}
