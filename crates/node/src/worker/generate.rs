//! Answers requests for text: tokens as they are chosen, then the receipt.

use std::sync::Arc;

use axum::body::Bytes;
use futures::Stream;
use lemma_types::{
    B256, Receipt,
    commitment::{self, Openings},
    text::{Finish, TextRequest, TextResponse, Transcript},
};

use super::{
    execute::{Executor, error},
    http::Service,
    models::{Loaded, Runnable},
    queue::Place,
    text::{Running, TextEngine, Update},
};
use crate::{
    keys::random_word,
    model::engine,
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
    running: Running,
    terms: Terms,
    request: TextRequest,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
    stage: Stage,
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
    executor.check_mode(terms.mode)?;
    let loaded = executor.load(terms.model_root).await?;
    let engine = text_engine(&loaded)?;
    let prompt = {
        let (language, asked) = (Arc::clone(&engine.language), request.prompt.clone());
        let made = tokio::task::spawn_blocking(move || language.prompt(&asked)).await;
        made.map_err(|_| error(ErrorCode::Internal, "the prompt could not be read"))?
            .map_err(|reason| error(ErrorCode::InvalidInput, reason.to_string()))?
    };
    let most = prompt.len().saturating_add(request.max_tokens as usize);
    executor.price(engine.language.units(most), terms.offer)?;
    let asked = engine.language.engine_request(&request, prompt.clone());
    let running = engine.submit(asked).await?;
    Ok(Generation {
        running,
        loaded,
        _place: place,
        terms,
        request,
        prompt,
        tokens: Vec::new(),
        text: String::new(),
        stage: Stage::Prompt,
        service: Arc::clone(&service),
    })
}

fn text_engine(loaded: &Loaded) -> Result<&TextEngine, ErrorBody> {
    match &loaded.model {
        Runnable::Language(engine) => Ok(engine),
        Runnable::Graph(_) | Runnable::Integer(_) => Err(error(
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
        if self.stage == Stage::Prompt {
            self.stage = Stage::Tokens;
            return Ok(Frame::Prompt(self.prompt.clone()));
        }
        match self.running.next().await {
            Some(Update::Token { token, text }) => {
                self.tokens.push(token);
                self.text += &text;
                Ok(Frame::Token { token, text })
            }
            Some(Update::Finished { finish, text }) => {
                self.text += &text;
                let signed = self.sign(finish).await?;
                Ok(Frame::End(Box::new(Ending {
                    text,
                    finish,
                    signed,
                })))
            }
            Some(Update::Failed(reason)) => Err(error(ErrorCode::Internal, reason)),
            None => Err(error(ErrorCode::Internal, "the model's engine has failed")),
        }
    }

    async fn sign(&mut self, finish: Finish) -> Result<Signed, ErrorBody> {
        let transcript = Transcript {
            request: self.request.clone(),
            prompt: std::mem::take(&mut self.prompt),
            response: TextResponse {
                schema: TextResponse::SCHEMA.to_owned(),
                prompt_tokens: 0,
                tokens: std::mem::take(&mut self.tokens),
                text: std::mem::take(&mut self.text),
                finish,
            },
        };
        let units = {
            let tokens = transcript.prompt.len() + transcript.response.tokens.len();
            text_engine(&self.loaded)?.language.units(tokens)
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
        let anchor = self.ledger.head();
        let receipt = Receipt {
            request_id: terms.request_id,
            model_root: terms.model_root,
            engine: engine().id(),
            request_commitment: commitment::text_request(
                openings.request,
                terms.model_root,
                request,
            ),
            response_commitment: commitment::text_response(openings.response, response),
            transcript_root: commitment::text_transcript(
                openings.transcript,
                request,
                prompt,
                response,
            ),
            usage_in: prompt.len() as u64,
            usage_out: response.tokens.len() as u64,
            compute_units: units,
            price: self.price(units, terms.offer)?,
            payer: terms.payer,
            payment: terms.payment,
            mode: terms.mode,
            worker: self.worker,
            anchor_height: anchor.number,
            anchor_hash: anchor.hash,
            completed_at: self.clock.now_ms(),
            // The notary fills it in.
            previous_receipt: B256::ZERO,
            evidence: B256::ZERO,
        };
        self.sign(receipt, openings).await
    }
}
