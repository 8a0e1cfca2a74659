//! What a model takes and gives: names, types, dimensions.

use std::collections::BTreeSet;

use lemma_types::tensor::{Dim, TensorSpec};

use crate::error::ImportError;
use crate::fact::{Fact, Sym};
use crate::onnx::import::Typed;
use crate::onnx::narrow::Narrow;
use crate::onnx::proto::{self, Dimension};
use crate::onnx::tensor::element;

/// What is inferred of an output, made more precise by what is declared. `producer` says which
/// node computes it.
pub(super) fn output_spec(
    output: &proto::ValueInfo<'_>,
    value: Typed,
    fact: &Fact,
    producer: &str,
) -> Result<TensorSpec, ImportError> {
    let wrong = |reason: String| ImportError::Signature {
        role: "output",
        name: output.name.to_owned(),
        reason,
    };
    if let Some(code) = output.element_type.filter(|&code| code != 0) {
        let (declared, narrow) = element(code).map_err(wrong)?;
        if (declared, narrow) != (fact.dtype(), value.narrow) {
            return Err(wrong(format!(
                "is declared {declared} and computed as {}{}",
                fact.dtype(),
                producer
            )));
        }
    }
    let inferred = crate::fact::show(fact.shape());
    let declared = match &output.shape {
        Some(shape) if shape.len() != fact.rank() => {
            return Err(wrong(format!(
                "is declared with {} dimensions and computed as {inferred}{}",
                shape.len(),
                producer
            )));
        }
        Some(shape) => shape.clone(),
        None => vec![Dimension::Unknown; fact.rank()],
    };
    let dims = fact.shape().iter().zip(declared).enumerate();
    let shape = dims
        .map(|(axis, dim)| match dim {
            (Sym::Known(n), Dimension::Value(d)) if *n != d => Err(wrong(format!(
                "dimension {axis} is declared {d} and computed as {n}{}",
                producer
            ))),
            (Sym::Known(n), _) => Ok(Dim::Fixed(n.unsigned_abs())),
            (_, Dimension::Value(d)) => match u64::try_from(d) {
                Ok(d) => Ok(Dim::Fixed(d)),
                Err(_) => Err(wrong(format!("dimension {axis} is declared {d}"))),
            },
            (Sym::Symbol(name), _) => Ok(Dim::Symbol(name.to_string())),
            (_, Dimension::Param(name)) => Ok(Dim::Symbol(name.to_owned())),
            _ => Ok(Dim::Symbol(format!("{}_dim_{axis}", output.name))),
        })
        .collect::<Result<_, _>>()?;
    Ok(TensorSpec {
        name: output.name.to_owned(),
        dtype: fact.dtype(),
        shape,
    })
}

/// The signature of an input. A dimension without a number or name gets a name of its own.
pub(super) fn input_spec(
    input: &proto::ValueInfo<'_>,
    declared: &BTreeSet<&str>,
) -> Result<(TensorSpec, Option<Narrow>), ImportError> {
    let wrong = |reason: String| ImportError::Signature {
        role: "input",
        name: input.name.to_owned(),
        reason,
    };
    let code = input
        .element_type
        .ok_or_else(|| wrong("is not declared to be a tensor".into()))?;
    let (dtype, narrow) = element(code).map_err(wrong)?;
    let dims = input
        .shape
        .as_ref()
        .ok_or_else(|| wrong("has no declared shape: export the model with one".into()))?;
    let shape = dims
        .iter()
        .enumerate()
        .map(|(axis, dim)| match *dim {
            Dimension::Value(n) => match u64::try_from(n) {
                Ok(n) => Ok(Dim::Fixed(n)),
                Err(_) => Err(wrong(format!("dimension {axis} is {n}"))),
            },
            Dimension::Param(name) => Ok(Dim::Symbol(name.to_owned())),
            Dimension::Unknown => {
                let mut name = format!("{}_dim_{axis}", input.name);
                while declared.contains(name.as_str()) {
                    name.push('_');
                }
                Ok(Dim::Symbol(name))
            }
        })
        .collect::<Result<Vec<Dim>, _>>()?;
    let mut fixed = shape.iter().filter_map(|d| match d {
        Dim::Fixed(n) => Some(*n),
        Dim::Symbol(_) => None,
    });
    let bytes = fixed.try_fold(dtype.size() as u64, |n, d| n.checked_mul(d.max(1)));
    if bytes.is_none_or(|n| n > isize::MAX as u64) {
        return Err(wrong("the product of its dimensions overflows".into()));
    }
    let spec = TensorSpec {
        name: input.name.to_owned(),
        dtype,
        shape,
    };
    Ok((spec, narrow))
}
