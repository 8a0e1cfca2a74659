//! Continuous batching: many requests share forward passes, and none sees another.
//!
//! The engine is a synchronous machine. Its owner, a thread of a worker, calls [`Engine::step`] in
//! a loop and passes the events on; requests come and go between two steps.

use std::collections::VecDeque;
use std::sync::Arc;

use lemma_kernels::PAGE;

use crate::cache::{Cache, PageId};
use crate::forward::{Chunk, Compute, Scratch};
use crate::model::Model;
use crate::pages::{Held, Pages};
use crate::sampling::{Choice, Constraint, History, NoToken, Sampling, SamplingError, sample};
use crate::stream::{TextStream, TokenBytes};

/// How much an engine takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that wait; more are refused.
    pub queue: usize,
    /// Requests that are worked on at a time.
    pub running: usize,
    /// Tokens of one forward pass: prompts are prefilled in pieces of at most this.
    pub batch_tokens: usize,
    /// Pages of the cache, sixteen positions each.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queue: 1024,
            running: 32,
            batch_tokens: 512,
            pages: 1024,
        }
    }
}

/// A request for an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer; at least one.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the answer; usually those of the model's configuration.
    pub stop_tokens: Vec<u32>,
    /// Texts that end the answer; only for an engine that knows its vocabulary.
    pub stop: Vec<String>,
    /// Whether log probabilities are wanted, and of how many of the best tokens besides.
    pub logprobs: Option<usize>,
}

impl Request {
    /// A request with the stop tokens of the model.
    #[must_use]
    pub fn new(model: &Model, prompt: Vec<u32>, max_tokens: usize, sampling: Sampling) -> Request {
        Request {
            prompt,
            max_tokens,
            sampling,
            stop_tokens: model.config().eos.clone(),
            stop: Vec::new(),
            logprobs: None,
        }
    }
}

/// Names a request within its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many wait.
    #[error("{0} requests are waiting, which is the limit: try again later")]
    Full(usize),
    /// There is nothing to answer.
    #[error("the prompt has no tokens")]
    Empty,
    /// No token is asked for.
    #[error("max_tokens is 0")]
    NoTokens,
    /// It does not fit the context.
    #[error(
        "{prompt} tokens of the prompt and {max_tokens} of the answer do not fit the context of \
         {context}"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Most tokens of both.
        context: usize,
    },
    /// A token that the model does not know.
    #[error("token {0} is not in the vocabulary")]
    Token(u32),
    /// More stop strings or log probabilities than are allowed, or stop strings without a vocabulary.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A sampling parameter.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Its last token is a stop token.
    Token,
    /// A stop string, the one of this index, came.
    Text(usize),
    /// It has as many tokens as were asked for.
    Length,
}

/// What was read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of these, tokens whose keys and values were there already.
    pub cached: usize,
    /// Tokens of the answer, a stop token included.
    pub answer: usize,
}

/// What happened to a request in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token was chosen.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        choice: Choice,
        /// Text that is certain by now, if the engine knows its vocabulary.
        text: String,
    },
    /// The answer is complete.
    Finished {
        /// The request.
        id: RequestId,
        /// Why.
        reason: Finish,
        /// The last of the text.
        text: String,
        /// What was read and written.
        usage: Usage,
    },
    /// There is no next token.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        error: NoToken,
    },
}

/// Most stop strings of a request, and most bytes of one.
const MAX_STOP: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
/// Most log probabilities for each token.
const MAX_LOGPROBS: usize = 64;

/// A request that is worked on or waits to be.
#[derive(Debug)]
struct Sequence {
    id: RequestId,
    request: Request,
    /// Prompt and answer.
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    cached: usize,
    held: Held,
    history: History,
    stream: TextStream,
    constraint: Option<Box<dyn Constraint>>,
}

/// Requests, a cache, and a model.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    compute: Compute,
    vocabulary: Option<TokenBytes>,
    limits: Limits,
    cache: Cache,
    pages: Pages,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    scratch: Scratch,
    next: u64,
}

impl Engine {
    /// An idle engine. With a vocabulary it streams text and stops at stop strings.
    #[must_use]
    pub fn new(
        model: Arc<Model>,
        compute: Compute,
        vocabulary: Option<TokenBytes>,
        limits: Limits,
    ) -> Engine {
        let cache = Cache::new(model.config(), limits.pages.max(1));
        Engine {
            pages: Pages::new(&cache),
            model,
            compute,
            vocabulary,
            limits,
            cache,
            waiting: VecDeque::new(),
            running: Vec::new(),
            scratch: Scratch::default(),
            next: 0,
        }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Most tokens of prompt and answer together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.model
            .config()
            .context
            .min(self.limits.pages.max(1) * PAGE)
    }

    /// Requests that wait and requests that are worked on.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// If too many wait, or it is none that this engine can answer.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, SubmitError> {
        self.submit_constrained(request, None)
    }

    /// Takes a request whose answer has to keep to a constraint.
    ///
    /// # Errors
    /// As [`submit`](Engine::submit).
    pub fn submit_constrained(
        &mut self,
        request: Request,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<RequestId, SubmitError> {
        if self.waiting.len() >= self.limits.queue {
            return Err(SubmitError::Full(self.limits.queue));
        }
        self.check(&request)?;
        let id = RequestId(self.next);
        self.next += 1;
        self.waiting.push_back(Sequence {
            id,
            tokens: request.prompt.clone(),
            computed: 0,
            cached: 0,
            held: Held::default(),
            history: History::new(&request.prompt),
            stream: TextStream::new(request.stop.clone()),
            request,
            constraint,
        });
        Ok(id)
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let (prompt, max_tokens) = (request.prompt.len(), request.max_tokens);
        if prompt == 0 {
            return Err(SubmitError::Empty);
        }
        if max_tokens == 0 {
            return Err(SubmitError::NoTokens);
        }
        let context = self.context();
        if prompt.checked_add(max_tokens).is_none_or(|n| n > context) {
            return Err(SubmitError::TooLong {
                prompt,
                max_tokens,
                context,
            });
        }
        let vocab = self.model.config().vocab;
        if let Some(token) = request.prompt.iter().find(|t| **t as usize >= vocab) {
            return Err(SubmitError::Token(*token));
        }
        request.sampling.check()?;
        if request.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
            return Err(SubmitError::Unsupported(
                "more than 64 log probabilities for a token",
            ));
        }
        let stop = &request.stop;
        if stop.len() > MAX_STOP || stop.iter().any(|s| s.len() > MAX_STOP_BYTES) {
            let what = "more than 16 stop strings, or one of more than 1024 bytes";
            return Err(SubmitError::Unsupported(what));
        }
        if self.vocabulary.is_none() && !stop.is_empty() {
            return Err(SubmitError::Unsupported(
                "stop strings without a vocabulary",
            ));
        }
        Ok(())
    }

    /// Ends a request between two tokens; `false` if there is none of this name.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        if let Some(i) = self.waiting.iter().position(|s| s.id == id) {
            self.waiting.remove(i);
            return true;
        }
        let Some(i) = self.running.iter().position(|s| s.id == id) else {
            return false;
        };
        let mut sequence = self.running.remove(i);
        self.pages.release(&mut sequence.held);
        true
    }

    /// One forward pass: a token for every request whose prompt is read, a piece of the prompt for
    /// others. Does nothing if there is nothing to do.
    pub fn step(&mut self) -> Vec<Event> {
        self.admit();
        let plan = self.plan();
        if plan.is_empty() {
            return Vec::new();
        }
        let chunks: Vec<Chunk<'_>> = plan
            .iter()
            .map(|(i, len)| {
                let s = &self.running[*i];
                let end = s.computed + len;
                Chunk {
                    tokens: &s.tokens[s.computed..end],
                    position: s.computed,
                    pages: &s.held.pages,
                    logits: usize::from(end == s.tokens.len()),
                }
            })
            .collect();
        let logits = self
            .model
            .forward(&self.compute, &mut self.cache, &chunks, &mut self.scratch);
        let vocab = self.model.config().vocab;
        let mut rows = logits.chunks_exact(vocab);
        let mut events = Vec::new();
        let mut ended = Vec::new();
        for (i, len) in plan {
            let s = &mut self.running[i];
            s.computed += len;
            self.pages.offer(&mut s.held, &s.tokens[..s.computed]);
            if s.computed < s.tokens.len() {
                continue;
            }
            let Some(row) = rows.next() else {
                continue;
            };
            if s.advance(&self.compute, self.vocabulary.as_ref(), row, &mut events) {
                ended.push(s.id);
            }
        }
        for id in ended {
            self.cancel(id);
        }
        events
    }

    /// Moves waiting requests to work, in their order, while there is room.
    fn admit(&mut self) {
        while self.running.len() < self.limits.running.max(1) {
            let Some(mut s) = self.waiting.pop_front() else {
                return;
            };
            // The last token is always computed: its logits are needed.
            let mut held = self.pages.begin(&s.tokens[..s.tokens.len() - 1]);
            let missing = (s.tokens.len() + 1)
                .div_ceil(PAGE)
                .saturating_sub(held.pages.len());
            if missing > self.pages.available() && !self.running.is_empty() {
                self.pages.release(&mut held);
                self.waiting.push_front(s);
                return;
            }
            s.computed = held.pages.len() * PAGE;
            s.cached = s.cached.max(s.computed.min(s.request.prompt.len()));
            s.held = held;
            self.running.push(s);
        }
    }

    /// Which requests get how many tokens of the next pass: those that only lack one come first.
    fn plan(&mut self) -> Vec<(usize, usize)> {
        let mut budget = self.limits.batch_tokens.max(1);
        let mut plan = Vec::new();
        for only_one in [true, false] {
            let mut i = 0;
            while i < self.running.len() && budget > 0 {
                let s = &self.running[i];
                let open = s.tokens.len() - s.computed;
                if (open == 1) != only_one {
                    i += 1;
                    continue;
                }
                let len = open.min(budget);
                if self.provide(i, len) {
                    budget -= len;
                    plan.push((i, len));
                    i += 1;
                }
                // Otherwise this request, the youngest, has gone back to wait.
            }
        }
        // Requests that were sent back to wait are the youngest, at the end of the list.
        plan.retain(|(i, _)| *i < self.running.len());
        plan.sort_unstable();
        plan
    }

    /// Pages for `len` more tokens of a request. Where there are none the youngest request goes
    /// back to wait; what it had is computed again later, to the same bits.
    fn provide(&mut self, i: usize, len: usize) -> bool {
        loop {
            let s = &mut self.running[i];
            let needed = (s.computed + len).div_ceil(PAGE);
            while s.held.pages.len() < needed {
                if !self.pages.extend(&mut s.held) {
                    break;
                }
            }
            if s.held.pages.len() >= needed {
                return true;
            }
            let last = self.running.len() - 1;
            let mut youngest = self.running.remove(last);
            self.pages.release(&mut youngest.held);
            youngest.computed = 0;
            self.waiting.push_front(youngest);
            if last == i {
                return false;
            }
        }
    }

    /// Pages of the cache that no request holds.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        self.pages.available()
    }

    /// Pages that a request holds, for tests of sharing.
    #[must_use]
    pub fn pages_of(&self, id: RequestId) -> &[PageId] {
        self.running
            .iter()
            .find(|s| s.id == id)
            .map_or(&[], |s| s.held.pages.as_slice())
    }
}

impl Sequence {
    /// Chooses the next token; `true` if the request has ended.
    fn advance(
        &mut self,
        compute: &Compute,
        vocabulary: Option<&TokenBytes>,
        logits: &[f32],
        events: &mut Vec<Event>,
    ) -> bool {
        let id = self.id;
        let sampling = &self.request.sampling;
        let allowed = self.constraint.as_mut().and_then(|c| c.allowed());
        let token = match sample(compute.isa, sampling, &self.history, logits, allowed) {
            Ok(token) => token,
            Err(error) => {
                events.push(Event::Failed { id, error });
                return true;
            }
        };
        self.history.push(token);
        self.tokens.push(token);
        if let Some(constraint) = &mut self.constraint {
            constraint.push(token);
        }
        let choice = Choice::of(compute.isa, logits, token, self.request.logprobs);
        let stops = self.request.stop_tokens.contains(&token);
        let mut text = String::new();
        let mut stopped = None;
        if let Some(vocabulary) = vocabulary
            && !stops
        {
            let bytes = vocabulary.get(token as usize).map_or(&[][..], |b| b);
            let piece = self.stream.push(bytes);
            text = piece.text;
            stopped = piece.stopped;
        }
        events.push(Event::Token { id, choice, text });
        let answer = self.tokens.len() - self.request.prompt.len();
        let reason = match stopped {
            _ if stops => Finish::Token,
            Some(i) => Finish::Text(i),
            None if answer >= self.request.max_tokens => Finish::Length,
            None => return false,
        };
        let text = match reason {
            Finish::Text(_) => String::new(),
            _ => self.stream.finish(),
        };
        let usage = Usage {
            prompt: self.request.prompt.len(),
            cached: self.cached,
            answer,
        };
        events.push(Event::Finished {
            id,
            reason,
            text,
            usage,
        });
        true
    }
}
