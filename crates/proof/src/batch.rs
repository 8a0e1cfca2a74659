//! All claims on one commitment, reduced to its value at one point.
//!
//! With γ drawn after all claims are known, Σ γⁱ · claimᵢ = Σ_z cells(z) · Ω(z), where Ω is the
//! combination of their weights, each inside its block of the stack. One sumcheck over the stack
//! leaves a value of the cells, which is opened, and one of Ω, which the verifier computes.

use std::borrow::Cow;

use p3_field::PackedValue;
use rayon::prelude::*;

use crate::claims::{Claim, Target};
use crate::error::{Check, VerifyError, require};
use crate::field::{Base, Ext, LANES, PackedBase, PackedExt, PrimeCharacteristicRing, lane_sum};
use crate::layout::Piece;
use crate::poly::eq_index;
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

/// Proves the claims; gives the point at which the commitment is to be opened.
pub(crate) fn prove_batch<'c>(
    claims: &'c [Claim],
    bits: usize,
    member: impl Fn(Target) -> Cow<'c, [Piece]> + 'c,
    cells: &[Base],
    transcript: &mut ProverTranscript<'_>,
) -> Vec<Ext> {
    let gamma = transcript.draw("claim batching");
    // In parallel: most of the time goes into memory that is touched for the first time.
    let mut weights: Vec<PackedExt> = (0..cells.len() / LANES)
        .into_par_iter()
        .with_min_len(4096)
        .map(|_| PackedExt::ZERO)
        .collect();
    let mut scale = Ext::ONE;
    for (claim, pieces) in claims_on(claims, member) {
        for piece in pieces.iter() {
            claim.weight.add_to(scale, piece, &mut weights);
        }
        scale *= gamma;
    }
    let cells = PackedBase::pack_slice(cells);
    let half = cells.len() / 2;
    // The first round runs on the cells themselves, which are base elements.
    let zero = || [PackedExt::ZERO; 2];
    let sums = (0..half)
        .into_par_iter()
        .with_min_len(512)
        .fold(zero, |[s0, s2], i| {
            let (low, high) = (cells[i], cells[i + half]);
            let (a, b) = (weights[i], weights[i + half]);
            [s0 + a * low, s2 + (b - a) * (high - low)]
        })
        .reduce(zero, |a, b| [a[0] + b[0], a[1] + b[1]])
        .map(lane_sum);
    let _ = transcript.send("round", sums);
    let c = transcript.draw("round challenge");
    let packed = PackedExt::from(c);
    let folded: Vec<PackedExt> = (0..half)
        .into_par_iter()
        .with_min_len(512)
        .map(|i| packed * (cells[i + half] - cells[i]) + cells[i])
        .collect();
    crate::sumcheck::fold_packed(&mut weights, half, c);
    let functions = [folded, weights].map(|v| {
        if v.len() == 1 {
            Values::Scalar(crate::field::unpack(&v))
        } else {
            Values::Packed(v)
        }
    });
    let (rest, [value, _]) = prove(&Multiply, functions, bits - 1, &[], transcript);
    let _ = transcript.send("committed value", [value]);
    [&[c], &rest[..]].concat()
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
