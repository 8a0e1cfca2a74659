//! The ledger's network in one process, from a seed: real validators on commonware's deterministic runtime, with virtual
//! time, links that lose messages, partitions, and crashes that lose whatever was not made durable.
//!
//! The same seed replays the same run, event by event: [`Report::auditor`] is a hash over all of them. A run tells a
//! story ([`run`]) and checks, at its stations, what must hold whatever happens ([`Violation`]).

mod client;
mod cluster;
mod crashes;
mod liar;
mod scenes;
mod story;
mod verdict;

pub use crashes::{Fault, crashes};
pub use liar::Lie;
pub use scenes::{gossip, lies, stops, unaffordable};
pub use story::run;
pub use verdict::{Lost, Report, Violation};
