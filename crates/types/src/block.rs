//! Block headers.
//!
//! A block's header is an Ethereum header, so its hash (keccak-256 of its RLP) is what Ethereum clients expect and what
//! validators finalise. What Ethereum has no field for is in the [`Extension`]; the header commits to it by
//! `extra_data = keccak256(rlp(extension))`.

use alloy_consensus::Header;
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};

use crate::{B256, Bytes, keccak256, limits};

/// Size and root of an append-only log (see [`merkle`](crate::merkle)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct LogHead {
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: B256,
}

impl LogHead {
    /// The log without leaves.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            size: 0,
            root: keccak256([]),
        }
    }
}

/// What a node that joins by state sync has to reach: the operation log of the state database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct StateTarget {
    /// Root of the operations.
    pub ops_root: B256,
    /// First location that is needed.
    pub start: u64,
    /// One past the last location.
    pub end: u64,
}

/// The threshold signature of a round: unique, so nobody could choose it.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Seed {
    /// Epoch of the round.
    pub epoch: u64,
    /// View of the round.
    pub view: u64,
    /// The signature: 48 bytes, a compressed point of G1.
    pub signature: Bytes,
}

impl Seed {
    /// The beacon's output of that round.
    #[must_use]
    pub fn randomness(&self) -> B256 {
        keccak256([b"lemma/beacon/1".as_slice(), &self.signature].concat())
    }
}

/// The part of a block's header that Ethereum has no field for.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
#[rlp(trailing)]
pub struct Extension {
    /// Consensus epoch.
    pub epoch: u64,
    /// Consensus view in which the block was proposed.
    pub view: u64,
    /// View of the parent block.
    pub parent_view: u64,
    /// ed25519 key of the proposer.
    pub leader: B256,
    /// Time of the block, milliseconds since the Unix epoch; the header has its seconds.
    pub timestamp_ms: u64,
    /// The state after this block, for state sync. The header's `state_root` is the canonical root.
    pub state: StateTarget,
    /// The log of settled batches, after this block.
    pub batches: LogHead,
    /// The log of block hashes up to and including the parent.
    pub history: LogHead,
    /// The beacon of the *parent's* round; absent in the first blocks.
    pub seed: Option<Seed>,
}

/// Why bytes are not a header or an extension.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Longer than any header is.
    #[error("{0} bytes: at most {max} are accepted", max = limits::HEADER_BYTES)]
    TooLarge(usize),
    /// Not RLP of the type, or followed by more bytes.
    #[error("not canonical RLP: {0}")]
    Rlp(alloy_rlp::Error),
    /// Decodes, but encodes to other bytes.
    #[error("not canonical RLP: the value has another encoding")]
    NotCanonical,
}

fn decode_exact<T: Decodable + Encodable>(bytes: &[u8]) -> Result<T, HeaderError> {
    if bytes.len() > limits::HEADER_BYTES {
        return Err(HeaderError::TooLarge(bytes.len()));
    }
    let value: T = alloy_rlp::decode_exact(bytes).map_err(HeaderError::Rlp)?;
    if alloy_rlp::encode(&value) != bytes {
        return Err(HeaderError::NotCanonical);
    }
    Ok(value)
}

impl Extension {
    /// RLP.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(self)
    }

    /// Decodes RLP and nothing after it.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        decode_exact(bytes)
    }

    /// What the header's `extra_data` must be.
    #[must_use]
    pub fn commitment(&self) -> B256 {
        keccak256(self.encode())
    }
}

/// Decodes an Ethereum header from RLP, and nothing after it.
///
/// # Errors
/// See [`HeaderError`].
pub fn decode_header(bytes: &[u8]) -> Result<Header, HeaderError> {
    decode_exact(bytes)
}

/// Whether the header commits to the extension, and the two agree on time and randomness.
#[must_use]
pub fn header_commits_to(header: &Header, extension: &Extension) -> bool {
    let randomness = extension.seed.as_ref().map_or(B256::ZERO, Seed::randomness);
    header.extra_data.as_ref() == extension.commitment().as_slice()
        && header.timestamp == extension.timestamp_ms / 1000
        && header.mix_hash == randomness
        && extension.history.size == header.number
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extension(seed: Option<Seed>) -> Extension {
        Extension {
            epoch: 0,
            view: 9,
            parent_view: 7,
            leader: B256::repeat_byte(1),
            timestamp_ms: 1_700_000_000_123,
            state: StateTarget {
                ops_root: B256::repeat_byte(2),
                start: 3,
                end: 900,
            },
            batches: LogHead {
                size: 4,
                root: B256::repeat_byte(5),
            },
            history: LogHead {
                size: 8,
                root: B256::repeat_byte(6),
            },
            seed,
        }
    }

    #[test]
    fn extension_round_trips_and_is_exact() {
        let seed = Seed {
            epoch: 0,
            view: 7,
            signature: vec![9; 48].into(),
        };
        for extension in [extension(None), extension(Some(seed))] {
            let bytes = extension.encode();
            assert_eq!(Extension::decode(&bytes), Ok(extension));
            assert!(Extension::decode(&[bytes.clone(), vec![0]].concat()).is_err());
            assert!(Extension::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        assert!(matches!(
            Extension::decode(&vec![0; 5000]),
            Err(HeaderError::TooLarge(5000))
        ));
    }

    #[test]
    fn header_and_extension_belong_together() {
        let extension = extension(Some(Seed {
            epoch: 0,
            view: 7,
            signature: vec![9; 48].into(),
        }));
        let header = Header {
            number: 8,
            timestamp: 1_700_000_000,
            mix_hash: extension.seed.as_ref().unwrap().randomness(),
            extra_data: extension.commitment().to_vec().into(),
            ..Header::default()
        };
        assert!(header_commits_to(&header, &extension));
        assert_eq!(
            decode_header(&alloy_rlp::encode(&header)),
            Ok(header.clone())
        );
        assert!(!header_commits_to(
            &Header {
                number: 9,
                ..header.clone()
            },
            &extension
        ));
        assert!(!header_commits_to(
            &Header {
                timestamp: 1,
                ..header.clone()
            },
            &extension
        ));
        assert!(!header_commits_to(
            &Header {
                mix_hash: B256::ZERO,
                ..header.clone()
            },
            &extension
        ));
        assert!(!header_commits_to(
            &header,
            &Extension {
                view: 10,
                ..extension
            }
        ));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Extension::decode(&bytes);
            let _ = decode_header(&bytes);
        }
    }
}
