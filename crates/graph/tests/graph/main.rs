//! The engine as its users see it: what models give, and what is refused.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on may panic"
)]

mod bounds;
mod common;
mod determinism;
mod fusion;
mod hostile;
mod integer;
mod operators;
mod random;
mod samples;
