//! Each architecture against transformers: logits within a tolerance, 64 greedy tokens equal.
//! `fixtures/make.py` made the references.

use std::fs;
use std::path::Path;

use lemma_kernels::Threads;
use lemma_llm::{Cache, Chunk, Compute, Model, Scratch};
use serde::Deserialize;

/// Largest difference of a logit. Where a sum that is rounded otherwise makes a key or a value fall
/// to the other side between two binary16 numbers, logits differ by about this much; their standard
/// deviation is between 0.3 and 2.
const TOLERANCE: f32 = 5e-4;

#[derive(Deserialize)]
struct Reference {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

fn argmax(x: &[f32]) -> u32 {
    let best = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter().position(|v| *v == best).unwrap() as u32
}

fn check(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let read = |file: &str| fs::read(folder.join(file)).unwrap();
    let reference: Reference = serde_json::from_slice(&read("reference.json")).unwrap();
    let weights = read("model.safetensors");
    let model =
        Model::from_safetensors(&Threads::single(), &read("config.json"), &[&weights]).unwrap();
    let (c, mut scratch) = (Compute::new(1), Scratch::default());
    let mut cache = Cache::new(model.config(), 8);
    let pages: Vec<_> = cache.ids().collect();

    let prompt = &reference.prompt;
    let chunk = Chunk {
        tokens: prompt,
        position: 0,
        pages: &pages,
        logits: prompt.len(),
    };
    let logits = model.forward(&c, &mut cache, &[chunk], &mut scratch);
    let expected: Vec<f32> = read("logits.bin")
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(logits.len(), expected.len());
    let worst = logits
        .iter()
        .zip(&expected)
        .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst < TOLERANCE, "{name}: logits differ by {worst}");

    let mut next = argmax(&logits[logits.len() - model.config().vocab..]);
    let mut found = vec![next];
    for position in prompt.len()..prompt.len() + reference.greedy.len() - 1 {
        let chunk = Chunk {
            tokens: &[next],
            position,
            pages: &pages,
            logits: 1,
        };
        next = argmax(model.forward(&c, &mut cache, &[chunk], &mut scratch));
        found.push(next);
    }
    assert_eq!(found, reference.greedy, "{name}");
}

macro_rules! architectures {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )+
    };
}

architectures! {
    llama2 llama3 yarn mistral mixtral qwen2 qwen3 qwen3_moe gemma2 gemma3 phi3 smollm3 olmo2
}
