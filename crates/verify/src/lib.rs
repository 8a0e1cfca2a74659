//! The offline verifier: believes nothing but a [`TrustedRoot`].
//!
//! A [`Bundle`] is a receipt with all that backs it. [`Verifier::verify`] follows it from the worker's signature through
//! the batch and the ledger's logs to a finality certificate, which it checks against the one static public key of the
//! trusted root. The [`Report`] names every check with its outcome, what was not covered, and a [`Verdict`]:
//!
//! ```
//! # fn example(bundle_json: &[u8], root_json: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use lemma_verify::{Opened, Verdict, Verifier};
//!
//! let verifier = Verifier::new(&lemma_verify::decode_trusted_root(root_json)?)?;
//! let report = verifier.verify_bytes(bundle_json, &Opened::default());
//! print!("{report}");
//! assert_eq!(report.verdict, Verdict::Verified);
//! # Ok(())
//! # }
//! ```
//!
//! This crate is pure: no async, no I/O, no clock and no randomness. The same bytes give the same report in ten years.
//! Nothing that arrives in a bundle makes it panic or allocate more than the bundle's own size.
//!
//! [`TrustedRoot`]: lemma_types::TrustedRoot
//! [`Bundle`]: lemma_types::bundle::Bundle

pub mod certificate;
mod contents;
mod format;
mod proved;
mod report;
mod settlement;
mod text;
mod verifier;

pub use format::{FormatError, decode_bundle, decode_trusted_root};
pub use proved::Weight;
pub use report::{Check, CheckName, Final, Outcome, Report, Verdict};
pub use verifier::{
    Opened, Recompute, Recomputed, Replayed, TrustedRootError, Verifier, verify_answer,
};
