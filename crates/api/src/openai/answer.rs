//! Answers as OpenAI's clients know them.

use std::time::{SystemTime, UNIX_EPOCH};

use lemma_node::gateway::TextAnswer;
use lemma_types::{
    B256, Engine, Manifest, SignedReceipt,
    commitment::Openings,
    text::{Call, Candidate, Finish, Scored, TextResponse, Transcript},
};
use serde_json::{Value, json};

/// Which endpoint is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// What all parts of one answer share.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    kind: Kind,
    id: String,
    request_id: B256,
    created: u64,
    model: String,
}

impl Answer {
    pub(super) fn new(kind: Kind, model: String, request_id: B256) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            kind,
            id: format!("{prefix}-{request_id:x}"),
            request_id,
            created: now.map_or(0, |since| since.as_secs()),
            model,
        }
    }

    fn body(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// The body of an answer that is not streamed, without what backs it.
    pub(super) fn whole(&self, transcript: &Transcript) -> Value {
        let response = &transcript.response;
        let reason = finish_reason(response);
        let scored = (transcript.request.logprobs.is_some()).then_some(&response.logprobs);
        let mut body = match self.kind {
            Kind::Chat => {
                let content = match response.text.is_empty() && !response.calls.is_empty() {
                    true => Value::Null,
                    false => json!(response.text),
                };
                let mut message =
                    json!({ "role": "assistant", "content": content, "refusal": null });
                if !response.calls.is_empty() {
                    message["tool_calls"] = self.calls(&response.calls, 0, false);
                }
                let choice = json!([{
                    "index": 0,
                    "message": message,
                    "logprobs": scored.map(|scored| chat_logprobs(scored)),
                    "finish_reason": reason,
                }]);
                self.body("chat.completion", choice)
            }
            Kind::Completion => self.body(
                "text_completion",
                json!([{
                    "index": 0,
                    "text": response.text,
                    "logprobs": scored.map(|scored| text_logprobs(scored, 0)),
                    "finish_reason": reason,
                }]),
            ),
        };
        body["usage"] = usage(response);
        body
    }

    /// Calls of tools, the first of which is the one with this number in its answer.
    fn calls(&self, calls: &[Call], first: usize, numbered: bool) -> Value {
        let call = |(index, call): (usize, &Call)| {
            let mut value = json!({
                "id": call_id(self.request_id, index),
                "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            });
            if numbered {
                value["index"] = json!(index);
            }
            value
        };
        (first..).zip(calls).map(call).collect()
    }

    fn chunk(&self, text: Option<&str>, first: bool, reason: Option<&str>) -> Value {
        match self.kind {
            Kind::Chat => {
                let delta = match text {
                    Some(text) if first => json!({ "role": "assistant", "content": text }),
                    Some(text) => json!({ "content": text }),
                    None => json!({}),
                };
                let choice = json!([{
                    "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason,
                }]);
                self.body("chat.completion.chunk", choice)
            }
            Kind::Completion => {
                let choice = json!([{
                    "index": 0,
                    "text": text.unwrap_or_default(),
                    "logprobs": null,
                    "finish_reason": reason,
                }]);
                self.body("text_completion", choice)
            }
        }
    }

    /// The event that begins a stream; none for text completions.
    pub(super) fn first(&self, include_usage: bool) -> String {
        match self.kind {
            Kind::Chat => with_usage(self.chunk(Some(""), true, None), include_usage),
            Kind::Completion => String::new(),
        }
    }

    /// The event for more text.
    pub(super) fn delta(&self, text: &str, include_usage: bool) -> String {
        with_usage(self.chunk(Some(text), false, None), include_usage)
    }

    /// The event for calls of tools, the first of which is the one with this number.
    pub(super) fn called(&self, calls: &[Call], first: usize, include_usage: bool) -> String {
        let mut chunk = self.chunk(None, false, None);
        if self.kind == Kind::Chat {
            chunk["choices"][0]["delta"]["tool_calls"] = self.calls(calls, first, true);
        }
        with_usage(chunk, include_usage)
    }

    /// The event for probabilities of tokens, whose text begins at this place of the answer.
    pub(super) fn scored(&self, scored: &[Scored], at: usize, include_usage: bool) -> String {
        let mut chunk = self.chunk(Some(""), false, None);
        chunk["choices"][0]["logprobs"] = match self.kind {
            Kind::Chat => chat_logprobs(scored),
            Kind::Completion => text_logprobs(scored, at),
        };
        with_usage(chunk, include_usage)
    }

    /// The chunks that end a stream, without what backs it.
    pub(super) fn ending(&self, response: &TextResponse, include_usage: bool) -> Vec<Value> {
        let mut ending = self.chunk(None, false, Some(finish_reason(response)));
        if !include_usage {
            return vec![ending];
        }
        ending["usage"] = Value::Null;
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        };
        let mut last = self.body(object, json!([]));
        last["usage"] = usage(response);
        vec![ending, last]
    }

    /// The events that end a stream. The last chunk has what backs it.
    pub(super) fn last(&self, answer: &TextAnswer, include_usage: bool) -> String {
        let mut chunks = self.ending(&answer.transcript.response, include_usage);
        if let Some(last) = chunks.last_mut() {
            last["lemma"] = evidence(answer);
        }
        chunks.iter().map(event).collect::<String>() + "data: [DONE]\n\n"
    }
}

/// Clients that asked for usage find the key in every chunk.
fn with_usage(mut chunk: Value, include_usage: bool) -> String {
    if include_usage {
        chunk["usage"] = Value::Null;
    }
    event(&chunk)
}

pub(super) fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn finish_reason(response: &TextResponse) -> &'static str {
    match response.finish {
        Finish::Length => "length",
        Finish::Token | Finish::Text(_) if !response.calls.is_empty() => "tool_calls",
        Finish::Token | Finish::Text(_) => "stop",
    }
}

/// The id of a call: a client names it when it sends the result.
pub(super) fn call_id(request_id: B256, index: usize) -> String {
    let request = format!("{request_id:x}");
    format!("call_{}{index}", &request[..24])
}

pub(super) fn candidate(candidate: &Candidate) -> Value {
    json!({
        "token": String::from_utf8_lossy(&candidate.bytes),
        "logprob": candidate.logprob,
        "bytes": candidate.bytes.to_vec(),
    })
}

/// Tokens with the most likely ones in their place, as chats have them.
pub(super) fn token_logprobs(scored: &[Scored]) -> Value {
    let token = |scored: &Scored| {
        let mut value = candidate(&scored.chosen);
        value["top_logprobs"] = scored.top.iter().map(candidate).collect();
        value
    };
    scored.iter().map(token).collect()
}

fn chat_logprobs(scored: &[Scored]) -> Value {
    json!({ "content": token_logprobs(scored), "refusal": null })
}

/// The same as completions have it. Places are counted in characters.
fn text_logprobs(scored: &[Scored], mut at: usize) -> Value {
    let text = |candidate: &Candidate| String::from_utf8_lossy(&candidate.bytes).into_owned();
    let (mut tokens, mut places) = (Vec::new(), Vec::new());
    for scored in scored {
        let token = text(&scored.chosen);
        places.push(at);
        at += token.chars().count();
        tokens.push(token);
    }
    let top = |scored: &Scored| -> serde_json::Map<String, Value> {
        let entries = scored.top.iter();
        entries.map(|one| (text(one), json!(one.logprob))).collect()
    };
    json!({
        "tokens": tokens,
        "token_logprobs": scored.iter().map(|scored| scored.chosen.logprob).collect::<Vec<_>>(),
        "top_logprobs": scored.iter().map(top).collect::<Vec<_>>(),
        "text_offset": places,
    })
}

fn usage(response: &TextResponse) -> Value {
    let (prompt, completion) = response.usage();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    })
}

/// What backs an answer of text.
pub(super) fn evidence(answer: &TextAnswer) -> Value {
    let mut shown = backing(
        &answer.receipt,
        &answer.openings,
        &answer.engine,
        &answer.manifest,
    );
    shown["transcript"] = json!(answer.transcript);
    shown
}

/// What `lemma verify` needs, but for the settlement; with what was asked and answered it can be checked alone.
pub(super) fn backing(
    receipt: &SignedReceipt,
    openings: &Openings,
    engine: &Engine,
    manifest: &Manifest,
) -> Value {
    json!({
        "receipt_id": receipt.receipt.id(),
        "mode": receipt.receipt.mode,
        "worker": receipt.receipt.worker,
        "receipt": receipt,
        "openings": openings,
        "engine": engine,
        "manifest": manifest,
    })
}
