//! Runs one request: the model on a blocking thread, then the receipt.

use std::{sync::Arc, time::Instant};

use lemma_graph::{Isa, Model, RunError, RunOptions, compute_units};
use lemma_types::{
    Address, Amount, B256, Digest, Mode, Receipt,
    commitment::{self, Openings},
    tensor::TensorData,
};

use super::{
    models::{Loaded, Models, Runnable},
    notary::{Notary, NotaryError},
    queue::{Queue, Thread},
    upstream::Upstream,
};
use crate::{
    clock::Clock,
    keys::random_word,
    ledger::Ledger,
    metrics as names,
    model::engine,
    protocol::{ErrorBody, ErrorCode, Signed, WorkRequest},
};

/// What a worker needs to answer requests.
pub(crate) struct Executor {
    pub(crate) worker: Address,
    pub(crate) ledger: Ledger,
    pub(crate) models: Models,
    pub(crate) notary: Notary,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) queue: Queue,
    /// The server that this worker fronts, if any.
    pub(crate) upstream: Option<Upstream>,
    pub(crate) limits: ExecutionLimits,
    /// Asked for each compute unit.
    pub(crate) price_per_unit: Amount,
}

/// Bounds of one execution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExecutionLimits {
    /// Bytes that a run may hold besides the model and its inputs.
    pub(crate) memory: u64,
    /// Operations that a run may take.
    pub(crate) operations: u64,
}

/// What a run gave, with commitments to it.
struct Computed {
    outputs: Vec<TensorData>,
    openings: Openings,
    request_commitment: B256,
    response_commitment: B256,
    transcript_root: B256,
    usage_in: u64,
    usage_out: u64,
}

impl Executor {
    /// Answers a request. Dropping the future gives up what has not begun.
    pub(crate) async fn infer(
        &self,
        request: WorkRequest,
    ) -> Result<(Signed, Vec<TensorData>), ErrorBody> {
        self.check_mode(request.mode)?;
        let WorkRequest {
            request_id,
            model_root,
            payer,
            payment,
            offer,
            inputs,
            mode,
        } = request;
        let loaded = self.load(model_root).await?;
        let units = self.compute_units(&loaded, &inputs)?;
        let price = self.price(units, offer)?;
        let thread = self.queue.thread().await?;
        let computed = self.run(thread, loaded, model_root, inputs).await?;
        let anchor = self.ledger.head();
        let receipt = Receipt {
            request_id,
            model_root,
            engine: engine().id(),
            request_commitment: computed.request_commitment,
            response_commitment: computed.response_commitment,
            transcript_root: computed.transcript_root,
            usage_in: computed.usage_in,
            usage_out: computed.usage_out,
            compute_units: units,
            price,
            payer,
            payment,
            mode,
            worker: self.worker,
            anchor_height: anchor.number,
            anchor_hash: anchor.hash,
            completed_at: self.clock.now_ms(),
            // The notary fills it in.
            previous_receipt: B256::ZERO,
            evidence: B256::ZERO,
        };
        let signed = self.sign(receipt, computed.openings).await?;
        Ok((signed, computed.outputs))
    }

    pub(crate) fn check_mode(&self, mode: Mode) -> Result<(), ErrorBody> {
        if mode == Mode::Signed {
            return Ok(());
        }
        let message = format!("mode `{mode}` is not offered here: `{}` is", Mode::Signed);
        Err(error(ErrorCode::ModeNotOffered, message))
    }

    pub(crate) async fn load(&self, model_root: Digest) -> Result<Arc<Loaded>, ErrorBody> {
        let loaded = self.models.get(model_root).await;
        loaded.map_err(|reason| error(ErrorCode::ModelUnavailable, reason.to_string()))
    }

    /// Signs a receipt, complete but for the one before it, and makes it durable.
    pub(crate) async fn sign(
        &self,
        receipt: Receipt,
        openings: Openings,
    ) -> Result<Signed, ErrorBody> {
        let receipt = self.notary.sign(receipt).await.map_err(not_signed)?;
        Ok(Signed {
            receipt,
            openings,
            engine: engine(),
        })
    }

    /// Work of this request, by the shapes of its inputs; checks them against the signature.
    fn compute_units(&self, loaded: &Loaded, inputs: &[TensorData]) -> Result<u64, ErrorBody> {
        let invalid = |reason: String| error(ErrorCode::InvalidInput, reason);
        let model = graph(loaded)?;
        let specs = &loaded.manifest.inputs;
        let in_order = specs.len() == inputs.len()
            && specs
                .iter()
                .zip(inputs)
                .all(|(spec, input)| spec.name == input.name());
        if !in_order {
            let expected = crate::model::signature(specs);
            return Err(invalid(format!(
                "expected exactly these inputs, in this order: {expected}"
            )));
        }
        let shape = |input: &TensorData| input.shape().iter().map(|dim| *dim as usize).collect();
        let shapes: Vec<Vec<usize>> = inputs.iter().map(shape).collect();
        let operations = model
            .cost(&shapes)
            .map_err(|reason| invalid(reason.to_string()))?;
        Ok(compute_units(operations))
    }

    pub(crate) fn price(&self, units: u64, offer: Amount) -> Result<Amount, ErrorBody> {
        let price = self
            .price_per_unit
            .checked_mul(units)
            .filter(|price| *price <= offer);
        price.ok_or_else(|| {
            let message = format!(
                "{units} compute units at {} LEM each are more than the {offer} LEM offered",
                self.price_per_unit
            );
            error(ErrorCode::OfferTooLow, message)
        })
    }

    async fn run(
        &self,
        thread: Thread,
        loaded: Arc<Loaded>,
        model_root: Digest,
        inputs: Vec<TensorData>,
    ) -> Result<Computed, ErrorBody> {
        let options = RunOptions {
            isa: Isa::detect(),
            threads: 1,
            memory: self.limits.memory,
            cost: self.limits.operations,
            trace: false,
        };
        let openings = Openings::derive(random_word());
        let began = Instant::now();
        let run = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            let outputs = graph(&loaded)?
                .infer(&inputs, &options)
                .map_err(|reason: RunError| error(ErrorCode::InvalidInput, reason.to_string()))?;
            Ok::<_, ErrorBody>(commit(model_root, &inputs, outputs, openings))
        });
        let computed = run.await.map_err(|failure| {
            tracing::error!(model = %model_root.short(), %failure, "an execution did not end");
            error(ErrorCode::Internal, "the execution did not end")
        })??;
        metrics::histogram!(names::EXECUTION_SECONDS).record(began.elapsed().as_secs_f64());
        Ok(computed)
    }
}

fn graph(loaded: &Loaded) -> Result<&Model, ErrorBody> {
    match &loaded.model {
        Runnable::Graph(model) => Ok(model),
        Runnable::Language(_) | Runnable::Upstream(_) => Err(error(
            ErrorCode::InvalidInput,
            "the model takes text, not tensors: use /v1/chat/completions, or `lemma run`",
        )),
    }
}

fn commit(
    model: Digest,
    inputs: &[TensorData],
    outputs: Vec<TensorData>,
    openings: Openings,
) -> Computed {
    let elements = |tensors: &[TensorData]| {
        tensors
            .iter()
            .fold(0u64, |sum, tensor| sum.saturating_add(tensor.elements()))
    };
    Computed {
        openings,
        request_commitment: commitment::tensor_request(openings.request, model, inputs),
        response_commitment: commitment::tensor_response(openings.response, &outputs),
        transcript_root: commitment::tensor_transcript(openings.transcript, inputs, &outputs),
        usage_in: elements(inputs),
        usage_out: elements(&outputs),
        outputs,
    }
}

pub(crate) fn error(code: ErrorCode, message: impl Into<String>) -> ErrorBody {
    ErrorBody {
        code,
        message: message.into(),
    }
}

fn not_signed(reason: NotaryError) -> ErrorBody {
    let code = match reason {
        NotaryError::Duplicate(_) => ErrorCode::DuplicateRequest,
        NotaryError::Disk(_) => ErrorCode::Internal,
        NotaryError::Stopped => ErrorCode::Stopping,
    };
    error(code, reason.to_string())
}
