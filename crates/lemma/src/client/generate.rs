//! Text from the gateway, by OpenAI's API, streamed.

use lemma_node::protocol::Signed;
use lemma_types::{
    B256, Engine, Mode, SignedReceipt,
    commitment::Openings,
    text::{Message, Prompt, TextRequest, Transcript},
};
use reqwest::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Client, Refusal, infer::fresh_id};
use crate::{
    error::{CommandError, CommandResult},
    exit::ExitCode,
};

/// Most bytes of one event: the last one holds the whole transcript.
const MAX_EVENT_BYTES: usize = 128 << 20;

/// An answer that is under way, not checked.
#[derive(Debug)]
pub struct Generation {
    client: Client,
    response: Response,
    bytes: Vec<u8>,
    /// Bytes of the front in which no event ends.
    searched: usize,
    /// The id that this request was given: the receipt has to name it.
    pub request_id: B256,
}

/// A piece of an answer.
#[derive(Debug)]
pub enum Piece {
    /// Text that goes on.
    Text(String),
    /// What backs it all. Nothing of it is checked.
    Done(Box<TextAnswer>),
}

/// What backs an answer.
#[derive(Debug)]
pub struct TextAnswer {
    /// Request, prompt and answer.
    pub transcript: Transcript,
    /// Receipt, salts and engine.
    pub signed: Signed,
}

#[derive(Deserialize)]
struct Evidence {
    receipt: SignedReceipt,
    openings: Openings,
    engine: Engine,
    transcript: Transcript,
}

impl Client {
    /// Asks for text. What comes back is not checked: that is the caller's affair.
    ///
    /// # Errors
    /// If the gateway refuses the request.
    pub async fn generate(
        &self,
        model: &str,
        request: &TextRequest,
        mode: Mode,
    ) -> CommandResult<Generation> {
        let request_id = fresh_id()?;
        let (path, body) = body(model, request, mode, request_id);
        // The time limit is for each piece, not for the whole of an answer that may be long.
        let http = self
            .http
            .post(self.url(path)?)
            .header("content-type", "application/json")
            .body(body.to_string());
        let sent = tokio::time::timeout(self.timeout(), self.send(http)).await;
        let response = match sent.map_err(|_| self.too_slow())?? {
            Ok(response) => response,
            Err(refusal) if refusal.code.as_deref() == Some("model_not_found") => {
                return Err(self.unknown_model(model).await);
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        Ok(Generation {
            client: self.clone(),
            response,
            bytes: Vec::new(),
            searched: 0,
            request_id,
        })
    }

    fn too_slow(&self) -> CommandError {
        CommandError::new(
            ExitCode::Timeout,
            format!("{} did not answer in time", self.address()),
        )
        .hint("wait longer with --timeout")
    }
}

fn body(model: &str, request: &TextRequest, mode: Mode, id: B256) -> (&'static str, Value) {
    let sampling = &request.sampling;
    let mut body = json!({
        "model": model,
        "stream": true,
        "max_tokens": request.max_tokens,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": sampling.bias,
        "stop": request.stop,
        "lemma": { "mode": mode, "request_id": id },
    });
    let path = match &request.prompt {
        Prompt::Messages(messages) => {
            let message =
                |message: &Message| json!({ "role": message.role, "content": message.content });
            body["messages"] = messages.iter().map(message).collect();
            "v1/chat/completions"
        }
        Prompt::Text(text) => {
            body["prompt"] = json!(text);
            "v1/completions"
        }
        Prompt::Tokens(tokens) => {
            body["prompt"] = json!(tokens);
            "v1/completions"
        }
    };
    (path, body)
}

impl Generation {
    /// What comes next.
    ///
    /// # Errors
    /// If the gateway reports one, falls silent, or does not answer as a gateway does.
    pub async fn next(&mut self) -> CommandResult<Piece> {
        loop {
            while let Some(event) = self.event() {
                if let Some(piece) = self.piece(&event)? {
                    return Ok(piece);
                }
            }
            let next = tokio::time::timeout(self.client.timeout(), self.response.chunk()).await;
            let chunk = next
                .map_err(|_| self.client.too_slow())?
                .map_err(|error| self.client.unreachable(&error))?;
            match chunk {
                Some(bytes) if self.bytes.len() + bytes.len() <= MAX_EVENT_BYTES => {
                    self.bytes.extend_from_slice(&bytes);
                }
                Some(_) => return Err(self.broken("an event is too long")),
                None => return Err(self.broken("the answer ended before its receipt")),
            }
        }
    }

    /// The next event whose end has arrived.
    fn event(&mut self) -> Option<Vec<u8>> {
        let from = self.searched.saturating_sub(1);
        let found = self.bytes[from..]
            .windows(2)
            .position(|pair| pair == b"\n\n");
        let Some(at) = found else {
            self.searched = self.bytes.len();
            return None;
        };
        let rest = self.bytes.split_off(from + at + 2);
        self.searched = 0;
        Some(std::mem::replace(&mut self.bytes, rest))
    }

    fn piece(&self, event: &[u8]) -> CommandResult<Option<Piece>> {
        let Some(data) = event.strip_prefix(b"data: ") else {
            return Ok(None);
        };
        let mut value: Value = serde_json::from_slice(data)
            .map_err(|error| self.broken("an event is no JSON").because(&error))?;
        if value.get("error").is_some() {
            return Err(Refusal::new(self.response.status(), data).into_stream_error());
        }
        if let Some(evidence) = value.get_mut("lemma") {
            let evidence = serde_json::from_value(evidence.take());
            let Evidence {
                receipt,
                openings,
                engine,
                transcript,
            } = evidence
                .map_err(|error| self.broken("the receipt is malformed").because(&error))?;
            return Ok(Some(Piece::Done(Box::new(TextAnswer {
                transcript,
                signed: Signed {
                    receipt,
                    openings,
                    engine,
                },
            }))));
        }
        let choice = &value["choices"][0];
        let text = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str());
        let text = text.filter(|text| !text.is_empty());
        Ok(text.map(|text| Piece::Text(text.to_owned())))
    }

    fn broken(&self, reason: &str) -> CommandError {
        CommandError::failed(format!(
            "{} did not answer as a gateway does",
            self.client.address()
        ))
        .cause(reason)
    }
}
