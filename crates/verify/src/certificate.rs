//! Finality certificates: one threshold signature of the validators over one block.
//!
//! Validators run simplex consensus (commonware) with its BLS12-381 threshold scheme and embedded VRF, signatures in G1
//! ("MinSig"). A quorum's votes combine to one signature under one public key, which stays the same for the life of the
//! network, whoever the validators are. A finalization on the wire is
//!
//! ```text
//! varint epoch ‖ varint view ‖ varint parent view ‖ 32 bytes payload     the proposal
//! 48 bytes vote signature ‖ 48 bytes seed signature                      the certificate
//! ```
//!
//! with LEB128 varints in their shortest form and compressed points of G1. The payload is the block's hash. The vote signs
//! the proposal under `namespace ‖ "_FINALIZE"`, the seed signs `varint epoch ‖ varint view` under
//! `namespace ‖ "_SEED"`; what is hashed to the curve is `varint namespace length ‖ namespace ‖ message`, and the domain
//! separation tag is [`DST`].
//!
//! The consensus engine itself is not a dependency: it brings sockets and storage. Nothing is decoded here either: the
//! header that is to be proved fixes every byte of the proposal, so the bytes are compared. A test proves on real
//! certificates that this module accepts and refuses what the engine accepts and refuses.

use blst::{
    BLST_ERROR,
    min_sig::{PublicKey, Signature},
};
use lemma_types::{B256, consensus_namespace};

/// RFC 9380 domain separation tag of hashing to G1, with proof of possession (draft-irtf-cfrg-bls-signature-05 §4.2.3).
pub const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";

/// Bytes of a signature: a compressed point of G1.
const SIGNATURE_BYTES: usize = 48;
/// Bytes of a proposal's payload.
const PAYLOAD_BYTES: usize = 32;

/// A network's public key, checked to be in its group, with the network's namespaces.
#[derive(Clone, Debug)]
pub struct NetworkKey {
    key: PublicKey,
    finalize_namespace: Vec<u8>,
    seed_namespace: Vec<u8>,
}

/// What is to be final: a block and the round in which it was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Consensus epoch.
    pub epoch: u64,
    /// View within the epoch.
    pub view: u64,
    /// View of the parent block's proposal.
    pub parent_view: u64,
    /// Hash of the block.
    pub block: B256,
}

/// Why bytes are not the public key of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the network key is not a compressed point of BLS12-381 G2: expected 96 bytes in the group of prime order"
)]
pub struct NetworkKeyError;

/// Why a certificate does not make a block final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Too short to be a certificate.
    #[error("the certificate of {0} bytes is too short to be one")]
    TooShort(usize),
    /// It certifies another block.
    #[error("the certificate is for block {certified}, the header's hash is {block}")]
    OtherBlock {
        /// What the certificate says.
        certified: B256,
        /// What the header hashes to.
        block: B256,
    },
    /// It names other rounds than the header, or writes them in another way.
    #[error(
        "the certificate is for other rounds than epoch {}, view {}, parent view {} of the header",
        .0.epoch, .0.view, .0.parent_view
    )]
    OtherRound(Proposal),
    /// A signature is not a point of the group.
    #[error("the {0} signature is not a compressed point of G1")]
    Malformed(&'static str),
    /// A signature does not verify.
    #[error(
        "the {0} signature does not verify under the network key: another network, another kind of vote, or forged"
    )]
    Forged(&'static str),
}

impl NetworkKey {
    /// The key of the network with this chain id: 96 bytes, a compressed point of G2.
    ///
    /// # Errors
    /// If the bytes are not a point of the group of prime order, or are its identity.
    pub fn new(chain_id: u64, bytes: &[u8]) -> Result<Self, NetworkKeyError> {
        let key = PublicKey::uncompress(bytes).map_err(|_| NetworkKeyError)?;
        key.validate().map_err(|_| NetworkKeyError)?;
        let base = consensus_namespace(chain_id);
        Ok(Self {
            key,
            finalize_namespace: [&base, b"_FINALIZE".as_slice()].concat(),
            seed_namespace: [&base, b"_SEED".as_slice()].concat(),
        })
    }

    /// Checks that a quorum of validators finalised `proposal`.
    ///
    /// Both signatures are checked, each by its own pairing equation. Together they would be a little faster, but a sum of
    /// two equations needs random weights to say anything about each, and this crate has no randomness.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn verify_finalization(
        &self,
        proposal: &Proposal,
        finalization: &[u8],
    ) -> Result<(), CertificateError> {
        let too_short = || CertificateError::TooShort(finalization.len());
        let (rest, seed) = finalization
            .split_last_chunk::<SIGNATURE_BYTES>()
            .ok_or_else(too_short)?;
        let (message, vote) = rest
            .split_last_chunk::<SIGNATURE_BYTES>()
            .ok_or_else(too_short)?;
        let (_, payload) = message
            .split_last_chunk::<PAYLOAD_BYTES>()
            .ok_or_else(too_short)?;
        if *payload != proposal.block.0 {
            return Err(CertificateError::OtherBlock {
                certified: B256::new(*payload),
                block: proposal.block,
            });
        }
        if message != proposal.encode() {
            return Err(CertificateError::OtherRound(*proposal));
        }
        self.verify_signature("vote", &self.finalize_namespace, message, vote)?;
        self.verify_signature("seed", &self.seed_namespace, &proposal.encode_round(), seed)
    }

    fn verify_signature(
        &self,
        which: &'static str,
        namespace: &[u8],
        message: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), CertificateError> {
        let malformed = |_: BLST_ERROR| CertificateError::Malformed(which);
        let signature = Signature::uncompress(signature).map_err(malformed)?;
        signature.validate(true).map_err(malformed)?;
        let mut prefix = Vec::with_capacity(namespace.len() + 1);
        write_varint(namespace.len() as u64, &mut prefix);
        prefix.extend(namespace);
        // Key and signature are known to be in their groups, so they are not checked again.
        match signature.verify(false, message, DST, &prefix, &self.key, false) {
            BLST_ERROR::BLST_SUCCESS => Ok(()),
            _ => Err(CertificateError::Forged(which)),
        }
    }
}

impl Proposal {
    /// What a vote signs.
    fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_round();
        write_varint(self.parent_view, &mut out);
        out.extend(self.block);
        out
    }

    /// What a seed signs.
    fn encode_round(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        write_varint(self.epoch, &mut out);
        write_varint(self.view, &mut out);
        out
    }
}

/// Unsigned LEB128 in its shortest form.
fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
