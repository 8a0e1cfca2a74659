//! The checks of a bundle, in order.

use lemma_types::{
    B256, Digest, Mode, TrustedRoot,
    bundle::Bundle,
    commitment::{self, Openings},
    limits,
    tensor::TensorData,
    text::Transcript,
};

use crate::{
    FormatError,
    certificate::{NetworkKey, NetworkKeyError},
    contents::{Symbols, elements},
    format::{check_schema, decode_bundle},
    proved::{self, Proved, Weight},
    report::{CheckName, Checks, Final, Finding, Outcome, Problem, Report},
    settlement, text,
};

/// What the caller holds beside the bundle, and asks to be checked with it.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The inputs, in the order of the model's signature.
    pub inputs: Option<Vec<TensorData>>,
    /// The outputs, in the order of the model's signature.
    pub outputs: Option<Vec<TensorData>>,
    /// What was asked and answered, if the model is a language model; it has no inputs and outputs.
    pub text: Option<Transcript>,
    /// What came of running the model again.
    pub recompute: Recompute,
    /// The weights of a quantised model, for the bundle's proof.
    pub weights: Option<Weight>,
    /// Whether what was asked and answered comes from an answer of an API, which says more than a receipt signs.
    pub answer: bool,
}

/// Whether the model was to be run again, and what came of it.
#[derive(Clone, Debug, Default)]
pub enum Recompute {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// Asked for, but it could not be done, for this reason: the verdict is inconclusive at best.
    Unable(String),
    /// Done.
    Done(Recomputed),
    /// Done, with a language model.
    Replayed(Replayed),
}

/// The result of running a model again on [`Opened::inputs`].
#[derive(Clone, Debug)]
pub struct Recomputed {
    /// Root of the canonical graph that was derived from the model's files.
    pub graph_root: Digest,
    /// The numeric specification that ran it.
    pub numeric_spec: u32,
    /// The outputs, in the order of the model's signature.
    pub outputs: Vec<TensorData>,
}

/// The result of replaying [`Opened::text`] with its model: the prompt's tokens made again, and every token of the answer
/// chosen again.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Digest over the configuration and tensors of the model's files.
    pub graph_root: Digest,
    /// The numeric specification that ran it.
    pub numeric_spec: u32,
    /// The first difference, in words; `None` if there is none.
    pub difference: Option<String>,
}

/// Why a trusted root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustedRootError {
    /// Of another format or version.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its key is no key.
    #[error(transparent)]
    Key(#[from] NetworkKeyError),
}

/// A verifier that trusts one network's root.
#[derive(Clone, Debug)]
pub struct Verifier {
    chain_id: u64,
    genesis: B256,
    key: NetworkKey,
}

impl Verifier {
    /// A verifier that trusts `root` and nothing else.
    ///
    /// # Errors
    /// If the root is of another format, or its key is not a point of the group.
    pub fn new(root: &TrustedRoot) -> Result<Self, TrustedRootError> {
        check_schema(&root.schema, TrustedRoot::SCHEMA)?;
        Ok(Self {
            chain_id: root.chain_id,
            genesis: root.genesis,
            key: NetworkKey::new(root.chain_id, &root.network_key)?,
        })
    }

    /// Decodes a bundle and verifies it. What is no bundle is wrong.
    #[must_use]
    pub fn verify_bytes(&self, bundle: &[u8], opened: &Opened) -> Report {
        match decode_bundle(bundle) {
            Ok(bundle) => self.verify(&bundle, opened),
            Err(error) => unreadable(&error),
        }
    }

    /// Verifies a bundle.
    #[must_use]
    pub fn verify(&self, bundle: &Bundle, opened: &Opened) -> Report {
        verify(bundle, opened, self.chain_id, |checks| {
            let Some(settlement) = &bundle.settlement else {
                let unsettled = "the bundle has no settlement: fetch it again when the receipt's batch is final";
                settlement::skip(checks, &Problem::Missing(unsettled.to_owned()));
                return None;
            };
            let receipt = &bundle.receipt.receipt;
            settlement::check(checks, receipt, settlement, &self.key, self.genesis)
        })
    }
}

/// Verifies an answer as it arrives, before any ledger knows of it: everything but the settlement, which is not asked for.
///
/// This is what a client does with a worker's response before it shows it to anybody. Whether model, request id and price
/// are those that it asked for is the client's to compare: a report says what a receipt states, not what was wanted.
#[must_use]
pub fn verify_answer(bundle: &Bundle, chain_id: u64, opened: &Opened) -> Report {
    verify(bundle, opened, chain_id, |checks| {
        let early = "the receipt is checked before it is settled";
        settlement::skip(checks, &Problem::NotAsked(early.to_owned()));
        None
    })
}

fn verify(
    bundle: &Bundle,
    opened: &Opened,
    chain_id: u64,
    check_settlement: impl FnOnce(&mut Checks) -> Option<Final>,
) -> Report {
    let proved_outputs;
    let mut contents = Contents {
        bundle,
        opened,
        outputs: opened.outputs.as_deref(),
    };
    let mut symbols = Symbols::default();
    let mut checks = Checks::default();
    checks.record(CheckName::Format, format(bundle));
    checks.record(CheckName::Network, network(bundle, chain_id));
    checks.record(CheckName::Signature, signature(bundle, chain_id));
    checks.record(CheckName::Mode, mode(bundle));
    checks.record(CheckName::Engine, engine(bundle));
    checks.record(CheckName::Model, model(bundle));
    checks.record(CheckName::Request, contents.request(&mut symbols));
    let recomputation = contents.recomputation(&checks);
    if let (Ok(_), Recompute::Done(recomputed)) = (&recomputation, &opened.recompute) {
        // They open the commitment, so they are what was answered.
        contents.outputs = Some(&recomputed.outputs);
    }
    let mut proof = contents.proof(&checks);
    if contents.outputs.is_none()
        && let Ok(proved) = &mut proof
    {
        // The check below compares them with the commitment.
        proved_outputs = std::mem::take(&mut proved.outputs);
        contents.outputs = Some(&proved_outputs);
    }
    checks.record(CheckName::Response, contents.response(&mut symbols));
    checks.record(CheckName::Transcript, contents.transcript());
    let finality = check_settlement(&mut checks);
    checks.record(CheckName::Recomputation, recomputation);
    checks.record(CheckName::Proof, proved::finding(&proof));

    let receipt = &bundle.receipt.receipt;
    Report {
        verdict: checks.verdict(),
        mode: Some(receipt.mode),
        receipt_id: Some(receipt.id()),
        model: Some(receipt.model_root),
        worker: Some(receipt.worker),
        finality,
        does_not_cover: gaps(receipt.mode, &checks, opened),
        checks: checks.into_vec(),
    }
}

fn unreadable(error: &FormatError) -> Report {
    let mut checks = Checks::default();
    for name in CheckName::ALL {
        let problem = match name {
            CheckName::Format => Problem::failed(error),
            _ => Problem::Missing("the bundle cannot be read".to_owned()),
        };
        checks.record(name, Err(problem));
    }
    Report {
        verdict: checks.verdict(),
        mode: None,
        receipt_id: None,
        model: None,
        worker: None,
        finality: None,
        checks: checks.into_vec(),
        does_not_cover: Vec::new(),
    }
}

fn format(bundle: &Bundle) -> Finding {
    check_schema(&bundle.schema, Bundle::SCHEMA).map_err(Problem::failed)?;
    Ok(format!("`{}`", Bundle::SCHEMA))
}

fn network(bundle: &Bundle, chain_id: u64) -> Finding {
    if bundle.chain_id == chain_id {
        return Ok(format!("chain id {chain_id}"));
    }
    Err(Problem::Failed(format!(
        "the bundle is of chain id {}, the trusted network has {chain_id}",
        bundle.chain_id
    )))
}

/// Checks against the trusted chain id, whatever the bundle says of itself.
fn signature(bundle: &Bundle, chain_id: u64) -> Finding {
    bundle
        .receipt
        .verify_signature(chain_id)
        .map_err(Problem::failed)?;
    Ok(format!(
        "signed by worker {}",
        bundle.receipt.receipt.worker
    ))
}

/// Only what this verifier can check may back a result: any other mode is never accepted in silence.
fn mode(bundle: &Bundle) -> Finding {
    let receipt = &bundle.receipt.receipt;
    let relayed = bundle.manifest.format.is_relayed();
    if relayed != (receipt.mode == Mode::Relayed) {
        let (are, mode) = if relayed {
            ("are", receipt.mode)
        } else {
            ("are not", Mode::Relayed)
        };
        return Err(Problem::Failed(format!(
            "answers of this model {are} an upstream server's: their mode cannot be `{mode}`"
        )));
    }
    match receipt.mode {
        Mode::Relayed if receipt.evidence == B256::ZERO => Ok(
            "`relayed`: the worker signed what an upstream server gave it; which model ran is not known"
                .to_owned(),
        ),
        Mode::Signed if receipt.evidence == B256::ZERO => {
            Ok("`signed`: backed by the worker's signature alone".to_owned())
        }
        Mode::Signed | Mode::Relayed => Err(Problem::Failed(format!(
            "mode `{}` has no evidence, but the receipt names some",
            receipt.mode
        ))),
        Mode::Proved if receipt.evidence != B256::ZERO => {
            Ok("`proved`: backed by the proof that the receipt names".to_owned())
        }
        Mode::Proved => Err(Problem::Failed(
            "mode `proved` has evidence, but the receipt names none".to_owned(),
        )),
        mode => Err(Problem::Missing(format!(
            "this verifier cannot check evidence of mode `{mode}`"
        ))),
    }
}

fn engine(bundle: &Bundle) -> Finding {
    let (named, actual) = (bundle.receipt.receipt.engine, bundle.engine.id());
    if named != actual {
        return Err(Problem::Failed(format!(
            "the bundle's engine has id {actual}, the receipt names {named}"
        )));
    }
    Ok(format!(
        "numeric specification {}, importer {}, runtime {}",
        bundle.engine.numeric_spec, bundle.engine.importer, bundle.engine.runtime
    ))
}

fn model(bundle: &Bundle) -> Finding {
    let manifest = &bundle.manifest;
    manifest.check().map_err(Problem::failed)?;
    let bytes = manifest.encode();
    if bytes.len() > limits::MANIFEST_BYTES {
        return Err(Problem::Failed(format!(
            "a manifest of {} bytes: at most {} are accepted",
            bytes.len(),
            limits::MANIFEST_BYTES
        )));
    }
    let (named, actual) = (bundle.receipt.receipt.model_root, Digest::of(&bytes));
    if named != actual {
        return Err(Problem::Failed(format!(
            "the bundle's manifest has root {actual}, the receipt names {named}"
        )));
    }
    Ok(format!("manifest {actual}"))
}

/// A bundle beside what the caller opened of it.
struct Contents<'a> {
    bundle: &'a Bundle,
    opened: &'a Opened,
    /// The outputs that the caller supplied, or else those of a second run that gave what the receipt commits to.
    outputs: Option<&'a [TensorData]>,
}

impl<'a> Contents<'a> {
    fn openings(&self) -> Result<&'a Openings, Problem> {
        self.bundle.openings.as_ref().ok_or_else(|| {
            Problem::Missing(
                "the bundle has no salts: whoever may learn the content can fetch one that has them".to_owned(),
            )
        })
    }

    fn is_text(&self) -> bool {
        self.bundle.manifest.format.is_text()
    }

    fn request(&self, symbols: &mut Symbols<'a>) -> Finding {
        let receipt = &self.bundle.receipt.receipt;
        if self.is_text() {
            let transcript = text::supplied(self.opened)?;
            return text::request(receipt, transcript, self.openings()?);
        }
        let inputs = supplied("inputs", self.opened.inputs.as_deref())?;
        symbols
            .match_signature("input", &self.bundle.manifest.inputs, inputs)
            .map_err(Problem::Failed)?;
        same_usage("inputs", inputs, receipt.usage_in)?;
        let salt = self.openings()?.request;
        let commitment = commitment::tensor_request(salt, receipt.model_root, inputs);
        opens("inputs", commitment, receipt.request_commitment)
    }

    fn response(&self, symbols: &mut Symbols<'a>) -> Finding {
        let receipt = &self.bundle.receipt.receipt;
        if self.is_text() {
            let transcript = text::supplied(self.opened)?;
            return text::response(receipt, transcript, self.openings()?);
        }
        let outputs = supplied("outputs", self.outputs)?;
        symbols
            .match_signature("output", &self.bundle.manifest.outputs, outputs)
            .map_err(Problem::Failed)?;
        same_usage("outputs", outputs, receipt.usage_out)?;
        let commitment = commitment::tensor_response(self.openings()?.response, outputs);
        opens("outputs", commitment, receipt.response_commitment)
    }

    fn transcript(&self) -> Finding {
        if self.is_text() {
            let transcript = text::supplied(self.opened)?;
            return text::transcript(&self.bundle.receipt.receipt, transcript, self.openings()?);
        }
        let inputs = supplied("inputs", self.opened.inputs.as_deref())?;
        let outputs = supplied("outputs", self.outputs)?;
        let root = commitment::tensor_transcript(self.openings()?.transcript, inputs, outputs);
        opens(
            "inputs and outputs",
            root,
            self.bundle.receipt.receipt.transcript_root,
        )
    }

    /// Checks the bundle's proof, and that its outputs are what the receipt commits to.
    fn proof(&self, checks: &Checks) -> Result<Proved, Problem> {
        let opens = checks.outcome(CheckName::Request) == Outcome::Ok;
        let inputs = self.opened.inputs.as_deref().filter(|_| opens);
        let proved = proved::check(self.bundle, inputs, self.opened.weights.as_ref())?;
        let commitment = commitment::tensor_response(self.openings()?.response, &proved.outputs);
        let other = commitment != self.bundle.receipt.receipt.response_commitment
            || self.outputs.is_some_and(|known| known != proved.outputs);
        if other {
            return Err(Problem::Failed(
                "the proof is of other outputs than the receipt's".to_owned(),
            ));
        }
        Ok(proved)
    }

    /// Compares a second run with what the receipt binds. Says something only if the run's inputs are the receipt's.
    fn recomputation(&self, checks: &Checks) -> Finding {
        let (graph_root, numeric_spec) = match &self.opened.recompute {
            Recompute::NotAsked => return Err(Problem::NotAsked("not requested".to_owned())),
            Recompute::Unable(reason) => return Err(Problem::Missing(reason.clone())),
            Recompute::Done(run) => (run.graph_root, run.numeric_spec),
            Recompute::Replayed(run) => (run.graph_root, run.numeric_spec),
        };
        let bundle = self.bundle;
        if bundle.receipt.receipt.mode == Mode::Relayed {
            return Err(Problem::Missing(
                "a relayed answer cannot be computed again: which model ran is not known"
                    .to_owned(),
            ));
        }
        if numeric_spec != bundle.engine.numeric_spec {
            return Err(Problem::Missing(format!(
                "run again under numeric specification {numeric_spec}, the receipt's is {}",
                bundle.engine.numeric_spec
            )));
        }
        if graph_root != bundle.manifest.graph_root {
            return Err(Problem::Failed(format!(
                "the model's files give graph {graph_root}, its manifest names {}",
                bundle.manifest.graph_root
            )));
        }
        if checks.outcome(CheckName::Request) != Outcome::Ok {
            return Err(Problem::Missing(
                "it is not known that the inputs of the second run are the receipt's".to_owned(),
            ));
        }
        match &self.opened.recompute {
            Recompute::Done(run) if !self.is_text() => self.same_outputs(&run.outputs),
            Recompute::Replayed(run) if self.is_text() => self.same_text(run),
            _ => Err(Problem::Missing(
                "the second run was of another kind of model".to_owned(),
            )),
        }
    }

    fn same_text(&self, replayed: &Replayed) -> Finding {
        if let Some(difference) = &replayed.difference {
            return Err(Problem::Failed(difference.clone()));
        }
        // The replay says that the answer follows from the request; these say that it is the receipt's.
        let (receipt, openings) = (&self.bundle.receipt.receipt, self.openings()?);
        let transcript = text::supplied(self.opened)?;
        text::response(receipt, transcript, openings)?;
        text::transcript(receipt, transcript, openings)?;
        Ok(format!(
            "the model chooses all {} tokens again",
            transcript.response.tokens.len()
        ))
    }

    fn same_outputs(&self, recomputed: &[TensorData]) -> Finding {
        let differ = || Problem::Failed("the model, run again, gives other outputs".to_owned());
        if self
            .opened
            .outputs
            .as_deref()
            .is_some_and(|supplied| supplied != recomputed)
        {
            return Err(differ());
        }
        let commitment = commitment::tensor_response(self.openings()?.response, recomputed);
        if commitment != self.bundle.receipt.receipt.response_commitment {
            return Err(differ());
        }
        Ok("the model, run again, gives the same outputs, bit for bit".to_owned())
    }
}

fn supplied<'a>(
    what: &str,
    tensors: Option<&'a [TensorData]>,
) -> Result<&'a [TensorData], Problem> {
    tensors.ok_or_else(|| Problem::NotAsked(format!("no {what} were supplied")))
}

fn same_usage(what: &str, tensors: &[TensorData], usage: u64) -> Result<(), Problem> {
    let actual = elements(tensors);
    if actual == usage {
        return Ok(());
    }
    Err(Problem::Failed(format!(
        "the {what} have {actual} elements, the receipt counts {usage}"
    )))
}

pub(crate) fn opens(what: &str, actual: B256, committed: B256) -> Finding {
    if actual == committed {
        return Ok(format!("the {what} are those that the receipt commits to"));
    }
    Err(Problem::Failed(format!(
        "the {what} are not those that the receipt commits to"
    )))
}

/// What stays open even if every check holds.
fn gaps(mode: Mode, checks: &Checks, opened: &Opened) -> Vec<String> {
    let holds = |name| checks.outcome(name) == Outcome::Ok;
    let mut gaps = Vec::new();
    if holds(CheckName::Proof) {
        gaps.push(Mode::Proved.does_not_cover().to_owned());
        gaps.extend(proved::gaps(opened.weights.is_some()));
    } else if !(mode == Mode::Signed && holds(CheckName::Recomputation)) {
        gaps.push(mode.does_not_cover().to_owned());
    }
    if !holds(CheckName::Request) || !holds(CheckName::Response) {
        gaps.push(
            "what was asked and answered: inputs and outputs were not both compared".to_owned(),
        );
    }
    if opened.answer {
        gaps.push(
            "in the answer: the model's name (the receipt has its root), the time, the request's settings said again"
                .to_owned(),
        );
    }
    gaps.push("the worker's own statements of time, price and compute units".to_owned());
    if holds(CheckName::Finality) {
        gaps.push("a quorum of the validators signing a false ledger".to_owned());
    } else {
        gaps.push("that the ledger holds the receipt".to_owned());
    }
    gaps
}
