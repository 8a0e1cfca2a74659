//! Rotation of queries and keys by position.

use lemma_kernels::math;

use crate::config::{Rope, Scaling};

/// Frequencies of one rotation, from which sines and cosines of any position follow.
#[derive(Debug, Clone)]
pub(crate) struct Frequencies {
    /// Radians for each position, one for each pair.
    frequencies: Vec<f32>,
    /// Factor of sine and cosine.
    attention: f32,
}

impl Frequencies {
    /// Chapter 3 of the numeric specification for language models.
    pub(crate) fn new(rope: &Rope, rotary_dim: usize) -> Frequencies {
        let pairs = rotary_dim / 2;
        let plain = |i: usize| {
            let exponent = (2 * i) as f32 / rotary_dim as f32;
            1.0 / math::pow(rope.base, exponent)
        };
        let mut attention = 1.0;
        let frequencies = (0..pairs).map(plain);
        let frequencies = match &rope.scaling {
            Scaling::None => frequencies.collect(),
            Scaling::Linear(factor) => frequencies.map(|f| f / factor).collect(),
            Scaling::Factors {
                factors,
                attention: a,
            } => {
                attention = *a;
                frequencies
                    .zip(factors)
                    .map(|(f, factor)| f / factor)
                    .collect()
            }
            Scaling::Yarn {
                factor,
                fast,
                slow,
                original,
                attention: a,
                truncate,
            } => {
                attention = *a;
                let pair = |turns: f32| {
                    rotary_dim as f32 * math::log(original / (turns * TURN))
                        / (2.0 * math::log(rope.base))
                };
                let (low, high) = match truncate {
                    true => (pair(*fast).floor(), pair(*slow).ceil()),
                    false => (pair(*fast), pair(*slow)),
                };
                let low = low.max(0.0);
                let high = high.min(rotary_dim as f32 - 1.0);
                let width = if low == high { 0.001 } else { high - low };
                frequencies
                    .enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f32 - low) / width).clamp(0.0, 1.0);
                        let kept = 1.0 - ramp;
                        (f / factor) * (1.0 - kept) + f * kept
                    })
                    .collect()
            }
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => frequencies
                .map(|f| llama3(f, *factor, *low, *high, *original))
                .collect(),
        };
        Frequencies {
            frequencies,
            attention,
        }
    }

    /// Number of pairs.
    pub(crate) fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Appends cosines to one list and sines to the other.
    pub(crate) fn at(&self, position: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        // Positions are below 2²⁴, so this is exact.
        let position = position as f32;
        for frequency in &self.frequencies {
            let angle = position * frequency;
            cos.push(math::cos(angle) * self.attention);
            sin.push(math::sin(angle) * self.attention);
        }
    }
}

const TURN: f32 = 2.0 * std::f32::consts::PI;

fn llama3(f: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = TURN / f;
    if wavelength < original / high {
        f
    } else if wavelength > original / low {
        f / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * (f / factor) + smooth * f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_geometrically_and_stretch_where_they_are_low() {
        let rope = |scaling| Rope {
            base: 500000.0,
            scaling,
        };
        let plain = Frequencies::new(&rope(Scaling::None), 64);
        assert_eq!(plain.frequencies[0], 1.0);
        let ratio = plain.frequencies[8] / plain.frequencies[16];
        assert!((ratio - 500000f32.powf(0.25)).abs() < 1e-3);
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
        let scaled = Frequencies::new(&rope(scaling), 64);
        assert_eq!(scaled.frequencies[..10], plain.frequencies[..10]);
        assert_eq!(scaled.frequencies[31], plain.frequencies[31] / 8.0);
        let between = 17;
        assert!(scaled.frequencies[between] < plain.frequencies[between]);
        assert!(scaled.frequencies[between] > plain.frequencies[between] / 8.0);
    }

    #[test]
    fn the_first_position_is_not_turned() {
        let rope = Rope {
            base: 10000.0,
            scaling: Scaling::None,
        };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        Frequencies::new(&rope, 32).at(0, &mut cos, &mut sin);
        assert_eq!((cos, sin), (vec![1.0; 16], vec![0.0; 16]));
    }
}
