//! Chains from sums to 8-bit integers as fixed-point arithmetic.
//!
//! Most chains scale the sums of a column, add a bias and quantise; some then add 8-bit integers of another scale, or a
//! number for each column, and quantise again. What they come to is defined by roundings to f32, of which the last is that of a quotient:
//!
//! ```text
//! round(((sum × scale) + bias) ÷ step) + zero
//! ```
//!
//! The fewest instructions for it are one fused multiply-add and a conversion,
//!
//! ```text
//! floor(sum × (scale ÷ step) + (bias ÷ step + zero + ½))
//! ```
//!
//! and the two differ only where what is rounded down is next to an integer. So the fused form is computed with 16 bits
//! after the point. Where these are neither near 0 nor near 1, nearer than both roundings together can err, the result is
//! known; else the chain is carried out as it is defined. A sum too large for 16 bits before the point becomes a number with
//! no bits after it, which is near.
//!
//! # How near
//!
//! With ε = 2⁻²⁴ for one rounding, t for the exact quotient, and B for the largest |bias ÷ step|: the defined value errs by
//! at most ε(|t| + B) in the product, ε|t| in the sum and ε|t| in the quotient; the fused one by ε(|t| + B) in the scale,
//! ε(B + 256) in what is added, ε(|t| + 256) in the sum, and by 2⁻¹⁷ as an integer. Beyond |t| = 257 both are beyond the ends
//! of 8 bits. That is ε(1797 + 3B) + 2⁻¹⁷, and a little for the errors of errors.
//!
//! With 8-bit integers that are added, A = 255 · scale ÷ step of those before them, and C theirs, the defined value errs by
//! ε(A + C) in the two products and 2ε|t| after them; the fused one by ε(A + C) in the scales, ε(C + 256) in what is added,
//! and ε(C + 256) and ε(|t| + 256) in the sums: by ε(2A + 4C + 1539) + 2⁻¹⁷. With a number for each column instead, C the
//! largest |number ÷ step|, they err by εA and 2ε|t|, and by εA, ε(C + 256) and ε(|t| + 256): by less than that with C once.
//!
//! Before a unit as in [`gelu`], what it is applied to is no fixed point but x itself. In x both together err by ε(A + B + 3|x|),
//! and the unit, which is nowhere steeper than 1.13, makes no more than 1.13 times that of it. The defined unit errs by 3ε
//! in 1 + erf, which is ½ · 3ε|x|, and 2ε|t| after it; the other one by 7ε in its polynomials, by ε(|t| + 256) in what
//! it adds to x and in each of the two sums, and by ε|t| in the scale. |x| matters only up to 306 steps, where all is cut
//! off, and up to the end of the polynomials, beyond which nothing is left of either: with X for the larger of the two,
//! in steps, and S for 1 ÷ step, that is ε(1.13 (A + B) + 4.9 X + 2056 + 7 S) + 2⁻¹⁷.

use super::Int8;
use super::finish::To;
use super::gelu;
use super::ops::{Op, Operand};
use super::pack::COLUMNS;
use super::quantise::Quantisation;
use crate::elementwise::Binary;
use crate::isa::{Isa, Kernel};

/// 1 with 16 bits after the point.
const ONE: f64 = 65_536.0;

/// Largest |bias ÷ step| and |scale ÷ step|: with larger ones, much would be near an integer.
const LARGEST: f64 = 4096.0;

/// Quotients with these steps neither overflow nor vanish.
const ORDINARY: std::ops::Range<f32> = 1e-30..1e30;

/// A chain from sums to 8-bit integers.
pub(super) struct Fixed<'a> {
    /// What the sums of each column are multiplied by, and what is added to that; of columns up to a whole panel, what leaves
    /// no doubt.
    pub(super) by: Vec<f32>,
    pub(super) more: Vec<f32>,
    pub(super) added: Option<Added<'a>>,
    pub(super) unit: Option<Unit>,
    /// In steps of 2⁻¹⁶, how near to an integer nothing is known.
    pub(super) near: u16,
    /// The least byte of the result, before bits of it are flipped: integers with a sign are 128 higher until then.
    pub(super) least: u8,
    pub(super) flip: u8,
}

/// What is added to 8-bit integers.
pub(super) struct Added<'a> {
    /// The ends of those integers, and what each is multiplied by.
    pub(super) ends: [i32; 2],
    pub(super) before: f32,
    pub(super) other: Other<'a>,
}

/// What is added.
pub(super) enum Other<'a> {
    /// 8-bit integers as the result lies, each multiplied by a number, and another number.
    Bytes { x: Int8<'a>, by: f32, more: f32 },
    /// A number for each column, up to a whole panel.
    Columns(Vec<f32>),
}

impl<'a> Fixed<'a> {
    /// The chain of `ops` to 8-bit integers, if it is of this kind.
    pub(super) fn of(isa: Isa, ops: &[Op<'a>], to: &To<'_>) -> Option<Fixed<'a>> {
        let (To::Unsigned(_, end) | To::Signed(_, end)) = to else {
            return None;
        };
        let (ops, cut) = match ops {
            [ops @ .., Op::Relu] => (ops, true),
            _ => (ops, false),
        };
        let (ops, unit) = match gelu::before(ops) {
            Some(ops) => (ops, Some(Unit::of(*end)?)),
            None => (ops, None),
        };
        let [Op::Binary(Binary::Mul, Operand::Columns(scale)), ops @ ..] = ops else {
            return None;
        };
        let (bias, ops): (&[f32], _) = match ops {
            [Op::Binary(Binary::Add, Operand::Columns(bias)), ops @ ..] => (bias, ops),
            _ => (&[], ops),
        };
        let last = match unit {
            Some(_) => Steps::of_numbers(*end),
            None => Steps::of(*end, true),
        };
        let (first, added) = match *ops {
            [] => (last, None),
            [Op::Requantise(first), ref rest @ ..] => {
                let other = match (rest, &unit) {
                    ([Op::Binary(Binary::Add, other @ Operand::Columns(_))], _)
                    | ([Op::Binary(Binary::Add, other @ Operand::Bytes(..))], None) => *other,
                    ([], Some(_)) => Operand::Columns(&[]),
                    _ => return None,
                };
                let added = Added::of(isa, first, other, scale.len(), last)?;
                (Steps::of(first, false), Some(added))
            }
            _ => return None,
        };
        let columns = scale.len().next_multiple_of(COLUMNS);
        let (mut by, mut more) = (vec![0.0; columns], vec![0.0; columns]);
        let largest = isa.run(Divide {
            scale,
            bias,
            steps: first,
            by: &mut by,
            more: &mut more,
        })?;
        let (added, roundings) = added.unzip();
        let roundings = match (unit.is_some(), roundings) {
            (false, roundings) => roundings.unwrap_or(0.0),
            (true, Some(roundings)) => last.of_unit(roundings),
            (true, None) => last.of_unit(largest),
        };
        let near_first = match first.fixed {
            true => near(1797.0 + 3.0 * largest),
            false => 0,
        };
        let raised = raised(*end);
        Some(Fixed {
            by,
            more,
            added,
            unit,
            near: near_first.max(near(roundings)),
            least: if cut { (end.zero + raised) as u8 } else { 0 },
            flip: raised as u8,
        })
    }
}

/// What 8-bit integers are raised by to have no sign.
fn raised(how: Quantisation) -> i32 {
    if how.signed { 128 } else { 0 }
}

/// A Gaussian error linear unit, from x to fixed point.
pub(super) struct Unit {
    /// What there is of x above 0 is multiplied by this.
    pub(super) by: f32,
    pub(super) more: f32,
    /// What is added besides, with AVX-512: polynomials as [`gelu::difference`] has them.
    pub(super) powers: [[f32; 16]; 5],
}

/// Most steps in 1 for a [`Unit`]: with more, much would be near an integer.
const STEPS: f64 = 512.0;

impl Unit {
    fn of(end: Quantisation) -> Option<Unit> {
        let by = 1.0 / f64::from(end.scale);
        let more = f64::from(end.zero + raised(end)) + 0.5;
        (ORDINARY.contains(&end.scale) && by <= STEPS).then(|| Unit {
            by: (by * ONE) as f32,
            more: (more * ONE) as f32,
            powers: gelu::difference(by * ONE),
        })
    }
}

/// What numbers are taken to: steps, in fixed point or not.
#[derive(Clone, Copy)]
struct Steps {
    step: f32,
    /// Whether they are divided by the step and in fixed point.
    fixed: bool,
    /// What is added in fixed point.
    raised: f64,
}

impl Steps {
    /// Fixed point; the last steps are counted from the least byte.
    fn of(how: Quantisation, last: bool) -> Steps {
        let zero = if last { how.zero + raised(how) } else { 0 };
        Steps {
            step: how.scale,
            fixed: true,
            raised: f64::from(zero) + 0.5,
        }
    }

    /// Numbers as they are, which are to become such steps.
    fn of_numbers(how: Quantisation) -> Steps {
        Steps {
            step: how.scale,
            fixed: false,
            raised: 0.0,
        }
    }

    /// What a number is multiplied by, and what is added to it.
    fn scale(self) -> (f64, f64) {
        match self.fixed {
            true => (ONE / f64::from(self.step), self.raised * ONE),
            false => (1.0, 0.0),
        }
    }

    /// The roundings of a [`Unit`], of which `before` may be in x, in these steps.
    fn of_unit(self, before: f64) -> f64 {
        let steps = 1.0 / f64::from(self.step);
        let end = f64::from(gelu::END / gelu::PER_UNIT);
        let x = f64::max(306.0, end * steps);
        1.13 * before + 4.9 * x + 2056.0 + gelu::ERROR * steps
    }
}

impl<'a> Added<'a> {
    /// What is added to integers of the first kind on the way to the last steps; and how many roundings that makes, or
    /// if they are no fixed point, how many there may be in a number.
    fn of(
        isa: Isa,
        first: Quantisation,
        other: Operand<'a>,
        columns: usize,
        last: Steps,
    ) -> Option<(Added<'a>, f64)> {
        let steps = |how: Quantisation| {
            let steps = f64::from(how.scale) / f64::from(last.step);
            let ordinary = [how.scale, last.step].iter().all(|q| ORDINARY.contains(q));
            (ordinary && steps <= LARGEST / 256.0).then_some(steps)
        };
        let before = steps(first)?;
        let (scale, raised) = last.scale();
        let (other, roundings) = match other {
            Operand::Bytes(x, how) => {
                let by = steps(how)?;
                let more = last.raised - f64::from(how.zero) * by;
                let (by, more, roundings) =
                    ((by * ONE) as f32, (more * ONE) as f32, by * 4.0 * 255.0);
                (Other::Bytes { x, by, more }, roundings)
            }
            Operand::Columns(bias) => {
                let mut more = vec![raised as f32; columns.next_multiple_of(COLUMNS)];
                let largest = isa.run(Divide {
                    scale: &[],
                    bias,
                    steps: last,
                    by: &mut [],
                    more: &mut more,
                })?;
                (Other::Columns(more), largest)
            }
            _ => return None,
        };
        let added = Added {
            ends: first.ends(),
            before: (f64::from(first.scale) * scale) as f32,
            other,
        };
        let roundings = match last.fixed {
            true => 255.0 * 2.0 * before + roundings + 1539.0,
            false => 255.0 * before + roundings,
        };
        Some((added, roundings))
    }
}

/// In steps of 2⁻¹⁶, so many roundings, half a step, and one for the errors of errors.
fn near(roundings: f64) -> u16 {
    (roundings / 256.0 + 1.5).ceil() as u16
}

/// Takes scales and biases to steps; gives the largest |bias ÷ step| if all are ordinary.
struct Divide<'a> {
    scale: &'a [f32],
    /// None, or as many.
    bias: &'a [f32],
    steps: Steps,
    by: &'a mut [f32],
    more: &'a mut [f32],
}

impl Kernel for Divide<'_> {
    type Output = Option<f64>;

    #[inline(always)]
    fn run(self) -> Option<f64> {
        if !ORDINARY.contains(&self.steps.step) {
            return None;
        }
        let most = LARGEST * f64::from(self.steps.step);
        let (times, raised) = self.steps.scale();
        let mut good = true;
        let mut largest = 0.0f64;
        for (by, &scale) in self.by.iter_mut().zip(self.scale) {
            let scale = f64::from(scale);
            // Not so of NaN.
            good &= scale.abs() <= most;
            *by = (scale * times) as f32;
        }
        self.more.fill(raised as f32);
        for (more, &bias) in self.more.iter_mut().zip(self.bias) {
            let bias = f64::from(bias);
            good &= bias.abs() <= most;
            largest = if bias.abs() > largest {
                bias.abs()
            } else {
                largest
            };
            *more = (bias * times + raised) as f32;
        }
        good.then_some(largest / f64::from(self.steps.step))
    }
}

/// The bytes that the sums of a tile become, from a first one on.
pub(super) struct Bytes<'a> {
    pub(super) fixed: &'a Fixed<'a>,
    /// The column of the first, how many there are, and the place of the first in the result.
    pub(super) column: usize,
    pub(super) width: usize,
    pub(super) place: usize,
    pub(super) to: *mut u8,
    /// How far rows are apart.
    pub(super) apart: usize,
}
