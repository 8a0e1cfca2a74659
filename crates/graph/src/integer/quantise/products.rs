//! Sums, products and matrix products.

use std::rc::Rc;

use crate::tensor::Tensor;

use super::super::view::{NOTHING, factorise, is_identity};
use super::super::{Factor, QuantiseError, Relation, Source, View};
use super::build::{Lazy, LazyTerm, NARROW, PRECISE, Value, Width, identity, size};
use super::lower::{Known, Lowering};

type Lowered = Result<Value, QuantiseError>;

/// Where each element of `shape` comes from in a tensor that is broadcast to it.
pub(super) fn broadcast(from: &[usize], shape: &[usize]) -> Vec<u32> {
    let skip = shape.len() - from.len();
    let mut map = vec![0u32];
    let mut strides = vec![0usize; shape.len()];
    for axis in 0..from.len() {
        if from[axis] > 1 {
            strides[axis + skip] = from[axis + 1..].iter().product();
        }
    }
    for (axis, &n) in shape.iter().enumerate() {
        map = map
            .iter()
            .flat_map(|m| (0..n).map(move |i| (m, i)))
            .map(|(m, i)| m + (i * strides[axis]) as u32)
            .collect();
    }
    map
}

/// Real constants rounded so that the largest becomes `top`.
fn rounded(values: &[f32], Width(top): Width) -> (Vec<i32>, f64) {
    let largest = values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    let scale = if largest > 0.0 {
        largest / f64::from(top)
    } else {
        1.0
    };
    let values = values
        .iter()
        .map(|&v| (f64::from(v) / scale).round_ties_even() as i32)
        .collect();
    (values, scale)
}

/// An operand of a product: a tensor and the axes of the product that it depends on.
pub(super) struct Operand {
    pub(super) source: Source,
    pub(super) factors: Vec<Factor>,
    pub(super) scale: f64,
}

impl Operand {
    fn view(&self) -> View {
        View {
            source: self.source,
            factors: self.factors.clone(),
        }
    }
}

/// Removes an axis of size 1 from a view.
fn drop_axis(view: &mut View, axis: usize, axes: &[usize], dims: &[usize]) {
    for factor in &mut view.factors {
        if factor.axes.contains(&axis) {
            if factor.relation == Relation::Identity {
                factor.relation = Relation::Pairs(vec![(0, 0)]);
            }
            factor.axes.retain(|&a| a != axis);
            if let ([one], [dim], Relation::Pairs(pairs)) =
                (&factor.axes[..], &factor.dims[..], &factor.relation)
                && axes[*one] == dims[*dim]
                && is_identity(pairs, axes[*one])
            {
                factor.relation = Relation::Identity;
            }
        }
        factor
            .axes
            .iter_mut()
            .filter(|a| **a > axis)
            .for_each(|a| *a -= 1);
    }
}

impl Lowering<'_> {
    /// Rounds a value and shows it over some axes of a product, of these sizes, by a map from
    /// their indices to its elements.
    pub(super) fn shown(
        &mut self,
        value: &Value,
        width: Width,
        axes: &[usize],
        sizes: &[usize],
        map: &[u32],
    ) -> Result<Operand, QuantiseError> {
        let mut lazy = self.builder.round(value, width)?;
        if lazy.single().is_none() {
            let expression = self.builder.sum(&lazy)?;
            lazy = Rc::new(self.builder.round_sum(
                expression,
                lazy.scale,
                None,
                width,
                None,
                &value.label,
            )?);
        }
        let Some((source, own)) = lazy.single() else {
            return Err(self.unsupported("its operand cannot be rounded"));
        };
        let map: Vec<u32> = map
            .iter()
            .map(|&m| {
                if m == NOTHING {
                    NOTHING
                } else {
                    own[m as usize]
                }
            })
            .collect();
        let dims = self.builder.skeleton.source(source).shape;
        let Some(mut factors) = factorise(&map, sizes, &dims, &vec![false; sizes.len()]) else {
            return Err(self.unsupported("its operand cannot be written as a view"));
        };
        for axis in factors.iter_mut().flat_map(|f| &mut f.axes) {
            *axis = axes[*axis];
        }
        Ok(Operand {
            source,
            factors,
            scale: lazy.scale,
        })
    }

    /// Constants as an operand, each dimension on one axis.
    pub(super) fn weights(
        &mut self,
        values: &[f32],
        shape: &[usize],
        axes: &[usize],
        width: Width,
    ) -> Operand {
        let (values, scale) = rounded(values, width);
        let source = self.builder.constant(shape, values, Some(width));
        let factors = axes
            .iter()
            .enumerate()
            .map(|(dim, &axis)| Factor {
                axes: vec![axis],
                dims: vec![dim],
                relation: Relation::Identity,
            })
            .collect();
        Operand {
            source,
            factors,
            scale,
        }
    }

    pub(super) fn product(
        &self,
        shape: Vec<usize>,
        contracted: Vec<usize>,
        left: &Operand,
        right: &Operand,
    ) -> Lazy {
        let (mut left_view, mut right_view) = (left.view(), right.view());
        // Summing over an axis of one index is not summing.
        let mut axes = [&shape[..], &contracted].concat();
        for axis in (shape.len()..axes.len())
            .rev()
            .filter(|&a| axes[a] == 1)
            .collect::<Vec<_>>()
        {
            for view in [&mut left_view, &mut right_view] {
                let dims = self.builder.skeleton.source(view.source).shape;
                drop_axis(view, axis, &axes, &dims);
            }
            axes.remove(axis);
        }
        Lazy {
            terms: vec![LazyTerm::Product {
                coefficient: 1,
                left: left_view,
                right: right_view,
                contracted: axes.split_off(shape.len()),
            }],
            shape,
            scale: left.scale * right.scale,
        }
    }

    /// Adds real constants that are broadcast to the shape.
    pub(super) fn add_constant(
        &mut self,
        lazy: &Lazy,
        from: &[usize],
        values: &[f32],
    ) -> Result<Lazy, QuantiseError> {
        if values.iter().all(|&v| v == 0.0) {
            return Ok(lazy.clone());
        }
        // A coarse scale is refined until the constants are met to a part in 2⁹.
        let largest = values.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
        let wanted = (9.0 - (largest / lazy.scale).log2()).ceil().clamp(0.0, 9.0) as i32;
        let extra = if wanted > 0 {
            wanted.min(self.builder.room(lazy)?).max(0)
        } else {
            0
        };
        let mut sum = lazy.times(1 << extra);
        sum.scale /= f64::from(1u32 << extra);
        let mut integers = Vec::with_capacity(values.len());
        for &v in values {
            let v = (f64::from(v) / sum.scale).round_ties_even();
            if v.is_nan() || v.abs() >= f64::from(1 << 29) {
                return Err(self.unsupported(
                    "it adds a constant that is far larger than its operand, such as a mask of minus infinity",
                ));
            }
            integers.push(v as i32);
        }
        let source = self.builder.constant(from, integers, None);
        sum.terms.push(LazyTerm::Linear {
            coefficient: 1,
            source,
            map: Rc::new(broadcast(from, &sum.shape)),
            summed: Vec::new(),
        });
        Ok(sum)
    }

    /// A value broadcast to the shape of the result.
    fn spread(&mut self, value: &Value) -> Result<Rc<Lazy>, QuantiseError> {
        let shape = self.shape();
        if value.shape() == shape {
            return match value.function {
                None => Ok(value.base.clone()),
                Some(_) => {
                    let width = value.width;
                    self.builder.round(value, width)
                }
            };
        }
        let lazy = self.movable(value)?;
        let map = broadcast(&lazy.shape, &shape);
        Ok(Rc::new(lazy.moved(&map, shape, &[])))
    }

    pub(super) fn add(&mut self, sign: i32) -> Lowered {
        let (a, b) = (self.operand(0).cloned(), self.operand(1).cloned());
        match (a, b) {
            (Some(Known::Value(a)), Some(Known::Value(b))) => {
                if let Some(fused) = self.fuse(&a, &b, move |x, y| x + f64::from(sign) * y) {
                    return Ok(fused);
                }
                let (left, right) = (self.spread(&a)?, self.spread(&b)?);
                let mut sum = self.builder.add(&left, &right.times(i64::from(sign)));
                if self.builder.room(&sum)? < 0 {
                    // The scales are too far apart for one sum: the operands are rounded first.
                    let wide = self.wide;
                    let [left, right] = [(a, left), (b, right)].map(|(value, lazy)| Value {
                        base: lazy,
                        function: None,
                        rounded: std::rc::Rc::default(),
                        ..value
                    });
                    let (left, right) = (
                        self.builder.round(&left, wide)?,
                        self.builder.round(&right, wide)?,
                    );
                    sum = self.builder.add(&left, &right.times(i64::from(sign)));
                }
                Ok(self.result(sum))
            }
            (Some(Known::Value(a)), Some(Known::Constant(b))) => {
                self.add_fixed(&a, &b, f64::from(sign))
            }
            (Some(Known::Constant(a)), Some(Known::Value(b))) => {
                let b = self.scaled(&b, f64::from(sign));
                self.add_fixed(&b, &a, 1.0)
            }
            _ => Err(self.unsupported("both of its operands are constant")),
        }
    }

    fn add_fixed(&mut self, value: &Value, tensor: &Tensor, sign: f64) -> Lowered {
        let constants: Vec<f32> = self
            .floats(tensor)?
            .iter()
            .map(|v| v * sign as f32)
            .collect();
        if let (Some(_), Some(c)) = (&value.function, uniform(&constants)) {
            return Ok(self.compose(value, Rc::new(move |x| x.iter().map(|v| v + c).collect())));
        }
        let lazy = self.spread(value)?;
        let lazy = self.add_constant(&lazy, tensor.shape(), &constants)?;
        Ok(self.result(lazy))
    }

    /// A function of two functions of the same sum is a function of that sum.
    fn fuse(&self, a: &Value, b: &Value, f: impl Fn(f64, f64) -> f64 + 'static) -> Option<Value> {
        if !Rc::ptr_eq(&a.base, &b.base) || (a.function.is_none() && b.function.is_none()) {
            return None;
        }
        let plain = Value {
            function: None,
            ..a.clone()
        };
        let (a, b) = (a.function.clone(), b.function.clone());
        Some(self.compose(
            &plain,
            Rc::new(move |x| {
                let apply = |g: &Option<super::build::Function>| {
                    g.as_ref().map_or_else(|| x.to_vec(), |g| g(x))
                };
                apply(&a)
                    .into_iter()
                    .zip(apply(&b))
                    .map(|(x, y)| f(x, y))
                    .collect()
            }),
        ))
    }

    pub(super) fn multiply(&mut self, divide: bool) -> Lowered {
        let (a, b) = (self.operand(0).cloned(), self.operand(1).cloned());
        match (a, b) {
            (Some(Known::Value(a)), Some(Known::Value(b))) => {
                let f = move |x: f64, y: f64| if divide { x / y } else { x * y };
                if let Some(fused) = self.fuse(&a, &b, f) {
                    return Ok(fused);
                }
                let b = match divide {
                    true => self.reciprocal(&b),
                    false => b,
                };
                self.elementwise(&a, &b)
            }
            (Some(Known::Value(a)), Some(Known::Constant(b))) => {
                let b: Vec<f32> = (self.floats(&b)?.iter())
                    .map(|&v| if divide { 1.0 / v } else { v })
                    .collect::<Vec<_>>();
                let shape = match self.operand(1) {
                    Some(Known::Constant(t)) => t.shape().to_vec(),
                    _ => Vec::new(),
                };
                self.times_constant(&a, &shape, &b)
            }
            (Some(Known::Constant(a)), Some(Known::Value(b))) => {
                let b = if divide { self.reciprocal(&b) } else { b };
                let constants = self.floats(&a)?.to_vec();
                self.times_constant(&b, a.shape(), &constants)
            }
            _ => Err(self.unsupported("both of its operands are constant")),
        }
    }

    fn reciprocal(&self, value: &Value) -> Value {
        let mut value = self.compose(value, Rc::new(|x| x.iter().map(|v| 1.0 / v).collect()));
        value.width = PRECISE;
        value
    }

    pub(super) fn times_constant(
        &mut self,
        value: &Value,
        shape: &[usize],
        constants: &[f32],
    ) -> Lowered {
        if constants.iter().any(|v| !v.is_finite()) {
            return Err(self.unsupported("it multiplies by something that is not finite"));
        }
        if let Some(c) = uniform(constants)
            && c != 0.0
            && value.shape() == self.shape()
        {
            return Ok(self.scaled(value, c));
        }
        let result = self.shape();
        let left = self.over(value, self.wide, &result)?;
        let skip = result.len() - shape.len();
        let (kept, axes): (Vec<usize>, Vec<usize>) = shape
            .iter()
            .enumerate()
            .filter(|(_, n)| **n > 1)
            .map(|(axis, &n)| (n, axis + skip))
            .unzip();
        let right = self.weights(constants, &kept, &axes, self.wide);
        Ok(self.result(self.product(result, Vec::new(), &left, &right)))
    }

    /// A value as an operand over the axes of the result on which it depends.
    pub(super) fn over(
        &mut self,
        value: &Value,
        width: Width,
        result: &[usize],
    ) -> Result<Operand, QuantiseError> {
        let shape = value.shape().to_vec();
        let skip = result.len() - shape.len();
        let axes: Vec<usize> = (0..shape.len())
            .filter(|&a| shape[a] == result[a + skip])
            .collect();
        let sizes: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
        let axes: Vec<usize> = axes.iter().map(|a| a + skip).collect();
        let map: Vec<u32> = (0..size(&shape) as u32).collect();
        self.shown(value, width, &axes, &sizes, &map)
    }

    fn elementwise(&mut self, a: &Value, b: &Value) -> Lowered {
        let result = self.shape();
        let width = |v: &Value, wide: Width| if v.width.0 > wide.0 { v.width } else { wide };
        let left = self.over(a, width(a, self.wide), &result)?;
        let right = self.over(b, width(b, self.wide), &result)?;
        Ok(self.result(self.product(result, Vec::new(), &left, &right)))
    }

    pub(super) fn power(&mut self) -> Lowered {
        let value = self.value(0)?;
        let exponent = self.constant(1)?;
        let exponent = uniform(self.floats(exponent)?)
            .ok_or_else(|| self.unsupported("its exponents differ"))?;
        if exponent == 2.0 && value.function.is_none() {
            return self.elementwise(&value, &value);
        }
        Ok(self.compose(
            &value,
            Rc::new(move |x| x.iter().map(|v| v.powf(exponent)).collect()),
        ))
    }

    pub(super) fn clip(&mut self) -> Lowered {
        let value = self.value(0)?;
        let bound = |index: usize, absent: f64| match self.operand(index) {
            None => Ok(absent),
            Some(_) => uniform(self.floats(self.constant(index)?)?)
                .ok_or_else(|| self.unsupported("its bounds differ")),
        };
        let (low, high) = (bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?);
        Ok(self.compose(
            &value,
            Rc::new(move |x| x.iter().map(|v| v.max(low).min(high)).collect()),
        ))
    }

    pub(super) fn gemm(&mut self) -> Lowered {
        let bytes = self.attributes();
        let (words, flags) = bytes.split_at(8);
        let (words, _) = words.as_chunks();
        let [alpha, beta] =
            [0, 1].map(|i: usize| f64::from(f32::from_bits(u32::from_le_bytes(words[i]))));
        let (a, b) = (self.value(0)?, self.constant(1)?.clone());
        let (trans_a, trans_b) = (flags[0] != 0, flags[1] != 0);
        let result = self.shape();
        let (m, n) = (result[0], result[1]);
        let k = size(a.shape()) / m;
        let map: Vec<u32> = (0..m * k)
            .map(|i| {
                if trans_a {
                    (i % k * m + i / k) as u32
                } else {
                    i as u32
                }
            })
            .collect();
        let left = self.shown(&a, NARROW, &[0, 2], &[m, k], &map)?;
        let right = self.matrix(&b, n, k, trans_b)?;
        let mut product = self.product(result, vec![k], &left, &right);
        product.scale *= alpha.abs();
        if alpha < 0.0 {
            product = product.times(-1);
        }
        if self.operand(2).is_some() {
            let c = self.constant(2)?.clone();
            let bias: Vec<f32> = self.floats(&c)?.iter().map(|v| v * beta as f32).collect();
            product = self.add_constant(&product, c.shape(), &bias)?;
        }
        Ok(self.result(product))
    }

    /// A constant matrix as the right operand over axes 1 (columns) and 2 (contracted), stored
    /// with the contracted axis last.
    fn matrix(
        &mut self,
        tensor: &Tensor,
        n: usize,
        k: usize,
        transposed: bool,
    ) -> Result<Operand, QuantiseError> {
        let values = self.floats(tensor)?;
        let values: Vec<f32> = match transposed {
            true => values.to_vec(),
            false => (0..n * k).map(|i| values[i % k * n + i / k]).collect(),
        };
        Ok(self.weights(&values, &[n, k], &[1, 2], NARROW))
    }

    pub(super) fn matmul(&mut self) -> Lowered {
        let result = self.shape();
        let rank = result.len();
        let shape_of = |known: Option<&Known>| match known {
            Some(Known::Value(v)) => v.shape().to_vec(),
            Some(Known::Constant(t)) => t.shape().to_vec(),
            None => Vec::new(),
        };
        let (a, b) = (shape_of(self.operand(0)), shape_of(self.operand(1)));
        if a.len() < 2 || b.len() < 2 {
            return Err(self.unsupported("vectors are not supported: use matrices"));
        }
        let k = a[a.len() - 1];
        let left = self.factor(0, &a, [rank - 2, rank], &result)?;
        let right = self.factor(1, &b, [rank, rank - 1], &result)?;
        Ok(self.result(self.product(result, vec![k], &left, &right)))
    }

    /// An operand of a matrix product: its last two dimensions lie on `last`.
    fn factor(
        &mut self,
        index: usize,
        shape: &[usize],
        last: [usize; 2],
        result: &[usize],
    ) -> Result<Operand, QuantiseError> {
        let skip = result.len() - shape.len();
        let outer = shape.len() - 2;
        let mut axes: Vec<usize> = (0..outer).filter(|&a| shape[a] > 1).collect();
        let mut sizes: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
        axes.iter_mut().for_each(|a| *a += skip);
        axes.extend(last);
        sizes.extend(&shape[outer..]);
        match self.operand(index).cloned() {
            Some(Known::Constant(tensor)) if axes.len() == 2 && index == 1 => {
                let (k, n) = (sizes[0], sizes[1]);
                let values = self.floats(&tensor)?;
                let turned: Vec<f32> = (0..n * k).map(|i| values[i % k * n + i / k]).collect();
                Ok(self.weights(&turned, &[n, k], &[last[1], last[0]], NARROW))
            }
            Some(Known::Constant(tensor)) => {
                let values = self.floats(&tensor)?.to_vec();
                Ok(self.weights(&values, &sizes, &axes, NARROW))
            }
            Some(Known::Value(value)) => {
                let map = identity(size(shape));
                self.shown(&value, NARROW, &axes, &sizes, &map)
            }
            None => Err(self.unsupported("an operand is missing")),
        }
    }
}

/// The one value that all are.
fn uniform(values: &[f32]) -> Option<f64> {
    let first = *values.first()?;
    values
        .iter()
        .all(|v| v.to_bits() == first.to_bits())
        .then_some(f64::from(first))
}
