//! Text to tokens and back, and conversations to text.

mod template;
mod tools;
mod vocabulary;
pub(crate) mod xml;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use crate::gguf::Gguf;
use crate::stream::{TextStream, TokenBytes};
pub use template::{Template, TemplateError};
pub use tools::{Call, CallStream, CallSyntax, Part, Tool, ToolError, Tools};

/// Most bytes of a `tokenizer.json`.
const MAX_JSON: usize = 64 << 20;
/// Most bytes of a text that is encoded.
pub const MAX_TEXT: usize = 8 << 20;

/// Why a vocabulary, or a text, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer's file is malformed.
    #[error("the tokenizer is malformed: {0}")]
    Tokenizer(String),
    /// A kind of vocabulary that is not supported.
    #[error(
        "{0} is not supported; supported are byte-level BPE (gpt2) and SentencePiece BPE (llama)"
    )]
    Kind(String),
    /// A text of too many bytes.
    #[error("the text has {0} bytes; at most {MAX_TEXT} are encoded at a time")]
    TooLong(usize),
    /// The tokenizer refused a text.
    #[error("the text could not be encoded: {0}")]
    Encode(String),
    /// The model has no chat template.
    #[error("the model has no chat template: send a prompt instead of messages")]
    NoTemplate,
    /// The chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// The vocabulary of a model, with its chat template if it has one.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bytes: TokenBytes,
    template: Option<Template>,
}

impl Tokenizer {
    /// Reads the `tokenizer.json` of a model folder, with its `tokenizer_config.json` and
    /// `chat_template.jinja` if it has them.
    ///
    /// # Errors
    /// If a file is malformed or too long, or the vocabulary is of a kind that is not supported.
    pub fn from_folder(
        tokenizer: &[u8],
        config: Option<&[u8]>,
        template: Option<&str>,
    ) -> Result<Tokenizer, TextError> {
        if tokenizer.len() > MAX_JSON || config.is_some_and(|c| c.len() > MAX_JSON) {
            return Err(TextError::Tokenizer(format!("more than {MAX_JSON} bytes")));
        }
        let malformed = |e: serde_json::Error| TextError::Tokenizer(e.to_string());
        let json: Value = serde_json::from_slice(tokenizer).map_err(malformed)?;
        let config: Value = match config {
            Some(config) => serde_json::from_slice(config).map_err(malformed)?,
            None => Value::Null,
        };
        let special = |key: &str| match &config[key] {
            Value::String(text) => Some(text.clone()),
            other => other["content"].as_str().map(str::to_owned),
        };
        let source = template
            .map(str::to_owned)
            .or_else(|| named_template(&config));
        let template = match source {
            Some(source) => Some(Template::new(
                &source,
                special("bos_token").as_deref(),
                special("eos_token").as_deref(),
            )?),
            None => None,
        };
        Tokenizer::from_json(&json, tokenizer, template)
    }

    /// Reads the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// If it is incomplete, or of a kind that is not supported.
    pub fn from_gguf(file: &Gguf<'_>) -> Result<Tokenizer, TextError> {
        let json = vocabulary::from_gguf(file)?;
        let special = |key: &str| {
            let id = file.size(&format!("tokenizer.ggml.{key}"))?;
            file.texts("tokenizer.ggml.tokens")?.get(id).copied()
        };
        let template = match file.text("tokenizer.chat_template") {
            Some(source) => Some(Template::new(
                source,
                special("bos_token_id"),
                special("eos_token_id"),
            )?),
            None => None,
        };
        let bytes = json.to_string().into_bytes();
        Tokenizer::from_json(&json, &bytes, template)
    }

    fn from_json(
        json: &Value,
        bytes: &[u8],
        template: Option<Template>,
    ) -> Result<Tokenizer, TextError> {
        let table = vocabulary::token_bytes(json)?;
        let inner = read(bytes)?;
        Ok(Tokenizer {
            inner,
            bytes: Arc::new(table),
            template,
        })
    }

    /// Tokens of a text. Names of special tokens in it become those tokens. With `begin` the token
    /// that begins a text comes first, if the model has one.
    ///
    /// # Errors
    /// If the text is too long, or the vocabulary has no tokens for it.
    pub fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>, TextError> {
        tokens(&self.inner, text, begin)
    }

    /// The text of tokens; special ones are left out.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = TextStream::new(Vec::new());
        let mut text = String::new();
        for token in tokens {
            let bytes = self.bytes.get(*token as usize).map_or(&[][..], |b| b);
            text += &stream.push(bytes).text;
        }
        text + &stream.finish()
    }

    /// The bytes of each token, for an engine.
    #[must_use]
    pub fn bytes(&self) -> &TokenBytes {
        &self.bytes
    }

    /// The chat template.
    #[must_use]
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// How the model writes calls of tools, if its chat template knows tools.
    #[must_use]
    pub fn calls(&self) -> Option<CallSyntax> {
        self.template.as_ref()?.calls()
    }

    /// Tokens of a conversation, up to where the assistant's answer begins. `messages` and `tools`
    /// are as in a request of the chat API.
    ///
    /// # Errors
    /// If the model has no template, or the template refuses the conversation.
    pub fn chat(&self, messages: &Value, tools: Option<&Value>) -> Result<Vec<u32>, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        let text = template.render(messages, tools)?;
        // The template has written what begins a text.
        self.encode(&text, false)
    }
}

/// The vocabulary of an embedding model: texts to tokens alone, of any kind that `tokenizer.json`
/// can describe (WordPiece, Unigram, byte pairs).
#[derive(Debug, Clone)]
pub struct Encoder {
    inner: tokenizers::Tokenizer,
    digest: [u8; 32],
}

impl Encoder {
    /// Reads the `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// If it is malformed or too long.
    pub fn from_json(json: &[u8]) -> Result<Encoder, TextError> {
        if json.len() > MAX_JSON {
            return Err(TextError::Tokenizer(format!("more than {MAX_JSON} bytes")));
        }
        Ok(Encoder {
            inner: read(json)?,
            digest: *blake3::hash(json).as_bytes(),
        })
    }

    /// Reads the WordPiece vocabulary of a GGUF file. Letters become small ones, as such files do
    /// not say otherwise.
    ///
    /// # Errors
    /// If it is incomplete, or of another kind.
    pub fn from_gguf(file: &Gguf<'_>) -> Result<Encoder, TextError> {
        let (json, listing) = vocabulary::word_pieces(file)?;
        Ok(Encoder {
            inner: read(json.to_string().as_bytes())?,
            digest: *blake3::hash(listing.as_bytes()).as_bytes(),
        })
    }

    /// BLAKE3 of what decides how texts are cut: of the `tokenizer.json` as it is, of a GGUF file's
    /// vocabulary in a canonical listing (chapter 8 of the specification).
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Tokens of a text, with those that begin and end it. Nothing is cut off.
    ///
    /// # Errors
    /// If the text is too long, or the vocabulary has no tokens for it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        tokens(&self.inner, text, true)
    }
}

/// A tokenizer that neither cuts nor pads, whatever its file says.
fn read(json: &[u8]) -> Result<tokenizers::Tokenizer, TextError> {
    guarded(|| {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        inner.with_padding(None);
        inner.with_truncation(None)?;
        Ok(inner)
    })
    .map_err(TextError::Tokenizer)
}

/// Calls the tokenizer library, which panics at some malformed files instead of refusing them.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library failed on it".to_owned()),
    }
}

fn tokens(inner: &tokenizers::Tokenizer, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
    if text.len() > MAX_TEXT {
        return Err(TextError::TooLong(text.len()));
    }
    let encoding = guarded(|| inner.encode_fast(text, special)).map_err(TextError::Encode)?;
    Ok(encoding.get_ids().to_vec())
}

/// The template in a `tokenizer_config.json`: one, or several of which one is called default.
fn named_template(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => {
            let default = |entry: &&Value| entry["name"] == "default";
            Some(list.iter().find(default)?["template"].as_str()?.to_owned())
        }
        _ => None,
    }
}
