//! Sampling, specified: the next token is a function of the logits, the tokens so far and the
//! parameters, whoever computes it. Chapter 6 of the numeric specification for language models.

use std::collections::BTreeMap;

use lemma_kernels::{Isa, Reduction, math, reduce};
use serde::{Deserialize, Serialize};

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Names the noise. Equal seeds give equal answers.
    pub seed: u64,
    /// Divides the logits; 0 takes the best token always.
    pub temperature: f32,
    /// Keeps so many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest best tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens of at least this probability, relative to the best one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of tokens in prompt or answer, multiplies negative ones; 1 is none.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens in the answer.
    pub presence_penalty: f32,
    /// Taken off the logits of tokens in the answer, for each time that they are in it.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens.
    pub bias: BTreeMap<u32, f32>,
}

impl Default for Sampling {
    /// Plain sampling with seed 0: temperature 1, nothing filtered, nothing penalised.
    fn default() -> Sampling {
        Sampling {
            seed: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: BTreeMap::new(),
        }
    }
}

/// Most tokens that a request may bias.
pub const MAX_BIAS: usize = 1024;

/// A sampling parameter out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter} is {value}; it has to be {allowed}")]
pub struct SamplingError {
    /// The parameter.
    pub parameter: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub allowed: &'static str,
}

impl Sampling {
    /// The best token always.
    #[must_use]
    pub fn greedy() -> Sampling {
        Sampling {
            temperature: 0.0,
            ..Sampling::default()
        }
    }

    /// Holds the parameters against their ranges.
    ///
    /// # Errors
    /// The first one out of its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let within = |parameter, value: f32, low: f32, high: f32, allowed| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let value = value.to_string();
            Err(SamplingError {
                parameter,
                value,
                allowed,
            })
        };
        within("temperature", self.temperature, 0.0, 100.0, "from 0 to 100")?;
        within("top_p", self.top_p, 0.0, 1.0, "from 0 to 1")?;
        within("min_p", self.min_p, 0.0, 1.0, "from 0 to 1")?;
        let r = self.repetition_penalty;
        within("repetition_penalty", r, 0.01, 100.0, "from 0.01 to 100")?;
        let (p, f) = (self.presence_penalty, self.frequency_penalty);
        within("presence_penalty", p, -100.0, 100.0, "from -100 to 100")?;
        within("frequency_penalty", f, -100.0, 100.0, "from -100 to 100")?;
        if self.bias.len() > MAX_BIAS {
            return Err(SamplingError {
                parameter: "the number of biased tokens",
                value: self.bias.len().to_string(),
                allowed: "at most 1024",
            });
        }
        for value in self.bias.values() {
            within("a bias", *value, -1000.0, 1000.0, "from -1000 to 1000")?;
        }
        Ok(())
    }
}

/// How often tokens have come, in prompt and answer.
#[derive(Debug, Clone, Default)]
pub struct History {
    prompt: BTreeMap<u32, u32>,
    answer: BTreeMap<u32, u32>,
    len: usize,
}

impl History {
    /// Of a prompt.
    #[must_use]
    pub fn new(prompt: &[u32]) -> History {
        let mut history = History {
            len: prompt.len(),
            ..History::default()
        };
        for token in prompt {
            *history.prompt.entry(*token).or_default() += 1;
        }
        history
    }

    /// One more token of the answer.
    pub fn push(&mut self, token: u32) {
        *self.answer.entry(token).or_default() += 1;
        self.len += 1;
    }

    /// Position of the token that comes next.
    #[must_use]
    pub fn position(&self) -> usize {
        self.len
    }
}

/// A token that was chosen, and what the model thought of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Logarithm of its probability, before penalties, temperature and filters; only where asked
    /// for.
    pub logprob: Option<f32>,
    /// The most probable tokens with theirs, best first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

impl Choice {
    /// A token with its logarithms, of as many of the best tokens as are asked for; with none if
    /// nothing is asked for.
    #[must_use]
    pub fn of(isa: Isa, logits: &[f32], token: u32, count: Option<usize>) -> Choice {
        let Some(count) = count else {
            return Choice {
                token,
                logprob: None,
                top: Vec::new(),
            };
        };
        let (own, top) = logprobs(isa, logits, token, count);
        Choice {
            token,
            logprob: Some(own),
            top,
        }
    }
}

/// There is no next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// The logits are no finite numbers: the model is broken.
    #[error("the model's logits are not finite numbers at position {0}: its weights are damaged")]
    NotFinite(usize),
    /// The constraint allows no token.
    #[error("no token is allowed at position {0}: the constraint cannot be met")]
    NoneAllowed(usize),
}

/// What an answer has to keep to, such as a [grammar](crate::grammar): a function of the tokens so
/// far, and so part of what a replay follows.
pub trait Constraint: std::fmt::Debug + Send {
    /// One bit for each token that may come next, lowest bits first; `None` if all may.
    fn allowed(&mut self) -> Option<&[u32]>;

    /// A token has come.
    fn push(&mut self, token: u32);
}

/// Chooses the token that follows, from the logits of the last position.
///
/// `allowed`, if given, is one bit for each token, lowest bits first: others cannot be chosen.
///
/// # Errors
/// If there is a NaN or an infinity among the logits, or no token is allowed.
pub fn sample(
    isa: Isa,
    sampling: &Sampling,
    history: &History,
    logits: &[f32],
    allowed: Option<&[u32]>,
) -> Result<u32, NoToken> {
    let position = history.position();
    // Looks at all of them, so that it takes vector instructions.
    if !logits.iter().fold(true, |all, l| all & l.is_finite()) {
        return Err(NoToken::NotFinite(position));
    }
    let mut adjusted = logits.to_vec();
    penalise(sampling, history, &mut adjusted);
    if let Some(allowed) = allowed {
        for (i, l) in adjusted.iter_mut().enumerate() {
            if allowed
                .get(i / 32)
                .is_none_or(|word| word >> (i % 32) & 1 == 0)
            {
                *l = f32::NEG_INFINITY;
            }
        }
    }
    let (best, top) = largest(&adjusted);
    if top == f32::NEG_INFINITY {
        return Err(NoToken::NoneAllowed(position));
    }
    if sampling.temperature == 0.0 {
        return Ok(best as u32);
    }
    for l in &mut adjusted {
        *l = (*l - top) / sampling.temperature;
    }
    let noise = Noise::new(sampling.seed, position);
    let noisy = |i: usize, z: f32| (i, z + noise.gumbel(i as u32));
    let all = sampling.top_k == 0 && sampling.top_p >= 1.0 && sampling.min_p <= 0.0;
    let chosen = if all {
        argmax(adjusted.iter().enumerate().map(|(i, z)| noisy(i, *z)))
    } else {
        let kept = filter(isa, sampling, &adjusted);
        argmax(kept.into_iter().map(|i| noisy(i, adjusted[i])))
    };
    Ok(chosen.0 as u32)
}

/// The largest value and its index, the smallest of several, where none is NaN.
fn largest(values: &[f32]) -> (usize, f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (runs, rest) = values.as_chunks::<16>();
    let more = |a: f32, b: f32| if b > a { b } else { a };
    for run in runs {
        for (lane, value) in lanes.iter_mut().zip(run) {
            *lane = more(*lane, *value);
        }
    }
    let top = lanes
        .iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, |a, b| more(a, *b));
    let index = values.iter().position(|value| *value == top);
    index.map_or((usize::MAX, top), |index| (index, values[index]))
}

/// The largest value and its index, the smallest of several.
fn argmax(values: impl Iterator<Item = (usize, f32)>) -> (usize, f32) {
    let mut best = (usize::MAX, f32::NEG_INFINITY);
    for (i, value) in values {
        if value > best.1 || (value == best.1 && i < best.0) {
            best = (i, value);
        }
    }
    best
}

fn penalise(sampling: &Sampling, history: &History, logits: &mut [f32]) {
    for (token, bias) in &sampling.bias {
        if let Some(l) = logits.get_mut(*token as usize) {
            *l += bias;
        }
    }
    if sampling.repetition_penalty != 1.0 {
        let fresh = history
            .answer
            .keys()
            .filter(|t| !history.prompt.contains_key(t));
        for token in history.prompt.keys().chain(fresh) {
            if let Some(l) = logits.get_mut(*token as usize) {
                *l = if *l > 0.0 {
                    *l / sampling.repetition_penalty
                } else {
                    *l * sampling.repetition_penalty
                };
            }
        }
    }
    if sampling.frequency_penalty == 0.0 && sampling.presence_penalty == 0.0 {
        return;
    }
    for (token, count) in &history.answer {
        if let Some(l) = logits.get_mut(*token as usize) {
            *l -= *count as f32 * sampling.frequency_penalty;
            *l -= sampling.presence_penalty;
        }
    }
}

/// Tokens that the filters keep, best first. `z` are logits less the largest, by temperature.
fn filter(isa: Isa, sampling: &Sampling, z: &[f32]) -> Vec<usize> {
    let weight = |i: usize| math::exp(z[i]);
    let order = |a: &usize, b: &usize| z[*b].total_cmp(&z[*a]).then(a.cmp(b));
    let mut tokens: Vec<usize> = (0..z.len()).collect();
    let k = match sampling.top_k {
        0 => z.len(),
        k => z.len().min(k as usize),
    };
    if k < tokens.len() {
        tokens.select_nth_unstable_by(k, order);
        tokens.truncate(k);
    }
    if sampling.min_p > 0.0 {
        tokens.retain(|i| weight(*i) >= sampling.min_p);
    }
    if sampling.top_p >= 1.0 {
        tokens.sort_unstable_by(order);
        return tokens;
    }
    // The sum over what is left, in order of tokens.
    tokens.sort_unstable();
    let weights: Vec<f32> = tokens.iter().map(|i| weight(*i)).collect();
    let mut total = [0.0];
    reduce(
        isa,
        Reduction::Sum,
        1,
        weights.len(),
        1,
        &weights,
        &mut total,
    );
    let enough = sampling.top_p * total[0];
    // Most often a few tokens are enough, and sorting them all would take longer than the model.
    let mut sorted = 64;
    loop {
        if sorted < tokens.len() {
            tokens.select_nth_unstable_by(sorted, order);
        }
        let part = sorted.min(tokens.len());
        tokens[..part].sort_unstable_by(order);
        let mut reached = 0.0f32;
        for (i, token) in tokens[..part].iter().enumerate() {
            reached += weight(*token);
            if reached >= enough {
                tokens.truncate(i + 1);
                return tokens;
            }
        }
        if part == tokens.len() {
            return tokens;
        }
        sorted *= 8;
    }
}

/// Noise for one position.
struct Noise(u64);

/// 2⁶⁴ ÷ the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Noise {
    fn new(seed: u64, position: usize) -> Noise {
        let position = (position as u64).wrapping_add(1).wrapping_mul(STEP);
        Noise(mix(mix(seed.wrapping_add(STEP)).wrapping_add(position)))
    }

    /// A Gumbel variate: with it, the largest of z + noise is a draw from the softmax of z.
    fn gumbel(&self, token: u32) -> f32 {
        let step = u64::from(token).wrapping_add(1).wrapping_mul(STEP);
        let bits = mix(self.0.wrapping_add(step)) >> 41;
        // Odd multiples of 2⁻²⁴, exact, between 0 and 1.
        let uniform = (2 * bits + 1) as f32 * f32::from_bits((127 - 24) << 23);
        -math::log(-math::log(uniform))
    }
}

/// Logarithm of the probability of `token`, and the `count` most probable tokens with theirs, best
/// first and of equal ones the first: of the logits as they are, whatever the sampling.
#[must_use]
pub fn logprobs(isa: Isa, logits: &[f32], token: u32, count: usize) -> (f32, Vec<(u32, f32)>) {
    let mut total = [0.0];
    reduce(
        isa,
        Reduction::LogSumExp,
        1,
        logits.len(),
        1,
        logits,
        &mut total,
    );
    let of = |i: usize| logits[i] - total[0];
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, order);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(order);
    let top = tokens.into_iter().map(|i| (i as u32, of(i))).collect();
    (of(token as usize), top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_the_first_of_its_equals() {
        let mut values: Vec<f32> = (0..100).map(|i| (i * 37 % 41) as f32 - 50.0).collect();
        values[20..60].fill(f32::NEG_INFINITY);
        for (index, value) in [(99, 0.0), (7, -0.0), (3, 0.0), (98, 5.0), (64, 5.0)] {
            values[index] = value;
            let expected = argmax(values.iter().copied().enumerate());
            let found = largest(&values);
            assert_eq!(
                (found.0, found.1.to_bits()),
                (expected.0, expected.1.to_bits())
            );
        }
        let none = [f32::NEG_INFINITY; 20];
        assert_eq!(largest(&none), argmax(none.into_iter().enumerate()));
        assert_eq!(largest(&[]), argmax(std::iter::empty()));
    }

    fn draw(sampling: &Sampling, logits: &[f32], history: &History) -> u32 {
        sample(Isa::detect(), sampling, history, logits, None).unwrap()
    }

    fn counts(sampling: &Sampling, logits: &[f32], draws: u64) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for seed in 0..draws {
            let sampling = Sampling {
                seed,
                ..sampling.clone()
            };
            counts[draw(&sampling, logits, &History::new(&[0; 7])) as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let logits = [1.0, 0.0, -1.0, 2.0f32];
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        let counts = counts(&Sampling::default(), &logits, 20000);
        for (count, l) in counts.iter().zip(logits) {
            let expected = 20000.0 * l.exp() / total;
            // Four standard deviations.
            let slack = 4.0 * expected.sqrt();
            assert!(
                (*count as f32 - expected).abs() < slack,
                "{count}, not {expected}"
            );
        }
    }

    #[test]
    fn noise_differs_with_seed_position_and_token_alone() {
        let logits = vec![0.0; 1000];
        let at = |seed, len| {
            let sampling = Sampling {
                seed,
                ..Sampling::default()
            };
            draw(&sampling, &logits, &History::new(&vec![1; len]))
        };
        assert_eq!(at(1, 5), at(1, 5));
        assert_ne!(at(1, 5), at(2, 5));
        assert_ne!(at(1, 5), at(1, 6));
        // The very numbers, so that the specification cannot change unseen.
        assert_eq!([at(0, 0), at(1, 5), at(u64::MAX, 100_000)], GOLDEN);
    }

    const GOLDEN: [u32; 3] = [866, 488, 0];

    #[test]
    fn the_best_token_wins_at_temperature_zero_and_the_first_of_equals() {
        let history = History::new(&[]);
        assert_eq!(
            draw(&Sampling::greedy(), &[0.0, 3.0, -1.0, 3.0], &history),
            1
        );
        assert_eq!(draw(&Sampling::greedy(), &[-0.0, 0.0], &history), 0);
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.0, 3.0, 2.0, 1.0f32, 2.0];
        let seen = |sampling: Sampling| -> Vec<usize> {
            let counts = counts(&sampling, &logits, 3000);
            (0..5).filter(|i| counts[*i] > 0).collect()
        };
        let plain = Sampling {
            temperature: 3.0,
            ..Sampling::default()
        };
        assert_eq!(seen(plain.clone()), [0, 1, 2, 3, 4]);
        // Of two equal ones the first is kept.
        assert_eq!(
            seen(Sampling {
                top_k: 2,
                ..plain.clone()
            }),
            [1, 2]
        );
        assert_eq!(
            seen(Sampling {
                top_p: 0.0,
                ..plain.clone()
            }),
            [1]
        );
        // At temperature 3 the probabilities are 0.33, 0.24, 0.24, 0.17, 0.12, roughly less.
        assert_eq!(
            seen(Sampling {
                top_p: 0.5,
                ..plain.clone()
            }),
            [1, 2]
        );
        assert_eq!(
            seen(Sampling {
                min_p: 0.6,
                ..plain.clone()
            }),
            [1, 2, 4]
        );
        assert_eq!(
            seen(Sampling {
                top_k: 4,
                top_p: 0.7,
                ..plain
            }),
            [1, 2, 4]
        );
    }

    #[test]
    fn a_large_vocabulary_is_filtered_as_a_small_one() {
        // More tokens than are sorted at first, all but equal.
        let logits: Vec<f32> = (0..5000).map(|i| (i % 97) as f32 * 1e-3).collect();
        let sampling = Sampling {
            top_p: 0.5,
            ..Sampling::default()
        };
        let kept = filter(Isa::detect(), &sampling, &logits);
        let mut all: Vec<usize> = (0..5000).collect();
        all.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        assert!((2000..3000).contains(&kept.len()));
        assert_eq!(kept, all[..kept.len()]);
    }

    #[test]
    fn penalties_move_the_tokens_that_came() {
        let mut history = History::new(&[0]);
        history.push(1);
        history.push(1);
        let mut logits = vec![1.0, 1.0, -1.0, 1.0];
        let sampling = Sampling {
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.125,
            bias: BTreeMap::from([(3, 5.0), (999, 1.0)]),
            ..Sampling::default()
        };
        penalise(&sampling, &history, &mut logits);
        assert_eq!(logits, [0.5, 0.0, -1.0, 6.0]);
    }

    #[test]
    fn what_is_not_allowed_is_not_chosen() {
        let history = History::new(&[]);
        let pick = |allowed: &[u32]| {
            let logits = [5.0, 1.0, 2.0];
            sample(
                Isa::detect(),
                &Sampling::greedy(),
                &history,
                &logits,
                Some(allowed),
            )
        };
        assert_eq!(pick(&[0b110]), Ok(2));
        assert_eq!(pick(&[0b010]), Ok(1));
        assert_eq!(pick(&[]), Err(NoToken::NoneAllowed(0)));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let history = History::new(&[1, 2]);
        let result = sample(
            Isa::detect(),
            &Sampling::greedy(),
            &history,
            &[0.0, f32::NAN],
            None,
        );
        assert_eq!(result, Err(NoToken::NotFinite(2)));
    }

    #[test]
    fn logprobs_sum_to_one_and_are_ordered() {
        let (own, top) = logprobs(Isa::detect(), &[1.0, 3.0, 2.0, 3.0], 2, 3);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!(own, top[2].1);
        let (_, all) = logprobs(Isa::detect(), &[1.0, 3.0, 2.0, 3.0], 2, 10);
        let sum: f32 = all.iter().map(|t| t.1.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let bad = Sampling {
            temperature: -1.0,
            ..Sampling::default()
        };
        assert_eq!(bad.check().unwrap_err().parameter, "temperature");
        let bad = Sampling {
            top_p: f32::NAN,
            ..Sampling::default()
        };
        assert_eq!(bad.check().unwrap_err().parameter, "top_p");
        assert_eq!(Sampling::default().check(), Ok(()));
    }
}
