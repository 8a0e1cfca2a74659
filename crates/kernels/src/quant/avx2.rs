//! Tiles in AVX2 with FMA: up to 6 rows by 8 outputs, a quarter of a pair of panels.
//!
//! Products of bytes are added in 16 bits as long as they fit: that takes half the instructions of sums in 32 bits.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::x86::{Q4_0, Q4K, Q5K, Q6K, Q8_0, ahead, dispatch, fetch, format};
use super::{Format, Line, PAIR, PANEL, Panel, RowBlock, SUPER_LINES, code_lines};
use crate::isa::Isa;

/// Outputs of one register of sums.
const LANES: usize = 8;

/// Proof that this machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// These tiles, if `isa` has the instructions: AVX2, or AVX-512 without its integer products.
    pub(super) fn on(isa: Isa) -> Option<Tiles> {
        let wide = isa.is_avx2() || isa.is_avx512();
        (wide && is_x86_feature_detected!("f16c")).then_some(Tiles(()))
    }
}

impl super::Tiles for Tiles {
    #[inline(always)]
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
        // SAFETY: `self` exists only where the machine has AVX2, FMA and F16C.
        unsafe { dispatch!(format, height, tile(panels, first, blocks, x, sums)) }
    }

    #[inline(always)]
    fn put(self, sums: &[f32; PAIR], out: &mut [f32]) {
        // SAFETY: `self` exists only where the machine has AVX2.
        unsafe { put(sums, out) };
    }
}

/// Copies sums, each NaN as the one NaN.
#[target_feature(enable = "avx2")]
fn put(sums: &[f32; PAIR], out: &mut [f32]) {
    let (parts, _) = sums.as_chunks::<LANES>();
    for (part, out) in parts.iter().zip(out.chunks_mut(LANES)) {
        let whole = part.map(crate::math::canonical);
        if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
            *out = whole;
            continue;
        }
        out.copy_from_slice(&whole[..out.len()]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const F: u8, const R: usize>(
    panels: [Panel<'_>; 2],
    first: usize,
    blocks: usize,
    x: &[RowBlock],
    sums: &mut [[f32; PAIR]],
) {
    let sums = sums
        .first_chunk_mut::<R>()
        .expect("as many sums as there are rows");
    if first == 0 {
        sums.fill([0.0; PAIR]);
    }
    let count = code_lines(format(F));
    let range = first * count..(first + blocks) * count;
    let codes = [&panels[0].codes[range.clone()], &panels[1].codes[range]];
    let ahead = ahead::<R>(panels, codes[0].len());
    let (x, _) = x.as_chunks::<R>();
    for (b, x) in x.iter().enumerate() {
        for side in 0..2 {
            let lines = &codes[side][b * count..(b + 1) * count];
            if R == 1 {
                fetch(lines, ahead);
            }
            for half in 0..2 {
                // SAFETY: this function has the instructions.
                unsafe {
                    let scales = scales::<F>(panels[side].scales, first + b, half);
                    let column = side * PANEL + half * LANES;
                    block::<F, R>(lines, half, scales, x, sums, column);
                }
            }
        }
    }
}

// What follows is inlined into `tile` alone, and so compiled with its instructions: a function with
// target features of its own may stay a call, around which every register is spilled.

/// One half of a line.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn load(line: &Line, half: usize) -> __m256i {
    let (halves, _) = line.0.as_chunks::<32>();
    // SAFETY: 32 bytes, aligned to 32; the caller has AVX2.
    unsafe { _mm256_load_si256(halves[half].as_ptr().cast()) }
}

/// The codes of line `j` of a block for 8 outputs: groups `j` and `j + 4`, without a sign. Of eight bits there is one group in a
/// line: its codes with their sign, and their sizes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn groups<const F: u8>(lines: &[Line], half: usize, j: usize) -> [__m256i; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let both = load(&lines[j], half);
        if F == Q8_0 {
            let codes = _mm256_xor_si256(both, _mm256_set1_epi8(-128));
            return [codes, _mm256_abs_epi8(codes)];
        }
        let low = _mm256_set1_epi8(15);
        let four = [
            _mm256_and_si256(both, low),
            _mm256_and_si256(_mm256_srli_epi16::<4>(both), low),
        ];
        let more = match F {
            Q5K => {
                let (words, _) = lines[4].0.as_chunks::<4>();
                [fifth(words[2 * j + half]), fifth(words[2 * (j + 4) + half])]
            }
            Q6K => {
                // Of the groups j % 2, j % 2 + 2, + 4 and + 6: those of group j move lowest, and group j + 4 is four bits above.
                let line = load(&lines[4 + j % 2], half);
                let line = _mm256_srl_epi16(line, _mm_cvtsi32_si128((j / 2 * 2) as i32));
                let two = _mm256_set1_epi8(48);
                [
                    _mm256_and_si256(_mm256_slli_epi16::<4>(line), two),
                    _mm256_and_si256(line, two),
                ]
            }
            _ => return four,
        };
        [
            _mm256_or_si256(four[0], more[0]),
            _mm256_or_si256(four[1], more[1]),
        ]
    }
}

/// The bits of a word as bytes, 16 for each that is set.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn fifth(word: [u8; 4]) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        // Byte i of the word to bytes 8·i to 8·i + 7, of which each takes its own bit.
        let bytes = _mm256_shuffle_epi8(
            _mm256_set1_epi32(i32::from_le_bytes(word)),
            _mm256_setr_epi64x(
                0,
                0x0101_0101_0101_0101,
                0x0202_0202_0202_0202,
                0x0303_0303_0303_0303,
            ),
        );
        let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }
}

/// Eight binary16 numbers of a line: quarter `at`.
///
/// # Safety
/// The machine has F16C.
#[inline(always)]
unsafe fn numbers(line: &Line, at: usize) -> __m256 {
    let (parts, _) = line.0.as_chunks::<16>();
    // SAFETY: 16 bytes, aligned to 16; the caller has F16C.
    unsafe { _mm256_cvtph_ps(_mm_load_si128(parts[at].as_ptr().cast())) }
}

/// The scales of block `b` for 8 outputs: of the block and of its minimum, or of its two halves.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
unsafe fn scales<const F: u8>(lines: &[Line], b: usize, half: usize) -> [__m256; 2] {
    // SAFETY: as the caller promises; a line has eight binary16 numbers at any multiple of 16 bytes, and eight bytes at any of 8.
    unsafe {
        if format(F).block_len() == 32 {
            let scale = numbers(&lines[b / 2], b % 2 * 2 + half);
            return [scale, _mm256_setzero_ps()];
        }
        let head = &lines[b / 8 * SUPER_LINES];
        let (parts, _) = lines[b / 8 * SUPER_LINES + 1 + b % 8 / 2]
            .0
            .as_chunks::<8>();
        let first = _mm_loadl_epi64(parts[b % 2 * 4 + half].as_ptr().cast());
        let second = _mm_loadl_epi64(parts[b % 2 * 4 + 2 + half].as_ptr().cast());
        let scale = numbers(head, half);
        if F == Q6K {
            return [
                _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(first))),
                _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(second))),
            ];
        }
        // Negated here, so that taking the minimum off is a sum.
        let minimum = _mm256_sub_ps(_mm256_set1_ps(-0.0), numbers(head, 2 + half));
        [
            _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(first))),
            _mm256_mul_ps(minimum, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(second))),
        ]
    }
}

/// One block of 32 by 8 outputs: exact sums of products of codes, then the scales.
///
/// # Safety
/// The machine has AVX2 and FMA.
#[inline(always)]
unsafe fn block<const F: u8, const R: usize>(
    lines: &[Line],
    half: usize,
    scales: [__m256; 2],
    x: &[RowBlock; R],
    sums: &mut [[f32; PAIR]; R],
    column: usize,
) {
    // SAFETY: as the caller promises; eight of a row's 32 sums from `column` on.
    unsafe {
        let products = multiply::<F, R>(lines, half, x);
        for ((x, products), sums) in x.iter().zip(products).zip(sums) {
            let sums = sums[column..column + LANES].as_mut_ptr();
            let mut total = _mm256_loadu_ps(sums);
            // x has −128 · Σ codes; offsets are 8 and 32. Eight-bit codes have their sign.
            let offsets = match F {
                Q4_0 => [_mm256_srai_epi32::<4>(_mm256_set1_epi32(x.offset)); 2],
                Q6K => [
                    _mm256_srai_epi32::<2>(_mm256_set1_epi32(x.halves[0])),
                    _mm256_srai_epi32::<2>(_mm256_set1_epi32(x.halves[1])),
                ],
                _ => [_mm256_setzero_si256(); 2],
            };
            let scale = _mm256_set1_ps(x.scale);
            for part in 0..if F == Q6K { 2 } else { 1 } {
                let products = _mm256_add_epi32(products[part], offsets[part]);
                let scale = _mm256_mul_ps(scales[part], scale);
                total = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), total);
            }
            if format(F).has_minimum() {
                total = _mm256_fmadd_ps(scales[1], _mm256_set1_ps(x.sum), total);
            }
            _mm256_storeu_ps(sums, total);
        }
    }
}

/// Whether products of so many groups of codes up to `largest` can be added in 16 bits: two of each with at most 127.
const fn fits(groups: u32, largest: u32) -> bool {
    groups * 2 * largest * 127 < 1 << 15
}

const _: () = assert!(fits(8, 15) && fits(4, 31) && fits(1, 63) && fits(1, 128));

/// Sums of products of codes for each row: of the block, or of its two halves apart.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn multiply<const F: u8, const R: usize>(
    lines: &[Line],
    half: usize,
    x: &[RowBlock; R],
) -> [[__m256i; 2]; R] {
    // SAFETY: as the caller promises; four codes from 4 · J on are part of the block's 32.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        // The compiler is not to know how often: it would unroll the loop, take other sums first, and run out of registers.
        let count = std::hint::black_box(if F == Q8_0 { 8 } else { 4 });
        for j in 0..count {
            let codes = groups::<F>(lines, half, j);
            for (sums, x) in sums.iter_mut().zip(x) {
                let fours = x.codes.as_ptr().cast::<i32>().add(j);
                let first = _mm256_set1_epi32(fours.read_unaligned());
                if F == Q8_0 {
                    // The instruction multiplies bytes without a sign by bytes with one: that of the codes goes to x.
                    let first = _mm256_sign_epi8(first, codes[0]);
                    let pairs = _mm256_maddubs_epi16(codes[1], first);
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(pairs, ones));
                    continue;
                }
                let second = _mm256_set1_epi32(fours.add(4).read_unaligned());
                let pairs = [
                    _mm256_maddubs_epi16(codes[0], first),
                    _mm256_maddubs_epi16(codes[1], second),
                ];
                match F {
                    Q6K => {
                        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(pairs[0], ones));
                        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(pairs[1], ones));
                    }
                    Q5K => {
                        sums[0] = _mm256_add_epi16(sums[0], pairs[0]);
                        sums[1] = _mm256_add_epi16(sums[1], pairs[1]);
                    }
                    _ => {
                        sums[0] = _mm256_add_epi16(sums[0], pairs[0]);
                        sums[0] = _mm256_add_epi16(sums[0], pairs[1]);
                    }
                }
            }
        }
        for sums in &mut sums {
            match F {
                Q8_0 | Q6K => {}
                Q5K => {
                    let pairs = [
                        _mm256_madd_epi16(sums[0], ones),
                        _mm256_madd_epi16(sums[1], ones),
                    ];
                    sums[0] = _mm256_add_epi32(pairs[0], pairs[1]);
                }
                _ => sums[0] = _mm256_madd_epi16(sums[0], ones),
            }
        }
        sums
    }
}
