//! Functions of single values, arithmetic, comparison, selection, conversion.

use lemma_kernels::Unary as U;
use lemma_types::tensor::DType;

use super::{Failure, Lowered, NodeContext};
use crate::error::OpError;
use crate::fact::Sym;
use crate::graph::ValueId;
use crate::operator::Operator;
use crate::ops::arithmetic::Arithmetic;
use crate::ops::bits::{Bits, BitwiseNot};
use crate::ops::compare::{Compare, Logic};
use crate::ops::functions::Function;
use crate::ops::reshape::Unsqueeze;
use crate::ops::select::{Clip, Where};
use crate::ops::unary::{FloatTest, Not, Selu, Unary};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    if let Some(function) = function(op) {
        return Some(unary(cx, function));
    }
    if let Some(function) = Function::named(op) {
        return Some(plain(cx, 1, function));
    }
    Some(match op {
        "BitwiseAnd" => plain(cx, 2, Bits::And),
        "BitwiseOr" => plain(cx, 2, Bits::Or),
        "BitwiseXor" => plain(cx, 2, Bits::Xor),
        "BitwiseNot" => plain(cx, 1, BitwiseNot),
        "BitShift" => shift(cx),
        "Celu" => celu(cx),
        "ThresholdedRelu" => thresholded(cx),
        "Shrink" => shrink(cx),
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

/// An operator on the node's own operands.
fn plain(cx: &mut Context<'_, '_>, operands: usize, op: impl Operator + 'static) -> Lowered {
    cx.arity(operands, operands)?;
    cx.one(op)
}

fn shift(cx: &mut Context<'_, '_>) -> Lowered {
    let op = match cx.text("direction", "")?.as_str() {
        "LEFT" => Bits::ShiftLeft,
        "RIGHT" => Bits::ShiftRight,
        other => {
            let reason = format!("`{other}` is neither `LEFT` nor `RIGHT`");
            return Err(OpError::attribute("direction", reason).into());
        }
    };
    plain(cx, 2, op)
}

/// relu(x) + alpha · elu(min(x, 0) ÷ alpha)
fn celu(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let alpha = cx.float("alpha", 1.0)?;
    if alpha <= 0.0 {
        return Err(OpError::attribute("alpha", format!("is {alpha}")).into());
    }
    let x = cx.input(0)?;
    let (zero, alpha) = (cx.number(0.0), cx.number(alpha));
    let positive = cx.function(U::Relu, x)?;
    let negative = cx.binary(Arithmetic::Min, x, zero)?;
    let negative = cx.over(negative, alpha)?;
    let negative = cx.function(U::Elu { alpha: 1.0 }, negative)?;
    let negative = cx.times(alpha, negative)?;
    Ok(vec![cx.plus(positive, negative)?])
}

/// x where it is above alpha, else 0.
fn thresholded(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let alpha = cx.float("alpha", 1.0)?;
    let x = cx.input(0)?;
    let (zero, alpha) = (cx.number(0.0), cx.number(alpha));
    let above = cx.compare(Compare::Greater, x, alpha)?;
    Ok(vec![cx.choose(above, x, zero)?])
}

/// x moved toward 0 by a bias beyond ±lambda, 0 between.
fn shrink(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let (bias, lambda) = (cx.float("bias", 0.0)?, cx.float("lambd", 0.5)?);
    let x = cx.input(0)?;
    let (zero, bias) = (cx.number(0.0), cx.number(bias));
    let (low, high) = (cx.number(-lambda), cx.number(lambda));
    let below = cx.compare(Compare::Less, x, low)?;
    let above = cx.compare(Compare::Greater, x, high)?;
    let (raised, lowered) = (cx.plus(x, bias)?, cx.minus(x, bias)?);
    let rest = cx.choose(above, lowered, zero)?;
    Ok(vec![cx.choose(below, raised, rest)?])
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
    aligned(cx)?;
    cx.one(op)
}

/// Before operator set 7 the second operand is repeated only where that is asked for, and stands
/// at an axis of the first.
fn aligned(cx: &mut Context<'_, '_>) -> Result<(), OpError> {
    if cx.opset >= 7 {
        return Ok(());
    }
    let (broadcast, axis) = (cx.flag("broadcast", false)?, cx.maybe_int("axis")?);
    let (rank, own) = (cx.rank(0)?, cx.rank(1)?);
    if !broadcast {
        return match cx.fact(0)?.shape() == cx.fact(1)?.shape() {
            true => Ok(()),
            false => Err(OpError::shape("operands differ in shape")),
        };
    }
    if let Some(axis) = axis {
        let at = super::axis(axis, rank)?;
        let behind = rank.checked_sub(at + own);
        let behind = behind.ok_or_else(|| OpError::attribute("axis", "is out of range"))?;
        let axes = (own..own + behind).collect();
        let b = cx.input(1)?;
        cx.inputs[1] = Some(cx.add(Unsqueeze { axes }, &[Some(b)])?);
    }
    Ok(())
}

fn compare(cx: &mut Context<'_, '_>, op: Compare) -> Lowered {
    cx.arity(2, 2)?;
    aligned(cx)?;
    cx.one(op)
}

fn logic(cx: &mut Context<'_, '_>, op: Logic) -> Lowered {
    cx.arity(2, 2)?;
    aligned(cx)?;
    cx.one(op)
}

/// The base decides on the type. An exponent of another type is converted to it; an integer and a
/// float exponent meet in FP32.
fn pow(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    aligned(cx)?;
    let (base, exponent) = (cx.fact(0)?.dtype(), cx.fact(1)?.dtype());
    let (mut x, mut y) = (cx.input(0)?, cx.input(1)?);
    if base == exponent {
        return Ok(vec![cx.binary(Arithmetic::Pow, x, y)?]);
    }
    let integer = |d| crate::ops::INTEGERS.contains(&d);
    let common = match (base, exponent) {
        (DType::I32 | DType::I64, e) if integer(e) => base,
        (DType::F32, e) if integer(e) => base,
        (DType::I32 | DType::I64, DType::F32) => DType::F32,
        _ => {
            return Err(OpError::unsupported(format!("a power of {base} to {exponent}")).into());
        }
    };
    x = super::quantize::convert(cx, x, common)?;
    y = super::quantize::convert(cx, y, common)?;
    let power = cx.binary(Arithmetic::Pow, x, y)?;
    Ok(vec![super::quantize::convert(cx, power, base)?])
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

/// The slope broadcasts to the operand, not the other way; before operator set 7 it is one for each
/// channel.
fn prelu(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    if cx.opset < 7 && cx.rank(1)? == 1 && cx.rank(0)? > 2 && cx.fact(1)?.shape() != [Sym::Known(1)]
    {
        let (slope, rank) = (cx.input(1)?, cx.rank(0)?);
        let axes = (1..rank - 1).collect();
        cx.inputs[1] = Some(cx.add(Unsqueeze { axes }, &[Some(slope)])?);
    }
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
    if cx.inputs.len() == 1 {
        return Ok(vec![sum]);
    }
    let count = match cx.fact(0)?.dtype() {
        DType::F32 => Tensor::scalar(cx.inputs.len() as f32),
        DType::F64 => Tensor::scalar(cx.inputs.len() as f64),
        _ => return Err(OpError::unsupported("the mean of other than floats").into()),
    };
    let count = cx.tensor(count);
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
