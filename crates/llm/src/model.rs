//! A model in memory: its configuration and its weights, arranged for products.

use lemma_kernels::{Attention, PackedMatrix, Threads};

use crate::config::{Config, ConfigError, QkNorm};
use crate::gguf::{Gguf, GgufError};
use crate::names::{Names, Part};
use crate::root::{Root, root};
use crate::rope::Frequencies;
use crate::safetensors::{self, SafetensorsError};
use crate::tensors::{Tensor, TensorError, Tensors};
use crate::weights::{Linear, Weights, check_shape};

/// Why files are no model that can be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A safetensors file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A decoder-only transformer, ready to run.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: Config,
    pub(crate) embedding: PackedMatrix,
    /// `None` where the embedding serves.
    pub(crate) head: Option<PackedMatrix>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) norm: Vec<f32>,
    pub(crate) ropes: Vec<Frequencies>,
    root: Root,
}

#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention: Attention,
    pub(crate) rope: Option<usize>,
    pub(crate) before_attention: Option<Vec<f32>>,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) after_attention: Option<Vec<f32>>,
    pub(crate) before_ffn: Option<Vec<f32>>,
    pub(crate) ffn: FeedForward,
    pub(crate) after_ffn: Option<Vec<f32>>,
}

#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Unit),
    Experts { router: Linear, units: Vec<Unit> },
}

/// A gated unit.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl Model {
    /// Loads a GGUF file, given whole.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the file.
    pub fn from_gguf(threads: &Threads, file: &[u8]) -> Result<Model, LoadError> {
        let file = Gguf::parse(file)?;
        Model::from_parsed(threads, &file)
    }

    /// Loads a GGUF file that has been parsed.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with it.
    pub fn from_parsed(threads: &Threads, file: &Gguf<'_>) -> Result<Model, LoadError> {
        let config = Config::from_gguf(file)?;
        Loader::new(threads, config, file.tensors(), Names::Gguf).model()
    }

    /// Loads a model folder: its `config.json` and the contents of all its safetensors files.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the files.
    pub fn from_safetensors(
        threads: &Threads,
        config: &[u8],
        files: &[&[u8]],
    ) -> Result<Model, LoadError> {
        let mut tensors = Tensors::default();
        for file in files {
            safetensors::read(file, &mut tensors)?;
        }
        Model::from_tensors(threads, config, &tensors)
    }

    /// Loads a model folder: its `config.json` and the tensors of its safetensors files.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with them.
    pub fn from_tensors(
        threads: &Threads,
        config: &[u8],
        tensors: &Tensors<'_>,
    ) -> Result<Model, LoadError> {
        let config = Config::from_json(config)?;
        Loader::new(threads, config, tensors, Names::Folder).model()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Identity of the model: of its configuration and tensors, however files are cut or arranged.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// Bytes of memory that the weights take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let units = self.layers.iter().flat_map(|layer| match &layer.ffn {
            FeedForward::Dense(unit) => std::slice::from_ref(unit).iter(),
            FeedForward::Experts { units, .. } => units.iter(),
        });
        let ffn: usize = units
            .flat_map(|unit| [&unit.gate, &unit.up, &unit.down])
            .map(|linear| linear.weights.bytes())
            .sum();
        let attention: usize = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.q, &layer.k, &layer.v, &layer.o])
            .map(|linear| linear.weights.bytes())
            .sum();
        let head = self.head.as_ref().map_or(0, PackedMatrix::bytes);
        ffn + attention + head + self.embedding.bytes()
    }
}

struct Loader<'a> {
    weights: Weights<'a>,
    config: Config,
    names: Names,
}

impl<'a> Loader<'a> {
    fn new(threads: &'a Threads, config: Config, tensors: &'a Tensors<'a>, names: Names) -> Self {
        Loader {
            weights: Weights::new(threads, tensors),
            config,
            names,
        }
    }

    fn model(self) -> Result<Model, LoadError> {
        let Weights {
            threads, tensors, ..
        } = self.weights;
        let root = root(threads, &self.config.canonical(), tensors);
        let (vocab, dim) = (self.config.vocab, self.config.dim);
        let embedding = self.weights.matrix(&self.names.embedding(), vocab, dim)?;
        let head = if self.config.tied {
            None
        } else {
            Some(self.weights.matrix(&self.names.head(), vocab, dim)?)
        };
        let norm = self.norm(&self.names.final_norm(), dim)?;
        let layers = (0..self.config.layers.len())
            .map(|i| self.layer(i))
            .collect::<Result<_, _>>()?;
        let rotary = self.config.rotary_dim;
        let ropes = self
            .config
            .ropes
            .iter()
            .map(|r| Frequencies::new(r, rotary))
            .collect();
        Ok(Model {
            config: self.config,
            embedding,
            head,
            layers,
            norm,
            ropes,
            root,
        })
    }

    fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, TensorError> {
        let mut scale = self.weights.vector(name, len)?;
        if self.config.norm_offset != 0.0 {
            scale.iter_mut().for_each(|g| *g += self.config.norm_offset);
        }
        Ok(scale)
    }

    fn layer(&self, i: usize) -> Result<LayerWeights, TensorError> {
        let c = &self.config;
        let name = |part| self.names.layer(i, part, &c.architecture);
        let norm = |part| match name(part) {
            Some(name) => self.norm(&name, c.dim).map(Some),
            None => Ok(None),
        };
        let (q_len, k_len) = match c.qk_norm {
            QkNorm::None => (0, 0),
            QkNorm::Heads => (c.head_dim, c.head_dim),
            QkNorm::Row => (c.q_dim(), c.kv_dim()),
        };
        let head_norm = |part, len: usize| match name(part) {
            Some(name) if len > 0 => self.norm(&name, len).map(Some),
            _ => Ok(None),
        };
        let [q, k, v] = self.projections(i)?;
        let layer = c.layers[i];
        Ok(LayerWeights {
            attention: Attention {
                heads: c.heads,
                kv_heads: c.kv_heads,
                head_dim: c.head_dim,
                scale: c.attention_scale,
                softcap: c.attention_softcap,
                window: layer.window,
            },
            rope: layer.rope,
            before_attention: norm(Part::BeforeAttention)?,
            q,
            k,
            v,
            o: self
                .weights
                .linear(&self.names.output(i), c.dim, c.q_dim())?,
            q_norm: head_norm(Part::QueryNorm, q_len)?,
            k_norm: head_norm(Part::KeyNorm, k_len)?,
            after_attention: norm(Part::AfterAttention)?,
            before_ffn: norm(Part::BeforeFfn)?,
            ffn: self.feed_forward(i)?,
            after_ffn: norm(Part::AfterFfn)?,
        })
    }

    /// Queries, keys and values: three matrices, or one above the other in a single one.
    fn projections(&self, i: usize) -> Result<[Linear; 3], TensorError> {
        let c = &self.config;
        let sizes = [c.q_dim(), c.kv_dim(), c.kv_dim()];
        let fused = self.names.fused_qkv(i);
        if let Some(tensor) = self.weights.tensors.get(&fused) {
            let [q, k, v] = self.parts(&fused, tensor, sizes, c.dim)?;
            return Ok([q, k, v]);
        }
        let [q, k, v] = self.names.qkv(i);
        Ok([
            self.weights.linear(&q, sizes[0], c.dim)?,
            self.weights.linear(&k, sizes[1], c.dim)?,
            self.weights.linear(&v, sizes[2], c.dim)?,
        ])
    }

    /// Matrices that lie one above the other.
    fn parts<const N: usize>(
        &self,
        name: &str,
        tensor: &Tensor<'_>,
        sizes: [usize; N],
        k: usize,
    ) -> Result<[Linear; N], TensorError> {
        check_shape(name, tensor, &[sizes.iter().sum(), k])?;
        let mut first = 0;
        let mut linear = |n: usize| -> Result<Linear, TensorError> {
            let part = tensor.rows(name, first, n)?;
            first += n;
            let weights = self.weights.pack(name, &part, n, k)?;
            Ok(Linear {
                weights,
                bias: None,
            })
        };
        let mut out = Vec::with_capacity(N);
        for n in sizes {
            out.push(linear(n)?);
        }
        out.try_into().map_err(|_| TensorError::size(name))
    }

    fn feed_forward(&self, i: usize) -> Result<FeedForward, TensorError> {
        let c = &self.config;
        let Some(experts) = c.experts else {
            let fused = self.names.fused_gate_up(i);
            if c.architecture == "phi3"
                && let Some(tensor) = self.weights.tensors.get(&fused)
            {
                let [gate, up] = self.parts(&fused, tensor, [c.ffn_dim; 2], c.dim)?;
                let down = self.weights.linear(&self.names.down(i), c.dim, c.ffn_dim)?;
                return Ok(FeedForward::Dense(Unit { gate, up, down }));
            }
            return Ok(FeedForward::Dense(Unit {
                gate: self.weights.linear(&self.names.gate(i), c.ffn_dim, c.dim)?,
                up: self.weights.linear(&self.names.up(i), c.ffn_dim, c.dim)?,
                down: self.weights.linear(&self.names.down(i), c.dim, c.ffn_dim)?,
            }));
        };
        let router = self.names.router(i, &c.architecture);
        let router = self.weights.linear(&router, experts.count, c.dim)?;
        let unit = |e: usize| -> Result<Unit, TensorError> {
            let [gate, up, down] = self.names.expert(i, e, &c.architecture);
            let (f, d) = (experts.ffn_dim, c.dim);
            Ok(Unit {
                gate: self.expert(&gate, e, f, d)?,
                up: self.expert(&up, e, f, d)?,
                down: self.expert(&down, e, d, f)?,
            })
        };
        let units = (0..experts.count).map(unit).collect::<Result<_, _>>()?;
        Ok(FeedForward::Experts { router, units })
    }

    /// One expert's matrix: by itself, or one of all in a tensor of three dimensions.
    fn expert(&self, name: &str, e: usize, n: usize, k: usize) -> Result<Linear, TensorError> {
        let tensor = self.weights.tensor(name)?;
        if tensor.shape.len() != 3 {
            return self.weights.linear(name, n, k);
        }
        let count = self.config.experts.map_or(0, |experts| experts.count);
        check_shape(name, tensor, &[count, n, k])?;
        let part = tensor.rows(name, e, 1)?;
        let weights = self.weights.pack(name, &part, n, k)?;
        Ok(Linear {
            weights,
            bias: None,
        })
    }
}
