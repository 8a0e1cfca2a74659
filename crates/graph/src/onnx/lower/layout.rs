//! Shapes, movement of elements, and values made from shapes.

use std::sync::Arc;

use lemma_types::tensor::DType;

use super::{Failure, Lowered, NodeContext, axes};
use crate::error::OpError;
use crate::fact::{Sym, Type};
use crate::graph::ValueId;
use crate::onnx::proto::Attribute;
use crate::operator::Op;
use crate::ops::generate::{Fill, Given, Range, Shape, Size};
use crate::ops::index::{Gather, GatherElements, GatherNd, OneHot};
use crate::ops::join::Concat;
use crate::ops::late::{Late, any_sizes, count};
use crate::ops::layout::{Expand, Tile, Transpose, Trilu};
use crate::ops::pad::{Pad, PadMode};
use crate::ops::reshape::{Flatten, Reshape, Squeeze, Unsqueeze};
use crate::ops::slice::{Slice, Split};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "Constant" => constant(cx),
        "ConstantOfShape" => fill(cx),
        "Identity" => identity(cx),
        "Dropout" => dropout(cx),
        "Shape" => shape(cx),
        "Size" => cx
            .arity(1, 1)
            .map_err(Failure::from)
            .and_then(|()| cx.one(Size)),
        "Range" => cx
            .arity(3, 3)
            .map_err(Failure::from)
            .and_then(|()| cx.one(Range)),
        "Reshape" => reshape(cx),
        "Flatten" => flatten(cx),
        "Squeeze" => squeeze(cx),
        "Unsqueeze" => unsqueeze(cx),
        "Transpose" => transpose(cx),
        "Expand" => cx
            .arity(2, 2)
            .map_err(Failure::from)
            .and_then(|()| cx.one(Expand)),
        "Tile" => cx
            .arity(2, 2)
            .map_err(Failure::from)
            .and_then(|()| cx.one(Tile)),
        "Concat" => concat(cx),
        "Slice" => slice(cx),
        "Split" => split(cx),
        "Gather" => gather(cx, |axis| Box::new(move |cx| cx.one(Gather { axis }))),
        "GatherElements" => gather(cx, |axis| {
            Box::new(move |cx| cx.one(GatherElements { axis }))
        }),
        "GatherND" => gather_nd(cx),
        "OneHot" => one_hot(cx),
        "Pad" => pad(cx),
        "Trilu" => trilu(cx),
        _ => return None,
    })
}

/// A tensor, or numbers in one of several attributes.
fn constant(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(0, 0)?;
    let tensor = match &cx.node.attributes[..] {
        [(name, _)] if *name == "value" => cx.tensor_attribute("value")?,
        [(name, value)] => {
            cx.asked[0] = true;
            match (*name, value) {
                ("value_float", Attribute::Float(v)) => Some(Tensor::scalar(*v)),
                ("value_int", Attribute::Int(v)) => Some(Tensor::scalar(*v)),
                ("value_floats", Attribute::Floats(v)) => Some(Tensor::vector(v.clone())),
                ("value_ints", Attribute::Ints(v)) => Some(Tensor::vector(v.clone())),
                _ => None,
            }
        }
        _ => None,
    };
    let tensor = tensor
        .ok_or_else(|| OpError::unsupported("a constant needs one value: a tensor, or numbers"))?;
    Ok(vec![cx.tensor(tensor)])
}

fn fill(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let value = cx
        .tensor_attribute("value")?
        .unwrap_or_else(|| Tensor::vector(vec![0f32]));
    if value.len() != 1 {
        return Err(OpError::attribute("value", "must hold one element").into());
    }
    // A scalar and a vector of one element mean the same.
    let value = value.with_shape(Vec::new());
    cx.one(Fill { value })
}

fn identity(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    Ok(vec![cx.input(0)?])
}

/// In inference: the operand itself, and a mask of ones.
fn dropout(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 3)?;
    cx.float("ratio", 0.5)?;
    cx.int("seed", 0)?;
    if let Some(training) = cx.maybe(2) {
        let fact = cx.builder.fact(training);
        let off = fact
            .tensor()
            .and_then(|t| t.as_slice::<bool>())
            .is_some_and(|v| v == [false]);
        if !off {
            return Err(
                OpError::operand("input 2", "training mode must be constant and false").into(),
            );
        }
    }
    let x = cx.input(0)?;
    if cx.node.outputs.get(1).is_none_or(|mask| mask.is_empty()) {
        return Ok(vec![x]);
    }
    let end = cx.rank(0)?;
    let shape = cx.add(Shape { start: 0, end }, &[Some(x)])?;
    let mask = cx.add(
        Fill {
            value: Tensor::scalar(true),
        },
        &[Some(shape)],
    )?;
    Ok(vec![x, mask])
}

/// Start and end count from the end where negative, and are clamped.
fn shape(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let rank = cx.rank(0)? as i64;
    let clamp = |i: i64| {
        if i < 0 { i.saturating_add(rank) } else { i }
            .clamp(0, rank)
            .unsigned_abs() as usize
    };
    let (start, end) = (cx.int("start", 0)?, cx.int("end", rank)?);
    let start = clamp(start);
    cx.one(Shape {
        start,
        end: clamp(end).max(start),
    })
}

fn reshape(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let allow_zero = cx.flag("allowzero", false)?;
    cx.one(Reshape { allow_zero })
}

fn flatten(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let rank = cx.rank(0)?;
    // An axis may also lie after the last dimension.
    let axis = match cx.int("axis", 1)? {
        a if a == rank as i64 => rank,
        a => super::axis(a, rank)?,
    };
    cx.one(Flatten { axis })
}

/// The attribute `axes` before operator set 13, an operand from then on; `Err` if it is data.
fn axes_operand(cx: &mut Context<'_, '_>) -> Result<Result<Option<Vec<i64>>, ValueId>, OpError> {
    if cx.opset < 13 {
        cx.arity(1, 1)?;
        return cx.ints("axes").map(Ok);
    }
    cx.arity(1, 2)?;
    Ok(cx.known_ints(1))
}

fn squeeze(cx: &mut Context<'_, '_>) -> Lowered {
    let x = cx.input(0)?;
    let axes = match axes_operand(cx)? {
        Ok(Some(values)) => axes(&values, cx.rank(0)?)?,
        Ok(None) => {
            let shape = cx.fact(0)?.shape();
            if shape.iter().any(|d| d.known().is_none()) {
                return Err(
                    OpError::unsupported("without axes every dimension must be known").into(),
                );
            }
            (0..shape.len())
                .filter(|&i| shape[i] == Sym::Known(1))
                .collect()
        }
        Err(given) => {
            let late = Late {
                name: "Squeeze/1",
                attributes: vec![u64::MAX],
                data: 1,
                build: Box::new(|x, parameters| {
                    let axes = axes(&parameters[0], x.rank())?;
                    Ok(Some(Arc::new(Squeeze { axes }) as Op))
                }),
                open: Box::new(|inputs| {
                    let (mut ty, axes) = (any_sizes(inputs)?, count(inputs, 1)?);
                    let rank = ty.rank().checked_sub(axes);
                    let rank = rank.ok_or_else(|| OpError::operand("axes", "are too many"))?;
                    ty.shape.truncate(rank);
                    Ok(vec![ty])
                }),
            };
            return Ok(vec![cx.add(late, &[Some(x), Some(given)])?]);
        }
    };
    Ok(vec![cx.add(Squeeze { axes }, &[Some(x)])?])
}

fn unsqueeze(cx: &mut Context<'_, '_>) -> Lowered {
    let x = cx.input(0)?;
    let values = match axes_operand(cx)? {
        Ok(values) => values.ok_or_else(|| OpError::operand("axes", "is missing"))?,
        Err(given) => {
            let late = Late {
                name: "Unsqueeze/1",
                attributes: vec![u64::MAX],
                data: 1,
                build: Box::new(|x, parameters| {
                    let axes = axes(&parameters[0], x.rank() + parameters[0].len())?;
                    Ok(Some(Arc::new(Unsqueeze { axes }) as Op))
                }),
                open: Box::new(|inputs| {
                    let (mut ty, axes) = (any_sizes(inputs)?, count(inputs, 1)?);
                    ty.shape.resize(ty.rank() + axes, Sym::Unknown);
                    Ok(vec![ty])
                }),
            };
            return Ok(vec![cx.add(late, &[Some(x), Some(given)])?]);
        }
    };
    let axes = axes(&values, cx.rank(0)? + values.len())?;
    Ok(vec![cx.add(Unsqueeze { axes }, &[Some(x)])?])
}

fn transpose(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let rank = cx.rank(0)?;
    let perm = cx
        .sizes("perm")?
        .unwrap_or_else(|| (0..rank).rev().collect());
    cx.one(Transpose { perm })
}

fn concat(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, usize::MAX)?;
    let value = cx
        .maybe_int("axis")?
        .ok_or_else(|| OpError::attribute("axis", "is missing"))?;
    let axis = super::axis(value, cx.rank(0)?)?;
    if cx.inputs.len() == 1 {
        return Ok(vec![cx.input(0)?]);
    }
    cx.one(Concat { axis })
}

/// Ranges were attributes before operator set 10.
fn slice(cx: &mut Context<'_, '_>) -> Lowered {
    if cx.opset >= 10 {
        cx.arity(3, 5)?;
        return cx.one(Slice);
    }
    cx.arity(1, 1)?;
    let x = cx.input(0)?;
    let mut list = |name: &str| {
        cx.ints(name)?
            .ok_or_else(|| OpError::attribute(name, "is missing"))
    };
    let (starts, ends) = (list("starts")?, list("ends")?);
    let axes = cx.ints("axes")?;
    let mut inputs = vec![
        Some(x),
        Some(cx.ints_tensor(starts)),
        Some(cx.ints_tensor(ends)),
    ];
    if let Some(axes) = axes {
        inputs.push(Some(cx.ints_tensor(axes)));
    }
    Ok(vec![cx.add(Slice, &inputs)?])
}

/// Sizes are given by attribute (before operator set 13) or operand, or follow from the number of
/// parts: as equal as can be, the last one smaller.
fn split(cx: &mut Context<'_, '_>) -> Lowered {
    let parts = cx.node.outputs.len();
    let given = if cx.opset < 13 {
        cx.arity(1, 1)?;
        Ok(cx.ints("split")?)
    } else {
        cx.arity(1, 2)?;
        cx.known_ints(1)
    };
    let axis = cx.axis(0, cx.rank(0)?)?;
    let given = match given {
        Ok(given) => given,
        Err(sizes) => return split_late(cx, axis, parts, sizes),
    };
    let count = if cx.opset >= 18 {
        cx.maybe_int("num_outputs")?
    } else {
        None
    };
    let sizes = match (given, count) {
        (Some(_), Some(_)) => {
            return Err(OpError::attribute("num_outputs", "is given beside sizes").into());
        }
        (Some(sizes), None) => split_sizes(&sizes)?,
        (None, count) => {
            let dim = cx.fact(0)?.shape()[axis]
                .known()
                .and_then(|d| usize::try_from(d).ok());
            let dim = dim.ok_or_else(|| {
                OpError::unsupported("equal parts of a dimension that is not known")
            })?;
            equal_parts(dim, parts, count)?
        }
    };
    if sizes.len() != parts {
        return Err(OpError::shape(format!("{} sizes for {parts} outputs", sizes.len())).into());
    }
    let x = cx.input(0)?;
    let first = cx.add(Split { axis, sizes }, &[Some(x)])?;
    Ok((first..first + parts).collect())
}

fn split_sizes(sizes: &[i64]) -> Result<Vec<usize>, OpError> {
    let size = |&s: &i64| {
        usize::try_from(s).map_err(|_| OpError::operand("split", format!("size {s} is negative")))
    };
    sizes.iter().map(size).collect()
}

/// Parts of sizes that are data.
fn split_late(cx: &mut Context<'_, '_>, axis: usize, parts: usize, sizes: ValueId) -> Lowered {
    let late = Late {
        name: "Split/1",
        attributes: vec![u64::MAX, axis as u64, parts as u64],
        data: 1,
        build: Box::new(move |_, parameters| {
            let sizes = split_sizes(&parameters[0])?;
            Ok(Some(Arc::new(Split { axis, sizes }) as Op))
        }),
        open: Box::new(move |inputs| {
            if count(inputs, 1)? != parts {
                return Err(OpError::operand(
                    "split",
                    format!("is not one size for each of {parts} outputs"),
                ));
            }
            let mut ty = inputs.need(0)?.ty.clone();
            ty.shape[axis] = Sym::Unknown;
            Ok(vec![ty; parts])
        }),
    };
    let x = cx.input(0)?;
    let first = cx.add(late, &[Some(x), Some(sizes)])?;
    Ok((first..first + parts).collect())
}

fn equal_parts(dim: usize, parts: usize, count: Option<i64>) -> Result<Vec<usize>, OpError> {
    if parts == 0 || count.is_some_and(|n| n != parts as i64) {
        return Err(OpError::attribute(
            "num_outputs",
            format!("differs from the {parts} outputs"),
        ));
    }
    if count.is_none() && !dim.is_multiple_of(parts) {
        return Err(OpError::shape(format!(
            "{dim} does not divide into {parts} equal parts"
        )));
    }
    let size = dim.div_ceil(parts);
    let last = dim
        .checked_sub(size * (parts - 1))
        .ok_or_else(|| OpError::shape(format!("{dim} does not divide into {parts} parts")))?;
    let mut sizes = vec![size; parts];
    sizes[parts - 1] = last;
    Ok(sizes)
}

type Emit = Box<dyn FnOnce(&mut Context<'_, '_>) -> Lowered>;

fn gather(cx: &mut Context<'_, '_>, emit: impl FnOnce(usize) -> Emit) -> Lowered {
    cx.arity(2, 2)?;
    let axis = cx.axis(0, cx.rank(0)?)?;
    emit(axis)(cx)
}

fn gather_nd(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let batch = cx.int("batch_dims", 0)?;
    let batch =
        usize::try_from(batch).map_err(|_| OpError::attribute("batch_dims", "is negative"))?;
    cx.one(GatherNd { batch })
}

fn one_hot(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 3)?;
    let axis = cx.axis(-1, cx.rank(0)? + 1)?;
    let mut operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    for operand in &mut operands[..2] {
        // Of any numeric type: as integers.
        if !matches!(cx.dtype_of(*operand), DType::I32 | DType::I64) {
            *operand = super::quantize::convert(cx, *operand, DType::I64)?;
        }
    }
    Ok(vec![cx.add(OneHot { axis }, &operands.map(Some))?])
}

/// Pads come out as an operand over all dimensions.
fn pad(cx: &mut Context<'_, '_>) -> Lowered {
    let mode = match cx.text("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant,
        "edge" => PadMode::Edge,
        "reflect" => PadMode::Reflect,
        "wrap" if cx.opset >= 19 => PadMode::Wrap,
        other => {
            return Err(OpError::attribute("mode", format!("`{other}` is not supported")).into());
        }
    };
    let x_rank = cx.rank(0)?;
    let x = cx.input(0)?;
    let (pads, value) = if cx.opset < 11 {
        cx.arity(1, 1)?;
        let pads = cx
            .ints("pads")?
            .ok_or_else(|| OpError::attribute("pads", "is missing"))?;
        let value = cx.float("value", 0.0)?;
        (cx.ints_tensor(pads), Some(cx.tensor(Tensor::scalar(value))))
    } else {
        cx.arity(2, if cx.opset >= 18 { 4 } else { 3 })?;
        let pads = match (cx.known_ints(3), cx.known_ints(1)) {
            (Ok(None), _) => cx.input(1)?,
            (Ok(Some(axes)), Ok(given)) => {
                let all = pads_of_all_axes(&given.unwrap_or_default(), &axes, x_rank)?;
                cx.ints_tensor(all)
            }
            (_, Err(_)) | (Err(_), _) => {
                let late = Late {
                    name: "PadsOfAllAxes/1",
                    attributes: vec![],
                    data: 1,
                    build: Box::new(|x, parameters| {
                        let all = pads_of_all_axes(&parameters[0], &parameters[1], x.rank())?;
                        Ok(Some(Arc::new(Given(Tensor::vector(all))) as Op))
                    }),
                    open: Box::new(|inputs| {
                        let all = 2 * inputs.need(0)?.rank();
                        Ok(vec![Type::new(DType::I64, vec![Sym::size(all)])])
                    }),
                };
                let (pads, axes) = (cx.input(1)?, cx.input(3)?);
                cx.add(late, &[Some(x), Some(pads), Some(axes)])?
            }
        };
        (pads, cx.maybe(2))
    };
    // A value has a meaning in one mode only.
    let value = value.filter(|_| mode == PadMode::Constant);
    let mut inputs = vec![Some(x), Some(pads)];
    inputs.extend(value.map(Some));
    Ok(vec![cx.add(Pad { mode }, &inputs)?])
}

fn pads_of_all_axes(given: &[i64], axes: &[i64], rank: usize) -> Result<Vec<i64>, OpError> {
    if given.len() != 2 * axes.len() {
        return Err(OpError::operand(
            "pads",
            format!("holds {} numbers for {} axes", given.len(), axes.len()),
        ));
    }
    // Checks that no axis occurs twice.
    super::axes(axes, rank)?;
    let mut all = vec![0; 2 * rank];
    for (i, &a) in axes.iter().enumerate() {
        let a = super::axis(a, rank)?;
        all[a] = given[i];
        all[rank + a] = given[axes.len() + i];
    }
    Ok(all)
}

fn trilu(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 2)?;
    let upper = cx.flag("upper", true)?;
    if let Some(k) = cx.maybe(1) {
        let dtype = cx.builder.fact(k).dtype();
        if dtype != DType::I64 {
            return Err(
                OpError::operand("input 1", format!("is {dtype}: INT64 is expected")).into(),
            );
        }
    }
    let x = cx.input(0)?;
    let shift = match cx.known_ints(1) {
        Ok(None) => 0,
        Ok(Some(k)) => one_number(&k)?,
        Err(k) => {
            let late = Late {
                name: "Trilu/1",
                attributes: vec![u64::MAX, u64::from(upper)],
                data: 1,
                build: Box::new(move |_, parameters| {
                    let shift = one_number(&parameters[0])?;
                    Ok(Some(Arc::new(Trilu { upper, shift }) as Op))
                }),
                open: Box::new(|inputs| {
                    count(inputs, 1)?;
                    Ok(vec![inputs.need(0)?.ty.clone()])
                }),
            };
            return Ok(vec![cx.add(late, &[Some(x), Some(k)])?]);
        }
    };
    Ok(vec![cx.add(Trilu { upper, shift }, &[Some(x)])?])
}

fn one_number(values: &[i64]) -> Result<i64, OpError> {
    match *values {
        [value] => Ok(value),
        _ => Err(OpError::operand("input 1", "must be one number")),
    }
}
