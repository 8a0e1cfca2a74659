//! Attention over pages, against the specification followed word by word.

use lemma_kernels::half::{f16_to_f32, f32_to_f16};
use lemma_kernels::{
    Attention, Isa, PAGE, Rotation, Stretch, Threads, attention, math, product, rotate, store_kv,
};

struct Numbers(u64);

impl Numbers {
    fn real(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) % 20001) as f32 / 10000.0 - 1.0
    }
    fn row(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.real() * 2.0).collect()
    }
}

fn narrowed(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&v| f16_to_f32(f32_to_f16(v))).collect()
}

/// One head of one query, by the specification: `keys` and `values` from position 0 on.
fn reference(
    shape: &Attention,
    position: usize,
    q: &[f32],
    keys: &[Vec<f32>],
    values: &[Vec<f32>],
) -> Vec<f32> {
    let first = shape.window.map_or(0, |w| (position + 1).saturating_sub(w));
    let mut scores: Vec<f32> = (first..=position)
        .map(|p| {
            let s = product(q, |i| keys[p][i]) * shape.scale;
            shape.softcap.map_or(s, |cap| cap * math::tanh(s / cap))
        })
        .collect();
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for s in &mut scores {
        *s = math::exp(*s - top);
    }
    let mut lanes = [0.0f32; 16];
    for (i, s) in scores.iter().enumerate() {
        lanes[(first + i) % 16] += s;
    }
    for h in [8, 4, 2, 1] {
        for j in 0..h {
            lanes[j] += lanes[j + h];
        }
    }
    (0..shape.head_dim)
        .map(|d| {
            let mut total: Option<f32> = None;
            let mut p = first;
            while p <= position {
                let end = ((p / 256 + 1) * 256).min(position + 1);
                let sum = (p..end).fold(0.0f32, |s, p| scores[p - first].mul_add(values[p][d], s));
                total = Some(total.map_or(sum, |t| t + sum));
                p = end;
            }
            total.unwrap() / lanes[0] + 0.0
        })
        .collect()
}

struct Case {
    shape: Attention,
    pages: Vec<Vec<u16>>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    queries: Vec<f32>,
    len: usize,
}

fn case(shape: Attention, len: usize) -> Case {
    let mut numbers = Numbers(11);
    let width = shape.kv_heads * shape.head_dim;
    let mut pages = vec![vec![0; shape.page_len()]; len.div_ceil(PAGE)];
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for p in 0..len {
        let (k, v) = (numbers.row(width), numbers.row(width));
        store_kv(
            Isa::detect(),
            &shape,
            &mut pages[p / PAGE],
            p % PAGE,
            &k,
            &v,
        );
        keys.push(narrowed(&k));
        values.push(narrowed(&v));
    }
    Case {
        queries: numbers.row(len * shape.heads * shape.head_dim),
        shape,
        pages,
        keys,
        values,
        len,
    }
}

impl Case {
    fn expected(&self) -> Vec<u32> {
        let shape = &self.shape;
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let mut out = Vec::new();
        for (i, q) in self.queries.chunks_exact(dim).enumerate() {
            let (position, head) = (i / shape.heads, i % shape.heads / group);
            let part = |rows: &[Vec<f32>]| -> Vec<Vec<f32>> {
                rows.iter()
                    .map(|r| r[head * dim..(head + 1) * dim].to_vec())
                    .collect()
            };
            let row = reference(shape, position, q, &part(&self.keys), &part(&self.values));
            out.extend(row.iter().map(|v| v.to_bits()));
        }
        out
    }

    /// The same, in stretches of the given length.
    fn computed(&self, isa: Isa, threads: usize, chunk: usize) -> Vec<u32> {
        let width = self.shape.heads * self.shape.head_dim;
        let mut out = vec![f32::NAN; self.len * width];
        let threads = Threads::new(threads);
        for first in (0..self.len).step_by(chunk) {
            let len = chunk.min(self.len - first);
            let stretch = Stretch {
                row: 0,
                position: first,
                len,
                pages: self.pages.iter().map(Vec::as_slice).collect(),
            };
            let rows = first * width..(first + len) * width;
            let q = &self.queries[rows.clone()];
            attention(isa, &threads, &self.shape, &[stretch], q, &mut out[rows]);
        }
        out.iter().map(|v| v.to_bits()).collect()
    }
}

#[test]
fn attention_follows_the_specification_everywhere() {
    let plain = Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 48,
        scale: 0.3,
        softcap: None,
        window: None,
    };
    let shapes = [
        (plain, 45),
        (plain, 300),
        (
            Attention {
                window: Some(20),
                ..plain
            },
            70,
        ),
        (
            Attention {
                window: Some(7),
                softcap: Some(5.0),
                heads: 3,
                kv_heads: 1,
                ..plain
            },
            61,
        ),
        (
            Attention {
                window: Some(270),
                heads: 1,
                kv_heads: 1,
                head_dim: 16,
                ..plain
            },
            600,
        ),
    ];
    for (shape, len) in shapes {
        let case = case(shape, len);
        let expected = case.expected();
        for isa in Isa::available() {
            for (threads, chunk) in [(1, 600), (2, 1), (2, 17), (1, 64)] {
                assert_eq!(
                    case.computed(isa, threads, chunk),
                    expected,
                    "{shape:?}, {len} positions, {isa}, {threads} threads, chunks of {chunk}"
                );
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_what_lies_beside_it() {
    let shape = Attention {
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        softcap: None,
        window: None,
    };
    let case = case(shape, 40);
    let expected = case.expected();
    // The same sequence twice in one batch, from different positions.
    let width = shape.heads * shape.head_dim;
    let pages: Vec<&[u16]> = case.pages.iter().map(Vec::as_slice).collect();
    let stretches = [
        Stretch {
            row: 0,
            position: 30,
            len: 10,
            pages: pages.clone(),
        },
        Stretch {
            row: 10,
            position: 5,
            len: 3,
            pages,
        },
    ];
    let q = [
        &case.queries[30 * width..],
        &case.queries[5 * width..8 * width],
    ]
    .concat();
    let mut out = vec![0.0; q.len()];
    attention(
        Isa::detect(),
        &Threads::new(2),
        &shape,
        &stretches,
        &q,
        &mut out,
    );
    let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
    assert_eq!(
        bits,
        [&expected[30 * width..], &expected[5 * width..8 * width]].concat()
    );
}

#[test]
fn the_cache_holds_finite_numbers_only() {
    let shape = Attention {
        heads: 1,
        kv_heads: 1,
        head_dim: 16,
        scale: 1.0,
        softcap: None,
        window: None,
    };
    let mut row = [0.0; 16];
    row[..4].copy_from_slice(&[f32::NAN, f32::INFINITY, -1e30, 65519.0]);
    for isa in Isa::available() {
        let mut page = vec![0; shape.page_len()];
        store_kv(isa, &shape, &mut page, 3, &row, &row);
        let values: Vec<u16> = page[256 + 48..][..4].to_vec();
        assert_eq!(values, [0, 0x7bff, 0xfbff, 0x7bff]);
        assert_eq!(
            [page[3], page[19], page[35], page[51]],
            [0, 0x7bff, 0xfbff, 0x7bff]
        );
    }
}

#[test]
fn both_rotations_turn_the_same_pairs() {
    let (cos, sin) = ([0.6f32, 0.0], [0.8f32, 1.0]);
    for isa in Isa::available() {
        let mut halves = [1.0, 2.0, 3.0, 4.0, 9.0];
        rotate(isa, Rotation::Halves, 5, &cos, &sin, &mut halves);
        let mut neighbours = [1.0, 3.0, 2.0, 4.0, 9.0];
        rotate(isa, Rotation::Neighbours, 5, &cos, &sin, &mut neighbours);
        assert_eq!(
            halves,
            [
                0.6 - 3.0 * 0.8,
                -4.0,
                0.8f32.mul_add(1.0, 3.0 * 0.6),
                2.0,
                9.0
            ]
        );
        assert_eq!(
            neighbours,
            [halves[0], halves[2], halves[1], halves[3], 9.0]
        );
    }
}
