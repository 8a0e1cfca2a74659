//! Products with dense weights in any of three widths: the order of every matrix product.
#![allow(unsafe_code)]

use super::{Format, Line, PAIR, PackedMatrix};
use crate::gemm::BLOCK_K;
use crate::isa::Isa;
use crate::lanes::{self, LaneKernel, Lanes, WIDTH};

/// One panel of 32 outputs by all rows of `x`.
pub(super) fn pair(
    isa: Isa,
    weights: &PackedMatrix,
    pair: usize,
    x: &[f32],
    write: &mut impl FnMut(usize, &[f32; PAIR]),
) {
    if weights.k() == 0 {
        return;
    }
    let panel = weights.panel(pair).codes;
    let k = weights.k();
    match weights.format() {
        Format::F32 => lanes::run(
            isa,
            Product {
                x,
                k,
                panel: as_chunks::<f32>(panel),
                load: F32,
                write,
            },
        ),
        Format::F16 => lanes::run(
            isa,
            Product {
                x,
                k,
                panel: as_chunks::<u16>(panel),
                load: F16,
                write,
            },
        ),
        _ => lanes::run(
            isa,
            Product {
                x,
                k,
                panel: as_chunks::<u16>(panel),
                load: BF16,
                write,
            },
        ),
    }
}

/// Plain numbers, of which every bit pattern is a value.
trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u16 {}

/// Lines as runs of 16 numbers. Packed lines hold them in the machine's order: see `Load`.
fn as_chunks<T: Plain>(lines: &[Line]) -> &[[T; WIDTH]] {
    let count = size_of_val(lines) / (WIDTH * size_of::<T>());
    // SAFETY: a line is 64 bytes aligned to 64, a whole number of runs of a plain type whose every
    // bit pattern is a value; the length is that of the lines.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), count) }
}

/// How a run of weights becomes lanes.
trait Load: Copy {
    type Stored: Copy;
    fn load<L: Lanes>(self, lanes: L, x: &[Self::Stored; WIDTH]) -> L::V;
}

#[derive(Clone, Copy)]
struct F32;
#[derive(Clone, Copy)]
struct F16;
#[derive(Clone, Copy)]
struct BF16;

impl Load for F32 {
    type Stored = f32;
    #[inline(always)]
    fn load<L: Lanes>(self, lanes: L, x: &[f32; WIDTH]) -> L::V {
        if cfg!(target_endian = "little") {
            lanes.load(x)
        } else {
            lanes.load(&x.map(|v| f32::from_bits(v.to_bits().swap_bytes())))
        }
    }
}

impl Load for F16 {
    type Stored = u16;
    #[inline(always)]
    fn load<L: Lanes>(self, lanes: L, x: &[u16; WIDTH]) -> L::V {
        if cfg!(target_endian = "little") {
            lanes.load_f16(x)
        } else {
            lanes.load_f16(&x.map(u16::swap_bytes))
        }
    }
}

impl Load for BF16 {
    type Stored = u16;
    #[inline(always)]
    fn load<L: Lanes>(self, lanes: L, x: &[u16; WIDTH]) -> L::V {
        if cfg!(target_endian = "little") {
            lanes.load_bf16(x)
        } else {
            lanes.load_bf16(&x.map(u16::swap_bytes))
        }
    }
}

struct Product<'a, D: Load, W> {
    x: &'a [f32],
    k: usize,
    /// Two runs of 16 outputs for each input.
    panel: &'a [[D::Stored; WIDTH]],
    load: D,
    write: &'a mut W,
}

impl<D: Load, W: FnMut(usize, &[f32; PAIR])> LaneKernel for Product<'_, D, W> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (panel, _) = self.panel.as_chunks::<2>();
        let m = self.x.len() / self.k;
        let mut row = 0;
        while row < m {
            let left = (m - row).min(L::ROWS);
            let x = &self.x[row * self.k..];
            macro_rules! rows {
                ($r:literal) => {{
                    let sums = tile::<L, D, $r>(lanes, self.load, x, self.k, panel);
                    for (i, sums) in sums.iter().enumerate() {
                        (self.write)(row + i, sums);
                    }
                    $r
                }};
            }
            row += match left {
                8.. => rows!(8),
                4.. => rows!(4),
                2.. => rows!(2),
                _ => rows!(1),
            };
        }
    }
}

#[inline(always)]
fn tile<L: Lanes, D: Load, const R: usize>(
    lanes: L,
    load: D,
    x: &[f32],
    k: usize,
    panel: &[[[D::Stored; WIDTH]; 2]],
) -> [[f32; PAIR]; R] {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * k..(r + 1) * k]);
    let mut totals = [[lanes.splat(0.0); 2]; R];
    for start in (0..k).step_by(BLOCK_K) {
        let end = k.min(start + BLOCK_K);
        let mut sums = [[lanes.splat(0.0); 2]; R];
        let rows = rows.map(|row| &row[start..end]);
        for (i, weights) in panel[start..end].iter().enumerate() {
            let w = [load.load(lanes, &weights[0]), load.load(lanes, &weights[1])];
            for r in 0..R {
                // SAFETY: `panel` and each row were cut to the same `end - start` elements. A check
                // in this place keeps the compiler from holding the sums in registers.
                let a = lanes.splat(unsafe { *rows[r].get_unchecked(i) });
                sums[r][0] = lanes.fma(a, w[0], sums[r][0]);
                sums[r][1] = lanes.fma(a, w[1], sums[r][1]);
            }
        }
        for r in 0..R {
            for n in 0..2 {
                totals[r][n] = if start == 0 {
                    sums[r][n]
                } else {
                    lanes.add(totals[r][n], sums[r][n])
                };
            }
        }
    }
    totals.map(|totals| {
        let mut out = [0.0; PAIR];
        let (halves, _) = out.as_chunks_mut::<WIDTH>();
        lanes.store(totals[0], &mut halves[0]);
        lanes.store(totals[1], &mut halves[1]);
        out
    })
}
