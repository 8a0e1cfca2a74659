//! Succinct arguments that a committed model gave an output on an input.
//!
//! The statement is about an [integer graph](lemma_graph::integer): this model root, on these
//! integers, gives those. The argument is made of sumchecks for linear algebra, lookups for
//! everything else, and a hash-based polynomial commitment; there is no trusted setup and no key
//! file. It is succinct and transparent; it is *not* zero-knowledge: a proof reveals combinations
//! of weights and intermediate values. The protocol, its soundness and its threat model are in
//! `docs/proof-system.md`.
//!
//! ```no_run
//! use lemma_graph::integer::IntegerGraph;
//! use lemma_proof::{Model, Profile, Proof, prove_inference, verify_inference};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (bytes, inputs) = (Vec::new(), vec![vec![0]]);
//! let model = Model::register(IntegerGraph::from_bytes(&bytes)?)?;
//! let profile = Profile::default();
//! let (statement, proof) = prove_inference(&model, inputs, 1, profile)?;
//!
//! // Elsewhere, with the verifying key and the statement:
//! let proof = Proof::from_bytes(&proof.to_bytes())?;
//! let soundness = verify_inference(model.key(), &statement, &proof, profile)?;
//! println!("{:?} with {:.0} bits", statement.outputs, soundness.bits);
//! # Ok(())
//! # }
//! ```

mod batch;
mod claims;
mod error;
mod evidence;
mod field;
#[cfg(test)]
mod forgery;
mod fractions;
mod layout;
mod model;
mod operands;
mod pcs;
mod plan;
mod poly;
mod profile;
mod proof;
mod prover;
mod schemes;
mod soundness;
mod sumcheck;
mod threads;
mod transcript;
mod trees;
mod verifier;
mod witness;
mod work;

pub use error::{Check, ProveError, VerifyError};
pub use evidence::{Evidence, MAX_EVIDENCE_BYTES, Verification};
pub use model::{Model, ModelRoot, VerifyingKey};
pub use profile::{Profile, Security, Weights};
pub use proof::{MAX_PROOF_BYTES, Proof, Statement, VERSION};
pub use prover::{Progress, prove_inference, prove_inference_watched};
pub use schemes::check_parameters;
pub use soundness::{ErrorTerm, Soundness};
pub use threads::on_threads;
pub use verifier::{HeldWeights, soundness, verify_inference, verify_with_weights};
