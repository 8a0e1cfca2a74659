//! Answers requests for text: tokens as they are chosen, then the receipt.

use std::{collections::VecDeque, sync::Arc};

use axum::body::Bytes;
use futures::Stream;
use lemma_types::{
    B256, Mode,
    commitment::{self, Openings},
    text::{Call, Finish, Scored, TextRequest, TextResponse, Transcript, Upstream},
};

use super::{
    execute::{Committed, Executor, error},
    http::{Service, check_new, refuse_duplicate},
    models::{Loaded, Runnable},
    queue::Place,
    text::{Running, TextEngine, Update},
    upstream::{Relay, Relayed},
};
use crate::{
    keys::random_word,
    language::{Prepared, Speech},
    protocol::{
        ErrorBody, ErrorCode, Signed, Terms,
        text::{Ending, Frame, TextWork},
    },
};

/// A request that an engine works on, with what it has given so far.
pub(crate) struct Generation {
    service: Arc<Service>,
    /// Keeps the model in memory, and the request's place in the queue.
    loaded: Arc<Loaded>,
    _place: Place,
    source: Source,
    terms: Terms,
    request: TextRequest,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
    scored: Vec<Scored>,
    calls: Vec<Call>,
    /// Frames that follow those that have been given.
    pending: VecDeque<Frame>,
    speech: Speech,
    stage: Stage,
}

/// Where an answer comes from.
enum Source {
    /// A model in this worker's memory.
    Engine(Running),
    /// A server that this worker fronts.
    Upstream(Box<Relayed>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prompt,
    Tokens,
    Over,
}

/// Takes a request on: loads the model, makes the prompt's tokens, hands them to the engine.
pub(crate) async fn begin(
    service: Arc<Service>,
    place: Place,
    work: TextWork,
) -> Result<Generation, ErrorBody> {
    let TextWork { terms, request } = work;
    let executor = &service.executor;
    let loaded = executor.load(terms.model_root).await?;
    let (source, prompt, speech) = match &loaded.model {
        Runnable::Upstream(model) => {
            check_relayed(terms.mode)?;
            refuse_duplicate(&service, terms.request_id).await?;
            let upstream = executor.upstream.as_ref().ok_or_else(|| {
                let message = "this worker fronts no upstream server, which the model needs";
                error(ErrorCode::Upstream, message)
            })?;
            executor.price(0, terms.offer)?;
            let relayed = upstream.begin(model, &request).await?;
            let source = Source::Upstream(Box::new(relayed));
            (source, Vec::new(), Speech::default())
        }
        _ => {
            executor.check_mode(terms.mode)?;
            let engine = text_engine(&loaded)?;
            let (running, prompt, speech) = submit(&service, engine, &terms, &request).await?;
            (Source::Engine(running), prompt, speech)
        }
    };
    Ok(Generation {
        source,
        loaded,
        _place: place,
        terms,
        request,
        prompt,
        tokens: Vec::new(),
        text: String::new(),
        scored: Vec::new(),
        calls: Vec::new(),
        pending: VecDeque::new(),
        speech,
        stage: Stage::Prompt,
        service: Arc::clone(&service),
    })
}

fn check_relayed(mode: Mode) -> Result<(), ErrorBody> {
    if mode == Mode::Relayed {
        return Ok(());
    }
    let message = format!(
        "mode `{mode}` is not offered for this model: `{}` is",
        Mode::Relayed
    );
    Err(error(ErrorCode::ModeNotOffered, message))
}

/// Makes the prompt's tokens and hands them to the engine, unless the request was answered before.
async fn submit(
    service: &Service,
    engine: &TextEngine,
    terms: &Terms,
    request: &TextRequest,
) -> Result<(Running, Vec<u32>, Speech), ErrorBody> {
    let Prepared {
        prompt,
        constraint,
        speech,
    } = {
        let (language, asked) = (Arc::clone(&engine.language), request.clone());
        let (journal, request_id) = (Arc::clone(&service.journal), terms.request_id);
        let made = tokio::task::spawn_blocking(move || {
            check_new(&journal, request_id)?;
            let prepared = language.prepare(&asked);
            prepared.map_err(|reason| error(ErrorCode::InvalidInput, reason))
        });
        made.await
            .map_err(|_| error(ErrorCode::Internal, "the prompt could not be read"))??
    };
    let executor = &service.executor;
    let most = prompt.len().saturating_add(request.max_tokens as usize);
    executor.price(engine.language.units(most), terms.offer)?;
    let asked = engine.language.engine_request(request, prompt.clone());
    let running = engine.submit(asked, constraint).await?;
    Ok((running, prompt, speech))
}

fn text_engine(loaded: &Loaded) -> Result<&TextEngine, ErrorBody> {
    match &loaded.model {
        Runnable::Language(engine) => Ok(engine),
        Runnable::Graph(_)
        | Runnable::Integer(_)
        | Runnable::Embedding(_)
        | Runnable::Upstream(_) => Err(error(
            ErrorCode::InvalidInput,
            "the model takes tensors, not text: ask for an inference with its inputs",
        )),
    }
}

impl Generation {
    /// The answer's frames, encoded. Dropping the stream cancels the request.
    pub(crate) fn frames(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures::stream::unfold(self, |mut generation| async move {
            if generation.stage == Stage::Over {
                return None;
            }
            let frame = match generation.next().await {
                Ok(frame) => frame,
                Err(body) => Frame::Error(body),
            };
            if matches!(frame, Frame::End(_) | Frame::Error(_)) {
                generation.stage = Stage::Over;
            }
            Some((Ok(Bytes::from(frame.encode())), generation))
        })
    }

    async fn next(&mut self) -> Result<Frame, ErrorBody> {
        if let Some(frame) = self.pending.pop_front() {
            return Ok(frame);
        }
        if self.stage == Stage::Prompt {
            self.stage = Stage::Tokens;
            return Ok(Frame::Prompt(self.prompt.clone()));
        }
        let running = match &mut self.source {
            Source::Engine(running) => running,
            Source::Upstream(relayed) => {
                let news = relayed.next().await?;
                return self.relay(news).await;
            }
        };
        match running.next().await {
            Some(Update::Token { choice, text }) => {
                let token = choice.token;
                self.tokens.push(token);
                if self.request.logprobs.is_some() {
                    let scored = text_engine(&self.loaded)?.language.scored(&choice);
                    self.scored.push(scored.clone());
                    self.pending.push_back(Frame::Scored(scored));
                }
                let said = self.speech.push(&text);
                let text = self.hear(said);
                Ok(Frame::Token { token, text })
            }
            Some(Update::Finished { finish, text }) => {
                let (mut text, mut calls) = self.speech.push(&text);
                let (rest, more) = self.speech.finish();
                text += &rest;
                calls.extend(more);
                let text = self.hear((text, calls));
                let ending = self.end(text, finish, None).await?;
                self.pending.push_back(ending);
                Ok(self.pending.pop_front().expect("it was put there"))
            }
            Some(Update::Failed(reason)) => Err(error(ErrorCode::Internal, reason)),
            None => Err(error(ErrorCode::Internal, "the model's engine has failed")),
        }
    }

    /// Takes in what the model has said; calls follow in frames of their own.
    fn hear(&mut self, (text, calls): (String, Vec<Call>)) -> String {
        self.text += &text;
        for call in calls {
            self.calls.push(call.clone());
            self.pending.push_back(Frame::Call(call));
        }
        text
    }

    async fn relay(&mut self, news: Relay) -> Result<Frame, ErrorBody> {
        match news {
            Relay::Text(text) => {
                self.text += &text;
                Ok(Frame::Text(text))
            }
            Relay::Scored(scored) => {
                self.scored.push(scored.clone());
                Ok(Frame::Scored(scored))
            }
            Relay::Call(call) => {
                self.calls.push(call.clone());
                Ok(Frame::Call(call))
            }
            Relay::Finished { finish, stated } => {
                self.end(String::new(), finish, Some(stated)).await
            }
        }
    }

    async fn end(
        &mut self,
        text: String,
        finish: Finish,
        upstream: Option<Upstream>,
    ) -> Result<Frame, ErrorBody> {
        let signed = self.sign(finish, upstream.clone()).await?;
        Ok(Frame::End(Box::new(Ending {
            text,
            finish,
            signed,
            upstream,
        })))
    }

    async fn sign(
        &mut self,
        finish: Finish,
        upstream: Option<Upstream>,
    ) -> Result<Signed, ErrorBody> {
        let transcript = Transcript {
            request: self.request.clone(),
            prompt: std::mem::take(&mut self.prompt),
            response: TextResponse {
                schema: TextResponse::SCHEMA.to_owned(),
                prompt_tokens: 0,
                tokens: std::mem::take(&mut self.tokens),
                text: std::mem::take(&mut self.text),
                finish,
                upstream,
                calls: std::mem::take(&mut self.calls),
                logprobs: std::mem::take(&mut self.scored),
            },
        };
        let units = match &self.source {
            Source::Engine(_) => {
                let tokens = transcript.prompt.len() + transcript.response.tokens.len();
                text_engine(&self.loaded)?.language.units(tokens)
            }
            // What it took there is not known.
            Source::Upstream(_) => 0,
        };
        self.service
            .executor
            .sign_text(self.terms, transcript, units)
            .await
    }
}

impl Executor {
    async fn sign_text(
        &self,
        terms: Terms,
        mut transcript: Transcript,
        units: u64,
    ) -> Result<Signed, ErrorBody> {
        transcript.response.prompt_tokens = transcript.prompt.len() as u32;
        let openings = Openings::derive(random_word());
        let Transcript {
            request,
            prompt,
            response,
        } = &transcript;
        let (usage_in, usage_out) = response.usage();
        let committed = Committed {
            openings,
            request: commitment::text_request(openings.request, terms.model_root, request),
            response: commitment::text_response(openings.response, response),
            transcript: commitment::text_transcript(openings.transcript, request, prompt, response),
            usage_in,
            usage_out,
            evidence: B256::ZERO,
        };
        let price = self.price(units, terms.offer)?;
        self.sign(terms, units, price, committed).await
    }
}
