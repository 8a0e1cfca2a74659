//! A real network of one validator and one worker, shared by the tests of a binary, and requests to its router.

use std::{
    fs,
    future::Future,
    path::PathBuf,
    sync::{OnceLock, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use lemma_api::{Api, Limits};
use lemma_node::{
    Network,
    network::{NetworkConfig, SampleModel},
};
use lemma_types::{Manifest, SignedReceipt, bundle::Bundle, keys::SecretKey, manifest::Format};
use lemma_verify::{CheckName, Opened, Outcome, verify_answer};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

pub(crate) const DIGITS_EXAMPLE: &[u8] = include_bytes!("../../../../models/digits/example.json");

/// The network and the router over it.
pub(crate) struct Fixture {
    pub(crate) runtime: Runtime,
    pub(crate) network: Network,
    pub(crate) router: Router,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no header {name}"))
            .to_str()
            .unwrap()
    }
}

fn samples() -> Vec<SampleModel> {
    let sample = |name: &str, content| SampleModel {
        name: name.parse().unwrap(),
        format: Format::Onnx,
        content,
        description: "a sample",
        licence: "MIT",
        output_licence: "",
        examples: Vec::new(),
    };
    vec![
        sample(
            "lemma/digits",
            include_bytes!("../../../../models/digits/model.onnx"),
        ),
        sample(
            "lemma/iris",
            include_bytes!("../../../../models/iris/model.onnx"),
        ),
    ]
}

/// The network of this test binary, started by whoever asks first.
pub(crate) fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let (network, router) = runtime.block_on(async {
            let config = NetworkConfig {
                validators: 1,
                workers: 1,
                heartbeat: Duration::from_millis(200),
                batch_interval: Duration::from_millis(200),
                samples: samples(),
                ..NetworkConfig::new(directory())
            };
            let network = Network::start(config).await.unwrap();
            let limits = Limits {
                blob_bytes: 1 << 20,
                store_bytes: 8 << 20,
            };
            let api =
                Api::new(network.gateway().clone(), network.ledger().clone(), &limits).unwrap();
            (network, api.router())
        });
        Fixture {
            runtime,
            network,
            router,
        }
    })
}

/// A directory of this test binary, empty.
fn directory() -> PathBuf {
    let name = std::env::current_exe()
        .unwrap()
        .file_name()
        .unwrap()
        .to_owned();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    path
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    fixture().runtime.block_on(work)
}

/// One test fills the worker's queue: others wait meanwhile.
static QUEUE: RwLock<()> = RwLock::new(());

/// Keeps all other requests of this test binary away.
pub(crate) fn undisturbed() -> RwLockWriteGuard<'static, ()> {
    QUEUE.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn send(request: Request<Body>) -> Answer {
    let _shared = QUEUE.read().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let response = fixture().router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    })
}

pub(crate) fn get(path: &str) -> Answer {
    send(Request::get(path).body(Body::empty()).unwrap())
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Answer {
    send(Request::post(path).body(body.into()).unwrap())
}

/// One call of JSON-RPC: its result, or its error.
pub(crate) fn rpc(method: &str, params: Value) -> Result<Value, Value> {
    let call = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let answer = post("/rpc", call.to_string());
    assert_eq!(answer.status, StatusCode::OK);
    let mut answer = answer.json();
    assert_eq!(
        (&answer["jsonrpc"], &answer["id"]),
        (&json!("2.0"), &json!(7))
    );
    match answer.get("error") {
        Some(error) => Err(error.clone()),
        None => Ok(answer["result"].take()),
    }
}

/// The key of a funded account that no other test binary's network shares.
pub(crate) fn funded(index: usize) -> SecretKey {
    SecretKey::from_bytes(&fixture().network.accounts()[index].key.0).unwrap()
}

/// Checks the key `lemma` of an answer as a client of its own would: the receipt is for what was opened.
pub(crate) fn check_opened(lemma: &Value, manifest: &Manifest, opened: &Opened) {
    let part = |name: &str| lemma[name].clone();
    let receipt: SignedReceipt = serde_json::from_value(part("receipt")).unwrap();
    assert_eq!(lemma["receipt_id"], json!(receipt.receipt.id()));
    let chain_id = fixture().network.trusted_root().chain_id;
    let bundle = Bundle {
        schema: Bundle::SCHEMA.to_owned(),
        chain_id,
        receipt,
        engine: serde_json::from_value(part("engine")).unwrap(),
        manifest: manifest.clone(),
        openings: Some(serde_json::from_value(part("openings")).unwrap()),
        settlement: None,
        proof: None,
    };
    let report = verify_answer(&bundle, chain_id, opened);
    for name in [
        CheckName::Request,
        CheckName::Response,
        CheckName::Transcript,
    ] {
        assert_eq!(report.outcome(name), Some(Outcome::Ok), "{report}");
    }
}
