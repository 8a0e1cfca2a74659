use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What backs a result. The word "verified" is only ever used with the mode beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Mode {
    /// The worker's signature; equivocation is provable.
    Signed = 1,
    /// Sampled after the fact by an unbiasable beacon and replayed bit for bit by auditors.
    Audited = 2,
    /// Evidence of a trusted execution environment, bound to the key and the model.
    Attested = 3,
    /// A succinct argument over the integer graph.
    Proved = 4,
    /// Run by every validator.
    Consensus = 5,
    /// The answer of an upstream API: which model ran is not known.
    Relayed = 6,
}

impl Mode {
    /// Every mode, in the order of its code.
    pub const ALL: [Self; 6] = [
        Self::Signed,
        Self::Audited,
        Self::Attested,
        Self::Proved,
        Self::Consensus,
        Self::Relayed,
    ];

    /// The code that receipts carry.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The mode with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.code() == code)
    }

    /// The mode's name, as users type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Audited => "audited",
            Self::Attested => "attested",
            Self::Proved => "proved",
            Self::Consensus => "consensus",
            Self::Relayed => "relayed",
        }
    }

    /// What a receipt of this mode does not establish. Shown whenever a receipt is verified.
    #[must_use]
    pub const fn does_not_cover(self) -> &'static str {
        match self {
            Self::Signed => {
                "that the worker computed the answer: the signature binds worker, model, request and answer, \
                 and only a recomputation shows whether the answer is right"
            }
            Self::Audited => "use of the result before the challenge window closed",
            Self::Attested => "a broken hardware vendor or physical access to the machine",
            Self::Proved => {
                "the difference between the integer model that was proved and the float model it came from"
            }
            Self::Consensus => "a third or more of the validators acting together",
            Self::Relayed => "which model ran",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a text is not a [`Mode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode `{0}`: expected signed, audited, attested, proved, consensus or relayed")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| UnknownMode(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_code(mode.code()), Some(mode));
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert_eq!(Mode::from_code(0), None);
        assert_eq!(Mode::from_code(7), None);
        assert!("verified".parse::<Mode>().is_err());
    }
}
