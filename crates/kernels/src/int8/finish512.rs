//! Operations on 64 columns at a time in four registers of AVX-512.

use std::arch::x86_64::*;

use super::Int8;
use super::finish::{Finished, To};
use super::ops::{Op, Operand};
use super::pack::COLUMNS;
use super::quantise::{Quantisation, SHIFT};
use super::walk::Place;
use crate::elementwise::Binary;
use crate::isa::Isa;
use crate::math::{self, CANONICAL_NAN};

/// Proof that this machine has AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// 64 values.
type V = [__m512; 4];

/// An expression for each of four registers, written out: closures over arrays are not always inlined, and then the
/// values go through memory.
macro_rules! each {
    ($a:ident in $v:expr => $e:expr) => {{
        let [a, b, c, d] = $v;
        [
            {
                let $a = a;
                $e
            },
            {
                let $a = b;
                $e
            },
            {
                let $a = c;
                $e
            },
            {
                let $a = d;
                $e
            },
        ]
    }};
    ($a:ident, $b:ident in $v:expr, $w:expr => $e:expr) => {{
        let ([a, b, c, d], [e, f, g, h]) = ($v, $w);
        [
            {
                let ($a, $b) = (a, e);
                $e
            },
            {
                let ($a, $b) = (b, f);
                $e
            },
            {
                let ($a, $b) = (c, g);
                $e
            },
            {
                let ($a, $b) = (d, h);
                $e
            },
        ]
    }};
}
pub(super) use each;

impl Avx512 {
    pub(super) fn on(isa: Isa) -> Option<Avx512> {
        isa.is_avx512().then_some(Avx512(()))
    }

    /// Takes a tile through `ops` to the result.
    ///
    /// # Safety
    /// Nobody else uses this part of the result.
    pub(super) unsafe fn tile(
        self,
        store: &Finished<'_, '_>,
        ops: &[Op<'_>],
        at: Place,
        tile: &[[i32; COLUMNS]],
    ) {
        // SAFETY: `self` exists only where the machine has these instructions; the caller's part.
        unsafe {
            match at.width {
                COLUMNS => finish::<true>(store, ops, at, tile),
                _ => finish::<false>(store, ops, at, tile),
            }
        }
    }

    /// Takes integers of row `row`, less their zero point, through `ops` to the result.
    ///
    /// # Safety
    /// Nobody else uses this row of the result.
    pub(super) unsafe fn row(
        self,
        store: &Finished<'_, '_>,
        ops: &[Op<'_>],
        row: usize,
        x: Int8<'_>,
        zero: i32,
    ) {
        let mut steps = [0; COLUMNS];
        for column in (0..x.len()).step_by(COLUMNS) {
            let width = COLUMNS.min(x.len() - column);
            let at = Place {
                row,
                count: 1,
                column,
                width,
            };
            // SAFETY: `self` exists only where the machine has these instructions; the caller's part.
            unsafe {
                less(x.part(column..column + width), zero, &mut steps);
                self.tile(store, ops, at, std::slice::from_ref(&steps));
            }
        }
    }

    /// Quantises some values.
    pub(super) fn quantise(self, x: &[f32], how: Quantisation, y: &mut [u8]) {
        assert_eq!(x.len(), y.len(), "quantise: lengths differ");
        for (x, y) in x.chunks(COLUMNS).zip(y.chunks_mut(COLUMNS)) {
            let mask = mask(x.len());
            // SAFETY: `self` exists only where the machine has these instructions; as many places as values.
            unsafe {
                match x.len() {
                    COLUMNS => {
                        narrow::<true>(load::<true>(x, mask), how, false, y.as_mut_ptr(), mask)
                    }
                    _ => narrow::<false>(load::<false>(x, mask), how, false, y.as_mut_ptr(), mask),
                }
            }
        }
    }
}

/// A bit for each of `width` columns.
pub(super) fn mask(width: usize) -> u64 {
    u64::MAX >> (COLUMNS - width)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn finish<const FULL: bool>(
    store: &Finished<'_, '_>,
    ops: &[Op<'_>],
    at: Place,
    tile: &[[i32; COLUMNS]],
) {
    let mask = if FULL { u64::MAX } else { mask(at.width) };
    for (i, sums) in tile[..at.count].iter().enumerate() {
        // SAFETY: 16 values each.
        let sums = each!(j in [0, 16, 32, 48] => unsafe { _mm512_loadu_si512(sums.as_ptr().add(j).cast()) });
        let values = each!(sum in sums => _mm512_cvtepi32_ps(sum));
        // SAFETY: the caller's part of the result.
        unsafe { go_on::<FULL>(store, ops, at.row + i, at.column, mask, values) };
    }
}

/// Integers less their zero point.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn less(x: Int8<'_>, zero: i32, steps: &mut [i32; COLUMNS]) {
    let steps = &mut steps[..x.len()];
    match x {
        Int8::Unsigned(x) => steps
            .iter_mut()
            .zip(x)
            .for_each(|(to, &x)| *to = i32::from(x) - zero),
        Int8::Signed(x) => steps
            .iter_mut()
            .zip(x)
            .for_each(|(to, &x)| *to = i32::from(x) - zero),
    }
}

/// Floats of the columns of a mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load<const FULL: bool>(x: &[f32], mask: u64) -> V {
    assert!(
        x.len() == mask.count_ones() as usize,
        "a value for each column"
    );
    each!(j in [0, 16, 32, 48] => {
        let from = x.as_ptr().wrapping_add(j);
        // SAFETY: the mask has a bit for each value, 64 if all are there.
        unsafe {
            match FULL {
                true => _mm512_loadu_ps(from),
                false => _mm512_maskz_loadu_ps((mask >> j) as u16, from),
            }
        }
    })
}

/// What the integers of the columns of a mask stand for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn widen<const FULL: bool>(x: Int8<'_>, how: Quantisation, mask: u64) -> V {
    assert!(
        x.len() == mask.count_ones() as usize,
        "a value for each column"
    );
    let from = match x {
        Int8::Unsigned(x) => x.as_ptr(),
        Int8::Signed(x) => x.as_ptr().cast(),
    };
    let (zero, scale) = (_mm512_set1_epi32(how.zero), _mm512_set1_ps(how.scale));
    each!(j in [0, 16, 32, 48] => {
        // SAFETY: the mask has a bit for each value, 64 if all are there.
        let bytes = unsafe {
            let from = from.wrapping_add(j);
            match FULL {
                true => _mm_loadu_si128(from.cast()),
                false => _mm_maskz_loadu_epi8((mask >> j) as u16, from.cast()),
            }
        };
        let wide = match x {
            Int8::Unsigned(_) => _mm512_cvtepu8_epi32(bytes),
            Int8::Signed(_) => _mm512_cvtepi8_epi32(bytes),
        };
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(wide, zero)), scale)
    })
}

/// Scales whose inverse has 24 bits, and whose quotients neither overflow nor vanish where it matters.
const ORDINARY: std::ops::Range<f32> = 1e-30..1e30;

/// How far from an integer, at most, a number of steps may be for the product with the inverse of the scale to be rounded
/// as the quotient. Product and quotient differ by 3 roundings of at most 2⁻²⁴ each, of at most 255: by less than 2⁻¹⁴.
const CLEAR: f32 = 0.5 - 1.0 / 16384.0;

/// Steps from 0, cut off at the ends, rounded and raised by [`SHIFT`]; 0 of NaN.
///
/// A step is a quotient, and dividing takes most of the time of a chain. So the values are multiplied by the inverse,
/// and only where one of the products is so close to the middle between two integers that the quotient may be on
/// the other side, or is NaN, they are divided.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn shifted(v: V, how: Quantisation) -> V {
    if !ORDINARY.contains(&how.scale) {
        return divided(v, how);
    }
    let [low, high] = how.ends().map(|end| _mm512_set1_ps(end as f32));
    let (inverse, shift) = (_mm512_set1_ps(1.0 / how.scale), _mm512_set1_ps(SHIFT));
    let steps = each!(v in v => {
        // NaN, as the second operand, stays.
        let steps = _mm512_min_ps(high, _mm512_mul_ps(v, inverse));
        _mm512_max_ps(low, steps)
    });
    let shifted = each!(steps in steps => _mm512_add_ps(steps, shift));
    let apart = each!(a, b in steps, shifted => _mm512_sub_ps(a, _mm512_sub_ps(b, shift)));
    if are_clear(apart) {
        return shifted;
    }
    divided(v, how)
}

/// Whether no value is as far from 0 as [`CLEAR`], or NaN, which has larger bits than any number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn are_clear(apart: V) -> bool {
    let [a, b, c, d] = each!(v in apart => _mm512_castps_si512(_mm512_abs_ps(v)));
    let furthest = _mm512_max_epu32(_mm512_max_epu32(a, b), _mm512_max_epu32(c, d));
    let clear = _mm512_castps_si512(_mm512_set1_ps(CLEAR));
    _mm512_cmplt_epu32_mask(furthest, clear) == u16::MAX
}

/// [`shifted`] by division. A call would have the values in memory, of those too that are not divided.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn divided(v: V, how: Quantisation) -> V {
    let [low, high] = how.ends().map(|end| _mm512_set1_ps(end as f32));
    let (scale, shift) = (_mm512_set1_ps(how.scale), _mm512_set1_ps(SHIFT));
    each!(v in v => {
        let steps = _mm512_div_ps(v, scale);
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(steps, steps);
        let steps = _mm512_max_ps(_mm512_maskz_min_ps(number, steps, high), low);
        _mm512_add_ps(steps, shift)
    })
}

/// The error function, as [`math::erf`] is compiled for 16 values at a time. In a function of its own, on values in
/// memory: it takes all registers, and what else is in them would be in memory for all operations.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn erf(values: &mut [f32; COLUMNS]) {
    for value in values {
        *value = math::erf(*value);
    }
}

/// Applies `ops` to columns of a row and writes them.
///
/// # Safety
/// Nobody else uses this part of the result.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn go_on<const FULL: bool>(
    store: &Finished<'_, '_>,
    ops: &[Op<'_>],
    row: usize,
    column: usize,
    mask: u64,
    values: V,
) {
    let width = if FULL {
        COLUMNS
    } else {
        mask.count_ones() as usize
    };
    let at = row * store.n + column;
    let zero = _mm512_setzero_ps();
    // One by one, so that they stay in registers.
    let [mut a, mut b, mut c, mut d] = values;
    let mut kept = [zero; 4];
    // What is quantised is cut off at 0 by its zero point as well.
    let (ops, cut) = match (&store.to, ops) {
        (To::Unsigned(..) | To::Signed(..), [before @ .., Op::Relu]) => (before, true),
        _ => (ops, false),
    };
    // Most chains begin with a scale and a bias for each column, which are sooner found here.
    let mut ops = ops;
    for known in [Binary::Mul, Binary::Add] {
        if let [Op::Binary(op, Operand::Columns(x)), rest @ ..] = ops
            && *op == known
        {
            let x = load::<FULL>(&x[column..column + width], mask);
            ([a, b, c, d], ops) = (binary(known, [a, b, c, d], x), rest);
        }
    }
    for op in ops {
        let v = [a, b, c, d];
        [a, b, c, d] = match *op {
            Op::Relu => each!(v in v => {
                let above = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(v, zero);
                _mm512_maskz_mov_ps(above, v)
            }),
            Op::Erf => {
                let mut values = [0.0; COLUMNS];
                let [first, second, third, fourth] =
                    each!(j in [0, 16, 32, 48] => values.as_mut_ptr().wrapping_add(j));
                // SAFETY: 16 places each.
                unsafe {
                    _mm512_storeu_ps(first, a);
                    _mm512_storeu_ps(second, b);
                    _mm512_storeu_ps(third, c);
                    _mm512_storeu_ps(fourth, d);
                }
                erf(&mut values);
                load::<true>(&values, u64::MAX)
            }
            Op::Keep => {
                kept = v;
                v
            }
            Op::Requantise(how) => {
                let (scale, shift) = (_mm512_set1_ps(how.scale), _mm512_set1_ps(SHIFT));
                // 0 has no sign.
                each!(v in shifted(v, how) => _mm512_mul_ps(_mm512_sub_ps(v, shift), scale))
            }
            Op::Binary(op, other) => {
                let other = match other {
                    Operand::Scalar(x) => [_mm512_set1_ps(x); 4],
                    Operand::Columns(x) => load::<FULL>(&x[column..column + width], mask),
                    Operand::Kept => kept,
                    Operand::Matrix(x) => load::<FULL>(&x[at..at + width], mask),
                    Operand::Bytes(x, how) => widen::<FULL>(x.part(at..at + width), how, mask),
                };
                binary(op, v, other)
            }
        };
    }
    let values = [a, b, c, d];
    // SAFETY: the caller's part of the result.
    unsafe {
        match &store.to {
            To::Float(y) => float(values, y.slice(at, width), mask),
            To::Unsigned(y, how) => {
                let y = y.slice(at, width).as_mut_ptr();
                narrow::<FULL>(values, *how, cut, y, mask);
            }
            To::Signed(y, how) => {
                let y = y.slice(at, width).as_mut_ptr().cast();
                narrow::<FULL>(values, *how, cut, y, mask);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn binary(op: Binary, v: V, w: V) -> V {
    match op {
        Binary::Add => each!(a, b in v, w => _mm512_add_ps(a, b)),
        Binary::Sub => each!(a, b in v, w => _mm512_sub_ps(a, b)),
        Binary::Mul => each!(a, b in v, w => _mm512_mul_ps(a, b)),
        Binary::Div => each!(a, b in v, w => _mm512_div_ps(a, b)),
        Binary::Max => each!(a, b in v, w => {
            // +0 is larger than −0, NaN than everything.
            let larger = _mm512_max_ps(a, b);
            let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
            ordered(a, b, _mm512_mask_and_ps(larger, equal, a, b))
        }),
        _ => each!(a, b in v, w => {
            let smaller = _mm512_min_ps(a, b);
            let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
            ordered(a, b, _mm512_mask_or_ps(smaller, equal, a, b))
        }),
    }
}

/// NaN where one of two values is, else the third.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn ordered(a: __m512, b: __m512, chosen: __m512) -> __m512 {
    let neither = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b);
    _mm512_mask_mov_ps(chosen, neither, _mm512_set1_ps(CANONICAL_NAN))
}

/// Writes floats; NaN in its one form.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn float(values: V, y: &mut [f32], mask: u64) {
    assert!(
        y.len() == mask.count_ones() as usize,
        "a place for each column"
    );
    for (j, v) in values.into_iter().enumerate() {
        let v = ordered(v, v, v);
        // SAFETY: the mask has a bit for each place.
        unsafe {
            let to = y.as_mut_ptr().wrapping_add(16 * j);
            _mm512_mask_storeu_ps(to, (mask >> (16 * j)) as u16, v);
        }
    }
}

/// Writes quantised values; with `cut` none below the zero point.
///
/// The closest integers are what saturates, in two steps: whatever is beyond the ends of 16 bits is beyond those of 8.
///
/// # Safety
/// Each bit of the mask has a place in `y`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn narrow<const FULL: bool>(values: V, how: Quantisation, cut: bool, y: *mut u8, mask: u64) {
    let [a, b, c, d] = integers(values, how);
    let zero = _mm512_set1_epi16(how.zero as i16);
    let pair = |a, b| {
        let steps = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
        if cut {
            _mm512_max_epi16(steps, zero)
        } else {
            steps
        }
    };
    let (ab, cd) = (pair(a, b), pair(c, d));
    let bytes = match how.signed {
        true => _mm512_packs_epi16(ab, cd),
        false => _mm512_packus_epi16(ab, cd),
    };
    // Each quarter has four values of each register.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let bytes = _mm512_permutexvar_epi32(order, bytes);
    // SAFETY: the caller's promise.
    unsafe {
        match FULL {
            true => _mm512_storeu_si512(y.cast(), bytes),
            false => _mm512_mask_storeu_epi8(y.cast(), mask, bytes),
        }
    }
}

/// Steps from 0, rounded, and perhaps cut off at the ends; as in [`shifted`], division is for the few that need it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn integers(v: V, how: Quantisation) -> [__m512i; 4] {
    let inverse = _mm512_set1_ps(1.0 / how.scale);
    let steps = each!(v in v => _mm512_mul_ps(v, inverse));
    // To nearest, ties to even, which is the mode that Rust programs run in. What has no such integer is far from it.
    let integers = each!(steps in steps => _mm512_cvtps_epi32(steps));
    let apart = each!(a, b in steps, integers => _mm512_sub_ps(a, _mm512_cvtepi32_ps(b)));
    if ORDINARY.contains(&how.scale) && are_clear(apart) {
        return integers;
    }
    // The low bits of what is raised are the integer.
    let raised = _mm512_set1_epi32(SHIFT.to_bits().cast_signed());
    each!(v in divided(v, how) => _mm512_sub_epi32(_mm512_castps_si512(v), raised))
}
