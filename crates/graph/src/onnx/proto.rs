//! The part of the ONNX messages that has meaning here, decoded from the wire within limits.
//!
//! Texts and raw data borrow from the input. Subgraphs are entered to a fixed depth, so that no
//! input can make the decoder recurse further.
//! Documentation, metadata and unknown fields are skipped; a field that may occur once and occurs
//! twice is refused, because readers disagree on which one counts.

use crate::error::ImportError;
use crate::limits::Limits;
use crate::onnx::wire::{Field, Reader, Wire, encoding};
use crate::tensor::MAX_RANK;

/// `ModelProto`.
#[derive(Debug, Default)]
pub(crate) struct Model<'a> {
    pub(crate) ir_version: i64,
    /// Domain and version.
    pub(crate) opsets: Vec<(&'a str, i64)>,
    pub(crate) graph: Option<Graph<'a>>,
    /// Number of model-local functions.
    pub(crate) functions: usize,
}

/// `GraphProto`.
#[derive(Debug, Default)]
pub(crate) struct Graph<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) initializers: Vec<Tensor<'a>>,
    pub(crate) sparse_initializers: usize,
    pub(crate) inputs: Vec<ValueInfo<'a>>,
    pub(crate) outputs: Vec<ValueInfo<'a>>,
}

/// `NodeProto`.
#[derive(Debug, Default)]
pub(crate) struct Node<'a> {
    pub(crate) name: &'a str,
    pub(crate) op: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) attributes: Vec<(&'a str, Attribute<'a>)>,
}

/// The value of an `AttributeProto`.
#[derive(Debug)]
pub(crate) enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Text(&'a [u8]),
    Tensor(Box<Tensor<'a>>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<&'a [u8]>),
    Graph(Box<Graph<'a>>),
    /// A kind that no supported operator takes.
    Other,
}

/// `TensorProto`, its elements still on the wire.
#[derive(Clone)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dims: Vec<i64>,
    pub(crate) data_type: i64,
    pub(crate) raw: Option<&'a [u8]>,
    pub(crate) external: Vec<(&'a str, &'a str)>,
    pub(crate) is_external: bool,
    pub(crate) segmented: bool,
    /// The whole message, to read typed elements from once their number is known.
    pub(crate) body: Reader<'a>,
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tensor({}, type {}, {:?})",
            self.name, self.data_type, self.dims
        )
    }
}

/// `ValueInfoProto` of a tensor.
#[derive(Debug, Default)]
pub(crate) struct ValueInfo<'a> {
    pub(crate) name: &'a str,
    /// Element type, if the value is declared to be a tensor.
    pub(crate) element_type: Option<i64>,
    /// Shape, if one is declared.
    pub(crate) shape: Option<Vec<Dimension<'a>>>,
}

/// A dimension as declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension<'a> {
    Value(i64),
    Param(&'a str),
    Unknown,
}

/// Decodes within limits, counting as it goes.
pub(crate) struct Decoder<'l> {
    limits: &'l Limits,
    nodes: usize,
    operands: usize,
    attributes: usize,
    /// Graphs around the one that is read.
    depth: usize,
}

/// Graphs inside each other.
const DEPTH: usize = 4;

/// Entries of lists that are small in any honest model: operator sets, external-data keys.
const SMALL_LIST: usize = 64;

fn count(what: &'static str, found: usize, limit: usize) -> Wire<()> {
    if found > limit {
        return Err(ImportError::Limit {
            what,
            found: found as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// Sets a field that may occur once.
fn once<T>(slot: &mut Option<T>, value: T, field: &Field<'_>) -> Wire<()> {
    if slot.replace(value).is_some() {
        return encoding(field.offset, format!("field {} occurs twice", field.number));
    }
    Ok(())
}

/// The name of a message, as far as it can be read, for messages about the rest of it.
fn name_of(mut reader: Reader<'_>, number: u32) -> String {
    const SHOWN: usize = 80;
    while let Ok(Some(field)) = reader.next() {
        if field.number == number
            && let Ok(name) = field.text(SHOWN)
        {
            return name.to_owned();
        }
    }
    String::new()
}

/// Says in which message the encoding is wrong.
fn within(kind: &str, name: String, error: ImportError) -> ImportError {
    match error {
        ImportError::Encoding { offset, what } if !name.is_empty() => ImportError::Encoding {
            offset,
            what: format!("{what} in {kind} `{name}`"),
        },
        other => other,
    }
}

impl<'l> Decoder<'l> {
    pub(crate) fn new(limits: &'l Limits) -> Decoder<'l> {
        Decoder {
            limits,
            nodes: 0,
            operands: 0,
            attributes: 0,
            depth: 0,
        }
    }

    fn text<'a>(&self, field: &Field<'a>) -> Wire<&'a str> {
        field.text(self.limits.name_bytes)
    }

    pub(crate) fn model<'a>(&mut self, bytes: &'a [u8]) -> Wire<Model<'a>> {
        let mut model = Model::default();
        let (mut ir_version, mut graph) = (None, None);
        let mut reader = Reader::new(bytes, 0);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut ir_version, field.int()?, &field)?,
                7 => {
                    let value = self.graph(field.message()?)?;
                    once(&mut graph, value, &field)?;
                }
                8 => {
                    model.opsets.push(self.opset(field.message()?)?);
                    count("operator sets", model.opsets.len(), SMALL_LIST)?;
                }
                25 => model.functions += 1,
                _ => {}
            }
        }
        model.ir_version = ir_version.unwrap_or(0);
        model.graph = graph;
        Ok(model)
    }

    fn opset<'a>(&self, mut reader: Reader<'a>) -> Wire<(&'a str, i64)> {
        let (mut domain, mut version) = (None, None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut domain, self.text(&field)?, &field)?,
                2 => once(&mut version, field.int()?, &field)?,
                _ => {}
            }
        }
        Ok((domain.unwrap_or(""), version.unwrap_or(0)))
    }

    fn graph<'a>(&mut self, mut reader: Reader<'a>) -> Wire<Graph<'a>> {
        let mut graph = Graph::default();
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    self.nodes += 1;
                    count("nodes", self.nodes, self.limits.nodes)?;
                    graph.nodes.push(self.node(field.message()?)?);
                }
                5 => {
                    count(
                        "initializers",
                        graph.initializers.len() + 1,
                        self.limits.initializers,
                    )?;
                    graph.initializers.push(self.tensor(field.message()?)?);
                }
                11 => {
                    count(
                        "graph inputs",
                        graph.inputs.len() + 1,
                        self.limits.initializers,
                    )?;
                    graph.inputs.push(self.value_info(field.message()?)?);
                }
                12 => {
                    count(
                        "graph outputs",
                        graph.outputs.len() + 1,
                        lemma_types::limits::TENSORS,
                    )?;
                    graph.outputs.push(self.value_info(field.message()?)?);
                }
                15 => graph.sparse_initializers += 1,
                _ => {}
            }
        }
        Ok(graph)
    }

    fn node<'a>(&mut self, reader: Reader<'a>) -> Wire<Node<'a>> {
        let name = name_of(reader.clone(), 3);
        self.node_fields(reader)
            .map_err(|error| within("node", name, error))
    }

    fn node_fields<'a>(&mut self, mut reader: Reader<'a>) -> Wire<Node<'a>> {
        let mut node = Node::default();
        let (mut name, mut op, mut domain) = (None, None, None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    self.operand()?;
                    node.inputs.push(self.text(&field)?);
                }
                2 => {
                    self.operand()?;
                    node.outputs.push(self.text(&field)?);
                }
                3 => once(&mut name, self.text(&field)?, &field)?,
                4 => once(&mut op, self.text(&field)?, &field)?,
                5 => {
                    self.attributes += 1;
                    count("attributes", self.attributes, self.limits.attributes)?;
                    let (name, value) = self.attribute(field.message()?, field.offset)?;
                    if node.attributes.iter().any(|(other, _)| *other == name) {
                        return encoding(field.offset, format!("attribute `{name}` occurs twice"));
                    }
                    // Uniqueness is looked up in the list, which therefore has to stay short.
                    count(
                        "attributes of a node",
                        node.attributes.len() + 1,
                        SMALL_LIST,
                    )?;
                    node.attributes.push((name, value));
                }
                7 => once(&mut domain, self.text(&field)?, &field)?,
                _ => {}
            }
        }
        node.name = name.unwrap_or("");
        node.op = op.unwrap_or("");
        node.domain = domain.unwrap_or("");
        Ok(node)
    }

    fn operand(&mut self) -> Wire<()> {
        self.operands += 1;
        count(
            "node inputs and outputs",
            self.operands,
            self.limits.operands,
        )
    }

    fn attribute<'a>(
        &mut self,
        mut reader: Reader<'a>,
        offset: usize,
    ) -> Wire<(&'a str, Attribute<'a>)> {
        let mut name = None;
        let (mut float, mut int, mut text, mut tensor, mut kind) = (None, None, None, None, None);
        let (mut graph, mut texts) = (None, Vec::new());
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        let mut other = false;
        let limit = self.limits.attribute_numbers;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut name, self.text(&field)?, &field)?,
                2 => once(&mut float, field.float()?, &field)?,
                3 => once(&mut int, field.int()?, &field)?,
                4 => once(&mut text, field.bytes()?, &field)?,
                5 => {
                    let value = self.tensor(field.message()?)?;
                    once(&mut tensor, value, &field)?;
                }
                6 => {
                    if self.depth == DEPTH {
                        return encoding(
                            field.offset,
                            format!("more than {DEPTH} graphs inside each other"),
                        );
                    }
                    self.depth += 1;
                    let value = self.graph(field.message()?)?;
                    self.depth -= 1;
                    once(&mut graph, value, &field)?;
                }
                7 => field.floats(&mut floats, limit)?,
                8 => field.ints(&mut ints, limit)?,
                9 => {
                    count("texts of an attribute", texts.len() + 1, limit)?;
                    texts.push(field.bytes()?);
                }
                20 => once(&mut kind, field.int()?, &field)?,
                // Tensors, graphs, types, references and sparse tensors.
                10 | 11 | 14 | 15 | 21..=23 => other = true,
                _ => {}
            }
        }
        let name = name.unwrap_or("");
        if other {
            return Ok((name, Attribute::Other));
        }
        // The type field says which member counts; the members' defaults are not on the wire.
        let value = match kind.unwrap_or(0) {
            1 => Attribute::Float(float.unwrap_or(0.0)),
            2 => Attribute::Int(int.unwrap_or(0)),
            3 => Attribute::Text(text.unwrap_or(&[])),
            4 => match tensor {
                Some(tensor) => Attribute::Tensor(Box::new(tensor)),
                None => return encoding(offset, format!("attribute `{name}` has no tensor")),
            },
            5 => match graph {
                Some(graph) => Attribute::Graph(Box::new(graph)),
                None => return encoding(offset, format!("attribute `{name}` has no graph")),
            },
            6 => Attribute::Floats(floats),
            7 => Attribute::Ints(ints),
            8 => Attribute::Texts(texts),
            _ => return encoding(offset, format!("attribute `{name}` has no known type")),
        };
        Ok((name, value))
    }

    fn tensor<'a>(&self, reader: Reader<'a>) -> Wire<Tensor<'a>> {
        let name = name_of(reader.clone(), 8);
        self.tensor_fields(reader)
            .map_err(|error| within("tensor", name, error))
    }

    fn tensor_fields<'a>(&self, mut reader: Reader<'a>) -> Wire<Tensor<'a>> {
        let body = reader.clone();
        let (mut name, mut data_type, mut raw, mut location) = (None, None, None, None);
        let (mut dims, mut external) = (Vec::new(), Vec::new());
        let mut segmented = false;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => field.ints(&mut dims, MAX_RANK)?,
                2 => once(&mut data_type, field.int()?, &field)?,
                3 => segmented = true,
                8 => once(&mut name, self.text(&field)?, &field)?,
                9 => once(&mut raw, field.bytes()?, &field)?,
                13 => {
                    count("external data entries", external.len() + 1, SMALL_LIST)?;
                    external.push(self.entry(field.message()?)?);
                }
                14 => once(&mut location, field.int()?, &field)?,
                _ => {}
            }
        }
        Ok(Tensor {
            name: name.unwrap_or(""),
            dims,
            data_type: data_type.unwrap_or(0),
            raw,
            external,
            is_external: location == Some(1),
            segmented,
            body,
        })
    }

    fn entry<'a>(&self, mut reader: Reader<'a>) -> Wire<(&'a str, &'a str)> {
        const PATH_BYTES: usize = 4096;
        let (mut key, mut value) = (None, None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut key, self.text(&field)?, &field)?,
                2 => once(&mut value, field.text(PATH_BYTES)?, &field)?,
                _ => {}
            }
        }
        Ok((key.unwrap_or(""), value.unwrap_or("")))
    }

    fn value_info<'a>(&self, mut reader: Reader<'a>) -> Wire<ValueInfo<'a>> {
        let mut info = ValueInfo::default();
        let mut name = None;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut name, self.text(&field)?, &field)?,
                2 => {
                    let mut kind = field.message()?;
                    while let Some(field) = kind.next()? {
                        if field.number == 1 {
                            self.tensor_type(field.message()?, &mut info)?;
                        }
                    }
                }
                _ => {}
            }
        }
        info.name = name.unwrap_or("");
        Ok(info)
    }

    fn tensor_type<'a>(&self, mut reader: Reader<'a>, info: &mut ValueInfo<'a>) -> Wire<()> {
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut info.element_type, field.int()?, &field)?,
                2 => {
                    let mut shape = Vec::new();
                    let mut dims = field.message()?;
                    while let Some(field) = dims.next()? {
                        if field.number == 1 {
                            count("dimensions", shape.len() + 1, MAX_RANK)?;
                            shape.push(self.dimension(field.message()?)?);
                        }
                    }
                    once(&mut info.shape, shape, &field)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn dimension<'a>(&self, mut reader: Reader<'a>) -> Wire<Dimension<'a>> {
        let mut dimension = None;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => once(&mut dimension, Dimension::Value(field.int()?), &field)?,
                2 => once(&mut dimension, Dimension::Param(self.text(&field)?), &field)?,
                _ => {}
            }
        }
        Ok(match dimension {
            Some(Dimension::Param("")) | None => Dimension::Unknown,
            Some(other) => other,
        })
    }
}
