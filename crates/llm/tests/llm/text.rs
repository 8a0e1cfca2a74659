//! Vocabularies of GGUF files and of model folders.

use crate::common::Writer;
use lemma_llm::gguf::Gguf;
use lemma_llm::text::{TextError, Tokenizer};
use serde_json::json;

/// A SentencePiece vocabulary: bytes, letters and a few pieces with scores.
fn sentence_piece() -> Vec<u8> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<|user|>"]
        .map(str::to_owned)
        .to_vec();
    let mut kinds = vec![2, 3, 3, 4];
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    kinds.extend([6; 256]);
    let mut scores = vec![0.0; tokens.len()];
    let pieces = [
        "▁", "h", "e", "l", "o", "w", "r", "d", "he", "ll", "lo", "hell", "▁hello", "▁w", "or",
        "▁wor", "ld", "hello",
    ];
    for (i, piece) in pieces.iter().enumerate() {
        tokens.push((*piece).to_owned());
        kinds.push(1);
        scores.push(if piece.chars().count() > 1 {
            -(i as f32)
        } else {
            -1000.0 - i as f32
        });
    }
    let mut w = Writer::default();
    w.text("general.architecture", "llama");
    w.text("tokenizer.ggml.model", "llama");
    w.texts("tokenizer.ggml.tokens", &tokens);
    w.floats("tokenizer.ggml.scores", &scores);
    w.ints("tokenizer.ggml.token_type", &kinds);
    w.int("tokenizer.ggml.bos_token_id", 1);
    w.finish()
}

/// A byte-level vocabulary with three merges and the template of a chat model.
fn byte_level(pre: &str) -> Vec<u8> {
    let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut tokens: Vec<String> = (0..256)
        .map(|b| {
            let code = if plain(b) { b } else { next };
            next += u32::from(!plain(b));
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    tokens.extend(["he", "ll", "hell", "Ġw"].map(str::to_owned));
    let mut kinds = vec![1; tokens.len()];
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(str::to_owned));
    kinds.extend([3, 3]);
    let mut w = Writer::default();
    w.text("general.architecture", "qwen2");
    w.text("tokenizer.ggml.model", "gpt2");
    w.text("tokenizer.ggml.pre", pre);
    w.texts("tokenizer.ggml.tokens", &tokens);
    w.ints("tokenizer.ggml.token_type", &kinds);
    w.texts("tokenizer.ggml.merges", &["h e", "l l", "he ll", "Ġ w"]);
    w.text(
        "tokenizer.chat_template",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<|im_start|>",
    );
    w.finish()
}

fn tokenizer(file: &[u8]) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::parse(file).unwrap()).unwrap()
}

#[test]
fn sentence_pieces_are_joined_best_score_first_and_the_rest_is_bytes() {
    let t = tokenizer(&sentence_piece());
    let names = |text: &str, begin: bool| -> Vec<u32> { t.encode(text, begin).unwrap() };
    let piece = |i: u32| 260 + i;
    // "▁hello" is the best union of "▁", "hell" and "o"? It has no two parts in the vocabulary but
    // "▁" and "hello".
    assert_eq!(names("hello", true), [1, piece(12)]);
    assert_eq!(
        names("hello world", false),
        [piece(12), piece(15), piece(16)]
    );
    // ü is not in the vocabulary: its two bytes are.
    assert_eq!(names("ü", false), [piece(0), 4 + 0xc3, 4 + 0xbc]);
    for text in ["hello world", "ü hell 😀", "a\nb"] {
        assert_eq!(t.decode(&names(text, true)), format!(" {text}"));
    }
    // A token that a user has added is itself, wherever it stands.
    assert!(names("x<|user|>y", false).contains(&3));
}

#[test]
fn bytes_are_merged_within_the_pieces_of_a_text() {
    let t = tokenizer(&byte_level("qwen2"));
    assert_eq!(t.encode("hell", false).unwrap(), [258]);
    assert_eq!(
        t.encode("hello we", false).unwrap(),
        [258, b'o' as u32, 259, b'e' as u32]
    );
    assert_eq!(
        t.encode("he11", false).unwrap(),
        [256, b'1' as u32, b'1' as u32]
    );
    for text in [
        "hello wörld\n\n  x",
        "😀\u{0}",
        "",
        "  leading and trailing  ",
    ] {
        let tokens = t.encode(text, true).unwrap();
        assert_eq!(t.decode(&tokens), text);
    }
}

#[test]
fn conversations_become_tokens_by_the_template() {
    let t = tokenizer(&byte_level("qwen2"));
    let tokens = t
        .chat(&json!([{"role": "user", "content": "he"}]), None)
        .unwrap();
    let text: Vec<u32> = b"user\n".iter().map(|b| u32::from(*b)).collect();
    let newline = tokens[5];
    assert_eq!(tokens[0], 260);
    assert_eq!(tokens[1..5], text[..4]);
    assert_eq!(t.decode(&[newline]), "\n");
    assert_eq!(tokens[6..], [256, 261, 260]);
    assert_eq!(t.decode(&tokens), "user\nhe");
    let plain = tokenizer(&sentence_piece());
    assert!(matches!(
        plain.chat(&json!([]), None),
        Err(TextError::NoTemplate)
    ));
}

#[test]
fn a_folder_and_a_gguf_file_of_one_vocabulary_agree() {
    let merges = json!([["h", "e"], ["l", "l"], ["he", "ll"]]);
    let mut vocab = serde_json::Map::new();
    for (i, token) in ["h", "e", "l", "o", "Ġ", "w", "he", "ll", "hell"]
        .iter()
        .enumerate()
    {
        vocab.insert((*token).to_owned(), json!(i));
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let json = json!({
        "version": "1.0",
        "added_tokens": [{"id": 9, "content": "<end>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    let config = json!({
        "eos_token": {"content": "<end>"},
        "chat_template": [{"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}"}],
    });
    let t = Tokenizer::from_folder(
        json.to_string().as_bytes(),
        Some(config.to_string().as_bytes()),
        None,
    )
    .unwrap();
    assert_eq!(t.encode("hello<end>", false).unwrap(), [8, 3, 9]);
    assert_eq!(t.decode(&[8, 3, 4, 5, 9]), "hello w");
    assert_eq!(t.chat(&json!([{"content": "he"}]), None).unwrap(), [6, 9]);
    // A template beside the configuration comes first.
    let t = Tokenizer::from_folder(
        json.to_string().as_bytes(),
        Some(config.to_string().as_bytes()),
        Some("o"),
    )
    .unwrap();
    assert_eq!(t.chat(&json!([]), None).unwrap(), [3]);
}

#[test]
fn vocabularies_that_cannot_be_used_are_refused() {
    let refused = |file: &[u8]| {
        Tokenizer::from_gguf(&Gguf::parse(file).unwrap())
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&byte_level("cyrillic")).contains("pre-tokenizer cyrillic"));
    let mut w = Writer::default();
    w.text("tokenizer.ggml.model", "t5");
    w.texts("tokenizer.ggml.tokens", &["a"]);
    assert!(refused(&w.finish()).contains("the vocabulary t5"));
    assert!(refused(&Writer::default().finish()).contains("tokens is missing"));
    for json in [
        "",
        "[]",
        "{}",
        r#"{"model":{"type":"WordPiece","vocab":{}}}"#,
        r#"{"model":{"type":"BPE","vocab":{"a":99999999999}},"decoder":{"type":"ByteLevel"}}"#,
    ] {
        assert!(
            Tokenizer::from_folder(json.as_bytes(), None, None).is_err(),
            "{json}"
        );
    }
}
