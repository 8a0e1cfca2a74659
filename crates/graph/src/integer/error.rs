//! What can be wrong with an integer graph, its inputs, or a model to be quantised.

use thiserror::Error;

use crate::error::{OpError, RunError};

/// Why something is not an integer graph, or cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IntegerError {
    /// Parts that do not fit together.
    #[error("{place}: {reason}")]
    Malformed {
        /// The tensor or node.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A sum that could overflow.
    #[error(
        "{place} could reach {low}..={high}, outside of {floor}..={ceiling}: use a coarser scale or fewer terms"
    )]
    Overflow {
        /// The node or output.
        place: String,
        /// Smallest sum that the ranges of the operands allow.
        low: i64,
        /// Largest sum.
        high: i64,
        /// Smallest sum that the node can take.
        floor: i64,
        /// Largest sum that the node can take.
        ceiling: i64,
    },
    /// Bytes that are no integer graph.
    #[error("not an integer graph: {0}")]
    Encoding(&'static str),
    /// An input that does not fit.
    #[error("input `{name}` {reason}")]
    Input {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Why a model could not be quantised.
#[derive(Debug, Error)]
pub enum QuantiseError {
    /// An operator with no integer form.
    #[error("operator {op} (`{node}`) cannot be proved: {reason}")]
    Unsupported {
        /// Its name.
        op: String,
        /// Its label in the model.
        node: String,
        /// Why.
        reason: String,
    },
    /// Calibration data that do not fit the model.
    #[error("calibration data: {0}")]
    Calibration(String),
    /// The result is no valid integer graph.
    #[error(transparent)]
    Integer(#[from] IntegerError),
    /// The float model failed on the calibration data.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An operator failed.
    #[error(transparent)]
    Operator(#[from] OpError),
}
