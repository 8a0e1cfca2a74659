//! Embedding models as manifests describe them: made from a folder, and loaded again from a content store.
//!
//! They take and give tensors as other models do, so that receipts, prices and checks are the same. Texts are tensors here:
//!
//! | input | type | shape | content |
//! |---|---|---|---|
//! | `text` | `UINT8` | `[bytes]` | all texts in UTF-8, one after another; empty if tokens are given |
//! | `tokens` | `UINT32` | `[tokens]` | all texts as tokens, with those that begin and end a text; empty if text is given |
//! | `ends` | `UINT32` | `[texts]` | where each text ends in the other |
//!
//! | output | type | shape | content |
//! |---|---|---|---|
//! | `embedding` | `FP32` | `[texts, dim]` | a vector of length one for each text |
//! | `lengths` | `UINT32` | `[texts]` | tokens of each text |

use lemma_graph::compute_units;
use lemma_llm::{
    Compute, LoadError as WeightsError,
    embedding::{EmbedError, EmbeddingConfig, EmbeddingModel, Pooling},
    text::{Encoder, TextError},
};
use lemma_store::BlobStore;
use lemma_types::{
    Digest, Manifest, limits,
    manifest::{File, Format},
    tensor::{DType, Dim, TensorData, TensorError, TensorSpec},
};

use crate::{
    files::ModelFiles,
    model::{Derived, LoadError, Terms},
};

/// Most texts of one request, as OpenAI's API has it.
pub const MAX_TEXTS: usize = 2_048;
/// Most tokens of all texts of one request together.
pub const MAX_TOKENS: usize = 1 << 20;
/// The file that says how vectors of tokens become one. A folder without it takes their mean.
pub const POOLING: &str = "1_Pooling/config.json";

/// Why files are no embedding model.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingModelError {
    /// Weights or their arrangement.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file that has to be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The tensors are none that mean texts.
    #[error("{0}")]
    Form(String),
    /// One of the texts.
    #[error("text {index}: {reason}")]
    Text {
        /// Which one, from zero.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// All of them together.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// The answer can not be put into tensors.
    #[error(transparent)]
    Tensors(#[from] TensorError),
}

/// The tokens of each text of a request; none is empty, too long, or of another vocabulary.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Vec<u32>>);

/// An embedding model, ready to run.
#[derive(Debug)]
pub struct Embedder {
    model: EmbeddingModel,
    encoder: Encoder,
    root: Digest,
}

impl Embedder {
    /// Loads a model from its files: one GGUF file, or those of a folder.
    ///
    /// # Errors
    /// See [`EmbeddingModelError`].
    pub fn load(files: &ModelFiles) -> Result<Self, EmbeddingModelError> {
        let threads = Compute::new(1).threads;
        if let Some(file) = files.gguf().map_err(WeightsError::from)? {
            let model = EmbeddingModel::from_gguf(&threads, &file)?;
            return Ok(Self::new(model, Encoder::from_gguf(&file)?));
        }
        let file = |name| files.find(name).ok_or(EmbeddingModelError::Missing(name));
        let (config, tokenizer) = (file("config.json")?, file("tokenizer.json")?);
        let pooling = match files.find(POOLING) {
            Some(json) => Pooling::from_json(json).map_err(WeightsError::from)?,
            None => Pooling::Mean,
        };
        let tensors = files.tensors().map_err(WeightsError::from)?;
        let tensors = tensors.ok_or(EmbeddingModelError::Missing("*.safetensors"))?;
        let encoder = Encoder::from_json(tokenizer)?;
        let model = EmbeddingModel::from_tensors(&threads, config, pooling, &tensors)?;
        Ok(Self::new(model, encoder))
    }

    fn new(model: EmbeddingModel, encoder: Encoder) -> Self {
        Self {
            root: root(&model, &encoder),
            model,
            encoder,
        }
    }

    /// Digest over configuration, tensors, pooling and tokenizer: what manifests name as the graph root.
    #[must_use]
    pub const fn root(&self) -> Digest {
        self.root
    }

    /// Values of a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.model.config().dim
    }

    /// What its manifest has to state.
    pub(crate) fn derived(&self) -> Derived {
        let symbol = |name: &str| Dim::Symbol(name.to_owned());
        let spec = |name: &str, dtype, shape| TensorSpec {
            name: name.to_owned(),
            dtype,
            shape,
        };
        let dim = Dim::Fixed(self.dim() as u64);
        Derived {
            graph_root: self.root,
            inputs: vec![
                spec("text", DType::U8, vec![symbol("bytes")]),
                spec("tokens", DType::U32, vec![symbol("tokens")]),
                spec("ends", DType::U32, vec![symbol("texts")]),
            ],
            outputs: vec![
                spec("embedding", DType::F32, vec![symbol("texts"), dim]),
                spec("lengths", DType::U32, vec![symbol("texts")]),
            ],
            compute_units: compute_units(self.operations(1)),
        }
    }

    /// Two operations for each weight of a matrix that a token meets, and those of its attention to all tokens.
    fn operations(&self, length: usize) -> u64 {
        let config = self.model.config();
        let [layers, dim, ffn, length] =
            [config.layers, config.dim, config.ffn_dim, length].map(|size| size as u64);
        let weights =
            dim.saturating_mul(dim.saturating_mul(4).saturating_add(ffn.saturating_mul(2)));
        let attention = dim.saturating_mul(length).saturating_mul(2);
        let token = weights.saturating_add(attention).saturating_mul(2);
        token.saturating_mul(layers).saturating_mul(length)
    }

    /// Operations for these texts.
    #[must_use]
    pub fn cost(&self, texts: &Tokens) -> u64 {
        let each = texts.0.iter().map(|tokens| self.operations(tokens.len()));
        each.fold(0, u64::saturating_add)
    }

    /// Bytes that embedding these texts holds at most, besides the model.
    #[must_use]
    pub fn memory(&self, texts: &Tokens) -> u64 {
        self.model.memory(texts.0.iter().map(Vec::len))
    }

    /// The answer to these inputs, in the order of the model's signature.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn infer(
        &self,
        inputs: &[TensorData],
        compute: &Compute,
    ) -> Result<Vec<TensorData>, InputError> {
        self.embed(&self.tokens(inputs)?, compute)
    }

    /// The answer to these texts, in the order of the model's signature.
    ///
    /// # Errors
    /// If the model is damaged.
    pub fn embed(&self, texts: &Tokens, compute: &Compute) -> Result<Vec<TensorData>, InputError> {
        let tokens: Vec<&[u32]> = texts.0.iter().map(Vec::as_slice).collect();
        let vectors = self.model.embed(compute, &tokens)?;
        let values = vectors
            .iter()
            .flatten()
            .flat_map(|value| value.to_le_bytes());
        let lengths = tokens
            .iter()
            .flat_map(|tokens| (tokens.len() as u32).to_le_bytes());
        let count = tokens.len() as u64;
        let shape = vec![count, self.dim() as u64];
        Ok(vec![
            TensorData::new("embedding", DType::F32, shape, values.collect())?,
            TensorData::new("lengths", DType::U32, vec![count], lengths.collect())?,
        ])
    }

    /// The tokens of each text that these inputs mean.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn tokens(&self, inputs: &[TensorData]) -> Result<Tokens, InputError> {
        let form = |reason: &str| InputError::Form(reason.to_owned());
        let of = |name: &str, dtype: DType| {
            inputs
                .iter()
                .find(|input| input.name() == name && input.dtype() == dtype)
                .filter(|input| input.shape().len() == 1)
                .ok_or_else(|| InputError::Form(format!("`{name}` has to be {dtype} of rank 1")))
        };
        let (text, tokens) = (
            of("text", DType::U8)?.data(),
            words(of("tokens", DType::U32)?),
        );
        let ends = words(of("ends", DType::U32)?);
        if ends.is_empty() || ends.len() > MAX_TEXTS {
            let reason = format!("{} texts: expected 1 to {MAX_TEXTS}", ends.len());
            return Err(InputError::Form(reason));
        }
        let length = match (text.is_empty(), tokens.is_empty()) {
            (false, true) => text.len(),
            (true, false) => tokens.len(),
            _ => {
                return Err(form(
                    "one of `text` and `tokens` has to be empty, the other not",
                ));
            }
        };
        if ends.last().is_none_or(|last| *last as usize != length) {
            return Err(form("the last of `ends` has to be where everything ends"));
        }
        let (mut begin, mut total, mut texts) = (0, 0, Vec::with_capacity(ends.len()));
        for (index, end) in ends.iter().map(|end| *end as usize).enumerate() {
            if end < begin || end > length {
                return Err(form("`ends` has to ascend"));
            }
            let wrong = |reason: String| InputError::Text { index, reason };
            let one = if text.is_empty() {
                tokens[begin..end].to_vec()
            } else {
                let piece = std::str::from_utf8(&text[begin..end]);
                let piece = piece.map_err(|_| wrong("it is not UTF-8".to_owned()))?;
                let encoded = self.encoder.encode(piece);
                encoded.map_err(|error| wrong(error.to_string()))?
            };
            self.check(&one).map_err(|error| wrong(error.to_string()))?;
            total += one.len();
            if total > MAX_TOKENS {
                let reason = format!("the texts have more than {MAX_TOKENS} tokens together");
                return Err(InputError::Form(reason));
            }
            texts.push(one);
            begin = end;
        }
        Ok(Tokens(texts))
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EmbedError> {
        let config = self.model.config();
        if tokens.is_empty() {
            return Err(EmbedError::Empty);
        }
        if tokens.len() > config.context {
            return Err(EmbedError::TooLong {
                tokens: tokens.len(),
                most: config.context,
            });
        }
        match tokens.iter().find(|token| **token as usize >= config.vocab) {
            Some(token) => Err(EmbedError::Token(*token)),
            None => Ok(()),
        }
    }
}

fn words(tensor: &TensorData) -> Vec<u32> {
    let (words, _) = tensor.data().as_chunks();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Texts and their tokens both decide what comes out, so the tokenizer is part of the model.
fn root(model: &EmbeddingModel, encoder: &Encoder) -> Digest {
    let mut bytes = b"lemma.embedding/1".to_vec();
    bytes.extend(model.root());
    bytes.extend(encoder.digest());
    Digest::of(&bytes)
}

/// What is to be embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Texts {
    /// As text.
    Text(Vec<String>),
    /// As tokens.
    Tokens(Vec<Vec<u32>>),
}

impl Texts {
    /// The inputs that mean it.
    ///
    /// # Errors
    /// If there are none or too many, or one is empty.
    pub fn inputs(&self) -> Result<Vec<TensorData>, InputError> {
        let lengths: Vec<usize> = match self {
            Self::Text(texts) => texts.iter().map(String::len).collect(),
            Self::Tokens(texts) => texts.iter().map(Vec::len).collect(),
        };
        if lengths.is_empty() || lengths.len() > MAX_TEXTS {
            let reason = format!("{} texts: expected 1 to {MAX_TEXTS}", lengths.len());
            return Err(InputError::Form(reason));
        }
        if let Some(index) = lengths.iter().position(|length| *length == 0) {
            let reason = "it is empty".to_owned();
            return Err(InputError::Text { index, reason });
        }
        if lengths.iter().sum::<usize>() > limits::HTTP_BODY_BYTES {
            return Err(InputError::Form(
                "the texts are too long together".to_owned(),
            ));
        }
        let mut end = 0u32;
        let ends = lengths.iter().map(|length| {
            end += *length as u32;
            end
        });
        let ends: Vec<u32> = ends.collect();
        let (text, tokens) = match self {
            Self::Text(texts) => (texts.concat().into_bytes(), Vec::new()),
            Self::Tokens(texts) => (Vec::new(), texts.concat()),
        };
        let numbers = |name: &str, words: &[u32]| {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            TensorData::new(name, DType::U32, vec![words.len() as u64], bytes)
        };
        Ok(vec![
            TensorData::new("text", DType::U8, vec![text.len() as u64], text)?,
            numbers("tokens", &tokens)?,
            numbers("ends", &ends)?,
        ])
    }
}

/// Whether `config.json` is that of an embedding model.
#[must_use]
pub fn is_one(config: &[u8]) -> bool {
    EmbeddingConfig::is_encoder(config)
}

/// Whether these are the files of an embedding model: of a GGUF file, or of a folder.
#[must_use]
pub fn are_of_one(files: &ModelFiles) -> bool {
    match files.gguf() {
        Ok(Some(file)) => EmbeddingConfig::is_encoder_gguf(&file),
        _ => files.find("config.json").is_some_and(is_one),
    }
}

/// Makes the manifest of an embedding model with these files.
///
/// # Errors
/// [`LoadError::Manifest`] if a path or text is not acceptable.
pub fn manifest(model: &Embedder, files: Vec<File>, terms: Terms) -> Result<Manifest, LoadError> {
    model.derived().manifest(Format::Embedding, files, terms)
}

/// Loads an embedding model whose files are in the store, derives everything that the manifest states, and refuses any
/// difference.
pub(crate) fn load(manifest: &Manifest, store: &BlobStore) -> Result<Embedder, LoadError> {
    let model = Embedder::load(&ModelFiles::stored(manifest, store)?)?;
    model.derived().check(manifest)?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> Vec<(String, Vec<u8>)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../llm/tests/fixtures/bert/");
        ["config.json", "model.safetensors", "tokenizer.json"]
            .map(|name| {
                (
                    name.to_owned(),
                    std::fs::read(format!("{folder}{name}")).unwrap(),
                )
            })
            .to_vec()
    }

    fn loaded(files: Vec<(String, Vec<u8>)>) -> Embedder {
        Embedder::load(&files.into_iter().collect()).unwrap()
    }

    #[test]
    fn texts_and_their_tokens_mean_the_same() {
        let model = loaded(folder());
        let texts = ["a text", "another one"].map(str::to_owned).to_vec();
        let tokens = texts.iter().map(|text| model.encoder.encode(text).unwrap());
        let tokens = Texts::Tokens(tokens.collect()).inputs().unwrap();
        let texts = Texts::Text(texts).inputs().unwrap();
        let answer = model.infer(&texts, &Compute::new(1)).unwrap();
        assert_eq!(answer, model.infer(&tokens, &Compute::new(1)).unwrap());
        assert_eq!(answer[0].shape(), [2, model.dim() as u64]);
        let [texts, tokens] = [texts, tokens].map(|inputs| model.tokens(&inputs).unwrap());
        assert!(model.cost(&texts) > model.operations(1));
        assert_eq!(model.cost(&texts), model.cost(&tokens));
    }

    #[test]
    fn the_tokenizer_and_the_pooling_are_part_of_the_model() {
        let plain = loaded(folder()).root();
        let mut other = folder();
        other[2].1.push(b'\n');
        assert_ne!(loaded(other).root(), plain);
        let mut first = folder();
        first.push((
            POOLING.to_owned(),
            br#"{"pooling_mode_cls_token": true}"#.to_vec(),
        ));
        assert_ne!(loaded(first).root(), plain);
    }

    #[test]
    fn a_gguf_file_is_a_model_of_its_own_with_the_vectors_of_its_folder() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../llm/tests/fixtures/bert/");
        let names = || ["model.gguf".to_owned()];
        let files = ModelFiles::open(path.as_ref(), names()).unwrap();
        assert!(are_of_one(&files) && are_of_one(&folder().into_iter().collect()));
        let (file, folder) = (Embedder::load(&files).unwrap(), loaded(folder()));
        assert_ne!(file.root(), folder.root());
        let texts = Texts::Text(vec!["the quick brown fox".to_owned()])
            .inputs()
            .unwrap();
        let embed = |model: &Embedder| model.infer(&texts, &Compute::new(1)).unwrap();
        assert_eq!(embed(&file), embed(&folder));
        // The vocabulary decides what texts mean, so it is part of the model: here one letter of it.
        let mut bytes = std::fs::read(format!("{path}model.gguf")).unwrap();
        let word = "▁brown".as_bytes();
        let at = bytes.windows(word.len()).position(|w| w == word).unwrap();
        bytes[at + word.len() - 1] = b'R';
        assert_ne!(
            loaded(vec![("m.gguf".to_owned(), bytes)]).root(),
            file.root()
        );
    }

    #[test]
    fn memory_follows_from_the_longest_text_and_not_from_how_many_there_are() {
        let model = loaded(folder());
        let memory = |lengths: &[usize]| {
            let texts = lengths.iter().map(|length| vec![5; *length]).collect();
            model.memory(&Tokens(texts))
        };
        assert!(memory(&[64; 32]) > memory(&[64; 16]));
        let more = memory(&[64; 1_000]) - memory(&[64; 100]);
        assert_eq!(more, 900 * 8 * model.dim() as u64);
    }

    #[test]
    fn what_means_no_texts_is_refused() {
        let model = loaded(folder());
        let tensors = |text: &[u8], tokens: &[u32], ends: &[u32]| {
            let numbers = |name: &str, words: &[u32]| {
                let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                TensorData::new(name, DType::U32, vec![words.len() as u64], bytes).unwrap()
            };
            let length = vec![text.len() as u64];
            let text = TensorData::new("text", DType::U8, length, text.to_vec()).unwrap();
            vec![text, numbers("tokens", tokens), numbers("ends", ends)]
        };
        for (inputs, reason) in [
            (tensors(b"", &[], &[0]), "one of"),
            (tensors(b"a", &[1], &[1]), "one of"),
            (tensors(b"a", &[], &[]), "0 texts"),
            (tensors(b"ab", &[], &[1]), "last"),
            (tensors(b"ab", &[], &[9, 2]), "ascend"),
            (tensors(b"\xff", &[], &[1]), "UTF-8"),
            (
                tensors(b"", &[1, 2], &[0, 2]),
                "text 0: the text has no tokens",
            ),
            (tensors(b"", &[u32::MAX], &[1]), "vocabulary"),
            (tensors(b"", &[1; 5000], &[5000]), "at most"),
            (tensors(b"a", &[], &[1])[..2].to_vec(), "`ends`"),
        ] {
            for error in [
                model.tokens(&inputs).err(),
                model.infer(&inputs, &Compute::new(1)).err(),
            ] {
                let error = error.unwrap().to_string();
                assert!(error.contains(reason), "{error}");
            }
        }
        let empty = Texts::Text(vec!["a".to_owned(), String::new()]);
        assert!(empty.inputs().unwrap_err().to_string().contains("text 1"));
        assert!(Texts::Text(Vec::new()).inputs().is_err());
    }

    #[test]
    fn a_model_loads_only_as_its_manifest_states_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let model = loaded(folder());
        let files = folder().into_iter().map(|(path, bytes)| File {
            path,
            size: bytes.len() as u64,
            blake3: store.put_bytes(&bytes).unwrap(),
        });
        let honest = manifest(&model, files.collect(), Terms::default()).unwrap();
        assert_eq!(load(&honest, &store).unwrap().root(), model.root());
        for (field, lie) in [
            (
                "graph_root",
                Manifest {
                    graph_root: Digest::of(b"other"),
                    ..honest.clone()
                },
            ),
            (
                "outputs",
                Manifest {
                    outputs: Vec::new(),
                    ..honest.clone()
                },
            ),
            (
                "compute_units",
                Manifest {
                    compute_units: 0,
                    ..honest.clone()
                },
            ),
        ] {
            assert!(
                matches!(load(&lie, &store), Err(LoadError::Mismatch { field: found, .. }) if found == field),
                "{field}"
            );
        }
    }
}
