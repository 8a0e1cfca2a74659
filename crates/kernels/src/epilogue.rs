//! What a kernel does to its sums before it stores them: the beginning of a chain, as far as registers serve for it.

use crate::chain::{Chain, Link, Source};
use crate::elementwise::{Binary, Unary};

/// Operations on the results of a product, in this order: a value for each column is added, a matrix is added, the sum
/// is bounded. Where one is not wanted, −0 is added or the bound is infinite, which leaves every value as it is.
///
/// Kernels make NaN canonical once, before the bounds: all that comes before hands NaN on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<'a> {
    /// A value for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// A matrix that lies as the result does.
    pub(crate) addend: Option<&'a [f32]>,
    /// Never NaN and never −0: so of `x` and `low` a machine's maximum that prefers `low` is the larger.
    pub(crate) low: f32,
    /// Never NaN and never +0.
    pub(crate) high: f32,
}

/// What an epilogue has come to, so that each operation has its turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Sum,
    Biased,
    Added,
    Raised,
    Bounded,
}

impl<'a> Epilogue<'a> {
    /// Leaves everything as it is.
    pub(crate) const NONE: Epilogue<'static> = Epilogue {
        bias: None,
        addend: None,
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
    };

    /// The part of it for a result's part that begins at a row and a column, of `n` columns.
    pub(crate) fn part(&self, row: usize, column: usize, n: usize) -> Epilogue<'a> {
        Epilogue {
            bias: self.bias.map(|bias| &bias[column..]),
            addend: self.addend.map(|addend| &addend[row * n + column..]),
            ..*self
        }
    }

    /// Takes in the first links of a chain, at most so many of them; gives how many it took.
    pub(crate) fn of(links: &[Link<'a>]) -> (Epilogue<'a>, usize) {
        let (mut epilogue, mut stage) = (Epilogue::NONE, Stage::Sum);
        for (i, link) in links.iter().enumerate() {
            match epilogue.take(link, i, stage) {
                Some(next) => stage = next,
                None => return (epilogue, i),
            }
        }
        (epilogue, links.len())
    }

    /// Takes in a link of value `main`, if its turn is not over.
    fn take(&mut self, link: &Link<'a>, main: usize, stage: Stage) -> Option<Stage> {
        let (op, other) = match *link {
            Link::Unary(Unary::Relu, v) if v == main => (Binary::Max, Source::Scalar(0.0)),
            Link::Unary(Unary::Clip { min, max }, v) if v == main => {
                let clipped = stage < Stage::Raised && is_low(min) && is_high(max);
                return clipped.then(|| {
                    (self.low, self.high) = (min, max);
                    Stage::Bounded
                });
            }
            Link::Binary(op, Source::Value(v), other) if v == main => (op, other),
            Link::Binary(op, other, Source::Value(v)) if v == main && op.commutes() => (op, other),
            _ => return None,
        };
        match (op, other) {
            (
                Binary::Add,
                Source::Rows {
                    values, modulo: 1, ..
                },
            ) if stage < Stage::Biased => {
                self.bias = Some(values);
                Some(Stage::Biased)
            }
            (
                Binary::Add,
                Source::Rows {
                    values,
                    divide: 1,
                    modulo: usize::MAX,
                },
            ) if stage < Stage::Added => {
                self.addend = Some(values);
                Some(Stage::Added)
            }
            (Binary::Max, Source::Scalar(low)) if stage < Stage::Raised && is_low(low) => {
                self.low = low;
                Some(Stage::Raised)
            }
            (Binary::Min, Source::Scalar(high)) if stage < Stage::Bounded && is_high(high) => {
                self.high = high;
                Some(Stage::Bounded)
            }
            _ => None,
        }
    }
}

fn is_low(x: f32) -> bool {
    !x.is_nan() && x.to_bits() != (-0.0f32).to_bits()
}

fn is_high(x: f32) -> bool {
    !x.is_nan() && x.to_bits() != 0
}

impl<'a> Chain<'a> {
    /// The epilogue that the chain begins with, and the links that are left.
    pub(crate) fn split(&self) -> (Epilogue<'a>, Chain<'a>) {
        let (mut epilogue, mut taken) = Epilogue::of(self.links());
        // Nobody may ask for a value that never is in memory.
        while let Some(inner) = taken.checked_sub(1)
            && (0..=inner).any(|value| self.is_read_from(taken, value))
        {
            (epilogue, taken) = Epilogue::of(&self.links()[..inner]);
        }
        (epilogue, self.after(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: [f32; 4] = [1.0; 4];

    fn bias() -> Source<'static> {
        Source::columns(&MATRIX)
    }

    fn matrix() -> Source<'static> {
        Source::Rows {
            values: &MATRIX,
            divide: 1,
            modulo: usize::MAX,
        }
    }

    fn taken(links: &[Link<'_>]) -> (usize, bool, bool, [f32; 2]) {
        let (e, rest) = Chain::new(links).split();
        let left = rest.links().len();
        (
            links.len() - left,
            e.bias.is_some(),
            e.addend.is_some(),
            [e.low, e.high],
        )
    }

    #[test]
    fn a_residual_block_is_taken_whole() {
        let links = [
            Link::Binary(Binary::Add, Source::Value(0), bias()),
            Link::Binary(Binary::Add, matrix(), Source::Value(1)),
            Link::Unary(Unary::Relu, 2),
        ];
        assert_eq!(taken(&links), (3, true, true, [0.0, f32::INFINITY]));
    }

    #[test]
    fn bounds_are_taken_once_and_in_order() {
        let low = Link::Binary(Binary::Max, Source::Value(0), Source::Scalar(0.0));
        let high = Link::Binary(Binary::Min, Source::Scalar(6.0), Source::Value(1));
        let again = Link::Binary(Binary::Max, Source::Value(2), Source::Scalar(1.0));
        assert_eq!(taken(&[low, high, again]), (2, false, false, [0.0, 6.0]));
        let clip = Link::Unary(Unary::Clip { min: 0.0, max: 6.0 }, 0);
        assert_eq!(taken(&[clip]), (1, false, false, [0.0, 6.0]));
    }

    #[test]
    fn bounds_that_a_machine_takes_for_others_stay() {
        for (op, bound) in [
            (Binary::Max, -0.0),
            (Binary::Max, f32::NAN),
            (Binary::Min, 0.0),
            (Binary::Min, f32::NAN),
        ] {
            let link = Link::Binary(op, Source::Value(0), Source::Scalar(bound));
            assert_eq!(taken(&[link]).0, 0, "{op:?} with {bound}");
        }
    }

    #[test]
    fn what_is_read_again_stays() {
        // x + b, its sigmoid, the product of both: the sum is the first value in memory.
        let silu = [
            Link::Binary(Binary::Add, Source::Value(0), bias()),
            Link::Unary(Unary::Sigmoid, 1),
            Link::Binary(Binary::Mul, Source::Value(1), Source::Value(2)),
        ];
        assert_eq!(taken(&silu).0, 1);
        let twice = [
            Link::Binary(Binary::Add, Source::Value(0), bias()),
            Link::Unary(Unary::Relu, 1),
            Link::Binary(Binary::Mul, Source::Value(1), Source::Value(2)),
        ];
        assert_eq!(taken(&twice).0, 1);
        let sums = [
            Link::Binary(Binary::Add, Source::Value(0), bias()),
            Link::Binary(Binary::Mul, Source::Value(0), Source::Value(1)),
        ];
        assert_eq!(taken(&sums).0, 0);
    }
}
