//! What a kept answer shows, held against what its receipt is for. People read the body; only the key `lemma` is signed.
//!
//! The body is made again from what the receipt commits to, by the code that writes answers, and compared field by field. So
//! nothing can be added to it either. Left out are the time, the model's name, and what a response says again of its request.
//! Clients may write a body differently: without what is null or empty, with it, or with the helpers of OpenAI's SDKs.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lemma_types::{
    B256,
    tensor::{DType, TensorData},
    text::Transcript,
};
use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, Kind},
    embeddings::usage,
    responses::{ECHOED, Echo, Shape},
};

/// Fields of an answer that no receipt is about.
const UNSIGNED: [&str; 4] = ["created", "created_at", "model", "lemma"];

/// Where `body` first shows something else than `transcript`, which a request with this id has; `None` if it does not.
///
/// `body` may be an answer of any endpoint for text, or the last chunk of a stream.
#[must_use]
pub fn difference(body: &Value, request_id: B256, transcript: &Transcript) -> Option<String> {
    let response = &transcript.response;
    let of = |kind| Answer::new(kind, String::new(), request_id);
    let with_chunks = |answer: Answer, mut honest: Vec<Value>| {
        honest.extend(answer.ending(response, true).pop());
        honest.extend(answer.ending(response, false));
        honest
    };
    let honest = match body["object"].as_str() {
        Some("chat.completion") => vec![of(Kind::Chat).whole(transcript)],
        Some("chat.completion.chunk") => with_chunks(of(Kind::Chat), vec![]),
        Some("text_completion") => {
            let answer = of(Kind::Completion);
            let whole = answer.whole(transcript);
            with_chunks(answer, vec![whole])
        }
        Some("response") => {
            let shape = Shape::new(String::new(), request_id, Echo::nothing());
            let mut honest = shape.whole(response);
            if body.get("output_text").is_some() {
                honest["output_text"] = json!(response.text);
            }
            vec![honest]
        }
        _ => return Some("object".to_owned()),
    };
    let echoed = |field: &str| body["object"] == "response" && ECHOED.iter().any(|e| e.0 == field);
    let body = signed(body, echoed);
    let mut differences = honest
        .iter()
        .map(|honest| differing(&body, &signed(honest, echoed), String::new()));
    // Of several honest bodies the first is the most telling one.
    let first = differences.next()?;
    if differences.any(|difference| difference.is_none()) {
        return None;
    }
    first
}

/// The outputs of the embedding model that a body shows. Whether a receipt is for them is not known here; `lengths` are the
/// tokens of each text.
///
/// # Errors
/// The field that is not as answers have it.
pub fn vectors(body: &Value, lengths: &[u32]) -> Result<Vec<TensorData>, String> {
    let entries = body["data"].as_array().ok_or("data")?;
    let (mut bytes, mut size) = (Vec::new(), 0);
    for (index, entry) in entries.iter().enumerate() {
        let field = || format!("data[{index}].embedding");
        let before = bytes.len();
        match &entry["embedding"] {
            Value::String(text) => bytes.extend(STANDARD.decode(text).map_err(|_| field())?),
            Value::Array(values) => {
                for value in values {
                    let value = value.as_f64().ok_or_else(field)? as f32;
                    bytes.extend(value.to_le_bytes());
                }
            }
            _ => return Err(field()),
        }
        if index == 0 {
            size = bytes.len();
        }
        if size == 0 || bytes.len() - before != size || !size.is_multiple_of(4) {
            return Err(field());
        }
        let honest =
            json!({ "object": "embedding", "index": index, "embedding": entry["embedding"] });
        if let Some(differs) = differing(&pruned(entry), &pruned(&honest), String::new()) {
            return Err(format!("data[{index}].{differs}"));
        }
    }
    let honest = json!({ "object": "list", "data": body["data"], "usage": usage(lengths) });
    let nothing = |_: &str| false;
    if let Some(differs) = differing(
        &signed(body, nothing),
        &signed(&honest, nothing),
        String::new(),
    ) {
        return Err(differs);
    }
    let count = entries.len() as u64;
    let lengths: Vec<u8> = lengths
        .iter()
        .flat_map(|length| length.to_le_bytes())
        .collect();
    let tensors = [
        TensorData::new("embedding", DType::F32, vec![count, size as u64 / 4], bytes),
        TensorData::new("lengths", DType::U32, vec![count], lengths),
    ];
    let tensors: Result<Vec<_>, _> = tensors.into_iter().collect();
    tensors.map_err(|_| "data".to_owned())
}

/// What of a body a receipt is about.
fn signed(body: &Value, echoed: impl Fn(&str) -> bool) -> Value {
    let Value::Object(fields) = body else {
        return body.clone();
    };
    let signed = fields
        .iter()
        .filter(|(field, _)| !UNSIGNED.contains(&field.as_str()) && !echoed(field));
    pruned(&Value::Object(
        signed
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect(),
    ))
}

/// Without what is null or empty, and without the helpers of SDKs that repeat a text as the JSON in it.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields
                .iter()
                .filter(|(field, value)| !is_repeated(fields, field, value));
            let kept = kept.map(|(field, value)| (field.clone(), pruned(value)));
            Value::Object(kept.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(values) => values.iter().map(pruned).collect(),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    }
}

fn is_repeated(fields: &Map<String, Value>, field: &str, value: &Value) -> bool {
    let source = match field {
        "parsed" => fields.get("content").or(fields.get("text")),
        "parsed_arguments" => fields.get("arguments"),
        _ => None,
    };
    let source = source.and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str::<Value>(source)
        .is_ok_and(|source| differing(value, &source, String::new()).is_none())
}

/// The first place at which two values differ.
fn differing(a: &Value, b: &Value, place: String) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let added = a.keys().filter(|field| !b.contains_key(*field));
            let mut fields = b.keys().chain(added);
            fields.find_map(|field| {
                let dot = if place.is_empty() { "" } else { "." };
                let place = format!("{place}{dot}{field}");
                match (a.get(field), b.get(field)) {
                    (Some(a), Some(b)) => differing(a, b, place),
                    _ => Some(place),
                }
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(index, (a, b))| differing(a, b, format!("{place}[{index}]"))),
        // Some clients write 1 as 1.0.
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => None,
        (a, b) => (a != b).then_some(place),
    }
}

#[cfg(test)]
mod tests {
    use lemma_types::text::{Call, Finish, Prompt, Sampling, TextRequest, TextResponse};

    use super::*;

    const ID: B256 = B256::repeat_byte(7);

    fn transcript() -> Transcript {
        Transcript {
            request: TextRequest {
                schema: TextRequest::SCHEMA.to_owned(),
                prompt: Prompt::Text("Once".to_owned()),
                sampling: Sampling::default(),
                max_tokens: 7,
                stop: vec![],
                form: None,
                tools: None,
                logprobs: None,
            },
            prompt: vec![1, 2],
            response: TextResponse {
                schema: TextResponse::SCHEMA.to_owned(),
                tokens: vec![3, 4],
                text: r#"{"a":1}"#.to_owned(),
                finish: Finish::Token,
                prompt_tokens: 2,
                upstream: None,
                calls: vec![Call {
                    name: "f".to_owned(),
                    arguments: r#"{"x":2}"#.to_owned(),
                }],
                logprobs: vec![],
            },
        }
    }

    #[test]
    fn what_clients_add_to_an_answer_is_no_difference() {
        let transcript = transcript();
        let mut body = Answer::new(Kind::Chat, "a/b".to_owned(), ID).whole(&transcript);
        body["lemma"] = json!({ "mode": "signed" });
        body["service_tier"] = Value::Null;
        body["usage"]["completion_tokens_details"] = json!({ "audio_tokens": null });
        body["usage"]["completion_tokens"] = json!(2.0);
        let message = &mut body["choices"][0]["message"];
        message["parsed"] = json!({ "a": 1 });
        message["annotations"] = json!([]);
        message["tool_calls"][0]["function"]["parsed_arguments"] = json!({ "x": 2.0 });
        assert_eq!(difference(&body, ID, &transcript), None);
        body["choices"][0]["message"]["parsed"]["a"] = json!(2);
        let place = difference(&body, ID, &transcript).unwrap();
        assert_eq!(place, "choices[0].message.parsed");
        assert_eq!(difference(&body, B256::ZERO, &transcript).unwrap(), "id");
    }

    #[test]
    fn a_response_may_say_its_request_and_its_text_again() {
        let transcript = transcript();
        let shape = Shape::new("a/b".to_owned(), ID, Echo::nothing());
        let mut body = shape.whole(&transcript.response);
        body["instructions"] = json!("Be brief");
        body["output_text"] = json!(transcript.response.text);
        assert_eq!(difference(&body, ID, &transcript), None);
        body["output_text"] = json!("Else");
        assert_eq!(difference(&body, ID, &transcript).unwrap(), "output_text");
    }

    #[test]
    fn the_end_of_a_stream_has_no_words() {
        let transcript = transcript();
        for (kind, said) in [
            (Kind::Chat, "/choices/0/delta"),
            (Kind::Completion, "/choices/0"),
        ] {
            for usage in [false, true] {
                let answer = Answer::new(kind, "a/b".to_owned(), ID);
                let chunks = answer.ending(&transcript.response, usage);
                let mut last = chunks.last().unwrap().clone();
                assert_eq!(difference(&last, ID, &transcript), None, "{last}");
                match last.pointer_mut(said) {
                    Some(said) => said["content"] = json!("Else"),
                    None => last["choices"] = json!([{ "text": "Else" }]),
                }
                assert!(difference(&last, ID, &transcript).is_some(), "{last}");
            }
        }
    }

    #[test]
    fn vectors_are_read_as_they_were_written() {
        let values = [0.1f32, -1.5, 3e-9, 1.0];
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let entry = |index: u32, embedding: Value| json!({ "object": "embedding", "index": index, "embedding": embedding });
        let body = |data: Value| json!({ "object": "list", "data": data, "usage": usage(&[3, 4]) });
        let numbers: Value = serde_json::from_str(&json!(values).to_string()).unwrap();
        let both = json!([
            entry(0, numbers.clone()),
            entry(1, STANDARD.encode(&bytes).into())
        ]);
        let tensors = vectors(&body(both), &[3, 4]).unwrap();
        assert_eq!(tensors[0].data(), [&bytes[..], &bytes].concat());
        assert_eq!(tensors[0].shape(), [2, 4]);
        assert_eq!(tensors[1].data(), [3, 0, 0, 0, 4, 0, 0, 0]);
        for wrong in [
            json!([]),
            json!([entry(0, numbers.clone())]),
            json!([entry(1, numbers.clone()), entry(0, numbers.clone())]),
            json!([entry(0, numbers.clone()), entry(1, json!([0.5]))]),
            json!([entry(0, json!([])), entry(1, json!([]))]),
            json!([entry(0, json!("AA")), entry(1, json!("AA"))]),
            json!("none"),
        ] {
            assert!(vectors(&body(wrong.clone()), &[3, 4]).is_err(), "{wrong}");
        }
        let counted = body(json!([entry(0, numbers.clone()), entry(1, numbers)]));
        assert_eq!(
            vectors(&counted, &[3, 5]).unwrap_err(),
            "usage.prompt_tokens"
        );
    }
}
