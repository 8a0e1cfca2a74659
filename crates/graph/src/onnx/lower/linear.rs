//! Matrix products, convolution, pooling, normalisation.

use lemma_kernels::Reduction;
use lemma_types::tensor::DType;

use super::compose::Part;
use super::{Lowered, NodeContext, dequantised};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::conv::{Conv, Padding, Sliding};
use crate::ops::einsum::PlainMatMul;
use crate::ops::linear::{Gemm, MatMul};
use crate::ops::norm::{BatchNorm, GroupNorm, Normalize, RowNorm, Softmax};
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::reduce::Reduce;
use crate::ops::window::{Kind, WindowPool};

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "MatMul" => matmul(cx),
        "Gemm" => gemm(cx),
        "Conv" => conv(cx),
        "MaxPool" => max_pool(cx),
        "AveragePool" => average_pool(cx),
        "GlobalAveragePool" => global_pool(cx, Reduction::Mean),
        "GlobalMaxPool" => global_pool(cx, Reduction::Max),
        "Softmax" => softmax(cx, false),
        "LogSoftmax" => softmax(cx, true),
        "BatchNormalization" => batch_norm(cx),
        "LayerNormalization" => row_norm(cx, RowNorm::Layer),
        "RMSNormalization" => row_norm(cx, RowNorm::RootMeanSquare),
        "InstanceNormalization" => instance_norm(cx),
        "GroupNormalization" => group_norm(cx),
        _ => return None,
    })
}

fn matmul(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    if let Some(y) = dequantised::product(cx, false)? {
        return Ok(vec![y]);
    }
    if cx.fact(0)?.dtype() == DType::F32 {
        cx.one(MatMul)
    } else {
        cx.one(PlainMatMul)
    }
}

fn gemm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(if cx.opset < 11 { 3 } else { 2 }, 3)?;
    if cx.opset < 7 {
        // Whether the addend is repeated shows in its shape.
        cx.flag("broadcast", false)?;
    }
    let op = Gemm {
        alpha: cx.float("alpha", 1.0)?,
        beta: cx.float("beta", 1.0)?,
        trans_a: cx.flag("transA", false)?,
        trans_b: cx.flag("transB", false)?,
    };
    let plain = op.alpha == 1.0 && !op.trans_a && (op.beta == 1.0 || cx.maybe(2).is_none());
    if plain && let Some(y) = dequantised::product(cx, op.trans_b)? {
        return Ok(vec![match cx.maybe(2) {
            Some(addend) => cx.plus(y, addend)?,
            None => y,
        }]);
    }
    cx.one(op)
}

/// The attributes of a sliding window; the size of the window may follow from the filters.
pub(super) fn sliding(
    cx: &mut Context<'_, '_>,
    filters: Option<Vec<usize>>,
    dilates: bool,
) -> Result<Sliding, OpError> {
    let spatial = cx.rank(0)?.checked_sub(2).filter(|&n| n > 0);
    let spatial = spatial
        .ok_or_else(|| OpError::shape("data needs a batch, a channel, and spatial dimensions"))?;
    let kernel = cx
        .sizes("kernel_shape")?
        .or(filters)
        .ok_or_else(|| OpError::attribute("kernel_shape", "is missing"))?;
    let strides = cx.sizes("strides")?.unwrap_or_else(|| vec![1; spatial]);
    let dilations = match dilates {
        true => cx.sizes("dilations")?,
        false => None,
    };
    let dilations = dilations.unwrap_or_else(|| vec![1; spatial]);
    let pads = cx.ints("pads")?;
    let padding = match cx.text("auto_pad", "NOTSET")?.as_str() {
        "NOTSET" => explicit(pads.unwrap_or_else(|| vec![0; 2 * spatial]), spatial)?,
        auto => {
            if pads.is_some_and(|p| p.iter().any(|&n| n != 0)) {
                return Err(OpError::attribute(
                    "pads",
                    format!("are given beside auto_pad `{auto}`"),
                ));
            }
            match auto {
                "VALID" => explicit(vec![0; 2 * spatial], spatial)?,
                "SAME_UPPER" => Padding::Same { upper: true },
                "SAME_LOWER" => Padding::Same { upper: false },
                other => {
                    return Err(OpError::attribute(
                        "auto_pad",
                        format!("`{other}` is not known"),
                    ));
                }
            }
        }
    };
    for (name, list) in [
        ("kernel_shape", &kernel),
        ("strides", &strides),
        ("dilations", &dilations),
    ] {
        if list.contains(&0) {
            return Err(OpError::attribute(
                name,
                format!("{list:?} has an entry of 0"),
            ));
        }
    }
    Ok(Sliding {
        kernel,
        strides,
        dilations,
        padding,
    })
}

fn explicit(pads: Vec<i64>, spatial: usize) -> Result<Padding, OpError> {
    let wrong = |reason: &str| OpError::attribute("pads", format!("{pads:?} {reason}"));
    let sizes: Vec<usize> = pads
        .iter()
        .filter_map(|&p| usize::try_from(p).ok())
        .collect();
    if sizes.len() != pads.len() {
        return Err(wrong("has a negative entry, which is not supported"));
    }
    if sizes.len() != 2 * spatial {
        return Err(wrong(&format!(
            "does not have two entries for each of {spatial} spatial axes"
        )));
    }
    let (before, after) = sizes.split_at(spatial);
    Ok(Padding::Explicit {
        before: before.to_vec(),
        after: after.to_vec(),
    })
}

/// The window of a convolution of operand `data` with `filters`.
pub(super) fn convolution(
    cx: &mut Context<'_, '_>,
    data: usize,
    filters: usize,
) -> Result<Sliding, OpError> {
    debug_assert_eq!(data, 0);
    let shape: Option<Vec<usize>> = cx.fact(filters)?.ty.concrete();
    let kernel = shape.and_then(|shape| shape.get(2..).map(<[usize]>::to_vec));
    sliding(cx, kernel, true)
}

pub(super) fn groups(cx: &mut Context<'_, '_>) -> Result<usize, OpError> {
    let groups = cx.int("group", 1)?;
    usize::try_from(groups)
        .ok()
        .filter(|&g| g > 0)
        .ok_or_else(|| OpError::attribute("group", format!("is {groups}: at least 1 is expected")))
}

fn conv(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 3)?;
    let window = convolution(cx, 0, 1)?;
    let groups = groups(cx)?;
    if let Some(y) = dequantised::convolution(cx, groups, &window)? {
        return Ok(vec![y]);
    }
    cx.one(Conv { groups, window })
}

fn max_pool(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let window = sliding(cx, None, cx.opset >= 10)?;
    let ceil_mode = cx.opset >= 10 && cx.flag("ceil_mode", false)?;
    let columns = cx.flag("storage_order", false)?;
    let positions = cx.node.outputs.get(1).is_some_and(|name| !name.is_empty());
    if positions || cx.fact(0)?.dtype() != DType::F32 {
        let op = WindowPool {
            kind: Kind::MaxAt { columns },
            pool: WindowPool::geometry(window, ceil_mode),
        };
        let x = cx.input(0)?;
        let first = cx.add(op, &[Some(x)])?;
        return Ok(vec![first, first + 1]);
    }
    cx.one(Pool {
        kind: PoolKind::Max,
        ceil_mode,
        window,
    })
}

fn average_pool(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let window = sliding(cx, None, cx.opset >= 19)?;
    let ceil_mode = cx.opset >= 10 && cx.flag("ceil_mode", false)?;
    let include_pad = cx.flag("count_include_pad", false)?;
    cx.one(Pool {
        kind: PoolKind::Average { include_pad },
        ceil_mode,
        window,
    })
}

/// A reduction of all spatial axes, which are kept with size 1.
fn global_pool(cx: &mut Context<'_, '_>, op: Reduction) -> Lowered {
    cx.arity(1, 1)?;
    let axes: Vec<usize> = (2..cx.rank(0)?).collect();
    if axes.is_empty() {
        return Err(OpError::shape("data needs a batch, a channel, and spatial dimensions").into());
    }
    cx.one(Reduce {
        op,
        axes,
        keep: true,
    })
}

/// Before operator set 13 the row was everything from the axis on, and the axis 1 by default.
fn softmax(cx: &mut Context<'_, '_>, log: bool) -> Lowered {
    cx.arity(1, 1)?;
    let rank = cx.rank(0)?;
    let old = cx.opset < 13;
    let axis = cx.axis(if old { 1 } else { -1 }, rank)?;
    let to_end = old && axis + 1 < rank;
    cx.one(Softmax { axis, to_end, log })
}

fn batch_norm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(5, 5)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let momentum = cx.float("momentum", 0.9)?;
    let mut training = cx.flag("training_mode", false)?;
    if cx.opset < 7 {
        training = !cx.flag("is_test", false)?;
        cx.ints("consumed_inputs")?;
    }
    if cx.opset < 9 && !cx.flag("spatial", true)? {
        return Err(OpError::attribute("spatial", "other than 1 is not supported").into());
    }
    if !training {
        return cx.one(BatchNorm { epsilon });
    }
    if cx.opset < 14 {
        return Err(OpError::unsupported("training before operator set 14").into());
    }
    batch_norm_of_data(cx, epsilon, momentum)
}

/// Normalised by the moments of the data themselves, which move the given ones.
fn batch_norm_of_data(cx: &mut Context<'_, '_>, epsilon: f32, momentum: f32) -> Lowered {
    let x = cx.input(0)?;
    let rank = cx.rank(0)?;
    if rank < 2 {
        return Err(OpError::shape("data needs a batch and a channel dimension").into());
    }
    let axes: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
    let mean = cx.reduce(Reduction::Mean, x, axes.clone(), true)?;
    let centred = cx.minus(x, mean)?;
    let squares = cx.times(centred, centred)?;
    let variance = cx.reduce(Reduction::Mean, squares, axes, true)?;
    let flat = [
        cx.reshape(mean, &[Part::Is(-1)])?,
        cx.reshape(variance, &[Part::Is(-1)])?,
    ];
    let operands = [x, cx.input(1)?, cx.input(2)?, flat[0], flat[1]];
    let y = cx.add(BatchNorm { epsilon }, &operands.map(Some))?;
    let mut outputs = vec![y];
    let (old, new) = (cx.number(momentum), cx.number(1.0 - momentum));
    for (index, found) in (3..5).zip(flat) {
        let given = cx.input(index)?;
        let (kept, added) = (cx.times(given, old)?, cx.times(found, new)?);
        outputs.push(cx.plus(kept, added)?);
    }
    Ok(outputs)
}

fn row_norm(cx: &mut Context<'_, '_>, kind: RowNorm) -> Lowered {
    let layer = kind == RowNorm::Layer;
    cx.arity(2, if layer { 3 } else { 2 })?;
    let rank = cx.rank(0)?;
    let axis = cx.axis(-1, rank)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    if cx.int("stash_type", 1)? != 1 {
        return Err(
            OpError::attribute("stash_type", "other than 1 (FP32) is not supported").into(),
        );
    }
    let mut outputs = cx.one(Normalize {
        kind,
        axis,
        epsilon,
    })?;
    if layer && cx.node.outputs.len() > 1 {
        let x = cx.input(0)?;
        outputs.extend(moments(cx, x, axis, epsilon)?);
    }
    Ok(outputs)
}

/// Mean and inverse deviation of rows, which go with a normalisation.
pub(super) fn moments(
    cx: &mut Context<'_, '_>,
    x: ValueId,
    axis: usize,
    epsilon: f32,
) -> Result<[ValueId; 2], OpError> {
    let axes: Vec<usize> = (axis..cx.rank_of(x)).collect();
    let mean = cx.reduce(Reduction::Mean, x, axes.clone(), true)?;
    let centred = cx.minus(x, mean)?;
    let squares = cx.times(centred, centred)?;
    let variance = cx.reduce(Reduction::Mean, squares, axes, true)?;
    let epsilon = cx.number(epsilon);
    let variance = cx.plus(variance, epsilon)?;
    let inverse = cx.function(lemma_kernels::Unary::Rsqrt, variance)?;
    Ok([mean, inverse])
}

fn instance_norm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    cx.one(GroupNorm {
        groups: None,
        epsilon,
    })
}

/// Scale and bias are given for each channel since operator set 21, before that for each group.
fn group_norm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    if cx.int("stash_type", 1)? != 1 {
        return Err(
            OpError::attribute("stash_type", "other than 1 (FP32) is not supported").into(),
        );
    }
    let groups = cx.maybe_int("num_groups")?;
    let groups = groups
        .and_then(|g| usize::try_from(g).ok())
        .filter(|&g| g > 0);
    let groups = groups.ok_or_else(|| OpError::attribute("num_groups", "must be at least 1"))?;
    let mut operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    if cx.opset < 21 {
        // One for each group, repeated for its channels.
        let channels = cx.known_dim(operands[0], 1, "the number of channels")?;
        let each = Part::Is((channels / groups) as i64);
        for operand in &mut operands[1..] {
            let column = cx.unsqueeze(*operand, 1)?;
            let spread = cx.expand(column, &[Part::Is(groups as i64), each])?;
            *operand = cx.reshape(spread, &[Part::Is(-1)])?;
        }
    }
    let op = GroupNorm {
        groups: Some(groups),
        epsilon,
    };
    Ok(vec![cx.add(op, &operands.map(Some))?])
}
