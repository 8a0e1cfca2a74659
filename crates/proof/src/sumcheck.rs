//! The sumcheck protocol for sums of quadratic gates, some variables weighted by an equality
//! polynomial.
//!
//! For claim = Σₓ eq(r, x′) · g(f₁(x), f₂(x), …), with x′ the first variables of x, and g of degree 2,
//! each round sends two elements: with u the sum over the remaining variables as a polynomial in
//! the current one, without its equality factor, these are u(0) and u's leading coefficient. The
//! verifier finds u(1) from the claim. (Gruen, ePrint 2024/108, for the equality factor.)

use rayon::prelude::*;

use crate::error::{Check, VerifyError, require};
use crate::field::{
    Algebra, Ext, InvertibleField, LANES, PackedExt, PrimeCharacteristicRing, add, lane_sum, pack,
    unpack,
};
use crate::poly::{eq_packed, eq_table, quadratic};
use crate::transcript::{ProverTranscript, VerifierTranscript};

/// A homogeneous polynomial of degree 2 in `N` values: so its value on differences is the leading
/// coefficient of a round's polynomial.
pub(crate) trait Gate<const N: usize>: Sync {
    fn apply<T: Algebra<Ext> + Copy>(&self, values: [T; N]) -> T;
}

/// The product of two values.
pub(crate) struct Multiply;

impl Gate<2> for Multiply {
    fn apply<T: Algebra<Ext> + Copy>(&self, [a, b]: [T; 2]) -> T {
        a * b
    }
}

/// A layer of a sum of fractions: numerator plus λ times denominator of p₀/q₀ + p₁/q₁.
pub(crate) struct AddFractions(pub(crate) Ext);

impl Gate<4> for AddFractions {
    fn apply<T: Algebra<Ext> + Copy>(&self, [p0, p1, q0, q1]: [T; 4]) -> T {
        q1 * (p0 + q0 * self.0) + p1 * q0
    }
}

/// Registers above which work is split between threads.
const PARALLEL: usize = 64;

/// Registers of each quarter that a thread takes at once.
const PIECE: usize = 32;

/// Values over a cube, packed while they fill registers.
#[derive(Clone)]
pub(crate) enum Values {
    Packed(Vec<PackedExt>),
    Scalar(Vec<Ext>),
}

impl Values {
    pub(crate) fn new(values: Vec<Ext>) -> Values {
        if values.len() >= 2 * LANES {
            Values::Packed(pack(&values))
        } else {
            Values::Scalar(values)
        }
    }
}

/// Proves a sum over `variables`, the first of which are weighted by `eq(weights, ·)`; gives the
/// point and the values of the functions there.
pub(crate) fn prove<const N: usize, G: Gate<N>>(
    gate: &G,
    functions: [Values; N],
    variables: usize,
    weights: &[Ext],
    transcript: &mut ProverTranscript<'_>,
) -> (Vec<Ext>, [Ext; N]) {
    let mut point = Vec::with_capacity(variables);
    let mut packed: Option<[Vec<PackedExt>; N]> = None;
    let mut scalar: [Vec<Ext>; N] = std::array::from_fn(|_| Vec::new());
    let all_packed = functions.iter().all(|f| matches!(f, Values::Packed(_)));
    if all_packed {
        packed = Some(functions.map(|f| match f {
            Values::Packed(v) => v,
            Values::Scalar(v) => pack(&v),
        }));
    } else {
        scalar = functions.map(|f| match f {
            Values::Packed(v) => unpack(&v),
            Values::Scalar(v) => v,
        });
    }
    let tail = variables - weights.len();
    if let Some(mut values) = packed.take() {
        let mut rest = (!weights.is_empty()).then(|| spread_packed(&weights[1..], tail));
        if values[0].len() > 1 {
            let half = values[0].len() / 2;
            let mut sums = round_packed(gate, &values, rest.as_deref(), half);
            loop {
                let c = exchange(sums, transcript);
                point.push(c);
                if point.len() >= weights.len() {
                    rest = None;
                }
                if values[0].len() == 2 {
                    for v in &mut values {
                        v[0] = v[0] + (v[1] - v[0]) * PackedExt::from(c);
                    }
                    break;
                }
                sums = fold_and_sum(gate, &mut values, rest.as_mut(), c);
            }
        }
        scalar = values.map(|v| unpack(&v[..1]));
    }
    let done = point.len();
    let mut rest = (done < weights.len()).then(|| spread(&weights[done + 1..], tail));
    while point.len() < variables {
        let half = scalar[0].len() / 2;
        let sums = round_scalar(gate, &scalar, rest.as_deref(), half);
        let c = exchange(sums, transcript);
        point.push(c);
        for v in &mut scalar {
            for i in 0..half {
                v[i] = v[i] + c * (v[i + half] - v[i]);
            }
            v.truncate(half);
        }
        rest = match rest {
            Some(rest) if point.len() < weights.len() => {
                let half = rest.len() / 2;
                Some((0..half).map(|i| rest[i] + rest[i + half]).collect())
            }
            _ => None,
        };
    }
    (point, scalar.map(|v| v[0]))
}

fn exchange(sums: [Ext; 2], transcript: &mut ProverTranscript<'_>) -> Ext {
    let _ = transcript.send("round", sums);
    transcript.draw("round challenge")
}

/// `eq(point, ·)` repeated over further variables.
fn spread(point: &[Ext], tail: usize) -> Vec<Ext> {
    eq_table(point)
        .into_iter()
        .flat_map(|e| std::iter::repeat_n(e, 1 << tail))
        .collect()
}

fn spread_packed(point: &[Ext], tail: usize) -> Vec<PackedExt> {
    let lane_bits = LANES.trailing_zeros() as usize;
    if tail >= lane_bits {
        return eq_table(point)
            .into_iter()
            .flat_map(|e| std::iter::repeat_n(PackedExt::from(e), 1 << (tail - lane_bits)))
            .collect();
    }
    if tail == 0 && point.len() >= lane_bits {
        return eq_packed(point);
    }
    pack(&spread(point, tail))
}

fn round_packed<const N: usize, G: Gate<N>>(
    gate: &G,
    values: &[Vec<PackedExt>; N],
    rest: Option<&[PackedExt]>,
    half: usize,
) -> [Ext; 2] {
    let zero = || [PackedExt::ZERO; 2];
    let sums = (0..half)
        .into_par_iter()
        .with_min_len(PARALLEL)
        .fold(zero, |[s0, s2], i| {
            let low: [PackedExt; N] = std::array::from_fn(|j| values[j][i]);
            let difference = std::array::from_fn(|j| values[j][i + half] - low[j]);
            let (mut u0, mut u2) = (gate.apply(low), gate.apply(difference));
            if let Some(rest) = rest {
                u0 *= rest[i];
                u2 *= rest[i];
            }
            [s0 + u0, s2 + u2]
        })
        .reduce(zero, add);
    sums.map(lane_sum)
}

fn round_scalar<const N: usize, G: Gate<N>>(
    gate: &G,
    values: &[Vec<Ext>; N],
    rest: Option<&[Ext]>,
    half: usize,
) -> [Ext; 2] {
    let mut sums = [Ext::ZERO; 2];
    for i in 0..half {
        let low: [Ext; N] = std::array::from_fn(|j| values[j][i]);
        let difference = std::array::from_fn(|j| values[j][i + half] - low[j]);
        let weight = rest.map_or(Ext::ONE, |rest| rest[i]);
        sums[0] += weight * gate.apply(low);
        sums[1] += weight * gate.apply(difference);
    }
    sums
}

/// Values of a function at the same places of the four quarters of its cube. The first two quarters are kept; what the other
/// two have is what they become where the first variable is one.
#[derive(Default)]
struct Quarters<'a> {
    kept: [&'a mut [PackedExt]; 2],
    above: [&'a [PackedExt]; 2],
}

/// The quarters of values, in pieces.
fn quarters(values: &mut [PackedExt]) -> impl Iterator<Item = Quarters<'_>> {
    let quarter = values.len() / 4;
    let (kept, above) = values.split_at_mut(2 * quarter);
    let (low, high) = kept.split_at_mut(quarter);
    let (above_low, above_high) = above.split_at(quarter);
    let kept = low.chunks_mut(PIECE).zip(high.chunks_mut(PIECE));
    let above = above_low.chunks(PIECE).zip(above_high.chunks(PIECE));
    kept.zip(above).map(|(kept, above)| Quarters {
        kept: kept.into(),
        above: above.into(),
    })
}

/// Binds the first variable of all functions, and of the weights that are left, and sums for the next round: in one pass, since
/// the values of a large cube come from memory.
fn fold_and_sum<const N: usize, G: Gate<N>>(
    gate: &G,
    values: &mut [Vec<PackedExt>; N],
    mut rest: Option<&mut Vec<PackedExt>>,
    c: Ext,
) -> [Ext; 2] {
    let quarter = values[0].len() / 4;
    let mut functions = values.each_mut().map(|v| quarters(v));
    let mut weights = rest.as_mut().map(|rest| {
        let (kept, above) = rest.split_at_mut(quarter);
        kept.chunks_mut(PIECE).zip(above.chunks(PIECE))
    });
    let pieces: Vec<_> = (0..quarter.div_ceil(PIECE))
        .map(|_| {
            let functions = functions.each_mut().map(|f| f.next().unwrap_or_default());
            (functions, weights.as_mut().and_then(Iterator::next))
        })
        .collect();
    let c = PackedExt::from(c);
    let sums = pieces
        .into_par_iter()
        .map(|(functions, weights)| fold_and_sum_piece(gate, functions, weights, c))
        .reduce(|| [PackedExt::ZERO; 2], add);
    drop((functions, weights));
    values.iter_mut().for_each(|v| v.truncate(2 * quarter));
    if let Some(rest) = rest {
        rest.truncate(quarter);
    }
    sums.map(lane_sum)
}

fn fold_and_sum_piece<const N: usize, G: Gate<N>>(
    gate: &G,
    mut functions: [Quarters<'_>; N],
    mut weights: Option<(&mut [PackedExt], &[PackedExt])>,
    c: PackedExt,
) -> [PackedExt; 2] {
    let mut sums = [PackedExt::ZERO; 2];
    for i in 0..functions[0].kept[0].len() {
        let bound: [[PackedExt; 2]; N] = std::array::from_fn(|j| {
            let Quarters { kept, above } = &mut functions[j];
            std::array::from_fn(|half| {
                let value = kept[half][i] + (above[half][i] - kept[half][i]) * c;
                kept[half][i] = value;
                value
            })
        });
        let mut u0 = gate.apply(bound.map(|[low, _]| low));
        let mut u2 = gate.apply(bound.map(|[low, high]| high - low));
        if let Some((kept, above)) = &mut weights {
            kept[i] += above[i];
            u0 *= kept[i];
            u2 *= kept[i];
        }
        sums[0] += u0;
        sums[1] += u2;
    }
    sums
}

/// Checks the rounds; gives the point and the claim left: the gate's value there.
pub(crate) fn verify(
    mut claim: Ext,
    variables: usize,
    weights: &[Ext],
    transcript: &mut VerifierTranscript<'_>,
) -> Result<(Vec<Ext>, Ext), VerifyError> {
    let mut point = Vec::with_capacity(variables);
    for round in 0..variables {
        let [at_0, leading] = transcript.receive("round")?;
        let at_1 = match weights.get(round) {
            None => claim - at_0,
            // claim = (1 − r) · u(0) + r · u(1); r is a challenge, so it is not zero.
            Some(&r) => {
                let inverse = r.try_inverse();
                require(Check::Round, inverse.is_some())?;
                (claim - (Ext::ONE - r) * at_0) * inverse.unwrap_or(Ext::ZERO)
            }
        };
        let c = transcript.draw("round challenge")?;
        claim = quadratic(at_0, at_1, leading, c);
        point.push(c);
    }
    Ok((point, claim))
}

/// `Σ eq(weights, x′) · a(x) · b(x)`: the claim of a product.
pub(crate) fn weighted_sum(a: &Values, b: &Values, weights: &[Ext]) -> Ext {
    match (a, b) {
        (Values::Packed(a), Values::Packed(b)) => {
            let variables = (a.len() * LANES).trailing_zeros() as usize;
            let terms = a.par_iter().with_min_len(PARALLEL).zip(b);
            let sum: PackedExt = if weights.is_empty() {
                terms.map(|(x, y)| *x * *y).sum()
            } else {
                let rest = spread_packed(weights, variables - weights.len());
                terms.zip(&rest).map(|((x, y), w)| *x * *y * *w).sum()
            };
            lane_sum(sum)
        }
        _ => {
            let scalar = |v: &Values| match v {
                Values::Packed(v) => unpack(v),
                Values::Scalar(v) => v.clone(),
            };
            let (a, b) = (scalar(a), scalar(b));
            let variables = a.len().trailing_zeros() as usize;
            let rest = spread(weights, variables - weights.len());
            a.iter()
                .zip(&b)
                .zip(&rest)
                .map(|((&x, &y), &w)| x * y * w)
                .sum()
        }
    }
}
