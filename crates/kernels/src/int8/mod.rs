//! Products of 8-bit integers in 32 bits.
//!
//! `C = (A − a₀) · (B − b₀)` for `A` of u8 or i8 (activations) and `B` of u8 or i8 (weights), each
//! with its zero point, in i32 that wraps. Wrapping sums are exact whatever their order, so every
//! instruction set and any tiling gives the same values, and zero points may be folded:
//!
//! ```text
//! Σ (a − a₀)(b − b₀) = Σ a·b − a₀·Σ b − b₀·Σ a + k·a₀·b₀
//! ```
//!
//! The sums over b are taken when B is packed, those over a only where b₀ is not 0.
//!
//! # Use
//!
//! [`PackedInt8::pack`] arranges a constant B once and [`gemm_int8`] multiplies; for a B that is no
//! constant, pack in each run. [`FiltersInt8::pack`] and [`conv_int8`] are the same for convolution.
//! [`gemm_int8_with`] and [`conv_int8_last`] (channels last) go on with the sums as f32: scales, biases
//! and what else elementwise follows, up to quantisation, are applied while they are in the cache.
//! Zero points are passed as `i32`, one for all or one for each row of A, column of B or output
//! channel. A place in the padding of a convolution has the value of the input's zero point, so
//! that it counts as 0.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
mod conv;
mod depthwise;
mod finish;
mod last;
mod pack;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::cell::Cell;

use crate::chain::Chain;
use crate::isa::{Isa, Kernel};
use crate::threads::{Slots, Threads};
pub use conv::{FiltersInt8, conv_int8};
use finish::Finished;
pub use finish::{Output, Quantised, dequantize, quantize};
pub use last::{FiltersInt8Last, conv_int8_last};
pub use pack::PackedInt8;
use pack::{COLUMNS, QUAD, UNITS};

/// A type of 8-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8<'a> {
    /// Without a sign.
    Unsigned(&'a [u8]),
    /// In two's complement.
    Signed(&'a [i8]),
}

impl Int8<'_> {
    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Int8::Unsigned(v) => v.len(),
            Int8::Signed(v) => v.len(),
        }
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `i` as it is.
    fn at(&self, i: usize) -> i32 {
        match self {
            Int8::Unsigned(v) => i32::from(v[i]),
            Int8::Signed(v) => i32::from(v[i]),
        }
    }

    /// The bytes, and the number to add to each, as one without a sign, to have the value: signed
    /// values are stored 128 higher.
    fn raise(&self, range: std::ops::Range<usize>, out: &mut [u8]) {
        match self {
            Int8::Unsigned(v) => out.copy_from_slice(&v[range]),
            Int8::Signed(v) => {
                for (out, &v) in out.iter_mut().zip(&v[range]) {
                    *out = v.cast_unsigned() ^ 0x80;
                }
            }
        }
    }

    /// One value as [`raise`](Int8::raise) stores it.
    fn raised(&self, i: usize) -> u8 {
        match self {
            Int8::Unsigned(v) => v[i],
            Int8::Signed(v) => v[i].cast_unsigned() ^ 0x80,
        }
    }

    fn raised_by(&self) -> i32 {
        match self {
            Int8::Unsigned(_) => 0,
            Int8::Signed(_) => 128,
        }
    }
}

/// Zero points: one for all rows or columns, or one for each.
pub type ZeroPoints<'a> = &'a [i32];

/// Rows of the left operand that are multiplied together.
const GROUP: usize = 48;

/// Most rows of a tile.
pub(crate) const ROWS: usize = 6;

/// `C = (A − a₀) · (B − b₀)`: `a` is `m × k`, `c` is `m × n`, both row-major; sums wrap.
///
/// `a_zero` has one zero point, or one for each row; `b_zero` one, or one for each column.
///
/// # Panics
/// If a length is another than the shapes say.
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices with zero points, and how"
)]
pub fn gemm_int8(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: Int8<'_>,
    a_zero: ZeroPoints<'_>,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    c: &mut [i32],
) {
    let (k, n) = (b.k(), b.n());
    check_product(m, a.len(), b, c.len());
    assert!(
        (a_zero.len() == 1 || a_zero.len() == m) && (b_zero.len() == 1 || b_zero.len() == n),
        "gemm_int8: zero points of {m} × {n}"
    );
    let raised = a.raised_by();
    let zero = |row: usize| a_zero[if a_zero.len() == 1 { 0 } else { row }].wrapping_add(raised);
    let fill = |row: usize, out: &mut [u8]| a.raise(row * k..(row + 1) * k, out);
    let store = Sums {
        out: Slots::of(c),
        n,
    };
    multiply_rows(isa, threads, m, zero, fill, b, b_zero, false, store);
}

fn check_product(m: usize, a: usize, b: &PackedInt8, c: usize) {
    let (k, n) = (b.k(), b.n());
    assert_eq!(
        Some(a),
        m.checked_mul(k),
        "gemm_int8: left matrix is not {m} × {k}"
    );
    assert_eq!(
        Some(c),
        m.checked_mul(n),
        "gemm_int8: result is not {m} × {n}"
    );
}

/// [`gemm_int8`] with one zero point for all of A, whose sums become f32 (rounded to nearest); a
/// chain follows on them, and where the result is to be 8-bit integers, quantisation.
///
/// # Panics
/// If a length is another than the shapes say, or an operand of the chain does not fit.
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices with zero points, how, and what follows"
)]
pub fn gemm_int8_with(
    isa: Isa,
    threads: &Threads,
    m: usize,
    a: Int8<'_>,
    a_zero: i32,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    chain: &Chain<'_>,
    c: Output<'_>,
) {
    let (k, n) = (b.k(), b.n());
    check_product(m, a.len(), b, c.len());
    assert!(
        b_zero.len() == 1 || b_zero.len() == n,
        "gemm_int8: zero points of {n} columns"
    );
    chain.check("gemm_int8", m, n);
    let zero = a_zero.wrapping_add(a.raised_by());
    let fill = |row: usize, out: &mut [u8]| a.raise(row * k..(row + 1) * k, out);
    let whole = chain.by_rows();
    let store = Finished::new(isa, n, chain, c);
    multiply_rows(isa, threads, m, |_| zero, fill, b, b_zero, whole, store);
}

/// What takes the sums of a product.
trait Store: Sync {
    type Sum: From32;

    /// Takes the sums of rows from `row` on, in the columns from `column` on, `width` of each.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    unsafe fn store(&self, row: usize, column: usize, width: usize, sums: &mut [Self::Sum]);
}

/// What a sum of 32 bits is kept as.
trait From32: Copy + Default {
    fn from_sum(sum: i32) -> Self;

    /// A thread's rows, and its sums of this type.
    fn parts(scratch: &mut Scratch) -> (&mut Vec<u8>, &mut Vec<Self>);
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::NEW) };
}

/// What a thread works on: rows of the left operand and their sums.
#[derive(Default)]
struct Scratch {
    rows: Vec<u8>,
    sums: Vec<i32>,
    values: Vec<f32>,
}

impl Scratch {
    const NEW: Scratch = Scratch {
        rows: Vec::new(),
        sums: Vec::new(),
        values: Vec::new(),
    };

    /// Makes room for so many bytes of rows and so many sums.
    fn grow<T: From32>(&mut self, bytes: usize, count: usize) {
        let (rows, sums) = T::parts(self);
        rows.resize(rows.len().max(bytes), 0);
        sums.resize(sums.len().max(count), T::default());
    }
}

impl From32 for i32 {
    fn parts(scratch: &mut Scratch) -> (&mut Vec<u8>, &mut Vec<i32>) {
        (&mut scratch.rows, &mut scratch.sums)
    }

    #[inline(always)]
    fn from_sum(sum: i32) -> i32 {
        sum
    }
}

impl From32 for f32 {
    fn parts(scratch: &mut Scratch) -> (&mut Vec<u8>, &mut Vec<f32>) {
        (&mut scratch.rows, &mut scratch.values)
    }

    #[inline(always)]
    fn from_sum(sum: i32) -> f32 {
        sum as f32
    }
}

/// The sums themselves: a matrix of rows as long as the second member says.
struct Sums<'a> {
    out: Slots<'a, i32>,
    n: usize,
}

impl Store for Sums<'_> {
    type Sum = i32;

    unsafe fn store(&self, row: usize, column: usize, width: usize, sums: &mut [i32]) {
        for (i, sums) in sums.chunks_exact(width).enumerate() {
            let start = (row + i) * self.n + column;
            // SAFETY: the caller's part of the result.
            let line = unsafe { self.out.slice(start, width) };
            line.copy_from_slice(sums);
        }
    }
}

/// Most columns of a task, unless rows have to be whole: with the rows of a group they fill half of
/// a second-level cache.
const TOGETHER: usize = 18 * COLUMNS;

/// A product whose left rows are written by `fill` when they are needed, as values without a sign;
/// `zero` is the zero point of a row. With `whole` a task has whole rows.
#[allow(clippy::too_many_arguments, reason = "as gemm_int8")]
fn multiply_rows<S: Store>(
    isa: Isa,
    threads: &Threads,
    m: usize,
    zero: impl Fn(usize) -> i32 + Sync,
    fill: impl Fn(usize, &mut [u8]) + Sync,
    b: &PackedInt8,
    b_zero: ZeroPoints<'_>,
    whole: bool,
    out: S,
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
    let panels = n.div_ceil(COLUMNS);
    let group = GROUP.min(m.div_ceil(threads.count()).next_multiple_of(ROWS));
    let groups = m.div_ceil(group);
    // Few rows are split by columns.
    let parts = if whole {
        1
    } else if groups < 2 * threads.count() && threads.count() > 1 {
        ((m * k * n) >> 18)
            .clamp(1, 4 * threads.count())
            .min(panels)
            .max(n.div_ceil(TOGETHER))
    } else {
        n.div_ceil(TOGETHER)
    };
    let together = panels.div_ceil(parts);
    let parts = panels.div_ceil(together);
    let stride = k.next_multiple_of(QUAD);
    threads.run(groups * parts, |task| {
        let (g, part) = (task / parts, task % parts);
        let (first, height) = (g * group, group.min(m - g * group));
        let left = part * together * COLUMNS;
        let wide = n.min((part + 1) * together * COLUMNS) - left;
        let mut scratch = SCRATCH.take();
        scratch.grow::<S::Sum>(height * stride, height * wide);
        let (rows, lines) = S::Sum::parts(&mut scratch);
        let (rows, lines) = (&mut rows[..height * stride], &mut lines[..height * wide]);
        let mut sums = [0i32; GROUP];
        for (i, sum) in sums[..height].iter_mut().enumerate() {
            let row = &mut rows[i * stride..][..k];
            fill(first + i, row);
            if weighed {
                *sum = isa.run(Total { row });
            }
        }
        let mut tile = [[0i32; COLUMNS]; ROWS];
        for panel in part * together..panels.min((part + 1) * together) {
            let column = panel * COLUMNS;
            let width = COLUMNS.min(n - column);
            let zeros = match (weighed, zeros.len()) {
                (false, _) => &[0][..],
                (true, 1) => &zeros[..],
                (true, _) => &zeros[column..column + width],
            };
            for start in (0..height).step_by(ROWS) {
                let count = ROWS.min(height - start);
                let left_rows = &rows[start * stride..(start + count) * stride];
                multiply(isa, count, stride, left_rows, b.panel(panel), &mut tile);
                for (i, products) in tile[..count].iter().enumerate() {
                    let line = (start + i) * wide + column - left;
                    isa.run(Fold {
                        k,
                        zero: zero(first + start + i),
                        sum: sums[start + i],
                        zeros,
                        products,
                        sums: b.sums(column, width),
                        out: &mut lines[line..line + width],
                    });
                }
            }
        }
        // SAFETY: rows and columns of a task are its own.
        unsafe { out.store(first, left, wide, lines) };
        SCRATCH.set(scratch);
    });
}

/// Σ of a row.
struct Total<'a> {
    row: &'a [u8],
}

impl Kernel for Total<'_> {
    type Output = i32;

    #[inline(always)]
    fn run(self) -> i32 {
        // At most 255 each: far from wrapping in 64 bits, and the low half is what counts.
        self.row.iter().map(|&v| u64::from(v)).sum::<u64>() as i32
    }
}

/// What is left to do when Σ a·b of a row and some columns is known.
struct Fold<'a, T> {
    k: usize,
    /// The zero point of the row, for values stored without a sign.
    zero: i32,
    /// Σ a.
    sum: i32,
    /// Zero points of the columns.
    zeros: &'a [i32],
    products: &'a [i32],
    /// Σ b of the columns.
    sums: &'a [i32],
    out: &'a mut [T],
}

impl<T: From32> Kernel for Fold<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let row = self
            .sum
            .wrapping_sub((self.k as i32).wrapping_mul(self.zero));
        let columns = self.products.iter().zip(self.sums);
        match self.zeros {
            [0] => {
                for (out, (&p, &s)) in self.out.iter_mut().zip(columns) {
                    *out = T::from_sum(p.wrapping_sub(self.zero.wrapping_mul(s)));
                }
            }
            zeros => {
                let columns = columns.zip(zeros.iter().cycle());
                for (out, ((&p, &s), &zero)) in self.out.iter_mut().zip(columns) {
                    let sum = p
                        .wrapping_sub(self.zero.wrapping_mul(s))
                        .wrapping_sub(zero.wrapping_mul(row));
                    *out = T::from_sum(sum);
                }
            }
        }
    }
}

/// Σ a·b of up to 6 rows of `stride` bytes and one panel.
fn multiply(
    isa: Isa,
    count: usize,
    stride: usize,
    rows: &[u8],
    panel: &[pack::Quad],
    tile: &mut [[i32; COLUMNS]; ROWS],
) {
    let steps = stride / QUAD;
    let units = panel.len().checked_div(steps).unwrap_or(0);
    if units == 0 {
        return tile.iter_mut().for_each(|line| *line = [0; COLUMNS]);
    }
    assert!(
        count <= ROWS
            && rows.len() == count * stride
            && units <= UNITS
            && panel.len() == units * steps,
        "a tile of the packed operand"
    );
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(vnni) = vnni::Vnni::on(isa) {
            return vnni.multiply(count, stride, rows, panel, units, tile);
        }
        if let Some(avx2) = avx2::Avx2::on(isa) {
            return avx2.multiply(count, stride, rows, panel, units, tile);
        }
    }
    let _ = isa;
    portable::multiply(count, stride, rows, panel, units, tile);
}
