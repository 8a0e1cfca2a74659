//! Steps on 8-bit integers: products whose sums go on as f32, dequantisation, quantisation.

use lemma_kernels as kernels;
use lemma_kernels::int8::{FiltersInt8Last, PackedInt8};
use lemma_types::tensor::DType;

use super::build::{Builder, channels_last, layouts_agree};
use super::chain::ChainSpec;
use super::grow::Growing;
use super::pattern::as_op;
use super::{Action, At};
use crate::graph::Ref;
use crate::ops::cast::Cast;
use crate::ops::int8::{ConvInteger, MatMulInteger};
use crate::ops::quantize::{Dequantize, Grain, Quantize};

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

/// Rows that a thread multiplies together, at most.
const GROUP: u64 = 48;

/// Columns that it does, at most, unless it needs whole rows.
const COLUMNS: u64 = 1152;

impl Builder<'_> {
    /// An integer product or convolution whose sums are used as f32 only.
    pub(super) fn integer(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let packed = self.prepared.get(index)?.as_ref()?;
        let mut after = self.consumers[index].iter();
        let (Some(&cast), None, false) = (after.next(), after.next(), self.given[index]) else {
            return None;
        };
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
            packed.downcast_ref::<FiltersInt8Last>()?;
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
            (self.last(source, &shape), Sums::Conv(Box::new(geometry)), depth)
        } else {
            as_op::<MatMulInteger>(node)?;
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
        let zero = operand(2).map(|source| self.first(source));
        let lies_last = matches!(sums, Sums::Conv(_));
        let mut chain = Growing::new(cast, &out, lies_last);
        self.absorbed[cast] = true;
        let end = self.grow(&mut chain);
        let (end, sink) = self.sink(end);
        let columns = out[if lies_last { 1 } else { out.len() - 1 }] as u64;
        let columns = match chain.links.iter().any(super::chain::LinkSpec::by_rows) {
            true => columns,
            false => columns.min(COLUMNS),
        };
        let scratch = GROUP * (depth as u64 + 4 * columns) + 4 * columns;
        let action = Action::Integer(Box::new(Integer {
            x,
            zero,
            sums,
            chain: chain.spec(),
            sink,
        }));
        self.end(end, index, action, lies_last, scratch);
        Some(())
    }

    /// Dequantisation with one scale.
    pub(super) fn dequantise(&mut self, index: usize) -> Option<()> {
        let node = self.node(index);
        let op = as_op::<Dequantize>(node)?;
        let out = self.planned[index].outputs[0].shape.clone();
        let dtype = self.planned[index].operands.first()?.as_ref()?.dtype;
        if op.grain != Grain::Tensor
            || !matches!(dtype, DType::U8 | DType::I8)
            || !self.is_f32(index)
        {
            return None;
        }
        let source = node.inputs[0]?;
        let x_last = self.lying_last(source);
        let lies_last = x_last.is_some() && !layouts_agree(&out);
        let x = match x_last {
            Some(x) => x,
            None => self.first(source),
        };
        let scale = self.first(node.inputs[1]?);
        let zero = node.inputs.get(2).copied().flatten();
        let zero = zero.map(|source| self.first(source));
        let mut chain = Growing::new(index, &out, lies_last);
        let end = self.grow(&mut chain);
        let (end, sink) = self.sink(end);
        let n = match lies_last {
            true => out[1],
            false => out.last().copied().unwrap_or(1),
        };
        let action = Action::Dequantise(Box::new(Dequantised {
            x,
            scale,
            zero,
            n,
            chain: chain.spec(),
            sink,
        }));
        self.end(end, index, action, lies_last, 4 * (n as u64 + (1 << 14)));
        Some(())
    }

    /// Quantisation with one scale of a value that nothing else ends with it.
    pub(super) fn quantise(&mut self, index: usize) -> Option<()> {
        let sink = self.as_sink(index)?;
        let source = self.node(index).inputs[0]?;
        let out = &self.planned[index].outputs[0].shape;
        let x_last = self.lying_last(source);
        let lies_last = x_last.is_some() && !layouts_agree(out);
        let x = match x_last {
            Some(x) => x,
            None => self.first(source),
        };
        self.end(index, index, Action::Quantise { x, sink }, lies_last, 0);
        Some(())
    }

    /// Emits a step that makes operator `end`.
    fn end(&mut self, end: usize, packed: usize, action: Action, lies_last: bool, scratch: u64) {
        let output = &self.planned[end].outputs[0];
        let (dtype, shape) = (output.dtype, output.shape.clone());
        let shape = match lies_last {
            true => channels_last(&shape),
            false => shape,
        };
        let at = self.emit_as(dtype, end, packed, action, shape, (0, scratch));
        self.finish(end, at, lies_last);
    }

    /// An operator that quantises with one scale.
    fn as_sink(&mut self, index: usize) -> Option<Sink> {
        let node = self.node(index);
        let op = as_op::<Quantize>(node)?;
        let one = op.grain == Grain::Tensor && !op.half_byte;
        if !one
            || !matches!(op.to, DType::U8 | DType::I8)
            || self.planned[index].outputs[0].len() == 0
        {
            return None;
        }
        let scale = self.first(node.inputs[1]?);
        let zero = node.inputs.get(2).copied().flatten();
        let zero = zero.map(|source| self.first(source));
        Some(Sink {
            scale,
            zero,
            to: op.to,
        })
    }

    /// The quantisation that alone reads the output of an operator, if it can end a step; and the
    /// operator that the step then makes.
    fn sink(&mut self, end: usize) -> (usize, Option<Sink>) {
        let mut after = self.consumers[end].iter();
        if let (Some(&one), None, false) = (after.next(), after.next(), self.given[end])
            && self.made[one].is_none()
            && self.planned[one].known.is_none()
            && self.node(one).inputs[1..]
                .iter()
                .flatten()
                .all(|source| match *source {
                    Ref::Node(i, _) => self.planned[i].known.is_some() || i < end,
                    _ => true,
                })
            && self.node(one).inputs[0] == Some(Ref::Node(end, 0))
            && let Some(sink) = self.as_sink(one)
        {
            self.absorbed[one] = true;
            return (one, Some(sink));
        }
        (end, None)
    }
}
