//! What can go wrong, said so that the reader can put it right.

use lemma_types::tensor::DType;

/// Why parts do not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Too many dimensions.
    #[error("{0} dimensions: at most {max} are supported", max = crate::tensor::MAX_RANK)]
    Rank(usize),
    /// The shape calls for another number of elements.
    #[error("shape {shape:?} does not hold {found} elements")]
    Count {
        /// The shape.
        shape: Vec<usize>,
        /// The number of elements given.
        found: usize,
    },
    /// The shape and type call for another number of bytes.
    #[error("shape {shape:?} of {dtype} does not hold {found} bytes")]
    Length {
        /// The shape.
        shape: Vec<usize>,
        /// The element type.
        dtype: DType,
        /// The number of bytes given.
        found: usize,
    },
    /// The number of elements overflows.
    #[error("the number of elements does not fit this machine")]
    TooLarge,
    /// A boolean that is neither 0 nor 1.
    #[error("element {index} is {byte}: a boolean is 0 or 1")]
    Bool {
        /// Which element.
        index: usize,
        /// What it is.
        byte: u8,
    },
}

/// Why an operator does not apply to its operands, or is not supported in this variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// An operand has an element type that the operator does not take.
    #[error("{what} is {found}: {expected} is supported")]
    DType {
        /// Which operand.
        what: String,
        /// Its element type.
        found: DType,
        /// What would do.
        expected: String,
    },
    /// Shapes that do not fit the operator or one another.
    #[error("{0}")]
    Shape(String),
    /// An attribute that is missing, of the wrong kind, out of range, or not supported.
    #[error("attribute `{name}`: {reason}")]
    Attribute {
        /// The attribute.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An operand that is missing, superfluous, or must be constant and is not.
    #[error("{what}: {reason}")]
    Operand {
        /// Which operand.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Values that the operator does not accept, such as an index out of range.
    #[error("{0}")]
    Value(String),
    /// The variant is valid, but not supported.
    #[error("{0}")]
    Unsupported(String),
}

impl OpError {
    pub(crate) fn shape(reason: impl Into<String>) -> OpError {
        OpError::Shape(reason.into())
    }

    pub(crate) fn value(reason: impl Into<String>) -> OpError {
        OpError::Value(reason.into())
    }

    pub(crate) fn attribute(name: &str, reason: impl Into<String>) -> OpError {
        OpError::Attribute {
            name: name.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn operand(what: impl Into<String>, reason: impl Into<String>) -> OpError {
        OpError::Operand {
            what: what.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> OpError {
        OpError::Unsupported(reason.into())
    }
}

impl From<lemma_kernels::ShapeError> for OpError {
    fn from(error: lemma_kernels::ShapeError) -> OpError {
        OpError::Shape(error.to_string())
    }
}

/// Why a model was not imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The bytes are not the protobuf encoding of an ONNX model.
    #[error("not an ONNX model: {what} at byte {offset}")]
    Encoding {
        /// Where.
        offset: usize,
        /// What is wrong there.
        what: String,
    },
    /// More of something than the limits allow.
    #[error("{what}: {found} exceed the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// The model as a whole is not supported, or lacks something it needs.
    #[error("{0}")]
    Model(String),
    /// An initializer or constant is malformed.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A graph input or output has an unsupported declaration.
    #[error("{role} `{name}`: {reason}")]
    Signature {
        /// `input` or `output`.
        role: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two definitions of one name.
    #[error("`{name}` is defined twice: by {first} and by {second}")]
    Duplicate {
        /// The name.
        name: String,
        /// Who defines it first.
        first: String,
        /// Who defines it again.
        second: String,
    },
    /// A node reads a value that nothing defines.
    #[error("node {node} reads `{value}`, which nothing defines")]
    Undefined {
        /// The node, with its operator.
        node: String,
        /// The value.
        value: String,
    },
    /// Nodes that wait for one another.
    #[error("the graph has a cycle through node {node}")]
    Cycle {
        /// One of the nodes on the cycle.
        node: String,
    },
    /// An operator that is not supported at all.
    #[error("unsupported operator `{op}` ({domain} opset {opset}) in node {node}")]
    Operator {
        /// The operator.
        op: String,
        /// Its domain.
        domain: String,
        /// The version of the domain that the model asks for.
        opset: i64,
        /// The node.
        node: String,
    },
    /// An operator that is not supported in the way a node uses it, or does not fit its operands.
    #[error("operator `{op}` (opset {opset}) in node {node}: {source}")]
    Node {
        /// The operator.
        op: String,
        /// The version of the operator set.
        opset: i64,
        /// The node.
        node: String,
        /// What is wrong.
        source: OpError,
    },
    /// An operator on constants alone that cannot be computed: no run could succeed.
    #[error("operator `{op}` on constants in node {node}: {source}")]
    Constant {
        /// The canonical operator.
        op: String,
        /// The node.
        node: String,
        /// What is wrong.
        source: OpError,
    },
}

/// Why a file cannot be used as a model.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read.
    #[error("the file cannot be read")]
    File(#[source] std::io::Error),
    /// It is no model, or one that is not supported.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// Why a model did not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// An input that the model does not have.
    #[error("input `{name}`: the model has no such input, it takes {expected}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names that the model takes.
        expected: String,
    },
    /// An input that is not given.
    #[error("input `{name}` is missing: the model takes {expected}")]
    MissingInput {
        /// The input.
        name: String,
        /// The names that the model takes.
        expected: String,
    },
    /// An input that is given twice.
    #[error("input `{name}` is given twice")]
    RepeatedInput {
        /// The input.
        name: String,
    },
    /// Another number of shapes than the model has inputs.
    #[error("{found} shapes are given, the model takes {expected} inputs")]
    Count {
        /// Shapes given.
        found: usize,
        /// Inputs of the model.
        expected: usize,
    },
    /// An input whose datatype or shape is not the declared one.
    #[error("input `{name}`: {field} {reason}")]
    Input {
        /// The input.
        name: String,
        /// `datatype`, `shape` or `data`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An output that is not what the signature says.
    #[error("output `{name}`: {reason}")]
    Output {
        /// The output.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The run would need more memory than it may use.
    #[error(
        "the run needs {needed} bytes of memory for these shapes, at node {node}, {limit} are allowed: use smaller inputs or raise the limit"
    )]
    Memory {
        /// The node at which the peak is reached.
        node: String,
        /// Bytes needed at the peak.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The run would cost more than it may.
    #[error(
        "the run costs {needed} operations for these shapes, {limit} are allowed: use smaller inputs or raise the limit"
    )]
    Cost {
        /// Operations needed.
        needed: u64,
        /// Operations allowed.
        limit: u64,
    },
    /// The cost is asked for before a run, and only the run can tell.
    #[error(
        "what a run costs depends on data, at operator `{op}` in node {node}: it is known only after the run"
    )]
    DependsOnData {
        /// The operator.
        op: String,
        /// The node.
        node: String,
    },
    /// An operator does not apply to these shapes or values.
    #[error("operator `{op}` in node {node}: {source}")]
    Node {
        /// The operator.
        op: String,
        /// The node.
        node: String,
        /// What is wrong.
        source: OpError,
    },
}
