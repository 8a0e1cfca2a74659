//! The engine of language models as its users see it: formats, text, answers and their replay.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod architectures;
mod common;
mod embedding;
mod engine;
mod formats;
mod grammar;
mod hostile;
mod nano;
mod root;
mod same_bits;
mod text;
