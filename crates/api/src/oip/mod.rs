//! The Open Inference Protocol v2 at `/v2`: KServe's and Triton's clients work unmodified.
//!
//! Source: the Open Inference Protocol's REST specification, and Triton's binary tensor data extension. A model's name has
//! two parts, `owner/model`; both `/v2/models/owner/model` and `/v2/models/owner%2Fmodel` are understood.
//!
//! The receipt travels in the response's `parameters`, whose values the protocol wants to be texts, numbers or booleans:
//! [`parameters`] names them.

pub mod parameters;
mod wire;

use axum::{
    Json, Router,
    body::Body as HttpBody,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response as HttpResponse},
    routing::get,
};
use lemma_node::gateway::{Answer, InferRequest, ModelInfo, ModelRef};
use lemma_types::{
    Digest, limits,
    manifest::Format,
    tensor::{DType, Dim, TensorData, TensorSpec},
};
use serde_json::{Map, Value, json};
pub use wire::{
    Body, HEADER_LENGTH, JsonTensors, Request, Response, WantedOutput, WireError, decode_tensors,
};

use crate::{
    Api,
    body::{self, BodyError},
    error::ApiError,
};

/// Header with the receipt's id.
const RECEIPT: HeaderName = HeaderName::from_static("x-lemma-receipt");
/// Header with the mode.
const MODE: HeaderName = HeaderName::from_static("x-lemma-mode");

/// An error in the protocol's form: `{"error": "..."}`.
struct OipError(ApiError);

impl IntoResponse for OipError {
    fn into_response(self) -> HttpResponse {
        self.0.respond(json!({ "error": self.0.message }))
    }
}

impl<E: Into<ApiError>> From<E> for OipError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        Self::bad_request("invalid_request", error.to_string())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, "invalid_body", error.to_string())
    }
}

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{*path}", get(model).post(infer))
}

/// `GET /v2`
async fn server() -> Json<Value> {
    Json(json!({
        "name": "lemma",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    }))
}

/// `GET /v2/health/live`. The protocol's text and its clients do not agree on the key, so both are there.
async fn live(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "live": true, "ready": api.gateway.ready().is_ok() }))
}

/// `GET /v2/health/ready`
async fn ready(State(api): State<Api>) -> HttpResponse {
    match api.gateway.ready() {
        Ok(()) => Json(json!({ "live": true, "ready": true })).into_response(),
        Err(reason) => {
            let body = json!({ "live": true, "ready": false, "error": reason });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Metadata,
    Ready,
    Infer,
}

/// A path under `/v2/models/`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    model: ModelRef,
    version: Option<Digest>,
    action: Action,
}

impl Target {
    /// Parses `{model}[/versions/{version}][/ready|/infer]`, where the model is a root or a name of two parts.
    fn parse(path: &str) -> Result<Self, ApiError> {
        let unknown = || {
            ApiError::not_found(
                "no such endpoint: expected /v2/models/{owner}/{model}[/versions/{version}][/ready|/infer]",
            )
        };
        let mut parts: Vec<&str> = path.split('/').collect();
        let is_root = parts[0].parse::<Digest>().is_ok();
        let name_parts = if is_root { 1 } else { 2.min(parts.len()) };
        let rest = parts.split_off(name_parts);
        let model = crate::v1::parse_model(&parts.join("/"))?;
        let (version, rest) = match rest.as_slice() {
            ["versions", version, rest @ ..] => (Some(parse_version(version)?), rest),
            rest => (None, rest),
        };
        let action = match rest {
            [] => Action::Metadata,
            ["ready"] => Action::Ready,
            ["infer"] => Action::Infer,
            _ => return Err(unknown()),
        };
        Ok(Self {
            model,
            version,
            action,
        })
    }

    /// The model, if it has the version that is asked for.
    async fn resolve(&self, api: &Api) -> Result<ModelInfo, ApiError> {
        let info = api.gateway.model(&self.model).await?;
        match self.version {
            Some(version) if version != info.root => Err(ApiError::not_found(format!(
                "model `{}` has no version {version}: its registered version is {}",
                self.model, info.root
            ))
            .param("version")),
            _ => Ok(info),
        }
    }
}

/// A version is the root of its manifest.
fn parse_version(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        ApiError::not_found(format!(
            "no version `{shown}`: a version is the root of a manifest, 64 hexadecimal digits"
        ))
        .param("version")
    })
}

/// `GET /v2/models/...`: metadata and readiness.
async fn model(State(api): State<Api>, Path(path): Path<String>) -> Result<HttpResponse, OipError> {
    let target = Target::parse(&path)?;
    if target.action == Action::Infer {
        return Err(ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "infer takes POST",
        )
        .into());
    }
    let info = target.resolve(&api).await?;
    let name = target.model.to_string();
    if target.action == Action::Ready {
        return Ok(match api.gateway.ready() {
            Ok(()) => Json(json!({ "name": name, "ready": true })).into_response(),
            Err(reason) => {
                let body = json!({ "name": name, "ready": false, "error": reason });
                (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
            }
        });
    }
    let specs = |specs: &[TensorSpec]| specs.iter().map(spec).collect::<Vec<_>>();
    let body = json!({
        "name": name,
        "versions": [info.root],
        "platform": platform(info.manifest.format),
        "inputs": specs(&info.manifest.inputs),
        "outputs": specs(&info.manifest.outputs),
    });
    Ok(Json(body).into_response())
}

/// What runs models of a format, as clients of the protocol tell them apart.
const fn platform(format: Format) -> &'static str {
    match format {
        Format::Onnx => "lemma_onnx",
        Format::Integer => "lemma_integer",
        Format::Embedding => "lemma_embedding",
        Format::Gguf | Format::Safetensors => "lemma_text",
        Format::Upstream => "lemma_upstream",
    }
}

/// A dimension that each request chooses is -1.
fn spec(spec: &TensorSpec) -> Value {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => json!(size),
        Dim::Symbol(_) => json!(-1),
    };
    json!({
        "name": spec.name,
        "datatype": spec.dtype,
        "shape": spec.shape.iter().map(dim).collect::<Vec<_>>(),
    })
}

/// `POST /v2/models/.../infer`
async fn infer(
    State(api): State<Api>,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<HttpResponse, OipError> {
    let target = Target::parse(&path)?;
    if target.action != Action::Infer {
        return Err(ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "only infer takes POST",
        )
        .into());
    }
    let bytes = body::read(&headers, body, limits::HTTP_BODY_BYTES).await?;
    let request = Request::decode(&bytes, header_length(&headers)?)?;
    drop(bytes);
    let info = target.resolve(&api).await?;
    let wanted = wanted(&request, &info)?;
    for input in &request.inputs {
        known(input, &info)?;
        finite(input)?;
    }
    let answer = api
        .gateway
        .infer(InferRequest {
            // Exactly the version that was looked at, even if the name moves on at this moment.
            model: ModelRef::Root(info.root),
            mode: parameters::mode(&request.parameters)?,
            request_id: parameters::request_id(&request.parameters)?,
            inputs: request.inputs,
        })
        .await?;
    respond(&target, request.id, info.root, answer, &wanted)
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        ApiError::bad_request("invalid_header", format!("{HEADER_LENGTH} is not a number"))
            .param(HEADER_LENGTH)
    })
}

/// Which outputs to send, in which order, and whether as binary data.
fn wanted(request: &Request, info: &ModelInfo) -> Result<Vec<(usize, bool)>, ApiError> {
    let default = request.binary_by_default();
    let specs = &info.manifest.outputs;
    if request.outputs.is_empty() {
        return Ok((0..specs.len()).map(|index| (index, default)).collect());
    }
    let mut found: Vec<(usize, bool)> = Vec::with_capacity(request.outputs.len());
    for output in &request.outputs {
        let position = specs.iter().position(|spec| spec.name == output.name);
        let index = position.ok_or_else(|| {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            let message = format!(
                "output `{}`: the model has {}",
                output.name,
                names.join(", ")
            );
            ApiError::bad_request("unknown_output", message).param("outputs")
        })?;
        if found.iter().any(|(other, _)| *other == index) {
            let message = format!("output `{}` is asked for twice", output.name);
            return Err(ApiError::bad_request("repeated_output", message).param("outputs"));
        }
        found.push((index, output.binary.unwrap_or(default)));
    }
    Ok(found)
}

/// A tensor that the model does not take is named, rather than the one that is missing in its place.
fn known(input: &TensorData, info: &ModelInfo) -> Result<(), ApiError> {
    let specs = &info.manifest.inputs;
    if specs.iter().any(|spec| spec.name == input.name()) {
        return Ok(());
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let message = format!(
        "input `{}`: the model takes {}",
        input.name(),
        names.join(", ")
    );
    Err(ApiError::bad_request("unknown_input", message).param(input.name()))
}

/// NaN and infinities in a request are mistakes far more often than they are meant.
fn finite(input: &TensorData) -> Result<(), ApiError> {
    /// All bits of the exponent are set: an infinity or NaN.
    fn position<const N: usize>(data: &[u8], special: impl Fn([u8; N]) -> bool) -> Option<usize> {
        data.as_chunks::<N>()
            .0
            .iter()
            .position(|bytes| special(*bytes))
    }
    let data = input.data();
    let found = match input.dtype() {
        DType::F16 => position(data, |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00),
        DType::Bf16 => position(data, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80),
        DType::F32 => position(data, |bytes| !f32::from_le_bytes(bytes).is_finite()),
        DType::F64 => position(data, |bytes| !f64::from_le_bytes(bytes).is_finite()),
        _ => None,
    };
    match found {
        None => Ok(()),
        Some(index) => {
            let message = format!(
                "input `{}`: element {index} is NaN or infinite: only finite values are accepted",
                input.name()
            );
            Err(ApiError::bad_request("not_finite", message).param(input.name()))
        }
    }
}

fn respond(
    target: &Target,
    id: Option<String>,
    root: Digest,
    answer: Answer,
    wanted: &[(usize, bool)],
) -> Result<HttpResponse, OipError> {
    let parameters: Map<String, Value> = parameters::of(&answer);
    let receipt_id = answer.receipt_id().to_string();
    let mode = answer.receipt.receipt.mode;
    let mut outputs: Vec<Option<TensorData>> = answer.outputs.into_iter().map(Some).collect();
    let outputs = wanted
        .iter()
        .filter_map(|(index, binary)| Some((outputs.get_mut(*index)?.take()?, *binary)))
        .collect();
    let response = Response {
        model_name: target.model.to_string(),
        model_version: root.to_string(),
        id,
        parameters,
        outputs,
    };
    let Body {
        bytes,
        header_length,
    } = response.encode().map_err(|error| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "output_not_json",
            error.to_string(),
        )
        .param("outputs")
    })?;
    let mut http = bytes.into_response();
    let headers = http.headers_mut();
    let kind = match header_length {
        Some(length) => {
            headers.insert(
                HeaderName::from_static(HEADER_LENGTH),
                HeaderValue::from(length),
            );
            "application/octet-stream"
        }
        None => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(MODE, HeaderValue::from_static(mode.name()));
    if let Ok(value) = HeaderValue::from_str(&receipt_id) {
        headers.insert(RECEIPT, value);
    }
    Ok(http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_model_version_and_action() {
        let root = Digest::of(b"m");
        let name: ModelRef = "lemma/digits".parse().unwrap();
        for (path, model, version, action) in [
            ("lemma/digits".to_owned(), &name, None, Action::Metadata),
            ("lemma/digits/ready".to_owned(), &name, None, Action::Ready),
            ("lemma/digits/infer".to_owned(), &name, None, Action::Infer),
            (
                format!("lemma/digits/versions/{root}/infer"),
                &name,
                Some(root),
                Action::Infer,
            ),
            (
                format!("{root}/infer"),
                &ModelRef::Root(root),
                None,
                Action::Infer,
            ),
            (
                "acme/ready".to_owned(),
                &"acme/ready".parse().unwrap(),
                None,
                Action::Metadata,
            ),
        ] {
            let expected = Target {
                model: model.clone(),
                version,
                action,
            };
            assert_eq!(Target::parse(&path), Ok(expected), "{path}");
        }
        for bad in [
            "digits",
            "a/b/c",
            "a/b/versions/1",
            "a/b/infer/x",
            "",
            "A/b",
            "a/../b",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn special_values_are_found() {
        for (dtype, bytes, fine) in [
            (DType::F32, 1.5f32.to_le_bytes().to_vec(), true),
            (DType::F32, f32::NAN.to_le_bytes().to_vec(), false),
            (DType::F64, f64::INFINITY.to_le_bytes().to_vec(), false),
            (DType::F16, vec![0x00, 0x7c], false),
            (DType::F16, vec![0xff, 0x7b], true),
            (DType::Bf16, vec![0xc0, 0x7f], false),
            (DType::I32, vec![0xff; 4], true),
        ] {
            let tensor = TensorData::new("x", dtype, vec![1], bytes).unwrap();
            assert_eq!(finite(&tensor).is_ok(), fine, "{dtype}");
        }
    }
}
