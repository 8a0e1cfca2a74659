//! Replay: whoever doubts an answer computes it again, all tokens at once.
//!
//! One prefill over prompt and answer gives the logits at every position, to the same bits as when
//! the answer was written token by token. So each token can be chosen again and compared, and the
//! first difference is found at a fraction of the cost of writing.

use lemma_kernels::PAGE;

use crate::cache::Cache;
use crate::engine::{Finish, Request};
use crate::forward::{Chunk, Compute, Scratch};
use crate::model::Model;
use crate::sampling::{Choice, Constraint, History, NoToken, sample};
use crate::stream::{TextStream, TokenBytes};

/// What a replay found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every token is the one that the model gives, and the answer ends where it should.
    Same,
    /// A token is another one than the model gives; those before it are right.
    Differs {
        /// Its index in the answer.
        index: usize,
        /// What the model gives.
        expected: u32,
        /// What the answer has.
        found: u32,
    },
    /// All tokens are right, but after so many of them the answer should not have ended, or not
    /// for the reason that was given, or should have ended before.
    Ending {
        /// Tokens up to which the answer is right.
        tokens: usize,
        /// Why it should have ended there, if it should.
        expected: Option<Finish>,
    },
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Prompt and answer do not fit the model.
    #[error("prompt and answer have tokens that the model does not know, or too many of them")]
    Misfit,
    /// There is no token that should come.
    #[error(transparent)]
    NoToken(#[from] NoToken),
}

/// Positions of one forward pass.
const STRIDE: usize = 512;

/// Positions whose logits are held at a time, by the size of the vocabulary: about 8 MiB of them, in
/// multiples of the rows that kernels multiply together.
fn logits_at_a_time(vocab: usize) -> usize {
    ((2 << 20) / vocab.max(1)).clamp(24, 96) / 6 * 6
}

/// Chooses every token of `answer` again and compares.
///
/// `answer` has all tokens that were chosen, a stop token included. With a vocabulary, stop strings
/// are followed too. `constraint` is what the answer had to keep to, at its beginning.
///
/// # Errors
/// If the tokens do not fit the model, its logits are no numbers, or the constraint allows no token.
pub fn replay(
    model: &Model,
    compute: &Compute,
    vocabulary: Option<&TokenBytes>,
    request: &Request,
    constraint: Option<Box<dyn Constraint>>,
    answer: &[u32],
    finish: Finish,
) -> Result<Verdict, ReplayError> {
    let confirm = &mut |_| {};
    replay_each(
        model, compute, vocabulary, request, constraint, answer, finish, confirm,
    )
}

/// As [`replay`], and hands each token that is right to `confirm`, with the log probabilities that
/// the request asks for: to the same bits as when the answer was written.
///
/// # Errors
/// As [`replay`].
#[allow(clippy::too_many_arguments)]
pub fn replay_each(
    model: &Model,
    compute: &Compute,
    vocabulary: Option<&TokenBytes>,
    request: &Request,
    constraint: Option<Box<dyn Constraint>>,
    answer: &[u32],
    finish: Finish,
    confirm: &mut dyn FnMut(Choice),
) -> Result<Verdict, ReplayError> {
    let config = model.config();
    let tokens: Vec<u32> = request.prompt.iter().chain(answer).copied().collect();
    let fits = tokens.len() <= config.context
        && !request.prompt.is_empty()
        && tokens.iter().all(|t| (*t as usize) < config.vocab);
    if !fits {
        return Err(ReplayError::Misfit);
    }
    let mut cache = Cache::new(config, tokens.len().div_ceil(PAGE));
    let pages: Vec<_> = cache.ids().collect();
    let mut scratch = Scratch::default();
    let mut walk = Walk {
        request,
        answer,
        finish,
        constraint,
        history: History::new(&request.prompt),
        ending: Ending::new(request, vocabulary),
    };
    // The logits of a token choose the next one; those of the last token choose nothing.
    let end = tokens.len() - 1;
    let first = request.prompt.len() - 1;
    let mut position = 0;
    while position < end {
        let len = STRIDE.min(end - position);
        let chunk = Chunk {
            tokens: &tokens[position..position + len],
            position,
            pages: &pages,
            logits: 0,
        };
        model.hidden(compute, &mut cache, &[chunk], &mut scratch);
        let mut row = first.saturating_sub(position).min(len);
        while row < len {
            let rows = row..len.min(row + logits_at_a_time(config.vocab));
            row = rows.end;
            let logits = model.logits_of(compute, rows, &mut scratch);
            for logits in logits.chunks_exact(config.vocab) {
                if let Some(verdict) = walk.step(compute, logits, confirm)? {
                    return Ok(verdict);
                }
            }
        }
        position += len;
    }
    if answer.is_empty() {
        return Ok(Verdict::Ending {
            tokens: 0,
            expected: None,
        });
    }
    Ok(Verdict::Same)
}

/// Goes along an answer, token by token.
struct Walk<'a> {
    request: &'a Request,
    answer: &'a [u32],
    finish: Finish,
    constraint: Option<Box<dyn Constraint>>,
    history: History,
    ending: Ending<'a>,
}

impl Walk<'_> {
    /// Chooses the next token from its logits; a verdict if it is not what the answer has.
    fn step(
        &mut self,
        compute: &Compute,
        logits: &[f32],
        confirm: &mut dyn FnMut(Choice),
    ) -> Result<Option<Verdict>, NoToken> {
        let Walk {
            request, history, ..
        } = self;
        let index = history.position() - request.prompt.len();
        let found = self.answer[index];
        let allowed = self.constraint.as_mut().and_then(|c| c.allowed());
        let expected = sample(compute.isa, &request.sampling, history, logits, allowed)?;
        if expected != found {
            return Ok(Some(Verdict::Differs {
                index,
                expected,
                found,
            }));
        }
        confirm(Choice::of(compute.isa, logits, found, request.logprobs));
        history.push(found);
        if let Some(constraint) = &mut self.constraint {
            constraint.push(found);
        }
        let should = self.ending.push(found);
        let given = (index + 1 == self.answer.len()).then_some(self.finish);
        Ok((should != given).then_some(Verdict::Ending {
            tokens: index + 1,
            expected: should,
        }))
    }
}

/// Follows an answer to its end.
struct Ending<'a> {
    request: &'a Request,
    vocabulary: Option<&'a TokenBytes>,
    stream: TextStream,
    tokens: usize,
}

impl<'a> Ending<'a> {
    fn new(request: &'a Request, vocabulary: Option<&'a TokenBytes>) -> Ending<'a> {
        Ending {
            request,
            vocabulary,
            stream: TextStream::new(request.stop.clone()),
            tokens: 0,
        }
    }

    /// Why the answer ends with this token, if it does.
    fn push(&mut self, token: u32) -> Option<Finish> {
        self.tokens += 1;
        if self.request.stop_tokens.contains(&token) {
            return Some(Finish::Token);
        }
        if let Some(vocabulary) = self.vocabulary {
            let bytes = vocabulary.get(token as usize).map_or(&[][..], |b| b);
            if let Some(i) = self.stream.push(bytes).stopped {
                return Some(Finish::Text(i));
            }
        }
        (self.tokens >= self.request.max_tokens).then_some(Finish::Length)
    }
}
