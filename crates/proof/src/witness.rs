//! The witness: what a prover commits to, and the leaves of the lookup argument.

use lemma_graph::integer::{IntegerGraph, Trace};
use p3_field::PackedValue;
use rayon::prelude::*;

use crate::field::{
    Base, Ext, LANES, PackedBase, PackedExt, PackedFieldExtension, PrimeCharacteristicRing, small,
};
use crate::layout::{Block, ConstantLayout, Piece, scatter};
use crate::plan::{Column, Lookup, Plan, variables};

/// Elements of a tensor in their cube.
pub(crate) fn padded(values: &[i32], shape: &[usize]) -> Vec<Base> {
    let mut cells = vec![Base::ZERO; 1 << variables(shape)];
    scatter(shape, &[], |i, place| cells[place] = small(values[i]));
    cells
}

/// The committed cells.
pub(crate) struct Witness {
    pub(crate) cells: Vec<Base>,
    pub(crate) trace: Trace,
}

impl Witness {
    /// The witness of a trace.
    pub(crate) fn new(plan: &Plan, trace: Trace) -> Witness {
        let mut cells = vec![Base::ZERO; 1 << plan.stack.bits];
        for (column, block) in plan.columns.iter().zip(&plan.stack.blocks) {
            let cells = &mut cells[block.start..][..1 << block.bits];
            fill(plan, *column, &trace, cells);
        }
        Witness { cells, trace }
    }

    /// The cells of a column.
    pub(crate) fn column(&self, plan: &Plan, column: usize) -> &[Base] {
        let Block { bits, start } = plan.stack.blocks[column];
        &self.cells[start..][..1 << bits]
    }
}

fn fill(plan: &Plan, column: Column, trace: &Trace, cells: &mut [Base]) {
    let nodes = &plan.skeleton.nodes;
    match column {
        Column::Index(i) => {
            let (sums, shift) = (&trace.sums[i], nodes[i].shift);
            scatter(&nodes[i].expression.shape, &[], |j, place| {
                cells[place] = Base::from_u32(sums[j] >> shift);
            });
        }
        Column::Limb(i, limb) => {
            let widths = plan.limbs(i);
            let below: u32 = widths[..limb].iter().sum();
            let mask = (1u32 << widths[limb]) - 1;
            let sums = &trace.sums[i];
            scatter(&nodes[i].expression.shape, &[], |j, place| {
                cells[place] = Base::from_u32(sums[j] >> below & mask);
            });
        }
        Column::Value(i) => {
            let values = &trace.values[i];
            scatter(&nodes[i].expression.shape, &[], |j, place| {
                cells[place] = small(values[j])
            });
        }
        Column::TableCount(t) => {
            let mut counts = vec![0u32; cells.len()];
            for (i, node) in nodes.iter().enumerate().filter(|(_, n)| n.table == t) {
                for sum in &trace.sums[i] {
                    counts[(sum >> node.shift) as usize] += 1;
                }
            }
            write_counts(&counts, cells);
        }
        Column::RangeCount(width) => {
            let mut counts = vec![0u32; cells.len()];
            for i in 0..nodes.len() {
                let mut below = 0;
                for w in plan.limbs(i) {
                    if w == width {
                        let mask = (1u32 << w) - 1;
                        for sum in &trace.sums[i] {
                            counts[(sum >> below & mask) as usize] += 1;
                        }
                    }
                    below += w;
                }
            }
            write_counts(&counts, cells);
        }
    }
}

fn write_counts(counts: &[u32], cells: &mut [Base]) {
    for (cell, &n) in cells.iter_mut().zip(counts) {
        *cell = Base::from_u32(n);
    }
}

/// One block of lookups: the parts of its denominators α − key − β·value − tag·selector, and its
/// numerators.
struct Leaves<'a> {
    key: std::borrow::Cow<'a, [Base]>,
    value: Option<std::borrow::Cow<'a, [Base]>>,
    tag: Ext,
    selector: Option<Vec<Base>>,
    counts: Option<&'a [Base]>,
}

/// 1 on the true indices of a shape, 0 on padding; `None` if there is none.
fn selector(shape: &[usize]) -> Option<Vec<Base>> {
    let bits = variables(shape);
    (shape.iter().product::<usize>() < 1 << bits).then(|| {
        let mut cells = vec![Base::ZERO; 1 << bits];
        scatter(shape, &[], |_, place| cells[place] = Base::ONE);
        cells
    })
}

fn leaves<'a>(plan: &'a Plan, witness: &'a Witness, lookup: &Lookup, beta: Ext) -> Leaves<'a> {
    use std::borrow::Cow::{Borrowed, Owned};
    let column = |c: Column| witness.column(plan, plan.column(c).unwrap_or(0));
    let tag = |tag: u32| beta.square() * Base::from_u32(tag);
    match *lookup {
        Lookup::Node(i) => {
            let node = &plan.skeleton.nodes[i];
            Leaves {
                key: Borrowed(column(Column::Index(i))),
                value: Some(Borrowed(column(Column::Value(i)))),
                tag: tag(plan.table_tag(node.table)),
                selector: selector(&node.expression.shape),
                counts: None,
            }
        }
        Lookup::Limb(i, limb) => Leaves {
            key: Borrowed(column(Column::Limb(i, limb))),
            value: None,
            tag: tag(plan.range_tag(plan.limbs(i)[limb])),
            selector: selector(&plan.skeleton.nodes[i].expression.shape),
            counts: None,
        },
        Lookup::Table(t) => {
            let entries = &plan.skeleton.tables[t].entries;
            let values = entries.iter().map(|&e| small(i32::from(e)));
            Leaves {
                key: Owned((0..entries.len()).map(Base::from_usize).collect()),
                value: Some(Owned(values.collect())),
                tag: tag(plan.table_tag(t)),
                selector: None,
                counts: Some(column(Column::TableCount(t))),
            }
        }
        Lookup::Range(width) => Leaves {
            key: Owned((0..1usize << width).map(Base::from_usize).collect()),
            value: None,
            tag: tag(plan.range_tag(width)),
            selector: None,
            counts: Some(column(Column::RangeCount(width))),
        },
    }
}

/// Numerators and denominators of all lookups and tables.
pub(crate) fn fractions(
    plan: &Plan,
    witness: &Witness,
    alpha: Ext,
    beta: Ext,
) -> (Vec<PackedExt>, Vec<PackedExt>) {
    let size = (1usize << plan.leaves.bits) / LANES;
    let mut numerators = vec![PackedExt::ZERO; size];
    let mut denominators = vec![PackedExt::from(Ext::ONE); size];
    for (lookup, block) in plan.lookups.iter().zip(&plan.leaves.blocks) {
        let part = leaves(plan, witness, lookup, beta);
        let length = 1usize << block.bits;
        if length >= LANES {
            let range = block.start / LANES..(block.start + length) / LANES;
            fill_packed(
                &part,
                alpha,
                beta,
                &mut numerators[range.clone()],
                &mut denominators[range],
            );
        } else {
            for i in 0..length {
                let (n, d) = part.fraction(i, alpha, beta);
                let place = block.start + i;
                let (at, lane) = (place / LANES, crate::field::lane(place));
                numerators[at].add_assign_lane(lane, n);
                denominators[at].add_assign_lane(lane, d - Ext::ONE);
            }
        }
    }
    (numerators, denominators)
}

impl Leaves<'_> {
    fn fraction(&self, i: usize, alpha: Ext, beta: Ext) -> (Ext, Ext) {
        let selected = self.selector.as_ref().map_or(Base::ONE, |s| s[i]);
        let value = self.value.as_ref().map_or(Base::ZERO, |v| v[i]);
        let denominator = alpha - self.key[i] - beta * value - self.tag * selected;
        let numerator = self.counts.map_or(Ext::ONE, |c| -Ext::from(c[i]));
        (numerator, denominator)
    }
}

fn fill_packed(
    part: &Leaves<'_>,
    alpha: Ext,
    beta: Ext,
    numerators: &mut [PackedExt],
    denominators: &mut [PackedExt],
) {
    let keys = PackedBase::pack_slice(&part.key);
    let values = part.value.as_deref().map(PackedBase::pack_slice);
    let selectors = part.selector.as_deref().map(PackedBase::pack_slice);
    let counts = part.counts.map(PackedBase::pack_slice);
    let (fixed, beta, tag) = (
        PackedExt::from(if selectors.is_some() {
            alpha
        } else {
            alpha - part.tag
        }),
        PackedExt::from(beta),
        PackedExt::from(part.tag),
    );
    numerators
        .par_iter_mut()
        .zip(denominators)
        .with_min_len(512)
        .enumerate()
        .for_each(|(i, (n, d))| {
            let mut denominator = fixed - keys[i];
            if let Some(values) = values {
                denominator -= beta * values[i];
            }
            if let Some(selectors) = selectors {
                denominator -= tag * selectors[i];
            }
            *d = denominator;
            *n = match counts {
                Some(counts) => -PackedExt::from(counts[i]),
                None => PackedExt::from(Ext::ONE),
            };
        });
}

/// The committed constants of a graph in their stack.
pub(crate) fn constant_cells(graph: &IntegerGraph) -> Vec<Base> {
    let layout = ConstantLayout::new(graph.skeleton());
    let mut cells = vec![Base::ZERO; 1 << layout.stack.bits];
    let constants = graph.constants().iter().zip(&graph.skeleton().constants);
    for ((values, range), pieces) in constants.zip(&layout.pieces) {
        for Piece { block, ranges } in pieces {
            let cells = &mut cells[block.start..][..1 << block.bits];
            scatter(&range.shape, ranges, |i, place| {
                cells[place] = small(values[i]);
            });
        }
    }
    cells
}
