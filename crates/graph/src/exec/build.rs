//! From a graph and the shapes of a plan to a program.

use std::collections::{BTreeMap, BTreeSet};

use lemma_types::tensor::DType;

use super::images::gather;
use super::memory::{Value, lay_out, reads};
use super::pattern::{is_alias, permutation};
use super::turn::Turned;
use super::{Action, At, Id, Program, Step};
use crate::graph::{Graph, Node, Ref};
use crate::operator::Prepared;
use crate::plan::Step as Planned;

/// Derives the program of a plan.
pub(crate) fn build(graph: &Graph, planned: &[Planned], prepared: &[Option<Prepared>]) -> Program {
    let count = graph.nodes.len();
    let mut builder = Builder {
        graph,
        planned,
        prepared,
        consumers: vec![BTreeSet::new(); count],
        given: vec![false; count],
        made: vec![None; count],
        absorbed: vec![false; count],
        turned: BTreeMap::new(),
        steps: Vec::new(),
        scratch: Vec::new(),
        values: Vec::new(),
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        for source in node.inputs.iter().flatten() {
            if let Ref::Node(operand, _) = *source {
                builder.consumers[operand].insert(index);
            }
        }
    }
    for source in &graph.output_refs {
        if let Ref::Node(operand, _) = *source {
            builder.given[operand] = true;
        }
    }
    for index in 0..count {
        builder.visit(index);
    }
    let outputs: Vec<At> = graph
        .output_refs
        .iter()
        .map(|&r| builder.first(r))
        .collect();
    gather(
        &mut builder.steps,
        &mut builder.scratch,
        &builder.values,
        &outputs,
    );
    let mut program = Program {
        values: builder.values.len(),
        outputs,
        ..Program::of(builder.steps)
    };
    lay_out(&mut program, &builder.values, &builder.scratch);
    program
}

/// Where the outputs of an operator are. Only a single output can lie with its channels last.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// In the layout of the graph, if they are.
    pub(super) first: Option<Vec<At>>,
    /// With the channels last, if it is.
    pub(super) last: Option<At>,
}

pub(super) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) planned: &'a [Planned],
    pub(super) prepared: &'a [Option<Prepared>],
    pub(super) consumers: Vec<BTreeSet<usize>>,
    /// Whether the graph gives an operator's output out.
    pub(super) given: Vec<bool>,
    pub(super) made: Vec<Option<Made>>,
    /// Whether an operator is part of a chain.
    pub(super) absorbed: Vec<bool>,
    /// Integers that a step made before the transposition that they were to follow.
    pub(super) turned: BTreeMap<usize, Turned>,
    pub(super) steps: Vec<Step>,
    pub(super) scratch: Vec<(u64, u64)>,
    pub(super) values: Vec<Value>,
}

/// `[batch, channels, …]` becomes `[batch, …, channels]`.
pub(super) fn channels_last(shape: &[usize]) -> Vec<usize> {
    let mut last = shape.to_vec();
    last[1..].rotate_left(1);
    last
}

/// Whether both layouts are one.
pub(super) fn layouts_agree(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().all(|&d| d == 1)
}

impl<'a> Builder<'a> {
    pub(super) fn node(&self, index: usize) -> &'a Node {
        &self.graph.nodes[index]
    }

    pub(super) fn visit(&mut self, index: usize) {
        if self.planned[index].known.is_some() || self.absorbed[index] || self.made[index].is_some()
        {
            return;
        }
        if self.dequantises(index).is_some() {
            // It is made where it is needed, often as an operand of something else.
            return;
        }
        if self.gates(index).is_some() {
            // The convolution that reads it does it.
            return;
        }
        if self.is_lazy(index) {
            // It is made where it is needed; but no chain of such operators is left unmade.
            if let Some(Ref::Node(operand, _)) = self.node(index).inputs[0]
                && self.planned[operand].known.is_none()
                && self.made[operand].is_none()
            {
                self.make(operand);
            }
            return;
        }
        self.make(index);
    }

    /// Whether an operator only changes how values lie, so that others may not need it.
    pub(super) fn is_lazy(&self, index: usize) -> bool {
        let node = self.node(index);
        is_alias(node) || (permutation(node).is_some() && self.is_f32(index))
    }

    pub(super) fn is_f32(&self, index: usize) -> bool {
        match &self.planned[index].outputs[..] {
            [one] => one.dtype == DType::F32 && one.len() > 0,
            _ => false,
        }
    }

    /// Emits an operator.
    pub(super) fn make(&mut self, index: usize) {
        if self.turn(index).is_some() {
            return;
        }
        if is_alias(self.node(index)) {
            return self.alias(index);
        }
        for make in [Builder::integer, Builder::dequantise, Builder::quantise] {
            if make(self, index).is_some() {
                return;
            }
        }
        if self.is_f32(index) {
            let tried = [
                Builder::conv,
                Builder::pool,
                Builder::places,
                Builder::product,
                Builder::batched,
                Builder::norm,
                Builder::transpose,
                Builder::chain,
            ];
            for make in tried {
                if make(self, index).is_some() {
                    return;
                }
            }
        }
        self.plain(index);
    }

    /// An operand in the layout of the graph.
    pub(super) fn first(&mut self, source: Ref) -> At {
        let (index, output) = match source {
            Ref::Input(i) => return At::Input(i),
            Ref::Constant(i) => return At::Constant(i),
            Ref::Node(i, output) if self.planned[i].known.is_some() => return At::Known(i, output),
            Ref::Node(i, output) => (i, output),
        };
        if self.made[index].is_none() {
            self.make(index);
        }
        let made = self.made[index]
            .clone()
            .expect("operands come before operators");
        if let Some(first) = made.first {
            return first[output];
        }
        let x = made.last.expect("a value has a layout");
        let shape = self.planned[index].outputs[0].shape.clone();
        let places = shape[2..].iter().product();
        let sizes = [shape[0], places, shape[1]];
        let dtype = self.planned[index].outputs[0].dtype;
        let turn = Action::Transpose { x, sizes };
        let at = self.emit_as(dtype, index, index, turn, shape, (0, 0));
        if let Some(made) = &mut self.made[index] {
            made.first = Some(vec![at]);
        }
        at
    }

    /// An operand of this shape with its channels last.
    pub(super) fn last(&mut self, source: Ref, shape: &[usize]) -> At {
        self.made_lazily(source);
        if layouts_agree(shape) {
            return match self.lying_last(source) {
                Some(at) => at,
                None => self.first(source),
            };
        }
        if let Some(at) = self.lying_last(source) {
            return at;
        }
        let x = self.first(source);
        let sizes = [shape[0], shape[1], shape[2..].iter().product()];
        let (node, dtype) = match source {
            Ref::Node(i, output) => (i, self.planned[i].outputs[output].dtype),
            Ref::Input(i) => (0, self.graph.inputs[i].dtype),
            Ref::Constant(i) => (0, self.graph.constants[i].ty.dtype),
        };
        let at = self.emit_as(
            dtype,
            node,
            node,
            Action::Transpose { x, sizes },
            channels_last(shape),
            (0, 0),
        );
        if let Ref::Node(i, _) = source
            && let Some(made) = &mut self.made[i]
        {
            made.last = Some(at);
        }
        at
    }

    /// The operator that alone reads what an operator makes, if the caller does not.
    pub(super) fn only_reader(&self, index: usize) -> Option<usize> {
        let mut readers = self.consumers[index].iter();
        match (readers.next(), readers.next(), self.given[index]) {
            (Some(&one), None, false) => Some(one),
            _ => None,
        }
    }

    /// Makes a dequantised value that has waited for being needed.
    fn made_lazily(&mut self, source: Ref) {
        if let Ref::Node(i, _) = source
            && self.made[i].is_none()
            && self.dequantises(i).is_some()
        {
            self.make(i);
        }
    }

    /// An operand that already lies with its channels last, or does once it is made.
    pub(super) fn brought_last(&mut self, source: Ref) -> Option<At> {
        self.made_lazily(source);
        self.lying_last(source)
    }

    /// An operand that already lies with its channels last.
    pub(super) fn lying_last(&self, source: Ref) -> Option<At> {
        match source {
            Ref::Node(i, _) => self.made[i].as_ref()?.last,
            _ => None,
        }
    }

    /// Adds a step that makes one value of f32 in a slot.
    pub(super) fn emit(
        &mut self,
        node: usize,
        packed: usize,
        action: Action,
        shape: Vec<usize>,
        scratch: (u64, u64),
    ) -> At {
        self.emit_as(DType::F32, node, packed, action, shape, scratch)
    }

    /// Adds a step that makes one value: of f32 in a slot, of another type in memory of its own.
    pub(super) fn emit_as(
        &mut self,
        dtype: DType,
        node: usize,
        packed: usize,
        action: Action,
        shape: Vec<usize>,
        scratch: (u64, u64),
    ) -> At {
        let elements: usize = shape.iter().product();
        let id = self.values.len();
        self.values.push(Value {
            elements,
            bytes: elements as u64 * dtype.size() as u64,
            slotted: dtype == DType::F32,
            aliases: Vec::new(),
        });
        self.push(node, packed, action, vec![id], shape, scratch, &[]);
        At::Value(id)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a step")]
    pub(super) fn push(
        &mut self,
        node: usize,
        packed: usize,
        action: Action,
        writes: Vec<Id>,
        shape: Vec<usize>,
        scratch: (u64, u64),
        plain: &[At],
    ) {
        // What the step reads, until memory is laid out.
        let free = reads(&action, plain)
            .into_iter()
            .filter_map(|at| match at {
                At::Value(id) => Some(id),
                _ => None,
            })
            .collect();
        self.steps.push(Step {
            node,
            packed,
            action,
            writes,
            slot: None,
            slab: false,
            shape,
            in_place: false,
            plain: plain.to_vec(),
            free,
        });
        self.scratch.push(scratch);
    }

    /// An operator by itself.
    pub(super) fn plain(&mut self, index: usize) {
        let node = self.node(index);
        let operands: Vec<At> = node
            .inputs
            .iter()
            .flatten()
            .map(|&source| self.first(source))
            .collect();
        let planned = &self.planned[index];
        let mut writes = Vec::new();
        for output in &planned.outputs {
            let bytes = output.bytes();
            let aliases = operands
                .iter()
                .filter_map(|at| match at {
                    At::Value(id) if self.values[*id].bytes == bytes => Some(*id),
                    _ => None,
                })
                .collect();
            writes.push(self.values.len());
            self.values.push(Value {
                elements: output.len(),
                bytes,
                slotted: false,
                aliases,
            });
        }
        let outputs = writes.iter().map(|&id| At::Value(id)).collect();
        let scratch = (planned.scratch, 0);
        self.push(
            index,
            index,
            Action::Plain,
            writes,
            Vec::new(),
            scratch,
            &operands,
        );
        self.made[index] = Some(Made {
            first: Some(outputs),
            last: None,
        });
    }

    pub(super) fn alias(&mut self, index: usize) {
        let Some(Some(source)) = self.node(index).inputs.first().copied() else {
            return self.plain(index);
        };
        let at = self.first(source);
        let output = &self.planned[index].outputs[0];
        let (elements, shape) = (output.len(), output.shape.clone());
        let id = self.values.len();
        let (aliases, bytes) = match at {
            At::Value(id) => (vec![id], 0),
            _ => (Vec::new(), 0),
        };
        self.values.push(Value {
            elements,
            bytes,
            slotted: false,
            aliases,
        });
        self.push(
            index,
            index,
            Action::Alias(at),
            vec![id],
            shape,
            (0, 0),
            &[],
        );
        self.made[index] = Some(Made {
            first: Some(vec![At::Value(id)]),
            last: None,
        });
    }

    /// Notes where the output of an operator is that a step with some of its followers made.
    pub(super) fn finish(&mut self, end: usize, at: At, lies_last: bool) {
        let shape = &self.planned[end].outputs[0].shape;
        let agree = layouts_agree(shape);
        if lies_last
            && agree
            && let Some(step) = self.steps.last_mut()
        {
            // Others may read it in the layout of the graph, so it has the graph's shape.
            step.shape.clone_from(shape);
        }
        self.made[end] = Some(Made {
            first: (!lies_last || agree).then(|| vec![at]),
            last: (lies_last || agree).then_some(at),
        });
    }
}
