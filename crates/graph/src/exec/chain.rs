//! Chains with their operands by reference.

use lemma_kernels::int8::{Int8, Quantisation};
use lemma_kernels::{Binary, Chain, Isa, Link, Mask, Source, Threads, Unary};
use lemma_types::tensor::DType;

use super::At;
use super::integer::Sink;
use crate::error::OpError;
use crate::operator::typed;
use crate::ops::quantize::widened;
use crate::tensor::Tensor;

/// The values of a run, by where they are.
pub(super) trait Values<'t> {
    /// The elements of a value of f32.
    fn floats(&self, at: At) -> Result<&'t [f32], OpError>;

    /// The elements of a value of 8-bit integers.
    fn bytes(&self, at: At) -> Result<Int8<'t>, OpError>;

    /// A value that a tensor was made of: what the caller gave is.
    fn tensor(&self, at: At) -> &'t Tensor;
}

/// An operand of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operand {
    /// Value 0 is what the chain is applied to.
    Value(usize),
    /// The one element of a tensor.
    Scalar(At),
    /// See [`Source::Rows`].
    Rows {
        at: At,
        divide: usize,
        modulo: usize,
    },
    /// See [`Source::Each`].
    Each {
        at: At,
        divide: usize,
        modulo: usize,
    },
}

impl Operand {
    pub(super) fn at(self) -> Option<At> {
        match self {
            Operand::Value(_) => None,
            Operand::Scalar(at) | Operand::Rows { at, .. } | Operand::Each { at, .. } => Some(at),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum LinkSpec {
    Unary(Unary, usize),
    Binary(Binary, Operand, Operand),
    Softmax(usize),
    Select {
        mask: At,
        divide: usize,
        modulo: usize,
        keep: bool,
        value: usize,
        /// One number.
        other: At,
    },
    /// 8-bit integers as numbers.
    Dequantise(At, Sink),
    /// A value quantised and dequantised.
    Requantise(usize, Sink),
}

/// A chain whose operands are yet to be found.
#[derive(Clone, Debug, Default)]
pub(super) struct ChainSpec {
    pub(super) links: Vec<LinkSpec>,
}

impl ChainSpec {
    /// What the chain reads besides the value that it is applied to.
    pub(super) fn reads(&self) -> impl Iterator<Item = At> {
        self.links
            .iter()
            .flat_map(|link| match link {
                LinkSpec::Unary(..) | LinkSpec::Softmax(_) => [None; 3],
                LinkSpec::Binary(_, a, b) => [a.at(), b.at(), None],
                LinkSpec::Select { mask, other, .. } => [Some(*mask), Some(*other), None],
                LinkSpec::Dequantise(at, how) => [Some(*at), Some(how.scale), how.zero],
                LinkSpec::Requantise(_, how) => [Some(how.scale), how.zero, None],
            })
            .flatten()
    }

    /// Calls `with` with the chain, its operands found by `values`.
    pub(super) fn resolve<'t, R>(
        &self,
        values: &impl Values<'t>,
        with: impl FnOnce(&Chain<'_>) -> R,
    ) -> Result<R, OpError> {
        let number = |at: At| -> Result<f32, OpError> {
            let first = values.floats(at)?.first().copied();
            first.ok_or_else(|| OpError::shape("an operand is empty"))
        };
        let source = |operand: Operand| -> Result<Source<'t>, OpError> {
            Ok(match operand {
                Operand::Value(v) => Source::Value(v),
                Operand::Scalar(at) => Source::Scalar(number(at)?),
                Operand::Rows { at, divide, modulo } => Source::Rows {
                    values: values.floats(at)?,
                    divide,
                    modulo,
                },
                Operand::Each { at, divide, modulo } => Source::Each {
                    values: values.floats(at)?,
                    divide,
                    modulo,
                },
            })
        };
        let quantisation = |how: Sink| how.resolve(values);
        let links = self
            .links
            .iter()
            .map(|link| {
                Ok(match *link {
                    LinkSpec::Unary(op, v) => Link::Unary(op, v),
                    LinkSpec::Softmax(v) => Link::Softmax(v),
                    LinkSpec::Requantise(v, how) => Link::Requantise(v, quantisation(how)?),
                    LinkSpec::Select {
                        mask,
                        divide,
                        modulo,
                        keep,
                        value,
                        other,
                    } => {
                        let mask = Mask {
                            values: typed(values.tensor(mask))?,
                            divide,
                            modulo,
                            keep,
                        };
                        Link::Select(mask, value, number(other)?)
                    }
                    LinkSpec::Dequantise(at, how) => {
                        Link::Dequantise(values.bytes(at)?, quantisation(how)?)
                    }
                    LinkSpec::Binary(op, a, b) => Link::Binary(op, source(a)?, source(b)?),
                })
            })
            .collect::<Result<Vec<_>, OpError>>()?;
        Ok(with(&Chain::new(&links)))
    }

    /// Applies the chain to a tensor of rows of `n` values.
    pub(super) fn apply<'t>(
        &self,
        isa: Isa,
        threads: &Threads,
        n: usize,
        operands: &impl Values<'t>,
        values: &mut [f32],
    ) -> Result<(), OpError> {
        self.resolve(operands, |chain| {
            lemma_kernels::apply(isa, threads, chain, n, values)
        })
    }
}

impl Sink {
    /// The scale and the zero point.
    pub(super) fn resolve<'t>(self, values: &impl Values<'t>) -> Result<Quantisation, OpError> {
        let empty = || OpError::shape("an operand is empty");
        let scale = values.floats(self.scale)?.first().copied();
        let zero = match self.zero {
            Some(at) => widened(values.tensor(at))?.first().copied(),
            None => Some(0),
        };
        Ok(Quantisation {
            scale: scale.ok_or_else(empty)?,
            zero: zero.ok_or_else(empty)?,
            signed: self.to == DType::I8,
        })
    }
}

/// How an operand of dimensions `own` (as many as `out`, 1 where it is repeated) meets the rows of
/// `out`, its last dimension.
pub(super) fn broadcast(at: At, own: &[usize], out: &[usize]) -> Option<Operand> {
    if own.iter().product::<usize>() == 1 {
        return Some(Operand::Scalar(at));
    }
    let (&n, outer) = out.split_last()?;
    let (&last, own) = own.split_last()?;
    // The outer dimensions must be repeated ones, then own ones, then repeated ones again.
    let (mut divide, mut modulo, mut stage) = (1, 1, 0);
    for (&own, &dim) in own.iter().zip(outer).rev() {
        if dim == 1 {
            continue;
        }
        match (own == dim, stage) {
            (false, 0) => divide *= dim,
            (true, 0 | 1) => {
                modulo *= dim;
                stage = 1;
            }
            (false, _) => stage = 2,
            (true, _) => return None,
        }
    }
    let rows: usize = outer.iter().product();
    if stage == 0 {
        // One row for all.
        divide = 1;
    } else if divide == 1 && modulo == rows {
        // As the matrix itself lies.
        modulo = usize::MAX;
    }
    match last {
        _ if last == n => Some(Operand::Rows { at, divide, modulo }),
        1 => Some(Operand::Each { at, divide, modulo }),
        _ => None,
    }
}
