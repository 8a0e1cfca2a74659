//! Encoders in GGUF files (architecture `bert`).

use lemma_kernels::Threads;

use super::{
    Activation, ConfigError, EmbeddingConfig, EmbeddingModel, LoadError, MAX_HEADS, MAX_LAYERS,
    MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Pooling, Weights, load,
};
use crate::gguf::Gguf;

impl EmbeddingConfig {
    /// Whether a GGUF file holds an encoder, and not a model that writes.
    #[must_use]
    pub fn is_encoder_gguf(file: &Gguf<'_>) -> bool {
        file.text("general.architecture") == Some("bert")
    }

    /// Reads the metadata of a GGUF file: the configuration, and how vectors of tokens become one
    /// (their mean, where the file does not say).
    ///
    /// # Errors
    /// If an entry is missing or out of range, or the file is of another architecture.
    pub fn from_gguf(file: &Gguf<'_>) -> Result<(EmbeddingConfig, Pooling), ConfigError> {
        let architecture = file.text("general.architecture").unwrap_or_default();
        if !EmbeddingConfig::is_encoder_gguf(file) {
            return Err(ConfigError::Encoder(architecture.to_owned()));
        }
        let within = |entry: &str, n: Option<usize>, most: usize| {
            let n = n.ok_or_else(|| ConfigError::Missing(entry.to_owned()))?;
            match (1..=most).contains(&n) {
                true => Ok(n),
                false => Err(ConfigError::Range {
                    entry: entry.to_owned(),
                    value: n.to_string(),
                    allowed: format!("from 1 to {most}"),
                }),
            }
        };
        let size = |key: &str, most| {
            let key = format!("bert.{key}");
            within(&key, file.size(&key), most)
        };
        // Tables have as many rows as there are words, positions and types.
        let rows = |name: &str, most| {
            let tensor = file.tensors().get(name);
            within(name, tensor.and_then(|t| t.shape.first().copied()), most)
        };
        let pooling = match file.size("bert.pooling_type") {
            None | Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(other) => {
                let what = format!("the pooling of number {other}");
                return Err(ConfigError::Unsupported(what));
            }
        };
        let epsilon = file.float("bert.attention.layer_norm_epsilon");
        let config = EmbeddingConfig {
            architecture: architecture.to_owned(),
            dim: size("embedding_length", MAX_WIDTH)?,
            ffn_dim: size("feed_forward_length", MAX_WIDTH)?,
            heads: size("attention.head_count", MAX_HEADS)?,
            layers: size("block_count", MAX_LAYERS)?,
            vocab: rows("token_embd.weight", MAX_VOCAB)?,
            context: rows("position_embd.weight", MAX_POSITIONS)?,
            first_position: 0,
            types: rows("token_types.weight", 64)?,
            norm_epsilon: epsilon.unwrap_or(1e-12) as f32,
            activation: Activation::Gelu,
        };
        Ok((config.checked()?, pooling))
    }
}

impl EmbeddingModel {
    /// Loads an encoder from a GGUF file.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the file.
    pub fn from_gguf(threads: &Threads, file: &Gguf<'_>) -> Result<EmbeddingModel, LoadError> {
        let (config, pooling) = EmbeddingConfig::from_gguf(file)?;
        let weights = Weights::new(threads, file.tensors());
        load(&weights, &name, config, pooling)
    }
}

/// The name in a GGUF file of what is called `name` in a model folder.
fn name(name: &str) -> String {
    const PARTS: [(&str, &str); 12] = [
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
    ];
    let Some((part, kind)) = name.rsplit_once('.') else {
        return name.to_owned();
    };
    let (layer, part) = match part.strip_prefix("encoder.layer.") {
        Some(rest) => rest.split_once('.').unwrap_or((rest, "")),
        None => ("", part),
    };
    let known = PARTS.iter().find(|(folder, _)| *folder == part);
    let part = known.map_or(part, |(_, gguf)| gguf);
    match layer {
        "" => format!("{part}.{kind}"),
        layer => format!("blk.{layer}.{part}.{kind}"),
    }
}
