//! Products with AVX2 of values most of which lie near their zero point: what an activation does to bytes leaves few far
//! from there. So a = low + u + r, where u is 0 to 128 and r is seldom other than 0:
//!
//! ```text
//! Σ a·b = low·Σ b + Σ u·b + Σ r·b
//! ```
//!
//! Two products u·b have 16 bits with a sign. Four of them have where the b of one sign add up to no more than 255: steps
//! of which that is so in all columns of a panel are found when it is packed, and taken two at a time. That takes five
//! operations where [`avx2`](super::avx2) takes eight. The few r go its way.

use std::arch::x86_64::*;

use super::avx2::{Avx2, STEPS, begin, end, halves};
use super::pack::{COLUMNS, PackedInt8, QUAD, Quad};
use super::walk::{Lines, Rows};

/// The largest u.
const REACH: u8 = 128;

/// Steps that are tried for one before it is left alone.
const TRIES: usize = 8;

/// In which order steps are taken.
#[derive(Clone)]
pub(super) struct Order {
    /// For each block of each panel, how many pairs fit together, and then its steps: those pairs before others.
    steps: Vec<u8>,
    pairs: usize,
}

impl Order {
    pub(super) fn of(avx2: Avx2, b: &PackedInt8) -> Order {
        let mut order = Order {
            steps: Vec::new(),
            pairs: 0,
        };
        for panel in 0..b.n().div_ceil(COLUMNS) {
            let panel = b.panel(panel);
            let units = panel.len().checked_div(b.steps()).unwrap_or(1);
            for block in panel.chunks(units * STEPS) {
                order.add_block(avx2, block, units);
            }
        }
        order
    }

    fn add_block(&mut self, avx2: Avx2, block: &[Quad], units: usize) {
        let step = |s: u8| &block[usize::from(s) * units..][..units];
        let mut free: Vec<u8> = (0..(block.len() / units) as u8).rev().collect();
        let (mut pairs, mut alone) = (Vec::new(), Vec::new());
        while let Some(s) = free.pop() {
            let tried = free.len().saturating_sub(TRIES);
            let _ = avx2;
            // SAFETY: `avx2` exists only where the machine has these instructions.
            let fits = |&t: &u8| unsafe { fit(step(s), step(t)) };
            match free[tried..].iter().rposition(fits) {
                Some(i) => pairs.extend([s, free.remove(tried + i)]),
                None => alone.push(s),
            }
        }
        self.pairs += pairs.len() / 2;
        self.steps.push((pairs.len() / 2) as u8);
        self.steps.extend(pairs);
        self.steps.extend(alone);
    }
}

/// Whether of each four values that are multiplied together those of one sign add up to no more than 255.
#[target_feature(enable = "avx2")]
fn fit(a: &[Quad], b: &[Quad]) -> bool {
    let (zero, ones) = (_mm256_setzero_si256(), _mm256_set1_epi8(1));
    let over = |v| _mm256_max_epi8(v, zero);
    let under = |v| _mm256_abs_epi8(_mm256_min_epi8(v, zero));
    let sum = |a, b| {
        let twos = _mm256_maddubs_epi16(a, ones);
        _mm256_add_epi16(twos, _mm256_maddubs_epi16(b, ones))
    };
    a.iter().zip(b).all(|(a, b)| {
        halves(a).into_iter().zip(halves(b)).all(|(a, b)| {
            let sums = _mm256_or_si256(sum(over(a), over(b)), sum(under(a), under(b)));
            _mm256_testz_si256(sums, _mm256_set1_epi16(!255)) == 1
        })
    })
}

/// Rows whose values are split so.
pub(super) struct Near<'a> {
    avx2: Avx2,
    order: &'a Order,
    pub(super) low: u8,
    /// Each row's u, four of one step together, and zeros up to a multiple of 8 steps.
    near: Vec<[i32; 8]>,
    /// Steps of each block of each row with some r, and where those of a block end.
    far: Vec<(usize, [i32; 2])>,
    ends: Vec<usize>,
    /// What each row's r below 0 add up to, less their sign.
    below: Vec<i32>,
}

impl<'a> Near<'a> {
    /// Splits the values of rows if that makes their products faster.
    pub(super) fn new(
        avx2: Avx2,
        rows: &Rows<'_>,
        zero: i32,
        b: &'a PackedInt8,
    ) -> Option<Near<'a>> {
        let (order, &[run]) = (b.order()?, rows.runs) else {
            return None;
        };
        let panels = b.n().div_ceil(COLUMNS);
        let low = zero.saturating_sub(i32::from(REACH) / 2);
        let mut near = Near {
            avx2,
            order,
            low: low.clamp(0, 255 - i32::from(REACH)) as u8,
            near: Vec::with_capacity(rows.starts.len() * rows.steps.div_ceil(8)),
            far: Vec::new(),
            ends: vec![0],
            below: Vec::new(),
        };
        for (i, start) in rows.starts.iter().enumerate() {
            // SAFETY: `avx2` exists only where the machine has these instructions.
            unsafe { near.add_row(&rows.values[start + run..][..rows.steps * QUAD]) };
            // A r costs as much as two pairs save and more; a row more or less is no reason to give up.
            if 5 * near.far.len() * panels > (i + 4) * 2 * order.pairs {
                return None;
            }
        }
        Some(near)
    }

    #[target_feature(enable = "avx2")]
    fn add_row(&mut self, values: &[u8]) {
        let zero = _mm256_setzero_si256();
        let [lows, reach] = [self.low, REACH].map(|v| _mm256_set1_epi8(v.cast_signed()));
        let mut below = zero;
        for block in values.chunks(STEPS * QUAD) {
            for (first, values) in (0..).step_by(8).zip(block.chunks(32)) {
                let mut rest = [self.low; 32];
                let values = match values.as_array() {
                    Some(values) => vector(values),
                    None => {
                        rest[..values.len()].copy_from_slice(values);
                        vector(&rest)
                    }
                };
                let above = _mm256_sub_epi8(values, lows);
                let u = _mm256_min_epu8(_mm256_subs_epu8(values, lows), reach);
                let r = _mm256_sub_epi8(above, u);
                let (sizes, masks) = (_mm256_abs_epi8(r), _mm256_cmpgt_epi8(zero, r));
                let sizes_below = _mm256_and_si256(sizes, masks);
                below = _mm256_add_epi64(below, _mm256_sad_epu8(sizes_below, zero));
                self.near.push(quads(u));
                let none = _mm256_castsi256_ps(_mm256_cmpeq_epi32(r, zero));
                let mut some = _mm256_movemask_ps(none) ^ 0xff;
                if some != 0 {
                    let (sizes, masks) = (quads(sizes), quads(masks));
                    while some != 0 {
                        let i = some.trailing_zeros() as usize;
                        self.far.push((first + i, [sizes[i], masks[i]]));
                        some &= some - 1;
                    }
                }
            }
            self.ends.push(self.far.len());
        }
        let below = quads(below);
        self.below.push(below.into_iter().sum());
    }

    /// Sums of `count` rows from row `first` on.
    ///
    /// # Safety
    /// The lines have 16 places for each unit, which nobody else uses.
    pub(super) unsafe fn multiply(
        &self,
        [first, count]: [usize; 2],
        [panel, units]: [usize; 2],
        quads: &[Quad],
        begin: &[i32; COLUMNS],
        to: Lines,
    ) {
        let all = self.near.as_flattened();
        let (steps, stride) = (quads.len() / units, all.len() / self.below.len());
        let blocks = steps.div_ceil(STEPS);
        let order = self.order.steps[panel * (steps + blocks)..].chunks(STEPS + 1);
        for (block, (panel, order)) in quads.chunks(units * STEPS).zip(order).enumerate() {
            let (pairs, alone) = order[1..=panel.len() / units].split_at(2 * usize::from(order[0]));
            for i in 0..count {
                let (row, line) = (first + i, to.at(i, 0));
                let end = row * blocks + block;
                let left = Left {
                    near: &all[row * stride + block * STEPS..],
                    pairs: pairs.as_chunks().0,
                    alone,
                    far: &self.far[self.ends[end]..self.ends[end + 1]],
                };
                let (from, more) = match block {
                    0 => (begin.as_ptr(), self.below[row]),
                    _ => (line.cast_const(), 0),
                };
                let _ = self.avx2;
                // SAFETY: `avx2` exists only where the machine has these instructions; the line is the caller's.
                unsafe {
                    match units {
                        1 => multiply::<1>(&left, panel, from, more, line),
                        2 => multiply::<2>(&left, panel, from, more, line),
                        3 => multiply::<3>(&left, panel, from, more, line),
                        _ => multiply::<4>(&left, panel, from, more, line),
                    }
                }
            }
        }
    }
}

/// A block of a row.
struct Left<'a> {
    near: &'a [i32],
    pairs: &'a [[u8; 2]],
    alone: &'a [u8],
    far: &'a [(usize, [i32; 2])],
}

#[inline]
#[target_feature(enable = "avx2")]
fn vector(values: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn quads(values: __m256i) -> [i32; 8] {
    let mut quads = [0; 8];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(quads.as_mut_ptr().cast(), values) };
    quads
}

/// Adds the sums of a block of a row and `U` units to the values at `from`, and `more` to each.
///
/// # Safety
/// There are 16 values and as many places for each unit.
#[target_feature(enable = "avx2")]
unsafe fn multiply<const U: usize>(
    left: &Left<'_>,
    panel: &[Quad],
    from: *const i32,
    more: i32,
    to: *mut i32,
) {
    let panel = panel.as_chunks::<U>().0;
    let ones = _mm256_set1_epi16(1);
    // SAFETY: the caller's promise.
    let mut sums: [_; U] = unsafe { begin(from, more) };
    let step = |s: u8| {
        (
            _mm256_set1_epi32(left.near[usize::from(s)]),
            &panel[usize::from(s)],
        )
    };
    let add =
        |sum: &mut __m256i, twos| *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(twos, ones));
    for &[s, t] in left.pairs {
        let ((u, a), (v, b)) = (step(s), step(t));
        for ((sums, a), b) in sums.iter_mut().zip(a).zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(halves(a)).zip(halves(b)) {
                let twos = _mm256_maddubs_epi16(u, a);
                add(sum, _mm256_add_epi16(twos, _mm256_maddubs_epi16(v, b)));
            }
        }
    }
    for &s in left.alone {
        let (u, b) = step(s);
        for (sums, b) in sums.iter_mut().zip(b) {
            for (sum, b) in sums.iter_mut().zip(halves(b)) {
                add(sum, _mm256_maddubs_epi16(u, b));
            }
        }
    }
    for &(s, [size, mask]) in left.far {
        let (size, mask) = (_mm256_set1_epi32(size), _mm256_set1_epi32(mask));
        for (sums, b) in sums.iter_mut().zip(&panel[s]) {
            for (sum, b) in sums.iter_mut().zip(halves(b)) {
                add(sum, _mm256_maddubs_epi16(size, _mm256_xor_si256(b, mask)));
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { end(sums, to) };
}
