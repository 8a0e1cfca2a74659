use super::*;

fn request() -> TextRequest {
    TextRequest {
        sampling: Sampling {
            seed: u64::MAX,
            temperature: 0.7,
            ..Sampling::default()
        },
        stop: vec!["END".to_owned()],
        ..TextRequest::new(
            Prompt::Messages(vec![Message::new(Role::User, "Hallo")]),
            16,
        )
    }
}

#[test]
fn requests_round_trip_whatever_the_seed() {
    let bytes = request().encode();
    assert_eq!(TextRequest::decode(&bytes).unwrap(), request());
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(r#""seed":"18446744073709551615""#), "{text}");
    for other in [
        text.replace("\"18446744073709551615\"", "\"018\""),
        text.replace(':', ": "),
        text.replace("\"schema\"", "\"extra\":1,\"schema\""),
        text.replace("user", "wizard"),
    ] {
        assert!(TextRequest::decode(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn every_bound_of_a_request_is_held() {
    let refused = |field: &str, change: fn(&mut TextRequest)| {
        let mut request = request();
        change(&mut request);
        let error = request.check().unwrap_err();
        let names = |found: &&str| *found == field;
        assert!(
            matches!(&error, TextError::Field { field, .. } if names(field)),
            "{field}: {error}"
        );
    };
    refused("schema", |r| r.schema.push('x'));
    refused("messages", |r| r.prompt = Prompt::Messages(vec![]));
    refused("tokens", |r| r.prompt = Prompt::Tokens(vec![]));
    refused("max_tokens", |r| r.max_tokens = 0);
    refused("max_tokens", |r| r.max_tokens = limits::TEXT_TOKENS + 1);
    refused("stop", |r| {
        r.stop = vec!["x".to_owned(); limits::TEXT_STOPS + 1]
    });
    refused("stop", |r| r.stop = vec![String::new()]);
    refused("stop", |r| {
        r.stop = vec!["x".repeat(limits::TEXT_STOP_BYTES + 1)]
    });
    refused("temperature", |r| r.sampling.temperature = -0.1);
    refused("temperature", |r| r.sampling.temperature = f64::NAN);
    refused("top_p", |r| r.sampling.top_p = 1.1);
    refused("min_p", |r| r.sampling.min_p = -1.0);
    refused("repetition_penalty", |r| {
        r.sampling.repetition_penalty = 0.0
    });
    refused("presence_penalty", |r| r.sampling.presence_penalty = 101.0);
    refused("frequency_penalty", |r| {
        r.sampling.frequency_penalty = -101.0
    });
    refused("bias", |r| {
        r.sampling.bias = (0..1025).map(|i| (i, 0.0)).collect()
    });
    refused("bias", |r| r.sampling.bias = [(1, 1001.0)].into());
    refused("tools", |r| {
        r.tools = Some("x".repeat(limits::TEXT_FORM_BYTES + 1))
    });
    refused("tools", |r| {
        r.tools = Some("[]".to_owned());
        r.prompt = Prompt::Text(String::new());
    });
    refused("form", |r| {
        r.form = Some(Form::Schema("x".repeat(limits::TEXT_FORM_BYTES + 1)))
    });
    refused("form", |r| {
        r.form = Some(Form::Calls {
            only: None,
            several: true,
        })
    });
    refused("logprobs", |r| r.logprobs = Some(limits::TEXT_LOGPROBS + 1));
    refused("logprobs", |r| {
        r.logprobs = Some(0);
        r.max_tokens = limits::TEXT_LOGPROBS_TOKENS + 1;
    });
    let call = || PastCall {
        id: String::new(),
        name: String::new(),
        arguments: String::new(),
    };
    let message = |message: Message| {
        let mut request = request();
        request.prompt = Prompt::Messages(vec![message]);
        request.check()
    };
    let assistant = Message::new(Role::Assistant, "");
    assert!(
        message(Message {
            calls: vec![call()],
            ..assistant.clone()
        })
        .is_ok()
    );
    assert!(
        message(Message {
            calls: vec![call(); limits::TEXT_CALLS + 1],
            ..assistant.clone()
        })
        .is_err()
    );
    assert!(
        message(Message {
            call_id: Some(String::new()),
            ..assistant
        })
        .is_err()
    );
    assert!(
        message(Message {
            calls: vec![call()],
            ..Message::new(Role::User, "")
        })
        .is_err()
    );
    assert!(
        message(Message {
            call_id: Some(String::new()),
            ..Message::new(Role::Tool, "")
        })
        .is_ok()
    );
}

fn upstream(model: &str) -> Upstream {
    Upstream {
        model: model.to_owned(),
        prompt_tokens: 4,
        completion_tokens: 5,
    }
}

fn relayed(model: &str, tokens: Vec<u32>) -> TextResponse {
    TextResponse {
        schema: TextResponse::SCHEMA.to_owned(),
        tokens,
        text: "ja".to_owned(),
        finish: Finish::Token,
        prompt_tokens: 0,
        upstream: Some(upstream(model)),
        calls: vec![],
        logprobs: vec![],
    }
}

#[test]
fn what_is_absent_is_not_in_the_bytes() {
    let text = String::from_utf8(request().encode()).unwrap();
    for field in ["form", "tools", "logprobs", "calls", "call_id"] {
        assert!(!text.contains(field), "{field}");
    }
    let full = TextRequest {
        form: Some(Form::Calls {
            only: Some("f".to_owned()),
            several: false,
        }),
        tools: Some("[]".to_owned()),
        logprobs: Some(3),
        ..request()
    };
    assert_eq!(TextRequest::decode(&full.encode()).unwrap(), full);
    for form in [Form::Json, Form::Schema("{ }".to_owned())] {
        let form = Some(form);
        let full = TextRequest { form, ..request() };
        assert_eq!(TextRequest::decode(&full.encode()).unwrap(), full);
    }
}

#[test]
fn probabilities_are_those_of_the_tokens() {
    let candidate = |token, logprob: f32| Candidate {
        token,
        bytes: vec![token as u8].into(),
        logprob: f64::from(logprob),
    };
    let scored = |token| Scored {
        chosen: candidate(token, -0.1),
        top: vec![candidate(7, -1e-30), candidate(token, f32::MIN)],
    };
    let whole = TextResponse {
        tokens: vec![5, 6],
        prompt_tokens: 1,
        upstream: None,
        logprobs: vec![scored(5), scored(6)],
        ..relayed("m", vec![])
    };
    assert_eq!(TextResponse::decode(&whole.encode()).unwrap(), whole);
    for change in [
        (|r| r.logprobs.truncate(1)) as fn(&mut TextResponse),
        |r| r.tokens[1] = 5,
        |r| r.logprobs[0].chosen.logprob = f64::NAN,
        |r| r.logprobs[0].top[0].logprob = f64::NEG_INFINITY,
        |r| r.logprobs[1].top = vec![r.logprobs[1].chosen.clone(); 21],
    ] {
        let mut response = whole.clone();
        change(&mut response);
        assert!(response.check().is_err(), "{response:?}");
    }
}

#[test]
fn a_relayed_answer_has_no_tokens_but_a_usage() {
    let response = relayed("m", vec![]);
    assert_eq!(TextResponse::decode(&response.encode()).unwrap(), response);
    assert_eq!(response.usage(), (4, 5));
}

#[test]
fn every_bound_of_an_answer_is_held() {
    let response = TextResponse {
        schema: TextResponse::SCHEMA.to_owned(),
        tokens: vec![1, 2],
        text: "ja".to_owned(),
        finish: Finish::Text(0),
        prompt_tokens: 3,
        upstream: None,
        calls: vec![],
        logprobs: vec![],
    };
    assert_eq!(TextResponse::decode(&response.encode()).unwrap(), response);
    for change in [
        (|r| r.schema.clear()) as fn(&mut TextResponse),
        |r| r.tokens.clear(),
        |r| r.finish = Finish::Text(16),
        |r| r.prompt_tokens = 0,
        // Tokens that somebody counted and tokens that are known do not go together.
        |r| r.upstream = Some(upstream("m")),
        |r| *r = relayed("x".repeat(MODEL_BYTES + 1).as_str(), vec![]),
        |r| *r = relayed("m", vec![1]),
    ] {
        let mut response = response.clone();
        change(&mut response);
        assert!(
            TextResponse::decode(&response.encode()).is_err(),
            "{response:?}"
        );
    }
}
