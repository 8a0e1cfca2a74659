//! Text: pick a worker, fail over until the first token, pass tokens on, check the receipt at the end.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use lemma_types::{
    Address, B256, Engine, Manifest, Mode, ModelName, SignedReceipt,
    commitment::Openings,
    limits,
    text::{Call, Scored, TextRequest, TextResponse, Transcript},
};
use lemma_verify::Opened;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    InferError, Inner, ModelRef,
    client::{self, WorkerFailure},
    index::Served,
    infer::{Attempts, ChosenId, Resolved},
    pool::Lease,
};
use crate::{
    metrics as names,
    protocol::text::{Ending, Frame, TextWork},
};

/// Events that may wait for a slow client before the worker's connection waits too.
const BACKLOG: usize = 64;

/// What to ask of a language model.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// Which model.
    pub model: ModelRef,
    /// What is asked. Its seed and every other parameter are what the receipt commits to.
    pub request: TextRequest,
    /// What shall back the result; `None` takes what the model offers: [`Mode::Relayed`] if an upstream server answers for
    /// it, else [`Mode::Signed`].
    pub mode: Option<Mode>,
    /// The request's id, never used before; `None` draws one.
    pub request_id: Option<B256>,
}

/// An answer that is under way. Dropping it lets the worker stop at the next token.
#[derive(Debug)]
pub struct Generation {
    /// The name it was asked by, if it was.
    pub model_name: Option<ModelName>,
    /// The request's id, which the receipt will name.
    pub request_id: B256,
    /// The worker that answers.
    pub worker: Address,
    events: mpsc::Receiver<GenerationEvent>,
}

/// A piece of an answer.
#[derive(Debug)]
pub enum GenerationEvent {
    /// Text that goes on. It has no receipt yet: the last event says whether it stands.
    Text(String),
    /// Tokens with the logarithms of their probabilities; their text comes next.
    Scored(Vec<Scored>),
    /// Calls of tools.
    Calls(Vec<Call>),
    /// The answer is complete and its receipt was checked.
    Done(Box<TextAnswer>),
    /// There will be no receipt: what came before does not count.
    Failed(InferError),
}

/// An answer whose receipt was checked.
#[derive(Clone, Debug)]
pub struct TextAnswer {
    /// The model, as its receipt names it by its root.
    pub manifest: Arc<Manifest>,
    /// Request, prompt and answer, as the receipt commits to them.
    pub transcript: Transcript,
    /// The worker's receipt.
    pub receipt: SignedReceipt,
    /// What the receipt's engine id stands for.
    pub engine: Engine,
    /// The salts of its commitments: secret between worker, gateway and client. The gateway keeps no copy.
    pub openings: Openings,
    /// The account of the worker that ran it.
    pub worker: Address,
    /// How many workers were tried before this one.
    pub failovers: u32,
}

impl Generation {
    /// What comes next; `None` after the last event.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        self.events.recv().await
    }
}

/// What is asked of workers.
struct Asked {
    manifest: Arc<Manifest>,
    work: TextWork,
}

/// An answer as it arrives from a worker.
struct Arriving {
    answer: client::TextAnswer,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
    scored: Vec<Scored>,
    calls: Vec<Call>,
    bytes_of_calls: usize,
    passed_on: PassedOn,
    ending: Option<Box<Ending>>,
}

/// How much of an answer has been passed on.
#[derive(Clone, Copy, Default)]
struct PassedOn {
    /// Bytes of its text.
    text: usize,
    scored: usize,
    calls: usize,
}

impl Inner {
    pub(super) async fn generate(
        self: &Arc<Self>,
        request: GenerateRequest,
    ) -> Result<Generation, InferError> {
        let began = Instant::now();
        let result = self.begin(request, began).await;
        if let Err(error) = &result {
            record(error.code(), began);
        }
        result
    }

    async fn begin(
        self: &Arc<Self>,
        request: GenerateRequest,
        began: Instant,
    ) -> Result<Generation, InferError> {
        let invalid = |reason: String| Err(InferError::InvalidInput(reason));
        if let Err(reason) = request.request.check() {
            return invalid(reason.to_string());
        }
        let Resolved {
            name,
            root,
            manifest,
        } = self.resolve(&request.model).await?;
        if !manifest.format.is_text() {
            return invalid(format!(
                "`{}` takes tensors, not text: use /v2/models/{}/infer, or `lemma infer`",
                request.model, request.model
            ));
        }
        let mode = manifest.format.mode();
        if let Some(asked) = request.mode
            && asked != mode
        {
            let offered = mode;
            return Err(InferError::ModeNotOffered { asked, offered });
        }
        let (terms, chosen) = self.terms(mode, root, request.request_id).await?;
        let work = TextWork {
            terms,
            request: request.request,
        };
        let body = Bytes::from(work.encode());
        if body.len() > limits::TEXT_REQUEST_BYTES {
            return invalid(format!(
                "the request has {} bytes, at most {} are accepted",
                body.len(),
                limits::TEXT_REQUEST_BYTES
            ));
        }
        let room = self.room(body.len())?;
        let asked = Asked { manifest, work };
        let (lease, arriving, failovers) = self.find_worker(&asked, body).await?;
        let worker = lease.address;
        let (sender, events) = mpsc::channel(BACKLOG);
        let relay = Relay {
            inner: Arc::clone(self),
            asked,
            lease,
            arriving,
            failovers,
            _chosen: chosen,
            _room: room,
        };
        tokio::spawn(relay.run(sender, began));
        Ok(Generation {
            model_name: name,
            request_id: terms.request_id,
            worker,
            events,
        })
    }

    /// The first worker that gives a first token.
    async fn find_worker(
        self: &Arc<Self>,
        asked: &Asked,
        body: Bytes,
    ) -> Result<(Lease, Arriving, u32), InferError> {
        let mut attempts = Attempts::default();
        while let Some(lease) = attempts.next(&self.pool) {
            match self.first_token(&lease, asked, body.clone()).await {
                Ok(arriving) => return Ok((lease, arriving, attempts.failovers())),
                Err(failure) => attempts.note(&lease, failure.into()),
            }
        }
        Err(attempts.into_error(asked.work.terms.request_id))
    }

    async fn first_token(
        &self,
        lease: &Lease,
        asked: &Asked,
        body: Bytes,
    ) -> Result<Arriving, WorkerFailure> {
        let mut arriving = Arriving {
            answer: self.client.generate(&lease.endpoint, body).await?,
            prompt: Vec::new(),
            tokens: Vec::new(),
            text: String::new(),
            scored: Vec::new(),
            calls: Vec::new(),
            bytes_of_calls: 0,
            passed_on: PassedOn::default(),
            ending: None,
        };
        while arriving.is_silent() {
            arriving.read(&asked.work).await?;
        }
        Ok(arriving)
    }
}

impl Arriving {
    /// Takes in one frame. What a worker sends is bounded by what it was asked for.
    async fn read(&mut self, work: &TextWork) -> Result<(), WorkerFailure> {
        let broken = |what: &str| Err(WorkerFailure::Protocol(what.to_owned()));
        let relayed = work.terms.mode == Mode::Relayed;
        match self.answer.next().await? {
            Frame::Text(text) if relayed => self.text += &text,
            Frame::Text(_) => return broken("text without its tokens"),
            Frame::Token { .. } if relayed => {
                return broken("tokens of an upstream server's answer");
            }
            Frame::Prompt(prompt) if self.prompt.is_empty() => self.prompt = prompt,
            Frame::Token { .. } if self.tokens.len() >= work.request.max_tokens as usize => {
                return broken("more tokens than were asked for");
            }
            Frame::Token { token, text } => {
                self.tokens.push(token);
                self.text += &text;
            }
            // Of a relayed answer the tokens are not known, but how many there may be.
            Frame::Scored(scored)
                if self.scored.len() + 1 == self.tokens.len()
                    || relayed
                        && work.request.logprobs.is_some()
                        && self.scored.len() < work.request.max_tokens as usize =>
            {
                self.scored.push(scored);
            }
            Frame::Scored(_) => return broken("probabilities without their token"),
            Frame::Call(_) if self.calls.len() >= limits::TEXT_CALLS => {
                return broken("more calls of tools than an answer may have");
            }
            Frame::Call(call) => {
                self.bytes_of_calls += call.name.len() + call.arguments.len();
                self.calls.push(call);
            }
            Frame::End(ending) => {
                self.text += &ending.text;
                self.ending = Some(ending);
            }
            Frame::Prompt(_) => return broken("a second prompt"),
            Frame::Error(_) => return broken("an error that was not reported as one"),
        }
        if self.text.len() + self.bytes_of_calls > limits::TEXT_RESPONSE_BYTES {
            return broken("more text than an answer may have");
        }
        Ok(())
    }

    /// Whether another worker could still take over without anybody noticing.
    fn is_silent(&self) -> bool {
        self.tokens.is_empty()
            && self.text.is_empty()
            && self.calls.is_empty()
            && self.ending.is_none()
    }

    /// What has not been passed on.
    fn news(&mut self) -> Vec<GenerationEvent> {
        let before = std::mem::replace(
            &mut self.passed_on,
            PassedOn {
                text: self.text.len(),
                scored: self.scored.len(),
                calls: self.calls.len(),
            },
        );
        let mut news = Vec::new();
        if let scored @ [_, ..] = &self.scored[before.scored..] {
            news.push(GenerationEvent::Scored(scored.to_vec()));
        }
        if before.text < self.text.len() {
            let text = self.text[before.text..].to_owned();
            news.push(GenerationEvent::Text(text));
        }
        if let calls @ [_, ..] = &self.calls[before.calls..] {
            news.push(GenerationEvent::Calls(calls.to_vec()));
        }
        news
    }
}

/// Passes an answer on, from its first token to its receipt.
struct Relay {
    inner: Arc<Inner>,
    asked: Asked,
    lease: Lease,
    arriving: Arriving,
    failovers: u32,
    /// Keeps the request's id taken.
    _chosen: Option<ChosenId>,
    _room: OwnedSemaphorePermit,
}

/// The client has gone away.
struct Gone;

impl Relay {
    async fn run(mut self, events: mpsc::Sender<GenerationEvent>, began: Instant) {
        let last = tokio::select! {
            // Whoever goes away while the worker is silent is noticed too.
            () = events.closed() => Err(Gone),
            last = self.pass_on(&events) => last,
        };
        let outcome = match &last {
            Ok(GenerationEvent::Failed(error)) => error.code(),
            Ok(_) => "ok",
            Err(Gone) => "cancelled",
        };
        record(outcome, began);
        metrics::counter!(names::TEXT_TOKENS).increment(self.arriving.tokens.len() as u64);
        if let Ok(last) = last {
            // Whoever is gone does not hear of it.
            let _ = events.send(last).await;
        }
    }

    async fn pass_on(
        &mut self,
        events: &mpsc::Sender<GenerationEvent>,
    ) -> Result<GenerationEvent, Gone> {
        loop {
            for news in self.arriving.news() {
                events.send(news).await.map_err(|_| Gone)?;
            }
            if let Some(ending) = self.arriving.ending.take() {
                return Ok(self.finish(*ending).await);
            }
            if let Err(failure) = self.arriving.read(&self.asked.work).await {
                self.lease.failed(failure.reason());
                return Ok(GenerationEvent::Failed(InferError::Broken {
                    worker: self.lease.address,
                    reason: failure.to_string(),
                }));
            }
        }
    }

    /// Checks the receipt against everything that was passed on.
    async fn finish(&mut self, ending: Ending) -> GenerationEvent {
        let Ending {
            finish,
            signed,
            upstream,
            ..
        } = ending;
        let prompt = std::mem::take(&mut self.arriving.prompt);
        let transcript = Transcript {
            request: self.asked.work.request.clone(),
            response: TextResponse {
                schema: TextResponse::SCHEMA.to_owned(),
                tokens: self.arriving.tokens.clone(),
                text: std::mem::take(&mut self.arriving.text),
                finish,
                prompt_tokens: prompt.len() as u32,
                upstream,
                calls: std::mem::take(&mut self.arriving.calls),
                logprobs: std::mem::take(&mut self.arriving.scored),
            },
            prompt,
        };
        let (inner, terms, worker) = (
            Arc::clone(&self.inner),
            self.asked.work.terms,
            self.lease.address,
        );
        let manifest = Arc::clone(&self.asked.manifest);
        // Hashes and a signature: short, but not for the async threads.
        let checked = tokio::task::spawn_blocking(move || {
            let opened = Opened {
                text: Some(transcript),
                ..Opened::default()
            };
            inner
                .check_signed(&terms, &manifest, worker, &signed, None, &opened)
                .map(|()| (opened, signed))
        });
        let checked = checked.await;
        let checked = checked.unwrap_or_else(|_| Err("the check did not end".to_owned()));
        match checked {
            Ok((opened, signed)) => {
                self.lease.succeeded();
                let served = Served {
                    receipt: signed.receipt.clone(),
                    engine: signed.engine.clone(),
                };
                self.inner.index.served(served).await;
                GenerationEvent::Done(Box::new(TextAnswer {
                    manifest: Arc::clone(&self.asked.manifest),
                    transcript: opened.text.expect("put there above"),
                    receipt: signed.receipt,
                    engine: signed.engine,
                    openings: signed.openings,
                    worker,
                    failovers: self.failovers,
                }))
            }
            Err(reason) => {
                tracing::warn!(%worker, reason, "an answer was refused");
                self.lease.failed("answer_refused");
                GenerationEvent::Failed(InferError::Refused { worker, reason })
            }
        }
    }
}

fn record(outcome: &'static str, began: Instant) {
    metrics::counter!(names::REQUESTS, "outcome" => outcome).increment(1);
    metrics::histogram!(names::REQUEST_SECONDS).record(began.elapsed().as_secs_f64());
}
