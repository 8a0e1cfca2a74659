//! Answers that have to keep to a form do, whatever the model says, and replay follows the form.

use std::sync::Arc;

use crate::common::{Numbers, tiny_text};
use lemma_kernels::{Format, Threads};
use lemma_llm::engine::{Engine, Event, Finish, Limits, Request};
use lemma_llm::grammar::{Form, GrammarError, Grammars, MAX_SCHEMA};
use lemma_llm::replay::{Verdict, replay, replay_each};
use lemma_llm::sampling::{Choice, Constraint, Sampling};
use lemma_llm::text::{Call, CallStream, CallSyntax, Part, Tools};
use lemma_llm::{Compute, Model};
use serde_json::{Value, json};

const END: u32 = 256;

/// All bytes, a token that ends answers, and a few tokens of several bytes.
fn vocabulary() -> Vec<Box<[u8]>> {
    let mut tokens: Vec<Box<[u8]>> = (0..=255u8).map(|b| Box::from([b])).collect();
    tokens.push(Box::default());
    let longer = [
        "{\"",
        "\":",
        "\", \"",
        "ab",
        "true",
        "<tool_call>",
        "[TOOL_CALLS]",
        "name",
    ];
    tokens.extend(longer.map(|text| Box::from(text.as_bytes())));
    tokens
}

fn grammars() -> Grammars {
    Grammars::new(&vocabulary(), &[END]).unwrap()
}

/// Writes at random within a constraint, ending as soon as that is allowed after `least` bytes.
fn write(mut constraint: Box<dyn Constraint>, seed: u64, least: usize) -> String {
    let vocabulary = vocabulary();
    let mut numbers = Numbers(seed);
    let mut text = Vec::new();
    for _ in 0..3000 {
        let mask = constraint.allowed().unwrap();
        let allowed = |t: usize| {
            mask.get(t / 32)
                .is_some_and(|word| word >> (t % 32) & 1 == 1)
        };
        let choices: Vec<usize> = (0..vocabulary.len()).filter(|t| allowed(*t)).collect();
        assert!(!choices.is_empty(), "{}", String::from_utf8_lossy(&text));
        // Closing is preferred, so that strings and lists come to an end.
        let closing = [b'"', b'}', b']'].map(usize::from);
        let pick = if choices.contains(&(END as usize)) && text.len() >= least {
            END as usize
        } else if let Some(t) = closing
            .iter()
            .find(|t| numbers.next().is_multiple_of(2) && allowed(**t))
        {
            *t
        } else {
            choices[numbers.next() as usize % choices.len()]
        };
        constraint.push(pick as u32);
        if pick == END as usize {
            return String::from_utf8(text).unwrap();
        }
        text.extend(&vocabulary[pick][..]);
    }
    panic!("no end: {}", String::from_utf8_lossy(&text));
}

const PERSON: &str = r#"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "colour": {"enum": ["red", "green"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}
    },
    "required": ["name", "age", "colour"],
    "additionalProperties": false
}"#;

#[test]
fn a_schema_is_kept_whatever_the_model_prefers() {
    let grammars = grammars();
    for seed in 0..20 {
        let text = write(grammars.constraint(Form::Schema(PERSON)).unwrap(), seed, 0);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let object = value.as_object().unwrap();
        assert!(object["name"].as_str().unwrap().chars().count() <= 8);
        assert!((0..=150).contains(&object["age"].as_i64().unwrap()));
        assert!(["red", "green"].contains(&object["colour"].as_str().unwrap()));
        assert!(
            object
                .keys()
                .all(|k| ["name", "age", "colour", "tags"].contains(&k.as_str()))
        );
        // Properties come in the schema's order.
        assert!(text.find("\"name\"").unwrap() < text.find("\"age\"").unwrap());
        assert!(text.find("\"age\"").unwrap() < text.find("\"colour\"").unwrap());
    }
}

#[test]
fn any_object_is_one() {
    let grammars = grammars();
    for seed in 0..10 {
        let text = write(grammars.constraint(Form::Json).unwrap(), seed, 0);
        assert!(
            serde_json::from_str::<Value>(&text).unwrap().is_object(),
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_is_an_error_that_says_so() {
    let grammars = grammars();
    let error = |schema: &str| {
        let made = grammars.constraint(Form::Schema(schema));
        made.map(|_| schema).expect_err("taken")
    };
    assert!(matches!(error("{"), GrammarError::Json(_)));
    let long = format!("{{\"const\": \"{}\"}}", "x".repeat(MAX_SCHEMA));
    assert!(matches!(error(&long), GrammarError::TooLong(_)));
    for (schema, says) in [
        (
            r#"{"type": "integer", "minimum": 5, "maximum": 4}"#,
            "minimum",
        ),
        (r#"{"type": "nothing"}"#, "nothing"),
        (
            r#"{"$ref": "https://example.org/schema.json"}"#,
            "example.org",
        ),
        (r##"{"$ref": "#/$defs/missing"}"##, "missing"),
        (r#"{"type": "string", "pattern": "("}"#, "("),
        (
            r#"{"type": "object", "dependencies": {"a": ["b"]}}"#,
            "dependencies",
        ),
        (
            r#"{"allOf": [{"type": "string"}, {"type": "null"}]}"#,
            "nsatisfiable",
        ),
        ("false", "nsatisfiable"),
    ] {
        let text = error(schema).to_string();
        assert!(
            text.contains(says) && !text.contains("backtrace"),
            "{schema}: {text}"
        );
    }
    // Deep nesting is taken as far as JSON is read, and repetitions that would take a great automaton.
    let deep = |n| format!("{}{{}}{}", r#"{"items":"#.repeat(n), "}".repeat(n));
    assert!(grammars.constraint(Form::Schema(&deep(120))).is_ok());
    assert!(matches!(error(&deep(200)), GrammarError::Json(_)));
    let wide = r#"{"type": "string", "pattern": "^((a|b)*a(a|b){200}){50}$"}"#;
    match grammars.constraint(Form::Schema(wide)) {
        // What is taken may still meet its limits, and then allows nothing; it never runs away.
        Ok(mut constraint) => {
            for _ in 0..300 {
                let _ = constraint.allowed();
                constraint.push(u32::from(b'a'));
            }
        }
        Err(error) => assert!(matches!(error, GrammarError::Schema(_))),
    }
    assert!(matches!(
        Grammars::new(&vocabulary(), &[]).unwrap_err(),
        GrammarError::Vocabulary(_)
    ));
}

#[test]
fn vocabularies_that_make_no_sense_do_no_harm() {
    let long: Vec<Box<[u8]>> = vec![
        vec![b'x'; 5000].into(),
        Box::from(*b"{}"),
        Box::from([0xff]),
    ];
    let grammars = Grammars::new(&long, &[7]).unwrap();
    let mut constraint = grammars.constraint(Form::Json).unwrap();
    assert_eq!(constraint.allowed().unwrap()[0], 0b10);
    constraint.push(1);
    // Then only the end, which lies beyond the table.
    assert_eq!(constraint.allowed().unwrap()[0], 1 << 7);
    let none: Vec<Box<[u8]>> = vec![Box::from(*b"x")];
    let none = Grammars::new(&none, &[1]).unwrap();
    assert!(none.constraint(Form::Json).is_err());
}

fn tools() -> Tools {
    let tools = json!([
        {"type": "function", "function": {"name": "add", "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/small"}},
            "required": ["a", "b"], "additionalProperties": false,
            "$defs": {"small": {"type": "integer", "minimum": 0, "maximum": 9}},
        }}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    Tools::parse(&tools.to_string()).unwrap()
}

#[test]
fn required_calls_come_in_every_syntax_and_are_read_back() {
    let (grammars, tools) = (grammars(), tools());
    for syntax in [
        CallSyntax::Tagged,
        CallSyntax::Xml,
        CallSyntax::Bare,
        CallSyntax::Listed,
        CallSyntax::Named,
    ] {
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..12 {
            let several = seed % 2 == 1;
            let only = (seed % 4 == 0).then_some("add");
            let form = Form::Calls {
                tools: &tools,
                syntax,
                only,
                several,
            };
            let least = if several { 60 } else { 0 };
            let text = write(grammars.constraint(form).unwrap(), seed, least);
            // Piece by piece, as a model writes it.
            let mut stream = CallStream::new(syntax, &tools);
            let mut parts: Vec<Part> = Vec::new();
            for c in text.chars() {
                parts.extend(stream.push(&c.to_string()));
            }
            parts.extend(stream.finish());
            assert!(
                !parts.is_empty() && (several || parts.len() == 1),
                "{text:?}: {parts:?}"
            );
            for part in parts {
                let Part::Call(Call { name, arguments }) = part else {
                    panic!("{syntax:?} {text:?}: {part:?}");
                };
                let arguments: Value = serde_json::from_str(&arguments).unwrap();
                if name == "add" {
                    assert!(
                        arguments["a"].is_i64() || arguments["a"].is_number(),
                        "{text}"
                    );
                    assert!((0..=9).contains(&arguments["b"].as_i64().unwrap()));
                }
                assert!(only.is_none_or(|only| only == name));
                names.insert(name);
            }
        }
        assert_eq!(names.len(), 2, "{syntax:?}");
    }
    let missing = Form::Calls {
        tools: &tools,
        syntax: CallSyntax::Tagged,
        only: Some("subtract"),
        several: false,
    };
    assert_eq!(
        grammars.constraint(missing).unwrap_err(),
        GrammarError::NoTool("subtract".to_owned())
    );
}

/// The answer of a small random model to a request.
fn answer(
    model: &Arc<Model>,
    request: &Request,
    constraint: Option<Box<dyn Constraint>>,
) -> (Vec<Choice>, String, Option<Finish>) {
    let bytes = Arc::new(vocabulary());
    let mut engine = Engine::new(
        model.clone(),
        Compute::new(1),
        Some(bytes),
        Limits::default(),
    );
    engine
        .submit_constrained(request.clone(), constraint)
        .unwrap();
    let (mut choices, mut answer, mut finish) = (Vec::new(), String::new(), None);
    while !engine.is_idle() {
        for event in engine.step() {
            match event {
                Event::Token { choice, text, .. } => {
                    choices.push(choice);
                    answer += &text;
                }
                Event::Finished { reason, text, .. } => {
                    answer += &text;
                    finish = Some(reason);
                }
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    (choices, answer, finish)
}

#[test]
fn replay_follows_the_form_and_the_log_probabilities() {
    let vocab = vocabulary().len();
    let file = tiny_text(Format::Q8_0, 3, vocab);
    let model = Arc::new(Model::from_gguf(&Threads::single(), &file).unwrap());
    let grammars = grammars();
    let schema = r#"{"type": "object", "properties": {"ok": {"type": "boolean"},
        "word": {"type": "string", "maxLength": 5}}, "required": ["ok", "word"],
        "additionalProperties": false}"#;
    let form = || Some(grammars.constraint(Form::Schema(schema)).unwrap());
    let mut request = Request::new(&model, vec![72, 105], 80, Sampling::default());
    request.stop_tokens = vec![END];
    request.logprobs = Some(3);
    let (choices, text, finish) = answer(&model, &request, form());
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(value["ok"].is_boolean() && value["word"].is_string());
    assert_eq!(finish, Some(Finish::Token));

    let tokens: Vec<u32> = choices.iter().map(|c| c.token).collect();
    let (compute, bytes) = (Compute::new(2), Arc::new(vocabulary()));
    let mut again = Vec::new();
    let verdict = replay_each(
        &model,
        &compute,
        Some(&bytes),
        &request,
        form(),
        &tokens,
        Finish::Token,
        &mut |choice| again.push(choice),
    );
    assert_eq!(verdict.unwrap(), Verdict::Same);
    // Bit for bit, and best first.
    assert_eq!(again, choices);
    assert!(
        choices
            .iter()
            .all(|c| c.logprob.is_some_and(|l| l <= 0.0) && c.top.len() == 3)
    );
    assert!(
        choices
            .iter()
            .all(|c| c.top.is_sorted_by(|a, b| a.1 >= b.1))
    );

    // Without the form, or under another, the same tokens are not what the model gives.
    let check = |constraint| {
        replay(
            &model,
            &compute,
            Some(&bytes),
            &request,
            constraint,
            &tokens,
            Finish::Token,
        )
    };
    assert!(matches!(
        check(None).unwrap(),
        Verdict::Differs { index: 0, .. }
    ));
    let other = grammars
        .constraint(Form::Schema(r#"{"type": "array"}"#))
        .unwrap();
    assert!(matches!(
        check(Some(other)).unwrap(),
        Verdict::Differs { index: 0, .. }
    ));
}
