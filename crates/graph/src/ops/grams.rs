//! Counts of short sequences.

use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::expect;
use crate::tensor::Tensor;

/// What a count counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weighing {
    Count,
    /// The weight, or 1, where there is any.
    Presence,
    /// The count times the weight.
    Both,
}

/// How often each sequence of a pool occurs in a row; between its elements lie as many others as
/// the skip says, from none to the most.
#[derive(Debug)]
pub(crate) struct Grams {
    /// Sequences and where their count goes.
    pool: Vec<(Vec<i64>, usize)>,
    lengths: (usize, usize),
    skip: usize,
    weights: Option<Vec<f32>>,
    weighing: Weighing,
    width: usize,
}

/// Widest output.
const WIDTH: usize = 1 << 24;

impl Grams {
    pub(crate) fn new(
        pool: Vec<i64>,
        starts: &[usize],
        places: Vec<usize>,
        lengths: (usize, usize),
        skip: usize,
        weights: Option<Vec<f32>>,
        weighing: Weighing,
    ) -> Result<Grams, OpError> {
        let wrong = |reason: &str| OpError::attribute("ngram_counts", reason);
        let mut all = Vec::new();
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(pool.len());
            let part = pool
                .get(start..end)
                .ok_or_else(|| wrong("are not ascending"))?;
            let length = index + 1;
            if part.len() % length != 0 {
                return Err(wrong("do not divide the pool into sequences"));
            }
            all.extend(part.chunks_exact(length).map(<[i64]>::to_vec));
        }
        let width = places.iter().max().map_or(0, |m| m.saturating_add(1));
        let fits = all.len() == places.len()
            && width <= WIDTH
            && lengths.0 <= lengths.1
            && weights.as_ref().is_none_or(|w| w.len() == places.len());
        if !fits {
            return Err(wrong("do not fit the other attributes"));
        }
        let within = |s: &Vec<i64>| (lengths.0..=lengths.1).contains(&s.len());
        // A weight belongs to a sequence; it is put where the count goes.
        let by_place = weights.map(|weights| {
            let mut sorted = vec![1f32; width];
            for (&place, weight) in places.iter().zip(weights) {
                sorted[place] = weight;
            }
            sorted
        });
        Ok(Grams {
            pool: all
                .into_iter()
                .zip(places)
                .filter(|(s, _)| within(s))
                .collect(),
            lengths,
            skip,
            weights: by_place,
            weighing,
            width,
        })
    }

    fn count(&self, row: &[i64], counts: &mut [f32]) {
        for (sequence, place) in &self.pool {
            // A single element has nothing to skip between.
            let skips = if sequence.len() == 1 { 0 } else { self.skip };
            for step in 1..=skips + 1 {
                let reach = (sequence.len() - 1) * step;
                for start in 0..row.len().saturating_sub(reach) {
                    let found = sequence
                        .iter()
                        .enumerate()
                        .all(|(i, v)| row[start + i * step] == *v);
                    if found {
                        counts[*place] += 1.0;
                    }
                }
            }
        }
    }
}

impl Operator for Grams {
    fn name(&self) -> &'static str {
        "TfIdfVectorizer/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.pool.len());
        for (sequence, place) in &self.pool {
            canon.size(sequence.len());
            for v in sequence {
                canon.u64(v.cast_unsigned());
            }
            canon.size(*place);
        }
        canon
            .size(self.lengths.0)
            .size(self.lengths.1)
            .size(self.skip);
        canon.u8(self.weighing as u8).size(self.width);
        match &self.weights {
            None => canon.u8(0),
            Some(weights) => weights.iter().fold(canon.u8(1), |canon, &w| canon.f32(w)),
        };
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::I32, DType::I64])?;
        let width = Sym::size(self.width);
        let shape = match x.shape() {
            [_] => vec![width],
            [rows, _] => vec![rows.clone(), width],
            _ => return Err(OpError::shape("sequences have one or two dimensions")),
        };
        Ok(vec![Type::new(DType::F32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        let values = crate::fact::integers(x).unwrap_or_default();
        let length = x.shape().last().copied().unwrap_or(0);
        let mut y = cx.zeros::<f32>();
        for (i, counts) in y.chunks_exact_mut(self.width.max(1)).enumerate() {
            self.count(&values[i * length..(i + 1) * length], counts);
            for (place, count) in counts.iter_mut().enumerate() {
                let weight = self.weights.as_ref().map_or(1.0, |w| w[place]);
                *count = match self.weighing {
                    Weighing::Count => *count,
                    Weighing::Presence if *count > 0.0 => weight,
                    Weighing::Presence => 0.0,
                    Weighing::Both => *count * weight,
                };
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let elements: u64 = self.pool.iter().map(|(s, _)| s.len() as u64).sum();
        let x = inputs.get(0).map_or(0, |x| x.len() as u64);
        let skips = (self.skip as u64).saturating_add(1);
        x.saturating_mul(elements).saturating_mul(skips)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(0).map_or(0, |x| 8 * x.len() as u64)
    }
}
