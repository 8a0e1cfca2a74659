//! A small model with random weights, in any format, as a GGUF file.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use lemma_kernels::Format;
use lemma_kernels::half::f32_to_f16;

pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    /// Between −1 and 1.
    pub fn real(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }
}

/// Writes GGUF files.
#[derive(Default)]
pub struct Writer {
    metadata: Vec<u8>,
    entries: u64,
    /// Name, shape with the innermost dimension first, type, data.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl Writer {
    fn key(&mut self, key: &str, kind: u32) {
        self.metadata.extend((key.len() as u64).to_le_bytes());
        self.metadata.extend(key.as_bytes());
        self.metadata.extend(kind.to_le_bytes());
        self.entries += 1;
    }
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        self.metadata.extend((value.len() as u64).to_le_bytes());
        self.metadata.extend(value.as_bytes());
    }
    pub fn int(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.metadata.extend(value.to_le_bytes());
    }
    pub fn flag(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.metadata.push(u8::from(value));
    }

    pub fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.metadata.extend(value.to_le_bytes());
    }
    pub fn texts<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        self.key(key, 9);
        self.metadata.extend(8u32.to_le_bytes());
        self.metadata.extend((values.len() as u64).to_le_bytes());
        for value in values {
            let value = value.as_ref();
            self.metadata.extend((value.len() as u64).to_le_bytes());
            self.metadata.extend(value.as_bytes());
        }
    }
    pub fn ints(&mut self, key: &str, values: &[i32]) {
        self.key(key, 9);
        self.metadata.extend(5u32.to_le_bytes());
        self.metadata.extend((values.len() as u64).to_le_bytes());
        values
            .iter()
            .for_each(|v| self.metadata.extend(v.to_le_bytes()));
    }
    pub fn floats(&mut self, key: &str, values: &[f32]) {
        self.key(key, 9);
        self.metadata.extend(6u32.to_le_bytes());
        self.metadata.extend((values.len() as u64).to_le_bytes());
        values
            .iter()
            .for_each(|v| self.metadata.extend(v.to_le_bytes()));
    }
    /// `shape` has the outermost dimension first.
    pub fn tensor(&mut self, name: &str, shape: &[u64], kind: u32, data: Vec<u8>) {
        let shape = shape.iter().rev().copied().collect();
        self.tensors.push((name.to_owned(), shape, kind, data));
    }
    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(&self.metadata);
        let mut offset = 0u64;
        for (name, shape, kind, data) in &self.tensors {
            out.extend((name.len() as u64).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (data.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(data);
        }
        out
    }
}

fn kind(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q8_0 => 8,
        Format::Q4K => 12,
        Format::Q5K => 13,
        Format::Q6K => 14,
        Format::BF16 => 30,
    }
}

/// Random stored values of about the given size.
pub fn stored(format: Format, count: usize, size: f32, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut bytes = Vec::new();
    for _ in 0..count / format.block_len() {
        let value = numbers.real() * size;
        match format {
            Format::F32 => bytes.extend(value.to_le_bytes()),
            Format::F16 => bytes.extend(f32_to_f16(value).to_le_bytes()),
            Format::BF16 => bytes.extend(((value.to_bits() >> 16) as u16).to_le_bytes()),
            _ => {
                let mut block: Vec<u8> = (0..format.block_bytes())
                    .map(|_| numbers.next() as u8)
                    .collect();
                let scales: &[(usize, f32)] = match format {
                    Format::Q8_0 => &[(0, 1.0 / 128.0)],
                    Format::Q4_0 => &[(0, 1.0 / 8.0)],
                    Format::Q4K => &[(0, 1.0 / 480.0), (2, 1.0 / 64.0)],
                    Format::Q5K => &[(0, 1.0 / 960.0), (2, 1.0 / 64.0)],
                    _ => &[(208, 1.0 / 4096.0)],
                };
                for (at, scale) in scales {
                    let half = f32_to_f16(size * scale * (1.0 + 0.2 * numbers.real()));
                    block[*at..at + 2].copy_from_slice(&half.to_le_bytes());
                }
                bytes.extend(block);
            }
        }
    }
    bytes
}

/// Every format that weights may have.
pub const FORMATS: [Format; 8] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
];

pub const VOCAB: usize = 96;
const DIM: usize = 256;
const FFN: usize = 512;
const LAYERS: usize = 2;
const HEAD: usize = 32;

/// A model of the Llama family whose matrices have the given format.
pub fn tiny(format: Format, seed: u64) -> Vec<u8> {
    tiny_writer(format, seed, 0).finish()
}

/// The same with so many experts in place of the dense feed-forward part.
pub fn tiny_experts(format: Format, seed: u64, experts: usize) -> Vec<u8> {
    tiny_writer(format, seed, experts).finish()
}

/// The same with a vocabulary of another size.
pub fn tiny_text(format: Format, seed: u64, vocab: usize) -> Vec<u8> {
    tiny_writer_of(format, seed, 0, vocab).finish()
}

pub fn tiny_writer(format: Format, seed: u64, experts: usize) -> Writer {
    tiny_writer_of(format, seed, experts, VOCAB)
}

fn tiny_writer_of(format: Format, seed: u64, experts: usize, vocab: usize) -> Writer {
    let mut w = Writer::default();
    w.text("general.architecture", "llama");
    w.int("llama.embedding_length", DIM as u32);
    w.int("llama.feed_forward_length", FFN as u32);
    w.int("llama.block_count", LAYERS as u32);
    w.int("llama.attention.head_count", (DIM / HEAD) as u32);
    w.int("llama.attention.head_count_kv", 2);
    w.int("llama.context_length", 512);
    w.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    if experts > 0 {
        w.int("llama.expert_count", experts as u32);
        w.int("llama.expert_used_count", 2);
    }
    let mut seed = seed;
    let mut matrix = |w: &mut Writer, name: &str, format: Format, shape: &[usize], size: f32| {
        seed += 1;
        let data = stored(format, shape.iter().product(), size, seed);
        let shape: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
        w.tensor(&format!("{name}.weight"), &shape, kind(format), data);
    };
    let size = 0.15;
    matrix(&mut w, "token_embd", format, &[vocab, DIM], 1.0);
    matrix(&mut w, "output", format, &[vocab, DIM], size);
    matrix(&mut w, "output_norm", Format::F32, &[DIM], 2.0);
    for i in 0..LAYERS {
        let name = |part: &str| format!("blk.{i}.{part}");
        matrix(&mut w, &name("attn_norm"), Format::F32, &[DIM], 2.0);
        matrix(&mut w, &name("ffn_norm"), Format::F32, &[DIM], 2.0);
        matrix(&mut w, &name("attn_q"), format, &[DIM, DIM], size);
        matrix(&mut w, &name("attn_k"), format, &[2 * HEAD, DIM], size);
        matrix(&mut w, &name("attn_v"), format, &[2 * HEAD, DIM], size);
        matrix(&mut w, &name("attn_output"), format, &[DIM, DIM], size);
        if experts > 0 {
            matrix(
                &mut w,
                &name("ffn_gate_inp"),
                Format::F32,
                &[experts, DIM],
                size,
            );
            matrix(
                &mut w,
                &name("ffn_gate_exps"),
                format,
                &[experts, FFN, DIM],
                size,
            );
            matrix(
                &mut w,
                &name("ffn_up_exps"),
                format,
                &[experts, FFN, DIM],
                size,
            );
            matrix(
                &mut w,
                &name("ffn_down_exps"),
                format,
                &[experts, DIM, FFN],
                size,
            );
        } else {
            matrix(&mut w, &name("ffn_gate"), format, &[FFN, DIM], size);
            matrix(&mut w, &name("ffn_up"), format, &[FFN, DIM], size);
            matrix(&mut w, &name("ffn_down"), format, &[DIM, FFN], size);
        }
    }
    w
}

/// A list of tokens.
pub fn tokens(len: usize, seed: u64) -> Vec<u32> {
    let mut numbers = Numbers(seed);
    (0..len)
        .map(|_| (numbers.next() % VOCAB as u64) as u32)
        .collect()
}

/// The model of `tiny(Q8_0, seed)` with the codes of its matrices rounded to multiples of 16, as
/// if it had been quantised to four bits.
pub fn coarser(seed: u64) -> Vec<u8> {
    let mut writer = tiny_writer(Format::Q8_0, seed, 0);
    for (_, _, kind, data) in &mut writer.tensors {
        if *kind == 8 {
            for block in data.chunks_exact_mut(34) {
                for code in &mut block[2..] {
                    let rounded = (i32::from(*code as i8) + 8).div_euclid(16) * 16;
                    *code = rounded.clamp(-128, 112) as i8 as u8;
                }
            }
        }
    }
    writer.finish()
}
