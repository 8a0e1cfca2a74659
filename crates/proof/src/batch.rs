//! All claims on one commitment, reduced to its value at one point.
//!
//! With γ drawn after all claims are known, Σ γⁱ · claimᵢ = Σ_z cells(z) · Ω(z), where Ω is the
//! combination of their weights, each inside its block of the stack. One sumcheck over the stack
//! leaves a value of the cells, which is opened, and one of Ω, which the verifier computes.

use std::borrow::Cow;

use p3_field::PackedValue;
use rayon::prelude::*;

use crate::claims::{Claim, Rows, Target};
use crate::error::{Check, VerifyError, require};
use crate::field::{Base, Ext, PackedBase, PackedExt, PrimeCharacteristicRing, add, lane_sum};
use crate::layout::Piece;
use crate::poly::{eq_index, eq_table};
use crate::sumcheck::{Multiply, Values, prove, verify};
use crate::transcript::{ProverTranscript, VerifierTranscript};

/// The claims on one stack, in order, with the pieces of it that they are about.
fn claims_on<'c>(
    claims: &'c [Claim],
    member: impl Fn(Target) -> Cow<'c, [Piece]> + 'c,
) -> impl Iterator<Item = (&'c Claim, Cow<'c, [Piece]>)> + 'c {
    claims
        .iter()
        .map(move |claim| (claim, member(claim.target)))
        .filter(|(_, pieces)| !pieces.is_empty())
}

/// Variables that are bound while the cells are still elements of the base field, and the weights products.
const FIRST: usize = 2;

/// Parts of the stack between which these variables choose.
const PARTS: usize = 1 << FIRST;

/// Registers for which the weights near them are looked up together.
const REGION: usize = 512;

/// Weights in one part of the stack, and what they sum to over the cells of each part.
struct PartSums {
    rows: Rows,
    part: usize,
    sums: [Ext; PARTS],
}

impl PartSums {
    /// A weight times a cell is a product with a base element, and rows are scaled as a whole: no weight is computed.
    fn new(rows: Rows, cells: &[PackedBase]) -> PartSums {
        let size = cells.len() / PARTS;
        let (part, place) = (rows.start / size, rows.start % size);
        let Rows { high, low, .. } = &rows;
        let zero = || [PackedExt::ZERO; PARTS];
        let sums = (high.par_iter().enumerate())
            .with_min_len((1024 / low.len()).max(1))
            .fold(zero, |mut sums, (i, &h)| {
                let row = |part| &cells[part * size + place + i * low.len()..][..low.len()];
                let row: [&[PackedBase]; PARTS] = std::array::from_fn(row);
                let mut own = zero();
                for (j, &l) in low.iter().enumerate() {
                    (0..PARTS).for_each(|part| own[part] += l * row[part][j]);
                }
                let h = PackedExt::from(h);
                (0..PARTS).for_each(|part| sums[part] += h * own[part]);
                sums
            })
            .reduce(zero, add)
            .map(lane_sum);
        PartSums { rows, part, sums }
    }

    /// What these weights add to the sums of a round whose variable chooses between `half` parts and the `half` after them.
    fn round(&self, half: usize) -> [Ext; 2] {
        let own = self.sums[self.part];
        let at_0 = if self.part < half { own } else { Ext::ZERO };
        [at_0, own - self.sums[self.part ^ half]]
    }

    /// Binds that variable.
    fn bind(&mut self, half: usize, c: Ext) {
        let scale = if self.part < half { Ext::ONE - c } else { c };
        let (low, high) = self.sums.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(high) {
            *a = scale * (*a + c * (*b - *a));
        }
        self.part %= half;
        self.rows.high.iter_mut().for_each(|h| *h *= scale);
    }
}

/// Proves the claims; gives the point at which the commitment is to be opened.
pub(crate) fn prove_batch<'c>(
    claims: &'c [Claim],
    bits: usize,
    member: impl Fn(Target) -> Cow<'c, [Piece]> + 'c,
    cells: &[Base],
    transcript: &mut ProverTranscript<'_>,
) -> Vec<Ext> {
    let gamma = transcript.draw("claim batching");
    let cells = PackedBase::pack_slice(cells);
    let size = cells.len() / PARTS;
    let mut scale = Ext::ONE;
    let mut weights: Vec<Rows> = Vec::new();
    for (claim, pieces) in claims_on(claims, member) {
        let rows = |piece| claim.weight.rows(scale, piece).cut(size);
        weights.extend(pieces.iter().flat_map(rows));
        scale *= gamma;
    }
    let sums = weights.into_par_iter().map(|r| PartSums::new(r, cells));
    let mut weights: Vec<PartSums> = sums.collect();
    let mut point = Vec::with_capacity(bits);
    for half in (0..FIRST).rev().map(|variable| 1 << variable) {
        let sums = weights.iter().map(|w| w.round(half));
        let _ = transcript.send("round", sums.fold([Ext::ZERO; 2], add));
        let c = transcript.draw("round challenge");
        weights.iter_mut().for_each(|w| w.bind(half, c));
        point.push(c);
    }
    let parts: Vec<(PackedExt, &[PackedBase])> = (eq_table(&point).into_iter().map(Into::into))
        .zip(cells.chunks(size))
        .collect();
    let folded: Vec<PackedExt> = (0..size)
        .into_par_iter()
        .with_min_len(512)
        .map(|i| parts.iter().map(|&(e, part)| e * part[i]).sum())
        .collect();
    let weights = unrolled(weights.into_iter().map(|w| w.rows).collect(), size);
    let functions = [folded, weights].map(Values::Packed);
    let (rest, [value, _]) = prove(&Multiply, functions, bits - FIRST, &[], transcript);
    let _ = transcript.send("committed value", [value]);
    [point, rest].concat()
}

/// Weights as they are, register by register; all parts are one by now.
fn unrolled(mut weights: Vec<Rows>, size: usize) -> Vec<PackedExt> {
    weights.iter_mut().for_each(|rows| rows.start %= size);
    let near = |region: usize| {
        let (start, end) = (region * REGION, (region + 1) * REGION);
        let meets = |r: &&Rows| r.start < end && start < r.start + r.registers();
        (region, weights.iter().filter(meets).collect::<Vec<_>>())
    };
    (0..size)
        .into_par_iter()
        .with_min_len(REGION)
        .map_init(
            || near(0),
            |known, register| {
                if register / REGION != known.0 {
                    *known = near(register / REGION);
                }
                let mut sum = PackedExt::ZERO;
                known.1.iter().for_each(|r| r.add_to(register, &mut sum));
                sum
            },
        )
        .collect()
}

/// Checks the claims; gives the point and the value to which the commitment must open.
pub(crate) fn verify_batch<'c>(
    claims: &'c [Claim],
    bits: usize,
    member: impl Fn(Target) -> Cow<'c, [Piece]> + 'c,
    transcript: &mut VerifierTranscript<'_>,
) -> Result<(Vec<Ext>, Ext), VerifyError> {
    let gamma = transcript.draw("claim batching")?;
    let own: Vec<(&Claim, Cow<'_, [Piece]>)> = claims_on(claims, member).collect();
    let (mut total, mut scale) = (Ext::ZERO, Ext::ONE);
    for (claim, _) in &own {
        total += scale * claim.value;
        scale *= gamma;
    }
    let (point, end) = verify(total, bits, &[], transcript)?;
    let [value] = transcript.receive("committed value")?;
    let (mut weights, mut scale) = (Ext::ZERO, Ext::ONE);
    for (claim, pieces) in &own {
        for piece in pieces.iter() {
            let block = piece.block;
            let (high, low) = point.split_at(bits - block.bits);
            let place = eq_index(high, block.start >> block.bits);
            weights += scale * place * claim.weight.evaluate(piece, low);
        }
        scale *= gamma;
    }
    require(Check::Batch, end == value * weights)?;
    Ok((point, value))
}
