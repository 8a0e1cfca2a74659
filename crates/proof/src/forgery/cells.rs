//! A search for free cells: every committed cell, changed alone, must break a constraint. The
//! constraints are evaluated in the clear, so that a missing one is found in seconds.

use super::{Case, fixtures};
use crate::field::{Base, PrimeCharacteristicRing, PrimeField32, power_of_two, small};
use crate::layout::scatter;
use crate::plan::{Column, Lookup, Plan};
use crate::profile::Weights;
use crate::witness::Witness;

/// The sums that a node's terms have, by cell; padding has zero.
fn honest_sums(case: &Case, node: usize) -> Vec<Base> {
    let shape = &case.plan.skeleton.nodes[node].expression.shape;
    let mut sums = vec![Base::ZERO; 1 << crate::plan::variables(shape)];
    let trace = &case.witness.trace.sums[node];
    scatter(shape, &[], |i, place| {
        sums[place] = Base::from_u32(trace[i])
    });
    sums
}

fn selected(plan: &Plan, node: usize) -> Vec<bool> {
    let shape = &plan.skeleton.nodes[node].expression.shape;
    let mut cells = vec![false; 1 << crate::plan::variables(shape)];
    scatter(shape, &[], |_, place| cells[place] = true);
    cells
}

/// Whether all constraints hold: lookups with their counts, and the sums of all nodes. Values of
/// earlier nodes enter the sums as they are in the honest trace: a changed value breaks its own
/// lookup.
fn holds(case: &Case, witness: &Witness, sums: &[Vec<Base>]) -> bool {
    let plan = &case.plan;
    let column = |c| witness.column(plan, plan.column(c).expect("a column"));
    let mut counts: Vec<Vec<u32>> = plan
        .lookups
        .iter()
        .map(|l| match *l {
            Lookup::Table(t) => vec![0; plan.skeleton.tables[t].entries.len()],
            Lookup::Range(w) => vec![0; 1 << w],
            _ => Vec::new(),
        })
        .collect();
    let place = |lookup: &Lookup| {
        plan.lookups
            .iter()
            .position(|l| l == lookup)
            .expect("listed")
    };
    for (i, node) in plan.skeleton.nodes.iter().enumerate() {
        let selected = selected(plan, i);
        let (index, value) = (column(Column::Index(i)), column(Column::Value(i)));
        let widths = plan.limbs(i);
        for cell in 0..selected.len() {
            let key = index[cell].as_canonical_u32() as usize;
            let mut sum = index[cell] * power_of_two(node.shift);
            if selected[cell] {
                let entries = &plan.skeleton.tables[node.table].entries;
                if entries.get(key).map(|&e| small(i32::from(e))) != Some(value[cell]) {
                    return false;
                }
                counts[place(&Lookup::Table(node.table))][key] += 1;
            } else if index[cell] != Base::ZERO || value[cell] != Base::ZERO {
                return false;
            }
            let mut below = 0;
            for (limb, &width) in widths.iter().enumerate() {
                let part = column(Column::Limb(i, limb))[cell];
                let plain = part.as_canonical_u32() as usize;
                if selected[cell] {
                    if plain >= 1 << width {
                        return false;
                    }
                    counts[place(&Lookup::Range(width))][plain] += 1;
                } else if plain != 0 {
                    return false;
                }
                sum += part * power_of_two(below);
                below += width;
            }
            if sum != sums[i][cell] {
                return false;
            }
        }
    }
    plan.lookups.iter().zip(counts).all(|(lookup, counts)| {
        let committed = match *lookup {
            Lookup::Table(t) => column(Column::TableCount(t)),
            Lookup::Range(w) => column(Column::RangeCount(w)),
            _ => return true,
        };
        committed
            .iter()
            .zip(counts)
            .all(|(c, n)| *c == Base::from_u32(n))
    })
}

#[test]
fn no_committed_cell_is_free() {
    let input = fixtures::noise(4, 5 * 3, 127);
    let mut case = Case::new(fixtures::mlp(&[5, 3, 2]), vec![input], 3, Weights::Holder);
    let sums: Vec<Vec<Base>> = (0..case.plan.skeleton.nodes.len())
        .map(|i| honest_sums(&case, i))
        .collect();
    assert!(holds(&case, &case.witness, &sums));
    let blocks = case.plan.stack.blocks.clone();
    let offsets = fixtures::noise(77, case.witness.cells.len(), 1 << 20);
    for (column, block) in case.plan.columns.clone().into_iter().zip(blocks) {
        let own = &offsets[block.start..][..1 << block.bits];
        for (at, noise) in own.iter().enumerate() {
            let cell = block.start + at;
            let honest = case.witness.cells[cell];
            for offset in [1, -1, noise | 2] {
                case.witness.cells[cell] = honest + small(offset);
                let free = holds(&case, &case.witness, &sums);
                assert!(!free, "{column:?}, cell {cell}, {offset}");
            }
            case.witness.cells[cell] = honest;
        }
    }
}
