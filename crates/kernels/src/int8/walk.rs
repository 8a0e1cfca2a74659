//! The way through a product: groups of rows, panels of columns, tiles of both.

use super::pack::{COLUMNS, PackedInt8, QUAD};
use super::ways::{Tiles, Way};
use super::{Int8, ZeroPoints};
use crate::isa::{Isa, Kernel};
use crate::threads::{Slots, Threads};

/// Most rows of a tile.
pub(super) const ROWS: usize = 6;

/// Sums of some rows and the columns of a panel.
pub(super) type Tile = [[i32; COLUMNS]; ROWS];

/// The left operand of a product: where the bytes of its rows lie.
pub(super) struct Left<'a> {
    /// Bytes without a sign.
    pub(super) values: &'a [u8],
    /// Where rows begin: so many from a first one on.
    pub(super) starts: &'a (dyn Fn(usize, usize) -> Vec<usize> + Sync),
    /// How far from there its runs are, one after another in k. A run is as long as the right operand
    /// says; up to three bytes that follow it are read as well, and make no difference.
    pub(super) runs: &'a [usize],
    /// Zero points of the bytes: one, or one for each row.
    pub(super) zeros: ZeroPoints<'a>,
    /// Bytes that a row has for itself, roughly.
    pub(super) weight: usize,
}

/// Where rows begin that follow each other.
pub(super) fn in_a_row(stride: usize) -> impl Fn(usize, usize) -> Vec<usize> + Sync {
    move |first, count| (first..first + count).map(|row| row * stride).collect()
}

/// Some rows, all of whose runs lie in the values.
pub(super) struct Rows<'a> {
    pub(super) values: &'a [u8],
    /// Where each begins.
    pub(super) starts: &'a [usize],
    pub(super) runs: &'a [usize],
    /// Steps of four values in a run.
    pub(super) steps: usize,
}

impl<'a> Rows<'a> {
    fn new(left: &Left<'a>, starts: &'a [usize], steps: usize) -> Rows<'a> {
        let last = starts.iter().max().zip(left.runs.iter().max());
        let end = last.map(|(start, run)| start.checked_add(run + steps * QUAD));
        assert!(
            end.is_none_or(|end| end.is_some_and(|end| end <= left.values.len())),
            "rows of the left operand"
        );
        Rows {
            values: left.values,
            starts,
            runs: left.runs,
            steps,
        }
    }

    /// Rows of one tile.
    pub(super) fn part(&self, first: usize, count: usize) -> Rows<'a> {
        Rows {
            starts: &self.starts[first..first + count],
            ..*self
        }
    }
}

/// A tile whose rows are whole cache lines: registers are stored to and loaded from two of them at once otherwise.
#[repr(align(64))]
pub(super) struct InLines(pub(super) Tile);

impl InLines {
    pub(super) fn new() -> InLines {
        InLines([[0; COLUMNS]; ROWS])
    }
}

/// Where the sums of a tile go: the first place, and how far its rows of 64 places are apart.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) first: *mut i32,
    pub(super) apart: usize,
}

impl Lines {
    fn of(tiles: &mut [InLines]) -> Lines {
        Lines {
            first: tiles.as_mut_ptr().cast(),
            apart: COLUMNS,
        }
    }

    /// Place `column` of row `i`.
    pub(super) fn at(self, i: usize, column: usize) -> *mut i32 {
        self.first.wrapping_add(i * self.apart + column)
    }
}

/// Bytes without a sign for all values of `x`, `more` bytes longer; borrowed where they are that.
pub(super) fn raised<'a>(
    threads: &Threads,
    x: &Int8<'a>,
    rows: usize,
    k: usize,
    copy: &'a mut Vec<u8>,
) -> (&'a [u8], usize) {
    let stride = k.next_multiple_of(QUAD);
    if let (Int8::Unsigned(x), true) = (x, stride == k) {
        return (x, k);
    }
    copy.resize(rows * stride, 0);
    if k > 0 {
        threads.chunks(copy, stride, |row, to| {
            x.raise(row * k..(row + 1) * k, &mut to[..k]);
        });
    }
    (copy, stride)
}

/// What takes the sums of a tile.
pub(super) trait Finish: Sync {
    /// Takes the sums of `count` rows from `row` on, `width` columns from `column` on.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    unsafe fn finish(&self, at: Place, tile: &mut Tile);

    /// Where the sums of a whole tile lie, if the result is that and no more.
    ///
    /// # Safety
    /// As for [`finish`](Finish::finish).
    unsafe fn lines(&self, _at: Place) -> Option<Lines> {
        None
    }
}

/// A part of a result, from a row and a column on.
pub(super) struct From<'a, F> {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) of: &'a F,
}

impl<F: Finish> Finish for From<'_, F> {
    unsafe fn finish(&self, at: Place, tile: &mut Tile) {
        let (row, column) = (self.row + at.row, self.column + at.column);
        let at = Place { row, column, ..at };
        // SAFETY: the caller's part of the result.
        unsafe { self.of.finish(at, tile) };
    }
}

/// Where a tile lies in the result.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) count: usize,
    pub(super) column: usize,
    pub(super) width: usize,
}

/// Bytes of rows that a task goes over again for each panel: they stay in the second-level cache.
const NEAR: usize = 1 << 18;

/// Fewest and most rows of a task where there are enough.
const GROUP: [usize; 2] = [8 * ROWS, 96 * ROWS];

/// Most rows of a task, of `most` that have `weight` bytes for themselves.
fn group(way: Way, most: usize, weight: usize, steps: usize) -> usize {
    let weight = weight.max(way.copied(steps));
    (NEAR / weight.max(1)).clamp(GROUP[0], GROUP[1]).min(most)
}

/// Bytes that a thread holds, at most, while it multiplies up to `m` rows, which have `weight` bytes for themselves, by so many
/// steps of a packed matrix.
pub(super) fn scratch(isa: Isa, m: usize, weight: usize, steps: usize) -> u64 {
    let way = Way::of(isa, m, steps);
    way.held(way.whole(group(way, m, weight, steps)), steps)
}

/// Multiplies `m` rows by a packed matrix, whose columns have zero points.
pub(super) fn multiply_rows(
    isa: Isa,
    threads: &Threads,
    m: usize,
    left: &Left<'_>,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    out: &impl Finish,
) {
    let (k, n) = (b.k(), b.n());
    if m == 0 || n == 0 {
        return;
    }
    let zeros: Vec<i32> = b_zero
        .iter()
        .map(|&z| z.wrapping_sub(b.lowered()))
        .collect();
    // Whether something is to be subtracted that depends on the row.
    let weighs = left.zeros.len() > 1 || zeros.iter().any(|&z| z != 0);
    let panels = n.div_ceil(COLUMNS);
    let way = Way::of(isa, m, b.steps());
    let group = group(way, m.div_ceil(threads.count()), left.weight, b.steps());
    let group = way.whole(m.div_ceil(m.div_ceil(group)));
    let at_once = way.at_once(group);
    let groups = m.div_ceil(group);
    // Few rows are split by columns.
    let parts = if groups < 2 * threads.count() && threads.count() > 1 {
        let work = m.saturating_mul(k).saturating_mul(n) >> 18;
        work.clamp(1, 4 * threads.count()).min(panels)
    } else {
        1
    };
    let together = panels.div_ceil(parts);
    let parts = panels.div_ceil(together);
    threads.run(groups * parts, |task| {
        let (g, part) = (task / parts, task % parts);
        let (first, height) = (g * group, group.min(m - g * group));
        let starts = (left.starts)(first, height);
        let rows = Rows::new(left, &starts, b.run().div_ceil(QUAD));
        let tiles = Tiles::new(way, &rows, left.zeros, b);
        let weights = Weights::new(isa, left, first, &starts, b, &zeros);
        let mut sums: Vec<InLines> = Vec::new();
        sums.resize_with(at_once.div_ceil(ROWS), InLines::new);
        for panel in part * together..panels.min((part + 1) * together) {
            let column = panel * COLUMNS;
            let width = COLUMNS.min(n - column);
            // What the sums begin with: that is less than to subtract it from each.
            let mut begin = [0i32; COLUMNS];
            let less = tiles.middle().wrapping_sub(match *left.zeros {
                [zero] => zero,
                // Those of the rows are weighed.
                _ => 0,
            });
            for (to, sum) in begin.iter_mut().zip(b.sums(column, width)) {
                *to = sum.wrapping_mul(less);
            }
            for start in (0..height).step_by(at_once) {
                let count = at_once.min(height - start);
                let at = Place {
                    row: first + start,
                    count,
                    column,
                    width,
                };
                let rows = [start, count];
                if width == COLUMNS
                    && !weighs
                    && at_once == ROWS
                    // SAFETY: rows and columns of a task are its own.
                    && let Some(lines) = unsafe { out.lines(at) }
                {
                    // SAFETY: as above, and the tile is whole.
                    unsafe { tiles.multiply(rows, panel, &begin, lines) };
                    continue;
                }
                // SAFETY: so many tiles have all places.
                unsafe { tiles.multiply(rows, panel, &begin, Lines::of(&mut sums)) };
                for (begin, InLines(tile)) in (0..count).step_by(ROWS).zip(&mut sums) {
                    let (start, count) = (start + begin, ROWS.min(count - begin));
                    if weighs {
                        weights.weigh(start, [column, width], &mut tile[..count]);
                    }
                    let row = first + start;
                    // SAFETY: rows and columns of a task are its own.
                    unsafe { out.finish(Place { row, count, ..at }, tile) };
                }
            }
        }
    });
}

/// What zero points subtract from the sums of a task, besides what these begin with.
struct Weights<'a> {
    isa: Isa,
    b: &'a PackedInt8,
    /// Zero points of the columns.
    zeros: &'a [i32],
    /// Those of the rows, if each has its own: what all have is in what the sums begin with.
    of_rows: Option<&'a [i32]>,
    /// Σ (a − a₀) of the rows, if that is weighed.
    totals: Vec<i32>,
}

impl<'a> Weights<'a> {
    /// The weights of rows from row `first` on, which begin at `starts`.
    fn new(
        isa: Isa,
        left: &Left<'a>,
        first: usize,
        starts: &[usize],
        b: &'a PackedInt8,
        zeros: &'a [i32],
    ) -> Weights<'a> {
        let of_rows = (left.zeros.len() > 1).then(|| &left.zeros[first..][..starts.len()]);
        let total = |(i, &start): (usize, &usize)| {
            let zero = of_rows.map_or(left.zeros[0], |zeros| zeros[i]);
            let run = b.run();
            isa.run(Total { left, start, run })
                .wrapping_sub((b.k() as i32).wrapping_mul(zero))
        };
        let totals = match zeros.iter().any(|&z| z != 0) {
            true => starts.iter().enumerate().map(total).collect(),
            false => Vec::new(),
        };
        Weights {
            isa,
            b,
            zeros,
            of_rows,
            totals,
        }
    }

    /// Subtracts from the sums of rows from row `start` of the task on.
    fn weigh(&self, start: usize, [column, width]: [usize; 2], lines: &mut [[i32; COLUMNS]]) {
        let zeros = match self.zeros.len() {
            1 => self.zeros,
            _ => &self.zeros[column..column + width],
        };
        for (i, line) in (start..).zip(lines) {
            self.isa.run(Weigh {
                zero: self.of_rows.map_or(0, |zeros| zeros[i]),
                total: self.totals.get(i).copied().unwrap_or(0),
                zeros,
                sums: self.b.sums(column, width),
                line,
            });
        }
    }
}

/// Σ of a row.
struct Total<'a> {
    left: &'a Left<'a>,
    start: usize,
    run: usize,
}

impl Kernel for Total<'_> {
    type Output = i32;

    #[inline(always)]
    fn run(self) -> i32 {
        let runs = self.left.runs.iter();
        // At most 255 each: far from wrapping in 64 bits, and the low half is what counts.
        let sum = |run: &usize| {
            let values = &self.left.values[self.start + run..][..self.run];
            values.iter().map(|&v| u64::from(v)).sum::<u64>()
        };
        runs.map(sum).sum::<u64>() as i32
    }
}

/// What zero points of each row, and those of the columns, subtract.
struct Weigh<'a> {
    /// The zero point of the row.
    zero: i32,
    /// Σ (a − a₀) of the row.
    total: i32,
    /// Zero points of the columns.
    zeros: &'a [i32],
    /// Σ b of the columns.
    sums: &'a [i32],
    line: &'a mut [i32; COLUMNS],
}

impl Kernel for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (out, &sum) in self.line.iter_mut().zip(self.sums) {
            *out = out.wrapping_sub(self.zero.wrapping_mul(sum));
        }
        match *self.zeros {
            [zero] => {
                let own = zero.wrapping_mul(self.total);
                for out in self.line {
                    *out = out.wrapping_sub(own);
                }
            }
            _ => {
                for (out, &zero) in self.line.iter_mut().zip(self.zeros) {
                    *out = out.wrapping_sub(zero.wrapping_mul(self.total));
                }
            }
        }
    }
}

/// The sums themselves: a matrix of rows as long as `n` says.
pub(super) struct Sums<'a> {
    pub(super) out: Slots<'a, i32>,
    pub(super) n: usize,
}

impl Finish for Sums<'_> {
    unsafe fn finish(&self, at: Place, tile: &mut Tile) {
        for (i, sums) in tile[..at.count].iter().enumerate() {
            let start = (at.row + i) * self.n + at.column;
            // SAFETY: the caller's part of the result.
            let out = unsafe { self.out.slice(start, at.width) };
            out.copy_from_slice(&sums[..at.width]);
        }
    }

    unsafe fn lines(&self, at: Place) -> Option<Lines> {
        let start = at.row * self.n + at.column;
        let len = (at.count - 1) * self.n + at.width;
        // SAFETY: what lies between the caller's parts is not written.
        let first = unsafe { self.out.pointer(start, len) };
        let apart = self.n;
        Some(Lines { first, apart })
    }
}
