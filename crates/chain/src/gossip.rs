//! Passing transactions on: what a client submits to one validator, all validators hear of, so that the next leader has
//! it.
//!
//! A validator sends only what was submitted to itself, to all others, once at once and again now and then while it
//! waits: validators are connected to each other directly, so nothing needs to be relayed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy_primitives::{B256, keccak256};
use bytes::BufMut;
use commonware_codec::{
    Buf, DecodeExt as _, Encode as _, EncodeSize, Error as CodecError, RangeCfg, Read, Write,
};
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::Clock;
use futures::future::OptionFuture;
use lemma_ledger::{MAX_TRANSACTION_BYTES, Transaction};
use tokio::sync::mpsc;

use crate::{core::Core, scheme::PublicKey};

/// Most bytes of transactions in one message.
const MAX_BYTES: usize = 2 * MAX_TRANSACTION_BYTES;
/// Most transactions in one message.
const MAX_COUNT: usize = 256;
/// Most transactions that are sent again while they wait.
const MAX_OWN: usize = 4_096;
/// How long after the last message what still waits is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// Largest message, bytes.
pub(crate) const MAX_MESSAGE: usize = MAX_BYTES + (MAX_COUNT + 1) * 10;

/// Raw transactions on their way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bundle(Vec<bytes::Bytes>);

impl Write for Bundle {
    fn write(&self, buf: &mut impl BufMut) {
        self.0.write(buf);
    }
}

impl EncodeSize for Bundle {
    fn encode_size(&self) -> usize {
        self.0.encode_size()
    }
}

impl Read for Bundle {
    type Cfg = ();

    fn read_cfg(buf: &mut impl Buf, _: &()) -> Result<Self, CodecError> {
        let each = RangeCfg::new(0..=MAX_TRANSACTION_BYTES);
        Ok(Self(Vec::read_cfg(
            buf,
            &(RangeCfg::new(0..=MAX_COUNT), each),
        )?))
    }
}

/// Transactions submitted here that wait.
#[derive(Default)]
struct Own(VecDeque<Arc<Transaction>>);

impl Own {
    fn push(&mut self, transaction: Arc<Transaction>) {
        if self.0.len() == MAX_OWN {
            self.0.pop_front();
        }
        self.0.push_back(transaction);
    }

    /// The next messages' worth of what still waits; each is behind the others afterwards.
    fn again(&mut self, core: &Core) -> Vec<Arc<Transaction>> {
        self.0
            .retain(|transaction| core.pool.get(&transaction.hash()).is_some());
        let (mut bytes, mut count) = (0, 0);
        for transaction in &self.0 {
            bytes += transaction.raw().len();
            if bytes > MAX_BYTES || count == MAX_COUNT {
                break;
            }
            count += 1;
        }
        let chosen: Vec<_> = self.0.iter().take(count).cloned().collect();
        self.0.rotate_left(count);
        chosen
    }
}

/// Sends and receives until the network or the validator ends.
pub(crate) async fn run<E, S, R>(
    runtime: E,
    core: Arc<Core>,
    mut local: mpsc::Receiver<Arc<Transaction>>,
    (mut sender, mut receiver): (S, R),
) where
    E: Clock,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
{
    let mut own = Own::default();
    loop {
        let again = OptionFuture::from((!own.0.is_empty()).then(|| runtime.sleep(AGAIN)));
        tokio::select! {
            biased;
            message = receiver.recv() => match message {
                Ok((peer, message)) => receive(&core, &peer, message).await,
                Err(_) => return,
            },
            first = local.recv() => {
                let Some(first) = first else { return };
                for batch in gather(first, &mut local) {
                    send(&mut sender, &batch);
                    batch.into_iter().for_each(|transaction| own.push(transaction));
                }
            }
            Some(()) = again => {
                let waiting = own.again(&core);
                if !waiting.is_empty() {
                    send(&mut sender, &waiting);
                }
            }
        }
    }
}

/// Everything that has gathered, in messages.
fn gather(
    first: Arc<Transaction>,
    local: &mut mpsc::Receiver<Arc<Transaction>>,
) -> Vec<Vec<Arc<Transaction>>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(transaction) = next {
        let size = transaction.raw().len();
        let last = batches.last_mut().expect("there is always one");
        if bytes + size > MAX_BYTES || last.len() == MAX_COUNT {
            batches.push(vec![transaction]);
            bytes = size;
        } else {
            last.push(transaction);
            bytes += size;
        }
        next = local.try_recv().ok();
    }
    batches
}

fn send<S: Sender<PublicKey = PublicKey>>(sender: &mut S, transactions: &[Arc<Transaction>]) {
    let bundle = Bundle(
        transactions
            .iter()
            .map(|transaction| transaction.raw().0.clone())
            .collect(),
    );
    // Whoever is offline or over its rate hears of it with the next round.
    sender.send(Recipients::All, bundle.encode(), false);
}

/// Lets what a peer sent wait for a block, after the same checks as what clients send.
async fn receive(core: &Core, peer: &PublicKey, message: impl Buf) {
    let bundle = match Bundle::decode(message) {
        Ok(bundle) => bundle,
        Err(error) => {
            tracing::debug!(%peer, %error, "message of transactions not understood");
            return;
        }
    };
    for raw in bundle.0 {
        let hash: B256 = keccak256(&raw);
        if core.pool.get(&hash).is_some() {
            continue;
        }
        let outcome = match Transaction::decode(&raw, core.genesis.chain_id) {
            Ok(transaction) => core.admit(Arc::new(transaction)).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = outcome {
            tracing::debug!(%peer, %hash, %error, "transaction of a peer not accepted");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bundles_round_trip_within_their_bound() {
        let full = Bundle(vec![bytes::Bytes::from(vec![1; MAX_TRANSACTION_BYTES]); 2]);
        for bundle in [
            Bundle::default(),
            Bundle(vec![bytes::Bytes::from_static(b"tx"); MAX_COUNT]),
            full,
        ] {
            let bytes = bundle.encode();
            assert!(bytes.len() <= MAX_MESSAGE);
            assert_eq!(Bundle::decode(bytes).unwrap(), bundle);
        }
        let many = Bundle(vec![bytes::Bytes::new(); MAX_COUNT + 1]);
        assert!(Bundle::decode(many.encode()).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Bundle::decode(bytes);
        }
    }
}
