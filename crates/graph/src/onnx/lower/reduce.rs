//! Reductions and orderings.

use lemma_kernels::Reduction;

use super::{Lowered, NodeContext, axes, axis};
use crate::error::OpError;
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
        (
            cx.constant_ints(1, "axes")?,
            cx.flag("noop_with_empty_axes", false)?,
        )
    } else {
        cx.arity(1, 1)?;
        (cx.ints("axes")?, false)
    };
    let keep = cx.flag("keepdims", true)?;
    let (x, rank) = (cx.input(0)?, cx.rank(0)?);
    let given = given.unwrap_or_default();
    if given.is_empty() && noop {
        // What stays of the operand is agreed upon only where one element reduces to itself.
        use Reduction as R;
        return match op {
            R::Sum | R::Mean | R::Prod | R::Max | R::Min => Ok(vec![x]),
            _ => Err(OpError::attribute(
                "noop_with_empty_axes",
                "is not supported for this reduction",
            )
            .into()),
        };
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
        cx.maybe_int("k")?
    } else {
        cx.arity(2, 2)?;
        cx.constant_int(1, "K")?
    };
    let k = k.and_then(|k| usize::try_from(k).ok());
    let k = k.ok_or_else(|| OpError::operand("K", "must be a number that is not negative"))?;
    let axis = cx.axis(-1, cx.rank(0)?)?;
    let largest = cx.opset < 11 || cx.flag("largest", true)?;
    // Sorted is one of the orders that unsorted allows.
    cx.int("sorted", 1)?;
    let x = cx.input(0)?;
    let first = cx.add(TopK { k, axis, largest }, &[Some(x)])?;
    Ok(vec![first, first + 1])
}

fn cum_sum(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let along = cx
        .constant_int(1, "axis")?
        .ok_or_else(|| OpError::operand("axis", "is missing"))?;
    let op = CumSum {
        axis: axis(along, cx.rank(0)?)?,
        exclusive: cx.flag("exclusive", false)?,
        reverse: cx.flag("reverse", false)?,
    };
    let x = cx.input(0)?;
    Ok(vec![cx.add(op, &[Some(x)])?])
}
