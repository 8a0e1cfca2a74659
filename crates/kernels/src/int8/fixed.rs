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

use super::Int8;
use super::finish::{Quantisation, To};
use super::ops::{Op, Operand};
use super::pack::COLUMNS;
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
        let [Op::Binary(Binary::Mul, Operand::Columns(scale)), ops @ ..] = ops else {
            return None;
        };
        let (bias, ops): (&[f32], _) = match ops {
            [Op::Binary(Binary::Add, Operand::Columns(bias)), ops @ ..] => (bias, ops),
            _ => (&[], ops),
        };
        let raised = if end.signed { 128 } else { 0 };
        let (first, zero, added) = match *ops {
            [] => (*end, end.zero + raised, None),
            [Op::Requantise(first), Op::Binary(Binary::Add, other)] => {
                let added = Added::of(isa, first, other, *end, raised)?;
                (first, 0, Some(added))
            }
            _ => return None,
        };
        let columns = scale.len().next_multiple_of(COLUMNS);
        let (mut by, mut more) = (vec![0.0; columns], vec![0.0; columns]);
        let largest = isa.run(Divide {
            scale,
            bias,
            step: first.scale,
            raised: zero,
            by: &mut by,
            more: &mut more,
        })?;
        let near = near(1797.0 + 3.0 * largest);
        let (added, near_added) = added.map_or((None, 0), |(added, near)| (Some(added), near));
        Some(Fixed {
            by,
            more,
            added,
            near: near.max(near_added),
            least: if cut { (end.zero + raised) as u8 } else { 0 },
            flip: raised as u8,
        })
    }
}

impl<'a> Added<'a> {
    /// What is added to integers of the first kind to be quantised as the last; and how near nothing is known.
    fn of(
        isa: Isa,
        first: Quantisation,
        other: Operand<'a>,
        end: Quantisation,
        raised: i32,
    ) -> Option<(Added<'a>, u16)> {
        let steps = |how: Quantisation| {
            let steps = f64::from(how.scale) / f64::from(end.scale);
            let ordinary = [how, end].iter().all(|q| ORDINARY.contains(&q.scale));
            (ordinary && steps <= LARGEST / 256.0).then_some(steps)
        };
        let before = steps(first)?;
        let zero = end.zero + raised;
        let (other, roundings) = match other {
            Operand::Bytes(x, how) => {
                let by = steps(how)?;
                let more = f64::from(zero) + 0.5 - f64::from(how.zero) * by;
                let (by, more, roundings) =
                    ((by * ONE) as f32, (more * ONE) as f32, by * 4.0 * 255.0);
                (Other::Bytes { x, by, more }, roundings)
            }
            Operand::Columns(bias) => {
                let mut more = vec![0.0; bias.len().next_multiple_of(COLUMNS)];
                let largest = isa.run(Divide {
                    scale: &[],
                    bias,
                    step: end.scale,
                    raised: zero,
                    by: &mut [],
                    more: &mut more,
                })?;
                (Other::Columns(more), largest)
            }
            _ => return None,
        };
        let added = Added {
            ends: first.ends(),
            before: (before * ONE) as f32,
            other,
        };
        Some((added, near(255.0 * 2.0 * before + roundings + 1539.0)))
    }
}

/// In steps of 2⁻¹⁶, so many roundings, half a step, and one for the errors of errors.
fn near(roundings: f64) -> u16 {
    (roundings / 256.0 + 1.5).ceil() as u16
}

/// Divides scales and biases by a step; gives the largest |bias ÷ step| if all are ordinary.
struct Divide<'a> {
    scale: &'a [f32],
    /// None, or as many.
    bias: &'a [f32],
    step: f32,
    /// What is added to the biases besides ½.
    raised: i32,
    by: &'a mut [f32],
    more: &'a mut [f32],
}

impl Kernel for Divide<'_> {
    type Output = Option<f64>;

    #[inline(always)]
    fn run(self) -> Option<f64> {
        if !ORDINARY.contains(&self.step) {
            return None;
        }
        let inverse = ONE / f64::from(self.step);
        let raised = (f64::from(self.raised) + 0.5) * ONE;
        let mut good = true;
        let mut largest = 0.0f64;
        for (by, &scale) in self.by.iter_mut().zip(self.scale) {
            let scale = f64::from(scale) * inverse;
            // Not so of NaN.
            good &= scale.abs() <= LARGEST * ONE;
            *by = scale as f32;
        }
        self.more.fill(raised as f32);
        for (more, &bias) in self.more.iter_mut().zip(self.bias) {
            let bias = f64::from(bias) * inverse;
            good &= bias.abs() <= LARGEST * ONE;
            largest = if bias.abs() > largest {
                bias.abs()
            } else {
                largest
            };
            *more = (bias + raised) as f32;
        }
        good.then_some(largest / ONE)
    }
}
