//! Activations, quantised in blocks of 32 for products with quantised weights.
#![allow(unsafe_code)]

use super::{BLOCK, SLIVER};
use crate::isa::{Isa, Kernel};
use crate::threads::Threads;

/// One block of one row, in one cache line: what the innermost loops read.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct RowBlock {
    pub(crate) codes: [i8; BLOCK],
    /// A value is `scale × code`.
    pub(crate) scale: f32,
    /// `scale × Σ codes`, for weights with a minimum.
    pub(crate) sum: f32,
    /// `−128 × Σ codes`, for weights with an offset.
    pub(crate) offset: i32,
    /// The same for each half of the block.
    pub(crate) halves: [i32; 2],
}

impl RowBlock {
    const ZERO: RowBlock = RowBlock {
        codes: [0; BLOCK],
        scale: 0.0,
        sum: 0.0,
        offset: 0,
        halves: [0; 2],
    };
}

/// Rows of activations, quantised as chapter 2 of the numeric specification for language models
/// says, and laid out for the innermost loops: slivers of up to [`SLIVER`] rows, block-major.
#[derive(Clone, Default)]
pub struct QuantRows {
    m: usize,
    k: usize,
    blocks: Vec<RowBlock>,
}

impl QuantRows {
    /// No rows.
    #[must_use]
    pub fn new() -> QuantRows {
        QuantRows::default()
    }

    /// Number of rows.
    #[must_use]
    pub fn m(&self) -> usize {
        self.m
    }

    /// Length of a row.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Quantises `rows`, each of `k` values, into the memory that is there.
    ///
    /// # Panics
    /// If `k` is 0 or no multiple of 32, or `rows` is no whole number of rows.
    pub fn quantise(&mut self, isa: Isa, threads: &Threads, rows: &[f32], k: usize) {
        assert!(
            k > 0 && k.is_multiple_of(BLOCK) && rows.len().is_multiple_of(k),
            "quantise: {} values are no rows of {k}, or {k} is no multiple of {BLOCK}",
            rows.len()
        );
        self.m = rows.len() / k;
        self.k = k;
        self.blocks.resize(rows.len() / BLOCK, RowBlock::ZERO);
        let (m, count) = (self.m, self.count());
        // Slivers differ in height, so each task finds its own part by number.
        let slots = crate::threads::Slots::of(&mut self.blocks);
        threads.run(count, |i| {
            let (first, height) = share(m, count, i);
            let per_row = k / BLOCK;
            // SAFETY: slivers do not overlap, and each number comes once.
            let blocks = unsafe { slots.slice(first * per_row, height * per_row) };
            let rows = &rows[first * k..(first + height) * k];
            isa.run(Quantise {
                rows,
                k,
                height,
                blocks,
            });
        });
    }

    /// Number of slivers.
    pub(crate) fn count(&self) -> usize {
        self.m.div_ceil(SLIVER)
    }

    /// Sliver `i`: its first row, its height, its blocks.
    pub(crate) fn sliver(&self, i: usize) -> (usize, usize, &[RowBlock]) {
        let (first, height) = share(self.m, self.count(), i);
        let per_row = self.k / BLOCK;
        let start = first * per_row;
        (first, height, &self.blocks[start..start + height * per_row])
    }
}

/// First row and height of part `i` where `m` rows are cut into `count` parts of about one height.
pub(super) fn share(m: usize, count: usize, i: usize) -> (usize, usize) {
    let (height, taller) = (m / count, m % count);
    (i * height + i.min(taller), height + usize::from(i < taller))
}

struct Quantise<'a> {
    rows: &'a [f32],
    k: usize,
    height: usize,
    blocks: &'a mut [RowBlock],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (r, row) in self.rows.chunks_exact(self.k).enumerate() {
            let (values, _) = row.as_chunks::<BLOCK>();
            for (b, values) in values.iter().enumerate() {
                quantise_block(values, &mut self.blocks[b * self.height + r]);
            }
        }
    }
}

/// Blocks whose largest magnitude is smaller than 2⁻¹⁰⁰ count as zero.
const TINY: u32 = (127 - 100) << 23;
const INFINITE: u32 = 0x7f80_0000;
/// 1.5 · 2²³: a sum with it is rounded to an integer, which stands in the low bits.
const MAGIC: f32 = f32::from_bits(0x4b40_0000);

#[inline(always)]
fn quantise_block(x: &[f32; BLOCK], out: &mut RowBlock) {
    let mut top = 0u32;
    for v in x {
        top = top.max(v.to_bits() & 0x7fff_ffff);
    }
    let largest = f32::from_bits(top);
    let usable = (TINY..INFINITE).contains(&top);
    let inverse = if usable { 127.0 / largest } else { 0.0 };
    let mut codes = [0i32; BLOCK];
    for (code, v) in codes.iter_mut().zip(x) {
        let rounded = (v * inverse + MAGIC).to_bits() as i32;
        let integer = rounded.wrapping_sub(MAGIC.to_bits() as i32);
        *code = if usable { integer } else { 0 };
    }
    // Loops apart, so that each becomes a few vector instructions.
    for (byte, code) in out.codes.iter_mut().zip(&codes) {
        *byte = *code as i8;
    }
    let (first, second) = codes.split_at(BLOCK / 2);
    let sums = [first, second].map(|half| half.iter().fold(0, |s: i32, c| s.wrapping_add(*c)));
    out.scale = if usable {
        largest / 127.0
    } else if top < TINY {
        0.0
    } else {
        f32::NAN
    };
    let sum = sums[0].wrapping_add(sums[1]);
    out.sum = out.scale * sum as f32;
    out.offset = sum.wrapping_mul(-128);
    out.halves = sums.map(|s| s.wrapping_mul(-128));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(values: [f32; BLOCK]) -> RowBlock {
        let mut rows = QuantRows::new();
        rows.quantise(Isa::detect(), &Threads::single(), &values, BLOCK);
        rows.blocks[0]
    }

    #[test]
    fn codes_are_rounded_to_nearest_even_and_span_127() {
        let mut x = [0.0; BLOCK];
        x[0] = 127.0;
        x[1] = -0.5;
        x[2] = 1.5;
        x[3] = 2.5;
        x[31] = -127.0;
        let block = one(x);
        assert_eq!(block.scale, 1.0);
        assert_eq!(&block.codes[..4], &[127, 0, 2, 2]);
        assert_eq!(block.codes[31], -127);
        assert_eq!(block.halves, [-128 * 131, 128 * 127]);
        assert_eq!(block.offset, -128 * 4);
        assert_eq!(block.sum, 4.0);
    }

    #[test]
    fn tiny_blocks_are_zero_and_what_is_not_finite_is_nan() {
        let tiny = one([1e-38; BLOCK]);
        assert_eq!((tiny.scale.to_bits(), tiny.codes), (0, [0; BLOCK]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; BLOCK];
            x[7] = bad;
            let block = one(x);
            assert!(block.scale.is_nan());
            assert_eq!(block.codes, [0; BLOCK]);
        }
    }

    #[test]
    fn every_instruction_set_and_number_of_threads_quantises_alike() {
        let k = 96;
        let rows: Vec<f32> = (0..13 * k)
            .map(|i| ((i * 7919 % 1013) as f32 - 500.0) * 0.01 * (1 + i % 7) as f32)
            .collect();
        let bits = |isa: Isa, threads: usize| {
            let mut out = QuantRows::new();
            out.quantise(isa, &Threads::new(threads), &rows, k);
            out.blocks
                .iter()
                .map(|b| (b.codes, b.scale.to_bits(), b.sum.to_bits(), b.halves))
                .collect::<Vec<_>>()
        };
        let expected = bits(Isa::PORTABLE, 1);
        for isa in Isa::available() {
            for threads in [1, 3] {
                assert_eq!(bits(isa, threads), expected, "{isa}, {threads} threads");
            }
        }
    }
}
