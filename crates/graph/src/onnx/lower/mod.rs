//! ONNX nodes turned into operators of the canonical graph.
//!
//! Differences between operator sets end here: what an older one says in an attribute and a newer
//! one in an operand comes out in one form, and every default is written out. An attribute that
//! nobody asked for, an operand too many or an output that is not computed is refused.

mod attention;
mod compose;
mod dequantised;
mod elementwise;
mod image;
mod layout;
mod linear;
mod loss;
mod microsoft;
mod place;
mod quantize;
mod recurrent;
mod reduce;
mod signal;

use std::sync::Arc;

use lemma_types::tensor::DType;

use crate::error::{ImportError, OpError};
use crate::fact::Fact;
use crate::graph::{Builder, ValueId};
use crate::onnx::import::Typed;
use crate::onnx::narrow::Narrow;
use crate::onnx::proto::{Attribute, Node};
use crate::onnx::tensor::Constants;
use crate::operator::{Op, Operator, ordinal};
use crate::ops::cast::Cast;
use crate::ops::layout::axis;
use crate::tensor::Tensor;

/// Why a node was not lowered.
pub(super) enum Failure {
    /// The operator does not apply; the caller knows which.
    Op(OpError),
    /// An error that stands by itself, such as a malformed constant.
    Import(ImportError),
}

impl From<OpError> for Failure {
    fn from(error: OpError) -> Failure {
        Failure::Op(error)
    }
}

/// The values of a node's outputs.
pub(super) type Lowered = Result<Vec<ValueId>, Failure>;

/// A node with what it refers to.
pub(super) struct NodeContext<'n, 'a> {
    node: &'n Node<'a>,
    opset: i64,
    inputs: Vec<Option<ValueId>>,
    /// What the elements of each operand stand for, where it is not what a tensor holds.
    narrow: Vec<Option<Narrow>>,
    builder: &'n mut Builder,
    constants: &'n mut Constants<'a>,
    label: Arc<str>,
    /// Attributes that were asked for, by position.
    asked: Vec<bool>,
}

impl<'n, 'a> NodeContext<'n, 'a> {
    pub(super) fn new(
        node: &'n Node<'a>,
        opset: i64,
        inputs: Vec<Option<Typed>>,
        builder: &'n mut Builder,
        constants: &'n mut Constants<'a>,
        label: Arc<str>,
    ) -> NodeContext<'n, 'a> {
        let asked = vec![false; node.attributes.len()];
        NodeContext {
            node,
            opset,
            narrow: inputs.iter().map(|v| v.and_then(|v| v.narrow)).collect(),
            inputs: inputs.into_iter().map(|v| v.map(|v| v.id)).collect(),
            builder,
            constants,
            label,
            asked,
        }
    }

    /// Refuses attributes that nobody asked for.
    pub(super) fn check_attributes(&self) -> Result<(), OpError> {
        let left = self
            .node
            .attributes
            .iter()
            .zip(&self.asked)
            .find(|(_, asked)| !**asked);
        match left {
            Some(((name, _), _)) => Err(OpError::attribute(name, "is not supported")),
            None => Ok(()),
        }
    }

    // Operands.

    /// Refuses a number of operands outside `min..=max`; absent ones at the end do not count.
    fn arity(&mut self, min: usize, max: usize) -> Result<(), OpError> {
        while let Some(None) = self.inputs.last() {
            self.inputs.pop();
        }
        let found = self.inputs.len();
        if found > max {
            return Err(OpError::operand(
                ordinal(max),
                format!("is one too many: at most {max} are taken"),
            ));
        }
        (0..min).try_for_each(|i| self.input(i).map(|_| ()))
    }

    fn input(&self, index: usize) -> Result<ValueId, OpError> {
        self.maybe(index)
            .ok_or_else(|| OpError::operand(ordinal(index), "is missing"))
    }

    fn maybe(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    fn fact(&self, index: usize) -> Result<&Fact, OpError> {
        Ok(self.builder.fact(self.input(index)?))
    }

    fn rank(&self, index: usize) -> Result<usize, OpError> {
        Ok(self.fact(index)?.rank())
    }

    /// The integers of an optional operand, if they are known now; `Err` if they are data.
    fn known_ints(&self, index: usize) -> Result<Option<Vec<i64>>, ValueId> {
        let Some(value) = self.maybe(index) else {
            return Ok(None);
        };
        let fact = self.builder.fact(value);
        if fact.ty.elements() == Some(0) {
            return Ok(Some(Vec::new()));
        }
        let values = fact.integers();
        let known = values.and_then(|v| v.iter().map(crate::fact::Sym::known).collect());
        known.map(Some).ok_or(value)
    }

    /// Adds a constant of the importer's own.
    fn tensor(&mut self, tensor: Tensor) -> ValueId {
        self.builder.constant(tensor)
    }

    fn ints_tensor(&mut self, values: Vec<i64>) -> ValueId {
        self.tensor(Tensor::vector(values))
    }

    // Results.

    /// Adds an operator on these operands; gives its first output.
    fn add(
        &mut self,
        op: impl Operator + 'static,
        inputs: &[Option<ValueId>],
    ) -> Result<ValueId, OpError> {
        self.builder
            .operator(Arc::new(op) as Op, inputs, &self.label)
    }

    /// Adds an operator on the node's own operands, and nothing else.
    fn one(&mut self, op: impl Operator + 'static) -> Lowered {
        let inputs = self.inputs.clone();
        Ok(vec![self.add(op, &inputs)?])
    }

    // Attributes.

    fn attribute(&mut self, name: &str) -> Option<&'n Attribute<'a>> {
        let place = self.node.attributes.iter().position(|(n, _)| *n == name)?;
        self.asked[place] = true;
        Some(&self.node.attributes[place].1)
    }

    fn int(&mut self, name: &str, default: i64) -> Result<i64, OpError> {
        Ok(self.maybe_int(name)?.unwrap_or(default))
    }

    fn maybe_int(&mut self, name: &str) -> Result<Option<i64>, OpError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(OpError::attribute(name, "must be an integer")),
        }
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool, OpError> {
        match self.int(name, i64::from(default))? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(OpError::attribute(
                name,
                format!("is {other}: 0 or 1 is expected"),
            )),
        }
    }

    fn float(&mut self, name: &str, default: f32) -> Result<f32, OpError> {
        Ok(self.maybe_float(name)?.unwrap_or(default))
    }

    fn maybe_float(&mut self, name: &str) -> Result<Option<f32>, OpError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) if value.is_nan() => {
                Err(OpError::attribute(name, "is NaN"))
            }
            Some(Attribute::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(OpError::attribute(name, "must be a float")),
        }
    }

    fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, OpError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => Err(OpError::attribute(name, "must be a list of integers")),
        }
    }

    /// A number that cannot be negative.
    fn sizes_one(&mut self, name: &str) -> Result<Option<usize>, OpError> {
        let value = self.maybe_int(name)?;
        let size = value.map(|n| {
            usize::try_from(n).map_err(|_| OpError::attribute(name, format!("{n} is negative")))
        });
        size.transpose()
    }

    /// A list of texts.
    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, OpError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Texts(texts)) => Ok(Some(
                texts
                    .iter()
                    .map(|t| String::from_utf8_lossy(t).into_owned())
                    .collect(),
            )),
            Some(_) => Err(OpError::attribute(name, "must be a list of texts")),
        }
    }

    fn floats(&mut self, name: &str) -> Result<Option<Vec<f32>>, OpError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) if values.iter().any(|v| v.is_nan()) => {
                Err(OpError::attribute(name, "holds NaN"))
            }
            Some(Attribute::Floats(values)) => Ok(Some(values.clone())),
            Some(_) => Err(OpError::attribute(name, "must be a list of floats")),
        }
    }

    /// A list of numbers that cannot be negative.
    fn sizes(&mut self, name: &str) -> Result<Option<Vec<usize>>, OpError> {
        let Some(values) = self.ints(name)? else {
            return Ok(None);
        };
        let sizes: Result<Vec<usize>, _> = values.iter().map(|&v| usize::try_from(v)).collect();
        match sizes {
            Ok(sizes) => Ok(Some(sizes)),
            Err(_) => Err(OpError::attribute(
                name,
                format!("{values:?} has a negative entry"),
            )),
        }
    }

    fn text(&mut self, name: &str, default: &'static str) -> Result<String, OpError> {
        match self.attribute(name) {
            None => Ok(default.to_owned()),
            Some(Attribute::Text(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            Some(_) => Err(OpError::attribute(name, "must be a text")),
        }
    }

    fn tensor_attribute(&mut self, name: &str) -> Result<Option<Tensor>, Failure> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(proto)) => {
                let what = format!("{name} of node {}", self.label);
                self.constants
                    .read(&what, proto)
                    .map(Some)
                    .map_err(Failure::Import)
            }
            Some(_) => Err(OpError::attribute(name, "must be a tensor").into()),
        }
    }

    /// The attribute `axis`, resolved against the rank of an operand.
    fn axis(&mut self, default: i64, rank: usize) -> Result<usize, OpError> {
        let value = self.int("axis", default)?;
        axis(value, rank)
    }
}

/// Axes resolved, ascending, each once.
fn axes(values: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut resolved = values
        .iter()
        .map(|&a| axis(a, rank))
        .collect::<Result<Vec<_>, _>>()?;
    resolved.sort_unstable();
    if let Some(pair) = resolved.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(OpError::attribute(
            "axes",
            format!("axis {} occurs twice", pair[0]),
        ));
    }
    Ok(resolved)
}

/// One, as a scalar of this type.
fn one_of(dtype: DType) -> Result<Tensor, OpError> {
    let bytes = match dtype {
        DType::F16 => 0x3c00u16.to_le_bytes().to_vec(),
        DType::Bf16 => 0x3f80u16.to_le_bytes().to_vec(),
        DType::F32 => 1f32.to_le_bytes().to_vec(),
        DType::F64 => 1f64.to_le_bytes().to_vec(),
        _ => 1u64.to_le_bytes()[..dtype.size()].to_vec(),
    };
    Tensor::from_le_bytes(dtype, &[], &bytes).map_err(|e| OpError::unsupported(e.to_string()))
}

/// The operator set that introduced an operator, where later than the oldest supported one.
fn since(op: &str) -> i64 {
    match op {
        "Sinh"
        | "Cosh"
        | "Asinh"
        | "Acosh"
        | "Atanh"
        | "EyeLike"
        | "Scatter"
        | "NonZero"
        | "MeanVarianceNormalization"
        | "Shrink"
        | "Compress" => 9,
        "DFT" | "STFT" | "HannWindow" | "HammingWindow" | "BlackmanWindow" => 17,
        "Einsum" => 12,
        "TfIdfVectorizer" => 9,
        "OptionalHasElement" | "OptionalGetElement" => 15,
        "GridSample" => 16,
        "Col2Im" => 18,
        "DeformConv" => 19,
        "AffineGrid" => 20,
        "Det" => 11,
        "MaxUnpool" => 9,
        "RoiAlign" | "Resize" => 10,
        "QuantizeLinear" | "DequantizeLinear" | "MatMulInteger" | "ConvInteger"
        | "QLinearMatMul" | "QLinearConv" | "ReverseSequence" | "NonMaxSuppression"
        | "ThresholdedRelu" => 10,
        "ScatterElements" | "ScatterND" | "Unique" | "BitShift" | "DynamicQuantizeLinear" => 11,
        "Celu" | "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => 12,
        "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitwiseNot" | "CenterCropPad" => 18,
        "Attention" | "RotaryEmbedding" => 23,
        "Erf" | "IsNaN" | "Sign" | "Where" | "OneHot" | "ConstantOfShape" => 9,
        "IsInf" | "Mod" => 10,
        "Clip" | "Range" | "CumSum" | "GatherElements" | "GatherND" | "Round" => 11,
        "LessOrEqual" | "GreaterOrEqual" => 12,
        "Trilu" | "HardSwish" => 14,
        "CastLike" => 15,
        "LayerNormalization" => 17,
        "Mish" | "GroupNormalization" => 18,
        "Gelu" => 20,
        "RMSNormalization" => 23,
        "Expand" => 8,
        _ => 0,
    }
}

/// Operators that move elements, whatever these are.
fn moves(op: &str) -> bool {
    matches!(
        op,
        "Constant"
            | "ConstantOfShape"
            | "Identity"
            | "Dropout"
            | "Shape"
            | "Size"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Transpose"
            | "Expand"
            | "Tile"
            | "Concat"
            | "Slice"
            | "Split"
            | "Gather"
            | "GatherElements"
            | "GatherND"
            | "Scatter"
            | "ScatterElements"
            | "ScatterND"
            | "Compress"
            | "ReverseSequence"
            | "DepthToSpace"
            | "SpaceToDepth"
            | "CenterCropPad"
            | "OneHot"
            | "Pad"
            | "Trilu"
            | "Where"
            | "EyeLike"
    )
}

/// Operators that know what to do with 16-bit floats.
fn takes_halves(op: &str) -> bool {
    moves(op)
        || matches!(
            op,
            "Cast" | "CastLike" | "QuantizeLinear" | "DequantizeLinear"
        )
}

/// Widens operands that are 16-bit floats; gives the type that results are rounded to: that of the
/// first operand that is a float, unless this is wider. The result of a root mean square
/// normalisation has the type of its scale.
fn widen(cx: &mut NodeContext<'_, '_>, op: &str) -> Result<Option<DType>, OpError> {
    let decides = usize::from(op == "RMSNormalization");
    let mut kind: Option<DType> = None;
    for index in 0..cx.inputs.len() {
        let Some(value) = cx.maybe(index) else {
            continue;
        };
        let dtype = cx.builder.fact(value).dtype();
        let half = matches!(dtype, DType::F16 | DType::Bf16);
        if index >= decides && (half || matches!(dtype, DType::F32 | DType::F64)) {
            kind.get_or_insert(dtype);
        }
        if half {
            let wide = cx.add(Cast { to: DType::F32 }, &[Some(value)])?;
            cx.inputs[index] = Some(wide);
        }
    }
    Ok(kind.filter(|kind| matches!(kind, DType::F16 | DType::Bf16)))
}

/// Lowers a node; `None` if its operator is not known.
pub(super) fn lower(cx: &mut NodeContext<'_, '_>) -> Option<Result<Vec<Typed>, Failure>> {
    let op = cx.node.op;
    if cx.node.domain == "com.microsoft" {
        return contributed(cx, op);
    }
    if !matches!(cx.node.domain, "" | "ai.onnx") {
        return None;
    }
    let introduced = since(op);
    // Clip is older, its form with operands is not.
    if cx.opset < introduced && op != "Clip" {
        let reason = format!("exists since operator set {introduced}");
        return Some(Err(OpError::unsupported(reason).into()));
    }
    if let Some(lowered) = quantize::lower(cx, op) {
        return Some(lowered);
    }
    let narrow = cx.narrow.iter().flatten().next().copied();
    if narrow.is_some() && !moves(op) {
        return Some(Err(OpError::unsupported(
            "elements of 8-bit floats or 4 bits are stored, moved, converted and quantised only",
        )
        .into()));
    }
    if narrow.is_some() && op == "Concat" && cx.narrow.iter().any(|n| *n != narrow) {
        let reason = "elements of different types are joined";
        return Some(Err(OpError::unsupported(reason).into()));
    }
    let narrow = match op {
        "Shape" | "Size" => None,
        "Constant" | "ConstantOfShape" => match cx.attribute("value") {
            Some(Attribute::Tensor(proto)) => Narrow::of(proto.data_type),
            _ => None,
        },
        "Where" => cx.narrow.get(1).copied().flatten(),
        _ => cx.narrow.first().copied().flatten(),
    };
    let half = match if takes_halves(op) {
        Ok(None)
    } else {
        widen(cx, op)
    } {
        Ok(half) => half,
        Err(error) => return Some(Err(error.into())),
    };
    let lowered = standard(cx, op)?;
    Some(lowered.and_then(|outputs| finish(cx, op, outputs, half, narrow)))
}

fn standard(cx: &mut NodeContext<'_, '_>, op: &str) -> Option<Lowered> {
    elementwise::lower(cx, op)
        .or_else(|| layout::lower(cx, op))
        .or_else(|| linear::lower(cx, op))
        .or_else(|| reduce::lower(cx, op))
        .or_else(|| quantize::products(cx, op))
        .or_else(|| image::lower(cx, op))
        .or_else(|| place::lower(cx, op))
        .or_else(|| loss::lower(cx, op))
        .or_else(|| recurrent::lower(cx, op))
        .or_else(|| signal::lower(cx, op))
        .or_else(|| attention::lower(cx, op))
        // Written into the default domain by a popular exporter.
        .or_else(|| (op == "SimplifiedLayerNormalization").then(|| microsoft::simplified_norm(cx)))
}

/// Rounds results that are to be 16-bit floats, and says what the elements stand for.
fn finish(
    cx: &mut NodeContext<'_, '_>,
    op: &str,
    outputs: Vec<ValueId>,
    half: Option<DType>,
    narrow: Option<Narrow>,
) -> Result<Vec<Typed>, Failure> {
    let typed = |(place, id): (usize, ValueId)| {
        let id = match half {
            // Mean and deviation of a normalisation are given in FP32.
            Some(to)
                if cx.builder.fact(id).dtype() == DType::F32
                    && (place == 0
                        || !matches!(op, "LayerNormalization" | "BatchNormalization")) =>
            {
                cx.add(Cast { to }, &[Some(id)])?
            }
            _ => id,
        };
        Ok(Typed { id, narrow })
    };
    outputs.into_iter().enumerate().map(typed).collect()
}

/// An operator of the domain `com.microsoft`: a function in FP32.
fn contributed(cx: &mut NodeContext<'_, '_>, op: &str) -> Option<Result<Vec<Typed>, Failure>> {
    if matches!(op, "QuantizeLinear" | "DequantizeLinear") {
        // As in the default domain.
        return quantize::lower(cx, op);
    }
    if cx.narrow.iter().any(Option::is_some) {
        let reason = "elements of 8-bit floats or 4 bits";
        return Some(Err(OpError::unsupported(reason).into()));
    }
    let half = match widen(cx, op) {
        Ok(half) => half,
        Err(error) => return Some(Err(error.into())),
    };
    let lowered = microsoft::lower(cx, op)?;
    Some(lowered.and_then(|outputs| finish(cx, op, outputs, half, None)))
}
