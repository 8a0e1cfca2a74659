//! A language model with random weights in a GGUF file: every byte is a token, and a template writes conversations. It says
//! nothing of sense, but what it says is exact.

/// Positions that the model has.
pub(crate) const CONTEXT: u32 = 512;
/// Tokens: the bytes, and two that begin and end messages.
pub(crate) const VOCAB: usize = 258;

const DIM: usize = 64;
const FFN: usize = 128;
const LAYERS: usize = 2;
const HEADS: usize = 2;

#[derive(Default)]
struct Writer {
    metadata: Vec<u8>,
    entries: u64,
    tensors: Vec<(String, Vec<usize>)>,
}

impl Writer {
    fn text_bytes(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        Self::text_bytes(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        self.entries += 1;
        &mut self.metadata
    }

    fn text(&mut self, key: &str, value: &str) {
        Self::text_bytes(self.key(key, 8), value);
    }

    fn int(&mut self, key: &str, value: u32) {
        self.key(key, 4).extend(value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6).extend(value.to_le_bytes());
    }

    fn list(&mut self, key: &str, kind: u32, count: usize) -> &mut Vec<u8> {
        let out = self.key(key, 9);
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
        out
    }

    /// `shape` has the outermost dimension first.
    fn tensor(&mut self, name: &str, shape: &[usize]) {
        self.tensors
            .push((format!("{name}.weight"), shape.to_vec()));
    }

    /// Matrices as F32 or as Q4_0; what is no matrix is always F32.
    fn finish(&self, seed: u64, quantised: bool) -> Vec<u8> {
        let is_q4 = |shape: &[usize]| quantised && shape.len() > 1;
        let bytes = |shape: &[usize]| match (is_q4(shape), shape.iter().product::<usize>()) {
            (true, values) => values / 32 * 18,
            (false, values) => values * 4,
        };
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(&self.metadata);
        let mut offset = 0;
        for (name, shape) in &self.tensors {
            Self::text_bytes(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            for size in shape.iter().rev() {
                out.extend((*size as u64).to_le_bytes());
            }
            out.extend((if is_q4(shape) { 2u32 } else { 0 }).to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes(shape).next_multiple_of(32);
        }
        let mut state = seed;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 20_001) as f32 / 10_000.0 - 1.0
        };
        for (name, shape) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            let scale = if name.contains("norm") { 1.5 } else { 0.3 };
            let values: Vec<f32> = (0..shape.iter().product::<usize>())
                .map(|_| random() * scale)
                .collect();
            match is_q4(shape) {
                true => values.chunks(32).for_each(|block| q4(block, &mut out)),
                false => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            }
        }
        out
    }
}

/// A block of 32 values in half a byte each, with a scale that is a power of two: its half-precision form is easy.
fn q4(block: &[f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0f32, |most, value| most.max(value.abs()));
    let exponent = (largest / 7.0).log2().ceil() as i32;
    out.extend((((exponent + 15) as u16) << 10).to_le_bytes());
    let scale = 2f32.powi(exponent);
    let code = |value: f32| ((value / scale).round() as i32 + 8).clamp(0, 15) as u8;
    let (low, high) = block.split_at(16);
    out.extend(
        low.iter()
            .zip(high)
            .map(|(low, high)| code(*low) | code(*high) << 4),
    );
}

/// The file. Another seed makes another model.
pub(crate) fn gguf(seed: u64) -> Vec<u8> {
    variant(seed, LAYERS, FFN, false)
}

/// The same model rounded to Q4_0.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn quantised(seed: u64) -> Vec<u8> {
    variant(seed, LAYERS, FFN, true)
}

/// The same model without its last layers: what a draft model would be.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn draft(seed: u64) -> Vec<u8> {
    variant(seed, 1, FFN, false)
}

/// A model whose file has about so many million bytes.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn of_megabytes(megabytes: usize) -> Vec<u8> {
    variant(
        1,
        8,
        megabytes * 1_000_000 / (8 * 3 * DIM * 4) / 64 * 64,
        false,
    )
}

fn variant(seed: u64, layers: usize, ffn: usize, quantised: bool) -> Vec<u8> {
    let mut w = Writer::default();
    w.text("general.architecture", "llama");
    w.int("llama.embedding_length", DIM as u32);
    w.int("llama.feed_forward_length", ffn as u32);
    w.int("llama.block_count", layers as u32);
    w.int("llama.attention.head_count", HEADS as u32);
    w.int("llama.attention.head_count_kv", 1);
    w.int("llama.context_length", CONTEXT);
    w.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    vocabulary(&mut w);
    w.tensor("token_embd", &[VOCAB, DIM]);
    w.tensor("output", &[VOCAB, DIM]);
    w.tensor("output_norm", &[DIM]);
    for layer in 0..layers {
        for (part, shape) in [
            ("attn_norm", &[DIM][..]),
            ("ffn_norm", &[DIM]),
            ("attn_q", &[DIM, DIM]),
            ("attn_k", &[DIM / HEADS, DIM]),
            ("attn_v", &[DIM / HEADS, DIM]),
            ("attn_output", &[DIM, DIM]),
            ("ffn_gate", &[ffn, DIM]),
            ("ffn_up", &[ffn, DIM]),
            ("ffn_down", &[DIM, ffn]),
        ] {
            w.tensor(&format!("blk.{layer}.{part}"), shape);
        }
    }
    w.finish(seed, quantised)
}

fn vocabulary(w: &mut Writer) {
    // The characters that stand for bytes in byte-level vocabularies.
    let mut next = 256;
    let mut tokens: Vec<String> = (0..256u32)
        .map(|byte| {
            let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if plain { byte } else { next };
            next += u32::from(!plain);
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(str::to_owned));
    w.text("tokenizer.ggml.model", "gpt2");
    w.text("tokenizer.ggml.pre", "gpt-2");
    let out = w.list("tokenizer.ggml.tokens", 8, tokens.len());
    for token in &tokens {
        Writer::text_bytes(out, token);
    }
    let out = w.list("tokenizer.ggml.token_type", 5, VOCAB);
    for id in 0..VOCAB {
        out.extend((if id < 256 { 1i32 } else { 3 }).to_le_bytes());
    }
    w.list("tokenizer.ggml.merges", 8, 0);
    w.int("tokenizer.ggml.eos_token_id", 257);
    w.text(
        "tokenizer.chat_template",
        concat!(
            "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}\n",
            "Answer <tool_call>{\"name\": ..., \"arguments\": ...}</tool_call><|im_end|>{% endif %}",
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}",
            "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}",
            "<|im_end|>{% endfor %}<|im_start|>assistant\n"
        ),
    );
}
