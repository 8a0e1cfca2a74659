//! Sixteen lanes of f32 as one value, for kernels whose registers have to be laid out by hand.
//!
//! A kernel is written once, over [`Lanes`], and compiled for each instruction set. Every operation
//! works on each lane alone, so the result cannot depend on which set it is.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::half::{bf16_to_f32, f16_to_f32};
use crate::isa::Isa;
use crate::math;

/// Number of lanes.
pub(crate) const WIDTH: usize = 16;

/// A computation over lanes. `run` and what it calls in a loop must be `#[inline(always)]`.
pub(crate) trait LaneKernel {
    fn run<L: Lanes>(self, lanes: L);
}

/// Operations on sixteen lanes; a value is the proof that the machine has the instructions.
pub(crate) trait Lanes: Copy {
    type V: Copy;
    /// Rows of a dense tile, two values wide, whose sums fit the registers: 1, 2, 4 or 8.
    const ROWS: usize;
    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; WIDTH]) -> Self::V;
    /// Binary16, widened exactly.
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V;
    /// bfloat16, widened exactly.
    fn load_bf16(self, x: &[u16; WIDTH]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; WIDTH]);
    /// Says that what lies there will be read, not at once; anything may lie there, or nothing.
    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which reads nothing and cannot fault; every x86-64 has it.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(from.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = from;
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a × b + c, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller of `high` and the larger of `v` and `low`, as an [`Epilogue`](crate::epilogue::Epilogue) has bounds;
    /// NaN becomes canonical.
    fn bounded(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V;
}

/// Runs `kernel` as compiled for `isa`.
pub(crate) fn run<K: LaneKernel>(isa: Isa, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn avx512<K: LaneKernel>(kernel: K, lanes: Avx512) {
        kernel.run(lanes);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<K: LaneKernel>(kernel: K, lanes: Avx2) {
        kernel.run(lanes);
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") {
        if isa.is_avx512() {
            // SAFETY: `isa` is AVX-512, so this machine has it and AVX2 and FMA; F16C was asked for.
            return unsafe { avx512(kernel, Avx512(())) };
        }
        if isa.is_avx2() {
            // SAFETY: `isa` is AVX2, so this machine has it and FMA; F16C was asked for.
            return unsafe { avx2(kernel, Avx2(())) };
        }
    }
    let _ = isa;
    kernel.run(Portable);
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type V = [f32; WIDTH];
    const ROWS: usize = 2;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; WIDTH]
    }
    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V {
        x.map(f16_to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; WIDTH]) -> Self::V {
        x.map(bf16_to_f32)
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; WIDTH]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn bounded(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        std::array::from_fn(|i| math::clip(v[i], low[i], high[i]))
    }
}

/// One register of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

// SAFETY of every block below: an `Avx512` is made by `run` alone, where the machine has AVX-512;
// arrays have as many elements as the instruction reads or writes.
#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, above"
)]
impl Lanes for Avx512 {
    type V = __m512;
    const ROWS: usize = 8;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> Self::V {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; WIDTH]) -> Self::V {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; WIDTH]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn bounded(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let v = _mm512_min_ps(_mm512_max_ps(v, low), high);
            _mm512_mask_blend_ps(nan, v, _mm512_set1_ps(math::CANONICAL_NAN))
        }
    }
}

/// Two registers of AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

// SAFETY of every block below: an `Avx2` is made by `run` alone, where the machine has AVX2, FMA
// and F16C; arrays have as many elements as the two instructions read or write.
#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, above"
)]
impl Lanes for Avx2 {
    type V = [__m256; 2];
    const ROWS: usize = 2;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> Self::V {
        unsafe {
            [
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x.as_ptr().add(8)),
            ]
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u16; WIDTH]) -> Self::V {
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; WIDTH]) {
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    fn bounded(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        let mut bounded = v;
        for i in 0..2 {
            bounded[i] = unsafe {
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v[i], v[i]);
                let v = _mm256_min_ps(_mm256_max_ps(v[i], low[i]), high[i]);
                _mm256_blendv_ps(v, _mm256_set1_ps(math::CANONICAL_NAN), nan)
            };
        }
        bounded
    }
}
