//! One engine for each language model in memory, on a thread of its own: requests come and go between two steps.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use lemma_llm::{
    Cache, Compute,
    engine::{Engine, Event, Limits, Request, RequestId, SubmitError},
    sampling::{Choice, Constraint},
};
use lemma_types::text::Finish;
use tokio::sync::{
    mpsc::UnboundedReceiver, mpsc::UnboundedSender, mpsc::unbounded_channel, oneshot,
};

use super::execute::error;
use crate::{
    language::{LanguageModel, finish},
    metrics as names,
    protocol::{ErrorBody, ErrorCode},
};

/// Positions of the cache that one of its pages has.
const PAGE: usize = 16;
/// Requests that an engine works on at a time.
const RUNNING: usize = 32;

/// What an engine may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineLimits {
    /// Threads of its computation.
    pub(crate) threads: usize,
    /// Requests that may wait.
    pub(crate) queue: usize,
    /// Bytes of keys and values of all its requests.
    pub(crate) cache_bytes: u64,
}

/// A language model with its engine's thread, which ends when this is dropped.
pub(crate) struct TextEngine {
    pub(crate) language: Arc<LanguageModel>,
    commands: mpsc::Sender<Command>,
}

/// What became of a request in a step.
#[derive(Debug)]
pub(crate) enum Update {
    Token { choice: Choice, text: String },
    Finished { finish: Finish, text: String },
    Failed(String),
}

/// A request that an engine works on. Dropping it cancels the request at the next token.
pub(crate) struct Running {
    // As many updates as tokens were asked for, and one more.
    updates: UnboundedReceiver<Update>,
}

impl Running {
    /// What happens next; `None` if the engine is gone.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

struct Command {
    request: Request,
    constraint: Option<Box<dyn Constraint>>,
    updates: UnboundedSender<Update>,
    reply: oneshot::Sender<Result<(), SubmitError>>,
}

impl TextEngine {
    pub(crate) fn start(language: LanguageModel, limits: EngineLimits) -> std::io::Result<Self> {
        let language = Arc::new(language);
        let (commands, queue) = mpsc::channel();
        let shared = Arc::clone(&language);
        thread::Builder::new()
            .name("lemma-text".to_owned())
            .spawn(move || {
                let engine = engine(&shared, limits);
                drop(shared);
                run(engine, &queue);
            })?;
        Ok(Self { language, commands })
    }

    /// Hands a request to the engine.
    pub(crate) async fn submit(
        &self,
        request: Request,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Running, ErrorBody> {
        let gone = || error(ErrorCode::Internal, "the model's engine has failed");
        let (updates, receiver) = unbounded_channel();
        let (reply, taken) = oneshot::channel();
        let command = Command {
            request,
            constraint,
            updates,
            reply,
        };
        self.commands.send(command).map_err(|_| gone())?;
        match taken.await {
            Ok(Ok(())) => Ok(Running { updates: receiver }),
            Ok(Err(refused @ SubmitError::Full(_))) => {
                Err(error(ErrorCode::Busy, refused.to_string()))
            }
            Ok(Err(refused)) => Err(error(ErrorCode::InvalidInput, refused.to_string())),
            Err(_) => Err(gone()),
        }
    }
}

fn engine(language: &LanguageModel, limits: EngineLimits) -> Engine {
    let config = language.model().config();
    let affordable = limits.cache_bytes / (Cache::page_bytes(config) as u64).max(1);
    let useful = RUNNING.saturating_mul(config.context.div_ceil(PAGE));
    let pages = usize::try_from(affordable).unwrap_or(useful).min(useful);
    Engine::new(
        Arc::clone(language.model()),
        Compute::new(limits.threads.max(1)),
        Some(Arc::clone(language.tokenizer().bytes())),
        Limits {
            queue: limits.queue,
            running: RUNNING,
            pages,
            ..Limits::default()
        },
    )
}

/// The engine's thread: steps while there is work, waits while there is none.
fn run(mut engine: Engine, queue: &mpsc::Receiver<Command>) {
    let mut clients: BTreeMap<RequestId, UnboundedSender<Update>> = BTreeMap::new();
    loop {
        if engine.is_idle() {
            match queue.recv() {
                Ok(command) => take(&mut engine, &mut clients, command),
                Err(_) => return,
            }
        }
        for command in queue.try_iter() {
            take(&mut engine, &mut clients, command);
        }
        clients.retain(|id, client| {
            let stays = !client.is_closed();
            if !stays {
                engine.cancel(*id);
            }
            stays
        });
        let began = Instant::now();
        for event in engine.step() {
            let (id, update) = update(event);
            let ends = !matches!(update, Update::Token { .. });
            if let Some(client) = clients.get(&id) {
                // Whoever has gone away is noticed before the next step.
                let _ = client.send(update);
            }
            if ends {
                clients.remove(&id);
            }
        }
        metrics::histogram!(names::TEXT_STEP_SECONDS).record(began.elapsed().as_secs_f64());
    }
}

fn take(
    engine: &mut Engine,
    clients: &mut BTreeMap<RequestId, UnboundedSender<Update>>,
    command: Command,
) {
    let submitted = engine.submit_constrained(command.request, command.constraint);
    let answer = submitted.map(|id| {
        clients.insert(id, command.updates);
    });
    // If nobody waits for the reply, nobody holds the receiver of the updates either.
    let _ = command.reply.send(answer);
}

fn update(event: Event) -> (RequestId, Update) {
    match event {
        Event::Token { id, choice, text } => (id, Update::Token { choice, text }),
        Event::Finished {
            id, reason, text, ..
        } => {
            let finish = finish(reason);
            (id, Update::Finished { finish, text })
        }
        Event::Failed { id, error } => (id, Update::Failed(error.to_string())),
    }
}
