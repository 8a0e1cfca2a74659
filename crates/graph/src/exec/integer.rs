//! Steps on 8-bit integers: products whose sums go on as f32, dequantisation, quantisation.

use lemma_kernels as kernels;
use lemma_kernels::int8::{FiltersInt8Last, PackedInt8};
use lemma_kernels::{Isa, MAX_LINKS};
use lemma_types::tensor::DType;

use super::build::{Builder, channels_last, layouts_agree};
use super::chain::{ChainSpec, LinkSpec};
use super::grow::Growing;
use super::pattern::as_op;
use super::turn::Pairs;
use super::{Action, At};
use crate::graph::Ref;
use crate::operator::typed;
use crate::ops::cast::Cast;
use crate::ops::int8::{ConvInteger, MatMulInteger};
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::quantize::{Dequantize, Grain, Quantize};
use crate::tensor::Tensor;

/// Quantisation with one scale and zero point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sink {
    pub(super) scale: At,
    pub(super) zero: Option<At>,
    pub(super) to: DType,
}

impl Sink {
    pub(super) fn reads(&self) -> impl Iterator<Item = At> + use<> {
        [Some(self.scale), self.zero].into_iter().flatten()
    }
}

/// What the sums of a step are of.
#[derive(Debug)]
pub(super) enum Sums {
    /// Rows by a packed constant, whose zero points are these.
    Product { rows: usize, zeros: Option<At> },
    /// Pairs of matrices, neither of them constant.
    Pairs(Box<Pairs>),
    /// A convolution with the channels last.
    Conv(Box<kernels::Conv>),
}

/// Sums of products of 8-bit integers, and what follows on them.
#[derive(Debug)]
pub(super) struct Integer {
    pub(super) x: At,
    pub(super) zero: Option<At>,
    pub(super) sums: Sums,
    pub(super) chain: ChainSpec,
    pub(super) sink: Option<Sink>,
}

/// Dequantisation of rows of `n` values, and what follows on it.
#[derive(Debug)]
pub(super) struct Dequantised {
    pub(super) x: At,
    pub(super) scale: At,
    pub(super) zero: Option<At>,
    pub(super) n: usize,
    pub(super) chain: ChainSpec,
    pub(super) sink: Option<Sink>,
}

impl Action {
    /// The quantisation with which the step ends.
    pub(super) fn sink(&self) -> Option<Sink> {
        match self {
            Action::Integer(integer) => integer.sink,
            Action::Dequantise(dequantised) => dequantised.sink,
            Action::Quantise { sink, .. } => Some(*sink),
            Action::Images(images) => images.sink(),
            _ => None,
        }
    }
}

/// Bytes that a thread needs to find its rows, and for values on their way through a chain.
const GROUP: u64 = 1 << 16;

/// Bytes that a convolution holds beside its operands, and each thread.
pub(super) fn convolution_scratch(geometry: &kernels::Conv) -> (u64, u64) {
    let (all, each) = kernels::int8::conv_int8_last_scratch(Isa::detect(), geometry);
    (all, each + GROUP)
}

impl Builder<'_> {
    /// An integer product or convolution whose sums are used as f32 only.
    pub(super) fn integer(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let packed = self.prepared.get(index)?.as_ref();
        let cast = self.only_reader(index)?;
        if as_op::<Cast>(self.node(cast))?.to != DType::F32 || !self.is_f32(cast) {
            return None;
        }
        let shape = self.planned[index].operands.first()?.clone()?.shape;
        let out = self.planned[index].outputs[0].shape.clone();
        let (source, operand) = (node.inputs[0]?, |i: usize| {
            node.inputs.get(i).copied().flatten()
        });
        let single = |i: usize| {
            let operand = self.planned[index].operands.get(i).cloned().flatten();
            operand.is_none_or(|o| o.len() == 1)
        };
        if !single(2) {
            return None;
        }
        let (x, sums, depth) = if let Some(op) = as_op::<ConvInteger>(node) {
            packed?.downcast_ref::<FiltersInt8Last>()?;
            // The zero points of the filters are packed with them.
            let fixed = |source: Ref| match source {
                Ref::Constant(_) => true,
                Ref::Node(i, _) => self.planned[i].known.is_some(),
                Ref::Input(_) => false,
            };
            if !operand(3).is_none_or(fixed) {
                return None;
            }
            let geometry = op.geometry(shape[0], shape[1], &shape[2..], out[1]).ok()?;
            let depth = geometry.filter_len() / out[1].max(1);
            (
                self.last(source, &shape),
                Sums::Conv(Box::new(geometry)),
                depth,
            )
        } else {
            as_op::<MatMulInteger>(node)?;
            let Some(packed) = packed else {
                return self.pairs(index, cast, single(3));
            };
            let packed = packed.downcast_ref::<PackedInt8>()?;
            let elements: usize = out.iter().product();
            let (k, n) = (packed.k(), packed.n());
            let rows = elements / n;
            let product: usize = shape.iter().product();
            if product != rows * k || out.last() != Some(&n) {
                return None;
            }
            let zeros = operand(3).map(|source| self.first(source));
            (self.first(source), Sums::Product { rows, zeros }, k)
        };
        self.sums(index, cast, x, sums, depth)
    }

    /// Products of as many matrices on the right as on the left, with one zero point.
    fn pairs(&mut self, index: usize, cast: usize, single: bool) -> Option<()> {
        let node = self.node(index);
        let operands = &self.planned[index].operands;
        let (a, b) = (operands.first()?.as_ref()?, operands.get(1)?.as_ref()?);
        let ([outer @ .., m, k], [b_outer @ .., _, n]) = (&a.shape[..], &b.shape[..]) else {
            return None;
        };
        if outer != b_outer || !single || self.planned[index].outputs[0].len() == 0 {
            return None;
        }
        let (outer, sizes) = (outer.to_vec(), [*m, *k, *n]);
        let (a_shape, b_shape) = (a.shape.clone(), b.shape.clone());
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let a = self.matrices_of_bytes(operand(0)?, &a_shape, true);
        let b = self.matrices_of_bytes(operand(1)?, &b_shape, false);
        let zero = operand(3).map(|source| self.first(source));
        let x = a.at;
        let pairs = Pairs::new(sizes, outer, a, b, zero);
        self.sums(index, cast, x, Sums::Pairs(Box::new(pairs)), sizes[1])
    }

    /// Emits a step that makes sums, casts them to f32, and goes on with them.
    fn sums(
        &mut self,
        index: usize,
        cast: usize,
        x: At,
        mut sums: Sums,
        depth: usize,
    ) -> Option<()> {
        let out = self.planned[index].outputs[0].shape.clone();
        let zero = self.node(index).inputs.get(2).copied().flatten();
        let zero = zero.map(|source| self.first(source));
        let lies_last = matches!(sums, Sums::Conv(_));
        let mut chain = Growing::new(cast, &out, lies_last);
        chain.by_tiles = true;
        self.absorbed[cast] = true;
        let end = self.grow(&mut chain);
        let mut ending = self.ending(end, &mut chain);
        let chain = chain.spec();
        if let (Sums::Pairs(pairs), Some(turn)) = (&mut sums, &ending.turn)
            && turn.shape == out
            && pairs.write_turned(&turn.order, &chain)
        {
            ending.turn = None;
        }
        // The left operand may have to be copied.
        let scratch = match &sums {
            Sums::Conv(geometry) => convolution_scratch(geometry),
            Sums::Product { rows, .. } => {
                let each = kernels::int8::gemm_int8_scratch(Isa::detect(), *rows, depth);
                (
                    (*rows as u64) * (depth as u64).next_multiple_of(4),
                    each + GROUP,
                )
            }
            Sums::Pairs(pairs) => {
                let [all, each] = pairs.scratch();
                (all, each + GROUP)
            }
        };
        let action = Action::Integer(Box::new(Integer {
            x,
            zero,
            sums,
            chain,
            sink: ending.sink,
        }));
        match ending.turn {
            Some(turn) => self.end_before(ending.end, index, action, turn, scratch),
            None => self.end(ending.end, index, action, lies_last, scratch),
        }
        Some(())
    }

    /// The operand of a dequantisation with one scale from 8-bit integers.
    pub(super) fn dequantises(&self, index: usize) -> Option<Ref> {
        let node = self.node(index);
        let op = as_op::<Dequantize>(node)?;
        let dtype = self.planned[index].operands.first()?.as_ref()?.dtype;
        let simple = op.grain == Grain::Tensor
            && matches!(dtype, DType::U8 | DType::I8)
            && self.planned[index].known.is_none()
            && self.is_f32(index);
        simple.then_some(node.inputs[0]?)
    }

    /// Of a dequantised value that is not made yet, the integers.
    pub(super) fn waits(&self, source: Ref) -> Option<Ref> {
        match source {
            Ref::Node(i, _) if self.made[i].is_none() => self.dequantises(i),
            _ => None,
        }
    }

    /// Whether an operand lies with its channels last and not otherwise.
    pub(super) fn only_last(&self, source: Ref) -> bool {
        let source = self.waits(source).unwrap_or(source);
        match source {
            Ref::Node(i, _) => self.made[i].as_ref().is_some_and(|m| m.first.is_none()),
            _ => false,
        }
    }

    /// Dequantisation with one scale, by itself.
    pub(super) fn dequantise(&mut self, index: usize) -> Option<()> {
        let bytes = self.dequantises(index)?;
        let out = self.planned[index].outputs[0].shape.clone();
        let lies_last = self.only_last(bytes);
        let chain = ChainSpec::default();
        self.emit_dequantised(index, index, bytes, &out, lies_last, chain, None)
    }

    /// Elementwise operators on a value that is dequantised first, from `index` on.
    pub(super) fn chain_of_integers(
        &mut self,
        index: usize,
        source: Ref,
        bytes: Ref,
        lies_last: bool,
    ) -> Option<()> {
        let Ref::Node(dequantise, _) = source else {
            return None;
        };
        let out = self.planned[index].outputs[0].shape.clone();
        let mut chain = Growing::from_value(source, index, &out, lies_last);
        let end = self.grow(&mut chain);
        if chain.members.is_empty() {
            return None;
        }
        let (end, sink) = self.sink(end);
        let chain = chain.spec();
        self.emit_dequantised(dequantise, end, bytes, &out, lies_last, chain, sink)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a step")]
    fn emit_dequantised(
        &mut self,
        index: usize,
        end: usize,
        bytes: Ref,
        shape: &[usize],
        lies_last: bool,
        chain: ChainSpec,
        sink: Option<Sink>,
    ) -> Option<()> {
        let x = match lies_last {
            true => self.last(bytes, shape),
            false => self.first(bytes),
        };
        let (scale, zero) = self.scale(index)?;
        let n = match lies_last {
            true => shape[1],
            false => shape.last().copied().unwrap_or(1),
        };
        let action = Action::Dequantise(Box::new(Dequantised {
            x,
            scale,
            zero,
            n,
            chain,
            sink,
        }));
        let scratch = 4 * (n as u64 + (1 << 14));
        self.end(end, index, action, lies_last, (0, scratch));
        Some(())
    }

    /// The operands of a quantisation or dequantisation besides the values.
    fn scale(&mut self, index: usize) -> Option<(At, Option<At>)> {
        let node = self.node(index);
        let scale = self.first(node.inputs[1]?);
        let zero = node.inputs.get(2).copied().flatten();
        Some((scale, zero.map(|source| self.first(source))))
    }

    /// Quantisation with one scale of a value that nothing else ends with it.
    pub(super) fn quantise(&mut self, index: usize) -> Option<()> {
        let sink = self.as_sink(index)?;
        let source = self.node(index).inputs[0]?;
        let out = self.planned[index].outputs[0].shape.clone();
        if let (Some(bytes), Ref::Node(dequantise, _)) = (self.waits(source), source) {
            let lies_last = self.only_last(bytes);
            let (chain, sink) = (ChainSpec::default(), Some(sink));
            return self.emit_dequantised(dequantise, index, bytes, &out, lies_last, chain, sink);
        }
        let x_last = self.lying_last(source);
        let lies_last = x_last.is_some() && !layouts_agree(&out);
        let x = match x_last {
            Some(x) => x,
            None => self.first(source),
        };
        self.end(
            index,
            index,
            Action::Quantise { x, sink },
            lies_last,
            (0, 0),
        );
        Some(())
    }

    /// Adds an operand that is still to be dequantised to a chain; gives the value that it becomes.
    pub(super) fn dequantised(
        &mut self,
        chain: &mut Growing,
        source: Ref,
        out: &[usize],
    ) -> Option<usize> {
        let bytes = self.waits(source)?;
        let Ref::Node(index, _) = source else {
            return None;
        };
        if !self.are_there(&self.node(index).inputs, chain.first())
            || self.planned[index].outputs[0].shape != out
            || chain.links.len() == MAX_LINKS
        {
            return None;
        }
        let x = if chain.lies_last {
            self.lying_last(bytes)?
        } else if self.only_last(bytes) {
            return None;
        } else {
            self.first(bytes)
        };
        let to = self.planned[index].operands.first()?.as_ref()?.dtype;
        let (scale, zero) = self.scale(index)?;
        chain
            .links
            .push(LinkSpec::Dequantise(x, Sink { scale, zero, to }));
        Some(chain.links.len())
    }

    /// Adds a quantisation and the dequantisation that alone reads it to a chain, if it has the same
    /// scale; gives that.
    pub(super) fn requantise(&mut self, chain: &mut Growing, index: usize) -> Option<usize> {
        as_op::<Quantize>(self.node(index))?;
        let (value, shape) = chain.value(self.node(index).inputs[0]?)?;
        let shape = shape.to_vec();
        let back = self.only_reader(index)?;
        let free = self.made[back].is_none() && !self.absorbed[back] && !self.given[back];
        if !free
            || self.dequantises(back)? != Ref::Node(index, 0)
            || self.node(back).inputs[1..] != self.node(index).inputs[1..]
            || !self.are_there(&self.node(index).inputs[1..], chain.first())
            || chain.links.len() == MAX_LINKS
        {
            return None;
        }
        let sink = self.as_sink(index)?;
        chain.links.push(LinkSpec::Requantise(value, sink));
        chain.members(index, back, &shape);
        Some(back)
    }

    /// The largest values under a window between a dequantisation and a quantisation of the same scale:
    /// those of the largest integers, as the product of every step with a positive scale, divided by it,
    /// is nearest to that step again.
    pub(super) fn largest(&mut self, index: usize, op: &Pool) -> Option<()> {
        if !matches!(op.kind, PoolKind::Max) {
            return None;
        }
        let source = self.node(index).inputs[0]?;
        let bytes = self.waits(source)?;
        let Ref::Node(before, _) = source else {
            return None;
        };
        let end = self.only_reader(index)?;
        as_op::<Quantize>(self.node(end))?;
        let dtype = self.planned[index].operands.first()?.as_ref()?.dtype;
        let same = self.node(before).inputs[1..] == self.node(end).inputs[1..]
            && self.planned[before].operands.first()?.as_ref()?.dtype
                == self.planned[end].outputs[0].dtype;
        let scale = self.constant(self.node(before).inputs[1]?)?;
        let [scale] = typed::<f32>(scale).ok()? else {
            return None;
        };
        let ordinary = (f32::MIN_POSITIVE * 1e6..f32::MAX / 1e6).contains(scale);
        if !same || !ordinary || dtype != DType::F32 {
            return None;
        }
        self.as_sink(end)?;
        let x = self.lying_last(bytes)?;
        let shape = &self.planned[index].operands.first()?.as_ref()?.shape;
        let channels = shape[1];
        let geometry = op.geometry(shape[0] * channels, &shape[2..]).ok()?;
        let action = Action::Largest {
            x,
            geometry,
            channels,
        };
        self.absorbed[end] = true;
        self.end(end, index, action, true, (0, 0));
        Some(())
    }

    /// A constant.
    fn constant(&self, source: Ref) -> Option<&Tensor> {
        match source {
            Ref::Constant(i) => self.graph.constants[i].tensor.as_ref(),
            Ref::Node(i, output) => Some(&self.planned[i].known.as_ref()?[output]),
            Ref::Input(_) => None,
        }
    }

    /// Whether operands are made before operator `end`.
    pub(super) fn are_there(&self, operands: &[Option<Ref>], end: usize) -> bool {
        operands.iter().flatten().all(|source| match *source {
            Ref::Node(i, _) => self.planned[i].known.is_some() || i < end,
            _ => true,
        })
    }

    /// Emits a step that makes operator `end`.
    pub(super) fn end(
        &mut self,
        end: usize,
        packed: usize,
        action: Action,
        lies_last: bool,
        scratch: (u64, u64),
    ) {
        let output = &self.planned[end].outputs[0];
        let (dtype, shape) = (output.dtype, output.shape.clone());
        let shape = match lies_last {
            true => channels_last(&shape),
            false => shape,
        };
        let at = self.emit_as(dtype, end, packed, action, shape, scratch);
        self.finish(end, at, lies_last);
    }

    /// An operator that quantises with one scale.
    pub(super) fn as_sink(&mut self, index: usize) -> Option<Sink> {
        let node = self.node(index);
        let op = as_op::<Quantize>(node)?;
        let one = op.grain == Grain::Tensor && !op.half_byte;
        if !one
            || !matches!(op.to, DType::U8 | DType::I8)
            || self.planned[index].outputs[0].len() == 0
        {
            return None;
        }
        let to = op.to;
        let (scale, zero) = self.scale(index)?;
        Some(Sink { scale, zero, to })
    }

    /// The quantisation that alone reads the output of an operator, if it can end a step; and the
    /// operator that the step then makes.
    fn sink(&mut self, end: usize) -> (usize, Option<Sink>) {
        match self.sunk(end, end, true) {
            Some(ending) => (ending.end, ending.sink),
            None => (end, None),
        }
    }
}
