//! Transpositions around products of 8-bit integers.
//!
//! Quantisation works on each value alone, so it may come before a transposition that it follows: then a step ends with
//! integers, of which a quarter of the bytes have to be turned around; and none at all where what reads them, a product
//! of pairs of matrices, finds its rows and columns wherever they lie.

use lemma_kernels::int8::{
    Int8, MatricesInt8, Output, PackedInt8, gemm_int8_scratch, matmul_int8_with,
};
use lemma_kernels::{Chain, Isa, MAX_LINKS, Threads};

use super::build::Builder;
use super::chain::{ChainSpec, LinkSpec, Operand};
use super::grow::Growing;
use super::integer::Sink;
use super::pattern::{as_op, permutation};
use super::{Action, At, Matrices};
use crate::graph::Ref;
use crate::ops::broadcast::strides;
use crate::ops::quantize::Quantize;

/// Values of this shape, which lie as they did before their dimensions were put in another order.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) shape: Vec<usize>,
    pub(super) order: Vec<usize>,
}

/// Integers that are yet to be turned, and where they are.
#[derive(Debug)]
pub(super) struct Turned {
    at: At,
    turn: Turn,
}

/// How a step ends: the operator that it makes, but for a transposition.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) end: usize,
    pub(super) sink: Option<Sink>,
    pub(super) turn: Option<Turn>,
}

/// Pairs of matrices that are multiplied, the right ones less a zero point.
#[derive(Debug)]
pub(super) struct Pairs {
    /// m, k, n.
    sizes: [usize; 3],
    batch: Vec<usize>,
    a: Matrices,
    pub(super) b: Matrices,
    pub(super) zero: Option<At>,
    /// Steps of the result, for each dimension of the batch, and between rows.
    c_batch: Vec<usize>,
    c_row: usize,
}

impl Pairs {
    pub(super) fn new(
        sizes @ [m, _, n]: [usize; 3],
        batch: Vec<usize>,
        a: Matrices,
        b: Matrices,
        zero: Option<At>,
    ) -> Pairs {
        let c_batch = strides(&[&batch[..], &[m, n]].concat())[..batch.len()].to_vec();
        Pairs {
            sizes,
            batch,
            a,
            b,
            zero,
            c_batch,
            c_row: n,
        }
    }

    /// Has the result written with its dimensions in another order, if its rows stay in one piece and nothing in the chain
    /// asks where a value lies.
    pub(super) fn write_turned(&mut self, order: &[usize], chain: &ChainSpec) -> bool {
        let [m, _, n] = self.sizes;
        let rank = order.len();
        let shape = [&self.batch[..], &[m, n]].concat();
        let anywhere = |o: &Operand| matches!(o, Operand::Value(_) | Operand::Scalar(_));
        let free = |link: &LinkSpec| match link {
            LinkSpec::Unary(..) | LinkSpec::Requantise(..) => true,
            LinkSpec::Binary(_, a, b) => anywhere(a) && anywhere(b),
            LinkSpec::Select { .. } | LinkSpec::Softmax(_) | LinkSpec::Dequantise(..) => false,
        };
        if order.last() != Some(&(rank - 1)) || !chain.links.iter().all(free) {
            return false;
        }
        let turned: Vec<usize> = order.iter().map(|&dim| shape[dim]).collect();
        let mut steps = vec![0; rank];
        for (&dim, step) in order.iter().zip(strides(&turned)) {
            steps[dim] = step;
        }
        self.c_batch = steps[..rank - 2].to_vec();
        self.c_row = steps[rank - 2];
        true
    }

    /// Bytes that the operands may be copied to, and those that each thread holds.
    pub(super) fn scratch(&self) -> [u64; 2] {
        let [m, k, n] = self.sizes;
        let left = (m as u64) * (k as u64).next_multiple_of(4);
        let batch: usize = self.batch.iter().product();
        let copies = left.saturating_add(PackedInt8::bytes(k, n));
        let each = gemm_int8_scratch(Isa::detect(), m, k);
        [(batch as u64).saturating_mul(copies), each]
    }

    pub(super) fn multiply(
        &self,
        isa: Isa,
        threads: &Threads,
        (a, a_zero): (Int8<'_>, i32),
        (b, b_zero): (Int8<'_>, i32),
        chain: &Chain<'_>,
        to: Output<'_>,
    ) {
        let starts = [&self.a.batch, &self.b.batch, &self.c_batch].map(|steps| self.starts(steps));
        let matrices = |values, starts, of: &Matrices| MatricesInt8 {
            values,
            starts,
            row: of.row,
            column: of.column,
        };
        let a = matrices(a, &starts[0], &self.a);
        let b = matrices(b, &starts[1], &self.b);
        let (sizes, c) = (self.sizes, &starts[2]);
        matmul_int8_with(
            isa, threads, sizes, &a, a_zero, &b, b_zero, chain, to, c, self.c_row,
        );
    }

    /// Where matrices begin whose dimensions step so.
    fn starts(&self, steps: &[usize]) -> Vec<usize> {
        let mut starts = vec![0];
        for (&size, &step) in self.batch.iter().zip(steps) {
            let inner = |start: usize| (0..size).map(move |i| start + i * step);
            starts = starts.into_iter().flat_map(inner).collect();
        }
        starts
    }
}

impl Builder<'_> {
    /// The quantisation that a step can end with after operator `end`, on the other side of a transposition too; before
    /// that one a quantisation that is dequantised again joins the chain.
    pub(super) fn ending(&mut self, end: usize, chain: &mut Growing) -> Ending {
        // Values with their channels last lie in no order of the graph.
        let direct = chain.lies_last;
        let Some(first) = self.sunk(end, end, direct) else {
            let (sink, turn) = (None, None);
            return Ending { end, sink, turn };
        };
        if first.turn.is_none()
            && let Some(back) = self.goes_back(first.end)
            && chain.links.len() < MAX_LINKS
            && let Some(sink) = first.sink
            && let Some(second) = self.sunk(back, end, direct)
        {
            let value = chain.links.len();
            chain.links.push(LinkSpec::Requantise(value, sink));
            self.absorbed[back] = true;
            return second;
        }
        first
    }

    /// The dequantisation that alone reads what operator `index` quantises, with the same scale.
    fn goes_back(&self, index: usize) -> Option<usize> {
        let back = self.only_reader(index)?;
        let free = self.made[back].is_none() && !self.absorbed[back];
        let same = self.dequantises(back)? == Ref::Node(index, 0)
            && self.node(back).inputs[1..] == self.node(index).inputs[1..];
        (free && same).then_some(back)
    }

    /// The quantisation that alone reads operator `from`, or does after operators that only change how values lie: these
    /// and it become part of the step that makes `end`. With `direct` there is none between.
    pub(super) fn sunk(&mut self, from: usize, end: usize, direct: bool) -> Option<Ending> {
        let (mut last, mut between, mut turn) = (from, Vec::new(), None);
        let one = loop {
            let one = self.only_reader(last)?;
            let node = self.node(one);
            let free = self.made[one].is_none()
                && !self.absorbed[one]
                && self.planned[one].known.is_none();
            if !free || node.inputs[0] != Some(Ref::Node(last, 0)) {
                return None;
            }
            if as_op::<Quantize>(node).is_some() {
                break one;
            }
            if direct || !self.is_lazy(one) {
                return None;
            }
            if let Some(order) = permutation(node) {
                let turned = Turn {
                    shape: self.planned[last].outputs[0].shape.clone(),
                    order: order.to_vec(),
                };
                if turn.replace(turned).is_some() {
                    return None;
                }
            }
            between.push(one);
            last = one;
        };
        if !self.are_there(&self.node(one).inputs[1..], end) {
            return None;
        }
        let sink = Some(self.as_sink(one)?);
        for index in between.into_iter().chain([one]) {
            self.absorbed[index] = true;
        }
        let end = one;
        Some(Ending { end, sink, turn })
    }

    /// Emits a step that makes integers that are yet to be turned to be those of operator `end`.
    pub(super) fn end_before(
        &mut self,
        end: usize,
        packed: usize,
        action: Action,
        turn: Turn,
        scratch: (u64, u64),
    ) {
        let dtype = self.planned[end].outputs[0].dtype;
        let at = self.emit_as(dtype, end, packed, action, turn.shape.clone(), scratch);
        self.turned.insert(end, Turned { at, turn });
    }

    /// Turns integers whose step ended before that.
    pub(super) fn turn(&mut self, index: usize) -> Option<()> {
        let Turned { at, turn } = self.turned.get(&index)?;
        let action = Action::Turn {
            x: *at,
            shape: turn.shape.clone(),
            order: turn.order.clone(),
        };
        self.end(index, index, action, false, (0, 0));
        Some(())
    }

    /// An operand of a product as matrices inside a tensor of integers, with rows in one piece if it has to be.
    pub(super) fn matrices_of_bytes(
        &mut self,
        source: Ref,
        shape: &[usize],
        in_rows: bool,
    ) -> Matrices {
        let inner = shape.len() - 2;
        let matrices = |at: At, steps: &[usize]| Matrices {
            at,
            batch: steps[..inner].to_vec(),
            row: steps[inner],
            column: steps[inner + 1],
        };
        if let Ref::Node(index, _) = source
            && self.made[index].is_none()
            && let Some(Turned { at, turn }) = self.turned.get(&index)
        {
            let own = strides(&turn.shape);
            let steps: Vec<usize> = turn.order.iter().map(|&dim| own[dim]).collect();
            let same = turn.order.iter().map(|&dim| turn.shape[dim]);
            if same.eq(shape.iter().copied()) && (!in_rows || steps[inner + 1] == 1) {
                return matrices(*at, &steps);
            }
        }
        matrices(self.first(source), &strides(shape))
    }
}
