//! `/v1/responses`, as far as it keeps no state: nothing is stored, so nothing earlier can be named.

use std::{
    convert::Infallible,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use futures::StreamExt as _;
use lemma_node::gateway::{Generation, GenerationEvent, InferError, TextAnswer};
use lemma_types::{
    B256,
    text::{Call, Finish, Message, PastCall, Prompt, Role, Scored, TextResponse},
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    answer::{call_id, evidence, token_logprobs},
    messages::{content, role},
    request::{Asked, CHAT_TOKENS, Fields, Invalid, missing},
    stopping,
    tools::{self, Described},
};
use crate::error::ApiError;

/// What of a request a response says again.
#[derive(Clone, Debug)]
pub(super) struct Echo(Map<String, Value>);

impl Echo {
    /// Says nothing again.
    pub(super) fn nothing() -> Self {
        Self(Map::new())
    }
}

/// What stands for a field that a request does not have.
type Absent = fn() -> Value;

/// Fields that a response says again.
pub(super) const ECHOED: [(&str, Absent); 8] = [
    ("instructions", || Value::Null),
    ("max_output_tokens", || Value::Null),
    ("metadata", || json!({})),
    ("parallel_tool_calls", || json!(true)),
    ("temperature", || json!(1.0)),
    ("tool_choice", || json!("auto")),
    ("tools", || json!([])),
    ("top_p", || json!(1.0)),
];

/// The parts of a body whose text counts.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    text: Option<WrittenText<'a>>,
}

#[derive(Deserialize)]
struct WrittenText<'a> {
    #[serde(borrow)]
    format: Option<WrittenFormat<'a>>,
}

#[derive(Deserialize)]
struct WrittenFormat<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// Reads a request. `seed` is used if it names none.
pub(super) fn read(body: &[u8], seed: u64) -> Result<(Asked, Echo), Invalid> {
    let mut fields = Fields::parse(body)?;
    let mut echo = Map::new();
    for (field, absent) in ECHOED {
        let value = fields.get(field).cloned().unwrap_or_else(absent);
        echo.insert(field.to_owned(), value);
    }
    let mut messages = Vec::new();
    match fields.take("instructions") {
        None => {}
        Some(Value::String(text)) => messages.push(Message::new(Role::System, text)),
        Some(_) => return Err(Invalid::value("instructions", "a text")),
    }
    match fields.take("input").ok_or_else(|| missing("input"))? {
        Value::String(text) => messages.push(Message::new(Role::User, text)),
        Value::Array(items) => input(items, &mut messages)?,
        _ => return Err(Invalid::value("input", "a text or a list of items")),
    }
    let limit = fields.count("max_output_tokens")?;
    let written: Option<Written<'_>> = serde_json::from_slice(body).ok();
    let schema = written.and_then(|written| {
        let schema = written.text?.format?.schema?;
        Some(schema.get().to_owned())
    });
    let format = match fields.take("text") {
        None => None,
        Some(Value::Object(mut text)) => {
            let format = text.remove("format");
            if let Some(field) = text.keys().next() {
                return Err(Invalid::unsupported(&format!("text.{field}")));
            }
            format
        }
        Some(_) => return Err(Invalid::value("text", "an object")),
    };
    let described = Described {
        // The chat API writes the same in one object more.
        tools: fields.take("tools").map(chat_tools).transpose()?,
        format: format.filter(|format| !format.is_null()),
        format_param: "text.format",
        schema,
    };
    let shape = tools::shape(described, &mut fields)?;
    fields.neutral("include", |value| {
        value.as_array().is_some_and(Vec::is_empty)
    })?;
    fields.neutral("truncation", |value| *value == "disabled")?;
    fields.neutral("background", |value| *value == Value::Bool(false))?;
    for stateful in [
        "previous_response_id",
        "conversation",
        "prompt",
        "reasoning",
    ] {
        fields.neutral(stateful, |_| false)?;
    }
    let limit = limit.unwrap_or(CHAT_TOKENS);
    let asked = fields.rest(Prompt::Messages(messages), limit, seed, shape)?;
    Ok((asked, Echo(echo)))
}

/// Tools as the chat API has them: the text of the list.
fn chat_tools(tools: Value) -> Result<String, Invalid> {
    let wrong = || Invalid::value("tools", "a list of functions with names");
    let Value::Array(tools) = tools else {
        return Err(wrong());
    };
    let tool = |tool: Value| {
        let Value::Object(mut function) = tool else {
            return Err(wrong());
        };
        match function.remove("type").as_ref().and_then(Value::as_str) {
            Some("function") => Ok(json!({ "type": "function", "function": function })),
            Some(_) => Err(Invalid::unsupported("tools")),
            None => Err(wrong()),
        }
    };
    let tools: Vec<Value> = tools.into_iter().map(tool).collect::<Result<_, _>>()?;
    Ok(Value::from(tools).to_string())
}

fn input(items: Vec<Value>, messages: &mut Vec<Message>) -> Result<(), Invalid> {
    for (index, item) in items.into_iter().enumerate() {
        let param = format!("input[{index}]");
        let Value::Object(mut item) = item else {
            return Err(Invalid::value(&param, "an object"));
        };
        let kind = text_of(&mut item, &param, "type");
        let kind = kind.unwrap_or_else(|_| "message".to_owned());
        match kind.as_str() {
            "message" => {
                let expected = "system, developer, user or assistant";
                let role = role(item.get("role")).filter(|role| *role != Role::Tool);
                let role =
                    role.ok_or_else(|| Invalid::value(&format!("{param}.role"), expected))?;
                let content = content(item.remove("content"), &format!("{param}.content"))?;
                messages.push(Message::new(role, content));
            }
            "function_call" => {
                let mut text = |field: &str| text_of(&mut item, &param, field);
                let call = PastCall {
                    id: text("call_id")?,
                    name: text("name")?,
                    arguments: text("arguments")?,
                };
                // Calls of one answer are items of their own here, and one message there.
                match messages.last_mut() {
                    Some(last) if last.role == Role::Assistant => last.calls.push(call),
                    _ => messages.push(Message {
                        calls: vec![call],
                        ..Message::new(Role::Assistant, "")
                    }),
                }
            }
            "function_call_output" => messages.push(Message {
                call_id: Some(text_of(&mut item, &param, "call_id")?),
                content: content(item.remove("output"), &format!("{param}.output"))?,
                ..Message::new(Role::Tool, "")
            }),
            _ => return Err(Invalid::unsupported(&format!("{param}.type"))),
        }
    }
    Ok(())
}

fn text_of(item: &mut Map<String, Value>, param: &str, field: &str) -> Result<String, Invalid> {
    match item.remove(field) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Invalid::value(&format!("{param}.{field}"), "a text")),
    }
}

/// What all parts of one response share.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    request_id: B256,
    created: u64,
    model: String,
    echo: Echo,
}

impl Shape {
    pub(super) fn new(model: String, request_id: B256, echo: Echo) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            request_id,
            created: now.map_or(0, |since| since.as_secs()),
            model,
            echo,
        }
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{:x}", self.request_id)
    }

    fn body(&self, status: &str, output: &[Value]) -> Value {
        let mut body = json!({
            "id": self.id("resp"),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": output,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "store": false,
            "text": { "format": { "type": "text" } },
            "truncation": "disabled",
            "usage": null,
            "user": null,
        });
        for (field, value) in &self.echo.0 {
            body[field] = value.clone();
        }
        body
    }

    /// The body of a response that is complete, without what backs it.
    pub(super) fn whole(&self, response: &TextResponse) -> Value {
        let mut output = Vec::new();
        if !response.text.is_empty() || response.calls.is_empty() {
            output.push(self.message("completed", &response.text, &response.logprobs));
        }
        let calls = response.calls.iter().enumerate();
        output.extend(calls.map(|(index, call)| self.call("completed", index, call)));
        let status = match response.finish {
            Finish::Length => "incomplete",
            Finish::Token | Finish::Text(_) => "completed",
        };
        let mut body = self.body(status, &output);
        if response.finish == Finish::Length {
            body["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        let (prompt, completion) = response.usage();
        body["usage"] = json!({
            "input_tokens": prompt,
            "input_tokens_details": { "cached_tokens": 0 },
            "output_tokens": completion,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": prompt + completion,
        });
        body
    }

    fn message(&self, status: &str, text: &str, scored: &[Scored]) -> Value {
        json!({
            "id": self.id("msg"),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [part(text, scored)],
        })
    }

    fn call(&self, status: &str, index: usize, call: &Call) -> Value {
        json!({
            "id": format!("{}_{index}", self.id("fc")),
            "type": "function_call",
            "status": status,
            "call_id": call_id(self.request_id, index),
            "name": call.name,
            "arguments": call.arguments,
        })
    }
}

fn part(text: &str, scored: &[Scored]) -> Value {
    json!({
        "type": "output_text", "text": text, "annotations": [], "logprobs": token_logprobs(scored),
    })
}

/// Writes the events of a stream: each has a number, and items begin and end.
struct Events {
    shape: Shape,
    number: u64,
    /// The text, once its item has begun, and the item's place.
    message: Option<(usize, String)>,
    /// Items that have begun.
    items: usize,
    calls: usize,
    out: String,
}

impl Events {
    fn put(&mut self, kind: &str, mut event: Value) {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        self.out += &format!("event: {kind}\ndata: {event}\n\n");
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.out))
    }

    fn begin(&mut self) {
        let body = self.shape.body("in_progress", &[]);
        self.put("response.created", json!({ "response": body }));
        self.put("response.in_progress", json!({ "response": body }));
    }

    /// The place of the message; it begins now unless it has begun.
    fn open(&mut self) -> usize {
        if let Some((place, _)) = &self.message {
            return *place;
        }
        let place = self.items;
        self.items += 1;
        self.message = Some((place, String::new()));
        let mut item = self.shape.message("in_progress", "", &[]);
        item["content"] = json!([]);
        self.put(
            "response.output_item.added",
            json!({ "output_index": place, "item": item }),
        );
        let begin = json!({
            "item_id": self.shape.id("msg"), "output_index": place, "content_index": 0, "part": part("", &[]),
        });
        self.put("response.content_part.added", begin);
        place
    }

    fn text(&mut self, text: &str) {
        let place = self.open();
        if let Some((_, whole)) = &mut self.message {
            *whole += text;
        }
        let delta = json!({
            "item_id": self.shape.id("msg"), "output_index": place, "content_index": 0,
            "delta": text, "logprobs": [],
        });
        self.put("response.output_text.delta", delta);
    }

    fn call(&mut self, call: &Call) {
        let (place, index) = (self.items, self.calls);
        self.items += 1;
        self.calls += 1;
        let mut item = self.shape.call("in_progress", index, call);
        let id = item["id"].clone();
        item["arguments"] = json!("");
        self.put(
            "response.output_item.added",
            json!({ "output_index": place, "item": item }),
        );
        let at = |more: Value| {
            let mut event = json!({ "item_id": id, "output_index": place });
            for (field, value) in more.as_object().into_iter().flatten() {
                event[field] = value.clone();
            }
            event
        };
        let delta = at(json!({ "delta": call.arguments }));
        self.put("response.function_call_arguments.delta", delta);
        let done = at(json!({ "name": call.name, "arguments": call.arguments }));
        self.put("response.function_call_arguments.done", done);
        let item = self.shape.call("completed", index, call);
        self.put(
            "response.output_item.done",
            json!({ "output_index": place, "item": item }),
        );
    }

    fn end(&mut self, answer: &TextAnswer) {
        let response = &answer.transcript.response;
        if response.calls.is_empty() {
            // Even what says nothing says so.
            self.open();
        }
        if let Some((place, text)) = self.message.take() {
            let id = self.shape.id("msg");
            let scored = token_logprobs(&response.logprobs);
            self.put("response.output_text.done", json!({
                "item_id": id, "output_index": place, "content_index": 0, "text": text, "logprobs": scored,
            }));
            self.put("response.content_part.done", json!({
                "item_id": id, "output_index": place, "content_index": 0, "part": part(&text, &response.logprobs),
            }));
            let item = self.shape.message("completed", &text, &response.logprobs);
            self.put(
                "response.output_item.done",
                json!({ "output_index": place, "item": item }),
            );
        }
        let mut body = self.shape.whole(response);
        body["lemma"] = evidence(answer);
        let kind = match response.finish {
            Finish::Length => "response.incomplete",
            Finish::Token | Finish::Text(_) => "response.completed",
        };
        self.put(kind, json!({ "response": body }));
    }

    /// What OpenAI's clients raise as an error.
    fn fail(&mut self, error: InferError) {
        let error = ApiError::from(error);
        let event = json!({ "code": error.code, "message": error.message, "param": error.param });
        self.put("error", event);
    }
}

/// Server-sent events. A client that goes away drops the stream, and with it the generation.
pub(super) fn stream(shape: Shape, generation: Generation) -> Response {
    let mut events = Events {
        shape,
        number: 0,
        message: None,
        items: 0,
        calls: 0,
        out: String::new(),
    };
    events.begin();
    let first = events.take();
    let rest = futures::stream::unfold(Some((events, generation)), |state| async move {
        let (mut events, mut generation) = state?;
        let over = match generation.next().await {
            Some(GenerationEvent::Text(text)) => {
                events.text(&text);
                false
            }
            // They are said with the whole text.
            Some(GenerationEvent::Scored(_)) => false,
            Some(GenerationEvent::Calls(calls)) => {
                calls.iter().for_each(|call| events.call(call));
                false
            }
            Some(GenerationEvent::Done(answer)) => {
                events.end(&answer);
                true
            }
            Some(GenerationEvent::Failed(error)) => {
                events.fail(error);
                true
            }
            None => {
                events.fail(stopping());
                true
            }
        };
        let bytes = events.take();
        Some((bytes, (!over).then_some((events, generation))))
    });
    let begin = futures::stream::once(async { first });
    let pieces = begin.chain(rest).map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

#[cfg(test)]
mod tests {
    use lemma_types::text::Form;

    use super::*;

    fn asked(body: &Value) -> Result<Asked, Invalid> {
        read(body.to_string().as_bytes(), 7).map(|(asked, _)| asked)
    }

    #[test]
    fn items_become_messages() {
        let body = json!({
            "model": "a/b", "instructions": "Be brief", "max_output_tokens": 9, "store": false,
            "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] },
                { "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                  "content": [{ "type": "output_text", "text": "Ho", "annotations": [] }] },
                { "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}" },
                { "type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c1", "output": "2" },
            ],
        });
        let request = asked(&body).unwrap().request;
        assert_eq!(request.max_tokens, 9);
        let Prompt::Messages(messages) = request.prompt else {
            panic!()
        };
        let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
        assert_eq!(
            roles,
            [Role::System, Role::User, Role::Assistant, Role::Tool]
        );
        assert_eq!(messages[2].calls.len(), 2);
        assert_eq!(messages[3].call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn tools_and_forms_become_those_of_chats() {
        let body = json!({
            "model": "a/b", "input": "Hi", "tool_choice": "required",
            "tools": [{ "type": "function", "name": "f", "parameters": {}, "strict": true }],
        });
        let request = asked(&body).unwrap().request;
        assert_eq!(
            request.form,
            Some(Form::Calls {
                only: None,
                several: true
            })
        );
        let tools: Value = serde_json::from_str(&request.tools.unwrap()).unwrap();
        assert_eq!(tools[0]["function"]["name"], "f");
        let raw = br#"{"model":"a/b","input":"","text":{"format":{"type":"json_schema","name":"x","schema":{"z":1,"a":2}}}}"#;
        let (asked, _) = read(raw, 7).unwrap();
        assert_eq!(
            asked.request.form,
            Some(Form::Schema(r#"{"z":1,"a":2}"#.to_owned()))
        );
    }

    #[test]
    fn what_needs_memory_is_refused_by_name() {
        for (field, value) in [
            ("previous_response_id", json!("resp_1")),
            ("conversation", json!("c")),
            ("background", json!(true)),
            ("reasoning", json!({ "effort": "high" })),
            ("include", json!(["x"])),
            ("tools", json!([{ "type": "web_search" }])),
            ("input", json!([{ "type": "image" }])),
        ] {
            let mut body = json!({ "model": "a/b", "input": "Hi" });
            body[field] = value;
            let param = asked(&body).unwrap_err().param.unwrap();
            assert!(param.starts_with(field), "{field}: {param}");
        }
    }
}
