//! Reductions, softmax and normalisation.

use std::rc::Rc;

use super::super::QuantiseError;
use super::super::view::NOTHING;
use super::build::{Function, Lazy, LazyTerm, PRECISE, Value, Width, size};
use super::lower::Lowering;

type Lowered = Result<Value, QuantiseError>;

/// The range of the scores of a softmax.
const SCORES: Width = Width(511);

/// The range of its exponentials.
const EXPONENTIALS: Width = Width(4095);

/// For each index of `kept` axes (with the reduced ones at size 1), and each index of the reduced
/// ones, the place in the tensor.
pub(super) fn rows(shape: &[usize], axes: &[usize]) -> Vec<u32> {
    let reduced = |a: &usize| axes.contains(a);
    let order: Vec<usize> = (0..shape.len())
        .filter(|a| !reduced(a))
        .chain(axes.iter().copied())
        .collect();
    order.iter().fold(vec![0u32], |map, &axis| {
        let stride: usize = shape[axis + 1..].iter().product();
        map.iter()
            .flat_map(|m| (0..shape[axis]).map(move |i| m + (i * stride) as u32))
            .collect()
    })
}

impl Lowering<'_> {
    /// Sums over `taps` places for each index of `shape`.
    pub(super) fn sum_of(
        &mut self,
        value: &Value,
        map: &[u32],
        shape: &[usize],
        taps: usize,
    ) -> Result<Lazy, QuantiseError> {
        let lazy = self.movable(value)?;
        let sum = lazy.moved(map, shape.to_vec(), &[taps]);
        if self.builder.expression(&sum)?.is_some() {
            return Ok(sum);
        }
        // It reads something repeatedly: rounded into a tensor of its own, it does not.
        let expression = self.builder.sum(&lazy)?;
        let label = value.label.clone();
        let own = self
            .builder
            .round_sum(expression, lazy.scale, None, self.wide, None, &label)?;
        Ok(own.moved(map, shape.to_vec(), &[taps]))
    }

    fn reduction(&self) -> Result<Vec<usize>, QuantiseError> {
        let bytes = self.attributes();
        let (words, _) = bytes.as_chunks::<8>();
        let count = words.first().map_or(0, |w| u64::from_le_bytes(*w) as usize);
        let axes = words.iter().skip(1).take(count);
        Ok(axes.map(|w| u64::from_le_bytes(*w) as usize).collect())
    }

    pub(super) fn reduce_sum(&mut self, mean: bool) -> Lowered {
        let axes = self.reduction()?;
        let value = self.value(0)?;
        let shape = value.shape().to_vec();
        let count: usize = axes.iter().map(|&a| shape[a]).product();
        let mut sum = match self.contract(&value, &axes) {
            Some(sum) => sum,
            None => self.sum_of(&value, &rows(&shape, &axes), &self.shape(), count)?,
        };
        if mean {
            sum.scale /= count as f64;
        }
        Ok(self.result(sum))
    }

    /// The sum of a product over axes on which both operands depend is a product with those axes
    /// contracted.
    fn contract(&self, value: &Value, axes: &[usize]) -> Option<Lazy> {
        let [
            LazyTerm::Product {
                left,
                right,
                contracted,
                ..
            },
        ] = &value.base.terms[..]
        else {
            return None;
        };
        let both = axes.iter().all(|&a| left.covers(a) && right.covers(a));
        if value.function.is_some() || !contracted.is_empty() || !both {
            return None;
        }
        let shape = value.shape();
        let result = self.shape();
        let keep = result.len() == shape.len();
        // Axes that are kept are renumbered; those that are reduced come after the result's.
        let mut place = Vec::new();
        let (mut next, mut last) = (0, result.len());
        for axis in 0..shape.len() {
            if axes.contains(&axis) {
                place.push(last);
                last += 1;
                next += usize::from(keep);
            } else {
                place.push(next);
                next += 1;
            }
        }
        let mut lazy = (*value.base).clone();
        if let LazyTerm::Product {
            left,
            right,
            contracted,
            ..
        } = &mut lazy.terms[0]
        {
            for factor in left.factors.iter_mut().chain(&mut right.factors) {
                factor.axes.iter_mut().for_each(|a| *a = place[*a]);
            }
            *contracted = axes.iter().map(|&a| shape[a]).collect();
        }
        lazy.shape = result;
        Some(lazy)
    }

    /// The largest of `taps` elements of a tensor for each index of `shape`: a tournament in
    /// which `max(a, b) = b + relu(a − b)`.
    pub(super) fn maximum(
        &mut self,
        lazy: &Lazy,
        map: &[u32],
        shape: &[usize],
        mut taps: usize,
    ) -> Result<Lazy, QuantiseError> {
        let (low, high) = self
            .builder
            .range(lazy)
            .ok_or_else(|| self.unsupported("its operand cannot be rounded"))?;
        let outputs = size(shape);
        let (mut current, mut map) = (lazy.clone(), map.to_vec());
        while taps > 1 {
            let half = taps.div_ceil(2);
            let pick = |offset: usize| -> Vec<u32> {
                (0..outputs * half)
                    .map(|i| map[i / half * taps + (i % half + offset).min(taps - 1)])
                    .collect()
            };
            let level = [shape, &[half]].concat();
            let first = current.moved(&pick(0), level.clone(), &[]);
            let second = current.moved(&pick(half), level, &[]);
            let mut difference = first;
            difference.terms.extend(second.times(-1).terms);
            let label = self.label.clone();
            let excess = self.builder.exact(&difference, |v| v.max(0), &label)?;
            let mut sum = second;
            sum.terms.extend(excess.terms);
            current =
                self.builder
                    .exact(&sum, |v| v.clamp(i64::from(low), i64::from(high)), &label)?;
            taps = half;
            map = (0..(outputs * half) as u32).collect();
        }
        Ok(current.moved(&map, shape.to_vec(), &[]))
    }

    pub(super) fn reduce_max(&mut self) -> Lowered {
        let axes = self.reduction()?;
        let value = self.value(0)?;
        let shape = value.shape().to_vec();
        let count: usize = axes.iter().map(|&a| shape[a]).product();
        let width = value.width;
        let lazy = self.builder.round(&value, width)?;
        let maximum = self.maximum(&lazy, &rows(&shape, &axes), &self.shape(), count)?;
        Ok(self.result(maximum))
    }

    /// The places of each row along some axes: [`NOTHING`] where the value is masked, and with an
    /// unmasked place of the row there instead, which changes no maximum.
    fn masked_rows(
        &self,
        value: &Value,
        axes: &[usize],
        count: usize,
    ) -> Result<(Vec<u32>, Vec<u32>), QuantiseError> {
        let mut places = rows(value.shape(), axes);
        let mut filled = places.clone();
        let Some(mask) = &value.mask else {
            return Ok((places, filled));
        };
        for (row, filled) in places.chunks_mut(count).zip(filled.chunks_mut(count)) {
            let Some(open) = row.iter().copied().find(|&p| !mask[p as usize]) else {
                return Err(self.unsupported("a row is masked as a whole"));
            };
            for (place, filled) in row.iter_mut().zip(filled) {
                if mask[*place as usize] {
                    (*place, *filled) = (NOTHING, open);
                }
            }
        }
        Ok((places, filled))
    }

    /// `e = exp(x − max x)` and `e · (1 ÷ Σ e)`.
    pub(super) fn softmax(&mut self) -> Lowered {
        let bytes = self.attributes();
        let (words, flags) = bytes.as_chunks::<8>();
        let axis = words.first().map_or(0, |w| u64::from_le_bytes(*w) as usize);
        let to_end = flags.first().is_some_and(|&f| f != 0);
        let value = self.value(0)?;
        let shape = value.shape().to_vec();
        let axes: Vec<usize> = if to_end {
            (axis..shape.len()).collect()
        } else {
            vec![axis]
        };
        let count: usize = axes.iter().map(|&a| shape[a]).product();
        let mut reduced = shape.clone();
        axes.iter().for_each(|&a| reduced[a] = 1);
        let (places, unmasked) = self.masked_rows(&value, &axes, count)?;
        let scores = self.builder.round(&value, SCORES)?;
        let maximum = self.maximum(&scores, &unmasked, &reduced, count)?;
        let spread = super::products::broadcast(&reduced, &shape);
        let mut difference = (*scores).clone();
        difference
            .terms
            .extend(maximum.moved(&spread, shape.clone(), &[]).times(-1).terms);
        let exp: Function = Rc::new(|x| x.iter().map(|v| v.min(0.0).exp()).collect());
        let label = self.label.clone();
        let expression = self.builder.sum(&difference)?;
        let given = Some(1.0 / f64::from(EXPONENTIALS.0));
        let exponentials = self.builder.round_sum(
            expression,
            scores.scale,
            Some(&exp),
            EXPONENTIALS,
            given,
            &label,
        )?;
        let whole = exponentials.moved(&places, reduced.clone(), &[count]);
        let invert: Function = Rc::new(|x| {
            x.iter()
                .map(|v| if *v > 0.0 { 1.0 / v } else { 1.0 })
                .collect()
        });
        let expression = self.builder.sum(&whole)?;
        // The sum is at least 1, that of the largest element.
        let given = Some(1.0 / f64::from(PRECISE.0));
        let inverse = self.builder.round_sum(
            expression,
            whole.scale,
            Some(&invert),
            PRECISE,
            given,
            &label,
        )?;
        let exponentials = Value::new(exponentials, &label, EXPONENTIALS);
        let inverse = Value::new(inverse, &label, PRECISE);
        let every: Vec<usize> = (0..shape.len()).collect();
        let kept = |i: usize| match &value.mask {
            Some(mask) if mask[i] => NOTHING,
            _ => i as u32,
        };
        let map: Vec<u32> = (0..size(&shape)).map(kept).collect();
        let left = self.shown(&exponentials, EXPONENTIALS, &every, &shape, &map)?;
        let right = self.over(&inverse, PRECISE, &shape)?;
        Ok(self.result(self.product(shape, Vec::new(), &left, &right)))
    }

    /// Layer or root-mean-square normalisation over the axes from one on.
    pub(super) fn normalise(&mut self, centred: bool) -> Lowered {
        let bytes = self.attributes();
        let (words, rest) = bytes.as_chunks::<8>();
        let axis = words.first().map_or(0, |w| u64::from_le_bytes(*w) as usize);
        let epsilon = rest
            .first_chunk::<4>()
            .map_or(0.0, |b| f64::from(f32::from_bits(u32::from_le_bytes(*b))));
        let value = self.value(0)?;
        let shape = value.shape().to_vec();
        let axes: Vec<usize> = (axis..shape.len()).collect();
        let count: usize = axes.iter().map(|&a| shape[a]).product();
        let mut reduced = shape.clone();
        axes.iter().for_each(|&a| reduced[a] = 1);
        let centred = match centred {
            true => self.centre(&value, &axes, &reduced, count)?,
            false => Value {
                width: self.wide,
                ..value
            },
        };
        let inverse = self.inverse_deviation(&centred, &axes, &reduced, count, epsilon)?;
        let left = self.over(&centred, self.wide, &shape)?;
        let right = self.over(&inverse, PRECISE, &shape)?;
        let normal = self.product(shape.clone(), Vec::new(), &left, &right);
        let mut normal = Value {
            width: self.wide,
            ..self.result(normal)
        };
        let scale = self.constant(1)?.clone();
        let constants = self.floats(&scale)?.to_vec();
        if constants.iter().any(|&v| v != 1.0) {
            normal = self.times_constant(&normal, scale.shape(), &constants)?;
        }
        let mut lazy = (*normal.base).clone();
        if self.operand(2).is_some() {
            let bias = self.constant(2)?.clone();
            lazy = self.add_constant(&lazy, bias.shape(), self.floats(&bias)?)?;
        }
        Ok(self.result(lazy))
    }

    /// The value less its mean over the axes.
    fn centre(
        &mut self,
        value: &Value,
        axes: &[usize],
        reduced: &[usize],
        count: usize,
    ) -> Lowered {
        let shape = value.shape().to_vec();
        let mut mean = self.sum_of(value, &rows(&shape, axes), reduced, count)?;
        mean.scale /= count as f64;
        let mean = Value::new(mean, &self.label, self.wide);
        let wide = self.wide;
        let mean = self.builder.round(&mean, wide)?;
        let spread = super::products::broadcast(reduced, &shape);
        let own = self.movable(value)?;
        let centred = self
            .builder
            .add(&own, &mean.moved(&spread, shape, &[]).times(-1));
        Ok(Value {
            width: self.wide,
            ..self.result(centred)
        })
    }

    /// 1 ÷ √(mean square + ε) of each row.
    fn inverse_deviation(
        &mut self,
        centred: &Value,
        axes: &[usize],
        reduced: &[usize],
        count: usize,
        epsilon: f64,
    ) -> Lowered {
        let shape = centred.shape().to_vec();
        let operand = self.over(centred, self.wide, &shape)?;
        let squares = self.product(shape.clone(), Vec::new(), &operand, &operand);
        let mut lazy = squares;
        if let LazyTerm::Product {
            left,
            right,
            contracted,
            ..
        } = &mut lazy.terms[0]
        {
            for factor in left.factors.iter_mut().chain(&mut right.factors) {
                for a in &mut factor.axes {
                    if let Some(at) = axes.iter().position(|x| x == a) {
                        *a = shape.len() + at;
                    }
                }
            }
            *contracted = axes.iter().map(|&a| shape[a]).collect();
        }
        lazy.shape = reduced.to_vec();
        lazy.scale /= count as f64;
        let mut value = Value::new(lazy, &self.label, PRECISE);
        value.function = Some(Rc::new(move |x| {
            x.iter()
                .map(|v| 1.0 / (v.max(0.0) + epsilon).sqrt())
                .collect()
        }));
        Ok(value)
    }

    /// `x · a + b` for each channel.
    pub(super) fn batch_norm(&mut self) -> Lowered {
        let bytes = self.attributes();
        let epsilon = bytes
            .first_chunk::<4>()
            .map_or(0.0, |b| f64::from(f32::from_bits(u32::from_le_bytes(*b))));
        let value = self.value(0)?;
        let parameter = |i: usize| -> Result<Vec<f32>, QuantiseError> {
            Ok(self.floats(self.constant(i)?)?.to_vec())
        };
        let (scale, bias, mean, variance) =
            (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let a: Vec<f32> = scale
            .iter()
            .zip(&variance)
            .map(|(s, v)| (f64::from(*s) / (f64::from(*v) + epsilon).sqrt()) as f32)
            .collect();
        let b: Vec<f32> = (0..a.len()).map(|c| bias[c] - mean[c] * a[c]).collect();
        let mut shape = vec![a.len()];
        shape.resize(value.shape().len() - 1, 1);
        let product = self.times_constant(&value, &shape, &a)?;
        let lazy = self.add_constant(&product.base.clone(), &shape, &b)?;
        Ok(self.result(lazy))
    }
}
