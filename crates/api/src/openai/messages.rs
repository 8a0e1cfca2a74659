//! Conversations, as OpenAI's clients write them.

use lemma_types::text::{Message, PastCall, Role};
use serde_json::{Map, Value};

use super::request::Invalid;

/// The messages of a chat.
pub(super) fn messages(value: Value) -> Result<Vec<Message>, Invalid> {
    let Value::Array(messages) = value else {
        return Err(Invalid::value("messages", "an array of messages"));
    };
    let numbered = messages.into_iter().enumerate();
    numbered
        .map(|(index, value)| message(index, value))
        .collect()
}

fn message(index: usize, value: Value) -> Result<Message, Invalid> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut fields) = value else {
        let param = format!("messages[{index}]");
        return Err(Invalid::value(&param, "an object"));
    };
    let role = role(fields.remove("role").as_ref()).ok_or_else(|| {
        let expected = "system, developer, user, assistant or tool";
        Invalid::value(&at("role"), expected)
    })?;
    let calls = match role {
        Role::Assistant => calls(fields.remove("tool_calls"), &at("tool_calls"))?,
        _ => Vec::new(),
    };
    let said = fields.remove("content");
    // Whoever calls tools need not say anything.
    let silent = !calls.is_empty() && said.as_ref().is_none_or(Value::is_null);
    let content = match silent {
        true => String::new(),
        false => content(said, &at("content"))?,
    };
    let call_id = match role {
        Role::Tool => match fields.remove("tool_call_id") {
            Some(Value::String(id)) => Some(id),
            _ => {
                let param = at("tool_call_id");
                return Err(Invalid::value(
                    &param,
                    "the id of the call that is answered",
                ));
            }
        },
        _ => None,
    };
    nothing_else(&fields, at)?;
    Ok(Message {
        role,
        content,
        calls,
        call_id,
    })
}

/// The role of this name.
pub(super) fn role(value: Option<&Value>) -> Option<Role> {
    match value.and_then(Value::as_str)? {
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        "tool" => Some(Role::Tool),
        _ => None,
    }
}

/// Assistants' messages come back with what an answer has beside its content.
fn nothing_else(fields: &Map<String, Value>, at: impl Fn(&str) -> String) -> Result<(), Invalid> {
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    match fields.iter().find(|(_, value)| !empty(value)) {
        Some((field, _)) => Err(Invalid::unsupported(&at(field))),
        None => Ok(()),
    }
}

fn calls(value: Option<Value>, param: &str) -> Result<Vec<PastCall>, Invalid> {
    let wrong = || Invalid::value(param, "calls of functions with id, name and arguments");
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(calls)) => {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let call = |call: &Value| {
                let function = &call["function"];
                Some(PastCall {
                    id: text(&call["id"])?,
                    name: text(&function["name"])?,
                    arguments: text(&function["arguments"])?,
                })
            };
            calls
                .iter()
                .map(|value| call(value).ok_or_else(wrong))
                .collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// A text, or a list of parts that are texts.
pub(super) fn content(value: Option<Value>, param: &str) -> Result<String, Invalid> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let mut whole = String::new();
            for part in &parts {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text" | "input_text" | "output_text"), Some(text)) => whole += text,
                    (Some("text" | "input_text" | "output_text"), None) => {
                        return Err(Invalid::value(param, "texts"));
                    }
                    _ => return Err(Invalid::unsupported(param)),
                }
            }
            Ok(whole)
        }
        _ => Err(Invalid::value(param, "a text")),
    }
}
