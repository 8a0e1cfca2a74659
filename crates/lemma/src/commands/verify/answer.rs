//! Answers of OpenAI's API, as clients keep them: what is in their key `lemma` is all that a receipt's checks need, but for
//! the settlement.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lemma_types::{
    Engine, Manifest, SignedReceipt,
    bundle::Bundle,
    commitment::{self, Openings},
    tensor::TensorData,
    text::{TextResponse, Transcript},
};
use lemma_verify::Recompute;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::{CommandError, CommandResult},
    exit::ExitCode,
    text::harmless,
};

/// An answer with what backs it.
pub(super) struct Answer {
    pub(super) bundle: Bundle,
    /// What was asked and answered, of a language model.
    pub(super) transcript: Option<Transcript>,
    /// What was asked, of an embedding model.
    pub(super) inputs: Option<Vec<TensorData>>,
    body: Value,
}

/// The key `lemma`; what else it says follows from these.
#[derive(Deserialize)]
struct Backing {
    receipt: SignedReceipt,
    engine: Engine,
    manifest: Manifest,
    openings: Openings,
    transcript: Option<Transcript>,
    inputs: Option<Value>,
}

impl Answer {
    /// Reads an answer; `None` if the bytes are something else. Network `chain_id` is the one that its signature will be
    /// checked for.
    pub(super) fn read(bytes: &[u8], chain_id: u64) -> CommandResult<Option<Self>> {
        let Ok(mut body @ Value::Object(_)) = serde_json::from_slice::<Value>(bytes) else {
            return Ok(None);
        };
        if body.get("schema").is_some() {
            return Ok(None);
        }
        let refused = |cause: String, hint: &str| {
            Err(CommandError::failed("the answer can not be checked")
                .cause(cause)
                .hint(hint.to_owned()))
        };
        let Some(lemma) = body.get_mut("lemma").map(Value::take) else {
            let known = ["choices", "output", "data"];
            if !known.iter().any(|key| body.get(*key).is_some()) {
                return Ok(None);
            }
            return refused(
                "it has no key `lemma`, which holds receipt and salts".to_owned(),
                "keep the whole body as the gateway sent it: in Python `answer.model_dump_json()`, of a stream the last chunk",
            );
        };
        let missing = ["receipt", "engine", "manifest", "openings"]
            .into_iter()
            .find(|key| lemma.get(*key).is_none());
        if let Some(key) = missing {
            return refused(
                format!("its key `lemma` has no `{key}`"),
                "keep the whole body as the gateway sent it; of an answer without `manifest`, fetch the bundle with `lemma receipts get`",
            );
        }
        let backing: Backing = match serde_json::from_value(lemma) {
            Ok(backing) => backing,
            Err(error) => {
                return refused(
                    format!(
                        "its key `lemma` is malformed: {}",
                        harmless(&error.to_string())
                    ),
                    "keep the whole body as the gateway sent it",
                );
            }
        };
        let inputs = match backing.inputs {
            Some(inputs) => Some(tensors(inputs)?),
            None => None,
        };
        Ok(Some(Self {
            bundle: Bundle {
                schema: Bundle::SCHEMA.to_owned(),
                chain_id,
                receipt: backing.receipt,
                engine: backing.engine,
                manifest: backing.manifest,
                openings: Some(backing.openings),
                settlement: None,
                proof: None,
            },
            transcript: backing.transcript,
            inputs,
            body,
        }))
    }

    /// Refuses an answer whose own words are not those that its receipt is for: they are what people read.
    pub(super) fn check(&self, recompute: &Recompute) -> CommandResult {
        let differs = match (&self.transcript, recompute) {
            (Some(transcript), _) => !says(&self.body, &transcript.response),
            // Other outputs than the receipt's fail the verifier's checks.
            (None, Recompute::Done(run)) if self.answered(&run.outputs) => {
                let vectors = run.outputs.first().map(TensorData::data);
                vectors != embedded(&self.body).as_deref()
            }
            (None, _) => false,
        };
        if !differs {
            return Ok(());
        }
        let message = "the answer is not what its receipt is for";
        Err(CommandError::new(ExitCode::VerificationFailed, message)
            .cause("its text, calls or vectors are others than those in its key `lemma`"))
    }

    /// Whether these are the outputs that the receipt is for.
    fn answered(&self, outputs: &[TensorData]) -> bool {
        let salt = self.bundle.openings.map(|openings| openings.response);
        let receipt = &self.bundle.receipt.receipt;
        salt.is_some_and(|salt| {
            commitment::tensor_response(salt, outputs) == receipt.response_commitment
        })
    }
}

fn tensors(inputs: Value) -> CommandResult<Vec<TensorData>> {
    let wrapped = serde_json::json!({ "inputs": inputs }).to_string();
    lemma_api::oip::decode_tensors(wrapped.as_bytes()).map_err(|error| {
        CommandError::failed("the answer can not be checked")
            .cause(format!("its `inputs`: {}", harmless(&error.to_string())))
    })
}

/// Whether a body says what the transcript does, in the words of any of the endpoints.
fn says(body: &Value, response: &TextResponse) -> bool {
    // The end of a stream has no words of its own.
    if body["object"]
        .as_str()
        .is_some_and(|object| object.ends_with(".chunk"))
    {
        return true;
    }
    let (mut text, mut calls) = (String::new(), Vec::new());
    let mut call = |function: &Value| {
        let part = |key: &str| function[key].as_str().unwrap_or_default().to_owned();
        calls.push((part("name"), part("arguments")));
    };
    for choice in body["choices"].as_array().into_iter().flatten() {
        text += choice["text"].as_str().unwrap_or_default();
        text += choice["message"]["content"].as_str().unwrap_or_default();
        let called = choice["message"]["tool_calls"].as_array();
        called
            .into_iter()
            .flatten()
            .for_each(|one| call(&one["function"]));
    }
    for item in body["output"].as_array().into_iter().flatten() {
        if item["type"] == "function_call" {
            call(item);
        }
        for part in item["content"].as_array().into_iter().flatten() {
            text += part["text"].as_str().unwrap_or_default();
        }
    }
    let expected = response.calls.iter();
    let expected = expected.map(|call| (call.name.clone(), call.arguments.clone()));
    text == response.text && calls.into_iter().eq(expected)
}

/// The bytes of the vectors of a body, as a tensor has them.
fn embedded(body: &Value) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in body["data"].as_array()? {
        match &entry["embedding"] {
            Value::String(text) => bytes.extend(STANDARD.decode(text).ok()?),
            Value::Array(values) => {
                for value in values {
                    bytes.extend((value.as_f64()? as f32).to_le_bytes());
                }
            }
            _ => return None,
        }
    }
    Some(bytes)
}
