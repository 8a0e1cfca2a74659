//! Requests to language models and their answers, in canonical JSON: what a receipt for text commits to.
//!
//! A request says everything that the answer depends on beside the model: what was asked, how tokens are chosen (the seed
//! included) and when the answer ends. So equal requests have equal answers, and whoever doubts one computes it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Bytes, CanonicalJsonError, from_canonical_json, limits, to_canonical_json,
    upstream::MODEL_BYTES,
};

/// A request to a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRequest {
    /// Always [`TextRequest::SCHEMA`].
    pub schema: String,
    /// What is asked.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of the answer; at least one. It has fewer if the model's context ends before.
    pub max_tokens: u32,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The form that the answer has to have; absent if it may have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// The tools that the model may call: the JSON of a list as OpenAI's API has it, as it was asked, since templates and forms
    /// follow the order in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// With so many of the best tokens each token of the answer is given, beside the logarithm of its own probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
}

/// The form that an answer has to have: tokens that would leave it are never chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Form {
    /// A JSON object.
    Json,
    /// JSON of this schema: its text, as it was asked, since entries come in its order.
    Schema(String),
    /// Calls of tools.
    Calls {
        /// Of this tool alone.
        only: Option<String>,
        /// As many as the model likes, else one.
        several: bool,
    },
}

/// What a language model is asked. Its tokens follow from it by the model's tokenizer and template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A conversation, which the model's chat template turns into text.
    Messages(Vec<Message>),
    /// A text to continue.
    Text(String),
    /// Tokens to continue.
    Tokens(Vec<u32>),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Calls of tools that the model made here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<PastCall>,
    /// The call that this message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
}

/// A call of a tool in an earlier answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastCall {
    /// By which its result names it.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, the JSON of an object.
    pub arguments: String,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, the JSON of an object.
    pub arguments: String,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand above the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The word that templates know.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// How tokens are chosen (chapter 6 of the numeric specification for language models). Numbers count as the nearest
/// single-precision floats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Names the noise. Equal seeds give equal answers. A text in JSON, whose numbers are exact up to 2^53 only.
    #[serde(with = "decimal")]
    pub seed: u64,
    /// Divides the logits; 0 takes the best token always.
    pub temperature: f64,
    /// Keeps so many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest best tokens whose probability reaches this; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens of at least this probability, relative to the best one; 0 keeps all.
    pub min_p: f64,
    /// Divides positive logits of tokens in prompt or answer, multiplies negative ones; 1 is none.
    pub repetition_penalty: f64,
    /// Taken off the logits of tokens in the answer.
    pub presence_penalty: f64,
    /// Taken off the logits of tokens in the answer, for each time that they are in it.
    pub frequency_penalty: f64,
    /// Added to the logits of tokens.
    pub bias: BTreeMap<u32, f64>,
}

/// The answer of a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextResponse {
    /// Always [`TextResponse::SCHEMA`].
    pub schema: String,
    /// Every token that was chosen, one that ended the answer included.
    pub tokens: Vec<u32>,
    /// What the tokens say, without the token or text that ended the answer.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of a relayed answer, what the upstream server says of it; its tokens are not known. Absent from any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// Calls of tools, in their order; they are not part of the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// For each token what the request asks for: nothing if it does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Scored>,
}

/// A token of an answer with those that were likely in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// The token itself.
    pub chosen: Candidate,
    /// The most likely ones, best first.
    pub top: Vec<Candidate>,
}

/// A token that could have been chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Its number; 0 in a relayed answer, where it is not known.
    pub token: u32,
    /// What it says.
    pub bytes: Bytes,
    /// Natural logarithm of its probability: a single-precision float.
    pub logprob: f64,
}

/// What an upstream server says of its answer. Nobody can check any of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The model that it says has answered.
    pub model: String,
    /// How many tokens it counts in the prompt; 0 if it does not say.
    pub prompt_tokens: u32,
    /// How many tokens it counts in the answer; 0 if it does not say.
    pub completion_tokens: u32,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so: its last token is one that ends answers.
    Token,
    /// The stop text with this index came.
    Text(u32),
    /// It has as many tokens as were asked for, or the context is full.
    Length,
}

/// A request, the tokens that it became, and the answer: everything that a receipt for text commits to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// What was asked.
    pub request: TextRequest,
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// What was answered.
    pub response: TextResponse,
}

/// Why bytes or values are not a request or an answer.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Not canonical JSON of the format.
    #[error(transparent)]
    Json(#[from] CanonicalJsonError),
    /// A field has a value that it cannot have.
    #[error("`{field}`: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn ensure(
    holds: bool,
    field: &'static str,
    reason: impl FnOnce() -> String,
) -> Result<(), TextError> {
    match holds {
        true => Ok(()),
        false => Err(TextError::Field {
            field,
            reason: reason(),
        }),
    }
}

impl Default for Sampling {
    /// Plain sampling with seed 0: temperature 1, nothing filtered, nothing penalised.
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: BTreeMap::new(),
        }
    }
}

impl Sampling {
    /// Holds every number against its range.
    ///
    /// # Errors
    /// [`TextError::Field`] names the first that is outside.
    pub fn check(&self) -> Result<(), TextError> {
        for (field, value, low, high) in [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ] {
            ensure((low..=high).contains(&value), field, || {
                format!("{value}, expected {low} to {high}")
            })?;
        }
        ensure(self.bias.len() <= limits::TEXT_BIAS, "bias", || {
            format!("{} tokens, at most {}", self.bias.len(), limits::TEXT_BIAS)
        })?;
        let outside = self
            .bias
            .values()
            .find(|value| !(-1000.0..=1000.0).contains(*value));
        ensure(outside.is_none(), "bias", || {
            "a value outside -1000 to 1000".to_owned()
        })
    }

    /// Canonical JSON (RFC 8785).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_canonical_json(self)
    }
}

impl Prompt {
    fn check(&self) -> Result<(), TextError> {
        match self {
            Self::Messages(messages) => {
                ensure(!messages.is_empty(), "messages", || "none".to_owned())?;
                ensure(messages.len() <= limits::TEXT_MESSAGES, "messages", || {
                    format!("{}, at most {}", messages.len(), limits::TEXT_MESSAGES)
                })?;
                messages.iter().try_for_each(Message::check)
            }
            // The whole request is bounded.
            Self::Text(_) => Ok(()),
            Self::Tokens(tokens) => ensure(!tokens.is_empty(), "tokens", || "none".to_owned()),
        }
    }
}

impl Message {
    /// A message that is nothing but a text.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            calls: Vec::new(),
            call_id: None,
        }
    }

    fn check(&self) -> Result<(), TextError> {
        let calls = self.calls.len();
        ensure(calls <= limits::TEXT_CALLS, "messages", || {
            format!("{calls} calls of tools, at most {}", limits::TEXT_CALLS)
        })?;
        ensure(
            calls == 0 || self.role == Role::Assistant,
            "messages",
            || "calls of tools that are not the assistant's".to_owned(),
        )?;
        ensure(
            self.call_id.is_none() || self.role == Role::Tool,
            "messages",
            || "the answer to a call that is not a tool's".to_owned(),
        )
    }
}

impl TextRequest {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.text-request/1";

    /// A request for so many tokens of any form, by plain sampling with seed 0.
    #[must_use]
    pub fn new(prompt: Prompt, max_tokens: u32) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            prompt,
            sampling: Sampling::default(),
            max_tokens,
            stop: Vec::new(),
            form: None,
            tools: None,
            logprobs: None,
        }
    }

    /// Parses and checks canonical JSON.
    ///
    /// # Errors
    /// If the bytes are not canonical JSON of a request, or a field has a value that it cannot have.
    pub fn decode(bytes: &[u8]) -> Result<Self, TextError> {
        let request: Self = from_canonical_json(bytes, limits::TEXT_REQUEST_BYTES)?;
        request.check()?;
        Ok(request)
    }

    /// Canonical JSON (RFC 8785).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// Checks every field. The bound on the size of all together is checked by [`decode`](Self::decode).
    ///
    /// # Errors
    /// [`TextError::Field`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), TextError> {
        check_schema(&self.schema, Self::SCHEMA)?;
        self.prompt.check()?;
        self.sampling.check()?;
        let tokens = self.max_tokens;
        ensure(
            (1..=limits::TEXT_TOKENS).contains(&tokens),
            "max_tokens",
            || format!("{tokens}, expected 1 to {}", limits::TEXT_TOKENS),
        )?;
        ensure(self.stop.len() <= limits::TEXT_STOPS, "stop", || {
            format!("{} texts, at most {}", self.stop.len(), limits::TEXT_STOPS)
        })?;
        let fits = |stop: &String| (1..=limits::TEXT_STOP_BYTES).contains(&stop.len());
        ensure(self.stop.iter().all(fits), "stop", || {
            format!(
                "a text that is empty or has more than {} bytes",
                limits::TEXT_STOP_BYTES
            )
        })?;
        self.check_form()?;
        self.check_logprobs()
    }

    fn check_form(&self) -> Result<(), TextError> {
        let fits = |field, text: &str| {
            let (length, most) = (text.len(), limits::TEXT_FORM_BYTES);
            ensure(length <= most, field, || {
                format!("{length} bytes, at most {most}")
            })
        };
        if let Some(tools) = &self.tools {
            fits("tools", tools)?;
            let conversation = matches!(self.prompt, Prompt::Messages(_));
            ensure(conversation, "tools", || {
                "they are for conversations".to_owned()
            })?;
        }
        match &self.form {
            Some(Form::Schema(schema)) => fits("form", schema),
            Some(Form::Calls { .. }) => ensure(self.tools.is_some(), "form", || {
                "calls of tools without tools".to_owned()
            }),
            Some(Form::Json) | None => Ok(()),
        }
    }

    fn check_logprobs(&self) -> Result<(), TextError> {
        let Some(count) = self.logprobs else {
            return Ok(());
        };
        ensure(count <= limits::TEXT_LOGPROBS, "logprobs", || {
            format!("{count}, at most {}", limits::TEXT_LOGPROBS)
        })?;
        let most = limits::TEXT_LOGPROBS_TOKENS;
        ensure(self.max_tokens <= most, "logprobs", || {
            format!("with them an answer has at most {most} tokens")
        })
    }
}

impl TextResponse {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.text-response/1";

    /// Parses and checks canonical JSON.
    ///
    /// # Errors
    /// If the bytes are not canonical JSON of an answer, or a field has a value that it cannot have.
    pub fn decode(bytes: &[u8]) -> Result<Self, TextError> {
        let response: Self = from_canonical_json(bytes, limits::TEXT_RESPONSE_BYTES)?;
        response.check()?;
        Ok(response)
    }

    /// Canonical JSON (RFC 8785).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`TextError::Field`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), TextError> {
        check_schema(&self.schema, Self::SCHEMA)?;
        if let Finish::Text(index) = self.finish {
            ensure((index as usize) < limits::TEXT_STOPS, "finish", || {
                format!("there is no stop text {index}")
            })?;
        }
        let calls = self.calls.len();
        ensure(calls <= limits::TEXT_CALLS, "calls", || {
            format!("{calls}, at most {}", limits::TEXT_CALLS)
        })?;
        self.check_logprobs()?;
        // Which tokens a relayed answer has is not known, so it states none.
        let expected = match &self.upstream {
            None => 1..=limits::TEXT_TOKENS,
            Some(upstream) => {
                upstream.check()?;
                0..=0
            }
        };
        let answer = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        for (field, count) in [("tokens", answer), ("prompt_tokens", self.prompt_tokens)] {
            ensure(expected.contains(&count), field, || {
                format!(
                    "{count}, expected {} to {}",
                    expected.start(),
                    expected.end()
                )
            })?;
        }
        Ok(())
    }

    fn check_logprobs(&self) -> Result<(), TextError> {
        let (scored, tokens) = (self.logprobs.len(), self.tokens.len());
        let relayed = self.upstream.is_some();
        let most = limits::TEXT_LOGPROBS_TOKENS as usize;
        let fits = scored == 0 || scored == tokens || relayed && scored <= most;
        ensure(fits, "logprobs", || {
            format!("of {scored} tokens, the answer has {tokens}")
        })?;
        // Which tokens a relayed answer has is not known, only what they say.
        let unknown = std::iter::repeat_n(&0, if relayed { scored } else { 0 });
        for (scored, token) in self.logprobs.iter().zip(self.tokens.iter().chain(unknown)) {
            let Scored { chosen, top } = scored;
            ensure(chosen.token == *token, "logprobs", || {
                format!("token {}, the answer has {token}", chosen.token)
            })?;
            ensure(
                top.len() <= limits::TEXT_LOGPROBS as usize,
                "logprobs",
                || format!("{} tokens, at most {}", top.len(), limits::TEXT_LOGPROBS),
            )?;
            let finite = |candidate: &Candidate| candidate.logprob.is_finite();
            ensure(finite(chosen) && top.iter().all(finite), "logprobs", || {
                "a number that is none".to_owned()
            })?;
        }
        Ok(())
    }

    /// Tokens of prompt and answer: its own, or what the upstream server says.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        match &self.upstream {
            None => (u64::from(self.prompt_tokens), self.tokens.len() as u64),
            Some(upstream) => (
                u64::from(upstream.prompt_tokens),
                u64::from(upstream.completion_tokens),
            ),
        }
    }
}

impl Upstream {
    fn check(&self) -> Result<(), TextError> {
        let (length, most) = (self.model.len(), MODEL_BYTES);
        ensure(length <= most, "upstream.model", || {
            format!("{length} bytes, at most {most}")
        })
    }
}

impl Transcript {
    /// Checks every field.
    ///
    /// # Errors
    /// [`TextError::Field`] names the first field that is wrong.
    pub fn check(&self) -> Result<(), TextError> {
        self.request.check()?;
        self.response.check()?;
        let (stated, tokens) = (self.response.prompt_tokens, self.prompt.len());
        ensure(tokens == stated as usize, "prompt", || {
            format!("{tokens} tokens, the answer states {stated}")
        })?;
        let (most, answer) = (self.request.max_tokens, self.response.tokens.len());
        ensure(answer <= most as usize, "response", || {
            format!("{answer} tokens, at most {most} were asked for")
        })?;
        let called = self.response.calls.is_empty() || self.request.tools.is_some();
        ensure(called, "response", || {
            "calls of tools without tools".to_owned()
        })?;
        let (given, asked) = (
            !self.response.logprobs.is_empty(),
            self.request.logprobs.is_some(),
        );
        // Upstream servers need not give what they are asked for.
        let left_out = !given && self.response.upstream.is_some();
        ensure(given == asked || left_out, "response", || {
            "logarithms of probabilities that were not asked for, or none that were".to_owned()
        })?;
        match self.response.finish {
            Finish::Text(index) => ensure(
                (index as usize) < self.request.stop.len(),
                "response",
                || {
                    format!(
                        "ended by stop text {index}, the request has {}",
                        self.request.stop.len()
                    )
                },
            ),
            Finish::Token | Finish::Length => Ok(()),
        }
    }
}

fn check_schema(found: &str, expected: &'static str) -> Result<(), TextError> {
    ensure(found == expected, "schema", || {
        let found: String = found.chars().take(80).collect();
        format!("`{found}`, expected `{expected}`")
    })
}

/// A number as a text of decimal digits.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
