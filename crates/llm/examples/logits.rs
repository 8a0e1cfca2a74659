//! Runs a GGUF file without a network: writes the logits of every position of a prompt as
//! `logits.npy`, and prints the tokens that follow.
//!
//!     logits MODEL.gguf 1,2,3 OUTPUT_FOLDER [GENERATE [SEED]]
//!
//! Without a seed the best token is taken each time.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people"
)]

use std::io::Write;
use std::sync::Arc;

use lemma_llm::engine::{Engine, Event, Limits, Request};
use lemma_llm::sampling::Sampling;
use lemma_llm::{Cache, Chunk, Compute, Model, Scratch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, tokens, folder, rest @ ..] = args.as_slice() else {
        return Err("usage: logits MODEL.gguf 1,2,3 OUTPUT_FOLDER [GENERATE [SEED]]".into());
    };
    let tokens: Vec<u32> = tokens
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let compute = Compute::new(std::thread::available_parallelism()?.get());
    let model = Arc::new(Model::from_gguf(&compute.threads, &std::fs::read(path)?)?);
    let vocab = model.config().vocab;
    if tokens.iter().any(|t| *t as usize >= vocab) || tokens.len() > model.config().context {
        return Err("the tokens do not fit the model".into());
    }
    let mut cache = Cache::new(model.config(), tokens.len().div_ceil(16));
    let pages: Vec<_> = cache.ids().collect();
    let mut scratch = Scratch::default();
    let chunk = Chunk {
        tokens: &tokens,
        position: 0,
        pages: &pages,
        logits: tokens.len(),
    };
    let logits = model.forward(&compute, &mut cache, &[chunk], &mut scratch);
    std::fs::create_dir_all(folder)?;
    let mut file = std::fs::File::create(format!("{folder}/logits.npy"))?;
    let shape = format!("({}, {vocab})", tokens.len());
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    // The header ends with a line feed, so that the data begins at a multiple of 64.
    let padded = (header.len() + 11).next_multiple_of(64) - 11;
    header = format!("{header:padded$}\n");
    file.write_all(b"\x93NUMPY\x01\0")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(
        &logits
            .iter()
            .flat_map(|l| l.to_le_bytes())
            .collect::<Vec<_>>(),
    )?;

    let Some(count) = rest.first() else {
        return Ok(());
    };
    let sampling = match rest.get(1) {
        Some(seed) => Sampling {
            seed: seed.parse()?,
            ..Sampling::default()
        },
        None => Sampling::greedy(),
    };
    let mut engine = Engine::new(model.clone(), compute, None, Limits::default());
    engine.submit(Request::new(&model, tokens, count.parse()?, sampling))?;
    let mut answer = Vec::new();
    while !engine.is_idle() {
        for event in engine.step() {
            if let Event::Token { choice, .. } = event {
                answer.push(choice.token.to_string());
            }
        }
    }
    println!("{}", answer.join(","));
    Ok(())
}
