//! Answers as OpenAI's clients know them.

use std::time::{SystemTime, UNIX_EPOCH};

use lemma_node::gateway::TextAnswer;
use lemma_types::{B256, text::Finish};
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

    /// The body of an answer that is not streamed.
    pub(super) fn whole(&self, answer: &TextAnswer) -> Value {
        let response = &answer.transcript.response;
        let reason = finish_reason(response.finish);
        let mut body = match self.kind {
            Kind::Chat => self.body(
                "chat.completion",
                json!([{
                    "index": 0,
                    "message": { "role": "assistant", "content": response.text, "refusal": null },
                    "logprobs": null,
                    "finish_reason": reason,
                }]),
            ),
            Kind::Completion => self.body(
                "text_completion",
                json!([{
                    "index": 0,
                    "text": response.text,
                    "logprobs": null,
                    "finish_reason": reason,
                }]),
            ),
        };
        body["usage"] = usage(answer);
        body["lemma"] = evidence(answer);
        body
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

    /// The events that end a stream.
    pub(super) fn last(&self, answer: &TextAnswer, include_usage: bool) -> String {
        let reason = finish_reason(answer.transcript.response.finish);
        let mut ending = self.chunk(None, false, Some(reason));
        let mut events = String::new();
        if include_usage {
            ending["usage"] = Value::Null;
            events += &event(&ending);
            let object = match self.kind {
                Kind::Chat => "chat.completion.chunk",
                Kind::Completion => "text_completion",
            };
            ending = self.body(object, json!([]));
            ending["usage"] = usage(answer);
        }
        ending["lemma"] = evidence(answer);
        events += &event(&ending);
        events + "data: [DONE]\n\n"
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

const fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Token | Finish::Text(_) => "stop",
        Finish::Length => "length",
    }
}

fn usage(answer: &TextAnswer) -> Value {
    let (prompt, completion) = (
        answer.transcript.prompt.len(),
        answer.transcript.response.tokens.len(),
    );
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    })
}

/// What backs the answer: everything that `lemma verify` needs beside the bundle.
fn evidence(answer: &TextAnswer) -> Value {
    let receipt = &answer.receipt.receipt;
    json!({
        "receipt_id": receipt.id(),
        "mode": receipt.mode,
        "worker": receipt.worker,
        "receipt": answer.receipt,
        "openings": answer.openings,
        "engine": answer.engine,
        "transcript": answer.transcript,
    })
}
