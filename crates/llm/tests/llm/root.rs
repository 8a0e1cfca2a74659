//! The identity of a model: golden values, and what changes it.

use std::fs;
use std::path::Path;

use crate::common::{tiny, tiny_writer};
use lemma_kernels::{Format, Threads};
use lemma_llm::gguf::Gguf;
use lemma_llm::{Config, Model, Root};
use serde_json::{Map, Value, json};

fn hex(root: Root) -> String {
    root.iter().map(|b| format!("{b:02x}")).collect()
}

fn gguf(file: &[u8]) -> String {
    hex(Model::from_gguf(&Threads::new(2), file).unwrap().root())
}

fn folder(name: &str) -> (Vec<u8>, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let read = |file: &str| fs::read(path.join(file)).unwrap();
    (read("config.json"), read("model.safetensors"))
}

fn safetensors(config: &[u8], files: &[&[u8]]) -> String {
    let model = Model::from_safetensors(&Threads::single(), config, files).unwrap();
    hex(model.root())
}

/// The same tensors in two files, every other one in each.
fn shards(file: &[u8]) -> [Vec<u8>; 2] {
    let (head, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*head) as usize);
    let entries: Map<String, Value> = serde_json::from_slice(header).unwrap();
    [0, 1].map(|part| {
        let mut header = Map::new();
        let mut bytes: Vec<u8> = Vec::new();
        let named = entries.iter().filter(|(name, _)| *name != "__metadata__");
        for (_, (name, entry)) in named.enumerate().filter(|(i, _)| i % 2 == part) {
            let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let begin = bytes.len();
            bytes.extend(&data[at(0)..at(1)]);
            let mut entry = entry.clone();
            entry["data_offsets"] = json!([begin, bytes.len()]);
            header.insert(name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(bytes);
        out
    })
}

#[test]
fn roots_are_what_they_were() {
    assert_eq!(gguf(&tiny(Format::Q4K, 1)), GOLDEN_GGUF);
    let (config, weights) = folder("gemma3");
    assert_eq!(safetensors(&config, &[&weights]), GOLDEN_FOLDER);
}

const GOLDEN_GGUF: &str = "e8e8e84850ecf042687fc44c6f42c7c085243225438717ee7408817b90079ec0";
const GOLDEN_FOLDER: &str = "9743b258a00bae76240b162d2406a428cc59b1989f21853a04642e5ffae90f71";

#[test]
fn a_configuration_is_written_in_one_way() {
    let (config, _) = folder("phi3");
    let config = Config::from_json(&config).unwrap();
    assert_eq!(config.canonical(), GOLDEN_LISTING);
}

const GOLDEN_LISTING: &str = "\
architecture 4:phi3
dim 64
ffn_dim 32
heads 4
kv_heads 2
head_dim 16
vocab 64
context 256
norm_epsilon 3727c5ac
norm_offset 00000000
gate silu
embedding_scale none
tied false
norms before
qk_norm none
attention_scale 3e800000
attention_softcap none
final_softcap none
rotary_dim 16
rotation halves
rope 461c4000 factors 3fb504f3 3f800000 3f8ccccd 3fa66666 3fcccccd 40000000 40400000 40800000 40c00000
layer 0 none
layer 0 none
experts none
bos 1
eos 2
";

#[test]
fn how_files_are_cut_and_arranged_does_not_matter() {
    for name in ["llama3", "qwen3_moe"] {
        let (config, weights) = folder(name);
        let whole = safetensors(&config, &[&weights]);
        let [first, second] = shards(&weights);
        assert_eq!(safetensors(&config, &[&first, &second]), whole);
        assert_eq!(safetensors(&config, &[&second, &first]), whole);
        // A shard that is missing, or comes twice, is noticed.
        let load = |files: &[&[u8]]| {
            let threads = Threads::single();
            Model::from_safetensors(&threads, &config, files)
                .unwrap_err()
                .to_string()
        };
        assert!(load(&[&first]).contains("missing"));
        assert!(load(&[&first, &first, &second]).contains("comes twice"));
    }
    let mut writer = tiny_writer(Format::Q8_0, 1, 0);
    let file = gguf(&writer.finish());
    writer.tensors.reverse();
    assert_eq!(gguf(&writer.finish()), file);
}

#[test]
fn every_part_of_a_model_changes_its_root() {
    let plain = tiny(Format::Q8_0, 1);
    let root = gguf(&plain);
    let with = |change: &dyn Fn(&mut crate::common::Writer)| {
        let mut writer = tiny_writer(Format::Q8_0, 1, 0);
        change(&mut writer);
        gguf(&writer.finish())
    };
    assert_eq!(with(&|_| {}), root);
    // One bit of one weight; another base of the rotation; a token that ends answers.
    assert_ne!(with(&|w| w.tensors[5].3[100] ^= 1), root);
    assert_ne!(with(&|w| w.float("llama.rope.freq_base", 10001.0)), root);
    assert_ne!(with(&|w| w.int("tokenizer.ggml.eos_token_id", 2)), root);
    assert_eq!(with(&|w| w.float("llama.rope.freq_base", 10000.0)), root);
    // What a model does not depend on, such as its name.
    assert_eq!(with(&|w| w.text("general.name", "tiny")), root);
    assert!(Gguf::parse(&plain).is_ok());
}
