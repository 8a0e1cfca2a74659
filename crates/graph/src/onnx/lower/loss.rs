//! Losses and normalisations that are composed of other operators.

use lemma_kernels::{Reduction as R, Unary as U};
use lemma_types::tensor::DType;

use super::{Lowered, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::compare::Compare;
use crate::ops::norm::Softmax;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "NegativeLogLikelihoodLoss" => likelihood(cx),
        "SoftmaxCrossEntropyLoss" => cross_entropy(cx),
        "MeanVarianceNormalization" => mean_variance(cx),
        _ => return None,
    })
}

fn likelihood(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 3)?;
    let x = cx.input(0)?;
    Ok(vec![loss(cx, x)?])
}

fn cross_entropy(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 3)?;
    let (x, rank) = (cx.input(0)?, cx.rank(0)?);
    if rank < 2 {
        return Err(OpError::shape("scores need a batch and a class dimension").into());
    }
    let op = Softmax {
        axis: 1,
        to_end: false,
        log: true,
    };
    let log = cx.add(op, &[Some(x)])?;
    Ok(vec![loss(cx, log)?, log])
}

/// The loss of logarithms of likelihoods: the second operand says which class is true, the third
/// weighs classes. Places of the ignored class count nothing.
fn loss(cx: &mut Context<'_, '_>, logs: ValueId) -> Result<ValueId, OpError> {
    let reduction = cx.text("reduction", "mean")?;
    let ignored = cx.maybe_int("ignore_index")?;
    let (target, weight) = (cx.input(1)?, cx.maybe(2));
    let rank = cx.rank_of(target);
    if cx.rank_of(logs) != rank + 1 {
        return Err(OpError::shape("each place has one true class"));
    }
    let dtype = cx.dtype_of(target);
    let (one, zero) = (cx.number(1.0), cx.number(0.0));
    let valid = match ignored {
        None => None,
        Some(class) => {
            let class = cx.integer(dtype, class)?;
            let is = cx.compare(Compare::Equal, target, class)?;
            Some(cx.not(is)?)
        }
    };
    let class = match valid {
        None => target,
        Some(valid) => {
            let first = cx.integer(dtype, 0)?;
            cx.choose(valid, target, first)?
        }
    };
    let column = cx.unsqueeze(class, 1)?;
    let picked = cx.gather_elements(logs, column, 1)?;
    let picked = cx.squeeze(picked, 1)?;
    let mut losses = cx.function(U::Neg, picked)?;
    let mut weights = match weight {
        None => None,
        Some(weight) => Some(cx.gather(weight, class, 0)?),
    };
    if let Some(weights) = weights {
        losses = cx.times(losses, weights)?;
    }
    if let Some(valid) = valid {
        losses = cx.choose(valid, losses, zero)?;
        weights = Some(cx.choose(valid, weights.unwrap_or(one), zero)?);
    }
    let all: Vec<usize> = (0..rank).collect();
    match (reduction.as_str(), weights) {
        ("none", _) => Ok(losses),
        ("sum", _) => cx.reduce(R::Sum, losses, all, false),
        ("mean", None) => cx.reduce(R::Mean, losses, all, false),
        ("mean", Some(weights)) => {
            let sum = cx.reduce(R::Sum, losses, all.clone(), false)?;
            let total = cx.reduce(R::Sum, weights, all, false)?;
            cx.over(sum, total)
        }
        (other, _) => Err(OpError::attribute(
            "reduction",
            format!("`{other}` is not known"),
        )),
    }
}

/// (x − mean) ÷ (√mean((x − mean)²) + 10⁻⁹) along some axes.
fn mean_variance(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let x = cx.input(0)?;
    let axes = cx.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = super::axes(&axes, cx.rank(0)?)?;
    if cx.dtype_of(x) != DType::F32 {
        return Err(OpError::unsupported("other than floats").into());
    }
    let mean = cx.reduce(R::Mean, x, axes.clone(), true)?;
    let centred = cx.minus(x, mean)?;
    let squares = cx.times(centred, centred)?;
    let variance = cx.reduce(R::Mean, squares, axes, true)?;
    let deviation = cx.function(U::Sqrt, variance)?;
    let small = cx.number(1e-9);
    let divisor = cx.plus(deviation, small)?;
    Ok(vec![cx.over(centred, divisor)?])
}
