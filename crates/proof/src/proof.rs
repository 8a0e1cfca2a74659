//! Statements and proofs in bytes.

use lemma_graph::integer::Skeleton;

use crate::error::{Check, VerifyError, require};
use crate::field::EXT_BYTES;
use crate::model::ModelRoot;
use crate::profile::Profile;

const MAGIC: &[u8; 6] = b"lemmap";

/// Version of the proof system; a change of the protocol is a new one.
pub const VERSION: u8 = 1;

/// The largest proof that is read.
pub const MAX_PROOF_BYTES: usize = 16 << 20;

/// What a proof is about: this model, on these inputs, gives these outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The model.
    pub model_root: ModelRoot,
    /// Samples proved at once.
    pub samples: usize,
    /// For each input the elements of all samples, one after the other.
    pub inputs: Vec<Vec<i32>>,
    /// For each output the elements of all samples.
    pub outputs: Vec<Vec<i32>>,
}

pub(crate) fn value_bytes(tensors: &[Vec<i32>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for values in tensors {
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    bytes
}

impl Statement {
    /// Checks the shapes of inputs and outputs and the ranges of inputs against the batched
    /// skeleton.
    pub(crate) fn check(&self, skeleton: &Skeleton) -> Result<(), VerifyError> {
        let fits = skeleton.check_inputs(&self.inputs);
        require(Check::Inputs, fits.is_ok())?;
        let shapes = skeleton
            .outputs
            .iter()
            .map(|(_, e)| e.shape.iter().product::<usize>());
        let same = self.outputs.iter().map(Vec::len).eq(shapes);
        let bound = 1i32 << 30;
        let small = self
            .outputs
            .iter()
            .flatten()
            .all(|v| (-bound..=bound).contains(v));
        require(Check::Outputs, same && small)
    }
}

/// A proof: messages of the protocol, and the openings. It holds no part of the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub(crate) profile: Profile,
    pub(crate) witness_root: [u8; 32],
    pub(crate) messages: Vec<u8>,
    pub(crate) witness_opening: Vec<u8>,
    pub(crate) model_opening: Vec<u8>,
}

impl Proof {
    /// The profile.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Sizes of its parts in bytes.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, usize); 3] {
        [
            ("messages", self.messages.len()),
            ("witness opening", self.witness_opening.len()),
            ("model opening", self.model_opening.len()),
        ]
    }

    /// The proof in bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.push(self.profile.code());
        bytes.extend(self.witness_root);
        for part in [&self.messages, &self.witness_opening, &self.model_opening] {
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        bytes
    }

    /// Reads a proof.
    ///
    /// # Errors
    /// When the bytes are not those of a proof of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Proof, VerifyError> {
        let wrong = || VerifyError::Rejected(Check::Header);
        let length = || VerifyError::Rejected(Check::Length);
        if bytes.len() > MAX_PROOF_BYTES {
            return Err(length());
        }
        let (magic, rest) = bytes.split_first_chunk::<6>().ok_or_else(wrong)?;
        let ([version, code], rest) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let profile = Profile::from_code(*code).ok_or_else(wrong)?;
        if magic != MAGIC || *version != VERSION {
            return Err(wrong());
        }
        let (root, mut rest) = rest.split_first_chunk::<32>().ok_or_else(length)?;
        let mut part = || -> Result<Vec<u8>, VerifyError> {
            let (count, after) = rest.split_first_chunk::<4>().ok_or_else(length)?;
            let count = u32::from_le_bytes(*count) as usize;
            let (head, after) = after.split_at_checked(count).ok_or_else(length)?;
            rest = after;
            Ok(head.to_vec())
        };
        let (messages, witness_opening, model_opening) = (part()?, part()?, part()?);
        if !rest.is_empty() || messages.len() % EXT_BYTES != 0 {
            return Err(length());
        }
        Ok(Proof {
            profile,
            witness_root: *root,
            messages,
            witness_opening,
            model_opening,
        })
    }
}
