//! Reductions and orderings.

use std::sync::Arc;

use lemma_kernels::Reduction;
use lemma_types::tensor::DType;

use super::{Lowered, NodeContext, axes, axis};
use crate::error::OpError;
use crate::fact::{Sym, Type};
use crate::graph::ValueId;
use crate::operator::{Op, Operands, Operator};
use crate::ops::late::{Late, any_sizes, count};
use crate::ops::reduce::{ArgReduce, CumSum, Reduce, TopK};
use crate::ops::reshape::Unsqueeze;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "ReduceSum" => reduce(cx, Reduction::Sum),
        "ReduceMean" => reduce(cx, Reduction::Mean),
        "ReduceProd" => reduce(cx, Reduction::Prod),
        "ReduceMax" => reduce(cx, Reduction::Max),
        "ReduceMin" => reduce(cx, Reduction::Min),
        "ReduceL1" => reduce(cx, Reduction::L1),
        "ReduceL2" => reduce(cx, Reduction::L2),
        "ReduceSumSquare" => reduce(cx, Reduction::SumSquare),
        "ReduceLogSum" => reduce(cx, Reduction::LogSum),
        "ReduceLogSumExp" => reduce(cx, Reduction::LogSumExp),
        "ArgMax" => arg(cx, true),
        "ArgMin" => arg(cx, false),
        "TopK" => top_k(cx),
        "CumSum" => cum_sum(cx),
        _ => return None,
    })
}

/// Axes became an operand with operator set 13 for sums, 18 for the others.
fn reduce(cx: &mut Context<'_, '_>, op: Reduction) -> Lowered {
    let since = if op == Reduction::Sum { 13 } else { 18 };
    let (given, noop) = if cx.opset >= since {
        cx.arity(1, 2)?;
        (cx.known_ints(1), cx.flag("noop_with_empty_axes", false)?)
    } else {
        cx.arity(1, 1)?;
        (Ok(cx.ints("axes")?), false)
    };
    let keep = cx.flag("keepdims", true)?;
    let (x, rank) = (cx.input(0)?, cx.rank(0)?);
    let given = match given {
        Ok(given) => given.unwrap_or_default(),
        Err(axes) => {
            let late = reduce_late(op, keep);
            return Ok(vec![cx.add(late, &[Some(x), Some(axes)])?]);
        }
    };
    if given.is_empty() && noop {
        return Ok(vec![without_axes(cx, op, x)?]);
    }
    if rank == 0 {
        // A scalar is reduced as a vector of one element.
        let vector = cx.add(Unsqueeze { axes: vec![0] }, &[Some(x)])?;
        let op = Reduce {
            op,
            axes: vec![0],
            keep: false,
        };
        return Ok(vec![cx.add(op, &[Some(vector)])?]);
    }
    let axes = if given.is_empty() {
        (0..rank).collect()
    } else {
        axes(&given, rank)?
    };
    Ok(vec![cx.add(Reduce { op, axes, keep }, &[Some(x)])?])
}

/// Of no axes every element is a row of its own.
fn without_axes(cx: &mut Context<'_, '_>, op: Reduction, x: ValueId) -> Result<ValueId, OpError> {
    use Reduction as R;
    match op {
        R::Sum | R::Mean | R::Prod | R::Max | R::Min => return Ok(x),
        _ => {}
    }
    let rank = cx.builder.fact(x).rank();
    let rows = cx.add(Unsqueeze { axes: vec![rank] }, &[Some(x)])?;
    let op = Reduce {
        op,
        axes: vec![rank],
        keep: false,
    };
    cx.add(op, &[Some(rows)])
}

/// A reduction along axes that are data, at least one.
fn reduce_late(op: Reduction, keep: bool) -> Late {
    let name = Reduce {
        op,
        axes: Vec::new(),
        keep,
    }
    .name();
    Late {
        name,
        attributes: vec![u64::MAX, u64::from(keep)],
        data: 1,
        build: Box::new(move |x, parameters| {
            let axes = axes(&parameters[0], x.rank())?;
            Ok(Some(Arc::new(Reduce { op, axes, keep }) as Op))
        }),
        open: Box::new(move |inputs| {
            let (mut ty, axes) = (any_sizes(inputs)?, count(inputs, 1)?);
            let probe = Reduce {
                op,
                axes: Vec::new(),
                keep,
            };
            probe.infer(Operands(&inputs.0[..1]))?;
            if !keep {
                let rank = ty.rank().checked_sub(axes);
                let rank = rank.ok_or_else(|| OpError::operand("axes", "are too many"))?;
                ty.shape.truncate(rank);
            }
            Ok(vec![ty])
        }),
    }
}

fn arg(cx: &mut Context<'_, '_>, max: bool) -> Lowered {
    cx.arity(1, 1)?;
    let op = ArgReduce {
        max,
        axis: cx.axis(0, cx.rank(0)?)?,
        keep: cx.flag("keepdims", true)?,
        last: cx.opset >= 12 && cx.flag("select_last_index", false)?,
    };
    cx.one(op)
}

fn top_k(cx: &mut Context<'_, '_>) -> Lowered {
    let k = if cx.opset < 10 {
        cx.arity(1, 1)?;
        Ok(cx.maybe_int("k")?.map(|k| vec![k]))
    } else {
        cx.arity(2, 2)?;
        cx.known_ints(1)
    };
    let axis = cx.axis(-1, cx.rank(0)?)?;
    let largest = cx.opset < 11 || cx.flag("largest", true)?;
    // Sorted is one of the orders that unsorted allows.
    cx.int("sorted", 1)?;
    let x = cx.input(0)?;
    let make = move |k: Option<&[i64]>| match k {
        Some(&[k]) if k >= 0 => Ok(TopK {
            k: usize::try_from(k).unwrap_or(usize::MAX),
            axis,
            largest,
        }),
        _ => Err(OpError::operand(
            "K",
            "must be one number that is not negative",
        )),
    };
    let first = match k {
        Ok(k) => cx.add(make(k.as_deref())?, &[Some(x)])?,
        Err(k) => {
            let late = Late {
                name: "TopK/1",
                attributes: vec![u64::MAX, axis as u64, u64::from(largest)],
                data: 1,
                build: Box::new(move |_, parameters| {
                    Ok(Some(Arc::new(make(Some(&parameters[0]))?) as Op))
                }),
                open: Box::new(move |inputs| {
                    make(Some(&[0]))?.infer(Operands(&inputs.0[..1]))?;
                    let mut ty = inputs.need(0)?.ty.clone();
                    count(inputs, 1)?;
                    ty.shape[axis] = Sym::Unknown;
                    let positions = Type::new(DType::I64, ty.shape.clone());
                    Ok(vec![ty, positions])
                }),
            };
            cx.add(late, &[Some(x), Some(k)])?
        }
    };
    Ok(vec![first, first + 1])
}

fn cum_sum(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let (exclusive, reverse) = (cx.flag("exclusive", false)?, cx.flag("reverse", false)?);
    let make = move |rank: usize, along: &[i64]| match *along {
        [along] => Ok(CumSum {
            axis: axis(along, rank)?,
            exclusive,
            reverse,
        }),
        _ => Err(OpError::operand("axis", "must be one number")),
    };
    let x = cx.input(0)?;
    match cx.known_ints(1) {
        Ok(along) => {
            let op = make(cx.rank(0)?, &along.unwrap_or_default())?;
            Ok(vec![cx.add(op, &[Some(x)])?])
        }
        Err(along) => {
            let late = Late {
                name: "CumSum/1",
                attributes: vec![u64::MAX, u64::from(exclusive), u64::from(reverse)],
                data: 1,
                build: Box::new(move |x, parameters| {
                    Ok(Some(Arc::new(make(x.rank(), &parameters[0])?) as Op))
                }),
                open: Box::new(move |inputs| {
                    count(inputs, 1)?;
                    make(inputs.need(0)?.rank(), &[0])?.infer(Operands(&inputs.0[..1]))
                }),
            };
            Ok(vec![cx.add(late, &[Some(x), Some(along)])?])
        }
    }
}
