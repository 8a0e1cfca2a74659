//! Replay: whether a transcript is what its model says.

use lemma_llm::{
    Compute,
    engine::Finish as EngineFinish,
    replay::{Verdict, replay_each},
    sampling::Choice,
    stream::TextStream,
};
use lemma_types::text::{Call, Finish, Scored, Transcript};

use super::{LanguageModel, Prepared, Speech};

impl LanguageModel {
    /// Replays a transcript: makes the prompt's tokens again, and chooses every token of the answer again, all at once. The
    /// first difference in words, or `None`.
    ///
    /// # Errors
    /// If prompt or answer can be none of this model's.
    pub fn replay(
        &self,
        transcript: &Transcript,
        compute: &Compute,
    ) -> Result<Option<String>, String> {
        let Transcript {
            request,
            prompt,
            response,
        } = transcript;
        if response.upstream.is_some() {
            return Err("an upstream server's answer can not be computed again".to_owned());
        }
        let Prepared {
            prompt: made,
            constraint,
            speech,
        } = self.prepare(request)?;
        if let Some(difference) = prompt_difference(&made, prompt) {
            return Ok(Some(difference));
        }
        let vocabulary = Some(self.tokenizer.bytes());
        let engine_request = self.engine_request(request, made);
        let mut probabilities = Probabilities::new(self, &response.logprobs);
        let finish = match response.finish {
            Finish::Token => EngineFinish::Token,
            Finish::Text(index) => EngineFinish::Text(index as usize),
            Finish::Length => EngineFinish::Length,
        };
        let answer = &response.tokens;
        let verdict = replay_each(
            &self.model,
            compute,
            vocabulary,
            &engine_request,
            constraint,
            answer,
            finish,
            &mut |choice| probabilities.compare(&choice),
        );
        Ok(match verdict.map_err(|error| error.to_string())? {
            Verdict::Same => probabilities
                .difference
                .or_else(|| self.text_difference(transcript, speech)),
            Verdict::Differs {
                index,
                expected,
                found,
            } => Some(format!(
                "token {index} of the answer is {found}, the model chooses {expected}"
            )),
            Verdict::Ending { tokens, expected } => Some(match expected {
                Some(reason) => format!(
                    "the answer should have ended after {tokens} tokens ({})",
                    describe(reason)
                ),
                None => format!("the answer was cut off after {tokens} tokens: the model goes on"),
            }),
        })
    }

    /// Whether the tokens of the answer say what its text says.
    fn text_difference(&self, transcript: &Transcript, mut speech: Speech) -> Option<String> {
        let response = &transcript.response;
        let mut stream = TextStream::new(transcript.request.stop.clone());
        let (mut text, mut calls) = (String::new(), Vec::new());
        let mut say = |(said, called): (String, Vec<Call>)| {
            text += &said;
            calls.extend(called);
        };
        let mut stopped = false;
        let spoken = match response.finish {
            Finish::Token => &response.tokens[..response.tokens.len() - 1],
            Finish::Text(_) | Finish::Length => &response.tokens[..],
        };
        for token in spoken {
            let bytes = self.tokenizer.bytes().get(*token as usize);
            let piece = stream.push(bytes.map_or(&[][..], |bytes| bytes));
            say(speech.push(&piece.text));
            stopped = piece.stopped.is_some();
        }
        if !stopped {
            say(speech.push(&stream.finish()));
        }
        say(speech.finish());
        if text != response.text {
            return Some("the text is not what the answer's tokens say".to_owned());
        }
        (calls != response.calls)
            .then(|| "the calls of tools are not what the answer's tokens say".to_owned())
    }
}

/// Compares the probabilities of an answer with those of its replay.
struct Probabilities<'a> {
    model: &'a LanguageModel,
    stated: &'a [Scored],
    index: usize,
    difference: Option<String>,
}

impl<'a> Probabilities<'a> {
    const fn new(model: &'a LanguageModel, stated: &'a [Scored]) -> Self {
        Self {
            model,
            stated,
            index: 0,
            difference: None,
        }
    }

    fn compare(&mut self, choice: &Choice) {
        let index = self.index;
        self.index += 1;
        let Some(stated) = self.stated.get(index).filter(|_| self.difference.is_none()) else {
            return;
        };
        if *stated != self.model.scored(choice) {
            let difference =
                format!("the probabilities at token {index} of the answer are not the model's");
            self.difference = Some(difference);
        }
    }
}

fn prompt_difference(made: &[u32], stated: &[u32]) -> Option<String> {
    if made == stated {
        return None;
    }
    let same = made.iter().zip(stated).take_while(|(a, b)| a == b).count();
    Some(match (made.get(same), stated.get(same)) {
        (Some(made), Some(stated)) => {
            format!("token {same} of the prompt is {stated}, the request gives {made}")
        }
        _ => format!(
            "the prompt has {} tokens, the request gives {}",
            stated.len(),
            made.len()
        ),
    })
}

fn describe(finish: EngineFinish) -> &'static str {
    match finish {
        EngineFinish::Token => "a token that ends answers",
        EngineFinish::Text(_) => "a stop text",
        EngineFinish::Length => "the limit of tokens",
    }
}
