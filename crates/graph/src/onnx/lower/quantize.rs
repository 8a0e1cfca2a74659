//! Conversion between element types, and quantisation.

use lemma_types::tensor::DType;

use super::{Failure, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::onnx::import::Typed;
use crate::onnx::narrow::Narrow;
use crate::onnx::tensor::element;
use crate::ops::cast::Cast;
use crate::ops::narrow::{FromBits, ToBits, ToInt4};

type Context<'n, 'a> = NodeContext<'n, 'a>;
type Outputs = Result<Vec<Typed>, Failure>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Outputs> {
    Some(match op {
        "Cast" => cast(cx),
        "CastLike" => cast_like(cx),
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
