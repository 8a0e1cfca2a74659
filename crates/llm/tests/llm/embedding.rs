//! Encoders against transformers: tokens equal, vectors within a tolerance. `fixtures/make_bert.py`
//! made the references.

use std::fs;
use std::path::{Path, PathBuf};

use lemma_kernels::{Isa, Threads};
use lemma_llm::Compute;
use lemma_llm::embedding::{EmbedError, EmbeddingConfig, EmbeddingModel, Pooling};
use lemma_llm::gguf::Gguf;
use lemma_llm::safetensors;
use lemma_llm::tensors::Tensors;
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

/// The reference encoder as a GGUF file has it.
fn gguf(change: impl FnOnce(&mut crate::common::Writer)) -> Vec<u8> {
    let weights = fs::read(folder("bert").join("model.safetensors")).unwrap();
    let mut tensors = Tensors::default();
    safetensors::read(&weights, &mut tensors).unwrap();
    let mut w = crate::common::Writer::default();
    for (key, value) in [
        ("embedding_length", 32),
        ("feed_forward_length", 48),
        ("block_count", 2),
        ("attention.head_count", 2),
        ("context_length", 64),
    ] {
        w.int(&format!("bert.{key}"), value);
    }
    w.float("bert.attention.layer_norm_epsilon", 1e-12);
    let json: Value =
        serde_json::from_slice(&fs::read(folder("bert").join("tokenizer.json")).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut words = vec![String::new(); vocab.len()];
    for (word, id) in vocab {
        words[id.as_u64().unwrap() as usize] = match word.strip_prefix("##") {
            Some(rest) => rest.to_owned(),
            None if word.starts_with('[') => word.clone(),
            None => format!("▁{word}"),
        };
    }
    w.text("tokenizer.ggml.model", "bert");
    w.texts("tokenizer.ggml.tokens", &words);
    w.int("tokenizer.ggml.unknown_token_id", 1);
    w.int("tokenizer.ggml.cls_token_id", 2);
    for (name, tensor) in tensors.iter() {
        let mut name = name.replace("encoder.layer.", "blk.");
        for (folder, file) in [
            ("embeddings.word_embeddings", "token_embd"),
            ("embeddings.position_embeddings", "position_embd"),
            ("embeddings.token_type_embeddings", "token_types"),
            ("embeddings.LayerNorm", "token_embd_norm"),
            ("attention.self.query", "attn_q"),
            ("attention.self.key", "attn_k"),
            ("attention.self.value", "attn_v"),
            ("attention.output.dense", "attn_output"),
            ("attention.output.LayerNorm", "attn_output_norm"),
            ("intermediate.dense", "ffn_up"),
            ("output.dense", "ffn_down"),
            ("output.LayerNorm", "layer_output_norm"),
        ] {
            name = name.replace(folder, file);
        }
        let shape: Vec<u64> = tensor.shape.iter().map(|d| *d as u64).collect();
        w.tensor(&name, &shape, 30, tensor.data.to_vec());
    }
    change(&mut w);
    w.finish()
}

#[test]
fn a_gguf_file_gives_the_vectors_of_its_folder() {
    let cases: Vec<Case> =
        serde_json::from_slice(&fs::read(folder("bert").join("reference.json")).unwrap()).unwrap();
    for (number, pooling) in [(1, Pooling::Mean), (2, Pooling::First)] {
        let bytes = gguf(|w| {
            w.text("general.architecture", "bert");
            w.int("bert.pooling_type", number);
            w.int("tokenizer.ggml.seperator_token_id", 3);
        });
        let file = Gguf::parse(&bytes).unwrap();
        let model = EmbeddingModel::from_gguf(&Threads::single(), &file).unwrap();
        let encoder = Encoder::from_gguf(&file).unwrap();
        let expected = load("bert", pooling);
        assert_eq!(model.pooling(), pooling);
        for case in &cases {
            let tokens = encoder.encode(&case.text).unwrap();
            assert_eq!(tokens, case.tokens, "{}", case.text);
            let embed = |m: &EmbeddingModel| m.embed(&Compute::new(1), &[&tokens]).unwrap();
            assert_eq!(embed(&model), embed(&expected));
        }
    }
}

#[test]
fn a_gguf_file_says_whether_case_and_accents_matter() {
    let encoder = |flags: &[(&str, bool)]| {
        let bytes = gguf(|w| {
            w.text("general.architecture", "bert");
            w.int("tokenizer.ggml.seperator_token_id", 3);
            for (flag, value) in flags {
                w.flag(&format!("tokenizer.ggml.normalizer.{flag}"), *value);
            }
        });
        Encoder::from_gguf(&Gguf::parse(&bytes).unwrap()).unwrap()
    };
    let unsaid = encoder(&[]);
    let tokens = |encoder: &Encoder, text: &str| encoder.encode(text).unwrap();
    let dog = tokens(&unsaid, "dog");
    assert_eq!(tokens(&unsaid, "D\u{f3}G"), dog);
    // Saying what holds anyway makes no other vocabulary.
    let said = encoder(&[("lowercase", true), ("strip_accents", true)]);
    assert_eq!(said.digest(), unsaid.digest());
    let cased = encoder(&[("lowercase", false)]);
    let accented = encoder(&[("strip_accents", false)]);
    let stripped = encoder(&[("lowercase", false), ("strip_accents", true)]);
    for (encoder, case, accent) in [
        (&cased, false, false),
        (&accented, true, false),
        (&stripped, false, true),
    ] {
        assert_eq!(tokens(encoder, "dog"), dog);
        assert_eq!(tokens(encoder, "DOG") == dog, case);
        assert_eq!(tokens(encoder, "d\u{f3}g") == dog, accent);
    }
    let digests = [&unsaid, &cased, &accented, &stripped].map(Encoder::digest);
    for (index, digest) in digests.iter().enumerate() {
        assert!(!digests[..index].contains(digest));
    }
}

/// Other crates test with this file.
#[test]
fn the_gguf_fixture_is_the_encoder() {
    let written = gguf(|w| {
        w.text("general.architecture", "bert");
        w.int("bert.pooling_type", 1);
        w.int("tokenizer.ggml.seperator_token_id", 3);
    });
    let path = folder("bert").join("model.gguf");
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        fs::write(&path, &written).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), written);
}

#[test]
fn gguf_files_that_are_no_encoders_are_refused() {
    let load = |change: fn(&mut crate::common::Writer)| {
        let bytes = gguf(change);
        let file = Gguf::parse(&bytes).unwrap();
        let model = EmbeddingModel::from_gguf(&Threads::single(), &file);
        let text = Encoder::from_gguf(&file).err().map(|e| e.to_string());
        (model.map(|_| ()).map_err(|e| e.to_string()), text)
    };
    let (model, text) = load(|w| w.text("general.architecture", "bert"));
    assert_eq!(model, Ok(()));
    assert!(text.unwrap().contains("seperator_token_id is missing"));
    assert!(
        load(|w| w.text("general.architecture", "llama"))
            .0
            .unwrap_err()
            .contains("llama")
    );
    let (model, _) = load(|w| {
        w.text("general.architecture", "bert");
        w.int("bert.pooling_type", 4);
    });
    assert!(model.unwrap_err().contains("pooling"));
    let (model, _) = load(|w| {
        w.text("general.architecture", "bert");
        w.tensors.retain(|t| t.0 != "position_embd.weight");
    });
    assert!(
        model
            .unwrap_err()
            .contains("position_embd.weight is missing")
    );
    let (model, _) = load(|w| {
        w.text("general.architecture", "bert");
        w.tensors.retain(|t| t.0 != "blk.1.ffn_up.weight");
    });
    assert!(
        model
            .unwrap_err()
            .contains("blk.1.ffn_up.weight is missing")
    );
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
