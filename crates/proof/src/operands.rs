//! The operands of a product, seen from a point: bound along the axes that are theirs alone.

use std::borrow::Cow;

use lemma_graph::integer::View;
use p3_field::PackedValue;
use rayon::prelude::*;

use crate::field::{Base, Ext, LANES, PackedBase, PackedExt, PrimeCharacteristicRing, small};
use crate::layout::scatter;
use crate::plan::{Product, log2};
use crate::poly::eq_table;
use crate::sumcheck::Values;

/// A tensor as the prover holds it.
pub(crate) struct Tensor<'a> {
    /// Elements, row-major.
    pub(crate) values: &'a [i32],
    /// Elements in their cube.
    pub(crate) cells: Cow<'a, [Base]>,
    pub(crate) shape: &'a [usize],
}

/// `Σ eq(point, o) · operand(b, o, k)` over the operand's own axes o: values over batch and
/// contracted axes.
pub(crate) fn bind(
    product: &Product,
    view: &View,
    own: &[usize],
    point: &[Ext],
    tensor: Tensor<'_>,
) -> Values {
    let split = &product.split;
    let over = [&split.batch[..], own, &split.contracted].concat();
    let sizes: Vec<usize> = over.iter().map(|&a| product.axes[a]).collect();
    let bits = |axes: &[usize]| -> usize { axes.iter().map(|&a| log2(product.axes[a])).sum() };
    let (batch, contracted) = (
        1usize << bits(&split.batch),
        1usize << bits(&split.contracted),
    );
    let own = 1usize << point.len();
    let gathered;
    let cells: &[Base] = if view.is_straight(&over, tensor.shape.len()) {
        &tensor.cells
    } else {
        let shown = view.gather(tensor.values, tensor.shape, &product.axes, &over);
        let mut cells = vec![Base::ZERO; batch * own * contracted];
        scatter(&sizes, &[], |i, place| cells[place] = small(shown[i]));
        gathered = cells;
        &gathered
    };
    let weights = eq_table(point);
    fold(cells, &weights, batch, contracted)
}

/// For each of `batch` matrices of rows of `width`, the combination of the rows by weights.
fn fold(cells: &[Base], weights: &[Ext], batch: usize, width: usize) -> Values {
    let rows = weights.len();
    if width < LANES || width * batch < 2 * LANES {
        let mut out = vec![Ext::ZERO; batch * width];
        for (b, matrix) in cells.chunks(rows * width).enumerate() {
            for (row, &w) in matrix.chunks(width).zip(weights) {
                for (sum, &cell) in out[b * width..].iter_mut().zip(row) {
                    *sum += w * cell;
                }
            }
        }
        return Values::new(out);
    }
    let cells = PackedBase::pack_slice(cells);
    let width = width / LANES;
    if rows == 1 {
        return Values::Packed(
            cells
                .iter()
                .map(|&c| PackedExt::from(weights[0]) * c)
                .collect(),
        );
    }
    let fold_rows = |matrix: &[PackedBase]| -> Vec<PackedExt> {
        let add = |mut sum: Vec<PackedExt>, (row, &w): (&[PackedBase], &Ext)| {
            let w = PackedExt::from(w);
            sum.iter_mut().zip(row).for_each(|(s, &c)| *s += w * c);
            sum
        };
        let zero = || vec![PackedExt::ZERO; width];
        matrix
            .par_chunks(width)
            .zip(weights)
            .with_min_len((1 << 14) / width.min(1 << 14))
            .fold(zero, add)
            .reduce(zero, |mut a, b| {
                a.iter_mut().zip(b).for_each(|(x, y)| *x += y);
                a
            })
    };
    Values::Packed(cells.chunks(rows * width).flat_map(fold_rows).collect())
}
