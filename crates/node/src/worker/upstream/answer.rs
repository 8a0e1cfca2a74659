//! What a server answers: its stream cut into lines, and these read. Nothing in it is believed, and all of it is bounded.

use std::collections::VecDeque;

use lemma_types::{
    Bytes, limits,
    text::{Call, Candidate, Finish, Scored, TextRequest, Upstream as Stated},
    upstream::MODEL_BYTES,
};
use serde_json::Value;

use super::{Relay, failed, message};
use crate::protocol::{ErrorBody, text::MAX_TOKEN_BYTES};

/// Longest line of a stream: one event, bytes.
const MAX_LINE_BYTES: usize = MAX_TOKEN_BYTES;
/// Longest call of a tool, bytes. In JSON, as frames carry it, it may be six times as long.
const MAX_CALL_BYTES: usize = MAX_TOKEN_BYTES / 8;
/// Most bytes of a token that has a probability.
const MAX_CANDIDATE_BYTES: usize = 256;

/// Reads a stream, however it is cut.
pub(super) struct Reader {
    lines: Lines,
    answer: Answer,
}

impl Reader {
    /// For the answer to this request.
    pub(super) fn new(request: &TextRequest) -> Self {
        Self {
            lines: Lines::default(),
            answer: Answer {
                stated: Stated {
                    model: String::new(),
                    prompt_tokens: 0,
                    completion_tokens: 0,
                },
                finish: None,
                length: 0,
                call: None,
                calls: 0,
                scored: 0,
                tools: request.tools.is_some(),
                top: request.logprobs,
                most: request.max_tokens as usize,
                over: false,
            },
        }
    }

    /// Takes in what has arrived. What is news is added, also that which came before an error. The end comes once.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        news: &mut VecDeque<Relay>,
    ) -> Result<(), ErrorBody> {
        self.lines.push(bytes);
        while let Some(line) = self.lines.pop()? {
            if !self.answer.over {
                self.answer.take(&line, news)?;
            }
        }
        Ok(())
    }

    /// The stream has ended.
    pub(super) fn end(&mut self, news: &mut VecDeque<Relay>) -> Result<(), ErrorBody> {
        self.answer.end(news)
    }
}

/// What has come of an answer so far.
struct Answer {
    stated: Stated,
    finish: Option<Finish>,
    /// Bytes of its text and calls.
    length: usize,
    /// The call that is coming, and the number that the server gives it.
    call: Option<(u64, Call)>,
    /// Calls that have begun.
    calls: usize,
    /// Tokens whose probabilities have come.
    scored: usize,
    /// Whether there are tools to call.
    tools: bool,
    /// With so many of the best tokens each shall be given, if at all.
    top: Option<u32>,
    /// Most tokens.
    most: usize,
    /// Whether the end has been given.
    over: bool,
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Bytes of the front in which no line ends.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn pop(&mut self) -> Result<Option<Vec<u8>>, ErrorBody> {
        let found = self.bytes[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(at) = found else {
            self.searched = self.bytes.len();
            if self.searched > MAX_LINE_BYTES {
                return Err(failed("the upstream server sent an event that is too long"));
            }
            return Ok(None);
        };
        let end = self.searched + at;
        if end > MAX_LINE_BYTES {
            return Err(failed("the upstream server sent an event that is too long"));
        }
        let rest = self.bytes.split_off(end + 1);
        self.searched = 0;
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }
}

impl Answer {
    /// Takes a line of the stream in.
    fn take(&mut self, line: &[u8], news: &mut VecDeque<Relay>) -> Result<(), ErrorBody> {
        // Comments and names of events are for others.
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return self.end(news);
        }
        let event: Value = serde_json::from_slice(data)
            .map_err(|_| failed("the upstream server sent an event that is not JSON"))?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            let said = message(error).unwrap_or_else(|| "without a reason".to_owned());
            return Err(failed(format!("the upstream server broke off: {said}")));
        }
        self.state(&event);
        let choice = &event["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish = Some(finish(reason)?);
        }
        if self.top.is_some() {
            self.score(&choice["logprobs"], news)?;
        }
        let text = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str())
            .unwrap_or_default();
        self.grow(text.len())?;
        if !text.is_empty() {
            news.push_back(Relay::Text(text.to_owned()));
        }
        if let Value::Array(pieces) = &choice["delta"]["tool_calls"] {
            for piece in pieces {
                self.called(piece, news)?;
            }
        }
        Ok(())
    }

    /// What the server says of itself.
    fn state(&mut self, event: &Value) {
        if let Some(model) = event["model"].as_str() {
            self.stated.model = shortened(model);
        }
        let count = |field: &str| event["usage"][field].as_u64();
        let known = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(tokens) = count("prompt_tokens") {
            self.stated.prompt_tokens = known(tokens);
        }
        if let Some(tokens) = count("completion_tokens") {
            self.stated.completion_tokens = known(tokens);
        }
    }

    fn grow(&mut self, bytes: usize) -> Result<(), ErrorBody> {
        self.length += bytes;
        if self.length > limits::TEXT_RESPONSE_BYTES / 2 {
            return Err(failed("the upstream server's answer is too long"));
        }
        Ok(())
    }

    /// Takes a piece of a call in. A piece with another number begins another call.
    fn called(&mut self, piece: &Value, news: &mut VecDeque<Relay>) -> Result<(), ErrorBody> {
        if !self.tools {
            return Err(failed(
                "the upstream server called a tool that there is not",
            ));
        }
        let index = piece["index"].as_u64().unwrap_or(0);
        if self
            .call
            .as_ref()
            .is_none_or(|(current, _)| *current != index)
        {
            self.calls += 1;
            if self.calls > limits::TEXT_CALLS {
                return Err(failed("the upstream server called too many tools"));
            }
            let begun = Call {
                name: String::new(),
                arguments: String::new(),
            };
            let complete = self.call.replace((index, begun));
            news.extend(complete.map(|(_, call)| Relay::Call(call)));
        }
        let text = |field: &str| piece["function"][field].as_str().unwrap_or_default();
        let (name, arguments) = (text("name"), text("arguments"));
        self.grow(name.len() + arguments.len())?;
        if let Some((_, call)) = &mut self.call {
            call.name += name;
            call.arguments += arguments;
            if call.name.len() + call.arguments.len() > MAX_CALL_BYTES {
                return Err(failed("the upstream server's call of a tool is too long"));
            }
        }
        Ok(())
    }

    /// Takes probabilities in, in the form of chats or that of completions.
    fn score(&mut self, logprobs: &Value, news: &mut VecDeque<Relay>) -> Result<(), ErrorBody> {
        let top = self.top.unwrap_or_default() as usize;
        let scored: Vec<Scored> = match (&logprobs["content"], &logprobs["tokens"]) {
            (Value::Array(tokens), _) => tokens
                .iter()
                .map(|token| {
                    let others = token["top_logprobs"].as_array();
                    Scored {
                        chosen: chat_candidate(token),
                        top: others
                            .into_iter()
                            .flatten()
                            .take(top)
                            .map(chat_candidate)
                            .collect(),
                    }
                })
                .collect(),
            (_, Value::Array(tokens)) => tokens
                .iter()
                .enumerate()
                .map(|(index, token)| Scored {
                    chosen: candidate(
                        token.as_str().unwrap_or_default().as_bytes(),
                        &logprobs["token_logprobs"][index],
                    ),
                    top: best(&logprobs["top_logprobs"][index], top),
                })
                .collect(),
            _ => return Ok(()),
        };
        self.scored += scored.len();
        if self.scored > self.most {
            return Err(failed(
                "the upstream server gave probabilities of more tokens than were asked for",
            ));
        }
        news.extend(scored.into_iter().map(Relay::Scored));
        Ok(())
    }

    fn end(&mut self, news: &mut VecDeque<Relay>) -> Result<(), ErrorBody> {
        let finish = self
            .finish
            .ok_or_else(|| failed("the upstream server's answer ended before its end"))?;
        self.over = true;
        news.extend(self.call.take().map(|(_, call)| Relay::Call(call)));
        news.push_back(Relay::Finished {
            finish,
            stated: self.stated.clone(),
        });
        Ok(())
    }
}

/// A token with its probability; its number is not known.
fn candidate(bytes: &[u8], logprob: &Value) -> Candidate {
    let logprob = logprob.as_f64().unwrap_or(f64::from(f32::MIN)) as f32;
    Candidate {
        token: 0,
        bytes: Bytes::copy_from_slice(&bytes[..bytes.len().min(MAX_CANDIDATE_BYTES)]),
        logprob: f64::from(logprob.clamp(f32::MIN, f32::MAX)),
    }
}

fn chat_candidate(token: &Value) -> Candidate {
    let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes = token["bytes"].as_array();
    let bytes: Option<Vec<u8>> = bytes.and_then(|bytes| bytes.iter().map(byte).collect());
    let text = token["token"].as_str().unwrap_or_default();
    candidate(
        bytes.as_deref().unwrap_or(text.as_bytes()),
        &token["logprob"],
    )
}

/// The best tokens of an object of texts with their probabilities, best first.
fn best(object: &Value, most: usize) -> Vec<Candidate> {
    let entries = object.as_object().into_iter().flatten();
    let mut best: Vec<Candidate> = entries
        .map(|(token, logprob)| candidate(token.as_bytes(), logprob))
        .collect();
    best.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    best.truncate(most);
    best
}

fn finish(reason: &str) -> Result<Finish, ErrorBody> {
    match reason {
        // Whether by a stop text, it does not say.
        "stop" | "tool_calls" => Ok(Finish::Token),
        "length" => Ok(Finish::Length),
        other => Err(failed(format!(
            "the upstream server ended its answer for a reason that can not be passed on: {}",
            shortened(other)
        ))),
    }
}

fn shortened(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    let mut short = String::new();
    for c in plain {
        if short.len() + c.len_utf8() > MODEL_BYTES {
            break;
        }
        short.push(c);
    }
    short
}

#[cfg(test)]
mod tests {
    use lemma_types::text::Prompt;

    use super::*;
    use crate::protocol::ErrorCode;

    fn request() -> TextRequest {
        TextRequest {
            tools: Some("[]".to_owned()),
            logprobs: Some(1),
            ..TextRequest::new(Prompt::Text("Once".to_owned()), 4)
        }
    }

    /// Everything that a stream gives, cut into pieces of this size.
    fn read(stream: &str, size: usize) -> Result<Vec<Relay>, ErrorBody> {
        let (mut reader, mut news) = (Reader::new(&request()), VecDeque::new());
        for piece in stream.as_bytes().chunks(size) {
            reader.push(piece, &mut news)?;
        }
        if !matches!(news.back(), Some(Relay::Finished { .. })) {
            reader.end(&mut news)?;
        }
        Ok(news.into())
    }

    #[test]
    fn calls_come_whole_and_probabilities_with_what_they_are_of() {
        let stream = concat!(
            r#"data: {"choices":[{"delta":{"content":"x"},"logprobs":{"content":[{"token":"x","logprob":-0.5,"bytes":[120],"top_logprobs":[{"token":"y","logprob":-0.1},{"token":"z","logprob":-9}]}]}}]}"#,
            "\n",
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}}]}}]}"#,
            "\n",
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}"#,
            "\n",
            r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}},{"index":1,"function":{"name":"g","arguments":"{}"}}]}}]}"#,
            "\n",
            r#"data: {"choices":[{"text":"","logprobs":{"tokens":["t"],"token_logprobs":[null],"top_logprobs":[{"a":-2,"b":-1}]}}]}"#,
            "\n",
            r#"data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
            "\ndata: [DONE]\n",
        );
        let call = |name: &str, arguments: &str| {
            Relay::Call(Call {
                name: name.to_owned(),
                arguments: arguments.to_owned(),
            })
        };
        for size in [1, 7, stream.len()] {
            let news = read(stream, size).unwrap();
            let Relay::Scored(scored) = &news[0] else {
                panic!("{news:?}")
            };
            assert_eq!(
                (&scored.chosen.bytes[..], scored.chosen.logprob),
                (&b"x"[..], -0.5)
            );
            assert_eq!(scored.top.len(), 1, "no more than was asked for");
            assert_eq!(news[1], Relay::Text("x".to_owned()));
            assert_eq!(news[2], call("f", "{\"a\":1}"));
            let Relay::Scored(scored) = &news[3] else {
                panic!("{news:?}")
            };
            assert_eq!(scored.chosen.logprob, f64::from(f32::MIN));
            assert_eq!(&scored.top[0].bytes[..], b"b");
            assert_eq!(news[4], call("g", "{}"));
            assert!(matches!(
                &news[5],
                Relay::Finished {
                    finish: Finish::Token,
                    ..
                }
            ));
            assert_eq!(news.len(), 6);
        }
    }

    fn push(request: &TextRequest, bytes: &[u8]) -> Result<VecDeque<Relay>, ErrorBody> {
        let mut news = VecDeque::new();
        Reader::new(request).push(bytes, &mut news)?;
        Ok(news)
    }

    #[test]
    fn what_was_not_asked_for_is_refused_or_left_out() {
        let plain = TextRequest::new(Prompt::Text("Once".to_owned()), 1);
        let call = b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n";
        assert!(push(&plain, call).is_err());
        let scored = b"data: {\"choices\":[{\"logprobs\":{\"content\":[{},{}]}}]}\n";
        assert!(push(&plain, scored).unwrap().is_empty());
        let asked = TextRequest {
            logprobs: Some(0),
            ..plain
        };
        assert!(push(&asked, scored).is_err(), "one token was asked for");
        let many = (0..=limits::TEXT_CALLS).map(|index| {
            format!(
                "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":{index}}}]}}}}]}}\n"
            )
        });
        assert!(
            read(&many.collect::<String>(), 4096)
                .unwrap_err()
                .message
                .contains("too many")
        );
    }

    #[test]
    fn streams_are_read_however_they_are_cut() {
        let stream = ": hello\r\n\r\nevent: x\ndata: {\"model\":\"m-1\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\n\
            data:{\"choices\":[{\"delta\":{\"content\":\"Grü\u{df}e\"}}],\"usage\":null}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let expected = vec![
            Relay::Text("Grü\u{df}e".to_owned()),
            Relay::Finished {
                finish: Finish::Length,
                stated: Stated {
                    model: "m-1".to_owned(),
                    prompt_tokens: 7,
                    completion_tokens: 2,
                },
            },
        ];
        for size in 1..stream.len() {
            assert_eq!(read(stream, size).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_with_a_reason() {
        for (stream, reason) in [
            (
                "data: {\"error\":{\"message\":\"out of\\nmemory\"}}\n",
                "out ofmemory",
            ),
            (
                "data: {\"choices\":[{\"text\":\"x\"}]}\ndata: [DONE]\n",
                "before its end",
            ),
            ("data: {\"choices\":[{\"text\":\"x\"}]}\n", "before its end"),
            ("data: nonsense\n", "not JSON"),
            (
                "data: {\"choices\":[{\"finish_reason\":\"content_filter\"}]}\n",
                "content_filter",
            ),
            ("", "before its end"),
        ] {
            let error = read(stream, 7).unwrap_err();
            assert_eq!(error.code, ErrorCode::Upstream);
            assert!(
                error.message.contains(reason),
                "{stream}: {}",
                error.message
            );
        }
        let endless = "x".repeat(MAX_LINE_BYTES + 2);
        assert!(
            read(&endless, 4096)
                .unwrap_err()
                .message
                .contains("too long")
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(
            events in proptest::collection::vec("(data: )?[ -~]{0,40}|data: \\{\"choices\":\\[\\{\"text\":\"[a-z]{0,9}\"\\}\\]\\}", 0..20),
            size in 1usize..50,
        ) {
            let stream = events.join("\n");
            if let Ok(news) = read(&stream, size) {
                let ends = |news: &&Relay| matches!(news, Relay::Finished { .. });
                proptest::prop_assert!(news.iter().any(|news| ends(&news)));
            }
        }
    }
}
