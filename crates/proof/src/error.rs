//! What a verifier checks, and what it says when a check fails.

use lemma_graph::integer::IntegerError;
use thiserror::Error;

/// Every check of the verifier, by name. The forgery harness takes each away in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The proof is of this version and of the profile asked for.
    Header,
    /// The verifying key is that of the model root.
    ModelRoot,
    /// The inputs have the shapes and ranges of the graph.
    Inputs,
    /// The outputs have the shapes of the graph.
    Outputs,
    /// The proof has exactly the bytes that the statement calls for.
    Length,
    /// Field elements are reduced.
    Canonical,
    /// Messages come in the order of the schedule.
    Schedule,
    /// The soundness error is below the profile's.
    Soundness,
    /// The lookups are fewer than the characteristic.
    LookupCount,
    /// The fractions of lookups and tables cancel.
    LookupSum,
    /// The denominator of that sum is not zero.
    LookupDenominator,
    /// A layer of the fractional sum follows from the one below.
    LookupLayer,
    /// The leaves' numerators are those of the protocol and the multiplicities.
    LeafNumerator,
    /// The leaves' denominators are those of columns, selectors and tables.
    LeafDenominator,
    /// A node's index and limbs make up the sum of its terms.
    NodeSum,
    /// An output is the sum of its terms.
    OutputSum,
    /// The sumcheck of a product ends in the product of its operands.
    Product,
    /// A claim on an input is true.
    InputClaim,
    /// A claim on a constant that the verifier has is true.
    ConstantClaim,
    /// Every edge of the graph has delivered exactly one claim.
    Edges,
    /// The batched claims on a commitment end in its value at one point.
    Batch,
    /// A round of a sumcheck can be continued.
    Round,
    /// The opening of the witness.
    WitnessOpening,
    /// The opening of the model.
    ModelOpening,
}

impl Check {
    /// All checks.
    pub const ALL: [Check; 24] = [
        Check::Header,
        Check::ModelRoot,
        Check::Inputs,
        Check::Outputs,
        Check::Length,
        Check::Canonical,
        Check::Schedule,
        Check::Soundness,
        Check::LookupCount,
        Check::LookupSum,
        Check::LookupDenominator,
        Check::LookupLayer,
        Check::LeafNumerator,
        Check::LeafDenominator,
        Check::NodeSum,
        Check::OutputSum,
        Check::Product,
        Check::InputClaim,
        Check::ConstantClaim,
        Check::Edges,
        Check::Batch,
        Check::Round,
        Check::WitnessOpening,
        Check::ModelOpening,
    ];
}

/// Why a proof was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A check failed.
    #[error("the proof is refused: check {0:?} failed")]
    Rejected(Check),
    /// The statement does not fit the graph.
    #[error("the statement does not fit the model: {0}")]
    Statement(#[from] IntegerError),
    /// The proof is for holders of the weights, and there are none.
    #[error("the proof is for holders of the model's weights: give the model")]
    WeightsNeeded,
    /// The parameters of the proof system do not reach the profile's security.
    #[error("{0}")]
    Parameters(String),
}

/// Why a proof could not be made, or a model not registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProveError {
    /// Inputs that do not fit the graph.
    #[error(transparent)]
    Statement(#[from] IntegerError),
    /// The graph or the batch is too large, or cannot reach the profile's security.
    #[error("{0}")]
    Parameters(String),
}

/// Fails with a check unless it holds.
pub(crate) fn require(check: Check, holds: bool) -> Result<(), VerifyError> {
    #[cfg(test)]
    if crate::forgery::removed(check) {
        return Ok(());
    }
    if holds {
        Ok(())
    } else {
        Err(VerifyError::Rejected(check))
    }
}
