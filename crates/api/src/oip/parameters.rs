//! The parameters of a request and a response that are Lemma's.

use lemma_node::gateway::Answer;
use lemma_types::{B256, Bytes, Engine, Mode, SignedReceipt, commitment::Openings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// Request: the mode that is wanted; `signed` if absent. Response: the receipt's.
pub const MODE: &str = "lemma_mode";
/// Request: an id that was never used before, 32 bytes in hexadecimal; the gateway draws one if it is absent.
pub const REQUEST_ID: &str = "lemma_request_id";
/// Response: the receipt's id.
pub const RECEIPT_ID: &str = "lemma_receipt_id";
/// Response: the worker's account.
pub const WORKER: &str = "lemma_worker";
/// Response: the signed receipt, as JSON in a text.
pub const RECEIPT: &str = "lemma_receipt";
/// Response: the salts of its commitments, as JSON in a text.
pub const OPENINGS: &str = "lemma_openings";
/// Response: the engine that the receipt names, as JSON in a text.
pub const ENGINE: &str = "lemma_engine";
/// Response in mode `proved`: the proof with its statement, in hexadecimal.
pub const PROOF: &str = "lemma_proof";

/// What a client needs to check an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The signed receipt.
    pub receipt: SignedReceipt,
    /// The salts of its commitments.
    pub openings: Openings,
    /// The engine that it names.
    pub engine: Engine,
    /// The proof that the receipt names, in mode `proved`.
    pub proof: Option<Bytes>,
}

/// Why a response has no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A parameter is absent or no text.
    #[error("the response has no parameter `{0}`: is it from a Lemma gateway?")]
    Missing(&'static str),
    /// A parameter does not hold what it should.
    #[error("parameter `{name}`: {error}")]
    Malformed {
        /// Which parameter.
        name: &'static str,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

impl Evidence {
    /// Takes the evidence from a response's parameters.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub fn parse(parameters: &Map<String, Value>) -> Result<Self, EvidenceError> {
        Ok(Self {
            receipt: parse(parameters, RECEIPT)?,
            openings: parse(parameters, OPENINGS)?,
            engine: parse(parameters, ENGINE)?,
            proof: match parameters.get(PROOF) {
                None => None,
                Some(value) => {
                    let proof = serde_json::from_value(value.clone());
                    Some(proof.map_err(|error| EvidenceError::Malformed { name: PROOF, error })?)
                }
            },
        })
    }
}

fn parse<T: DeserializeOwned>(
    parameters: &Map<String, Value>,
    name: &'static str,
) -> Result<T, EvidenceError> {
    let text = parameters
        .get(name)
        .and_then(Value::as_str)
        .ok_or(EvidenceError::Missing(name))?;
    serde_json::from_str(text).map_err(|error| EvidenceError::Malformed { name, error })
}

/// The parameters of the response to a request.
pub(super) fn of(answer: &Answer) -> Map<String, Value> {
    let entries = [
        (RECEIPT_ID, json!(answer.receipt_id())),
        (MODE, json!(answer.receipt.receipt.mode)),
        (WORKER, json!(answer.worker)),
        (RECEIPT, embedded(&answer.receipt)),
        (OPENINGS, embedded(&answer.openings)),
        (ENGINE, embedded(&answer.engine)),
    ];
    let proof = answer.evidence.as_ref().map(|proof| (PROOF, json!(proof)));
    entries
        .into_iter()
        .chain(proof)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn embedded(value: &impl Serialize) -> Value {
    Value::String(serde_json::to_string(value).expect("receipts have string keys"))
}

/// The mode that a request asks for.
pub(super) fn mode(parameters: &Map<String, Value>) -> Result<Mode, ApiError> {
    let Some(value) = parameters.get(MODE) else {
        return Ok(Mode::Signed);
    };
    let wrong = |reason: String| {
        ApiError::bad_request("unknown_mode", format!("parameter `{MODE}`: {reason}")).param(MODE)
    };
    let text = value
        .as_str()
        .ok_or_else(|| wrong("expected a text".to_owned()))?;
    text.parse().map_err(|error| wrong(format!("{error}")))
}

/// The id that a request brings.
pub(super) fn request_id(parameters: &Map<String, Value>) -> Result<Option<B256>, ApiError> {
    let Some(value) = parameters.get(REQUEST_ID) else {
        return Ok(None);
    };
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| {
        let message = format!("parameter `{REQUEST_ID}`: expected 32 bytes in hexadecimal");
        ApiError::bad_request("invalid_request_id", message).param(REQUEST_ID)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, value: Value) -> Map<String, Value> {
        [(name.to_owned(), value)].into_iter().collect()
    }

    #[test]
    fn modes_and_ids_are_parsed_or_refused() {
        assert_eq!(mode(&Map::new()), Ok(Mode::Signed));
        assert_eq!(mode(&map(MODE, json!("proved"))), Ok(Mode::Proved));
        for bad in [json!("verified"), json!(1)] {
            assert!(mode(&map(MODE, bad)).unwrap_err().message.contains(MODE));
        }
        let id = B256::repeat_byte(7);
        assert_eq!(request_id(&map(REQUEST_ID, json!(id))), Ok(Some(id)));
        for bad in [json!("0x12"), json!(5)] {
            assert!(request_id(&map(REQUEST_ID, bad)).is_err());
        }
    }

    #[test]
    fn missing_and_broken_evidence_is_named() {
        assert!(matches!(
            Evidence::parse(&Map::new()),
            Err(EvidenceError::Missing(RECEIPT))
        ));
        let broken = map(RECEIPT, json!("{}"));
        assert!(matches!(
            Evidence::parse(&broken),
            Err(EvidenceError::Malformed { name: RECEIPT, .. })
        ));
    }
}
