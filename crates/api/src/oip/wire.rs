//! Requests and responses of the Open Inference Protocol v2, in JSON and with the binary tensor data extension.
//!
//! With the extension a body is a JSON header followed by the bytes of tensors; `Inference-Header-Content-Length` says where
//! the header ends, `binary_data_size` how many bytes belong to a tensor. Both directions are here, so that the client and
//! the server of this project can not disagree.

use std::fmt;

use lemma_graph::io::oip::{AsJson, Elements, JsonTensor, OipError};
use lemma_types::{
    limits,
    tensor::{DType, TensorData, TensorError},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// Header that says how many bytes of the body are JSON.
pub const HEADER_LENGTH: &str = "inference-header-content-length";
/// Parameter with the size of a tensor's bytes.
const BINARY_SIZE: &str = "binary_data_size";

/// Why a body is not a request or response.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not JSON, or JSON of another form.
    #[error("the body is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// The header's length is longer than the body.
    #[error("{HEADER_LENGTH} is {header}, but the body has {body} bytes")]
    HeaderLength {
        /// Stated length of the header.
        header: usize,
        /// Length of the body.
        body: usize,
    },
    /// Too many tensors.
    #[error("{0} tensors: at most {max} are accepted", max = limits::TENSORS)]
    Count(usize),
    /// A tensor has a wrong part.
    #[error("{role} `{name}`: {field}: {reason}")]
    Tensor {
        /// `input` or `output`.
        role: &'static str,
        /// Its name.
        name: String,
        /// The part.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Binary data that no tensor claims.
    #[error("{0} bytes follow the last tensor's binary data")]
    Trailing(usize),
}

/// A tensor in a body, member by member.
#[derive(Debug, Default)]
struct WireTensor {
    name: String,
    shape: Option<Vec<i64>>,
    datatype: Option<String>,
    parameters: Map<String, Value>,
    data: Option<Elements>,
}

impl<'de> Deserialize<'de> for WireTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WireTensorVisitor)
    }
}

/// Reads a tensor; what is wrong with a member is said with the tensor's name, if that came first, as clients have it.
struct WireTensorVisitor;

impl<'de> Visitor<'de> for WireTensorVisitor {
    type Value = WireTensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor: an object with name, shape, datatype and data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireTensor, A::Error> {
        let mut name: Option<String> = None;
        let mut tensor = WireTensor::default();
        while let Some(key) = map.next_key::<String>()? {
            let within = |error: A::Error| match &name {
                Some(name) => A::Error::custom(format!("tensor `{}`: {key}: {error}", cut(name))),
                None => A::Error::custom(format!("{key}: {error}")),
            };
            match key.as_str() {
                "name" => name = Some(map.next_value().map_err(within)?),
                "shape" => tensor.shape = map.next_value().map_err(within)?,
                "datatype" => tensor.datatype = map.next_value().map_err(within)?,
                "parameters" => {
                    tensor.parameters = map
                        .next_value::<Option<_>>()
                        .map_err(within)?
                        .unwrap_or_default()
                }
                "data" => tensor.data = map.next_value().map_err(within)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        tensor.name = name.ok_or_else(|| A::Error::missing_field("name"))?;
        Ok(tensor)
    }
}

fn cut(name: &str) -> String {
    name.chars().take(limits::TENSOR_NAME_BYTES).collect()
}

#[derive(Debug, Deserialize)]
struct WireRequest {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<WireTensor>,
    #[serde(default)]
    outputs: Vec<WireOutput>,
}

#[derive(Debug, Deserialize)]
struct WireOutput {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// A request for an inference.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's id, echoed in the response.
    pub id: Option<String>,
    /// Parameters of the request.
    pub parameters: Map<String, Value>,
    /// Inputs.
    pub inputs: Vec<TensorData>,
    /// Outputs that are wanted; all if there are none.
    pub outputs: Vec<WantedOutput>,
}

/// An output that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOutput {
    /// Its name.
    pub name: String,
    /// Whether it is to be binary data; as the request says if `None`.
    pub binary: Option<bool>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The model's name.
    pub model_name: String,
    /// The model's version.
    pub model_version: String,
    /// The client's id.
    pub id: Option<String>,
    /// Parameters, among them the receipt.
    pub parameters: Map<String, Value>,
    /// Outputs, and whether each is binary data.
    pub outputs: Vec<(TensorData, bool)>,
}

/// A body and, if it has binary data, the length of its JSON header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Length of the JSON header, if tensors' bytes follow it.
    pub header_length: Option<usize>,
}

impl WireTensor {
    /// The tensor, with its bytes taken from the front of `binary` if it says so.
    fn decode(self, role: &'static str, binary: &mut &[u8]) -> Result<TensorData, WireError> {
        let Self {
            name,
            shape,
            datatype,
            parameters,
            data,
        } = self;
        let shown = cut(&name);
        let fail = |field: &'static str, reason: String| WireError::Tensor {
            role,
            name: shown.clone(),
            field,
            reason,
        };
        let missing = |field| fail(field, "it is missing".to_owned());
        let datatype: DType = datatype
            .ok_or_else(|| missing("datatype"))?
            .parse()
            .map_err(|error| fail("datatype", format!("{error}")))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let shape = shape
            .iter()
            .map(|dim| {
                u64::try_from(*dim)
                    .map_err(|_| fail("shape", format!("{shape:?} has a negative dimension")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        match (data, binary_size(&parameters)) {
            (Some(_), Some(_)) => Err(fail("data", format!("it excludes {BINARY_SIZE}"))),
            (None, None) => Err(missing("data")),
            (data @ Some(_), None) => {
                let json = JsonTensor {
                    name,
                    shape,
                    datatype,
                    data,
                    parameters: None,
                };
                TensorData::try_from(json).map_err(|error| match error {
                    OipError::Elements { reason, .. } => fail("data", reason),
                    OipError::Tensor(error) => fail("shape", error.to_string()),
                    other => fail("data", other.to_string()),
                })
            }
            (None, Some(size)) => {
                let taken = size.and_then(|size| binary.split_at_checked(size));
                let (own, rest) = taken.ok_or_else(|| {
                    fail(
                        BINARY_SIZE,
                        format!(
                            "it is {}, but {} bytes are left",
                            parameters[BINARY_SIZE],
                            binary.len()
                        ),
                    )
                })?;
                *binary = rest;
                TensorData::new(name, datatype, shape, own.to_vec()).map_err(|error| match error {
                    TensorError::Rank { .. } => fail("shape", error.to_string()),
                    error => fail(BINARY_SIZE, error.to_string()),
                })
            }
        }
    }
}

/// The stated size: absent, or present and possibly no size at all.
fn binary_size(parameters: &Map<String, Value>) -> Option<Option<usize>> {
    let value = parameters.get(BINARY_SIZE)?;
    Some(value.as_u64().and_then(|size| usize::try_from(size).ok()))
}

fn decode_all(
    tensors: Vec<WireTensor>,
    role: &'static str,
    mut binary: &[u8],
) -> Result<Vec<TensorData>, WireError> {
    if tensors.len() > limits::TENSORS {
        return Err(WireError::Count(tensors.len()));
    }
    let decoded = tensors
        .into_iter()
        .map(|tensor| tensor.decode(role, &mut binary))
        .collect::<Result<_, _>>()?;
    if !binary.is_empty() {
        return Err(WireError::Trailing(binary.len()));
    }
    Ok(decoded)
}

fn split(body: &[u8], header_length: Option<usize>) -> Result<(&[u8], &[u8]), WireError> {
    match header_length {
        None => Ok((body, &[])),
        Some(header) => body
            .split_at_checked(header)
            .ok_or(WireError::HeaderLength {
                header,
                body: body.len(),
            }),
    }
}

impl Request {
    /// Decodes a body.
    ///
    /// # Errors
    /// See [`WireError`]. Allocates no more than a small multiple of the body.
    pub fn decode(body: &[u8], header_length: Option<usize>) -> Result<Self, WireError> {
        let (header, binary) = split(body, header_length)?;
        let WireRequest {
            id,
            parameters,
            inputs,
            outputs,
        } = serde_json::from_slice(header)?;
        if outputs.len() > limits::TENSORS {
            return Err(WireError::Count(outputs.len()));
        }
        let outputs = outputs
            .into_iter()
            .map(WireOutput::decode)
            .collect::<Result<_, _>>()?;
        let inputs = decode_all(inputs, "input", binary)?;
        Ok(Self {
            id,
            parameters,
            inputs,
            outputs,
        })
    }

    /// Encodes the request with binary tensors.
    ///
    /// # Panics
    /// Never: binary tensors have no element that JSON lacks.
    #[must_use]
    pub fn encode(&self) -> Body {
        #[derive(Serialize)]
        struct Header<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a str>,
            parameters: &'a Map<String, Value>,
            inputs: Vec<Tensor<'a>>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            outputs: Vec<Value>,
        }
        let output = |output: &WantedOutput| match output.binary {
            Some(binary) => {
                serde_json::json!({ "name": output.name, "parameters": { "binary_data": binary } })
            }
            None => serde_json::json!({ "name": output.name }),
        };
        let header = Header {
            id: self.id.as_deref(),
            parameters: &self.parameters,
            inputs: self
                .inputs
                .iter()
                .map(|tensor| Tensor {
                    tensor,
                    binary: true,
                })
                .collect(),
            outputs: self.outputs.iter().map(output).collect(),
        };
        encode(&header, self.inputs.iter()).expect("descriptions of tensors are JSON")
    }

    /// Whether outputs are binary data unless they say otherwise.
    #[must_use]
    pub fn binary_by_default(&self) -> bool {
        self.parameters
            .get("binary_data_output")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }
}

impl WireOutput {
    fn decode(self) -> Result<WantedOutput, WireError> {
        let Self { name, parameters } = self;
        for unsupported in ["classification", "shared_memory_region"] {
            if parameters.contains_key(unsupported) {
                let name = name.chars().take(limits::TENSOR_NAME_BYTES).collect();
                let reason = format!("`{unsupported}` is not supported");
                return Err(WireError::Tensor {
                    role: "output",
                    name,
                    field: "parameters",
                    reason,
                });
            }
        }
        let binary = parameters.get("binary_data").and_then(Value::as_bool);
        Ok(WantedOutput { name, binary })
    }
}

impl Response {
    /// Decodes a body.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn decode(body: &[u8], header_length: Option<usize>) -> Result<Self, WireError> {
        #[derive(Deserialize)]
        struct Header {
            model_name: String,
            #[serde(default)]
            model_version: String,
            #[serde(default)]
            id: Option<String>,
            #[serde(default)]
            parameters: Map<String, Value>,
            outputs: Vec<WireTensor>,
        }
        let (header, binary) = split(body, header_length)?;
        let Header {
            model_name,
            model_version,
            id,
            parameters,
            outputs,
        } = serde_json::from_slice(header)?;
        let kinds: Vec<bool> = outputs.iter().map(|tensor| tensor.data.is_none()).collect();
        let outputs = decode_all(outputs, "output", binary)?
            .into_iter()
            .zip(kinds)
            .collect();
        Ok(Self {
            model_name,
            model_version,
            id,
            parameters,
            outputs,
        })
    }

    /// Encodes the response.
    ///
    /// # Errors
    /// [`WireError::Json`] if an output that is not binary holds NaN or an infinity, for which JSON has no number.
    pub fn encode(&self) -> Result<Body, WireError> {
        #[derive(Serialize)]
        struct Header<'a> {
            model_name: &'a str,
            model_version: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a str>,
            parameters: &'a Map<String, Value>,
            outputs: Vec<Tensor<'a>>,
        }
        let header = Header {
            model_name: &self.model_name,
            model_version: &self.model_version,
            id: self.id.as_deref(),
            parameters: &self.parameters,
            outputs: self
                .outputs
                .iter()
                .map(|(tensor, binary)| Tensor {
                    tensor,
                    binary: *binary,
                })
                .collect(),
        };
        encode(
            &header,
            self.outputs
                .iter()
                .filter(|(_, binary)| *binary)
                .map(|(tensor, _)| tensor),
        )
    }
}

fn encode<'a>(
    header: &impl Serialize,
    binary: impl Iterator<Item = &'a TensorData>,
) -> Result<Body, WireError> {
    let mut bytes = serde_json::to_vec(header)?;
    let header_length = bytes.len();
    let mut any = false;
    for tensor in binary {
        any = true;
        bytes.extend_from_slice(tensor.data());
    }
    Ok(Body {
        bytes,
        header_length: any.then_some(header_length),
    })
}

/// A tensor as it is written.
struct Tensor<'a> {
    tensor: &'a TensorData,
    binary: bool,
}

impl Serialize for Tensor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let Self { tensor, binary } = self;
        if !binary {
            return AsJson(tensor).serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("name", tensor.name())?;
        map.serialize_entry("shape", tensor.shape())?;
        map.serialize_entry("datatype", &tensor.dtype())?;
        map.serialize_entry(
            "parameters",
            &serde_json::json!({ BINARY_SIZE: tensor.data().len() }),
        )?;
        map.end()
    }
}

/// Tensors from a file: a request (`inputs`), a response (`outputs`), or one tensor alone.
///
/// # Errors
/// See [`WireError`].
pub fn decode_tensors(bytes: &[u8]) -> Result<Vec<TensorData>, WireError> {
    #[derive(Deserialize)]
    struct File {
        inputs: Option<Vec<WireTensor>>,
        outputs: Option<Vec<WireTensor>>,
        name: Option<String>,
        shape: Option<Vec<i64>>,
        datatype: Option<String>,
        data: Option<Elements>,
    }
    let File {
        inputs,
        outputs,
        name,
        shape,
        datatype,
        data,
    } = serde_json::from_slice(bytes)?;
    match (inputs, outputs, name) {
        (Some(inputs), _, _) => decode_all(inputs, "input", &[]),
        (None, Some(outputs), _) => decode_all(outputs, "output", &[]),
        (None, None, Some(name)) => {
            let alone = WireTensor {
                name,
                shape,
                datatype,
                parameters: Map::new(),
                data,
            };
            decode_all(vec![alone], "tensor", &[])
        }
        (None, None, None) => Err(serde_json::Error::custom(
            "expected `inputs`, `outputs` or one tensor with `name`",
        )
        .into()),
    }
}

/// Tensors as a JSON list of objects with flat `data`, as a response has them. Serialisation fails at NaN and infinities.
#[derive(Clone, Copy, Debug)]
pub struct JsonTensors<'a>(pub &'a [TensorData]);

impl Serialize for JsonTensors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|tensor| Tensor {
            tensor,
            binary: false,
        }))
    }
}

#[cfg(test)]
mod tests;
