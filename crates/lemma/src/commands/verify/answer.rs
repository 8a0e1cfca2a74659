//! Answers of OpenAI's API, as clients keep them: what is in their key `lemma` is all that a receipt's checks need, but for
//! the settlement.

use lemma_api::openai::shown;
use lemma_types::{
    Engine, Manifest, SignedReceipt, bundle::Bundle, commitment::Openings, tensor::TensorData,
    text::Transcript,
};
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
    /// What it answered: the vectors that the body shows.
    pub(super) outputs: Option<Vec<TensorData>>,
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
    lengths: Option<Vec<u32>>,
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
        if backing.transcript.is_none() && backing.inputs.is_none() {
            return refused(
                "its key `lemma` has neither `transcript` nor `inputs`".to_owned(),
                "keep the whole body as the gateway sent it",
            );
        }
        let inputs = match backing.inputs {
            Some(inputs) => Some(tensors(inputs)?),
            None => None,
        };
        let outputs = match (&inputs, backing.lengths) {
            (None, _) => None,
            (Some(_), Some(lengths)) => {
                Some(shown::vectors(&body, &lengths).map_err(|field| edited(&field))?)
            }
            (Some(_), None) => {
                return refused(
                    "its key `lemma` has no `lengths`".to_owned(),
                    "keep the whole body as the gateway sent it",
                );
            }
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
            outputs,
            body,
        }))
    }

    /// Refuses an answer that shows something else than its receipt is for: what it shows is what people read.
    pub(super) fn check(&self) -> CommandResult {
        let Some(transcript) = &self.transcript else {
            return Ok(());
        };
        let request_id = self.bundle.receipt.receipt.request_id;
        match shown::difference(&self.body, request_id, transcript) {
            None => Ok(()),
            Some(field) => Err(edited(&field)),
        }
    }
}

fn edited(field: &str) -> CommandError {
    let message = "the answer is not what its receipt is for";
    CommandError::new(ExitCode::VerificationFailed, message).cause(format!(
        "its field `{}` says something else than its key `lemma`",
        harmless(field)
    ))
}

fn tensors(inputs: Value) -> CommandResult<Vec<TensorData>> {
    let wrapped = serde_json::json!({ "inputs": inputs }).to_string();
    lemma_api::oip::decode_tensors(wrapped.as_bytes()).map_err(|error| {
        CommandError::failed("the answer can not be checked")
            .cause(format!("its `inputs`: {}", harmless(&error.to_string())))
    })
}
