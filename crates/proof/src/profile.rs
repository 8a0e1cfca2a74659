//! Profiles: how sure a proof is, and who needs what to check it.

/// The soundness that a proof reaches in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Security {
    /// At least 100 bits.
    #[default]
    Bits100,
    /// At least 112 bits: what an extension of degree 5 reaches under the Johnson bound with little
    /// grinding, at every size.
    Bits112,
}

impl Security {
    /// Bits that the sum of all error terms must reach.
    #[must_use]
    pub fn target(self) -> u32 {
        match self {
            Security::Bits100 => 100,
            Security::Bits112 => 112,
        }
    }

    /// Bits that each phase of a commitment is given.
    pub(crate) fn phase_bits(self) -> usize {
        match self {
            Security::Bits100 => 107,
            Security::Bits112 => 118,
        }
    }

    /// Bits of work that the prover may put in for them.
    pub(crate) fn grinding_bits(self) -> usize {
        8
    }
}

/// Who can check a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Weights {
    /// Everyone: the weights are opened against the model root.
    #[default]
    Succinct,
    /// Whoever holds the weights: claims on them are checked directly. The proof is smaller and
    /// cheaper, and says nothing to others.
    Holder,
}

/// The profile of a proof, one byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// How sure.
    pub security: Security,
    /// For whom.
    pub weights: Weights,
}

impl Profile {
    /// The profile's byte. The upper bits are kept for profiles that hide the witness.
    #[must_use]
    pub fn code(self) -> u8 {
        let security = match self.security {
            Security::Bits100 => 0,
            Security::Bits112 => 1,
        };
        let weights = match self.weights {
            Weights::Succinct => 0,
            Weights::Holder => 2,
        };
        security | weights
    }

    /// The profile of a byte.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Profile> {
        let security = if code & 1 == 0 {
            Security::Bits100
        } else {
            Security::Bits112
        };
        let weights = if code & 2 == 0 {
            Weights::Succinct
        } else {
            Weights::Holder
        };
        (code < 4).then_some(Profile { security, weights })
    }

    pub(crate) fn succinct(self) -> bool {
        self.weights == Weights::Succinct
    }
}
