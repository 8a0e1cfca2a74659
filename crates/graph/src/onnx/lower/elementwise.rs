//! Functions of single values, arithmetic, comparison, selection, conversion.

use lemma_kernels::Unary as U;
use lemma_types::tensor::DType;

use super::{Failure, Lowered, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::arithmetic::Arithmetic;
use crate::ops::cast::Cast;
use crate::ops::compare::{Compare, Logic};
use crate::ops::select::{Clip, Where};
use crate::ops::unary::{FloatTest, Not, Selu, Unary};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    if let Some(function) = function(op) {
        return Some(unary(cx, function));
    }
    Some(match op {
        "Elu" | "LeakyRelu" | "HardSigmoid" | "Selu" | "Gelu" | "Mish" => parametric(cx, op),
        "Add" => binary(cx, Arithmetic::Add),
        "Sub" => binary(cx, Arithmetic::Sub),
        "Mul" => binary(cx, Arithmetic::Mul),
        "Div" => binary(cx, Arithmetic::Div),
        "Pow" => pow(cx),
        "Mod" => modulo(cx),
        "PRelu" => prelu(cx),
        "Sum" => variadic(cx, Arithmetic::Add).map(|v| vec![v]),
        "Max" => variadic(cx, Arithmetic::Max).map(|v| vec![v]),
        "Min" => variadic(cx, Arithmetic::Min).map(|v| vec![v]),
        "Mean" => mean(cx),
        "Equal" => compare(cx, Compare::Equal),
        "Less" => compare(cx, Compare::Less),
        "LessOrEqual" => compare(cx, Compare::LessOrEqual),
        "Greater" => compare(cx, Compare::Greater),
        "GreaterOrEqual" => compare(cx, Compare::GreaterOrEqual),
        "And" => logic(cx, Logic::And),
        "Or" => logic(cx, Logic::Or),
        "Xor" => logic(cx, Logic::Xor),
        "Not" => cx
            .arity(1, 1)
            .map_err(Failure::from)
            .and_then(|()| cx.one(Not)),
        "IsNaN" => cx
            .arity(1, 1)
            .map_err(Failure::from)
            .and_then(|()| cx.one(FloatTest::IsNaN)),
        "IsInf" => is_inf(cx),
        "Where" => cx
            .arity(3, 3)
            .map_err(Failure::from)
            .and_then(|()| cx.one(Where)),
        "Clip" => clip(cx),
        "Cast" => cast(cx),
        "CastLike" => cast_like(cx),
        _ => return None,
    })
}

/// Functions without attributes.
fn function(op: &str) -> Option<U> {
    Some(match op {
        "Abs" => U::Abs,
        "Ceil" => U::Ceil,
        "Cos" => U::Cos,
        "Erf" => U::Erf,
        "Exp" => U::Exp,
        "Floor" => U::Floor,
        "HardSwish" => U::HardSwish,
        "Log" => U::Log,
        "Neg" => U::Neg,
        "Reciprocal" => U::Reciprocal,
        "Relu" => U::Relu,
        "Round" => U::Round,
        "Sigmoid" => U::Sigmoid,
        "Sign" => U::Sign,
        "Sin" => U::Sin,
        "Softplus" => U::Softplus,
        "Softsign" => U::Softsign,
        "Sqrt" => U::Sqrt,
        "Tanh" => U::Tanh,
        _ => return None,
    })
}

fn unary(cx: &mut Context<'_, '_>, function: U) -> Lowered {
    cx.arity(1, 1)?;
    cx.one(Unary(function))
}

fn parametric(cx: &mut Context<'_, '_>, op: &str) -> Lowered {
    cx.arity(1, 1)?;
    match op {
        "Elu" => {
            let alpha = cx.float("alpha", 1.0)?;
            cx.one(Unary(U::Elu { alpha }))
        }
        "LeakyRelu" => {
            let alpha = cx.float("alpha", 0.01)?;
            cx.one(Unary(U::LeakyRelu { alpha }))
        }
        "HardSigmoid" => {
            let (alpha, beta) = (cx.float("alpha", 0.2)?, cx.float("beta", 0.5)?);
            cx.one(Unary(U::HardSigmoid { alpha, beta }))
        }
        "Selu" => {
            // The defaults of the ONNX specification, which f32 rounds.
            let alpha = cx.float("alpha", 1.673_263_2)?;
            let gamma = cx.float("gamma", 1.050_701)?;
            cx.one(Selu { alpha, gamma })
        }
        "Gelu" => match cx.text("approximate", "none")?.as_str() {
            "none" => cx.one(Unary(U::Gelu)),
            "tanh" => cx.one(Unary(U::GeluTanh)),
            other => Err(OpError::attribute(
                "approximate",
                format!("`{other}` is neither `none` nor `tanh`"),
            )
            .into()),
        },
        // x · tanh(softplus(x))
        _ => {
            let x = cx.input(0)?;
            let soft = cx.add(Unary(U::Softplus), &[Some(x)])?;
            let bounded = cx.add(Unary(U::Tanh), &[Some(soft)])?;
            Ok(vec![cx.add(Arithmetic::Mul, &[Some(x), Some(bounded)])?])
        }
    }
}

fn binary(cx: &mut Context<'_, '_>, op: Arithmetic) -> Lowered {
    cx.arity(2, 2)?;
    cx.one(op)
}

fn compare(cx: &mut Context<'_, '_>, op: Compare) -> Lowered {
    cx.arity(2, 2)?;
    cx.one(op)
}

fn logic(cx: &mut Context<'_, '_>, op: Logic) -> Lowered {
    cx.arity(2, 2)?;
    cx.one(op)
}

/// The base decides on the type; an integer exponent of a float is converted.
fn pow(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let (base, exponent) = (cx.fact(0)?.dtype(), cx.fact(1)?.dtype());
    let (x, mut y) = (cx.input(0)?, cx.input(1)?);
    let integer = |d| matches!(d, DType::I32 | DType::I64);
    if base != exponent {
        if !integer(exponent) || !(integer(base) || base == DType::F32) {
            return Err(OpError::unsupported(format!("a power of {base} to {exponent}")).into());
        }
        y = cx.add(Cast { to: base }, &[Some(y)])?;
    }
    Ok(vec![cx.add(Arithmetic::Pow, &[Some(x), Some(y)])?])
}

fn modulo(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let op = if cx.flag("fmod", false)? {
        Arithmetic::Fmod
    } else {
        Arithmetic::Mod
    };
    cx.one(op)
}

/// The slope broadcasts to the operand, not the other way.
fn prelu(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let y = cx.one(Arithmetic::PRelu)?;
    let (found, wanted) = (cx.builder.fact(y[0]).shape(), cx.fact(0)?.shape());
    if found != wanted {
        return Err(OpError::shape("the slope does not broadcast to the operand").into());
    }
    Ok(y)
}

/// Any number of operands, folded from the left.
fn variadic(cx: &mut Context<'_, '_>, op: Arithmetic) -> Result<ValueId, Failure> {
    cx.arity(1, usize::MAX)?;
    let mut result = cx.input(0)?;
    for index in 1..cx.inputs.len() {
        let next = cx.input(index)?;
        result = cx.add(op, &[Some(result), Some(next)])?;
    }
    Ok(result)
}

/// The sum, divided by the number of operands.
fn mean(cx: &mut Context<'_, '_>) -> Lowered {
    let sum = variadic(cx, Arithmetic::Add)?;
    if cx.fact(0)?.dtype() != DType::F32 {
        return Err(OpError::unsupported("the mean of other than FP32").into());
    }
    if cx.inputs.len() == 1 {
        return Ok(vec![sum]);
    }
    let count = cx.tensor(Tensor::scalar(cx.inputs.len() as f32));
    Ok(vec![cx.add(Arithmetic::Div, &[Some(sum), Some(count)])?])
}

fn is_inf(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let (negative, positive) = (
        cx.flag("detect_negative", true)?,
        cx.flag("detect_positive", true)?,
    );
    cx.one(FloatTest::IsInf { negative, positive })
}

/// Bounds were attributes before operator set 11.
fn clip(cx: &mut Context<'_, '_>) -> Lowered {
    let x = cx.input(0)?;
    if cx.opset >= 11 {
        cx.arity(1, 3)?;
        // Nothing is clipped without a bound.
        return if cx.inputs.len() == 1 {
            Ok(vec![x])
        } else {
            cx.one(Clip)
        };
    }
    cx.arity(1, 1)?;
    let (min, max) = (cx.maybe_float("min")?, cx.maybe_float("max")?);
    let low = min.map(|v| cx.tensor(Tensor::scalar(v)));
    let high = max.map(|v| cx.tensor(Tensor::scalar(v)));
    let mut inputs = vec![Some(x), low, high];
    while let Some(None) = inputs.last() {
        inputs.pop();
    }
    if inputs.len() == 1 {
        return Ok(vec![x]);
    }
    Ok(vec![cx.add(Clip, &inputs)?])
}

fn cast(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let code = cx
        .maybe_int("to")?
        .ok_or_else(|| OpError::attribute("to", "is missing"))?;
    // Concerns 8-bit floats, which are refused.
    cx.int("saturate", 1)?;
    cx.text("round_mode", "up")?;
    let to = crate::onnx::tensor::dtype(code).map_err(|reason| OpError::attribute("to", reason))?;
    cx.one(Cast { to })
}

fn cast_like(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    cx.int("saturate", 1)?;
    cx.text("round_mode", "up")?;
    let (x, to) = (cx.input(0)?, cx.fact(1)?.dtype());
    Ok(vec![cx.add(Cast { to }, &[Some(x)])?])
}
