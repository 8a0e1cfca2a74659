//! Outputs of a convolution that are taken for one of as many times the channels.
//!
//! Where the channels of each output fill no whole panels of columns, but those of two or four outputs beside each other
//! do, nothing is left over of a panel if these are taken for one: of the matrix of results, rows that follow each other
//! become one row, and what is known of each column is repeated.

use crate::chain::{Chain, Link, Source};
use crate::int8::pack::COLUMNS;

/// How many rows of `n` columns are whole panels together: 1, 2 or 4, or else 1.
pub(super) fn rows_of_panels(n: usize) -> usize {
    let whole = |rows: &usize| (rows * n).is_multiple_of(COLUMNS);
    [1, 2, 4].into_iter().find(whole).unwrap_or(1)
}

/// Whether the operands of a chain lie as the matrix does, or are one row for all.
pub(super) fn repeats(chain: &Chain<'_>) -> bool {
    let fits = |source: &Source<'_>| match *source {
        Source::Value(_) | Source::Scalar(_) => true,
        Source::Rows { divide, modulo, .. } => modulo == 1 || (divide, modulo) == (1, usize::MAX),
        Source::Each { .. } => false,
    };
    chain.links().len() == chain.all().len()
        && chain.links().iter().all(|link| match link {
            Link::Binary(_, a, b) => fits(a) && fits(b),
            Link::Unary(..) | Link::Dequantise(..) | Link::Requantise(..) => true,
            Link::Softmax(_) | Link::Select(..) => false,
        })
}

/// Calls `with` with a chain for rows that are `fold` rows of `n` columns, one after another.
pub(super) fn repeated<R>(
    chain: &Chain<'_>,
    n: usize,
    fold: usize,
    with: impl FnOnce(&Chain<'_>) -> R,
) -> R {
    if fold == 1 {
        return with(chain);
    }
    let columns = |source: &Source<'_>| match *source {
        Source::Rows {
            values, modulo: 1, ..
        } => values[..n].repeat(fold),
        _ => Vec::new(),
    };
    let rows: Vec<[Vec<f32>; 2]> = (chain.links().iter())
        .map(|link| match link {
            Link::Binary(_, a, b) => [columns(a), columns(b)],
            _ => Default::default(),
        })
        .collect();
    fn of<'a>(source: Source<'a>, columns: &'a [f32]) -> Source<'a> {
        match columns {
            [] => source,
            columns => Source::columns(columns),
        }
    }
    let links: Vec<Link<'_>> = (chain.links().iter().zip(&rows))
        .map(|(link, [first, second])| match *link {
            Link::Binary(op, a, b) => Link::Binary(op, of(a, first), of(b, second)),
            link => link,
        })
        .collect();
    with(&Chain::new(&links))
}
