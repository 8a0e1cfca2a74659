//! The host: serves a content store over HTTP, as `docs/blob-transfer.md` specifies.

use std::{io::Read, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::{Stream, stream};
use lemma_store::{BlobReader, BlobStore, StoreError};
use lemma_types::Digest;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{metrics as names, serve::serve};

/// Bytes that are read from the disk at a time.
const PIECE: usize = 128 << 10;

/// Routes that serve a store: `GET|HEAD /blobs/{digest}` with `Range`, `GET /blobs/{digest}/outline`.
pub fn routes(store: BlobStore) -> Router {
    Router::new()
        .route("/blobs/{digest}", get(blob))
        .route("/blobs/{digest}/outline", get(outline))
        .with_state(store)
}

/// A host with a listener of its own.
pub(crate) struct Host {
    base: String,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Host {
    /// Serves the store at a free port of the loopback address.
    pub(crate) async fn start(store: BlobStore) -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let (shutdown, stop) = oneshot::channel();
        let server = serve(listener, routes(store), async {
            let _ = stop.await;
        });
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the host's server failed");
            }
        });
        Ok(Self {
            base,
            shutdown,
            server,
        })
    }

    /// The base of its addresses.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn stop(self) {
        let _ = self.shutdown.send(());
        let _ = self.server.await;
    }
}

/// Why there is no blob in the answer.
enum Refusal {
    NotFound,
    /// With the blob's size.
    Range(u64),
    Storage(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound,
            error => Self::Storage(error),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "no such blob").into_response(),
            Self::Range(size) => {
                let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response()
            }
            Self::Storage(error) => {
                tracing::error!(%error, "a blob could not be served");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

async fn blob(
    State(store): State<BlobStore>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest: Digest = digest.parse().map_err(|_| Refusal::NotFound)?;
    let size = store.size(&digest).ok_or(Refusal::NotFound)?;
    let range = match headers.get(header::RANGE) {
        // A range that is not understood is ignored (RFC 9110 §14.2).
        Some(value) => parse_range(value, size),
        None => Wanted::Everything,
    };
    let (status, start, length) = match range {
        Wanted::Everything => (StatusCode::OK, 0, size),
        Wanted::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Wanted::Nothing => return Err(Refusal::Range(size)),
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "public, max-age=31536000, immutable")
        .header(header::ETAG, format!("\"{digest}\""));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + length - 1);
        response = response.header(header::CONTENT_RANGE, range);
    }
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(pieces(store.open_range(&digest, start, length)?))
    };
    Ok(response.body(body).expect("status and headers are valid"))
}

async fn outline(
    State(store): State<BlobStore>,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    let digest: Digest = digest.parse().map_err(|_| Refusal::NotFound)?;
    // It may have to be made from the blob, which takes as long as hashing it.
    let made = tokio::task::spawn_blocking(move || store.outline(&digest)).await;
    let outline = made.unwrap_or(Err(StoreError::NotFound(digest)))?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, outline.encode()).into_response())
}

enum Wanted {
    Everything,
    Part { start: u64, length: u64 },
    Nothing,
}

/// One range of bytes (RFC 9110 §14.1.2): `bytes=a-b`, `bytes=a-`, `bytes=-n`.
fn parse_range(value: &HeaderValue, size: u64) -> Wanted {
    let range = value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return Wanted::Everything;
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let (start, end) = match (
        first.is_empty(),
        number(first),
        last.is_empty(),
        number(last),
    ) {
        (true, _, false, Some(suffix)) => (size.saturating_sub(suffix), size),
        (false, Some(start), true, _) => (start, size),
        (false, Some(start), false, Some(last)) if start <= last => {
            (start, last.saturating_add(1).min(size))
        }
        _ => return Wanted::Everything,
    };
    if start >= end {
        return Wanted::Nothing;
    }
    Wanted::Part {
        start,
        length: end - start,
    }
}

/// The bytes of a reader, read off the async threads.
fn pieces(reader: BlobReader) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(reader, |mut reader| async move {
        if reader.left() == 0 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE.min(reader.left().try_into().unwrap_or(PIECE))];
            let count = reader.read(&mut piece)?;
            piece.truncate(count);
            Ok::<_, std::io::Error>((piece, reader))
        });
        let (piece, reader) = read.await.map_err(std::io::Error::other)??;
        if piece.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        metrics::counter!(names::BLOB_BYTES_SERVED).increment(piece.len() as u64);
        Ok(Some((Bytes::from(piece), reader)))
    })
}

#[cfg(test)]
mod tests {
    use lemma_store::{FetchConfig, Fetcher, GROUP_BYTES, Source};

    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let parse =
            |text: &str, size| match parse_range(&HeaderValue::from_str(text).unwrap(), size) {
                Wanted::Everything => "all".to_owned(),
                Wanted::Part { start, length } => format!("{start}+{length}"),
                Wanted::Nothing => "none".to_owned(),
            };
        for (text, size, expected) in [
            ("bytes=0-9", 100, "0+10"),
            ("bytes=90-200", 100, "90+10"),
            ("bytes=99-", 100, "99+1"),
            ("bytes=-10", 100, "90+10"),
            ("bytes=-1000", 100, "0+100"),
            ("bytes=100-", 100, "none"),
            ("bytes=-0", 100, "none"),
            ("bytes=0-0", 0, "none"),
            ("bytes=5-4", 100, "all"),
            ("bytes=0-1,3-4", 100, "all"),
            ("bytes=x-y", 100, "all"),
            ("lines=0-1", 100, "all"),
            ("bytes=0-18446744073709551615", 100, "0+100"),
        ] {
            assert_eq!(parse(text, size), expected, "{text} of {size}");
        }
    }

    #[tokio::test]
    async fn a_fetcher_gets_what_a_host_serves() {
        let directory = tempfile::tempdir().unwrap();
        let source = BlobStore::open(directory.path().join("a")).unwrap();
        let target = BlobStore::open(directory.path().join("b")).unwrap();
        let host = Host::start(source.clone()).await.unwrap();
        let fetcher = Fetcher::new(FetchConfig::default());
        for size in [0, 1, GROUP_BYTES, 2 * GROUP_BYTES + 17] {
            let content = vec![size as u8 | 1; size as usize];
            let digest = source.put_bytes(&content).unwrap();
            let hosts = [Source::host(host.base())];
            fetcher
                .fetch(digest, size, &hosts, &target, &|_| {})
                .await
                .unwrap();
            assert_eq!(target.read(&digest, size).unwrap(), content);
        }
        let client = lemma_store::http::client().build().unwrap();
        let digest = source.put_bytes(b"0123456789").unwrap();
        let url = format!("{}/blobs/{digest}", host.base());
        let head = client.head(&url).send().await.unwrap();
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "10");
        let past = client
            .get(&url)
            .header(header::RANGE, "bytes=10-")
            .send()
            .await
            .unwrap();
        assert_eq!(past.status(), 416);
        assert_eq!(past.headers()[header::CONTENT_RANGE], "bytes */10");
        let other = format!("{}/blobs/{}", host.base(), Digest::of(b"?"));
        assert_eq!(client.get(other).send().await.unwrap().status(), 404);
        host.stop().await;
    }
}
