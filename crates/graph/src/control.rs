//! Operators that run subgraphs: a choice, a loop, a scan.
//!
//! A subgraph is a graph of its own. What it reads from around it is appended to its inputs, and
//! to the operands of the operator; constants around it are constants inside it. Inputs are named
//! by their place, so that no name in a file reaches the digest.

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::graph::Graph;
use crate::operator::{Eval, Operands, Operator};
use crate::ops::expect;
use crate::tensor::Tensor;
use lemma_types::tensor::DType;

/// A graph inside an operator, and what is known of its outputs.
#[derive(Debug)]
pub(crate) struct Subgraph {
    pub(crate) graph: Graph,
    pub(crate) types: Vec<Type>,
}

/// One input or output of a scan that is taken apart or put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) axis: usize,
    pub(crate) backwards: bool,
}

/// What an operator does with its subgraphs.
#[derive(Debug)]
pub(crate) enum Control {
    /// Operands: the condition, then what the branches read.
    If {
        then_branch: Subgraph,
        else_branch: Subgraph,
    },
    /// Operands: the largest number of iterations (may be absent), the condition (may be absent),
    /// `carried` values, then what the body reads. The body takes the number of the iteration, the
    /// condition, the carried values; it gives a condition, the carried values, and values of which
    /// the loop gives all, stacked.
    Loop { body: Subgraph, carried: usize },
    /// Operands: `carried` values, sequences, then what the body reads. The body takes the carried
    /// values and an element of each sequence; it gives the carried values and elements.
    Scan {
        body: Subgraph,
        carried: usize,
        inputs: Vec<Lane>,
        outputs: Vec<Lane>,
    },
}

/// What two types have in common; `None` if they differ in more than sizes.
pub(crate) fn common(a: &Type, b: &Type) -> Option<Type> {
    (a.dtype == b.dtype && a.rank() == b.rank()).then(|| {
        let dims = a.shape.iter().zip(&b.shape);
        let shape = dims.map(|(a, b)| match (a, b) {
            (Sym::Known(n), Sym::Known(m)) if n == m => Sym::Known(*n),
            _ => Sym::Unknown,
        });
        Type::new(a.dtype, shape.collect())
    })
}

fn describe(ty: &Type) -> String {
    format!("{}{}", ty.dtype, show(&ty.shape))
}

impl Control {
    fn choice(then_branch: &Subgraph, else_branch: &Subgraph) -> Result<Vec<Type>, OpError> {
        if then_branch.types.len() != else_branch.types.len() {
            return Err(OpError::unsupported(
                "the branches differ in their number of outputs",
            ));
        }
        let pairs = then_branch.types.iter().zip(&else_branch.types);
        pairs
            .map(|(a, b)| {
                common(a, b).ok_or_else(|| {
                    OpError::unsupported(format!(
                        "the branches give {} and {}: type and rank must agree",
                        describe(a),
                        describe(b)
                    ))
                })
            })
            .collect()
    }

    /// Stacked elements: one dimension more.
    fn stacked(element: &Type, axis: usize) -> Result<Type, OpError> {
        let mut shape = element.shape.clone();
        if axis > shape.len() {
            return Err(OpError::attribute("scan_output_axes", "is out of range"));
        }
        shape.insert(axis, Sym::Unknown);
        Ok(Type::new(element.dtype, shape))
    }
}

impl Operator for Control {
    fn name(&self) -> &'static str {
        match self {
            Control::If { .. } => "If/1",
            Control::Loop { .. } => "Loop/1",
            Control::Scan { .. } => "Scan/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        let lanes = |canon: &mut Canon, lanes: &[Lane]| {
            canon.size(lanes.len());
            for lane in lanes {
                canon.size(lane.axis).flag(lane.backwards);
            }
        };
        match self {
            Control::If {
                then_branch,
                else_branch,
            } => {
                canon
                    .digest(&then_branch.graph.root)
                    .digest(&else_branch.graph.root);
            }
            Control::Loop { body, carried } => {
                canon.digest(&body.graph.root).size(*carried);
            }
            Control::Scan {
                body,
                carried,
                inputs,
                outputs,
            } => {
                canon.digest(&body.graph.root).size(*carried);
                lanes(canon, inputs);
                lanes(canon, outputs);
            }
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        match self {
            Control::If {
                then_branch,
                else_branch,
            } => {
                expect(inputs.need(0)?, "the condition", &[DType::Bool])?;
                Control::choice(then_branch, else_branch)
            }
            Control::Loop { body, carried } => {
                if let Some(most) = inputs.get(0) {
                    expect(most, "the number of iterations", &[DType::I64])?;
                }
                if let Some(condition) = inputs.get(1) {
                    expect(condition, "the condition", &[DType::Bool])?;
                }
                let (state, rest) = body.types[1..].split_at(*carried);
                let rest = rest.iter().map(|ty| Control::stacked(ty, 0));
                state.iter().cloned().map(Ok).chain(rest).collect()
            }
            Control::Scan {
                body,
                carried,
                outputs,
                ..
            } => {
                let (state, rest) = body.types.split_at(*carried);
                let rest = rest.iter().zip(outputs);
                let rest = rest.map(|(ty, lane)| Control::stacked(ty, lane.axis));
                state.iter().cloned().map(Ok).chain(rest).collect()
            }
        }
    }

    fn eval(&self, _: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        Err(OpError::unsupported(
            "a subgraph runs in its own way, not as an operator",
        ))
    }

    fn control(&self) -> Option<&Control> {
        Some(self)
    }
}
