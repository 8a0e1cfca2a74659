//! The sum of many fractions by a layered circuit (Papini and Haböck, ePrint 2023/1283).
//!
//! Each layer adds fractions in pairs, the first half of the layer below to the second; one
//! sumcheck for each layer reduces the claim on it to a claim on the layer below.

use rayon::prelude::*;

use crate::error::{Check, VerifyError, require};
use crate::field::{Ext, LANES, PackedExt, PrimeCharacteristicRing, unpack};
use crate::sumcheck::{AddFractions, Gate, Values, prove, verify};
use crate::transcript::{ProverTranscript, Schedule, Step, VerifierTranscript};

/// The claim on the leaves: at `point` the numerators are `numerator`, the denominators
/// `denominator`.
pub(crate) struct LeafClaim {
    pub(crate) point: Vec<Ext>,
    pub(crate) numerator: Ext,
    pub(crate) denominator: Ext,
}

/// A layer: numerators and denominators.
enum Layer {
    Packed(Vec<PackedExt>, Vec<PackedExt>),
    Scalar(Vec<Ext>, Vec<Ext>),
}

/// Appends the steps for 2^`bits` fractions.
pub(crate) fn schedule(bits: usize, schedule: &mut Schedule) {
    schedule.push(Step::Send("sum of fractions", 2));
    for layer in 0..bits {
        schedule.push(Step::Draw("fraction batching", 1));
        schedule.sumcheck(layer);
        schedule.push(Step::Send("fractions", 4));
        schedule.push(Step::Draw("fraction half", 1));
    }
}

fn add_halves(layer: &Layer) -> Layer {
    match layer {
        Layer::Packed(p, q) if p.len() > 1 => {
            let half = p.len() / 2;
            let (numerators, denominators): (Vec<_>, Vec<_>) = (0..half)
                .into_par_iter()
                .with_min_len(64)
                .map(|i| (p[i] * q[i + half] + p[i + half] * q[i], q[i] * q[i + half]))
                .unzip();
            if half == 1 {
                Layer::Scalar(unpack(&numerators), unpack(&denominators))
            } else {
                Layer::Packed(numerators, denominators)
            }
        }
        Layer::Packed(p, q) => add_halves(&Layer::Scalar(unpack(p), unpack(q))),
        Layer::Scalar(p, q) => {
            let half = p.len() / 2;
            let add = |i: usize| (p[i] * q[i + half] + p[i + half] * q[i], q[i] * q[i + half]);
            let (numerators, denominators) = (0..half).map(add).unzip();
            Layer::Scalar(numerators, denominators)
        }
    }
}

impl Layer {
    fn is_root(&self) -> bool {
        matches!(self, Layer::Scalar(p, _) if p.len() == 1)
    }

    /// Halves of numerators, then of denominators.
    fn halves(self) -> [Values; 4] {
        match self {
            Layer::Packed(mut p, mut q) if p.len() > 1 => {
                let half = p.len() / 2;
                let (p1, q1) = (p.split_off(half), q.split_off(half));
                if half == 1 {
                    return [p, p1, q, q1].map(|v| Values::Scalar(unpack(&v)));
                }
                [p, p1, q, q1].map(Values::Packed)
            }
            Layer::Packed(p, q) => Layer::Scalar(unpack(&p), unpack(&q)).halves(),
            Layer::Scalar(mut p, mut q) => {
                let half = p.len() / 2;
                let (p1, q1) = (p.split_off(half), q.split_off(half));
                [p, p1, q, q1].map(Values::Scalar)
            }
        }
    }
}

/// Proves the sum; the numbers of numerators and denominators are equal powers of two, at least
/// [`LANES`].
pub(crate) fn prove_sum(
    numerators: Vec<PackedExt>,
    denominators: Vec<PackedExt>,
    transcript: &mut ProverTranscript<'_>,
) -> LeafClaim {
    let bits = (numerators.len() * LANES).trailing_zeros() as usize;
    let mut layers = vec![Layer::Packed(numerators, denominators)];
    while !layers[layers.len() - 1].is_root() {
        layers.push(add_halves(&layers[layers.len() - 1]));
    }
    let (mut numerator, mut denominator) = match layers.pop() {
        Some(Layer::Scalar(p, q)) => (p[0], q[0]),
        _ => (Ext::ZERO, Ext::ONE),
    };
    [numerator, denominator] = transcript.send("sum of fractions", [numerator, denominator]);
    let mut point: Vec<Ext> = Vec::new();
    for layer in 0..bits {
        let lambda = transcript.draw("fraction batching");
        let Some(values) = layers.pop() else { break };
        let (inner, ends) = prove(
            &AddFractions(lambda),
            values.halves(),
            layer,
            &point,
            transcript,
        );
        let [p0, p1, q0, q1] = transcript.send("fractions", ends);
        let c = transcript.draw("fraction half");
        numerator = p0 + c * (p1 - p0);
        denominator = q0 + c * (q1 - q0);
        point = [&[c], &inner[..]].concat();
    }
    LeafClaim {
        point,
        numerator,
        denominator,
    }
}

/// Checks the sum of 2^`bits` fractions: gives its numerator and denominator, and the claim on the
/// leaves that is left.
pub(crate) fn verify_sum(
    bits: usize,
    transcript: &mut VerifierTranscript<'_>,
) -> Result<([Ext; 2], LeafClaim), VerifyError> {
    let root = transcript.receive::<2>("sum of fractions")?;
    let [mut numerator, mut denominator] = root;
    let mut point: Vec<Ext> = Vec::new();
    for layer in 0..bits {
        let lambda = transcript.draw("fraction batching")?;
        let claim = numerator + lambda * denominator;
        let (inner, end) = verify(claim, layer, &point, transcript)?;
        let [p0, p1, q0, q1] = transcript.receive("fractions")?;
        let gate = AddFractions(lambda).apply([p0, p1, q0, q1]);
        require(Check::LookupLayer, gate == end)?;
        let c = transcript.draw("fraction half")?;
        numerator = p0 + c * (p1 - p0);
        denominator = q0 + c * (q1 - q0);
        point = [&[c], &inner[..]].concat();
    }
    let claim = LeafClaim {
        point,
        numerator,
        denominator,
    };
    Ok((root, claim))
}
