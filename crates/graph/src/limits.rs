//! Bounds on what an importer reads and a model holds.

/// Bounds on a model, checked before anything is allocated for what they bound.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of the model file itself.
    pub model_bytes: u64,
    /// Bytes of all constants together: weights, whether inside the model file or beside it, and
    /// what is computed from them when the model is loaded. What of them is arranged for the kernels
    /// counts too, in place of the weights once nothing reads these; what does not fit is arranged in each run.
    pub constant_bytes: u64,
    /// Operations on constants alone, which are done when a model is loaded.
    pub constant_operations: u64,
    /// Nodes of the graph, and operators after import.
    pub nodes: usize,
    /// Initializers.
    pub initializers: usize,
    /// Inputs and outputs of all nodes together.
    pub operands: usize,
    /// Attributes of all nodes together.
    pub attributes: usize,
    /// Numbers in one attribute.
    pub attribute_numbers: usize,
    /// Bytes of one name.
    pub name_bytes: usize,
    /// Elements of any tensor.
    pub elements: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            model_bytes: 4 << 30,
            constant_bytes: 16 << 30,
            constant_operations: 100_000_000_000,
            nodes: 100_000,
            initializers: 100_000,
            operands: 1_000_000,
            attributes: 1_000_000,
            attribute_numbers: 65_536,
            name_bytes: lemma_types::limits::TENSOR_NAME_BYTES,
            elements: 1 << 34,
        }
    }
}

impl Limits {
    /// Tight bounds for models from strangers that run inside a shared process: 64 MiB of file and
    /// 256 MiB of constants.
    #[must_use]
    pub fn small() -> Limits {
        Limits {
            model_bytes: 64 << 20,
            constant_bytes: 256 << 20,
            constant_operations: 1_000_000_000,
            nodes: 10_000,
            initializers: 10_000,
            operands: 100_000,
            attributes: 100_000,
            attribute_numbers: 4096,
            elements: 1 << 26,
            ..Limits::default()
        }
    }
}
