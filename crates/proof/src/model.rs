//! Models: what is registered once, and reused by every proof.

use std::borrow::Cow;
use std::sync::OnceLock;

use lemma_graph::integer::{IntegerError, IntegerGraph, Skeleton};

use crate::error::ProveError;
use crate::field::Base;
use crate::layout::ConstantLayout;
use crate::pcs::{Committed, Pcs};
use crate::plan::Plan;
use crate::profile::Security;
use crate::schemes::Role;
use crate::witness::{constant_cells, padded};

/// Operations of a prover for each cell of witness and lookups, and for each of the model's.
const WITNESS_OPERATIONS: u64 = 350;
const MODEL_OPERATIONS: u64 = 200;

const CONTEXT: &str = "lemma proof v1 model";

/// The model root: the one name of a registered model.
pub type ModelRoot = [u8; 32];

/// What a verifier holds of a model: its skeleton, the root of its constants, and a few small
/// constants that are not under that root.
///
/// Whoever has the integer graph can make it with [`Model::register`]; whoever has only the model
/// root compares.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyingKey {
    skeleton: Skeleton,
    constants: [u8; 32],
    /// Constants in the key, by number.
    keyed: Vec<Option<Vec<i32>>>,
    cells: Vec<Option<Vec<Base>>>,
    root: ModelRoot,
}

impl VerifyingKey {
    fn new(skeleton: Skeleton, constants: [u8; 32], keyed: Vec<Option<Vec<i32>>>) -> VerifyingKey {
        let mut bytes = skeleton.digest().as_bytes().to_vec();
        bytes.extend(constants);
        bytes.extend(blake3::hash(&keyed_bytes(&keyed)).as_bytes());
        let cells = keyed
            .iter()
            .zip(&skeleton.constants)
            .map(|(values, range)| values.as_ref().map(|v| padded(v, &range.shape)))
            .collect();
        VerifyingKey {
            root: blake3::derive_key(CONTEXT, &bytes),
            skeleton,
            constants,
            keyed,
            cells,
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

    /// Constants in the key, in their cubes.
    pub(crate) fn keyed_cells(&self) -> &[Option<Vec<Base>>] {
        &self.cells
    }

    /// The key in bytes: the constants' root, the skeleton with its length, the constants in the
    /// key, four bytes an element.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let skeleton = self.skeleton.to_bytes();
        let mut bytes = self.constants.to_vec();
        bytes.extend((skeleton.len() as u32).to_le_bytes());
        bytes.extend(skeleton);
        bytes.extend(keyed_bytes(&self.keyed));
        bytes
    }

    /// Reads a key. It is as good as its model root, which the caller compares.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<VerifyingKey, IntegerError> {
        let short = || IntegerError::Encoding("it ends too early");
        let (root, rest) = bytes.split_first_chunk::<32>().ok_or_else(short)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (skeleton, mut rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let skeleton = Skeleton::from_bytes(skeleton)?;
        let layout = ConstantLayout::new(&skeleton);
        let mut keyed = Vec::with_capacity(layout.pieces.len());
        for (constant, range) in skeleton.constants.iter().enumerate() {
            if !layout.is_keyed(constant) {
                keyed.push(None);
                continue;
            }
            let (own, after) = rest.split_at_checked(range.len() * 4).ok_or_else(short)?;
            rest = after;
            let (words, _) = own.as_chunks::<4>();
            let values: Vec<i32> = words.iter().map(|w| i32::from_le_bytes(*w)).collect();
            if !values.iter().all(|v| (range.low..=range.high).contains(v)) {
                return Err(IntegerError::Encoding("a constant leaves its range"));
            }
            keyed.push(Some(values));
        }
        if !rest.is_empty() {
            return Err(IntegerError::Encoding("something follows its end"));
        }
        Ok(VerifyingKey::new(skeleton, *root, keyed))
    }
}

fn keyed_bytes(keyed: &[Option<Vec<i32>>]) -> Vec<u8> {
    keyed
        .iter()
        .flatten()
        .flatten()
        .flat_map(|v| v.to_le_bytes())
        .collect()
}

/// A registered model: the graph, its constants as field elements, and their commitment.
pub struct Model {
    graph: IntegerGraph,
    layout: ConstantLayout,
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
        let layout = ConstantLayout::new(graph.skeleton());
        let pcs = shared_pcs(layout.stack.bits, Role::Model, Security::default())?;
        let committed =
            rayon::scope(|_| pcs.commit(cells.clone())).map_err(ProveError::Parameters)?;
        let constants = graph.constants().iter().enumerate();
        let keyed = constants
            .map(|(constant, values)| layout.is_keyed(constant).then(|| values.clone()))
            .collect();
        let key = VerifyingKey::new(graph.skeleton().clone(), committed.root, keyed);
        Ok(Model {
            layout,
            graph,
            cells,
            committed,
            key,
        })
    }

    /// Bytes that it holds in memory: constants as integers and as field elements, their code words, and the tree over
    /// these; and tables.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let cells = self.cells.len() as u64;
        let code = cells << Role::Model.log_inverse_rate(self.layout.stack.bits);
        // A leaf of the tree is a row of 16, two hashes each: its own and one above it.
        let tree = code / 16 * 64;
        let tables = self.graph.skeleton().tables.iter();
        let entries: usize = tables.map(|t| t.entries.len()).sum();
        4 * (self.graph.parameters() as u64 + cells + code) + tree + 2 * entries as u64
    }

    /// What proving so many samples takes besides executing them, in operations as long as those of
    /// [`Skeleton::operations`]: from measurements (`bench/proof`), to a factor of about two.
    ///
    /// # Errors
    /// When they are too many.
    pub fn proving_operations(&self, samples: usize) -> Result<u64, ProveError> {
        let plan = Plan::new(self.graph.skeleton(), samples)?;
        let cells = (1u64 << plan.stack.bits) + (1u64 << plan.leaves.bits);
        let constants = 1u64 << plan.constants.stack.bits;
        Ok(cells * WITNESS_OPERATIONS + constants * MODEL_OPERATIONS)
    }

    /// The integer graph.
    #[must_use]
    pub fn graph(&self) -> &IntegerGraph {
        &self.graph
    }

    /// A constant in its cube.
    pub(crate) fn constant(&self, index: usize) -> Cow<'_, [Base]> {
        match &self.layout.pieces[index][..] {
            [] => Cow::Borrowed(self.key.cells[index].as_deref().unwrap_or(&[])),
            [piece] if piece.ranges.is_empty() => {
                let block = piece.block;
                Cow::Borrowed(&self.cells[block.start..][..1 << block.bits])
            }
            _ => {
                let shape = &self.graph.skeleton().constants[index].shape;
                Cow::Owned(padded(&self.graph.constants()[index], shape))
            }
        }
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

/// Schemes by size, role and security: their parameters take a while to derive.
pub(crate) fn shared_pcs(
    variables: usize,
    role: Role,
    security: Security,
) -> Result<&'static Pcs, ProveError> {
    const SIZES: usize = 28;
    static SCHEMES: [[OnceLock<Result<Pcs, String>>; 4]; SIZES] =
        [const { [const { OnceLock::new() }; 4] }; SIZES];
    let level = match (role, security) {
        (Role::Witness, Security::Bits100) => 0,
        (Role::Witness, Security::Bits112) => 1,
        (Role::Model, Security::Bits100) => 2,
        (Role::Model, Security::Bits112) => 3,
    };
    let Some(place) = SCHEMES.get(variables) else {
        return Err(ProveError::Parameters(format!(
            "2^{variables} cells are too many"
        )));
    };
    place[level]
        .get_or_init(|| Pcs::new(variables, role, security))
        .as_ref()
        .map_err(|e| ProveError::Parameters(e.clone()))
}
