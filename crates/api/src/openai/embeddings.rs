//! `/v1/embeddings`: texts as vectors. What is asked becomes tensors, as [`lemma_node::embedding`] has them, so the receipt is
//! one for tensors.

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use lemma_node::{
    embedding::{InputError, Texts},
    gateway::{Answer, InferError, InferRequest, ModelRef},
};
use lemma_types::{
    B256, Manifest, Mode,
    manifest::Format,
    tensor::{Dim, TensorData},
};
use serde_json::{Value, json};

use super::{
    answer::backing,
    read,
    request::{Fields, Invalid, missing},
};
use crate::{Api, error::ApiError, oip::JsonTensors, v1::parse_model};

/// A request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The model, as the client names it.
    pub model: String,
    /// What is to be embedded.
    pub texts: Texts,
    /// Whether vectors shall come as base64 of their bytes, not as numbers.
    pub base64: bool,
    /// How long the vectors shall be.
    pub dimensions: Option<u32>,
    /// What shall back the answer.
    pub mode: Mode,
    /// The request's id, if the client chose one.
    pub request_id: Option<B256>,
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Invalid`] names the first field that is wrong or not supported.
    pub fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let mut fields = Fields::parse(body)?;
        let texts = texts(fields.take("input").ok_or_else(|| missing("input"))?)?;
        let base64 = match fields.take("encoding_format") {
            None => false,
            Some(Value::String(format)) if format == "float" => false,
            Some(Value::String(format)) if format == "base64" => true,
            Some(_) => return Err(Invalid::value("encoding_format", "`float` or `base64`")),
        };
        let dimensions = fields.count("dimensions")?;
        let (model, mode, request_id) = fields.ends()?;
        Ok(Self {
            model,
            texts,
            base64,
            dimensions,
            mode: mode.unwrap_or(Mode::Signed),
            request_id,
        })
    }
}

/// A text, tokens, or a list of one of them.
fn texts(value: Value) -> Result<Texts, Invalid> {
    let wrong = || {
        Invalid::value(
            "input",
            "a text, a list of texts, or one or more lists of tokens",
        )
    };
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong()),
    };
    let token = |value: &Value| {
        let token = value.as_u64().and_then(|token| token.try_into().ok());
        token.ok_or_else(wrong)
    };
    let tokens = |value: Value| match value {
        Value::Array(list) => list.iter().map(token).collect::<Result<Vec<u32>, _>>(),
        _ => Err(wrong()),
    };
    match value {
        Value::String(text) => Ok(Texts::Text(vec![text])),
        Value::Array(list) => match list.first() {
            Some(Value::Number(_)) => Ok(Texts::Tokens(vec![tokens(Value::Array(list))?])),
            Some(Value::Array(_)) => {
                let all = list.into_iter().map(tokens);
                Ok(Texts::Tokens(all.collect::<Result<_, _>>()?))
            }
            Some(_) => {
                let all = list.into_iter().map(text);
                Ok(Texts::Text(all.collect::<Result<_, _>>()?))
            }
            None => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

/// `POST /v1/embeddings`
pub(super) async fn embeddings(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let asked = Asked::parse(&read(body)?)?;
    let inputs = asked.texts.inputs().map_err(unfit)?;
    let info = api.gateway.model(&parse_model(&asked.model)?).await?;
    if info.manifest.format != Format::Embedding {
        let message = format!("`{}` is no embedding model", asked.model);
        return Err(Invalid::new("invalid_value", "model", message).into());
    }
    check_length(
        &asked,
        info.manifest.outputs.first().map(|spec| &spec.shape[..]),
    )?;
    let answer = api
        .gateway
        .infer(InferRequest {
            model: ModelRef::Root(info.root),
            mode: asked.mode,
            request_id: asked.request_id,
            inputs: inputs.clone(),
        })
        .await
        .map_err(|error| match error {
            InferError::InvalidInput(_) => ApiError::from(error).param("input"),
            error => error.into(),
        })?;
    let receipt = &answer.receipt.receipt;
    let headers = [
        ("x-lemma-receipt", receipt.id().to_string()),
        ("x-lemma-mode", receipt.mode.name().to_owned()),
    ];
    let body = respond(&asked, &info.manifest, &inputs, &answer).ok_or_else(|| {
        let message = "the worker's answer does not have one vector for each text";
        ApiError::new(StatusCode::BAD_GATEWAY, "broken_answer", message)
    })?;
    Ok((headers, axum::Json(body)).into_response())
}

fn unfit(error: InputError) -> ApiError {
    Invalid::new("invalid_value", "input", error.to_string()).into()
}

/// A receipt is for whole vectors: a part of one would be backed by nothing.
fn check_length(asked: &Asked, shape: Option<&[Dim]>) -> Result<(), ApiError> {
    match (asked.dimensions, shape) {
        (Some(wanted), Some([_, Dim::Fixed(has)])) if u64::from(wanted) != *has => {
            let message = format!("the model's vectors have {has} values: leave `dimensions` out");
            Err(Invalid::new("unsupported_parameter", "dimensions", message).into())
        }
        _ => Ok(()),
    }
}

/// `None` if the answer has not one vector for each text.
fn respond(
    asked: &Asked,
    manifest: &Manifest,
    inputs: &[TensorData],
    answer: &Answer,
) -> Option<Value> {
    let [vectors, lengths] = answer.outputs.as_slice() else {
        return None;
    };
    let count = match &asked.texts {
        Texts::Text(texts) => texts.len(),
        Texts::Tokens(texts) => texts.len(),
    };
    let bytes = vectors.data().len() / count;
    let (lengths, _) = lengths.data().as_chunks();
    if bytes == 0 || vectors.data().len() != bytes * count || lengths.len() != count {
        return None;
    }
    let lengths: Vec<u32> = lengths
        .iter()
        .map(|length| u32::from_le_bytes(*length))
        .collect();
    let vector = |bytes: &[u8]| -> Value {
        if asked.base64 {
            return STANDARD.encode(bytes).into();
        }
        let (values, _) = bytes.as_chunks();
        values
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect()
    };
    let entry = |(index, bytes): (usize, &[u8])| json!({ "object": "embedding", "index": index, "embedding": vector(bytes) });
    let data: Vec<Value> = vectors
        .data()
        .chunks_exact(bytes)
        .enumerate()
        .map(entry)
        .collect();
    let mut backing = backing(&answer.receipt, &answer.openings, &answer.engine, manifest);
    // With them `lemma verify --recompute` computes the vectors again.
    backing["inputs"] = json!(JsonTensors(inputs));
    // With the vectors they are what the receipt commits to.
    backing["lengths"] = json!(lengths);
    Some(json!({
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": usage(&lengths),
        "lemma": backing,
    }))
}

/// The tokens of all texts.
pub(super) fn usage(lengths: &[u32]) -> Value {
    let tokens: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    json!({ "prompt_tokens": tokens, "total_tokens": tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Asked, Invalid> {
        let mut body = json!({ "model": "a/b", "input": "x" });
        change(&mut body);
        Asked::parse(body.to_string().as_bytes())
    }

    #[test]
    fn inputs_come_in_all_four_forms() {
        let text =
            |texts: &[&str]| Texts::Text(texts.iter().map(|text| (*text).to_owned()).collect());
        for (input, expected) in [
            (json!("x"), text(&["x"])),
            (json!(["x", "y"]), text(&["x", "y"])),
            (json!([1, 2]), Texts::Tokens(vec![vec![1, 2]])),
            (
                json!([[1], [2, 3]]),
                Texts::Tokens(vec![vec![1], vec![2, 3]]),
            ),
        ] {
            assert_eq!(parse(|body| body["input"] = input).unwrap().texts, expected);
        }
        let plain = parse(|_| {}).unwrap();
        assert_eq!(
            (plain.base64, plain.mode, plain.dimensions),
            (false, Mode::Signed, None)
        );
        assert!(
            parse(|body| body["encoding_format"] = json!("base64"))
                .unwrap()
                .base64
        );
        assert!(parse(|body| body["user"] = json!("me")).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, value) in [
            ("input", Value::Null),
            ("input", json!([])),
            ("input", json!(1)),
            ("input", json!(["x", 1])),
            ("input", json!([1, "x"])),
            ("input", json!([-1])),
            ("input", json!([[1], "x"])),
            ("encoding_format", json!("hex")),
            ("dimensions", json!(-1)),
            ("model", json!(1)),
            ("inptu", json!("x")),
        ] {
            let error = parse(|body| body[field] = value.clone()).unwrap_err();
            assert_eq!(
                error.param.as_deref(),
                Some(field),
                "{value}: {}",
                error.message
            );
        }
    }
}
