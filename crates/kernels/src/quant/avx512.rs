//! Tiles in AVX-512 with VNNI: up to 6 rows by 2 panels, sums and integers in 24 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::x86::{Q4_0, Q4K, Q5K, Q6K, Q8_0, ahead, dispatch, fetch, format};
use super::{Format, Line, PAIR, PANEL, Panel, RowBlock, SUPER_LINES, code_lines};
use crate::isa::Isa;

/// Proof that this machine has AVX-512 with VNNI.
#[derive(Clone, Copy)]
pub(super) struct Tiles(());

impl Tiles {
    /// These tiles, if `isa` is AVX-512 and this machine multiplies bytes in it.
    pub(super) fn on(isa: Isa) -> Option<Tiles> {
        (isa.is_avx512() && is_x86_feature_detected!("avx512vnni")).then_some(Tiles(()))
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
        // SAFETY: `self` exists only where the machine has AVX-512 with VNNI.
        unsafe { dispatch!(format, height, tile(panels, first, blocks, x, sums)) }
    }

    #[inline(always)]
    fn put(self, sums: &[f32; PAIR], out: &mut [f32]) {
        // SAFETY: `self` exists only where the machine has AVX-512.
        unsafe { put(sums, out) };
    }
}

/// Copies sums, each NaN as the one NaN.
#[target_feature(enable = "avx512f")]
fn put(sums: &[f32; PAIR], out: &mut [f32]) {
    let (halves, _) = sums.as_chunks::<PANEL>();
    for (half, out) in halves.iter().zip(out.chunks_mut(PANEL)) {
        let nan = _mm512_set1_ps(crate::math::CANONICAL_NAN);
        // SAFETY: 16 values are read, and as many written as `out` has, at most 16.
        unsafe {
            let sums = _mm512_loadu_ps(half.as_ptr());
            let bad = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(sums, sums);
            let sums = _mm512_mask_mov_ps(sums, bad, nan);
            let there = ((1u32 << out.len()) - 1) as __mmask16;
            _mm512_mask_storeu_ps(out.as_mut_ptr(), there, sums);
        }
    }
}

// What follows is inlined into `tile` alone, and so compiled with its instructions: a function with
// target features of its own may stay a call, around which every register is spilled.

/// One line.
#[inline(always)]
unsafe fn load(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes, aligned to 64; the caller has AVX-512.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

/// Group `J` of the codes of one block.
///
/// # Safety
/// The machine has AVX-512 with VNNI.
#[inline(always)]
unsafe fn group<const F: u8, const J: usize>(lines: &[Line]) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        if F == Q8_0 {
            return load(&lines[J]);
        }
        let both = load(&lines[J % 4]);
        let four = if J < 4 {
            both
        } else {
            _mm512_srli_epi16::<4>(both)
        };
        let four = _mm512_and_si512(four, _mm512_set1_epi8(15));
        match F {
            Q5K => {
                let (words, _) = lines[4].0.as_chunks::<8>();
                let fifth = u64::from_le_bytes(words[J]);
                _mm512_mask_add_epi8(four, fifth, four, _mm512_set1_epi8(16))
            }
            Q6K => {
                let line = load(&lines[4 + J % 2]);
                let two = match J / 2 {
                    0 => _mm512_slli_epi16::<4>(line),
                    1 => _mm512_slli_epi16::<2>(line),
                    2 => line,
                    _ => _mm512_srli_epi16::<2>(line),
                };
                _mm512_or_si512(four, _mm512_and_si512(two, _mm512_set1_epi8(48)))
            }
            _ => four,
        }
    }
}

/// Sixteen binary16 numbers of one half of a line.
#[inline(always)]
unsafe fn halves(line: &Line, second: bool) -> __m512 {
    // SAFETY: either half of a line is 32 bytes, aligned to 32; the caller has AVX-512.
    unsafe {
        let at = line.0.as_ptr().add(if second { 32 } else { 0 });
        _mm512_cvtph_ps(_mm256_load_si256(at.cast()))
    }
}

/// The scales of block `b`: of the block and of its minimum, or of its two halves.
///
/// # Safety
/// The machine has AVX-512 with VNNI.
#[inline(always)]
unsafe fn scales<const F: u8>(lines: &[Line], b: usize) -> [__m512; 2] {
    // SAFETY: as the caller promises; 16 bytes from 0, 16, 32 or 48 on lie in the line.
    unsafe {
        if format(F).block_len() == 32 {
            return [halves(&lines[b / 2], b % 2 == 1), _mm512_setzero_ps()];
        }
        let head = &lines[b / 8 * SUPER_LINES];
        let part = lines[b / 8 * SUPER_LINES + 1 + b % 8 / 2].0.as_ptr();
        let first = _mm_load_si128(part.add(b % 2 * 32).cast());
        let second = _mm_load_si128(part.add(b % 2 * 32 + 16).cast());
        let scale = halves(head, false);
        if F == Q6K {
            return [
                _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(first))),
                _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(second))),
            ];
        }
        // Negated here, so that taking the minimum off is a sum.
        let minimum = _mm512_sub_ps(_mm512_set1_ps(-0.0), halves(head, true));
        [
            _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(first))),
            _mm512_mul_ps(minimum, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(second))),
        ]
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
    let mut totals = [[_mm512_setzero_ps(); 2]; R];
    if first > 0 {
        for (total, sums) in totals.iter_mut().zip(sums.iter()) {
            for (n, total) in total.iter_mut().enumerate() {
                // SAFETY: 16 of 32 values from 0 or 16 on.
                *total = unsafe { _mm512_loadu_ps(sums.as_ptr().add(n * PANEL)) };
            }
        }
    }
    let lines = code_lines(format(F));
    let range = first * lines..(first + blocks) * lines;
    let (left, right) = (&panels[0].codes[range.clone()], &panels[1].codes[range]);
    let (x, _) = x.as_chunks::<R>();
    let ahead = ahead::<R>(panels, left.len());
    let codes = left.chunks_exact(lines).zip(right.chunks_exact(lines));
    for (b, (x, (left, right))) in x.iter().zip(codes).enumerate() {
        if R == 1 {
            fetch(left, ahead);
            fetch(right, ahead);
        }
        // SAFETY: this function has the instructions.
        unsafe {
            let scales = [
                scales::<F>(panels[0].scales, first + b),
                scales::<F>(panels[1].scales, first + b),
            ];
            block::<F, R>([left, right], scales, x, &mut totals);
        }
    }
    for (total, sums) in totals.iter().zip(sums) {
        for (n, total) in total.iter().enumerate() {
            // SAFETY: 16 of 32 values from 0 or 16 on.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(n * PANEL), *total) };
        }
    }
}

/// One block of 32: exact sums of products of codes, then the scales.
///
/// # Safety
/// The machine has AVX-512 with VNNI.
#[inline(always)]
unsafe fn block<const F: u8, const R: usize>(
    codes: [&[Line]; 2],
    scales: [[__m512; 2]; 2],
    x: &[RowBlock; R],
    totals: &mut [[__m512; 2]; R],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut products = start::<F, R>(x, 0);
        step::<F, R, 0>(codes, x, &mut products);
        step::<F, R, 1>(codes, x, &mut products);
        step::<F, R, 2>(codes, x, &mut products);
        step::<F, R, 3>(codes, x, &mut products);
        if F == Q6K {
            finish(&products, [scales[0][0], scales[1][0]], x, totals);
            products = start::<F, R>(x, 1);
        }
        step::<F, R, 4>(codes, x, &mut products);
        step::<F, R, 5>(codes, x, &mut products);
        step::<F, R, 6>(codes, x, &mut products);
        step::<F, R, 7>(codes, x, &mut products);
        let which = if F == Q6K { 1 } else { 0 };
        finish(&products, [scales[0][which], scales[1][which]], x, totals);
        if format(F).has_minimum() {
            for (total, x) in totals.iter_mut().zip(x) {
                let sum = _mm512_set1_ps(x.sum);
                total[0] = _mm512_fmadd_ps(scales[0][1], sum, total[0]);
                total[1] = _mm512_fmadd_ps(scales[1][1], sum, total[1]);
            }
        }
    }
}

/// Integers that take the offset of the codes off; `half` counts where halves are apart.
#[inline(always)]
unsafe fn start<const F: u8, const R: usize>(x: &[RowBlock; R], half: usize) -> [[__m512i; 2]; R] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut products = [[_mm512_setzero_si512(); 2]; R];
        if format(F).offset() != 0 {
            for (products, x) in products.iter_mut().zip(x) {
                // x has −128 · Σ codes; offsets are 128, 8 and 32.
                let start = match F {
                    Q8_0 => x.offset,
                    Q4_0 => x.offset >> 4,
                    _ => x.halves[half] >> 2,
                };
                *products = [_mm512_set1_epi32(start); 2];
            }
        }
        products
    }
}

/// Adds the products of group `J`.
#[inline(always)]
unsafe fn step<const F: u8, const R: usize, const J: usize>(
    codes: [&[Line]; 2],
    x: &[RowBlock; R],
    products: &mut [[__m512i; 2]; R],
) {
    // SAFETY: as the caller promises; four codes from 4 · J on are part of the block's 32.
    unsafe {
        let (left, right) = (group::<F, J>(codes[0]), group::<F, J>(codes[1]));
        for (products, x) in products.iter_mut().zip(x) {
            let four = x.codes.as_ptr().add(4 * J).cast::<i32>().read_unaligned();
            let four = _mm512_set1_epi32(four);
            products[0] = _mm512_dpbusd_epi32(products[0], left, four);
            products[1] = _mm512_dpbusd_epi32(products[1], right, four);
        }
    }
}

/// Puts the scales to the integers and adds them to the totals.
#[inline(always)]
unsafe fn finish<const R: usize>(
    products: &[[__m512i; 2]; R],
    scales: [__m512; 2],
    x: &[RowBlock; R],
    totals: &mut [[__m512; 2]; R],
) {
    // SAFETY: as the caller promises.
    unsafe {
        for ((total, products), x) in totals.iter_mut().zip(products).zip(x) {
            let scale = _mm512_set1_ps(x.scale);
            for n in 0..2 {
                let scale = _mm512_mul_ps(scales[n], scale);
                total[n] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(products[n]), total[n]);
            }
        }
    }
}
