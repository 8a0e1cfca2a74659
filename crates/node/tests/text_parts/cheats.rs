//! Workers that save work, or say another thing than they were asked: what they sign is whole and well formed, and replay tells.

use std::sync::Arc;

use lemma_llm::{
    Compute,
    engine::{Engine, Event, Finish as EngineFinish, Limits},
};
use lemma_node::language::{LanguageModel, finish};
use lemma_types::text::{Finish, Prompt, TextRequest, TextResponse, Transcript};

use super::{asked, language};

fn model(gguf: &[u8]) -> LanguageModel {
    LanguageModel::from_gguf(gguf, &Compute::new(1)).unwrap()
}

fn request() -> TextRequest {
    let mut request = asked(5, 80);
    // Answers of full length.
    request.sampling.bias = [(257, -1000.0)].into();
    request
}

/// What `model` answers to `done`, stated as if `asked` had been asked of `honest`.
fn stated(
    honest: &LanguageModel,
    asked: &TextRequest,
    model: &LanguageModel,
    done: &TextRequest,
) -> Transcript {
    let prepared = model.prepare(done).unwrap();
    let vocabulary = Some(Arc::clone(model.tokenizer().bytes()));
    let mut engine = Engine::new(
        Arc::clone(model.model()),
        Compute::new(1),
        vocabulary,
        Limits::default(),
    );
    let submitted = model.engine_request(done, prepared.prompt);
    engine
        .submit_constrained(submitted, prepared.constraint)
        .unwrap();
    let (mut tokens, mut text, mut ended) = (Vec::new(), String::new(), EngineFinish::Length);
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Token {
                    choice,
                    text: piece,
                    ..
                } => {
                    tokens.push(choice.token);
                    text += &piece;
                }
                Event::Finished {
                    reason,
                    text: piece,
                    ..
                } => {
                    text += &piece;
                    ended = reason;
                }
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    let prompt = honest.prepare(asked).unwrap().prompt;
    Transcript {
        request: asked.clone(),
        response: TextResponse {
            schema: TextResponse::SCHEMA.to_owned(),
            tokens,
            text,
            finish: finish(ended),
            prompt_tokens: prompt.len() as u32,
            upstream: None,
            calls: vec![],
            logprobs: vec![],
        },
        prompt,
    }
}

#[test]
fn replay_catches_every_way_to_save_work_or_to_say_something_else() {
    let honest = model(&language::gguf(1));
    let replay = |transcript: &Transcript| {
        assert!(transcript.check().is_ok());
        honest.replay(transcript, &Compute::new(2)).unwrap()
    };
    let request = request();
    let truth = stated(&honest, &request, &honest, &request);
    assert_eq!(replay(&truth), None);

    let quantised = model(&language::quantised(1));
    let draft = model(&language::draft(1));
    assert_ne!(quantised.root(), honest.root());
    let with = |change: fn(&mut TextRequest)| {
        let mut done = request.clone();
        change(&mut done);
        stated(&honest, &request, &honest, &done)
    };
    let system: fn(&mut TextRequest) = |done| {
        let Prompt::Messages(messages) = &mut done.prompt else {
            unreachable!()
        };
        messages[0].content = "Praise the sponsor.".to_owned();
    };
    let mut cut = truth.clone();
    cut.response.tokens.truncate(40);
    cut.response.text = honest.tokenizer().decode(&cut.response.tokens);
    let mut ended = cut.clone();
    ended.response.finish = Finish::Token;
    for (cheat, transcript) in [
        (
            "another quantisation",
            stated(&honest, &request, &quantised, &request),
        ),
        (
            "a smaller draft model",
            stated(&honest, &request, &draft, &request),
        ),
        ("an edited system prompt", with(system)),
        (
            "a lower temperature",
            with(|done| done.sampling.temperature = 0.7),
        ),
        (
            "the best token instead of a drawn one",
            with(|done| done.sampling.temperature = 0.0),
        ),
        ("another filter", with(|done| done.sampling.top_k = 5)),
        ("another seed", with(|done| done.sampling.seed += 1)),
    ] {
        let difference = replay(&transcript).unwrap_or_else(|| panic!("{cheat} is not noticed"));
        // Where the first difference is, and what should have been there.
        let at = transcript
            .response
            .tokens
            .iter()
            .zip(&truth.response.tokens);
        let at = at.take_while(|(said, right)| said == right).count();
        let expected = format!(
            "token {at} of the answer is {}, the model chooses {}",
            transcript.response.tokens[at], truth.response.tokens[at]
        );
        assert_eq!(difference, expected, "{cheat}");
    }
    for (cheat, transcript) in [
        ("a shorter answer", cut),
        ("an end that the model did not make", ended),
    ] {
        let difference = replay(&transcript).unwrap_or_else(|| panic!("{cheat} is not noticed"));
        assert!(
            difference.contains("cut off after 40 tokens"),
            "{cheat}: {difference}"
        );
    }
}
