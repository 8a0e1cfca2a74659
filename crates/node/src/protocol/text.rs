//! Text: what a gateway asks of a language model, and the frames in which the answer comes.
//!
//! `POST /work/v1/generate`, request, `application/vnd.lemma.work.v1`: `LWGQ`, then mode to offer as in a request for
//! tensors (offsets 4 to 136), then the [`TextRequest`] in canonical JSON.
//!
//! Answer, status 200, the same media type: frames, each a byte for its kind, its length (4 bytes) and its content.
//!
//! | kind | frame | content |
//! |---|---|---|
//! | 1 | [`Frame::Prompt`] | the prompt's tokens, 4 bytes each; comes first |
//! | 2 | [`Frame::Token`] | a token (4 bytes), then the text that is certain with it |
//! | 3 | [`Frame::End`] | [`Ending`] in JSON; the last frame |
//! | 4 | [`Frame::Error`] | [`ErrorBody`] in JSON; the last frame, in place of an ending |
//! | 5 | [`Frame::Text`] | more of a relayed answer, whose tokens are not known |
//! | 6 | [`Frame::Scored`] | a [`Scored`] in JSON, of the token before it; if the request asks for it |
//! | 7 | [`Frame::Call`] | a [`Call`] of a tool in JSON |
//!
//! A worker whose client goes away stops at the next token and signs nothing.

use lemma_types::{
    limits,
    text::{Call, Finish, Scored, TextRequest, Upstream},
};
use serde::{Deserialize, Serialize};

use super::{ErrorBody, MAX_JSON_BYTES, ProtocolError, Signed, Terms, take};

const REQUEST_MAGIC: [u8; 4] = *b"LWGQ";
/// Bytes before a frame's content.
const HEAD: usize = 5;
/// Most text that one frame carries, bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 1 << 20;

/// What a gateway asks of a worker with a language model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextWork {
    /// Who asks for which model, and on which terms.
    pub terms: Terms,
    /// What is asked.
    pub request: TextRequest,
}

impl TextWork {
    /// Encodes the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_vec();
        self.terms.encode_into(&mut bytes);
        bytes.extend(self.request.encode());
        bytes
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// See [`ProtocolError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut rest = bytes;
        if take::<4>(&mut rest) != Some(REQUEST_MAGIC) {
            return Err(ProtocolError::Format("request for text"));
        }
        Ok(Self {
            terms: Terms::decode_from(&mut rest)?,
            request: TextRequest::decode(rest)?,
        })
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The prompt's tokens.
    Prompt(Vec<u32>),
    /// A token of the answer, and the text that is certain with it.
    Token {
        /// The token.
        token: u32,
        /// The text; empty while characters or stop texts are incomplete.
        text: String,
    },
    /// The answer is complete.
    End(Box<Ending>),
    /// There will be no answer.
    Error(ErrorBody),
    /// More of a relayed answer.
    Text(String),
    /// Logarithms of probabilities in the place of the token before.
    Scored(Scored),
    /// A call of a tool.
    Call(Call),
}

/// How an answer ended, with the worker's receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ending {
    /// The last of the text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Receipt, salts and engine.
    pub signed: Signed,
    /// Of a relayed answer, what the upstream server says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
}

impl Frame {
    const PROMPT: u8 = 1;
    const TOKEN: u8 = 2;
    const END: u8 = 3;
    const ERROR: u8 = 4;
    const TEXT: u8 = 5;
    const SCORED: u8 = 6;
    const CALL: u8 = 7;

    /// Encodes the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = |bytes: Result<Vec<u8>, _>| bytes.expect("a frame serialises to JSON");
        let (kind, content) = match self {
            Self::Prompt(tokens) => (
                Self::PROMPT,
                tokens
                    .iter()
                    .flat_map(|token| token.to_le_bytes())
                    .collect(),
            ),
            Self::Token { token, text } => {
                let mut content = token.to_le_bytes().to_vec();
                content.extend(text.as_bytes());
                (Self::TOKEN, content)
            }
            Self::End(ending) => (Self::END, json(serde_json::to_vec(ending))),
            Self::Error(body) => (Self::ERROR, json(serde_json::to_vec(body))),
            Self::Text(text) => (Self::TEXT, text.as_bytes().to_vec()),
            Self::Scored(scored) => (Self::SCORED, json(serde_json::to_vec(scored))),
            Self::Call(call) => (Self::CALL, json(serde_json::to_vec(call))),
        };
        let mut bytes = vec![kind];
        bytes.extend((content.len() as u32).to_le_bytes());
        bytes.extend(content);
        bytes
    }

    fn decode(kind: u8, content: &[u8]) -> Result<Self, ProtocolError> {
        match kind {
            Self::PROMPT => {
                let (tokens, rest) = content.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(ProtocolError::Format("prompt"));
                }
                Ok(Self::Prompt(
                    tokens
                        .iter()
                        .map(|token| u32::from_le_bytes(*token))
                        .collect(),
                ))
            }
            Self::TOKEN => {
                let format = || ProtocolError::Format("token");
                let mut rest = content;
                let token = take(&mut rest).ok_or_else(format)?;
                let text = std::str::from_utf8(rest).map_err(|_| format())?;
                Ok(Self::Token {
                    token: u32::from_le_bytes(token),
                    text: text.to_owned(),
                })
            }
            Self::END => Ok(Self::End(serde_json::from_slice(content)?)),
            Self::ERROR => Ok(Self::Error(serde_json::from_slice(content)?)),
            Self::TEXT => match std::str::from_utf8(content) {
                Ok(text) => Ok(Self::Text(text.to_owned())),
                Err(_) => Err(ProtocolError::Format("text")),
            },
            Self::SCORED => Ok(Self::Scored(serde_json::from_slice(content)?)),
            Self::CALL => Ok(Self::Call(serde_json::from_slice(content)?)),
            _ => Err(ProtocolError::Format("frame")),
        }
    }

    /// Most bytes of a frame's content; `None` for a kind that there is not.
    const fn limit(kind: u8) -> Option<usize> {
        match kind {
            Self::PROMPT => Some(limits::TEXT_TOKENS as usize * 4),
            Self::TOKEN | Self::TEXT | Self::CALL => Some(MAX_TOKEN_BYTES),
            Self::SCORED => Some(MAX_JSON_BYTES),
            Self::END => Some(MAX_JSON_BYTES + MAX_TOKEN_BYTES),
            Self::ERROR => Some(MAX_JSON_BYTES),
            _ => None,
        }
    }
}

/// Cuts a stream of bytes into frames. What it holds is bounded by the largest frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Bytes of the front that are used up.
    used: usize,
}

impl Frames {
    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if all of it has arrived.
    ///
    /// # Errors
    /// If it is none, or larger than frames of its kind are.
    pub fn pop(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let open = &self.bytes[self.used..];
        let Some((head, rest)) = open.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        let limit = Frame::limit(kind).ok_or(ProtocolError::Format("frame"))?;
        if length > limit {
            return Err(ProtocolError::Format("frame of a bearable length"));
        }
        let Some(content) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::decode(kind, content)?;
        self.used += HEAD + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use lemma_types::{
        Address, Amount, B256, Digest, Mode,
        text::{Candidate, Prompt, Sampling},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::ErrorCode;

    fn work() -> TextWork {
        TextWork {
            terms: Terms {
                mode: Mode::Signed,
                request_id: B256::repeat_byte(1),
                model_root: Digest::of(b"model"),
                payer: Address::repeat_byte(2),
                payment: B256::repeat_byte(3),
                offer: Amount::from_units(u128::MAX - 1),
            },
            request: TextRequest {
                schema: TextRequest::SCHEMA.to_owned(),
                prompt: Prompt::Text("Once".to_owned()),
                sampling: Sampling::default(),
                max_tokens: 7,
                stop: vec![],
                form: None,
                tools: None,
                logprobs: None,
            },
        }
    }

    #[test]
    fn requests_round_trip_and_are_exact() {
        let bytes = work().encode();
        assert_eq!(TextWork::decode(&bytes).unwrap(), work());
        for end in 0..bytes.len() {
            assert!(TextWork::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        let longer = [&bytes[..], b" "].concat();
        assert!(TextWork::decode(&longer).is_err());
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let frames = [
            Frame::Prompt(vec![1, u32::MAX]),
            Frame::Token {
                token: 5,
                text: "ä".to_owned(),
            },
            Frame::Text("ö".to_owned()),
            Frame::Call(Call {
                name: "f".to_owned(),
                arguments: "{}".to_owned(),
            }),
            Frame::Scored(Scored {
                chosen: Candidate {
                    token: 5,
                    bytes: vec![255].into(),
                    logprob: -0.5,
                },
                top: vec![],
            }),
            Frame::Error(ErrorBody {
                code: ErrorCode::Busy,
                message: "later".to_owned(),
            }),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for size in 1..bytes.len() {
            let (mut reader, mut read) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                reader.push(piece);
                while let Some(frame) = reader.pop().unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_arrives() {
        for (kind, length) in [
            (2, MAX_TOKEN_BYTES as u32 + 1),
            (1, u32::MAX),
            (9, 0),
            (0, 0),
        ] {
            let mut frames = Frames::default();
            frames.push(&[kind]);
            frames.push(&length.to_le_bytes());
            assert!(frames.pop().is_err(), "{kind} {length}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..9) {
            let _ = TextWork::decode(&bytes);
            let mut frames = Frames::default();
            frames.push(&[kind]);
            frames.push(&(bytes.len() as u32).to_le_bytes());
            frames.push(&bytes);
            let _ = frames.pop();
        }
    }
}
