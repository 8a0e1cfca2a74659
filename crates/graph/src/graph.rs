//! The canonical graph: operators in single static assignment form, each known by what it computes.
//!
//! A graph is built through a [`Builder`], which gives every operator the digest of its name,
//! attributes and operands (see [`crate::commit`]). Two operators of one digest compute the same
//! and become one. The finished graph holds what its outputs need, in canonical order: from the
//! first output on, an operator's operands come before it, first operand first. That order follows
//! from the structure alone, leaves no ties, and keeps values alive for a short time. The constants
//! are in ascending order of their digests. Hence neither names of nodes and values inside the
//! graph nor any order in a file can change the graph's root.

use std::collections::BTreeMap;
use std::sync::Arc;

use lemma_types::Digest;
use lemma_types::tensor::{Dim, TensorSpec};

use crate::commit::{Canon, FORMAT_VERSION, tree_root};
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Op, deduce, is_dynamic};
use crate::tensor::Tensor;

const OPERATOR_CONTEXT: &str = "lemma graph v1 operator";
const GRAPH_CONTEXT: &str = "lemma graph v1 root";

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ref {
    Input(usize),
    Constant(usize),
    /// An operator and the number of its output.
    Node(usize, usize),
}

/// An operator in its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<Option<Ref>>,
    pub(crate) digest: Digest,
    /// What to call it in messages; not committed to.
    pub(crate) label: Arc<str>,
    /// Whether the shape of an output depends on data.
    pub(crate) dynamic: bool,
}

/// A constant and its digest.
#[derive(Debug)]
pub(crate) struct Constant {
    pub(crate) digest: Digest,
    pub(crate) ty: Concrete,
    /// The elements, unless an operator that was prepared holds them in its own arrangement: see
    /// [`crate::prepare`].
    pub(crate) tensor: Option<Tensor>,
}

impl Constant {
    fn new(digest: Digest, tensor: Tensor) -> Constant {
        Constant {
            digest,
            ty: Concrete::of(&tensor),
            tensor: Some(tensor),
        }
    }

    /// What is known of it: its elements too where they are there.
    pub(crate) fn fact(&self) -> Fact {
        match &self.tensor {
            Some(tensor) => Fact::constant(tensor.clone()),
            None => {
                let dims = self.ty.shape.iter().map(|&d| Sym::size(d)).collect();
                Fact::of_type(Type::new(self.ty.dtype, dims))
            }
        }
    }
}

/// A canonical graph.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    pub(crate) output_refs: Vec<Ref>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Digest,
    /// Whether a shape depends on data: then memory and cost of a run are known only as it goes.
    pub(crate) dynamic: bool,
}

/// A value under construction.
pub(crate) type ValueId = usize;

struct Value {
    source: Ref,
    fact: Fact,
}

/// Builds a graph, operator by operator.
#[derive(Default)]
pub(crate) struct Builder {
    inputs: Vec<TensorSpec>,
    constants: Vec<Constant>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    /// First value of each operator, and the value of each constant and input.
    firsts: [Vec<ValueId>; 3],
    /// First value of each operator that was seen, by digest.
    seen: BTreeMap<Digest, ValueId>,
    seen_constants: BTreeMap<Digest, ValueId>,
}

impl Graph {
    /// For each operator, where an output of it is read for the last time; the end of the graph's
    /// nodes where the graph gives it out.
    pub(crate) fn last_reads(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes.len()).collect();
        for (index, node) in self.nodes.iter().enumerate() {
            for source in node.inputs.iter().flatten() {
                if let Ref::Node(operand, _) = *source {
                    last[operand] = index;
                }
            }
        }
        for source in &self.output_refs {
            if let Ref::Node(operand, _) = *source {
                last[operand] = self.nodes.len();
            }
        }
        last
    }
}

impl Builder {
    /// Adds an input of the graph.
    pub(crate) fn input(&mut self, spec: TensorSpec) -> ValueId {
        let shape = spec.shape.iter().map(|dim| match dim {
            Dim::Fixed(n) => i64::try_from(*n).map_or(Sym::Unknown, Sym::Known),
            Dim::Symbol(name) => Sym::Symbol(name.as_str().into()),
        });
        let fact = Fact::of_type(Type::new(spec.dtype, shape.collect()));
        let source = Ref::Input(self.inputs.len());
        self.inputs.push(spec);
        self.value(source, fact)
    }

    /// Adds a constant, unless an equal one is there.
    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let digest = tensor.digest();
        if let Some(&value) = self.seen_constants.get(&digest) {
            return value;
        }
        let source = Ref::Constant(self.constants.len());
        let fact = Fact::constant(tensor.clone());
        self.constants.push(Constant::new(digest, tensor));
        let value = self.value(source, fact);
        self.seen_constants.insert(digest, value);
        value
    }

    /// The operator that makes a value as its first output, and that operator's operands.
    pub(crate) fn maker(&self, value: ValueId) -> Option<(&Op, Vec<Option<ValueId>>)> {
        let Ref::Node(index, 0) = self.values[value].source else {
            return None;
        };
        let node = &self.nodes[index];
        let id = |source: &Ref| match *source {
            Ref::Node(i, output) => self.firsts[0][i] + output,
            Ref::Constant(i) => self.firsts[1][i],
            Ref::Input(i) => self.firsts[2][i],
        };
        let operands = node.inputs.iter().map(|i| i.as_ref().map(id));
        Some((&node.op, operands.collect()))
    }

    /// Adds an operator, unless an equal one is there; gives the first of its outputs, which are
    /// numbered on from there.
    pub(crate) fn operator(
        &mut self,
        op: Op,
        inputs: &[Option<ValueId>],
        label: &Arc<str>,
    ) -> Result<ValueId, OpError> {
        let facts: Vec<Option<&Fact>> = inputs
            .iter()
            .map(|i| i.map(|v| &self.values[v].fact))
            .collect();
        let dynamic = is_dynamic(op.as_ref(), &facts);
        let facts = deduce(op.as_ref(), &facts)?;
        let refs: Vec<Option<Ref>> = inputs
            .iter()
            .map(|i| i.map(|v| self.values[v].source))
            .collect();
        let digest = self.operator_digest(&op, &refs);
        if let Some(&value) = self.seen.get(&digest) {
            return Ok(value);
        }
        let index = self.nodes.len();
        self.nodes.push(Node {
            op,
            inputs: refs,
            digest,
            label: label.clone(),
            dynamic,
        });
        let first = self.values.len();
        for (output, fact) in facts.into_iter().enumerate() {
            self.value(Ref::Node(index, output), fact);
        }
        self.seen.insert(digest, first);
        Ok(first)
    }

    fn value(&mut self, source: Ref, fact: Fact) -> ValueId {
        match source {
            Ref::Node(_, 0) => self.firsts[0].push(self.values.len()),
            Ref::Node(..) => {}
            Ref::Constant(_) => self.firsts[1].push(self.values.len()),
            Ref::Input(_) => self.firsts[2].push(self.values.len()),
        }
        self.values.push(Value { source, fact });
        self.values.len() - 1
    }

    /// What a value is, whatever its place, as a digest.
    pub(crate) fn value_digest(&self, value: ValueId) -> Digest {
        let mut canon = Canon::default();
        self.identity(self.values[value].source, &mut canon);
        canon.finish(OPERATOR_CONTEXT)
    }

    /// What is known of a value.
    pub(crate) fn fact(&self, value: ValueId) -> &Fact {
        &self.values[value].fact
    }

    /// The number of operators so far.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    fn operator_digest(&self, op: &Op, inputs: &[Option<Ref>]) -> Digest {
        let mut canon = Canon::default();
        canon.text(op.name());
        op.attributes(&mut canon);
        canon.size(inputs.len());
        for input in inputs {
            match input {
                None => {
                    canon.u8(0);
                }
                Some(source) => self.identity(*source, &mut canon),
            }
        }
        canon.finish(OPERATOR_CONTEXT)
    }

    /// Appends what a value is, whatever its place.
    fn identity(&self, source: Ref, canon: &mut Canon) {
        match source {
            Ref::Input(i) => {
                canon.u8(1);
                signature(&self.inputs[i], canon);
            }
            Ref::Constant(i) => {
                canon.u8(2).digest(&self.constants[i].digest);
            }
            Ref::Node(i, output) => {
                canon.u8(3).digest(&self.nodes[i].digest).size(output);
            }
        }
    }

    /// The canonical graph of these outputs.
    pub(crate) fn finish(self, outputs: Vec<(TensorSpec, ValueId)>) -> Graph {
        let roots: Vec<Ref> = outputs
            .iter()
            .map(|(_, value)| self.values[*value].source)
            .collect();
        let root = self.root(&outputs, &roots);
        let order = self.order(&roots);
        let place: BTreeMap<usize, usize> = order
            .iter()
            .enumerate()
            .map(|(new, &old)| (old, new))
            .collect();
        let kept = self.kept_constants(&order, &roots);
        let constant_place: BTreeMap<usize, usize> = kept
            .iter()
            .enumerate()
            .map(|(new, &old)| (old, new))
            .collect();
        let moved = |source: Ref| match source {
            Ref::Input(i) => Ref::Input(i),
            Ref::Constant(i) => Ref::Constant(constant_place[&i]),
            Ref::Node(i, output) => Ref::Node(place[&i], output),
        };
        let mut nodes: Vec<Option<Node>> = self.nodes.into_iter().map(Some).collect();
        let mut constants: Vec<Option<Constant>> = self.constants.into_iter().map(Some).collect();
        let nodes: Vec<Node> = order
            .iter()
            .filter_map(|&old| nodes[old].take())
            .map(|node| Node {
                inputs: node.inputs.iter().map(|i| i.map(moved)).collect(),
                ..node
            })
            .collect();
        Graph {
            dynamic: nodes.iter().any(|node| node.dynamic),
            inputs: self.inputs,
            output_refs: roots.into_iter().map(moved).collect(),
            outputs: outputs.into_iter().map(|(spec, _)| spec).collect(),
            constants: kept
                .iter()
                .filter_map(|&old| constants[old].take())
                .collect(),
            nodes,
            root,
        }
    }

    /// Operators that the outputs need, operands first.
    fn order(&self, roots: &[Ref]) -> Vec<usize> {
        let mut order = Vec::new();
        let mut entered = vec![false; self.nodes.len()];
        // An explicit stack: a graph may be deeper than the thread's stack.
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for root in roots {
            if let Ref::Node(node, _) = *root
                && !std::mem::replace(&mut entered[node], true)
            {
                stack.push((node, 0));
            }
            while let Some((node, next)) = stack.last_mut() {
                match self.nodes[*node].inputs.get(*next) {
                    Some(input) => {
                        *next += 1;
                        if let Some(Ref::Node(operand, _)) = *input
                            && !std::mem::replace(&mut entered[operand], true)
                        {
                            stack.push((operand, 0));
                        }
                    }
                    None => {
                        order.push(*node);
                        stack.pop();
                    }
                }
            }
        }
        order
    }

    /// Constants that the kept operators and the outputs need, by digest.
    fn kept_constants(&self, order: &[usize], roots: &[Ref]) -> Vec<usize> {
        let operands = order
            .iter()
            .flat_map(|&n| self.nodes[n].inputs.iter().flatten());
        let by_digest: BTreeMap<Digest, usize> = operands
            .chain(roots)
            .filter_map(|source| match *source {
                Ref::Constant(i) => Some((self.constants[i].digest, i)),
                _ => None,
            })
            .collect();
        by_digest.into_values().collect()
    }

    /// The graph's root.
    fn root(&self, outputs: &[(TensorSpec, ValueId)], roots: &[Ref]) -> Digest {
        let order = self.order(roots);
        let operators: Vec<Digest> = order.iter().map(|&n| self.nodes[n].digest).collect();
        let constants: Vec<Digest> = self
            .kept_constants(&order, roots)
            .iter()
            .map(|&c| self.constants[c].digest)
            .collect();
        let mut canon = Canon::default();
        canon.u64(u64::from(FORMAT_VERSION));
        canon.size(self.inputs.len());
        for input in &self.inputs {
            signature(input, &mut canon);
        }
        canon.size(outputs.len());
        for ((spec, _), root) in outputs.iter().zip(roots) {
            canon.text(&spec.name);
            self.identity(*root, &mut canon);
        }
        canon.size(constants.len()).digest(&tree_root(&constants));
        canon.size(operators.len()).digest(&tree_root(&operators));
        canon.finish(GRAPH_CONTEXT)
    }
}

/// Appends name, type and dimensions of an input.
fn signature(spec: &TensorSpec, canon: &mut Canon) {
    canon
        .text(&spec.name)
        .u8(spec.dtype.code())
        .size(spec.shape.len());
    for dim in &spec.shape {
        match dim {
            Dim::Fixed(n) => canon.u8(0).u64(*n),
            Dim::Symbol(name) => canon.u8(1).text(name),
        };
    }
}
