//! Encoders against transformers: tokens equal, vectors within a tolerance. `fixtures/make_bert.py`
//! made the references.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use lemma_kernels::{Isa, Threads};
use lemma_llm::Compute;
use lemma_llm::embedding::{EmbedError, EmbeddingConfig, EmbeddingModel, Pooling};
use lemma_llm::text::Encoder;
use serde::Deserialize;
use serde_json::{Value, json};

/// Largest difference of a value in vectors of length one: keys and values are kept in binary16
/// here and in binary32 there.
const TOLERANCE: f32 = 5e-4;

#[derive(Deserialize)]
struct Case {
    text: String,
    tokens: Vec<u32>,
    mean: Vec<f32>,
    first: Vec<f32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn load(name: &str, pooling: Pooling) -> EmbeddingModel {
    let read = |file: &str| fs::read(folder(name).join(file)).unwrap();
    let weights = read("model.safetensors");
    let threads = Threads::single();
    EmbeddingModel::from_safetensors(&threads, &read("config.json"), pooling, &[&weights]).unwrap()
}

fn check(name: &str) {
    let read = |file: &str| fs::read(folder(name).join(file)).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&read("reference.json")).unwrap();
    let encoder = Encoder::from_json(&read("tokenizer.json")).unwrap();
    for case in &cases {
        assert_eq!(
            encoder.encode(&case.text).unwrap(),
            case.tokens,
            "{name}: {}",
            case.text
        );
    }
    let texts: Vec<&[u32]> = cases.iter().map(|case| &case.tokens[..]).collect();
    for pooling in [Pooling::Mean, Pooling::First] {
        let model = load(name, pooling);
        let vectors = model.embed(&Compute::new(1), &texts).unwrap();
        for (case, vector) in cases.iter().zip(&vectors) {
            let expected = match pooling {
                Pooling::Mean => &case.mean,
                Pooling::First => &case.first,
            };
            assert_eq!(vector.len(), expected.len());
            let worst = vector
                .iter()
                .zip(expected)
                .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(
                worst < TOLERANCE,
                "{name}: {} differs by {worst}",
                case.text
            );
        }
        // The same bits alone, with other threads, and without vector instructions.
        let portable = Compute {
            isa: Isa::PORTABLE,
            threads: Threads::new(2),
        };
        for (text, vector) in texts.iter().zip(&vectors) {
            let alone = model.embed(&portable, &[text]).unwrap().remove(0);
            assert!(
                alone
                    .iter()
                    .zip(vector)
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            );
        }
    }
    assert_ne!(
        load(name, Pooling::Mean).root(),
        load(name, Pooling::First).root()
    );
}

#[test]
fn bert() {
    check("bert");
}

#[test]
fn xlm_roberta() {
    check("xlm_roberta");
}

#[test]
fn texts_that_cannot_be_are_refused() {
    let model = load("bert", Pooling::Mean);
    let embed = |text: &[u32]| model.embed(&Compute::new(1), &[&[2, 3], text]).unwrap_err();
    assert_eq!(embed(&[]), EmbedError::Empty);
    assert_eq!(embed(&[5, 27]), EmbedError::Token(27));
    assert_eq!(
        embed(&[5; 65]),
        EmbedError::TooLong {
            tokens: 65,
            most: 64
        }
    );
    assert!(model.embed(&Compute::new(1), &[&[5; 64]]).is_ok());
    assert_eq!(
        model.embed(&Compute::new(1), &[]).unwrap(),
        Vec::<Vec<f32>>::new()
    );
    // More than are computed at a time.
    let many = vec![&[2, 6, 7, 3][..]; 1200];
    let vectors = model.embed(&Compute::new(2), &many).unwrap();
    assert!(vectors.len() == 1200 && vectors.iter().all(|v| v == &vectors[0]));
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let config = fs::read(folder("bert").join("config.json")).unwrap();
    assert!(EmbeddingConfig::is_encoder(&config));
    assert!(!EmbeddingConfig::is_encoder(b"{\"model_type\": \"llama\"}"));
    let with = |key: &str, value: Value| {
        let mut json: Value = serde_json::from_slice(&config).unwrap();
        json[key] = value;
        EmbeddingConfig::from_json(json.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(with("model_type", json!("gpt2")).contains("gpt2"));
    assert!(with("hidden_size", json!(0)).contains("hidden_size is 0"));
    assert!(with("num_hidden_layers", json!(1_000_000)).contains("num_hidden_layers"));
    assert!(with("num_attention_heads", json!(3)).contains("size of a head"));
    assert!(with("vocab_size", json!("many")).contains("vocab_size"));
    assert!(with("hidden_act", json!("sin")).contains("sin"));
    assert!(with("position_embedding_type", json!("relative_key")).contains("absolute"));
    assert!(EmbeddingConfig::from_json(b"[").is_err());

    // Tensors have to be there, in the shape that the configuration says.
    let weights = fs::read(folder("bert").join("model.safetensors")).unwrap();
    let mut json: Value = serde_json::from_slice(&config).unwrap();
    json["intermediate_size"] = json!(64);
    let error = EmbeddingModel::from_safetensors(
        &Threads::single(),
        json.to_string().as_bytes(),
        Pooling::Mean,
        &[&weights],
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("intermediate.dense")
    );

    let pooling = |json: Value| Pooling::from_json(json.to_string().as_bytes());
    let mean = json!({"word_embedding_dimension": 32, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true});
    assert_eq!(pooling(mean), Ok(Pooling::Mean));
    assert_eq!(pooling(json!({"pooling_mode": "cls"})), Ok(Pooling::First));
    assert!(pooling(json!({"pooling_mode_max_tokens": true})).is_err());
    assert!(pooling(json!([])).is_err());
    assert!(Encoder::from_json(b"{}").is_err());
}
