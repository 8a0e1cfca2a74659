//! A proof that stands alone: verifying key, statement and proof in one file.

use lemma_graph::integer::IntegerError;

use crate::error::VerifyError;
use crate::model::{ModelRoot, VerifyingKey};
use crate::profile::{Profile, Weights};
use crate::proof::{MAX_PROOF_BYTES, Proof, Statement};
use crate::soundness::Soundness;
use crate::verifier::{HeldWeights, Session, verify_inference, verify_with_weights};

const MAGIC: &[u8; 8] = b"lemmaev1";

/// The largest evidence that is read, bytes.
pub const MAX_EVIDENCE_BYTES: usize = 2 * MAX_PROOF_BYTES;

/// What a verifier needs who has nothing but a model root.
///
/// In bytes: a tag, the key with its length (four bytes), the number of samples (four bytes), the elements of inputs and
/// outputs (four bytes each, as many as the key's graph says), and the proof. All integers are little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// The model's verifying key. It is as good as its root.
    pub key: VerifyingKey,
    /// What is proved.
    pub statement: Statement,
    /// The proof.
    pub proof: Proof,
}

/// A verification that has not been done yet.
pub struct Verification<'a> {
    session: Session<'a>,
    work: u64,
}

impl Verification<'_> {
    /// What it takes, in multiplications of field elements, rounded up. A function of the model's key, the number of
    /// samples and the profile.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.work
    }

    /// Checks the proof, on one thread of its own: no prover of this process delays it.
    ///
    /// # Errors
    /// Which check failed.
    pub fn run(mut self) -> Result<(), VerifyError> {
        crate::on_threads(1, || self.session.check().map(|_| ()))
    }
}

impl Evidence {
    /// The root of the model that this is about.
    #[must_use]
    pub fn model_root(&self) -> ModelRoot {
        self.key.model_root()
    }

    /// Checks the proof, in its own profile. `weights` are needed in the profile for holders.
    ///
    /// What the statement is about is for the caller to compare: the model root with one that it trusts, inputs and outputs
    /// with those that it means.
    ///
    /// # Errors
    /// Which check failed, or that weights are needed.
    pub fn verify(&self, weights: Option<&HeldWeights>) -> Result<Soundness, VerifyError> {
        let profile = self.proof.profile();
        match (profile.weights, weights) {
            (Weights::Succinct, _) => {
                verify_inference(&self.key, &self.statement, &self.proof, profile)
            }
            (Weights::Holder, Some(weights)) => {
                verify_with_weights(weights, &self.statement, &self.proof, profile)
            }
            (Weights::Holder, None) => Err(VerifyError::WeightsNeeded),
        }
    }

    /// A verification that knows its cost before it is done: for validators, who have no weights and whose time is paid
    /// for. It decides by integers alone.
    ///
    /// # Errors
    /// When the statement does not fit the model, or the proof is for holders of its weights.
    pub fn verification(&self) -> Result<Verification<'_>, VerifyError> {
        if self.proof.profile().weights == Weights::Holder {
            return Err(VerifyError::WeightsNeeded);
        }
        let session = Session::new(&self.key, &self.statement, &self.proof, None)?;
        let work = session.work()?;
        Ok(Verification { session, work })
    }

    /// The soundness of proofs of this statement, without a look at the proof.
    ///
    /// # Errors
    /// When the model cannot be proved in this profile.
    pub fn soundness(&self, profile: Profile) -> Result<Soundness, VerifyError> {
        crate::verifier::soundness(&self.key, self.statement.samples, profile)
    }

    /// The evidence in bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let key = self.key.to_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend((key.len() as u32).to_le_bytes());
        bytes.extend(key);
        bytes.extend((self.statement.samples as u32).to_le_bytes());
        let tensors = self.statement.inputs.iter().chain(&self.statement.outputs);
        bytes.extend(tensors.flatten().flat_map(|v| v.to_le_bytes()));
        bytes.extend(self.proof.to_bytes());
        bytes
    }

    /// Reads evidence. Whether the proof holds is another question: [`Evidence::verify`].
    ///
    /// # Errors
    /// When the bytes are not those of evidence of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Evidence, VerifyError> {
        let wrong = |what| VerifyError::Statement(IntegerError::Encoding(what));
        let short = || wrong("the evidence ends too early");
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(wrong("the evidence is too large"));
        }
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        if magic != MAGIC {
            return Err(wrong("it does not begin like evidence of this version"));
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (key, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let key = VerifyingKey::from_bytes(key)?;
        let (samples, mut rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let samples = u32::from_le_bytes(*samples) as usize;
        let mut tensor = |elements: usize| -> Result<Vec<i32>, VerifyError> {
            let size = elements.checked_mul(samples).and_then(|n| n.checked_mul(4));
            let split = size.and_then(|size| rest.split_at_checked(size));
            let (own, after) = split.ok_or_else(short)?;
            rest = after;
            let (words, _) = own.as_chunks::<4>();
            Ok(words.iter().map(|w| i32::from_le_bytes(*w)).collect())
        };
        let skeleton = key.skeleton();
        let inputs = skeleton.inputs.iter().map(|(_, range)| range.len());
        let inputs = inputs.map(&mut tensor).collect::<Result<_, _>>()?;
        let outputs = skeleton.outputs.iter();
        let outputs = outputs.map(|(_, e)| e.shape.iter().product());
        let outputs = outputs.map(&mut tensor).collect::<Result<_, _>>()?;
        let statement = Statement {
            model_root: key.model_root(),
            samples,
            inputs,
            outputs,
        };
        let proof = Proof::from_bytes(rest)?;
        Ok(Evidence {
            key,
            statement,
            proof,
        })
    }
}
