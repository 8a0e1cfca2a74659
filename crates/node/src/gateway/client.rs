//! The gateway's side of the worker's protocol. Whatever a worker sends is bounded, and nothing of it is believed here.

use std::time::Duration;

use axum::http::StatusCode;
use lemma_types::B256;
use reqwest::{Client, Response, header};

use crate::protocol::{
    self, ErrorBody, MAX_ANSWER_BYTES, MAX_BATCH, MAX_JSON_BYTES, ReceiptState, WorkAnswer,
    decode_answer,
    text::{Frame, Frames},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a question about a receipt or batch may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerFailure {
    /// It could not be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It reports an error.
    #[error("{}", .0.message)]
    Reported(ErrorBody),
    /// What it sent is not of the protocol.
    #[error("it does not keep to the protocol: {0}")]
    Protocol(String),
}

impl WorkerFailure {
    /// A word for metrics.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Timeout(_) => "timeout",
            Self::Reported(body) => body.code.name(),
            Self::Protocol(_) => "protocol",
        }
    }
}

/// Speaks to workers, over connections that are kept.
#[derive(Clone)]
pub(crate) struct WorkerClient {
    client: Client,
    timeout: Duration,
}

impl WorkerClient {
    /// `timeout` bounds one inference, waiting included.
    pub(crate) fn new(timeout: Duration) -> Self {
        let client = lemma_store::http::client()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client needs nothing that can be missing");
        Self { client, timeout }
    }

    /// Asks a worker to run a model. `body` is an encoded [`WorkRequest`](protocol::WorkRequest).
    pub(crate) async fn infer(
        &self,
        endpoint: &str,
        body: bytes::Bytes,
    ) -> Result<WorkAnswer, WorkerFailure> {
        let request = self
            .client
            .post(format!("{endpoint}{}", protocol::INFER))
            .header(header::CONTENT_TYPE, protocol::MEDIA_TYPE)
            .body(body);
        let asked = async {
            let response = request.send().await.map_err(connection)?;
            if response.status() == StatusCode::OK {
                let bytes = read(response, MAX_ANSWER_BYTES).await?;
                return decode_answer(&bytes)
                    .map_err(|error| WorkerFailure::Protocol(error.to_string()));
            }
            Err(reported(response).await)
        };
        timed(self.timeout, asked).await
    }

    /// Asks a worker for text. `body` is an encoded [`TextWork`](protocol::text::TextWork). Returns when the worker has taken
    /// the request.
    pub(crate) async fn generate(
        &self,
        endpoint: &str,
        body: bytes::Bytes,
    ) -> Result<TextAnswer, WorkerFailure> {
        let request = self
            .client
            .post(format!("{endpoint}{}", protocol::GENERATE))
            .header(header::CONTENT_TYPE, protocol::MEDIA_TYPE)
            .body(body);
        let asked = async {
            let response = request.send().await.map_err(connection)?;
            if response.status() != StatusCode::OK {
                return Err(reported(response).await);
            }
            Ok(TextAnswer {
                response,
                frames: Frames::default(),
                timeout: self.timeout,
            })
        };
        timed(self.timeout, asked).await
    }

    /// Asks a worker where a receipt is; `None` if it does not know it.
    pub(crate) async fn receipt(
        &self,
        endpoint: &str,
        id: B256,
    ) -> Result<Option<ReceiptState>, WorkerFailure> {
        let url = format!("{endpoint}{}/{id}", protocol::RECEIPTS);
        let Some(bytes) = self.lookup(url, MAX_JSON_BYTES).await? else {
            return Ok(None);
        };
        let state = serde_json::from_slice(&bytes)
            .map_err(|error| WorkerFailure::Protocol(error.to_string()))?;
        Ok(Some(state))
    }

    /// Asks a worker for the ids of a batch; `None` if it does not know it.
    pub(crate) async fn batch(
        &self,
        endpoint: &str,
        root: B256,
    ) -> Result<Option<Vec<B256>>, WorkerFailure> {
        let url = format!("{endpoint}{}/{root}", protocol::BATCHES);
        let Some(bytes) = self.lookup(url, MAX_BATCH * 32).await? else {
            return Ok(None);
        };
        let (ids, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(WorkerFailure::Protocol(
                "a batch that is not a list of ids".to_owned(),
            ));
        }
        Ok(Some(ids.iter().map(|id| B256::new(*id)).collect()))
    }

    async fn lookup(&self, url: String, limit: usize) -> Result<Option<Vec<u8>>, WorkerFailure> {
        let asked = async {
            let response = self.client.get(url).send().await.map_err(connection)?;
            match response.status() {
                StatusCode::OK => read(response, limit).await.map(Some),
                StatusCode::NOT_FOUND => Ok(None),
                status => Err(WorkerFailure::Protocol(format!("status {status}"))),
            }
        };
        timed(LOOKUP, asked).await
    }
}

/// An answer in text that is under way. Dropping it lets the worker stop.
pub(crate) struct TextAnswer {
    response: Response,
    frames: Frames,
    timeout: Duration,
}

impl TextAnswer {
    /// The next frame; errors that the worker reports become failures.
    pub(crate) async fn next(&mut self) -> Result<Frame, WorkerFailure> {
        let timeout = self.timeout;
        timed(timeout, self.read_frame()).await
    }

    async fn read_frame(&mut self) -> Result<Frame, WorkerFailure> {
        loop {
            let frame = self.frames.pop();
            match frame.map_err(|error| WorkerFailure::Protocol(error.to_string()))? {
                Some(Frame::Error(body)) => return Err(WorkerFailure::Reported(plain(body))),
                Some(frame) => return Ok(frame),
                None => {}
            }
            match self.response.chunk().await.map_err(connection)? {
                Some(bytes) => self.frames.push(&bytes),
                None => {
                    let cut = "the answer ended before its receipt".to_owned();
                    return Err(WorkerFailure::Connection(cut));
                }
            }
        }
    }
}

async fn reported(response: Response) -> WorkerFailure {
    let status = response.status();
    let bytes = match read(response, MAX_JSON_BYTES).await {
        Ok(bytes) => bytes,
        Err(failure) => return failure,
    };
    match serde_json::from_slice(&bytes) {
        Ok(body) => WorkerFailure::Reported(plain(body)),
        Err(_) => {
            WorkerFailure::Protocol(format!("status {status} without an error of the protocol"))
        }
    }
}

fn plain(body: ErrorBody) -> ErrorBody {
    ErrorBody {
        message: shorten(body.message),
        ..body
    }
}

async fn timed<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, WorkerFailure>>,
) -> Result<T, WorkerFailure> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(WorkerFailure::Timeout(limit)))
}

async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, WorkerFailure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(connection)? {
        if bytes.len() + chunk.len() > limit {
            return Err(WorkerFailure::Protocol(format!("more than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn connection(error: reqwest::Error) -> WorkerFailure {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    WorkerFailure::Connection(cause.to_string())
}

/// A worker's words end up in front of users: not too many of them, and no control characters.
fn shorten(message: String) -> String {
    message
        .chars()
        .filter(|c| !c.is_control())
        .take(500)
        .collect()
}
