//! Elements put in other places, or picked by what they are.

use std::sync::Arc;

use lemma_types::tensor::DType;

use super::compose::Part;
use super::{Lowered, NodeContext, axis};
use crate::error::OpError;
use crate::fact::{Sym, Type};
use crate::onnx::tensor::dtype;
use crate::operator::Op;
use crate::ops::generate::Given;
use crate::ops::index::OneHot;
use crate::ops::late::Late;
use crate::ops::layout::Trilu;
use crate::ops::pad::{Pad, PadMode};
use crate::ops::pick::{Compress, NonMaxSuppression, NonZero, Unique};
use crate::ops::reduce::ArgReduce;
use crate::ops::reshape::Flatten;
use crate::ops::scatter::{ReverseSequence, ScatterElements, ScatterNd, Update};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "EyeLike" => eye_like(cx),
        "Hardmax" => hardmax(cx),
        "Scatter" | "ScatterElements" => scatter_elements(cx),
        "ScatterND" => scatter_nd(cx),
        "ReverseSequence" => reverse_sequence(cx),
        "DepthToSpace" => depth_to_space(cx),
        "SpaceToDepth" => space_to_depth(cx),
        "CenterCropPad" => center_crop_pad(cx),
        "NonZero" => non_zero(cx),
        "Compress" => compress(cx),
        "Unique" => unique(cx),
        "NonMaxSuppression" => non_max_suppression(cx),
        _ => return None,
    })
}

fn non_zero(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    cx.one(NonZero)
}

/// Ones on a diagonal: a matrix of ones, cut off above and below.
fn eye_like(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let x = cx.input(0)?;
    if cx.rank(0)? != 2 {
        return Err(OpError::shape("a matrix has two dimensions").into());
    }
    let to = match cx.maybe_int("dtype")? {
        None => cx.dtype_of(x),
        Some(code) => dtype(code).map_err(|reason| OpError::attribute("dtype", reason))?,
    };
    let shift = cx.int("k", 0)?;
    let one = super::one_of(to)?;
    let ones = cx.fill(one, &[Part::Of(x, 0), Part::Of(x, 1)])?;
    let upper = Trilu { upper: true, shift };
    let above = cx.add(upper, &[Some(ones)])?;
    let lower = Trilu {
        upper: false,
        shift,
    };
    Ok(vec![cx.add(lower, &[Some(above)])?])
}

/// One at the largest element of a row, the first of equals; before operator set 13 a row was
/// everything from the axis on.
fn hardmax(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let old = cx.opset < 13;
    let rank = cx.rank(0)?;
    let (input, mut axis) = (cx.input(0)?, cx.axis(if old { 1 } else { -1 }, rank)?);
    let mut x = input;
    if old {
        x = cx.add(Flatten { axis }, &[Some(x)])?;
        axis = 1;
    }
    if cx.dtype_of(x) != DType::F32 {
        return Err(OpError::unsupported("other than floats").into());
    }
    let largest = ArgReduce {
        max: true,
        axis,
        keep: false,
        last: false,
    };
    let index = cx.add(largest, &[Some(x)])?;
    let depth = cx.shape(&[Part::Of(x, axis)])?;
    let values = cx.tensor(Tensor::vector(vec![0f32, 1.0]));
    let y = cx.add(OneHot { axis }, &[Some(index), Some(depth), Some(values)])?;
    if !old {
        return Ok(vec![y]);
    }
    let parts: Vec<Part> = (0..rank).map(|axis| Part::Of(input, axis)).collect();
    Ok(vec![cx.reshape(y, &parts)?])
}

fn update(cx: &mut Context<'_, '_>) -> Result<Update, OpError> {
    Ok(match cx.text("reduction", "none")?.as_str() {
        "none" => Update::Set,
        "add" => Update::Add,
        "mul" => Update::Mul,
        "max" => Update::Max,
        "min" => Update::Min,
        other => {
            let reason = format!("`{other}` is not known");
            return Err(OpError::attribute("reduction", reason));
        }
    })
}

fn scatter_elements(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let axis = cx.axis(0, cx.rank(0)?)?;
    let update = update(cx)?;
    cx.one(ScatterElements { axis, update })
}

fn scatter_nd(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let update = update(cx)?;
    cx.one(ScatterNd { update })
}

fn reverse_sequence(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let rank = cx.rank(0)?;
    let (batch, time) = (cx.int("batch_axis", 1)?, cx.int("time_axis", 0)?);
    let (batch, time) = (axis(batch, rank)?, axis(time, rank)?);
    cx.one(ReverseSequence { batch, time })
}

fn block_size(cx: &mut Context<'_, '_>) -> Result<i64, OpError> {
    cx.arity(1, 1)?;
    if cx.rank(0)? != 4 {
        return Err(OpError::shape("an image has four dimensions"));
    }
    let size = cx
        .maybe_int("blocksize")?
        .filter(|&n| (1..=4096).contains(&n));
    size.ok_or_else(|| OpError::attribute("blocksize", "must be a number from 1 to 4096"))
}

fn depth_to_space(cx: &mut Context<'_, '_>) -> Lowered {
    let b = block_size(cx)?;
    let columns_first = match cx.text("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(OpError::attribute("mode", format!("`{other}` is not known")).into()),
    };
    let x = cx.input(0)?;
    let channels = cx.known_dim(x, 1, "the number of channels")? as i64;
    if channels % (b * b) != 0 {
        return Err(OpError::shape(format!("{channels} channels, blocks of {b}")).into());
    }
    let (c, b) = (Part::Is(channels / (b * b)), Part::Is(b));
    let (n, h, w) = (Part::Of(x, 0), Part::Of(x, 2), Part::Of(x, 3));
    let (parts, perm) = if columns_first {
        ([n, c, b, b, h, w], [0, 1, 4, 2, 5, 3])
    } else {
        ([n, b, b, c, h, w], [0, 3, 4, 1, 5, 2])
    };
    let split = cx.reshape(x, &parts)?;
    let mixed = cx.transpose(split, &perm)?;
    let wide = merge(cx, mixed, 4)?;
    Ok(vec![merge(cx, wide, 2)?])
}

/// Two neighbouring dimensions as one.
fn merge(
    cx: &mut Context<'_, '_>,
    x: crate::graph::ValueId,
    at: usize,
) -> Result<crate::graph::ValueId, OpError> {
    let mut parts: Vec<Part> = (0..cx.rank_of(x)).map(|axis| Part::Of(x, axis)).collect();
    parts.remove(at + 1);
    parts[at] = Part::Is(-1);
    cx.reshape(x, &parts)
}

fn space_to_depth(cx: &mut Context<'_, '_>) -> Lowered {
    let b = block_size(cx)?;
    let x = cx.input(0)?;
    let sizes = [1, 2, 3].map(|axis| cx.known_dim(x, axis, "the size of the image"));
    let [c, h, w] = sizes;
    let [c, h, w] = [c? as i64, h? as i64, w? as i64];
    if h % b != 0 || w % b != 0 {
        return Err(OpError::shape(format!("{h} × {w}, blocks of {b}")).into());
    }
    let is = Part::Is;
    let n = Part::Of(x, 0);
    let split = cx.reshape(x, &[n, is(c), is(h / b), is(b), is(w / b), is(b)])?;
    let mixed = cx.transpose(split, &[0, 3, 5, 1, 2, 4])?;
    Ok(vec![cx.reshape(
        mixed,
        &[n, is(c * b * b), is(h / b), is(w / b)],
    )?])
}

/// What is to be added before and after each dimension, or where negative taken away, to reach a
/// size: as much on both sides, the odd one at the end.
fn centred(
    x: &Type,
    sizes: &[i64],
    axes: &Option<Vec<usize>>,
) -> Result<Option<Vec<i64>>, OpError> {
    let rank = x.rank();
    let all: Vec<usize> = (0..rank).collect();
    let axes = axes.as_ref().unwrap_or(&all);
    if axes.len() != sizes.len() {
        return Err(OpError::operand("input 1", "is not one size for each axis"));
    }
    let mut pads = vec![0i64; 2 * rank];
    for (&axis, &size) in axes.iter().zip(sizes) {
        let Some(dim) = x.shape[axis].known() else {
            return Ok(None);
        };
        if size < 0 {
            return Err(OpError::operand(
                "input 1",
                format!("size {size} is negative"),
            ));
        }
        let missing = size - dim;
        // Half, toward zero: what is odd goes to the end.
        pads[axis] = missing / 2;
        pads[rank + axis] = missing - missing / 2;
    }
    Ok(Some(pads))
}

fn center_crop_pad(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let (x, sizes, rank) = (cx.input(0)?, cx.input(1)?, cx.rank(0)?);
    let axes = match cx.ints("axes")? {
        None => None,
        Some(list) => {
            super::axes(&list, rank)?;
            let resolved: Result<Vec<usize>, _> = list.iter().map(|&a| axis(a, rank)).collect();
            Some(resolved?)
        }
    };
    let kept = match &axes {
        None => vec![u64::MAX],
        Some(axes) => axes.iter().map(|&a| a as u64).collect(),
    };
    let late = Late {
        name: "PadsOfCenter/1",
        attributes: kept,
        data: 1,
        build: Box::new(move |x, parameters| {
            let pads = centred(x, &parameters[0], &axes)?;
            Ok(pads.map(|pads| Arc::new(Given(Tensor::vector(pads))) as Op))
        }),
        open: Box::new(move |inputs| {
            let all = 2 * inputs.need(0)?.rank();
            Ok(vec![Type::new(DType::I64, vec![Sym::size(all)])])
        }),
    };
    let pads = cx.add(late, &[Some(x), Some(sizes)])?;
    let op = Pad {
        mode: PadMode::Constant,
    };
    Ok(vec![cx.add(op, &[Some(x), Some(pads)])?])
}

fn compress(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let (x, keep) = (cx.input(0)?, cx.input(1)?);
    if let Some(given) = cx.maybe_int("axis")? {
        let axis = axis(given, cx.rank(0)?)?;
        return cx.one(Compress { axis });
    }
    let flat = cx.reshape(x, &[Part::Is(-1)])?;
    Ok(vec![
        cx.add(Compress { axis: 0 }, &[Some(flat), Some(keep)])?,
    ])
}

fn unique(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let sorted = cx.flag("sorted", true)?;
    let x = cx.input(0)?;
    let (x, axis) = match cx.maybe_int("axis")? {
        Some(given) => (x, axis(given, cx.rank(0)?)?),
        None => (cx.reshape(x, &[Part::Is(-1)])?, 0),
    };
    let first = cx.add(Unique { axis, sorted }, &[Some(x)])?;
    Ok((first..first + 4).collect())
}

fn non_max_suppression(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 5)?;
    let centred = cx.flag("center_point_box", false)?;
    cx.one(NonMaxSuppression { centred })
}
