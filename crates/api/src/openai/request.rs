//! From the JSON of OpenAI's clients to canonical requests. What would change the answer and is not supported is refused;
//! what would not is ignored.

use std::collections::BTreeMap;

use lemma_types::{
    B256, Mode,
    text::{Prompt, Sampling, TextError, TextRequest},
};
use serde_json::{Map, Value};

use super::{
    messages::messages,
    tools::{self, Shape},
};

/// Tokens of a chat's answer unless the client says how many; fewer if the context ends before.
pub(super) const CHAT_TOKENS: u32 = 4_096;
/// Tokens of a completion unless the client says how many, as OpenAI's API has it.
const COMPLETION_TOKENS: u32 = 16;

/// A request, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The model, as the client names it.
    pub model: String,
    /// The canonical request.
    pub request: TextRequest,
    /// What shall back the answer; `None` leaves it to the model.
    pub mode: Option<Mode>,
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
    pub(super) fn new(code: &'static str, param: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: Some(param.chars().take(120).collect()),
        }
    }

    pub(super) fn value(param: &str, expected: &str) -> Self {
        Self::new(
            "invalid_value",
            param,
            format!("`{param}` has to be {expected}"),
        )
    }

    pub(super) fn unsupported(param: &str) -> Self {
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
const HARMLESS: [&str; 7] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Reads a request to `/v1/chat/completions`. `seed` is used if the request names none.
///
/// # Errors
/// [`Invalid`] names the first field that is wrong or not supported.
pub fn chat(body: &[u8], seed: u64) -> Result<Asked, Invalid> {
    let mut fields = Fields::parse(body)?;
    let messages = messages(fields.take("messages").ok_or_else(|| missing("messages"))?)?;
    let limit = match fields.count("max_completion_tokens")? {
        Some(limit) => Some(limit),
        None => fields.count("max_tokens")?,
    };
    fields.take("max_tokens");
    let shape = tools::chat(body, &mut fields)?;
    fields.neutral("functions", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    })?;
    fields.neutral("modalities", |value| *value == serde_json::json!(["text"]))?;
    let shape = Shape {
        logprobs: fields.chat_logprobs()?,
        ..shape
    };
    let limit = limit.unwrap_or(CHAT_TOKENS);
    fields.rest(Prompt::Messages(messages), limit, seed, shape)
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
    let shape = Shape {
        logprobs: fields.count("logprobs")?,
        ..Shape::default()
    };
    fields.rest(prompt, limit, seed, shape)
}

pub(super) fn missing(param: &str) -> Invalid {
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

/// The fields of a request; those that are null count as absent.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Invalid> {
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

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    /// A field that is not supported, but harmless with some values.
    pub(super) fn neutral(
        &mut self,
        field: &str,
        harmless: fn(&Value) -> bool,
    ) -> Result<(), Invalid> {
        match self.take(field) {
            Some(value) if !harmless(&value) => Err(Invalid::unsupported(field)),
            _ => Ok(()),
        }
    }

    pub(super) fn count(&mut self, field: &str) -> Result<Option<u32>, Invalid> {
        let count = |value: Value| {
            let count = value.as_u64().and_then(|count| count.try_into().ok());
            count.ok_or_else(|| Invalid::value(field, "a whole number that is not negative"))
        };
        self.take(field).map(count).transpose()
    }

    pub(super) fn number(&mut self, field: &str) -> Result<Option<f64>, Invalid> {
        let number = |value: Value| {
            let number = value.as_f64();
            number.ok_or_else(|| Invalid::value(field, "a number"))
        };
        self.take(field).map(number).transpose()
    }

    pub(super) fn flag(&mut self, field: &str) -> Result<bool, Invalid> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Invalid::value(field, "true or false")),
        }
    }

    /// `logprobs` says whether, `top_logprobs` of how many besides.
    fn chat_logprobs(&mut self) -> Result<Option<u32>, Invalid> {
        let wanted = self.flag("logprobs")?;
        match self.count("top_logprobs")? {
            Some(_) if !wanted => Err(Invalid::value("logprobs", "true with `top_logprobs`")),
            top => Ok(wanted.then_some(top.unwrap_or(0))),
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
    fn lemma(&mut self) -> Result<(Option<Mode>, Option<B256>), Invalid> {
        let mut fields = match self.take("lemma") {
            None => return Ok((None, None)),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(Invalid::value("lemma", "an object")),
        };
        let mode = match fields.remove("mode") {
            None => None,
            Some(value) => Some(
                serde_json::from_value(value)
                    .map_err(|_| Invalid::value("lemma.mode", "the name of a mode"))?,
            ),
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

    /// What all endpoints share, the model, mode and request id, and nothing else.
    pub(super) fn ends(mut self) -> Result<(String, Option<Mode>, Option<B256>), Invalid> {
        let model = match self.take("model") {
            Some(Value::String(model)) => model,
            Some(_) => return Err(Invalid::value("model", "a text")),
            None => return Err(missing("model")),
        };
        let (mode, request_id) = self.lemma()?;
        for field in HARMLESS {
            self.take(field);
        }
        for field in UNSUPPORTED {
            self.neutral(field, |_| false)?;
        }
        match self.0.keys().next() {
            None => Ok((model, mode, request_id)),
            Some(field) => Err(unknown(field)),
        }
    }

    /// What both endpoints for text share, and nothing else.
    pub(super) fn rest(
        mut self,
        prompt: Prompt,
        max_tokens: u32,
        seed: u64,
        shape: Shape,
    ) -> Result<Asked, Invalid> {
        let stream = self.flag("stream")?;
        let include_usage = match self.take("stream_options") {
            None => false,
            Some(options) => options["include_usage"].as_bool().unwrap_or(false),
        };
        self.neutral("n", |value| value.as_u64() == Some(1))?;
        let request = TextRequest {
            sampling: self.sampling(seed)?,
            stop: self.stop()?,
            form: shape.form,
            tools: shape.tools,
            logprobs: shape.logprobs,
            ..TextRequest::new(prompt, max_tokens)
        };
        request.check()?;
        let (model, mode, request_id) = self.ends()?;
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
const UNSUPPORTED: [&str; 7] = [
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
    use lemma_types::text::{Form, Role};
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
            ("tools", json!([{ "type": "function" }]), "invalid_value"),
            (
                "tools",
                json!([{ "type": "web_search" }]),
                "unsupported_parameter",
            ),
            ("tool_choice", json!("required"), "invalid_value"),
            ("response_format", json!({ "type": "xml" }), "invalid_value"),
            (
                "response_format",
                json!({ "type": "json_schema" }),
                "invalid_value",
            ),
            ("logprobs", json!(1), "invalid_value"),
            ("logprobs", Value::Null, "invalid_value"),
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
            let mut body = with(field, value.clone());
            if field == "logprobs" && value.is_null() {
                body["top_logprobs"] = json!(3);
            }
            let invalid = read(&body).unwrap_err();
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
            (
                json!({ "role": "tool", "content": "" }),
                "messages[0].tool_call_id",
            ),
            (
                json!({ "role": "user", "content": "", "tool_calls": [] , "tool_call_id": "x" }),
                "messages[0].tool_call_id",
            ),
            (
                json!({ "role": "assistant", "tool_calls": [{ "id": "a", "type": "function" }] }),
                "messages[0].tool_calls",
            ),
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

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name, "parameters": {} } })
    }

    #[test]
    fn tools_and_forms_arrive_as_they_were_written() {
        let mut body = with("tools", json!([tool("f"), tool("g")]));
        let asked = read(&body).unwrap().request;
        assert_eq!(asked.tools, Some(body["tools"].to_string()));
        assert_eq!(asked.form, None);
        let named = json!({ "type": "function", "function": { "name": "g" } });
        let calls = |only: Option<&str>, several| {
            Some(Form::Calls {
                only: only.map(str::to_owned),
                several,
            })
        };
        for (choice, several, form) in [
            (json!("auto"), true, None),
            (json!("required"), true, calls(None, true)),
            (json!("required"), false, calls(None, false)),
            (named, true, calls(Some("g"), true)),
        ] {
            body["tool_choice"] = choice;
            body["parallel_tool_calls"] = json!(several);
            assert_eq!(read(&body).unwrap().request.form, form);
        }
        body["tool_choice"] = json!("none");
        assert_eq!(read(&body).unwrap().request.tools, None);
        body["tool_choice"] = json!({ "type": "function", "function": { "name": "h" } });
        assert_eq!(
            read(&body).unwrap_err().param.as_deref(),
            Some("tool_choice")
        );
        // The order of a schema is the order of the answer.
        let raw = r#"{"model":"a/b","messages":[{"role":"user","content":""}],"response_format":{"type":"json_schema",
            "json_schema":{"name":"x","strict":true,"schema": {"z": 1, "a": 2}}}}"#;
        let asked = chat(raw.as_bytes(), 7).unwrap().request;
        assert_eq!(
            asked.form,
            Some(Form::Schema(r#"{"z": 1, "a": 2}"#.to_owned()))
        );
        let object = read(&with("response_format", json!({ "type": "json_object" }))).unwrap();
        assert_eq!(object.request.form, Some(Form::Json));
    }

    #[test]
    fn calls_and_their_results_come_back_in_conversations() {
        let body = with(
            "messages",
            json!([
                { "role": "user", "content": "?" },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"x\":1}" } },
                ] },
                { "role": "tool", "tool_call_id": "c1", "content": [{ "type": "text", "text": "2" }] },
            ]),
        );
        let Prompt::Messages(messages) = read(&body).unwrap().request.prompt else {
            panic!()
        };
        let call = &messages[1].calls[0];
        assert_eq!(
            (
                call.id.as_str(),
                call.name.as_str(),
                call.arguments.as_str()
            ),
            ("c1", "f", "{\"x\":1}")
        );
        assert_eq!(
            (messages[2].role, messages[2].content.as_str()),
            (Role::Tool, "2")
        );
        assert_eq!(messages[2].call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn probabilities_are_asked_for_in_two_ways() {
        let mut body = with("logprobs", json!(true));
        assert_eq!(read(&body).unwrap().request.logprobs, Some(0));
        body["top_logprobs"] = json!(5);
        assert_eq!(read(&body).unwrap().request.logprobs, Some(5));
        body["top_logprobs"] = json!(21);
        assert_eq!(read(&body).unwrap_err().param.as_deref(), Some("logprobs"));
        let text = json!({ "model": "a/b", "prompt": "x", "logprobs": 2 }).to_string();
        assert_eq!(
            completion(text.as_bytes(), 7).unwrap().request.logprobs,
            Some(2)
        );
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
