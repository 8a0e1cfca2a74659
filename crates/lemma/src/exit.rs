//! The exit codes of `lemma`: part of its interface, documented in `docs/cli.md`.

use std::process;

/// What a process of `lemma` ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything went well.
    Ok = 0,
    /// The operation failed; whoever asked for it can put it right.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Config = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// The gateway can not be reached.
    Network = 5,
    /// Payment is required, or the funds do not suffice.
    Funds = 6,
    /// Verification failed: the evidence is wrong.
    VerificationFailed = 7,
    /// Verification is inconclusive: evidence is missing, or not there yet.
    Inconclusive = 8,
    /// It took too long.
    Timeout = 9,
    /// A defect of the program.
    Internal = 70,
    /// Interrupted by the user, twice or before it could end well.
    Interrupted = 130,
    /// Whoever read the output stopped reading.
    BrokenPipe = 141,
}

impl ExitCode {
    /// Every code, in ascending order.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::NotFound,
        Self::Network,
        Self::Funds,
        Self::VerificationFailed,
        Self::Inconclusive,
        Self::Timeout,
        Self::Internal,
        Self::Interrupted,
        Self::BrokenPipe,
    ];

    /// The number that the system sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// One line for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "everything went well",
            Self::Failed => "the operation failed; you can put it right",
            Self::Usage => "the command line is wrong",
            Self::Config => "the configuration is wrong",
            Self::NotFound => "what was asked for does not exist",
            Self::Network => "the gateway can not be reached",
            Self::Funds => "payment is required, or the funds do not suffice",
            Self::VerificationFailed => "verification failed: the evidence is wrong",
            Self::Inconclusive => {
                "verification is inconclusive: evidence is missing, or not there yet"
            }
            Self::Timeout => "it took too long",
            Self::Internal => "a defect of the program: please report it",
            Self::Interrupted => "interrupted",
            Self::BrokenPipe => "whoever read the output stopped reading (silent)",
        }
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_code() {
        let docs = include_str!("../../../docs/cli.md");
        for code in ExitCode::ALL {
            let row = format!("| {} | {} |", code.code(), code.meaning());
            assert!(docs.contains(&row), "docs/cli.md lacks the row `{row}`");
        }
    }
}
