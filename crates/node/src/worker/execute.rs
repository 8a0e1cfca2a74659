//! Runs one request: the model on a blocking thread, then the receipt.

use std::{sync::Arc, time::Instant};

use lemma_graph::{Isa, RunOptions, compute_units};
use lemma_types::{
    Address, Amount, B256, Bytes, Digest, Mode, Receipt,
    commitment::{self, Openings},
    limits,
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
    embedding::Tokens,
    integer,
    keys::random_word,
    ledger::Ledger,
    metrics as names,
    model::engine,
    protocol::{ErrorBody, ErrorCode, Signed, Terms, WorkAnswer, WorkRequest},
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

impl ExecutionLimits {
    /// Work of this request, by the shapes of its inputs, and of its proof, if one is asked for; checks them against the
    /// signature. Texts are cut into tokens for it, once and for all.
    fn measure(
        self,
        loaded: &Loaded,
        inputs: Vec<TensorData>,
        mode: Mode,
    ) -> Result<Measured, ErrorBody> {
        let invalid = |reason: String| error(ErrorCode::InvalidInput, reason);
        let specs = &loaded.manifest.inputs;
        let in_order = specs.len() == inputs.len()
            && specs
                .iter()
                .zip(&inputs)
                .all(|(spec, input)| spec.name == input.name());
        if !in_order {
            let expected = crate::model::signature(specs);
            return Err(invalid(format!(
                "expected exactly these inputs, in this order: {expected}"
            )));
        }
        let shape = |input: &TensorData| input.shape().iter().map(|dim| *dim as usize).collect();
        let shapes: Vec<Vec<usize>> = inputs.iter().map(shape).collect();
        let mut texts = Tokens::default();
        let operations = match &loaded.model {
            Runnable::Graph(model) => model
                .cost(&shapes)
                .map_err(|reason| invalid(reason.to_string()))?,
            Runnable::Integer(model) => {
                let skeleton = model.graph().skeleton();
                let rounded = skeleton.round(&inputs);
                let samples = rounded
                    .map_err(|reason| invalid(reason.to_string()))?
                    .samples as u64;
                let elements = skeleton.nodes.iter().fold(0u64, |sum, node| {
                    let size = node.expression.shape.iter().product::<usize>() as u64;
                    sum.saturating_add(size)
                });
                let memory = elements
                    .saturating_mul(samples)
                    .saturating_mul(PROVER_BYTES);
                let operations = skeleton.operations().saturating_mul(samples);
                if memory > self.memory || operations > self.operations {
                    return Err(invalid(format!(
                        "{samples} samples at once are too many here"
                    )));
                }
                if mode == Mode::Proved {
                    let proving = model.proving_operations(samples as usize);
                    let proving = proving.map_err(|reason| invalid(reason.to_string()))?;
                    operations.saturating_add(proving)
                } else {
                    operations
                }
            }
            Runnable::Embedding(model) => {
                let tokens = model
                    .tokens(&inputs)
                    .map_err(|reason| invalid(reason.to_string()))?;
                let operations = model.cost(&tokens);
                if model.memory(&tokens) > self.memory || operations > self.operations {
                    return Err(invalid(
                        "so many tokens at once are too many here".to_owned(),
                    ));
                }
                texts = tokens;
                operations
            }
            Runnable::Language(_) | Runnable::Upstream(_) => return Err(takes_text()),
        };
        Ok(Measured {
            inputs,
            texts,
            units: compute_units(operations),
        })
    }
}

/// A request whose work is known.
struct Measured {
    inputs: Vec<TensorData>,
    /// What the inputs mean, of an embedding model.
    texts: Tokens,
    units: u64,
}

/// What a run gave, with commitments to it.
struct Computed {
    outputs: Vec<TensorData>,
    /// The proof, in mode `proved`.
    evidence: Option<Bytes>,
    committed: Committed,
}

/// What a receipt says of request and answer.
pub(crate) struct Committed {
    pub(crate) openings: Openings,
    pub(crate) request: B256,
    pub(crate) response: B256,
    pub(crate) transcript: B256,
    pub(crate) usage_in: u64,
    pub(crate) usage_out: u64,
    /// Digest of the proof; zero if there is none.
    pub(crate) evidence: B256,
}

/// Bytes that the prover holds at most for each element of a node: columns with their code words, their hashes, and the
/// leaves of the lookups.
const PROVER_BYTES: u64 = 512;

impl Executor {
    /// Answers a request. Dropping the future gives up what has not begun.
    pub(crate) async fn infer(&self, request: WorkRequest) -> Result<WorkAnswer, ErrorBody> {
        let WorkRequest { terms, inputs } = request;
        let mode = terms.mode;
        if mode != Mode::Proved {
            self.check_mode(mode)?;
        }
        let loaded = self.load(terms.model_root).await?;
        if mode == Mode::Proved && !matches!(loaded.model, Runnable::Integer(_)) {
            let message =
                "mode `proved` is not offered for this model: only a quantised one can be proved";
            return Err(error(ErrorCode::ModeNotOffered, message));
        }
        let (loaded, measured) = self.measure(loaded, inputs, mode).await?;
        let units = measured.units;
        let price = self.price(units, terms.offer)?;
        let thread = self.queue.thread().await?;
        let computed = self
            .run(thread, loaded, terms.model_root, measured, mode)
            .await?;
        let signed = self.sign(terms, units, price, computed.committed).await?;
        Ok(WorkAnswer {
            signed,
            evidence: computed.evidence,
            outputs: computed.outputs,
        })
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

    /// Signs a receipt and makes it durable.
    pub(crate) async fn sign(
        &self,
        terms: Terms,
        compute_units: u64,
        price: Amount,
        committed: Committed,
    ) -> Result<Signed, ErrorBody> {
        let (engine, anchor) = (engine(), self.ledger.head());
        let receipt = Receipt {
            request_id: terms.request_id,
            model_root: terms.model_root,
            engine: engine.id(),
            request_commitment: committed.request,
            response_commitment: committed.response,
            transcript_root: committed.transcript,
            usage_in: committed.usage_in,
            usage_out: committed.usage_out,
            compute_units,
            price,
            payer: terms.payer,
            payment: terms.payment,
            mode: terms.mode,
            worker: self.worker,
            anchor_height: anchor.number,
            anchor_hash: anchor.hash,
            completed_at: self.clock.now_ms(),
            // The notary fills it in.
            previous_receipt: B256::ZERO,
            evidence: committed.evidence,
        };
        let receipt = self.notary.sign(receipt).await.map_err(not_signed)?;
        Ok(Signed {
            receipt,
            openings: committed.openings,
            engine,
        })
    }

    /// Work of this request. Measuring it is not for the async threads.
    async fn measure(
        &self,
        loaded: Arc<Loaded>,
        inputs: Vec<TensorData>,
        mode: Mode,
    ) -> Result<(Arc<Loaded>, Measured), ErrorBody> {
        let limits = self.limits;
        let measured = tokio::task::spawn_blocking(move || {
            let measured = limits.measure(&loaded, inputs, mode)?;
            Ok::<_, ErrorBody>((loaded, measured))
        });
        let unmeasured = |_| error(ErrorCode::Internal, "its work could not be measured");
        measured.await.map_err(unmeasured)?
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
        measured: Measured,
        mode: Mode,
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
            let (outputs, evidence) = compute(&loaded, &measured, mode, &options)?;
            let digest = |evidence: &Bytes| Digest::of(evidence).to_b256();
            let committed = Committed {
                evidence: evidence.as_ref().map_or(B256::ZERO, digest),
                ..commit(model_root, &measured.inputs, &outputs, openings)
            };
            Ok::<_, ErrorBody>(Computed {
                outputs,
                evidence,
                committed,
            })
        });
        let computed = run.await.map_err(|failure| {
            tracing::error!(model = %model_root.short(), %failure, "an execution did not end");
            error(ErrorCode::Internal, "the execution did not end")
        })??;
        metrics::histogram!(names::EXECUTION_SECONDS).record(began.elapsed().as_secs_f64());
        Ok(computed)
    }
}

/// Runs a model; in mode `proved` proves it too.
fn compute(
    loaded: &Loaded,
    measured: &Measured,
    mode: Mode,
    options: &RunOptions,
) -> Result<(Vec<TensorData>, Option<Bytes>), ErrorBody> {
    let inputs = &measured.inputs;
    let invalid = |reason: String| error(ErrorCode::InvalidInput, reason);
    match &loaded.model {
        Runnable::Graph(model) => {
            let outputs = model.infer(inputs, options);
            Ok((outputs.map_err(|reason| invalid(reason.to_string()))?, None))
        }
        Runnable::Integer(model) if mode == Mode::Proved => {
            let proved = integer::prove(model, inputs);
            let (outputs, evidence) = proved.map_err(|reason| invalid(reason.to_string()))?;
            if evidence.len() > limits::PROOF_BYTES {
                return Err(invalid(format!(
                    "the proof would have {} bytes, at most {} are passed on: ask for fewer samples at once",
                    evidence.len(),
                    limits::PROOF_BYTES
                )));
            }
            Ok((outputs, Some(evidence.into())))
        }
        Runnable::Integer(model) => {
            let outputs = model.graph().infer(inputs);
            Ok((outputs.map_err(|reason| invalid(reason.to_string()))?, None))
        }
        Runnable::Embedding(model) => {
            let compute = lemma_llm::Compute::new(1);
            let outputs = model.embed(&measured.texts, &compute);
            Ok((outputs.map_err(|reason| invalid(reason.to_string()))?, None))
        }
        Runnable::Language(_) | Runnable::Upstream(_) => Err(takes_text()),
    }
}

fn takes_text() -> ErrorBody {
    error(
        ErrorCode::InvalidInput,
        "the model takes text, not tensors: use /v1/chat/completions, or `lemma run`",
    )
}

fn commit(
    model: Digest,
    inputs: &[TensorData],
    outputs: &[TensorData],
    openings: Openings,
) -> Committed {
    let elements = |tensors: &[TensorData]| {
        tensors
            .iter()
            .fold(0u64, |sum, tensor| sum.saturating_add(tensor.elements()))
    };
    Committed {
        openings,
        request: commitment::tensor_request(openings.request, model, inputs),
        response: commitment::tensor_response(openings.response, outputs),
        transcript: commitment::tensor_transcript(openings.transcript, inputs, outputs),
        usage_in: elements(inputs),
        usage_out: elements(outputs),
        evidence: B256::ZERO,
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
