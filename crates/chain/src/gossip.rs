//! Passing transactions on: what a client submits to one validator, all validators hear of, so that the next leader has
//! it. And greeting: a validator that starts learns whom it can reach.
//!
//! A validator sends only what was submitted to itself, to all others, once at once and again now and then while it
//! waits: validators are connected to each other directly, so nothing needs to be relayed.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use alloy_primitives::{B256, keccak256};
use commonware_codec::{Buf, DecodeExt as _, Encode as _};
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::Clock;
use futures::future::OptionFuture;
use lemma_ledger::Transaction;
use tokio::sync::mpsc;

use crate::{
    core::Core,
    mempool::Mempool,
    mesh::{GREETING, Mesh},
    scheme::PublicKey,
    wire::{MAX_BYTES, MAX_COUNT, Message},
};

/// Most transactions that are sent again while they wait.
const MAX_OWN: usize = 4_096;
/// How long after it was sent what still waits is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// Transactions submitted here, and when each was sent; the longest ago comes first.
#[derive(Default)]
struct Own(VecDeque<(SystemTime, Arc<Transaction>)>);

impl Own {
    fn sent(&mut self, now: SystemTime, transaction: Arc<Transaction>) {
        if self.0.len() == MAX_OWN {
            self.0.pop_front();
        }
        self.0.push_back((now, transaction));
    }

    /// When there may be something to send again.
    fn due(&self) -> Option<SystemTime> {
        self.0.front().map(|(sent, _)| *sent + AGAIN)
    }

    /// A message's worth of what is due and still waits. What does not wait any more is forgotten.
    fn again(&mut self, now: SystemTime, pool: &Mempool) -> Vec<Arc<Transaction>> {
        let (mut chosen, mut bytes) = (Vec::new(), 0);
        while self.due().is_some_and(|due| due <= now) && chosen.len() < MAX_COUNT {
            let Some((sent, transaction)) = self.0.pop_front() else {
                break;
            };
            if pool.get(&transaction.hash()).is_none() {
                continue;
            }
            bytes += transaction.raw().len();
            if bytes > MAX_BYTES {
                self.0.push_front((sent, transaction));
                break;
            }
            chosen.push(transaction);
        }
        for transaction in &chosen {
            self.sent(now, transaction.clone());
        }
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
    let mut greet_at = runtime.current();
    loop {
        let greet = (!mesh.stands()).then(|| runtime.sleep_until(greet_at));
        let greet = OptionFuture::from(greet);
        let again = OptionFuture::from(own.due().map(|due| runtime.sleep_until(due)));
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
                    let now = runtime.current();
                    batch.into_iter().for_each(|transaction| own.sent(now, transaction));
                }
            }
            Some(()) = greet => {
                greet_at = runtime.current() + GREETING;
                send(&mut sender, Recipients::All, &Message::Hello);
            }
            Some(()) = again => {
                let waiting = own.again(runtime.current(), &core.pool);
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

#[cfg(test)]
mod tests {
    use alloy_consensus::TxEip1559;
    use alloy_primitives::{Address, Bytes, U256};
    use lemma_ledger::{Account, MAX_TRANSACTION_BYTES};
    use lemma_types::{keys::SecretKey, transaction::sign_eip1559};

    use super::*;
    use crate::mempool::{Admission, PoolLimits};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// Pools a transaction with so many bytes of input.
    fn pooled(pool: &Mempool, nonce: u64, input: usize) -> Arc<Transaction> {
        let transaction = TxEip1559 {
            chain_id: 1,
            nonce,
            gas_limit: 16_000_000,
            max_fee_per_gas: 1,
            to: Address::ZERO.into(),
            input: Bytes::from(vec![1; input]),
            ..TxEip1559::default()
        };
        let raw = sign_eip1559(transaction, &SecretKey::from_bytes(&[7; 32]).unwrap());
        let transaction = Arc::new(Transaction::decode(&raw, 1).unwrap());
        let admission = Admission {
            account: Account::funded(U256::from(1) << 100),
            base_fee: 0,
        };
        pool.insert(transaction.clone(), &admission).unwrap();
        transaction
    }

    #[test]
    fn what_waits_is_sent_again_and_again_but_not_at_once() {
        let pool = Mempool::new(PoolLimits::default());
        let (first, second) = (pooled(&pool, 0, 0), pooled(&pool, 1, 0));
        let mut own = Own::default();
        assert_eq!(own.due(), None);
        own.sent(NOW, first.clone());
        own.sent(NOW + AGAIN / 2, second.clone());
        assert_eq!(own.due(), Some(NOW + AGAIN));
        assert_eq!(own.again(NOW + AGAIN / 2, &pool), []);
        assert_eq!(own.again(NOW + AGAIN, &pool), std::slice::from_ref(&first));
        assert_eq!(own.again(NOW + AGAIN, &pool), []);
        assert_eq!(
            own.again(NOW + AGAIN * 3, &pool),
            [second.clone(), first.clone()]
        );

        // One is final now, the other can never be.
        pool.finalized([(first.sender(), 0)]);
        pool.remove(&second);
        assert_eq!(own.again(NOW + AGAIN * 9, &pool), []);
        assert_eq!(own.due(), None);
    }

    #[test]
    fn what_is_too_much_for_one_message_is_sent_in_several() {
        let pool = Mempool::new(PoolLimits::default());
        let mut own = Own::default();
        for nonce in 0..3 {
            own.sent(NOW, pooled(&pool, nonce, MAX_TRANSACTION_BYTES - 1_000));
        }
        let mut sizes = Vec::new();
        while own.due().is_some_and(|due| due <= NOW + AGAIN) {
            sizes.push(own.again(NOW + AGAIN, &pool).len());
        }
        assert_eq!(sizes, [2, 1]);
        assert_eq!(own.due(), Some(NOW + AGAIN * 2));
    }

    #[test]
    fn what_is_kept_to_be_sent_again_is_bounded() {
        let pool = Mempool::new(PoolLimits::default());
        let transaction = pooled(&pool, 0, 0);
        let mut own = Own::default();
        for _ in 0..=MAX_OWN {
            own.sent(NOW, transaction.clone());
        }
        assert_eq!(own.0.len(), MAX_OWN);
    }
}
