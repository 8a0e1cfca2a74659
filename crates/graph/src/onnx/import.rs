//! From messages to a graph: the signature, the names, the order of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lemma_types::tensor::{Dim, TensorSpec};

use crate::error::ImportError;
use crate::fact::Sym;
use crate::files::Files;
use crate::graph::{Builder, Graph, ValueId};
use crate::limits::Limits;
use crate::onnx::OPSETS;
use crate::onnx::lower::{self, NodeContext};
use crate::onnx::proto::{self, Decoder, Dimension};
use crate::onnx::tensor::{Constants, dtype};

/// Reads an ONNX model into the canonical graph.
pub(crate) fn import(
    bytes: &[u8],
    files: &dyn Files,
    limits: &Limits,
) -> Result<Graph, ImportError> {
    if bytes.len() as u64 > limits.model_bytes {
        return Err(ImportError::Limit {
            what: "bytes of the model",
            found: bytes.len() as u64,
            limit: limits.model_bytes,
        });
    }
    let model = Decoder::new(limits).model(bytes)?;
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
        graph,
        opset,
        limits,
        constants: Constants::new(limits, files),
        builder: Builder::default(),
        values: BTreeMap::new(),
    }
    .run()
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

struct Importer<'a> {
    graph: &'a proto::Graph<'a>,
    opset: i64,
    limits: &'a Limits,
    constants: Constants<'a>,
    builder: Builder,
    /// Values by name.
    values: BTreeMap<&'a str, ValueId>,
}

impl<'a> Importer<'a> {
    fn run(mut self) -> Result<Graph, ImportError> {
        self.check_names()?;
        self.initializers()?;
        self.inputs()?;
        for index in self.order()? {
            self.node(index)?;
        }
        let outputs = self.outputs()?;
        Ok(self.builder.finish(outputs))
    }

    /// Every name has one definition. An input that is also an initializer has that as default
    /// value, which older files give to all weights: it counts as the initializer.
    fn check_names(&self) -> Result<(), ImportError> {
        let mut defined: BTreeMap<&str, String> = BTreeMap::new();
        let mut define = |name: &'a str, by: String| match defined.insert(name, by.clone()) {
            Some(first) => Err(ImportError::Duplicate {
                name: name.to_owned(),
                first,
                second: by,
            }),
            None => Ok(()),
        };
        let graph = self.graph;
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

    fn initializers(&mut self) -> Result<(), ImportError> {
        for proto in &self.graph.initializers {
            let tensor = self.constants.read(proto.name, proto)?;
            let value = self.builder.constant(tensor);
            self.values.insert(proto.name, value);
        }
        Ok(())
    }

    fn inputs(&mut self) -> Result<(), ImportError> {
        let declared: BTreeSet<&str> = self
            .graph
            .inputs
            .iter()
            .flat_map(|i| i.shape.iter().flatten())
            .filter_map(|d| match d {
                Dimension::Param(name) => Some(*name),
                _ => None,
            })
            .collect();
        let mut count = 0;
        for input in &self.graph.inputs {
            if self.values.contains_key(input.name) {
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
            let spec = input_spec(input, &declared)?;
            let value = self.builder.input(spec);
            self.values.insert(input.name, value);
        }
        Ok(())
    }

    /// Indices of the nodes, each after those it reads from.
    fn order(&self) -> Result<Vec<usize>, ImportError> {
        let nodes = &self.graph.nodes;
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
            for input in node.inputs.iter().filter(|i| !i.is_empty()) {
                if self.values.contains_key(input) {
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
                node: self.on_a_cycle(&waiting, &producer),
            }),
        }
    }

    /// A node on a cycle, among those that never became ready: walking from one of them to what
    /// it waits for must come back to a node that was passed.
    fn on_a_cycle(&self, waiting: &[usize], producer: &BTreeMap<&str, usize>) -> String {
        let mut passed = BTreeSet::new();
        let mut at = waiting.iter().position(|&n| n > 0).unwrap_or(0);
        while passed.insert(at) {
            let inputs = self.graph.nodes[at].inputs.iter();
            let stuck = inputs
                .filter_map(|i| producer.get(i))
                .find(|&&n| waiting[n] > 0);
            at = stuck.copied().unwrap_or(at);
        }
        let node = &self.graph.nodes[at];
        format!("{} (`{}`)", label(node, at), node.op)
    }

    fn node(&mut self, index: usize) -> Result<(), ImportError> {
        let node = &self.graph.nodes[index];
        let name = label(node, index);
        let unknown = |domain: &str| ImportError::Operator {
            op: node.op.to_owned(),
            domain: domain.to_owned(),
            opset: self.opset,
            node: name.clone(),
        };
        if !is_default_domain(node.domain) {
            return Err(unknown(node.domain));
        }
        let inputs = node
            .inputs
            .iter()
            .map(|i| match *i {
                "" => None,
                name => self.values.get(name).copied(),
            })
            .collect();
        let label: Arc<str> = name.as_str().into();
        let mut context = NodeContext::new(
            node,
            self.opset,
            inputs,
            &mut self.builder,
            &mut self.constants,
            label,
        );
        let failed = |source| ImportError::Node {
            op: node.op.to_owned(),
            opset: self.opset,
            node: name.clone(),
            source,
        };
        let outputs = match lower::lower(&mut context) {
            Some(Ok(outputs)) => outputs,
            Some(Err(lower::Failure::Op(source))) => return Err(failed(source)),
            Some(Err(lower::Failure::Import(error))) => return Err(error),
            None => return Err(unknown("ai.onnx")),
        };
        context.check_attributes().map_err(failed)?;
        if node.outputs.iter().all(|o| o.is_empty()) {
            return Err(failed(crate::error::OpError::unsupported(
                "the node has no output",
            )));
        }
        for (place, output) in node
            .outputs
            .iter()
            .enumerate()
            .filter(|(_, o)| !o.is_empty())
        {
            let Some(&value) = outputs.get(place) else {
                return Err(failed(crate::error::OpError::unsupported(format!(
                    "output {place} (`{output}`) is not supported"
                ))));
            };
            self.values.insert(output, value);
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

    fn outputs(&self) -> Result<Vec<(TensorSpec, ValueId)>, ImportError> {
        if self.graph.outputs.is_empty() {
            return Err(ImportError::Model("the graph has no output".into()));
        }
        self.graph
            .outputs
            .iter()
            .map(|output| {
                let value =
                    *self
                        .values
                        .get(output.name)
                        .ok_or_else(|| ImportError::Signature {
                            role: "output",
                            name: output.name.to_owned(),
                            reason: "nothing defines it".into(),
                        })?;
                Ok((self.output_spec(output, value)?, value))
            })
            .collect()
    }

    /// Which node computes a value, for messages.
    fn producer(&self, value: &str) -> String {
        let nodes = self.graph.nodes.iter().enumerate();
        let found = nodes
            .into_iter()
            .find(|(_, node)| node.outputs.contains(&value));
        found.map_or(String::new(), |(index, node)| {
            format!(" by node {}", label(node, index))
        })
    }

    /// What is inferred of an output, made more precise by what is declared.
    fn output_spec(
        &self,
        output: &proto::ValueInfo<'_>,
        value: ValueId,
    ) -> Result<TensorSpec, ImportError> {
        let fact = self.builder.fact(value);
        let wrong = |reason: String| ImportError::Signature {
            role: "output",
            name: output.name.to_owned(),
            reason,
        };
        if let Some(code) = output.element_type.filter(|&code| code != 0) {
            let declared = dtype(code).map_err(wrong)?;
            if declared != fact.dtype() {
                return Err(wrong(format!(
                    "is declared {declared} and computed as {}{}",
                    fact.dtype(),
                    self.producer(output.name)
                )));
            }
        }
        let inferred = crate::fact::show(fact.shape());
        let declared = match &output.shape {
            Some(shape) if shape.len() != fact.rank() => {
                return Err(wrong(format!(
                    "is declared with {} dimensions and computed as {inferred}{}",
                    shape.len(),
                    self.producer(output.name)
                )));
            }
            Some(shape) => shape.clone(),
            None => vec![Dimension::Unknown; fact.rank()],
        };
        let dims = fact.shape().iter().zip(declared).enumerate();
        let shape = dims
            .map(|(axis, dim)| match dim {
                (Sym::Known(n), Dimension::Value(d)) if *n != d => Err(wrong(format!(
                    "dimension {axis} is declared {d} and computed as {n}{}",
                    self.producer(output.name)
                ))),
                (Sym::Known(n), _) => Ok(Dim::Fixed(n.unsigned_abs())),
                (_, Dimension::Value(d)) => match u64::try_from(d) {
                    Ok(d) => Ok(Dim::Fixed(d)),
                    Err(_) => Err(wrong(format!("dimension {axis} is declared {d}"))),
                },
                (Sym::Symbol(name), _) => Ok(Dim::Symbol(name.to_string())),
                (_, Dimension::Param(name)) => Ok(Dim::Symbol(name.to_owned())),
                _ => Ok(Dim::Symbol(format!("{}_dim_{axis}", output.name))),
            })
            .collect::<Result<_, _>>()?;
        Ok(TensorSpec {
            name: output.name.to_owned(),
            dtype: fact.dtype(),
            shape,
        })
    }
}

/// The signature of an input. A dimension without a number or name gets a name of its own.
fn input_spec(
    input: &proto::ValueInfo<'_>,
    declared: &BTreeSet<&str>,
) -> Result<TensorSpec, ImportError> {
    let wrong = |reason: String| ImportError::Signature {
        role: "input",
        name: input.name.to_owned(),
        reason,
    };
    let code = input
        .element_type
        .ok_or_else(|| wrong("is not declared to be a tensor".into()))?;
    let dtype = dtype(code).map_err(wrong)?;
    let dims = input
        .shape
        .as_ref()
        .ok_or_else(|| wrong("has no declared shape: export the model with one".into()))?;
    let shape = dims
        .iter()
        .enumerate()
        .map(|(axis, dim)| match *dim {
            Dimension::Value(n) => match u64::try_from(n) {
                Ok(n) => Ok(Dim::Fixed(n)),
                Err(_) => Err(wrong(format!("dimension {axis} is {n}"))),
            },
            Dimension::Param(name) => Ok(Dim::Symbol(name.to_owned())),
            Dimension::Unknown => {
                let mut name = format!("{}_dim_{axis}", input.name);
                while declared.contains(name.as_str()) {
                    name.push('_');
                }
                Ok(Dim::Symbol(name))
            }
        })
        .collect::<Result<Vec<Dim>, _>>()?;
    let mut fixed = shape.iter().filter_map(|d| match d {
        Dim::Fixed(n) => Some(*n),
        Dim::Symbol(_) => None,
    });
    let bytes = fixed.try_fold(dtype.size() as u64, |n, d| n.checked_mul(d.max(1)));
    if bytes.is_none_or(|n| n > isize::MAX as u64) {
        return Err(wrong("the product of its dimensions overflows".into()));
    }
    Ok(TensorSpec {
        name: input.name.to_owned(),
        dtype,
        shape,
    })
}
