//! Control flow: nodes with graphs inside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lemma_types::tensor::{DType, Dim, TensorSpec};

use crate::control::{Control, Lane, Subgraph, common};
use crate::error::{ImportError, OpError};
use crate::fact::{Fact, Sym, Type};
use crate::graph::{Builder, ValueId};
use crate::onnx::import::{Importer, Scope, Typed, check_names};
use crate::onnx::lower::Failure;
use crate::onnx::proto::{self, Attribute};
use crate::ops::layout::axis;

/// Names that a graph reads and does not define.
pub(super) fn free_names<'a>(graph: &proto::Graph<'a>) -> BTreeSet<&'a str> {
    let mut defined: BTreeSet<&str> = graph.inputs.iter().map(|i| i.name).collect();
    defined.extend(graph.initializers.iter().map(|i| i.name));
    let mut read: BTreeSet<&str> = graph.outputs.iter().map(|o| o.name).collect();
    for node in &graph.nodes {
        defined.extend(node.outputs.iter().copied());
        read.extend(node.inputs.iter().copied());
        for (_, attribute) in &node.attributes {
            if let Attribute::Graph(inner) = attribute {
                read.extend(free_names(inner));
            }
        }
    }
    read.retain(|name| !name.is_empty() && !defined.contains(name));
    read
}

/// Values that subgraphs read from around them.
struct Captured<'a> {
    /// In the order of the operands: by what they are, not by what they are called.
    values: Vec<Typed>,
    /// The name of each, and which value it is.
    names: Vec<(&'a str, Typed)>,
}

type Outputs = Result<Vec<Typed>, Failure>;

impl<'a> Importer<'a> {
    /// Reads a node with subgraphs; `None` if it is another.
    pub(super) fn control_flow(
        &mut self,
        node: &'a proto::Node<'a>,
        inputs: &[Option<Typed>],
        label: &Arc<str>,
    ) -> Option<Outputs> {
        if !matches!(node.domain, "" | "ai.onnx") {
            return None;
        }
        let narrow = inputs.iter().flatten().any(|value| value.narrow.is_some());
        Some(match node.op {
            "If" | "Loop" | "Scan" if narrow => Err(OpError::unsupported(
                "elements of 8-bit floats or 4 bits in control flow",
            )
            .into()),
            "If" => self.choice(node, inputs, label),
            "Loop" => self.repetition(node, inputs, label),
            "Scan" => self.scan(node, inputs, label),
            _ => return None,
        })
    }

    fn choice(
        &mut self,
        node: &'a proto::Node<'a>,
        inputs: &[Option<Typed>],
        label: &Arc<str>,
    ) -> Outputs {
        only(node, &["then_branch", "else_branch"])?;
        let branches = [
            graph_of(node, "then_branch")?,
            graph_of(node, "else_branch")?,
        ];
        let [Some(condition)] = *inputs else {
            return Err(OpError::operand("input 0", "must be the only one: the condition").into());
        };
        let known = self.builder.fact(condition.id).tensor().cloned();
        if let Some(known) = known {
            let Some(&[chosen]) = known.as_slice::<bool>() else {
                return Err(OpError::operand("input 0", "must be one BOOL").into());
            };
            return self.inline(branches[usize::from(!chosen)]);
        }
        let captured = self.captured(&branches);
        let [then_branch, else_branch] = branches.map(|g| self.subgraph(g, &[], &captured));
        let op = Control::If {
            then_branch: then_branch?,
            else_branch: else_branch?,
        };
        let count = node.outputs.len();
        self.add_control(op, vec![Some(condition.id)], &captured, count, label)
    }

    /// The nodes of a branch that is always taken become nodes of the graph around it.
    fn inline(&mut self, graph: &'a proto::Graph<'a>) -> Outputs {
        check_names(graph).map_err(Failure::Import)?;
        self.scopes.push(Scope::new());
        let done = self.initializers(graph).and_then(|()| self.nodes(graph));
        let outputs = done.map_err(Failure::Import).and_then(|()| {
            let find = |o: &proto::ValueInfo<'_>| self.value(o.name).ok_or_else(|| undefined(o));
            graph.outputs.iter().map(find).collect()
        });
        self.scopes.pop();
        outputs
    }

    fn repetition(
        &mut self,
        node: &'a proto::Node<'a>,
        inputs: &[Option<Typed>],
        label: &Arc<str>,
    ) -> Outputs {
        only(node, &["body"])?;
        let body = graph_of(node, "body")?;
        let operand = |i: usize| inputs.get(i).copied().flatten().map(|v| v.id);
        let carried = inputs.len().saturating_sub(2);
        let state = self.state(inputs.get(2..).unwrap_or(&[]), 2)?;
        let captured = self.captured(&[body]);
        let head = [
            Type::new(DType::I64, Vec::new()),
            Type::new(DType::Bool, Vec::new()),
        ];
        let body = self.stable(
            body,
            state,
            &captured,
            |state| [&head[..], state].concat(),
            1,
        )?;
        let rest = body.types.len().checked_sub(1 + carried);
        if rest.is_none() || body.types.first().is_some_and(|ty| ty.dtype != DType::Bool) {
            return Err(OpError::unsupported(
                "the body must give a condition, the carried values, and what is stacked",
            )
            .into());
        }
        let count = body.types.len() - 1;
        let mut operands = vec![operand(0), operand(1)];
        operands.extend((2..inputs.len()).map(operand));
        let op = Control::Loop { body, carried };
        self.add_control(op, operands, &captured, count, label)
    }

    fn scan(
        &mut self,
        node: &'a proto::Node<'a>,
        inputs: &[Option<Typed>],
        label: &Arc<str>,
    ) -> Outputs {
        if self.opset < 9 {
            return Err(
                OpError::unsupported("the form of operator set 8, which scans a batch").into(),
            );
        }
        const LISTS: [&str; 4] = [
            "scan_input_axes",
            "scan_input_directions",
            "scan_output_axes",
            "scan_output_directions",
        ];
        only(node, &[&LISTS[..], &["body", "num_scan_inputs"]].concat())?;
        let body = graph_of(node, "body")?;
        let sequences = match attribute(node, "num_scan_inputs") {
            Some(Attribute::Int(n)) => usize::try_from(*n).ok(),
            _ => None,
        };
        let carried = sequences.and_then(|n| inputs.len().checked_sub(n));
        let (Some(sequences), Some(carried)) = (sequences.filter(|&n| n > 0), carried) else {
            return Err(OpError::attribute("num_scan_inputs", "does not fit the inputs").into());
        };
        let all = self.state(inputs, 0)?;
        let (state, elements) = all.split_at(carried);
        let ranks: Vec<usize> = elements.iter().map(Type::rank).collect();
        let lanes = lanes(node, LISTS[0], LISTS[1], &ranks)?;
        let elements: Vec<Type> = elements
            .iter()
            .zip(&lanes)
            .map(|(ty, lane)| {
                let mut ty = ty.clone();
                ty.shape.remove(lane.axis);
                ty
            })
            .collect();
        let captured = self.captured(&[body]);
        let formals = |state: &[Type]| [state, &elements[..]].concat();
        let body = self.stable(body, state.to_vec(), &captured, formals, 0)?;
        let given = body.types.get(carried..).ok_or_else(|| {
            OpError::unsupported("the body must give the carried values, then elements")
        })?;
        let ranks: Vec<usize> = given.iter().map(|ty| ty.rank() + 1).collect();
        let outputs = self::lanes(node, LISTS[2], LISTS[3], &ranks)?;
        let count = body.types.len();
        let operands = inputs.iter().map(|v| v.map(|v| v.id)).collect();
        debug_assert_eq!(lanes.len(), sequences);
        let op = Control::Scan {
            body,
            carried,
            inputs: lanes,
            outputs,
        };
        self.add_control(op, operands, &captured, count, label)
    }

    /// The types of values, none of which may be absent.
    fn state(&self, values: &[Option<Typed>], first: usize) -> Result<Vec<Type>, OpError> {
        let of = |(i, value): (usize, &Option<Typed>)| {
            let value = value.ok_or_else(|| {
                OpError::operand(crate::operator::ordinal(first + i), "is missing")
            })?;
            Ok(self.builder.fact(value.id).ty.clone())
        };
        values.iter().enumerate().map(of).collect()
    }

    /// A body whose carried values have the types that it is given: where a dimension changes from
    /// one iteration to the next, it is not known.
    fn stable(
        &mut self,
        graph: &'a proto::Graph<'a>,
        mut state: Vec<Type>,
        captured: &Captured<'a>,
        formals: impl Fn(&[Type]) -> Vec<Type>,
        skip: usize,
    ) -> Result<Subgraph, Failure> {
        // All that differs is opened at once: a second reading settles it.
        for _ in 0..2 {
            let body = self.subgraph(graph, &formals(&state), captured)?;
            let after = body.types.get(skip..skip + state.len()).ok_or_else(|| {
                OpError::unsupported("the body gives fewer values than are carried")
            })?;
            let joined: Option<Vec<Type>> =
                state.iter().zip(after).map(|(a, b)| common(a, b)).collect();
            let joined = joined.ok_or_else(|| {
                OpError::unsupported("a carried value changes its type or rank in the body")
            })?;
            let settled = state.iter().zip(&joined).all(|(a, b)| {
                let pairs = a.shape.iter().zip(&b.shape);
                pairs.into_iter().all(|(a, b)| a.known() == b.known())
            });
            if settled {
                return Ok(body);
            }
            state = joined;
        }
        Err(OpError::unsupported("the shapes of carried values do not settle").into())
    }

    fn add_control(
        &mut self,
        op: Control,
        mut operands: Vec<Option<ValueId>>,
        captured: &Captured<'_>,
        count: usize,
        label: &Arc<str>,
    ) -> Outputs {
        operands.extend(captured.values.iter().map(|v| Some(v.id)));
        let first = self.builder.operator(Arc::new(op), &operands, label)?;
        let narrow = None;
        let outputs = first..first + count;
        Ok(outputs.map(|id| Typed { id, narrow }).collect())
    }

    /// What graphs read from around them.
    fn captured(&self, graphs: &[&'a proto::Graph<'a>]) -> Captured<'a> {
        let free: BTreeSet<&str> = graphs.iter().flat_map(|g| free_names(g)).collect();
        let found = free.into_iter().filter_map(|n| Some((n, self.value(n)?)));
        let names: Vec<(&str, Typed)> = found.collect();
        let mut values: BTreeMap<_, Typed> = BTreeMap::new();
        for (_, value) in &names {
            // Constants around the subgraph are constants inside it.
            if self.builder.fact(value.id).tensor().is_none() {
                values.insert(self.builder.value_digest(value.id), *value);
            }
        }
        Captured {
            values: values.into_values().collect(),
            names,
        }
    }

    /// A graph of its own, whose inputs are `formals` and what it reads from around it.
    fn subgraph(
        &mut self,
        graph: &'a proto::Graph<'a>,
        formals: &[Type],
        captured: &Captured<'a>,
    ) -> Result<Subgraph, Failure> {
        check_names(graph).map_err(Failure::Import)?;
        if graph.inputs.len() != formals.len() {
            return Err(OpError::unsupported(format!(
                "a subgraph takes {} inputs, {} are given",
                graph.inputs.len(),
                formals.len()
            ))
            .into());
        }
        if graph.sparse_initializers > 0 {
            return Err(OpError::unsupported("sparse initializers").into());
        }
        let outer: Vec<Fact> = captured
            .names
            .iter()
            .map(|(_, v)| self.builder.fact(v.id).clone())
            .collect();
        let types: Vec<Type> = captured
            .values
            .iter()
            .map(|v| self.builder.fact(v.id).ty.clone())
            .collect();
        let around = std::mem::replace(&mut self.builder, Builder::default());
        let scopes = std::mem::replace(&mut self.scopes, vec![Scope::new()]);
        let inner = self.fill(graph, formals, captured, &outer, &types);
        let builder = std::mem::replace(&mut self.builder, around);
        self.scopes = scopes;
        let outputs = inner?;
        let types = outputs
            .iter()
            .map(|v| builder.fact(*v).ty.clone())
            .collect();
        let specs = outputs.iter().enumerate().map(|(i, &v)| {
            let ty = &builder.fact(v).ty;
            (place_spec(i, ty), v)
        });
        let specs = specs.collect();
        Ok(Subgraph {
            graph: builder.finish(specs),
            types,
        })
    }

    /// Reads a subgraph into the builder, which is empty; gives its outputs.
    fn fill(
        &mut self,
        graph: &'a proto::Graph<'a>,
        formals: &[Type],
        captured: &Captured<'a>,
        outer: &[Fact],
        types: &[Type],
    ) -> Result<Vec<ValueId>, Failure> {
        let narrow = None;
        let mut scope = Scope::new();
        let mut places = BTreeMap::new();
        for (i, (input, ty)) in graph.inputs.iter().zip(formals).enumerate() {
            let id = self.builder.input(place_spec(i, ty));
            scope.insert(input.name, Typed { id, narrow });
        }
        for (i, (value, ty)) in captured.values.iter().zip(types).enumerate() {
            let id = self.builder.input(place_spec(formals.len() + i, ty));
            places.insert(value.id, id);
        }
        for ((name, value), fact) in captured.names.iter().zip(outer) {
            let id = match fact.tensor() {
                Some(tensor) => self.builder.constant(tensor.clone()),
                // Of equal values one is an operand.
                None => match places.get(&value.id) {
                    Some(&id) => id,
                    None => return Err(OpError::unsupported("a value that is read twice").into()),
                },
            };
            let narrow = value.narrow;
            scope.insert(name, Typed { id, narrow });
        }
        self.scopes = vec![scope, Scope::new()];
        let done = self.initializers(graph).and_then(|()| self.nodes(graph));
        done.map_err(Failure::Import)?;
        let find = |o: &proto::ValueInfo<'_>| {
            let value = self.value(o.name).ok_or_else(|| undefined(o))?;
            match value.narrow {
                None => Ok(value.id),
                Some(_) => Err(OpError::unsupported("an output of 8-bit floats or 4 bits").into()),
            }
        };
        graph.outputs.iter().map(find).collect()
    }
}

fn undefined(output: &proto::ValueInfo<'_>) -> Failure {
    Failure::Import(ImportError::Signature {
        role: "output",
        name: output.name.to_owned(),
        reason: "nothing defines it in the subgraph".into(),
    })
}

/// An input or output called by its place, as are its dimensions that are not known.
fn place_spec(place: usize, ty: &Type) -> TensorSpec {
    let dims = ty.shape.iter().enumerate().map(|(axis, dim)| match dim {
        Sym::Known(n) => Dim::Fixed(n.unsigned_abs()),
        _ => Dim::Symbol(format!("{place}.{axis}")),
    });
    TensorSpec {
        name: place.to_string(),
        dtype: ty.dtype,
        shape: dims.collect(),
    }
}

fn attribute<'n, 'a>(node: &'n proto::Node<'a>, name: &str) -> Option<&'n Attribute<'a>> {
    let found = node.attributes.iter().find(|(n, _)| *n == name);
    found.map(|(_, value)| value)
}

fn graph_of<'a>(node: &'a proto::Node<'a>, name: &str) -> Result<&'a proto::Graph<'a>, OpError> {
    match attribute(node, name) {
        Some(Attribute::Graph(graph)) => Ok(graph),
        _ => Err(OpError::attribute(name, "must be a graph")),
    }
}

/// Refuses attributes of other names.
fn only(node: &proto::Node<'_>, names: &[&str]) -> Result<(), OpError> {
    match node.attributes.iter().find(|(n, _)| !names.contains(n)) {
        Some((name, _)) => Err(OpError::attribute(name, "is not supported")),
        None => Ok(()),
    }
}

/// The axes and directions of sequences of these ranks.
fn lanes(
    node: &proto::Node<'_>,
    axes: &str,
    directions: &str,
    ranks: &[usize],
) -> Result<Vec<Lane>, OpError> {
    let list = |name: &str| match attribute(node, name) {
        None => Ok(vec![0; ranks.len()]),
        Some(Attribute::Ints(values)) if values.len() == ranks.len() => Ok(values.clone()),
        Some(_) => Err(OpError::attribute(
            name,
            "must be a number for each sequence",
        )),
    };
    let (places, ways) = (list(axes)?, list(directions)?);
    let lane = |((&place, &way), &rank): ((&i64, &i64), &usize)| {
        let backwards = match way {
            0 => false,
            1 => true,
            _ => return Err(OpError::attribute(directions, "holds other than 0 and 1")),
        };
        let axis = axis(place, rank)?;
        Ok(Lane { axis, backwards })
    };
    places.iter().zip(&ways).zip(ranks).map(lane).collect()
}
