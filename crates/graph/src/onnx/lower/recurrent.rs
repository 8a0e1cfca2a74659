//! Recurrent networks.

use lemma_kernels::Unary as U;

use super::{Lowered, NodeContext};
use crate::error::OpError;
use crate::graph::ValueId;
use crate::ops::recurrent::{Activation, Cell, Recurrent};

type Context<'n, 'a> = NodeContext<'n, 'a>;

pub(super) fn lower(cx: &mut Context<'_, '_>, op: &str) -> Option<Lowered> {
    Some(match op {
        "RNN" => recurrent(cx, Cell::Rnn),
        "GRU" => {
            // Operator sets before 3 had another form; older than any supported.
            match cx.flag("linear_before_reset", false) {
                Ok(linear_first) => recurrent(cx, Cell::Gru { linear_first }),
                Err(error) => Err(error.into()),
            }
        }
        "LSTM" => match cx.flag("input_forget", false) {
            Ok(coupled) => recurrent(cx, Cell::Lstm { coupled }),
            Err(error) => Err(error.into()),
        },
        _ => return None,
    })
}

/// Names of activations, with the numbers that those with parameters take.
fn activations(
    cx: &mut Context<'_, '_>,
    count: usize,
    default: &[&str],
) -> Result<Vec<Activation>, OpError> {
    let names = cx.texts("activations")?;
    let (alpha, beta) = (
        cx.floats("activation_alpha")?,
        cx.floats("activation_beta")?,
    );
    let (mut alpha, mut beta) = (
        alpha.unwrap_or_default().into_iter(),
        beta.unwrap_or_default().into_iter(),
    );
    let names = names.unwrap_or_else(|| {
        let all = default.iter().cycle().take(count);
        all.map(|name| (*name).to_owned()).collect()
    });
    if names.len() != count {
        return Err(OpError::attribute(
            "activations",
            format!("names {} of {count}", names.len()),
        ));
    }
    let mut all = Vec::with_capacity(count);
    for name in names {
        let mut a = |default: f32| alpha.next().unwrap_or(default);
        let mut b = |default: f32| beta.next().unwrap_or(default);
        all.push(match name.to_ascii_lowercase().as_str() {
            "relu" => Activation::Unary(U::Relu),
            "tanh" => Activation::Unary(U::Tanh),
            "sigmoid" => Activation::Unary(U::Sigmoid),
            "softsign" => Activation::Unary(U::Softsign),
            "softplus" => Activation::Unary(U::Softplus),
            "leakyrelu" => Activation::Unary(U::LeakyRelu { alpha: a(0.01) }),
            "elu" => Activation::Unary(U::Elu { alpha: a(1.0) }),
            "hardsigmoid" => Activation::Unary(U::HardSigmoid {
                alpha: a(0.2),
                beta: b(0.5),
            }),
            "thresholdedrelu" => Activation::Thresholded(a(1.0)),
            "affine" => Activation::Affine(a(1.0), b(0.0)),
            "scaledtanh" => Activation::ScaledTanh(a(1.0), b(1.0)),
            other => {
                return Err(OpError::attribute(
                    "activations",
                    format!("`{other}` is not known"),
                ));
            }
        });
    }
    Ok(all)
}

fn recurrent(cx: &mut Context<'_, '_>, cell: Cell) -> Lowered {
    let lstm = matches!(cell, Cell::Lstm { .. });
    cx.arity(3, if lstm { 8 } else { 6 })?;
    let directions = match cx.text("direction", "forward")?.as_str() {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => {
            return Err(OpError::attribute("direction", format!("`{other}` is not known")).into());
        }
    };
    let default: &[&str] = match cell {
        Cell::Rnn => &["Tanh"],
        Cell::Gru { .. } => &["Sigmoid", "Tanh"],
        Cell::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
    };
    let activations = activations(cx, directions.len() * cell.functions(), default)?;
    let clip = cx.maybe_float("clip")?;
    let hidden = cx.maybe_int("hidden_size")?;
    // Concerns operator set 7 alone, in which it did nothing but name outputs.
    cx.int("output_sequence", 0)?;
    let batch_first = cx.opset >= 14 && cx.flag("layout", false)?;
    let found = cx.fact(2)?.shape().get(2).and_then(|d| d.known());
    if hidden.is_some() && hidden != found {
        return Err(OpError::attribute("hidden_size", "is not that of the weights").into());
    }
    let mut operands: Vec<Option<ValueId>> = (0..8).map(|i| cx.maybe(i)).collect();
    if batch_first {
        for index in [0, 5, 6] {
            if let Some(value) = operands[index] {
                operands[index] = Some(cx.transpose(value, &[1, 0, 2])?);
            }
        }
    }
    while let Some(None) = operands.last() {
        operands.pop();
    }
    let op = Recurrent {
        cell,
        directions,
        activations,
        clip,
    };
    let first = cx.add(op, &operands)?;
    let mut outputs: Vec<ValueId> = (first..first + if lstm { 3 } else { 2 }).collect();
    if batch_first {
        outputs[0] = cx.transpose(outputs[0], &[2, 0, 1, 3])?;
        for output in &mut outputs[1..] {
            *output = cx.transpose(*output, &[1, 0, 2])?;
        }
    }
    Ok(outputs)
}
