//! What a model file says about the shape of its model, parsed once into a typed form.

mod canonical;
mod gguf;
mod hf;

use lemma_kernels::{Gate, Rotation};

pub(crate) use canonical::Listing;

/// Why a configuration is none that can be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON object.
    #[error("config.json is malformed: {0}")]
    Json(String),
    /// A family of models that is not supported.
    #[error(
        "architecture {0} is not supported; supported are Llama, Mistral, Mixtral, Qwen2, Qwen3, \
         Qwen3-MoE, Gemma 2, Gemma 3 (text), Phi-3, SmolLM3 and OLMo2"
    )]
    Architecture(String),
    /// A family of encoders that is not supported.
    #[error(
        "embedding models of architecture {0} are not supported; supported are BERT, RoBERTa and XLM-RoBERTa"
    )]
    Encoder(String),
    /// An entry that is needed is not there, or of another type.
    #[error("{0} is missing from the configuration, or is of the wrong type")]
    Missing(String),
    /// An entry has a value that cannot be.
    #[error("{entry} is {value}; it has to be {allowed}")]
    Range {
        /// The entry.
        entry: String,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// Something that changes the meaning of the model and is not implemented.
    #[error("the model uses {0}, which is not supported")]
    Unsupported(String),
}

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the family, as its configuration spells it.
    pub architecture: String,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of a dense feed-forward part.
    pub ffn_dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Tokens of the vocabulary: rows of the embedding.
    pub vocab: usize,
    /// Most positions of a sequence.
    pub context: usize,
    /// ε of the norms.
    pub norm_epsilon: f32,
    /// Added to each stored scale of a norm: 1 where files store what lies above 1.
    pub norm_offset: f32,
    /// Function of the gated unit.
    pub gate: Gate,
    /// Factor of the embedding.
    pub embedding_scale: Option<f32>,
    /// Whether the embedding serves as the head too.
    pub tied: bool,
    /// Norms around attention and feed-forward part.
    pub norms: Norms,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Factor of the attention scores.
    pub attention_scale: f32,
    /// Bound of the attention scores.
    pub attention_softcap: Option<f32>,
    /// Bound of the logits.
    pub final_softcap: Option<f32>,
    /// Values of a head that are rotated, from its first on.
    pub rotary_dim: usize,
    /// Which values are rotated together.
    pub rotation: Rotation,
    /// The rotations that layers choose from.
    pub ropes: Vec<Rope>,
    /// One entry for each layer.
    pub layers: Vec<Layer>,
    /// Experts in place of the dense feed-forward part.
    pub experts: Option<Experts>,
    /// Token that begins a text, if the model has one.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Index into [`Config::ropes`]; `None` where positions do not enter.
    pub rope: Option<usize>,
    /// Latest positions that are attended to; all if `None`.
    pub window: Option<usize>,
}

/// Where norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before each part.
    Before,
    /// After each part, before it is added.
    After,
    /// Both.
    Both,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Of each head by itself.
    Heads,
    /// Of all heads together.
    Row,
}

/// Experts of which a router picks a few for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token uses.
    pub used: usize,
    /// Width of one.
    pub ffn_dim: usize,
    /// Whether the weights of those used are made to sum to one.
    pub normalised: bool,
}

/// A rotation of queries and keys by position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub base: f32,
    /// How frequencies are stretched.
    pub scaling: Scaling,
}

/// How the frequencies of a rotation are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All divided by the factor.
    Linear(f32),
    /// Low frequencies divided, high ones kept, a ramp between them (Llama 3.1).
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Turns within the original context below which a frequency is low.
        low: f32,
        /// Turns within the original context above which a frequency is high.
        high: f32,
        /// The original context.
        original: f32,
    },
    /// As [`Scaling::Linear`] below a ramp of frequencies and not at all above it; sine and cosine
    /// multiplied by `attention` (YaRN).
    Yarn {
        /// Divisor of low frequencies.
        factor: f32,
        /// Turns within the original context from which on a frequency is kept.
        fast: f32,
        /// Turns within the original context up to which it is divided.
        slow: f32,
        /// The original context.
        original: f32,
        /// Factor of sine and cosine.
        attention: f32,
        /// Whether the ramp begins and ends at whole pairs.
        truncate: bool,
    },
    /// Each divided by a factor of its own; sine and cosine multiplied by `attention`
    /// (Phi-3 LongRoPE, and tables in GGUF files).
    Factors {
        /// One for each pair.
        factors: Vec<f32>,
        /// Factor of sine and cosine.
        attention: f32,
    },
}

/// Greatest sizes that are accepted: beyond every published model, and small enough that no sum or
/// product of them overflows.
pub(crate) const MAX_LAYERS: usize = 1024;
pub(crate) const MAX_WIDTH: usize = 1 << 20;
pub(crate) const MAX_HEADS: usize = 1024;
pub(crate) const MAX_VOCAB: usize = 1 << 21;
const MAX_CONTEXT: usize = 1 << 24;

impl Config {
    /// Checks what the kernels and the rest of this crate rely on.
    fn checked(self) -> Result<Config, ConfigError> {
        let within = |entry: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::Range {
                entry: entry.to_owned(),
                value: value.to_string(),
                allowed: format!("from {low} to {high}"),
            })
        };
        within("the number of layers", self.layers.len(), 1, MAX_LAYERS)?;
        within("the width of the model", self.dim, 1, MAX_WIDTH)?;
        within(
            "the width of the feed-forward part",
            self.ffn_dim,
            1,
            MAX_WIDTH,
        )?;
        within("the number of heads", self.heads, 1, MAX_HEADS)?;
        within("the number of key heads", self.kv_heads, 1, self.heads)?;
        within("the size of the vocabulary", self.vocab, 1, MAX_VOCAB)?;
        within("the context", self.context, 1, MAX_CONTEXT)?;
        within("the size of a head", self.head_dim, 16, 256)?;
        within(
            "the rotated part of a head",
            self.rotary_dim,
            0,
            self.head_dim,
        )?;
        let multiple = |entry: &str, value: usize, of: usize| {
            if value.is_multiple_of(of) {
                return Ok(());
            }
            Err(ConfigError::Range {
                entry: entry.to_owned(),
                value: value.to_string(),
                allowed: format!("a multiple of {of}"),
            })
        };
        multiple("the number of heads", self.heads, self.kv_heads)?;
        multiple("the size of a head", self.head_dim, 16)?;
        multiple("the rotated part of a head", self.rotary_dim, 2)?;
        if let Some(experts) = &self.experts {
            within("the number of experts", experts.count, 1, 1024)?;
            within("the experts of a token", experts.used, 1, experts.count)?;
            within("the width of an expert", experts.ffn_dim, 1, MAX_WIDTH)?;
        }
        for rope in &self.ropes {
            if let Scaling::Factors { factors, .. } = &rope.scaling
                && factors.len() != self.rotary_dim / 2
            {
                return Err(ConfigError::Range {
                    entry: "the number of rotation factors".to_owned(),
                    value: factors.len().to_string(),
                    allowed: format!("{}", self.rotary_dim / 2),
                });
            }
        }
        for token in self.bos.iter().chain(&self.eos) {
            within("a special token", *token as usize, 0, self.vocab - 1)?;
        }
        Ok(self)
    }

    /// Width of a row of queries.
    #[must_use]
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of keys.
    #[must_use]
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// 1 ÷ √n in f32, both rounded: the usual factor of attention scores.
fn inverse_root(n: f32) -> f32 {
    1.0 / n.sqrt()
}
