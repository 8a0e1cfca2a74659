//! Calls of tools as Qwen3-Coder writes them: names in marks, values between them.
//!
//! A value does not say whether it is text: the tool's schema does.

use serde_json::{Map, Value};

pub(crate) const FUNCTION: &str = "<function=";
pub(crate) const FUNCTION_END: &str = "</function>";
pub(crate) const PARAMETER: &str = "<parameter=";
pub(crate) const PARAMETER_END: &str = "</parameter>";

/// The function of a call and its parameters, in their order.
type Written<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// Reads what stands between the marks of a call; `None` if it is none.
pub(super) fn read(body: &str) -> Option<Written<'_>> {
    let body = body.trim().strip_prefix(FUNCTION)?;
    let (name, body) = body.split_once('>')?;
    let mut rest = body.trim_start();
    let mut parameters = Vec::new();
    while let Some(parameter) = rest.strip_prefix(PARAMETER) {
        let (key, value) = parameter.split_once('>')?;
        let (value, after) = value.split_once(PARAMETER_END)?;
        // A value stands on lines of its own.
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        parameters.push((key.trim(), value));
        rest = after.trim_start();
    }
    (rest.trim() == FUNCTION_END).then_some((name.trim(), parameters))
}

/// Values as the schema of the arguments has them; text where they are not of the kind it says.
pub(super) fn arguments(schema: &Value, parameters: Vec<(&str, &str)>) -> Value {
    let value = |key: &str, text: &str| {
        let kind = &schema["properties"][key]["type"];
        if is_text(kind) {
            return Value::String(text.to_owned());
        }
        let text = text.trim();
        // Templates of these models show truth values as Python writes them.
        let json = match (kind.as_str(), text) {
            (Some("boolean"), "True") => "true",
            (Some("boolean"), "False") => "false",
            _ => text,
        };
        serde_json::from_str(json).unwrap_or_else(|_| Value::String(text.to_owned()))
    };
    let entries = parameters.into_iter();
    let map: Map<_, _> = entries
        .map(|(key, text)| (key.to_owned(), value(key, text)))
        .collect();
    Value::Object(map)
}

/// Whether values of this kind, the `type` of a schema, are written as they are.
pub(crate) fn is_text(kind: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| kind == "string"),
        kind => kind == "string",
    }
}
