//! Inference at the gateway, by the Open Inference Protocol with binary tensors: every bit arrives as it was computed.

use lemma_api::oip::{
    Body, HEADER_LENGTH, Request, Response,
    parameters::{self, Evidence},
};
use lemma_types::{
    B256, Bytes, Engine, Mode, SignedReceipt, commitment::Openings, tensor::TensorData,
};
use serde_json::{Map, Value, json};

use super::Client;
use crate::{
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
};

/// An answer, not checked yet.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Outputs as the gateway ordered them.
    pub outputs: Vec<TensorData>,
    /// The worker's receipt.
    pub receipt: SignedReceipt,
    /// The salts of its commitments.
    pub openings: Openings,
    /// The engine that it names.
    pub engine: Engine,
    /// The proof, in mode `proved`.
    pub proof: Option<Bytes>,
    /// The id that this request was given: the receipt has to name it.
    pub request_id: B256,
}

impl Client {
    /// Asks for an inference. What comes back is not checked: that is the caller's affair.
    ///
    /// # Errors
    /// If the gateway refuses the request, or its answer is no answer.
    pub async fn infer(
        &self,
        model: &str,
        inputs: &[TensorData],
        mode: Mode,
    ) -> CommandResult<Answer> {
        let request_id = fresh_id()?;
        let parameters: Map<String, Value> = [
            (parameters::MODE, json!(mode)),
            (parameters::REQUEST_ID, json!(request_id)),
            ("binary_data_output", json!(true)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let request = Request {
            id: None,
            parameters,
            inputs: inputs.to_vec(),
            outputs: Vec::new(),
        };
        let Body {
            bytes,
            header_length,
        } = request.encode();
        let mut http = self.post(&format!("v2/models/{model}/infer"))?.body(bytes);
        if let Some(length) = header_length {
            http = http.header(HEADER_LENGTH, length);
        }
        let response = match self.send(http).await? {
            Ok(response) => response,
            Err(refusal) if refusal.status.as_u16() == 404 => {
                return Err(self.unknown_model(model).await);
            }
            Err(refusal) => return Err(refusal.into_error()),
        };
        self.answer(response, request_id).await
    }

    async fn answer(&self, response: reqwest::Response, request_id: B256) -> CommandResult<Answer> {
        let no_answer = || format!("{} did not answer as a gateway does", self.address());
        let stated = response.headers().get(HEADER_LENGTH);
        let header_length = stated.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = self.read(response, super::MAX_RESPONSE_BYTES).await?;
        let response =
            Response::decode(&body, header_length).context(ExitCode::Failed, no_answer)?;
        // Without its evidence an answer is worth nothing here.
        let Evidence {
            receipt,
            openings,
            engine,
            proof,
        } = Evidence::parse(&response.parameters)
            .context(ExitCode::VerificationFailed, no_answer)?;
        Ok(Answer {
            outputs: response
                .outputs
                .into_iter()
                .map(|(tensor, _)| tensor)
                .collect(),
            receipt,
            openings,
            engine,
            proof,
            request_id,
        })
    }
}

/// An id that nobody used before and nobody could know: an old receipt can not answer it.
pub(super) fn fresh_id() -> CommandResult<B256> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        CommandError::new(
            ExitCode::Internal,
            format!("the system gives no randomness: {error}"),
        )
    })?;
    Ok(bytes.into())
}
