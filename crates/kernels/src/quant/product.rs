//! The walk over the tiles of a product.
#![allow(unsafe_code)]

use super::{BLOCK, Format, PAIR, PackedMatrix, QuantRows, SLIVER, Tiles, dense, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::isa::Isa;
use crate::threads::{Slots, Threads};

/// Rows of activations.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// As they are, for dense weights: rows of `k` values.
    Dense(&'a [f32]),
    /// Quantised, for quantised weights.
    Quantised(&'a QuantRows),
}

/// Blocks of 32 after which the walk turns to the next rows, so that the weights in use stay in
/// the first-level cache.
const STRIDE: usize = 8;

/// Slivers whose sums are held at a time.
const GROUP: usize = 16;

/// Tasks for each thread: enough that one which is late holds up little.
const TASKS: usize = 4;

impl PackedMatrix {
    /// `out = x · Wᵀ`: for each row of `x` the `n` outputs, row-major.
    ///
    /// # Panics
    /// If `x` is quantised and the weights are not, or the other way round; if a row of `x` has
    /// not `k` values, or `out` not `n` for each row.
    pub fn multiply(&self, isa: Isa, threads: &Threads, x: Input<'_>, out: &mut [f32]) {
        let (n, k) = (self.n(), self.k());
        if n == 0 {
            assert!(out.is_empty(), "multiply: result of no outputs");
            return;
        }
        assert!(
            out.len().is_multiple_of(n),
            "multiply: {} results are no rows of {n}",
            out.len()
        );
        let m = out.len() / n;
        let fits = match x {
            Input::Dense(x) => !self.format().is_quantised() && Some(x.len()) == m.checked_mul(k),
            Input::Quantised(x) => {
                self.format().is_quantised() && x.m() == m && (m == 0 || x.k() == k)
            }
        };
        assert!(
            fits,
            "multiply: activations do not fit {self:?} and {m} rows"
        );
        let pairs = n.div_ceil(PAIR);
        let tasks = pairs.min(threads.count() * TASKS);
        let slots = Slots::of(out);
        threads.run(tasks, |task| {
            let range = task * pairs / tasks..(task + 1) * pairs / tasks;
            for pair in range {
                let left = pair * PAIR;
                let width = PAIR.min(n - left);
                // SAFETY: each pair of panels has columns of its own, and each comes once.
                let mut place = |row: usize| unsafe { slots.slice(row * n + left, width) };
                match x {
                    Input::Dense(x) => dense::pair(isa, self, pair, x, &mut |row, sums| {
                        portable::Tiles.put(sums, place(row));
                    }),
                    Input::Quantised(x) => quantised(isa, self, pair, x, &mut place),
                }
            }
        });
    }
}

/// One pair of panels by all rows; `place` is where the results of a row belong.
fn quantised<'o>(
    isa: Isa,
    weights: &PackedMatrix,
    pair: usize,
    x: &QuantRows,
    place: &mut impl FnMut(usize) -> &'o mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = avx512::Tiles::on(isa) {
        return walk(tiles, weights, pair, x, place);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = avx2::Tiles::on(isa) {
        return walk(tiles, weights, pair, x, place);
    }
    let _ = isa;
    walk(portable::Tiles, weights, pair, x, place);
}

fn walk<'o, T: Tiles>(
    tiles: T,
    weights: &PackedMatrix,
    pair: usize,
    x: &QuantRows,
    place: &mut impl FnMut(usize) -> &'o mut [f32],
) {
    let format: Format = weights.format();
    let last = weights.panels() - 1;
    // The second panel of the last pair may be missing: then the first one is taken twice.
    let panels = [2 * pair, last.min(2 * pair + 1)].map(|p| weights.panel(p));
    let blocks = weights.k() / BLOCK;
    if x.count() == 1 {
        let mut sums = [[0.0; PAIR]; SLIVER];
        let (_, height, x) = x.sliver(0);
        tiles.tile(format, panels, 0, blocks, height, x, &mut sums);
        for (row, sums) in sums.iter().enumerate().take(height) {
            tiles.put(sums, place(row));
        }
        return;
    }
    let mut sums = [[[0.0; PAIR]; SLIVER]; GROUP];
    let mut slivers = [(0, 0, &[][..]); GROUP];
    for start in (0..x.count()).step_by(GROUP) {
        let count = GROUP.min(x.count() - start);
        let slivers = &mut slivers[..count];
        for (i, sliver) in slivers.iter_mut().enumerate() {
            *sliver = x.sliver(start + i);
        }
        for first in (0..blocks).step_by(STRIDE) {
            let count = STRIDE.min(blocks - first);
            for ((_, height, x), sums) in slivers.iter().zip(&mut sums) {
                let x = &x[first * height..(first + count) * height];
                tiles.tile(format, panels, first, count, *height, x, sums);
            }
        }
        for ((row, height, _), sums) in slivers.iter().zip(&sums) {
            for (i, sums) in sums.iter().enumerate().take(*height) {
                tiles.put(sums, place(row + i));
            }
        }
    }
}
