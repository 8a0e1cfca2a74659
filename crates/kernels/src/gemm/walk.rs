//! The walk over the tiles of a product.
#![allow(unsafe_code)]

use super::{BLOCK_K, Order, PANEL, UNIT, Unit, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::epilogue::Epilogue;
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
    /// How the units of a panel follow each other.
    pub(crate) order: Order,
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
    /// Values between two units of a row.
    pub(super) unit_stride: usize,
    /// Units, 1 to 4.
    pub(super) width: usize,
    /// Columns of the last unit that are stored.
    pub(super) edge: usize,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// The sums stand as they are; otherwise they are added to what is there.
    pub(super) first: bool,
    /// What becomes of the results if they are final.
    pub(super) end: Option<End>,
    /// What later tiles read of the panels: it may be asked for meanwhile.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "the portable tiles ask for nothing")
    )]
    pub(super) ahead: &'a [Unit],
}

/// The part of an epilogue that meets a tile; NaN is made canonical then.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// A value for each column; null for none.
    pub(super) bias: *const f32,
    /// A value for each result, in rows as far apart as those of the result; null for none.
    pub(super) addend: *const f32,
    pub(super) low: f32,
    pub(super) high: f32,
}

impl End {
    /// That of the part that begins at a row and a column of the epilogue.
    ///
    /// # Safety
    /// The epilogue has a value there.
    unsafe fn of(epilogue: &Epilogue<'_>, row: usize, column: usize, stride: usize) -> End {
        // SAFETY: the caller's promise.
        let at = |values: Option<&[f32]>, offset: usize| unsafe {
            values.map_or(std::ptr::null(), |v| v.as_ptr().add(offset))
        };
        End {
            bias: at(epilogue.bias, column),
            addend: at(epilogue.addend, row * stride + column),
            low: epilogue.low,
            high: epilogue.high,
        }
    }
}

/// The innermost loops, for one instruction set.
pub(super) trait Tiles: Copy {
    /// Whether it stores part of a unit; otherwise the last unit of a tile is always whole.
    const EDGES: bool;

    /// Tiles of a block from which on each asks for a share of the next one.
    const MANY: usize;

    /// Most rows of a tile of so many units, at most [`ROWS`].
    fn most(units: usize) -> usize;

    /// Computes a tile of at most so many rows.
    ///
    /// # Safety
    /// Everything that the tile points to exists, and its part of the result is this caller's.
    unsafe fn tile(self, tile: &Tile<'_>);
}

/// `out[i · stride..][..n] = A[i] · B` for rows that begin at `rows`, `k > 0`, and what the epilogue makes of that, whose
/// matrix has rows `stride` apart too.
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
    epilogue: &Epilogue<'_>,
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
    let last = (rows.len().max(1) - 1) * stride + right.n;
    assert!(
        epilogue.bias.is_none_or(|bias| bias.len() >= right.n)
            && epilogue.addend.is_none_or(|addend| addend.len() >= last),
        "operands of the epilogue"
    );
    let walk = Walk {
        left,
        rows,
        right,
        epilogue,
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
    epilogue: &'a Epilogue<'a>,
    stride: usize,
}

/// Where a tile lies: its rows, its first column, the first value of its block along k.
#[derive(Clone, Copy)]
struct Spot {
    first: usize,
    height: usize,
    column: usize,
    start: usize,
}

/// One block of one panel.
#[derive(Clone, Copy)]
struct Block<'a> {
    /// The first value along k.
    start: usize,
    left_column: usize,
    /// Columns that are wanted.
    width: usize,
    units: &'a [Unit],
    /// Units between two rows, and between two units of a row.
    steps: [usize; 2],
    /// As many that follow: those of the next block.
    next: &'a [Unit],
}

impl Walk<'_> {
    /// Panel by panel, block by block: the group's part of the result stays in the cache.
    ///
    /// # Safety
    /// As [`multiply`], which checked the bounds.
    unsafe fn run<T: Tiles>(&self, tiles: T, out: *mut f32) {
        let Right { units, k, n, order } = self.right;
        for left_column in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - left_column);
            let count = width.div_ceil(UNIT);
            let panel = &units[left_column / UNIT * k..];
            for start in (0..k).step_by(BLOCK_K) {
                let rows = BLOCK_K.min(k - start);
                let len = rows * count;
                let (units, next) = panel[start * count..].split_at(len);
                let block = Block {
                    start,
                    left_column,
                    width,
                    units,
                    steps: order.steps(rows, count),
                    next: &next[..len.min(next.len())],
                };
                // SAFETY: within the panel, the rows and the result.
                unsafe { self.block(tiles, block, out) };
            }
        }
    }

    /// All rows by one block of one panel.
    unsafe fn block<T: Tiles>(&self, tiles: T, block: Block<'_>, out: *mut f32) {
        let m = self.rows.len();
        let tiles_below = m.div_ceil(T::most(block.width.div_ceil(UNIT)));
        // Each tile asks for its share of the next block. Few of them had better not: they would ask for more than they
        // read, in the way of the machine, which sees itself what comes next.
        let share = match tiles_below >= T::MANY {
            true => block.next.len().div_ceil(tiles_below),
            false => 0,
        };
        let mut next = block.next;
        for (first, height) in shares(m, tiles_below) {
            let spot = Spot {
                first,
                height,
                column: block.left_column,
                start: block.start,
            };
            let (ahead, rest) = next.split_at(share.min(next.len()));
            next = rest;
            // SAFETY: within the block.
            unsafe {
                let out = out.add(first * self.stride + block.left_column);
                self.tile(tiles, spot, &block, ahead, out);
            }
        }
    }

    /// One tile, of which the wanted columns are stored.
    #[inline(always)]
    unsafe fn tile<T: Tiles>(
        &self,
        tiles: T,
        spot: Spot,
        block: &Block<'_>,
        ahead: &[Unit],
        out: *mut f32,
    ) {
        let Spot {
            first,
            height,
            column,
            start,
        } = spot;
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
        let last = start + k == self.right.k;
        let wanted = block.width;
        let width = wanted.div_ceil(UNIT);
        let [b_stride, unit_stride] = block.steps.map(|step| step * UNIT);
        let mut tile = Tile {
            rows: &rows[..height],
            offsets,
            k,
            b: block.units.as_ptr().cast(),
            b_stride,
            unit_stride,
            width,
            edge: wanted - (width - 1) * UNIT,
            out,
            stride: self.stride,
            first: start == 0,
            // SAFETY: `multiply` checked that the epilogue has a value for each result.
            end: last.then(|| unsafe { End::of(self.epilogue, first, column, self.stride) }),
            ahead,
        };
        // SAFETY: as this function's own; a tile wider than what is wanted gets places of its own.
        unsafe {
            if T::EDGES || tile.edge == UNIT {
                return tiles.tile(&tile);
            }
            let mut result = Lines::ZERO;
            let (mut bias, mut addend) = ([0.0; PANEL], Lines::ZERO);
            if !tile.first {
                result.take(out, self.stride, height, wanted);
            }
            if let Some(end) = &mut tile.end {
                if !end.bias.is_null() {
                    end.bias.copy_to_nonoverlapping(bias.as_mut_ptr(), wanted);
                    end.bias = bias.as_ptr();
                }
                if !end.addend.is_null() {
                    addend.take(end.addend, self.stride, height, wanted);
                    end.addend = addend.0.as_ptr();
                }
            }
            (tile.out, tile.stride, tile.edge) = (result.0.as_mut_ptr(), PANEL, UNIT);
            tiles.tile(&tile);
            for i in 0..height {
                let line = out.add(i * self.stride);
                line.copy_from_nonoverlapping(result.0[i * PANEL..].as_ptr(), wanted);
            }
        }
    }
}

/// The lines of a tile, with room for whole units.
struct Lines([f32; ROWS * PANEL]);

impl Lines {
    const ZERO: Lines = Lines([0.0; ROWS * PANEL]);

    /// Copies `height` lines of `wanted` values from a matrix.
    ///
    /// # Safety
    /// They exist, and are no more than a tile has.
    unsafe fn take(&mut self, from: *const f32, stride: usize, height: usize, wanted: usize) {
        for (i, line) in self.0.chunks_exact_mut(PANEL).enumerate().take(height) {
            // SAFETY: the caller's promise.
            let values = unsafe { std::slice::from_raw_parts(from.add(i * stride), wanted) };
            line[..wanted].copy_from_slice(values);
        }
    }
}

/// First row and height of each part where `m` rows are cut into `count` parts.
fn shares(m: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    let (height, taller) = (m / count, m % count);
    (0..count).map(move |i| (i * height + i.min(taller), height + usize::from(i < taller)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_row_once_and_differ_by_one_at_most() {
        for m in 1..200usize {
            let count = m.div_ceil(ROWS);
            let mut next = 0;
            for (first, height) in shares(m, count) {
                assert_eq!(first, next);
                assert!((1..=ROWS).contains(&height) && height.abs_diff(m / count) <= 1);
                next += height;
            }
            assert_eq!(next, m);
        }
    }
}
