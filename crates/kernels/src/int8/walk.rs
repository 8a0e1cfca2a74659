//! The way through a product: groups of rows, panels of columns, tiles of both.

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::pack::{COLUMNS, PackedInt8, QUAD, UNITS};
use super::{Int8, ZeroPoints, portable};
#[cfg(target_arch = "x86_64")]
use super::{
    avx2::{Apart, Avx2},
    near::Near,
    vnni,
};
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
    fn part(&self, first: usize, count: usize) -> Rows<'a> {
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
    fn of(tile: &mut Tile) -> Lines {
        Lines {
            first: tile.as_mut_ptr().cast(),
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
    let weighed = zeros.iter().any(|&z| z != 0);
    // Whether something is to be subtracted that depends on the row.
    let weighs = weighed || left.zeros.len() > 1;
    let panels = n.div_ceil(COLUMNS);
    let group = (NEAR / left.weight.max(1)).clamp(GROUP[0], GROUP[1]);
    let group = group.min(m.div_ceil(threads.count()));
    let group = m.div_ceil(m.div_ceil(group)).next_multiple_of(ROWS);
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
        let tiles = Tiles::new(isa, &rows, left.zeros, b);
        let zero = |i: usize| left.zeros[if left.zeros.len() == 1 { 0 } else { first + i }];
        // Σ (a − a₀) of the rows.
        let total = |(i, &start): (usize, &usize)| {
            let own = (k as i32).wrapping_mul(zero(i));
            isa.run(Total {
                left,
                start,
                run: b.run(),
            })
            .wrapping_sub(own)
        };
        let totals: Vec<i32> = match weighed {
            true => starts.iter().enumerate().map(total).collect(),
            false => Vec::new(),
        };
        let InLines(tile) = &mut InLines::new();
        for panel in part * together..panels.min((part + 1) * together) {
            let column = panel * COLUMNS;
            let width = COLUMNS.min(n - column);
            let sums = b.sums(column, width);
            // What the sums begin with: that is less than to subtract it from each.
            let mut begin = [0i32; COLUMNS];
            let less = tiles.middle().wrapping_sub(match *left.zeros {
                [zero] => zero,
                // Those of the rows are weighed.
                _ => 0,
            });
            for (to, sum) in begin.iter_mut().zip(sums) {
                *to = sum.wrapping_mul(less);
            }
            for start in (0..height).step_by(ROWS) {
                let count = ROWS.min(height - start);
                let at = Place {
                    row: first + start,
                    count,
                    column,
                    width,
                };
                let rows = [start, count];
                if width == COLUMNS
                    && !weighs
                    // SAFETY: rows and columns of a task are its own.
                    && let Some(lines) = unsafe { out.lines(at) }
                {
                    // SAFETY: as above, and the tile is whole.
                    unsafe { tiles.multiply(rows, panel, &begin, lines) };
                    continue;
                }
                let lines = Lines::of(tile);
                // SAFETY: a tile has all places.
                unsafe { tiles.multiply(rows, panel, &begin, lines) };
                if weighs {
                    let zeros = match zeros.len() {
                        1 => &zeros[..],
                        _ => &zeros[column..column + width],
                    };
                    for (i, line) in (start..).zip(&mut tile[..count]) {
                        isa.run(Weigh {
                            // One for all rows is in `begin`.
                            zero: if left.zeros.len() > 1 { zero(i) } else { 0 },
                            total: totals.get(i).copied().unwrap_or(0),
                            zeros,
                            sums,
                            line,
                        });
                    }
                }
                // SAFETY: rows and columns of a task are its own.
                unsafe { out.finish(at, tile) };
            }
        }
    });
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

/// The rows of a task, as the instruction set reads them.
struct Tiles<'a> {
    isa: Isa,
    rows: &'a Rows<'a>,
    b: &'a PackedInt8,
    #[cfg(target_arch = "x86_64")]
    split: Option<Split<'a>>,
}

/// Rows whose values are in pieces.
#[cfg(target_arch = "x86_64")]
enum Split<'a> {
    Near(Near<'a>),
    Apart(Apart),
}

impl<'a> Tiles<'a> {
    fn new(isa: Isa, rows: &'a Rows<'a>, zeros: ZeroPoints<'_>, b: &'a PackedInt8) -> Tiles<'a> {
        #[cfg(target_arch = "x86_64")]
        let split = Avx2::on(isa).map(|avx2| {
            let near = zeros
                .first()
                .and_then(|&zero| Near::new(avx2, rows, zero, b));
            near.map_or_else(|| Split::Apart(avx2.apart(rows)), Split::Near)
        });
        let _ = zeros;
        Tiles {
            isa,
            rows,
            b,
            #[cfg(target_arch = "x86_64")]
            split,
        }
    }

    /// What is subtracted from the values of the rows before they are multiplied, where the instructions want values
    /// with a sign, or small ones.
    fn middle(&self) -> i32 {
        #[cfg(target_arch = "x86_64")]
        let middle = match &self.split {
            Some(Split::Near(near)) => i32::from(near.low),
            Some(Split::Apart(_)) => 128,
            None => 0,
        };
        #[cfg(target_arch = "aarch64")]
        let middle = Neon::on(self.isa).map_or(0, |_| 128);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let middle = 0;
        middle
    }

    /// Σ (a − middle)·b of up to 6 rows from `first` on and one panel, added to what the sums of a row begin with.
    ///
    /// # Safety
    /// The lines have their places, which nobody else uses: 16 for each unit of the panel, and all 64 if there is none.
    unsafe fn multiply(
        &self,
        [first, count]: [usize; 2],
        index: usize,
        begin: &[i32; COLUMNS],
        to: Lines,
    ) {
        let rows = self.rows.part(first, count);
        let panel = self.b.panel(index);
        let steps = rows.runs.len() * rows.steps;
        let units = panel.len().checked_div(steps).unwrap_or(0);
        assert!(
            (1..=ROWS).contains(&count) && units <= UNITS && panel.len() == units * steps,
            "a tile of the packed operand"
        );
        // SAFETY: the caller's promise.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if units > 0 {
                match &self.split {
                    Some(Split::Near(near)) => {
                        return near.multiply([first, count], [index, units], panel, begin, to);
                    }
                    Some(Split::Apart(apart)) => {
                        return apart.multiply([first, count], panel, units, begin, to);
                    }
                    None => {}
                }
                if let Some(vnni) = vnni::Vnni::on(self.isa) {
                    return vnni.multiply(&rows, panel, units, begin, to);
                }
            }
            #[cfg(target_arch = "aarch64")]
            if let Some(neon) = Neon::on(self.isa)
                && units > 0
            {
                return neon.multiply(&rows, panel, units, begin, to);
            }
            let _ = self.isa;
            portable::multiply(&rows, panel, units, begin, to);
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
