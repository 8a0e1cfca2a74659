//! Decoders of `lemma-llm`.

use lemma_llm::gguf::Gguf;
use lemma_llm::tensors::Tensors;
use lemma_llm::text::Tokenizer;
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
    let mut tensors = Tensors::default();
    if safetensors::read(weights, &mut tensors).is_ok() {
        for (_, tensor) in tensors.iter() {
            assert!(tensor.data.len() <= weights.len());
        }
    }
    Model::from_safetensors(&Threads::single(), config, &[weights]).is_ok()
}
