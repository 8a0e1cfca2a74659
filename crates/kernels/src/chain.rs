//! Elementwise operations one after another, on values that are still in the cache.
//!
//! A chain is applied to finished rows of a matrix: the result of a product, or any tensor. Each
//! of its links is a kernel of its own, applied to a few values at a time; so a chain has the bits
//! of its links applied one by one to whole tensors.

use std::cell::RefCell;

use crate::elementwise::{Binary, Unary, binary, unary_in_place};
use crate::isa::Isa;
use crate::norm::softmax_in_place;

/// Where an operand of a link comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Value 0 is what the chain is applied to, value i what its link i − 1 gave.
    Value(usize),
    /// One number.
    Scalar(f32),
    /// Row r of the matrix meets row `(r ÷ divide) mod modulo` of these values.
    Rows {
        /// Row after row.
        values: &'a [f32],
        /// How many rows of the matrix share one.
        divide: usize,
        /// How many rows there are.
        modulo: usize,
    },
    /// Row r of the matrix meets the one value `(r ÷ divide) mod modulo`.
    Each {
        /// A value for each row.
        values: &'a [f32],
        /// How many rows of the matrix share one.
        divide: usize,
        /// How many values there are.
        modulo: usize,
    },
}

impl<'a> Source<'a> {
    /// The same row for all rows of the matrix: a value for each column.
    #[must_use]
    pub fn columns(values: &'a [f32]) -> Source<'a> {
        Source::Rows {
            values,
            divide: 1,
            modulo: 1,
        }
    }
}

/// One operation of a chain.
#[derive(Clone, Copy, Debug)]
pub enum Link<'a> {
    /// A function of one earlier value.
    Unary(Unary, usize),
    /// A function of two operands.
    Binary(Binary, Source<'a>, Source<'a>),
    /// Softmax of each row of an earlier value.
    Softmax(usize),
}

/// Operations one after another; the result of the last is the chain's.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    links: &'a [Link<'a>],
}

/// Most links of a chain.
pub const MAX_LINKS: usize = 16;

/// Values handled at a time: 2 KiB, so that a few pieces stay in the first-level cache.
const PIECE: usize = 512;

thread_local! {
    /// Values that links give for later ones.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Chain<'a> {
    /// Leaves everything as it is.
    pub const NONE: Chain<'static> = Chain { links: &[] };

    /// A chain of these links.
    ///
    /// # Panics
    /// If there are more than [`MAX_LINKS`], or a link asks for a value that no earlier one gave.
    #[must_use]
    pub fn new(links: &'a [Link<'a>]) -> Chain<'a> {
        assert!(links.len() <= MAX_LINKS, "a chain has {MAX_LINKS} links");
        for (i, link) in links.iter().enumerate() {
            let known = |source: &Source<'_>| !matches!(source, Source::Value(v) if *v > i);
            assert!(
                match link {
                    Link::Unary(_, v) | Link::Softmax(v) => *v <= i,
                    Link::Binary(_, a, b) => known(a) && known(b),
                },
                "link {i} asks for a later value"
            );
        }
        Chain { links }
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether rows have to be whole.
    pub(crate) fn by_rows(&self) -> bool {
        self.links.iter().any(|l| matches!(l, Link::Softmax(_)))
    }

    /// Checks that every operand has what a matrix of `m` rows of `n` values asks of it.
    pub(crate) fn check(&self, what: &str, m: usize, n: usize) {
        let fits = |source: &Source<'_>| match *source {
            Source::Value(_) | Source::Scalar(_) => true,
            Source::Rows {
                values,
                divide,
                modulo,
            } => divide > 0 && modulo > 0 && values.len() >= modulo.min(m.div_ceil(divide)) * n,
            Source::Each {
                values,
                divide,
                modulo,
            } => divide > 0 && modulo > 0 && values.len() >= modulo.min(m.div_ceil(divide)),
        };
        for (i, link) in self.links.iter().enumerate() {
            if let Link::Binary(_, a, b) = link {
                assert!(
                    fits(a) && fits(b),
                    "{what}: an operand of link {i} does not fit {m} × {n} values"
                );
            }
        }
    }

    /// Applies the chain to whole rows of `n` values, the first of them row `first`.
    pub(crate) fn apply(&self, isa: Isa, first: usize, n: usize, values: &mut [f32]) {
        if self.links.is_empty() || n == 0 {
            return;
        }
        if self.by_rows() {
            let size = n;
            for (i, piece) in values.chunks_mut(size).enumerate() {
                self.piece(isa, first + i, 1, n, 0, piece);
            }
        } else if n > PIECE {
            for (i, row) in values.chunks_mut(n).enumerate() {
                self.apply_part(isa, first + i, n, 0, row);
            }
        } else {
            let together = if self.regular() {
                (PIECE / n).max(1)
            } else {
                1
            };
            for (i, piece) in values.chunks_mut(together * n).enumerate() {
                let rows = piece.len() / n;
                self.piece(isa, first + i * together, rows, n, 0, piece);
            }
        }
    }

    /// Applies the chain to a part of row `row`, from column `column` on.
    pub(crate) fn apply_part(
        &self,
        isa: Isa,
        row: usize,
        n: usize,
        column: usize,
        values: &mut [f32],
    ) {
        if self.links.is_empty() {
            return;
        }
        debug_assert!(!self.by_rows());
        for (i, piece) in values.chunks_mut(PIECE).enumerate() {
            self.piece(isa, row, 1, n, column + i * PIECE, piece);
        }
    }

    /// Whether every operand is one row for all, or lies as the matrix does.
    fn regular(&self) -> bool {
        let regular = |source: &Source<'_>| match *source {
            Source::Value(_) | Source::Scalar(_) => true,
            Source::Rows { divide, modulo, .. } => {
                modulo == 1 || (divide == 1 && modulo == usize::MAX)
            }
            Source::Each { .. } => false,
        };
        self.links.iter().all(|link| match link {
            Link::Unary(..) | Link::Softmax(_) => true,
            Link::Binary(_, a, b) => regular(a) && regular(b),
        })
    }

    /// Applies the chain to `rows` rows or to a part of one row, in `values`.
    fn piece(
        &self,
        isa: Isa,
        row: usize,
        rows: usize,
        n: usize,
        column: usize,
        values: &mut [f32],
    ) {
        let len = values.len();
        let last = self.links.len() - 1;
        SCRATCH.with_borrow_mut(|scratch| {
            // A place for what each link but the last gives, and one for an operand.
            let needed = (last + 1) * len;
            if scratch.len() < needed {
                scratch.resize(needed, 0.0);
            }
            for (i, link) in self.links.iter().enumerate() {
                let (before, after) = scratch.split_at_mut(i * len);
                let out = &mut after[..len];
                self.link(isa, link, row, rows, n, column, values, before, out);
            }
            values.copy_from_slice(&scratch[last * len..][..len]);
        });
    }

    #[allow(clippy::too_many_arguments, reason = "one link of one piece")]
    #[inline]
    fn link(
        &self,
        isa: Isa,
        link: &Link<'_>,
        row: usize,
        rows: usize,
        n: usize,
        column: usize,
        start: &[f32],
        before: &[f32],
        out: &mut [f32],
    ) {
        let len = out.len();
        let value = |v: usize| match v {
            0 => start,
            v => &before[(v - 1) * len..][..len],
        };
        match *link {
            Link::Unary(op, v) => {
                out.copy_from_slice(value(v));
                unary_in_place(isa, op, out);
            }
            Link::Softmax(v) => {
                out.copy_from_slice(value(v));
                softmax_in_place(isa, n, out);
            }
            Link::Binary(op, a, b) => {
                let at = Place {
                    row,
                    rows,
                    n,
                    column,
                    len,
                };
                let (mut one, mut two) = ([0.0], [0.0]);
                let a = at.operand(a, &value, &mut one);
                let b = at.operand(b, &value, &mut two);
                binary(isa, op, a, b, out);
            }
        }
    }
}

/// Where a piece lies in its matrix.
struct Place {
    row: usize,
    rows: usize,
    n: usize,
    column: usize,
    len: usize,
}

impl Place {
    /// The operand that this piece meets.
    #[inline]
    fn operand<'v>(
        &self,
        source: Source<'v>,
        value: &impl Fn(usize) -> &'v [f32],
        one: &'v mut [f32; 1],
    ) -> &'v [f32] {
        match source {
            Source::Value(v) => value(v),
            Source::Scalar(scalar) => {
                one[0] = scalar;
                one
            }
            Source::Rows {
                values,
                divide,
                modulo,
            } => {
                let at = (self.row / divide) % modulo * self.n + self.column;
                // One row for all is repeated by the kernel.
                let wanted = if modulo == 1 && self.rows > 1 {
                    self.n
                } else {
                    self.len
                };
                &values[at..at + wanted]
            }
            Source::Each {
                values,
                divide,
                modulo,
            } => {
                let at = (self.row / divide) % modulo;
                &values[at..=at]
            }
        }
    }
}

/// Applies a chain to a tensor of rows of `n` values, on several threads.
///
/// # Panics
/// If the values are no whole number of rows, or an operand of the chain does not fit.
pub fn apply(isa: Isa, threads: &crate::Threads, chain: &Chain<'_>, n: usize, values: &mut [f32]) {
    assert!(
        n > 0 && values.len().is_multiple_of(n),
        "chain: {} values are no rows of {n}",
        values.len()
    );
    chain.check("chain", values.len() / n, n);
    /// Values that are worth a task.
    const TASK: usize = 1 << 14;
    let rows = (TASK / n).max(1);
    threads.chunks(values, rows * n, |i, lines| {
        chain.apply(isa, i * rows, n, lines);
    });
}
