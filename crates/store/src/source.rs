use std::{fmt, time::Duration};

use lemma_types::Digest;
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_RANGE, RANGE},
};

use crate::{Outline, OutlineError};

/// Where a blob can be fetched from. Nothing that it sends is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Host(String),
    File {
        content: String,
        outline: Option<String>,
    },
}

impl Source {
    /// A Lemma host, by the base of its API: `http://127.0.0.1:8402`.
    #[must_use]
    pub fn host(base: &str) -> Self {
        Self {
            kind: Kind::Host(base.trim_end_matches('/').to_owned()),
        }
    }

    /// Any web server that has this one blob at `content`. Without an outline of its own it can serve a large blob once
    /// another source has given the outline.
    #[must_use]
    pub fn file(content: &str, outline: Option<&str>) -> Self {
        Self {
            kind: Kind::File {
                content: content.to_owned(),
                outline: outline.map(str::to_owned),
            },
        }
    }

    fn content_url(&self, digest: &Digest) -> String {
        match &self.kind {
            Kind::Host(base) => format!("{base}/blobs/{digest}"),
            Kind::File { content, .. } => content.clone(),
        }
    }

    fn outline_url(&self, digest: &Digest) -> Option<String> {
        match &self.kind {
            Kind::Host(base) => Some(format!("{base}/blobs/{digest}/outline")),
            Kind::File { outline, .. } => outline.clone(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Host(base) => f.write_str(base),
            Kind::File { content, .. } => f.write_str(content),
        }
    }
}

/// What was wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It does not have the blob.
    #[error("it does not have the blob")]
    NotFound,
    /// No outline is known there.
    #[error("it has no outline of the blob")]
    NoOutline,
    /// It could not be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// It sent nothing for too long.
    #[error("it sent nothing for {0:?}")]
    Stalled(Duration),
    /// It answered with an unexpected status.
    #[error("it answered with status {0}")]
    Status(u16),
    /// It ignores `Range`, or answers with another range.
    #[error("it does not serve the range that was asked for")]
    Range,
    /// It sent more or fewer bytes than it should, or says that it will.
    #[error("it sent {actual} bytes (or said that it would), expected {expected}")]
    Length {
        /// Bytes sent or announced; more than `expected` means at least so many.
        actual: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// The bytes of a group are not those of the blob.
    #[error("it served wrong bytes in group {0}")]
    WrongBytes(u64),
    /// The outline is not that of the blob.
    #[error("it served a wrong outline: {0}")]
    WrongOutline(#[from] OutlineError),
}

impl SourceError {
    /// Whether another try may go better. A source that lacks the blob or served wrong bytes is not asked again.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Stalled(_) | Self::Status(429 | 500..=599)
        )
    }
}

/// Fetches the outline of a blob of more than one group.
pub(crate) async fn fetch_outline(
    client: &Client,
    source: &Source,
    digest: Digest,
    size: u64,
    idle: Duration,
) -> Result<Outline, SourceError> {
    let url = source.outline_url(&digest).ok_or(SourceError::NoOutline)?;
    let response = send(client.get(url), idle).await?;
    match response.status() {
        StatusCode::OK => {}
        status => return Err(unexpected(status)),
    }
    let bytes = read_exactly(response, Outline::encoded_len(size), idle).await?;
    Ok(Outline::decode(digest, size, &bytes)?)
}

/// Fetches the bytes of one group, unchecked but of the right length.
pub(crate) async fn fetch_group(
    client: &Client,
    source: &Source,
    outline: &Outline,
    group: u64,
    idle: Duration,
) -> Result<Vec<u8>, SourceError> {
    let (start, length) = outline.group_range(group);
    if length == 0 {
        return Ok(Vec::new());
    }
    let end = start + length - 1;
    let request = client
        .get(source.content_url(&outline.digest()))
        .header(RANGE, format!("bytes={start}-{end}"));
    let response = send(request, idle).await?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|value| value.to_str().ok());
            if range != Some(&format!("bytes {start}-{end}/{}", outline.size())) {
                return Err(SourceError::Range);
            }
        }
        // A server without ranges sends everything, which is right only for a blob of one group.
        StatusCode::OK if outline.groups() == 1 => {}
        StatusCode::OK => return Err(SourceError::Range),
        status => return Err(unexpected(status)),
    }
    read_exactly(response, length, idle).await
}

/// Fetches and checks a blob of at most `limit` bytes whose size is not known.
pub(crate) async fn fetch_whole(
    client: &Client,
    source: &Source,
    digest: Digest,
    limit: u64,
    idle: Duration,
) -> Result<Vec<u8>, SourceError> {
    let response = send(client.get(source.content_url(&digest)), idle).await?;
    match response.status() {
        StatusCode::OK => {}
        status => return Err(unexpected(status)),
    }
    let bytes = read_up_to(response, limit, idle).await?;
    if Digest::of(&bytes) != digest {
        return Err(SourceError::WrongBytes(0));
    }
    Ok(bytes)
}

async fn send(request: reqwest::RequestBuilder, idle: Duration) -> Result<Response, SourceError> {
    match tokio::time::timeout(idle, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(connection(&error)),
        Err(_) => Err(SourceError::Stalled(idle)),
    }
}

/// Reads a body of exactly `expected` bytes and not one more.
async fn read_exactly(
    response: Response,
    expected: u64,
    idle: Duration,
) -> Result<Vec<u8>, SourceError> {
    if let Some(actual) = response
        .content_length()
        .filter(|length| *length != expected)
    {
        return Err(SourceError::Length { actual, expected });
    }
    let bytes = read_up_to(response, expected, idle).await?;
    let actual = bytes.len() as u64;
    if actual == expected {
        Ok(bytes)
    } else {
        Err(SourceError::Length { actual, expected })
    }
}

/// Reads a body of at most `limit` bytes. A stated length is not believed: memory grows as bytes come.
async fn read_up_to(
    mut response: Response,
    limit: u64,
    idle: Duration,
) -> Result<Vec<u8>, SourceError> {
    let wrong = |actual| SourceError::Length {
        actual,
        expected: limit,
    };
    if let Some(actual) = response.content_length().filter(|length| *length > limit) {
        return Err(wrong(actual));
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = match tokio::time::timeout(idle, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| connection(&error))?,
            Err(_) => return Err(SourceError::Stalled(idle)),
        };
        let Some(chunk) = chunk else { return Ok(bytes) };
        let actual = (bytes.len() + chunk.len()) as u64;
        if actual > limit {
            return Err(wrong(actual));
        }
        bytes.extend_from_slice(&chunk);
    }
}

fn unexpected(status: StatusCode) -> SourceError {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => SourceError::NotFound,
        status => SourceError::Status(status.as_u16()),
    }
}

/// The innermost cause: the outer ones repeat the address.
fn connection(error: &reqwest::Error) -> SourceError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    SourceError::Connection(cause.to_string())
}
