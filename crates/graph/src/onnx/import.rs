//! From messages to a graph: the signature, the names, the order of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lemma_types::tensor::TensorSpec;

use crate::error::{ImportError, OpError};
use crate::files::Files;
use crate::graph::{Builder, Graph, ValueId};
use crate::limits::Limits;
use crate::onnx::OPSETS;
use crate::onnx::lower::{self, Failure, NodeContext};
use crate::onnx::narrow::Narrow;
use crate::onnx::proto::{self, Decoder, Dimension};
use crate::onnx::signature::{input_spec, output_spec};
use crate::onnx::subgraph::free_names;
use crate::onnx::tensor::Constants;

/// Reads an ONNX model into the canonical graph. `copied` is told how many bytes were read whenever some
/// were, which is the time to give back what is cached of them: first all, when the messages were read, then
/// those of each weight.
pub(crate) fn import(
    bytes: &[u8],
    files: &dyn Files,
    limits: &Limits,
    copied: &dyn Fn(u64),
) -> Result<Graph, ImportError> {
    if bytes.len() as u64 > limits.model_bytes {
        return Err(ImportError::Limit {
            what: "bytes of the model",
            found: bytes.len() as u64,
            limit: limits.model_bytes,
        });
    }
    let names: Vec<String>;
    let mut model = Decoder::new(limits).model(bytes)?;
    if let Some(graph) = &mut model.graph {
        // Names that lie between weights are copied: to look them up would bring back pages of these.
        let initializers = graph.initializers.iter();
        names = initializers.map(|tensor| tensor.name.to_owned()).collect();
        for (tensor, name) in graph.initializers.iter_mut().zip(&names) {
            tensor.name = name;
        }
    }
    copied(bytes.len() as u64);
    let opset = opset(&model)?;
    let Some(graph) = &model.graph else {
        return Err(ImportError::Model("the model has no graph".into()));
    };
    if model.functions > 0 {
        return Err(ImportError::Model(
            "the model defines functions of its own, which are not supported: inline them before export".into(),
        ));
    }
    if graph.sparse_initializers > 0 {
        return Err(ImportError::Model(
            "sparse initializers are not supported".into(),
        ));
    }
    Importer {
        opset,
        limits,
        constants: Constants::new(limits, files, copied),
        builder: Builder::default(),
        scopes: vec![Scope::new()],
    }
    .run(graph)
}

/// The version of the default operator set.
fn opset(model: &proto::Model<'_>) -> Result<i64, ImportError> {
    if model.ir_version < 1 {
        return Err(ImportError::Model(
            "the model has no IR version: it is not an ONNX model".into(),
        ));
    }
    let mut version = None;
    for (domain, v) in &model.opsets {
        if is_default_domain(domain) && version.replace(*v).is_some() {
            return Err(ImportError::Model(
                "the default operator set is imported twice".into(),
            ));
        }
    }
    match version {
        Some(v) if OPSETS.contains(&v) => Ok(v),
        Some(v) => Err(ImportError::Model(format!(
            "operator set {v} is not supported: convert the model to one of {} to {}",
            OPSETS.start(),
            OPSETS.end()
        ))),
        None => Err(ImportError::Model(
            "the model imports no operator set".into(),
        )),
    }
}

fn is_default_domain(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// How a node is called in messages: by its name, or else by its first output.
pub(crate) fn label(node: &proto::Node<'_>, index: usize) -> String {
    let output = node.outputs.iter().find(|o| !o.is_empty());
    match (node.name, output) {
        ("", Some(output)) => format!("#{index} (of `{output}`)"),
        ("", None) => format!("#{index}"),
        (name, _) => format!("`{name}`"),
    }
}

/// A value, and what its elements stand for where that is not what a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) id: ValueId,
    pub(crate) narrow: Option<Narrow>,
}

/// Values by name.
pub(super) type Scope<'a> = BTreeMap<&'a str, Typed>;

pub(super) struct Importer<'a> {
    pub(super) opset: i64,
    pub(super) limits: &'a Limits,
    pub(super) constants: Constants<'a>,
    pub(super) builder: Builder,
    /// The names of the graph that is read, and of those around it whose nodes become its own.
    pub(super) scopes: Vec<Scope<'a>>,
}

/// Every name has one definition. An input that is also an initializer has that as default
/// value, which older files give to all weights: it counts as the initializer.
pub(super) fn check_names<'a>(graph: &'a proto::Graph<'a>) -> Result<(), ImportError> {
    let mut defined: BTreeMap<&'a str, String> = BTreeMap::new();
    let mut define = |name: &'a str, by: String| match defined.insert(name, by.clone()) {
        Some(first) => Err(ImportError::Duplicate {
            name: name.to_owned(),
            first,
            second: by,
        }),
        None => Ok(()),
    };
    let mut initializers = BTreeSet::new();
    for tensor in &graph.initializers {
        if tensor.name.is_empty() {
            return Err(ImportError::Model("an initializer has no name".into()));
        }
        define(tensor.name, "an initializer".into())?;
        initializers.insert(tensor.name);
    }
    let mut inputs = BTreeSet::new();
    for input in &graph.inputs {
        if input.name.is_empty() {
            return Err(ImportError::Model("a graph input has no name".into()));
        }
        if !inputs.insert(input.name) || !initializers.contains(input.name) {
            define(input.name, "a graph input".into())?;
        }
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            define(output, format!("node {}", label(node, index)))?;
        }
    }
    let mut outputs = BTreeSet::new();
    for output in &graph.outputs {
        if !outputs.insert(output.name) {
            return Err(ImportError::Duplicate {
                name: output.name.to_owned(),
                first: "a graph output".into(),
                second: "another graph output".into(),
            });
        }
    }
    Ok(())
}

/// What a node reads, and what its subgraphs read from around them.
fn reads<'a>(node: &proto::Node<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = node
        .inputs
        .iter()
        .copied()
        .filter(|i| !i.is_empty())
        .collect();
    for (_, attribute) in &node.attributes {
        if let proto::Attribute::Graph(graph) = attribute {
            names.extend(free_names(graph));
        }
    }
    names
}

/// A node on a cycle, among those that never became ready: walking from one of them to what
/// it waits for must come back to a node that was passed.
fn on_a_cycle(
    graph: &proto::Graph<'_>,
    waiting: &[usize],
    producer: &BTreeMap<&str, usize>,
) -> String {
    let mut passed = BTreeSet::new();
    let mut at = waiting.iter().position(|&n| n > 0).unwrap_or(0);
    while passed.insert(at) {
        let inputs = reads(&graph.nodes[at]);
        let stuck = inputs
            .iter()
            .filter_map(|i| producer.get(i))
            .find(|&&n| waiting[n] > 0);
        at = stuck.copied().unwrap_or(at);
    }
    let node = &graph.nodes[at];
    format!("{} (`{}`)", label(node, at), node.op)
}

impl<'a> Importer<'a> {
    fn run(mut self, graph: &'a proto::Graph<'a>) -> Result<Graph, ImportError> {
        check_names(graph)?;
        self.initializers(graph)?;
        self.inputs(graph)?;
        self.nodes(graph)?;
        let outputs = self.outputs(graph)?;
        Ok(self.builder.finish(outputs))
    }

    /// The value of a name.
    pub(super) fn value(&self, name: &str) -> Option<Typed> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.get(name))
            .copied()
    }

    fn define(&mut self, name: &'a str, value: Typed) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    /// Reads the nodes of a graph, in an order in which each comes after those it reads from.
    pub(super) fn nodes(&mut self, graph: &'a proto::Graph<'a>) -> Result<(), ImportError> {
        for index in self.order(graph)? {
            self.node(&graph.nodes[index], index)?;
        }
        Ok(())
    }

    pub(super) fn initializers(&mut self, graph: &'a proto::Graph<'a>) -> Result<(), ImportError> {
        for proto in &graph.initializers {
            let tensor = self.constants.read(proto.name, proto)?;
            let id = self.builder.constant(tensor);
            let narrow = Narrow::of(proto.data_type);
            self.define(proto.name, Typed { id, narrow });
        }
        Ok(())
    }

    fn inputs(&mut self, graph: &'a proto::Graph<'a>) -> Result<(), ImportError> {
        let declared: BTreeSet<&str> = graph
            .inputs
            .iter()
            .flat_map(|i| i.shape.iter().flatten())
            .filter_map(|d| match d {
                Dimension::Param(name) => Some(*name),
                _ => None,
            })
            .collect();
        let mut count = 0;
        for input in &graph.inputs {
            if self.value(input.name).is_some() {
                continue;
            }
            count += 1;
            if count > lemma_types::limits::TENSORS {
                return Err(ImportError::Limit {
                    what: "graph inputs",
                    found: count as u64,
                    limit: lemma_types::limits::TENSORS as u64,
                });
            }
            let (spec, narrow) = input_spec(input, &declared)?;
            let id = self.builder.input(spec);
            self.define(input.name, Typed { id, narrow });
        }
        Ok(())
    }

    /// Indices of the nodes, each after those it reads from.
    fn order(&self, graph: &proto::Graph<'a>) -> Result<Vec<usize>, ImportError> {
        let nodes = &graph.nodes;
        let mut producer: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            producer.extend(
                node.outputs
                    .iter()
                    .filter(|o| !o.is_empty())
                    .map(|&o| (o, index)),
            );
        }
        let mut waiting = vec![0usize; nodes.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            for input in &reads(node) {
                if !producer.contains_key(input) && self.value(input).is_some() {
                    continue;
                }
                let Some(&from) = producer.get(input) else {
                    return Err(ImportError::Undefined {
                        node: format!("{} (`{}`)", label(node, index), node.op),
                        value: (*input).to_owned(),
                    });
                };
                readers[from].push(index);
                waiting[index] += 1;
            }
        }
        let mut ready: Vec<usize> = (0..nodes.len()).filter(|&i| waiting[i] == 0).collect();
        let mut next = 0;
        while let Some(&node) = ready.get(next) {
            next += 1;
            for &reader in &readers[node] {
                waiting[reader] -= 1;
                if waiting[reader] == 0 {
                    ready.push(reader);
                }
            }
        }
        match waiting.iter().position(|&n| n > 0) {
            None => Ok(ready),
            Some(_) => Err(ImportError::Cycle {
                node: on_a_cycle(graph, &waiting, &producer),
            }),
        }
    }

    fn node(&mut self, node: &'a proto::Node<'a>, index: usize) -> Result<(), ImportError> {
        let name = label(node, index);
        let failed = |opset, source| ImportError::Node {
            op: node.op.to_owned(),
            opset,
            node: name.clone(),
            source,
        };
        let at = |opset| {
            move |failure| match failure {
                Failure::Op(source) => failed(opset, source),
                Failure::Import(error) => error,
            }
        };
        let inputs: Vec<Option<Typed>> = node
            .inputs
            .iter()
            .map(|i| match *i {
                "" => None,
                name => self.value(name),
            })
            .collect();
        let label: Arc<str> = name.as_str().into();
        let outputs = match self.control_flow(node, &inputs, &label) {
            Some(outputs) => outputs.map_err(at(self.opset))?,
            None => {
                let mut context = NodeContext::new(
                    node,
                    self.opset,
                    inputs,
                    &mut self.builder,
                    &mut self.constants,
                    label,
                );
                let lowered = lower::lower(&mut context).ok_or_else(|| ImportError::Operator {
                    op: node.op.to_owned(),
                    domain: match node.domain {
                        "" => "ai.onnx".to_owned(),
                        domain => domain.to_owned(),
                    },
                    opset: self.opset,
                    node: name.clone(),
                })?;
                let outputs = lowered.map_err(at(self.opset))?;
                let unasked = context.check_attributes();
                unasked.map_err(|source| failed(self.opset, source))?;
                outputs
            }
        };
        let opset = self.opset;
        let failed = |source| failed(opset, source);
        if node.outputs.iter().all(|o| o.is_empty()) {
            return Err(failed(OpError::unsupported("the node has no output")));
        }
        let named = node.outputs.iter().enumerate();
        for (place, output) in named.filter(|(_, o)| !o.is_empty()) {
            let Some(&value) = outputs.get(place) else {
                return Err(failed(OpError::unsupported(format!(
                    "output {place} (`{output}`) is not supported"
                ))));
            };
            self.define(output, value);
        }
        if self.builder.len() > self.limits.nodes {
            return Err(ImportError::Limit {
                what: "operators",
                found: self.builder.len() as u64,
                limit: self.limits.nodes as u64,
            });
        }
        Ok(())
    }

    fn outputs(
        &self,
        graph: &'a proto::Graph<'a>,
    ) -> Result<Vec<(TensorSpec, ValueId)>, ImportError> {
        if graph.outputs.is_empty() {
            return Err(ImportError::Model("the graph has no output".into()));
        }
        let spec = |output: &proto::ValueInfo<'_>| {
            let undefined = || ImportError::Signature {
                role: "output",
                name: output.name.to_owned(),
                reason: "nothing defines it".into(),
            };
            let value = self.value(output.name).ok_or_else(undefined)?;
            let fact = self.builder.fact(value.id);
            let spec = output_spec(output, value, fact, &producer(graph, output.name))?;
            Ok((spec, value.id))
        };
        graph.outputs.iter().map(spec).collect()
    }
}

/// Which node computes a value, for messages.
fn producer(graph: &proto::Graph<'_>, value: &str) -> String {
    let mut nodes = graph.nodes.iter().enumerate();
    let found = nodes.find(|(_, node)| node.outputs.contains(&value));
    found.map_or(String::new(), |(index, node)| {
        format!(" by node {}", label(node, index))
    })
}
