//! Blocks as validators exchange them.
//!
//! A block is an Ethereum header, the [`Extension`] that the header commits to, the raw transactions, and the
//! proposer's ed25519 signature over the block's hash. The hash (keccak-256 of the header's RLP) is what consensus
//! agrees on. Two signed blocks of one leader and view are evidence against that leader: threshold votes are none,
//! since enough other validators can make anybody's.
//!
//! A [`Block`] that was decoded is consistent in itself: its parts are the ones that its hash commits to, and the
//! leader has signed it. So no peer can spoil a block that others need by passing it on with other parts.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header, proofs::ordered_trie_root_with_encoder};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U256, keccak256};
use bytes::BufMut;
use commonware_codec::{
    Buf, Copying, DecodeExt as _, Encode as _, EncodeSize, Error as CodecError, RangeCfg, Read,
    ReadExt as _, Write,
};
use commonware_consensus::{
    Block as ConsensusBlock, BoundedBlock, CertifiableBlock, Heightable,
    types::{Epoch, Height, Round, View},
};
use commonware_cryptography::{Digestible, Signer as _, Verifier as _, ed25519};
use lemma_ledger::Genesis;
use lemma_types::{
    block::{Extension, LogHead, StateTarget, decode_header, header_commits_to},
    limits,
};

use crate::{
    database::sync_target,
    scheme::{Context, Digest, PublicKey, digest},
};

/// Most bytes of all transactions of a block together.
pub const MAX_TRANSACTIONS_BYTES: usize = 512 << 10;
/// Most transactions of a block.
pub const MAX_TRANSACTIONS: usize = 4_096;
/// What a proposer's signature is for.
const PROPOSAL_NAMESPACE: &[u8] = b"lemma/proposal/1";
/// Bytes of an ed25519 signature.
const SIGNATURE: usize = 64;

/// A block. Cheap to clone.
#[derive(Clone)]
pub struct Block(Arc<Parts>);

struct Parts {
    hash: B256,
    header: Header,
    extension: Extension,
    leader: PublicKey,
    transactions: Vec<Bytes>,
    signature: [u8; SIGNATURE],
    transaction_hashes: OnceLock<Vec<B256>>,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        let parts = |block: &Self| (block.0.hash, block.0.signature);
        parts(self) == parts(other) && self.0.transactions == other.0.transactions
    }
}

impl Eq for Block {}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} {})", self.number(), self.hash())
    }
}

impl Block {
    /// The block at height 0: it commits to `genesis` (as its parent hash) and to the empty state, whose sync target
    /// is `state`. Nobody has proposed it.
    pub(crate) fn genesis(genesis: &Genesis, state: StateTarget) -> Self {
        let extension = Extension {
            epoch: 0,
            view: 0,
            parent_view: 0,
            leader: B256::ZERO,
            timestamp_ms: genesis.timestamp.saturating_mul(1000),
            state,
            batches: LogHead::empty(),
            history: LogHead::empty(),
            seed: None,
        };
        let header = Header {
            parent_hash: genesis_commitment(genesis),
            gas_limit: genesis.gas_limit,
            timestamp: extension.timestamp_ms / 1000,
            base_fee_per_gas: Some(genesis.base_fee),
            extra_data: extension.commitment().to_vec().into(),
            ..empty_header()
        };
        let leader = nobody();
        Self(Arc::new(Parts {
            hash: header.hash_slow(),
            header,
            extension,
            leader,
            transactions: Vec::new(),
            signature: [0; SIGNATURE],
            transaction_hashes: OnceLock::new(),
        }))
    }

    /// Signs a block that this validator proposes.
    pub(crate) fn seal(
        signer: &ed25519::PrivateKey,
        header: Header,
        extension: Extension,
        transactions: Vec<Bytes>,
    ) -> Self {
        let hash = header.hash_slow();
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(&signer.sign(PROPOSAL_NAMESPACE, hash.as_slice()).encode());
        let leader = signer.public_key();
        Self(Arc::new(Parts {
            hash,
            header,
            extension,
            leader,
            transactions,
            signature,
            transaction_hashes: OnceLock::new(),
        }))
    }

    /// The block's Ethereum hash.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.0.hash
    }

    /// Height.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.header.number
    }

    /// The Ethereum header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// What the header commits to beyond Ethereum's fields.
    #[must_use]
    pub fn extension(&self) -> &Extension {
        &self.0.extension
    }

    /// EIP-2718 bytes of the transactions.
    #[must_use]
    pub fn transactions(&self) -> &[Bytes] {
        &self.0.transactions
    }

    /// Hashes of the transactions.
    #[must_use]
    pub fn transaction_hashes(&self) -> &[B256] {
        self.0
            .transaction_hashes
            .get_or_init(|| self.0.transactions.iter().map(keccak256).collect())
    }

    /// The leader's ed25519 signature over the hash; zeros for the genesis block.
    #[must_use]
    pub fn proposer_signature(&self) -> &[u8; SIGNATURE] {
        &self.0.signature
    }

    pub(crate) fn leader(&self) -> &PublicKey {
        &self.0.leader
    }

    /// Decodes a block that this process has encoded: parts are parsed, but not held against the hash again.
    pub(crate) fn decode_own(bytes: &[u8]) -> Result<Self, CodecError> {
        Parts::read(&mut Copying(bytes)).map(|parts| Self(Arc::new(parts)))
    }
}

impl Parts {
    fn read(buf: &mut impl Buf) -> Result<Self, CodecError> {
        let small = RangeCfg::new(0..=limits::HEADER_BYTES);
        let header =
            decode_header(&bytes::Bytes::read_cfg(buf, &small)?).map_err(invalid("header"))?;
        let extension = Extension::decode(&bytes::Bytes::read_cfg(buf, &small)?)
            .map_err(invalid("extension"))?;
        let count = usize::read_cfg(buf, &RangeCfg::new(0..=MAX_TRANSACTIONS))?;
        let mut left = MAX_TRANSACTIONS_BYTES;
        let mut transactions = Vec::new();
        for _ in 0..count {
            let raw = bytes::Bytes::read_cfg(buf, &RangeCfg::new(0..=left))?;
            left -= raw.len();
            // A copy, so that a transaction that is kept does not keep the whole message.
            transactions.push(Bytes::copy_from_slice(&raw));
        }
        let signature = <[u8; SIGNATURE]>::read(buf)?;
        let leader = match header.number {
            0 => nobody(),
            _ => PublicKey::decode(Copying(extension.leader.as_slice()))?,
        };
        Ok(Self {
            hash: header.hash_slow(),
            header,
            extension,
            leader,
            transactions,
            signature,
            transaction_hashes: OnceLock::new(),
        })
    }

    /// The hash commits to all parts, and the leader has signed it.
    fn check(&self) -> Result<(), CodecError> {
        let problem = |what| Err(CodecError::Invalid("Block", what));
        if !header_commits_to(&self.header, &self.extension) {
            return problem("the header does not commit to the extension");
        }
        if sync_target(&self.extension.state).is_none() {
            return problem("there is no such state");
        }
        if transactions_root(&self.transactions) != self.header.transactions_root {
            return problem("the header does not commit to the transactions");
        }
        if self.header.number == 0 {
            // Its hash is part of the trusted root, so it needs nobody's signature.
            let plain = self.signature == [0; SIGNATURE]
                && self.extension.leader.is_zero()
                && self.transactions.is_empty();
            return if plain {
                Ok(())
            } else {
                problem("the genesis block has no proposer and no transactions")
            };
        }
        let signature = ed25519::Signature::decode(Copying(&self.signature))?;
        if !self
            .leader
            .verify(PROPOSAL_NAMESPACE, self.hash.as_slice(), &signature)
        {
            return problem("not signed by its leader");
        }
        Ok(())
    }
}

/// The leader of the genesis block: no context is ever compared with its, which only has to have a key.
fn nobody() -> PublicKey {
    ed25519::PrivateKey::from_seed(0).public_key()
}

fn invalid<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl Fn(E) -> CodecError {
    move |error| CodecError::Wrapped(what, Box::new(error))
}

/// The header's `transactionsRoot`.
pub(crate) fn transactions_root(transactions: &[Bytes]) -> B256 {
    ordered_trie_root_with_encoder(transactions, |raw, out| out.put_slice(raw))
}

/// A header of this network without content: fields that have had their time in Ethereum are constant.
pub(crate) fn empty_header() -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        difficulty: U256::ZERO,
        nonce: B64::ZERO,
        logs_bloom: Bloom::ZERO,
        ..Header::default()
    }
}

/// Binds the genesis block to all that the nodes of a network agree on beforehand.
fn genesis_commitment(genesis: &Genesis) -> B256 {
    let mut bytes = b"lemma/genesis/1".to_vec();
    for number in [
        genesis.chain_id,
        genesis.timestamp,
        genesis.gas_limit,
        genesis.base_fee,
        genesis.min_base_fee,
    ] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    for (address, balance) in &genesis.alloc {
        let address: &Address = address;
        bytes.extend_from_slice(address.as_slice());
        bytes.extend_from_slice(&balance.to_be_bytes::<32>());
    }
    keccak256(bytes)
}

impl Write for Block {
    fn write(&self, buf: &mut impl BufMut) {
        let parts = &self.0;
        bytes::Bytes::from(alloy_rlp::encode(&parts.header)).write(buf);
        bytes::Bytes::from(parts.extension.encode()).write(buf);
        parts.transactions.len().write(buf);
        for raw in &parts.transactions {
            raw.0.write(buf);
        }
        parts.signature.write(buf);
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        let parts = &self.0;
        let sized = |length: usize| length.encode_size() + length;
        sized(alloy_rlp::Encodable::length(&parts.header))
            + sized(alloy_rlp::Encodable::length(&parts.extension))
            + parts.transactions.len().encode_size()
            + parts
                .transactions
                .iter()
                .map(|raw| sized(raw.len()))
                .sum::<usize>()
            + SIGNATURE
    }
}

impl Read for Block {
    type Cfg = ();

    fn read_cfg(buf: &mut impl Buf, _: &()) -> Result<Self, CodecError> {
        let parts = Parts::read(buf)?;
        parts.check()?;
        Ok(Self(Arc::new(parts)))
    }
}

impl Digestible for Block {
    type Digest = Digest;

    fn digest(&self) -> Digest {
        digest(self.hash())
    }
}

impl Heightable for Block {
    fn height(&self) -> Height {
        Height::new(self.number())
    }
}

impl ConsensusBlock for Block {
    fn parent(&self) -> Digest {
        digest(self.0.header.parent_hash)
    }
}

impl CertifiableBlock for Block {
    type Context = Context;

    fn context(&self) -> Context {
        let extension = self.extension();
        Context {
            round: Round::new(Epoch::new(extension.epoch), View::new(extension.view)),
            leader: self.leader().clone(),
            parent: (View::new(extension.parent_view), self.parent()),
        }
    }
}

impl BoundedBlock for Block {
    fn max_encode_size(_: &()) -> usize {
        // Lengths are varints of at most ten bytes.
        const LENGTH: usize = 10;
        2 * (LENGTH + limits::HEADER_BYTES)
            + LENGTH * (1 + MAX_TRANSACTIONS)
            + MAX_TRANSACTIONS_BYTES
            + SIGNATURE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn state() -> StateTarget {
        StateTarget {
            ops_root: B256::repeat_byte(1),
            start: 0,
            end: 1,
        }
    }

    fn block(transactions: Vec<Bytes>) -> Block {
        let signer = ed25519::PrivateKey::from_seed(3);
        let extension = Extension {
            epoch: 0,
            view: 4,
            parent_view: 2,
            leader: B256::from_slice(&signer.public_key()),
            timestamp_ms: 1234,
            state: state(),
            batches: LogHead::empty(),
            history: LogHead {
                size: 1,
                root: B256::repeat_byte(2),
            },
            seed: None,
        };
        let header = Header {
            number: 1,
            timestamp: 1,
            transactions_root: transactions_root(&transactions),
            extra_data: extension.commitment().to_vec().into(),
            base_fee_per_gas: Some(7),
            ..empty_header()
        };
        Block::seal(&signer, header, extension, transactions)
    }

    #[test]
    fn blocks_round_trip() {
        for transactions in [
            vec![],
            vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        ] {
            let block = block(transactions);
            let bytes = block.encode();
            assert_eq!(bytes.len(), block.encode_size());
            assert!(bytes.len() <= Block::max_encode_size(&()));
            assert_eq!(Block::decode(bytes.clone()).unwrap(), block);
            assert_eq!(Block::decode_own(&bytes).unwrap(), block);
            assert_eq!(block.digest().as_ref(), block.hash().as_slice());
            assert_eq!(block.context().round.view().get(), 4);
        }
    }

    #[test]
    fn no_part_can_be_exchanged() {
        let bytes = block(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")])
            .encode()
            .to_vec();
        for position in 0..bytes.len() {
            let mut other = bytes.clone();
            other[position] ^= 1;
            assert!(
                Block::decode(other).is_err(),
                "byte {position} does not matter"
            );
        }
        for length in 0..bytes.len() {
            assert!(Block::decode(Copying(&bytes[..length])).is_err());
        }
    }

    #[test]
    fn genesis_binds_its_configuration() {
        let genesis =
            Genesis::development(7, 100, BTreeMap::from([(Address::ZERO, U256::from(5))]));
        let block = Block::genesis(&genesis, state());
        let hash = |change: fn(&mut Genesis)| {
            let mut other = genesis.clone();
            change(&mut other);
            Block::genesis(&other, state()).hash()
        };
        let hashes = [
            block.hash(),
            hash(|g| g.chain_id = 8),
            hash(|g| g.timestamp = 101),
            hash(|g| g.gas_limit += 1),
            hash(|g| g.base_fee += 1),
            hash(|g| g.min_base_fee += 1),
            hash(|g| {
                g.alloc.insert(Address::ZERO, U256::from(6));
            }),
        ];
        let distinct: std::collections::BTreeSet<_> = hashes.into_iter().collect();
        assert_eq!(distinct.len(), hashes.len());
        assert!(header_commits_to(block.header(), block.extension()));
        assert_eq!(Block::decode(block.encode()).unwrap(), block);
        let mut signed = block.encode().to_vec();
        *signed.last_mut().unwrap() = 1;
        assert!(Block::decode(signed).is_err());
        let zero = Header {
            number: 0,
            ..self::block(vec![]).header().clone()
        };
        let extension = self::block(vec![]).extension().clone();
        let proposed = Block::seal(&ed25519::PrivateKey::from_seed(3), zero, extension, vec![]);
        assert!(Block::decode(proposed.encode()).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Block::decode(bytes);
        }
    }
}
