//! Passing transactions on: what a client submits to one validator, all validators hear of, so that the next leader has
//! it. And greeting: a validator that starts learns whom it can reach.
//!
//! A validator sends only what was submitted to itself, to all others, once at once and again now and then while it
//! waits: validators are connected to each other directly, so nothing needs to be relayed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy_primitives::{B256, keccak256};
use commonware_codec::{Buf, DecodeExt as _, Encode as _};
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::Clock;
use futures::future::OptionFuture;
use lemma_ledger::Transaction;
use tokio::sync::mpsc;

use crate::{
    core::Core,
    mesh::{GREETING, Mesh},
    scheme::PublicKey,
    wire::{MAX_BYTES, MAX_COUNT, Message},
};

/// Most transactions that are sent again while they wait.
const MAX_OWN: usize = 4_096;
/// How long after the last message what still waits is sent again.
const AGAIN: Duration = Duration::from_secs(1);

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
    mut mesh: Mesh,
    (mut sender, mut receiver): (S, R),
) where
    E: Clock,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
{
    let mut own = Own::default();
    let (mut greet_at, mut again_at) = (runtime.current(), runtime.current());
    loop {
        let greet = (!mesh.stands()).then(|| runtime.sleep_until(greet_at));
        let greet = OptionFuture::from(greet);
        let again = (!own.0.is_empty()).then(|| runtime.sleep_until(again_at));
        let again = OptionFuture::from(again);
        tokio::select! {
            biased;
            message = receiver.recv() => match message {
                Ok((peer, message)) => {
                    let answer = receive(&core, &mut mesh, &peer, message).await;
                    if let Some(answer) = answer {
                        send(&mut sender, Recipients::One(peer), &answer);
                    }
                }
                Err(_) => return,
            },
            first = local.recv() => {
                let Some(first) = first else { return };
                for batch in gather(first, &mut local) {
                    send(&mut sender, Recipients::All, &message(&batch));
                    batch.into_iter().for_each(|transaction| own.push(transaction));
                }
            }
            Some(()) = greet => {
                greet_at = runtime.current() + GREETING;
                send(&mut sender, Recipients::All, &Message::Hello);
            }
            Some(()) = again => {
                again_at = runtime.current() + AGAIN;
                let waiting = own.again(&core);
                if !waiting.is_empty() {
                    send(&mut sender, Recipients::All, &message(&waiting));
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

fn message(transactions: &[Arc<Transaction>]) -> Message {
    Message::Transactions(
        transactions
            .iter()
            .map(|transaction| transaction.raw().0.clone())
            .collect(),
    )
}

fn send<S: Sender<PublicKey = PublicKey>>(
    sender: &mut S,
    to: Recipients<PublicKey>,
    message: &Message,
) {
    // Whoever is offline or over its rate hears of it with the next round.
    sender.send(to, message.encode(), false);
}

/// Takes in what a peer sent; returns the answer, if one is due.
async fn receive(
    core: &Core,
    mesh: &mut Mesh,
    peer: &PublicKey,
    message: impl Buf,
) -> Option<Message> {
    match Message::decode(message) {
        Ok(Message::Hello) => {
            mesh.meet(peer.clone());
            Some(Message::Welcome)
        }
        Ok(Message::Welcome) => {
            mesh.meet(peer.clone());
            None
        }
        Ok(Message::Transactions(raw)) => {
            for raw in raw {
                admit(core, peer, &raw).await;
            }
            None
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "message not understood");
            None
        }
    }
}

/// Lets a transaction of a peer wait for a block, after the same checks as one of a client.
async fn admit(core: &Core, peer: &PublicKey, raw: &[u8]) {
    let hash: B256 = keccak256(raw);
    if core.pool.get(&hash).is_some() {
        return;
    }
    let outcome = match Transaction::decode(raw, core.genesis.chain_id) {
        Ok(transaction) => core.admit(Arc::new(transaction)).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %hash, %error, "transaction of a peer not accepted");
    }
}
