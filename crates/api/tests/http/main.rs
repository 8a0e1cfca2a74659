//! The HTTP interfaces over a real network of one validator and one worker.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod crowd;
mod embeddings;
mod native;
mod oip;
mod openai;
mod rpc;
mod support;
