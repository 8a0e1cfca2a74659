//! Work done once when a model is loaded: operators on constants alone, and weights packed for the
//! kernels. None of it is committed to, and none of it changes a bit.

use lemma_kernels::{Isa, Threads};

use crate::error::{ImportError, OpError};
use crate::fact::{Fact, Type};
use crate::graph::{Graph, Node, Ref};
use crate::limits::Limits;
use crate::operator::{Concrete, Eval, Operands, Prepared, concrete, deduce};
use crate::tensor::Tensor;

/// Outputs of the operators whose operands are all constant; `None` for the others.
pub(crate) type Folded = Vec<Option<Vec<Tensor>>>;

/// What may still be spent on constants.
struct Budget<'a> {
    limits: &'a Limits,
    bytes: u64,
    operations: u64,
}

/// Computes the operators whose operands are all constant.
///
/// # Errors
/// When that would exceed the limits, or an operator does not apply: then no run could succeed.
pub(crate) fn fold(graph: &Graph, limits: &Limits) -> Result<Folded, ImportError> {
    let mut budget = Budget {
        limits,
        bytes: graph
            .constants
            .iter()
            .map(|c| c.tensor.byte_len() as u64)
            .sum(),
        operations: 0,
    };
    let mut folded = Folded::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let outputs = match operands(graph, node, &folded) {
            // What runs subgraphs, or has outputs of any size, is left to the run.
            Some(_) if node.dynamic => None,
            Some(operands) => Some(budget.evaluate(node, &operands)?),
            None => None,
        };
        folded.push(outputs);
    }
    Ok(folded)
}

/// The tensor of a reference, if it is constant.
fn constant<'a>(graph: &'a Graph, folded: &'a Folded, source: Ref) -> Option<&'a Tensor> {
    match source {
        Ref::Input(_) => None,
        Ref::Constant(i) => Some(&graph.constants[i].tensor),
        Ref::Node(i, output) => folded[i].as_ref().map(|tensors| &tensors[output]),
    }
}

/// The operands of a node, if all of them are constant.
fn operands<'a>(
    graph: &'a Graph,
    node: &Node,
    folded: &'a Folded,
) -> Option<Vec<Option<&'a Tensor>>> {
    let operand = |input: &Option<Ref>| match input {
        None => Some(None),
        Some(source) => constant(graph, folded, *source).map(Some),
    };
    node.inputs.iter().map(operand).collect()
}

impl Budget<'_> {
    fn evaluate(
        &mut self,
        node: &Node,
        operands: &[Option<&Tensor>],
    ) -> Result<Vec<Tensor>, ImportError> {
        let failed = |source| ImportError::Constant {
            op: node.op.name().to_owned(),
            node: node.label.to_string(),
            source,
        };
        let (outputs, shapes) = shapes(node, operands).map_err(failed)?;
        let shapes: Vec<Option<&Concrete>> = shapes.iter().map(Option::as_ref).collect();
        self.spend(node, Operands(&shapes), &outputs)
            .map_err(failed)?;
        let eval = Eval {
            isa: Isa::detect(),
            threads: &Threads::single(),
            inputs: Operands(operands),
            outputs: &outputs,
            prepared: None,
        };
        node.op.eval(&eval).map_err(failed)
    }

    fn spend(
        &mut self,
        node: &Node,
        inputs: Operands<'_, Concrete>,
        outputs: &[Concrete],
    ) -> Result<(), OpError> {
        let made = outputs
            .iter()
            .fold(0u64, |n, o| n.saturating_add(o.bytes()));
        self.bytes = self.bytes.saturating_add(made);
        self.operations = self
            .operations
            .saturating_add(node.op.cost(inputs, outputs));
        let held = self.bytes.saturating_add(node.op.scratch(inputs, outputs));
        let limited = [
            ("bytes of constants", held, self.limits.constant_bytes),
            (
                "operations on constants",
                self.operations,
                self.limits.constant_operations,
            ),
        ];
        match limited.into_iter().find(|(_, found, limit)| found > limit) {
            Some((what, found, limit)) => Err(OpError::value(format!(
                "{found} {what} exceed the limit of {limit}"
            ))),
            None => Ok(()),
        }
    }
}

/// Types of the outputs, and shapes of the operands, of an operator on constants.
fn shapes(
    node: &Node,
    operands: &[Option<&Tensor>],
) -> Result<(Vec<Concrete>, Vec<Option<Concrete>>), OpError> {
    let facts: Vec<Option<Fact>> = operands
        .iter()
        .map(|t| t.map(|t| Fact::constant(t.clone())))
        .collect();
    let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
    let types: Vec<Type> = deduce(node.op.as_ref(), &facts)?
        .into_iter()
        .map(|f| f.ty)
        .collect();
    Ok((
        concrete(&types)?,
        operands.iter().map(|t| t.map(Concrete::of)).collect(),
    ))
}

/// Arranges constant operands for the kernels, as far as the limit on constants goes: what does
/// not fit is arranged in each run, and counts as its memory.
pub(crate) fn prepare(graph: &Graph, folded: &Folded, limits: &Limits) -> Vec<Option<Prepared>> {
    let constants = graph.constants.iter().map(|c| &c.tensor);
    let all = constants.chain(folded.iter().flatten().flatten());
    let mut left = all.fold(limits.constant_bytes, |left, tensor| {
        left.saturating_sub(tensor.byte_len() as u64)
    });
    let mut prepared = Vec::with_capacity(graph.nodes.len());
    for (index, node) in graph.nodes.iter().enumerate() {
        let operand =
            |input: &Option<Ref>| input.and_then(|source| constant(graph, folded, source));
        let operands: Vec<Option<&Tensor>> = node.inputs.iter().map(operand).collect();
        let bytes = node.op.prepared_bytes(Operands(&operands));
        prepared.push(if folded[index].is_none() && bytes <= left {
            node.op
                .prepare(Operands(&operands))
                .inspect(|_| left -= bytes)
        } else {
            None
        });
    }
    prepared
}
