//! The soundness error, term by term.
//!
//! Every term bounds the probability that one kind of challenge lets a false statement pass, over
//! the extension field F. In the list-decoding regime a commitment is close to several
//! polynomials; whatever challenge is drawn after it is charged once for each (pair of) candidates.

use lemma_graph::integer::{Expression, Term};

use crate::error::{Check, VerifyError, require};
use crate::field::FIELD_BITS;
use crate::model::shared_pcs;
use crate::plan::{Plan, Product, variables};
use crate::profile::Profile;

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

/// Degrees of the polynomials whose zeros the challenges of a plan must avoid.
struct Degrees {
    lookups: f64,
    sums: f64,
    products: f64,
    points: f64,
    batching: f64,
}

fn degrees(plan: &Plan, succinct: bool) -> Degrees {
    let leaves = plan.leaves.bits as f64;
    let total = plan
        .leaves
        .blocks
        .iter()
        .map(|b| 2f64.powi(b.bits as i32))
        .sum::<f64>();
    let products: usize = plan.expressions().map(product_variables).sum();
    let points: usize = plan.expressions().map(|e| variables(&e.shape)).sum();
    let claims = plan.edges() + plan.leaf_evaluations();
    let stacks = plan.stack.bits + if succinct { plan.constants.bits } else { 0 };
    Degrees {
        // α and β: degree 2 in each denominator; α itself must not be a pole.
        lookups: 2.0 * (total + 1.0),
        // Each layer: a batching challenge, rounds of degree 3, and the choice of a half.
        sums: (0..plan.leaves.bits)
            .map(|l| 3.0 * l as f64 + 2.0)
            .sum::<f64>()
            + leaves,
        products: 3.0 * products as f64,
        points: points as f64,
        batching: 2.0 * claims as f64 + 2.0 * stacks as f64,
    }
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

impl Soundness {
    /// Checks that the error is below 2^−`target`.
    pub(crate) fn require(&self, target: f64) -> Result<(), VerifyError> {
        require(Check::Soundness, self.bits >= target)
    }

    /// The soundness of proofs under a plan.
    pub(crate) fn new(plan: &Plan, profile: Profile) -> Result<Soundness, VerifyError> {
        let failed = |e: crate::error::ProveError| VerifyError::Parameters(e.to_string());
        let model = profile.succinct() && plan.reads_constants();
        let error = |bits: usize| {
            shared_pcs(bits, profile.security)
                .map_err(failed)?
                .error()
                .map_err(VerifyError::Parameters)
        };
        let witness = error(plan.stack.bits)?;
        let mut terms = Vec::new();
        let mut candidates = witness.candidates.max(0.0);
        terms.push(ErrorTerm {
            name: "opening of the witness",
            bits: witness.bits,
        });
        if model {
            let opening = error(plan.constants.bits)?;
            candidates += opening.candidates.max(0.0);
            terms.push(ErrorTerm {
                name: "opening of the model",
                bits: opening.bits,
            });
        }
        let d = degrees(plan, model);
        for (name, degree) in [
            ("lookups", d.lookups),
            ("sums of fractions", d.sums),
            ("products", d.products),
            ("points", d.points),
            ("batching of claims", d.batching),
        ] {
            terms.push(ErrorTerm {
                name,
                bits: FIELD_BITS - degree.max(1.0).log2() - candidates,
            });
        }
        terms.push(ErrorTerm {
            name: "collisions of the hash",
            bits: 128.0,
        });
        let total: f64 = terms.iter().map(|t| (-t.bits).exp2()).sum();
        Ok(Soundness {
            bits: -total.log2(),
            terms,
        })
    }
}
