//! `config.json` of a model folder.

use lemma_kernels::{Gate, Rotation, math};
use serde_json::{Map, Value};

use super::{Config, ConfigError, Experts, Layer, Norms, QkNorm, Rope, Scaling, inverse_root};

/// Most bytes of a `config.json`.
const MAX_JSON: usize = 4 << 20;

impl Config {
    /// Reads the `config.json` of a model folder.
    ///
    /// # Errors
    /// If it is malformed, of an unknown architecture, or uses what is not supported.
    pub fn from_json(json: &[u8]) -> Result<Config, ConfigError> {
        if json.len() > MAX_JSON {
            return Err(ConfigError::Json(format!("it has {} bytes", json.len())));
        }
        let value: Value =
            serde_json::from_slice(json).map_err(|e| ConfigError::Json(e.to_string()))?;
        let Value::Object(object) = &value else {
            return Err(ConfigError::Json("it is no object".to_owned()));
        };
        Json(object).config()?.checked()
    }
}

struct Json<'a>(&'a Map<String, Value>);

impl Json<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }
    fn size(&self, key: &str) -> Option<usize> {
        self.get(key)?
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
    }
    fn need(&self, key: &str) -> Result<usize, ConfigError> {
        self.size(key)
            .ok_or_else(|| ConfigError::Missing(key.to_owned()))
    }
    fn float(&self, key: &str) -> Option<f32> {
        self.get(key)?.as_f64().map(|x| x as f32)
    }
    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }
    fn object(&self, key: &str) -> Option<Json<'_>> {
        self.get(key)?.as_object().map(Json)
    }
    fn floats(&self, key: &str) -> Option<Vec<f32>> {
        let list = self.get(key)?.as_array()?;
        list.iter().map(|v| v.as_f64().map(|x| x as f32)).collect()
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let family = self
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| ConfigError::Missing("model_type".to_owned()))?;
        let gemma = matches!(family, "gemma2" | "gemma3_text");
        let known = gemma
            || matches!(
                family,
                "llama"
                    | "mistral"
                    | "mixtral"
                    | "qwen2"
                    | "qwen3"
                    | "qwen3_moe"
                    | "phi3"
                    | "smollm3"
                    | "olmo2"
            );
        if !known {
            return Err(ConfigError::Architecture(family.to_owned()));
        }
        let dim = self.need("hidden_size")?;
        let heads = self.need("num_attention_heads")?;
        let head_dim = match self.size("head_dim") {
            Some(n) => n,
            None => dim / heads.max(1),
        };
        let layers = self.need("num_hidden_layers")?;
        if layers > super::MAX_LAYERS {
            // Checked here too, since a list is made of it.
            return Err(ConfigError::Unsupported(format!("{layers} layers")));
        }
        let partial = self
            .float("partial_rotary_factor")
            .or_else(|| {
                self.object("rope_parameters")?
                    .float("partial_rotary_factor")
            })
            .unwrap_or(1.0);
        let rotary_dim = (head_dim as f32 * partial) as usize;
        let (ropes, layers) = self.layers(family, layers, head_dim, rotary_dim)?;
        let scalar = if gemma {
            self.float("query_pre_attn_scalar").unwrap_or(256.0)
        } else {
            head_dim as f32
        };
        Ok(Config {
            architecture: family.to_owned(),
            dim,
            ffn_dim: self.need("intermediate_size")?,
            heads,
            kv_heads: self.size("num_key_value_heads").unwrap_or(heads),
            head_dim,
            vocab: self.need("vocab_size")?,
            context: self.size("max_position_embeddings").unwrap_or(2048),
            norm_epsilon: self.float("rms_norm_eps").unwrap_or(1e-6),
            norm_offset: if gemma { 1.0 } else { 0.0 },
            gate: self.gate(gemma)?,
            embedding_scale: gemma.then(|| (dim as f32).sqrt()),
            tied: self
                .flag("tie_word_embeddings")
                .unwrap_or(gemma || family == "smollm3"),
            norms: match family {
                "olmo2" => Norms::After,
                _ if gemma => Norms::Both,
                _ => Norms::Before,
            },
            qk_norm: match family {
                "qwen3" | "qwen3_moe" | "gemma3_text" => QkNorm::Heads,
                "olmo2" => QkNorm::Row,
                _ => QkNorm::None,
            },
            attention_scale: inverse_root(scalar),
            attention_softcap: self.softcap(family, "attn_logit_softcapping"),
            final_softcap: self.softcap(family, "final_logit_softcapping"),
            rotary_dim,
            rotation: Rotation::Halves,
            ropes,
            layers,
            experts: self.experts(family)?,
            bos: self
                .size("bos_token_id")
                .and_then(|n| u32::try_from(n).ok()),
            eos: self.tokens("eos_token_id"),
        })
    }

    fn gate(&self, gemma: bool) -> Result<Gate, ConfigError> {
        let name = ["hidden_activation", "hidden_act"]
            .iter()
            .find_map(|key| self.get(key)?.as_str())
            .unwrap_or(if gemma { "gelu_pytorch_tanh" } else { "silu" });
        match name {
            "silu" => Ok(Gate::Silu),
            "gelu_pytorch_tanh" => Ok(Gate::GeluTanh),
            _ => Err(ConfigError::Unsupported(format!("the activation {name}"))),
        }
    }

    fn softcap(&self, family: &str, key: &str) -> Option<f32> {
        let given = self.float(key);
        if family == "gemma2" { given } else { None }
    }

    fn tokens(&self, key: &str) -> Vec<u32> {
        let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(number).collect(),
            Some(one) => number(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn experts(&self, family: &str) -> Result<Option<Experts>, ConfigError> {
        match family {
            "mixtral" => Ok(Some(Experts {
                count: self.need("num_local_experts")?,
                used: self.need("num_experts_per_tok")?,
                ffn_dim: self.need("intermediate_size")?,
                normalised: true,
            })),
            "qwen3_moe" => {
                let step = self.size("decoder_sparse_step").unwrap_or(1);
                let dense = self.get("mlp_only_layers").and_then(Value::as_array);
                if step != 1 || dense.is_some_and(|list| !list.is_empty()) {
                    let what = "a mixture of dense layers and layers of experts";
                    return Err(ConfigError::Unsupported(what.to_owned()));
                }
                Ok(Some(Experts {
                    count: self
                        .size("num_experts")
                        .or(self.size("num_local_experts"))
                        .unwrap_or(0),
                    used: self.need("num_experts_per_tok")?,
                    ffn_dim: self.need("moe_intermediate_size")?,
                    normalised: self.flag("norm_topk_prob").unwrap_or(false),
                }))
            }
            _ => Ok(None),
        }
    }

    /// The rotations, and for each layer which one and what window.
    fn layers(
        &self,
        family: &str,
        count: usize,
        head_dim: usize,
        rotary_dim: usize,
    ) -> Result<(Vec<Rope>, Vec<Layer>), ConfigError> {
        let window = match family {
            "qwen2" | "qwen3" | "qwen3_moe" if self.flag("use_sliding_window") != Some(true) => {
                None
            }
            _ => self.size("sliding_window"),
        };
        let pattern = self.size("sliding_window_pattern").unwrap_or(6).max(1);
        let from = self.size("max_window_layers").unwrap_or(0);
        let types = self.get("layer_types").and_then(Value::as_array);
        let slides = |i: usize| match types.and_then(|list| list.get(i)?.as_str()) {
            Some(name) => name == "sliding_attention",
            None => match family {
                "gemma2" => i.is_multiple_of(2),
                "gemma3_text" => !(i + 1).is_multiple_of(pattern),
                "qwen2" | "qwen3" | "qwen3_moe" => i >= from,
                "smollm3" | "olmo2" | "llama" => false,
                _ => true,
            },
        };
        let ropes = if family == "gemma3_text" {
            self.two_ropes(rotary_dim)?
        } else {
            let parameters = self
                .object("rope_parameters")
                .or(self.object("rope_scaling"));
            let base = parameters
                .as_ref()
                .and_then(|p| p.float("rope_theta"))
                .or(self.float("rope_theta"))
                .unwrap_or(10000.0);
            let scaling = self.scaling(parameters.as_ref(), rotary_dim)?;
            vec![Rope { base, scaling }]
        };
        let rotated = self.get("no_rope_layers").and_then(Value::as_array);
        let interval = self.size("no_rope_layer_interval").unwrap_or(4).max(1);
        let layer = |i: usize| {
            let window = window.filter(|_| slides(i));
            let rope = match family {
                "gemma3_text" => Some(usize::from(window.is_some())),
                "smollm3" => match rotated.and_then(|list| list.get(i)?.as_u64()) {
                    Some(flag) => (flag != 0).then_some(0),
                    None => (!(i + 1).is_multiple_of(interval)).then_some(0),
                },
                _ => Some(0),
            };
            Layer { rope, window }
        };
        let _ = head_dim;
        Ok((ropes, (0..count).map(layer).collect()))
    }

    /// Gemma 3: one rotation for layers that see all, one for those with a window.
    fn two_ropes(&self, rotary_dim: usize) -> Result<Vec<Rope>, ConfigError> {
        if let Some(both) = self.object("rope_parameters")
            && let (Some(full), Some(sliding)) = (
                both.object("full_attention"),
                both.object("sliding_attention"),
            )
        {
            let rope = |p: &Json<'_>, base: f32| {
                Ok(Rope {
                    base: p.float("rope_theta").unwrap_or(base),
                    scaling: self.scaling(Some(p), rotary_dim)?,
                })
            };
            return Ok(vec![rope(&full, 1e6)?, rope(&sliding, 1e4)?]);
        }
        let scaling = self.object("rope_scaling");
        Ok(vec![
            Rope {
                base: self.float("rope_theta").unwrap_or(1e6),
                scaling: self.scaling(scaling.as_ref(), rotary_dim)?,
            },
            Rope {
                base: self.float("rope_local_base_freq").unwrap_or(1e4),
                scaling: Scaling::None,
            },
        ])
    }

    fn scaling(
        &self,
        parameters: Option<&Json<'_>>,
        rotary_dim: usize,
    ) -> Result<Scaling, ConfigError> {
        let Some(p) = parameters else {
            return Ok(Scaling::None);
        };
        let kind = p.get("rope_type").or(p.get("type")).and_then(Value::as_str);
        let need = |key: &str| {
            p.float(key)
                .ok_or_else(|| ConfigError::Missing(key.to_owned()))
        };
        match kind.unwrap_or("default") {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear(need("factor")?)),
            "llama3" => Ok(Scaling::Llama3 {
                factor: need("factor")?,
                low: need("low_freq_factor")?,
                high: need("high_freq_factor")?,
                original: need("original_max_position_embeddings")?,
            }),
            "yarn" => self.yarn(p),
            "longrope" | "su" => self.long_rope(p, rotary_dim),
            other => Err(ConfigError::Unsupported(format!(
                "the rotation scaling {other}"
            ))),
        }
    }

    fn yarn(&self, p: &Json<'_>) -> Result<Scaling, ConfigError> {
        let context = self.size("max_position_embeddings").unwrap_or(0) as f32;
        let original = p
            .float("original_max_position_embeddings")
            .unwrap_or(context);
        let factor = p.float("factor").unwrap_or(context / original);
        let attention = match (p.float("attention_factor"), p.float("mscale")) {
            (Some(given), _) => given,
            (None, Some(scale)) if scale != 0.0 => {
                let all = p.float("mscale_all_dim").filter(|all| *all != 0.0);
                match all {
                    Some(all) => yarn_attention(factor, scale) / yarn_attention(factor, all),
                    None => yarn_attention(factor, 1.0),
                }
            }
            _ => yarn_attention(factor, 1.0),
        };
        Ok(Scaling::Yarn {
            factor,
            fast: p.float("beta_fast").unwrap_or(32.0),
            slow: p.float("beta_slow").unwrap_or(1.0),
            original,
            attention,
            truncate: p.flag("truncate").unwrap_or(true),
        })
    }

    /// Phi-3: one list of factors up to the original context, another beyond. Which one, the
    /// context that the model is declared for decides, not the length of a sequence.
    fn long_rope(&self, p: &Json<'_>, rotary_dim: usize) -> Result<Scaling, ConfigError> {
        let context = self.size("max_position_embeddings").unwrap_or(0) as f32;
        let original = p
            .float("original_max_position_embeddings")
            .or(self.float("original_max_position_embeddings"))
            .unwrap_or(context);
        let key = if context > original {
            "long_factor"
        } else {
            "short_factor"
        };
        let factors = p
            .floats(key)
            .filter(|f| f.len() == rotary_dim / 2)
            .ok_or_else(|| ConfigError::Missing(key.to_owned()))?;
        let attention = match p.float("attention_factor") {
            Some(given) => given,
            None => long_attention(p.float("factor").unwrap_or(context / original), original),
        };
        Ok(Scaling::Factors { factors, attention })
    }
}

/// 1 + scale × ln(factor) ÷ 10, or 1 for factors up to 1.
pub(super) fn yarn_attention(factor: f32, scale: f32) -> f32 {
    if factor <= 1.0 {
        return 1.0;
    }
    0.1 * scale * math::log(factor) + 1.0
}

/// √(1 + ln(factor) ÷ ln(original)), or 1 for factors up to 1.
pub(super) fn long_attention(factor: f32, original: f32) -> f32 {
    if factor <= 1.0 {
        return 1.0;
    }
    (1.0 + math::log(factor) / math::log(original)).sqrt()
}
