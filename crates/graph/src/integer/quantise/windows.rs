//! Convolution and pooling: sums, products and maxima over sliding windows.

use super::super::QuantiseError;
use super::super::view::NOTHING;
use super::build::{NARROW, Value};
use super::lower::Lowering;

type Lowered = Result<Value, QuantiseError>;

/// A sliding window with its padding resolved.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<usize>,
    padded: bool,
}

/// Reads canonical attributes.
struct Attributes {
    bytes: Vec<u8>,
    at: usize,
}

impl Attributes {
    fn u8(&mut self) -> u8 {
        self.at += 1;
        self.bytes.get(self.at - 1).copied().unwrap_or(0)
    }

    fn size(&mut self) -> usize {
        let mut word = [0; 8];
        word.iter_mut().for_each(|b| *b = self.u8());
        u64::from_le_bytes(word) as usize
    }

    fn sizes(&mut self) -> Vec<usize> {
        (0..self.size()).map(|_| self.size()).collect()
    }

    /// The window, on inputs of these spatial sizes.
    fn window(&mut self, input: &[usize]) -> Window {
        let (kernel, strides, dilations) = (self.sizes(), self.sizes(), self.sizes());
        let (before, padded) = if self.u8() == 0 {
            let (before, after) = (self.sizes(), self.sizes());
            let padded = before.iter().chain(&after).any(|&p| p > 0);
            (before, padded)
        } else {
            let upper = self.u8() != 0;
            let total: Vec<usize> = (0..input.len())
                .map(|i| {
                    let steps = input[i].div_ceil(strides[i].max(1)).saturating_sub(1);
                    (steps * strides[i] + (kernel[i] - 1) * dilations[i] + 1)
                        .saturating_sub(input[i])
                })
                .collect();
            let padded = total.iter().any(|&t| t > 0);
            let before = total.iter().map(|t| if upper { t / 2 } else { t - t / 2 });
            (before.collect(), padded)
        };
        Window {
            kernel,
            strides,
            dilations,
            before,
            padded,
        }
    }
}

impl Window {
    /// The places under every window, for all outputs, row-major; spatial axes only.
    fn places(&self, input: &[usize], output: &[usize]) -> Vec<Vec<u32>> {
        let windows: usize = output.iter().product();
        let taps: usize = self.kernel.iter().product();
        (0..windows)
            .map(|o| (0..taps).map(|t| self.place(o, t, input, output)).collect())
            .collect()
    }

    fn place(&self, mut output: usize, mut tap: usize, input: &[usize], sizes: &[usize]) -> u32 {
        let (mut flat, mut stride) = (0, 1);
        for axis in (0..input.len()).rev() {
            let o = output % sizes[axis];
            let j = tap % self.kernel[axis];
            output /= sizes[axis];
            tap /= self.kernel[axis];
            let at =
                (o * self.strides[axis] + j * self.dilations[axis]).checked_sub(self.before[axis]);
            match at {
                Some(at) if at < input[axis] => flat += at * stride,
                _ => return NOTHING,
            }
            stride *= input[axis];
        }
        flat as u32
    }
}

impl Lowering<'_> {
    fn read_attributes(&self) -> Attributes {
        Attributes {
            bytes: self.attributes(),
            at: 0,
        }
    }

    pub(super) fn convolution(&mut self) -> Lowered {
        let mut attributes = self.read_attributes();
        let groups = attributes.size();
        let value = self.value(0)?;
        let filters = self.constant(1)?.clone();
        let (input, result) = (value.shape().to_vec(), self.shape());
        let window = attributes.window(&input[2..]);
        let (batch, channels, outputs) = (input[0], input[1], result[1]);
        let group = channels / groups;
        let spatial: usize = input[2..].iter().product();
        let places = window.places(&input[2..], &result[2..]);
        // Axes of the product: batch, output channel, output places; input channel, taps.
        let rank = result.len();
        let mut axes: Vec<usize> = (0..rank + 1 + window.kernel.len()).collect();
        let mut sizes = [&result[..], &[group], &window.kernel[..]].concat();
        let output_channels = if groups > 1 { outputs } else { 1 };
        if groups == 1 {
            axes.remove(1);
            sizes.remove(1);
        }
        let mut map = Vec::with_capacity(sizes.iter().product());
        for n in 0..batch {
            for o in 0..output_channels {
                for place in &places {
                    for c in 0..group {
                        let channel = o / (outputs / groups) * group + c;
                        let start = (n * channels + channel) * spatial;
                        let at = |&p: &u32| if p == NOTHING { p } else { p + start as u32 };
                        map.extend(place.iter().map(at));
                    }
                }
            }
        }
        let left = self.shown(&value, NARROW, &axes, &sizes, &map)?;
        let weight_axes: Vec<usize> = std::iter::once(1)
            .chain(rank..rank + 1 + window.kernel.len())
            .collect();
        let right = self.weights(
            self.floats(&filters)?,
            filters.shape(),
            &weight_axes,
            NARROW,
        );
        let contracted = [&[group], &window.kernel[..]].concat();
        let mut product = self.product(result.clone(), contracted, &left, &right);
        if self.operand(2).is_some() {
            let bias = self.constant(2)?.clone();
            let mut shape = vec![outputs];
            shape.resize(rank - 1, 1);
            product = self.add_constant(&product, &shape, self.floats(&bias)?)?;
        }
        Ok(self.result(product))
    }

    /// For every output of a pooling operator, and every tap, the place in the input.
    fn pooled(&self, value: &Value, window: &Window) -> (Vec<u32>, usize) {
        let (input, result) = (value.shape(), self.shape());
        let spatial: usize = input[2..].iter().product();
        let places = window.places(&input[2..], &result[2..]);
        let mut map = Vec::new();
        for plane in 0..input[0] * input[1] {
            let at = |p: u32| {
                if p == NOTHING {
                    p
                } else {
                    p + (plane * spatial) as u32
                }
            };
            map.extend(places.iter().flatten().map(|&p| at(p)));
        }
        (map, window.kernel.iter().product())
    }

    pub(super) fn max_pool(&mut self) -> Lowered {
        if self.outputs.len() > 1 {
            return Err(self.unsupported("indices of the maxima have no integer form"));
        }
        let value = self.value(0)?;
        let mut attributes = self.read_attributes();
        attributes.u8();
        let window = attributes.window(&value.shape()[2..]);
        let (mut map, taps) = self.pooled(&value, &window);
        // A place in the padding repeats another place of its window: that changes no maximum.
        for row in map.chunks_mut(taps) {
            let Some(inside) = row.iter().copied().find(|&p| p != NOTHING) else {
                return Err(self.unsupported("a window lies in the padding alone"));
            };
            row.iter_mut()
                .filter(|p| **p == NOTHING)
                .for_each(|p| *p = inside);
        }
        let width = value.width;
        let lazy = self.builder.round(&value, width)?;
        let maximum = self.maximum(&lazy, &map, &self.shape(), taps)?;
        Ok(self.result(maximum))
    }

    pub(super) fn average_pool(&mut self) -> Lowered {
        let value = self.value(0)?;
        let mut attributes = self.read_attributes();
        let (include, ceil) = (attributes.u8() != 0, attributes.u8() != 0);
        let window = attributes.window(&value.shape()[2..]);
        let (map, taps) = self.pooled(&value, &window);
        let cut = map.contains(&NOTHING);
        if cut && (!include || ceil || !window.padded) {
            return Err(self.unsupported("its windows average different numbers of values"));
        }
        let mut sum = self.sum_of(&value, &map, &self.shape(), taps)?;
        sum.scale /= taps as f64;
        Ok(self.result(sum))
    }
}
