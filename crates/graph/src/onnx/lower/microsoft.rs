//! Operators of the domain `com.microsoft` that exported transformers carry: all are composed of
//! others.

use lemma_kernels::{Reduction as R, Unary as U};
use lemma_types::tensor::DType;

use super::attention::{Heads, Turn, attend, join_heads, mask, not_after, split_heads, turn};
use super::compose::Part;
use super::linear::moments;
use super::quantize::{convert, dynamic_range, quantised};
use super::{Lowered, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::arithmetic::Arithmetic;
use crate::ops::bits::Bits;
use crate::ops::compare::Compare;
use crate::ops::generate::Checked;
use crate::ops::generate::Range;
use crate::ops::int8::MatMulInteger;
use crate::ops::norm::{Normalize, RowNorm};
use crate::ops::quantize::{Dequantize, Grain, Quantize};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;
type Built = Result<ValueId, OpError>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "Gelu" => activation(cx, 1, U::Gelu),
        "BiasGelu" => activation(cx, 2, U::Gelu),
        "FastGelu" => activation(cx, 2, U::GeluTanh),
        "QuickGelu" => quick_gelu(cx),
        "FusedMatMul" => fused_matmul(cx),
        "SkipLayerNormalization" => skip_norm(cx, RowNorm::Layer),
        "SkipSimplifiedLayerNormalization" => skip_norm(cx, RowNorm::RootMeanSquare),
        "SimplifiedLayerNormalization" => simplified_norm(cx),
        "EmbedLayerNormalization" => embed_norm(cx),
        "RotaryEmbedding" => rotary(cx),
        "Attention" => attention(cx),
        "MultiHeadAttention" => multi_head(cx),
        "GroupQueryAttention" => grouped(cx),
        "DynamicQuantizeMatMul" => dynamic_matmul(cx),
        "MatMulIntegerToFloat" => integer_to_float(cx),
        "MatMulNBits" => packed_matmul(cx),
        "QLinearAdd" => quantised_pair(cx, Arithmetic::Add),
        "QLinearMul" => quantised_pair(cx, Arithmetic::Mul),
        _ => return None,
    })
}

/// A function of the sum of the operands.
fn activation(cx: &mut Context<'_, '_>, most: usize, function: U) -> Lowered {
    cx.arity(1, most)?;
    let mut x = cx.input(0)?;
    if let Some(bias) = cx.maybe(1) {
        x = cx.plus(x, bias)?;
    }
    Ok(vec![cx.function(function, x)?])
}

/// x · sigmoid(alpha · x)
fn quick_gelu(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    let alpha = cx.float("alpha", 1.702)?;
    let x = cx.input(0)?;
    let alpha = cx.number(alpha);
    let scaled = cx.times(alpha, x)?;
    let gate = cx.function(U::Sigmoid, scaled)?;
    Ok(vec![cx.times(x, gate)?])
}

fn fused_matmul(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let alpha = cx.float("alpha", 1.0)?;
    let flags = [cx.flag("transA", false)?, cx.flag("transB", false)?];
    if cx.flag("transBatchA", false)? || cx.flag("transBatchB", false)? {
        return Err(OpError::unsupported("transposed batches").into());
    }
    let mut operands = [cx.input(0)?, cx.input(1)?];
    for (operand, turned) in operands.iter_mut().zip(flags) {
        let rank = cx.rank_of(*operand);
        if turned && rank >= 2 {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 2, rank - 1);
            *operand = cx.transpose(*operand, &perm)?;
        }
    }
    let product = cx.matmul(operands[0], operands[1])?;
    if alpha == 1.0 {
        return Ok(vec![product]);
    }
    let alpha = cx.number(alpha);
    Ok(vec![cx.times(product, alpha)?])
}

/// Rows of the last axis, normalised.
fn normalise(
    cx: &mut Context<'_, '_>,
    kind: RowNorm,
    x: ValueId,
    scale: ValueId,
    bias: Option<ValueId>,
    epsilon: f32,
) -> Built {
    let axis = cx.rank_of(x).saturating_sub(1);
    let op = Normalize {
        kind,
        axis,
        epsilon,
    };
    let mut operands = vec![Some(x), Some(scale)];
    operands.extend(bias.map(Some));
    cx.add(op, &operands)
}

/// The normalised sum of an input, what skips a layer, and a bias. Outputs: that, mean, inverse
/// deviation, and the sum.
fn skip_norm(cx: &mut Context<'_, '_>, kind: RowNorm) -> Lowered {
    let layer = kind == RowNorm::Layer;
    cx.arity(3, if layer { 5 } else { 4 })?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    let (x, skip, scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shift, bias) = if layer {
        (cx.maybe(3), cx.maybe(4))
    } else {
        (None, cx.maybe(3))
    };
    let mut sum = cx.plus(x, skip)?;
    if let Some(bias) = bias {
        sum = cx.plus(sum, bias)?;
    }
    let y = normalise(cx, kind, sum, scale, shift, epsilon)?;
    let axis = cx.rank_of(sum).saturating_sub(1);
    let wanted = |place: usize| {
        cx.node
            .outputs
            .get(place)
            .is_some_and(|name| !name.is_empty())
    };
    if !(wanted(1) || wanted(2)) {
        return Ok(vec![y, y, y, sum]);
    }
    if !layer {
        return Err(OpError::unsupported("outputs for training").into());
    }
    let [mean, inverse] = moments(cx, sum, axis, epsilon)?;
    Ok(vec![y, mean, inverse, sum])
}

pub(super) fn simplified_norm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 2)?;
    let axis = cx.axis(-1, cx.rank(0)?)?;
    let epsilon = cx.float("epsilon", 1e-5)?;
    cx.int("stash_type", 1)?;
    cx.one(Normalize {
        kind: RowNorm::RootMeanSquare,
        axis,
        epsilon,
    })
}

/// Embeddings of words, positions and segments, added and normalised; and how many words count.
fn embed_norm(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(7, 9)?;
    let epsilon = cx.float("epsilon", 1e-12)?;
    if cx.int("mask_index_type", 0)? > 1 {
        return Err(OpError::attribute("mask_index_type", "is not supported").into());
    }
    let (words, table, positions) = (cx.input(0)?, cx.input(2)?, cx.input(3)?);
    let word = cx.gather(table, words, 0)?;
    let place = match cx.maybe(8) {
        Some(given) => cx.gather(positions, given, 0)?,
        None => {
            let limit = cx.shape(&[Part::Of(words, 1)])?;
            let limit = cx.squeeze(limit, 0)?;
            let (zero, one) = (cx.integer(DType::I64, 0)?, cx.integer(DType::I64, 1)?);
            let all = cx.add(Range, &[Some(zero), Some(limit), Some(one)])?;
            cx.gather(positions, all, 0)?
        }
    };
    let mut sum = cx.plus(word, place)?;
    match (cx.maybe(1), cx.maybe(4)) {
        (Some(segments), Some(table)) => {
            let segment = cx.gather(table, segments, 0)?;
            sum = cx.plus(sum, segment)?;
        }
        (None, None) => {}
        _ => return Err(OpError::operand("inputs 1 and 4", "must be given together").into()),
    }
    let (scale, shift) = (cx.input(5)?, cx.input(6)?);
    let y = normalise(cx, RowNorm::Layer, sum, scale, Some(shift), epsilon)?;
    let count = match cx.maybe(7) {
        Some(mask) => {
            let mask = convert(cx, mask, DType::I32)?;
            cx.reduce(R::Sum, mask, vec![1], false)?
        }
        None => cx.fill(Tensor::scalar(0i32), &[Part::Of(words, 0)])?,
    };
    Ok(vec![y, count, sum])
}

fn rotary(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(4, 4)?;
    let interleaved = cx.flag("interleaved", false)?;
    let heads = cx.int("num_heads", 0)?;
    let size = cx.int("rotary_embedding_dim", 0)?;
    if cx.float("scale", 1.0)? != 1.0 || cx.flag("is_packed_batching", false)? {
        return Err(OpError::unsupported("a scale, or a packed batch").into());
    }
    let (x, positions, cos, sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let half = cx.known_dim(cos, 1, "the size of the cosines")?;
    let flat = cx.rank(0)? == 3;
    let rows = if flat {
        let hidden = cx.known_dim(x, 2, "the size of a row")?;
        // The size of a head follows from the cosines, where the number of heads is not given.
        let head = match usize::try_from(heads) {
            Ok(n) if n > 0 => hidden / n,
            _ => 2 * half,
        };
        if head == 0 || hidden % head != 0 {
            return Err(OpError::shape("rows do not divide into heads").into());
        }
        let parts = [
            Part::Of(x, 0),
            Part::Of(x, 1),
            Part::Is((hidden / head) as i64),
            Part::Is(head as i64),
        ];
        cx.reshape(x, &parts)?
    } else {
        cx.transpose(x, &[0, 2, 1, 3])?
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|&n| n > 0)
        .unwrap_or(2 * half);
    if size != 2 * half {
        return Err(
            OpError::attribute("rotary_embedding_dim", "is not that of the cosines").into(),
        );
    }
    let positions = if cx.rank(1)? == 1 {
        // Where the sequence begins.
        let limit = cx.shape(&[Part::Of(rows, 1)])?;
        let limit = cx.squeeze(limit, 0)?;
        let (zero, one) = (cx.integer(DType::I64, 0)?, cx.integer(DType::I64, 1)?);
        let all = cx.add(Range, &[Some(zero), Some(limit), Some(one)])?;
        let all = cx.unsqueeze(all, 0)?;
        cx.plus(all, positions)?
    } else {
        positions
    };
    let by = Turn {
        interleaved,
        size,
        cos: cx.gather(cos, positions, 0)?,
        sin: cx.gather(sin, positions, 0)?,
    };
    let turned = turn(cx, rows, &by)?;
    Ok(vec![if flat {
        let of = |axis| Part::Of(x, axis);
        cx.reshape(turned, &[of(0), of(1), of(2)])?
    } else {
        cx.transpose(turned, &[0, 2, 1, 3])?
    }])
}

/// What a mask of keys adds to scores: a large negative number where it is 0.
fn masked(cx: &mut Context<'_, '_>, given: ValueId, filter: f32, keys: ValueId) -> Built {
    let filter = cx.number(filter);
    let zero = cx.number(0.0);
    let keep = match cx.rank_of(given) {
        1 => {
            // How many keys count, for each sequence.
            let limit = cx.shape(&[Part::Of(keys, 2)])?;
            let limit = cx.squeeze(limit, 0)?;
            let (first, one) = (cx.integer(DType::I64, 0)?, cx.integer(DType::I64, 1)?);
            let all = cx.add(Range, &[Some(first), Some(limit), Some(one)])?;
            let lengths = convert(cx, given, DType::I64)?;
            let lengths = cx.unsqueeze(lengths, 1)?;
            cx.compare(Compare::Less, all, lengths)?
        }
        _ => convert(cx, given, DType::Bool)?,
    };
    let mut keep = keep;
    // [batch, keys] or [batch, queries, keys] for all heads.
    let axis = 1;
    if cx.rank_of(keep) == 2 {
        keep = cx.unsqueeze(keep, axis)?;
    }
    if cx.rank_of(keep) == 3 {
        keep = cx.unsqueeze(keep, axis)?;
    }
    cx.choose(keep, zero, filter)
}

/// The sum of what is to be added to scores.
fn biases(
    cx: &mut Context<'_, '_>,
    parts: [Option<ValueId>; 3],
) -> Result<Option<ValueId>, OpError> {
    let mut sum = None;
    for part in parts.into_iter().flatten() {
        sum = Some(match sum {
            None => part,
            Some(sum) => cx.plus(sum, part)?,
        });
    }
    Ok(sum)
}

fn scale_of(cx: &mut Context<'_, '_>) -> Result<Option<f32>, OpError> {
    // Zero stands for the default.
    Ok(cx.maybe_float("scale")?.filter(|&s| s != 0.0))
}

/// Self-attention with the weights of query, key and value side by side.
fn attention(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 6)?;
    let heads = cx.positive("num_heads")?;
    let heads = heads.ok_or_else(|| OpError::attribute("num_heads", "is missing"))?;
    let causal = cx.flag("unidirectional", false)?;
    let filter = cx.float("mask_filter_value", -10_000.0)?;
    let scale = scale_of(cx)?;
    if cx.flag("do_rotary", false)? || cx.flag("past_present_share_buffer", false)? {
        return Err(OpError::unsupported("rotary embeddings or shared buffers").into());
    }
    let (x, weights) = (cx.input(0)?, cx.input(1)?);
    let all = cx.known_dim(weights, 1, "the size of the weights")?;
    let sizes = match cx.sizes("qkv_hidden_sizes")? {
        Some(sizes) if sizes.len() == 3 && sizes.iter().sum::<usize>() == all => sizes,
        Some(_) => return Err(OpError::attribute("qkv_hidden_sizes", "do not fit").into()),
        None if all % 3 == 0 => vec![all / 3; 3],
        None => return Err(OpError::shape("the weights are not those of three products").into()),
    };
    let mut made = cx.matmul(x, weights)?;
    if let Some(bias) = cx.maybe(2) {
        made = cx.plus(made, bias)?;
    }
    let mut first = 0i64;
    let mut parts = Vec::new();
    for size in sizes {
        let part = cx.slice(made, 2, first, first + size as i64)?;
        parts.push(split_heads(cx, part, heads)?);
        first += size as i64;
    }
    let [query, mut key, mut value] = [parts[0], parts[1], parts[2]];
    let past = cx.maybe(4);
    let mut past_key = None;
    if let Some(past) = past {
        let halves = [cx.slice(past, 0, 0, 1)?, cx.slice(past, 0, 1, 2)?];
        let halves = [cx.squeeze(halves[0], 0)?, cx.squeeze(halves[1], 0)?];
        key = cx.concat(&[halves[0], key], 2)?;
        value = cx.concat(&[halves[1], value], 2)?;
        past_key = Some(halves[0]);
    }
    if let Some(given) = cx.maybe(3) {
        // Lengths have other forms too, of two or more numbers for each sequence.
        if cx.builder.fact(given).shape().first() != cx.builder.fact(x).shape().first() {
            return Err(OpError::operand("input 3", "does not have the batch of the input").into());
        }
    }
    let given = match cx.maybe(3) {
        Some(given) if cx.rank_of(given) > 3 => {
            return Err(OpError::operand("input 3", "of rank 4 is not supported").into());
        }
        Some(given) => Some(masked(cx, given, filter, key)?),
        None => None,
    };
    let ahead = match causal {
        true => {
            let keep = not_after(cx, query, key, past_key)?;
            Some(mask(cx, keep)?)
        }
        false => None,
    };
    let added = cx.maybe(5);
    let bias = biases(cx, [given, ahead, added])?;
    let heads = Heads {
        query,
        key,
        value,
        bias,
        scale,
        softcap: 0.0,
        cap_first: true,
    };
    let scores = attend(cx, &heads)?;
    let output = join_heads(cx, scores.output)?;
    let (key, value) = (cx.unsqueeze(key, 0)?, cx.unsqueeze(value, 0)?);
    let present = cx.concat(&[key, value], 0)?;
    Ok(vec![output, present])
}

/// Attention of query, key and value that are there already.
fn multi_head(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 8)?;
    let heads = cx.positive("num_heads")?;
    let heads = heads.ok_or_else(|| OpError::attribute("num_heads", "is missing"))?;
    let causal = cx.flag("unidirectional", false)?;
    let filter = cx.float("mask_filter_value", -10_000.0)?;
    let scale = scale_of(cx)?;
    let mut parts = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    if let Some(bias) = cx.maybe(3) {
        let mut first = 0i64;
        for part in &mut parts {
            if cx.rank_of(*part) != 3 {
                return Err(OpError::unsupported("a bias for heads apart").into());
            }
            let size = cx.known_dim(*part, 2, "the size of a row")? as i64;
            let own = cx.slice(bias, 0, first, first + size)?;
            *part = cx.plus(*part, own)?;
            first += size;
        }
    }
    for part in &mut parts {
        *part = match cx.rank_of(*part) {
            3 => split_heads(cx, *part, heads)?,
            4 => *part,
            _ => return Err(OpError::unsupported("packed query, key and value").into()),
        };
    }
    let [query, mut key, mut value] = parts;
    let past = match (cx.maybe(6), cx.maybe(7)) {
        (Some(k), Some(v)) => {
            key = cx.concat(&[k, key], 2)?;
            value = cx.concat(&[v, value], 2)?;
            Some(k)
        }
        (None, None) => None,
        _ => return Err(OpError::operand("inputs 6 and 7", "must be given together").into()),
    };
    let given = match cx.maybe(4) {
        Some(given) if cx.rank_of(given) > 3 => {
            return Err(OpError::operand("input 4", "of rank 4 is not supported").into());
        }
        // Of rank 1 it may hold lengths or more: told apart by a size that may not be known.
        Some(given) if cx.rank_of(given) == 1 => {
            return Err(OpError::operand("input 4", "of rank 1 is not supported").into());
        }
        Some(given) => Some(masked(cx, given, filter, key)?),
        None => None,
    };
    let ahead = match causal {
        true => {
            let keep = not_after(cx, query, key, past)?;
            Some(mask(cx, keep)?)
        }
        false => None,
    };
    let added = cx.maybe(5);
    let bias = biases(cx, [given, ahead, added])?;
    let heads = Heads {
        query,
        key,
        value,
        bias,
        scale,
        softcap: 0.0,
        cap_first: true,
    };
    let scores = attend(cx, &heads)?;
    Ok(vec![join_heads(cx, scores.output)?, key, value])
}

/// Attention of few keys for many queries, with what came before. Every sequence of a batch must
/// have the same length: others are an error of the run.
fn grouped(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(7, 12)?;
    let missing = |name: &'static str| move || OpError::attribute(name, "is missing");
    let heads = cx.positive("num_heads")?.ok_or_else(missing("num_heads"))?;
    let kv_heads = cx
        .positive("kv_num_heads")?
        .ok_or_else(missing("kv_num_heads"))?;
    let (scale, softcap) = (scale_of(cx)?, cx.float("softcap", 0.0)?);
    let rotates = cx.flag("do_rotary", false)?;
    let interleaved = cx.flag("rotary_interleaved", false)?;
    let plain = cx.int("local_window_size", -1)? == -1
        && cx.int("smooth_softmax", 0)? == 0
        && cx.int("qk_output", 0)? == 0
        && cx.maybe(11).is_none();
    if !plain {
        return Err(OpError::unsupported("windows, smooth softmax, sinks or scores").into());
    }
    let parts = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let past = match (cx.maybe(3), cx.maybe(4)) {
        (Some(k), Some(v)) => Some((k, v)),
        (None, None) => None,
        _ => return Err(OpError::operand("inputs 3 and 4", "must be given together").into()),
    };
    // All keys: those before and those that come now; the operand says one less.
    let new = cx.shape(&[Part::Of(parts[1], 1)])?;
    let before = match past {
        Some((key, _)) => cx.shape(&[Part::Of(key, 2)])?,
        None => cx.ints_tensor(vec![0]),
    };
    let total = cx.plus(new, before)?;
    let lengths = cx.input(5)?;
    let lengths = convert(cx, lengths, DType::I64)?;
    let one = cx.integer(DType::I64, 1)?;
    let lengths = cx.plus(lengths, one)?;
    let query = cx.add(Checked, &[Some(parts[0]), Some(lengths), Some(total)])?;
    let mut rows = Vec::new();
    for (part, heads) in [(query, heads), (parts[1], kv_heads), (parts[2], kv_heads)] {
        let hidden = cx.known_dim(part, 2, "the size of a row")?;
        if hidden % heads != 0 {
            return Err(OpError::shape("rows do not divide into heads").into());
        }
        let size = Part::Is((hidden / heads) as i64);
        let shape = [
            Part::Of(part, 0),
            Part::Of(part, 1),
            Part::Is(heads as i64),
            size,
        ];
        rows.push(cx.reshape(part, &shape)?);
    }
    if rotates {
        let (cos, sin) = (cx.input(7)?, cx.input(8)?);
        let size = 2 * cx.known_dim(cos, 1, "the size of the cosines")?;
        let positions = match cx.maybe(9) {
            Some(given) => given,
            None => {
                let limit = cx.squeeze(new, 0)?;
                let zero = cx.integer(DType::I64, 0)?;
                let all = cx.add(Range, &[Some(zero), Some(limit), Some(one)])?;
                let all = cx.plus(all, before)?;
                cx.unsqueeze(all, 0)?
            }
        };
        let by = Turn {
            interleaved,
            size,
            cos: cx.gather(cos, positions, 0)?,
            sin: cx.gather(sin, positions, 0)?,
        };
        for part in &mut rows[..2] {
            *part = turn(cx, *part, &by)?;
        }
    }
    for part in &mut rows {
        *part = cx.transpose(*part, &[0, 2, 1, 3])?;
    }
    let [query, mut key, mut value] = [rows[0], rows[1], rows[2]];
    if let Some((k, v)) = past {
        key = cx.concat(&[k, key], 2)?;
        value = cx.concat(&[v, value], 2)?;
    }
    let keep = not_after(cx, query, key, past.map(|(k, _)| k))?;
    let ahead = Some(mask(cx, keep)?);
    let added = cx.maybe(10);
    let bias = biases(cx, [ahead, added, None])?;
    let heads = Heads {
        query,
        key,
        value,
        bias,
        scale,
        softcap,
        cap_first: true,
    };
    let scores = attend(cx, &heads)?;
    Ok(vec![join_heads(cx, scores.output)?, key, value])
}

/// FP32 of an INT32 sum, times scales, plus a bias.
fn scaled_sum(
    cx: &mut Context<'_, '_>,
    sum: ValueId,
    scales: [ValueId; 2],
    bias: Option<ValueId>,
) -> Built {
    let factor = cx.times(scales[0], scales[1])?;
    let wide = convert(cx, sum, DType::F32)?;
    let y = cx.times(wide, factor)?;
    match bias {
        None => Ok(y),
        Some(bias) => cx.plus(y, bias),
    }
}

fn dynamic_matmul(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 5)?;
    let (a, b, b_scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (a_scale, a_zero) = dynamic_range(cx, a)?;
    let a = quantised(cx, a, a_scale, a_zero)?;
    let (b_zero, bias) = (cx.maybe(3), cx.maybe(4));
    let sum = cx.add(MatMulInteger, &[Some(a), Some(b), Some(a_zero), b_zero])?;
    Ok(vec![scaled_sum(cx, sum, [a_scale, b_scale], bias)?])
}

fn integer_to_float(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(4, 7)?;
    let (a, b, a_scale, b_scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let operands = [Some(a), Some(b), cx.maybe(4), cx.maybe(5)];
    let bias = cx.maybe(6);
    let sum = cx.add(MatMulInteger, &operands)?;
    Ok(vec![scaled_sum(cx, sum, [a_scale, b_scale], bias)?])
}

/// Bytes that hold two elements each, the first in the lower half, along the last axis.
fn halves(cx: &mut Context<'_, '_>, packed: ValueId) -> Built {
    let rank = cx.rank_of(packed);
    let (low, by) = (cx.integer(DType::U8, 15)?, cx.integer(DType::U8, 4)?);
    let low = cx.add(Bits::And, &[Some(packed), Some(low)])?;
    let high = cx.add(Bits::ShiftRight, &[Some(packed), Some(by)])?;
    let parts = [cx.unsqueeze(low, rank)?, cx.unsqueeze(high, rank)?];
    let pairs = cx.concat(&parts, rank)?;
    let mut shape: Vec<Part> = (0..rank).map(|axis| Part::Of(packed, axis)).collect();
    shape[rank - 1] = Part::Is(-1);
    cx.reshape(pairs, &shape)
}

/// A product with weights of 4 or 8 bits in blocks, each with a scale and a zero point.
fn packed_matmul(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(3, 6)?;
    let wrong = |name: &'static str| move || OpError::attribute(name, "is missing");
    let k = cx.positive("K")?.ok_or_else(wrong("K"))?;
    let n = cx.positive("N")?.ok_or_else(wrong("N"))?;
    let size = cx.positive("block_size")?.ok_or_else(wrong("block_size"))?;
    let bits = cx.int("bits", 4)?;
    cx.int("accuracy_level", 0)?;
    if !(bits == 4 || bits == 8) || cx.maybe(4).is_some() {
        return Err(OpError::unsupported("other than 4 and 8 bits, or reordered columns").into());
    }
    let (a, weights, scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let blocks = k.div_ceil(size);
    let (rows, columns) = (Part::Is(n as i64), Part::Is(blocks as i64));
    let mut values = cx.reshape(weights, &[rows, Part::Is(-1)])?;
    if bits == 4 {
        values = halves(cx, values)?;
    }
    let scales = cx.reshape(scales, &[rows, columns])?;
    let zeros = match cx.maybe(3) {
        None => {
            let middle = Tensor::scalar(if bits == 4 { 8u8 } else { 128 });
            cx.fill(middle, &[rows, columns])?
        }
        Some(given) if cx.dtype_of(given) != DType::U8 => {
            return Err(OpError::operand("input 3", "of floats is not supported").into());
        }
        Some(given) => {
            let mut zeros = cx.reshape(given, &[rows, Part::Is(-1)])?;
            if bits == 4 {
                zeros = halves(cx, zeros)?;
            }
            cx.slice(zeros, 1, 0, blocks as i64)?
        }
    };
    let grain = Grain::Block { axis: 1, size };
    let weights = cx.add(
        Dequantize { grain },
        &[Some(values), Some(scales), Some(zeros)],
    )?;
    let weights = cx.slice(weights, 1, 0, k as i64)?;
    let weights = cx.transpose(weights, &[1, 0])?;
    let mut y = cx.matmul(a, weights)?;
    if let Some(bias) = cx.maybe(5) {
        y = cx.plus(y, bias)?;
    }
    Ok(vec![y])
}

/// Two quantised values, widened, combined and quantised again.
fn quantised_pair(cx: &mut Context<'_, '_>, op: Arithmetic) -> Lowered {
    cx.arity(7, 8)?;
    let grain = Grain::Tensor;
    let mut wide = Vec::new();
    for first in [0, 3] {
        let mut operands = vec![Some(cx.input(first)?), Some(cx.input(first + 1)?)];
        operands.extend(cx.maybe(first + 2).map(Some));
        wide.push(cx.add(Dequantize { grain }, &operands)?);
    }
    let made = cx.binary(op, wide[0], wide[1])?;
    let quantize = Quantize {
        grain,
        to: cx.fact(0)?.dtype(),
        half_byte: false,
    };
    let mut operands = vec![Some(made), Some(cx.input(6)?)];
    operands.extend(cx.maybe(7).map(Some));
    Ok(vec![cx.add(quantize, &operands)?])
}
