//! Damaged and hostile files are refused, without a panic and without memory taken on their word.

use crate::common::{Numbers, Writer, tiny, tiny_writer};
use lemma_kernels::{Format, Threads};
use lemma_llm::gguf::{Gguf, GgufError};
use lemma_llm::tensors::{TensorError, Tensors};
use lemma_llm::text::Tokenizer;
use lemma_llm::{Config, LoadError, Model, safetensors};
use serde_json::json;

fn load(file: &[u8]) -> Result<Model, LoadError> {
    Model::from_gguf(&Threads::single(), file)
}

#[test]
fn a_file_that_is_cut_short_is_refused_wherever_it_ends() {
    let file = tiny(Format::Q4_0, 1);
    for len in (0..4000).chain((4000..file.len()).step_by(9973)) {
        assert!(load(&file[..len]).is_err(), "{len} bytes");
    }
    assert!(load(&file).is_ok());
}

#[test]
fn damaged_files_do_not_panic() {
    let file = tiny(Format::Q8_0, 1);
    // The head alone decides what is read where.
    let head = 4500;
    let mut numbers = Numbers(9);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut damaged = file.clone();
        for _ in 0..1 + numbers.next() % 3 {
            let at = numbers.next() as usize % head;
            damaged[at] = numbers.next() as u8;
        }
        if let Ok(parsed) = Gguf::parse(&damaged) {
            let _ = Tokenizer::from_gguf(&parsed);
            if Config::from_gguf(&parsed).is_ok() {
                continue;
            }
        }
        refused += 1;
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn counts_are_held_against_the_file() {
    let head = |tensors: u64, entries: u64| {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(tensors.to_le_bytes());
        out.extend(entries.to_le_bytes());
        out
    };
    assert!(matches!(
        Gguf::parse(&head(u64::MAX, 0)),
        Err(GgufError::TooMuch { .. })
    ));
    assert!(matches!(
        Gguf::parse(&head(0, u64::MAX)),
        Err(GgufError::TooMuch { .. })
    ));
    assert!(matches!(
        Gguf::parse(&head(100, 0)),
        Err(GgufError::Short(_))
    ));
    // A list of four million texts in a file of a hundred bytes.
    let mut list = head(0, 1);
    list.extend(1u64.to_le_bytes());
    list.push(b'k');
    list.extend(9u32.to_le_bytes());
    list.extend(8u32.to_le_bytes());
    list.extend((1u64 << 22).to_le_bytes());
    assert!(matches!(Gguf::parse(&list), Err(GgufError::Short(_))));
    // Lists of lists.
    let mut nested = list[..list.len() - 12].to_vec();
    nested.extend(9u32.to_le_bytes());
    nested.extend(1u64.to_le_bytes());
    assert!(matches!(Gguf::parse(&nested), Err(GgufError::Kind { .. })));
    assert!(matches!(
        Gguf::parse(b"GGUF\x01\0\0\0"),
        Err(GgufError::Version(1))
    ));
    assert!(matches!(
        Gguf::parse(b"GGML\x03\0\0\0"),
        Err(GgufError::Magic)
    ));
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    let error = |shape: &[u64], kind: u32, len: usize| {
        let mut w = Writer::default();
        w.tensor("t", shape, kind, vec![0; len]);
        Gguf::parse(&w.finish()).unwrap_err()
    };
    let size = |e| assert!(matches!(e, GgufError::Tensor(TensorError::Size(_))), "{e}");
    size(error(&[u64::MAX, 32], 8, 34));
    size(error(&[1 << 40, 1 << 40], 0, 8));
    size(error(&[2, 33], 8, 68));
    let outside = error(&[2, 32], 8, 34);
    assert!(
        matches!(outside, GgufError::Tensor(TensorError::Outside(_))),
        "{outside}"
    );
    assert!(matches!(
        error(&[32], 3, 20),
        GgufError::TensorType { kind: 3, .. }
    ));
}

#[test]
fn a_configuration_and_its_tensors_have_to_agree() {
    let with = |change: fn(&mut Writer)| {
        let mut w = tiny_writer(Format::Q8_0, 1, 0);
        change(&mut w);
        load(&w.finish()).unwrap_err().to_string()
    };
    // Entries that come later do not replace earlier ones.
    assert!(with(|w| w.int("llama.block_count", 3)).contains("comes twice"));
    let other = |key: &str, value: u32| {
        let mut w = Writer::default();
        w.text("general.architecture", "llama");
        for (k, v) in [
            ("embedding_length", 256),
            ("feed_forward_length", 512),
            ("block_count", 2),
            ("attention.head_count", 8),
            ("context_length", 512),
        ] {
            w.int(&format!("llama.{k}"), if k == key { value } else { v });
        }
        w.tensor("token_embd.weight", &[96, 256], 0, vec![0; 96 * 1024]);
        load(&w.finish()).unwrap_err().to_string()
    };
    assert!(other("block_count", 100_000).contains("100000 layers"));
    assert!(other("block_count", 0).contains("number of layers is 0"));
    assert!(other("attention.head_count", 0).contains("head"));
    assert!(other("attention.head_count", 7).contains("head"));
    assert!(other("context_length", u32::MAX).contains("context"));
    assert!(other("embedding_length", 512).contains("token_embd.weight has shape"));
    assert!(other("block_count", 2).contains("output_norm.weight is missing"));
}

#[test]
fn safetensors_are_bounded_too() {
    let file = |header: &str, data: usize| {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.resize(out.len() + data, 0);
        out
    };
    let read = |file: &[u8]| {
        let mut tensors = Tensors::default();
        safetensors::read(file, &mut tensors).map(|()| tensors.iter().count())
    };
    let one = |shape: serde_json::Value, dtype: &str, offsets: serde_json::Value| {
        json!({"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).to_string()
    };
    assert_eq!(
        read(&file(&one(json!([2, 2]), "F32", json!([0, 16])), 16)).unwrap(),
        1
    );
    for (header, data) in [
        (one(json!([2, 2]), "F32", json!([0, 16])), 15),
        (one(json!([2, 2]), "F32", json!([0, 12])), 16),
        (one(json!([2, 2]), "F32", json!([16, 0])), 16),
        (one(json!([1u64 << 62, 8]), "F32", json!([0, 0])), 16),
        (one(json!([2, 2]), "I64", json!([0, 32])), 32),
        (one(json!([-1]), "F32", json!([0, 4])), 4),
        ("{".to_owned(), 0),
        ("[]".to_owned(), 0),
    ] {
        assert!(read(&file(&header, data)).is_err(), "{header}");
    }
    assert!(read(&u64::MAX.to_le_bytes()).is_err());
    assert!(read(b"short").is_err());
    for json in [
        "",
        "[]",
        "{}",
        r#"{"model_type":"gpt2"}"#,
        r#"{"model_type":"llama","hidden_size":-1}"#,
    ] {
        assert!(Config::from_json(json.as_bytes()).is_err());
    }
}
