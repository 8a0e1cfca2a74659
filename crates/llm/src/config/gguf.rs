//! Metadata of a GGUF file.

use lemma_kernels::{Format, Gate, Rotation};

use super::hf::{long_attention, yarn_attention};
use super::{Config, ConfigError, Experts, Layer, Norms, QkNorm, Rope, Scaling, inverse_root};
use crate::gguf::{Gguf, Value};

impl Config {
    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    /// If an entry is missing or out of range, the architecture is unknown, or the model uses what
    /// is not supported.
    pub fn from_gguf(file: &Gguf<'_>) -> Result<Config, ConfigError> {
        let family = file
            .text("general.architecture")
            .ok_or_else(|| ConfigError::Missing("general.architecture".to_owned()))?;
        let known = [
            "llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3", "smollm3", "olmo2",
        ];
        if !known.contains(&family) {
            return Err(ConfigError::Architecture(family.to_owned()));
        }
        Source { file, family }.config()?.checked()
    }
}

struct Source<'a> {
    file: &'a Gguf<'a>,
    family: &'a str,
}

impl Source<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family)
    }
    /// A number, or the one number that a list repeats.
    fn size(&self, key: &str) -> Option<usize> {
        let key = self.key(key);
        if let Some(Value::Ints(list)) = self.file.get(&key) {
            let first = *list.first()?;
            return list
                .iter()
                .all(|n| *n == first)
                .then_some(usize::try_from(first).ok()?);
        }
        self.file.size(&key)
    }
    fn need(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)
            .ok_or_else(|| ConfigError::Missing(self.key(key)))
    }
    fn float(&self, key: &str) -> Option<f32> {
        self.file.float(&self.key(key)).map(|x| x as f32)
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let family = self.family;
        let gemma = matches!(family, "gemma2" | "gemma3");
        let dim = self.need("embedding_length")?;
        let heads = self.need("attention.head_count")?;
        let head_dim = self
            .size("attention.key_length")
            .unwrap_or(dim / heads.max(1));
        if self
            .size("attention.value_length")
            .is_some_and(|n| n != head_dim)
        {
            let what = "heads of keys and values that differ in size";
            return Err(ConfigError::Unsupported(what.to_owned()));
        }
        let rotary_dim = self.size("rope.dimension_count").unwrap_or(head_dim);
        let count = self.need("block_count")?;
        if count > super::MAX_LAYERS {
            return Err(ConfigError::Unsupported(format!("{count} layers")));
        }
        let vocab = match self.file.tensors().get("token_embd.weight") {
            Some(tensor) => tensor.shape.first().copied().unwrap_or(0),
            None => self.need("vocab_size")?,
        };
        let id = |key: &str| {
            let id = self.file.size(&format!("tokenizer.ggml.{key}"))?;
            u32::try_from(id).ok().filter(|id| (*id as usize) < vocab)
        };
        let mut eos: Vec<u32> = ["eos_token_id", "eot_token_id", "eom_token_id"]
            .into_iter()
            .filter_map(id)
            .collect();
        eos.dedup();
        Ok(Config {
            architecture: family.to_owned(),
            dim,
            ffn_dim: self.size("feed_forward_length").unwrap_or(1),
            heads,
            kv_heads: self.size("attention.head_count_kv").unwrap_or(heads),
            head_dim,
            vocab,
            context: self.need("context_length")?,
            norm_epsilon: self
                .float("attention.layer_norm_rms_epsilon")
                .unwrap_or(1e-6),
            norm_offset: 0.0,
            gate: if gemma { Gate::GeluTanh } else { Gate::Silu },
            embedding_scale: gemma.then(|| (dim as f32).sqrt()),
            tied: self.file.tensors().get("output.weight").is_none(),
            norms: match family {
                "olmo2" => Norms::After,
                _ if gemma => Norms::Both,
                _ => Norms::Before,
            },
            qk_norm: match family {
                "qwen3" | "qwen3moe" | "gemma3" => QkNorm::Heads,
                "olmo2" => QkNorm::Row,
                _ => QkNorm::None,
            },
            attention_scale: self.attention_scale(dim, heads, head_dim, count),
            attention_softcap: self.softcap("attn_logit_softcapping"),
            final_softcap: self.softcap("final_logit_softcapping"),
            rotary_dim,
            // Files of this one family hold queries and keys rearranged for it.
            rotation: if family == "llama" {
                Rotation::Neighbours
            } else {
                Rotation::Halves
            },
            ropes: self.ropes(rotary_dim)?,
            layers: (0..count).map(|i| self.layer(i)).collect(),
            experts: self.experts()?,
            bos: id("bos_token_id"),
            eos,
        })
    }

    /// The 27B models of Gemma divide by another root than that of the head's size.
    fn attention_scale(&self, dim: usize, heads: usize, head_dim: usize, layers: usize) -> f32 {
        let large = match self.family {
            "gemma2" => layers == 46,
            "gemma3" => layers == 62,
            _ => false,
        };
        inverse_root(if large { dim / heads.max(1) } else { head_dim } as f32)
    }

    fn softcap(&self, key: &str) -> Option<f32> {
        if self.family == "gemma2" {
            self.float(key)
        } else {
            None
        }
    }

    fn layer(&self, i: usize) -> Layer {
        let window = self.size("attention.sliding_window").filter(|n| *n > 0);
        let slides = match self.family {
            "gemma2" => i.is_multiple_of(2),
            "gemma3" => !(i + 1).is_multiple_of(6),
            "phi3" => true,
            _ => false,
        };
        let window = window.filter(|_| slides);
        Layer {
            window,
            rope: match self.family {
                "gemma3" => Some(usize::from(window.is_some())),
                "smollm3" => (!(i + 1).is_multiple_of(4)).then_some(0),
                _ => Some(0),
            },
        }
    }

    fn ropes(&self, rotary_dim: usize) -> Result<Vec<Rope>, ConfigError> {
        let base = self.float("rope.freq_base").unwrap_or(10000.0);
        let scaling = self.scaling(rotary_dim)?;
        let mut ropes = vec![Rope { base, scaling }];
        if self.family == "gemma3" {
            ropes.push(Rope {
                base: self.float("rope.freq_base_swa").unwrap_or(10000.0),
                scaling: Scaling::None,
            });
        }
        Ok(ropes)
    }

    fn scaling(&self, rotary_dim: usize) -> Result<Scaling, ConfigError> {
        let original = self.size("rope.scaling.original_context_length");
        let context = self.need("context_length")?;
        let long = original.is_some_and(|n| context > n);
        let names = if long {
            ["rope_freqs.weight", "rope_factors_long.weight"]
        } else {
            ["rope_freqs.weight", "rope_factors_short.weight"]
        };
        for name in names {
            let Some(tensor) = self.file.tensors().get(name) else {
                continue;
            };
            if tensor.format != Format::F32 || tensor.shape != [rotary_dim / 2] {
                return Err(ConfigError::Range {
                    entry: name.to_owned(),
                    value: format!("{:?} {:?}", tensor.format, tensor.shape),
                    allowed: format!("F32 [{}]", rotary_dim / 2),
                });
            }
            let (values, _) = tensor.data.as_chunks::<4>();
            let factors = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
            let attention = match (self.float("rope.scaling.attn_factor"), original) {
                (Some(given), _) => given,
                (None, Some(n)) if name.contains("factors") => {
                    long_attention(context as f32 / n as f32, n as f32)
                }
                _ => 1.0,
            };
            return Ok(Scaling::Factors { factors, attention });
        }
        match self.file.text(&self.key("rope.scaling.type")) {
            None | Some("none") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear(
                self.float("rope.scaling.factor").unwrap_or(1.0),
            )),
            Some("yarn") => {
                let factor = self.float("rope.scaling.factor").unwrap_or(1.0);
                let scale = self.float("rope.scaling.attn_factor").unwrap_or(1.0);
                Ok(Scaling::Yarn {
                    factor,
                    fast: self.float("rope.scaling.yarn_beta_fast").unwrap_or(32.0),
                    slow: self.float("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
                    original: original.unwrap_or(context) as f32,
                    attention: scale * yarn_attention(factor, 1.0),
                    truncate: true,
                })
            }
            Some(other) => Err(ConfigError::Unsupported(format!(
                "the rotation scaling {other}"
            ))),
        }
    }

    fn experts(&self) -> Result<Option<Experts>, ConfigError> {
        let count = self.size("expert_count").unwrap_or(0);
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(Experts {
            count,
            used: self.need("expert_used_count")?,
            ffn_dim: match self.size("expert_feed_forward_length") {
                Some(n) => n,
                None => self.need("feed_forward_length")?,
            },
            normalised: true,
        }))
    }
}
