//! Work done once when a model is loaded: operators on constants alone, and weights packed for the
//! kernels. None of it is committed to, and none of it changes a bit.

use lemma_kernels::{Isa, Threads};

use crate::error::{ImportError, OpError};
use crate::fact::{Fact, Type};
use crate::graph::{Graph, Node, Ref};
use crate::limits::Limits;
use crate::operator::{Concrete, Eval, Operands, Prepared, SHAPE_SIZED, concrete, deduce};
use crate::tensor::Tensor;

/// Outputs of the operators whose operands are all constant; `None` for the others.
pub(crate) type Folded = Vec<Option<Vec<Tensor>>>;

/// Bytes of constants that are let go of before they are handed back to the system.
const TRIM: u64 = 16 << 20;

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
        bytes: graph.constants.iter().map(|c| c.ty.bytes()).sum(),
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
        Ref::Constant(i) => graph.constants[i].tensor.as_ref(),
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
///
/// A constant is let go of as soon as every operator that reads it holds it so arranged, before the next is
/// arranged: weights are there twice one at a time.
pub(crate) fn prepare(
    graph: &mut Graph,
    folded: &Folded,
    limits: &Limits,
) -> Vec<Option<Prepared>> {
    let held = folded.iter().flatten().flatten().map(Tensor::byte_len);
    let mut left = held.fold(limits.constant_bytes, |left, bytes| {
        left.saturating_sub(bytes as u64)
    });
    let mut readers = readers(graph, folded);
    for (constant, &readers) in graph.constants.iter_mut().zip(&readers) {
        if readers == 0 {
            constant.tensor = None;
        }
        let bytes = constant.tensor.as_ref().map_or(0, Tensor::byte_len);
        left = left.saturating_sub(bytes as u64);
    }
    let mut prepared = Vec::with_capacity(graph.nodes.len());
    let mut freed = 0;
    for index in 0..graph.nodes.len() {
        let made = match folded[index] {
            Some(_) => None,
            None => arrange(graph, folded, index, left),
        };
        prepared.push(made.map(|(made, bytes)| {
            let free = let_go(graph, index, &mut readers);
            left = left - bytes + free;
            freed += free;
            made
        }));
        if freed >= TRIM {
            lemma_kernels::trim();
            freed = 0;
        }
    }
    prepared
}

/// What an operator makes of its constant operands, and its bytes, at most so many.
fn arrange(graph: &Graph, folded: &Folded, index: usize, left: u64) -> Option<(Prepared, u64)> {
    let node = &graph.nodes[index];
    let operand = |input: &Option<Ref>| input.and_then(|source| constant(graph, folded, source));
    let operands: Vec<Option<&Tensor>> = node.inputs.iter().map(operand).collect();
    let bytes = node.op.prepared_bytes(Operands(&operands));
    let made = (bytes <= left).then(|| node.op.prepare(Operands(&operands)))?;
    made.map(|made| (made, bytes))
}

/// How often the elements of each constant are read, after what could be folded was: by operators, or as an
/// output. More than that where graphs are run that are planned as they go, which keep their constants.
fn readers(graph: &Graph, folded: &Folded) -> Vec<usize> {
    let mut readers = vec![usize::from(graph.dynamic); graph.constants.len()];
    let nodes = graph.nodes.iter().zip(folded);
    let read = nodes.filter(|(_, folded)| folded.is_none());
    let read = read.flat_map(|(node, _)| node.inputs.iter().flatten());
    for source in read.chain(&graph.output_refs) {
        if let Ref::Constant(i) = *source {
            readers[i] += 1;
        }
    }
    readers
}

/// Lets go of the operand that an operator holds arranged, unless others read it; gives the bytes that are
/// free then.
fn let_go(graph: &mut Graph, index: usize, readers: &mut [usize]) -> u64 {
    let node = &graph.nodes[index];
    let packed = node.op.packed().and_then(|place| node.inputs[place]);
    let Some(Ref::Constant(i)) = packed else {
        return 0;
    };
    let constant = &mut graph.constants[i];
    // What inference may compute with stays, which is little.
    if constant.ty.len() as u64 <= SHAPE_SIZED {
        return 0;
    }
    readers[i] -= 1;
    match readers[i] {
        0 => constant.tensor.take().map_or(0, |t| t.byte_len() as u64),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lemma_types::tensor::{DType, Dim, TensorSpec};

    use crate::graph::{Builder, ValueId};
    use crate::operator::Op;
    use crate::ops::linear::{Gemm, MatMul};
    use crate::{Limits, Model, RunOptions, Tensor};

    const SIDE: usize = 40;

    fn square(seed: usize) -> Tensor {
        let values = (0..SIDE * SIDE).map(|i| ((i * 37 + seed * 101) % 211) as f32 / 64.0 - 1.5);
        Tensor::new(&[SIDE, SIDE], values.collect()).unwrap()
    }

    /// A graph under construction: of one input, `x`.
    struct Draft(Builder, ValueId);

    impl Draft {
        fn new() -> Draft {
            let mut builder = Builder::default();
            let x = builder.input(TensorSpec {
                name: "x".into(),
                dtype: DType::F32,
                shape: vec![Dim::Fixed(SIDE as u64); 2],
            });
            Draft(builder, x)
        }

        fn apply(&mut self, op: Op, inputs: [ValueId; 2]) -> ValueId {
            let inputs = inputs.map(Some);
            self.0.operator(op, &inputs, &"node".into()).unwrap()
        }

        fn load(self, outputs: &[ValueId], limits: &Limits) -> Model {
            let spec = |(i, &id): (usize, &ValueId)| {
                let spec = TensorSpec {
                    name: format!("y{i}"),
                    dtype: DType::F32,
                    shape: vec![Dim::Fixed(SIDE as u64); 2],
                };
                (spec, id)
            };
            let graph = self
                .0
                .finish(outputs.iter().enumerate().map(spec).collect());
            Model::of(graph, limits).unwrap()
        }
    }

    fn matmul() -> Op {
        Arc::new(MatMul)
    }

    fn gemm(trans_b: bool, alpha: f32) -> Op {
        Arc::new(Gemm {
            alpha,
            beta: 1.0,
            trans_a: false,
            trans_b,
        })
    }

    /// Whether each of the three weights of a graph is there as it was, and that all of them can be had, that runs
    /// are alike fused and not, and that they are what they are where every constant is kept.
    fn kept(make: impl Fn(&mut Draft, [ValueId; 3]) -> Vec<ValueId>) -> [bool; 3] {
        let weights = [square(1), square(2), square(3)];
        let load = |constant_bytes| {
            let mut draft = Draft::new();
            let constants = weights.each_ref().map(|w| draft.0.constant(w.clone()));
            let outputs = make(&mut draft, constants);
            let limits = Limits {
                constant_bytes,
                ..Limits::default()
            };
            draft.load(&outputs, &limits)
        };
        let (model, bare) = (load(1 << 30), load(weights.len() as u64 * 4 * 1600));
        assert!(bare.prepared().iter().all(Option::is_none));
        let runs: Vec<Vec<Tensor>> = [
            (&bare, true),
            (&bare, false),
            (&model, true),
            (&model, false),
        ]
        .map(|(model, trace)| {
            let options = RunOptions {
                trace,
                ..RunOptions::default()
            };
            model.run(&[("x", square(9))], &options).unwrap().outputs
        })
        .to_vec();
        for run in &runs[1..] {
            assert!(run.iter().zip(&runs[0]).all(|(a, b)| a.same_bits(b)));
        }
        let (all, graph) = (model.constants(), model.graph());
        let there = |weight: &Tensor| {
            let found = graph
                .constants
                .iter()
                .position(|c| c.digest == weight.digest());
            let i = found.unwrap();
            assert!(all[i].as_ref().unwrap().same_bits(weight));
            graph.constants[i].tensor.is_some()
        };
        weights.each_ref().map(there)
    }

    #[test]
    fn a_weight_is_let_go_of_once_all_that_read_it_hold_it_packed() {
        let make = |draft: &mut Draft, [one, two, three]: [ValueId; 3]| {
            let x = draft.1;
            let a = draft.apply(matmul(), [x, one]);
            let b = draft.apply(gemm(false, 1.0), [a, one]);
            let c = draft.apply(gemm(true, 0.5), [b, two]);
            vec![draft.apply(gemm(true, 1.0), [c, three])]
        };
        assert_eq!(kept(make), [false; 3]);
    }

    #[test]
    fn a_weight_that_anything_reads_as_it_is_stays() {
        let make = |draft: &mut Draft, [one, two, three]: [ValueId; 3]| {
            let x = draft.1;
            let a = draft.apply(matmul(), [x, one]);
            // On the left it is not packed, and what is given out is given as it is.
            let b = draft.apply(matmul(), [one, a]);
            let c = draft.apply(matmul(), [b, two]);
            vec![draft.apply(matmul(), [c, three]), two]
        };
        assert_eq!(kept(make), [true, true, false]);
    }
}
