//! Attention over a paged cache of keys and values.
//!
//! A page holds [`PAGE`] positions: for each head of keys and values the keys, dimension-major
//! (`head_dim × 16`), then the values, position-major (`16 × head_dim`), in binary16. So one
//! register holds one dimension of sixteen keys, or sixteen dimensions of one value, and neither
//! the scores nor the sums of values need a sum across lanes.
//!
//! What one output is, chapter 4 of `docs/llm-numeric-spec.md` says: it depends on the query, its
//! position and the cache alone, not on which queries are computed beside it.
#![allow(unsafe_code)]

mod rows;
mod store;

pub use rows::{Gate, Rotation, add_in_place, gated, rotate};
pub use store::store_kv;

use crate::gemm::BLOCK_K;
use crate::isa::Isa;
use crate::lanes::{self, LaneKernel, Lanes, WIDTH};
use crate::math;
use crate::reduce;
use crate::threads::{Slots, Threads};

/// Positions of a page.
pub const PAGE: usize = WIDTH;

/// The shape of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Values of a head: a multiple of 16, at most 256.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Bound c of the scores: s becomes c × tanh(s ÷ c).
    pub softcap: Option<f32>,
    /// Number of latest positions that a query attends to; all of them if `None`.
    pub window: Option<usize>,
}

impl Attention {
    /// Numbers of one page of one layer: keys and values of each head.
    #[must_use]
    pub fn page_len(&self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Numbers of one head in one page.
    fn head_len(&self) -> usize {
        2 * PAGE * self.head_dim
    }

    /// The positions that a query at `position` attends to.
    fn span(&self, position: usize) -> std::ops::RangeInclusive<usize> {
        let first = match self.window {
            Some(window) => (position + 1).saturating_sub(window),
            None => 0,
        };
        first..=position
    }
}

/// Consecutive positions of one sequence, to be attended from.
#[derive(Clone, Debug)]
pub struct Stretch<'a> {
    /// Row of the first of them in the batch.
    pub row: usize,
    /// Position of the first of them in the sequence.
    pub position: usize,
    /// How many there are.
    pub len: usize,
    /// One layer's part of each page of the sequence, which hold all positions up to the last one
    /// of the stretch.
    pub pages: Vec<&'a [u16]>,
}

/// Queries that share keys, values and registers.
const TOGETHER: usize = 4;

/// Queries of one task: tokens of a stretch, in multiples that fill tiles.
const TOKENS: usize = 16;

/// Attention of each position of each stretch: `q` and `out` have a row of `heads × head_dim`
/// values for each position of the batch; the cache already holds keys and values of them all.
///
/// # Panics
/// If the shape is none that [`Attention`] allows, a slice is too short for what is asked, or the
/// stretches do not come in the order of their rows, each row in one of them at most.
pub fn attention(
    isa: Isa,
    threads: &Threads,
    shape: &Attention,
    stretches: &[Stretch<'_>],
    q: &[f32],
    out: &mut [f32],
) {
    let dim = shape.head_dim;
    assert!(
        dim > 0 && dim.is_multiple_of(WIDTH) && dim <= BLOCK_K,
        "attention: heads of {dim} values"
    );
    assert!(
        shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
        "attention: {} heads share {} heads of keys",
        shape.heads,
        shape.kv_heads
    );
    let width = shape.heads * dim;
    assert_eq!(q.len(), out.len(), "attention: lengths of q and out");
    let mut tasks = Vec::new();
    let mut next = 0;
    for (i, stretch) in stretches.iter().enumerate() {
        let end = stretch.position + stretch.len;
        assert!(
            stretch.pages.len() * PAGE >= end
                && stretch.pages.iter().all(|p| p.len() == shape.page_len())
                && stretch.row >= next
                && (stretch.row + stretch.len) * width <= q.len(),
            "attention: stretch {i} does not fit its pages or the batch"
        );
        next = stretch.row + stretch.len;
        for first in (0..stretch.len).step_by(TOKENS) {
            let len = TOKENS.min(stretch.len - first);
            tasks.extend((0..shape.kv_heads).map(|head| (i, first, len, head)));
        }
    }
    let slots = Slots::of(out);
    threads.run(tasks.len(), |task| {
        let (i, first, len, head) = tasks[task];
        let stretch = &stretches[i];
        let group = shape.heads / shape.kv_heads;
        let queries: Vec<Query<'_>> = (first..first + len)
            .flat_map(|t| (0..group).map(move |g| (t, g)))
            .map(|(t, g)| {
                let start = (stretch.row + t) * width + (head * group + g) * dim;
                Query {
                    position: stretch.position + t,
                    q: &q[start..start + dim],
                    // SAFETY: stretches share no rows, and each head of each row is one query of
                    // one task.
                    out: unsafe { slots.slice(start, dim) },
                }
            })
            .collect();
        lanes::run(
            isa,
            Attend {
                shape,
                pages: &stretch.pages,
                head,
                queries,
            },
        );
    });
}

/// One query of one head.
struct Query<'a> {
    position: usize,
    q: &'a [f32],
    out: &'a mut [f32],
}

struct Attend<'a> {
    shape: &'a Attention,
    pages: &'a [&'a [u16]],
    head: usize,
    queries: Vec<Query<'a>>,
}

impl LaneKernel for Attend<'_> {
    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let mut scores = Vec::new();
        let (shape, pages, head) = (self.shape, self.pages, self.head);
        for queries in self.queries.chunks_mut(TOGETHER) {
            let scratch = &mut scores;
            // As many sums as fit the registers: 32 wide ones, or 16 that are half as wide.
            match (queries.len(), L::ROWS) {
                (4, 8) => some::<L, 4, 2>(lanes, shape, pages, head, queries, scratch),
                (4, _) => some::<L, 4, 1>(lanes, shape, pages, head, queries, scratch),
                (3, 8) => some::<L, 3, 2>(lanes, shape, pages, head, queries, scratch),
                (3, _) => some::<L, 3, 1>(lanes, shape, pages, head, queries, scratch),
                (2, 8) => some::<L, 2, 4>(lanes, shape, pages, head, queries, scratch),
                (2, _) => some::<L, 2, 2>(lanes, shape, pages, head, queries, scratch),
                _ => some::<L, 1, 4>(lanes, shape, pages, head, queries, scratch),
            }
        }
    }
}

/// `R` queries, `N` pages of keys at a time.
#[inline(always)]
fn some<L: Lanes, const R: usize, const N: usize>(
    lanes: L,
    shape: &Attention,
    pages: &[&[u16]],
    head: usize,
    queries: &mut [Query<'_>],
    scores: &mut Vec<f32>,
) {
    let spans: [_; R] = std::array::from_fn(|r| shape.span(queries[r].position));
    let begin = spans.iter().map(|s| *s.start()).min().unwrap_or(0) / PAGE;
    let end = spans.iter().map(|s| *s.end()).max().unwrap_or(0) / PAGE + 1;
    let len = shape.head_len();
    let (first, stride) = (begin * PAGE, (end - begin) * PAGE);
    let pages = &pages[begin..end];
    let heads = |page: usize| pages[page][head * len..(head + 1) * len].split_at(len / 2);

    scores.clear();
    scores.resize(R * stride, 0.0);
    let q: [&[f32]; R] = std::array::from_fn(|r| queries[r].q);
    let mut page = 0;
    while page < pages.len() {
        if page + N <= pages.len() {
            let keys: [&[u16]; N] = std::array::from_fn(|n| heads(page + n).0);
            products::<L, R, N>(lanes, q, keys, scores, stride, page);
            page += N;
        } else {
            products::<L, R, 1>(lanes, q, [heads(page).0], scores, stride, page);
            page += 1;
        }
    }
    let mut totals = [0.0; R];
    for (r, scores) in scores.chunks_exact_mut(stride).enumerate() {
        let span = spans[r].start() - first..spans[r].end() + 1 - first;
        totals[r] = weigh(shape, scores, span);
    }
    let outs = queries.iter_mut().map(|q| &mut *q.out);
    let mut outs: [&mut [f32]; R] = collect(outs);
    let vectors = shape.head_dim / WIDTH;
    let most = if L::ROWS == 8 { 4 } else { 4 / R };
    let mut at = 0;
    while at < vectors {
        let left = most.min(vectors - at);
        macro_rules! columns {
            ($d:literal) => {{
                values::<L, R, $d>(
                    lanes,
                    begin,
                    &heads,
                    pages.len(),
                    scores,
                    at,
                    &totals,
                    &mut outs,
                );
                $d
            }};
        }
        at += match left {
            4.. => columns!(4),
            2.. => columns!(2),
            _ => columns!(1),
        };
    }
}

#[inline(always)]
fn collect<'a, const R: usize>(items: impl Iterator<Item = &'a mut [f32]>) -> [&'a mut [f32]; R] {
    let mut items = items;
    std::array::from_fn(|_| items.next().unwrap_or_default())
}

/// Scalar products of `R` queries with the keys of `N` pages.
#[inline(always)]
fn products<L: Lanes, const R: usize, const N: usize>(
    lanes: L,
    q: [&[f32]; R],
    keys: [&[u16]; N],
    scores: &mut [f32],
    stride: usize,
    page: usize,
) {
    let dim = q[0].len();
    let keys = keys.map(|keys| &keys.as_chunks::<WIDTH>().0[..dim]);
    let mut sums = [[lanes.splat(0.0); N]; R];
    for d in 0..dim {
        let keys: [L::V; N] = std::array::from_fn(|n| lanes.load_f16(&keys[n][d]));
        for r in 0..R {
            let a = lanes.splat(q[r][d]);
            for n in 0..N {
                sums[r][n] = lanes.fma(a, keys[n], sums[r][n]);
            }
        }
    }
    for r in 0..R {
        let (runs, _) = scores[r * stride..(r + 1) * stride].as_chunks_mut::<WIDTH>();
        for n in 0..N {
            lanes.store(sums[r][n], &mut runs[page + n]);
        }
    }
}

/// Scores become weights, zero outside of `span`; the result is their sum.
#[inline(always)]
fn weigh(shape: &Attention, scores: &mut [f32], span: std::ops::Range<usize>) -> f32 {
    scores[..span.start].fill(0.0);
    scores[span.end..].fill(0.0);
    let inside = &mut scores[span];
    for s in inside.iter_mut() {
        *s *= shape.scale;
    }
    if let Some(cap) = shape.softcap {
        for s in inside.iter_mut() {
            *s = cap * math::tanh(*s / cap);
        }
    }
    let top = reduce::max(inside);
    for s in inside {
        *s = math::exp(*s - top);
    }
    // The lanes of this sum are those of the positions, since pages have as many.
    reduce::sum(scores)
}

/// Sums of values of `R` queries, in `D` registers from number `at` on, divided by the totals.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "an inner loop")]
fn values<'p, L: Lanes, const R: usize, const D: usize>(
    lanes: L,
    begin: usize,
    heads: &impl Fn(usize) -> (&'p [u16], &'p [u16]),
    pages: usize,
    weights: &[f32],
    at: usize,
    totals: &[f32; R],
    outs: &mut [&mut [f32]; R],
) {
    const PAGES: usize = BLOCK_K / PAGE;
    let stride = pages * PAGE;
    let mut sums = [[lanes.splat(0.0); D]; R];
    let mut page = 0;
    while page < pages {
        // Up to the next multiple of 256 positions of the sequence.
        let end = pages.min(page + PAGES - (begin + page) % PAGES);
        let mut block = [[lanes.splat(0.0); D]; R];
        for p in page..end {
            let (rows, _) = heads(p).1.as_chunks::<WIDTH>();
            let per_row = rows.len() / PAGE;
            for i in 0..PAGE {
                let rows = &rows[i * per_row + at..][..D];
                let rows: [L::V; D] = std::array::from_fn(|d| lanes.load_f16(&rows[d]));
                for r in 0..R {
                    let w = lanes.splat(weights[r * stride + p * PAGE + i]);
                    for d in 0..D {
                        block[r][d] = lanes.fma(w, rows[d], block[r][d]);
                    }
                }
            }
        }
        for r in 0..R {
            for d in 0..D {
                sums[r][d] = if page == 0 {
                    block[r][d]
                } else {
                    lanes.add(sums[r][d], block[r][d])
                };
            }
        }
        page = end;
    }
    for r in 0..R {
        let (runs, _) = outs[r].as_chunks_mut::<WIDTH>();
        for d in 0..D {
            let run = &mut runs[at + d];
            lanes.store(sums[r][d], run);
            for v in run {
                // A sum of zeros may have either sign, depending on what lies beside it.
                *v = math::canonical(*v / totals[r] + 0.0);
            }
        }
    }
}
