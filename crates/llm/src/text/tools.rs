//! Tools: what a request offers, and calls of them in what a model writes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::xml;

/// Most tools of a request, and most bytes of their description.
const MAX_TOOLS: usize = 128;
const MAX_JSON: usize = 256 << 10;

/// Why tools cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// It is no JSON.
    #[error("tools are no JSON: {0}")]
    Json(String),
    /// They are too many, or described at too great length.
    #[error("{0} tools in {1} bytes; at most {MAX_TOOLS} in {MAX_JSON} are allowed")]
    TooMany(usize, usize),
    /// A tool is not what it should be.
    #[error("tools[{index}]: {what}")]
    Malformed {
        /// Which one.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A function that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    name: String,
    parameters: Value,
}

impl Tool {
    /// Its name: letters, digits, `_` and `-`, at most 64.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The JSON schema of its arguments, an object.
    #[must_use]
    pub fn parameters(&self) -> &Value {
        &self.parameters
    }
}

/// The tools of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    list: Vec<Tool>,
    json: Value,
}

impl Tools {
    /// Reads the `tools` of a request of the chat API, as text: templates and grammars follow the
    /// order of its entries, so whoever replays an answer needs the same text.
    ///
    /// # Errors
    /// [`ToolError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Tools, ToolError> {
        if text.len() > MAX_JSON {
            return Err(ToolError::TooMany(0, text.len()));
        }
        let json: Value = serde_json::from_str(text).map_err(|e| ToolError::Json(e.to_string()))?;
        let entries = json
            .as_array()
            .ok_or_else(|| ToolError::Json("it is no list".to_owned()))?;
        if entries.len() > MAX_TOOLS {
            return Err(ToolError::TooMany(entries.len(), text.len()));
        }
        let mut names = BTreeSet::new();
        let mut list = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let malformed = |what| ToolError::Malformed { index, what };
            let tool = tool(entry).map_err(malformed)?;
            if !names.insert(tool.name.clone()) {
                return Err(malformed("another tool has this name"));
            }
            list.push(tool);
        }
        Ok(Tools { list, json })
    }

    /// The tools, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Tool> {
        self.list.iter()
    }

    /// The tool of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.list.iter().find(|tool| tool.name == name)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// As the chat template gets them.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }
}

fn tool(entry: &Value) -> Result<Tool, &'static str> {
    if entry["type"] != "function" {
        return Err("its type has to be function");
    }
    let function = entry["function"]
        .as_object()
        .ok_or("its function is missing")?;
    let name = function.get("name").and_then(Value::as_str);
    let name = name.ok_or("the name of its function is missing")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err("the name of its function has to be 1 to 64 letters, digits, _ or -");
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(Value::Object(schema)) => Value::Object(schema.clone()),
        Some(_) => return Err("the parameters of its function have to be a JSON schema"),
    };
    Ok(Tool {
        name: name.to_owned(),
        parameters,
    })
}

/// How a model writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSyntax {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, after text or without (Hermes, Qwen,
    /// SmolLM3).
    Tagged,
    /// `<tool_call><function=…><parameter=…>…</parameter></function></tool_call>`, after text or
    /// without (Qwen3-Coder). Values of strings stand there as they are, others as JSON.
    Xml,
    /// `{"name": …, "parameters": …}` and nothing else (Llama 3).
    Bare,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}, …]` (Mistral).
    Listed,
    /// `[TOOL_CALLS]name[ARGS]{…}` (Mistral since 2025).
    Named,
}

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const CALLS: &str = "[TOOL_CALLS]";
const ARGS: &str = "[ARGS]";
const PYTHON: &str = "<|python_tag|>";

/// Special tokens that mark calls, and so are part of the text that a model writes.
pub(super) const MARKS: [&str; 5] = [OPEN, CLOSE, CALLS, ARGS, PYTHON];

impl CallSyntax {
    /// The syntax that a chat template teaches, if it knows tools.
    #[must_use]
    pub fn of(template: &str) -> Option<CallSyntax> {
        let has = |text: &str| template.contains(text);
        if !has("tools") {
            return None;
        }
        if has(CALLS) {
            let named = has(ARGS);
            return Some(if named {
                CallSyntax::Named
            } else {
                CallSyntax::Listed
            });
        }
        if has(OPEN) {
            let xml = has("<function=");
            return Some(if xml {
                CallSyntax::Xml
            } else {
                CallSyntax::Tagged
            });
        }
        let bare = has(r#""parameters""#) && has(r#""name""#) || has(PYTHON);
        bare.then_some(CallSyntax::Bare)
    }

    /// What arguments are called in a call.
    pub(crate) fn arguments(self) -> &'static str {
        match self {
            CallSyntax::Bare => "parameters",
            _ => "arguments",
        }
    }

    /// What stands before the first call, between two, and after the last.
    pub(crate) fn brackets(self) -> (&'static str, &'static str, &'static str) {
        match self {
            CallSyntax::Tagged | CallSyntax::Xml => (
                "<tool_call>\n",
                "\n</tool_call>\n<tool_call>\n",
                "\n</tool_call>",
            ),
            CallSyntax::Bare => ("", "; ", ""),
            CallSyntax::Listed => ("[TOOL_CALLS][", ", ", "]"),
            CallSyntax::Named => (CALLS, CALLS, ""),
        }
    }
}

/// A call that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments: the text of a JSON object.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text that is no call.
    Text(String),
    /// A whole call.
    Call(Call),
}

/// Finds calls in text that comes piece by piece. What may become a call is held until it is one,
/// or certain to be none; calls of tools that were not offered are text.
#[derive(Debug)]
pub struct CallStream {
    syntax: CallSyntax,
    /// The schema of the arguments of each tool.
    tools: BTreeMap<String, Value>,
    held: String,
    /// Whether text has come that cannot begin a call.
    plain: bool,
    /// Whether a call has just ended: blanks that follow it are no text.
    ended: bool,
}

impl CallStream {
    /// At the beginning of an answer.
    #[must_use]
    pub fn new(syntax: CallSyntax, tools: &Tools) -> CallStream {
        CallStream {
            syntax,
            tools: tools
                .iter()
                .map(|tool| (tool.name.clone(), tool.parameters.clone()))
                .collect(),
            held: String::new(),
            plain: false,
            ended: false,
        }
    }

    /// Adds text and returns what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held += text;
        let mut parts = Vec::new();
        match self.syntax {
            CallSyntax::Tagged | CallSyntax::Xml => self.tagged(&mut parts),
            CallSyntax::Listed | CallSyntax::Named => self.until(CALLS, &mut parts),
            CallSyntax::Bare => {
                let start = self.held.trim_start();
                let open = start.is_empty()
                    || start.starts_with('{')
                    || start.starts_with(PYTHON)
                    || PYTHON.starts_with(start);
                if self.plain || !open {
                    self.plain = true;
                    give(&mut parts, std::mem::take(&mut self.held));
                }
            }
        }
        parts
    }

    /// The rest, when no text follows.
    pub fn finish(&mut self) -> Vec<Part> {
        let text = std::mem::take(&mut self.held);
        let body = text.trim();
        let calls = match self.syntax {
            _ if self.plain => None,
            CallSyntax::Tagged | CallSyntax::Xml => {
                body.strip_prefix(OPEN).and_then(|b| self.call(b.trim()))
            }
            CallSyntax::Bare => self.several(body.strip_prefix(PYTHON).unwrap_or(body)),
            CallSyntax::Listed => body.strip_prefix(CALLS).and_then(|body| {
                let list: Vec<Map<String, Value>> = serde_json::from_str(body.trim()).ok()?;
                list.iter().map(|call| self.read(call)).collect()
            }),
            CallSyntax::Named => body.strip_prefix(CALLS).and_then(|body| {
                let calls = body.split(CALLS);
                calls.map(|call| self.named(call)).collect()
            }),
        };
        let mut parts = Vec::new();
        match calls {
            Some(calls) => parts.extend(calls.into_iter().map(Part::Call)),
            None => give(&mut parts, text),
        }
        parts
    }

    /// Text up to a mark; from there on it is held.
    fn until(&mut self, mark: &str, parts: &mut Vec<Part>) {
        let end = self.held.find(mark).unwrap_or_else(|| {
            let begun = (1..mark.len())
                .rev()
                .find(|n| self.held.ends_with(&mark[..*n]));
            self.held.len() - begun.unwrap_or(0)
        });
        let rest = self.held.split_off(end);
        give(parts, std::mem::replace(&mut self.held, rest));
    }

    fn tagged(&mut self, parts: &mut Vec<Part>) {
        loop {
            if self.ended {
                let blank = self.held.len() - self.held.trim_start().len();
                self.held.drain(..blank);
                self.ended = self.held.is_empty();
            }
            self.until(OPEN, parts);
            let Some(end) = self.held.find(CLOSE) else {
                return;
            };
            let rest = self.held.split_off(end + CLOSE.len());
            let whole = std::mem::replace(&mut self.held, rest);
            match self.call(whole[OPEN.len()..end].trim()) {
                Some(calls) => {
                    parts.extend(calls.into_iter().map(Part::Call));
                    self.ended = true;
                }
                None => give(parts, whole),
            }
        }
    }

    fn call(&self, body: &str) -> Option<Vec<Call>> {
        if self.syntax == CallSyntax::Xml {
            let (name, arguments) = xml::read(body)?;
            let parameters = self.tools.get(name)?;
            return Some(vec![Call {
                name: name.to_owned(),
                arguments: xml::arguments(parameters, arguments).to_string(),
            }]);
        }
        let call: Map<String, Value> = serde_json::from_str(body).ok()?;
        Some(vec![self.read(&call)?])
    }

    /// Calls one after the other, with a semicolon or blanks between them.
    fn several(&self, body: &str) -> Option<Vec<Call>> {
        let mut calls = Vec::new();
        let mut rest = body.trim();
        while !rest.is_empty() {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter();
            let call: Map<String, Value> = values.next()?.ok()?;
            calls.push(self.read(&call)?);
            rest = rest[values.byte_offset()..].trim_start();
            rest = rest.strip_prefix(';').unwrap_or(rest).trim_start();
        }
        (!calls.is_empty()).then_some(calls)
    }

    fn named(&self, call: &str) -> Option<Call> {
        let (name, arguments) = call.split_once(ARGS)?;
        let arguments: Map<String, Value> = serde_json::from_str(arguments.trim()).ok()?;
        let (name, _) = self.tools.get_key_value(name.trim())?;
        Some(Call {
            name: name.clone(),
            arguments: Value::Object(arguments).to_string(),
        })
    }

    fn read(&self, call: &Map<String, Value>) -> Option<Call> {
        let (name, _) = self.tools.get_key_value(call.get("name")?.as_str()?)?;
        let arguments = match call.get("arguments").or(call.get("parameters")) {
            Some(arguments @ Value::Object(_)) => arguments.to_string(),
            None => "{}".to_owned(),
            Some(_) => return None,
        };
        let name = name.clone();
        Some(Call { name, arguments })
    }
}

fn give(parts: &mut Vec<Part>, text: String) {
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        let function = |name: &str| json!({"type": "function", "function": {"name": name}});
        Tools::parse(&json!([function("f"), function("g")]).to_string()).unwrap()
    }

    /// Parts of a text, given whole and character by character, which has to be the same.
    fn parts(syntax: CallSyntax, text: &str) -> Vec<Part> {
        let read = |pieces: Vec<String>| {
            let mut stream = CallStream::new(syntax, &tools());
            let mut parts: Vec<Part> = Vec::new();
            let all = pieces
                .iter()
                .flat_map(|piece| stream.push(piece))
                .collect::<Vec<_>>();
            for part in all.into_iter().chain(stream.finish()) {
                match (parts.last_mut(), part) {
                    (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
                    (_, part) => parts.push(part),
                }
            }
            parts
        };
        let whole = read(vec![text.to_owned()]);
        assert_eq!(read(text.chars().map(String::from).collect()), whole);
        whole
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call(Call {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        })
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    #[test]
    fn tagged_calls_are_found_among_text() {
        let answer = "Let me see. <tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"}\"}}\n\
             </tool_call>\n<tool_call>\n{\"name\": \"g\"}\n</tool_call>";
        assert_eq!(
            parts(CallSyntax::Tagged, answer),
            [
                text("Let me see. "),
                call("f", r#"{"b":1,"a":"}"}"#),
                call("g", "{}")
            ]
        );
        // Not a call: another tool, no JSON, no end.
        for plain in [
            "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>",
            "<tool_call>f()</tool_call> or so",
            "<tool_call> is how it begins",
            "a <tool",
        ] {
            assert_eq!(parts(CallSyntax::Tagged, plain), [text(plain)]);
        }
        // The end of a call may be the end of the answer.
        assert_eq!(
            parts(
                CallSyntax::Tagged,
                "<tool_call>{\"name\": \"g\", \"arguments\": {}}"
            ),
            [call("g", "{}")]
        );
    }

    #[test]
    fn calls_in_xml_are_read_by_the_schema() {
        let schema = json!({"properties": {
            "code": {"type": "string"}, "n": {"type": "integer"}, "deep": {"type": "object"},
            "on": {"type": "boolean"}, "any": {}, "maybe": {"type": ["string", "null"]},
        }});
        let tools = json!([
            {"type": "function", "function": {"name": "f", "parameters": schema}},
            {"type": "function", "function": {"name": "g"}},
        ]);
        let tools = Tools::parse(&tools.to_string()).unwrap();
        let parts = |answer: &str| {
            let mut stream = CallStream::new(CallSyntax::Xml, &tools);
            let mut parts = stream.push(answer);
            parts.extend(stream.finish());
            parts
        };
        let answer = "First.\n<tool_call>\n<function=f>\n<parameter=code>\nif a < b:\n    7\n\
             </parameter>\n<parameter=n>\n12\n</parameter>\n<parameter=deep>\n{\"a\": [1]}\n\
             </parameter>\n<parameter=on>\nTrue\n</parameter>\n<parameter=any>two words</parameter>\n\
             <parameter=maybe>\n12\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n\
             <function=g>\n</function>\n</tool_call>";
        let arguments = r#"{"code":"if a < b:\n    7","n":12,"deep":{"a":[1]},"on":true,"any":"two words","maybe":"12"}"#;
        assert_eq!(
            parts(answer),
            [text("First.\n"), call("f", arguments), call("g", "{}")]
        );
        // A value that is not of its kind is handed on as text, for whoever checks arguments.
        let odd = "<tool_call><function=f><parameter=n>\nmany\n</parameter></function></tool_call>";
        assert_eq!(parts(odd), [call("f", r#"{"n":"many"}"#)]);
        for plain in [
            "<tool_call>\n<function=h>\n</function>\n</tool_call>",
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
            "<tool_call><function=f><parameter=n>1</function></tool_call>",
            "<tool_call><function=f>",
        ] {
            assert_eq!(parts(plain), [text(plain)]);
        }
    }

    #[test]
    fn bare_calls_are_the_whole_answer() {
        let bare = CallSyntax::Bare;
        assert_eq!(
            parts(bare, "\n{\"name\": \"f\", \"parameters\": {\"x\": [1]}}"),
            [call("f", r#"{"x":[1]}"#)]
        );
        assert_eq!(
            parts(
                bare,
                "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}"
            ),
            [call("f", "{}"), call("g", "{}")]
        );
        for plain in [
            "{\"name\": \"Ada\"}",
            "{",
            "I call {\"name\": \"f\"}",
            "<|py",
        ] {
            assert_eq!(parts(bare, plain), [text(plain)]);
        }
    }

    #[test]
    fn listed_and_named_calls_follow_their_mark() {
        assert_eq!(
            parts(
                CallSyntax::Listed,
                "Well: [TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"n\": 2}}]"
            ),
            [text("Well: "), call("f", "{}"), call("g", r#"{"n":2}"#)]
        );
        assert_eq!(
            parts(
                CallSyntax::Named,
                "[TOOL_CALLS]f[ARGS]{\"n\": 1}[TOOL_CALLS]g[ARGS]{}"
            ),
            [call("f", r#"{"n":1}"#), call("g", "{}")]
        );
        for plain in ["[TOOL_CALLS]h[ARGS]{}", "[TOOL_CALLS]", "see [TOOL"] {
            let found = parts(CallSyntax::Named, plain);
            assert_eq!(found, [text(plain)]);
        }
    }

    #[test]
    fn templates_teach_a_syntax() {
        let of = CallSyntax::of;
        assert_eq!(
            of("{% if tools %}<tool_call>{% endif %}"),
            Some(CallSyntax::Tagged)
        );
        assert_eq!(
            of("{% if tools %}<tool_call><function={% endif %}"),
            Some(CallSyntax::Xml)
        );
        assert_eq!(of("{{ tools }}[TOOL_CALLS]"), Some(CallSyntax::Listed));
        assert_eq!(of("{{ tools }}[TOOL_CALLS][ARGS]"), Some(CallSyntax::Named));
        assert_eq!(
            of(r#"{{ tools }}{"name": function name, "parameters": dictionary}"#),
            Some(CallSyntax::Bare)
        );
        assert_eq!(of("{{ messages }}"), None);
    }

    #[test]
    fn tools_that_are_none_are_refused() {
        let error = |json: Value| Tools::parse(&json.to_string()).unwrap_err().to_string();
        let function = |function: Value| json!([{"type": "function", "function": function}]);
        assert!(error(json!({})).contains("no list"));
        assert!(error(json!([{"type": "search"}])).contains("type"));
        assert!(error(function(json!({}))).contains("name"));
        assert!(error(function(json!({"name": "a b"}))).contains("letters"));
        assert!(error(function(json!({"name": "a", "parameters": 1}))).contains("schema"));
        let two = json!([
            function(json!({"name": "a"}))[0],
            function(json!({"name": "a"}))[0]
        ]);
        assert!(error(two).contains("another tool"));
        let many: Vec<Value> = (0..129)
            .map(|i| function(json!({"name": format!("f{i}")}))[0].clone())
            .collect();
        assert!(error(json!(many)).contains("129 tools"));
        assert!(Tools::parse("[").is_err());
    }
}
