//! Tiles in plain Rust: the definition of a product with quantised weights.

use super::{BLOCK, Format, Line, PAIR, PANEL, Panel, RowBlock, SUPER_LINES, code_lines};
use crate::half::f16_to_f32;

#[derive(Clone, Copy)]
pub(crate) struct Tiles;

impl super::Tiles for Tiles {
    fn tile(
        self,
        format: Format,
        panels: [Panel<'_>; 2],
        first: usize,
        blocks: usize,
        height: usize,
        x: &[RowBlock],
        sums: &mut [[f32; PAIR]],
    ) {
        let mut codes = [0; PANEL * BLOCK];
        if first == 0 {
            sums[..height].fill([0.0; PAIR]);
        }
        for (side, panel) in panels.into_iter().enumerate() {
            for b in 0..blocks {
                unpack(format, panel, first + b, &mut codes);
                let scales = scales(format, panel, first + b);
                for (x, sums) in x[b * height..].iter().zip(&mut sums[..height]) {
                    let sums = &mut sums[side * PANEL..(side + 1) * PANEL];
                    let products = dot(&codes, x);
                    finish(format, &scales, x, &products, sums);
                }
            }
        }
    }
}

/// Sums of products of codes, offset not yet taken off, for both halves of the block.
#[inline(always)]
fn dot(codes: &[u8; PANEL * BLOCK], x: &RowBlock) -> [[i32; PANEL]; 2] {
    let mut products = [[0i32; PANEL]; 2];
    for j in 0..BLOCK / 4 {
        for c in 0..PANEL {
            for i in 0..4 {
                products[j / 4][c] +=
                    i32::from(codes[64 * j + 4 * c + i]) * i32::from(x.codes[4 * j + i]);
            }
        }
    }
    products
}

/// Takes the offset off the sums of one block and puts the scales to them.
#[inline(always)]
pub(super) fn finish(
    format: Format,
    scales: &[[f32; PANEL]; 2],
    x: &RowBlock,
    products: &[[i32; PANEL]; 2],
    sums: &mut [f32],
) {
    // An offset is a power of two up to 128, and `x.offset` is −128 · Σ codes.
    let less = |offset: i32| offset / 128 * format.offset();
    for (c, sum) in sums.iter_mut().enumerate() {
        if format.is_split() {
            for h in 0..2 {
                let t = products[h][c] + less(x.halves[h]);
                *sum = (scales[h][c] * x.scale).mul_add(t as f32, *sum);
            }
        } else {
            let t = products[0][c] + products[1][c] + less(x.offset);
            *sum = (scales[0][c] * x.scale).mul_add(t as f32, *sum);
            if format.has_minimum() {
                *sum = (-scales[1][c]).mul_add(x.sum, *sum);
            }
        }
    }
}

/// The codes of block `b`: byte `64·j + 4·c + i` is value `4·j + i` of output c.
#[inline(always)]
pub(super) fn unpack(format: Format, panel: Panel<'_>, b: usize, out: &mut [u8; PANEL * BLOCK]) {
    let count = code_lines(format);
    let lines = &panel.codes[b * count..(b + 1) * count];
    let (groups, _) = out.as_chunks_mut::<64>();
    if format == Format::Q8_0 {
        for (group, line) in groups.iter_mut().zip(lines) {
            *group = line.0;
        }
        return;
    }
    let (low, high) = groups.split_at_mut(4);
    for ((low, high), line) in low.iter_mut().zip(high).zip(lines) {
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&line.0) {
            *low = byte & 15;
            *high = byte >> 4;
        }
    }
    match format {
        Format::Q5K => {
            for (j, group) in groups.iter_mut().enumerate() {
                for (at, code) in group.iter_mut().enumerate() {
                    *code |= (lines[4].0[8 * j + at / 8] >> (at % 8) & 1) << 4;
                }
            }
        }
        Format::Q6K => {
            for (j, group) in groups.iter_mut().enumerate() {
                for (code, two) in group.iter_mut().zip(&lines[4 + j % 2].0) {
                    *code |= (two >> (j / 2 * 2) & 3) << 4;
                }
            }
        }
        _ => {}
    }
}

/// The scales of block `b` for each output, exact: of the block and of its minimum, or of its two
/// halves.
#[inline(always)]
pub(super) fn scales(format: Format, panel: Panel<'_>, b: usize) -> [[f32; PANEL]; 2] {
    let [mut low, mut high] = [[0.0; PANEL]; 2];
    let half =
        |line: &Line, at: usize| f16_to_f32(u16::from_le_bytes([line.0[at], line.0[at + 1]]));
    if format.block_len() == BLOCK {
        let line = &panel.scales[b / 2];
        for (c, out) in low.iter_mut().enumerate() {
            *out = half(line, b % 2 * 32 + 2 * c);
        }
        return [low, high];
    }
    let head = &panel.scales[b / 8 * SUPER_LINES];
    let part = &panel.scales[b / 8 * SUPER_LINES + 1 + b % 8 / 2];
    for (c, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
        let (scale, minimum) = (half(head, 2 * c), half(head, 32 + 2 * c));
        let [first, second] = [0, 16].map(|side| part.0[b % 2 * 32 + side + c]);
        let (first, second) = if format.is_split() {
            (
                scale * f32::from(first as i8),
                scale * f32::from(second as i8),
            )
        } else {
            (scale * f32::from(first), minimum * f32::from(second))
        };
        *low = first;
        *high = second;
    }
    [low, high]
}
