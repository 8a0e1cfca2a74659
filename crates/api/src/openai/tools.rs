//! What an answer may and must be: tools that may be called, forms that have to be kept. Both travel as the text that the client
//! wrote, because their order is the order of the answer.

use lemma_types::text::Form;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::request::{Fields, Invalid};

/// What an answer may and must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) form: Option<Form>,
    pub(super) tools: Option<String>,
    pub(super) logprobs: Option<u32>,
}

/// The parts of a body whose text counts.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<WrittenFormat<'a>>,
}

#[derive(Deserialize)]
struct WrittenFormat<'a> {
    #[serde(borrow)]
    json_schema: Option<WrittenSchema<'a>>,
}

#[derive(Deserialize)]
struct WrittenSchema<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// Tools and form as a request describes them.
pub(super) struct Described {
    /// The text of the list of tools, in the chat API's form.
    pub(super) tools: Option<String>,
    pub(super) format: Option<Value>,
    /// What the format is called in the request.
    pub(super) format_param: &'static str,
    /// The text of the format's schema.
    pub(super) schema: Option<String>,
}

/// What a chat's fields say of it. `body` is where they come from.
pub(super) fn chat(body: &[u8], fields: &mut Fields) -> Result<Shape, Invalid> {
    // A body that has got this far is JSON; what is not as expected here is refused by its own check.
    let written: Option<Written<'_>> = serde_json::from_slice(body).ok();
    let text = |raw: &RawValue| raw.get().to_owned();
    let schema = written.as_ref().and_then(|written| {
        let format = written.response_format.as_ref()?;
        format.json_schema.as_ref()?.schema.map(text)
    });
    let tools = fields.take("tools").map(|tools| {
        let written = written.as_ref().and_then(|written| written.tools.map(text));
        written.unwrap_or_else(|| tools.to_string())
    });
    let described = Described {
        tools,
        format: fields.take("response_format"),
        format_param: "response_format",
        schema,
    };
    shape(described, fields)
}

/// What they come to, with the fields `tool_choice` and `parallel_tool_calls`.
pub(super) fn shape(described: Described, fields: &mut Fields) -> Result<Shape, Invalid> {
    let names = names(described.tools.as_deref())?;
    let several = match fields.take("parallel_tool_calls") {
        None => true,
        Some(value) => value
            .as_bool()
            .ok_or_else(|| Invalid::value("parallel_tool_calls", "true or false"))?,
    };
    let choice = choice(fields.take("tool_choice"), &names, several)?;
    let param = described.format_param;
    let form = form(described.format.as_ref(), described.schema, param)?;
    let tools = match choice {
        Choice::None => None,
        _ if names.is_empty() => None,
        _ => described.tools,
    };
    let form = match (choice, form) {
        (_, form) if tools.is_none() => form,
        (Choice::Free | Choice::None, None) => None,
        (Choice::Calls(form), None) => Some(form),
        (_, Some(_)) => {
            let message = "a form for the answer and tools can not be asked for together";
            return Err(Invalid::new("unsupported_parameter", param, message));
        }
    };
    Ok(Shape {
        form,
        tools,
        logprobs: None,
    })
}

/// Whether tools are called.
enum Choice {
    /// As the model likes.
    Free,
    /// Never.
    None,
    /// In any case.
    Calls(Form),
}

/// The names of the tools.
fn names(tools: Option<&str>) -> Result<Vec<String>, Invalid> {
    let wrong = || Invalid::value("tools", "a list of functions with names");
    let Some(tools) = tools else {
        return Ok(Vec::new());
    };
    let tools: Vec<Value> = serde_json::from_str(tools).map_err(|_| wrong())?;
    let name = |tool: &Value| match tool["type"].as_str() {
        Some("function") => {
            let name = tool["function"]["name"].as_str();
            name.map(str::to_owned).ok_or_else(wrong)
        }
        Some(_) => Err(Invalid::unsupported("tools")),
        None => Err(wrong()),
    };
    tools.iter().map(name).collect()
}

fn choice(value: Option<Value>, names: &[String], several: bool) -> Result<Choice, Invalid> {
    let wrong = |expected: &str| Err(Invalid::value("tool_choice", expected));
    let Some(value) = value else {
        return Ok(Choice::Free);
    };
    // Chats name a function in an object of its own, responses beside the type.
    let named = value["function"]["name"]
        .as_str()
        .or(value["name"].as_str());
    let only = match (value.as_str(), named) {
        (Some("none"), _) => return Ok(Choice::None),
        (Some("auto"), _) => return Ok(Choice::Free),
        (Some("required"), _) => None,
        (None, Some(name)) if value["type"] == "function" => Some(name.to_owned()),
        _ => return wrong("none, auto, required or a function of `tools`"),
    };
    if names.is_empty() {
        return wrong("none or auto without `tools`");
    }
    if only.as_ref().is_some_and(|name| !names.contains(name)) {
        return wrong("a function of `tools`");
    }
    Ok(Choice::Calls(Form::Calls { only, several }))
}

fn form(
    format: Option<&Value>,
    schema: Option<String>,
    param: &str,
) -> Result<Option<Form>, Invalid> {
    let Some(format) = format else {
        return Ok(None);
    };
    let wrong = |expected| Err(Invalid::value(param, expected));
    match (format["type"].as_str(), schema) {
        (Some("text"), _) => Ok(None),
        (Some("json_object"), _) => Ok(Some(Form::Json)),
        (Some("json_schema"), Some(schema)) => Ok(Some(Form::Schema(schema))),
        (Some("json_schema"), None) => wrong("of type json_schema with a schema"),
        _ => wrong("of type text, json_object or json_schema"),
    }
}
