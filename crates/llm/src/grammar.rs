//! Answers that keep to a form: JSON, a JSON schema, calls of tools.
//!
//! A [`Grammars`] is made once for a vocabulary, a constraint from it for each answer. Which tokens
//! are allowed is a function of the form, the vocabulary and the tokens so far: limits count steps
//! and never time, so a replay meets the same masks.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};

use crate::sampling::Constraint;
use crate::text::xml::{FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END, is_text};
use crate::text::{CallSyntax, Tools};

/// Most bytes of a schema.
pub const MAX_SCHEMA: usize = 128 << 10;

/// What an answer has to be.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// A JSON object.
    Json,
    /// JSON that a schema describes. It is given as text: properties come in the order in which
    /// the schema has them, so whoever replays an answer needs the same text.
    Schema(&'a str),
    /// At least one call of a tool, and nothing else.
    Calls {
        /// The tools.
        tools: &'a Tools,
        /// How the model writes calls.
        syntax: CallSyntax,
        /// Only the tool of this name.
        only: Option<&'a str>,
        /// Whether more than one call may come.
        several: bool,
    },
}

/// Why there is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The schema is too long.
    #[error("the JSON schema has {0} bytes; at most {MAX_SCHEMA} are allowed")]
    TooLong(usize),
    /// The schema is no JSON.
    #[error("the JSON schema is no JSON: {0}")]
    Json(String),
    /// The schema cannot be met, is too large, or uses what is not supported.
    #[error("the JSON schema cannot be used: {0}")]
    Schema(String),
    /// There is no tool of that name.
    #[error("there is no tool called {0} in the request")]
    NoTool(String),
    /// A vocabulary that no grammar can be laid over.
    #[error("answers of this model cannot be held to a form: {0}")]
    Vocabulary(&'static str),
}

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammars")
    }
}

/// Bounds of one constraint: some tens of megabytes, some milliseconds a token.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Most nodes of the tree that all tokens form, and most bytes of a token in it.
const MAX_NODES: usize = (1 << 22) - 1;
const MAX_TOKEN: usize = 1000;

impl Grammars {
    /// For a vocabulary (the bytes of each token) and the tokens that end an answer.
    ///
    /// # Errors
    /// If no token ends an answer, or the vocabulary is too large.
    pub fn new(bytes: &[Box<[u8]>], stop_tokens: &[u32]) -> Result<Grammars, GrammarError> {
        let last = stop_tokens.iter().max();
        let last = *last.ok_or(GrammarError::Vocabulary("no token ends its answers"))?;
        let count = bytes.len().max(last as usize + 1);
        if count > 1 << 21 {
            return Err(GrammarError::Vocabulary("its vocabulary is too large"));
        }
        // 0xff, which is in no text, would mark special tokens.
        let usable = |token: &[u8]| token.len() <= MAX_TOKEN && !token.contains(&0xff);
        let mut words: Vec<Vec<u8>> = bytes
            .iter()
            .map(|token| {
                Some(token.to_vec())
                    .filter(|t| usable(t))
                    .unwrap_or_default()
            })
            .collect();
        words.resize(count, Vec::new());
        // A token that ends answers does nothing else.
        for token in stop_tokens {
            words[*token as usize] = Vec::new();
        }
        if nodes(&words) > MAX_NODES {
            return Err(GrammarError::Vocabulary("its vocabulary is too large"));
        }
        let trie = TokTrie::from(&TokRxInfo::new(count as u32, last), &words);
        let trie = trie.with_eos_tokens(stop_tokens);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|_| GrammarError::Vocabulary("its vocabulary is malformed"))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Grammars { factory })
    }

    /// A constraint, at the beginning of an answer.
    ///
    /// # Errors
    /// If the form is malformed, too large, impossible, or not supported.
    pub fn constraint(&self, form: Form<'_>) -> Result<Box<dyn Constraint>, GrammarError> {
        let grammar = match form {
            Form::Json => TopLevelGrammar::from_json_schema(spaced(json!({"type": "object"}))),
            Form::Schema(text) => TopLevelGrammar::from_json_schema(spaced(schema(text)?)),
            Form::Calls {
                tools,
                syntax,
                only,
                several,
            } => TopLevelGrammar::from_lark(calls(tools, syntax, only, several)?),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // The first mask tells whether there is anything that could be said.
        match matcher.compute_mask_or_eos() {
            Ok(mask) if !mask.is_zero() => {}
            Ok(_) => {
                let nothing = "the vocabulary has no token that an answer could begin with";
                return Err(GrammarError::Schema(nothing.to_owned()));
            }
            Err(error) => return Err(GrammarError::Schema(brief(&format!("{error:#}")))),
        }
        Ok(Box::new(Matched {
            matcher,
            mask: SimpleVob::new(),
        }))
    }
}

/// Nodes of the tree of all beginnings of tokens.
fn nodes(words: &[Vec<u8>]) -> usize {
    let mut sorted: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    let shared = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    sorted
        .windows(2)
        .map(|pair| pair[1].len() - shared(pair[0], pair[1]))
        .sum::<usize>()
        + sorted.first().map_or(0, |first| first.len())
        + 1
}

/// The first lines of an error, without the inside of the parser.
fn brief(error: &str) -> String {
    let end = error.find("\n<").unwrap_or(error.len());
    let mut text: String = error[..end].trim().chars().take(400).collect();
    if text.is_empty() {
        text.push_str("the parser failed");
    }
    text
}

fn schema(text: &str) -> Result<Value, GrammarError> {
    if text.len() > MAX_SCHEMA {
        return Err(GrammarError::TooLong(text.len()));
    }
    serde_json::from_str(text).map_err(|e| GrammarError::Json(e.to_string()))
}

/// The schema with a bound on blanks: one, or a line's end with its indentation, between any two
/// parts. Without it a small model may write blanks for ever.
fn spaced(schema: Value) -> Value {
    let options = json!({"whitespace_pattern": r"\x20|\n[\x20\t]{0,20}"});
    match schema {
        Value::Object(mut map) => {
            map.insert("x-guidance".to_owned(), options);
            Value::Object(map)
        }
        other => json!({"allOf": [other], "x-guidance": options}),
    }
}

/// The grammar of calls, in the syntax of Lark.
fn calls(
    tools: &Tools,
    syntax: CallSyntax,
    only: Option<&str>,
    several: bool,
) -> Result<String, GrammarError> {
    let listed: Vec<_> = tools
        .iter()
        .filter(|tool| only.is_none_or(|name| name == tool.name()))
        .collect();
    if listed.is_empty() {
        return Err(GrammarError::NoTool(only.unwrap_or("anything").to_owned()));
    }
    let mut rules = Vec::new();
    for (i, tool) in listed.iter().enumerate() {
        let parameters = tool.parameters().clone();
        let call = match syntax {
            CallSyntax::Named => {
                let name = Value::String(format!("{}[ARGS]", tool.name()));
                rules.push(format!("call{i}: {name} arguments{i}"));
                rules.push(format!("arguments{i}: %json {}", spaced(parameters)));
                continue;
            }
            CallSyntax::Xml => {
                rules.extend(xml_rules(i, tool.name(), &parameters));
                continue;
            }
            _ => call_schema(tool.name(), syntax.arguments(), parameters),
        };
        rules.push(format!("call{i}: %json {}", spaced(call)));
    }
    let any: Vec<String> = (0..listed.len()).map(|i| format!("call{i}")).collect();
    rules.push(format!("call: {}", any.join(" | ")));
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let (before, between, after) = syntax.brackets();
    let more = if several {
        format!(" ({} call)*", quoted(between))
    } else {
        String::new()
    };
    let wrap = |text: &str| match text {
        "" => String::new(),
        text => quoted(text),
    };
    rules.push(format!(
        "start: {} call{more} {}",
        wrap(before),
        wrap(after)
    ));
    rules.reverse();
    Ok(rules.join("\n"))
}

/// A schema's own definitions are found from its root, which moves into the call's.
fn call_schema(name: &str, arguments: &str, mut parameters: Value) -> Value {
    let mut call = Map::new();
    call.insert("type".to_owned(), json!("object"));
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = parameters.as_object_mut().and_then(|map| map.remove(key)) {
            call.insert(key.to_owned(), definitions);
        }
    }
    call.insert(
        "properties".to_owned(),
        json!({"name": {"const": name}, arguments: parameters}),
    );
    call.insert("required".to_owned(), json!(["name", arguments]));
    call.insert("additionalProperties".to_owned(), json!(false));
    Value::Object(call)
}

/// The rules, in the syntax of Lark, of a call of the function `name` whose arguments have this
/// schema: the rule `call{i}` and those that it needs.
fn xml_rules(i: usize, name: &str, schema: &Value) -> Vec<String> {
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let mut call = format!("call{i}: {}", quoted(&format!("{FUNCTION}{name}>\n")));
    let mut rules = Vec::new();
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    for (j, (key, property)) in properties.iter().enumerate() {
        let parameter = format!("call{i}_{j}");
        let start = quoted(&format!("{PARAMETER}{key}>\n"));
        let end = quoted(&format!("\n{PARAMETER_END}\n"));
        let words = property["enum"].as_array().map(|words| {
            let words = words.iter().filter_map(Value::as_str).map(quoted);
            words.collect::<Vec<_>>().join(" | ")
        });
        let rule = match words {
            Some(words) if is_text(&property["type"]) && !words.is_empty() => {
                format!("{parameter}: {start} ({words}) {end}")
            }
            _ if is_text(&property["type"]) => {
                rules.push(format!("{parameter}_text[suffix={end}]: /(?s:.*)/"));
                format!("{parameter}: {start} {parameter}_text")
            }
            _ => {
                rules.push(format!(
                    "{parameter}_json: %json {}",
                    spaced(rooted(property, schema))
                ));
                format!("{parameter}: {start} {parameter}_json {end}")
            }
        };
        rules.push(rule);
        let required = schema["required"].as_array();
        let required = required.is_some_and(|names| names.iter().any(|name| name == key));
        call += &format!(" {parameter}{}", if required { "" } else { "?" });
    }
    rules.push(format!("{call} {}", quoted(FUNCTION_END)));
    rules
}

/// A part of a schema with the definitions that it may refer to.
fn rooted(part: &Value, schema: &Value) -> Value {
    let mut part = part.clone();
    if let Some(map) = part.as_object_mut() {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = schema.get(key) {
                map.insert(key.to_owned(), definitions.clone());
            }
        }
    }
    part
}

struct Matched {
    matcher: Matcher,
    mask: SimpleVob,
}

impl std::fmt::Debug for Matched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matched")
    }
}

impl Constraint for Matched {
    /// Nothing is allowed once the parser has met its limits.
    fn allowed(&mut self) -> Option<&[u32]> {
        self.mask = self.matcher.compute_mask_or_eos().unwrap_or_default();
        Some(self.mask.as_slice())
    }

    fn push(&mut self, token: u32) {
        if !self.matcher.is_stopped() {
            // A token that is not allowed leaves the matcher in error, and the next mask empty.
            let _ = self.matcher.consume_token(token);
        }
    }
}
