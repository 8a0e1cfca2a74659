//! Transforms, windows, sums over labels, counts of sequences.

use std::sync::Arc;

use lemma_types::tensor::DType;

use super::{Lowered, NodeContext, axis};
use crate::error::OpError;
use crate::fact::{Sym, Type};
use crate::graph::ValueId;
use crate::onnx::tensor::dtype;
use crate::operator::Op;
use crate::ops::cast::Cast;
use crate::ops::einsum::Einsum;
use crate::ops::grams::{Grams, Weighing};
use crate::ops::late::Late;
use crate::ops::spectral::{Dft, Stft, Window};
use crate::tensor::Tensor;

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "DFT" => dft(cx),
        "STFT" => stft(cx),
        "HannWindow" => window(cx, [0.5, 0.5, 0.0]),
        "HammingWindow" => window(cx, [25.0 / 46.0, 21.0 / 46.0, 0.0]),
        "BlackmanWindow" => window(cx, [0.42, 0.5, 0.08]),
        "Einsum" => einsum(cx),
        "TfIdfVectorizer" => grams(cx),
        "OptionalHasElement" => has_element(cx),
        "OptionalGetElement" => element(cx),
        _ => return None,
    })
}

/// The axis was an attribute before operator set 20, and counted from 1 by default.
fn dft(cx: &mut Context<'_, '_>) -> Lowered {
    let recent = cx.opset >= 20;
    cx.arity(1, if recent { 3 } else { 2 })?;
    let inverse = cx.flag("inverse", false)?;
    let one_sided = cx.flag("onesided", false)?;
    if inverse && one_sided {
        return Err(OpError::unsupported("the inverse of one side").into());
    }
    let (x, rank) = (cx.input(0)?, cx.rank(0)?);
    let given = if recent {
        None
    } else {
        Some(cx.int("axis", 1)?)
    };
    let make = move |length: Option<i64>, along: i64| -> Result<Dft, OpError> {
        let length = length.map(|n| {
            usize::try_from(n)
                .ok()
                .filter(|n| (1..=1 << 32).contains(n))
                .ok_or_else(|| OpError::operand("dft_length", format!("is {n}")))
        });
        Ok(Dft {
            axis: axis(along, rank)?,
            length: length.transpose()?,
            inverse,
            one_sided,
        })
    };
    let one = |values: Option<Vec<i64>>| match values.as_deref() {
        None => Ok(None),
        Some(&[n]) => Ok(Some(n)),
        Some(_) => Err(OpError::operand(
            "dft_length and axis",
            "must be one number each",
        )),
    };
    let along = if recent { cx.known_ints(2) } else { Ok(None) };
    match (cx.known_ints(1), along) {
        (Ok(length), Ok(along)) => {
            let along = one(along)?.or(given).unwrap_or(-2);
            Ok(vec![cx.add(make(one(length)?, along)?, &[Some(x)])?])
        }
        (length, along) => {
            // What is data comes as an operand; the other is built in.
            let (mut operands, mut kinds) = (vec![Some(x)], Vec::new());
            let (mut fixed_length, mut fixed_along) = (None, given.or(Some(-2)));
            match length {
                Ok(values) => fixed_length = one(values)?,
                Err(value) => {
                    operands.push(Some(value));
                    kinds.push(0u64);
                }
            }
            match along {
                Ok(values) => fixed_along = one(values)?.or(fixed_along),
                Err(value) => {
                    operands.push(Some(value));
                    kinds.push(1);
                }
            }
            let mut attributes = vec![u64::MAX, u64::from(inverse), u64::from(one_sided)];
            attributes.extend(&kinds);
            attributes.push(fixed_length.unwrap_or(-1).cast_unsigned());
            attributes.push(fixed_along.unwrap_or(-2).cast_unsigned());
            let late = Late {
                name: "DFT/1",
                attributes,
                data: 1,
                build: Box::new(move |_, parameters| {
                    let (mut length, mut along) = (fixed_length, fixed_along.unwrap_or(-2));
                    for (kind, values) in kinds.iter().zip(parameters) {
                        let &[value] = &values[..] else {
                            return Err(OpError::operand(
                                "dft_length and axis",
                                "must be one number each",
                            ));
                        };
                        match kind {
                            0 => length = Some(value),
                            _ => along = value,
                        }
                    }
                    Ok(Some(Arc::new(make(length, along)?) as Op))
                }),
                open: Box::new(move |inputs| {
                    let x = inputs.need(0)?;
                    crate::ops::expect(x, "input 0", &[DType::F32])?;
                    let mut shape = vec![Sym::Unknown; x.rank()];
                    if let Some(last) = shape.last_mut() {
                        *last = Sym::Known(2);
                    }
                    Ok(vec![Type::new(DType::F32, shape)])
                }),
            };
            Ok(vec![cx.add(late, &operands)?])
        }
    }
}

fn stft(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(2, 4)?;
    let one_sided = cx.flag("onesided", true)?;
    let (x, window) = (cx.input(0)?, cx.maybe(2));
    let frame_of_window = match window {
        Some(_) => cx.fact(2)?.shape().first().and_then(Sym::known),
        None => None,
    };
    let make = move |step: i64, frame: Option<i64>| -> Result<Stft, OpError> {
        let frame = frame.or(frame_of_window);
        let size = |n: Option<i64>, what: &str| {
            n.and_then(|n| usize::try_from(n).ok())
                .filter(|n| (1..=1 << 32).contains(n))
                .ok_or_else(|| OpError::operand(what, "must be a number of at least 1"))
        };
        Ok(Stft {
            step: size(Some(step), "frame_step")?,
            frame: size(frame, "frame_length")?,
            one_sided,
        })
    };
    let one = |values: Option<Vec<i64>>| match values.as_deref() {
        Some(&[n]) => Ok(Some(n)),
        None => Ok(None),
        Some(_) => Err(OpError::operand(
            "frame_step and frame_length",
            "must be one number each",
        )),
    };
    if let (Ok(step), Ok(frame)) = (cx.known_ints(1), cx.known_ints(3)) {
        let step = one(step)?.unwrap_or(0);
        let op = make(step, one(frame)?)?;
        return Ok(vec![cx.add(op, &[Some(x), window])?]);
    }
    let step = cx.input(1)?;
    let mut operands = vec![Some(x)];
    // Without a window the operator has one operand before its parameters.
    operands.extend(window.map(Some));
    let data = operands.len();
    operands.push(Some(step));
    operands.extend(cx.maybe(3).map(Some));
    let late = Late {
        name: "STFT/1",
        attributes: vec![u64::MAX, u64::from(one_sided), data as u64],
        data,
        build: Box::new(move |_, parameters| {
            let single = |i: usize| match parameters.get(i).map(Vec::as_slice) {
                Some(&[n]) => Ok(Some(n)),
                None => Ok(None),
                Some(_) => Err(OpError::operand(
                    "frame_step and frame_length",
                    "must be one number each",
                )),
            };
            let op = make(single(0)?.unwrap_or(0), single(1)?)?;
            Ok(Some(Arc::new(op) as Op))
        }),
        open: Box::new(move |inputs| {
            let x = inputs.need(0)?;
            crate::ops::expect(x, "input 0", &[DType::F32])?;
            let batch = x.shape().first().cloned().unwrap_or(Sym::Unknown);
            let shape = vec![batch, Sym::Unknown, Sym::Unknown, Sym::Known(2)];
            Ok(vec![Type::new(DType::F32, shape)])
        }),
    };
    Ok(vec![cx.add(late, &operands)?])
}

fn window(cx: &mut Context<'_, '_>, factors: [f64; 3]) -> Lowered {
    cx.arity(1, 1)?;
    let symmetric = !cx.flag("periodic", true)?;
    let code = cx.int("output_datatype", 1)?;
    let to = dtype(code).map_err(|reason| OpError::attribute("output_datatype", reason))?;
    let wide = if to == DType::F64 { to } else { DType::F32 };
    let op = Window {
        factors,
        symmetric,
        to: wide,
    };
    let y = cx.one(op)?;
    if to == wide {
        return Ok(y);
    }
    Ok(vec![cx.add(Cast { to }, &[Some(y[0])])?])
}

/// Labels of one side of an equation; the dimensions of an ellipsis get numbers from 256 on,
/// counted from the last.
fn labels(term: &str, rank: Option<usize>) -> Result<Vec<usize>, OpError> {
    let wrong = |reason: &str| OpError::attribute("equation", format!("`{term}` {reason}"));
    let mut labels = Vec::new();
    let mut rest = term;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            let named = term.len() - 3;
            let dims = rank.map_or(Ok(0), |r| {
                r.checked_sub(named)
                    .ok_or_else(|| wrong("names more dimensions than there are"))
            })?;
            labels.extend((0..dims).rev().map(|i| 256 + i));
            rest = after;
            continue;
        }
        if !c.is_ascii_alphabetic() {
            return Err(wrong("holds other than letters"));
        }
        labels.push(c as usize);
        rest = &rest[1..];
    }
    if rank.is_some_and(|r| r != labels.len()) {
        return Err(wrong("names another number of dimensions than there are"));
    }
    Ok(labels)
}

fn einsum(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 64)?;
    let text = cx.text("equation", "")?;
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&text[..], None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != cx.inputs.len() {
        return Err(OpError::attribute("equation", "names another number of operands").into());
    }
    let mut operands = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        operands.push(labels(term, Some(cx.rank(index)?))?);
    }
    let dots = operands
        .iter()
        .flatten()
        .filter(|&&l| l >= 256)
        .max()
        .map_or(0, |m| m - 255);
    let output: Vec<usize> = match right {
        Some(right) => {
            // What the output does not name is summed over, an ellipsis too.
            let rank = right.contains("...").then(|| right.len() - 3 + dots);
            labels(right, rank)?
        }
        None => {
            // The ellipsis, then what occurs once, in the order of the alphabet.
            let count = |l: &usize| operands.iter().flatten().filter(|o| *o == l).count();
            let mut once: Vec<usize> = operands
                .iter()
                .flatten()
                .copied()
                .filter(|l| *l < 256 && count(l) == 1)
                .collect();
            once.sort_unstable();
            (0..dots).rev().map(|i| 256 + i).chain(once).collect()
        }
    };
    let known = |l: &usize| operands.iter().flatten().any(|o| o == l);
    let unique = (1..output.len()).all(|i| !output[..i].contains(&output[i]));
    if !unique || !output.iter().all(known) {
        return Err(OpError::attribute(
            "equation",
            "gives a dimension that no operand has, or twice",
        )
        .into());
    }
    let ids: Vec<ValueId> = (0..operands.len())
        .map(|i| cx.input(i))
        .collect::<Result<_, _>>()?;
    if let [a, b] = &operands[..]
        && let Some(y) = as_product(cx, (ids[0], a), (ids[1], b), &output)?
    {
        return Ok(vec![y]);
    }
    // Labels are numbered as they first occur: their letters are no part of the operator.
    let mut order: Vec<usize> = Vec::new();
    for label in operands.iter().flatten() {
        if !order.contains(label) {
            order.push(*label);
        }
    }
    let number = |l: &usize| order.iter().position(|o| o == l).unwrap_or(0);
    let op = Einsum {
        operands: operands
            .iter()
            .map(|o| o.iter().map(number).collect())
            .collect(),
        output: output.iter().map(number).collect(),
    };
    let ids: Vec<Option<ValueId>> = ids.into_iter().map(Some).collect();
    Ok(vec![cx.add(op, &ids)?])
}

/// Two operands of FP32 as a product of matrices, where one label is summed over and those of each
/// group stand in one order.
fn as_product(
    cx: &mut Context<'_, '_>,
    (a, a_labels): (ValueId, &[usize]),
    (b, b_labels): (ValueId, &[usize]),
    output: &[usize],
) -> Result<Option<ValueId>, OpError> {
    let distinct = |labels: &[usize]| (1..labels.len()).all(|i| !labels[..i].contains(&labels[i]));
    if cx.dtype_of(a) != DType::F32 || !distinct(a_labels) || !distinct(b_labels) {
        return Ok(None);
    }
    let (in_a, in_b) = (
        |l: &usize| a_labels.contains(l),
        |l: &usize| b_labels.contains(l),
    );
    let batch: Vec<usize> = output
        .iter()
        .copied()
        .filter(|l| in_a(l) && in_b(l))
        .collect();
    let rows: Vec<usize> = output
        .iter()
        .copied()
        .filter(|l| in_a(l) && !in_b(l))
        .collect();
    let cols: Vec<usize> = output
        .iter()
        .copied()
        .filter(|l| !in_a(l) && in_b(l))
        .collect();
    let inner: Vec<usize> = a_labels
        .iter()
        .copied()
        .filter(|l| !output.contains(l))
        .collect();
    let others = b_labels
        .iter()
        .filter(|l| !output.contains(l))
        .all(|l| inner.contains(l));
    // One dimension of each kind needs no change of shape.
    let plain = rows.len() == 1 && cols.len() == 1 && inner.len() == 1;
    if !plain || !others || !inner.iter().all(in_b) {
        return Ok(None);
    }
    // Broadcasting between labels of one name is left to the general form.
    for label in batch.iter().chain(&inner) {
        let dim = |x: ValueId, labels: &[usize]| {
            let at = labels.iter().position(|l| l == label).unwrap_or(0);
            cx.builder.fact(x).shape()[at].clone()
        };
        if dim(a, a_labels) != dim(b, b_labels) {
            return Ok(None);
        }
    }
    let perm = |labels: &[usize], order: &[&[usize]]| -> Vec<usize> {
        let wanted = order.iter().flat_map(|part| part.iter());
        wanted
            .filter_map(|l| labels.iter().position(|o| o == l))
            .collect()
    };
    let left = cx.transpose(a, &perm(a_labels, &[&batch, &rows, &inner]))?;
    let right = cx.transpose(b, &perm(b_labels, &[&batch, &inner, &cols]))?;
    let product = cx.matmul(left, right)?;
    let made = [batch, rows, cols].concat();
    let order: Vec<usize> = output
        .iter()
        .filter_map(|l| made.iter().position(|o| o == l))
        .collect();
    Ok(Some(cx.transpose(product, &order)?))
}

fn grams(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    if cx.attribute("pool_strings").is_some() {
        return Err(OpError::unsupported("sequences of texts").into());
    }
    let missing = |name: &'static str| move || OpError::attribute(name, "is missing");
    let pool = cx.ints("pool_int64s")?.ok_or_else(missing("pool_int64s"))?;
    let counts = cx
        .sizes("ngram_counts")?
        .ok_or_else(missing("ngram_counts"))?;
    let places = cx
        .sizes("ngram_indexes")?
        .ok_or_else(missing("ngram_indexes"))?;
    let least = cx
        .positive("min_gram_length")?
        .ok_or_else(missing("min_gram_length"))?;
    let most = cx
        .positive("max_gram_length")?
        .ok_or_else(missing("max_gram_length"))?;
    let skip = cx
        .sizes_one("max_skip_count")?
        .ok_or_else(missing("max_skip_count"))?;
    let weights = cx.floats("weights")?;
    let weighing = match cx.text("mode", "")?.as_str() {
        "TF" => Weighing::Count,
        "IDF" => Weighing::Presence,
        "TFIDF" => Weighing::Both,
        other => return Err(OpError::attribute("mode", format!("`{other}` is not known")).into()),
    };
    let op = Grams::new(
        pool,
        &counts,
        places,
        (least, most),
        skip,
        weights,
        weighing,
    )?;
    cx.one(op)
}

/// Whether there is a value: known at import.
fn has_element(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(0, 1)?;
    let there = cx.maybe(0).is_some();
    Ok(vec![cx.tensor(Tensor::scalar(there))])
}

/// A tensor is its own element.
fn element(cx: &mut Context<'_, '_>) -> Lowered {
    cx.arity(1, 1)?;
    Ok(vec![cx.input(0)?])
}
