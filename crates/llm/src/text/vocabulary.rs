//! Vocabularies: from GGUF files into the form of a `tokenizer.json`, and the bytes of each token.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::TextError;
use super::tools::MARKS;
use crate::gguf::{Gguf, Value as Meta};

/// Most tokens of a vocabulary.
const MAX_TOKENS: usize = 1 << 21;

/// What stands for a space in SentencePiece vocabularies.
const BLANK: char = '▁';

/// How text is cut before byte-level pairs are merged, by the name that GGUF files have for it.
fn pieces(name: &str) -> Option<(&'static [&'static str], bool)> {
    const GPT2: &str =
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    Some(match name {
        "gpt-2" | "gpt2" | "olmo" => (&[GPT2], false),
        "smollm" | "starcoder" | "refact" | "command-r" => (&[r"\p{N}", GPT2], false),
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => (&[LLAMA3], true),
        "dbrx" => (&[LLAMA3], false),
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" => (&[QWEN2], false),
        "tekken" => (&[TEKKEN], true),
        _ => return None,
    })
}

/// The vocabulary of a GGUF file, as a `tokenizer.json` has it.
pub(super) fn from_gguf(file: &Gguf<'_>) -> Result<Value, TextError> {
    let missing = |key: &str| TextError::Tokenizer(format!("{key} is missing"));
    let tokens = file
        .texts("tokenizer.ggml.tokens")
        .ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    if tokens.len() > MAX_TOKENS {
        return Err(TextError::Tokenizer(format!("{} tokens", tokens.len())));
    }
    let kinds: &[i64] = match file.get("tokenizer.ggml.token_type") {
        Some(Meta::Ints(kinds)) => kinds,
        _ => &[],
    };
    let mut json = match file.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(file, tokens)?,
        Some("llama") => sentence_piece(file, tokens, kinds)?,
        Some(other) => return Err(TextError::Kind(format!("the vocabulary {other}"))),
        None => return Err(missing("tokenizer.ggml.model")),
    };
    // Control tokens are 3, tokens that a user has added 4.
    let added: Vec<Value> = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(kind, 3 | 4))
        .map(|(id, (content, kind))| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": *kind == 3,
            })
        })
        .collect();
    json["added_tokens"] = Value::Array(added);
    let begins = file.flag("tokenizer.ggml.add_bos_token");
    let default = file.text("tokenizer.ggml.model") == Some("llama");
    let bos = file
        .size("tokenizer.ggml.bos_token_id")
        .filter(|id| *id < tokens.len());
    if let Some(id) = bos.filter(|_| begins.unwrap_or(default)) {
        let token = tokens[id];
        let first = json!({"SpecialToken": {"id": token, "type_id": 0}});
        let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [first, sequence("A")],
            "pair": [first, sequence("A"), first, sequence("B")],
            "special_tokens": { token: {"id": token, "ids": [id], "tokens": [token]} },
        });
    }
    Ok(json)
}

/// Numbers of tokens; of two of one name the first counts.
fn numbers(tokens: &[&str]) -> Map<String, Value> {
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        vocab.entry(*token).or_insert_with(|| json!(id));
    }
    vocab
}

fn byte_level(file: &Gguf<'_>, tokens: &[&str]) -> Result<Value, TextError> {
    let name = file.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let (patterns, ignore_merges) =
        pieces(name).ok_or_else(|| TextError::Kind(format!("the pre-tokenizer {name}")))?;
    let merges: Vec<Value> = file
        .texts("tokenizer.ggml.merges")
        .unwrap_or_default()
        .iter()
        .filter_map(|merge| merge.split_once(' '))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let mut steps: Vec<Value> = patterns
        .iter()
        .map(|pattern| {
            json!({
                "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false,
            })
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    steps.push(bytes.clone());
    Ok(json!({
        "version": "1.0",
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": bytes,
        "model": {
            "type": "BPE", "vocab": numbers(tokens), "merges": merges,
            "ignore_merges": ignore_merges,
        },
    }))
}

/// The WordPiece vocabulary of an encoder, as a `tokenizer.json` has it: pieces that begin a word
/// have a mark in GGUF files, in model folders those that do not. With it the canonical listing of the
/// entries that it was made from, whose digest tells vocabularies apart.
pub(super) fn word_pieces(file: &Gguf<'_>) -> Result<(Value, String), TextError> {
    let missing = |key: &str| TextError::Tokenizer(format!("{key} is missing"));
    let tokens = file
        .texts("tokenizer.ggml.tokens")
        .ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    match file.text("tokenizer.ggml.model") {
        Some("bert") => {}
        other => {
            let what = format!("the vocabulary {} of an encoder", other.unwrap_or("none"));
            return Err(TextError::Kind(what));
        }
    }
    if tokens.len() > MAX_TOKENS {
        return Err(TextError::Tokenizer(format!("{} tokens", tokens.len())));
    }
    let special = |keys: &[&str]| {
        let mut ids = keys.iter().map(|key| format!("tokenizer.ggml.{key}"));
        let id = ids.find_map(|key| file.size(&key));
        let id = id.filter(|id| *id < tokens.len());
        id.ok_or_else(|| missing(&format!("tokenizer.ggml.{}", keys[0])))
    };
    let begin = special(&["cls_token_id", "bos_token_id"])?;
    // The key is misspelt in most files.
    let end = special(&["seperator_token_id", "separator_token_id", "eos_token_id"])?;
    let unknown = special(&["unknown_token_id"])?;
    let mut listing = format!("lemma word pieces 1\nbegin {begin}\nend {end}\nunknown {unknown}\n");
    for token in tokens {
        listing += &format!("token {}:{token}\n", token.len());
    }
    // Most files do not say it; llama.cpp takes them for lower-case then, whatever the model was.
    let lowercase = file.flag("tokenizer.ggml.normalizer.lowercase");
    let lowercase = lowercase.unwrap_or(true);
    let strip_accents = file.flag("tokenizer.ggml.normalizer.strip_accents");
    let strip_accents = strip_accents.unwrap_or(lowercase);
    if !lowercase || !strip_accents {
        listing += &format!("lowercase {lowercase}\nstrip accents {strip_accents}\n");
    }
    let names: Vec<String> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| match token.strip_prefix(BLANK) {
            Some(word) => word.to_owned(),
            None if [begin, end, unknown].contains(&id) => (*token).to_owned(),
            None if token.starts_with('[') && token.ends_with(']') => (*token).to_owned(),
            None => format!("##{token}"),
        })
        .collect();
    let plain: Vec<&str> = names.iter().map(String::as_str).collect();
    let one = |id: usize| json!({"SpecialToken": {"id": plain[id], "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let described = |id: usize| json!({"id": plain[id], "ids": [id], "tokens": [plain[id]]});
    let json = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": strip_accents, "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [one(begin), text("A"), one(end)],
            "pair": [one(begin), text("A"), one(end), text("B"), one(end)],
            "special_tokens": { plain[begin]: described(begin), plain[end]: described(end) },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": plain[unknown], "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": numbers(&plain),
        },
    });
    Ok((json, listing))
}

/// A SentencePiece vocabulary has no list of merges: of neighbouring pieces those are joined whose
/// union has the best score. So the merges are all ways to make a piece of two, best piece first.
fn sentence_piece(file: &Gguf<'_>, tokens: &[&str], kinds: &[i64]) -> Result<Value, TextError> {
    let scores: &[f64] = match file.get("tokenizer.ggml.scores") {
        Some(Meta::Floats(scores)) if scores.len() == tokens.len() => scores,
        _ => return Err(TextError::Tokenizer("scores are missing".to_owned())),
    };
    let usable = |id: usize| !matches!(kinds.get(id), Some(2 | 3 | 5 | 6));
    let known: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| usable(*id))
        .map(|(id, token)| (*token, id))
        .collect();
    let mut order: Vec<usize> = (0..tokens.len()).filter(|id| usable(*id)).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let mut merges = Vec::new();
    for id in order {
        let token = tokens[id];
        if token.len() > 256 {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if known.contains_key(left) && known.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let prefix = file.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let blank = json!({
        "type": "Replace", "pattern": {"String": " "}, "content": BLANK.to_string(),
    });
    let mut normalizers = vec![blank];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": BLANK.to_string()}));
    }
    let unknown = kinds
        .iter()
        .position(|kind| *kind == 2)
        .and_then(|id| tokens.get(id));
    Ok(json!({
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE", "vocab": numbers(tokens), "merges": merges, "unk_token": unknown,
            "fuse_unk": true, "byte_fallback": true,
        },
    }))
}

/// The bytes of each token, by number; none for special tokens and for numbers without a token.
pub(super) fn token_bytes(json: &Value) -> Result<Vec<Box<[u8]>>, TextError> {
    let model = &json["model"];
    let Some(vocab) = model["vocab"].as_object() else {
        return Err(TextError::Kind("a tokenizer without byte pairs".to_owned()));
    };
    let byte_level = mentions(&json["decoder"], "ByteLevel");
    let pieces = mentions(&json["decoder"], "ByteFallback")
        || mentions(&json["decoder"], "Metaspace")
        || mentions(&json["decoder"], "Replace");
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") || byte_level == pieces {
        let kind = model["type"].as_str().unwrap_or("unknown");
        return Err(TextError::Kind(format!("a tokenizer of type {kind}")));
    }
    let alphabet = alphabet();
    let bytes = |token: &str| -> Vec<u8> {
        if byte_level {
            let mapped: Option<Vec<u8>> =
                token.chars().map(|c| alphabet.get(&c).copied()).collect();
            return mapped.unwrap_or_else(|| token.as_bytes().to_vec());
        }
        let hex = token
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'));
        match hex
            .filter(|hex| hex.len() == 2)
            .map(|hex| u8::from_str_radix(hex, 16))
        {
            Some(Ok(byte)) => vec![byte],
            _ => token.replace(BLANK, " ").into_bytes(),
        }
    };
    let number = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| usize::try_from(id).ok())
            .filter(|id| *id < MAX_TOKENS)
            .ok_or_else(|| TextError::Tokenizer(format!("{value} is no number of a token")))
    };
    let mut table: Vec<Box<[u8]>> = Vec::new();
    let mut put = |id: usize, bytes: Vec<u8>| {
        if table.len() <= id {
            table.resize(id + 1, Box::default());
        }
        table[id] = bytes.into_boxed_slice();
    };
    for (token, id) in vocab {
        put(number(id)?, bytes(token));
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let special = added["special"].as_bool().unwrap_or(false);
        let text = match special && !MARKS.contains(&content) {
            true => "",
            false => content,
        };
        put(number(&added["id"])?, text.as_bytes().to_vec());
    }
    Ok(table)
}

/// Whether a decoder is of this type, or has one among its parts.
fn mentions(decoder: &Value, kind: &str) -> bool {
    decoder["type"] == kind
        || decoder["decoders"]
            .as_array()
            .is_some_and(|parts| parts.iter().any(|part| part["type"] == kind))
}

/// The characters that stand for bytes in byte-level vocabularies: printable ones for themselves,
/// the others in order from 256 on.
fn alphabet() -> HashMap<char, u8> {
    let mut next = 256u32;
    (0..=255u8)
        .map(|byte| {
            let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if plain { u32::from(byte) } else { next };
            next += u32::from(!plain);
            (char::from_u32(code).unwrap_or_default(), byte)
        })
        .collect()
}
