//! Decoders of `lemma-llm`.

use std::sync::OnceLock;

use lemma_llm::embedding::EmbeddingConfig;
use lemma_llm::gguf::Gguf;
use lemma_llm::grammar::{Form, Grammars};
use lemma_llm::tensors::Tensors;
use lemma_llm::text::{CallStream, CallSyntax, Encoder, Part, Tokenizer, Tools};
use lemma_llm::{Cache, Chunk, Compute, Config, Isa, Model, Scratch, Threads, safetensors};

/// GGUF files: what loads runs, on every instruction set to the same bits.
pub fn gguf(data: &[u8]) -> bool {
    let Ok(file) = Gguf::parse(data) else {
        return false;
    };
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
        assert!(tokenizer.bytes().len() <= 1 << 21);
    }
    let Ok(model) = Model::from_parsed(&Threads::single(), &file) else {
        return false;
    };
    let run = |isa| {
        let compute = Compute {
            isa,
            threads: Threads::single(),
        };
        let mut cache = Cache::new(model.config(), 1);
        let pages: Vec<_> = cache.ids().collect();
        let tokens = [0; 2];
        let chunk = Chunk {
            tokens: &tokens[..model.config().context.min(2)],
            position: 0,
            pages: &pages,
            logits: 1,
        };
        let mut scratch = Scratch::default();
        let logits = model.forward(&compute, &mut cache, &[chunk], &mut scratch);
        logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>()
    };
    let logits = run(Isa::PORTABLE);
    assert_eq!(logits.len(), model.config().vocab);
    assert_eq!(run(Isa::detect()), logits);
    true
}

/// The files of a model folder: a `config.json` after its length in four bytes, then a safetensors file.
pub fn safetensors_folder(data: &[u8]) -> bool {
    let Some((len, rest)) = data.split_first_chunk::<4>() else {
        return false;
    };
    let (config, weights) = rest.split_at(rest.len().min(u32::from_le_bytes(*len) as usize));
    let _ = Config::from_json(config);
    let _ = EmbeddingConfig::from_json(config);
    let mut tensors = Tensors::default();
    if safetensors::read(weights, &mut tensors).is_ok() {
        for (_, tensor) in tensors.iter() {
            assert!(tensor.data.len() <= weights.len());
        }
    }
    Model::from_safetensors(&Threads::single(), config, &[weights]).is_ok()
}

/// All bytes, and a token that ends answers.
const END: u32 = 256;

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| {
        let bytes: Vec<Box<[u8]>> = (0..=255u8).map(|b| Box::from([b])).collect();
        Grammars::new(&bytes, &[END]).expect("a vocabulary")
    })
}

/// A JSON schema of a request: a constraint from it says within bounds what may come next.
pub fn answer_schema(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(mut constraint) = grammars().constraint(Form::Schema(text)) else {
        return false;
    };
    for step in 0..24 {
        let mask = constraint.allowed().unwrap_or_default();
        let allowed: Vec<u32> = (0..=END)
            .filter(|t| {
                mask.get(*t as usize / 32)
                    .is_some_and(|w| w >> (t % 32) & 1 == 1)
            })
            .collect();
        let Some(token) = allowed.get(step * 7 % allowed.len().max(1)) else {
            break;
        };
        constraint.push(*token);
    }
    true
}

/// The tools of a request after their length in four bytes, then what a model writes: calls are found the same however
/// the text is cut, and nothing of it is lost.
pub fn tools(data: &[u8]) -> bool {
    let Some((len, rest)) = data.split_first_chunk::<4>() else {
        return false;
    };
    let (tools, answer) = rest.split_at(rest.len().min(u32::from_le_bytes(*len) as usize));
    let Ok(Ok(tools)) = std::str::from_utf8(tools).map(Tools::parse) else {
        return false;
    };
    let answer = String::from_utf8_lossy(answer);
    for syntax in [
        CallSyntax::Tagged,
        CallSyntax::Xml,
        CallSyntax::Bare,
        CallSyntax::Listed,
        CallSyntax::Named,
    ] {
        let read = |pieces: &[&str]| {
            let mut stream = CallStream::new(syntax, &tools);
            let mut parts: Vec<Part> = pieces.iter().flat_map(|p| stream.push(p)).collect();
            parts.extend(stream.finish());
            let mut text = String::new();
            let mut calls = Vec::new();
            for part in parts {
                match part {
                    Part::Text(part) => text += &part,
                    Part::Call(call) => calls.push(call),
                }
            }
            (text, calls)
        };
        let whole = read(&[&answer]);
        let cuts: Vec<&str> = answer
            .split_inclusive(|c: char| !c.is_alphanumeric())
            .collect();
        assert_eq!(read(&cuts), whole, "{syntax:?}");
        assert!(whole.1.iter().all(|call| tools.get(&call.name).is_some()));
        assert!(!whole.1.is_empty() || whole.0 == answer, "{syntax:?}");
    }
    true
}

/// A `tokenizer.json`: what is read encodes a text without an accident.
pub fn tokenizer_json(data: &[u8]) -> bool {
    const TEXT: &str = "The quick brown fox, über 13 words:\n\t漢字 <s>[CLS]";
    let mut accepted = false;
    if let Ok(encoder) = Encoder::from_json(data) {
        let _ = encoder.encode(TEXT);
        accepted = true;
    }
    if let Ok(tokenizer) = Tokenizer::from_folder(data, None, None) {
        if let Ok(tokens) = tokenizer.encode(TEXT, true) {
            let _ = tokenizer.decode(&tokens);
        }
        accepted = true;
    }
    accepted
}
