//! Language models as manifests describe them: made from a GGUF file or a folder, and loaded again from a content store.

use std::sync::Arc;

use lemma_llm::{
    Compute, Config, LoadError as WeightsError, Model,
    engine::{Finish as EngineFinish, Request},
    gguf::{Gguf, GgufError},
    replay::{Verdict, replay},
    safetensors::{self, SafetensorsError},
    sampling::Sampling as EngineSampling,
    tensors::Tensors,
    text::{TextError, Tokenizer},
};
use lemma_types::{
    Digest, Manifest,
    manifest::{File, Format},
    text::{Finish, Prompt, Sampling, TextRequest, Transcript},
};
use serde_json::json;

use crate::model::{LoadError, Terms};

/// Why files are no language model.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// Weights or their arrangement.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer or the chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file that has to be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A file that has to be text.
    #[error("`{0}` is not UTF-8")]
    NotText(String),
}

impl From<GgufError> for LanguageError {
    fn from(error: GgufError) -> Self {
        Self::Weights(error.into())
    }
}

impl From<SafetensorsError> for LanguageError {
    fn from(error: SafetensorsError) -> Self {
        Self::Weights(error.into())
    }
}

/// A language model, ready to run.
#[derive(Debug)]
pub struct LanguageModel {
    model: Arc<Model>,
    tokenizer: Tokenizer,
    root: Digest,
    units_per_token: u64,
}

impl LanguageModel {
    /// Loads a model from its files: paths and contents, in the order of their paths.
    ///
    /// # Errors
    /// See [`LanguageError`].
    pub fn load(
        format: Format,
        files: &[(String, Vec<u8>)],
        compute: &Compute,
    ) -> Result<Self, LanguageError> {
        match format {
            Format::Safetensors => Self::from_folder(files, compute),
            Format::Gguf | Format::Onnx | Format::Integer => {
                let gguf = files.iter().find(|(path, _)| path.ends_with(".gguf"));
                let (_, bytes) = gguf.ok_or(LanguageError::Missing("*.gguf"))?;
                Self::from_gguf(bytes, compute)
            }
        }
    }

    /// Loads a GGUF file, given whole.
    ///
    /// # Errors
    /// See [`LanguageError`].
    pub fn from_gguf(bytes: &[u8], compute: &Compute) -> Result<Self, LanguageError> {
        let file = Gguf::parse(bytes)?;
        let tokenizer = Tokenizer::from_gguf(&file)?;
        let model = Model::from_parsed(&compute.threads, &file)?;
        Ok(Self::new(model, tokenizer, file.tensors()))
    }

    fn from_folder(files: &[(String, Vec<u8>)], compute: &Compute) -> Result<Self, LanguageError> {
        // A folder may lie in a folder: names count, not what is before them.
        let find = |name: &str| {
            let named = |path: &str| path.rsplit('/').next() == Some(name);
            let found = files.iter().find(|(path, _)| named(path));
            found.map(|(_, bytes)| bytes.as_slice())
        };
        let config = find("config.json").ok_or(LanguageError::Missing("config.json"))?;
        let tokenizer = find("tokenizer.json").ok_or(LanguageError::Missing("tokenizer.json"))?;
        let template = find("chat_template.jinja")
            .map(std::str::from_utf8)
            .transpose()
            .map_err(|_| LanguageError::NotText("chat_template.jinja".to_owned()))?;
        let weights: Vec<&[u8]> = files
            .iter()
            .filter(|(path, _)| path.ends_with(".safetensors"))
            .map(|(_, bytes)| bytes.as_slice())
            .collect();
        if weights.is_empty() {
            return Err(LanguageError::Missing("*.safetensors"));
        }
        let mut tensors = Tensors::default();
        for file in &weights {
            safetensors::read(file, &mut tensors)?;
        }
        let tokenizer = Tokenizer::from_folder(tokenizer, find("tokenizer_config.json"), template)?;
        let model = Model::from_safetensors(&compute.threads, config, &weights)?;
        Ok(Self::new(model, tokenizer, &tensors))
    }

    fn new(model: Model, tokenizer: Tokenizer, tensors: &Tensors<'_>) -> Self {
        Self {
            root: root(model.config(), tensors),
            units_per_token: units_per_token(tensors),
            model: Arc::new(model),
            tokenizer,
        }
    }

    /// The model itself.
    #[must_use]
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its vocabulary and chat template.
    #[must_use]
    pub const fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Digest over configuration and tensors: what manifests name as the graph root.
    #[must_use]
    pub const fn root(&self) -> Digest {
        self.root
    }

    /// Work for one token, in units of 10^6 operations, rounded up.
    #[must_use]
    pub const fn units_per_token(&self) -> u64 {
        self.units_per_token
    }

    /// Work for so many tokens of prompt and answer together.
    #[must_use]
    pub const fn units(&self, tokens: usize) -> u64 {
        self.units_per_token.saturating_mul(tokens as u64)
    }

    /// The prompt's tokens.
    ///
    /// # Errors
    /// If the text is too long or the model's template refuses the conversation.
    pub fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => self.tokenizer.encode(text, true),
            Prompt::Messages(messages) => {
                let message = |message: &lemma_types::text::Message| json!({ "role": message.role.name(), "content": message.content });
                let messages = messages.iter().map(message).collect();
                self.tokenizer.chat(&messages, None)
            }
        }
    }

    /// The request as an engine takes it.
    #[must_use]
    pub fn engine_request(&self, request: &TextRequest, prompt: Vec<u32>) -> Request {
        let sampling = engine_sampling(&request.sampling);
        // As far as the context reaches. A prompt that fills it is refused by the engine.
        let room = self.model.config().context.saturating_sub(prompt.len());
        let max_tokens = (request.max_tokens as usize).min(room.max(1));
        Request {
            stop: request.stop.clone(),
            ..Request::new(&self.model, prompt, max_tokens, sampling)
        }
    }

    /// Replays a transcript: makes the prompt's tokens again, and chooses every token of the answer again, all at once. The
    /// first difference in words, or `None`.
    ///
    /// # Errors
    /// If prompt or answer can be none of this model's.
    pub fn replay(
        &self,
        transcript: &Transcript,
        compute: &Compute,
    ) -> Result<Option<String>, String> {
        let Transcript {
            request,
            prompt,
            response,
        } = transcript;
        let made = self
            .prompt(&request.prompt)
            .map_err(|error| error.to_string())?;
        if let Some(difference) = prompt_difference(&made, prompt) {
            return Ok(Some(difference));
        }
        let vocabulary = Some(self.tokenizer.bytes());
        let engine_request = self.engine_request(request, made);
        let finish = match response.finish {
            Finish::Token => EngineFinish::Token,
            Finish::Text(index) => EngineFinish::Text(index as usize),
            Finish::Length => EngineFinish::Length,
        };
        let answer = &response.tokens;
        let verdict = replay(
            &self.model,
            compute,
            vocabulary,
            &engine_request,
            None,
            answer,
            finish,
        );
        Ok(match verdict.map_err(|error| error.to_string())? {
            Verdict::Same => self.text_difference(transcript),
            Verdict::Differs {
                index,
                expected,
                found,
            } => Some(format!(
                "token {index} of the answer is {found}, the model chooses {expected}"
            )),
            Verdict::Ending { tokens, expected } => Some(match expected {
                Some(reason) => format!(
                    "the answer should have ended after {tokens} tokens ({})",
                    describe(reason)
                ),
                None => format!("the answer was cut off after {tokens} tokens: the model goes on"),
            }),
        })
    }

    /// Whether the tokens of the answer say what its text says.
    fn text_difference(&self, transcript: &Transcript) -> Option<String> {
        let response = &transcript.response;
        let mut stream = lemma_llm::stream::TextStream::new(transcript.request.stop.clone());
        let mut text = String::new();
        let mut stopped = false;
        let spoken = match response.finish {
            Finish::Token => &response.tokens[..response.tokens.len() - 1],
            Finish::Text(_) | Finish::Length => &response.tokens[..],
        };
        for token in spoken {
            let bytes = self.tokenizer.bytes().get(*token as usize);
            let piece = stream.push(bytes.map_or(&[][..], |bytes| bytes));
            text += &piece.text;
            stopped = piece.stopped.is_some();
        }
        if !stopped {
            text += &stream.finish();
        }
        (text != response.text).then(|| "the text is not what the answer's tokens say".to_owned())
    }
}

fn prompt_difference(made: &[u32], stated: &[u32]) -> Option<String> {
    if made == stated {
        return None;
    }
    let same = made.iter().zip(stated).take_while(|(a, b)| a == b).count();
    Some(match (made.get(same), stated.get(same)) {
        (Some(made), Some(stated)) => {
            format!("token {same} of the prompt is {stated}, the request gives {made}")
        }
        _ => format!(
            "the prompt has {} tokens, the request gives {}",
            stated.len(),
            made.len()
        ),
    })
}

fn describe(finish: EngineFinish) -> &'static str {
    match finish {
        EngineFinish::Token => "a token that ends answers",
        EngineFinish::Text(_) => "a stop text",
        EngineFinish::Length => "the limit of tokens",
    }
}

/// An engine's reason, as receipts know it.
#[must_use]
pub fn finish(reason: EngineFinish) -> Finish {
    match reason {
        EngineFinish::Token => Finish::Token,
        EngineFinish::Text(index) => Finish::Text(index as u32),
        EngineFinish::Length => Finish::Length,
    }
}

fn engine_sampling(sampling: &Sampling) -> EngineSampling {
    EngineSampling {
        seed: sampling.seed,
        temperature: sampling.temperature as f32,
        top_k: sampling.top_k,
        top_p: sampling.top_p as f32,
        min_p: sampling.min_p as f32,
        repetition_penalty: sampling.repetition_penalty as f32,
        presence_penalty: sampling.presence_penalty as f32,
        frequency_penalty: sampling.frequency_penalty as f32,
        bias: sampling
            .bias
            .iter()
            .map(|(token, value)| (*token, *value as f32))
            .collect(),
    }
}

/// The digest over configuration and tensors. It does not depend on how files are cut or arranged.
fn root(config: &Config, tensors: &Tensors<'_>) -> Digest {
    let mut listing = format!("lemma/language-model/1\n{config:?}\n");
    for (name, tensor) in tensors.iter() {
        let content = Digest::of(tensor.data);
        listing += &format!("{name} {:?} {:?} {content}\n", tensor.format, tensor.shape);
    }
    Digest::of(listing.as_bytes())
}

/// Two operations for each weight of a matrix.
fn units_per_token(tensors: &Tensors<'_>) -> u64 {
    let elements = |shape: &[usize]| {
        shape
            .iter()
            .fold(1u64, |product, size| product.saturating_mul(*size as u64))
    };
    let weights = tensors
        .iter()
        .filter(|(_, tensor)| tensor.shape.len() > 1)
        .fold(0u64, |sum, (_, tensor)| {
            sum.saturating_add(elements(&tensor.shape))
        });
    weights.saturating_mul(2).div_ceil(1_000_000)
}

/// Makes the manifest of a language model with these files.
///
/// # Errors
/// [`LoadError::Manifest`] if a path or text is not acceptable.
pub fn manifest(
    language: &LanguageModel,
    format: Format,
    mut files: Vec<File>,
    terms: Terms,
) -> Result<Manifest, LoadError> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Manifest {
        schema: Manifest::SCHEMA.to_owned(),
        format,
        files,
        graph_root: language.root(),
        importer: lemma_graph::IMPORTER_VERSION,
        inputs: Vec::new(),
        outputs: Vec::new(),
        compute_units: language.units_per_token(),
        licence: terms.licence,
        output_licence: terms.output_licence,
        description: terms.description,
        royalty: terms.royalty,
        parent: terms.parent,
    };
    manifest.check()?;
    Ok(manifest)
}
