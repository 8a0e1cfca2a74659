//! Workers that die, stall and lie: the gateway returns right answers of others, or none.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should fail there"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use axum::{Router, body::Body, response::Response, routing::post};
use bytes::Bytes;
use lemma_ledger::modules::{NODES, abi::ILemmaNodes};
use lemma_node::{
    Network,
    gateway::{BundleStatus, InferError, InferRequest, ModelRef},
    ledger::Account,
    model::engine,
    network::NetworkConfig,
    protocol::{self, ErrorBody, ErrorCode, Signed, Terms, WorkAnswer, WorkRequest, encode_answer},
};
use lemma_types::{
    Address, Amount, B256, Digest, Engine, Mode, Receipt, SignedReceipt,
    commitment::{self, Openings},
    keys::SecretKey,
    tensor::TensorData,
};
use lemma_verify::Verdict;
use support::{config, final_bundle, infer, request, start, verify};

/// A worker of ours that answers as a test wants, with true outputs at hand.
struct Mallory {
    account: Account,
    key: SecretKey,
    registered: bool,
    asked: Arc<AtomicU64>,
}

/// What an honest worker would send.
#[derive(Clone)]
struct Answer {
    receipt: Receipt,
    openings: Openings,
    engine: Engine,
    outputs: Vec<TensorData>,
    key: SecretKey,
    chain_id: u64,
}

impl Answer {
    fn sign(&self) -> SignedReceipt {
        self.receipt.clone().sign(self.chain_id, &self.key)
    }

    fn encode(&self) -> Vec<u8> {
        let signed = Signed {
            receipt: self.sign(),
            openings: self.openings,
            engine: self.engine.clone(),
        };
        encode_answer(&WorkAnswer {
            signed,
            evidence: None,
            outputs: self.outputs.clone(),
        })
    }

    /// Commits anew to what the answer holds now.
    fn commit(mut self, model: Digest, inputs: &[TensorData]) -> Self {
        self.receipt.request_commitment =
            commitment::tensor_request(self.openings.request, model, inputs);
        self.receipt.response_commitment =
            commitment::tensor_response(self.openings.response, &self.outputs);
        self.receipt.transcript_root =
            commitment::tensor_transcript(self.openings.transcript, inputs, &self.outputs);
        self
    }
}

impl Mallory {
    fn new(network: &Network) -> Self {
        let key = SecretKey::from_bytes(&network.accounts()[0].key.0).unwrap();
        let account = Account::new(key.clone(), network.ledger().clone());
        Self {
            account,
            key,
            registered: false,
            asked: Arc::default(),
        }
    }

    fn address(&self) -> Address {
        self.key.address()
    }

    /// Serves with `respond` from now on, at a new endpoint that the ledger and the gateway know.
    async fn serve<F, R>(&mut self, network: &Network, respond: F)
    where
        F: Fn(WorkRequest) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response> + Send,
    {
        let asked = Arc::clone(&self.asked);
        let handler = move |body: Bytes| {
            asked.fetch_add(1, Ordering::Relaxed);
            let respond = respond.clone();
            async move { respond(WorkRequest::decode(&body).unwrap()).await }
        };
        let routes = Router::new().route(protocol::INFER, post(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        self.register(network, endpoint).await;
    }

    async fn register(&mut self, network: &Network, endpoint: String) {
        let payee = self.address();
        let call = match std::mem::replace(&mut self.registered, true) {
            false => ILemmaNodes::registerCall { endpoint, payee }.abi_encode(),
            true => ILemmaNodes::updateCall { endpoint, payee }.abi_encode(),
        };
        let sent = self
            .account
            .send(NODES, U256::ZERO, call.into())
            .await
            .unwrap();
        network.gateway().followed(sent.height).await;
    }

    /// Answers truly, except for what `change` does.
    async fn answer(
        &mut self,
        network: &Network,
        truth: &[TensorData],
        change: fn(Answer, &WorkRequest) -> Answer,
    ) {
        let head = network.ledger().head();
        let (key, chain_id, outputs) = (
            self.key.clone(),
            network.trusted_root().chain_id,
            truth.to_vec(),
        );
        self.serve(network, move |work| {
            let openings = Openings::derive(B256::repeat_byte(9));
            let receipt = Receipt {
                request_id: work.terms.request_id,
                model_root: work.terms.model_root,
                engine: engine().id(),
                request_commitment: B256::ZERO,
                response_commitment: B256::ZERO,
                transcript_root: B256::ZERO,
                usage_in: work.inputs.iter().map(TensorData::elements).sum(),
                usage_out: outputs.iter().map(TensorData::elements).sum(),
                compute_units: 1,
                price: Amount::ZERO,
                payer: work.terms.payer,
                payment: work.terms.payment,
                mode: work.terms.mode,
                worker: key.address(),
                anchor_height: head.number,
                anchor_hash: head.hash,
                completed_at: 1,
                previous_receipt: B256::ZERO,
                evidence: B256::ZERO,
            };
            let answer = Answer {
                receipt,
                openings,
                engine: engine(),
                outputs: outputs.clone(),
                key: key.clone(),
                chain_id,
            };
            let answer = change(answer.commit(work.terms.model_root, &work.inputs), &work);
            async move { Response::new(Body::from(answer.encode())) }
        })
        .await;
    }
}

type Change = fn(Answer, &WorkRequest) -> Answer;

/// One lie each, everything else consistent with it.
fn lies() -> Vec<(&'static str, Change)> {
    vec![
        (
            "outputs that the receipt does not commit to",
            |mut answer, _| {
                answer.outputs = answer.outputs.into_iter().map(flipped).collect();
                answer
            },
        ),
        ("outputs of another shape", |mut answer, work| {
            answer.outputs = vec![support::tensor("probabilities", &[1, 3])];
            answer.receipt.usage_out = 3;
            answer.commit(work.terms.model_root, &work.inputs)
        }),
        ("no outputs", |mut answer, work| {
            answer.outputs.clear();
            answer.receipt.usage_out = 0;
            answer.commit(work.terms.model_root, &work.inputs)
        }),
        ("a commitment to other inputs", |answer, work| {
            let inputs: Vec<TensorData> = work.inputs.iter().cloned().map(flipped).collect();
            answer.commit(work.terms.model_root, &inputs)
        }),
        ("another model", |mut answer, work| {
            answer.receipt.model_root = Digest::of(b"other");
            answer.commit(Digest::of(b"other"), &work.inputs)
        }),
        ("another request", |mut answer, _| {
            answer.receipt.request_id = B256::repeat_byte(1);
            answer
        }),
        ("another mode", |mut answer, _| {
            answer.receipt.mode = Mode::Consensus;
            answer
        }),
        ("a price that nobody offered", |mut answer, _| {
            answer.receipt.price = Amount::from_units(1);
            answer
        }),
        ("another payer", |mut answer, _| {
            answer.receipt.payer = Address::repeat_byte(1);
            answer
        }),
        ("another worker's name", |mut answer, _| {
            answer.receipt.worker = Address::repeat_byte(1);
            answer
        }),
        ("another key", |mut answer, _| {
            answer.key = SecretKey::from_bytes(&[3; 32]).unwrap();
            answer
        }),
        ("another key and its name", |mut answer, _| {
            answer.key = SecretKey::from_bytes(&[3; 32]).unwrap();
            answer.receipt.worker = answer.key.address();
            answer
        }),
        ("another network", |mut answer, _| {
            answer.chain_id += 1;
            answer
        }),
        ("an unknown engine", |mut answer, _| {
            answer.engine.numeric_spec += 1;
            answer.receipt.engine = answer.engine.id();
            answer
        }),
        (
            "an engine that the receipt does not name",
            |mut answer, _| {
                answer.receipt.engine = B256::repeat_byte(1);
                answer
            },
        ),
        ("an anchor that is no block", |mut answer, _| {
            answer.receipt.anchor_hash = B256::repeat_byte(1);
            answer
        }),
        ("an anchor in the future", |mut answer, _| {
            answer.receipt.anchor_height += 1_000_000;
            answer
        }),
        ("evidence that is not there", |mut answer, _| {
            answer.receipt.evidence = B256::repeat_byte(1);
            answer
        }),
        ("usage that is not true", |mut answer, _| {
            answer.receipt.usage_out += 1;
            answer
        }),
        ("other salts", |mut answer, _| {
            answer.openings = Openings::derive(B256::ZERO);
            answer
        }),
    ]
}

fn flipped(tensor: TensorData) -> TensorData {
    let (name, dtype, shape, mut data) = tensor.into_parts();
    data[0] ^= 1;
    TensorData::new(name, dtype, shape, data).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_reaches_a_client() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(NetworkConfig {
        workers: 1,
        ..config(directory.path())
    })
    .await;
    let truth = infer(&network).await.unwrap();
    let mut mallory = Mallory::new(&network);

    // Who answers truly is believed, so what follows is due to the lies.
    mallory
        .answer(&network, &truth.outputs, |answer, _| answer)
        .await;
    let answer = infer(&network).await.unwrap();
    assert_eq!((answer.worker, answer.failovers), (mallory.address(), 0));

    assert_eq!(infer(&network).await.unwrap().worker, truth.worker);

    for (lie, change) in lies() {
        mallory.answer(&network, &truth.outputs, change).await;
        let before = mallory.asked.load(Ordering::Relaxed);
        let answer = infer(&network).await.unwrap();
        assert_eq!(
            mallory.asked.load(Ordering::Relaxed),
            before + 1,
            "{lie}: was not even asked"
        );
        assert_eq!(
            (answer.worker, answer.failovers),
            (truth.worker, 1),
            "{lie}"
        );
        assert_eq!(answer.outputs, truth.outputs);
    }

    // With nobody else to ask there is no answer, and it says why.
    network.kill_worker(0).await.unwrap();
    mallory.answer(&network, &truth.outputs, lies()[0].1).await;
    let error = infer(&network).await.unwrap_err();
    assert!(
        matches!(&error, InferError::Refused { worker, .. } if *worker == mallory.address()),
        "{error}"
    );
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stalls_breaks_off_or_babbles_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let request_timeout = Duration::from_secs(2);
    let network = start(NetworkConfig {
        workers: 1,
        request_timeout,
        ..config(directory.path())
    })
    .await;
    let truth = infer(&network).await.unwrap();
    let mut mallory = Mallory::new(&network);
    let replaced = async |what: &str| {
        let answer = infer(&network).await.unwrap();
        assert_eq!(
            (answer.worker, answer.failovers),
            (truth.worker, 1),
            "{what}"
        );
    };

    mallory.serve(&network, |_| std::future::pending()).await;
    replaced("silence").await;
    let endless = || {
        futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[7; 65_536])))
    };
    mallory
        .serve(&network, move |_| async move {
            Response::new(Body::from_stream(endless()))
        })
        .await;
    replaced("an endless answer").await;
    mallory
        .serve(&network, |_| async {
            let broken = [
                Ok(Bytes::from_static(b"LWAN")),
                Err(std::io::Error::other("gone")),
            ];
            Response::new(Body::from_stream(futures::stream::iter(broken)))
        })
        .await;
    replaced("a connection that breaks").await;
    mallory
        .serve(&network, |_| async { Response::new(Body::from("hello")) })
        .await;
    replaced("another protocol").await;
    mallory
        .serve(&network, |_| async { error(500, ErrorCode::Internal) })
        .await;
    replaced("an error of its own").await;
    mallory
        .serve(&network, |_| async { error(429, ErrorCode::Busy) })
        .await;
    replaced("a full queue").await;
    // One voice that the input is wrong is not enough.
    mallory
        .serve(&network, |_| async { error(422, ErrorCode::InvalidInput) })
        .await;
    replaced("a refusal without reason").await;
    network.stop().await;
}

fn error(status: u16, code: ErrorCode) -> Response {
    let body = ErrorBody {
        code,
        message: "no".to_owned(),
    };
    let body = Body::from(serde_json::to_vec(&body).unwrap());
    Response::builder().status(status).body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_in_the_middle_loses_no_request_and_no_receipt() {
    let directory = tempfile::tempdir().unwrap();
    // Nothing settles before the crash.
    let batch_interval = Duration::from_secs(3);
    let network = Arc::new(
        start(NetworkConfig {
            batch_interval,
            ..config(directory.path())
        })
        .await,
    );
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let network = Arc::clone(&network);
            tokio::spawn(async move { infer(&network).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    network.kill_worker(0).await.unwrap();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.unwrap().unwrap());
    }
    assert!(
        answers.iter().any(|answer| answer.failovers > 0),
        "the kill met nobody"
    );
    let survivor = infer(&network).await.unwrap().worker;
    let dead: Vec<_> = answers
        .iter()
        .filter(|answer| answer.worker != survivor)
        .collect();
    for answer in &dead {
        let status = network.gateway().bundle(answer.receipt_id()).await.unwrap();
        assert!(matches!(status, BundleStatus::Pending(_)));
    }
    network.restart_worker(0).await.unwrap();
    for answer in dead.iter().rev().take(3) {
        let bundle = final_bundle(&network, answer.receipt_id()).await;
        assert_eq!(verify(&network, &bundle, answer).verdict, Verdict::Verified);
    }
    Arc::into_inner(network).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_speaks_its_protocol_to_strangers() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(NetworkConfig {
        workers: 1,
        ..config(directory.path())
    })
    .await;
    let answer = infer(&network).await.unwrap();
    let endpoint = network.gateway().status().await.unwrap().workers[0]
        .endpoint
        .clone();
    let client = lemma_store::http::client().build().unwrap();
    let ask = async |body: Vec<u8>| {
        let response = client
            .post(format!("{endpoint}{}", protocol::INFER))
            .body(body)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let error: ErrorBody = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        (status, error.code)
    };
    let terms = Terms {
        mode: Mode::Signed,
        request_id: answer.receipt.receipt.request_id,
        model_root: answer.receipt.receipt.model_root,
        payer: Address::ZERO,
        payment: B256::ZERO,
        offer: Amount::ZERO,
    };
    let work = WorkRequest {
        terms,
        inputs: support::image(),
    };
    assert_eq!(ask(b"?".to_vec()).await, (400, ErrorCode::BadRequest));
    assert_eq!(ask(work.encode()).await, (409, ErrorCode::DuplicateRequest));
    let fresh = || B256::from(U256::from(rand()));
    let mode = WorkRequest {
        terms: Terms {
            mode: Mode::Proved,
            request_id: fresh(),
            ..terms
        },
        ..work.clone()
    };
    assert_eq!(ask(mode.encode()).await, (400, ErrorCode::ModeNotOffered));
    let model = WorkRequest {
        terms: Terms {
            model_root: Digest::of(b"?"),
            request_id: fresh(),
            ..terms
        },
        ..work.clone()
    };
    assert_eq!(
        ask(model.encode()).await,
        (424, ErrorCode::ModelUnavailable)
    );
    let inputs = WorkRequest {
        terms: Terms {
            request_id: fresh(),
            ..terms
        },
        inputs: vec![],
    };
    assert_eq!(ask(inputs.encode()).await, (422, ErrorCode::InvalidInput));
    let huge = vec![0; lemma_types::limits::HTTP_BODY_BYTES + 8192];
    assert_eq!(ask(huge).await, (400, ErrorCode::BadRequest));

    let get = async |path: String| {
        client
            .get(format!("{endpoint}{path}"))
            .send()
            .await
            .unwrap()
    };
    assert_eq!(
        get(format!("{}/{}", protocol::RECEIPTS, B256::ZERO))
            .await
            .status(),
        404
    );
    assert_eq!(
        get(format!("{}/zz", protocol::RECEIPTS)).await.status(),
        400
    );
    assert_eq!(
        get(format!("{}/{}", protocol::BATCHES, B256::ZERO))
            .await
            .status(),
        404
    );
    assert_eq!(get(protocol::HEALTH.to_owned()).await.status(), 200);
    let bundle = final_bundle(&network, answer.receipt_id()).await;
    let path = format!("{}/{}", protocol::RECEIPTS, answer.receipt_id());
    let settled = bundle.settlement.unwrap().batch;
    // The gateway follows the ledger, and so does the worker: either may be the first to know.
    let known = async {
        loop {
            let state: protocol::ReceiptState =
                serde_json::from_slice(&get(path.clone()).await.bytes().await.unwrap()).unwrap();
            match state.stage {
                protocol::Stage::Settled {
                    batch_index,
                    position,
                    ..
                } => return (batch_index, position.batch_root),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let known = tokio::time::timeout(support::PATIENCE, known).await;
    assert_eq!(known.unwrap(), (settled.index, settled.root));

    // A request by root, of a model that no name points to: what is not in any store is not known.
    let unknown = InferRequest {
        model: ModelRef::Root(Digest::of(b"?")),
        ..request()
    };
    assert!(matches!(
        network.gateway().infer(unknown).await,
        Err(InferError::UnknownModel(_))
    ));
    network.stop().await;
}

/// A number that was not used before.
fn rand() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
