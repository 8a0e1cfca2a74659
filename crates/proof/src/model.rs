//! Models: what is registered once, and reused by every proof.

use std::sync::OnceLock;

use lemma_graph::integer::{IntegerError, IntegerGraph, Skeleton};

use crate::error::ProveError;
use crate::field::Base;
use crate::pcs::{Committed, Pcs};
use crate::plan::constant_stack;
use crate::profile::Security;
use crate::witness::constant_cells;

const CONTEXT: &str = "lemma proof v1 model";

/// The model root: the one name of a registered model.
pub type ModelRoot = [u8; 32];

/// What a verifier holds of a model: its skeleton and the root of its constants.
///
/// Whoever has the integer graph can make it with [`Model::register`]; whoever has only the model
/// root compares.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyingKey {
    skeleton: Skeleton,
    constants: [u8; 32],
    root: ModelRoot,
}

impl VerifyingKey {
    fn new(skeleton: Skeleton, constants: [u8; 32]) -> VerifyingKey {
        let mut bytes = skeleton.digest().as_bytes().to_vec();
        bytes.extend(constants);
        VerifyingKey {
            skeleton,
            constants,
            root: blake3::derive_key(CONTEXT, &bytes),
        }
    }

    /// The model root that this key is of.
    #[must_use]
    pub fn model_root(&self) -> ModelRoot {
        self.root
    }

    /// The graph without its constants.
    #[must_use]
    pub fn skeleton(&self) -> &Skeleton {
        &self.skeleton
    }

    /// The root of the commitment to the constants.
    #[must_use]
    pub fn constants_root(&self) -> [u8; 32] {
        self.constants
    }

    /// The key in bytes: the constants' root, then the skeleton.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.constants.to_vec();
        bytes.extend(self.skeleton.to_bytes());
        bytes
    }

    /// Reads a key. It is as good as its model root, which the caller compares.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<VerifyingKey, IntegerError> {
        let Some((root, rest)) = bytes.split_first_chunk::<32>() else {
            return Err(IntegerError::Encoding("it ends too early"));
        };
        Ok(VerifyingKey::new(Skeleton::from_bytes(rest)?, *root))
    }
}

/// A registered model: the graph, its constants as field elements, and their commitment.
pub struct Model {
    graph: IntegerGraph,
    pub(crate) cells: Vec<Base>,
    pub(crate) committed: Committed,
    key: VerifyingKey,
}

impl Model {
    /// Registers a model: commits to its constants. Done once; the result serves every proof, of
    /// any profile.
    ///
    /// # Errors
    /// When the constants are too many.
    pub fn register(graph: IntegerGraph) -> Result<Model, ProveError> {
        let cells = constant_cells(&graph);
        let pcs = shared_pcs(constant_stack(graph.skeleton()).bits, Security::default())?;
        let committed = pcs.commit(cells.clone()).map_err(ProveError::Parameters)?;
        let key = VerifyingKey::new(graph.skeleton().clone(), committed.root);
        Ok(Model {
            graph,
            cells,
            committed,
            key,
        })
    }

    /// The integer graph.
    #[must_use]
    pub fn graph(&self) -> &IntegerGraph {
        &self.graph
    }

    /// The key of a verifier.
    #[must_use]
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The model root.
    #[must_use]
    pub fn root(&self) -> ModelRoot {
        self.key.root
    }
}

/// Schemes by size and security: their parameters take a while to derive.
pub(crate) fn shared_pcs(variables: usize, security: Security) -> Result<&'static Pcs, ProveError> {
    const SIZES: usize = 28;
    static SCHEMES: [[OnceLock<Result<Pcs, String>>; 2]; SIZES] =
        [const { [const { OnceLock::new() }; 2] }; SIZES];
    let level = match security {
        Security::Bits100 => 0,
        Security::Bits128 => 1,
    };
    let Some(place) = SCHEMES.get(variables) else {
        return Err(ProveError::Parameters(format!(
            "2^{variables} cells are too many"
        )));
    };
    place[level]
        .get_or_init(|| Pcs::new(variables, security))
        .as_ref()
        .map_err(|e| ProveError::Parameters(e.clone()))
}
