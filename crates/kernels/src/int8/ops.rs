//! Chains of which each link works on the value before it: they are applied to a part of a row in one go.

use super::Int8;
use super::finish::Quantisation;
use crate::chain::{Chain, Link, Source};
use crate::elementwise::{Binary, Unary};
use crate::math;

/// One operation on a value. NaNs of any form may come of it.
#[derive(Clone, Copy)]
pub(super) enum Op<'a> {
    Binary(Binary, Operand<'a>),
    Relu,
    Requantise(Quantisation),
}

/// The other operand.
#[derive(Clone, Copy)]
pub(super) enum Operand<'a> {
    Scalar(f32),
    /// One for each column.
    Columns(&'a [f32]),
    /// As the result lies.
    Matrix(&'a [f32]),
    /// 8-bit integers, as the result lies.
    Bytes(Int8<'a>, Quantisation),
}

/// The operations of a chain, if it is of this kind.
pub(super) fn of_chain<'a>(chain: &Chain<'a>) -> Option<Vec<Op<'a>>> {
    let mut ops = Vec::new();
    // Which value the operations have come to, and what waits for being an operand.
    let mut current = 0;
    let mut waiting: Option<(usize, Operand<'a>)> = None;
    for (i, link) in chain.links().iter().enumerate() {
        let op = match *link {
            Link::Dequantise(values, how) => {
                if waiting
                    .replace((i + 1, Operand::Bytes(values, how)))
                    .is_some()
                {
                    return None;
                }
                continue;
            }
            Link::Unary(Unary::Relu, v) if v == current => Op::Relu,
            Link::Requantise(v, how) if v == current => Op::Requantise(how),
            Link::Binary(op, a, b) => {
                let is_current = |s: &Source<'_>| matches!(s, Source::Value(v) if *v == current);
                let turned = matches!(op, Binary::Add | Binary::Mul | Binary::Max | Binary::Min);
                let other = match (is_current(&a), is_current(&b)) {
                    (true, false) => b,
                    (false, true) if turned => a,
                    _ => return None,
                };
                let other = match other {
                    Source::Scalar(x) => Operand::Scalar(x),
                    Source::Rows {
                        values, modulo: 1, ..
                    } => Operand::Columns(values),
                    Source::Rows {
                        values,
                        divide: 1,
                        modulo: usize::MAX,
                    } => Operand::Matrix(values),
                    Source::Value(v) => match waiting.take() {
                        Some((value, operand)) if value == v => operand,
                        _ => return None,
                    },
                    _ => return None,
                };
                if matches!(op, Binary::Pow | Binary::Fmod) {
                    return None;
                }
                Op::Binary(op, other)
            }
            _ => return None,
        };
        ops.push(op);
        current = i + 1;
    }
    waiting.is_none().then_some(ops)
}

impl Op<'_> {
    /// Applies the operation to `values`, which lie at `at` in a matrix and begin in column `column`.
    #[inline(always)]
    pub(super) fn apply(&self, at: usize, column: usize, values: &mut [f32]) {
        match *self {
            Op::Relu => {
                for v in values {
                    *v = if *v <= 0.0 { 0.0 } else { *v };
                }
            }
            Op::Requantise(how) => {
                for v in values {
                    *v = how.round(*v) * how.scale;
                }
            }
            Op::Binary(Binary::Add, other) => with(other, at, column, values, |v, o| v + o),
            Op::Binary(Binary::Sub, other) => with(other, at, column, values, |v, o| v - o),
            Op::Binary(Binary::Mul, other) => with(other, at, column, values, |v, o| v * o),
            Op::Binary(Binary::Div, other) => with(other, at, column, values, |v, o| v / o),
            Op::Binary(Binary::Max, other) => with(other, at, column, values, math::max),
            Op::Binary(_, other) => with(other, at, column, values, math::min),
        }
    }
}

#[inline(always)]
fn with(
    other: Operand<'_>,
    at: usize,
    column: usize,
    values: &mut [f32],
    f: impl Fn(f32, f32) -> f32,
) {
    let len = values.len();
    match other {
        Operand::Scalar(o) => {
            for v in values {
                *v = f(*v, o);
            }
        }
        Operand::Columns(others) => zip(values, &others[column..column + len], |&o| o, f),
        Operand::Matrix(others) => zip(values, &others[at..at + len], |&o| o, f),
        Operand::Bytes(Int8::Unsigned(others), how) => {
            zip(values, &others[at..at + len], |&o| how.value(o.into()), f);
        }
        Operand::Bytes(Int8::Signed(others), how) => {
            zip(values, &others[at..at + len], |&o| how.value(o.into()), f);
        }
    }
}

#[inline(always)]
fn zip<T>(
    values: &mut [f32],
    others: &[T],
    widen: impl Fn(&T) -> f32,
    f: impl Fn(f32, f32) -> f32,
) {
    for (v, o) in values.iter_mut().zip(others) {
        *v = f(*v, widen(o));
    }
}
