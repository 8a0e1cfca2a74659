//! Language models as manifests describe them: made from a GGUF file or a folder, and loaded again from a content store.

mod replay;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use lemma_llm::{
    Compute, LoadError as WeightsError, Model,
    engine::{Finish as EngineFinish, Request},
    gguf::{Gguf, GgufError},
    grammar::{self, GrammarError, Grammars},
    safetensors::SafetensorsError,
    sampling::{Choice, Constraint, Sampling as EngineSampling},
    tensors::Tensors,
    text::{CallStream, Part, TextError, Tokenizer, Tools},
};
use lemma_types::{
    Digest, Manifest,
    manifest::{File, Format},
    text::{
        Call, Candidate, Finish, Form, Message, PastCall, Prompt, Sampling, Scored, TextRequest,
    },
};
use serde_json::{Value, json};

use crate::{
    files::ModelFiles,
    model::{Derived, LoadError, Terms},
};

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

/// Where a model's weights are.
enum Source<'a> {
    Gguf(Gguf<'a>),
    Folder {
        config: &'a [u8],
        tensors: Tensors<'a>,
    },
}

impl<'a> Source<'a> {
    fn open(format: Format, files: &'a ModelFiles) -> Result<Self, LanguageError> {
        if format != Format::Safetensors {
            let file = files.gguf()?;
            return file.map(Self::Gguf).ok_or(LanguageError::Missing("*.gguf"));
        }
        let config = files.find("config.json");
        let tensors = files.tensors()?;
        Ok(Self::Folder {
            config: config.ok_or(LanguageError::Missing("config.json"))?,
            tensors: tensors.ok_or(LanguageError::Missing("*.safetensors"))?,
        })
    }

    fn tensors(&self) -> &Tensors<'a> {
        match self {
            Self::Gguf(file) => file.tensors(),
            Self::Folder { tensors, .. } => tensors,
        }
    }

    fn model(&self, compute: &Compute) -> Result<Model, WeightsError> {
        match self {
            Self::Gguf(file) => Model::from_parsed(&compute.threads, file),
            Self::Folder { config, tensors } => {
                Model::from_tensors(&compute.threads, config, tensors)
            }
        }
    }
}

fn folder_tokenizer(files: &ModelFiles) -> Result<Tokenizer, LanguageError> {
    let file = files.find("tokenizer.json");
    let template = files
        .find("chat_template.jinja")
        .map(std::str::from_utf8)
        .transpose()
        .map_err(|_| LanguageError::NotText("chat_template.jinja".to_owned()))?;
    Ok(Tokenizer::from_folder(
        file.ok_or(LanguageError::Missing("tokenizer.json"))?,
        files.find("tokenizer_config.json"),
        template,
    )?)
}

/// Loads a model's weights alone, for tokens without text.
///
/// # Errors
/// See [`LanguageError`].
pub fn weights(
    format: Format,
    files: &ModelFiles,
    compute: &Compute,
) -> Result<Model, LanguageError> {
    Ok(Source::open(format, files)?.model(compute)?)
}

/// A language model, ready to run.
#[derive(Debug)]
pub struct LanguageModel {
    model: Arc<Model>,
    tokenizer: Tokenizer,
    root: Digest,
    units_per_token: u64,
    /// Made when the first request asks for a form.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl LanguageModel {
    /// Loads a model from its files.
    ///
    /// # Errors
    /// See [`LanguageError`].
    pub fn load(
        format: Format,
        files: &ModelFiles,
        compute: &Compute,
    ) -> Result<Self, LanguageError> {
        let source = Source::open(format, files)?;
        let tokenizer = match &source {
            Source::Gguf(file) => Tokenizer::from_gguf(file)?,
            Source::Folder { .. } => folder_tokenizer(files)?,
        };
        Self::new(&source, tokenizer, compute)
    }

    /// Loads a GGUF file, given whole.
    ///
    /// # Errors
    /// See [`LanguageError`].
    pub fn from_gguf(bytes: &[u8], compute: &Compute) -> Result<Self, LanguageError> {
        let file = Gguf::parse(bytes)?;
        let tokenizer = Tokenizer::from_gguf(&file)?;
        Self::new(&Source::Gguf(file), tokenizer, compute)
    }

    fn new(
        source: &Source<'_>,
        tokenizer: Tokenizer,
        compute: &Compute,
    ) -> Result<Self, LanguageError> {
        let model = source.model(compute)?;
        Ok(Self {
            root: Digest::new(model.root()),
            units_per_token: units_per_token(source.tensors()),
            model: Arc::new(model),
            tokenizer,
            grammars: OnceLock::new(),
        })
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

    /// What its manifest has to state.
    pub(crate) const fn derived(&self) -> Derived {
        Derived::of_text(self.root(), self.units_per_token())
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

    /// Makes of a request what an engine needs. The first that asks for a form takes longer.
    ///
    /// # Errors
    /// What is wrong with the request, in words: its text is too long, the model's template refuses the conversation or knows
    /// no tools, or the form is none that answers can be held to.
    pub fn prepare(&self, request: &TextRequest) -> Result<Prepared, String> {
        let words = |error: &dyn fmt::Display| error.to_string();
        let tools = match &request.tools {
            None => None,
            Some(text) => {
                let syntax = self
                    .tokenizer
                    .calls()
                    .ok_or("this model does not call tools")?;
                Some((Tools::parse(text).map_err(|error| words(&error))?, syntax))
            }
        };
        let prompt = match &request.prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => self.tokenizer.encode(text, true),
            Prompt::Messages(messages) => {
                let messages: Vec<Value> = messages
                    .iter()
                    .map(template_message)
                    .collect::<Result<_, _>>()?;
                let shown = tools.as_ref().map(|(tools, _)| tools.json());
                self.tokenizer.chat(&messages.into(), shown)
            }
        };
        let form = match (&request.form, &tools) {
            (None, _) => None,
            (Some(Form::Json), _) => Some(grammar::Form::Json),
            (Some(Form::Schema(schema)), _) => Some(grammar::Form::Schema(schema)),
            (Some(Form::Calls { only, several }), Some((tools, syntax))) => {
                Some(grammar::Form::Calls {
                    tools,
                    syntax: *syntax,
                    only: only.as_deref(),
                    several: *several,
                })
            }
            (Some(Form::Calls { .. }), None) => {
                return Err("calls of tools without tools".to_owned());
            }
        };
        let constraint = form.map(|form| self.grammars()?.constraint(form));
        Ok(Prepared {
            prompt: prompt.map_err(|error| words(&error))?,
            constraint: constraint.transpose().map_err(|error| words(&error))?,
            speech: Speech {
                calls: tools.map(|(tools, syntax)| CallStream::new(syntax, &tools)),
            },
        })
    }

    fn grammars(&self) -> Result<&Grammars, GrammarError> {
        let made = self
            .grammars
            .get_or_init(|| Grammars::new(self.tokenizer.bytes(), &self.model.config().eos));
        made.as_ref().map_err(Clone::clone)
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
            logprobs: request.logprobs.map(|count| count as usize),
            ..Request::new(&self.model, prompt, max_tokens, sampling)
        }
    }

    /// A choice with what its candidates say.
    #[must_use]
    pub fn scored(&self, choice: &Choice) -> Scored {
        let candidate = |token: u32, logprob: f32| {
            let bytes = self.tokenizer.bytes().get(token as usize);
            Candidate {
                token,
                bytes: bytes.map_or(&[][..], |bytes| bytes).to_vec().into(),
                // What can not be is as good as what hardly can: JSON has no infinity.
                logprob: f64::from(logprob.max(f32::MIN)),
            }
        };
        let top = choice.top.iter();
        Scored {
            chosen: candidate(choice.token, choice.logprob.unwrap_or(f32::MIN)),
            top: top
                .map(|(token, logprob)| candidate(*token, *logprob))
                .collect(),
        }
    }
}

/// What an engine needs for a request.
pub struct Prepared {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// What the answer has to keep to.
    pub constraint: Option<Box<dyn Constraint>>,
    /// What the model's words become.
    pub speech: Speech,
}

/// What a model says: text, and between it calls of the tools that the request has.
#[derive(Default)]
pub struct Speech {
    /// Absent if the request has no tools.
    calls: Option<CallStream>,
}

impl Speech {
    /// Takes what the model has said, and gives the text and calls that are certain.
    pub fn push(&mut self, said: &str) -> (String, Vec<Call>) {
        match &mut self.calls {
            None => (said.to_owned(), Vec::new()),
            Some(calls) => parts(calls.push(said)),
        }
    }

    /// The model has ended: the rest.
    pub fn finish(&mut self) -> (String, Vec<Call>) {
        match &mut self.calls {
            None => (String::new(), Vec::new()),
            Some(calls) => parts(calls.finish()),
        }
    }
}

fn parts(parts: Vec<Part>) -> (String, Vec<Call>) {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text(piece) => text += &piece,
            Part::Call(call) => calls.push(Call {
                name: call.name,
                arguments: call.arguments,
            }),
        }
    }
    (text, calls)
}

/// A message as templates take it. They want the arguments of earlier calls as they are, not as a text.
fn template_message(message: &Message) -> Result<Value, String> {
    let mut shown = json!({ "role": message.role.name(), "content": message.content });
    if !message.calls.is_empty() {
        let call = |call: &PastCall| {
            let arguments: Value = serde_json::from_str(&call.arguments).map_err(|error| {
                format!("the arguments of call `{}` are no JSON: {error}", call.id)
            })?;
            Ok::<_, String>(json!({
                "id": call.id,
                "type": "function",
                "function": { "name": call.name, "arguments": arguments },
            }))
        };
        let calls: Vec<Value> = message.calls.iter().map(call).collect::<Result<_, _>>()?;
        shown["tool_calls"] = calls.into();
    }
    if let Some(id) = &message.call_id {
        shown["tool_call_id"] = json!(id);
    }
    Ok(shown)
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
    files: Vec<File>,
    terms: Terms,
) -> Result<Manifest, LoadError> {
    language.derived().manifest(format, files, terms)
}
