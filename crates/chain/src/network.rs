//! A validator on sockets.

use std::{io, net::SocketAddr};

use crate::{
    config::{StartError, ValidatorConfig},
    handle::ChainHandle,
};

/// A running validator. Dropping it stops it.
pub struct Validator {
    handle: ChainHandle,
}

impl Validator {
    /// Starts a validator on a thread of its own. Blocks until it listens and can answer, which takes a moment.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn spawn(_config: ValidatorConfig) -> Result<Self, StartError> {
        Err(StartError::Died)
    }

    /// Asks the validator.
    #[must_use]
    pub fn handle(&self) -> &ChainHandle {
        &self.handle
    }

    /// Ends it gracefully, and returns when it has ended.
    pub fn stop(self) {}

    /// Ends it as a crash would: without a word to anybody.
    pub fn kill(self) {}
}

/// Loopback addresses with ports that are free now, outside the range from which the system takes ports for outgoing
/// connections.
///
/// # Errors
/// What the system says, if there are none.
pub fn reserve_addresses(_count: usize) -> io::Result<Vec<SocketAddr>> {
    Err(io::Error::from(io::ErrorKind::AddrInUse))
}
