//! The forward pass: tokens in, logits out, by the numeric specification for language models.
//!
//! Rows of a batch belong to any number of sequences. Every step but attention looks at one row
//! alone, and attention at one sequence alone, so what is computed together changes no bit.

use lemma_kernels::{
    Binary, Input, Isa, PAGE, PackedMatrix, QuantRows, Stretch, Threads, Unary, add_in_place,
    attention, binary, gated, rms_norm, rotate, softmax, store_kv, unary_in_place,
};

use crate::cache::{Cache, PageId};
use crate::config::Experts;
use crate::model::{FeedForward, LayerWeights, Model, Unit};
use crate::weights::Linear;

/// What computes: an instruction set and threads. Neither changes a bit.
#[derive(Debug)]
pub struct Compute {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub threads: Threads,
}

impl Compute {
    /// The fastest instruction set of this machine, with so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Compute {
        Compute {
            isa: Isa::detect(),
            threads: Threads::new(threads),
        }
    }
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// The tokens; each smaller than the vocabulary.
    pub tokens: &'a [u32],
    /// Position of the first.
    pub position: usize,
    /// The sequence's pages, enough for the last token; positions before the first token are
    /// filled.
    pub pages: &'a [PageId],
    /// Of how many tokens, the last ones of the chunk, logits are wanted.
    pub logits: usize,
}

/// Memory that forward passes use again.
#[derive(Debug, Default)]
pub struct Scratch {
    x: Vec<f32>,
    rows: Rows,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
    logits: Vec<f32>,
    cos: Vec<Vec<f32>>,
    sin: Vec<Vec<f32>>,
}

/// Rows that enter products: as they are, and quantised once it is asked for.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) values: Vec<f32>,
    quantised: QuantRows,
    fresh: bool,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rows({} values)", self.values.len())
    }
}

impl Rows {
    /// The values, about to be written.
    pub(crate) fn write(&mut self, len: usize) -> &mut Vec<f32> {
        self.fresh = false;
        self.values.resize(len, 0.0);
        &mut self.values
    }

    fn input(&mut self, c: &Compute, weights: &PackedMatrix) -> Input<'_> {
        if !weights.format().is_quantised() {
            return Input::Dense(&self.values);
        }
        if !self.fresh {
            self.quantised
                .quantise(c.isa, &c.threads, &self.values, weights.k());
            self.fresh = true;
        }
        Input::Quantised(&self.quantised)
    }

    /// `out = rows · weightsᵀ + bias`.
    pub(crate) fn multiply(&mut self, c: &Compute, linear: &Linear, out: &mut Vec<f32>) {
        self.product(c, &linear.weights, out);
        if let Some(bias) = &linear.bias {
            add_in_place(c.isa, out, bias);
        }
    }

    fn product(&mut self, c: &Compute, weights: &PackedMatrix, out: &mut Vec<f32>) {
        let m = self.values.len() / weights.k();
        out.resize(m * weights.n(), 0.0);
        let input = self.input(c, weights);
        weights.multiply(c.isa, &c.threads, input, out);
    }
}

/// Rows that one task handles where a kernel works on rows.
pub(crate) const ROWS: usize = 8;

/// Normalises rows of `scale.len()` values each.
fn norm(c: &Compute, epsilon: f32, scale: &[f32], x: &[f32], y: &mut [f32]) {
    let piece = ROWS * scale.len();
    c.threads.chunks(y, piece, |i, y| {
        rms_norm(c.isa, epsilon, scale, &x[i * piece..i * piece + y.len()], y);
    });
}

impl Model {
    /// Runs the chunks, extends their sequences in the cache, and returns the logits that were
    /// asked for: rows of the vocabulary, chunk after chunk.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, a chunk has fewer pages than it needs, or asks for
    /// logits of more tokens than it has.
    pub fn forward<'s>(
        &self,
        c: &Compute,
        cache: &mut Cache,
        chunks: &[Chunk<'_>],
        s: &'s mut Scratch,
    ) -> &'s [f32] {
        self.hidden(c, cache, chunks, s);
        let mut row = 0;
        let mut wanted = Vec::new();
        for chunk in chunks {
            let len = chunk.tokens.len();
            assert!(chunk.logits <= len, "logits of more tokens than there are");
            wanted.extend(row + len - chunk.logits..row + len);
            row += len;
        }
        self.logits(c, &wanted, s);
        &s.logits
    }

    /// Runs the chunks up to the last layer, for [`logits_of`](Model::logits_of).
    pub(crate) fn hidden(
        &self,
        c: &Compute,
        cache: &mut Cache,
        chunks: &[Chunk<'_>],
        s: &mut Scratch,
    ) {
        self.embed(c, chunks, s);
        self.angles(chunks, s);
        for (i, layer) in self.layers.iter().enumerate() {
            self.attend(c, cache, chunks, s, i, layer);
            self.feed_forward(c, s, layer);
        }
    }

    /// Logits of some rows of what [`hidden`](Model::hidden) left.
    pub(crate) fn logits_of<'s>(
        &self,
        c: &Compute,
        rows: std::ops::Range<usize>,
        s: &'s mut Scratch,
    ) -> &'s [f32] {
        let wanted: Vec<usize> = rows.collect();
        self.logits(c, &wanted, s);
        &s.logits
    }

    fn embed(&self, c: &Compute, chunks: &[Chunk<'_>], s: &mut Scratch) {
        let dim = self.config.dim;
        let tokens: Vec<u32> = chunks.iter().flat_map(|c| c.tokens).copied().collect();
        s.x.resize(tokens.len() * dim, 0.0);
        c.threads.chunks(&mut s.x, dim, |i, row| {
            self.embedding.row(tokens[i] as usize, row);
            if let Some(scale) = self.config.embedding_scale {
                row.iter_mut().for_each(|v| *v *= scale);
            }
        });
    }

    /// Sines and cosines of every row, for each rotation.
    fn angles(&self, chunks: &[Chunk<'_>], s: &mut Scratch) {
        s.cos.resize(self.ropes.len(), Vec::new());
        s.sin.resize(self.ropes.len(), Vec::new());
        for ((rope, cos), sin) in self.ropes.iter().zip(&mut s.cos).zip(&mut s.sin) {
            cos.clear();
            sin.clear();
            for chunk in chunks {
                for i in 0..chunk.tokens.len() {
                    rope.at(chunk.position + i, cos, sin);
                }
            }
        }
    }

    /// `rows = norm(x)`, or x itself where there is no norm.
    fn enter(&self, c: &Compute, s: &mut Scratch, scale: Option<&Vec<f32>>) {
        let rows = s.rows.write(s.x.len());
        match scale {
            Some(scale) => norm(c, self.config.norm_epsilon, scale, &s.x, rows),
            None => rows.copy_from_slice(&s.x),
        }
    }

    /// `x = x + norm(out)`, or without the norm where there is none.
    fn leave(&self, c: &Compute, s: &mut Scratch, scale: Option<&Vec<f32>>) {
        match scale {
            Some(scale) => {
                let rows = s.rows.write(s.out.len());
                norm(c, self.config.norm_epsilon, scale, &s.out, rows);
                add_in_place(c.isa, &mut s.x, rows);
            }
            None => add_in_place(c.isa, &mut s.x, &s.out),
        }
    }

    fn attend(
        &self,
        c: &Compute,
        cache: &mut Cache,
        chunks: &[Chunk<'_>],
        s: &mut Scratch,
        index: usize,
        layer: &LayerWeights,
    ) {
        self.enter(c, s, layer.before_attention.as_ref());
        s.rows.multiply(c, &layer.q, &mut s.q);
        s.rows.multiply(c, &layer.k, &mut s.k);
        s.rows.multiply(c, &layer.v, &mut s.v);
        for (x, scale) in [(&mut s.q, &layer.q_norm), (&mut s.k, &layer.k_norm)] {
            if let Some(scale) = scale {
                s.up.resize(x.len(), 0.0);
                norm(c, self.config.norm_epsilon, scale, x, &mut s.up);
                std::mem::swap(x, &mut s.up);
            }
        }
        if let Some(rope) = layer.rope {
            let (cos, sin) = (&s.cos[rope], &s.sin[rope]);
            let pairs = self.ropes[rope].pairs();
            let dim = self.config.head_dim;
            for (x, width) in [
                (&mut s.q, self.config.q_dim()),
                (&mut s.k, self.config.kv_dim()),
            ] {
                c.threads.chunks(x, width, |i, row| {
                    let part = i * pairs..(i + 1) * pairs;
                    let (cos, sin) = (&cos[part.clone()], &sin[part]);
                    rotate(c.isa, self.config.rotation, dim, cos, sin, row);
                });
            }
        }
        self.store(c, cache, chunks, s, index, layer);
        let mut row = 0;
        let stretches: Vec<Stretch<'_>> = chunks
            .iter()
            .map(|chunk| {
                let len = chunk.tokens.len();
                let used = (chunk.position + len).div_ceil(PAGE);
                let stretch = Stretch {
                    row,
                    position: chunk.position,
                    len,
                    pages: chunk.pages[..used]
                        .iter()
                        .map(|page| cache.layer(*page, index))
                        .collect(),
                };
                row += len;
                stretch
            })
            .collect();
        let rows = s.rows.write(s.q.len());
        attention(c.isa, &c.threads, &layer.attention, &stretches, &s.q, rows);
        s.rows.multiply(c, &layer.o, &mut s.out);
        self.leave(c, s, layer.after_attention.as_ref());
    }

    fn store(
        &self,
        c: &Compute,
        cache: &mut Cache,
        chunks: &[Chunk<'_>],
        s: &Scratch,
        index: usize,
        layer: &LayerWeights,
    ) {
        let width = self.config.kv_dim();
        let mut rows = s.k.chunks_exact(width).zip(s.v.chunks_exact(width));
        for chunk in chunks {
            for (position, (k, v)) in (chunk.position..).zip(rows.by_ref().take(chunk.tokens.len()))
            {
                let page = cache.layer_mut(chunk.pages[position / PAGE], index);
                store_kv(c.isa, &layer.attention, page, position % PAGE, k, v);
            }
        }
    }

    fn feed_forward(&self, c: &Compute, s: &mut Scratch, layer: &LayerWeights) {
        self.enter(c, s, layer.before_ffn.as_ref());
        match &layer.ffn {
            FeedForward::Dense(unit) => {
                self.unit(c, unit, &mut s.rows, &mut s.q, &mut s.up, &mut s.out);
            }
            FeedForward::Experts { router, units } => {
                if let Some(experts) = &self.config.experts {
                    self.experts(c, s, router, units, experts);
                }
            }
        }
        self.leave(c, s, layer.after_ffn.as_ref());
    }

    /// `out = down(f(gate(rows)) × up(rows))`; `rows` are overwritten.
    fn unit(
        &self,
        c: &Compute,
        unit: &Unit,
        rows: &mut Rows,
        gate: &mut Vec<f32>,
        up: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) {
        rows.multiply(c, &unit.gate, gate);
        rows.multiply(c, &unit.up, up);
        let hidden = rows.write(gate.len());
        let width = unit.gate.weights.n();
        let up = &*up;
        std::mem::swap(hidden, gate);
        c.threads.chunks(hidden, width, |i, row| {
            gated(
                c.isa,
                self.config.gate,
                row,
                &up[i * width..(i + 1) * width],
            );
        });
        rows.multiply(c, &unit.down, out);
    }

    /// Each row through the experts that its router picks; their results are added in the order of
    /// the experts, weighted.
    fn experts(
        &self,
        c: &Compute,
        s: &mut Scratch,
        router: &Linear,
        units: &[Unit],
        experts: &Experts,
    ) {
        let dim = self.config.dim;
        s.rows.multiply(c, router, &mut s.k);
        let picks: Vec<Vec<(usize, f32)>> =
            s.k.chunks_exact(experts.count)
                .map(|logits| route(c, logits, experts))
                .collect();
        let input = s.rows.values.clone();
        s.out.clear();
        s.out.resize(input.len(), 0.0);
        let (mut rows, mut part) = (Rows::default(), Vec::new());
        for (e, unit) in units.iter().enumerate() {
            let users: Vec<(usize, f32)> = picks
                .iter()
                .enumerate()
                .flat_map(|(row, picks)| picks.iter().map(move |pick| (row, *pick)))
                .filter(|(_, (expert, _))| *expert == e)
                .map(|(row, (_, weight))| (row, weight))
                .collect();
            if users.is_empty() {
                continue;
            }
            let values = rows.write(users.len() * dim);
            for ((row, _), values) in users.iter().zip(values.chunks_exact_mut(dim)) {
                values.copy_from_slice(&input[row * dim..(row + 1) * dim]);
            }
            self.unit(c, unit, &mut rows, &mut s.q, &mut s.up, &mut part);
            for ((row, weight), part) in users.iter().zip(part.chunks_exact(dim)) {
                for (out, part) in s.out[row * dim..].iter_mut().zip(part) {
                    *out = lemma_kernels::canonical(weight.mul_add(*part, *out));
                }
            }
        }
    }

    fn logits(&self, c: &Compute, wanted: &[usize], s: &mut Scratch) {
        let dim = self.config.dim;
        s.out.clear();
        for row in wanted {
            s.out.extend_from_slice(&s.x[row * dim..(row + 1) * dim]);
        }
        let rows = s.rows.write(s.out.len());
        if rows.is_empty() {
            s.logits.clear();
            return;
        }
        norm(c, self.config.norm_epsilon, &self.norm, &s.out, rows);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        s.rows.product(c, head, &mut s.logits);
        if let Some(cap) = self.config.final_softcap {
            c.threads
                .chunks(&mut s.logits, self.config.vocab, |_, row| {
                    let scaled = row.to_vec();
                    binary(c.isa, Binary::Div, &scaled, &[cap], row);
                    unary_in_place(c.isa, Unary::Tanh, row);
                    let bounded = row.to_vec();
                    binary(c.isa, Binary::Mul, &bounded, &[cap], row);
                });
        }
    }
}

/// The experts of one row with their weights, in the order of the experts: those with the largest
/// logits, of equal ones the first.
fn route(c: &Compute, logits: &[f32], experts: &Experts) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let key = |i: &usize| (!lemma_kernels::canonical(logits[*i]).is_nan(), logits[*i]);
    order.sort_by(|a, b| {
        let (a, b) = (key(a), key(b));
        b.0.cmp(&a.0)
            .then(b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal))
    });
    order.truncate(experts.used);
    let mut weights = vec![0.0; logits.len()];
    softmax(c.isa, logits.len(), logits, &mut weights);
    let total = if experts.normalised {
        order.iter().fold(0.0, |sum, i| sum + weights[*i])
    } else {
        1.0
    };
    order.sort_unstable();
    order
        .into_iter()
        .map(|i| (i, lemma_kernels::canonical(weights[i] / total)))
        .collect()
}
