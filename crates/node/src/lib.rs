//! The roles of a node, wired to the world: sockets, clocks, files and threads begin here.
//!
//! * [`worker`] runs models: it takes requests over HTTP, executes them exactly, signs a receipt for each answer, and
//!   settles receipts in batches on the ledger.
//! * [`gateway`] serves clients: it resolves models on the ledger, picks workers, fails over, checks every receipt
//!   before it returns an answer, and hands out bundles.
//! * [`host`] serves content: manifests and model files, addressed by BLAKE3.
//! * [`network`] is all of it in one process: validators, workers and a gateway under one data directory.
//!
//! All of them reach the ledger through [`ledger`], which asks whichever validator of the process runs.
//!
//! Methods that begin much work return a [`BoxFuture`](futures::future::BoxFuture), not an `impl Future`: the body of an
//! `async fn` becomes code in each crate that awaits it, and a node would be compiled again for every test.

pub mod clock;
pub mod embedding;
pub mod files;
pub mod gateway;
pub mod host;
pub mod integer;
pub mod keys;
pub mod language;
pub mod ledger;
pub mod metrics;
pub mod model;
pub mod network;
pub mod protocol;
pub mod serve;
pub mod worker;

pub use gateway::Gateway;
pub use ledger::Ledger;
pub use network::Network;
pub use worker::Worker;
