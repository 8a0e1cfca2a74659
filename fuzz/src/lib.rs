//! One function for each decoder of bytes from outside: it must not panic, what it accepts must be what it claims, and
//! it says whether it accepted.
//!
//! The fuzz targets in `targets/` feed them from libFuzzer. The test suites of the crates feed the same functions, from the
//! same seeds, with a few thousand mutations each ([`smoke`]), on stable and without instrumentation.

pub mod api;
pub mod chain;
pub mod graph;
pub mod ledger;
pub mod lemma;
pub mod llm;
pub mod node;
pub mod proof;
pub mod smoke;
pub mod store;
pub mod types;
pub mod verify;
