//! From a graph and the shapes of a plan to a program.

use std::collections::{BTreeMap, BTreeSet};

use lemma_kernels as kernels;
use lemma_kernels::{Binary, Channels, FiltersLast, MAX_LINKS, PackedB, Pooling};
use lemma_types::tensor::DType;

use super::chain::{ChainSpec, LinkSpec, Operand, broadcast};
use super::memory::{Value, lay_out, reads};
use super::pattern::{Elementwise, as_op, elementwise, is_alias, permutation};
use super::{Action, At, Batched, Id, Matrices, Program, Step};
use crate::graph::{Graph, Node, Ref};
use crate::operator::Prepared;
use crate::ops::broadcast::strides;
use crate::ops::conv::Conv;
use crate::ops::linear::{Gemm, MatMul};
use crate::ops::norm::{Normalize, RowNorm};
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::reduce::Reduce;
use crate::plan::Step as Planned;

/// Up to this many channels a convolution reads its input with the channels first.
const FEW_CHANNELS: usize = 4;

/// Most operators of a chain, those that are no links included.
const MOST_MEMBERS: usize = 2 * MAX_LINKS;

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
    let outputs = graph
        .output_refs
        .iter()
        .map(|&r| builder.first(r))
        .collect();
    let mut program = Program {
        steps: builder.steps,
        values: builder.values.len(),
        slot_of: Vec::new(),
        slots: Vec::new(),
        outputs,
        memory: 0,
        memory_per_thread: 0,
        peak: 0,
    };
    lay_out(&mut program, &builder.values, &builder.scratch);
    program
}

/// Where the outputs of an operator are. Only a single output can lie with its channels last.
#[derive(Clone, Debug)]
struct Made {
    /// In the layout of the graph, if they are.
    first: Option<Vec<At>>,
    /// With the channels last, if it is.
    last: Option<At>,
}

struct Builder<'a> {
    graph: &'a Graph,
    planned: &'a [Planned],
    prepared: &'a [Option<Prepared>],
    consumers: Vec<BTreeSet<usize>>,
    /// Whether the graph gives an operator's output out.
    given: Vec<bool>,
    made: Vec<Option<Made>>,
    /// Whether an operator is part of a chain.
    absorbed: Vec<bool>,
    steps: Vec<Step>,
    scratch: Vec<(u64, u64)>,
    values: Vec<Value>,
}

/// `[batch, channels, …]` becomes `[batch, …, channels]`.
fn channels_last(shape: &[usize]) -> Vec<usize> {
    let mut last = shape.to_vec();
    last[1..].rotate_left(1);
    last
}

/// Whether both layouts are one.
fn layouts_agree(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().all(|&d| d == 1)
}

impl<'a> Builder<'a> {
    fn node(&self, index: usize) -> &'a Node {
        &self.graph.nodes[index]
    }

    fn visit(&mut self, index: usize) {
        if self.planned[index].known.is_some() || self.absorbed[index] || self.made[index].is_some()
        {
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
    fn is_lazy(&self, index: usize) -> bool {
        let node = self.node(index);
        is_alias(node) || (permutation(node).is_some() && self.is_f32(index))
    }

    fn is_f32(&self, index: usize) -> bool {
        match &self.planned[index].outputs[..] {
            [one] => one.dtype == DType::F32 && one.len() > 0,
            _ => false,
        }
    }

    /// Emits an operator.
    fn make(&mut self, index: usize) {
        if is_alias(self.node(index)) {
            return self.alias(index);
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
    fn first(&mut self, source: Ref) -> At {
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
        let at = self.emit(index, index, Action::Transpose { x, sizes }, shape, (0, 0));
        if let Some(made) = &mut self.made[index] {
            made.first = Some(vec![at]);
        }
        at
    }

    /// An operand of this shape with its channels last.
    fn last(&mut self, source: Ref, shape: &[usize]) -> At {
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
        let node = match source {
            Ref::Node(i, _) => i,
            _ => 0,
        };
        let at = self.emit(
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

    /// An operand that already lies with its channels last.
    fn lying_last(&self, source: Ref) -> Option<At> {
        match source {
            Ref::Node(i, _) => self.made[i].as_ref()?.last,
            _ => None,
        }
    }

    /// Adds a step that makes one value of f32 in a slot.
    fn emit(
        &mut self,
        node: usize,
        packed: usize,
        action: Action,
        shape: Vec<usize>,
        scratch: (u64, u64),
    ) -> At {
        let elements = shape.iter().product();
        let id = self.values.len();
        self.values.push(Value {
            elements,
            bytes: elements as u64 * 4,
            slotted: true,
            aliases: Vec::new(),
        });
        self.push(node, packed, action, vec![id], shape, scratch, &[]);
        At::Value(id)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a step")]
    fn push(
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
            shape,
            in_place: false,
            plain: plain.to_vec(),
            free,
        });
        self.scratch.push(scratch);
    }

    /// An operator by itself.
    fn plain(&mut self, index: usize) {
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

    fn alias(&mut self, index: usize) {
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
    fn finish(&mut self, end: usize, at: At, lies_last: bool) {
        let agree = layouts_agree(&self.planned[end].outputs[0].shape);
        self.made[end] = Some(Made {
            first: (!lies_last || agree).then(|| vec![at]),
            last: (lies_last || agree).then_some(at),
        });
    }

    fn conv(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Conv>(node)?;
        let packed = self.prepared.get(index)?.as_ref()?;
        packed.downcast_ref::<FiltersLast>()?;
        let planned = &self.planned[index];
        let shape = planned.operands.first()?.clone()?.shape;
        let out = planned.outputs[0].shape.clone();
        let geometry = op.geometry(shape[0], shape[1], &shape[2..], out[1]).ok()?;
        let source = node.inputs[0]?;
        let first = op.groups == 1
            && shape[1] <= FEW_CHANNELS
            && self.lying_last(source).is_none()
            && !layouts_agree(&shape);
        let (x, input) = if first {
            (self.first(source), Channels::First)
        } else {
            (self.last(source, &shape), Channels::Last)
        };
        let mut chain = Growing::new(index, &out, true);
        if let Some(Some(bias)) = node.inputs.get(2) {
            let at = self.first(*bias);
            let rows = Operand::Rows {
                at,
                divide: 1,
                modulo: 1,
            };
            chain.add(Binary::Add, Operand::Value(0), rows);
        }
        let end = self.grow(&mut chain);
        let padded = kernels::conv_last_scratch(&geometry, input) as u64 * 4;
        let offsets = geometry.filter_len() as u64 / out[1].max(1) as u64 * 4 + 4 * shape[1] as u64;
        let action = Action::Conv {
            x,
            input,
            geometry,
            chain: chain.spec(),
        };
        let at = self.emit(
            end,
            index,
            action,
            channels_last(&out),
            (padded + offsets, 0),
        );
        self.finish(end, at, true);
        Some(())
    }

    fn pool(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Pool>(node)?;
        let x = self.lying_last(node.inputs[0]?)?;
        let shape = &self.planned[index].operands.first()?.as_ref()?.shape;
        let channels = shape[1];
        let geometry = op.geometry(shape[0] * channels, &shape[2..]).ok()?;
        let pooling = match op.kind {
            PoolKind::Max => Pooling::Max,
            PoolKind::Average { include_pad } => Pooling::Average { include_pad },
        };
        let action = Action::Pool {
            x,
            geometry,
            pooling,
            channels,
        };
        let out = channels_last(&self.planned[index].outputs[0].shape);
        let at = self.emit(index, index, action, out, (0, 0));
        self.finish(index, at, true);
        Some(())
    }

    /// A reduction of all spatial axes.
    fn places(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Reduce>(node)?;
        let x = self.lying_last(node.inputs[0]?)?;
        let shape = &self.planned[index].operands.first()?.as_ref()?.shape;
        if !op.axes.iter().copied().eq(2..shape.len()) {
            return None;
        }
        let sizes = [shape[0], shape[2..].iter().product(), shape[1]];
        let action = Action::Places {
            x,
            op: op.op,
            sizes,
        };
        let out = self.planned[index].outputs[0].shape.clone();
        let at = self.emit(index, index, action, out, (0, 0));
        self.finish(index, at, false);
        Some(())
    }

    fn product(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let packed = self
            .prepared
            .get(index)?
            .as_ref()?
            .downcast_ref::<PackedB>()?;
        let (k, n) = (packed.k(), packed.n());
        let out = self.planned[index].outputs[0].shape.clone();
        let elements: usize = out.iter().product();
        if k == 0 || n == 0 || !elements.is_multiple_of(n) {
            return None;
        }
        // A column vector on the right leaves no last dimension of its own.
        let whole = out.last() == Some(&n);
        let gemm = as_op::<Gemm>(node);
        let fits = match gemm {
            Some(op) => {
                !op.trans_a
                    && op.alpha == 1.0
                    && (node.inputs.get(2).copied().flatten().is_none() || op.beta == 1.0)
            }
            None => as_op::<MatMul>(node).is_some(),
        };
        if !fits || !whole {
            return None;
        }
        let a = self.first(node.inputs[0]?);
        let mut chain = Growing::new(index, &out, false);
        if gemm.is_some()
            && let Some(Some(c)) = node.inputs.get(2)
        {
            let own = self.planned[index].operands.get(2)?.as_ref()?.shape.clone();
            let at = self.first(*c);
            chain.add(
                Binary::Add,
                Operand::Value(0),
                broadcast(at, &padded(&own, 2)?, &out)?,
            );
        }
        let end = self.grow(&mut chain);
        let action = Action::Product {
            a,
            rows: elements / n,
            chain: chain.spec(),
        };
        let shape = self.planned[end].outputs[0].shape.clone();
        let at = self.emit(end, index, action, shape, (0, 0));
        self.finish(end, at, false);
        Some(())
    }

    fn batched(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        as_op::<MatMul>(node)?;
        let operands = &self.planned[index].operands;
        let (a_shape, b_shape) = (
            operands[0].as_ref()?.shape.clone(),
            operands[1].as_ref()?.shape.clone(),
        );
        let out = self.planned[index].outputs[0].shape.clone();
        let rank = out.len();
        if a_shape.len() < 2 || b_shape.len() < 2 {
            return None;
        }
        let (m, n, k) = (out[rank - 2], out[rank - 1], a_shape[a_shape.len() - 1]);
        let batch = out[..rank - 2].to_vec();
        let a = self.matrices(node.inputs[0]?, &a_shape, rank)?;
        let b = self.matrices(node.inputs[1]?, &b_shape, rank)?;
        let mut chain = Growing::new(index, &out, false);
        let mut end = self.grow(&mut chain);
        let mut shape = self.planned[end].outputs[0].shape.clone();
        let mut steps = strides(&out);
        if let Some((turned, own)) = self.turned(end, &out) {
            end = turned;
            self.absorbed[turned] = true;
            shape = self.planned[end].outputs[0].shape.clone();
            steps = own;
        }
        let packed = kernels::matmul_scratch([m, k, n], a.column);
        let action = Action::Batched(Box::new(Batched {
            sizes: [m, k, n],
            c_batch: steps[..rank - 2].to_vec(),
            c_row: steps[rank - 2],
            batch,
            a,
            b,
            chain: chain.spec(),
        }));
        let at = self.emit(end, index, action, shape, (0, packed));
        self.finish(end, at, false);
        Some(())
    }

    /// The transposition that alone reads a value of shape `out`, and the steps of the value's
    /// dimensions in it; its rows have to stay whole.
    fn turned(&self, end: usize, out: &[usize]) -> Option<(usize, Vec<usize>)> {
        let mut consumers = self.consumers[end].iter();
        let (Some(&one), None, false) = (consumers.next(), consumers.next(), self.given[end])
        else {
            return None;
        };
        let order = permutation(self.node(one))?;
        if self.planned[end].outputs[0].shape != out
            || self.made[one].is_some()
            || order.last() != Some(&(out.len() - 1))
        {
            return None;
        }
        let own = strides(&self.planned[one].outputs[0].shape);
        let mut steps = vec![0; out.len()];
        for (i, &dim) in order.iter().enumerate() {
            steps[dim] = own[i];
        }
        Some((one, steps))
    }

    /// An operand of a product as matrices inside a tensor, a transposition taken for strides.
    fn matrices(&mut self, source: Ref, shape: &[usize], rank: usize) -> Option<Matrices> {
        let mut steps = strides(shape);
        let mut base = source;
        if let Ref::Node(i, _) = source
            && self.planned[i].known.is_none()
            && self.made[i].is_none()
            && self.is_f32(i)
            && let Some(order) = permutation(self.node(i))
        {
            let inner = &self.planned[i].operands.first()?.as_ref()?.shape;
            let own = strides(inner);
            steps = order.iter().map(|&dim| own[dim]).collect();
            base = self.node(i).inputs[0]?;
        }
        let inner = shape.len() - 2;
        let missing = rank - shape.len();
        let batch = (0..rank - 2)
            .map(|i| match i.checked_sub(missing) {
                Some(j) if shape[j] != 1 => steps[j],
                _ => 0,
            })
            .collect();
        Some(Matrices {
            at: self.first(base),
            batch,
            row: steps[inner],
            column: steps[inner + 1],
        })
    }

    fn norm(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Normalize>(node)?;
        let shape = self.planned[index].outputs[0].shape.clone();
        let n = *shape.last()?;
        let operands = &self.planned[index].operands;
        let row = |i: usize| {
            operands
                .get(i)
                .is_none_or(|o| o.as_ref().is_none_or(|o| o.shape == [n]))
        };
        if op.axis + 1 != shape.len() || !row(1) || !row(2) {
            return None;
        }
        let x = self.first(node.inputs[0]?);
        let scale = self.first(node.inputs[1]?);
        let bias = node.inputs.get(2).copied().flatten().map(|b| self.first(b));
        let root_mean_square = op.kind == RowNorm::RootMeanSquare;
        let action = Action::Norm {
            x,
            scale,
            bias: bias.filter(|_| !root_mean_square),
            epsilon: op.epsilon,
            root_mean_square,
        };
        let at = self.emit(index, index, action, shape, (0, 0));
        self.finish(index, at, false);
        Some(())
    }

    /// A transposition that swaps two groups of neighbouring dimensions.
    fn transpose(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let order = permutation(node)?;
        let shape = self.planned[index]
            .operands
            .first()?
            .as_ref()?
            .shape
            .clone();
        let kept = order
            .iter()
            .enumerate()
            .take_while(|&(i, &dim)| i == dim)
            .count();
        let moved = *order.get(kept)? - kept;
        let mut turned: Vec<usize> = (kept..shape.len()).collect();
        turned.rotate_left(moved);
        if order[kept..] != turned[..] {
            return None;
        }
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        let sizes = [
            product(&shape[..kept]),
            product(&shape[kept..kept + moved]),
            product(&shape[kept + moved..]),
        ];
        let x = self.first(node.inputs[0]?);
        let out = self.planned[index].outputs[0].shape.clone();
        let at = self.emit(index, index, Action::Transpose { x, sizes }, out, (0, 0));
        self.finish(index, at, false);
        Some(())
    }

    /// Elementwise operators that follow no product.
    fn chain(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let out = self.planned[index].outputs[0].shape.clone();
        elementwise(node, out.len())?;
        let full = |i: &usize| {
            let operand = self.planned[index].operands[*i].as_ref();
            operand.is_some_and(|o| o.shape == out)
        };
        let mains: Vec<usize> = (0..node.inputs.len()).filter(full).collect();
        let lies_last = mains.iter().any(|&i| {
            let only = |source: Ref| match source {
                Ref::Node(i, _) => self.made[i].as_ref().is_some_and(|m| m.first.is_none()),
                _ => false,
            };
            node.inputs[i].is_some_and(only)
        });
        // A value that a step made can be taken over.
        let owned = |i: &&usize| matches!(node.inputs[**i], Some(Ref::Node(n, _)) if self.planned[n].known.is_none());
        let main = *mains.iter().find(owned).or(mains.first())?;
        let source = node.inputs[main]?;
        let mut chain = Growing::from_value(source, index, &out, lies_last);
        let end = self.grow(&mut chain);
        if chain.members.is_empty() {
            return None;
        }
        let x = if lies_last {
            self.last(source, &out)
        } else {
            self.first(source)
        };
        let shape = self.planned[end].outputs[0].shape.clone();
        let shape = if lies_last {
            channels_last(&shape)
        } else {
            shape
        };
        let n = shape.last().copied().unwrap_or(1);
        let action = Action::Chain {
            x,
            n,
            chain: chain.spec(),
        };
        let at = self.emit(end, index, action, shape, (0, 0));
        self.finish(end, at, lies_last);
        Some(())
    }

    /// Adds the operators that can follow; gives the last one of those that do.
    fn grow(&mut self, chain: &mut Growing) -> usize {
        let mut waiting: BTreeSet<usize> = match chain.start {
            Start::Operator(index) => self.consumers[index].clone(),
            Start::Value(_, index) => BTreeSet::from([index]),
        };
        while let Some(index) = waiting.pop_first() {
            if self.planned[index].known.is_some()
                || self.made[index].is_some()
                || self.absorbed[index]
            {
                continue;
            }
            if self.link(chain, index).is_some() {
                waiting.extend(&self.consumers[index]);
            } else if matches!(chain.start, Start::Value(_, first) if first == index) {
                break;
            }
        }
        let first = match chain.start {
            Start::Operator(index) => index,
            Start::Value(_, index) => index,
        };
        let end = chain.cut(|node| !self.given[node], |node| &self.consumers[node]);
        for member in &chain.members {
            if member.node != first {
                self.absorbed[member.node] = true;
            }
        }
        end
    }

    /// Adds one operator to a chain, if it can be.
    fn link(&mut self, chain: &mut Growing, index: usize) -> Option<()> {
        let node = self.node(index);
        if !self.is_f32(index) || chain.members.len() == MOST_MEMBERS {
            return None;
        }
        let out = self.planned[index].outputs[0].shape.clone();
        if is_alias(node) {
            let (value, _) = chain.value(node.inputs[0]?)?;
            let rows = !chain.lies_last && out.last() == chain.shape.last();
            return rows.then(|| chain.member(index, value, &out));
        }
        let operands: Vec<Option<Operand>> = {
            let mut found = Vec::new();
            for (i, source) in node.inputs.iter().enumerate() {
                found.push(match source {
                    Some(source) => Some(self.operand(chain, index, i, *source, &out)?),
                    None => None,
                });
            }
            found
        };
        let value = |i: usize| match operands.get(i).copied().flatten() {
            Some(Operand::Value(v)) => Some(v),
            _ => None,
        };
        let room = |n: usize| chain.links.len() + n <= MAX_LINKS;
        match elementwise(node, out.len())? {
            Elementwise::Unary(op) if room(1) => {
                let v = value(0)?;
                chain.links.push(LinkSpec::Unary(op, v));
            }
            Elementwise::Softmax if room(1) && !chain.lies_last => {
                let v = value(0)?;
                chain.links.push(LinkSpec::Softmax(v));
            }
            Elementwise::Binary(op) if room(1) => {
                let (a, b) = (operands[0]?, operands[1]?);
                // At least one has to be whole, or the kernel would not know how long the result is.
                if value(0).is_none() && value(1).is_none() {
                    return None;
                }
                chain.links.push(LinkSpec::Binary(op, a, b));
            }
            Elementwise::Clip if room(2) => {
                let v = value(0)?;
                let before = chain.links.len();
                let mut last = v;
                for (i, op) in [(1, Binary::Max), (2, Binary::Min)] {
                    if let Some(bound) = operands.get(i).copied().flatten() {
                        if !matches!(bound, Operand::Scalar(_)) {
                            chain.links.truncate(before);
                            return None;
                        }
                        chain
                            .links
                            .push(LinkSpec::Binary(op, Operand::Value(last), bound));
                        last = chain.links.len();
                    }
                }
                if chain.links.len() == before {
                    chain.member(index, v, &out);
                    return Some(());
                }
            }
            _ => return None,
        }
        let value = chain.links.len();
        chain.member(index, value, &out);
        Some(())
    }

    /// Operand `i` of an operator that may join a chain.
    fn operand(
        &mut self,
        chain: &Growing,
        index: usize,
        i: usize,
        source: Ref,
        out: &[usize],
    ) -> Option<Operand> {
        if let Some((value, shape)) = chain.value(source) {
            return (shape == out).then_some(Operand::Value(value));
        }
        // It has to be there when the chain begins.
        if let Ref::Node(operand, _) = source
            && self.planned[operand].known.is_none()
            && operand >= chain.first()
        {
            return None;
        }
        let operand = self.planned[index].operands[i].as_ref()?;
        if operand.dtype != DType::F32 || operand.len() == 0 {
            return None;
        }
        let own = padded(&operand.shape, out.len())?;
        if !chain.lies_last {
            // A value with its channels last would have to be turned around.
            if let Ref::Node(i, _) = source
                && self.made[i].as_ref().is_some_and(|m| m.first.is_none())
            {
                return None;
            }
            let probe = broadcast(At::Input(0), &own, out)?;
            let at = self.first(source);
            return Some(replace(probe, at));
        }
        let probe = broadcast(At::Input(0), &channels_last(&own), &channels_last(out))?;
        let at = if layouts_agree(&own) {
            self.last(source, &own)
        } else if operand.shape.len() == out.len() && self.lying_last(source).is_some() {
            self.lying_last(source)?
        } else {
            return None;
        };
        Some(replace(probe, at))
    }
}

/// The operand at another place.
fn replace(operand: Operand, at: At) -> Operand {
    match operand {
        Operand::Value(v) => Operand::Value(v),
        Operand::Scalar(_) => Operand::Scalar(at),
        Operand::Rows { divide, modulo, .. } => Operand::Rows { at, divide, modulo },
        Operand::Each { divide, modulo, .. } => Operand::Each { at, divide, modulo },
    }
}

/// A shape with ones before, up to a rank.
fn padded(shape: &[usize], rank: usize) -> Option<Vec<usize>> {
    let missing = rank.checked_sub(shape.len())?;
    let mut all = vec![1; missing];
    all.extend(shape);
    Some(all)
}

/// What a chain begins with.
#[derive(Clone, Copy)]
enum Start {
    /// The output of an operator.
    Operator(usize),
    /// A value that is there, and the first operator on it.
    Value(Ref, usize),
}

struct Member {
    node: usize,
    /// Which value of the chain its output is.
    value: usize,
    /// Links up to here.
    links: usize,
    shape: Vec<usize>,
}

/// A chain as it grows.
struct Growing {
    start: Start,
    /// The shape of the result so far.
    shape: Vec<usize>,
    start_shape: Vec<usize>,
    lies_last: bool,
    links: Vec<LinkSpec>,
    /// The value that the start is, after links of its own.
    start_value: usize,
    members: Vec<Member>,
    by_node: BTreeMap<usize, usize>,
}

impl Growing {
    fn new(index: usize, shape: &[usize], lies_last: bool) -> Growing {
        Growing {
            start: Start::Operator(index),
            shape: shape.to_vec(),
            start_shape: shape.to_vec(),
            lies_last,
            links: Vec::new(),
            start_value: 0,
            members: Vec::new(),
            by_node: BTreeMap::new(),
        }
    }

    fn from_value(value: Ref, index: usize, shape: &[usize], lies_last: bool) -> Growing {
        Growing {
            start: Start::Value(value, index),
            ..Growing::new(index, shape, lies_last)
        }
    }

    /// A link that belongs to the start.
    fn add(&mut self, op: Binary, a: Operand, b: Operand) {
        self.links.push(LinkSpec::Binary(op, a, b));
        self.start_value = self.links.len();
    }

    fn first(&self) -> usize {
        match self.start {
            Start::Operator(index) | Start::Value(_, index) => index,
        }
    }

    fn member(&mut self, node: usize, value: usize, shape: &[usize]) {
        self.by_node.insert(node, self.members.len());
        self.shape = shape.to_vec();
        self.members.push(Member {
            node,
            value,
            links: self.links.len(),
            shape: shape.to_vec(),
        });
    }

    /// Which value of the chain an operand is, and its shape.
    fn value(&self, source: Ref) -> Option<(usize, &[usize])> {
        match (self.start, source) {
            (Start::Operator(index), Ref::Node(n, 0)) if n == index => {
                return Some((self.start_value, &self.start_shape));
            }
            (Start::Value(value, _), source) if value == source => {
                return Some((0, &self.start_shape));
            }
            _ => {}
        }
        let Ref::Node(node, 0) = source else {
            return None;
        };
        let member = &self.members[*self.by_node.get(&node)?];
        Some((member.value, &member.shape))
    }

    /// Keeps as many members as have no reader outside but the last; gives the last operator.
    fn cut<'c>(
        &mut self,
        inner: impl Fn(usize) -> bool,
        consumers: impl Fn(usize) -> &'c BTreeSet<usize>,
    ) -> usize {
        let own = match self.start {
            Start::Operator(index) => Some(index),
            Start::Value(..) => None,
        };
        let mut keep = self.members.len();
        loop {
            let nodes: Vec<usize> = own
                .into_iter()
                .chain(self.members[..keep].iter().map(|m| m.node))
                .collect();
            let Some((_, before)) = nodes.split_last() else {
                break;
            };
            let whole = before
                .iter()
                .all(|&node| inner(node) && consumers(node).iter().all(|c| nodes.contains(c)));
            // The result has to be the last value that was computed.
            let last = match keep.checked_sub(1) {
                Some(i) => self.members[i].value == self.members[i].links,
                None => true,
            };
            if (whole && last) || keep == 0 {
                break;
            }
            keep -= 1;
        }
        self.members.truncate(keep);
        match self.members.last() {
            Some(last) => {
                self.links.truncate(last.links);
                last.node
            }
            None => {
                self.links.truncate(self.start_value);
                self.first()
            }
        }
    }

    fn spec(self) -> ChainSpec {
        ChainSpec { links: self.links }
    }
}
