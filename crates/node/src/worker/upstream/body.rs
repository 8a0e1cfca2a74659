//! What a server is asked. What is not set is left out, since servers refuse what they do not know.

use std::collections::BTreeMap;

use lemma_types::text::{Form, Message, PastCall, Prompt, Role, Sampling, TextRequest};
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::super::execute::error;
use crate::protocol::{ErrorBody, ErrorCode};

/// A body. Tools and schemas stay the text that they are: their order counts.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct Body(BTreeMap<&'static str, Box<RawValue>>);

impl Body {
    fn set(&mut self, name: &'static str, value: impl Serialize) {
        let value = to_raw_value(&value).expect("the values of requests have JSON");
        self.0.insert(name, value);
    }

    fn set_text(&mut self, name: &'static str, json: String) -> Result<(), ErrorBody> {
        let value = RawValue::from_string(json).map_err(|reason| {
            error(
                ErrorCode::InvalidInput,
                format!("`{name}` is no JSON: {reason}"),
            )
        })?;
        self.0.insert(name, value);
        Ok(())
    }

    fn sampling(&mut self, asked: &Sampling) {
        let plain = Sampling::default();
        self.set("seed", asked.seed);
        self.set("temperature", asked.temperature);
        for (name, value, default) in [
            ("top_p", asked.top_p, plain.top_p),
            ("min_p", asked.min_p, plain.min_p),
            (
                "repetition_penalty",
                asked.repetition_penalty,
                plain.repetition_penalty,
            ),
            (
                "presence_penalty",
                asked.presence_penalty,
                plain.presence_penalty,
            ),
            (
                "frequency_penalty",
                asked.frequency_penalty,
                plain.frequency_penalty,
            ),
        ] {
            if value != default {
                self.set(name, value);
            }
        }
        if asked.top_k != 0 {
            self.set("top_k", asked.top_k);
        }
        if !asked.bias.is_empty() {
            self.set("logit_bias", &asked.bias);
        }
    }

    fn form(&mut self, form: &Form) -> Result<(), ErrorBody> {
        match form {
            Form::Json => self.set("response_format", json!({ "type": "json_object" })),
            Form::Schema(schema) => {
                let named = format!(r#"{{"name":"answer","strict":true,"schema":{schema}}}"#);
                let format = format!(r#"{{"type":"json_schema","json_schema":{named}}}"#);
                self.set_text("response_format", format)?;
            }
            Form::Calls { only, several } => {
                let choice = match only {
                    Some(name) => json!({ "type": "function", "function": { "name": name } }),
                    None => json!("required"),
                };
                self.set("tool_choice", choice);
                self.set("parallel_tool_calls", several);
            }
        }
        Ok(())
    }
}

/// The path and body of a request.
pub(super) fn body(model: &str, request: &TextRequest) -> Result<(&'static str, Body), ErrorBody> {
    let mut body = Body::default();
    body.set("model", model);
    body.set("stream", true);
    body.set("stream_options", json!({ "include_usage": true }));
    body.set("max_tokens", request.max_tokens);
    let chat = match &request.prompt {
        Prompt::Messages(messages) => {
            let messages: Vec<Value> = messages.iter().map(message).collect();
            body.set("messages", messages);
            true
        }
        Prompt::Text(text) => {
            body.set("prompt", text);
            false
        }
        Prompt::Tokens(_) => {
            let reason = "tokens of which vocabulary? An upstream server is asked with text";
            return Err(error(ErrorCode::InvalidInput, reason));
        }
    };
    if !request.stop.is_empty() {
        body.set("stop", &request.stop);
    }
    if let Some(tools) = &request.tools {
        body.set_text("tools", tools.clone())?;
    }
    if let Some(form) = &request.form {
        body.form(form)?;
    }
    match request.logprobs {
        None => {}
        Some(top) if chat => {
            body.set("logprobs", true);
            body.set("top_logprobs", top);
        }
        Some(top) => body.set("logprobs", top),
    }
    body.sampling(&request.sampling);
    let path = if chat {
        "chat/completions"
    } else {
        "completions"
    };
    Ok((path, body))
}

fn message(message: &Message) -> Value {
    let mut shown = json!({ "role": message.role, "content": message.content });
    if message.role == Role::Assistant && !message.calls.is_empty() {
        if message.content.is_empty() {
            shown["content"] = Value::Null;
        }
        let call = |call: &PastCall| {
            json!({
                "id": call.id,
                "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })
        };
        shown["tool_calls"] = message.calls.iter().map(call).collect();
    }
    if let Some(id) = &message.call_id {
        shown["tool_call_id"] = json!(id);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> TextRequest {
        TextRequest::new(Prompt::Text("Once".to_owned()), 5)
    }

    fn sent(request: &TextRequest) -> (&'static str, Value) {
        let (path, body) = body("m", request).unwrap();
        (path, serde_json::to_value(body).unwrap())
    }

    #[test]
    fn a_request_says_no_more_than_was_asked() {
        let (path, plain) = sent(&request());
        assert_eq!(path, "completions");
        let expected = json!({
            "model": "m", "stream": true, "stream_options": { "include_usage": true },
            "max_tokens": 5, "prompt": "Once", "seed": 0, "temperature": 1.0,
        });
        assert_eq!(plain, expected);
        let mut asked = request();
        asked.sampling.top_k = 3;
        asked.sampling.top_p = 0.5;
        asked.stop = vec!["x".to_owned()];
        asked.logprobs = Some(2);
        let (_, full) = sent(&asked);
        assert_eq!(
            (
                &full["top_k"],
                &full["top_p"],
                &full["stop"],
                &full["logprobs"]
            ),
            (&json!(3), &json!(0.5), &json!(["x"]), &json!(2))
        );
        asked.prompt = Prompt::Tokens(vec![1]);
        assert_eq!(
            body("m", &asked).err().unwrap().code,
            ErrorCode::InvalidInput
        );
    }

    #[test]
    fn tools_forms_and_earlier_calls_are_asked_as_they_were_written() {
        let tools = r#"[{"type":"function","function":{"name":"z","parameters":{"b":1,"a":2}}}]"#;
        let call = PastCall {
            id: "call_1".to_owned(),
            name: "z".to_owned(),
            arguments: "{}".to_owned(),
        };
        let called = Message {
            calls: vec![call],
            ..Message::new(Role::Assistant, "")
        };
        let result = Message {
            call_id: Some("call_1".to_owned()),
            ..Message::new(Role::Tool, "12")
        };
        let asked = TextRequest {
            tools: Some(tools.to_owned()),
            form: Some(Form::Calls {
                only: Some("z".to_owned()),
                several: false,
            }),
            logprobs: Some(2),
            ..TextRequest::new(Prompt::Messages(vec![called, result]), 5)
        };
        let (path, full) = sent(&asked);
        assert_eq!(path, "chat/completions");
        assert_eq!(full["tool_choice"]["function"]["name"], "z");
        assert_eq!(full["parallel_tool_calls"], false);
        assert_eq!(
            (&full["logprobs"], &full["top_logprobs"]),
            (&json!(true), &json!(2))
        );
        assert_eq!(full["messages"][0]["content"], Value::Null);
        assert_eq!(
            full["messages"][0]["tool_calls"][0]["function"]["arguments"],
            "{}"
        );
        assert_eq!(full["messages"][1]["tool_call_id"], "call_1");
        let text = serde_json::to_string(&body("m", &asked).unwrap().1).unwrap();
        assert!(text.contains(tools), "{text}");

        let schema = r#"{"type":"object","properties":{"b":{},"a":{}}}"#;
        let mut formed = request();
        formed.form = Some(Form::Schema(schema.to_owned()));
        let text = serde_json::to_string(&body("m", &formed).unwrap().1).unwrap();
        assert!(text.contains(&format!(r#""schema":{schema}"#)), "{text}");
        formed.form = Some(Form::Schema("{".to_owned()));
        assert!(body("m", &formed).is_err());
        formed.form = Some(Form::Json);
        assert_eq!(sent(&formed).1["response_format"]["type"], "json_object");
    }
}
