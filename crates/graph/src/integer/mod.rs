//! Integer graphs: the quantised form of a model, which is executed on integers alone and is the
//! statement of a succinct proof. The specification is `docs/integer-spec.md`.
//!
//! Everything that a quantised network computes is written with one kind of node: a sum of linear
//! and bilinear terms over earlier tensors (an [`Expression`]), followed by a rounding shift and a
//! table: `T[(sum + offset) >> shift]`. Layers, convolutions, attention, pooling, normalisation
//! and softmax differ only in their terms and tables. There is no division, no data-dependent
//! branch and no wrap-around: a graph whose sums could leave 30 bits does not exist as an
//! [`IntegerGraph`].

mod bounds;
mod codec;
mod error;
mod execute;
mod ports;
mod quantise;
mod view;

use std::sync::Arc;

use lemma_types::tensor::DType;

pub use codec::MAX_BYTES;
pub use error::{IntegerError, QuantiseError};
pub use execute::{SplitAxes, Trace, split_axes};
pub use ports::Rounded;
pub use quantise::{Accuracy, Options, OutputAccuracy, Quantised, Sample, quantise};
pub use view::{Factor, Relation, Source, View};

/// Bits that no sum of an expression may exceed, offset included: so field arithmetic modulo the
/// prime 2³¹ − 2²⁴ + 1, and 32-bit integers, are exact.
pub const SUM_BITS: u32 = 30;

/// Inputs, constants and outputs are smaller than 2 to this power in magnitude: so two of them are
/// equal if they are equal modulo that prime.
pub const VALUE_BITS: u32 = 29;

/// Bits that the index of a table may have.
pub const MAX_TABLE_BITS: u32 = 16;

/// Entries that all tables together may have.
pub const MAX_ENTRIES: usize = 1 << 22;

/// Largest rank of a tensor.
pub const MAX_RANK: usize = 6;

/// Largest number of elements of a tensor, dimensions rounded up to powers of two.
pub const MAX_ELEMENTS: usize = 1 << 24;

/// The same of a constant.
pub const MAX_CONSTANT: usize = 1 << 27;

/// Largest number of multiplications of one term, dimensions rounded up likewise.
pub const MAX_PRODUCTS: u64 = 1 << 36;

/// The declaration of a tensor: its dimensions and the range of its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRange {
    /// Dimensions, row-major.
    pub shape: Vec<usize>,
    /// Smallest value of an element.
    pub low: i32,
    /// Largest value of an element.
    pub high: i32,
}

impl TensorRange {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element (never in a checked graph).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An input or output of the graph: what a caller sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name in the model.
    pub name: String,
    /// The real number that an element of 1 stands for.
    pub scale: f32,
    /// The type that a caller sees: FP32; or INT64 or INT32, for indices, whose scale is 1.
    pub dtype: DType,
}

impl Port {
    /// A port of real numbers.
    #[must_use]
    pub fn real(name: impl Into<String>, scale: f32) -> Port {
        Port {
            name: name.into(),
            scale,
            dtype: DType::F32,
        }
    }
}

/// One term of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// `coefficient · view`.
    Linear {
        /// The factor.
        coefficient: i32,
        /// What is added; over the axes of the expression.
        view: View,
    },
    /// `coefficient · Σ left · right`, summed over the contracted axes, which are numbered after
    /// the axes of the expression.
    Product {
        /// The factor.
        coefficient: i32,
        /// The first operand.
        left: View,
        /// The second operand.
        right: View,
        /// Sizes of the contracted axes.
        contracted: Vec<usize>,
    },
}

impl Term {
    /// The views that the term reads: one or two.
    #[must_use]
    pub fn views(&self) -> Vec<&View> {
        match self {
            Term::Linear { view, .. } => vec![view],
            Term::Product { left, right, .. } => vec![left, right],
        }
    }

    /// The factor before the term.
    #[must_use]
    pub fn coefficient(&self) -> i32 {
        match self {
            Term::Linear { coefficient, .. } | Term::Product { coefficient, .. } => *coefficient,
        }
    }
}

/// A sum of terms: for each index of `shape` one integer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// Dimensions of the result.
    pub shape: Vec<usize>,
    /// The terms.
    pub terms: Vec<Term>,
}

/// A node: one tensor computed from earlier ones, `table[(expression + offset) >> shift]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is called in messages; part of the digest all the same.
    pub label: String,
    /// The sum.
    pub expression: Expression,
    /// Added to the sum; makes it non-negative, and rounds.
    pub offset: i32,
    /// Low bits that are dropped.
    pub shift: u32,
    /// The table, by number.
    pub table: usize,
}

/// A table of 2ᵏ entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The entries.
    pub entries: Vec<i16>,
}

impl Table {
    /// Base-two logarithm of the number of entries.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.entries.len().trailing_zeros()
    }

    /// Smallest and largest entry.
    #[must_use]
    pub fn range(&self) -> (i32, i32) {
        let low = self.entries.iter().min().copied().unwrap_or(0);
        let high = self.entries.iter().max().copied().unwrap_or(0);
        (i32::from(low), i32::from(high))
    }
}

/// An integer graph without the elements of its constants: what a verifier holds of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Skeleton {
    /// Inputs: their ports and ranges.
    pub inputs: Vec<(Port, TensorRange)>,
    /// Constants.
    pub constants: Vec<TensorRange>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Nodes; each reads inputs, constants and earlier nodes.
    pub nodes: Vec<Node>,
    /// Outputs: plain sums, not rounded.
    pub outputs: Vec<(Port, Expression)>,
}

impl Skeleton {
    /// The declaration of what a view reads.
    ///
    /// # Panics
    /// When the graph holds no such source.
    #[must_use]
    pub fn source(&self, source: Source) -> TensorRange {
        match source {
            Source::Input(i) => self.inputs[i].1.clone(),
            Source::Constant(i) => self.constants[i].clone(),
            Source::Node(i) => self.node(&self.nodes[i]),
        }
    }

    /// The dimensions of what a view reads.
    ///
    /// # Panics
    /// When the graph holds no such source.
    #[must_use]
    pub fn shape(&self, source: Source) -> &[usize] {
        match source {
            Source::Input(i) => &self.inputs[i].1.shape,
            Source::Constant(i) => &self.constants[i].shape,
            Source::Node(i) => &self.nodes[i].expression.shape,
        }
    }

    fn node(&self, node: &Node) -> TensorRange {
        let (low, high) = self.tables[node.table].range();
        TensorRange {
            shape: node.expression.shape.clone(),
            low,
            high,
        }
    }

    /// The same computation on `count` samples at once: inputs, nodes and outputs gain a first
    /// axis of that size; constants are shared.
    ///
    /// # Errors
    /// When a tensor would become too large.
    pub fn batched(&self, count: usize) -> Result<Skeleton, IntegerError> {
        let longer = |shape: &[usize]| [&[count], shape].concat();
        let expression = |e: &Expression| Expression {
            shape: longer(&e.shape),
            terms: e.terms.iter().map(batched_term).collect(),
        };
        let batched = Skeleton {
            inputs: self
                .inputs
                .iter()
                .map(|(port, range)| {
                    let range = TensorRange {
                        shape: longer(&range.shape),
                        ..range.clone()
                    };
                    (port.clone(), range)
                })
                .collect(),
            constants: self.constants.clone(),
            tables: self.tables.clone(),
            nodes: self
                .nodes
                .iter()
                .map(|node| Node {
                    expression: expression(&node.expression),
                    ..node.clone()
                })
                .collect(),
            outputs: self
                .outputs
                .iter()
                .map(|(port, e)| (port.clone(), expression(e)))
                .collect(),
        };
        batched.check_with_rank(MAX_RANK + 1)?;
        Ok(batched)
    }

    /// Checks that the parts fit together: shapes, order, sizes. Says nothing about overflow,
    /// which depends on the constants.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn check(&self) -> Result<(), IntegerError> {
        self.check_with_rank(MAX_RANK)
    }

    fn check_with_rank(&self, rank: usize) -> Result<(), IntegerError> {
        let malformed = |place: &str, reason: String| IntegerError::Malformed {
            place: place.to_owned(),
            reason,
        };
        if self.inputs.is_empty() || self.outputs.is_empty() {
            return Err(malformed(
                "the graph",
                "needs an input and an output".into(),
            ));
        }
        let inputs = self.inputs.iter();
        for (what, range, most) in inputs
            .map(|(p, r)| (p.name.as_str(), r, MAX_ELEMENTS))
            .chain(
                self.constants
                    .iter()
                    .map(|r| ("a constant", r, MAX_CONSTANT)),
            )
        {
            check_shape(&range.shape, rank, most).map_err(|reason| malformed(what, reason))?;
            let bound = 1 << VALUE_BITS;
            if range.low > range.high || range.low <= -bound || range.high >= bound {
                return Err(malformed(what, "its range is empty or too wide".into()));
            }
        }
        for table in &self.tables {
            if !table.entries.len().is_power_of_two() || table.bits() > MAX_TABLE_BITS {
                let reason = format!("has {} entries", table.entries.len());
                return Err(malformed("a table", reason));
            }
        }
        let entries: usize = self.tables.iter().map(|table| table.entries.len()).sum();
        if entries > MAX_ENTRIES {
            let reason = format!("have {entries} entries, more than {MAX_ENTRIES}");
            return Err(malformed("all tables together", reason));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let wrong = |reason| malformed(&node.label, reason);
            self.check_expression(&node.expression, index, rank)
                .map_err(wrong)?;
            let Some(table) = self.tables.get(node.table) else {
                return Err(wrong("its table does not exist".into()));
            };
            if node.shift + table.bits() > SUM_BITS || node.shift >= SUM_BITS {
                return Err(wrong("shift and table have too many bits".into()));
            }
        }
        for (port, expression) in &self.outputs {
            self.check_expression(expression, self.nodes.len(), rank)
                .map_err(|reason| malformed(&port.name, reason))?;
        }
        Ok(())
    }

    fn check_expression(
        &self,
        expression: &Expression,
        before: usize,
        rank: usize,
    ) -> Result<(), String> {
        check_shape(&expression.shape, rank, MAX_ELEMENTS)?;
        if expression.terms.is_empty() {
            return Err("has no terms".into());
        }
        for term in &expression.terms {
            let mut axes = expression.shape.clone();
            if let Term::Product { contracted, .. } = term {
                check_shape(contracted, rank, MAX_ELEMENTS)?;
                axes.extend(contracted);
            }
            for view in term.views() {
                let exists = match view.source {
                    Source::Input(i) => i < self.inputs.len(),
                    Source::Constant(i) => i < self.constants.len(),
                    Source::Node(i) => i < before,
                };
                if !exists {
                    return Err("reads a tensor that is not there yet".into());
                }
                view.check(&axes, self.shape(view.source))?;
            }
            if let Term::Product { left, right, .. } = term {
                let both = |axis| left.covers(axis) && right.covers(axis);
                if !(expression.shape.len()..axes.len()).all(both) {
                    return Err("a contracted axis must belong to both operands".into());
                }
                check_size(&axes, MAX_PRODUCTS)?;
                for view in [left, right] {
                    let own: Vec<usize> = (0..axes.len())
                        .filter(|&a| view.covers(a))
                        .map(|a| axes[a])
                        .collect();
                    let most = match view.source {
                        Source::Constant(_) => MAX_CONSTANT,
                        _ => MAX_ELEMENTS,
                    };
                    check_size(&own, most as u64)?;
                }
            }
        }
        Ok(())
    }
}

fn check_shape(shape: &[usize], rank: usize, most: usize) -> Result<(), String> {
    if shape.len() > rank {
        return Err(format!(
            "has rank {}, at most {rank} is supported",
            shape.len()
        ));
    }
    check_size(shape, most as u64)
}

fn check_size(shape: &[usize], most: u64) -> Result<(), String> {
    let padded = shape.iter().try_fold(1u64, |n, &d| {
        n.checked_mul((d as u64).checked_next_power_of_two()?)
    });
    match padded {
        Some(n) if n <= most && shape.iter().all(|&d| d > 0) => Ok(()),
        _ => Err(format!("has the shape {shape:?}: empty or too large")),
    }
}

/// A term of a batched expression.
pub(crate) fn batched_term(term: &Term) -> Term {
    let moved = |view: &View| {
        let constant = matches!(view.source, Source::Constant(_));
        let shift = usize::from(!constant);
        let mut factors: Vec<Factor> = Vec::with_capacity(view.factors.len() + 1);
        if !constant {
            factors.push(Factor {
                axes: vec![0],
                dims: vec![0],
                relation: Relation::Identity,
            });
        }
        factors.extend(view.factors.iter().map(|f| Factor {
            axes: f.axes.iter().map(|a| a + 1).collect(),
            dims: f.dims.iter().map(|d| d + shift).collect(),
            relation: f.relation.clone(),
        }));
        View {
            source: view.source,
            factors,
        }
    };
    match term {
        Term::Linear { coefficient, view } => Term::Linear {
            coefficient: *coefficient,
            view: moved(view),
        },
        Term::Product {
            coefficient,
            left,
            right,
            contracted,
        } => Term::Product {
            coefficient: *coefficient,
            left: moved(left),
            right: moved(right),
            contracted: contracted.clone(),
        },
    }
}

/// A checked integer graph: its parts fit together, its constants keep their ranges, and none of
/// its sums can overflow.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerGraph {
    skeleton: Arc<Skeleton>,
    constants: Arc<Vec<Vec<i32>>>,
}

impl IntegerGraph {
    /// Checks a graph.
    ///
    /// # Errors
    /// What does not fit; or the node whose sum could leave its range, and the bounds of that sum.
    pub fn new(skeleton: Skeleton, constants: Vec<Vec<i32>>) -> Result<IntegerGraph, IntegerError> {
        skeleton.check()?;
        if constants.len() != skeleton.constants.len() {
            return Err(IntegerError::Malformed {
                place: "the graph".into(),
                reason: "constants and their declarations differ in number".into(),
            });
        }
        for (index, (values, range)) in constants.iter().zip(&skeleton.constants).enumerate() {
            let fits = |&v: &i32| (range.low..=range.high).contains(&v);
            if values.len() != range.len() || !values.iter().all(fits) {
                return Err(IntegerError::Malformed {
                    place: format!("constant {index}"),
                    reason: "its elements do not fit its declaration".into(),
                });
            }
        }
        bounds::check(&skeleton, &constants)?;
        Ok(IntegerGraph {
            skeleton: Arc::new(skeleton),
            constants: Arc::new(constants),
        })
    }

    /// The graph without its constants.
    #[must_use]
    pub fn skeleton(&self) -> &Skeleton {
        &self.skeleton
    }

    /// Elements of the constants, row-major.
    #[must_use]
    pub fn constants(&self) -> &[Vec<i32>] {
        &self.constants
    }

    /// Elements of all constants.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.constants.iter().map(Vec::len).sum()
    }
}
