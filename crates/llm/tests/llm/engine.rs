//! Answers do not depend on how they were scheduled, and replay catches every change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{VOCAB, tiny, tokens};
use lemma_kernels::{Format, Threads};
use lemma_llm::engine::{Engine, Event, Finish, Limits, Request, RequestId, SubmitError};
use lemma_llm::replay::{Verdict, replay};
use lemma_llm::sampling::{Constraint, Sampling};
use lemma_llm::stream::TokenBytes;
use lemma_llm::{Compute, Model};

fn model(format: Format, seed: u64) -> Arc<Model> {
    Arc::new(Model::from_gguf(&Threads::single(), &tiny(format, seed)).unwrap())
}

/// Token i is the letter i, or two of them.
fn vocabulary() -> TokenBytes {
    let letter = |i: usize| b'a' + (i % 26) as u8;
    let bytes = |i: usize| {
        if i < 48 {
            vec![letter(i)]
        } else {
            vec![letter(i), letter(i / 3)]
        }
    };
    Arc::new((0..VOCAB).map(|i| bytes(i).into_boxed_slice()).collect())
}

fn engine(model: &Arc<Model>, threads: usize, limits: Limits) -> Engine {
    Engine::new(
        model.clone(),
        Compute::new(threads),
        Some(vocabulary()),
        limits,
    )
}

fn sampled(seed: u64) -> Sampling {
    Sampling {
        seed,
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.01,
        repetition_penalty: 1.1,
        presence_penalty: 0.1,
        frequency_penalty: 0.1,
        bias: BTreeMap::from([(5, 0.5)]),
    }
}

fn request(seed: u64, len: usize, max_tokens: usize, sampling: Sampling) -> Request {
    Request {
        prompt: tokens(len, seed),
        max_tokens,
        sampling,
        stop_tokens: vec![],
        stop: vec![],
        logprobs: Some(2),
    }
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    logprobs: Vec<u32>,
    finish: Option<Finish>,
    cached: usize,
}

/// Runs the engine until it is idle.
fn finish(engine: &mut Engine, answers: &mut BTreeMap<RequestId, Answer>) {
    while !engine.is_idle() {
        for event in engine.step() {
            note(event, answers);
        }
    }
}

fn note(event: Event, answers: &mut BTreeMap<RequestId, Answer>) {
    match event {
        Event::Token { id, choice, text } => {
            let answer = answers.entry(id).or_default();
            answer.tokens.push(choice.token);
            answer.text += &text;
            answer.logprobs.extend(choice.logprob.map(f32::to_bits));
            answer
                .logprobs
                .extend(choice.top.iter().map(|t| t.1.to_bits()));
        }
        Event::Finished {
            id,
            reason,
            text,
            usage,
        } => {
            let answer = answers.entry(id).or_default();
            answer.text += &text;
            answer.finish = Some(reason);
            answer.cached = usage.cached;
            assert_eq!(usage.answer, answer.tokens.len());
        }
        Event::Failed { error, .. } => panic!("{error}"),
    }
}

fn alone(model: &Arc<Model>, request: &Request) -> Answer {
    let mut engine = engine(model, 1, Limits::default());
    let id = engine.submit(request.clone()).unwrap();
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    let mut answer = answers.remove(&id).unwrap();
    answer.cached = 0;
    answer
}

#[test]
fn answers_are_the_same_however_they_are_scheduled() {
    let model = model(Format::Q8_0, 1);
    let requests: Vec<Request> = (0..7)
        .map(|i| {
            let sampling = if i % 2 == 0 {
                sampled(i)
            } else {
                Sampling::greedy()
            };
            request(i, 3 + 11 * i as usize, 10 + 3 * i as usize, sampling)
        })
        .collect();
    let expected: Vec<Answer> = requests.iter().map(|r| alone(&model, r)).collect();
    assert!(expected.iter().all(|a| a.finish == Some(Finish::Length)));
    let plenty = Limits::default();
    let cases = [
        (1, plenty),
        (
            2,
            Limits {
                batch_tokens: 5,
                ..plenty
            },
        ),
        (
            2,
            Limits {
                batch_tokens: 1,
                ..plenty
            },
        ),
        (
            1,
            Limits {
                running: 2,
                ..plenty
            },
        ),
        // Not enough for all: requests are sent back and computed again.
        (
            2,
            Limits {
                pages: 8,
                batch_tokens: 16,
                ..plenty
            },
        ),
    ];
    for (threads, limits) in cases {
        let mut engine = engine(&model, threads, limits);
        let mut answers = BTreeMap::new();
        let mut ids = Vec::new();
        for (i, request) in requests.iter().enumerate() {
            ids.push(engine.submit(request.clone()).unwrap());
            // Some arrive while others are under way.
            for _ in 0..i % 3 {
                engine
                    .step()
                    .into_iter()
                    .for_each(|e| note(e, &mut answers));
            }
        }
        finish(&mut engine, &mut answers);
        for (id, expected) in ids.iter().zip(&expected) {
            let mut found = answers[id].clone();
            found.cached = 0;
            assert_eq!(&found, expected, "{limits:?}");
        }
        assert_eq!(engine.free_pages(), limits.pages, "pages were lost");
    }
}

#[test]
fn a_shared_beginning_is_computed_once_and_changes_nothing() {
    let model = model(Format::Q4K, 1);
    let mut first = request(1, 50, 4, Sampling::greedy());
    let mut second = first.clone();
    second.prompt.truncate(40);
    second.prompt.extend([1, 2, 3]);
    first.max_tokens = 20;
    let expected = [alone(&model, &first), alone(&model, &second)];
    let mut engine = engine(&model, 1, Limits::default());
    let ids = [first.clone(), second, first].map(|request| {
        let id = engine.submit(request).unwrap();
        let mut answers = BTreeMap::new();
        finish(&mut engine, &mut answers);
        answers.remove(&id).unwrap()
    });
    assert_eq!(ids.each_ref().map(|a| a.cached), [0, 32, 48]);
    assert_eq!(ids[0].tokens, expected[0].tokens);
    assert_eq!(ids[1].tokens, expected[1].tokens);
    assert_eq!(ids[2].logprobs, expected[0].logprobs);
}

#[test]
fn answers_end_at_stop_tokens_and_stop_strings() {
    let model = model(Format::Q8_0, 1);
    let plain = request(4, 9, 30, sampled(9));
    let whole = alone(&model, &plain);
    let stop = whole.tokens[7];
    let first = whole.tokens.iter().position(|t| *t == stop).unwrap();
    let by_token = alone(
        &model,
        &Request {
            stop_tokens: vec![stop],
            ..plain.clone()
        },
    );
    assert_eq!(by_token.tokens, whole.tokens[..=first]);
    assert_eq!(by_token.finish, Some(Finish::Token));
    let text = &whole.text[9..12];
    let stop = vec!["%".to_owned(), text.to_owned()];
    let by_text = alone(&model, &Request { stop, ..plain });
    assert_eq!(by_text.finish, Some(Finish::Text(1)));
    assert_eq!(by_text.text, whole.text[..whole.text.find(text).unwrap()]);
    assert!(whole.tokens.starts_with(&by_text.tokens));
}

#[test]
fn the_queue_is_bounded_and_requests_can_be_taken_back() {
    let model = model(Format::Q8_0, 1);
    let limits = Limits {
        queue: 2,
        running: 1,
        ..Limits::default()
    };
    let mut engine = engine(&model, 1, limits);
    let submit = |engine: &mut Engine| engine.submit(request(1, 20, 50, sampled(1)));
    let first = submit(&mut engine).unwrap();
    engine.step();
    let second = submit(&mut engine).unwrap();
    submit(&mut engine).unwrap();
    assert_eq!(submit(&mut engine), Err(SubmitError::Full(2)));
    assert_eq!(engine.load(), (2, 1));
    assert!(engine.cancel(first) && engine.cancel(second) && !engine.cancel(first));
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    assert_eq!(answers.len(), 1);
    assert_eq!(engine.free_pages(), limits.pages);
}

#[test]
fn requests_that_cannot_be_answered_are_refused() {
    let model = model(Format::Q8_0, 1);
    let mut engine = engine(
        &model,
        1,
        Limits {
            pages: 4,
            ..Limits::default()
        },
    );
    let good = request(1, 10, 10, Sampling::greedy());
    let mut refused = |change: fn(&mut Request)| {
        let mut request = good.clone();
        change(&mut request);
        engine.submit(request).unwrap_err().to_string()
    };
    assert_eq!(refused(|r| r.prompt.clear()), "the prompt has no tokens");
    assert_eq!(refused(|r| r.max_tokens = 0), "max_tokens is 0");
    assert!(refused(|r| r.max_tokens = 55).contains("do not fit the context of 64"));
    assert!(refused(|r| r.max_tokens = usize::MAX).contains("do not fit"));
    assert_eq!(
        refused(|r| r.prompt[3] = 96),
        "token 96 is not in the vocabulary"
    );
    assert!(refused(|r| r.sampling.top_p = 2.0).starts_with("top_p is 2"));
    assert!(refused(|r| r.logprobs = Some(65)).contains("log probabilities"));
    assert!(refused(|r| r.stop = vec!["x".into(); 17]).contains("stop strings"));
}

/// Allows tokens of the other parity than the last one.
#[derive(Debug, Default)]
struct Alternating {
    odd: bool,
    words: Vec<u32>,
}

impl Constraint for Alternating {
    fn allowed(&mut self) -> Option<&[u32]> {
        let word = if self.odd { 0xaaaa_aaaa } else { 0x5555_5555 };
        self.words = vec![word; VOCAB.div_ceil(32)];
        Some(&self.words)
    }
    fn push(&mut self, token: u32) {
        assert_eq!(token % 2 == 1, self.odd);
        self.odd = !self.odd;
    }
}

#[test]
fn a_constraint_is_kept_and_replayed() {
    let model = model(Format::Q8_0, 1);
    let request = request(3, 20, 30, sampled(4));
    // Too few pages for both: one is computed again, its constraint goes on where it was.
    let mut engine = engine(
        &model,
        1,
        Limits {
            pages: 5,
            ..Limits::default()
        },
    );
    let constraint = || -> Option<Box<dyn Constraint>> { Some(Box::<Alternating>::default()) };
    let ids = [(); 2].map(|()| {
        engine
            .submit_constrained(request.clone(), constraint())
            .unwrap()
    });
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    let tokens = &answers[&ids[0]].tokens;
    assert_eq!(tokens.len(), 30);
    assert!(
        tokens
            .iter()
            .enumerate()
            .all(|(i, t)| t % 2 == i as u32 % 2)
    );
    assert_eq!(&answers[&ids[1]].tokens, tokens);
    let check = |constraint| {
        let c = Compute::new(1);
        replay(
            &model,
            &c,
            None,
            &request,
            constraint,
            tokens,
            Finish::Length,
        )
        .unwrap()
    };
    assert_eq!(check(constraint()), Verdict::Same);
    assert!(differs(check(None)));
}

/// An answer and everything that it was made from.
struct Served {
    model: Arc<Model>,
    request: Request,
    answer: Answer,
}

fn served() -> Served {
    let model = model(Format::Q8_0, 1);
    let request = request(2, 40, 70, sampled(77));
    let answer = alone(&model, &request);
    Served {
        model,
        request,
        answer,
    }
}

fn check(model: &Model, request: &Request, answer: &[u32], finish: Finish) -> Verdict {
    replay(
        model,
        &Compute::new(2),
        Some(&vocabulary()),
        request,
        None,
        answer,
        finish,
    )
    .unwrap()
}

#[test]
fn an_honest_answer_replays() {
    let s = served();
    assert_eq!(
        check(&s.model, &s.request, &s.answer.tokens, Finish::Length),
        Verdict::Same
    );
    // With a stop string, too.
    let stop = vec![s.answer.text[30..33].to_owned()];
    let request = Request {
        stop,
        ..s.request.clone()
    };
    let answer = alone(&s.model, &request);
    assert_eq!(answer.finish, Some(Finish::Text(0)));
    assert_eq!(
        check(&s.model, &request, &answer.tokens, Finish::Text(0)),
        Verdict::Same
    );
    let longer = &s.answer.tokens[..answer.tokens.len() + 1];
    let tokens = answer.tokens.len();
    let expected = Some(Finish::Text(0));
    assert_eq!(
        check(&s.model, &request, longer, Finish::Text(0)),
        Verdict::Ending { tokens, expected }
    );
}

#[test]
fn a_truncated_answer_is_caught() {
    let s = served();
    let short = &s.answer.tokens[..30];
    for finish in [Finish::Length, Finish::Token, Finish::Text(0)] {
        let expected = Verdict::Ending {
            tokens: 30,
            expected: None,
        };
        assert_eq!(check(&s.model, &s.request, short, finish), expected);
    }
    let nothing = check(&s.model, &s.request, &[], Finish::Length);
    assert_eq!(
        nothing,
        Verdict::Ending {
            tokens: 0,
            expected: None
        }
    );
}

#[test]
fn a_changed_token_is_named() {
    let s = served();
    let mut answer = s.answer.tokens.clone();
    let right = answer[41];
    answer[41] = (right + 1) % VOCAB as u32;
    assert_eq!(
        check(&s.model, &s.request, &answer, Finish::Length),
        Verdict::Differs {
            index: 41,
            expected: right,
            found: answer[41]
        }
    );
}

fn differs(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Differs { .. })
}

#[test]
fn another_quantisation_is_caught() {
    // The same weights, in eight bits, and rounded to four.
    let s = served();
    let coarse = Model::from_gguf(&Threads::single(), &crate::common::coarser(1)).unwrap();
    let cheap = alone(&Arc::new(coarse), &s.request);
    assert!(differs(check(
        &s.model,
        &s.request,
        &cheap.tokens,
        Finish::Length
    )));
}

#[test]
fn a_smaller_model_is_caught() {
    let s = served();
    let draft = alone(&model(Format::Q8_0, 8), &s.request);
    assert!(differs(check(
        &s.model,
        &s.request,
        &draft.tokens,
        Finish::Length
    )));
}

#[test]
fn other_sampling_is_caught() {
    let s = served();
    let changes: [fn(&mut Sampling); 8] = [
        |p| p.seed += 1,
        |p| p.temperature = 0.9,
        |p| p.top_k = 3,
        |p| p.top_p = 0.5,
        |p| p.min_p = 0.3,
        |p| p.repetition_penalty = 1.5,
        |p| p.frequency_penalty = 0.5,
        |p| p.bias.clear(),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut request = s.request.clone();
        change(&mut request.sampling);
        let answer = alone(&s.model, &request);
        let verdict = check(&s.model, &s.request, &answer.tokens, Finish::Length);
        assert!(differs(verdict), "change {i}: {verdict:?}");
    }
}

#[test]
fn an_edited_prompt_is_caught() {
    let s = served();
    let mut request = s.request.clone();
    request.prompt[0] = (request.prompt[0] + 1) % VOCAB as u32;
    let answer = alone(&s.model, &request);
    assert!(differs(check(
        &s.model,
        &s.request,
        &answer.tokens,
        Finish::Length
    )));
}
