//! Language models, exact: every token can be replayed bit for bit.
//!
//! Decoder-only transformers (Llama, Mistral, Mixtral, Qwen 2 and 3, Qwen3-MoE, Gemma 2 and 3, Phi-3, SmolLM3, OLMo2)
//! from GGUF files and safetensors folders, on the kernels of `lemma-kernels`. What a logit and a
//! token are is written in `docs/llm-numeric-spec.md`; they depend on the model, the tokens before
//! and the request alone.
//!
//! | module | what it does |
//! |---|---|
//! | [`gguf`], [`safetensors`], [`tensors`] | files: bounded, checked, never copied whole |
//! | [`config`] | what kind of transformer it is |
//! | [`Model`] | weights, arranged for products; [`Model::forward`] runs chunks of sequences |
//! | [`embedding`] | BERT models: a text as a vector |
//! | [`engine`] | continuous batching over a paged cache: [`submit`](engine::Engine::submit), [`step`](engine::Engine::step), [`cancel`](engine::Engine::cancel) |
//! | [`sampling`] | the next token, as a function of logits, history and parameters |
//! | [`grammar`] | answers that keep to a JSON schema or call a tool |
//! | [`stream`] | text piece by piece, and stop strings |
//! | [`mod@replay`] | a teacher-forced prefill that says where an answer first differs |
//! | [`text`] | vocabularies, chat templates, tools |
//!
//! Nothing here knows of sockets, clocks or an async runtime: a worker hands over bytes, or a file
//! as a map, and calls [`step`](engine::Engine::step) from a thread of its own.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use lemma_llm::engine::{Engine, Event, Limits, Request};
//! use lemma_llm::{Compute, FileMap, Model, gguf::Gguf, sampling::Sampling, text::Tokenizer};
//!
//! let bytes = FileMap::open("model.gguf".as_ref())?;
//! let file = Gguf::map(&bytes)?;
//! let compute = Compute::new(2);
//! let model = Arc::new(Model::from_parsed(&compute.threads, &file)?);
//! let tokenizer = Tokenizer::from_gguf(&file)?;
//!
//! let mut engine =
//!     Engine::new(model.clone(), compute, Some(tokenizer.bytes().clone()), Limits::default());
//! let messages = serde_json::json!([{"role": "user", "content": "What is 2 + 3?"}]);
//! let prompt = tokenizer.chat(&messages, None)?;
//! engine.submit(Request::new(&model, prompt, 64, Sampling::default()))?;
//! let mut answer = String::new();
//! while !engine.is_idle() {
//!     for event in engine.step() {
//!         if let Event::Token { text, .. } | Event::Finished { text, .. } = event {
//!             answer += &text;
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
pub mod config;
pub mod embedding;
pub mod engine;
mod forward;
pub mod gguf;
pub mod grammar;
mod model;
mod names;
mod pages;
pub mod replay;
mod root;
mod rope;
pub mod safetensors;
pub mod sampling;
pub mod stream;
pub mod tensors;
pub mod text;
mod weights;

/// Version of the numeric specification for language models that this crate implements.
pub const LLM_NUMERIC_SPEC_VERSION: u32 = 1;

pub use cache::{Cache, PageId};
pub use config::Config;
pub use forward::{Chunk, Compute, Scratch};
pub use lemma_kernels::{FileMap, Isa, Threads};
pub use model::{LoadError, Model};
pub use root::{ROOT_VERSION, Root};
