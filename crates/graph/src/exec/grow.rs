//! Chains as they grow: which elementwise operators follow a value, and how their operands lie.

use std::collections::{BTreeMap, BTreeSet};

use lemma_kernels::{Binary, MAX_LINKS};
use lemma_types::tensor::DType;

use super::At;
use super::build::{Builder, channels_last, layouts_agree};
use super::chain::{ChainSpec, LinkSpec, Operand, broadcast};
use super::pattern::{Elementwise, as_op, elementwise, is_alias};
use crate::graph::Ref;
use crate::ops::select::Where;

/// Most operators of a chain, those that are no links included.
const MOST_MEMBERS: usize = 2 * MAX_LINKS;

impl Builder<'_> {
    /// Adds the operators that can follow; gives the last one of those that do.
    pub(super) fn grow(&mut self, chain: &mut Growing) -> usize {
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
            let links = chain.links.len();
            if self.link(chain, index).is_some() {
                waiting.extend(&self.consumers[index]);
                continue;
            }
            chain.links.truncate(links);
            if let Some(after) = self.requantise(chain, index) {
                waiting.extend(&self.consumers[after]);
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
    pub(super) fn link(&mut self, chain: &mut Growing, index: usize) -> Option<()> {
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
        if as_op::<Where>(node).is_some() {
            return self.select(chain, index, &out);
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
            Elementwise::Softmax if room(1) && !chain.lies_last && !chain.by_tiles => {
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

    /// Adds a selection between a value of the chain and a number, as masks of attention are.
    fn select(&mut self, chain: &mut Growing, index: usize, out: &[usize]) -> Option<()> {
        let &[Some(mask), Some(yes), Some(no)] = &self.node(index).inputs[..] else {
            return None;
        };
        if chain.lies_last || chain.links.len() == MAX_LINKS {
            return None;
        }
        let whole = |source| chain.value(source).filter(|(_, shape)| *shape == out);
        let (value, keep, other) = match (whole(yes), whole(no)) {
            (Some((value, _)), None) => (value, true, 2),
            (None, Some((value, _))) => (value, false, 1),
            _ => return None,
        };
        let source = self.node(index).inputs[other]?;
        let Operand::Scalar(other) = self.operand(chain, index, other, source, out)? else {
            return None;
        };
        let own = self.planned[index].operands[0].as_ref()?;
        let own = padded(&own.shape, out.len())?;
        let rows = broadcast(At::Input(0), &own, out)?;
        if !self.precedes(chain, mask) {
            return None;
        }
        let Operand::Rows { divide, modulo, .. } = rows else {
            return None;
        };
        chain.links.push(LinkSpec::Select {
            mask: self.first(mask),
            divide,
            modulo,
            keep,
            value,
            other,
        });
        chain.member(index, chain.links.len(), out);
        Some(())
    }

    /// Whether an operand is there when a chain begins.
    fn precedes(&self, chain: &Growing, source: Ref) -> bool {
        match source {
            Ref::Node(i, _) => self.planned[i].known.is_some() || i < chain.first(),
            _ => true,
        }
    }

    /// Operand `i` of an operator that may join a chain.
    pub(super) fn operand(
        &mut self,
        chain: &mut Growing,
        index: usize,
        i: usize,
        source: Ref,
        out: &[usize],
    ) -> Option<Operand> {
        if let Some((value, shape)) = chain.value(source) {
            return (shape == out).then_some(Operand::Value(value));
        }
        if let Some(value) = self.dequantised(chain, source, out) {
            return Some(Operand::Value(value));
        }
        if !self.precedes(chain, source) {
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
pub(super) fn padded(shape: &[usize], rank: usize) -> Option<Vec<usize>> {
    let missing = rank.checked_sub(shape.len())?;
    let mut all = vec![1; missing];
    all.extend(shape);
    Some(all)
}

/// What a chain begins with.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// The output of an operator.
    Operator(usize),
    /// A value that is there, and the first operator on it.
    Value(Ref, usize),
}

pub(super) struct Member {
    node: usize,
    /// Whether a chain may end with it.
    last: bool,
    /// Which value of the chain its output is.
    value: usize,
    /// Links up to here.
    links: usize,
    shape: Vec<usize>,
}

/// A chain as it grows.
pub(super) struct Growing {
    pub(super) start: Start,
    /// The shape of the result so far.
    pub(super) shape: Vec<usize>,
    start_shape: Vec<usize>,
    pub(super) lies_last: bool,
    /// Whether it is applied to parts of rows.
    pub(super) by_tiles: bool,
    pub(super) links: Vec<LinkSpec>,
    /// The value that the start is, after links of its own.
    start_value: usize,
    pub(super) members: Vec<Member>,
    by_node: BTreeMap<usize, usize>,
}

impl Growing {
    pub(super) fn new(index: usize, shape: &[usize], lies_last: bool) -> Growing {
        Growing {
            start: Start::Operator(index),
            shape: shape.to_vec(),
            start_shape: shape.to_vec(),
            lies_last,
            by_tiles: false,
            links: Vec::new(),
            start_value: 0,
            members: Vec::new(),
            by_node: BTreeMap::new(),
        }
    }

    pub(super) fn from_value(
        value: Ref,
        index: usize,
        shape: &[usize],
        lies_last: bool,
    ) -> Growing {
        Growing {
            start: Start::Value(value, index),
            ..Growing::new(index, shape, lies_last)
        }
    }

    /// A link that belongs to the start.
    pub(super) fn add(&mut self, op: Binary, a: Operand, b: Operand) {
        self.links.push(LinkSpec::Binary(op, a, b));
        self.start_value = self.links.len();
    }

    pub(super) fn first(&self) -> usize {
        match self.start {
            Start::Operator(index) | Start::Value(_, index) => index,
        }
    }

    pub(super) fn member(&mut self, node: usize, value: usize, shape: &[usize]) {
        self.by_node.insert(node, self.members.len());
        self.shape = shape.to_vec();
        self.members.push(Member {
            node,
            last: true,
            value,
            links: self.links.len(),
            shape: shape.to_vec(),
        });
    }

    /// A quantisation and the dequantisation of its result, which is the last value.
    pub(super) fn members(&mut self, quantise: usize, dequantise: usize, shape: &[usize]) {
        for node in [quantise, dequantise] {
            self.member(node, self.links.len(), shape);
            self.members.last_mut().expect("it has been added").last = false;
        }
    }

    /// Which value of the chain an operand is, and its shape.
    pub(super) fn value(&self, source: Ref) -> Option<(usize, &[usize])> {
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
    pub(super) fn cut<'c>(
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
                Some(i) => {
                    let member = &self.members[i];
                    member.last && member.value == member.links
                }
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

    pub(super) fn spec(self) -> ChainSpec {
        ChainSpec { links: self.links }
    }
}
