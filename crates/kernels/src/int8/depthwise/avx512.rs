//! Convolution of each channel by its own filter, with AVX-512 VNNI.
//!
//! One instruction adds four products to each of 16 sums: here of four taps, for a channel each. Of 64 channels the bytes
//! under four taps are interleaved, which leaves the channels out of order within the registers; the taps are packed in that
//! order, and the sums put in order at the end.

use std::arch::x86_64::*;

use super::fold;
use super::under::Under;
use crate::conv::Conv;
use crate::int8::Int8;
use crate::int8::finish512::{each, mask};
use crate::int8::pack::{COLUMNS, QUAD, Quad, UNIT, UNITS};
use crate::int8::vnni::Vnni;
use crate::int8::walk::{Finish, Place, Tile};
use crate::threads::Threads;

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

    /// Whether outputs can be taken together.
    pub(super) fn folds(&self, conv: &Conv) -> bool {
        let axis = &conv.window().axes[2];
        self.fold > 1 && axis.stride == 1 && axis.output.is_multiple_of(self.fold)
    }
}

/// A convolution whose taps are packed so.
pub(super) struct Depthwise<'a> {
    vnni: Vnni,
    under: Under<'a>,
    taps: &'a Taps,
    /// What the sums of each channel begin with: less zero points.
    begin: Vec<i32>,
}

impl<'a> Depthwise<'a> {
    /// The convolution of `x`, and its zero point, raised if `x` has a sign. With a `fold` other than 1, `x` has its padding.
    pub(super) fn new(
        vnni: Vnni,
        conv: &'a Conv,
        taps: &'a Taps,
        x: Int8<'a>,
        zero: u8,
        fold: usize,
    ) -> Depthwise<'a> {
        let under = Under::new(conv, x, zero, fold, 1);
        let begin = |sum: &i32| sum.wrapping_mul(i32::from(zero)).wrapping_neg();
        let begin = taps.sums.iter().map(begin).collect();
        Depthwise {
            vnni,
            under,
            taps,
            begin,
        }
    }

    /// Makes all outputs.
    pub(super) fn run(&self, threads: &Threads, out: &impl Finish) {
        let taps = self.taps.groups * QUAD;
        self.under.lines(threads, taps, out, |places, at, tile| {
            // SAFETY: `vnni` is proof that this machine has these instructions; each place has as many bytes as there are
            // channels.
            unsafe {
                match self.under.signed {
                    false => self.tile::<false>(places, at, tile),
                    true => self.tile::<true>(places, at, tile),
                }
            }
        });
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
