//! Elementwise operations one after another, on values that are still in the cache.
//!
//! A chain is applied to finished rows of a matrix: the result of a product, or any tensor. Each
//! of its links is a kernel of its own, applied to a few values at a time; so a chain has the bits
//! of its links applied one by one to whole tensors.

use std::cell::RefCell;
use std::ops::Range;

use crate::elementwise::{Binary, Unary, binary, binary_in_place, unary_in_place};
use crate::int8::{Int8, Quantisation};
use crate::isa::{Isa, Kernel};
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

/// Which values of the matrix a link keeps: those whose element of the mask is `keep`.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// Row after row, as wide as those of the matrix; row r of it meets row `(r ÷ divide) mod modulo`.
    pub values: &'a [bool],
    /// How many rows of the matrix share one.
    pub divide: usize,
    /// How many rows there are.
    pub modulo: usize,
    /// What says that a value is kept.
    pub keep: bool,
}

/// One operation of a chain.
#[derive(Clone, Copy, Debug)]
pub enum Link<'a> {
    /// A function of one earlier value.
    Unary(Unary, usize),
    /// A function of two operands.
    Binary(Binary, Source<'a>, Source<'a>),
    /// An earlier value where a mask says so, one number elsewhere.
    Select(Mask<'a>, usize, f32),
    /// Softmax of each row of an earlier value.
    Softmax(usize),
    /// Numbers that 8-bit integers stand for, which lie as the matrix does.
    Dequantise(Int8<'a>, Quantisation),
    /// An earlier value, quantised and dequantised.
    Requantise(usize, Quantisation),
}

/// Operations one after another; the result of the last is the chain's.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    links: &'a [Link<'a>],
    /// Links that were done elsewhere: what the chain is applied to is their last value.
    done: usize,
}

/// Most links of a chain.
pub const MAX_LINKS: usize = 16;

/// Values handled at a time: 4 KiB, so that a few pieces stay in the first-level cache.
const PIECE: usize = 1024;

thread_local! {
    /// Values that links give for later ones.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Chain<'a> {
    /// Leaves everything as it is.
    pub const NONE: Chain<'static> = Chain {
        links: &[],
        done: 0,
    };

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
                    Link::Unary(_, v)
                    | Link::Select(_, v, _)
                    | Link::Softmax(v)
                    | Link::Requantise(v, _) => *v <= i,
                    Link::Binary(_, a, b) => known(a) && known(b),
                    Link::Dequantise(..) => true,
                },
                "link {i} asks for a later value"
            );
        }
        Chain { links, done: 0 }
    }

    /// The chain after `count` more links, of whose values only the last is read later.
    pub(crate) fn after(&self, count: usize) -> Chain<'a> {
        let done = self.done + count;
        debug_assert!((0..done).all(|value| !self.is_read_from(done, value)));
        Chain { done, ..*self }
    }

    /// The first `count` links.
    pub(crate) fn until(&self, count: usize) -> Chain<'a> {
        let links = &self.links[..count];
        Chain { links, ..*self }
    }

    /// The links that are to be done, which read values by their number in the whole chain.
    pub(crate) fn links(&self) -> &'a [Link<'a>] {
        &self.links[self.done..]
    }

    /// All links, those that were done elsewhere too.
    pub(crate) fn all(&self) -> &'a [Link<'a>] {
        self.links
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links().is_empty()
    }

    /// Whether rows have to be whole.
    pub(crate) fn by_rows(&self) -> bool {
        self.links().iter().any(|l| matches!(l, Link::Softmax(_)))
    }

    /// Checks that every operand has what a matrix of `m` rows of `n` values asks of it.
    pub(crate) fn check(&self, what: &str, m: usize, n: usize) {
        let enough = |len: usize, divide: usize, modulo: usize, width: usize| {
            divide > 0 && modulo > 0 && len >= modulo.min(m.div_ceil(divide)) * width
        };
        let fits = |source: &Source<'_>| match *source {
            Source::Value(_) | Source::Scalar(_) => true,
            Source::Rows {
                values,
                divide,
                modulo,
            } => enough(values.len(), divide, modulo, n),
            Source::Each {
                values,
                divide,
                modulo,
            } => enough(values.len(), divide, modulo, 1),
        };
        for (i, link) in self.links.iter().enumerate() {
            let fits = match link {
                Link::Binary(_, a, b) => fits(a) && fits(b),
                Link::Dequantise(values, _) => values.len() == m * n,
                Link::Select(mask, ..) => enough(mask.values.len(), mask.divide, mask.modulo, n),
                Link::Unary(..) | Link::Softmax(_) | Link::Requantise(..) => true,
            };
            assert!(
                fits,
                "{what}: an operand of link {i} does not fit {m} × {n} values"
            );
        }
    }

    /// Applies the chain to whole rows of `n` values, the first of them row `first`.
    pub(crate) fn apply(&self, isa: Isa, first: usize, n: usize, values: &mut [f32]) {
        if self.is_empty() || n == 0 {
            return;
        }
        if n > PIECE && !self.by_rows() {
            for (i, row) in values.chunks_mut(n).enumerate() {
                self.apply_part(isa, first + i, n, 0, row);
            }
            return;
        }
        let together = if self.regular() {
            (PIECE / n).max(1)
        } else {
            1
        };
        for (i, rows) in values.chunks_mut(together * n).enumerate() {
            let place = Place::whole(first + i * together, rows.len() / n, n);
            self.piece(isa, &place, rows);
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
        if self.is_empty() {
            return;
        }
        debug_assert!(!self.by_rows());
        for (i, values) in values.chunks_mut(PIECE).enumerate() {
            let place = Place {
                column: column + i * PIECE,
                width: values.len(),
                ..Place::whole(row, 1, n)
            };
            self.piece(isa, &place, values);
        }
    }

    /// Applies the chain to some columns of some rows; `line` gives that part of a row.
    pub(crate) fn apply_block<'l>(
        &self,
        isa: Isa,
        rows: Range<usize>,
        n: usize,
        columns: Range<usize>,
        line: impl Fn(usize) -> &'l mut [f32],
    ) {
        let width = columns.len();
        let together = PIECE / width.max(1);
        if together < 2 || self.is_empty() || !self.by_columns() {
            return rows.for_each(|row| self.apply_part(isa, row, n, columns.start, line(row)));
        }
        // So short lines are brought together: to copy them costs less than to begin with each of them anew.
        let mut piece = [0.0; PIECE];
        for first in rows.clone().step_by(together) {
            let rows = first..rows.end.min(first + together);
            let piece = &mut piece[..rows.len() * width];
            for (row, values) in rows.clone().zip(piece.chunks_exact_mut(width)) {
                values.copy_from_slice(line(row));
            }
            let place = Place {
                column: columns.start,
                width,
                ..Place::whole(first, rows.len(), n)
            };
            self.piece(isa, &place, piece);
            for (row, values) in rows.zip(piece.chunks_exact(width)) {
                line(row).copy_from_slice(values);
            }
        }
    }

    /// Whether every operand is one row for all, or one value.
    fn by_columns(&self) -> bool {
        let one = |source: &Source<'_>| match *source {
            Source::Value(_) | Source::Scalar(_) => true,
            Source::Rows { modulo, .. } | Source::Each { modulo, .. } => modulo == 1,
        };
        self.links().iter().all(|link| match link {
            Link::Binary(_, a, b) => one(a) && one(b),
            Link::Unary(..) | Link::Select(..) | Link::Requantise(..) => true,
            Link::Softmax(_) | Link::Dequantise(..) => false,
        })
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
        self.links().iter().all(|link| match link {
            Link::Binary(_, a, b) => regular(a) && regular(b),
            _ => true,
        })
    }

    /// Applies the chain to a piece of the matrix, in `values`.
    fn piece(&self, isa: Isa, at: &Place, values: &mut [f32]) {
        let len = values.len();
        SCRATCH.with_borrow_mut(|scratch| {
            let needed = self.links().len() * len;
            if scratch.len() < needed {
                scratch.resize(needed, 0.0);
            }
            // Place 0 is the piece itself, the others are free at first.
            let mut places: [&mut [f32]; MAX_LINKS + 1] =
                std::array::from_fn(|_| Default::default());
            for (place, free) in places[1..].iter_mut().zip(scratch.chunks_exact_mut(len)) {
                *place = free;
            }
            places[0] = values;
            // Where each value is, and the next free place.
            let (mut place_of, mut free) = ([0; MAX_LINKS + 1], 1);
            let mut i = self.done;
            while let Some(link) = self.links.get(i) {
                if let Some(found) = self.activation(i) {
                    let at = place_of[found.of];
                    found.activation.apply(isa, places[at]);
                    i += found.links;
                    place_of[i] = at;
                    continue;
                }
                let from = link.main().map(|value| place_of[value]);
                let taken = link.main().is_some_and(|value| self.is_last_read(i, value));
                let to = match from {
                    Some(from) if taken => from,
                    _ => {
                        free += 1;
                        free - 1
                    }
                };
                let out = std::mem::take(&mut places[to]);
                if let Some(from) = from.filter(|&from| from != to) {
                    out.copy_from_slice(places[from]);
                }
                link.apply(isa, at, out, |value| &places[place_of[value]][..]);
                places[to] = out;
                i += 1;
                place_of[i] = to;
            }
            let result = place_of[self.links.len()];
            if result != 0 {
                let (piece, others) = places.split_at_mut(1);
                piece[0].copy_from_slice(others[result - 1]);
            }
        });
    }

    /// Whether nobody but link `i`, and it only once, reads a value from there on.
    fn is_last_read(&self, i: usize, value: usize) -> bool {
        let reads = self.links[i..].iter().map(|link| link.reads(value));
        reads.sum::<usize>() == 1
    }

    /// Whether link `i` or a later one reads a value.
    pub(crate) fn is_read_from(&self, i: usize, value: usize) -> bool {
        self.links[i..].iter().any(|link| link.reads(value) > 0)
    }
}

impl Link<'_> {
    /// How often the link reads a value.
    fn reads(&self, value: usize) -> usize {
        let read = |source: &Source<'_>| match source {
            Source::Value(v) => usize::from(*v == value),
            _ => 0,
        };
        match self {
            Link::Unary(_, v)
            | Link::Select(_, v, _)
            | Link::Softmax(v)
            | Link::Requantise(v, _) => usize::from(*v == value),
            Link::Binary(_, a, b) => read(a) + read(b),
            Link::Dequantise(..) => 0,
        }
    }

    /// The value that the result can take the place of, if the link has one.
    fn main(&self) -> Option<usize> {
        match *self {
            Link::Unary(_, v)
            | Link::Select(_, v, _)
            | Link::Softmax(v)
            | Link::Requantise(v, _) => Some(v),
            Link::Binary(_, Source::Value(v), _) | Link::Binary(_, _, Source::Value(v)) => Some(v),
            Link::Binary(..) | Link::Dequantise(..) => None,
        }
    }

    /// Computes the link in `out`, which holds its main value.
    #[inline]
    fn apply<'v>(&self, isa: Isa, at: &Place, out: &mut [f32], value: impl Fn(usize) -> &'v [f32]) {
        match *self {
            Link::Unary(op, _) => unary_in_place(isa, op, out),
            Link::Softmax(_) => softmax_in_place(isa, at.n, out),
            Link::Select(mask, _, other) => {
                for (i, out) in out.chunks_exact_mut(at.width).enumerate() {
                    let row = ((at.row + i) / mask.divide) % mask.modulo;
                    let (keep, start) = (mask.keep, row * at.n + at.column);
                    let mask = &mask.values[start..start + at.width];
                    isa.run(Select {
                        mask,
                        keep,
                        other,
                        out,
                    });
                }
            }
            Link::Dequantise(values, how) => {
                let start = at.row * at.n + at.column;
                let values = values.part(start..start + out.len());
                isa.run(Dequantise { values, how, out });
            }
            Link::Requantise(_, how) => isa.run(Requantise { how, out }),
            Link::Binary(op, a, b) => {
                let (mut one, mut two) = ([0.0], [0.0]);
                match (a, b) {
                    (Source::Value(_), b) => {
                        let other = at.operand(b, &value, &mut one);
                        binary_in_place(isa, op, out, other, false);
                    }
                    (a, Source::Value(_)) => {
                        let other = at.operand(a, &value, &mut one);
                        binary_in_place(isa, op, out, other, true);
                    }
                    (a, b) => {
                        let a = at.operand(a, &value, &mut one);
                        let b = at.operand(b, &value, &mut two);
                        binary(isa, op, a, b, out);
                    }
                }
            }
        }
    }
}

struct Select<'a> {
    mask: &'a [bool],
    keep: bool,
    other: f32,
    out: &'a mut [f32],
}

impl Kernel for Select<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (v, &mask) in self.out.iter_mut().zip(self.mask) {
            *v = if mask == self.keep { *v } else { self.other };
        }
    }
}

struct Dequantise<'a> {
    values: Int8<'a>,
    how: Quantisation,
    out: &'a mut [f32],
}

impl Kernel for Dequantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.how.values(self.values, self.out);
    }
}

struct Requantise<'a> {
    how: Quantisation,
    out: &'a mut [f32],
}

impl Kernel for Requantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for v in self.out {
            *v = self.how.again(*v);
        }
    }
}

/// Where a piece lies in its matrix of rows of `n` values: whole rows, or some columns of them.
struct Place {
    row: usize,
    rows: usize,
    n: usize,
    column: usize,
    width: usize,
}

impl Place {
    fn whole(row: usize, rows: usize, n: usize) -> Place {
        Place {
            row,
            rows,
            n,
            column: 0,
            width: n,
        }
    }

    /// The operand that this piece meets.
    #[inline]
    fn operand<'r, 's: 'r, 'v: 'r>(
        &self,
        source: Source<'s>,
        value: &impl Fn(usize) -> &'v [f32],
        one: &'r mut [f32; 1],
    ) -> &'r [f32] {
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
                let wanted = if modulo == 1 {
                    self.width
                } else {
                    self.rows * self.width
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
