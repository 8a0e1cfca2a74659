//! Runs of graphs in which a shape depends on data, operator by operator.
//!
//! Where everything follows from the shapes of the inputs, a plan says before a run what it takes.
//! Here that is known only as the run goes: before each operator its outputs are bounded, and the
//! run ends with an error rather than hold more memory, or take more operations, than it may.

use std::sync::Arc;

use lemma_kernels::{Isa, Threads};
use lemma_types::Digest;

use crate::control::{Control, Lane, Subgraph};
use crate::error::{OpError, RunError};
use crate::fact::Fact;
use crate::graph::{Graph, Node, Ref};
use crate::operator::{Concrete, Eval, Operands, Prepared, concrete, infer};
use crate::ops::layout::{View, signed};
use crate::ops::{broadcast::strides, join};
use crate::plan::failed;
use crate::prepare::Folded;
use crate::tensor::{Element, Tensor, with_storage};

/// Iterations of all loops of a run together.
const ITERATIONS: u64 = 1 << 20;

/// What a run may still take, and what it has taken.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) isa: Isa,
    pub(crate) threads: Arc<Threads>,
    /// Bytes that the run may hold.
    pub(crate) memory: u64,
    /// Operations that it may take.
    pub(crate) cost: u64,
    held: u64,
    spent: u64,
    iterations: u64,
}

/// What was made of a graph when it was loaded.
pub(crate) struct Loaded<'a> {
    pub(crate) folded: &'a Folded,
    pub(crate) prepared: &'a [Option<Prepared>],
}

fn bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|t| t.byte_len() as u64).sum()
}

impl Machine {
    pub(crate) fn new(isa: Isa, threads: Arc<Threads>, memory: u64, cost: u64) -> Machine {
        Machine {
            isa,
            threads,
            memory,
            cost,
            held: 0,
            spent: 0,
            iterations: 0,
        }
    }

    /// Operations taken so far.
    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    /// Refuses to hold more than there is room for.
    fn room(&self, more: u64, node: &Node) -> Result<(), RunError> {
        let needed = self.held.saturating_add(more);
        if needed <= self.memory {
            return Ok(());
        }
        Err(RunError::Memory {
            node: node.label.to_string(),
            needed,
            limit: self.memory,
        })
    }

    fn spend(&mut self, operations: u64) -> Result<(), RunError> {
        self.spent = self.spent.saturating_add(operations);
        if self.spent <= self.cost {
            return Ok(());
        }
        Err(RunError::Cost {
            needed: self.spent,
            limit: self.cost,
        })
    }

    /// The outputs of a graph. What they hold is no longer counted when this returns.
    pub(crate) fn graph(
        &mut self,
        graph: &Graph,
        loaded: Option<&Loaded<'_>>,
        inputs: &[&Tensor],
        mut trace: Option<&mut Vec<Digest>>,
    ) -> Result<Vec<Tensor>, RunError> {
        let before = self.held;
        let last = graph.last_reads();
        let mut free: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes.len()];
        for (node, &at) in last.iter().enumerate() {
            if let Some(list) = free.get_mut(at) {
                list.push(node);
            }
        }
        let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(graph.nodes.len());
        for (index, node) in graph.nodes.iter().enumerate() {
            let folded = loaded.and_then(|l| l.folded[index].as_ref());
            let outputs = match folded {
                Some(outputs) => outputs.clone(),
                None => {
                    let find = |i: &Option<Ref>| i.map(|r| operand(graph, r, inputs, &values));
                    let operands: Vec<Option<&Tensor>> = node.inputs.iter().map(find).collect();
                    let outputs = match node.op.control() {
                        Some(control) => self.control(node, control, &operands)?,
                        None => {
                            let prepared = loaded.and_then(|l| l.prepared[index].as_ref());
                            self.operator(node, &operands, prepared)?
                        }
                    };
                    self.held = self.held.saturating_add(bytes(&outputs));
                    outputs
                }
            };
            if let Some(trace) = &mut trace {
                trace.extend(outputs.iter().map(Tensor::digest));
            }
            values.push(outputs);
            for &freed in &free[index] {
                if loaded.is_none_or(|l| l.folded[freed].is_none()) {
                    self.held = self.held.saturating_sub(bytes(&values[freed]));
                }
                values[freed] = Vec::new();
            }
        }
        self.held = before;
        let outputs = graph.output_refs.iter();
        Ok(outputs
            .map(|&source| operand(graph, source, inputs, &values).clone())
            .collect())
    }

    fn operator(
        &mut self,
        node: &Node,
        operands: &[Option<&Tensor>],
        prepared: Option<&Prepared>,
    ) -> Result<Vec<Tensor>, RunError> {
        let at = |source| failed(node, source);
        let op = node.op.as_ref();
        let facts: Vec<Option<Fact>> = operands
            .iter()
            .map(|t| t.map(|t| Fact::constant(t.clone())))
            .collect();
        let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        let types = infer(op, Operands(&facts)).map_err(at)?;
        let shapes: Vec<Option<Concrete>> = operands.iter().map(|t| t.map(Concrete::of)).collect();
        let shapes: Vec<Option<&Concrete>> = shapes.iter().map(Option::as_ref).collect();
        let outputs = match op.bound(Operands(&shapes)) {
            Some(bound) => bound,
            None => concrete(&types).map_err(at)?,
        };
        self.spend(op.cost(Operands(&shapes), &outputs))?;
        let made = outputs
            .iter()
            .fold(0u64, |n, o| n.saturating_add(o.bytes()));
        let scratch = op.scratch(Operands(&shapes), &outputs);
        self.room(made.saturating_add(scratch), node)?;
        op.eval(&Eval {
            isa: self.isa,
            threads: &self.threads,
            inputs: Operands(operands),
            outputs: &outputs,
            prepared,
        })
        .map_err(at)
    }

    fn control(
        &mut self,
        node: &Node,
        control: &Control,
        operands: &[Option<&Tensor>],
    ) -> Result<Vec<Tensor>, RunError> {
        match control {
            Control::If {
                then_branch,
                else_branch,
            } => {
                let chosen = truth(operands[0]).map_err(|e| failed(node, e))?;
                let branch = if chosen { then_branch } else { else_branch };
                let read = given(&operands[1..]);
                self.spend(1)?;
                self.graph(&branch.graph, None, &read, None)
            }
            Control::Loop { body, carried } => self.repeat(node, body, *carried, operands),
            Control::Scan {
                body,
                carried,
                inputs,
                outputs,
            } => self.scan(node, body, *carried, (inputs, outputs), operands),
        }
    }

    /// Counts an iteration and what it keeps.
    fn iterate(&mut self, node: &Node) -> Result<(), RunError> {
        self.iterations += 1;
        if self.iterations > ITERATIONS {
            let reason = format!("more than {ITERATIONS} iterations in one run");
            return Err(failed(node, OpError::value(reason)));
        }
        self.spend(1)
    }

    fn repeat(
        &mut self,
        node: &Node,
        body: &Subgraph,
        carried: usize,
        operands: &[Option<&Tensor>],
    ) -> Result<Vec<Tensor>, RunError> {
        let at = |source| failed(node, source);
        let before = self.held;
        let most = operands[0].map(single::<i64>).transpose().map_err(at)?;
        let mut going = match operands[1] {
            Some(_) => truth(operands[1]).map_err(at)?,
            None => true,
        };
        let mut state: Vec<Tensor> = given(&operands[2..2 + carried])
            .into_iter()
            .cloned()
            .collect();
        let read = given(&operands[2 + carried..]);
        let stacks = body.types.len() - 1 - carried;
        let mut stacked: Vec<Vec<Tensor>> = vec![Vec::new(); stacks];
        let mut kept = 0u64;
        let mut iteration = 0i64;
        while going && most.is_none_or(|most| iteration < most) {
            self.iterate(node)?;
            let (number, condition) = (Tensor::scalar(iteration), Tensor::scalar(going));
            let mut inputs = vec![&number, &condition];
            inputs.extend(&state);
            inputs.extend(&read);
            self.held = before.saturating_add(kept).saturating_add(bytes(&state));
            let mut outputs = self.graph(&body.graph, None, &inputs, None)?;
            going = truth(outputs.first()).map_err(at)?;
            let elements = outputs.split_off(1 + carried);
            state = outputs.split_off(1);
            kept = kept.saturating_add(bytes(&elements));
            for (stack, element) in stacked.iter_mut().zip(elements) {
                stack.push(element);
            }
            iteration += 1;
        }
        self.held = before.saturating_add(kept).saturating_add(bytes(&state));
        self.room(kept, node)?;
        let types = &body.types[1 + carried..];
        for (elements, ty) in stacked.into_iter().zip(types) {
            let lane = Lane {
                axis: 0,
                backwards: false,
            };
            state.push(stack(&elements, lane, ty).map_err(at)?);
        }
        self.held = before;
        Ok(state)
    }

    fn scan(
        &mut self,
        node: &Node,
        body: &Subgraph,
        carried: usize,
        (inputs, outputs): (&[Lane], &[Lane]),
        operands: &[Option<&Tensor>],
    ) -> Result<Vec<Tensor>, RunError> {
        let at = |source| failed(node, source);
        let before = self.held;
        let mut state: Vec<Tensor> = given(&operands[..carried]).into_iter().cloned().collect();
        let sequences = given(&operands[carried..carried + inputs.len()]);
        let read = given(&operands[carried + inputs.len()..]);
        let lengths: Vec<usize> = sequences
            .iter()
            .zip(inputs)
            .map(|(t, lane)| t.shape()[lane.axis])
            .collect();
        let length = lengths.first().copied().unwrap_or(0);
        if lengths.iter().any(|&n| n != length) {
            let reason = format!("the sequences differ in length: {lengths:?}");
            return Err(at(OpError::shape(reason)));
        }
        let mut stacked: Vec<Vec<Tensor>> = vec![Vec::new(); outputs.len()];
        let mut kept = 0u64;
        for step in 0..length {
            self.iterate(node)?;
            let elements: Vec<Tensor> = sequences
                .iter()
                .zip(inputs)
                .map(|(t, lane)| element(t, *lane, step))
                .collect();
            let mut given: Vec<&Tensor> = state.iter().chain(&elements).collect();
            given.extend(&read);
            self.held = before
                .saturating_add(kept)
                .saturating_add(bytes(&state))
                .saturating_add(bytes(&elements));
            let mut made = self.graph(&body.graph, None, &given, None)?;
            let elements = made.split_off(carried);
            state = made;
            kept = kept.saturating_add(bytes(&elements));
            for (stack, element) in stacked.iter_mut().zip(elements) {
                stack.push(element);
            }
        }
        self.held = before.saturating_add(kept).saturating_add(bytes(&state));
        self.room(kept, node)?;
        let types = &body.types[carried..];
        for ((elements, lane), ty) in stacked.into_iter().zip(outputs).zip(types) {
            state.push(stack(&elements, *lane, ty).map_err(at)?);
        }
        self.held = before;
        Ok(state)
    }
}

fn operand<'t>(
    graph: &'t Graph,
    source: Ref,
    inputs: &[&'t Tensor],
    values: &'t [Vec<Tensor>],
) -> &'t Tensor {
    match source {
        Ref::Input(i) => inputs[i],
        Ref::Constant(i) => graph.constants[i]
            .tensor
            .as_ref()
            .unwrap_or_else(|| unreachable!("a graph that is run in this way keeps its constants")),
        Ref::Node(i, output) => &values[i][output],
    }
}

/// Operands that inference found to be there.
fn given<'t>(operands: &[Option<&'t Tensor>]) -> Vec<&'t Tensor> {
    operands.iter().flatten().copied().collect()
}

fn single<T: Element>(tensor: &Tensor) -> Result<T, OpError> {
    match tensor.as_slice::<T>() {
        Some([value]) => Ok(*value),
        _ => Err(OpError::value(format!(
            "{tensor:?} is not one {}",
            T::DTYPE
        ))),
    }
}

fn truth(tensor: Option<&Tensor>) -> Result<bool, OpError> {
    tensor.map_or(Err(OpError::value("there is no condition")), single)
}

/// An element of a sequence.
fn element(sequence: &Tensor, lane: Lane, step: usize) -> Tensor {
    let steps = signed(strides(sequence.shape()));
    let length = sequence.shape()[lane.axis];
    let step = if lane.backwards {
        length - 1 - step
    } else {
        step
    };
    let (mut shape, mut rest) = (sequence.shape().to_vec(), steps.clone());
    shape.remove(lane.axis);
    rest.remove(lane.axis);
    let view = View {
        start: step as isize * steps[lane.axis],
        shape: shape.clone(),
        strides: rest,
    };
    with_storage!(sequence.storage(), v => Tensor::from_parts(shape, view.copy(v)))
}

/// Elements put together along a new dimension.
fn stack(elements: &[Tensor], lane: Lane, ty: &crate::fact::Type) -> Result<Tensor, OpError> {
    let Some(first) = elements.first() else {
        let dims = ty.shape.iter().map(|d| d.known().unwrap_or(0));
        let mut shape: Vec<usize> = dims.map(|d| usize::try_from(d).unwrap_or(0)).collect();
        shape.insert(lane.axis, 0);
        return Ok(Tensor::empty(ty.dtype, shape));
    };
    if elements.iter().any(|e| e.shape() != first.shape()) {
        return Err(OpError::shape(
            "iterations give elements of different shapes",
        ));
    }
    let mut parts: Vec<&Tensor> = elements.iter().collect();
    if lane.backwards {
        parts.reverse();
    }
    let mut shape = first.shape().to_vec();
    shape.insert(lane.axis, parts.len());
    join::stack(&parts, lane.axis, shape)
}
