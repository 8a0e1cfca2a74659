//! A server behind a worker that speaks OpenAI's API and answers for models of format `upstream`. Nothing that it sends is
//! believed, and all of it is bounded; what backs its answers is the worker's word for having passed them on.

mod answer;
mod body;

use std::{collections::VecDeque, fmt, time::Duration};

use lemma_types::{
    text::{Call, Finish, Scored, TextRequest, Upstream as Stated},
    upstream::UpstreamModel,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use answer::Reader;
use body::body;

use super::execute::error;
use crate::protocol::{ErrorBody, ErrorCode};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest body of an error that is read, bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;

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
#[derive(Clone, Debug, PartialEq)]
pub enum Relay {
    /// Text that goes on.
    Text(String),
    /// A token with its probability.
    Scored(Scored),
    /// Whole: servers send calls in pieces, which nobody can use.
    Call(Call),
    /// The end.
    Finished {
        /// Why it ended.
        finish: Finish,
        /// What the server said of itself.
        stated: Stated,
    },
}

/// Reads the stream of an upstream server's answer to this request, in these pieces. Gives what it says until it ends or
/// breaks off, and whether it is complete.
#[must_use]
pub fn read_stream<'a>(
    request: &TextRequest,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Relay>, bool) {
    let (mut reader, mut news) = (Reader::new(request), VecDeque::new());
    let mut good = true;
    for piece in pieces {
        good = good && reader.push(piece, &mut news).is_ok();
    }
    let complete = good && matches!(news.back(), Some(Relay::Finished { .. }));
    (news.into(), complete)
}

/// An answer that is under way. Dropping it closes the connection, and the server stops.
pub(crate) struct Relayed {
    response: Response,
    reader: Reader,
    news: VecDeque<Relay>,
    /// What there is to say after the news.
    failure: Option<ErrorBody>,
    timeout: Duration,
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
        let reader = Reader::new(request);
        let mut request = self.client.post(url).json(&body);
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key);
        }
        let timeout = self.config.timeout;
        let response = timed(timeout, send(request)).await?;
        Ok(Relayed {
            response,
            reader,
            news: VecDeque::new(),
            failure: None,
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

impl Relayed {
    /// What comes next. The end comes once.
    pub(crate) async fn next(&mut self) -> Result<Relay, ErrorBody> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let taken = match timed(self.timeout, chunk(&mut self.response)).await? {
                Some(bytes) => self.reader.push(&bytes, &mut self.news),
                None => self.reader.end(&mut self.news),
            };
            self.failure = taken.err();
        }
    }
}

async fn chunk(response: &mut Response) -> Result<Option<bytes::Bytes>, ErrorBody> {
    response.chunk().await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

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
