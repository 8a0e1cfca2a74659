//! One request: pick a worker, ask, check everything, fail over.

use std::{collections::HashSet, sync::Arc, time::Instant};

use bytes::Bytes;
use lemma_chain::BlockId;
use lemma_types::{
    Address, Amount, B256, Digest, Manifest, Mode, ModelName, bundle::Bundle, manifest::Format,
    tensor::TensorData,
};
use lemma_verify::{CheckName, Opened, Outcome, verify_answer};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Answer, InferError, InferRequest, Inner, blocking,
    client::WorkerFailure,
    index::Served,
    pool::{Lease, Pool},
};
use crate::{
    keys::random_word,
    metrics as names,
    model::{engine, signature},
    protocol::{ErrorCode, Signed, Terms, WorkAnswer, WorkRequest},
};

/// Most workers that are asked for one request.
const MOST_ATTEMPTS: usize = 4;
/// Unit in which the memory of inputs is counted, bytes.
const PAGE: usize = 64 << 10;
/// Inputs of all requests that are under way, in pages: 512 MiB, or as many requests.
pub(super) const ROOM: usize = 8_192;
/// Request ids that clients chose and that are being worked on.
const MOST_CHOSEN: usize = 65_536;

impl Inner {
    pub(super) async fn infer(
        self: &Arc<Self>,
        request: InferRequest,
    ) -> Result<Answer, InferError> {
        let began = Instant::now();
        let answer = self.infer_inner(request).await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(error) => error.code(),
        };
        metrics::counter!(names::REQUESTS, "outcome" => outcome).increment(1);
        metrics::histogram!(names::REQUEST_SECONDS).record(began.elapsed().as_secs_f64());
        answer
    }

    async fn infer_inner(self: &Arc<Self>, request: InferRequest) -> Result<Answer, InferError> {
        if !matches!(request.mode, Mode::Signed | Mode::Proved) {
            return Err(InferError::ModeNotOffered {
                asked: request.mode,
                offered: Mode::Signed,
            });
        }
        let bytes = request.inputs.iter().map(|input| input.data().len());
        let _room = self.room(bytes.sum())?;
        let model = self.resolve(&request.model).await?;
        if model.manifest.format.is_text() {
            return Err(InferError::InvalidInput(
                "the model takes text, not tensors: use /v1/chat/completions, or `lemma run`"
                    .to_owned(),
            ));
        }
        if request.mode == Mode::Proved && model.manifest.format != Format::Integer {
            return Err(InferError::NotProvable);
        }
        let inputs = arrange(&model.manifest, request.inputs)?;
        let (terms, _chosen) = self
            .terms(request.mode, model.root, request.request_id)
            .await?;
        let asked = Arc::new(Asked {
            model_name: model.name,
            manifest: model.manifest,
            work: WorkRequest { terms, inputs },
        });
        self.ask_workers(asked).await
    }

    /// Room for a request of so many bytes, or an error at once if there is none.
    pub(super) fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, InferError> {
        let pages = u32::try_from(bytes / PAGE + 1).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .try_acquire_many_owned(pages)
            .map_err(|_| InferError::Busy(0))
    }

    /// The terms of a request, under the id that the client chose or a new one. A chosen id is taken for as long as the guard
    /// lives.
    pub(super) async fn terms(
        self: &Arc<Self>,
        mode: Mode,
        model_root: Digest,
        chosen: Option<B256>,
    ) -> Result<(Terms, Option<ChosenId>), InferError> {
        let (request_id, guard) = match chosen {
            None => (random_word(), None),
            Some(id) => (id, Some(self.take_id(id).await?)),
        };
        let terms = Terms {
            mode,
            request_id,
            model_root,
            payer: Address::ZERO,
            payment: B256::ZERO,
            offer: Amount::ZERO,
        };
        Ok((terms, guard))
    }

    /// Takes a request id that the client chose, for as long as the guard lives.
    async fn take_id(self: &Arc<Self>, id: B256) -> Result<ChosenId, InferError> {
        let taken = {
            let mut chosen = self.chosen();
            chosen.len() < MOST_CHOSEN && chosen.insert(id)
        };
        if !taken {
            return Err(InferError::DuplicateRequest(id));
        }
        let guard = ChosenId {
            inner: Arc::clone(self),
            id,
        };
        let index = Arc::clone(&self.index);
        match blocking(move || index.knows_request(id)).await {
            Ok(false) => Ok(guard),
            Ok(true) => Err(InferError::DuplicateRequest(id)),
            Err(error) => Err(InferError::Gateway(error)),
        }
    }

    async fn ask_workers(self: &Arc<Self>, asked: Arc<Asked>) -> Result<Answer, InferError> {
        let body = Bytes::from(asked.work.encode());
        let mut attempts = Attempts::default();
        while let Some(lease) = attempts.next(&self.pool) {
            match self.attempt(&lease, &asked, body.clone()).await {
                Ok(WorkAnswer {
                    signed,
                    evidence,
                    outputs,
                }) => {
                    lease.succeeded();
                    let served = Served {
                        receipt: signed.receipt.clone(),
                        engine: signed.engine.clone(),
                    };
                    self.index.served(served).await;
                    return Ok(Answer {
                        model_name: asked.model_name.clone(),
                        outputs,
                        receipt: signed.receipt,
                        engine: signed.engine,
                        openings: signed.openings,
                        evidence,
                        worker: lease.address,
                        failovers: attempts.failovers(),
                    });
                }
                Err(failure) => attempts.note(&lease, failure),
            }
        }
        Err(attempts.into_error(asked.work.terms.request_id))
    }

    /// Asks one worker; its answer has passed every check.
    async fn attempt(
        self: &Arc<Self>,
        lease: &Lease,
        asked: &Arc<Asked>,
        body: Bytes,
    ) -> Result<WorkAnswer, Attempt> {
        let answer = self.client.infer(&lease.endpoint, body).await?;
        let (inner, asked, worker) = (Arc::clone(self), Arc::clone(asked), lease.address);
        // Hashes, a signature, a proof: short, but not for the async threads.
        let checked =
            tokio::task::spawn_blocking(move || inner.check_answer(&asked, worker, answer));
        match checked.await {
            Ok(result) => result.map_err(Attempt::Refused),
            Err(_) => Err(Attempt::Refused("the check did not end".to_owned())),
        }
    }

    /// Everything that can be checked of an answer before its receipt is settled. Fails closed.
    fn check_answer(
        &self,
        asked: &Asked,
        worker: Address,
        answer: WorkAnswer,
    ) -> Result<WorkAnswer, String> {
        let WorkAnswer {
            signed,
            evidence,
            outputs,
        } = answer;
        if asked.work.terms.mode != Mode::Proved && evidence.is_some() {
            return Err("evidence that nobody asked for".to_owned());
        }
        let opened = Opened {
            inputs: Some(asked.work.inputs.clone()),
            outputs: Some(outputs),
            ..Opened::default()
        };
        self.check_signed(
            &asked.work.terms,
            &asked.manifest,
            worker,
            &signed,
            evidence.as_ref(),
            &opened,
        )?;
        let outputs = opened.outputs.expect("put there above");
        Ok(WorkAnswer {
            signed,
            evidence,
            outputs,
        })
    }

    /// Everything that can be checked of a receipt and what it was signed for, before it is settled. Fails closed.
    pub(super) fn check_signed(
        &self,
        terms: &Terms,
        manifest: &Manifest,
        worker: Address,
        signed: &Signed,
        evidence: Option<&lemma_types::Bytes>,
        opened: &Opened,
    ) -> Result<(), String> {
        self.check_terms(terms, worker, signed)?;
        let bundle = Bundle {
            schema: Bundle::SCHEMA.to_owned(),
            chain_id: self.ledger.chain_id(),
            receipt: signed.receipt.clone(),
            engine: signed.engine.clone(),
            manifest: manifest.clone(),
            openings: Some(signed.openings),
            settlement: None,
            proof: evidence.cloned(),
        };
        let report = verify_answer(&bundle, self.ledger.chain_id(), opened);
        let proof = (terms.mode == Mode::Proved).then_some(CheckName::Proof);
        for name in REQUIRED.into_iter().chain(proof) {
            match report.checks.iter().find(|check| check.name == name) {
                Some(check) if check.outcome == Outcome::Ok => {}
                Some(check) => return Err(format!("{name}: {}", check.detail)),
                None => return Err(format!("{name} was not checked")),
            }
        }
        Ok(())
    }

    /// The receipt is for this request, by this worker, on terms that were offered.
    fn check_terms(&self, work: &Terms, worker: Address, signed: &Signed) -> Result<(), String> {
        let receipt = &signed.receipt.receipt;
        let own = engine();
        let terms = [
            (
                "worker",
                receipt.worker == worker && self.pool.is_active(worker),
            ),
            ("request id", receipt.request_id == work.request_id),
            ("model", receipt.model_root == work.model_root),
            ("mode", receipt.mode == work.mode),
            (
                "payer",
                receipt.payer == work.payer && receipt.payment == work.payment,
            ),
            ("price", receipt.price <= work.offer),
            (
                "evidence",
                receipt.evidence.is_zero() == (work.mode != Mode::Proved),
            ),
        ];
        if let Some((term, _)) = terms.iter().find(|(_, holds)| !holds) {
            return Err(format!("the receipt's {term} is not that of the request"));
        }
        let known = signed.engine.numeric_spec == own.numeric_spec
            && signed.engine.importer == own.importer;
        if !known {
            return Err(format!(
                "the engine has numeric specification {} and importer {}: this gateway knows {} and {}",
                signed.engine.numeric_spec, signed.engine.importer, own.numeric_spec, own.importer
            ));
        }
        self.check_anchor(receipt.anchor_height, receipt.anchor_hash)
    }

    /// The anchor is a final block. Worker and gateway may hear of blocks in another order, so any validator that knows the
    /// height decides.
    fn check_anchor(&self, height: u64, hash: B256) -> Result<(), String> {
        for chain in self.ledger.chains() {
            match chain.block(BlockId::Number(height)) {
                Ok(Some(block)) if block.hash() == hash => return Ok(()),
                Ok(Some(_)) => {
                    return Err(format!(
                        "the receipt's anchor is not block {height} of the ledger"
                    ));
                }
                _ => {}
            }
        }
        let head = self.ledger.head();
        if head.number == height && head.hash == hash {
            return Ok(());
        }
        Err(format!(
            "the receipt's anchor, block {height}, is not known to be final"
        ))
    }
}

/// What has to hold before an answer is returned. The rest concerns its settlement, which is yet to come.
const REQUIRED: [CheckName; 9] = [
    CheckName::Format,
    CheckName::Network,
    CheckName::Signature,
    CheckName::Mode,
    CheckName::Engine,
    CheckName::Model,
    CheckName::Request,
    CheckName::Response,
    CheckName::Transcript,
];

/// What is asked of workers.
struct Asked {
    model_name: Option<ModelName>,
    manifest: Arc<Manifest>,
    work: WorkRequest,
}

/// A model to run.
pub(super) struct Resolved {
    pub(super) name: Option<ModelName>,
    pub(super) root: Digest,
    pub(super) manifest: Arc<Manifest>,
}

pub(super) struct ChosenId {
    inner: Arc<Inner>,
    id: B256,
}

impl Drop for ChosenId {
    fn drop(&mut self) {
        self.inner.chosen().remove(&self.id);
    }
}

impl Inner {
    fn chosen(&self) -> std::sync::MutexGuard<'_, HashSet<B256>> {
        self.chosen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Puts the inputs into the signature's order.
fn arrange(
    manifest: &Manifest,
    mut inputs: Vec<TensorData>,
) -> Result<Vec<TensorData>, InferError> {
    let expected = || signature(&manifest.inputs);
    let mut arranged = Vec::with_capacity(inputs.len());
    for spec in &manifest.inputs {
        let position = inputs
            .iter()
            .position(|input| input.name() == spec.name)
            .ok_or_else(|| {
                InferError::InvalidInput(format!(
                    "`{}` is missing: the model takes {}",
                    spec.name,
                    expected()
                ))
            })?;
        let input = inputs.swap_remove(position);
        if input.dtype() != spec.dtype {
            return Err(InferError::InvalidInput(format!(
                "`{}` has datatype {}: the model takes {}",
                spec.name,
                input.dtype(),
                expected()
            )));
        }
        let fits = input.shape().len() == spec.shape.len()
            && input
                .shape()
                .iter()
                .zip(&spec.shape)
                .all(|(size, dim)| match dim {
                    lemma_types::tensor::Dim::Fixed(fixed) => fixed == size,
                    lemma_types::tensor::Dim::Symbol(_) => true,
                });
        if !fits {
            return Err(InferError::InvalidInput(format!(
                "`{}` has shape {:?}: the model takes {}",
                spec.name,
                input.shape(),
                expected()
            )));
        }
        arranged.push(input);
    }
    match inputs.first() {
        None => Ok(arranged),
        Some(extra) => Err(InferError::InvalidInput(format!(
            "`{}` is given twice or is no input: the model takes {}",
            extra.name(),
            expected()
        ))),
    }
}

/// Why an attempt on one worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Attempt {
    #[error(transparent)]
    Failed(#[from] WorkerFailure),
    /// It answered, but the answer did not stand up to its checks.
    #[error("answer refused: {0}")]
    Refused(String),
}

/// The attempts on workers for one request, and what became of them, summed up for the client.
#[derive(Default)]
pub(super) struct Attempts {
    tried: Vec<Address>,
    /// Whether asking another worker is pointless.
    settled: bool,
    busy: usize,
    others: Vec<String>,
    refused: Option<(Address, String)>,
    invalid: Option<String>,
    duplicate: bool,
}

fn set_aside(lease: &Lease, reason: &'static str, error: &str) {
    if let Some(pause) = lease.failed(reason) {
        tracing::warn!(worker = %lease.address, error, ?pause, "worker set aside");
    }
}

impl Attempts {
    /// The worker to ask next, if any is left that is worth it.
    pub(super) fn next(&mut self, pool: &Pool) -> Option<Lease> {
        if self.settled || self.tried.len() >= MOST_ATTEMPTS {
            return None;
        }
        let lease = pool.pick(&self.tried)?;
        self.tried.push(lease.address);
        Some(lease)
    }

    /// How many workers were asked before the one that answers.
    pub(super) const fn failovers(&self) -> u32 {
        self.tried.len() as u32 - 1
    }

    /// Notes a failure.
    pub(super) fn note(&mut self, lease: &Lease, failure: Attempt) {
        let worker = lease.address;
        tracing::debug!(%worker, error = %failure, "attempt failed");
        self.settled = match failure {
            Attempt::Refused(reason) => {
                tracing::warn!(%worker, reason, "an answer was refused");
                lease.failed("answer_refused");
                self.refused = Some((worker, reason));
                false
            }
            Attempt::Failed(WorkerFailure::Reported(body)) => match body.code {
                // A second opinion, since a worker may be lazy; two that agree are enough.
                ErrorCode::InvalidInput => self.invalid.replace(body.message).is_some(),
                ErrorCode::DuplicateRequest => {
                    self.duplicate = true;
                    true
                }
                ErrorCode::Busy => {
                    self.busy += 1;
                    false
                }
                ErrorCode::Upstream => {
                    self.others.push(format!("{worker}: {}", body.message));
                    false
                }
                code => {
                    set_aside(lease, code.name(), &body.message);
                    self.others.push(format!("{worker}: {}", body.message));
                    false
                }
            },
            Attempt::Failed(failure) => {
                set_aside(lease, failure.reason(), &failure.to_string());
                self.others.push(format!("{worker}: {failure}"));
                false
            }
        };
    }

    pub(super) fn into_error(self, request_id: B256) -> InferError {
        if let Some(reason) = self.invalid {
            return InferError::InvalidInput(reason);
        }
        if self.duplicate {
            return InferError::DuplicateRequest(request_id);
        }
        if let Some((worker, reason)) = self.refused {
            return InferError::Refused { worker, reason };
        }
        if self.busy > 0 {
            return InferError::Busy(self.busy);
        }
        if self.others.is_empty() {
            return InferError::NoWorker("none is registered on the ledger".to_owned());
        }
        InferError::NoWorker(self.others.join("; "))
    }
}
