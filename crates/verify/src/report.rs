//! What a verification found, for programs (serde) and for people ([`Report::render`]).

use std::fmt::{self, Write as _};

use lemma_types::{Address, B256, Digest, Mode};
use serde::{Deserialize, Serialize};

/// One thing that a verifier looks at. The order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// The file is a bundle of a known version.
    Format,
    /// The bundle is of the trusted root's network.
    Network,
    /// The receipt's worker signed it.
    Signature,
    /// What backs the result is here and can be checked.
    Mode,
    /// The engine is the one that the receipt names.
    Engine,
    /// The manifest is valid and is the one that the receipt names.
    Model,
    /// The inputs fit the model and open the receipt's request commitment.
    Request,
    /// The outputs fit the model and open the receipt's response commitment.
    Response,
    /// Inputs and outputs give the receipt's transcript root.
    Transcript,
    /// The receipt is in the worker's batch.
    Batch,
    /// Header and extension are well formed and belong together.
    Header,
    /// The batch is in the ledger's log of batches.
    BatchLog,
    /// The receipt's anchor is a block of the ledger.
    Anchor,
    /// The anchor came before the batch, and the batch not after the header.
    Heights,
    /// A quorum of validators finalised the header.
    Finality,
    /// The model, run again, gives the same bytes.
    Recomputation,
    /// A succinct argument shows that the answer is what the model gives on the request.
    Proof,
}

impl CheckName {
    /// Every check, in the order of a report.
    pub const ALL: [Self; 17] = [
        Self::Format,
        Self::Network,
        Self::Signature,
        Self::Mode,
        Self::Engine,
        Self::Model,
        Self::Request,
        Self::Response,
        Self::Transcript,
        Self::Batch,
        Self::Header,
        Self::BatchLog,
        Self::Anchor,
        Self::Heights,
        Self::Finality,
        Self::Recomputation,
        Self::Proof,
    ];

    /// The name, as programs and people see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Network => "network",
            Self::Signature => "signature",
            Self::Mode => "mode",
            Self::Engine => "engine",
            Self::Model => "model",
            Self::Request => "request",
            Self::Response => "response",
            Self::Transcript => "transcript",
            Self::Batch => "batch",
            Self::Header => "header",
            Self::BatchLog => "batch_log",
            Self::Anchor => "anchor",
            Self::Heights => "heights",
            Self::Finality => "finality",
            Self::Recomputation => "recomputation",
            Self::Proof => "proof",
        }
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It does not hold: the bundle is wrong.
    Failed,
    /// Not checked, because evidence that is needed is missing.
    Missing,
    /// Not checked, because nobody asked for it or supplied what only the caller has.
    NotAsked,
}

impl Outcome {
    const fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Missing => "missing",
            Self::NotAsked => "--",
        }
    }
}

/// A check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Which check.
    pub name: CheckName,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found, or why it failed or was not checked.
    pub detail: String,
}

/// The sum of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check that was needed or asked for holds. Never shown without the mode beside it.
    Verified,
    /// At least one check failed.
    Wrong,
    /// No check failed, but evidence is missing.
    Inconclusive,
}

/// The final block through which a receipt was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Final {
    /// Height of the block.
    pub height: u64,
    /// Hash of the block.
    pub block: B256,
    /// Time of the block, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
}

/// Everything that a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The sum of the checks.
    pub verdict: Verdict,
    /// The mode that the receipt claims; absent if the bundle cannot be read. Backed only if the verdict says so.
    pub mode: Option<Mode>,
    /// The receipt's id; absent if the bundle cannot be read.
    pub receipt_id: Option<B256>,
    /// The model that the receipt names; absent if the bundle cannot be read.
    pub model: Option<Digest>,
    /// The worker that the receipt names; absent if the bundle cannot be read.
    pub worker: Option<Address>,
    /// The final block; absent unless header and certificate hold.
    pub finality: Option<Final>,
    /// Every check of [`CheckName::ALL`], once and in that order.
    pub checks: Vec<Check>,
    /// What this verification does not establish, even if every check holds.
    pub does_not_cover: Vec<String>,
}

impl Report {
    /// How one check came out.
    #[must_use]
    pub fn outcome(&self, name: CheckName) -> Option<Outcome> {
        let check = self.checks.iter().find(|check| check.name == name)?;
        Some(check.outcome)
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.with_outcome(Outcome::Failed)
    }

    /// The checks whose evidence is missing.
    pub fn missing(&self) -> impl Iterator<Item = &Check> {
        self.with_outcome(Outcome::Missing)
    }

    fn with_outcome(&self, outcome: Outcome) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(move |check| check.outcome == outcome)
    }

    /// The report as plain text, one line for each check, ending in a line break. Control characters of the bundle do not
    /// reach the terminal.
    #[must_use]
    pub fn render(&self) -> String {
        self.to_string()
    }

    /// Whether a receipt of another mode was raised to `proved` by a proof that came later.
    #[must_use]
    pub fn raised(&self) -> bool {
        self.mode != Some(Mode::Proved) && self.outcome(CheckName::Proof) == Some(Outcome::Ok)
    }

    fn conclusion(&self) -> String {
        let names = |checks: &mut dyn Iterator<Item = &Check>| {
            let names: Vec<&str> = checks.map(|check| check.name.name()).collect();
            names.join(", ")
        };
        match (self.verdict, self.mode) {
            (Verdict::Verified, Some(Mode::Relayed)) => {
                "Relayed: signed by the worker that passed it on; which model ran is not known."
                    .to_owned()
            }
            (Verdict::Verified, Some(mode)) if self.raised() => {
                format!(
                    "Verified in mode `{mode}`, raised to `{}` by a later proof.",
                    Mode::Proved
                )
            }
            (Verdict::Verified, Some(mode)) => format!("Verified in mode `{mode}`."),
            // A bundle that cannot be read has no mode, and is wrong.
            (Verdict::Verified, None) | (Verdict::Wrong, _) => {
                format!(
                    "WRONG: do not rely on it. Failed: {}.",
                    names(&mut self.failures())
                )
            }
            (Verdict::Inconclusive, _) => {
                format!(
                    "Inconclusive. Not established: {}.",
                    names(&mut self.missing())
                )
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(id), Some(model), Some(mode)) = (self.receipt_id, self.model, self.mode) {
            writeln!(f, "Receipt {id}")?;
            writeln!(f, "Model   {model}")?;
            writeln!(f, "Mode    {mode}")?;
        }
        writeln!(f, "Checks:")?;
        for check in &self.checks {
            let detail = printable(&check.detail);
            writeln!(
                f,
                "  {:<7}  {:<13}  {detail}",
                check.outcome.mark(),
                check.name
            )?;
        }
        if !self.does_not_cover.is_empty() {
            writeln!(f, "Not covered:")?;
            for gap in &self.does_not_cover {
                writeln!(f, "  - {}", printable(gap))?;
            }
        }
        writeln!(f, "{}", self.conclusion())
    }
}

/// `text` without what moves a cursor, colours a terminal or turns the direction of writing.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns_direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns_direction {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Why a check does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Failed(String),
    Missing(String),
    NotAsked(String),
}

impl Problem {
    pub(crate) fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Longest detail of a check. A bundle may quote itself at length: names, versions, unknown fields.
const DETAIL_CHARS: usize = 1_000;

/// What a check found, or why it does not hold.
pub(crate) type Finding = Result<String, Problem>;

/// The checks so far, in the order of [`CheckName::ALL`].
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    /// Records the next check and says whether it holds.
    pub(crate) fn record(&mut self, name: CheckName, finding: Finding) -> bool {
        debug_assert_eq!(CheckName::ALL.get(self.0.len()), Some(&name));
        let (outcome, mut detail) = match finding {
            Ok(detail) => (Outcome::Ok, detail),
            Err(Problem::Failed(detail)) => (Outcome::Failed, detail),
            Err(Problem::Missing(detail)) => (Outcome::Missing, detail),
            Err(Problem::NotAsked(detail)) => (Outcome::NotAsked, detail),
        };
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS) {
            detail.truncate(end);
            detail.push('…');
        }
        self.0.push(Check {
            name,
            outcome,
            detail,
        });
        outcome == Outcome::Ok
    }

    /// How the check came out; it has been recorded before.
    pub(crate) fn outcome(&self, name: CheckName) -> Outcome {
        self.0
            .iter()
            .find(|check| check.name == name)
            .map_or(Outcome::Missing, |check| check.outcome)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let any = |outcome| self.0.iter().any(|check| check.outcome == outcome);
        if any(Outcome::Failed) {
            Verdict::Wrong
        } else if any(Outcome::Missing) {
            Verdict::Inconclusive
        } else {
            Verdict::Verified
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Check> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_json_and_text_are_one() {
        for name in CheckName::ALL {
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("\"{name}\""));
        }
        assert!(CheckName::ALL.is_sorted());
    }

    #[test]
    fn a_bundle_cannot_flood_the_report() {
        let mut checks = Checks::default();
        checks.record(CheckName::Format, Ok("é".repeat(100_000)));
        let detail = &checks.into_vec()[0].detail;
        assert_eq!(detail.chars().count(), DETAIL_CHARS + 1);
    }

    #[test]
    fn a_bundle_cannot_write_to_the_terminal() {
        let text = printable("a\u{1b}[2Jb\nc\u{202e}d");
        assert_eq!(text, r"a\u{1b}[2Jb\u{a}c\u{202e}d");
    }
}
