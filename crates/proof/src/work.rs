//! What a verification costs, known before it is done.
//!
//! Counted in multiplications of extension elements, from above: loops over cells of tensors, entries
//! of tables and pairs of relations, whose sizes a graph declares; and what openings take.

use lemma_graph::integer::{Expression, Relation, Skeleton, Source, Term, View};

use crate::error::VerifyError;
use crate::plan::{Plan, Product, log2, variables};
use crate::profile::Profile;
use crate::schemes::{HASH, Role};
use crate::soundness::scheme_for;

fn cells(sizes: impl IntoIterator<Item = usize>) -> u64 {
    let bits: usize = sizes.into_iter().map(log2).sum();
    1u64.checked_shl(bits as u32).unwrap_or(u64::MAX)
}

/// Work to evaluate the weights of a view, and to sum over what it reads where the verifier does.
fn view(view: &View, axes: &[usize], plan: &Plan) -> u64 {
    let shape = plan.skeleton.shape(view.source);
    let pieces = match view.source {
        Source::Constant(i) => plan.constants.pieces[i].len().max(1) as u64,
        _ => 1,
    };
    let mut work = 8 * variables(shape) as u64;
    for factor in &view.factors {
        if let Relation::Pairs(pairs) = &factor.relation {
            let rows = cells(factor.axes.iter().map(|&a| axes[a]));
            let columns = cells(factor.dims.iter().map(|&d| shape[d]));
            let each = rows
                .saturating_add(columns)
                .saturating_add(pairs.len() as u64);
            work = work.saturating_add(each.saturating_mul(2));
        }
    }
    work = work.saturating_mul(pieces);
    let summed = match view.source {
        Source::Input(_) => true,
        Source::Constant(i) => plan.constants.is_keyed(i),
        Source::Node(_) => false,
    };
    if summed {
        let order = view.factors.iter().flat_map(|f| &f.dims);
        // Where the dimensions of factors interleave, every cell is put together by itself.
        let each = if order.is_sorted() {
            4
        } else {
            4 + view.factors.len() * shape.len()
        };
        let own = cells(shape.iter().copied()).saturating_mul(each as u64);
        work = work.saturating_add(own);
    }
    work
}

fn expression(expression: &Expression, plan: &Plan) -> u64 {
    let mut work = 8 * variables(&expression.shape) as u64;
    for term in &expression.terms {
        let mut axes = expression.shape.clone();
        if let Term::Product {
            left,
            right,
            contracted,
            ..
        } = term
        {
            axes.extend(contracted);
            let rounds = Product::new(expression, left, right, contracted).variables();
            work += (16 + 4 * HASH) * rounds as u64;
        }
        for read in term.views() {
            work = work.saturating_add(view(read, &axes, plan));
        }
    }
    work
}

fn entries(skeleton: &Skeleton) -> u64 {
    skeleton.tables.iter().map(|t| t.entries.len() as u64).sum()
}

/// Work of the verifier of a proof in the succinct profile, from above; saturates.
pub(crate) fn work(plan: &Plan, profile: Profile) -> Result<u64, VerifyError> {
    let mut work = scheme_for(plan.stack.bits, Role::Witness, profile.security)?.work();
    if plan.reads_constants() {
        work += scheme_for(plan.constants.stack.bits, Role::Model, profile.security)?.work();
    }
    let leaves = plan.leaves.bits as u64;
    // Rounds of the sums of fractions; claims on columns; tables.
    work += leaves * leaves * (16 + 4 * HASH);
    work += (plan.lookups.len() as u64 + plan.leaf_evaluations() as u64) * (8 * leaves + HASH);
    work = work.saturating_add(4 * entries(&plan.skeleton));
    for (_, range) in &plan.skeleton.inputs {
        work = work.saturating_add(cells(range.shape.iter().copied()) * 2);
    }
    for (_, output) in &plan.skeleton.outputs {
        work = work.saturating_add(cells(output.shape.iter().copied()) * 4);
    }
    for sum in plan.expressions() {
        work = work.saturating_add(expression(sum, plan));
    }
    Ok(work)
}
