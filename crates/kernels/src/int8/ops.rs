//! Chains of which each link works on the value before it, and at most on one more that is kept beside it: they are
//! applied to a part of a row in one go.

use super::Int8;
use super::quantise::Quantisation;
use crate::chain::{Chain, Link, Source};
use crate::elementwise::{Binary, Unary};
use crate::math;

/// One operation on a value. NaNs of any form may come of it.
#[derive(Clone, Copy)]
pub(super) enum Op<'a> {
    Binary(Binary, Operand<'a>),
    Relu,
    Erf,
    /// Keeps the value as it is for [`Operand::Kept`].
    Keep,
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
    /// The value that was kept last.
    Kept,
}

/// The operations of a chain, if it is of this kind.
pub(super) fn of_chain<'a>(chain: &Chain<'a>) -> Option<Vec<Op<'a>>> {
    let mut known = Known::default();
    known.come_to(chain, 0);
    for (i, link) in chain.links().iter().enumerate() {
        if let Link::Dequantise(values, how) = *link {
            if known
                .waiting
                .replace((i + 1, Operand::Bytes(values, how)))
                .is_some()
            {
                return None;
            }
            continue;
        }
        let op = known.op(link)?;
        known.ops.push(op);
        known.come_to(chain, i + 1);
    }
    known.waiting.is_none().then_some(known.ops)
}

/// What the operations of a chain have come to.
#[derive(Default)]
struct Known<'a> {
    ops: Vec<Op<'a>>,
    /// The value that the next one works on, by its number in the chain.
    current: usize,
    kept: Option<usize>,
    /// A value that is yet to be an operand.
    waiting: Option<(usize, Operand<'a>)>,
}

impl<'a> Known<'a> {
    /// Goes on with a value, and keeps it if a link after the next reads it as well. One that is still needed may have
    /// been kept before: the link that reads it then finds it missing.
    fn come_to(&mut self, chain: &Chain<'a>, value: usize) {
        self.current = value;
        let rest = chain.links().iter().enumerate().skip(value);
        let mut ops = rest.filter(|(_, link)| !matches!(link, Link::Dequantise(..)));
        if let Some((next, _)) = ops.next()
            && chain.is_read_from(next + 1, value)
        {
            self.ops.push(Op::Keep);
            self.kept = Some(value);
        }
    }

    fn op(&mut self, link: &Link<'a>) -> Option<Op<'a>> {
        Some(match *link {
            Link::Unary(Unary::Relu, v) if v == self.current => Op::Relu,
            Link::Unary(Unary::Erf, v) if v == self.current => Op::Erf,
            Link::Requantise(v, how) if v == self.current => Op::Requantise(how),
            Link::Binary(op, a, b) if !matches!(op, Binary::Pow | Binary::Fmod) => {
                let is_current =
                    |s: &Source<'_>| matches!(s, Source::Value(v) if *v == self.current);
                let other = match (is_current(&a), is_current(&b)) {
                    (true, false) => b,
                    (false, true) if op.commutes() => a,
                    _ => return None,
                };
                match (op, self.operand(other)?) {
                    // The same, as the inverse is exact.
                    (Binary::Div, Operand::Scalar(x)) if is_power_of_two(x) => {
                        Op::Binary(Binary::Mul, Operand::Scalar(1.0 / x))
                    }
                    (op, other) => Op::Binary(op, other),
                }
            }
            _ => return None,
        })
    }

    fn operand(&mut self, source: Source<'a>) -> Option<Operand<'a>> {
        Some(match source {
            Source::Scalar(x) => Operand::Scalar(x),
            Source::Rows {
                values, modulo: 1, ..
            } => Operand::Columns(values),
            Source::Rows {
                values,
                divide: 1,
                modulo: usize::MAX,
            } => Operand::Matrix(values),
            Source::Value(v) if self.kept == Some(v) => Operand::Kept,
            Source::Value(v) => self.waiting.take_if(|(value, _)| *value == v)?.1,
            _ => return None,
        })
    }
}

/// Whether `x` is a power of two, of either sign, that has a normal inverse.
fn is_power_of_two(x: f32) -> bool {
    x.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1 && (1e-30..1e30).contains(&x.abs())
}

impl Op<'_> {
    /// Applies the operation to `values`, which lie at `at` in a matrix and begin in column `column`; `kept` are as many.
    #[inline(always)]
    pub(super) fn apply(&self, at: usize, column: usize, kept: &[f32], values: &mut [f32]) {
        match *self {
            Op::Keep => {}
            Op::Erf => {
                for v in values {
                    *v = math::erf(*v);
                }
            }
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
            Op::Binary(Binary::Add, other) => with(other, at, column, kept, values, |v, o| v + o),
            Op::Binary(Binary::Sub, other) => with(other, at, column, kept, values, |v, o| v - o),
            Op::Binary(Binary::Mul, other) => with(other, at, column, kept, values, |v, o| v * o),
            Op::Binary(Binary::Div, other) => with(other, at, column, kept, values, |v, o| v / o),
            Op::Binary(Binary::Max, other) => with(other, at, column, kept, values, math::max),
            Op::Binary(_, other) => with(other, at, column, kept, values, math::min),
        }
    }
}

#[inline(always)]
fn with(
    other: Operand<'_>,
    at: usize,
    column: usize,
    kept: &[f32],
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
        Operand::Kept => zip(values, kept, |&o| o, f),
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
