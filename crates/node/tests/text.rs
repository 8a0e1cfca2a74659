//! Language models on a whole network: text, its receipt, its settlement, its replay; batches, cancellation, refusals.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should fail there"
)]

#[path = "text_parts/cheats.rs"]
mod cheats;
#[path = "support/language.rs"]
mod language;
mod support;
#[path = "text_parts/upstream.rs"]
mod upstream;

use alloy_primitives::U256;
use alloy_sol_types::SolCall as _;
use axum::{
    Router,
    body::{Body, Bytes},
    response::Response,
    routing::post,
};
use lemma_ledger::modules::{NODES, abi::ILemmaNodes};
use lemma_llm::Compute;
use lemma_node::{
    Network,
    gateway::{GenerateRequest, GenerationEvent, InferError, InferRequest, ModelRef, TextAnswer},
    language::{LanguageModel, manifest},
    ledger::Account,
    model::{Terms, engine},
    network::NetworkConfig,
    protocol::{
        self, Signed,
        text::{Ending, Frame, TextWork},
    },
};
use lemma_types::{
    Amount, B256, Digest, Mode, Receipt,
    bundle::Bundle,
    commitment::{self, Openings},
    keys::SecretKey,
    manifest::{File, Format},
    text::{Finish, Message, Prompt, Role, Sampling, TextRequest, TextResponse, Transcript},
};
use lemma_verify::{CheckName, Opened, Outcome, Recompute, Replayed, Report, Verdict, Verifier};
use support::{config, final_bundle, image, infer, start, until};

fn message(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

fn asked(seed: u64, max_tokens: u32) -> TextRequest {
    TextRequest {
        schema: TextRequest::SCHEMA.to_owned(),
        prompt: Prompt::Messages(vec![
            message(Role::System, "Be exact."),
            message(Role::User, "Grüße!"),
        ]),
        sampling: Sampling {
            seed,
            ..Sampling::default()
        },
        max_tokens,
        stop: vec![],
        form: None,
        tools: None,
        logprobs: None,
    }
}

fn load(seed: u64) -> LanguageModel {
    LanguageModel::from_gguf(&language::gguf(seed), &Compute::new(1)).unwrap()
}

/// Puts the model with this seed into the gateway's store.
async fn publish(network: &Network, seed: u64) -> Digest {
    let bytes = language::gguf(seed);
    let gateway = network.gateway();
    let file = File {
        path: "model.gguf".to_owned(),
        size: bytes.len() as u64,
        blake3: gateway.store().put_bytes(&bytes).unwrap(),
    };
    let manifest = manifest(&load(seed), Format::Gguf, vec![file], Terms::default()).unwrap();
    gateway.publish(&manifest.encode()).await.unwrap()
}

fn to(model: Digest, request: TextRequest) -> GenerateRequest {
    GenerateRequest {
        model: ModelRef::Root(model),
        request,
        mode: None,
        request_id: None,
    }
}

/// The answer, and the text as it came.
async fn generate(
    network: &Network,
    model: Digest,
    request: TextRequest,
) -> Result<(TextAnswer, String), InferError> {
    let mut generation = network.gateway().generate(to(model, request)).await?;
    let mut text = String::new();
    loop {
        match generation.next().await.unwrap() {
            GenerationEvent::Text(piece) => text += &piece,
            GenerationEvent::Done(answer) => return Ok((*answer, text)),
            GenerationEvent::Scored(_) | GenerationEvent::Calls(_) => {}
            GenerationEvent::Failed(error) => return Err(error),
        }
    }
}

fn verify(network: &Network, bundle: &Bundle, opened: &Opened) -> Report {
    let bytes = serde_json::to_vec(bundle).unwrap();
    Verifier::new(network.trusted_root())
        .unwrap()
        .verify_bytes(&bytes, opened)
}

fn replayed(model: &LanguageModel, transcript: &Transcript) -> Recompute {
    match model.replay(transcript, &Compute::new(1)) {
        Ok(difference) => Recompute::Replayed(Replayed {
            graph_root: model.root(),
            numeric_spec: lemma_graph::NUMERIC_SPEC_VERSION,
            difference,
        }),
        Err(reason) => Recompute::Unable(reason),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_streamed_settled_verified_and_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let network = start(NetworkConfig {
        workers: 1,
        ..config(directory.path())
    })
    .await;
    let model = publish(&network, 1).await;

    let (answer, streamed) = generate(&network, model, asked(5, 80)).await.unwrap();
    let response = &answer.transcript.response;
    assert_eq!(streamed, response.text);
    assert_eq!(answer.transcript.request, asked(5, 80));
    let receipt = &answer.receipt.receipt;
    assert_eq!(receipt.usage_in, answer.transcript.prompt.len() as u64);
    assert_eq!(receipt.usage_out, response.tokens.len() as u64);
    assert!(receipt.compute_units > 0);

    let bundle = Bundle {
        openings: Some(answer.openings),
        ..final_bundle(&network, receipt.id()).await
    };
    let local = load(1);
    let opened = Opened {
        text: Some(answer.transcript.clone()),
        recompute: replayed(&local, &answer.transcript),
        ..Opened::default()
    };
    let report = verify(&network, &bundle, &opened);
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
    assert_eq!(report.outcome(CheckName::Recomputation), Some(Outcome::Ok));

    forgeries_are_caught(&network, &bundle, &answer.transcript, &local);
    equal_requests_have_equal_answers(&network, model, &answer).await;
    endings_are_as_asked(&network, model).await;
    wrong_requests_are_refused(&network, model).await;
    whoever_goes_away_is_not_worked_for(&network, model).await;
    a_thousand_requests_are_answered_or_turned_away(&network, model).await;
    workers_that_fail_are_replaced_until_the_first_token(&network, model).await;
    network.stop().await;
}

/// Whatever of a transcript is changed does not open the commitments; and were it committed to, replay would tell.
fn forgeries_are_caught(
    network: &Network,
    bundle: &Bundle,
    honest: &Transcript,
    local: &LanguageModel,
) {
    type Change = fn(&mut Transcript);
    let half = |t: &mut Transcript| {
        let half = t.response.tokens.len() / 2;
        t.response.tokens.truncate(half);
        t.response.finish = Finish::Token;
    };
    let changes: [(&str, &str, Change); 6] = [
        ("truncation", "cut off", half),
        ("system prompt", "of the prompt", |t| {
            let Prompt::Messages(messages) = &mut t.request.prompt else {
                unreachable!()
            };
            messages[0].content = "Be kind..".to_owned();
        }),
        ("temperature", "of the answer is", |t| {
            t.request.sampling.temperature = 0.0;
        }),
        ("seed", "of the answer is", |t| t.request.sampling.seed += 1),
        ("a token", "token 7 of the answer is", |t| {
            t.response.tokens[7] = (t.response.tokens[7] + 1) % 256;
        }),
        ("the text", "the text is not", |t| t.response.text.push('!')),
    ];
    for (what, reason, change) in changes {
        let mut forged = honest.clone();
        change(&mut forged);
        let difference = local.replay(&forged, &Compute::new(1)).unwrap();
        let difference = difference.unwrap_or_else(|| panic!("{what} is not noticed"));
        assert!(difference.contains(reason), "{what}: {difference}");
        let opened = Opened {
            text: Some(forged.clone()),
            recompute: replayed(local, &forged),
            ..Opened::default()
        };
        let report = verify(network, bundle, &opened);
        assert_eq!(report.verdict, Verdict::Wrong, "{what}: {report}");
    }
    // Another model of the same shape, as a coarser quantisation would be.
    let other = load(2);
    let difference = other.replay(honest, &Compute::new(1)).unwrap();
    assert!(difference.unwrap().contains("the model chooses"));
    let opened = Opened {
        text: Some(honest.clone()),
        recompute: replayed(&other, honest),
        ..Opened::default()
    };
    let report = verify(network, bundle, &opened);
    assert_eq!(
        report.outcome(CheckName::Recomputation),
        Some(Outcome::Failed),
        "{report}"
    );
}

async fn equal_requests_have_equal_answers(network: &Network, model: Digest, alone: &TextAnswer) {
    let together = (0..8).map(|i| generate(network, model, asked(5 + i % 4, 80)));
    let answers = futures::future::join_all(together).await;
    let tokens: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().0.transcript.response.tokens)
        .collect();
    assert_eq!(tokens[0], alone.transcript.response.tokens);
    assert_eq!(tokens[..4], tokens[4..]);
    assert_ne!(tokens[0], tokens[1]);
}

async fn endings_are_as_asked(network: &Network, model: Digest) {
    let greedy = |max_tokens, stop: Vec<String>| TextRequest {
        prompt: Prompt::Tokens(vec![72, 105]),
        sampling: Sampling {
            temperature: 0.0,
            // Answers that only the request ends.
            bias: [(257, -1000.0)].into(),
            ..Sampling::default()
        },
        stop,
        ..asked(0, max_tokens)
    };
    let (short, _) = generate(network, model, greedy(9, vec![])).await.unwrap();
    let response = &short.transcript.response;
    assert_eq!(
        (response.tokens.len(), response.finish),
        (9, Finish::Length)
    );
    assert_eq!(short.transcript.prompt, [72, 105]);
    // As long as the context is, whatever is asked for.
    let (long, _) = generate(network, model, greedy(100_000, vec![]))
        .await
        .unwrap();
    let response = &long.transcript.response;
    assert_eq!(response.tokens.len(), language::CONTEXT as usize - 2);
    assert_eq!(load(1).replay(&long.transcript, &Compute::new(1)), Ok(None));

    let text = &response.text;
    let stop: String = text.chars().skip(20).take(3).collect();
    let at = text.find(&stop).unwrap();
    let (stopped, streamed) = generate(network, model, greedy(100_000, vec![stop]))
        .await
        .unwrap();
    assert_eq!(stopped.transcript.response.finish, Finish::Text(0));
    assert_eq!(streamed, text[..at]);
    assert_eq!(
        load(1).replay(&stopped.transcript, &Compute::new(1)),
        Ok(None)
    );
}

async fn wrong_requests_are_refused(network: &Network, model: Digest) {
    let refused = async |request: TextRequest| match generate(network, model, request).await {
        Err(InferError::InvalidInput(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let tokens = |prompt| TextRequest {
        prompt: Prompt::Tokens(prompt),
        ..asked(0, 5)
    };
    assert!(
        refused(tokens(vec![0; 512]))
            .await
            .contains("do not fit the context")
    );
    assert!(
        refused(tokens(vec![258]))
            .await
            .contains("not in the vocabulary")
    );
    assert!(refused(asked(0, 0)).await.contains("max_tokens"));

    // Tensors for a language model, and text for a model of tensors.
    let gateway = network.gateway();
    let tensors = InferRequest {
        model: ModelRef::Root(model),
        inputs: image(),
        mode: Mode::Signed,
        request_id: None,
    };
    let error = gateway.infer(tensors).await.unwrap_err().to_string();
    assert!(error.contains("takes text"), "{error}");
    let digits = gateway.models().await.unwrap()[0].root;
    let error = gateway.generate(to(digits, asked(0, 5))).await.unwrap_err();
    assert!(error.to_string().contains("takes tensors"), "{error}");
    // The worker is none the worse for it.
    infer(network).await.unwrap();
}

async fn whoever_goes_away_is_not_worked_for(network: &Network, model: Digest) {
    let gateway = network.gateway();
    let before = gateway.status().await.unwrap().receipts_pending;
    let mut generations = Vec::new();
    for seed in 0..4 {
        let request = TextRequest {
            sampling: Sampling {
                seed,
                bias: [(257, -1000.0)].into(),
                ..Sampling::default()
            },
            ..asked(seed, 400)
        };
        let mut generation = gateway.generate(to(model, request)).await.unwrap();
        assert!(matches!(
            generation.next().await,
            Some(GenerationEvent::Text(_))
        ));
        generations.push(generation);
    }
    drop(generations);
    let status = || futures::executor::block_on(gateway.status()).unwrap();
    until("requests end", || {
        status().workers.iter().all(|worker| worker.in_flight == 0)
    })
    .await;
    let after = gateway.status().await.unwrap().receipts_pending;
    assert!(after <= before + 1, "receipts for answers that nobody took");
}

/// More than the worker takes are told so at once; those that it took are answered, and whoever gives up makes room.
async fn a_thousand_requests_are_answered_or_turned_away(network: &Network, model: Digest) {
    let ask = |seed: u64| {
        let request = TextRequest {
            prompt: Prompt::Tokens(vec![72, 105]),
            sampling: Sampling {
                seed,
                bias: [(257, -1000.0)].into(),
                ..Sampling::default()
            },
            ..asked(seed, 16)
        };
        generate(network, model, request)
    };
    let all = futures::future::join_all((0..1000).map(ask)).await;
    let mut busy = 0;
    for outcome in &all {
        match outcome {
            Ok((answer, _)) => assert_eq!(answer.transcript.response.tokens.len(), 16),
            Err(InferError::Busy(_)) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    let answered = all.len() - busy;
    assert!(
        answered >= 256 && busy > 0,
        "{answered} answered, {busy} turned away"
    );

    // As many again, all of whom give up: their places are free for the next.
    let impatient = futures::future::join_all((0..1000).map(ask));
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(50), impatient)
            .await
            .is_err()
    );
    let status = || futures::executor::block_on(network.gateway().status()).unwrap();
    until("requests end", || {
        status().workers.iter().all(|worker| worker.in_flight == 0)
    })
    .await;
    let free = async {
        loop {
            let all = futures::future::join_all((0..64).map(ask)).await;
            if all.iter().all(Result::is_ok) {
                break;
            }
        }
    };
    assert!(tokio::time::timeout(support::PATIENCE, free).await.is_ok());
}

/// What a bad worker does with a request.
#[derive(Clone, Copy, Debug)]
enum Vice {
    /// Breaks off before the first token.
    Silent,
    /// Breaks off after a token.
    Short,
    /// Gives more tokens than were asked for.
    Endless,
    /// Signs another text than it gave.
    Lying,
}

/// A worker with an account of its own that answers as `vice` has it.
struct Mallory {
    key: SecretKey,
    account: Account,
    registered: bool,
}

impl Mallory {
    fn new(network: &Network) -> Self {
        let key = SecretKey::from_bytes(&network.accounts()[0].key.0).unwrap();
        Self {
            account: Account::new(key.clone(), network.ledger().clone()),
            key,
            registered: false,
        }
    }

    /// Serves from now on, at a new endpoint that the ledger and the gateway know. The gateway picks it first.
    async fn serve(&mut self, network: &Network, vice: Vice) {
        let (key, head) = (self.key.clone(), network.ledger().head());
        let chain_id = network.trusted_root().chain_id;
        let handler = move |body: Bytes| {
            let work = TextWork::decode(&body).unwrap();
            let anchor = (head.number, head.hash);
            let frames = frames(vice, &work, &key, anchor, chain_id);
            async move { Response::new(Body::from(frames)) }
        };
        let routes = Router::new().route(protocol::GENERATE, post(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let payee = self.key.address();
        let call = match std::mem::replace(&mut self.registered, true) {
            false => ILemmaNodes::registerCall { endpoint, payee }.abi_encode(),
            true => ILemmaNodes::updateCall { endpoint, payee }.abi_encode(),
        };
        let sent = self.account.send(NODES, U256::ZERO, call.into()).await;
        network.gateway().followed(sent.unwrap().height).await;
    }
}

fn frames(
    vice: Vice,
    work: &TextWork,
    key: &SecretKey,
    anchor: (u64, B256),
    chain_id: u64,
) -> Vec<u8> {
    let token = || Frame::Token {
        token: 65,
        text: "A".to_owned(),
    };
    let prompt = Frame::Prompt(vec![1, 2, 3]);
    let frames = match vice {
        Vice::Silent => vec![prompt],
        Vice::Short => vec![prompt, token()],
        Vice::Endless => {
            let mut frames = vec![prompt];
            frames.extend((0..=work.request.max_tokens).map(|_| token()));
            frames
        }
        Vice::Lying => {
            let response = TextResponse {
                schema: TextResponse::SCHEMA.to_owned(),
                tokens: vec![65],
                text: "B".to_owned(),
                finish: Finish::Length,
                prompt_tokens: 3,
                upstream: None,
                calls: vec![],
                logprobs: vec![],
            };
            let ending = Ending {
                text: String::new(),
                finish: Finish::Length,
                signed: sign(work, &response, key, anchor, chain_id),
                upstream: None,
            };
            vec![prompt, token(), Frame::End(Box::new(ending))]
        }
    };
    frames.iter().flat_map(Frame::encode).collect()
}

fn sign(
    work: &TextWork,
    response: &TextResponse,
    key: &SecretKey,
    anchor: (u64, B256),
    chain_id: u64,
) -> Signed {
    let openings = Openings::derive(B256::repeat_byte(9));
    let (terms, request) = (&work.terms, &work.request);
    let receipt = Receipt {
        request_id: terms.request_id,
        model_root: terms.model_root,
        engine: engine().id(),
        request_commitment: commitment::text_request(openings.request, terms.model_root, request),
        response_commitment: commitment::text_response(openings.response, response),
        transcript_root: commitment::text_transcript(
            openings.transcript,
            request,
            &[1, 2, 3],
            response,
        ),
        usage_in: 3,
        usage_out: 1,
        compute_units: 1,
        price: Amount::ZERO,
        payer: terms.payer,
        payment: terms.payment,
        mode: terms.mode,
        worker: key.address(),
        anchor_height: anchor.0,
        anchor_hash: anchor.1,
        completed_at: 1,
        previous_receipt: B256::ZERO,
        evidence: B256::ZERO,
    };
    Signed {
        receipt: receipt.sign(chain_id, key),
        openings,
        engine: engine(),
    }
}

async fn workers_that_fail_are_replaced_until_the_first_token(network: &Network, model: Digest) {
    let mut mallory = Mallory::new(network);
    let worker = mallory.key.address();

    mallory.serve(network, Vice::Silent).await;
    let (answer, _) = generate(network, model, asked(5, 8)).await.unwrap();
    assert_eq!(answer.failovers, 1);
    assert_ne!(answer.worker, worker);

    for vice in [Vice::Short, Vice::Endless] {
        mallory.serve(network, vice).await;
        let failed = generate(network, model, asked(5, 8)).await;
        assert!(
            matches!(&failed, Err(InferError::Broken { worker: found, .. }) if *found == worker),
            "{vice:?}: {failed:?}"
        );
        // The other worker's turn, so that the next is this one's again.
        generate(network, model, asked(5, 8)).await.unwrap();
    }
    mallory.serve(network, Vice::Lying).await;
    let refused = generate(network, model, asked(5, 1)).await;
    assert!(
        matches!(&refused, Err(InferError::Refused { worker: found, .. }) if *found == worker),
        "{refused:?}"
    );
    // It is set aside now.
    generate(network, model, asked(5, 8)).await.unwrap();
}
