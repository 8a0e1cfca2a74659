//! Transfers from real HTTP servers on loopback, honest and not.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should fail there"
)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode, header},
    routing::get,
};
use lemma_store::{
    BlobStore, FetchConfig, FetchError, Fetcher, GROUP_BYTES, Outline, Progress, Source,
    SourceError,
};
use lemma_types::Digest;

/// How a server answers requests for content. The argument is the group that was asked for.
type Tamper = dyn Fn(u64, Answer) -> Answer + Send + Sync;

/// Status, the range it claims to send, body, and the length it claims.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    range: Option<String>,
    body: Vec<u8>,
    length: Option<u64>,
}

struct Server {
    content: Vec<u8>,
    outline: Vec<u8>,
    tamper: Box<Tamper>,
    requests: AtomicU64,
}

async fn content(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response<Body> {
    server.requests.fetch_add(1, Ordering::Relaxed);
    let range = headers[header::RANGE].to_str().unwrap();
    let (start, end) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    let honest = Answer {
        status: StatusCode::PARTIAL_CONTENT,
        range: Some(format!("bytes {start}-{end}/{}", server.content.len())),
        body: server.content[start..=end].to_vec(),
        length: None,
    };
    let answer = (server.tamper)(start as u64 / GROUP_BYTES, honest);
    let mut response = Response::builder().status(answer.status);
    if let Some(range) = answer.range {
        response = response.header(header::CONTENT_RANGE, range);
    }
    if let Some(length) = answer.length {
        response = response.header(header::CONTENT_LENGTH, length);
    }
    // A stream, so that the server does not correct the length.
    let body = futures::stream::iter([Ok::<_, std::io::Error>(answer.body)]);
    response.body(Body::from_stream(body)).unwrap()
}

async fn outline(State(server): State<Arc<Server>>) -> Vec<u8> {
    server.outline.clone()
}

async fn serve(
    content_bytes: &[u8],
    tamper: impl Fn(u64, Answer) -> Answer + Send + Sync + 'static,
) -> (Source, Arc<Server>) {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    let digest = store.put_bytes(content_bytes).unwrap();
    let server = Arc::new(Server {
        content: content_bytes.to_vec(),
        outline: store.outline(&digest).unwrap().encode(),
        tamper: Box::new(tamper),
        requests: AtomicU64::new(0),
    });
    let routes = Router::new()
        .route("/blobs/{digest}", get(content))
        .route("/blobs/{digest}/outline", get(outline))
        .with_state(Arc::clone(&server));
    (Source::host(&listen(routes).await), server)
}

async fn honest(content: &[u8]) -> (Source, Arc<Server>) {
    serve(content, |_, answer| answer).await
}

async fn listen(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

fn pattern(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    let mut state = 1u64;
    for chunk in bytes.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

fn fetcher() -> Fetcher {
    let idle = Duration::from_secs(2);
    Fetcher::new(FetchConfig {
        idle,
        ..FetchConfig::default()
    })
}

fn store() -> (tempfile::TempDir, BlobStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(directory.path()).unwrap();
    (directory, store)
}

fn why(error: &FetchError, source: &Source) -> SourceError {
    let FetchError::Sources { dropped, .. } = error else {
        panic!("{error}")
    };
    dropped
        .iter()
        .find(|(dropped, _)| dropped == source)
        .unwrap()
        .1
        .clone()
}

#[tokio::test]
async fn blobs_of_every_awkward_size_arrive() {
    for size in [
        0,
        1,
        1024,
        GROUP_BYTES - 1,
        GROUP_BYTES,
        GROUP_BYTES + 1,
        3 * GROUP_BYTES,
        4 * GROUP_BYTES + 1025,
    ] {
        let content = pattern(size);
        let (source, _server) = honest(&content).await;
        let (_directory, store) = store();
        let seen = Mutex::new(Vec::new());
        let progress = |progress: Progress| seen.lock().unwrap().push(progress.done);
        let digest = Digest::of(&content);
        let report = fetcher()
            .fetch(digest, size, &[source], &store, &progress)
            .await
            .unwrap();
        assert_eq!(report.fetched, size);
        assert_eq!(store.read(&digest, size).unwrap(), content);
        let seen = seen.into_inner().unwrap();
        assert!(seen.is_sorted());
        assert_eq!(seen.last(), Some(&size));
        assert_eq!(seen.len() as u64, Outline::group_count(size));
    }
}

#[tokio::test]
async fn what_is_here_is_not_fetched() {
    let content = pattern(100);
    let (_directory, store) = store();
    let digest = store.put_bytes(&content).unwrap();
    let report = fetcher()
        .fetch(digest, 100, &[], &store, &|_| {})
        .await
        .unwrap();
    assert_eq!(report.fetched, 0);
    let error = fetcher()
        .fetch(digest, 99, &[], &store, &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        FetchError::Size {
            stated: 99,
            actual: 100,
            ..
        }
    ));
}

#[tokio::test]
async fn a_source_that_corrupts_any_group_is_dropped_and_named() {
    let content = pattern(3 * GROUP_BYTES + 77);
    let digest = Digest::of(&content);
    for bad in 0..4 {
        let (liar, _server) = serve(&content, move |group, mut answer| {
            if group == bad {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
            }
            answer
        })
        .await;
        let (_directory, store) = store();
        let size = content.len() as u64;
        let error = fetcher()
            .fetch(digest, size, std::slice::from_ref(&liar), &store, &|_| {})
            .await
            .unwrap_err();
        assert_eq!(why(&error, &liar), SourceError::WrongBytes(bad));
        assert!(error.to_string().contains(&liar.to_string()));
        assert!(!store.contains(&digest));
        // With an honest source beside it the blob arrives, and the liar is still named.
        let (good, _server) = honest(&content).await;
        let report = fetcher()
            .fetch(digest, size, &[liar.clone(), good], &store, &|_| {})
            .await
            .unwrap();
        assert_eq!(store.read(&digest, size).unwrap(), content);
        assert!(report.dropped.iter().all(|(source, _)| *source == liar));
    }
}

#[tokio::test]
async fn lies_about_length_and_range_are_found() {
    let content = pattern(2 * GROUP_BYTES);
    let size = content.len() as u64;
    let digest = Digest::of(&content);
    type Case = (fn(u64, Answer) -> Answer, fn(&SourceError) -> bool);
    let cases: [Case; 6] = [
        // Announces an enormous body.
        (
            |_, answer| Answer {
                length: Some(1 << 50),
                ..answer
            },
            |e| matches!(e, SourceError::Length { actual, .. } if *actual == 1 << 50),
        ),
        // Sends more than was asked for, without announcing it.
        (
            |_, mut answer| {
                answer.body.push(0);
                answer
            },
            |e| matches!(e, SourceError::Length { .. }),
        ),
        // Ends early, without announcing it.
        (
            |_, mut answer| {
                answer.body.pop();
                answer
            },
            |e| matches!(e, SourceError::Length { .. }),
        ),
        // Announces the right length and breaks off.
        (
            |_, mut answer| {
                answer.length = Some(answer.body.len() as u64);
                answer.body.truncate(1000);
                answer
            },
            |e| matches!(e, SourceError::Connection(_)),
        ),
        // Claims another range.
        (
            |_, answer| Answer {
                range: Some("bytes 0-9/10".to_owned()),
                ..answer
            },
            |e| *e == SourceError::Range,
        ),
        // Ignores ranges.
        (
            |_, answer| Answer {
                status: StatusCode::OK,
                range: None,
                ..answer
            },
            |e| *e == SourceError::Range,
        ),
    ];
    for (number, (tamper, expected)) in cases.into_iter().enumerate() {
        let (liar, _server) = serve(&content, tamper).await;
        let (_directory, store) = store();
        let error = fetcher()
            .fetch(digest, size, std::slice::from_ref(&liar), &store, &|_| {})
            .await
            .unwrap_err();
        let reason = why(&error, &liar);
        assert!(expected(&reason), "case {number}: {reason}");
    }
}

#[tokio::test]
async fn an_interrupted_transfer_goes_on_where_it_ended() {
    let content = pattern(6 * GROUP_BYTES);
    let size = content.len() as u64;
    let digest = Digest::of(&content);
    let (half, _server) = serve(&content, |group, answer| {
        if group < 3 {
            answer
        } else {
            Answer {
                status: StatusCode::NOT_FOUND,
                ..answer
            }
        }
    })
    .await;
    let (directory, store) = store();
    let error = fetcher()
        .fetch(digest, size, std::slice::from_ref(&half), &store, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(why(&error, &half), SourceError::NotFound);
    // What a crash may leave: a group that is marked as present but was never written.
    let mut marks =
        std::fs::read(directory.path().join(format!("partial/{digest}.groups"))).unwrap();
    assert_eq!(marks, [1, 1, 1, 0, 0, 0]);
    marks[5] = 1;
    std::fs::write(
        directory.path().join(format!("partial/{digest}.groups")),
        marks,
    )
    .unwrap();

    let store = BlobStore::open(directory.path()).unwrap();
    // A plain file server, without an outline: the saved one serves.
    let (good, server) = honest(&content).await;
    let plain = Source::file(&format!("{good}/blobs/{digest}"), None);
    let report = fetcher()
        .fetch(digest, size, &[plain], &store, &|_| {})
        .await
        .unwrap();
    assert_eq!(report.fetched, 3 * GROUP_BYTES);
    assert_eq!(server.requests.load(Ordering::Relaxed), 3);
    assert_eq!(store.read(&digest, size).unwrap(), content);
    assert_eq!(
        std::fs::read_dir(directory.path().join("partial"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn two_sources_share_the_work_and_one_may_die() {
    let content = pattern(8 * GROUP_BYTES);
    let size = content.len() as u64;
    let digest = Digest::of(&content);
    let (first, first_server) = honest(&content).await;
    let (second, second_server) = honest(&content).await;
    let (_directory, target) = store();
    fetcher()
        .fetch(digest, size, &[first, second.clone()], &target, &|_| {})
        .await
        .unwrap();
    let counts =
        [&first_server, &second_server].map(|server| server.requests.load(Ordering::Relaxed));
    assert_eq!(counts.iter().sum::<u64>(), 8);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

    let (_directory, target) = store();
    let dead = Source::host("http://127.0.0.1:9");
    let report = fetcher()
        .fetch(digest, size, &[dead.clone(), second], &target, &|_| {})
        .await
        .unwrap();
    assert_eq!(target.read(&digest, size).unwrap(), content);
    assert!(
        matches!(&report.dropped[..], [(source, SourceError::Connection(_))] if *source == dead)
    );
}

#[tokio::test]
async fn a_passing_failure_is_tried_again() {
    let content = pattern(2 * GROUP_BYTES);
    let size = content.len() as u64;
    let failed = AtomicU64::new(0);
    let (source, _server) = serve(&content, move |_, answer| {
        if failed.fetch_add(1, Ordering::Relaxed) < 2 {
            return Answer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..answer
            };
        }
        answer
    })
    .await;
    let (_directory, store) = store();
    fetcher()
        .fetch(Digest::of(&content), size, &[source], &store, &|_| {})
        .await
        .unwrap();
}

#[tokio::test]
async fn a_silent_source_is_given_up() {
    let content = pattern(10);
    let routes = Router::new().route(
        "/blobs/{digest}",
        get(|Path(_): Path<String>| async {
            std::future::pending::<()>().await;
        }),
    );
    let silent = Source::host(&listen(routes).await);
    let (_directory, store) = store();
    let config = FetchConfig {
        idle: Duration::from_millis(50),
        tries: 2,
        ..FetchConfig::default()
    };
    let error = Fetcher::new(config)
        .fetch(
            Digest::of(&content),
            10,
            std::slice::from_ref(&silent),
            &store,
            &|_| {},
        )
        .await
        .unwrap_err();
    assert!(matches!(why(&error, &silent), SourceError::Stalled(_)));
}

#[tokio::test]
async fn two_transfers_of_one_blob_do_not_meet() {
    let content = pattern(4 * GROUP_BYTES + 1);
    let size = content.len() as u64;
    let digest = Digest::of(&content);
    let (source, server) = honest(&content).await;
    let (_directory, store) = store();
    let sources = [source];
    let fetcher = fetcher();
    let both = [0, 1].map(|_| fetcher.fetch(digest, size, &sources, &store, &|_| {}));
    for report in futures::future::join_all(both).await {
        report.unwrap();
    }
    assert_eq!(server.requests.load(Ordering::Relaxed), 5);
    assert_eq!(store.read(&digest, size).unwrap(), content);
}

#[tokio::test]
async fn a_stated_size_beyond_the_bound_is_refused_before_anything_is_made() {
    let (directory, store) = store();
    let digest = Digest::of(b"x");
    let error = fetcher()
        .fetch(
            digest,
            u64::MAX,
            &[Source::host("http://127.0.0.1:9")],
            &store,
            &|_| {},
        )
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }));
    assert_eq!(
        std::fs::read_dir(directory.path().join("partial"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_small_blob_of_unknown_size_is_bounded_and_checked() {
    let routes =
        |body: Vec<u8>| Router::new().route("/blobs/{digest}", get(move || async move { body }));
    let content = pattern(5000);
    let digest = Digest::of(&content);
    let mut wrong = content.clone();
    wrong[77] ^= 1;
    let liar = Source::host(&listen(routes(wrong)).await);
    let huge = Source::host(&listen(routes(vec![0; 2 << 20])).await);
    let good = Source::host(&listen(routes(content.clone())).await);
    let (_directory, store) = store();
    let fetcher = fetcher();
    let error = fetcher
        .fetch_small(digest, 1 << 20, &[liar.clone(), huge.clone()], &store)
        .await
        .unwrap_err();
    assert_eq!(why(&error, &liar), SourceError::WrongBytes(0));
    assert!(matches!(why(&error, &huge), SourceError::Length { .. }));
    let fetched = fetcher
        .fetch_small(digest, 1 << 20, &[liar, good], &store)
        .await;
    assert_eq!(fetched.unwrap(), content);
    assert_eq!(
        fetcher
            .fetch_small(digest, 1 << 20, &[], &store)
            .await
            .unwrap(),
        content
    );
}
