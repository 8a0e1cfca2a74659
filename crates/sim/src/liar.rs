//! A validator that proposes what it should not: an honest one whose words are changed on their way to the others.
//!
//! Its blocks are replaced by others that it has signed as well, and its votes for them by votes for the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use alloy_consensus::proofs::ordered_trie_root_with_encoder;
use bytes::BufMut as _;
use commonware_actor::{Feedback, Unreliable};
use commonware_codec::{Copying, DecodeExt as _, Encode as _};
use commonware_consensus::simplex::types::{Notarize, Proposal, Vote};
use commonware_cryptography::Digestible as _;
use commonware_p2p::{CheckedSender, LimitedSender, Recipients, Sender};
use commonware_runtime::IoBufs;
use lemma_chain::{
    Block, ValidatorKeys,
    scheme::{Digest, PublicKey, Scheme},
};
use lemma_types::{Address, B256, Bytes, U256};

use crate::{
    client::{key, payment},
    cluster::CHAIN_ID,
};

/// The channel of votes.
const VOTES: u64 = 0;
/// The channel on which a leader sends its block.
const BLOCKS: u64 = 4;

/// What is wrong with the proposals of a lying validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The root of the state is another one.
    StateRoot,
    /// The time is not after the parent's.
    PastTime,
    /// The time is an hour ahead of all clocks.
    FutureTime,
    /// One more transaction, whose sender has nothing.
    Transaction,
    /// Two blocks in one view, both right: one for the first peer, the other for the rest.
    Twice,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::StateRoot,
        Self::PastTime,
        Self::FutureTime,
        Self::Transaction,
        Self::Twice,
    ];
}

/// What a lying validator has told.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<B256>>>);

impl Told {
    /// Hashes of the blocks that it has proposed instead of right ones.
    pub(crate) fn hashes(&self) -> Vec<B256> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A validator that lies, and what it has said.
pub(crate) struct Liar<S> {
    keys: ValidatorKeys,
    scheme: Scheme,
    peers: Vec<PublicKey>,
    lie: Lie,
    told: Told,
    /// Digests of honest blocks, and of what was told instead.
    instead: BTreeMap<Digest, Digest>,
    /// Votes for blocks that are not known to be its own. For those of others it keeps its vote to itself.
    held: BTreeMap<Digest, Proposal<Digest>>,
    votes: S,
}

type Word = (Recipients<PublicKey>, Vec<u8>);

impl<S: Sender<PublicKey = PublicKey>> Liar<S> {
    /// `votes` is where its votes go.
    pub(crate) fn new(keys: ValidatorKeys, lie: Lie, told: Told, votes: S) -> Arc<Mutex<Self>> {
        let scheme = keys.scheme(CHAIN_ID);
        let me = keys.id();
        let peers = keys.participants().into_iter().filter(|id| *id != me);
        Arc::new(Mutex::new(Self {
            peers: peers
                .map(|id| PublicKey::decode(Copying(&id.0)).expect("a validator's name is a key"))
                .collect(),
            scheme: scheme.expect("the share is the network's"),
            keys,
            lie,
            told,
            instead: BTreeMap::new(),
            held: BTreeMap::new(),
            votes,
        }))
    }

    /// What is sent instead of a message.
    fn rewrite(&mut self, channel: u64, to: Recipients<PublicKey>, message: &[u8]) -> Vec<Word> {
        if channel == BLOCKS {
            if let Ok(block) = Block::decode(Copying(message))
                && block.extension().leader == B256::from(self.keys.id().0)
                && !self.instead.contains_key(&block.digest())
            {
                return self.propose(&block);
            }
        } else if channel == VOTES {
            match Vote::<Scheme, Digest>::decode(Copying(message)) {
                Ok(Vote::Notarize(vote)) => {
                    let payload = vote.proposal.payload;
                    self.held.insert(payload, vote.proposal);
                    self.vote(payload);
                    return Vec::new();
                }
                Ok(Vote::Finalize(vote)) if self.instead.contains_key(&vote.proposal.payload) => {
                    return Vec::new();
                }
                _ => {}
            }
        }
        vec![(to, message.to_vec())]
    }

    /// Another block in the place of this one.
    fn propose(&mut self, block: &Block) -> Vec<Word> {
        let other = self.other(block);
        self.instead.insert(block.digest(), other.digest());
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(other.hash());
        drop(told);
        self.vote(block.digest());
        let first = if self.lie == Lie::Twice {
            block
        } else {
            &other
        };
        self.split(first.encode().to_vec(), other.encode().to_vec())
    }

    /// Votes for what was told instead of this block, if that and the vote are known.
    fn vote(&mut self, payload: Digest) {
        let Some(other) = self.instead.get(&payload).copied() else {
            return;
        };
        let Some(proposal) = self.held.remove(&payload) else {
            return;
        };
        let told = Proposal {
            payload: other,
            ..proposal.clone()
        };
        let first = if self.lie == Lie::Twice {
            proposal
        } else {
            told.clone()
        };
        let sign = |proposal| {
            let vote = Notarize::sign(&self.scheme, proposal).expect("it has a share");
            Vote::<Scheme, Digest>::Notarize(vote).encode().to_vec()
        };
        for (to, vote) in self.split(sign(first), sign(told)) {
            self.votes.send(to, vote, true);
        }
    }

    /// One message for the first peer, another for the rest.
    fn split(&self, first: Vec<u8>, rest: Vec<u8>) -> Vec<Word> {
        let mut peers = self.peers.clone();
        let others = peers.split_off(1);
        vec![
            (Recipients::Some(peers), first),
            (Recipients::Some(others), rest),
        ]
    }

    fn other(&self, block: &Block) -> Block {
        let mut header = block.header().clone();
        let mut extension = block.extension().clone();
        let mut transactions = block.transactions().to_vec();
        match self.lie {
            Lie::StateRoot => header.state_root = B256::repeat_byte(7),
            Lie::PastTime => extension.timestamp_ms = 0,
            Lie::FutureTime => extension.timestamp_ms += 3_600_000,
            Lie::Transaction => {
                let nobody = key(u64::MAX, u64::MAX);
                transactions.push(payment(&nobody, 0, Address::ZERO, U256::from(1)));
                header.transactions_root =
                    ordered_trie_root_with_encoder(&transactions, |raw: &Bytes, out| {
                        out.put_slice(raw);
                    });
            }
            Lie::Twice => extension.timestamp_ms += 1,
        }
        header.timestamp = extension.timestamp_ms / 1000;
        header.extra_data = extension.commitment().to_vec().into();
        self.keys.seal(header, extension, transactions)
    }
}

/// What a validator says on a channel, changed if it is a liar.
#[derive(Clone)]
pub(crate) struct Mouth<S> {
    inner: S,
    liar: Option<(u64, Arc<Mutex<Liar<S>>>)>,
}

impl<S> Mouth<S> {
    pub(crate) fn new(inner: S, channel: u64, liar: Option<&Arc<Mutex<Liar<S>>>>) -> Self {
        let liar = liar.map(|liar| (channel, liar.clone()));
        Self { inner, liar }
    }
}

/// What is about to be said, and to whom.
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as one message is sent"
)]
pub(crate) enum Speech<'a, S: LimitedSender + 'a> {
    Honest(S::Checked<'a>),
    Lying {
        to: Recipients<PublicKey>,
        channel: u64,
        liar: Arc<Mutex<Liar<S>>>,
        inner: S,
    },
}

impl<S: Sender<PublicKey = PublicKey>> LimitedSender for Mouth<S> {
    type PublicKey = PublicKey;
    type Checked<'a> = Speech<'a, S>;

    fn check(&mut self, to: Recipients<PublicKey>) -> Result<Self::Checked<'_>, SystemTime> {
        let Some((channel, liar)) = &self.liar else {
            return self.inner.check(to).map(Speech::Honest);
        };
        Ok(Speech::Lying {
            to,
            channel: *channel,
            liar: liar.clone(),
            inner: self.inner.clone(),
        })
    }
}

impl<S: Sender<PublicKey = PublicKey>> CheckedSender for Speech<'_, S> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        match self {
            Self::Honest(checked) => checked.recipients(),
            Self::Lying { to, liar, .. } => match to {
                Recipients::All => {
                    let liar = liar.lock().unwrap_or_else(PoisonError::into_inner);
                    liar.peers.clone()
                }
                Recipients::Some(peers) => peers.clone(),
                Recipients::One(peer) => vec![peer.clone()],
            },
        }
    }

    fn send(self, message: impl Into<IoBufs> + Send, priority: bool) -> Unreliable<Feedback> {
        match self {
            Self::Honest(checked) => checked.send(message, priority),
            Self::Lying {
                to,
                channel,
                liar,
                mut inner,
            } => {
                let message = message.into().coalesce();
                let words = liar.lock().unwrap_or_else(PoisonError::into_inner).rewrite(
                    channel,
                    to,
                    message.as_ref(),
                );
                for (to, word) in words {
                    inner.send(to, word, priority);
                }
                Unreliable::new(Feedback::Ok)
            }
        }
    }
}
