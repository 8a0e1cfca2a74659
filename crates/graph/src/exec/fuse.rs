//! Steps that do more than one operator, or do it on another layout.

use lemma_kernels as kernels;
use lemma_kernels::{Binary, Channels, FiltersLast, PackedB, Pooling};

use super::build::{Builder, channels_last, layouts_agree};
use super::chain::{Operand, broadcast};
use super::grow::{Growing, padded};
use super::pattern::{Elementwise, as_op, elementwise, permutation};
use super::{Action, Batched, Matrices};
use crate::graph::Ref;
use crate::ops::broadcast::strides;
use crate::ops::conv::Conv;
use crate::ops::linear::{Gemm, MatMul};
use crate::ops::norm::{Normalize, RowNorm};
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::reduce::Reduce;

/// Up to this many channels a convolution reads its input with the channels first.
const FEW_CHANNELS: usize = 4;

impl Builder<'_> {
    pub(super) fn conv(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Conv>(node)?;
        let packed = self.prepared.get(index)?.as_ref()?;
        packed.downcast_ref::<FiltersLast>()?;
        let planned = &self.planned[index];
        let shape = planned.operands.first()?.clone()?.shape;
        let out = planned.outputs[0].shape.clone();
        let geometry = op.geometry(shape[0], shape[1], &shape[2..], out[1]).ok()?;
        let (source, gate) = match node.inputs[0]? {
            Ref::Node(product, _) if let Some((x, gate)) = self.gates(product) => (x, Some(gate)),
            source => (source, None),
        };
        let first = op.groups == 1
            && shape[1] <= FEW_CHANNELS
            && self.brought_last(source).is_none()
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
        let gate = gate.map(|gate| self.first(gate));
        let held = match gate {
            Some(_) => kernels::conv_last_gated_scratch(&geometry),
            None => kernels::conv_last_scratch(&geometry, input),
        };
        let held = held as u64 * 4;
        let offsets = geometry.filter_len() as u64 / out[1].max(1) as u64 * 4 + 4 * shape[1] as u64;
        let action = Action::Conv {
            x,
            gate,
            input,
            geometry,
            chain: chain.spec(),
        };
        let at = self.emit(end, index, action, channels_last(&out), (offsets, held));
        self.finish(end, at, true);
        Some(())
    }

    /// The two operands of a product of a value, which lies with its channels last, and a gate of its channels, if nothing
    /// but a convolution reads it that can multiply for itself.
    pub(super) fn gates(&self, index: usize) -> Option<(Ref, Ref)> {
        let node = self.node(index);
        let op = elementwise(node, 0)?;
        let free = self.made[index].is_none() && !self.absorbed[index] && self.is_f32(index);
        if !free || !matches!(op, Elementwise::Binary(Binary::Mul)) {
            return None;
        }
        let reader = self.only_reader(index)?;
        let conv = as_op::<Conv>(self.node(reader))?;
        if self.node(reader).inputs[0] != Some(Ref::Node(index, 0)) {
            return None;
        }
        self.prepared
            .get(reader)?
            .as_ref()?
            .downcast_ref::<FiltersLast>()?;
        let shape = &self.planned[index].outputs[0].shape;
        let out = &self.planned[reader].outputs[0].shape;
        let geometry = conv
            .geometry(shape[0], shape[1], &shape[2..], out[1])
            .ok()?;
        if !kernels::conv_last_takes_gate(&geometry) {
            return None;
        }
        let mut each = vec![1; shape.len()];
        each[..2].copy_from_slice(&shape[..2]);
        let shape_of = |i: usize| Some(&self.planned[index].operands[i].as_ref()?.shape);
        [(0, 1), (1, 0)].into_iter().find_map(|(x, gate)| {
            let fits = shape_of(x)? == shape && *shape_of(gate)? == each;
            let (x, gate) = (node.inputs[x]?, node.inputs[gate]?);
            (fits && self.lying_last(x).is_some()).then_some((x, gate))
        })
    }

    pub(super) fn pool(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Pool>(node)?;
        if let Some(()) = self.largest(index, op) {
            return Some(());
        }
        let x = self.brought_last(node.inputs[0]?)?;
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
    pub(super) fn places(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Reduce>(node)?;
        let x = self.brought_last(node.inputs[0]?)?;
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

    pub(super) fn product(&mut self, index: usize) -> Option<()> {
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

    pub(super) fn batched(&mut self, index: usize) -> Option<()> {
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
    pub(super) fn turned(&self, end: usize, out: &[usize]) -> Option<(usize, Vec<usize>)> {
        let one = self.only_reader(end)?;
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
    pub(super) fn matrices(
        &mut self,
        source: Ref,
        shape: &[usize],
        rank: usize,
    ) -> Option<Matrices> {
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

    pub(super) fn norm(&mut self, index: usize) -> Option<()> {
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
    pub(super) fn transpose(&mut self, index: usize) -> Option<()> {
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
    pub(super) fn chain(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let out = self.planned[index].outputs[0].shape.clone();
        elementwise(node, out.len())?;
        let full = |i: &usize| {
            let operand = self.planned[index].operands[*i].as_ref();
            operand.is_some_and(|o| o.shape == out)
        };
        let mains: Vec<usize> = (0..node.inputs.len()).filter(full).collect();
        let lies_last = mains
            .iter()
            .any(|&i| node.inputs[i].is_some_and(|source| self.only_last(source)));
        let waiting = mains.iter().find_map(|&i| {
            let source = node.inputs[i]?;
            self.waits(source).map(|bytes| (source, bytes))
        });
        if let Some((source, bytes)) = waiting
            && let Some(()) = self.chain_of_integers(index, source, bytes, lies_last)
        {
            return Some(());
        }
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
}
