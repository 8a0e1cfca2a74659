//! What a run will do, known before it starts: every shape, when each value can be freed, the
//! peak of memory, and the cost.

use std::collections::BTreeMap;

use lemma_types::tensor::Dim;

use crate::error::{OpError, RunError};
use crate::exec::{self, Program};
use crate::fact::{Fact, Known, Sym, Type};
use crate::graph::{Constant, Graph, Node, Ref};
use crate::operator::{Concrete, Operands, Prepared, concrete, deduce};
use crate::tensor::Tensor;

/// The plan of runs on inputs of the same shapes.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// How it is carried out, unless every operator's outputs are asked for.
    pub(crate) program: Program,
    /// Bytes held at the peak besides constants and the caller's inputs: an upper bound.
    pub(crate) memory: u64,
    /// The operator at which the peak is reached.
    pub(crate) peak: usize,
    /// Operations, see [`crate::Model::cost`].
    pub(crate) cost: u64,
}

/// The plan of one operator.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) outputs: Vec<Concrete>,
    pub(crate) operands: Vec<Option<Concrete>>,
    /// Bytes that it holds besides them.
    pub(crate) scratch: u64,
    /// The outputs themselves, where they follow from shapes and constants.
    pub(crate) known: Option<Vec<Tensor>>,
    /// Operators whose outputs nobody reads after this one.
    pub(crate) free: Vec<usize>,
}

/// The error of an operator, with its place.
pub(crate) fn failed(node: &Node, source: OpError) -> RunError {
    RunError::Node {
        op: node.op.name().to_owned(),
        node: node.label.to_string(),
        source,
    }
}

impl Plan {
    /// The plan for inputs of `shapes`, which fit the signature. `folded` holds the outputs of
    /// operators that were computed when the model was loaded, `prepared` their packed operands (none,
    /// where the plan is for its shapes alone).
    pub(crate) fn new(
        graph: &Graph,
        folded: &[Option<Vec<Tensor>>],
        prepared: &[Option<Prepared>],
        shapes: &[&[usize]],
    ) -> Result<Plan, RunError> {
        let inputs: Vec<Fact> = graph
            .inputs
            .iter()
            .zip(shapes)
            .map(|(spec, shape)| {
                let dims = shape.iter().map(|&d| Sym::size(d)).collect();
                Fact::of_type(Type::new(spec.dtype, dims))
            })
            .collect();
        let constants: Vec<Fact> = graph.constants.iter().map(Constant::fact).collect();
        let mut planner = Planner {
            inputs,
            constants,
            nodes: Vec::with_capacity(graph.nodes.len()),
        };
        let mut steps = Vec::with_capacity(graph.nodes.len());
        let (mut cost, mut scratch) = (0u64, Vec::with_capacity(graph.nodes.len()));
        for (index, node) in graph.nodes.iter().enumerate() {
            if let Some(tensors) = &folded[index] {
                planner
                    .nodes
                    .push(tensors.iter().cloned().map(Fact::constant).collect());
                steps.push(Step {
                    outputs: Vec::new(),
                    operands: Vec::new(),
                    scratch: 0,
                    known: Some(tensors.clone()),
                    free: Vec::new(),
                });
                scratch.push(0);
                continue;
            }
            let (step, spent, held) = planner.step(node).map_err(|source| failed(node, source))?;
            cost = cost.saturating_add(spent);
            scratch.push(held);
            steps.push(step);
        }
        planner.check_outputs(graph, shapes)?;
        release(graph, &mut steps);
        let (memory, peak) = peak(&steps, &scratch);
        let program = exec::build(graph, &steps, prepared);
        Ok(Plan {
            steps,
            program,
            memory,
            peak,
            cost,
        })
    }
}

struct Planner {
    inputs: Vec<Fact>,
    constants: Vec<Fact>,
    nodes: Vec<Vec<Fact>>,
}

impl Planner {
    fn fact(&self, source: Ref) -> &Fact {
        match source {
            Ref::Input(i) => &self.inputs[i],
            Ref::Constant(i) => &self.constants[i],
            Ref::Node(i, output) => &self.nodes[i][output],
        }
    }

    /// Plans one operator; gives its cost and its scratch memory too.
    fn step(&mut self, node: &Node) -> Result<(Step, u64, u64), OpError> {
        let facts: Vec<Option<&Fact>> = node
            .inputs
            .iter()
            .map(|i| i.map(|r| self.fact(r)))
            .collect();
        let outputs = deduce(node.op.as_ref(), &facts)?;
        let types: Vec<Type> = outputs.iter().map(|f| f.ty.clone()).collect();
        let shapes = concrete(&types)?;
        let operands: Vec<Option<Concrete>> = facts
            .iter()
            .map(|f| {
                f.map(|f| concrete(std::slice::from_ref(&f.ty)).map(|mut c| c.remove(0)))
                    .transpose()
            })
            .collect::<Result<_, _>>()?;
        let operand_list = operands;
        let operands: Vec<Option<&Concrete>> = operand_list.iter().map(Option::as_ref).collect();
        let cost = node.op.cost(Operands(&operands), &shapes);
        let known: Option<Vec<Tensor>> = outputs
            .iter()
            .map(|f| match &f.known {
                Known::All(tensor) => Some(tensor.clone()),
                _ => None,
            })
            .collect();
        let scratch = match known {
            Some(_) => 0,
            None => node.op.scratch(Operands(&operands), &shapes),
        };
        self.nodes.push(outputs);
        let step = Step {
            outputs: shapes,
            operands: operand_list,
            scratch,
            known,
            free: Vec::new(),
        };
        Ok((step, cost, scratch))
    }

    /// What the signature says of outputs and inference could not show has to hold now.
    fn check_outputs(&self, graph: &Graph, shapes: &[&[usize]]) -> Result<(), RunError> {
        let mut bound: BTreeMap<&str, i64> = BTreeMap::new();
        for (spec, shape) in graph.inputs.iter().zip(shapes) {
            for (dim, &size) in spec.shape.iter().zip(*shape) {
                if let Dim::Symbol(name) = dim {
                    bound.insert(name, size as i64);
                }
            }
        }
        for (spec, source) in graph.outputs.iter().zip(&graph.output_refs) {
            for (axis, (declared, dim)) in spec
                .shape
                .iter()
                .zip(self.fact(*source).shape())
                .enumerate()
            {
                let found = dim.known().unwrap_or(-1);
                let wanted = match declared {
                    Dim::Fixed(n) => i64::try_from(*n).unwrap_or(-1),
                    Dim::Symbol(name) => *bound.entry(name).or_insert(found),
                };
                if wanted != found {
                    return Err(RunError::Output {
                        name: spec.name.clone(),
                        reason: format!(
                            "dimension {axis} (`{declared}`) is {found}, the signature makes it {wanted}"
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Notes at each step which operators' outputs are read there for the last time.
fn release(graph: &Graph, steps: &mut [Step]) {
    let mut last: Vec<usize> = (0..graph.nodes.len()).collect();
    for (index, node) in graph.nodes.iter().enumerate() {
        for source in node.inputs.iter().flatten() {
            if let Ref::Node(operand, _) = *source {
                last[operand] = index;
            }
        }
    }
    for source in &graph.output_refs {
        if let Ref::Node(operand, _) = *source {
            last[operand] = usize::MAX;
        }
    }
    for (operand, &at) in last.iter().enumerate() {
        if let Some(step) = steps.get_mut(at) {
            step.free.push(operand);
        }
    }
}

/// Bytes held at the peak, and the operator at which.
fn peak(steps: &[Step], scratch: &[u64]) -> (u64, usize) {
    let bytes = |step: &Step| {
        step.outputs
            .iter()
            .fold(0u64, |n, o| n.saturating_add(o.bytes()))
    };
    let (mut held, mut peak) = (0u64, (0u64, 0));
    for (index, (step, scratch)) in steps.iter().zip(scratch).enumerate() {
        held = held.saturating_add(bytes(step));
        let now = held.saturating_add(*scratch);
        if now > peak.0 {
            peak = (now, index);
        }
        for &freed in &step.free {
            held = held.saturating_sub(bytes(&steps[freed]));
        }
    }
    peak
}
