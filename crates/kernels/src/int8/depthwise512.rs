//! Convolution of each channel by its own filter, with AVX-512 VNNI.
//!
//! One instruction adds four products to each of 16 sums: here of four taps, for a channel each. Of 64 channels the bytes
//! under four taps are interleaved, which leaves the channels out of order within the registers; the taps are packed in that
//! order, and the sums put in order at the end. Where a tap is in the padding, or there is none, a line of zero points
//! is read.
//!
//! Outputs of windows that are one place apart may be taken for one (see [`fold`]) where the input has its padding.

use std::arch::x86_64::*;

use super::Int8;
use super::finish512::{each, mask};
use super::fold;
use super::last::{lines_of_a_task, reach};
use super::pack::{COLUMNS, QUAD, Quad, UNIT, UNITS};
use super::vnni::Vnni;
use super::walk::{Finish, InLines, Place, ROWS, Tile};
use crate::conv::Conv;
use crate::threads::Threads;
use crate::window::AXES;

/// Taps as the tiles read them: for 64 channels after 64, for four taps after four, four registers. The channels are repeated
/// as often as makes whole panels of them, if that is not too often.
#[derive(Clone, Debug)]
pub(super) struct Taps {
    quads: Vec<Quad>,
    /// Sums over the taps of each channel, as a tile has them.
    sums: Vec<i32>,
    /// How often the channels are repeated.
    pub(super) fold: usize,
    /// Groups of four taps.
    groups: usize,
}

/// The byte of a register, and the register, of channel `c` of 64: of every 16 the first 4 are in the first one.
fn placed(c: usize) -> (usize, usize) {
    let (quarter, unit, lane) = (c / UNIT, c % UNIT / QUAD, c % QUAD);
    (unit, quarter * UNIT + lane * QUAD)
}

impl Taps {
    /// Packs taps, tap after tap a value for each channel, if they fit 8 bits with a sign.
    pub(super) fn pack(taps: &[i32], channels: usize) -> Option<Taps> {
        let count = taps.len() / channels;
        let fold = fold::rows_of_panels(channels);
        let (groups, panels) = (count.div_ceil(QUAD), (fold * channels).div_ceil(COLUMNS));
        let mut packed = Taps {
            quads: vec![Quad([0; QUAD * UNIT]); panels * groups * UNITS],
            sums: vec![0; panels * COLUMNS],
            fold,
            groups,
        };
        for (i, &value) in taps.iter().enumerate() {
            let (tap, channel) = (i / channels, i % channels);
            let short = i8::try_from(value).ok()?;
            for channel in (channel..fold * channels).step_by(channels) {
                let (panel, (unit, byte)) = (channel / COLUMNS, placed(channel % COLUMNS));
                let quad = (panel * groups + tap / QUAD) * UNITS + unit;
                packed.quads[quad].0[byte + tap % QUAD] = short;
                packed.sums[panel * COLUMNS + unit * UNIT + byte / QUAD] += value;
            }
        }
        Some(packed)
    }
}

/// A convolution whose taps are packed so.
pub(super) struct Depthwise<'a> {
    vnni: Vnni,
    conv: &'a Conv,
    taps: &'a Taps,
    /// The bytes of the input, and what makes those without a sign of them.
    x: &'a [u8],
    signed: bool,
    /// Places of each axis of the input, and how many there are in the padding before these.
    sizes: [usize; AXES],
    before: [usize; AXES],
    /// Outputs that are taken for one.
    fold: usize,
    /// What the sums of each channel begin with: less zero points.
    begin: Vec<i32>,
    /// Zero points, a place of the input.
    padding: Vec<u8>,
}

impl<'a> Depthwise<'a> {
    /// The convolution of `x`, whose zero point has to be one of its type. With a `fold` other than 1, `x` has its padding.
    pub(super) fn new(
        vnni: Vnni,
        conv: &'a Conv,
        taps: &'a Taps,
        x: Int8<'a>,
        x_zero: i32,
        fold: usize,
    ) -> Option<Depthwise<'a>> {
        let axes = &conv.window().axes;
        let (sizes, before) = match fold {
            1 => (
                axes.each_ref().map(|axis| axis.input),
                axes.each_ref().map(|axis| axis.begin),
            ),
            _ => (axes.each_ref().map(reach), [0; AXES]),
        };
        let channels = conv.out_channels();
        let places: usize = sizes.iter().product();
        assert_eq!(
            x.len(),
            conv.batch() * places * channels,
            "input of a convolution"
        );
        let (bytes, signed) = match x {
            Int8::Unsigned(x) => (x, false),
            Int8::Signed(x) => (bytes_of(x), true),
        };
        let zero = u8::try_from(x_zero.checked_add(x.raised_by())?).ok()?;
        let padding = vec![if signed { zero ^ 0x80 } else { zero }; fold * channels];
        let begin = |sum: &i32| sum.wrapping_mul(i32::from(zero)).wrapping_neg();
        Some(Depthwise {
            vnni,
            conv,
            taps,
            x: bytes,
            signed,
            sizes,
            before,
            fold,
            begin: taps.sums.iter().map(begin).collect(),
            padding,
        })
    }

    /// Makes all lines of the outputs.
    pub(super) fn lines(&self, threads: &Threads, lines: usize, out: &impl Finish) {
        let len = self.conv.window().axes[2].output * self.conv.out_channels();
        let together = lines_of_a_task(len);
        threads.run(lines.div_ceil(together), |task| {
            let InLines(tile) = &mut InLines::new();
            for line in task * together..lines.min((task + 1) * together) {
                // SAFETY: each line is one task's.
                self.line(line, tile, |at, tile| unsafe { out.finish(at, tile) });
            }
        });
    }

    /// Makes the sums of line `line` of the outputs, tile by tile.
    fn line(&self, line: usize, tile: &mut Tile, mut take: impl FnMut(Place, &mut Tile)) {
        let (width, n) = (
            self.conv.window().axes[2].output / self.fold,
            self.padding.len(),
        );
        let lines = self.lines_under(line);
        // Taps that there are not read the padding.
        let mut places = vec![self.padding.as_ptr(); ROWS * self.taps.groups * QUAD];
        for first in (0..width).step_by(ROWS) {
            let count = ROWS.min(width - first);
            self.places(&lines, first, count, &mut places);
            for column in (0..n).step_by(COLUMNS) {
                let at = Place {
                    row: line * width + first,
                    count,
                    column,
                    width: COLUMNS.min(n - column),
                };
                // SAFETY: `vnni` is proof that this machine has these instructions; each place has as many bytes as
                // there are channels.
                unsafe {
                    match self.signed {
                        false => self.tile::<false>(&places, at, tile),
                        true => self.tile::<true>(&places, at, tile),
                    }
                }
                take(at, tile);
            }
        }
    }

    /// For each tap but its place on the last axis: where the line of the input under it begins, if there is one.
    fn lines_under(&self, line: usize) -> Vec<Option<usize>> {
        let [a, b, _] = &self.conv.window().axes;
        let (image, rest) = (line / (a.output * b.output), line % (a.output * b.output));
        let (oa, ob) = (rest / b.output, rest % b.output);
        let mut lines = Vec::with_capacity(a.kernel * b.kernel);
        for ka in 0..a.kernel {
            for kb in 0..b.kernel {
                let [depth, height, width] = self.sizes;
                let ia = (oa * a.stride + ka * a.dilation).wrapping_sub(self.before[0]);
                let ib = (ob * b.stride + kb * b.dilation).wrapping_sub(self.before[1]);
                let inside = ia < depth && ib < height;
                lines.push(inside.then(|| ((image * depth + ia) * height + ib) * width));
            }
        }
        lines
    }

    /// Where the channels under each tap of some outputs of a line begin: output after output.
    fn places(&self, lines: &[Option<usize>], first: usize, count: usize, to: &mut [*const u8]) {
        let c = &self.conv.window().axes[2];
        let (n, taps) = (self.conv.out_channels(), self.taps.groups * QUAD);
        let step = self.fold * c.stride;
        for (tap, line) in (0..).step_by(c.kernel).zip(lines) {
            for kc in 0..c.kernel {
                let begin = (first * step + kc * c.dilation).wrapping_sub(self.before[2]);
                let to = to[tap + kc..].iter_mut().step_by(taps).take(count);
                for (ic, to) in (0..).map(|i| begin.wrapping_add(i * step)).zip(to) {
                    *to = match line {
                        // Inside, as the line is and the place on it.
                        Some(line) if ic < self.sizes[2] && self.fold <= self.sizes[2] - ic => {
                            self.x.as_ptr().wrapping_add((line + ic) * n)
                        }
                        _ => self.padding.as_ptr(),
                    };
                }
            }
        }
    }

    /// Σ (x − zero) · tap of some outputs and up to 64 channels.
    ///
    /// # Safety
    /// This machine has these instructions. Each place has as many bytes as there are channels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn tile<const SIGNED: bool>(&self, places: &[*const u8], at: Place, tile: &mut Tile) {
        let Vnni { .. } = self.vnni;
        let groups = self.taps.groups;
        let quads = &self.taps.quads[at.column / COLUMNS * groups * UNITS..][..groups * UNITS];
        let begin = &self.begin[at.column..][..COLUMNS];
        // SAFETY: 16 of 64 values each.
        let begin = each!(i in [0, 16, 32, 48] => unsafe { _mm512_loadu_si512(begin.as_ptr().add(i).cast()) });
        let mask = mask(at.width);
        let flip = _mm512_set1_epi8(i8::MIN);
        // SAFETY: the caller's promise: the mask has a bit for each channel from `column` on.
        let load = |place: *const u8| unsafe {
            let from: *const i8 = place.wrapping_add(at.column).cast();
            let bytes = match at.width {
                COLUMNS => _mm512_loadu_si512(from.cast()),
                _ => _mm512_maskz_loadu_epi8(mask, from),
            };
            if SIGNED {
                _mm512_xor_si512(bytes, flip)
            } else {
                bytes
            }
        };
        for (places, to) in places
            .chunks_exact(groups * QUAD)
            .zip(&mut tile[..at.count])
        {
            let [mut s0, mut s1, mut s2, mut s3] = begin;
            for (places, taps) in places
                .as_chunks::<QUAD>()
                .0
                .iter()
                .zip(quads.as_chunks::<UNITS>().0)
            {
                let [a, b, c, d] = [
                    load(places[0]),
                    load(places[1]),
                    load(places[2]),
                    load(places[3]),
                ];
                let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
                // SAFETY: a unit is 64 bytes.
                let tap = |unit: usize| unsafe { _mm512_load_si512(taps[unit].0.as_ptr().cast()) };
                s0 = _mm512_dpbusd_epi32(s0, _mm512_unpacklo_epi16(ab, cd), tap(0));
                s1 = _mm512_dpbusd_epi32(s1, _mm512_unpackhi_epi16(ab, cd), tap(1));
                s2 = _mm512_dpbusd_epi32(s2, _mm512_unpacklo_epi16(ab_high, cd_high), tap(2));
                s3 = _mm512_dpbusd_epi32(s3, _mm512_unpackhi_epi16(ab_high, cd_high), tap(3));
            }
            // A quarter of each belongs together.
            let (low, high) = (
                _mm512_shuffle_i32x4::<0x44>(s0, s1),
                _mm512_shuffle_i32x4::<0xEE>(s0, s1),
            );
            let (low_too, high_too) = (
                _mm512_shuffle_i32x4::<0x44>(s2, s3),
                _mm512_shuffle_i32x4::<0xEE>(s2, s3),
            );
            let ordered = [
                _mm512_shuffle_i32x4::<0x88>(low, low_too),
                _mm512_shuffle_i32x4::<0xDD>(low, low_too),
                _mm512_shuffle_i32x4::<0x88>(high, high_too),
                _mm512_shuffle_i32x4::<0xDD>(high, high_too),
            ];
            for (unit, ordered) in ordered.into_iter().enumerate() {
                // SAFETY: 16 of 64 values each.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(UNIT * unit).cast(), ordered) };
            }
        }
    }
}

/// The bytes of integers.
fn bytes_of(x: &[i8]) -> &[u8] {
    // SAFETY: both have the same size, and all bits are values of both.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}
