//! Convolution by filters of 3 × 3 with 2.25 times fewer multiplications: Winograd's F(2 × 2, 3 × 3) (Lavin and Gray 2015,
//! arXiv:1509.09308).
//!
//! A tile of 4 × 4 inputs d gives 2 × 2 outputs y. With ⊙ for products value by value, and Σ over the channels,
//!
//! ```text
//! 4·y = A (Σ g' ⊙ d') Aᵀ    d' = B d Bᵀ    g' = G g Gᵀ
//!
//!     ⎡1  1  1  0⎤              ⎡1  0 −1  0⎤        ⎡2  0  0⎤
//! A = ⎣0  1 −1 −1⎦          B = ⎢0  1  1  0⎥    G = ⎢1  1  1⎥
//!                               ⎢0 −1  1  0⎥        ⎢1 −1  1⎥
//!                               ⎣0  1  0 −1⎦        ⎣0  0  2⎦
//! ```
//!
//! which is 16 products of matrices, tiles × channels × output channels. Of integers they are exact: d and g, less their zero
//! points, are at most 255, so d' is at most 4 · 255 and g' 9 · 255, which 16 bits hold; and as sums of 32 bits wrap, only 4·y has
//! to fit, which it does with up to 512 channels.
//!
//! This is for processors whose exact products of bytes are no faster than those of 16 bits.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::Int8;
use super::avx2::Avx2;
use super::pack::{COLUMNS, UNIT, UNITS};
use super::walk::{Finish, InLines, Place, ROWS};
use crate::conv::Conv;
use crate::isa::{Isa, Kernel};
use crate::memory::{Zeroable, Zeros};
use crate::threads::Threads;
use crate::window::Axis;

/// Products for each tile and channel.
const POINTS: usize = 16;

/// Most channels: 4 · 9 · 255² · 512 is less than 2³¹.
const CHANNELS: usize = 512;

/// Most filters. As g' they have 3.6 times as many bytes, and in a late layer of many filters and few places reading them takes longer than
/// multiplying.
const FILTERS: usize = 1 << 16;

/// Most tiles of a task, and most bytes of their d', which are read again for each panel of output channels.
const TILES: usize = 30;
const NEAR: usize = 192 << 10;

/// Tiles of a line whose outputs are finished together.
const ABREAST: usize = ROWS / 2;

/// Two channels for each of 16 output channels.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Pair([i16; 2 * UNIT]);

// SAFETY: 32 integers whose bits are zeros are 32 times 0.
unsafe impl Zeroable for Pair {
    const ZERO: Pair = Pair([0; 2 * UNIT]);
}

/// Sums of a tile at one point, of 16 output channels.
type Sums = [i32; UNIT];

/// Filters as g'.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    /// Pairs of channels.
    pairs: usize,
    /// For each unit of output channels and each point, all pairs.
    filters: Zeros<Pair>,
}

/// Whether filters like these are taken so with an instruction set.
pub(super) fn is_worth(isa: Isa, conv: &Conv) -> bool {
    let [groups, out, depth] = conv.filter_shape();
    let [a, b, c] = &conv.window().axes;
    let three = |axis: &Axis| axis.kernel == 3 && axis.stride == 1 && axis.dilation == 1;
    let windows = a.kernel == 1 && a.stride == 1 && three(b) && three(c);
    let channels = depth / 9;
    let few = channels <= CHANNELS && channels * out <= FILTERS;
    Avx2::alone(isa).is_some() && groups == 1 && windows && few
}

/// Bytes of packed filters.
pub(super) fn bytes(conv: &Conv) -> u64 {
    let [_, out, depth] = conv.filter_shape();
    let pairs = out.div_ceil(UNIT) * POINTS * (depth / 9).div_ceil(2);
    (pairs * size_of::<Pair>()) as u64
}

/// Bytes that a thread holds, at most.
pub(super) fn scratch(conv: &Conv) -> u64 {
    let [_, out, depth] = conv.filter_shape();
    let blocks = Blocks::new(conv, (depth / 9).div_ceil(2), 1);
    let tiles = blocks.most[0] * blocks.most[1];
    let inputs = (depth / 9).div_ceil(2) * size_of::<[i16; 2]>();
    let sums = out.div_ceil(UNIT).min(UNITS) * size_of::<Sums>();
    (tiles * POINTS * (inputs + sums)) as u64
}

impl Winograd {
    /// Packs filters; `None` if a zero point is no value of their type.
    pub(super) fn pack(conv: &Conv, filters: Int8<'_>, zeros: &[i32]) -> Option<Winograd> {
        let values = match filters {
            Int8::Unsigned(_) => 0..=255,
            Int8::Signed(_) => -128..=127,
        };
        if !zeros.iter().all(|zero| values.contains(zero)) {
            return None;
        }
        let [_, out, depth] = conv.filter_shape();
        let (channels, pairs) = (depth / 9, (depth / 9).div_ceil(2));
        let mut packed = Zeros::new(out.div_ceil(UNIT) * POINTS * pairs);
        for (unit, points) in packed.chunks_exact_mut(POINTS * pairs).enumerate() {
            for pair in 0..pairs {
                let mut g = [[[0; 2 * UNIT]; 3]; 3];
                for column in unit * UNIT..out.min((unit + 1) * UNIT) {
                    let zero = zeros[column % zeros.len()];
                    for channel in 2 * pair..channels.min(2 * pair + 2) {
                        let lane = column % UNIT * 2 + channel % 2;
                        let first = (column * channels + channel) * 9;
                        for (i, g) in (first..).zip(g.as_flattened_mut()) {
                            g[lane] = (filters.at(i) - zero) as i16;
                        }
                    }
                }
                let places = points[pair..].iter_mut().step_by(pairs);
                for (to, &point) in places.zip(both(g, by_g).as_flattened()) {
                    *to = Pair(point);
                }
            }
        }
        Some(Winograd {
            pairs,
            filters: packed,
        })
    }

    /// Sums of all windows of `x`, whose channels lie last; its zero point is raised if `x` has a sign.
    pub(super) fn conv(
        &self,
        isa: Isa,
        threads: &Threads,
        conv: &Conv,
        (x, zero): (Int8<'_>, u8),
        out: &impl Finish,
    ) {
        match x {
            Int8::Unsigned(x) => self.windows(isa, threads, conv, (x, zero), out),
            Int8::Signed(x) => {
                let zero = (zero ^ 0x80).cast_signed();
                self.windows(isa, threads, conv, (x, zero), out);
            }
        }
    }

    fn windows<T: Copy + Into<i16> + Sync>(
        &self,
        isa: Isa,
        threads: &Threads,
        conv: &Conv,
        (x, zero): (&[T], T),
        out: &impl Finish,
    ) {
        let blocks = Blocks::new(conv, self.pairs, threads.count());
        let padding = vec![zero; self.pairs * 2];
        threads.run(blocks.tasks, |task| {
            let block = &blocks.get(task);
            let mut inputs = Box::new_uninit_slice(POINTS * block.tiles() * self.pairs);
            isa.run(Inputs {
                conv,
                x,
                padding: &padding,
                block,
                to: &mut inputs,
            });
            // SAFETY: all pairs of all tiles have been written.
            let inputs = unsafe { inputs.assume_init() };
            self.sums(isa, conv, block, &inputs, out);
        });
    }

    /// Sums of a block, from the pairs of all its tiles at each point.
    fn sums(&self, isa: Isa, conv: &Conv, block: &Block, inputs: &[[i16; 2]], out: &impl Finish) {
        let (n, tiles) = (conv.out_channels(), block.tiles());
        let [_, b, c] = &conv.window().axes;
        let units = n.div_ceil(UNIT).min(UNITS);
        let mut sums = Box::new_uninit_slice(units * POINTS * tiles);
        let mut lines = [InLines::new(), InLines::new()];
        let panels = self.filters.chunks(UNITS * POINTS * self.pairs);
        for (panel, filters) in panels.enumerate() {
            let inputs = inputs.chunks_exact(tiles * self.pairs).cycle();
            let points = filters.chunks_exact(self.pairs).zip(inputs);
            let sums = &mut sums[..filters.len() / self.pairs * tiles];
            for ((filters, inputs), sums) in points.zip(sums.chunks_exact_mut(tiles)) {
                multiply(isa, inputs, filters, sums);
            }
            // SAFETY: each point of each unit has been written.
            let sums = unsafe { sums.assume_init_ref() };
            let column = panel * COLUMNS;
            for [line, first] in block.abreast() {
                let [oy, ox] = [block.first[0] + line, block.first[1] + first].map(|i| 2 * i);
                let count = ABREAST.min(block.sizes[1] - first);
                isa.run(Outputs {
                    sums,
                    tiles,
                    first: line * block.sizes[1] + first,
                    count,
                    to: &mut lines,
                });
                for (oy, InLines(tile)) in (oy..b.output).zip(&mut lines) {
                    let at = Place {
                        row: (block.plane * b.output + oy) * c.output + ox,
                        count: (2 * count).min(c.output - ox),
                        column,
                        width: COLUMNS.min(n - column),
                    };
                    // SAFETY: the outputs of a block are its task's.
                    unsafe { out.finish(at, tile) };
                }
            }
        }
    }
}

/// How the tiles of all planes are divided among tasks.
struct Blocks {
    /// Tiles of a plane, down and across, and most of a block.
    tiles: [usize; 2],
    most: [usize; 2],
    /// Blocks of a plane.
    blocks: [usize; 2],
    tasks: usize,
}

/// Tiles of a task.
struct Block {
    plane: usize,
    /// The first one, down and across.
    first: [usize; 2],
    sizes: [usize; 2],
}

impl Blocks {
    fn new(conv: &Conv, pairs: usize, threads: usize) -> Blocks {
        let [a, b, c] = &conv.window().axes;
        let tiles = [b, c].map(|axis| axis.output.div_ceil(2));
        let most = (NEAR / (POINTS * pairs * size_of::<[i16; 2]>())).clamp(ABREAST, TILES);
        // All of about the same size.
        let even = |all: usize, most: usize| all.div_ceil(all.div_ceil(most));
        let across = even(tiles[1], most / ABREAST * ABREAST).next_multiple_of(ABREAST);
        let most = (most / across.min(tiles[1])).clamp(1, tiles[0].div_ceil(threads));
        let down = even(tiles[0], most);
        let blocks = [tiles[0].div_ceil(down), tiles[1].div_ceil(across)];
        Blocks {
            tiles,
            most: [down, across],
            blocks,
            tasks: conv.batch() * a.output * blocks[0] * blocks[1],
        }
    }

    fn get(&self, task: usize) -> Block {
        let [down, across] = self.blocks;
        let place = [task / across % down, task % across];
        let first = [0, 1].map(|i| place[i] * self.most[i]);
        Block {
            plane: task / across / down,
            first,
            sizes: [0, 1].map(|i| self.most[i].min(self.tiles[i] - first[i])),
        }
    }
}

impl Block {
    fn tiles(&self) -> usize {
        self.sizes[0] * self.sizes[1]
    }

    /// The line and the first one of tiles that are finished together.
    fn abreast(&self) -> impl Iterator<Item = [usize; 2]> {
        let [lines, across] = self.sizes;
        (0..lines).flat_map(move |line| {
            let firsts = (0..across).step_by(ABREAST);
            firsts.map(move |first| [line, first])
        })
    }
}

/// Takes the inputs of a block to d': for each point and each tile, all pairs of channels.
struct Inputs<'a, T> {
    conv: &'a Conv,
    x: &'a [T],
    /// The zero point, for as many channels as pairs have.
    padding: &'a [T],
    block: &'a Block,
    to: &'a mut [MaybeUninit<[i16; 2]>],
}

impl<T: Copy + Into<i16>> Kernel for Inputs<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [_, b, c] = &self.conv.window().axes;
        let pairs = self.padding.len() / 2;
        let channels = self.x.len() / (self.conv.window().input_len() * self.conv.batch());
        let len = b.input * c.input * channels;
        let plane = &self.x[self.block.plane * len..][..len];
        let zero = self.padding[0].into();
        let (tiles, [_, across]) = (self.block.tiles(), self.block.sizes);
        for tile in 0..tiles {
            let [y, x] = [tile / across, tile % across];
            let y = 2 * (self.block.first[0] + y);
            let x = 2 * (self.block.first[1] + x);
            let mut places = [[&self.padding[..channels]; 4]; 4];
            for (y, line) in (y..).zip(&mut places) {
                for (x, place) in (x..).zip(line) {
                    let (y, x) = (y.wrapping_sub(b.begin), x.wrapping_sub(c.begin));
                    if y < b.input && x < c.input {
                        *place = &plane[(y * c.input + x) * channels..][..channels];
                    }
                }
            }
            for first in (0..channels).step_by(UNIT) {
                let mut d = [[[0; UNIT]; 4]; 4];
                for (d, values) in d.as_flattened_mut().iter_mut().zip(places.as_flattened()) {
                    *d = some(&values[first..], self.padding[0]);
                }
                let mut d = both(d, by_b);
                // The zero points of the others have taken each other away.
                d[1][1] = minus(d[1][1], [4 * zero; UNIT]);
                for (point, d) in d.as_flattened().iter().enumerate() {
                    let place = (point * tiles + tile) * pairs;
                    let to = &mut self.to[place..][..pairs][first / 2..];
                    let (d, _) = d.as_chunks::<2>();
                    match to.first_chunk_mut::<{ UNIT / 2 }>() {
                        Some(to) => to.write_copy_of_slice(d),
                        None => to.write_copy_of_slice(&d[..to.len()]),
                    };
                }
            }
        }
    }
}

/// The first 16 values, and the zero point for those there are not.
#[inline(always)]
fn some<T: Copy + Into<i16>>(values: &[T], zero: T) -> [i16; UNIT] {
    let mut some = [0; UNIT];
    match values.first_chunk::<UNIT>() {
        Some(values) => {
            for i in 0..UNIT {
                some[i] = values[i].into();
            }
        }
        None => {
            some = [zero.into(); UNIT];
            for (to, &value) in some.iter_mut().zip(values) {
                *to = value.into();
            }
        }
    }
    some
}

/// Multiplies the pairs of tiles by those of 16 filters.
fn multiply(isa: Isa, inputs: &[[i16; 2]], filters: &[Pair], to: &mut [MaybeUninit<Sums>]) {
    assert_eq!(inputs.len(), filters.len() * to.len(), "pairs of all tiles");
    if !(isa.is_avx2() || isa.is_avx512()) {
        for (inputs, to) in inputs.chunks_exact(filters.len()).zip(to) {
            let mut sums = [0i32; UNIT];
            for ([a, b], Pair(filters)) in inputs.iter().zip(filters) {
                for (sum, [c, d]) in sums.iter_mut().zip(filters.as_chunks().0) {
                    let product = |a: i16, b: i16| i32::from(a) * i32::from(b);
                    *sum = sum.wrapping_add(product(*a, *c) + product(*b, *d));
                }
            }
            to.write(sums);
        }
        return;
    }
    let rows = inputs.chunks(ROWS * filters.len());
    for (inputs, to) in rows.zip(to.chunks_mut(ROWS)) {
        // SAFETY: this instruction set has AVX2, and each row its pairs, as has been checked.
        unsafe {
            match to.len() {
                1 => tile::<1>(inputs, filters, to),
                2 => tile::<2>(inputs, filters, to),
                3 => tile::<3>(inputs, filters, to),
                4 => tile::<4>(inputs, filters, to),
                5 => tile::<5>(inputs, filters, to),
                _ => tile::<6>(inputs, filters, to),
            }
        }
    }
}

/// [`multiply`] for `H` rows.
///
/// # Safety
/// There are `H` rows, each of as many pairs as there are filters.
#[target_feature(enable = "avx2")]
unsafe fn tile<const H: usize>(
    inputs: &[[i16; 2]],
    filters: &[Pair],
    to: &mut [MaybeUninit<Sums>],
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; H];
    for (i, Pair(pair)) in filters.iter().enumerate() {
        // SAFETY: a half of 64 bytes each, aligned.
        let pair = [0, 16].map(|j| unsafe { _mm256_load_si256(pair.as_ptr().add(j).cast()) });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let input = unsafe { inputs.as_ptr().add(row * filters.len() + i) };
            // SAFETY: two integers of 16 bits.
            let input = _mm256_set1_epi32(unsafe { input.cast::<i32>().read_unaligned() });
            for (sum, pair) in sums.iter_mut().zip(pair) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(input, pair));
            }
        }
    }
    for (sums, to) in sums.into_iter().zip(to) {
        // SAFETY: both have 16 integers of 32 bits.
        to.write(unsafe { std::mem::transmute::<[__m256i; 2], Sums>(sums) });
    }
}

/// Takes sums of some tiles of a line to outputs: lines of places of output channels.
struct Outputs<'a> {
    /// For each unit of output channels and each point, all tiles.
    sums: &'a [Sums],
    tiles: usize,
    first: usize,
    count: usize,
    to: &'a mut [InLines; 2],
}

impl Kernel for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const HALF: usize = UNIT / 2;
        for (unit, points) in self.sums.chunks_exact(POINTS * self.tiles).enumerate() {
            for tile in 0..self.count {
                for half in [0, HALF] {
                    let mut sums = [[[0; HALF]; 4]; 4];
                    for (point, to) in sums.as_flattened_mut().iter_mut().enumerate() {
                        let sums = &points[point * self.tiles + self.first + tile];
                        to.copy_from_slice(&sums[half..][..HALF]);
                    }
                    for (line, InLines(to)) in both(sums, by_a).iter().zip(&mut *self.to) {
                        for (sums, to) in line.iter().zip(&mut to[2 * tile..]) {
                            for (sum, to) in sums.iter().zip(&mut to[unit * UNIT + half..]) {
                                *to = sum >> 2;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A matrix times `of` times the same matrix turned over; `f` multiplies a column by it.
#[inline(always)]
fn both<T: Copy + Default, const M: usize, const N: usize>(
    of: [[T; M]; M],
    f: impl Fn([T; M]) -> [T; N],
) -> [[T; N]; N] {
    // Loops: functions of arrays would not be inlined.
    let mut columns = [[T::default(); N]; M];
    for x in 0..M {
        let mut column = [T::default(); M];
        for y in 0..M {
            column[y] = of[y][x];
        }
        columns[x] = f(column);
    }
    let mut done = [[T::default(); N]; N];
    for y in 0..N {
        let mut line = [T::default(); M];
        for x in 0..M {
            line[x] = columns[x][y];
        }
        done[y] = f(line);
    }
    done
}

#[inline(always)]
fn by_a([a, b, c, d]: [[i32; UNIT / 2]; 4]) -> [[i32; UNIT / 2]; 2] {
    let mut y = [[0; UNIT / 2]; 2];
    for i in 0..UNIT / 2 {
        y[0][i] = a[i].wrapping_add(b[i]).wrapping_add(c[i]);
        y[1][i] = b[i].wrapping_sub(c[i]).wrapping_sub(d[i]);
    }
    y
}

#[inline(always)]
fn by_b([a, b, c, d]: [[i16; UNIT]; 4]) -> [[i16; UNIT]; 4] {
    [minus(a, c), plus(b, c), minus(c, b), minus(b, d)]
}

fn by_g([a, b, c]: [[i16; 2 * UNIT]; 3]) -> [[i16; 2 * UNIT]; 4] {
    let ends = plus(a, c);
    [plus(a, a), plus(ends, b), minus(ends, b), plus(c, c)]
}

#[inline(always)]
fn plus<const N: usize>(mut a: [i16; N], b: [i16; N]) -> [i16; N] {
    for i in 0..N {
        a[i] += b[i];
    }
    a
}

#[inline(always)]
fn minus<const N: usize>(mut a: [i16; N], b: [i16; N]) -> [i16; N] {
    for i in 0..N {
        a[i] -= b[i];
    }
    a
}
