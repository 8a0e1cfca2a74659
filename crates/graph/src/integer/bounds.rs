//! Interval analysis: what every sum can be at most, from the ranges of inputs and tables and the
//! actual constants. A graph in which a sum could leave its range is refused here, so that neither
//! the executor nor a proof, whose arithmetic is modulo a prime, ever meets an overflow.

use std::borrow::Cow;

use super::execute::split_axes;
use super::{
    Expression, IntegerError, Relation, Skeleton, Source, Table, TensorRange, Term, VALUE_BITS,
    View,
};

/// An interval of integers, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Interval {
    pub(super) fn new(low: i64, high: i64) -> Interval {
        Interval { low, high }
    }

    fn hull(self, value: i64) -> Interval {
        Interval::new(self.low.min(value), self.high.max(value))
    }

    fn of(values: impl IntoIterator<Item = i64>) -> Interval {
        let mut values = values.into_iter();
        let first = values.next().unwrap_or(0);
        values.fold(Interval::new(first, first), Interval::hull)
    }

    fn scaled(self, by: i64) -> Interval {
        let ends = [self.low, self.high].map(|e| e.saturating_mul(by));
        Interval::of(ends)
    }

    fn plus(self, other: Interval) -> Interval {
        Interval::new(
            self.low.saturating_add(other.low),
            self.high.saturating_add(other.high),
        )
    }

    fn product(self, other: Interval) -> Interval {
        let ends = [self.low, self.high]
            .into_iter()
            .flat_map(|a| [a.saturating_mul(other.low), a.saturating_mul(other.high)]);
        Interval::of(ends)
    }
}

/// Checks every sum of a graph whose parts fit together.
pub(super) fn check(skeleton: &Skeleton, constants: &[Vec<i32>]) -> Result<(), IntegerError> {
    for node in &skeleton.nodes {
        let table: &Table = &skeleton.tables[node.table];
        let floor = -i64::from(node.offset);
        let ceiling = floor + (1i64 << (node.shift + table.bits())) - 1;
        let sum = expression(&node.expression, skeleton, constants, &node.label)?;
        within(&node.label, sum, floor, ceiling)?;
    }
    for (port, output) in &skeleton.outputs {
        let sum = expression(output, skeleton, constants, &port.name)?;
        let most = (1 << VALUE_BITS) - 1;
        within(&port.name, sum, -most, most)?;
    }
    Ok(())
}

fn within(place: &str, sum: Interval, floor: i64, ceiling: i64) -> Result<(), IntegerError> {
    if sum.low >= floor && sum.high <= ceiling {
        return Ok(());
    }
    Err(IntegerError::Overflow {
        place: place.to_owned(),
        low: sum.low,
        high: sum.high,
        floor,
        ceiling,
    })
}

/// The interval of an expression.
///
/// # Errors
/// When the sum of products of one term could leave 31 bits by itself.
pub(super) fn expression(
    expression: &Expression,
    skeleton: &Skeleton,
    constants: &[Vec<i32>],
    place: &str,
) -> Result<Interval, IntegerError> {
    let mut total = Interval::new(0, 0);
    for term in &expression.terms {
        let sum = match term {
            Term::Linear { view, .. } => linear(view, &expression.shape, skeleton, constants),
            Term::Product {
                left,
                right,
                contracted,
                ..
            } => {
                let axes = [&expression.shape[..], contracted].concat();
                product(
                    left,
                    right,
                    &axes,
                    expression.shape.len(),
                    skeleton,
                    constants,
                )
            }
        };
        within(place, sum, -i64::from(i32::MAX), i64::from(i32::MAX))?;
        total = total.plus(sum.scaled(i64::from(term.coefficient())));
    }
    Ok(total)
}

/// Fewest and most elements that an index of a view sums over.
fn multiplicity(view: &View, axes: &[usize]) -> Interval {
    view.factors
        .iter()
        .fold(Interval::new(1, 1), |total, factor| {
            let Relation::Pairs(pairs) = &factor.relation else {
                return total;
            };
            let rows: usize = factor.axes.iter().map(|&a| axes[a]).product();
            let mut counts = vec![0i64; rows];
            for &(row, _) in pairs {
                counts[row as usize] += 1;
            }
            let counts = Interval::of(counts);
            Interval::new(
                total.low.saturating_mul(counts.low),
                total.high.saturating_mul(counts.high),
            )
        })
}

fn ranged(view: &View, axes: &[usize], range: &TensorRange) -> Interval {
    let count = multiplicity(view, axes);
    Interval::new(i64::from(range.low), i64::from(range.high)).product(count)
}

fn shown<'v>(
    view: &View,
    axes: &[usize],
    over: &[usize],
    skeleton: &Skeleton,
    values: &'v [i32],
) -> Cow<'v, [i32]> {
    view.gather(values, skeleton.shape(view.source), axes, over)
}

fn linear(view: &View, axes: &[usize], skeleton: &Skeleton, constants: &[Vec<i32>]) -> Interval {
    match view.source {
        Source::Constant(i) => {
            let over: Vec<usize> = (0..axes.len()).filter(|&a| view.covers(a)).collect();
            let values = shown(view, axes, &over, skeleton, &constants[i]);
            Interval::of(values.iter().copied().map(i64::from))
        }
        source => ranged(view, axes, &skeleton.source(source)),
    }
}

fn product(
    left: &View,
    right: &View,
    axes: &[usize],
    rank: usize,
    skeleton: &Skeleton,
    constants: &[Vec<i32>],
) -> Interval {
    let (known, index, other) = match (left.source, right.source) {
        (Source::Constant(i), _) => (left, i, right),
        (_, Source::Constant(i)) => (right, i, left),
        _ => {
            let terms: usize = axes[rank..].iter().product();
            return ranged(left, axes, &skeleton.source(left.source))
                .product(ranged(right, axes, &skeleton.source(right.source)))
                .hull(0)
                .scaled(terms as i64);
        }
    };
    let split = split_axes(left, right, rank, axes.len());
    let mine = if known == left {
        &split.left
    } else {
        &split.right
    };
    let over: Vec<usize> = [&split.batch, mine, &split.contracted]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    let values = shown(known, axes, &over, skeleton, &constants[index]);
    let range = ranged(other, axes, &skeleton.source(other.source)).hull(0);
    let terms: usize = axes[rank..].iter().product();
    values
        .chunks(terms.max(1))
        .map(|row| {
            row.iter().fold(Interval::new(0, 0), |sum, &w| {
                sum.plus(range.scaled(i64::from(w)))
            })
        })
        .reduce(|a, b| a.hull(b.low).hull(b.high))
        .unwrap_or(Interval::new(0, 0))
}
