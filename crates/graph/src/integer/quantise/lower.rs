//! From the operators of the canonical graph to sums and tables.

use std::rc::Rc;
use std::sync::Arc;

use lemma_kernels::Isa;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::graph::{Graph, Node, Ref};
use crate::model::Model;
use crate::operator::{Concrete, Eval, Op, Operands};
use crate::tensor::Tensor;

use super::super::view::NOTHING;
use super::super::{Expression, IntegerGraph, Port, QuantiseError};
use super::build::{Builder, Function, Lazy, NARROW, PRECISE, Value, Width, size};
use super::{Options, add_indices, add_input, floats};

/// An operand: known, or computed.
#[derive(Clone)]
pub(super) enum Known {
    Constant(Tensor),
    Value(Value),
}

/// One operator being lowered.
pub(super) struct Lowering<'a> {
    pub(super) builder: &'a mut Builder,
    pub(super) op: &'a Op,
    pub(super) node: &'a Node,
    pub(super) operands: &'a [Option<Known>],
    pub(super) outputs: &'a [Concrete],
    pub(super) label: Rc<str>,
    /// The width that the consumers of the results want.
    pub(super) width: Width,
    pub(super) wide: Width,
}

type Lowered = Result<Vec<Value>, QuantiseError>;

/// Operators that only move elements, and so are maps of indices.
const MOVES: [&str; 14] = [
    "Concat/1",
    "Expand/1",
    "Flatten/1",
    "Gather/1",
    "GatherElements/1",
    "Pad/1",
    "Reshape/1",
    "Slice/1",
    "Split/1",
    "Squeeze/1",
    "Tile/1",
    "Transpose/1",
    "Unsqueeze/1",
    "Where/1",
];

/// Functions of one value, which a table computes.
const FUNCTIONS: [&str; 27] = [
    "Abs/1",
    "Ceil/1",
    "ClipRange/1",
    "Cos/1",
    "Elu/1",
    "Erf/1",
    "Exp/1",
    "Floor/1",
    "Gelu/1",
    "GeluTanh/1",
    "HardSigmoid/1",
    "HardSwish/1",
    "LeakyRelu/1",
    "Log/1",
    "Reciprocal/1",
    "Relu/1",
    "Round/1",
    "Rsqrt/1",
    "Selu/1",
    "Sigmoid/1",
    "Sign/1",
    "Silu/1",
    "Sin/1",
    "Softplus/1",
    "Softsign/1",
    "Sqrt/1",
    "Tanh/1",
];

/// Consumers that are content with 8 bits.
const NARROW_CONSUMERS: [&str; 6] = [
    "AveragePool/1",
    "Conv/1",
    "Gemm/1",
    "MatMul/1",
    "MaxPool/1",
    "ReduceMean/1",
];

/// Lowers a whole model on calibration samples of one shape.
pub(super) fn lower(
    model: &Model,
    samples: &[Vec<Tensor>],
    shapes: &[Vec<usize>],
    options: &Options,
) -> Result<IntegerGraph, QuantiseError> {
    let graph = model.graph();
    let borrowed: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
    let plan = model.plan(&borrowed)?;
    let constants = model.constants();
    let wide = wide_values(graph);
    let shared = shared_values(graph);
    let width = |w: bool| if w { Width(options.wide) } else { NARROW };
    let mut builder = Builder::new(samples.len(), options.table_bits);
    let mut inputs = Vec::new();
    for (index, spec) in graph.inputs.iter().enumerate() {
        let elements = samples
            .iter()
            .map(|s| floats(&spec.name, &s[index]))
            .collect::<Result<Vec<_>, _>>()?;
        let width = width(wide.inputs[index]);
        let scale = if spec.dtype == DType::F32 {
            add_input(&mut builder, &spec.name, &shapes[index], &elements, width)
        } else {
            let count = vocabulary(graph, Ref::Input(index)).ok_or_else(|| {
                QuantiseError::Calibration(format!(
                    "`{}` is {}: only indices of rows of a constant (Gather) have an integer form",
                    spec.name, spec.dtype
                ))
            })?;
            add_indices(&mut builder, spec, &shapes[index], &elements, count)?;
            1.0
        };
        let source = super::super::Source::Input(index);
        let lazy = Lazy::tensor(source, shapes[index].clone(), f64::from(scale));
        inputs.push(Known::Value(Value::new(
            lazy,
            &spec.name.as_str().into(),
            width,
        )));
    }
    let mut values: Vec<Vec<Known>> = Vec::with_capacity(graph.nodes.len());
    for (index, (node, step)) in graph.nodes.iter().zip(&plan.steps).enumerate() {
        if let Some(known) = &step.known {
            values.push(known.iter().cloned().map(Known::Constant).collect());
            continue;
        }
        let operands: Vec<Option<Known>> = node
            .inputs
            .iter()
            .map(|i| i.map(|r| known(&constants, &inputs, &values, r)))
            .collect();
        let mut lowering = Lowering {
            builder: &mut builder,
            op: &node.op,
            node,
            operands: &operands,
            outputs: &step.outputs,
            label: node.label.as_ref().into(),
            width: width(wide.nodes[index]),
            wide: Width(options.wide),
        };
        let mut results = lowering.run()?;
        if shared[index] {
            for value in &mut results {
                settle(&mut builder, value, Width(options.wide))?;
            }
        }
        values.push(results.into_iter().map(Known::Value).collect());
    }
    for (spec, &source) in graph.outputs.iter().zip(&graph.output_refs) {
        let Known::Value(value) = known(&constants, &inputs, &values, source) else {
            return Err(QuantiseError::Calibration(format!(
                "output `{}` is constant: there is nothing to prove",
                spec.name
            )));
        };
        let (expression, scale) = output(&mut builder, &value)?;
        let port = Port {
            name: spec.name.clone(),
            scale: scale as f32,
            dtype: spec.dtype,
        };
        if port.dtype != DType::F32 && port.scale != 1.0 {
            return Err(QuantiseError::Calibration(format!(
                "output `{}` is {} and no index: it has no integer form",
                port.name, port.dtype
            )));
        }
        builder.skeleton.outputs.push((port, expression));
    }
    builder.share_tables();
    Ok(IntegerGraph::new(builder.skeleton, builder.constants)?)
}

/// An output needs no rounding unless a function is to be applied.
fn output(builder: &mut Builder, value: &Value) -> Result<(Expression, f64), QuantiseError> {
    if value.function.is_none()
        && let Some(expression) = builder.expression(&value.base)?
    {
        return Ok((expression, value.base.scale));
    }
    let lazy = builder.round(value, PRECISE)?;
    Ok((builder.sum(&lazy)?, lazy.scale))
}

fn known(
    constants: &[Option<Tensor>],
    inputs: &[Known],
    values: &[Vec<Known>],
    source: Ref,
) -> Known {
    match source {
        Ref::Input(i) => inputs[i].clone(),
        Ref::Constant(i) => Known::Constant(
            constants[i]
                .clone()
                .unwrap_or_else(|| unreachable!("constants that are read are kept")),
        ),
        Ref::Node(i, output) => values[i][output].clone(),
    }
}

/// Rounds a value that is a product now, so that its consumers do not each compute it anew.
fn settle(builder: &mut Builder, value: &mut Value, wide: Width) -> Result<(), QuantiseError> {
    if value.function.is_none() && !value.base.movable() {
        let width = if value.width == NARROW { NARROW } else { wide };
        value.base = builder.round(value, width)?;
    }
    Ok(())
}

/// How many rows there are to choose from by indices: those of the constant that they are used on, directly or after
/// operators that only move them. `None` if they are used otherwise.
fn vocabulary(graph: &Graph, indices: Ref) -> Option<usize> {
    let mut fewest = None;
    for (number, node) in graph.nodes.iter().enumerate() {
        for (place, source) in node.inputs.iter().enumerate() {
            if *source != Some(indices) {
                continue;
            }
            let name = node.op.name();
            if name == "Shape/1" {
                continue;
            }
            let count = match node.inputs.first() {
                Some(Some(Ref::Constant(table))) if name == "Gather/1" && place == 1 => {
                    graph.constants[*table].ty.shape.first().copied()?
                }
                _ if MOVES.contains(&name) || name == "Cast/1" => {
                    vocabulary(graph, Ref::Node(number, 0))?
                }
                _ => return None,
            };
            fewest = Some(fewest.map_or(count, |before: usize| before.min(count)));
        }
    }
    fewest.filter(|&count| count > 0)
}

/// Which operators have several consumers, of which some do not merely apply a function.
fn shared_values(graph: &Graph) -> Vec<bool> {
    let mut consumers = vec![(0, false); graph.nodes.len()];
    for node in &graph.nodes {
        let name = node.op.name();
        let fused = FUNCTIONS.contains(&name) || ["Mul/1", "Div/1", "Pow/1"].contains(&name);
        for source in node.inputs.iter().flatten() {
            if let Ref::Node(i, _) = *source {
                consumers[i].0 += 1;
                consumers[i].1 |= !fused;
            }
        }
    }
    consumers
        .into_iter()
        .map(|(count, other)| count > 1 && other)
        .collect()
}

struct Wide {
    inputs: Vec<bool>,
    nodes: Vec<bool>,
}

/// Which values have a consumer that wants more than 8 bits.
fn wide_values(graph: &Graph) -> Wide {
    let mut wide = Wide {
        inputs: vec![false; graph.inputs.len()],
        nodes: vec![false; graph.nodes.len()],
    };
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let name = node.op.name();
        let wanted = if MOVES.contains(&name) {
            wide.nodes[index]
        } else {
            !NARROW_CONSUMERS.contains(&name)
        };
        // A function is applied before its operand is rounded.
        if !wanted || FUNCTIONS.contains(&name) {
            continue;
        }
        for source in node.inputs.iter().flatten() {
            match *source {
                Ref::Input(i) => wide.inputs[i] = true,
                Ref::Node(i, _) => wide.nodes[i] = true,
                Ref::Constant(_) => {}
            }
        }
    }
    wide
}

impl Lowering<'_> {
    fn run(&mut self) -> Lowered {
        let name = self.op.name();
        let masked = |o: &Option<Known>| matches!(o, Some(Known::Value(v)) if v.mask.is_some());
        if name != "Softmax/1" && self.operands.iter().any(masked) {
            return Err(self.unsupported("a masked value can only go into a softmax"));
        }
        if let ("Gather/1", Some(Known::Value(_))) = (name, self.operand(1)) {
            return Ok(vec![self.embedding()?]);
        }
        if MOVES.contains(&name) {
            return self.moves();
        }
        if FUNCTIONS.contains(&name) {
            let value = self.value(0)?;
            let function = unary(self.op.clone());
            return Ok(vec![self.compose(&value, function)]);
        }
        let value = match name {
            "Add/1" => self.add(1),
            "Sub/1" => self.add(-1),
            "Mul/1" => self.multiply(false),
            "Div/1" => self.multiply(true),
            "Neg/1" => self.value(0).map(|v| self.scaled(&v, -1.0)),
            "Pow/1" => self.power(),
            "Clip/1" => self.clip(),
            "MatMul/1" => self.matmul(),
            "Gemm/1" => self.gemm(),
            "Conv/1" => self.convolution(),
            "MaxPool/1" => self.max_pool(),
            "AveragePool/1" => self.average_pool(),
            "ReduceSum/1" => self.reduce_sum(false),
            "ReduceMean/1" => self.reduce_sum(true),
            "ReduceMax/1" => self.reduce_max(),
            "ArgMax/1" => self.arg_max(),
            "Cast/1" => self.cast(),
            "Softmax/1" => self.softmax(),
            "LayerNormalization/1" => self.normalise(true),
            "RMSNormalization/1" => self.normalise(false),
            "BatchNormalization/1" => self.batch_norm(),
            _ => Err(self.unsupported("it has no integer form")),
        }?;
        Ok(vec![value])
    }

    pub(super) fn unsupported(&self, reason: impl Into<String>) -> QuantiseError {
        QuantiseError::Unsupported {
            op: self.op.name().to_owned(),
            node: self.node.label.to_string(),
            reason: reason.into(),
        }
    }

    /// The attributes in canonical bytes.
    pub(super) fn attributes(&self) -> Vec<u8> {
        let mut canon = Canon::default();
        self.op.attributes(&mut canon);
        canon.bytes().to_vec()
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        self.outputs[0].shape.clone()
    }

    pub(super) fn result(&self, lazy: Lazy) -> Value {
        Value::new(lazy, &self.label, self.width)
    }

    pub(super) fn operand(&self, index: usize) -> Option<&Known> {
        self.operands.get(index).and_then(Option::as_ref)
    }

    pub(super) fn value(&self, index: usize) -> Result<Value, QuantiseError> {
        match self.operand(index) {
            Some(Known::Value(value)) => Ok(value.clone()),
            _ => Err(self.unsupported(format!("input {index} must not be constant"))),
        }
    }

    pub(super) fn constant(&self, index: usize) -> Result<&Tensor, QuantiseError> {
        match self.operand(index) {
            Some(Known::Constant(tensor)) => Ok(tensor),
            _ => Err(self.unsupported(format!("input {index} must be constant"))),
        }
    }

    pub(super) fn floats<'t>(&self, tensor: &'t Tensor) -> Result<&'t [f32], QuantiseError> {
        tensor
            .as_slice()
            .ok_or_else(|| self.unsupported("only FP32 values have an integer form"))
    }

    /// A function that is applied when the value is rounded.
    pub(super) fn compose(&self, value: &Value, function: Function) -> Value {
        let before = value.function.clone();
        let composed: Function = match before {
            None => function,
            Some(before) => Rc::new(move |x| function(&before(x))),
        };
        Value {
            function: Some(composed),
            ..self.result((*value.base).clone())
        }
        .on(value)
    }

    pub(super) fn scaled(&self, value: &Value, factor: f64) -> Value {
        if value.function.is_some() {
            return self.compose(
                value,
                Rc::new(move |x| x.iter().map(|v| v * factor).collect()),
            );
        }
        let mut lazy = value.base.times(if factor < 0.0 { -1 } else { 1 });
        lazy.scale *= factor.abs();
        self.result(lazy)
    }

    /// A value whose elements can be moved.
    pub(super) fn movable(&mut self, value: &Value) -> Result<Rc<Lazy>, QuantiseError> {
        if value.function.is_none() && value.base.movable() {
            return Ok(value.base.clone());
        }
        let width = if value.width == NARROW {
            NARROW
        } else {
            self.wide
        };
        self.builder.round(value, width)
    }

    fn moves(&mut self) -> Lowered {
        let mut first = 1i64;
        let mut parts: Vec<(i64, Rc<Lazy>)> = Vec::new();
        let mut operands: Vec<Option<Tensor>> = Vec::new();
        let mut constants: Vec<Option<Tensor>> = Vec::new();
        let mut any_constant = false;
        for operand in self.operands.iter().cloned() {
            let (index, constant) = match operand {
                None => (None, None),
                Some(Known::Value(value)) => {
                    let lazy = self.movable(&value)?;
                    let n = size(&lazy.shape) as i64;
                    let places = (first..first + n).collect::<Vec<i64>>();
                    parts.push((first, lazy));
                    first += n;
                    let shape = value.shape().to_vec();
                    (
                        Some(Tensor::from_parts(shape.clone(), places)),
                        Some(Tensor::from_parts(shape, vec![0f32; n as usize])),
                    )
                }
                Some(Known::Constant(tensor)) if tensor.dtype() == DType::F32 => {
                    any_constant |= self.floats(&tensor)?.iter().any(|&v| v != 0.0);
                    let zeros = vec![0i64; tensor.len()];
                    let zeros = Tensor::from_parts(tensor.shape().to_vec(), zeros);
                    (Some(zeros), Some(tensor))
                }
                Some(Known::Constant(tensor)) => (Some(tensor.clone()), Some(tensor)),
            };
            operands.push(index);
            constants.push(constant);
        }
        let places = self.evaluate(&operands, DType::I64)?;
        let fixed = match any_constant {
            true => self.evaluate(&constants, DType::F32)?,
            false => Vec::new(),
        };
        let mut results = Vec::new();
        for (number, tensor) in places.iter().enumerate() {
            let places = tensor.as_slice::<i64>().unwrap_or(&[]);
            let mut sum: Option<Lazy> = None;
            for (start, lazy) in &parts {
                let own = |&p: &i64| match p - start {
                    p if (0..size(&lazy.shape) as i64).contains(&p) => p as u32,
                    _ => NOTHING,
                };
                let map: Vec<u32> = places.iter().map(own).collect();
                if map.iter().all(|&m| m == NOTHING) {
                    continue;
                }
                let moved = lazy.moved(&map, tensor.shape().to_vec(), &[]);
                sum = Some(match sum {
                    None => moved,
                    Some(sum) => self.builder.add(&sum, &moved),
                });
            }
            let Some(mut sum) = sum else {
                return Err(self.unsupported("its result is constant"));
            };
            let mut mask = None;
            if let Some(fixed) = fixed.get(number) {
                let (kept, masked) = unmask(self.floats(fixed)?);
                mask = masked;
                sum = self.add_constant(&sum, tensor.shape(), &kept)?;
            }
            let mut value = self.result(sum);
            value.mask = mask.map(Rc::new);
            results.push(value);
        }
        Ok(results)
    }

    fn evaluate(
        &self,
        operands: &[Option<Tensor>],
        dtype: DType,
    ) -> Result<Vec<Tensor>, QuantiseError> {
        let borrowed: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let outputs: Vec<Concrete> = self
            .outputs
            .iter()
            .map(|o| Concrete {
                dtype,
                shape: o.shape.clone(),
            })
            .collect();
        Ok(self.op.eval(&Eval {
            isa: Isa::PORTABLE,
            threads: &lemma_kernels::Threads::single(),
            inputs: Operands(&borrowed),
            outputs: &outputs,
            prepared: None,
        })?)
    }
}

/// Constants that stand for minus infinity.
const MASKED: f32 = -1e4;

/// Constants with those that stand for minus infinity replaced by zero, and which those are.
pub(super) fn unmask(constants: &[f32]) -> (Vec<f32>, Option<Vec<bool>>) {
    let mask: Vec<bool> = constants.iter().map(|&v| v <= MASKED).collect();
    let kept = constants.iter().map(|&v| if v <= MASKED { 0.0 } else { v });
    (kept.collect(), mask.contains(&true).then_some(mask))
}

impl Value {
    /// Keeps the identity of the sum that another value is a function of.
    fn on(mut self, other: &Value) -> Value {
        self.base = other.base.clone();
        self
    }
}

/// The function of an operator with one operand, by running it.
fn unary(op: Arc<dyn crate::operator::Operator>) -> Function {
    Rc::new(move |x| {
        let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
        let n = x.len();
        let tensor = Tensor::from_parts(vec![n], x);
        let outputs = [Concrete {
            dtype: DType::F32,
            shape: vec![n],
        }];
        let result = op.eval(&Eval {
            isa: Isa::PORTABLE,
            threads: &lemma_kernels::Threads::single(),
            inputs: Operands(&[Some(&tensor)]),
            outputs: &outputs,
            prepared: None,
        });
        let values = result.ok().and_then(|mut t| t.pop());
        match values.as_ref().and_then(|t| t.as_slice::<f32>()) {
            Some(values) => values.iter().map(|&v| f64::from(v)).collect(),
            None => vec![f64::NAN; n],
        }
    })
}
