//! A server behind a worker that speaks OpenAI's API and answers for models of format `upstream`. Nothing that it sends is
//! believed, and all of it is bounded; what backs its answers is the worker's word for having passed them on.

use std::{fmt, time::Duration};

use lemma_types::{
    limits,
    text::{Finish, Message, Prompt, Sampling, TextRequest, Upstream as Stated},
    upstream::{MODEL_BYTES, UpstreamModel},
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::{Map, Value, json};

use super::execute::error;
use crate::protocol::{ErrorBody, ErrorCode, text::MAX_TOKEN_BYTES};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest body of an error that is read, bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Longest line of a stream: one event, bytes.
const MAX_LINE_BYTES: usize = MAX_TOKEN_BYTES;

/// A server to front.
#[derive(Clone)]
pub struct UpstreamConfig {
    /// The base of its API, as OpenAI's clients take it: `http://127.0.0.1:8000/v1`.
    pub base: String,
    /// The model to ask it for.
    pub model: String,
    /// The key that it wants, if any. It leaves this process for nowhere else.
    pub key: Option<String>,
    /// How long it may be silent.
    pub timeout: Duration,
}

/// Without the key.
impl fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamConfig")
            .field("base", &self.base)
            .field("model", &self.model)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A server that this worker fronts.
pub(crate) struct Upstream {
    client: Client,
    base: Url,
    config: UpstreamConfig,
}

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    Text(String),
    Finished { finish: Finish, stated: Stated },
}

/// An answer that is under way. Dropping it closes the connection, and the server stops.
pub(crate) struct Relayed {
    response: Response,
    lines: Lines,
    answer: Answer,
    timeout: Duration,
}

/// What has come of an answer so far.
struct Answer {
    stated: Stated,
    finish: Option<Finish>,
    /// Bytes of its text.
    length: usize,
}

impl Upstream {
    /// Does not connect yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub(crate) fn new(config: UpstreamConfig) -> Result<Self, String> {
        UpstreamModel::new(&config.model).map_err(|error| error.to_string())?;
        let mut base = Url::parse(&config.base)
            .map_err(|error| format!("`{}` is not a URL: {error}", config.base))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(format!("`{}` is neither http nor https", config.base));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = lemma_store::http::client()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            // The key is for this server and no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            base,
            config,
        })
    }

    /// Asks for an answer; returns when the server has begun it.
    pub(crate) async fn begin(
        &self,
        model: &UpstreamModel,
        request: &TextRequest,
    ) -> Result<Relayed, ErrorBody> {
        if model.model != self.config.model {
            return Err(failed(format!(
                "this worker's upstream server is asked for `{}`, not for `{}`",
                self.config.model, model.model
            )));
        }
        let (path, body) = body(&model.model, request)?;
        let url = self
            .base
            .join(path)
            .map_err(|error| failed(error.to_string()))?;
        let mut request = self.client.post(url).json(&body);
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key);
        }
        let timeout = self.config.timeout;
        let response = timed(timeout, send(request)).await?;
        Ok(Relayed {
            response,
            lines: Lines::default(),
            answer: Answer::new(),
            timeout,
        })
    }
}

async fn send(request: RequestBuilder) -> Result<Response, ErrorBody> {
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > MAX_ERROR_BYTES {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let said = serde_json::from_slice(&body).map_or(None, |value: Value| message(&value["error"]));
    let said = said.unwrap_or_else(|| "without a reason".to_owned());
    let message = format!("the upstream server says {status}: {said}");
    Err(match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => error(ErrorCode::InvalidInput, message),
        StatusCode::TOO_MANY_REQUESTS => error(ErrorCode::Busy, message),
        _ => failed(message),
    })
}

/// What an error of OpenAI's form says.
fn message(error: &Value) -> Option<String> {
    let text = error["message"].as_str().or(error.as_str())?;
    Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
}

async fn timed<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ErrorBody>>,
) -> Result<T, ErrorBody> {
    let late = || {
        failed(format!(
            "the upstream server was silent for {} s",
            limit.as_secs()
        ))
    };
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| late())?
}

/// The innermost cause: the outer ones name the address, which is nobody else's affair.
fn broken(error: reqwest::Error) -> ErrorBody {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    failed(format!("the upstream server can not be reached: {cause}"))
}

fn failed(message: impl Into<String>) -> ErrorBody {
    error(ErrorCode::Upstream, message)
}

/// The path and body of a request. What is not set is left out, since servers refuse what they do not know.
fn body(model: &str, request: &TextRequest) -> Result<(&'static str, Value), ErrorBody> {
    if request.tools.is_some() || request.form.is_some() || request.logprobs.is_some() {
        let reason = "tools, forms and log probabilities are not passed on to upstream servers";
        return Err(error(ErrorCode::InvalidInput, reason));
    }
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", json!(model));
    set("stream", json!(true));
    set("stream_options", json!({ "include_usage": true }));
    set("max_tokens", json!(request.max_tokens));
    let path = match &request.prompt {
        Prompt::Messages(messages) => {
            let message =
                |message: &Message| json!({ "role": message.role, "content": message.content });
            set("messages", messages.iter().map(message).collect());
            "chat/completions"
        }
        Prompt::Text(text) => {
            set("prompt", json!(text));
            "completions"
        }
        Prompt::Tokens(_) => {
            let reason = "tokens of which vocabulary? An upstream server is asked with text";
            return Err(error(ErrorCode::InvalidInput, reason));
        }
    };
    if !request.stop.is_empty() {
        set("stop", json!(request.stop));
    }
    let (asked, plain) = (&request.sampling, Sampling::default());
    set("seed", json!(asked.seed));
    set("temperature", json!(asked.temperature));
    for (name, value, default) in [
        ("top_p", asked.top_p, plain.top_p),
        ("min_p", asked.min_p, plain.min_p),
        (
            "repetition_penalty",
            asked.repetition_penalty,
            plain.repetition_penalty,
        ),
        (
            "presence_penalty",
            asked.presence_penalty,
            plain.presence_penalty,
        ),
        (
            "frequency_penalty",
            asked.frequency_penalty,
            plain.frequency_penalty,
        ),
    ] {
        if value != default {
            set(name, json!(value));
        }
    }
    if asked.top_k != 0 {
        set("top_k", json!(asked.top_k));
    }
    if !asked.bias.is_empty() {
        set("logit_bias", json!(asked.bias));
    }
    Ok((path, Value::Object(body)))
}

impl Relayed {
    /// What comes next. The end comes once.
    pub(crate) async fn next(&mut self) -> Result<Relay, ErrorBody> {
        loop {
            while let Some(line) = self.lines.pop()? {
                if let Some(news) = self.answer.take(&line)? {
                    return Ok(news);
                }
            }
            match timed(self.timeout, chunk(&mut self.response)).await? {
                Some(bytes) => self.lines.push(&bytes),
                None => return self.answer.end(),
            }
        }
    }
}

async fn chunk(response: &mut Response) -> Result<Option<bytes::Bytes>, ErrorBody> {
    response.chunk().await.map_err(broken)
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Bytes of the front in which no line ends.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn pop(&mut self) -> Result<Option<Vec<u8>>, ErrorBody> {
        let found = self.bytes[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(at) = found else {
            self.searched = self.bytes.len();
            if self.searched > MAX_LINE_BYTES {
                return Err(failed("the upstream server sent an event that is too long"));
            }
            return Ok(None);
        };
        let end = self.searched + at;
        if end > MAX_LINE_BYTES {
            return Err(failed("the upstream server sent an event that is too long"));
        }
        let rest = self.bytes.split_off(end + 1);
        self.searched = 0;
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }
}

impl Answer {
    const fn new() -> Self {
        Self {
            stated: Stated {
                model: String::new(),
                prompt_tokens: 0,
                completion_tokens: 0,
            },
            finish: None,
            length: 0,
        }
    }

    /// Takes a line of the stream in.
    fn take(&mut self, line: &[u8]) -> Result<Option<Relay>, ErrorBody> {
        // Comments and names of events are for others.
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(None);
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return self.end().map(Some);
        }
        let event: Value = serde_json::from_slice(data)
            .map_err(|_| failed("the upstream server sent an event that is not JSON"))?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            let said = message(error).unwrap_or_else(|| "without a reason".to_owned());
            return Err(failed(format!("the upstream server broke off: {said}")));
        }
        if let Some(model) = event["model"].as_str() {
            self.stated.model = shortened(model);
        }
        let count = |field: &str| event["usage"][field].as_u64();
        let known = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(tokens) = count("prompt_tokens") {
            self.stated.prompt_tokens = known(tokens);
        }
        if let Some(tokens) = count("completion_tokens") {
            self.stated.completion_tokens = known(tokens);
        }
        let choice = &event["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish = Some(finish(reason)?);
        }
        let text = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str())
            .unwrap_or_default();
        self.length += text.len();
        if self.length > limits::TEXT_RESPONSE_BYTES / 2 {
            return Err(failed("the upstream server's answer is too long"));
        }
        Ok((!text.is_empty()).then(|| Relay::Text(text.to_owned())))
    }

    fn end(&self) -> Result<Relay, ErrorBody> {
        let finish = self
            .finish
            .ok_or_else(|| failed("the upstream server's answer ended before its end"))?;
        Ok(Relay::Finished {
            finish,
            stated: self.stated.clone(),
        })
    }
}

fn finish(reason: &str) -> Result<Finish, ErrorBody> {
    match reason {
        // Whether by a stop text, it does not say.
        "stop" => Ok(Finish::Token),
        "length" => Ok(Finish::Length),
        other => Err(failed(format!(
            "the upstream server ended its answer for a reason that can not be passed on: {}",
            shortened(other)
        ))),
    }
}

fn shortened(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    let mut short = String::new();
    for c in plain {
        if short.len() + c.len_utf8() > MODEL_BYTES {
            break;
        }
        short.push(c);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> TextRequest {
        TextRequest {
            schema: TextRequest::SCHEMA.to_owned(),
            prompt: Prompt::Text("Once".to_owned()),
            sampling: Sampling::default(),
            max_tokens: 5,
            stop: vec![],
            form: None,
            tools: None,
            logprobs: None,
        }
    }

    #[test]
    fn a_request_says_no_more_than_was_asked() {
        let (path, plain) = body("m", &request()).unwrap();
        assert_eq!(path, "completions");
        let expected = json!({
            "model": "m", "stream": true, "stream_options": { "include_usage": true },
            "max_tokens": 5, "prompt": "Once", "seed": 0, "temperature": 1.0,
        });
        assert_eq!(plain, expected);
        let mut asked = request();
        asked.sampling.top_k = 3;
        asked.sampling.top_p = 0.5;
        asked.stop = vec!["x".to_owned()];
        let (_, full) = body("m", &asked).unwrap();
        assert_eq!(
            (&full["top_k"], &full["top_p"], &full["stop"]),
            (&json!(3), &json!(0.5), &json!(["x"]))
        );
        asked.prompt = Prompt::Tokens(vec![1]);
        assert_eq!(body("m", &asked).unwrap_err().code, ErrorCode::InvalidInput);
    }

    /// Everything that a stream gives, cut at every place.
    fn read(stream: &str, size: usize) -> Result<Vec<Relay>, ErrorBody> {
        let (mut lines, mut answer, mut news) = (Lines::default(), Answer::new(), Vec::new());
        for piece in stream.as_bytes().chunks(size) {
            lines.push(piece);
            while let Some(line) = lines.pop()? {
                news.extend(answer.take(&line)?);
            }
        }
        if !matches!(news.last(), Some(Relay::Finished { .. })) {
            news.push(answer.end()?);
        }
        Ok(news)
    }

    #[test]
    fn streams_are_read_however_they_are_cut() {
        let stream = ": hello\r\n\r\nevent: x\ndata: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\n\
            data:{\"choices\":[{\"delta\":{\"content\":\"Grü\u{df}e\"}}],\"usage\":null}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let expected = vec![
            Relay::Text("Grü\u{df}e".to_owned()),
            Relay::Finished {
                finish: Finish::Length,
                stated: Stated {
                    model: "m-1".to_owned(),
                    prompt_tokens: 7,
                    completion_tokens: 2,
                },
            },
        ];
        for size in 1..stream.len() {
            assert_eq!(read(stream, size).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_with_a_reason() {
        for (stream, reason) in [
            (
                "data: {\"error\":{\"message\":\"out of\\nmemory\"}}\n",
                "out ofmemory",
            ),
            (
                "data: {\"choices\":[{\"text\":\"x\"}]}\ndata: [DONE]\n",
                "before its end",
            ),
            ("data: {\"choices\":[{\"text\":\"x\"}]}\n", "before its end"),
            ("data: nonsense\n", "not JSON"),
            (
                "data: {\"choices\":[{\"finish_reason\":\"content_filter\"}]}\n",
                "content_filter",
            ),
            ("", "before its end"),
        ] {
            let error = read(stream, 7).unwrap_err();
            assert_eq!(error.code, ErrorCode::Upstream);
            assert!(
                error.message.contains(reason),
                "{stream}: {}",
                error.message
            );
        }
        let endless = "x".repeat(MAX_LINE_BYTES + 2);
        assert!(
            read(&endless, 4096)
                .unwrap_err()
                .message
                .contains("too long")
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(
            events in proptest::collection::vec("(data: )?[ -~]{0,40}|data: \\{\"choices\":\\[\\{\"text\":\"[a-z]{0,9}\"\\}\\]\\}", 0..20),
            size in 1usize..50,
        ) {
            let stream = events.join("\n");
            if let Ok(news) = read(&stream, size) {
                let ends = |news: &&Relay| matches!(news, Relay::Finished { .. });
                proptest::prop_assert!(news.iter().any(|news| ends(&news)));
            }
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let config = UpstreamConfig {
            base: "http://h".to_owned(),
            model: "m".to_owned(),
            key: Some("sk-secret".to_owned()),
            timeout: CONNECT,
        };
        assert!(!format!("{config:?}").contains("sk-secret"));
        for base in ["ftp://h", "h", "mailto:x"] {
            let base = base.to_owned();
            assert!(
                Upstream::new(UpstreamConfig {
                    base,
                    ..config.clone()
                })
                .is_err()
            );
        }
    }
}
