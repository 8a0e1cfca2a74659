//! The walk over the tiles of a product.
#![allow(unsafe_code)]

use super::{BLOCK_K, PANEL, UNIT, Unit, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::isa::Isa;

/// Most rows of a tile.
pub(super) const ROWS: usize = 8;

/// The left operand: values, and where in them those of a row lie.
pub(crate) struct Left<'a> {
    values: &'a [f32],
    /// How far each value of a row is from the row's beginning; without, as far as its number.
    offsets: Option<&'a [u32]>,
    /// The largest distance, plus 1.
    reach: usize,
}

impl<'a> Left<'a> {
    /// Rows whose values are neighbours.
    pub(crate) fn rows(values: &'a [f32]) -> Left<'a> {
        Left {
            values,
            offsets: None,
            reach: 0,
        }
    }

    /// Rows whose value `i` is `offsets[i]` from the row's beginning.
    pub(crate) fn gathered(values: &'a [f32], offsets: &'a [u32]) -> Left<'a> {
        let reach = offsets.iter().max().map_or(0, |&o| o as usize + 1);
        Left {
            values,
            offsets: Some(offsets),
            reach,
        }
    }
}

/// Some panels of a packed right operand.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    /// Panel after panel, each of `k` rows; all but the last have [`PANEL`] columns.
    pub(crate) units: &'a [Unit],
    pub(crate) k: usize,
    /// Columns of all these panels that are wanted.
    pub(crate) n: usize,
}

/// What a tile computes: some rows by up to four units over one block of k.
pub(super) struct Tile<'a> {
    /// Where the rows begin, at the first value of the block unless there are offsets.
    pub(super) rows: &'a [*const f32],
    /// Distances of this block's values; null where they are neighbours.
    pub(super) offsets: *const u32,
    /// Values of the block.
    pub(super) k: usize,
    /// The block's first row of the first unit.
    pub(super) b: *const f32,
    /// Values between two rows of the panel.
    pub(super) b_stride: usize,
    /// Units, 1 to 4.
    pub(super) width: usize,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// The sums stand as they are; otherwise they are added to what is there.
    pub(super) first: bool,
    /// The results are final: NaN is made canonical.
    pub(super) last: bool,
}

/// The innermost loops, for one instruction set.
pub(super) trait Tiles: Copy {
    /// Computes a tile of at most [`ROWS`] rows, 6 where it is four units wide.
    ///
    /// # Safety
    /// Everything that the tile points to exists, and its part of the result is this caller's.
    unsafe fn tile(self, tile: &Tile<'_>);
}

/// `out[i · stride..][..n] = A[i] · B` for rows that begin at `rows`, `k > 0`.
///
/// # Safety
/// Those parts of the result exist, and nobody else uses them.
///
/// # Panics
/// If a row does not lie in the left operand's values, or B has another size than it says.
pub(crate) unsafe fn multiply(
    isa: Isa,
    left: &Left<'_>,
    rows: &[usize],
    right: Right<'_>,
    out: *mut f32,
    stride: usize,
) {
    let reach = match left.offsets {
        Some(offsets) => {
            assert_eq!(offsets.len(), right.k, "an offset for each value");
            left.reach
        }
        None => right.k,
    };
    let farthest = rows.iter().max().map_or(0, |&r| r + reach);
    assert!(
        farthest <= left.values.len(),
        "rows lie in the left operand"
    );
    let units = right.n.div_ceil(UNIT);
    assert!(
        right.units.len() >= units * right.k,
        "panels of the right operand"
    );
    let walk = Walk {
        left,
        rows,
        right,
        stride,
    };
    // SAFETY: rows and panels were checked; the result is this caller's.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = avx512::Wide::on(isa) {
            return walk.run(tiles, out);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = avx2::Wide::on(isa) {
            return walk.run(tiles, out);
        }
        let _ = isa;
        walk.run(portable::Plain, out);
    }
}

struct Walk<'a> {
    left: &'a Left<'a>,
    rows: &'a [usize],
    right: Right<'a>,
    stride: usize,
}

impl Walk<'_> {
    /// Panel by panel, block by block: the group's part of the result stays in the cache.
    ///
    /// # Safety
    /// As [`multiply`], which checked the bounds.
    unsafe fn run<T: Tiles>(&self, tiles: T, out: *mut f32) {
        let Right { units, k, n } = self.right;
        for left_column in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - left_column);
            let count = width.div_ceil(UNIT);
            let panel = units[left_column / UNIT * k..][..count * k].as_ptr();
            for start in (0..k).step_by(BLOCK_K) {
                // SAFETY: within the panel, the rows and the result.
                unsafe {
                    let b = panel.add(start * count).cast::<f32>();
                    self.block(tiles, start, b, count, width, out.add(left_column));
                }
            }
        }
    }

    /// All rows by one block of one panel of `count` units, of which `width` columns are wanted.
    unsafe fn block<T: Tiles>(
        &self,
        tiles: T,
        start: usize,
        b: *const f32,
        count: usize,
        width: usize,
        out: *mut f32,
    ) {
        let m = self.rows.len();
        // 7 or 8 rows: in two halves of the panel, so that each row of it is read once.
        let (most, units) = match count {
            4 if m == 7 || m == 8 => (ROWS, 2),
            4 => (6, 4),
            _ => (ROWS, count),
        };
        let parts = m.div_ceil(most);
        for part in 0..parts {
            let (first, height) = share(m, parts, part);
            for unit in (0..count).step_by(units) {
                let wanted = (width - unit * UNIT).min(units * UNIT);
                // SAFETY: within the block.
                unsafe {
                    let b = b.add(unit * UNIT);
                    let out = out.add(first * self.stride + unit * UNIT);
                    self.tile(tiles, first, height, start, b, count * UNIT, wanted, out);
                }
            }
        }
    }

    /// One tile, of which `wanted` columns are stored.
    #[allow(
        clippy::too_many_arguments,
        reason = "where the tile lies in each matrix"
    )]
    #[inline(always)]
    unsafe fn tile<T: Tiles>(
        &self,
        tiles: T,
        first: usize,
        height: usize,
        start: usize,
        b: *const f32,
        b_stride: usize,
        wanted: usize,
        out: *mut f32,
    ) {
        let k = BLOCK_K.min(self.right.k - start);
        let mut rows = [std::ptr::null(); ROWS];
        let (offsets, skip) = match self.left.offsets {
            Some(offsets) => (offsets[start..].as_ptr(), 0),
            None => (std::ptr::null(), start),
        };
        for (pointer, &row) in rows.iter_mut().zip(&self.rows[first..first + height]) {
            // SAFETY: every row lies in the values.
            *pointer = unsafe { self.left.values.as_ptr().add(row + skip) };
        }
        let width = wanted.div_ceil(UNIT);
        let mut tile = Tile {
            rows: &rows[..height],
            offsets,
            k,
            b,
            b_stride,
            width,
            out,
            stride: self.stride,
            first: start == 0,
            last: start + k == self.right.k,
        };
        // SAFETY: as this function's own; a tile wider than what is wanted gets a place of its own.
        unsafe {
            if wanted == width * UNIT {
                return tiles.tile(&tile);
            }
            let mut edge = [0.0f32; ROWS * PANEL];
            if !tile.first {
                for i in 0..height {
                    let line = out.add(i * self.stride);
                    line.copy_to_nonoverlapping(edge[i * PANEL..].as_mut_ptr(), wanted);
                }
            }
            tile.out = edge.as_mut_ptr();
            tile.stride = PANEL;
            tiles.tile(&tile);
            for i in 0..height {
                let line = out.add(i * self.stride);
                line.copy_from_nonoverlapping(edge[i * PANEL..].as_ptr(), wanted);
            }
        }
    }
}

/// First row and height of part `i` where `m` rows are cut into `count` parts.
#[inline(always)]
fn share(m: usize, count: usize, i: usize) -> (usize, usize) {
    let (height, taller) = (m / count, m % count);
    (i * height + i.min(taller), height + usize::from(i < taller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_row_once_and_differ_by_one_at_most() {
        for m in 1..200usize {
            let count = m.div_ceil(ROWS);
            let mut next = 0;
            for i in 0..count {
                let (first, height) = share(m, count, i);
                assert_eq!(first, next);
                assert!((1..=ROWS).contains(&height) && height.abs_diff(m / count) <= 1);
                next += height;
            }
            assert_eq!(next, m);
        }
    }
}
