//! Keys and values of the state, as the authenticated store sees them.

use std::fmt;

/// A key of the state: keccak-256 over a domain tag and what it names, so keys are uniform and nobody
/// can crowd a part of the key space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey(pub [u8; 32]);

/// A value of the state. Every value has the same size, so that state can be synchronised by fixed-size
/// operations; what is shorter is padded with zeros, what is longer (code) is cut into several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateValue(pub [u8; StateValue::SIZE]);

impl StateValue {
    /// Bytes in a value: an account is 32 (balance) + 8 (nonce) + 32 (code hash).
    pub const SIZE: usize = 72;

    /// The value whose first bytes are `bytes` and whose rest is zero.
    pub(crate) fn padded(bytes: &[u8]) -> Self {
        let mut value = [0; Self::SIZE];
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(value)
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateKey({})", alloy_primitives::hex::encode(self.0))
    }
}

impl fmt::Debug for StateValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateValue({})", alloy_primitives::hex::encode(self.0))
    }
}

/// Values that the call needs and has not been given. Fetch them, supply each (absent ones as `None`),
/// and make the same call again. Never empty, without duplicates, in order of discovery.
///
/// A call goes on with zeros after the first missing value to discover further ones, so the list may
/// name keys that turn out not to be needed; it is bounded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} state values must be supplied before this can be executed", .0.len())]
pub struct Missing(pub Vec<StateKey>);
