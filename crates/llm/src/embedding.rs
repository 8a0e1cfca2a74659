//! Embedding models: encoders of the BERT family turn a text into a vector of length one.
//!
//! Chapter 8 of the numeric specification for language models. As everywhere in this crate, a
//! vector depends on its tokens alone and not on what else is computed beside it.

mod gguf;

use lemma_kernels::{
    Attention, PAGE, PackedMatrix, Reduction, Stretch, Threads, Unary, add_in_place, attention,
    layer_norm, reduce, store_kv, unary_in_place,
};
use serde_json::Value;

use crate::config::{ConfigError, Listing, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH};
use crate::forward::{Compute, ROWS, Rows};
use crate::model::LoadError;
use crate::root::{Root, root};
use crate::safetensors;
use crate::tensors::{TensorError, Tensors};
use crate::weights::{Linear, Weights};

/// Most bytes of a configuration.
const MAX_JSON: usize = 4 << 20;
/// Most positions of a text.
const MAX_POSITIONS: usize = 1 << 16;
/// Tokens that are computed together.
const BATCH: usize = 2048;

/// How vectors of tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    First,
}

impl Pooling {
    /// Reads the `1_Pooling/config.json` of a model folder.
    ///
    /// # Errors
    /// If it is malformed or asks for another kind.
    pub fn from_json(json: &[u8]) -> Result<Pooling, ConfigError> {
        let value = parse(json)?;
        let modes: Vec<&str> = match value.as_object() {
            Some(map) => map
                .iter()
                .filter(|(key, on)| key.starts_with("pooling_mode") && **on == Value::Bool(true))
                .map(|(key, _)| key.as_str())
                .chain(map.get("pooling_mode").and_then(Value::as_str))
                .collect(),
            None => Vec::new(),
        };
        match modes[..] {
            ["pooling_mode_mean_tokens" | "mean"] => Ok(Pooling::Mean),
            ["pooling_mode_cls_token" | "cls"] => Ok(Pooling::First),
            _ => {
                let what = format!("the pooling [{}]", modes.join(", "));
                Err(ConfigError::Unsupported(what))
            }
        }
    }
}

/// An encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingConfig {
    /// Name of the family.
    pub architecture: String,
    /// Values of a vector.
    pub dim: usize,
    /// Width of the feed-forward part.
    pub ffn_dim: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Most tokens of a text.
    pub context: usize,
    /// Row of the table of positions that the first token has.
    pub first_position: usize,
    /// Rows of the table of types, of which the first is used.
    pub types: usize,
    /// ε of the norms.
    pub norm_epsilon: f32,
    /// Function of the feed-forward part.
    pub activation: Activation,
}

/// Function of a feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x).
    Gelu,
    /// Its tanh form.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

fn parse(json: &[u8]) -> Result<Value, ConfigError> {
    if json.len() > MAX_JSON {
        return Err(ConfigError::Json(format!("it has {} bytes", json.len())));
    }
    serde_json::from_slice(json).map_err(|e| ConfigError::Json(e.to_string()))
}

impl EmbeddingConfig {
    /// Whether a `config.json` is that of an encoder, and not of a model that writes.
    #[must_use]
    pub fn is_encoder(json: &[u8]) -> bool {
        let value = parse(json).unwrap_or_default();
        matches!(
            value["model_type"].as_str(),
            Some("bert" | "roberta" | "xlm-roberta")
        )
    }

    /// Reads the `config.json` of a model folder.
    ///
    /// # Errors
    /// If it is malformed, of an unknown architecture, or uses what is not supported.
    pub fn from_json(json: &[u8]) -> Result<EmbeddingConfig, ConfigError> {
        let value = parse(json)?;
        let text = |key: &str| value[key].as_str();
        let architecture = text("model_type")
            .ok_or_else(|| ConfigError::Missing("model_type".to_owned()))?
            .to_owned();
        let padded = match architecture.as_str() {
            "bert" => false,
            "roberta" | "xlm-roberta" => true,
            _ => return Err(ConfigError::Encoder(architecture)),
        };
        let size = |key: &str, most: usize| {
            let n = value[key].as_u64().and_then(|n| usize::try_from(n).ok());
            let n = n.ok_or_else(|| ConfigError::Missing(key.to_owned()))?;
            match (1..=most).contains(&n) {
                true => Ok(n),
                false => Err(ConfigError::Range {
                    entry: key.to_owned(),
                    value: n.to_string(),
                    allowed: format!("from 1 to {most}"),
                }),
            }
        };
        if text("position_embedding_type").is_some_and(|kind| kind != "absolute") {
            let what = "positions that are not absolute";
            return Err(ConfigError::Unsupported(what.to_owned()));
        }
        let activation = match text("hidden_act").unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let what = format!("the activation {other}");
                return Err(ConfigError::Unsupported(what));
            }
        };
        // Positions of these models are counted from behind the padding token's number.
        let first_position = match padded {
            true => value["pad_token_id"].as_u64().unwrap_or(1).min(64) as usize + 1,
            false => 0,
        };
        let rows = size("max_position_embeddings", MAX_POSITIONS)?;
        let config = EmbeddingConfig {
            dim: size("hidden_size", MAX_WIDTH)?,
            ffn_dim: size("intermediate_size", MAX_WIDTH)?,
            heads: size("num_attention_heads", MAX_HEADS)?,
            layers: size("num_hidden_layers", MAX_LAYERS)?,
            vocab: size("vocab_size", MAX_VOCAB)?,
            context: rows.saturating_sub(first_position).max(1),
            first_position,
            types: size("type_vocab_size", 64)?,
            norm_epsilon: value["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32,
            activation,
            architecture,
        };
        config.checked()
    }

    /// Itself, if its heads are such as the kernels attend with.
    fn checked(self) -> Result<EmbeddingConfig, ConfigError> {
        let (dim, heads) = (self.dim, self.heads);
        let head = dim / heads;
        if !dim.is_multiple_of(heads) || !head.is_multiple_of(16) || head > 256 {
            return Err(ConfigError::Range {
                entry: "the size of a head".to_owned(),
                value: format!("{dim} / {heads}"),
                allowed: "a multiple of 16 up to 256".to_owned(),
            });
        }
        Ok(self)
    }

    /// The canonical listing, with the pooling: chapter 7 of the specification.
    fn canonical(&self, pooling: Pooling) -> String {
        let mut out = Listing::default();
        out.text("encoder", &self.architecture);
        for (name, size) in [
            ("dim", self.dim),
            ("ffn_dim", self.ffn_dim),
            ("heads", self.heads),
            ("layers", self.layers),
            ("vocab", self.vocab),
            ("context", self.context),
            ("first_position", self.first_position),
            ("types", self.types),
        ] {
            out.line(name, size);
        }
        out.real("norm_epsilon", self.norm_epsilon);
        let activation = match self.activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
        };
        out.line("activation", activation);
        let pooling = match pooling {
            Pooling::Mean => "mean",
            Pooling::First => "first",
        };
        out.line("pooling", pooling);
        out.finish()
    }
}

/// Why a text has no vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// There is nothing to embed.
    #[error("the text has no tokens")]
    Empty,
    /// It is longer than the model was made for.
    #[error("the text has {tokens} tokens; the model takes at most {most}")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// Most tokens.
        most: usize,
    },
    /// A token that the model does not know.
    #[error("token {0} is not in the vocabulary")]
    Token(u32),
    /// The vector is none.
    #[error("the model's values are not finite numbers: its weights are damaged")]
    NotFinite,
}

/// A norm's scale and shift.
#[derive(Debug)]
struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    after_attention: Norm,
    up: Linear,
    down: Linear,
    after_ffn: Norm,
}

/// An encoder in memory.
#[derive(Debug)]
pub struct EmbeddingModel {
    config: EmbeddingConfig,
    pooling: Pooling,
    words: PackedMatrix,
    positions: PackedMatrix,
    kind: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    root: Root,
}

impl EmbeddingModel {
    /// Loads a model folder: its `config.json` and the contents of all its safetensors files.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the files.
    pub fn from_safetensors(
        threads: &Threads,
        config: &[u8],
        pooling: Pooling,
        files: &[&[u8]],
    ) -> Result<EmbeddingModel, LoadError> {
        let mut tensors = Tensors::default();
        for file in files {
            safetensors::read(file, &mut tensors)?;
        }
        EmbeddingModel::from_tensors(threads, config, pooling, &tensors)
    }

    /// Loads a model folder: its `config.json` and the tensors of its safetensors files.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with them.
    pub fn from_tensors(
        threads: &Threads,
        config: &[u8],
        pooling: Pooling,
        tensors: &Tensors<'_>,
    ) -> Result<EmbeddingModel, LoadError> {
        let config = EmbeddingConfig::from_json(config)?;
        let word = "embeddings.word_embeddings.weight";
        let prefix = ["", "bert.", "roberta."]
            .into_iter()
            .find(|prefix| tensors.get(&format!("{prefix}{word}")).is_some())
            .unwrap_or_default();
        let weights = Weights::new(threads, tensors);
        load(&weights, &|name| format!("{prefix}{name}"), config, pooling)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &EmbeddingConfig {
        &self.config
    }

    /// How vectors of tokens become one.
    #[must_use]
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Identity of the model, as [`Model::root`](crate::Model::root).
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// Bytes that [`embed`](EmbeddingModel::embed) holds at most for texts of these lengths, besides the
    /// model and the tokens.
    #[must_use]
    pub fn memory(&self, lengths: impl Iterator<Item = usize> + Clone) -> u64 {
        let [dim, ffn] = [self.config.dim, self.config.ffn_dim].map(|size| size as u64);
        let longest = lengths.clone().max().unwrap_or(0);
        let texts = lengths.clone().count() as u64;
        let together = lengths.sum::<usize>().min(BATCH.max(longest)) as u64;
        // Rows of every step of a layer, those of the wide part with their quantised form, keys and
        // values in binary16; and for each token the pages that it attends to.
        let row = 4 * (9 * dim + 3 * ffn) + 4 * dim;
        let pages = longest.div_ceil(PAGE) * size_of::<&[u16]>() + size_of::<Stretch<'_>>();
        let vectors = texts.saturating_mul(2 * 4 * dim);
        let rows = together.saturating_mul(row.saturating_add(pages as u64));
        rows.saturating_add(vectors)
    }

    /// Vectors of texts, given as tokens with those that begin and end a text.
    ///
    /// # Errors
    /// If a text is empty, too long, or has a token that the model does not know, or the model is
    /// damaged.
    pub fn embed(&self, c: &Compute, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError> {
        for tokens in texts {
            self.check(tokens)?;
        }
        let mut out = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut sum = 0;
            let fits = |text: &&&[u32]| {
                sum += text.len();
                sum <= BATCH
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(count);
            let hidden = self.encode(c, batch);
            let mut first = 0;
            for text in batch {
                let end = first + text.len() * self.config.dim;
                out.push(self.pool(c, &hidden[first..end])?);
                first = end;
            }
            rest = later;
        }
        Ok(out)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EmbedError> {
        if tokens.is_empty() {
            return Err(EmbedError::Empty);
        }
        if tokens.len() > self.config.context {
            return Err(EmbedError::TooLong {
                tokens: tokens.len(),
                most: self.config.context,
            });
        }
        let unknown = |t: &&u32| **t as usize >= self.config.vocab;
        match tokens.iter().find(unknown) {
            Some(token) => Err(EmbedError::Token(*token)),
            None => Ok(()),
        }
    }

    /// The last layer's vector of each token of each text.
    fn encode(&self, c: &Compute, texts: &[&[u32]]) -> Vec<f32> {
        let dim = self.config.dim;
        let places: Vec<(u32, usize)> = texts
            .iter()
            .flat_map(|text| text.iter().copied().zip(self.config.first_position..))
            .collect();
        let mut sum = vec![0.0; places.len() * dim];
        c.threads.chunks(&mut sum, dim, |i, row| {
            let (token, position) = places[i];
            self.words.row(token as usize, row);
            add_in_place(c.isa, row, &self.kind);
            let mut place = vec![0.0; dim];
            self.positions.row(position, &mut place);
            add_in_place(c.isa, row, &place);
        });
        let mut x = Rows::default();
        self.normalise(c, &self.norm, &sum, x.write(places.len() * dim));
        let mut cache = Keys::new(&self.config, texts);
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        let (mut out, mut wide) = (Vec::new(), Rows::default());
        for layer in &self.layers {
            x.multiply(c, &layer.q, &mut q);
            x.multiply(c, &layer.k, &mut k);
            x.multiply(c, &layer.v, &mut v);
            let mut mixed = Rows::default();
            cache.attend(c, &q, &k, &v, mixed.write(q.len()));
            mixed.multiply(c, &layer.o, &mut out);
            add_in_place(c.isa, &mut out, &x.values);
            self.normalise(c, &layer.after_attention, &out, x.write(out.len()));
            x.multiply(c, &layer.up, &mut k);
            let hidden = wide.write(k.len());
            std::mem::swap(hidden, &mut k);
            c.threads.chunks(hidden, self.config.ffn_dim, |_, row| {
                let function = match self.config.activation {
                    Activation::Gelu => Unary::Gelu,
                    Activation::GeluTanh => Unary::GeluTanh,
                    Activation::Relu => Unary::Relu,
                };
                unary_in_place(c.isa, function, row);
            });
            wide.multiply(c, &layer.down, &mut out);
            add_in_place(c.isa, &mut out, &x.values);
            self.normalise(c, &layer.after_ffn, &out, x.write(out.len()));
        }
        x.values
    }

    fn normalise(&self, c: &Compute, norm: &Norm, x: &[f32], y: &mut [f32]) {
        let piece = ROWS * self.config.dim;
        let epsilon = self.config.norm_epsilon;
        c.threads.chunks(y, piece, |i, y| {
            let x = &x[i * piece..i * piece + y.len()];
            layer_norm(c.isa, epsilon, &norm.scale, Some(&norm.shift), x, y);
        });
    }

    /// One vector of length one.
    fn pool(&self, c: &Compute, hidden: &[f32]) -> Result<Vec<f32>, EmbedError> {
        let dim = self.config.dim;
        let mut rows = hidden.chunks_exact(dim);
        let mut out = match self.pooling {
            Pooling::First => rows.next().unwrap_or_default().to_vec(),
            Pooling::Mean => {
                let count = rows.len() as f32;
                let mut sum = vec![0.0; dim];
                rows.for_each(|row| add_in_place(c.isa, &mut sum, row));
                sum.iter_mut().for_each(|v| *v /= count);
                sum
            }
        };
        let mut length = [0.0];
        reduce(c.isa, Reduction::L2, 1, dim, 1, &out, &mut length);
        if !length[0].is_finite() {
            return Err(EmbedError::NotFinite);
        }
        if length[0] > 0.0 {
            out.iter_mut().for_each(|v| *v /= length[0]);
        }
        Ok(out)
    }
}

/// Keys and values of one layer: pages as the cache of a decoder has them, so that the same kernel
/// attends. Each token is given the position of the last one, from which all are seen.
struct Keys {
    shape: Attention,
    lengths: Vec<usize>,
    pages: Vec<Vec<u16>>,
}

impl Keys {
    fn new(config: &EmbeddingConfig, texts: &[&[u32]]) -> Keys {
        let head_dim = config.dim / config.heads;
        let shape = Attention {
            heads: config.heads,
            kv_heads: config.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap: None,
            window: None,
        };
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let count: usize = lengths.iter().map(|len| len.div_ceil(PAGE)).sum();
        Keys {
            pages: vec![vec![0; 2 * PAGE * config.dim]; count],
            shape,
            lengths,
        }
    }

    fn attend(&mut self, c: &Compute, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let width = self.shape.heads * self.shape.head_dim;
        let mut rows = k.chunks_exact(width).zip(v.chunks_exact(width));
        let mut first = 0;
        for len in &self.lengths {
            for (i, (k, v)) in rows.by_ref().take(*len).enumerate() {
                let page = &mut self.pages[first + i / PAGE];
                store_kv(c.isa, &self.shape, page, i % PAGE, k, v);
            }
            first += len.div_ceil(PAGE);
        }
        let (mut row, mut first) = (0, 0);
        let mut stretches = Vec::new();
        for len in &self.lengths {
            let pages = &self.pages[first..first + len.div_ceil(PAGE)];
            for _ in 0..*len {
                stretches.push(Stretch {
                    row,
                    position: len - 1,
                    len: 1,
                    pages: pages.iter().map(Vec::as_slice).collect(),
                });
                row += 1;
            }
            first += pages.len();
        }
        attention(c.isa, &c.threads, &self.shape, &stretches, q, out);
    }
}

/// `name` tells what is called in the files what model folders call by this name.
fn load(
    weights: &Weights<'_>,
    name: &dyn Fn(&str) -> String,
    config: EmbeddingConfig,
    pooling: Pooling,
) -> Result<EmbeddingModel, LoadError> {
    let (dim, ffn) = (config.dim, config.ffn_dim);
    let norm = |part: &str| -> Result<Norm, TensorError> {
        Ok(Norm {
            scale: weights.vector(&name(&format!("{part}.LayerNorm.weight")), dim)?,
            shift: weights.vector(&name(&format!("{part}.LayerNorm.bias")), dim)?,
        })
    };
    let table = |part: &str, rows: usize| {
        weights.matrix(
            &name(&format!("embeddings.{part}_embeddings.weight")),
            rows,
            dim,
        )
    };
    let kinds = table("token_type", config.types)?;
    let mut kind = vec![0.0; dim];
    kinds.row(0, &mut kind);
    let layer = |i: usize| -> Result<Layer, TensorError> {
        let part = |part: &str| format!("encoder.layer.{i}.{part}");
        let linear = |p: &str, n: usize, k: usize| {
            weights.linear(&name(&format!("{}.weight", part(p))), n, k)
        };
        Ok(Layer {
            q: linear("attention.self.query", dim, dim)?,
            k: linear("attention.self.key", dim, dim)?,
            v: linear("attention.self.value", dim, dim)?,
            o: linear("attention.output.dense", dim, dim)?,
            after_attention: norm(&part("attention.output"))?,
            up: linear("intermediate.dense", ffn, dim)?,
            down: linear("output.dense", dim, ffn)?,
            after_ffn: norm(&part("output"))?,
        })
    };
    Ok(EmbeddingModel {
        root: root(weights.threads, &config.canonical(pooling), weights.tensors),
        words: table("word", config.vocab)?,
        positions: table("position", config.first_position + config.context)?,
        kind,
        norm: norm("embeddings")?,
        layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
        config,
        pooling,
    })
}
