//! Time to the first token of the sample language model: its engine alone, and over HTTP with a receipt to come.

use std::{sync::Arc, time::Instant};

use lemma_llm::{
    Compute, Model,
    engine::{Engine, Event, Limits, Request},
    gguf::Gguf,
    sampling::Sampling,
    text::Tokenizer,
};
use serde_json::{Value, json};

use crate::{Result, milliseconds};

const MODEL: &[u8] = include_bytes!("../../models/nano/model.gguf");

/// A conversation that no cache of a prefix knows: it differs from the first word on.
pub(crate) fn question(number: usize) -> Value {
    let facts: Vec<String> = (0..12)
        .map(|i| format!("{} + {} = ?", number + i, 7 * i))
        .collect();
    json!([{"role": "user", "content": facts.join(" ")}])
}

/// Milliseconds until the first token of each of `runs` questions, in an engine that nobody shares.
pub(crate) fn first_tokens(runs: usize) -> Result<Vec<f64>> {
    let file = Gguf::parse(MODEL)?;
    let compute = Compute::new(1);
    let model = Arc::new(Model::from_parsed(&compute.threads, &file)?);
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let vocabulary = Some(tokenizer.bytes().clone());
    let mut engine = Engine::new(Arc::clone(&model), compute, vocabulary, Limits::default());
    let mut times = Vec::with_capacity(runs);
    for number in 0..runs {
        let prompt = tokenizer.chat(&question(number), None)?;
        let request = Request::new(&model, prompt, 1, Sampling::default());
        let start = Instant::now();
        engine.submit(request)?;
        loop {
            let events = engine.step();
            if events.iter().any(|e| matches!(e, Event::Token { .. })) {
                break;
            }
            if engine.is_idle() {
                return Err("the engine ended without a token".into());
            }
        }
        times.push(milliseconds(start.elapsed()));
        while !engine.is_idle() {
            engine.step();
        }
    }
    Ok(times)
}
