//! Products with stored weights: dense in three widths, and block-quantised as GGUF files have them.
//!
//! A weight matrix has `n` rows (outputs) of `k` values (inputs); a product takes `m` rows of `k`
//! activations to `m` rows of `n` results. Rearranged once into panels ([`PackedMatrix`]), it takes
//! about the memory of its file.
//!
//! With dense weights each output has the order of any matrix product. With quantised weights the
//! activations are quantised too, in blocks of 32 ([`QuantRows`]); the products of codes are added
//! exactly, as integers, and one fused multiply-add for each block, in ascending order, puts the
//! scales to it. The definition is chapter 2 of `docs/llm-numeric-spec.md`, its plain form
//! [`portable`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
mod pack;
mod portable;
mod product;
mod rows;
mod source;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use crate::memory::Line;
pub use pack::{PackError, PackedMatrix};
pub use product::Input;
pub use rows::QuantRows;
pub(crate) use rows::RowBlock;
pub use source::Format;

/// Values of one block of activations.
pub(crate) const BLOCK: usize = 32;

/// Outputs of one panel of quantised weights: one AVX-512 register of sums.
pub(crate) const PANEL: usize = 16;

/// Outputs of a pair of panels, and of one dense panel.
pub(crate) const PAIR: usize = 2 * PANEL;

/// Most rows of activations that are multiplied together: with two panels they fill AVX-512's
/// registers.
pub(crate) const SLIVER: usize = 6;

/// One panel of quantised weights: the codes of block after block, and their scales.
///
/// Codes of a block lie in groups of four values, 16 outputs side by side: group j is one line,
/// byte `4·c + i` of which belongs to output c and value `4·j + i`. Eight-bit codes are eight such
/// lines. Four-bit codes are four: line j has group j in the low halves of its bytes, group j + 4 in
/// the high ones. A fifth bit is in one line more: bit `4·c + i` of its j-th 64-bit word. The bits
/// five and six are in two lines more: line j has those of groups j, j + 2, j + 4 and j + 6, from
/// the low bits up.
///
/// Scales of Q8_0 and Q4_0 are 16 binary16 values a block. Formats in blocks of 256 have one line
/// with 16 binary16 scales and 16 binary16 scales of minima, then for each part of 32 values
/// 16 bytes and 16 bytes: scales and minima, or the scales of both halves.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) codes: &'a [Line],
    pub(crate) scales: &'a [Line],
}

/// Lines of codes for one block of 32 in one panel.
pub(crate) const fn code_lines(format: Format) -> usize {
    match format {
        Format::Q8_0 => 8,
        Format::Q4_0 | Format::Q4K => 4,
        Format::Q5K => 5,
        Format::Q6K => 6,
        Format::F32 | Format::F16 | Format::BF16 => 0,
    }
}

/// Lines of scales for `blocks` blocks of 32 in one panel.
pub(crate) const fn scale_lines(format: Format, blocks: usize) -> usize {
    match format.block_len() {
        32 => blocks.div_ceil(2),
        256 => blocks / 8 * SUPER_LINES,
        _ => 0,
    }
}

/// Lines of scales for one block of 256.
pub(crate) const SUPER_LINES: usize = 5;

/// The innermost loops, for one instruction set.
pub(crate) trait Tiles: Copy {
    /// Continues the sums of `height` rows (1 to [`SLIVER`]) by two panels over `blocks` blocks,
    /// which start at number `first` of the row; from zero if that is 0.
    ///
    /// `x` are the rows' blocks from `first` on, block-major; `sums` has one entry a row.
    #[allow(clippy::too_many_arguments, reason = "an inner loop")]
    fn tile(
        self,
        format: Format,
        panels: [Panel<'_>; 2],
        first: usize,
        blocks: usize,
        height: usize,
        x: &[RowBlock],
        sums: &mut [[f32; PAIR]],
    );

    /// Hands out finished sums: `out` has the first of them, each NaN as the one NaN.
    fn put(self, sums: &[f32; PAIR], out: &mut [f32]) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = crate::math::canonical(*sum);
        }
    }
}
