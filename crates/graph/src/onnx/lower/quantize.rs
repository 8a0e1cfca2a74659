//! Conversion between element types, and quantisation.

use lemma_types::tensor::DType;

use lemma_kernels::{Reduction as R, Unary as U};

use super::compose::Part;
use super::linear::{convolution, groups};
use super::{Failure, Lowered, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::onnx::import::Typed;
use crate::onnx::narrow::Narrow;
use crate::onnx::tensor::element;
use crate::ops::arithmetic::Arithmetic;
use crate::ops::cast::Cast;
use crate::ops::int8::{ConvInteger, MatMulInteger};
use crate::ops::narrow::{FromBits, ToBits, ToInt4};
use crate::ops::quantize::{Dequantize, Grain, Quantize};
use crate::ops::reshape::Reshape;
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;
type Outputs = Result<Vec<Typed>, Failure>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Outputs> {
    Some(match op {
        "Cast" => cast(cx),
        "CastLike" => cast_like(cx),
        "QuantizeLinear" => quantize(cx),
        "DequantizeLinear" => dequantize(cx),
        _ => return None,
    })
}

fn cast(cx: &mut Context<'_, '_>) -> Outputs {
    cx.arity(1, 1)?;
    let code = cx
        .maybe_int("to")?
        .ok_or_else(|| OpError::attribute("to", "is missing"))?;
    let saturate = cx.flag("saturate", true)?;
    cx.text("round_mode", "up")?;
    let (to, narrow) = element(code).map_err(|reason| OpError::attribute("to", reason))?;
    converted(cx, to, narrow, saturate)
}

fn cast_like(cx: &mut Context<'_, '_>) -> Outputs {
    cx.arity(2, 2)?;
    let saturate = cx.flag("saturate", true)?;
    cx.text("round_mode", "up")?;
    let (to, narrow) = (cx.fact(1)?.dtype(), cx.narrow[1]);
    converted(cx, to, narrow, saturate)
}

/// The first operand, converted. Narrow floats convert through FP32, which holds each of them.
fn converted(
    cx: &mut Context<'_, '_>,
    to: DType,
    narrow: Option<Narrow>,
    saturate: bool,
) -> Outputs {
    let from = cx.narrow[0];
    let mut x = cx.input(0)?;
    if from == narrow && cx.fact(0)?.dtype() == to {
        return Ok(vec![Typed { id: x, narrow }]);
    }
    if let Some(Narrow::Float(format)) = from {
        x = cx.add(FromBits { format }, &[Some(x)])?;
    }
    let id = match narrow {
        None => convert(cx, x, to)?,
        Some(Narrow::Float(format)) => {
            let wide = convert(cx, x, DType::F32)?;
            cx.add(ToBits { format, saturate }, &[Some(wide)])?
        }
        Some(Narrow::Int4 | Narrow::Uint4) => {
            if !is_float(cx.builder.fact(x).dtype()) {
                return Err(OpError::unsupported("integers converted to 4 bits").into());
            }
            let wide = convert(cx, x, DType::F32)?;
            let signed = narrow == Some(Narrow::Int4);
            cx.add(ToInt4 { signed }, &[Some(wide)])?
        }
    };
    Ok(vec![Typed { id, narrow }])
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Bf16 | DType::F32 | DType::F64)
}

/// A value as another type; itself if it is of that type.
pub(super) fn convert(cx: &mut Context<'_, '_>, x: ValueId, to: DType) -> Result<ValueId, OpError> {
    if cx.builder.fact(x).dtype() == to {
        return Ok(x);
    }
    cx.add(Cast { to }, &[Some(x)])
}

/// How the scales of this node belong to its elements.
fn grain(cx: &mut Context<'_, '_>) -> Result<Grain, OpError> {
    let axis = cx.int("axis", 1)?;
    let block = cx.int("block_size", 0)?;
    let (scale, rank) = (cx.fact(1)?, cx.rank(0)?);
    let (one, scale_rank) = (scale.ty.elements() == Some(1), scale.rank());
    match usize::try_from(block) {
        Ok(0) if scale_rank == 0 || (one && scale_rank == 1) => Ok(Grain::Tensor),
        Ok(0) if scale_rank == 1 => Ok(Grain::Axis(super::axis(axis, rank)?)),
        Ok(0) => Err(OpError::operand(
            "input 1",
            "must be one scale, or one along an axis",
        )),
        Ok(size) => Ok(Grain::Block {
            axis: super::axis(axis, rank)?,
            size,
        }),
        Err(_) => Err(OpError::attribute("block_size", "is negative")),
    }
}

/// Scales in a shape that broadcasts to the operand.
fn spread(cx: &mut Context<'_, '_>, scale: ValueId, grain: Grain) -> Result<ValueId, OpError> {
    let (x, rank) = (cx.input(0)?, cx.rank(0)?);
    match grain {
        Grain::Tensor => cx.reshape(scale, &[]),
        Grain::Axis(axis) => {
            let mut parts = vec![Part::Is(1); rank];
            parts[axis] = Part::Is(-1);
            let shape = cx.shape(&parts)?;
            let op = Reshape { allow_zero: false };
            cx.add(op, &[Some(scale), Some(shape)])
        }
        Grain::Block { axis, size } => {
            let columns = cx.unsqueeze(scale, axis + 1)?;
            let mut parts: Vec<Part> = (0..rank).map(|i| Part::Of(scale, i)).collect();
            parts.insert(axis + 1, Part::Is(i64::try_from(size).unwrap_or(i64::MAX)));
            let repeated = cx.expand(columns, &parts)?;
            parts.remove(axis + 1);
            parts[axis] = Part::Is(-1);
            let merged = cx.reshape(repeated, &parts)?;
            let dim = cx.known_dim(x, axis, "a dimension in blocks")?;
            cx.slice(merged, axis, 0, dim as i64)
        }
    }
}

fn quantize(cx: &mut Context<'_, '_>) -> Outputs {
    cx.arity(2, 3)?;
    let saturate = cx.flag("saturate", true)?;
    cx.int("precision", 1)?;
    let code = cx.int("output_dtype", 0)?;
    let grain = grain(cx)?;
    let zero = cx.maybe(2);
    let (to, narrow) = match (zero, code) {
        (Some(zero), _) => (cx.dtype_of(zero), cx.narrow[2]),
        (None, 0) => (DType::U8, None),
        (None, code) => element(code).map_err(|r| OpError::attribute("output_dtype", r))?,
    };
    if code != 0 && element(code).ok() != Some((to, narrow)) {
        return Err(OpError::attribute("output_dtype", "is not the type of the zero point").into());
    }
    let x = cx.input(0)?;
    let x = convert(cx, x, DType::F32)?;
    let scale = cx.input(1)?;
    let scale = convert(cx, scale, DType::F32)?;
    let id = if let Some(Narrow::Float(format)) = narrow {
        // The zero point says the type, nothing else.
        let scale = spread(cx, scale, grain)?;
        let quotient = cx.over(x, scale)?;
        cx.add(ToBits { format, saturate }, &[Some(quotient)])?
    } else {
        let op = Quantize {
            grain,
            to,
            half_byte: narrow.is_some(),
        };
        let mut operands = vec![Some(x), Some(scale)];
        operands.extend(zero.map(Some));
        cx.add(op, &operands)?
    };
    Ok(vec![Typed { id, narrow }])
}

/// The result has the type of the scale.
fn dequantize(cx: &mut Context<'_, '_>) -> Outputs {
    cx.arity(2, 3)?;
    let grain = grain(cx)?;
    let (mut x, zero) = (cx.input(0)?, cx.maybe(2));
    let scale = cx.input(1)?;
    let mut to = cx.dtype_of(scale);
    let code = cx.int("output_dtype", 0)?;
    if code != 0 {
        let named = element(code).map_err(|r| OpError::attribute("output_dtype", r))?;
        to = named.0;
        if named.1.is_some() {
            return Err(OpError::attribute("output_dtype", "is not supported").into());
        }
    }
    let scale = convert(cx, scale, DType::F32)?;
    let value = if let Some(Narrow::Float(format)) = cx.narrow[0] {
        x = cx.add(FromBits { format }, &[Some(x)])?;
        if let Some(zero) = zero {
            let zero = cx.add(FromBits { format }, &[Some(zero)])?;
            let zero = spread(cx, zero, grain)?;
            x = cx.minus(x, zero)?;
        }
        let scale = spread(cx, scale, grain)?;
        cx.times(x, scale)?
    } else {
        let mut operands = vec![Some(x), Some(scale)];
        operands.extend(zero.map(Some));
        cx.add(Dequantize { grain }, &operands)?
    };
    let id = convert(cx, value, to)?;
    Ok(vec![Typed { id, narrow: None }])
}

/// Quantised operators whose operands are of the ordinary types.
pub(super) fn products(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "DynamicQuantizeLinear" => dynamic_quantize(cx),
        "MatMulInteger" => matmul_integer(cx),
        "ConvInteger" => conv_integer(cx),
        "QLinearMatMul" => quantised_matmul(cx),
        "QLinearConv" => quantised_conv(cx),
        _ => return None,
    })
}

/// A scale and zero point that let the range of the operand, and 0, fit into UINT8.
pub(super) fn dynamic_range(
    cx: &mut Context<'_, '_>,
    x: ValueId,
) -> Result<(ValueId, ValueId), OpError> {
    let flat = cx.reshape(x, &[Part::Is(-1)])?;
    let (zero, steps) = (cx.number(0.0), cx.number(255.0));
    let highest = cx.reduce(R::Max, flat, vec![0], false)?;
    let highest = cx.binary(Arithmetic::Max, highest, zero)?;
    let lowest = cx.reduce(R::Min, flat, vec![0], false)?;
    let lowest = cx.binary(Arithmetic::Min, lowest, zero)?;
    let span = cx.minus(highest, lowest)?;
    let scale = cx.over(span, steps)?;
    let below = cx.minus(zero, lowest)?;
    let below = cx.over(below, scale)?;
    let (low, high) = (0.0, 255.0);
    let clipped = cx.function(
        U::Clip {
            min: low,
            max: high,
        },
        below,
    )?;
    let rounded = cx.function(U::Round, clipped)?;
    Ok((scale, convert(cx, rounded, DType::U8)?))
}

/// FP32 as UINT8 with one scale and zero point.
pub(super) fn quantised(
    cx: &mut Context<'_, '_>,
    x: ValueId,
    scale: ValueId,
    zero: ValueId,
) -> Result<ValueId, OpError> {
    let op = Quantize {
        grain: Grain::Tensor,
        to: cx.dtype_of(zero),
        half_byte: false,
    };
    cx.add(op, &[Some(x), Some(scale), Some(zero)])
}

fn dynamic_quantize(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let x = cx.input(0)?;
    let (scale, zero) = dynamic_range(cx, x)?;
    Ok(vec![quantised(cx, x, scale, zero)?, scale, zero])
}

fn matmul_integer(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 4)?;
    cx.one(MatMulInteger)
}

fn conv_integer(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 4)?;
    let window = convolution(cx, 0, 1)?;
    let groups = groups(cx)?;
    cx.one(ConvInteger { groups, window })
}

/// An INT32 sum, scaled back to integers: round(f32(sum) · (scale of a · scale of b ÷ scale of y)).
fn rescaled(
    cx: &mut Context<'_, '_>,
    sum: ValueId,
    [a, b, y]: [ValueId; 3],
    zero: ValueId,
) -> Result<ValueId, OpError> {
    let both = cx.times(a, b)?;
    let factor = cx.over(both, y)?;
    let wide = convert(cx, sum, DType::F32)?;
    let scaled = cx.times(wide, factor)?;
    let one = cx.tensor(Tensor::scalar(1f32));
    quantised(cx, scaled, one, zero)
}

/// A scale of one element as a scalar; others stay.
fn scalar(cx: &mut Context<'_, '_>, index: usize) -> Result<ValueId, OpError> {
    let x = cx.input(index)?;
    match cx.fact(index)?.ty.elements() {
        Some(1) => cx.reshape(x, &[]),
        _ => Ok(x),
    }
}

fn quantised_matmul(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(8, 8)?;
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let (za, zb, zy) = (scalar(cx, 2)?, scalar(cx, 5)?, scalar(cx, 7)?);
    let (sa, sb, sy) = (scalar(cx, 1)?, scalar(cx, 4)?, scalar(cx, 6)?);
    if [sa, sb, sy].iter().any(|&s| cx.rank_of(s) != 0) {
        return Err(OpError::unsupported("scales for each row or column").into());
    }
    let sum = cx.add(MatMulInteger, &[Some(a), Some(b), Some(za), Some(zb)])?;
    Ok(vec![rescaled(cx, sum, [sa, sb, sy], zy)?])
}

fn quantised_conv(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(8, 9)?;
    let (x, w) = (cx.input(0)?, cx.input(3)?);
    let window = convolution(cx, 0, 3)?;
    let groups = groups(cx)?;
    let (zx, zw, zy) = (scalar(cx, 2)?, scalar(cx, 5)?, scalar(cx, 7)?);
    let (sx, mut sw, sy) = (scalar(cx, 1)?, scalar(cx, 4)?, scalar(cx, 6)?);
    let op = ConvInteger { groups, window };
    let mut sum = cx.add(op, &[Some(x), Some(w), Some(zx), Some(zw)])?;
    // What belongs to a filter belongs to a channel of the output.
    let mut channel = vec![Part::Is(1); cx.rank_of(sum)];
    channel[1] = Part::Is(-1);
    if cx.rank_of(sw) == 1 {
        sw = cx.reshape(sw, &channel)?;
    }
    if let Some(bias) = cx.maybe(8) {
        let bias = cx.reshape(bias, &channel)?;
        sum = cx.plus(sum, bias)?;
    }
    Ok(vec![rescaled(cx, sum, [sx, sw, sy], zy)?])
}
