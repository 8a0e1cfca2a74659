//! Attention and what transformers put around it.

use lemma_kernels::Unary as U;
use lemma_types::tensor::DType;

use super::compose::Part;
use super::{Lowered, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::compare::Compare;
use crate::ops::generate::Range;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "Attention" => attention(cx),
        "RotaryEmbedding" => rotary(cx),
        _ => return None,
    })
}

/// `[batch, length, heads · size]` as `[batch, heads, length, size]`.
pub(super) fn split_heads(
    cx: &mut Context<'_, '_>,
    x: ValueId,
    heads: usize,
) -> Result<ValueId, OpError> {
    let hidden = cx.known_dim(x, 2, "the size of a row")?;
    if heads == 0 || hidden % heads != 0 {
        return Err(OpError::shape(format!(
            "rows of {hidden} do not divide into {heads} heads"
        )));
    }
    let (heads, size) = (heads as i64, (hidden / heads) as i64);
    let parts = [
        Part::Of(x, 0),
        Part::Of(x, 1),
        Part::Is(heads),
        Part::Is(size),
    ];
    let split = cx.reshape(x, &parts)?;
    cx.transpose(split, &[0, 2, 1, 3])
}

/// The other way.
pub(super) fn join_heads(cx: &mut Context<'_, '_>, x: ValueId) -> Result<ValueId, OpError> {
    let hidden =
        cx.known_dim(x, 1, "the number of heads")? * cx.known_dim(x, 3, "the size of a head")?;
    let rows = cx.transpose(x, &[0, 2, 1, 3])?;
    let parts = [
        Part::Of(rows, 0),
        Part::Of(rows, 1),
        Part::Is(hidden as i64),
    ];
    cx.reshape(rows, &parts)
}

/// What attention is made of, all of rank 4: `[batch, heads, length, size]`.
pub(super) struct Heads {
    pub(super) query: ValueId,
    pub(super) key: ValueId,
    pub(super) value: ValueId,
    /// Added to the scores, broadcast to `[batch, heads, length, keys]`.
    pub(super) bias: Option<ValueId>,
    /// Factor on the scores; 1/√size by default.
    pub(super) scale: Option<f32>,
    pub(super) softcap: f32,
    /// Whether the soft cap comes before the bias.
    pub(super) cap_first: bool,
}

impl Heads {
    /// Query, key and value, without a bias or a soft cap.
    pub(super) fn of([query, key, value]: [ValueId; 3], scale: Option<f32>) -> Heads {
        Heads {
            query,
            key,
            value,
            bias: None,
            scale,
            softcap: 0.0,
            cap_first: true,
        }
    }
}

/// The values that attention passes through.
pub(super) struct Scores {
    /// Products of queries and keys, scaled.
    pub(super) products: ValueId,
    /// With what is added to them.
    pub(super) biased: ValueId,
    /// Bounded by the soft cap.
    pub(super) capped: ValueId,
    /// Softmax of that.
    pub(super) weights: ValueId,
    pub(super) output: ValueId,
}

/// One key and value serves several heads of the query, where there are fewer.
fn repeat_heads(cx: &mut Context<'_, '_>, x: ValueId, heads: usize) -> Result<ValueId, OpError> {
    let own = cx.known_dim(x, 1, "the number of heads")?;
    if own == heads {
        return Ok(x);
    }
    if own == 0 || !heads.is_multiple_of(own) {
        return Err(OpError::shape(format!(
            "{heads} heads of the query do not divide into {own} of the key"
        )));
    }
    let grouped = cx.unsqueeze(x, 2)?;
    let (of, group) = (|axis| Part::Of(x, axis), (heads / own) as i64);
    let parts = [of(0), Part::Is(own as i64), Part::Is(group), of(2), of(3)];
    let repeated = cx.expand(grouped, &parts)?;
    let parts = [of(0), Part::Is(heads as i64), of(2), of(3)];
    cx.reshape(repeated, &parts)
}

/// softmax(query · keyᵀ · scale + bias) · value. Query and key are each multiplied by √scale, so
/// that products of long rows stay in range.
pub(super) fn attend(cx: &mut Context<'_, '_>, heads: &Heads) -> Result<Scores, OpError> {
    let count = cx.known_dim(heads.query, 1, "the number of heads")?;
    let size = cx.known_dim(heads.query, 3, "the size of a head")?;
    let key = repeat_heads(cx, heads.key, count)?;
    let value = repeat_heads(cx, heads.value, count)?;
    let scale = heads.scale.unwrap_or_else(|| 1.0 / (size as f32).sqrt());
    if !(scale.is_finite() && scale >= 0.0) {
        return Err(OpError::attribute("scale", format!("is {scale}")));
    }
    let root = cx.number(scale.sqrt());
    let query = cx.times(heads.query, root)?;
    let turned = cx.transpose(key, &[0, 1, 3, 2])?;
    let turned = cx.times(turned, root)?;
    let products = cx.matmul(query, turned)?;
    let bias = |cx: &mut Context<'_, '_>, scores| match heads.bias {
        Some(bias) => cx.plus(scores, bias),
        None => Ok(scores),
    };
    let cap = |cx: &mut Context<'_, '_>, scores| {
        if heads.softcap == 0.0 {
            return Ok(scores);
        }
        let most = cx.number(heads.softcap);
        let part = cx.over(scores, most)?;
        let bounded = cx.function(U::Tanh, part)?;
        cx.times(bounded, most)
    };
    let (biased, capped) = if heads.cap_first {
        let capped = cap(cx, products)?;
        let biased = bias(cx, capped)?;
        (biased, biased)
    } else {
        let biased = bias(cx, products)?;
        (biased, cap(cx, biased)?)
    };
    let weights = cx.softmax_last(capped)?;
    let output = cx.matmul(weights, value)?;
    Ok(Scores {
        products,
        biased,
        capped,
        weights,
        output,
    })
}

/// −∞ where `keep` does not hold, 0 elsewhere.
pub(super) fn mask(cx: &mut Context<'_, '_>, keep: ValueId) -> Result<ValueId, OpError> {
    let (zero, never) = (cx.number(0.0), cx.number(f32::NEG_INFINITY));
    cx.choose(keep, zero, never)
}

/// 0, 1, 2 … up to a dimension.
fn count_up(cx: &mut Context<'_, '_>, to: Part) -> Result<ValueId, OpError> {
    let limit = cx.shape(&[to])?;
    let limit = cx.squeeze(limit, 0)?;
    let (zero, one) = (cx.integer(DType::I64, 0)?, cx.integer(DType::I64, 1)?);
    cx.add(Range, &[Some(zero), Some(limit), Some(one)])
}

/// Whether the key of a column is not after the query of a row: `[length, keys]`. Before the first
/// query lie the keys of `past`.
pub(super) fn not_after(
    cx: &mut Context<'_, '_>,
    query: ValueId,
    key: ValueId,
    past: Option<ValueId>,
) -> Result<ValueId, OpError> {
    let columns = count_up(cx, Part::Of(key, 2))?;
    let mut rows = count_up(cx, Part::Of(query, 2))?;
    if let Some(past) = past {
        let shift = cx.shape(&[Part::Of(past, 2)])?;
        rows = cx.plus(rows, shift)?;
    }
    let rows = cx.unsqueeze(rows, 1)?;
    cx.compare(Compare::LessOrEqual, columns, rows)
}

fn attention(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 6)?;
    let causal = cx.flag("is_causal", false)?;
    let (q_heads, kv_heads) = (cx.positive("q_num_heads")?, cx.positive("kv_num_heads")?);
    let mode = cx.int("qk_matmul_output_mode", 0)?;
    let scale = cx.maybe_float("scale")?;
    let softcap = cx.float("softcap", 0.0)?;
    // Everything is computed in FP32 here, the most precise that can be asked for but one.
    if cx.int("softmax_precision", 1)? == 11 {
        return Err(OpError::attribute("softmax_precision", "FP64 is not supported").into());
    }
    let flat = cx.rank(0)? == 3;
    let heads_of = |given: Option<usize>, name: &str| {
        given.ok_or_else(|| OpError::attribute(name, "is missing, with inputs of rank 3"))
    };
    let mut parts = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    if flat {
        let (q, kv) = (
            heads_of(q_heads, "q_num_heads")?,
            heads_of(kv_heads, "kv_num_heads")?,
        );
        for (part, heads) in parts.iter_mut().zip([q, kv, kv]) {
            if cx.rank_of(*part) != 3 {
                return Err(OpError::shape("query, key and value differ in rank").into());
            }
            *part = split_heads(cx, *part, heads)?;
        }
    }
    let [query, mut key, mut value] = parts;
    if [query, key, value].iter().any(|&x| cx.rank_of(x) != 4) {
        return Err(OpError::shape("query, key and value must have rank 3 or 4").into());
    }
    if let (Some(past_key), Some(past_value)) = (cx.maybe(4), cx.maybe(5)) {
        key = cx.concat(&[past_key, key], 2)?;
        value = cx.concat(&[past_value, value], 2)?;
    } else if cx.inputs.len() > 4 {
        return Err(OpError::operand("inputs 4 and 5", "must be given together").into());
    }
    let mut bias = None;
    if causal {
        let past = cx.maybe(4);
        let keep = not_after(cx, query, key, past)?;
        bias = Some(mask(cx, keep)?);
    }
    if let Some(given) = cx.maybe(3) {
        let given = if cx.dtype_of(given) == DType::Bool {
            mask(cx, given)?
        } else {
            given
        };
        bias = Some(match bias {
            Some(bias) => cx.plus(bias, given)?,
            None => given,
        });
    }
    let heads = Heads {
        query,
        key,
        value,
        bias,
        scale,
        softcap,
        cap_first: false,
    };
    let scores = attend(cx, &heads)?;
    let output = if flat {
        join_heads(cx, scores.output)?
    } else {
        scores.output
    };
    let shown = match mode {
        0 => scores.products,
        1 => scores.biased,
        2 => scores.capped,
        3 => scores.weights,
        _ => return Err(OpError::attribute("qk_matmul_output_mode", "is not known").into()),
    };
    Ok(vec![output, key, value, shown])
}

/// Pairs of elements turned by angles whose cosines and sines are given.
pub(super) struct Turn {
    pub(super) interleaved: bool,
    /// Elements of a head that are turned; the others stay.
    pub(super) size: usize,
    /// `[batch or 1, length, size / 2]`.
    pub(super) cos: ValueId,
    pub(super) sin: ValueId,
}

/// `x` is `[batch, length, heads, size of a head]`.
pub(super) fn turn(cx: &mut Context<'_, '_>, x: ValueId, by: &Turn) -> Result<ValueId, OpError> {
    let whole = cx.known_dim(x, 3, "the size of a head")?;
    if by.size > whole || !by.size.is_multiple_of(2) {
        return Err(OpError::shape(format!(
            "{} of {whole} elements are to be turned",
            by.size
        )));
    }
    let (size, half) = (by.size as i64, (by.size / 2) as i64);
    let turned = cx.slice(x, 3, 0, size)?;
    let (cos, sin) = (cx.unsqueeze(by.cos, 2)?, cx.unsqueeze(by.sin, 2)?);
    let (first, second) = if by.interleaved {
        let parts = [
            Part::Of(x, 0),
            Part::Of(x, 1),
            Part::Of(x, 2),
            Part::Is(half),
            Part::Is(2),
        ];
        let pairs = cx.reshape(turned, &parts)?;
        let (a, b) = (cx.slice(pairs, 4, 0, 1)?, cx.slice(pairs, 4, 1, 2)?);
        (cx.squeeze(a, 4)?, cx.squeeze(b, 4)?)
    } else {
        (
            cx.slice(turned, 3, 0, half)?,
            cx.slice(turned, 3, half, size)?,
        )
    };
    let (a, b) = (cx.times(first, cos)?, cx.times(second, sin)?);
    let real = cx.minus(a, b)?;
    let (a, b) = (cx.times(first, sin)?, cx.times(second, cos)?);
    let imaginary = cx.plus(a, b)?;
    let joined = if by.interleaved {
        let (a, b) = (cx.unsqueeze(real, 4)?, cx.unsqueeze(imaginary, 4)?);
        let pairs = cx.concat(&[a, b], 4)?;
        let of = |axis| Part::Of(x, axis);
        cx.reshape(pairs, &[of(0), of(1), of(2), Part::Is(size)])?
    } else {
        cx.concat(&[real, imaginary], 3)?
    };
    if by.size == whole {
        return Ok(joined);
    }
    let rest = cx.slice(x, 3, size, i64::MAX)?;
    cx.concat(&[joined, rest], 3)
}

fn rotary(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 4)?;
    let interleaved = cx.flag("interleaved", false)?;
    let heads = cx.positive("num_heads")?;
    let size = cx.int("rotary_embedding_dim", 0)?;
    let x = cx.input(0)?;
    let flat = cx.rank(0)? == 3;
    let rows = if flat {
        let heads = heads.ok_or_else(|| {
            OpError::attribute("num_heads", "is missing, with an input of rank 3")
        })?;
        let hidden = cx.known_dim(x, 2, "the size of a row")?;
        if hidden % heads != 0 {
            return Err(OpError::shape("rows do not divide into heads").into());
        }
        let size = Part::Is((hidden / heads) as i64);
        let parts = [Part::Of(x, 0), Part::Of(x, 1), Part::Is(heads as i64), size];
        cx.reshape(x, &parts)?
    } else {
        cx.transpose(x, &[0, 2, 1, 3])?
    };
    let (mut cos, mut sin) = (cx.input(1)?, cx.input(2)?);
    if let Some(positions) = cx.maybe(3) {
        cos = cx.gather(cos, positions, 0)?;
        sin = cx.gather(sin, positions, 0)?;
    }
    let whole = cx.known_dim(rows, 3, "the size of a head")?;
    let size = match usize::try_from(size) {
        Ok(0) => whole,
        Ok(size) => size,
        Err(_) => return Err(OpError::attribute("rotary_embedding_dim", "is negative").into()),
    };
    let half = (size / 2) as i64;
    let by = Turn {
        interleaved,
        size,
        cos: cx.slice(cos, 2, 0, half)?,
        sin: cx.slice(sin, 2, 0, half)?,
    };
    let turned = turn(cx, rows, &by)?;
    let output = if flat {
        let of = |axis| Part::Of(x, axis);
        cx.reshape(turned, &[of(0), of(1), of(2)])?
    } else {
        cx.transpose(turned, &[0, 2, 1, 3])?
    };
    Ok(vec![output])
}
