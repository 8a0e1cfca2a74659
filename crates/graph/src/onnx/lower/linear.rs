//! Matrix products, convolution, pooling, normalisation.

use lemma_kernels::Reduction;

use super::{Lowered, NodeContext};
use crate::error::OpError;
use crate::ops::conv::{Conv, Padding, Sliding};
use crate::ops::linear::{Gemm, MatMul};
use crate::ops::norm::{BatchNorm, GroupNorm, Normalize, RowNorm, Softmax};
use crate::ops::pool::{Pool, PoolKind};
use crate::ops::reduce::Reduce;

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
    cx.one(MatMul)
}

fn gemm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(if cx.opset < 11 { 3 } else { 2 }, 3)?;
    let op = Gemm {
        alpha: cx.float("alpha", 1.0)?,
        beta: cx.float("beta", 1.0)?,
        trans_a: cx.flag("transA", false)?,
        trans_b: cx.flag("transB", false)?,
    };
    cx.one(op)
}

/// The attributes of a sliding window; the size of the window may follow from the filters.
fn sliding(
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

fn conv(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 3)?;
    let filters: Option<Vec<usize>> = cx.fact(1)?.ty.concrete();
    let kernel = filters.and_then(|shape| shape.get(2..).map(<[usize]>::to_vec));
    let window = sliding(cx, kernel, true)?;
    let groups = cx.int("group", 1)?;
    let groups = usize::try_from(groups)
        .ok()
        .filter(|&g| g > 0)
        .ok_or_else(|| {
            OpError::attribute("group", format!("is {groups}: at least 1 is expected"))
        })?;
    cx.one(Conv { groups, window })
}

fn max_pool(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let window = sliding(cx, None, cx.opset >= 10)?;
    let ceil_mode = cx.opset >= 10 && cx.flag("ceil_mode", false)?;
    // Concerns the second output, which is refused.
    cx.int("storage_order", 0)?;
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
    // Concerns training, which is refused.
    cx.float("momentum", 0.9)?;
    if cx.flag("training_mode", false)? {
        return Err(OpError::attribute(
            "training_mode",
            "is not supported: export the model for inference",
        )
        .into());
    }
    if cx.opset < 9 && !cx.flag("spatial", true)? {
        return Err(OpError::attribute("spatial", "other than 1 is not supported").into());
    }
    cx.one(BatchNorm { epsilon })
}

fn row_norm(cx: &mut Context<'_, '_>, kind: RowNorm) -> Lowered {
    cx.arity(2, if kind == RowNorm::Layer { 3 } else { 2 })?;
    let axis = cx.axis(-1, cx.rank(0)?)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    if cx.int("stash_type", 1)? != 1 {
        return Err(
            OpError::attribute("stash_type", "other than 1 (FP32) is not supported").into(),
        );
    }
    cx.one(Normalize {
        kind,
        axis,
        epsilon,
    })
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
    if cx.opset < 21 {
        return Err(
            OpError::unsupported("scale and bias for each group (before operator set 21)").into(),
        );
    }
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
    cx.one(GroupNorm {
        groups: Some(groups),
        epsilon,
    })
}
