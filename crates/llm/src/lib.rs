//! Language models, exact: every token can be replayed bit for bit.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
pub mod config;
pub mod engine;
mod forward;
pub mod gguf;
mod model;
mod names;
mod pages;
pub mod replay;
mod rope;
pub mod safetensors;
pub mod sampling;
pub mod stream;
pub mod tensors;
pub mod text;

pub use cache::{Cache, PageId};
pub use config::Config;
pub use forward::{Chunk, Compute, Scratch};
pub use model::{LoadError, Model};
