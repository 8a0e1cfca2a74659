//! The soundness error, term by term.
//!
//! Every term bounds the probability that one kind of challenge lets a false statement pass, over
//! the extension field F. In the list-decoding regime a commitment is close to several
//! polynomials; whatever challenge is drawn after it is charged once for each (pair of) candidates.
//!
//! Errors are counted in units of 1 ÷ |F|, rounded up: a verifier decides by integers. Bits are for
//! people.

use lemma_graph::integer::{Expression, Term};

use crate::error::{Check, VerifyError, require};
use crate::field::MODULUS;
use crate::plan::{Plan, Product, variables};
use crate::profile::{Profile, Security};
use crate::schemes::{Role, Scheme, scheme};

/// log₂ |F|, rounded down.
pub(crate) const FIELD_BITS: f64 = 154.943_423_4;

/// One term of the soundness error: 2^−`bits`.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorTerm {
    /// What it belongs to.
    pub name: &'static str,
    /// Bits.
    pub bits: f64,
}

/// The soundness of a proof.
#[derive(Clone, Debug, PartialEq)]
pub struct Soundness {
    /// All terms.
    pub terms: Vec<ErrorTerm>,
    /// −log₂ of their sum.
    pub bits: f64,
}

/// |F| ÷ 2^`bits`, rounded down, for 64 bits or more.
const fn share(bits: u32) -> u128 {
    let p = MODULUS as u128;
    let fourth = p * p * p * p;
    let (high, low) = (fourth >> 64, fourth & u64::MAX as u128);
    (high * p + ((low * p) >> 64)) >> (bits - 64)
}

/// Errors in units of 1 ÷ |F|, rounded up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Errors(Vec<(&'static str, u128)>);

/// Degrees of the polynomials whose zeros the challenges of a plan must avoid.
fn degrees(plan: &Plan, succinct: bool) -> [(&'static str, u128); 5] {
    let leaves = plan.leaves.bits as u128;
    let total: u128 = plan.leaves.blocks.iter().map(|b| 1u128 << b.bits).sum();
    let products: usize = plan.expressions().map(product_variables).sum();
    let points: usize = plan.expressions().map(|e| variables(&e.shape)).sum();
    let claims = plan.edges() + plan.leaf_evaluations();
    let constants = if succinct {
        plan.constants.stack.bits
    } else {
        0
    };
    let stacks = plan.stack.bits + constants;
    [
        // α and β: degree 2 in each denominator; α itself must not be a pole.
        ("lookups", 2 * (total + 1)),
        // Each layer: a batching challenge, rounds of degree 3, and the choice of a half.
        (
            "sums of fractions",
            (0..leaves).map(|l| 3 * l + 2).sum::<u128>() + leaves,
        ),
        ("products", 3 * products as u128),
        ("points", points as u128),
        (
            "batching of claims",
            2 * claims as u128 + 2 * stacks as u128,
        ),
    ]
}

fn product_variables(expression: &Expression) -> usize {
    let each = |term: &Term| match term {
        Term::Product {
            left,
            right,
            contracted,
            ..
        } => Product::new(expression, left, right, contracted).variables(),
        Term::Linear { .. } => 0,
    };
    expression.terms.iter().map(each).sum()
}

/// The scheme of a commitment, or why there is none.
pub(crate) fn scheme_for(
    variables: usize,
    role: Role,
    security: Security,
) -> Result<&'static Scheme, VerifyError> {
    scheme(variables, role, security).ok_or_else(|| {
        VerifyError::Parameters(format!(
            "no commitment for 2^{variables} cells has {} bits",
            security.target()
        ))
    })
}

impl Errors {
    /// The errors of proofs under a plan.
    pub(crate) fn new(plan: &Plan, profile: Profile) -> Result<Errors, VerifyError> {
        let model = profile.succinct() && plan.reads_constants();
        let witness = scheme_for(plan.stack.bits, Role::Witness, profile.security)?;
        let mut terms = vec![("opening of the witness", u128::from(witness.error))];
        let mut candidates = u128::from(witness.candidates);
        if model {
            let scheme = scheme_for(plan.constants.stack.bits, Role::Model, profile.security)?;
            terms.push(("opening of the model", u128::from(scheme.error)));
            candidates = candidates.saturating_mul(u128::from(scheme.candidates));
        }
        for (name, degree) in degrees(plan, model) {
            terms.push((name, degree.max(1).saturating_mul(candidates)));
        }
        terms.push(("collisions of the hash", share(128) + 1));
        Ok(Errors(terms))
    }

    /// Checks that their sum is at most 2^−`target`.
    pub(crate) fn require(&self, target: u32) -> Result<(), VerifyError> {
        let sum = self.0.iter().fold(0u128, |s, t| s.saturating_add(t.1));
        require(Check::Soundness, sum <= share(target))
    }

    /// In bits.
    pub(crate) fn soundness(&self) -> Soundness {
        let bits = |units: u128| FIELD_BITS - (units as f64).log2();
        Soundness {
            bits: bits(self.0.iter().map(|t| t.1).sum()),
            terms: self
                .0
                .iter()
                .map(|&(name, units)| ErrorTerm {
                    name,
                    bits: bits(units),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_field_are_exact() {
        // p⁵ by long multiplication in 32-bit digits.
        let p = u64::from(MODULUS);
        let mut digits = vec![1u64];
        for _ in 0..5 {
            let mut carry = 0;
            for digit in &mut digits {
                let product = *digit * p + carry;
                (*digit, carry) = (product & 0xffff_ffff, product >> 32);
            }
            digits.push(carry);
        }
        let high = |from: usize| {
            digits[from..]
                .iter()
                .rev()
                .fold(0u128, |n, &d| (n << 32) | u128::from(d))
        };
        assert_eq!(share(64), high(2));
        assert_eq!(share(100), high(3) >> 4);
        let log2 = 128.0 + (share(128) as f64).log2();
        assert!((FIELD_BITS..FIELD_BITS + 1e-7).contains(&log2), "{log2}");
    }
}
