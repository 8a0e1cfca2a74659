//! Requests to language models and their answers, in canonical JSON: what a receipt for text commits to.
//!
//! A request says everything that the answer depends on beside the model: what was asked, how tokens are chosen (the seed
//! included) and when the answer ends. So equal requests have equal answers, and whoever doubts one computes it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CanonicalJsonError, from_canonical_json, limits, to_canonical_json};

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
}

impl Role {
    /// The word that templates know.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
                })
            }
            // The whole request is bounded.
            Self::Text(_) => Ok(()),
            Self::Tokens(tokens) => ensure(!tokens.is_empty(), "tokens", || "none".to_owned()),
        }
    }
}

impl TextRequest {
    /// The format's name and version.
    pub const SCHEMA: &'static str = "lemma.text-request/1";

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
        let count = self.tokens.len();
        ensure(
            (1..=limits::TEXT_TOKENS as usize).contains(&count),
            "tokens",
            || format!("{count} tokens, expected 1 to {}", limits::TEXT_TOKENS),
        )?;
        if let Finish::Text(index) = self.finish {
            ensure((index as usize) < limits::TEXT_STOPS, "finish", || {
                format!("there is no stop text {index}")
            })?;
        }
        let prompt = self.prompt_tokens;
        ensure(
            (1..=limits::TEXT_TOKENS).contains(&prompt),
            "prompt_tokens",
            || format!("{prompt}, expected 1 to {}", limits::TEXT_TOKENS),
        )
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
mod tests {
    use super::*;

    fn request() -> TextRequest {
        TextRequest {
            schema: TextRequest::SCHEMA.to_owned(),
            prompt: Prompt::Messages(vec![Message {
                role: Role::User,
                content: "Hallo".to_owned(),
            }]),
            sampling: Sampling {
                seed: u64::MAX,
                temperature: 0.7,
                ..Sampling::default()
            },
            max_tokens: 16,
            stop: vec!["END".to_owned()],
        }
    }

    #[test]
    fn requests_round_trip_whatever_the_seed() {
        let bytes = request().encode();
        assert_eq!(TextRequest::decode(&bytes).unwrap(), request());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""seed":"18446744073709551615""#), "{text}");
        for other in [
            text.replace("\"18446744073709551615\"", "\"018\""),
            text.replace(':', ": "),
            text.replace("\"schema\"", "\"extra\":1,\"schema\""),
            text.replace("user", "tool"),
        ] {
            assert!(TextRequest::decode(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn every_bound_of_a_request_is_held() {
        let refused = |field: &str, change: fn(&mut TextRequest)| {
            let mut request = request();
            change(&mut request);
            let error = request.check().unwrap_err();
            let names = |found: &&str| *found == field;
            assert!(
                matches!(&error, TextError::Field { field, .. } if names(field)),
                "{field}: {error}"
            );
        };
        refused("schema", |r| r.schema.push('x'));
        refused("messages", |r| r.prompt = Prompt::Messages(vec![]));
        refused("tokens", |r| r.prompt = Prompt::Tokens(vec![]));
        refused("max_tokens", |r| r.max_tokens = 0);
        refused("max_tokens", |r| r.max_tokens = limits::TEXT_TOKENS + 1);
        refused("stop", |r| {
            r.stop = vec!["x".to_owned(); limits::TEXT_STOPS + 1]
        });
        refused("stop", |r| r.stop = vec![String::new()]);
        refused("stop", |r| {
            r.stop = vec!["x".repeat(limits::TEXT_STOP_BYTES + 1)]
        });
        refused("temperature", |r| r.sampling.temperature = -0.1);
        refused("temperature", |r| r.sampling.temperature = f64::NAN);
        refused("top_p", |r| r.sampling.top_p = 1.1);
        refused("min_p", |r| r.sampling.min_p = -1.0);
        refused("repetition_penalty", |r| {
            r.sampling.repetition_penalty = 0.0
        });
        refused("presence_penalty", |r| r.sampling.presence_penalty = 101.0);
        refused("frequency_penalty", |r| {
            r.sampling.frequency_penalty = -101.0
        });
        refused("bias", |r| {
            r.sampling.bias = (0..1025).map(|i| (i, 0.0)).collect()
        });
        refused("bias", |r| r.sampling.bias = [(1, 1001.0)].into());
    }

    #[test]
    fn every_bound_of_an_answer_is_held() {
        let response = TextResponse {
            schema: TextResponse::SCHEMA.to_owned(),
            tokens: vec![1, 2],
            text: "ja".to_owned(),
            finish: Finish::Text(0),
            prompt_tokens: 3,
        };
        assert_eq!(TextResponse::decode(&response.encode()).unwrap(), response);
        for change in [
            (|r| r.schema.clear()) as fn(&mut TextResponse),
            |r| r.tokens.clear(),
            |r| r.finish = Finish::Text(16),
            |r| r.prompt_tokens = 0,
        ] {
            let mut response = response.clone();
            change(&mut response);
            assert!(
                TextResponse::decode(&response.encode()).is_err(),
                "{response:?}"
            );
        }
    }
}
