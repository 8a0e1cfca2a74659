//! Whom a validator can reach: consensus begins when a quorum can, since what is sent before is lost, and costs a
//! leader's timeout.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::watch;

use crate::scheme::PublicKey;

/// Between two greetings of whoever has not answered yet.
pub(crate) const GREETING: Duration = Duration::from_millis(50);
/// After this time consensus begins anyway: the others may be running without us.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Peers that have answered.
pub(crate) struct Mesh {
    met: BTreeSet<PublicKey>,
    enough: usize,
    stands: watch::Sender<bool>,
}

impl Mesh {
    /// A mesh that stands when so many peers have answered.
    pub(crate) fn new(enough: usize) -> Self {
        Self {
            met: BTreeSet::new(),
            enough,
            stands: watch::Sender::new(enough == 0),
        }
    }

    /// Notes that a peer was heard of.
    pub(crate) fn meet(&mut self, peer: PublicKey) {
        if !self.stands() {
            self.met.insert(peer);
            self.stands.send_replace(self.met.len() >= self.enough);
        }
    }

    /// Whether a quorum can be reached.
    pub(crate) fn stands(&self) -> bool {
        *self.stands.borrow()
    }

    /// Becomes true when a quorum can be reached.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.stands.subscribe()
    }
}

/// Peers that make a quorum together with oneself.
pub(crate) fn quorum_besides_me(validators: usize) -> usize {
    let faulty = validators.saturating_sub(1) / 3;
    validators.saturating_sub(faulty + 1)
}

#[cfg(test)]
mod tests {
    use commonware_cryptography::{Signer as _, ed25519::PrivateKey};

    use super::*;

    #[test]
    fn quorums_are_more_than_two_thirds() {
        let quorums: Vec<_> = [1, 2, 3, 4, 5, 6, 7, 10].map(quorum_besides_me).into();
        assert_eq!(quorums, [0, 1, 2, 2, 3, 4, 4, 6]);
    }

    #[test]
    fn a_mesh_stands_when_enough_different_peers_answered() {
        assert!(Mesh::new(0).stands());
        let mut mesh = Mesh::new(2);
        let watch = mesh.watch();
        let peer = |seed| PrivateKey::from_seed(seed).public_key();
        mesh.meet(peer(1));
        mesh.meet(peer(1));
        assert!(!mesh.stands());
        mesh.meet(peer(2));
        assert!(mesh.stands() && *watch.borrow());
    }
}
