//! What a validator is started with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use alloy_primitives::Address;
use lemma_ledger::{Genesis, GenesisError};

use crate::{
    index::IndexError,
    keys::{KeyError, ValidatorId, ValidatorKeys},
    mempool::PoolLimits,
};

/// Where a validator can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub id: ValidatorId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// How often a validator that is stuck in a view repeats its vote to pass it over.
pub(crate) const TIMEOUT_RETRY: Duration = Duration::from_millis(500);

/// The pace of consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A leader without transactions proposes an empty block after this time.
    pub heartbeat: Duration,
    /// A leader that has proposed nothing for this long is passed over; above the heartbeat and the time to build.
    pub leader_timeout: Duration,
    /// A view that has come to nothing after this long is passed over; above the leader's timeout.
    pub certification_timeout: Duration,
    /// A leader that was silent for this long is passed over at once; above the certification timeout.
    pub skip_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self::with_heartbeat(Duration::from_secs(1))
    }
}

impl Pace {
    /// The pace with this heartbeat: a silent leader costs half a second more.
    #[must_use]
    pub fn with_heartbeat(heartbeat: Duration) -> Self {
        let after = |milliseconds| heartbeat + Duration::from_millis(milliseconds);
        Self {
            heartbeat,
            leader_timeout: after(500),
            certification_timeout: after(1_000),
            skip_timeout: after(1_500),
        }
    }

    /// Consensus panics on timeouts in another order.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let ordered = self.heartbeat < self.leader_timeout
            && self.leader_timeout < self.certification_timeout
            && self.certification_timeout < self.skip_timeout
            && self.skip_timeout > TIMEOUT_RETRY;
        if ordered {
            Ok(())
        } else {
            Err(StartError::Pace)
        }
    }
}

/// A validator's configuration.
#[derive(Clone, Debug)]
pub struct ValidatorConfig {
    /// Its keys.
    pub keys: ValidatorKeys,
    /// All validators, with or without this one.
    pub peers: Vec<Peer>,
    /// Where it listens for other validators; see [`reserve_addresses`](crate::reserve_addresses) for free ports.
    pub listen: SocketAddr,
    /// Its own directory for everything that it stores; created if missing.
    pub data_dir: PathBuf,
    /// What the network starts from.
    pub genesis: Genesis,
    /// Gets the priority fees of the blocks that it proposes.
    pub beneficiary: Address,
    /// The pace of consensus; the same for all validators.
    pub pace: Pace,
    /// Bounds of its mempool.
    pub pool: PoolLimits,
}

/// Why a validator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The genesis contradicts itself.
    #[error("genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The keys contradict themselves, or a peer's name is none.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The keys are for other validators than the peers.
    #[error("no address is given for validator {0}, which is one of the network's")]
    MissingPeer(ValidatorId),
    /// The share of the network's key is not this network's.
    #[error("the key share does not fit the network's key")]
    Share,
    /// Timeouts in the wrong order.
    #[error(
        "the pace needs heartbeat < leader timeout < certification timeout < skip timeout, the last above 500 ms"
    )]
    Pace,
    /// The address can not be listened on.
    #[error("can not listen on {address}: {error}; choose another port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The directory can not be made, or its thread can not be started.
    #[error("{path}: {error}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The block index can not be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// It stopped while it was starting; its log says why.
    #[error("the validator stopped while it was starting; its log says why")]
    Died,
}
