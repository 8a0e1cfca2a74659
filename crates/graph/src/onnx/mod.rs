//! ONNX models, read into the canonical graph.
//!
//! Supported are operator sets 6 to 23 of the default domain, and what transformers carry of
//! `com.microsoft`. A model is read in four steps, each of which ends in types that the next can
//! rely on: the wire format ([`wire`]), the messages within limits ([`proto`]), constants
//! ([`tensor`]), and nodes, which are put in order ([`import`]; graphs inside nodes:
//! [`subgraph`]) and turned into operators of the canonical graph ([`lower`]). Whatever is not
//! supported is refused there, with the node, the operator and the reason.

mod import;
mod lower;
mod narrow;
mod proto;
mod signature;
mod subgraph;
mod tensor;
mod wire;

pub(crate) use import::import;

/// The operator sets that are supported.
pub const OPSETS: std::ops::RangeInclusive<i64> = 6..=23;
