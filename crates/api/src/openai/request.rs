//! From the JSON of OpenAI's clients to canonical requests. What would change the answer and is not supported is refused;
//! what would not is ignored.

use std::collections::BTreeMap;

use lemma_types::{
    B256, Mode,
    text::{Message, Prompt, Role, Sampling, TextError, TextRequest},
};
use serde_json::{Map, Value};

/// Tokens of a chat's answer unless the client says how many; fewer if the context ends before.
const CHAT_TOKENS: u32 = 4_096;
/// Tokens of a completion unless the client says how many, as OpenAI's API has it.
const COMPLETION_TOKENS: u32 = 16;

/// A request, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The model, as the client names it.
    pub model: String,
    /// The canonical request.
    pub request: TextRequest,
    /// What shall back the answer.
    pub mode: Mode,
    /// The request's id, if the client chose one.
    pub request_id: Option<B256>,
    /// Whether the answer shall come in pieces.
    pub stream: bool,
    /// Whether the last piece shall count tokens.
    pub include_usage: bool,
}

/// Why a request is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// A stable word.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
}

impl Invalid {
    fn new(code: &'static str, param: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: Some(param.chars().take(120).collect()),
        }
    }

    fn value(param: &str, expected: &str) -> Self {
        Self::new(
            "invalid_value",
            param,
            format!("`{param}` has to be {expected}"),
        )
    }

    fn unsupported(param: &str) -> Self {
        let message = format!("`{param}` is not supported yet; leave it out");
        Self::new("unsupported_parameter", param, message)
    }
}

impl From<TextError> for Invalid {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Field { field, reason } => {
                Self::new("invalid_value", field, format!("`{field}`: {reason}"))
            }
            TextError::Json(error) => Self {
                code: "invalid_value",
                message: error.to_string(),
                param: None,
            },
        }
    }
}

/// Fields that change nothing of an answer.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// Reads a request to `/v1/chat/completions`. `seed` is used if the request names none.
///
/// # Errors
/// [`Invalid`] names the first field that is wrong or not supported.
pub fn chat(body: &[u8], seed: u64) -> Result<Asked, Invalid> {
    let mut fields = Fields::parse(body)?;
    let messages = match fields.take("messages") {
        Some(Value::Array(messages)) => messages,
        Some(_) => return Err(Invalid::value("messages", "an array of messages")),
        None => return Err(missing("messages")),
    };
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, value)| message(index, value))
        .collect::<Result<_, _>>()?;
    let limit = match fields.count("max_completion_tokens")? {
        Some(limit) => Some(limit),
        None => fields.count("max_tokens")?,
    };
    fields.take("max_tokens");
    fields.neutral("tools", |value| value.as_array().is_some_and(Vec::is_empty))?;
    fields.neutral("tool_choice", |value| {
        matches!(value.as_str(), Some("none" | "auto"))
    })?;
    fields.neutral("functions", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    })?;
    fields.neutral("response_format", |value| value["type"] == "text")?;
    fields.neutral("modalities", |value| *value == serde_json::json!(["text"]))?;
    fields.neutral("logprobs", |value| *value == Value::Bool(false))?;
    fields.rest(
        Prompt::Messages(messages),
        limit.unwrap_or(CHAT_TOKENS),
        seed,
    )
}

/// Reads a request to `/v1/completions`. `seed` is used if the request names none.
///
/// # Errors
/// [`Invalid`] names the first field that is wrong or not supported.
pub fn completion(body: &[u8], seed: u64) -> Result<Asked, Invalid> {
    let mut fields = Fields::parse(body)?;
    let prompt = fields.take("prompt").ok_or_else(|| missing("prompt"))?;
    let prompt = prompt_of(prompt)?;
    let limit = fields.count("max_tokens")?.unwrap_or(COMPLETION_TOKENS);
    fields.neutral("echo", |value| *value == Value::Bool(false))?;
    fields.neutral("best_of", |value| value.as_u64() == Some(1))?;
    fields.neutral("suffix", |value| value.as_str() == Some(""))?;
    fields.rest(prompt, limit, seed)
}

fn missing(param: &str) -> Invalid {
    Invalid::new("missing_parameter", param, format!("`{param}` is missing"))
}

/// A text or tokens, or a list of one of them.
fn prompt_of(value: Value) -> Result<Prompt, Invalid> {
    let wrong = || Invalid::value("prompt", "one text, or one list of tokens");
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(mut list) => match list.first() {
            Some(Value::Number(_)) => {
                let token = |value: &Value| value.as_u64().and_then(|token| token.try_into().ok());
                let tokens: Option<Vec<u32>> = list.iter().map(token).collect();
                tokens.map(Prompt::Tokens).ok_or_else(wrong)
            }
            Some(Value::String(_) | Value::Array(_)) if list.len() == 1 => match list.remove(0) {
                Value::Array(inner) if !matches!(inner.first(), Some(Value::Number(_))) => {
                    Err(wrong())
                }
                inner => prompt_of(inner),
            },
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

fn message(index: usize, value: Value) -> Result<Message, Invalid> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut fields) = value else {
        let param = format!("messages[{index}]");
        return Err(Invalid::value(&param, "an object"));
    };
    let role = match fields.remove("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => return Err(Invalid::unsupported(&at("role"))),
        _ => {
            let expected = "system, developer, user or assistant";
            return Err(Invalid::value(&at("role"), expected));
        }
    };
    let content = content(fields.remove("content"), &at("content"))?;
    // Assistants' messages come back with what an answer has beside its content.
    for (field, value) in &fields {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if !empty {
            return Err(Invalid::unsupported(&at(field)));
        }
    }
    Ok(Message { role, content })
}

/// A text, or a list of parts that are texts.
fn content(value: Option<Value>, param: &str) -> Result<String, Invalid> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let mut whole = String::new();
            for part in &parts {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(text)) => whole += text,
                    (Some("text"), None) => return Err(Invalid::value(param, "texts")),
                    _ => return Err(Invalid::unsupported(param)),
                }
            }
            Ok(whole)
        }
        _ => Err(Invalid::value(param, "a text")),
    }
}

/// The fields of a request; those that are null count as absent.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, Invalid> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(mut fields)) => {
                fields.retain(|_, value| !value.is_null());
                Ok(Self(fields))
            }
            Ok(_) => Err(Invalid {
                code: "invalid_json",
                message: "the body has to be a JSON object".to_owned(),
                param: None,
            }),
            Err(error) => Err(Invalid {
                code: "invalid_json",
                message: format!("the body is not JSON: {error}"),
                param: None,
            }),
        }
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    /// A field that is not supported, but harmless with some values.
    fn neutral(&mut self, field: &str, harmless: fn(&Value) -> bool) -> Result<(), Invalid> {
        match self.take(field) {
            Some(value) if !harmless(&value) => Err(Invalid::unsupported(field)),
            _ => Ok(()),
        }
    }

    fn count(&mut self, field: &str) -> Result<Option<u32>, Invalid> {
        let count = |value: Value| {
            let count = value.as_u64().and_then(|count| count.try_into().ok());
            count.ok_or_else(|| Invalid::value(field, "a whole number that is not negative"))
        };
        self.take(field).map(count).transpose()
    }

    fn number(&mut self, field: &str) -> Result<Option<f64>, Invalid> {
        let number = |value: Value| {
            let number = value.as_f64();
            number.ok_or_else(|| Invalid::value(field, "a number"))
        };
        self.take(field).map(number).transpose()
    }

    fn flag(&mut self, field: &str) -> Result<bool, Invalid> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Invalid::value(field, "true or false")),
        }
    }

    fn stop(&mut self) -> Result<Vec<String>, Invalid> {
        let wrong = || Invalid::value("stop", "a text or a list of texts");
        match self.take("stop") {
            None => Ok(Vec::new()),
            Some(Value::String(stop)) => Ok(vec![stop]),
            Some(Value::Array(list)) => {
                let text = |value: Value| match value {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong()),
                };
                list.into_iter().map(text).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    fn bias(&mut self) -> Result<BTreeMap<u32, f64>, Invalid> {
        let wrong = || Invalid::value("logit_bias", "numbers by tokens");
        match self.take("logit_bias") {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(token, value)| {
                    let token = token.parse().map_err(|_| wrong())?;
                    Ok((token, value.as_f64().ok_or_else(wrong)?))
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// Seeds may be negative: what counts is their bits.
    fn seed(&mut self, default: u64) -> Result<u64, Invalid> {
        match self.take("seed") {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .or_else(|| value.as_i64().map(i64::cast_unsigned))
                .ok_or_else(|| Invalid::value("seed", "a whole number of 64 bits")),
        }
    }

    fn sampling(&mut self, seed: u64) -> Result<Sampling, Invalid> {
        let default = Sampling::default();
        Ok(Sampling {
            seed: self.seed(seed)?,
            temperature: self.number("temperature")?.unwrap_or(default.temperature),
            top_k: self.count("top_k")?.unwrap_or(default.top_k),
            top_p: self.number("top_p")?.unwrap_or(default.top_p),
            min_p: self.number("min_p")?.unwrap_or(default.min_p),
            repetition_penalty: self
                .number("repetition_penalty")?
                .unwrap_or(default.repetition_penalty),
            presence_penalty: self
                .number("presence_penalty")?
                .unwrap_or(default.presence_penalty),
            frequency_penalty: self
                .number("frequency_penalty")?
                .unwrap_or(default.frequency_penalty),
            bias: self.bias()?,
        })
    }

    /// What only Lemma's clients say: `{"mode": …, "request_id": …}`.
    fn lemma(&mut self) -> Result<(Mode, Option<B256>), Invalid> {
        let mut fields = match self.take("lemma") {
            None => return Ok((Mode::Signed, None)),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(Invalid::value("lemma", "an object")),
        };
        let mode = match fields.remove("mode") {
            None => Mode::Signed,
            Some(value) => serde_json::from_value(value)
                .map_err(|_| Invalid::value("lemma.mode", "the name of a mode"))?,
        };
        let request_id = match fields.remove("request_id") {
            None => None,
            Some(value) => Some(
                serde_json::from_value(value)
                    .map_err(|_| Invalid::value("lemma.request_id", "32 bytes in hexadecimal"))?,
            ),
        };
        match fields.keys().next() {
            None => Ok((mode, request_id)),
            Some(field) => Err(unknown(&format!("lemma.{field}"))),
        }
    }

    /// What both endpoints share, and nothing else.
    fn rest(mut self, prompt: Prompt, max_tokens: u32, seed: u64) -> Result<Asked, Invalid> {
        let model = match self.take("model") {
            Some(Value::String(model)) => model,
            Some(_) => return Err(Invalid::value("model", "a text")),
            None => return Err(missing("model")),
        };
        let stream = self.flag("stream")?;
        let include_usage = match self.take("stream_options") {
            None => false,
            Some(options) => options["include_usage"].as_bool().unwrap_or(false),
        };
        self.neutral("n", |value| value.as_u64() == Some(1))?;
        let request = TextRequest {
            schema: TextRequest::SCHEMA.to_owned(),
            prompt,
            sampling: self.sampling(seed)?,
            max_tokens,
            stop: self.stop()?,
        };
        request.check()?;
        let (mode, request_id) = self.lemma()?;
        for field in HARMLESS {
            self.take(field);
        }
        for field in UNSUPPORTED {
            self.neutral(field, |_| false)?;
        }
        if let Some(field) = self.0.keys().next() {
            return Err(unknown(field));
        }
        Ok(Asked {
            model,
            request,
            mode,
            request_id,
            stream,
            include_usage,
        })
    }
}

/// Fields of OpenAI's API that would change the answer.
const UNSUPPORTED: [&str; 9] = [
    "logprobs",
    "top_logprobs",
    "audio",
    "prediction",
    "web_search_options",
    "reasoning_effort",
    "verbosity",
    "function_call",
    "moderation",
];

fn unknown(param: &str) -> Invalid {
    let shown: String = param.chars().take(120).collect();
    Invalid::new(
        "unknown_parameter",
        param,
        format!("unknown parameter `{shown}`"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Asked, Invalid> {
        chat(body.to_string().as_bytes(), 7)
    }

    fn body() -> Value {
        json!({ "model": "a/b", "messages": [{ "role": "user", "content": "Hi" }] })
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = body();
        body[field] = value;
        body
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let asked = read(&body()).unwrap();
        assert_eq!(asked.model, "a/b");
        assert!(!asked.stream && !asked.include_usage);
        let request = asked.request;
        assert_eq!(request.max_tokens, CHAT_TOKENS);
        assert_eq!(
            request.sampling,
            Sampling {
                seed: 7,
                ..Sampling::default()
            }
        );
        let text = json!({ "model": "a/b", "prompt": "x" }).to_string();
        let asked = completion(text.as_bytes(), 7).unwrap();
        assert_eq!(asked.request.max_tokens, 16);
        assert_eq!(asked.request.prompt, Prompt::Text("x".to_owned()));
    }

    #[test]
    fn every_parameter_arrives() {
        let body = json!({
            "model": "a/b",
            "messages": [
                { "role": "developer", "content": [{ "type": "text", "text": "Be " }, { "type": "text", "text": "brief" }] },
                { "role": "user", "content": "Hi" },
                { "role": "assistant", "content": "Ho", "refusal": null, "annotations": [], "tool_calls": null },
                { "role": "user", "content": "" },
            ],
            "stream": true, "stream_options": { "include_usage": true },
            "max_completion_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.25,
            "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5, "seed": -1,
            "stop": ["a", "b"], "logit_bias": { "5": -100 }, "n": 1, "user": "me", "metadata": {},
            "tools": [], "response_format": { "type": "text" }, "logprobs": false, "audio": null,
            "lemma": { "mode": "signed", "request_id": B256::repeat_byte(3) },
        });
        let asked = read(&body).unwrap();
        assert!(asked.stream && asked.include_usage);
        assert_eq!(asked.request_id, Some(B256::repeat_byte(3)));
        let Prompt::Messages(messages) = &asked.request.prompt else {
            panic!("{:?}", asked.request.prompt)
        };
        assert_eq!(
            (messages[0].role, messages[0].content.as_str()),
            (Role::System, "Be brief")
        );
        assert_eq!(messages.len(), 4);
        let expected = Sampling {
            seed: u64::MAX,
            temperature: 0.0,
            top_k: 3,
            top_p: 0.5,
            min_p: 0.25,
            repetition_penalty: 1.5,
            presence_penalty: 1.0,
            frequency_penalty: -1.0,
            bias: [(5, -100.0)].into(),
        };
        assert_eq!(asked.request.sampling, expected);
        assert_eq!((asked.request.max_tokens, asked.request.stop.len()), (5, 2));
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (field, value, code) in [
            (
                "tools",
                json!([{ "type": "function" }]),
                "unsupported_parameter",
            ),
            (
                "response_format",
                json!({ "type": "json_object" }),
                "unsupported_parameter",
            ),
            ("logprobs", json!(true), "unsupported_parameter"),
            ("n", json!(2), "unsupported_parameter"),
            ("reasoning_effort", json!("high"), "unsupported_parameter"),
            ("temprature", json!(1), "unknown_parameter"),
            ("temperature", json!("hot"), "invalid_value"),
            ("temperature", json!(1000), "invalid_value"),
            ("max_tokens", json!(-1), "invalid_value"),
            ("max_tokens", json!(0), "invalid_value"),
            ("seed", json!(0.5), "invalid_value"),
            ("stop", json!([1]), "invalid_value"),
            ("stop", json!(""), "invalid_value"),
            ("logit_bias", json!({ "x": 1 }), "invalid_value"),
            ("messages", json!([]), "invalid_value"),
            ("messages", json!("hi"), "invalid_value"),
            ("model", json!(1), "invalid_value"),
            ("model", Value::Null, "missing_parameter"),
            ("stream", json!("yes"), "invalid_value"),
        ] {
            let invalid = read(&with(field, value.clone())).unwrap_err();
            assert_eq!(
                (invalid.code, invalid.param.as_deref()),
                (code, Some(field)),
                "{field} {value}"
            );
        }
        let message = |message: Value| read(&with("messages", json!([message]))).unwrap_err();
        for (value, param) in [
            (
                json!({ "role": "wizard", "content": "" }),
                "messages[0].role",
            ),
            (json!({ "role": "tool", "content": "" }), "messages[0].role"),
            (json!({ "role": "user" }), "messages[0].content"),
            (
                json!({ "role": "user", "content": [{ "type": "image_url" }] }),
                "messages[0].content",
            ),
            (
                json!({ "role": "user", "content": "", "name": "x" }),
                "messages[0].name",
            ),
        ] {
            assert_eq!(message(value).param.as_deref(), Some(param));
        }
    }

    #[test]
    fn prompts_are_one_text_or_one_list_of_tokens() {
        let read = |prompt: Value| {
            let body = json!({ "model": "a/b", "prompt": prompt }).to_string();
            completion(body.as_bytes(), 7).map(|asked| asked.request.prompt)
        };
        assert_eq!(read(json!(["x"])), Ok(Prompt::Text("x".to_owned())));
        assert_eq!(read(json!([1, 2])), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(read(json!([[1, 2]])), Ok(Prompt::Tokens(vec![1, 2])));
        for bad in [
            json!(["x", "y"]),
            json!([]),
            json!([[]]),
            json!([[[1]]]),
            json!([-1]),
            json!(5),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
