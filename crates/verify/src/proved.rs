//! The check of a succinct argument: that the receipt's answer is what the model gives on the receipt's request.

use std::{fmt, sync::Arc};

use lemma_proof::{Evidence, HeldWeights, Profile, Security, Weights};
use lemma_types::{B256, Digest, Mode, bundle::Bundle, manifest::Format, tensor::TensorData};

use crate::report::{Finding, Problem};

/// The weights of the model, registered by whoever verifies: needed for proofs in the profile for holders, and otherwise
/// evidence that the model root was derived from a graph that keeps its bounds.
#[derive(Clone)]
pub struct Weight(pub Arc<HeldWeights>);

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Weight")
            .field(&Digest::new(self.0.model_root()))
            .finish()
    }
}

/// What a proof showed.
#[derive(Debug)]
pub(crate) struct Proved {
    pub(crate) detail: String,
    /// The outputs that it is about.
    pub(crate) outputs: Vec<TensorData>,
}

/// Checks the bundle's proof against the receipt. `inputs` are those that open the receipt's request commitment, if there
/// are such.
pub(crate) fn check(
    bundle: &Bundle,
    inputs: Option<&[TensorData]>,
    weights: Option<&Weight>,
) -> Result<Proved, Problem> {
    let receipt = &bundle.receipt.receipt;
    let Some(bytes) = &bundle.proof else {
        return Err(if receipt.mode == Mode::Proved {
            Problem::Missing(
                "the bundle has no proof: whoever asked has it, and `lemma proof prove --receipt` makes another".into(),
            )
        } else {
            Problem::NotAsked("the bundle has no proof".into())
        });
    };
    let digest: B256 = Digest::of(bytes).to_b256();
    if receipt.mode == Mode::Proved && receipt.evidence != digest {
        return Err(Problem::Failed(format!(
            "the proof has hash {digest}, the receipt names {}",
            receipt.evidence
        )));
    }
    if bundle.manifest.format != Format::Integer {
        return Err(Problem::Failed(
            "only a quantised model can be proved, and the receipt's is another".into(),
        ));
    }
    let evidence = Evidence::from_bytes(bytes).map_err(Problem::failed)?;
    let root = Digest::new(evidence.model_root());
    if root != bundle.manifest.graph_root {
        return Err(Problem::Failed(format!(
            "the proof is of model root {root}, the manifest names {}",
            bundle.manifest.graph_root
        )));
    }
    if let Some(Weight(weights)) = weights
        && weights.model_root() != evidence.model_root()
    {
        let other = Digest::new(weights.model_root());
        return Err(Problem::Failed(format!(
            "the model that was supplied has root {other}, the proof is of {root}"
        )));
    }
    let Some(inputs) = inputs else {
        return Err(Problem::Missing(
            "it is not known that the proof is of this request: supply the inputs, and a bundle with salts".into(),
        ));
    };
    let skeleton = evidence.key.skeleton();
    let rounded = skeleton.round(inputs).map_err(Problem::failed)?;
    let statement = &evidence.statement;
    if rounded.samples != statement.samples || rounded.inputs != statement.inputs {
        return Err(Problem::Failed("the proof is of other inputs".into()));
    }
    let held = weights.map(|Weight(held)| &**held);
    let profile = evidence.proof.profile();
    if profile.weights == Weights::Holder && held.is_none() {
        return Err(Problem::Missing(
            "the proof is for holders of the weights: supply the model".into(),
        ));
    }
    let soundness = evidence.verify(held).map_err(Problem::failed)?;
    let outputs = skeleton
        .real_outputs(&statement.outputs, statement.samples)
        .map_err(Problem::failed)?;
    Ok(Proved {
        detail: format!(
            "model root {root} gives these outputs on these inputs, rounded to its integers: a succinct argument, not \
             zero-knowledge, of {:.0} bits{}",
            soundness.bits.floor(),
            described(profile)
        ),
        outputs,
    })
}

fn described(profile: Profile) -> &'static str {
    match (profile.security, profile.weights) {
        (Security::Bits100 | Security::Bits112, Weights::Succinct) => "",
        (Security::Bits100 | Security::Bits112, Weights::Holder) => {
            ", checked with the model's weights"
        }
    }
}

/// What a proof that holds still does not establish.
pub(crate) fn gaps(derived: bool) -> Vec<String> {
    let mut gaps = Vec::new();
    if !derived {
        gaps.push(
            "that the model root was derived from a graph whose integers keep their bounds: supply the model to see it".into(),
        );
    }
    gaps.push(
        "a mistake in the proof system, which nobody else has reviewed; that anything stays secret: the proof is not \
         zero-knowledge"
            .into(),
    );
    gaps
}

/// The finding of a check.
pub(crate) fn finding(proved: &Result<Proved, Problem>) -> Finding {
    match proved {
        Ok(proved) => Ok(proved.detail.clone()),
        Err(problem) => Err(problem.clone()),
    }
}
