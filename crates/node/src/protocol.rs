//! The worker's protocol: how a gateway asks a worker, and how it answers. HTTP; bodies as follows, all integers
//! little-endian.
//!
//! `POST /work/v1/infer`, request, `application/vnd.lemma.work.v1`:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 4 | `LWRQ` |
//! | 4 | 1 | mode |
//! | 5 | 32 | request id |
//! | 37 | 32 | model root |
//! | 69 | 20 | payer, zero if nobody pays |
//! | 89 | 32 | payment, zero if there is none |
//! | 121 | 16 | the most that the client pays |
//! | 137 | | tensors in canonical encoding, in the order of the model's signature |
//!
//! Answer, status 200, the same media type:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 4 | `LWAN` |
//! | 4 | 4 | length of the JSON |
//! | 8 | | [`Signed`] in JSON |
//! | | 4 | length of the evidence, 0 if the mode has none |
//! | | | the evidence that the receipt names |
//! | | | tensors in canonical encoding |
//!
//! Any other status carries an [`ErrorBody`] in JSON.
//!
//! `POST /work/v1/generate` asks for text, which comes piece by piece: see [`text`].
//!
//! `GET /work/v1/receipts/{id}`: a [`ReceiptState`] in JSON. `GET /work/v1/batches/{root}`: the ids of the batch's receipts,
//! 32 bytes each, in order. `GET /work/v1/health`: 200 if the worker takes requests, 503 if not.

pub mod text;

use axum::http::StatusCode;
use lemma_types::{
    Address, Amount, B256, Bytes, Digest, Engine, Mode, SignedReceipt,
    commitment::Openings,
    limits,
    tensor::{self, TensorData, TensorError},
};
use serde::{Deserialize, Serialize};

/// Media type of requests and answers.
pub const MEDIA_TYPE: &str = "application/vnd.lemma.work.v1";
/// Path of inference.
pub const INFER: &str = "/work/v1/infer";
/// Path of inference with language models.
pub const GENERATE: &str = "/work/v1/generate";
/// Path under which receipts are.
pub const RECEIPTS: &str = "/work/v1/receipts";
/// Path under which batches are.
pub const BATCHES: &str = "/work/v1/batches";
/// Path of the health check.
pub const HEALTH: &str = "/work/v1/health";

/// Largest answer that a gateway accepts, bytes.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest JSON in an answer or an error, bytes.
pub const MAX_JSON_BYTES: usize = 64 << 10;
/// Most receipts in one batch.
pub const MAX_BATCH: usize = 65_536;

const REQUEST_MAGIC: [u8; 4] = *b"LWRQ";
const ANSWER_MAGIC: [u8; 4] = *b"LWAN";

/// What a gateway asks of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkRequest {
    /// Who asks for which model, and on which terms.
    pub terms: Terms,
    /// Inputs, in the order of the model's signature.
    pub inputs: Vec<TensorData>,
}

/// What a request states beside its content: who asks for which model, and on which terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What shall back the result.
    pub mode: Mode,
    /// The request's id.
    pub request_id: B256,
    /// BLAKE3 of the model's manifest.
    pub model_root: Digest,
    /// Who pays; zero if nobody does.
    pub payer: Address,
    /// Reference to the payment; zero if there is none.
    pub payment: B256,
    /// The most that the client pays.
    pub offer: Amount,
}

impl Terms {
    fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.mode.code());
        bytes.extend(self.request_id);
        bytes.extend(self.model_root.as_bytes());
        bytes.extend(self.payer);
        bytes.extend(self.payment);
        bytes.extend(self.offer.units().to_le_bytes());
    }

    /// Takes the terms off the front of `bytes`.
    fn decode_from(bytes: &mut &[u8]) -> Result<Self, ProtocolError> {
        let format = || ProtocolError::Format("request");
        let [code] = take(bytes).ok_or_else(format)?;
        Ok(Self {
            mode: Mode::from_code(code).ok_or(ProtocolError::Mode(code))?,
            request_id: take(bytes).ok_or_else(format)?.into(),
            model_root: Digest::new(take(bytes).ok_or_else(format)?),
            payer: take::<20>(bytes).ok_or_else(format)?.into(),
            payment: take(bytes).ok_or_else(format)?.into(),
            offer: Amount::from_units(u128::from_le_bytes(take(bytes).ok_or_else(format)?)),
        })
    }
}

/// What a worker hands back beside the outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The receipt.
    pub receipt: SignedReceipt,
    /// The salts of its commitments.
    pub openings: Openings,
    /// What the receipt's engine id stands for.
    pub engine: Engine,
}

/// Why bytes are not of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Too short, or another format.
    #[error("it is no {0} of the worker's protocol")]
    Format(&'static str),
    /// An unknown mode.
    #[error("unknown mode {0}")]
    Mode(u8),
    /// The tensors.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The JSON part.
    #[error("the answer's JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The request for text.
    #[error("the request: {0}")]
    Text(#[from] lemma_types::text::TextError),
}

impl WorkRequest {
    /// Encodes the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_vec();
        self.terms.encode_into(&mut bytes);
        bytes.extend(tensor::encode(&self.inputs));
        bytes
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// See [`ProtocolError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut rest = bytes;
        if take::<4>(&mut rest) != Some(REQUEST_MAGIC) {
            return Err(ProtocolError::Format("request"));
        }
        Ok(Self {
            terms: Terms::decode_from(&mut rest)?,
            inputs: tensor::decode(rest)?,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkAnswer {
    /// The receipt.
    pub signed: Signed,
    /// The proof that the receipt names, in mode `proved`.
    pub evidence: Option<Bytes>,
    /// Outputs, in the order of the model's signature.
    pub outputs: Vec<TensorData>,
}

/// Encodes an answer.
#[must_use]
pub fn encode_answer(answer: &WorkAnswer) -> Vec<u8> {
    let json = serde_json::to_vec(&answer.signed).expect("a receipt serialises to JSON");
    let evidence = answer.evidence.as_deref().map_or(&[][..], |bytes| bytes);
    let mut bytes = ANSWER_MAGIC.to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json);
    bytes.extend((evidence.len() as u32).to_le_bytes());
    bytes.extend(evidence);
    bytes.extend(tensor::encode(&answer.outputs));
    bytes
}

/// Decodes an answer.
///
/// # Errors
/// See [`ProtocolError`].
pub fn decode_answer(bytes: &[u8]) -> Result<WorkAnswer, ProtocolError> {
    let mut rest = bytes;
    let format = || ProtocolError::Format("answer");
    if take::<4>(&mut rest).ok_or_else(format)? != ANSWER_MAGIC {
        return Err(format());
    }
    let length = u32::from_le_bytes(take(&mut rest).ok_or_else(format)?) as usize;
    if length > MAX_JSON_BYTES {
        return Err(format());
    }
    let (json, mut rest) = rest.split_at_checked(length).ok_or_else(format)?;
    let length = u32::from_le_bytes(take(&mut rest).ok_or_else(format)?) as usize;
    if length > limits::PROOF_BYTES {
        return Err(format());
    }
    let (evidence, tensors) = rest.split_at_checked(length).ok_or_else(format)?;
    Ok(WorkAnswer {
        signed: serde_json::from_slice(json)?,
        evidence: (!evidence.is_empty()).then(|| Bytes::copy_from_slice(evidence)),
        outputs: tensor::decode(tensors)?,
    })
}

/// What kind of error a worker reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The body is not of this protocol.
    BadRequest,
    /// The mode is not offered.
    ModeNotOffered,
    /// The inputs do not fit the model, or the model refuses their values.
    InvalidInput,
    /// This worker has answered a request with this id.
    DuplicateRequest,
    /// The offer is below the worker's price.
    OfferTooLow,
    /// The model can not be had, or is not what its manifest says.
    ModelUnavailable,
    /// The queue is full.
    Busy,
    /// The worker fronts no upstream server for this model, or that server failed. Says nothing of the worker's other models.
    Upstream,
    /// The worker is stopping.
    Stopping,
    /// The worker's own affairs.
    Internal,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::ModeNotOffered => StatusCode::BAD_REQUEST,
            Self::InvalidInput => StatusCode::UNPROCESSABLE_ENTITY,
            Self::DuplicateRequest => StatusCode::CONFLICT,
            Self::OfferTooLow => StatusCode::PAYMENT_REQUIRED,
            Self::ModelUnavailable => StatusCode::FAILED_DEPENDENCY,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Upstream => StatusCode::BAD_GATEWAY,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The word in the JSON, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::ModeNotOffered => "mode_not_offered",
            Self::InvalidInput => "invalid_input",
            Self::DuplicateRequest => "duplicate_request",
            Self::OfferTooLow => "offer_too_low",
            Self::ModelUnavailable => "model_unavailable",
            Self::Busy => "busy",
            Self::Upstream => "upstream",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }
}

/// An error of the worker, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// What kind.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// Where a receipt is, as its worker knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptState {
    /// The receipt.
    pub receipt: SignedReceipt,
    /// What its engine id stands for.
    pub engine: Engine,
    /// How far it is.
    pub stage: Stage,
}

/// How far a receipt is on its way to the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage {
    /// Durable, in no batch yet.
    Pending,
    /// In a batch that the ledger has not settled yet.
    Sealed(Position),
    /// In a batch that the ledger has settled.
    Settled {
        /// Where in the batch.
        #[serde(flatten)]
        position: Position,
        /// The batch's position in the ledger's log.
        batch_index: u64,
        /// Height of the block that settled it.
        height: u64,
    },
}

/// Where a receipt is in its batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Root over the batch's receipts.
    pub batch_root: B256,
    /// Receipts in the batch.
    pub count: u64,
    /// The receipt's position.
    pub index: u64,
    /// From the receipt's id to the root (RFC 9162).
    pub path: Vec<B256>,
}

#[cfg(test)]
mod tests {
    use lemma_types::tensor::DType;
    use proptest::prelude::*;

    use super::*;

    fn request() -> WorkRequest {
        WorkRequest {
            terms: Terms {
                mode: Mode::Signed,
                request_id: B256::repeat_byte(1),
                model_root: Digest::of(b"model"),
                payer: Address::repeat_byte(2),
                payment: B256::repeat_byte(3),
                offer: Amount::from_units(u128::MAX - 1),
            },
            inputs: vec![TensorData::new("x", DType::U8, vec![3], vec![1, 2, 3]).unwrap()],
        }
    }

    #[test]
    fn requests_round_trip_and_are_exact() {
        let bytes = request().encode();
        assert_eq!(WorkRequest::decode(&bytes).unwrap(), request());
        for end in 0..bytes.len() {
            assert!(WorkRequest::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(WorkRequest::decode(&longer).is_err());
        let mut other = bytes;
        other[4] = 9;
        assert!(matches!(
            WorkRequest::decode(&other),
            Err(ProtocolError::Mode(9))
        ));
    }

    #[test]
    fn the_request_format_is_frozen() {
        assert_eq!(
            Digest::of(&request().encode()).to_string(),
            "367d0509b5342a422edba5e91d5ed148e133a45decf0a3ae672b3ccaa09041d8"
        );
    }

    #[test]
    fn stages_have_stable_json() {
        let position = Position {
            batch_root: B256::ZERO,
            count: 1,
            index: 0,
            path: vec![],
        };
        let settled = Stage::Settled {
            position,
            batch_index: 4,
            height: 9,
        };
        let json = serde_json::to_value(&settled).unwrap();
        assert_eq!(json["status"], "settled");
        assert_eq!(json["batch_index"], 4);
        assert_eq!(json["index"], 0);
        assert_eq!(serde_json::from_value::<Stage>(json).unwrap(), settled);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = WorkRequest::decode(&bytes);
            let _ = decode_answer(&bytes);
            let _ = decode_answer(&[b"LWAN".as_slice(), &bytes].concat());
        }
    }
}
