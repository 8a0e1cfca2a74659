//! The walk over the tiles of a product.

use super::{BLOCK_K, Block, GROUP, PANEL, Row, SLIVER, Slivers, Tiles, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::isa::Isa;

/// `C = A · B` for packed operands with `k > 0`: `b` holds the panels of a matrix of `n` columns,
/// and row `i` of the result is `out[i · stride..][..n]`.
pub(crate) fn multiply(isa: Isa, a: &Slivers, b: &[Row], n: usize, out: &mut [f32], stride: usize) {
    debug_assert_eq!(b.len(), n.div_ceil(PANEL) * a.k());
    let walk = Walk { a, b, n, stride };
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = avx512::Tiles::on(isa) {
        return walk.run(tiles, out);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(tiles) = avx2::Tiles::on(isa) {
        return walk.run(tiles, out);
    }
    let _ = isa;
    walk.run(portable::Tiles, out);
}

/// Slivers up to which each panel is finished before the next: then B is read once, in order.
const FEW: usize = 2;

struct Walk<'a> {
    a: &'a Slivers,
    b: &'a [Row],
    n: usize,
    stride: usize,
}

impl Walk<'_> {
    fn run<T: Tiles>(&self, tiles: T, out: &mut [f32]) {
        match self.a.count() {
            0 => {}
            1 if self.a.m() == 1 => self.one_row(tiles, out),
            count if count <= FEW => self.panel_by_panel(tiles, out),
            _ => self.block_by_block(tiles, out),
        }
    }

    /// A vector times a matrix: several panels at a time keep enough chains in flight.
    fn one_row<T: Tiles>(&self, tiles: T, out: &mut [f32]) {
        let (_, _, row) = self.a.get(0);
        let whole = self.n / PANEL * PANEL;
        let (b, b_rest) = self.b.split_at(whole / PANEL * row.len());
        tiles.row(row, b, &mut out[..whole]);
        if whole < self.n {
            let mut edge = [0.0; PANEL];
            tiles.row(row, b_rest, &mut edge);
            out[whole..self.n].copy_from_slice(&edge[..self.n - whole]);
        }
    }

    /// Few rows: all of k for one panel, then the next.
    fn panel_by_panel<T: Tiles>(&self, tiles: T, out: &mut [f32]) {
        let k = self.a.k();
        for p in 0..self.b.len() / k {
            for start in (0..k).step_by(BLOCK_K) {
                for s in 0..self.a.count() {
                    self.tile(tiles, s, p, start, out);
                }
            }
        }
    }

    /// Many rows: one block of k for a group of slivers, which stays in the second-level cache
    /// while each panel passes through the first.
    fn block_by_block<T: Tiles>(&self, tiles: T, out: &mut [f32]) {
        let k = self.a.k();
        let group = GROUP / SLIVER;
        for slivers in (0..self.a.count()).step_by(group) {
            let slivers = slivers..self.a.count().min(slivers + group);
            for start in (0..k).step_by(BLOCK_K) {
                for p in 0..self.b.len() / k {
                    for s in slivers.clone() {
                        self.tile(tiles, s, p, start, out);
                    }
                }
            }
        }
    }

    /// Sliver `s` times panel `p` over the block of k that begins at `start`.
    #[inline(always)]
    fn tile<T: Tiles>(&self, tiles: T, s: usize, p: usize, start: usize, out: &mut [f32]) {
        let k = self.a.k();
        let end = k.min(start + BLOCK_K);
        let block = Block {
            first: start == 0,
            last: end == k,
        };
        let (row, height, sliver) = self.a.get(s);
        let sliver = &sliver[start * height..end * height];
        let panel = &self.b[p * k + start..p * k + end];
        let corner = row * self.stride + p * PANEL;
        let width = PANEL.min(self.n - p * PANEL);
        if width == PANEL {
            tiles.tile(
                height,
                sliver,
                panel,
                &mut out[corner..],
                self.stride,
                block,
            );
            return;
        }
        // A partial panel goes through a whole tile of its own.
        let mut edge = [0.0; SLIVER * PANEL];
        let lines = out[corner..].chunks_mut(self.stride);
        if !block.first {
            for (line, edge) in lines.zip(edge.chunks_exact_mut(PANEL)).take(height) {
                edge[..width].copy_from_slice(&line[..width]);
            }
        }
        tiles.tile(height, sliver, panel, &mut edge, PANEL, block);
        let lines = out[corner..].chunks_mut(self.stride);
        for (line, edge) in lines.zip(edge.chunks_exact(PANEL)).take(height) {
            line[..width].copy_from_slice(&edge[..width]);
        }
    }
}
