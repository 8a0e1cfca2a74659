//! Convolution of each channel by its own filter, with AVX2.
//!
//! One instruction multiplies 16 pairs of 16 bits and adds those that lie together: here of two taps, for 8 channels. Of 32
//! channels the bytes under two taps are interleaved two by two, which leaves even channels in low bytes and odd ones in
//! high bytes, and these out of order within the registers; the taps are packed in that order, and the sums put in order
//! at the end.

use std::arch::x86_64::*;

use super::under::Under;
use crate::conv::Conv;
use crate::int8::Int8;
use crate::int8::avx2::Avx2;
use crate::int8::walk::{Finish, Place, Tile};
use crate::threads::Threads;

/// Channels of a block, and registers that their sums are in, of so many lanes.
const BLOCK: usize = 32;
const PARTS: usize = 4;
const LANES: usize = 8;

/// Two taps of each channel of a block.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Pair([[i16; 2 * LANES]; PARTS]);

/// Taps as the tiles read them: for 32 channels after 32, for two taps after two.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    pairs: Vec<Pair>,
    /// Sums over the taps of each channel, as a block has them.
    sums: Vec<i32>,
    /// Taps, with one that is 0 if there is an odd number of them.
    taps: usize,
}

/// The register of channel `c` of 32, and its lane there.
fn placed(c: usize) -> (usize, usize) {
    (c / 8 % 2 * 2 + c % 2, c / 16 * 4 + c % 8 / 2)
}

impl Pairs {
    /// Packs taps, tap after tap a value for each channel, if they are differences of bytes.
    pub(super) fn pack(taps: &[i32], channels: usize) -> Option<Pairs> {
        let (count, blocks) = (
            (taps.len() / channels).div_ceil(2),
            channels.div_ceil(BLOCK),
        );
        let mut packed = Pairs {
            pairs: vec![Pair([[0; 2 * LANES]; PARTS]); blocks * count],
            sums: vec![0; blocks * BLOCK],
            taps: 2 * count,
        };
        for (i, &value) in taps.iter().enumerate() {
            let (tap, channel) = (i / channels, i % channels);
            let (block, (part, lane)) = (channel / BLOCK, placed(channel % BLOCK));
            let short = (value.unsigned_abs() < 256).then_some(value as i16)?;
            packed.pairs[block * count + tap / 2].0[part][2 * lane + tap % 2] = short;
            packed.sums[block * BLOCK + part * LANES + lane] += value;
        }
        Some(packed)
    }
}

/// A convolution whose taps are packed so.
pub(super) struct Depthwise<'a> {
    avx2: Avx2,
    under: Under<'a>,
    taps: &'a Pairs,
    /// What the sums of each channel begin with: less zero points.
    begin: Vec<i32>,
}

impl<'a> Depthwise<'a> {
    /// The convolution of `x`, and its zero point, raised if `x` has a sign.
    pub(super) fn new(
        avx2: Avx2,
        conv: &'a Conv,
        taps: &'a Pairs,
        x: Int8<'a>,
        zero: u8,
    ) -> Depthwise<'a> {
        let under = Under::new(conv, x, zero, 1, BLOCK);
        let begin = |sum: &i32| sum.wrapping_mul(i32::from(zero)).wrapping_neg();
        let begin = taps.sums.iter().map(begin).collect();
        Depthwise {
            avx2,
            under,
            taps,
            begin,
        }
    }

    /// Makes all outputs.
    pub(super) fn run(&self, threads: &Threads, out: &impl Finish) {
        let Avx2 { .. } = self.avx2;
        self.under
            .lines(threads, self.taps.taps, out, |places, at, tile| {
                // SAFETY: `avx2` is proof that this machine has these instructions; each place has bytes for whole blocks.
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
    /// This machine has these instructions. Each place has bytes for whole blocks of channels.
    #[target_feature(enable = "avx2")]
    unsafe fn tile<const SIGNED: bool>(&self, places: &[*const u8], at: Place, tile: &mut Tile) {
        let taps = self.taps.taps;
        let (flip, low) = (_mm256_set1_epi8(i8::MIN), _mm256_set1_epi16(0xFF));
        for first in (0..at.width).step_by(BLOCK) {
            let column = at.column + first;
            let pairs = &self.taps.pairs[column / BLOCK * (taps / 2)..][..taps / 2];
            let begin = self.begin[column..][..BLOCK].as_ptr();
            // SAFETY: 8 of 32 values each.
            let begin = [0, 8, 16, 24].map(|i| unsafe { _mm256_loadu_si256(begin.add(i).cast()) });
            // SAFETY: the caller's promise.
            let load = |place: *const u8| unsafe {
                let bytes = _mm256_loadu_si256(place.wrapping_add(column).cast());
                if SIGNED {
                    _mm256_xor_si256(bytes, flip)
                } else {
                    bytes
                }
            };
            for (places, to) in places.chunks_exact(taps).zip(&mut tile[..at.count]) {
                let mut sums = begin;
                for (&[a, b], Pair(taps)) in places.as_chunks::<2>().0.iter().zip(pairs) {
                    let (a, b) = (load(a), load(b));
                    let (near, far) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
                    let values = [
                        _mm256_and_si256(near, low),
                        _mm256_srli_epi16::<8>(near),
                        _mm256_and_si256(far, low),
                        _mm256_srli_epi16::<8>(far),
                    ];
                    for ((sum, value), taps) in sums.iter_mut().zip(values).zip(taps) {
                        // SAFETY: 16 values, aligned.
                        let taps = unsafe { _mm256_load_si256(taps.as_ptr().cast()) };
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(value, taps));
                    }
                }
                let [a, b, c, d] = sums;
                let (near, far) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let (near_too, far_too) =
                    (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                let ordered = [
                    _mm256_permute2x128_si256::<0x20>(near, far),
                    _mm256_permute2x128_si256::<0x20>(near_too, far_too),
                    _mm256_permute2x128_si256::<0x31>(near, far),
                    _mm256_permute2x128_si256::<0x31>(near_too, far_too),
                ];
                for (to, ordered) in to[first..]
                    .as_chunks_mut::<LANES>()
                    .0
                    .iter_mut()
                    .zip(ordered)
                {
                    // SAFETY: 8 places.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered) };
                }
            }
        }
    }
}
