//! What tensors are called: in GGUF files, and in model folders.

/// A naming scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Of GGUF files.
    Gguf,
    /// Of folders with safetensors files.
    Folder,
}

/// A norm of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    BeforeAttention,
    AfterAttention,
    BeforeFfn,
    AfterFfn,
    QueryNorm,
    KeyNorm,
}

impl Names {
    fn of(self, i: usize, gguf: &str, folder: &str) -> String {
        match self {
            Names::Gguf => format!("blk.{i}.{gguf}.weight"),
            Names::Folder => format!("model.layers.{i}.{folder}.weight"),
        }
    }

    fn outer(self, gguf: &str, folder: &str) -> String {
        match self {
            Names::Gguf => format!("{gguf}.weight"),
            Names::Folder => format!("{folder}.weight"),
        }
    }

    pub(crate) fn embedding(self) -> String {
        self.outer("token_embd", "model.embed_tokens")
    }

    pub(crate) fn head(self) -> String {
        self.outer("output", "lm_head")
    }

    pub(crate) fn final_norm(self) -> String {
        self.outer("output_norm", "model.norm")
    }

    /// A norm, if the architecture has it.
    pub(crate) fn layer(self, i: usize, part: Part, architecture: &str) -> Option<String> {
        let gemma = architecture.starts_with("gemma");
        let after = architecture == "olmo2";
        let (gguf, folder) = match part {
            Part::BeforeAttention if after => return None,
            Part::BeforeAttention => ("attn_norm", "input_layernorm"),
            Part::AfterAttention if after || gemma => {
                ("post_attention_norm", "post_attention_layernorm")
            }
            Part::AfterAttention => return None,
            Part::BeforeFfn if after => return None,
            Part::BeforeFfn if gemma => ("ffn_norm", "pre_feedforward_layernorm"),
            Part::BeforeFfn => ("ffn_norm", "post_attention_layernorm"),
            Part::AfterFfn if after || gemma => ("post_ffw_norm", "post_feedforward_layernorm"),
            Part::AfterFfn => return None,
            Part::QueryNorm => ("attn_q_norm", "self_attn.q_norm"),
            Part::KeyNorm => ("attn_k_norm", "self_attn.k_norm"),
        };
        Some(self.of(i, gguf, folder))
    }

    pub(crate) fn qkv(self, i: usize) -> [String; 3] {
        [
            self.of(i, "attn_q", "self_attn.q_proj"),
            self.of(i, "attn_k", "self_attn.k_proj"),
            self.of(i, "attn_v", "self_attn.v_proj"),
        ]
    }

    pub(crate) fn fused_qkv(self, i: usize) -> String {
        self.of(i, "attn_qkv", "self_attn.qkv_proj")
    }

    pub(crate) fn output(self, i: usize) -> String {
        self.of(i, "attn_output", "self_attn.o_proj")
    }

    pub(crate) fn gate(self, i: usize) -> String {
        self.of(i, "ffn_gate", "mlp.gate_proj")
    }

    pub(crate) fn up(self, i: usize) -> String {
        self.of(i, "ffn_up", "mlp.up_proj")
    }

    pub(crate) fn fused_gate_up(self, i: usize) -> String {
        self.of(i, "ffn_up", "mlp.gate_up_proj")
    }

    pub(crate) fn down(self, i: usize) -> String {
        self.of(i, "ffn_down", "mlp.down_proj")
    }

    pub(crate) fn router(self, i: usize, architecture: &str) -> String {
        let folder = if architecture == "mixtral" {
            "block_sparse_moe.gate"
        } else {
            "mlp.gate"
        };
        self.of(i, "ffn_gate_inp", folder)
    }

    /// Gate, up and down matrix of an expert; in GGUF files those of all experts in one.
    pub(crate) fn expert(self, i: usize, e: usize, architecture: &str) -> [String; 3] {
        let folder = if architecture == "mixtral" {
            ["w1", "w3", "w2"].map(|w| format!("block_sparse_moe.experts.{e}.{w}"))
        } else {
            ["gate", "up", "down"].map(|w| format!("mlp.experts.{e}.{w}_proj"))
        };
        let gguf = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
        [0, 1, 2].map(|j| self.of(i, gguf[j], &folder[j]))
    }
}
