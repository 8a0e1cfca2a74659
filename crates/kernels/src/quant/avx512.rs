//! Tiles in AVX-512 with VNNI: up to 6 rows by 2 panels, sums and integers in 24 registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

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

// Formats as numbers, since a parameter cannot be an enum.
const Q8_0: u8 = 0;
const Q4_0: u8 = 1;
const Q4K: u8 = 2;
const Q5K: u8 = 3;
const Q6K: u8 = 4;

const fn format(number: u8) -> Format {
    match number {
        Q8_0 => Format::Q8_0,
        Q4_0 => Format::Q4_0,
        Q4K => Format::Q4K,
        Q5K => Format::Q5K,
        _ => Format::Q6K,
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
        macro_rules! of_height {
            ($f:ident: $($h:literal)+) => {
                match height {
                    $(
                        // SAFETY: `self` exists only where the machine has AVX-512 with VNNI.
                        $h => unsafe { tile::<$f, $h>(panels, first, blocks, x, sums) },
                    )+
                    _ => unreachable!("slivers have 1 to 6 rows"),
                }
            };
        }
        match format {
            Format::Q8_0 => of_height!(Q8_0: 1 2 3 4 5 6),
            Format::Q4_0 => of_height!(Q4_0: 1 2 3 4 5 6),
            Format::Q4K => of_height!(Q4K: 1 2 3 4 5 6),
            Format::Q5K => of_height!(Q5K: 1 2 3 4 5 6),
            Format::Q6K => of_height!(Q6K: 1 2 3 4 5 6),
            Format::F32 | Format::F16 | Format::BF16 => unreachable!("dense weights have no codes"),
        }
    }
}

/// Group `j` of the codes of one block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn group<const F: u8>(lines: &[Line], j: usize) -> __m512i {
    let load = |line: &Line| {
        // SAFETY: a line is 64 bytes, aligned to 64.
        unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
    };
    if F == Q8_0 {
        return load(&lines[j]);
    }
    let both = load(&lines[j % 4]);
    let four = if j < 4 {
        both
    } else {
        _mm512_srli_epi16::<4>(both)
    };
    let four = _mm512_and_si512(four, _mm512_set1_epi8(15));
    match F {
        Q5K => {
            let mut word = [0; 8];
            word.copy_from_slice(&lines[4].0[8 * j..8 * j + 8]);
            _mm512_mask_add_epi8(four, u64::from_le_bytes(word), four, _mm512_set1_epi8(16))
        }
        Q6K => {
            let line = load(&lines[4 + j % 2]);
            let two = match j / 2 {
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

/// The scales of block `b`: of the block and of its minimum, or of its two halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn scales<const F: u8>(lines: &[Line], b: usize) -> [__m512; 2] {
    let halves = |line: &Line, at: usize| {
        assert!(at == 0 || at == 32);
        // SAFETY: 32 bytes from 0 or 32 on lie in the line.
        _mm512_cvtph_ps(unsafe { _mm256_load_si256(line.0.as_ptr().add(at).cast()) })
    };
    if format(F).block_len() == 32 {
        return [halves(&lines[b / 2], b % 2 * 32), _mm512_setzero_ps()];
    }
    let head = &lines[b / 8 * SUPER_LINES];
    let part = &lines[b / 8 * SUPER_LINES + 1 + b % 8 / 2];
    let bytes = |at: usize| {
        assert!(at <= 48);
        // SAFETY: 16 bytes from 48 or less on lie in the line.
        unsafe { _mm_loadu_si128(part.0.as_ptr().add(at).cast()) }
    };
    let (first, second) = (bytes(b % 2 * 32), bytes(b % 2 * 32 + 16));
    let scale = halves(head, 0);
    if F == Q6K {
        let wide = |v| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
        return [
            _mm512_mul_ps(scale, wide(first)),
            _mm512_mul_ps(scale, wide(second)),
        ];
    }
    let wide = |v| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
    // Negated here, so that taking the minimum off is a sum.
    let minimum = _mm512_sub_ps(_mm512_set1_ps(-0.0), halves(head, 32));
    [
        _mm512_mul_ps(scale, wide(first)),
        _mm512_mul_ps(minimum, wide(second)),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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
    let codes = panels.map(|p| &p.codes[first * lines..(first + blocks) * lines]);
    let (x, _) = x.as_chunks::<R>();
    let x = &x[..blocks];
    for (b, x) in x.iter().enumerate() {
        let codes = codes.map(|codes| &codes[b * lines..(b + 1) * lines]);
        block::<F, R>(
            codes,
            panels.map(|p| scales::<F>(p.scales, first + b)),
            x,
            &mut totals,
        );
    }
    for (total, sums) in totals.iter().zip(sums) {
        for (n, total) in total.iter().enumerate() {
            // SAFETY: 16 of 32 values from 0 or 16 on.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(n * PANEL), *total) };
        }
    }
}

/// One block of 32: exact sums of products of codes, then the scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn block<const F: u8, const R: usize>(
    codes: [&[Line]; 2],
    scales: [[__m512; 2]; 2],
    x: &[RowBlock; R],
    totals: &mut [[__m512; 2]; R],
) {
    let mut products = [[_mm512_setzero_si512(); 2]; R];
    for half in 0..2 {
        if half == 0 || F == Q6K {
            for (products, x) in products.iter_mut().zip(x) {
                let start = match F {
                    Q8_0 => x.offset,
                    Q4_0 => x.offset >> 4,
                    Q6K => x.halves[half] >> 2,
                    _ => 0,
                };
                *products = [_mm512_set1_epi32(start); 2];
            }
        }
        for j in 4 * half..4 * half + 4 {
            let weights = codes.map(|codes| group::<F>(codes, j));
            for (products, x) in products.iter_mut().zip(x) {
                let (groups, _) = x.codes.as_chunks::<4>();
                let four = i32::from_le_bytes(groups[j].map(|code| code as u8));
                let four = _mm512_set1_epi32(four);
                for n in 0..2 {
                    products[n] = _mm512_dpbusd_epi32(products[n], weights[n], four);
                }
            }
        }
        if half == 1 || F == Q6K {
            for ((total, products), x) in totals.iter_mut().zip(&products).zip(x) {
                let scale = _mm512_set1_ps(x.scale);
                for n in 0..2 {
                    let which = if F == Q6K { half } else { 0 };
                    let scale = _mm512_mul_ps(scales[n][which], scale);
                    let t = _mm512_cvtepi32_ps(products[n]);
                    total[n] = _mm512_fmadd_ps(scale, t, total[n]);
                }
            }
        }
    }
    if format(F).has_minimum() {
        for (total, x) in totals.iter_mut().zip(x) {
            let sum = _mm512_set1_ps(x.sum);
            for n in 0..2 {
                total[n] = _mm512_fmadd_ps(scales[n][1], sum, total[n]);
            }
        }
    }
}
