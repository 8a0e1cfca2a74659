//! Chains with their operands by reference.

use lemma_kernels::{Binary, Chain, Isa, Link, Source, Threads, Unary};

use super::At;
use crate::error::OpError;

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
}

impl LinkSpec {
    /// Whether it needs whole rows.
    pub(super) fn by_rows(&self) -> bool {
        matches!(self, LinkSpec::Softmax(_))
    }
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
                LinkSpec::Unary(..) | LinkSpec::Softmax(_) => [None, None],
                LinkSpec::Binary(_, a, b) => [a.at(), b.at()],
            })
            .flatten()
    }

    /// Calls `with` with the chain, its operands found by `values`.
    pub(super) fn resolve<'t, R>(
        &self,
        values: &impl Fn(At) -> Result<&'t [f32], OpError>,
        with: impl FnOnce(&Chain<'_>) -> R,
    ) -> Result<R, OpError> {
        let source = |operand: Operand| -> Result<Source<'t>, OpError> {
            Ok(match operand {
                Operand::Value(v) => Source::Value(v),
                Operand::Scalar(at) => {
                    let first = values(at)?.first().copied();
                    Source::Scalar(first.ok_or_else(|| OpError::shape("an operand is empty"))?)
                }
                Operand::Rows { at, divide, modulo } => Source::Rows {
                    values: values(at)?,
                    divide,
                    modulo,
                },
                Operand::Each { at, divide, modulo } => Source::Each {
                    values: values(at)?,
                    divide,
                    modulo,
                },
            })
        };
        let links = self
            .links
            .iter()
            .map(|link| {
                Ok(match *link {
                    LinkSpec::Unary(op, v) => Link::Unary(op, v),
                    LinkSpec::Softmax(v) => Link::Softmax(v),
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
        operands: &impl Fn(At) -> Result<&'t [f32], OpError>,
        values: &mut [f32],
    ) -> Result<(), OpError> {
        self.resolve(operands, |chain| {
            lemma_kernels::apply(isa, threads, chain, n, values)
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
