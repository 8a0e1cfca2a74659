//! The verifier as its users see it: what it accepts, and that it accepts nothing else.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that cannot go on should fail there"
)]

mod certificate;
mod forgeries;
mod golden;
mod mutations;
mod proved;
mod support;
mod text;
