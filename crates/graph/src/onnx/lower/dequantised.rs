//! Products and convolutions of dequantised 8-bit integers, whose meaning is a sum of integers, scaled
//! once (`docs/numeric-spec.md`, 8.4).

use std::any::Any;

use lemma_types::tensor::DType;

use super::NodeContext;
use super::compose::Part;
use super::quantize::convert;
use crate::error::OpError;
use crate::fact::Sym;
use crate::graph::ValueId;
use crate::operator::Operator;
use crate::ops::conv::{Conv, Sliding};
use crate::ops::int8::{ConvInteger, MatMulInteger};
use crate::ops::quantize::{Dequantize, Grain};

type Context<'n, 'a> = NodeContext<'n, 'a>;

/// Most products of one sum: none of its partial sums can then leave 32 bits.
const MOST: i64 = i32::MAX as i64 / (255 * 255);

/// 8-bit integers with scales and zero points.
struct Integers {
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    grain: Grain,
}

impl Integers {
    /// Operand `index`, if it is dequantised from 8-bit integers.
    fn of(cx: &Context<'_, '_>, index: usize) -> Option<Integers> {
        let (op, operands) = cx.builder.maker(cx.maybe(index)?)?;
        let op: &dyn Any = op.as_ref();
        let grain = op.downcast_ref::<Dequantize>()?.grain;
        let operand = |i: usize| operands.get(i).copied().flatten();
        let x = operand(0)?;
        let eight = matches!(cx.builder.fact(x).dtype(), DType::U8 | DType::I8);
        eight.then_some(Integers {
            x,
            scale: operand(1)?,
            zero: operand(2),
            grain,
        })
    }

    /// Whether the integers are a constant of `rank` dimensions.
    fn is_constant(&self, cx: &Context<'_, '_>, rank: usize) -> bool {
        let fact = cx.builder.fact(self.x);
        fact.rank() == rank && fact.tensor().is_some()
    }
}

/// The product of operands 0 and 1, which `transposed` says is stored as its transpose; `None` if it is
/// one of f32.
pub(super) fn product(
    cx: &mut Context<'_, '_>,
    transposed: bool,
) -> Result<Option<ValueId>, OpError> {
    let (Some(a), Some(mut b)) = (Integers::of(cx, 0), Integers::of(cx, 1)) else {
        return Ok(None);
    };
    let (column, row) = if transposed { (0, 1) } else { (1, 0) };
    let constant = b.is_constant(cx, 2)
        && [Grain::Tensor, Grain::Axis(column)].contains(&b.grain)
        && short(&cx.builder.fact(b.x).shape()[row..=row]);
    let fits = a.grain == Grain::Tensor
        && cx.builder.fact(a.x).rank() >= 2
        && (constant || (!transposed && pairs(cx, &a, &b)));
    if !fits {
        return Ok(None);
    }
    if transposed {
        b.x = cx.transpose(b.x, &[1, 0])?;
    }
    let columns = [Part::Is(-1)];
    sum(cx, MatMulInteger, &a, &b, &columns).map(Some)
}

/// Whether both are as many matrices, each with one scale, and the sums are short.
fn pairs(cx: &Context<'_, '_>, a: &Integers, b: &Integers) -> bool {
    let [a_shape, b_shape] = [a, b].map(|i| cx.builder.fact(i.x).shape());
    match (a_shape, b_shape) {
        ([a_outer @ .., _, _], [b_outer @ .., k, _]) => {
            a_outer == b_outer && b.grain == Grain::Tensor && short(std::slice::from_ref(k))
        }
        _ => false,
    }
}

/// The convolution of operand 0 by operand 1, plus operand 2, if there is one; `None` if it is one of
/// f32.
pub(super) fn convolution(
    cx: &mut Context<'_, '_>,
    groups: usize,
    window: &Sliding,
) -> Result<Option<ValueId>, OpError> {
    let (Some(x), Some(w)) = (Integers::of(cx, 0), Integers::of(cx, 1)) else {
        return Ok(None);
    };
    let rank = cx.builder.fact(x.x).rank();
    let fits = x.grain == Grain::Tensor
        && w.is_constant(cx, rank)
        && [Grain::Tensor, Grain::Axis(0)].contains(&w.grain)
        && short(&cx.builder.fact(w.x).shape()[1..]);
    if !fits {
        return Ok(None);
    }
    // What a convolution refuses is refused in its own words.
    let inputs = cx.inputs.clone();
    let facts: Vec<_> = inputs
        .iter()
        .map(|i| i.map(|v| cx.builder.fact(v)))
        .collect();
    let window = window.clone();
    Conv {
        groups,
        window: window.clone(),
    }
    .infer(crate::operator::Operands(&facts))?;
    let mut channel = vec![Part::Is(1); rank - 1];
    channel[0] = Part::Is(-1);
    let mut y = sum(cx, ConvInteger { groups, window }, &x, &w, &channel)?;
    if let Some(bias) = cx.maybe(2) {
        let bias = cx.reshape(bias, &channel)?;
        y = cx.plus(y, bias)?;
    }
    Ok(Some(y))
}

/// Whether sums over these dimensions stay within 32 bits.
fn short(dims: &[Sym]) -> bool {
    let product = |n: i64, d: &Sym| n.checked_mul(d.known()?);
    dims.iter().try_fold(1, product).is_some_and(|n| n <= MOST)
}

/// f32(Σ (a − a₀) · (b − b₀)) · (scale of a · scale of b), where several scales of b have the shape
/// `apart` of their own.
fn sum(
    cx: &mut Context<'_, '_>,
    op: impl Operator + 'static,
    a: &Integers,
    b: &Integers,
    apart: &[Part],
) -> Result<ValueId, OpError> {
    let one = |cx: &mut Context<'_, '_>, x: ValueId| cx.reshape(x, &[]);
    let a_zero = a.zero.map(|z| one(cx, z)).transpose()?;
    let b_zero = match (b.zero, b.grain) {
        (Some(zero), Grain::Tensor) => Some(one(cx, zero)?),
        (zero, _) => zero,
    };
    let sum = cx.add(op, &[Some(a.x), Some(b.x), a_zero, b_zero])?;
    let wide = convert(cx, sum, DType::F32)?;
    let a_scale = one(cx, a.scale)?;
    let b_scale = match b.grain {
        Grain::Tensor => one(cx, b.scale)?,
        _ => cx.reshape(b.scale, apart)?,
    };
    let scale = cx.times(a_scale, b_scale)?;
    cx.times(wide, scale)
}
