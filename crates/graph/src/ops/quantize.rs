//! Quantised values: integers with a scale and a zero point, and products of them.

use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
use crate::ops::conv::Sliding;
use crate::ops::{expect, same_dtype, unreachable_type};
use crate::tensor::{Element, Storage, Tensor};

/// How scales and zero points belong to elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// One for all.
    Tensor,
    /// One for each place along an axis.
    Axis(usize),
    /// One for each block of so many elements along an axis.
    Block { axis: usize, size: usize },
}

impl Grain {
    fn attributes(self, canon: &mut Canon) {
        match self {
            Grain::Tensor => canon.u8(0),
            Grain::Axis(axis) => canon.u8(1).size(axis),
            Grain::Block { axis, size } => canon.u8(2).size(axis).size(size),
        };
    }

    /// Refuses a scale or zero point of another shape than this calls for.
    fn check(self, x: &Fact, what: &str, given: &Fact) -> Result<(), OpError> {
        let fits = match self {
            Grain::Tensor => given
                .shape()
                .iter()
                .all(|d| d.unify(&Sym::Known(1)).is_some()),
            Grain::Axis(axis) => {
                given.rank() == 1
                    && x.shape()
                        .get(axis)
                        .is_some_and(|d| d.unify(&given.shape()[0]).is_some())
            }
            Grain::Block { axis, size } => {
                let dims = x.shape().iter().zip(given.shape()).enumerate();
                axis < x.rank()
                    && given.rank() == x.rank()
                    && dims
                        .into_iter()
                        .all(|(i, (d, g))| match (d.known(), g.known()) {
                            (Some(d), Some(g)) if i == axis => u64::try_from(d)
                                .is_ok_and(|d| d.div_ceil(size as u64) == g.unsigned_abs()),
                            _ => i == axis || d.unify(g).is_some(),
                        })
            }
        };
        if fits {
            return Ok(());
        }
        Err(OpError::operand(
            what,
            format!(
                "{} does not fit {} ({self:?})",
                show(given.shape()),
                show(x.shape())
            ),
        ))
    }

    /// Which scale belongs to an element.
    fn places(self, shape: &[usize]) -> impl Fn(usize) -> usize {
        let steps = strides(shape);
        let shape = shape.to_vec();
        let blocks: Vec<usize> = match self {
            Grain::Block { axis, size } => {
                let mut of = shape.clone();
                of[axis] = of[axis].div_ceil(size);
                strides(&of)
            }
            _ => Vec::new(),
        };
        move |i| match self {
            Grain::Tensor => 0,
            Grain::Axis(axis) => i / steps[axis] % shape[axis],
            Grain::Block { axis, size } => (0..shape.len())
                .map(|d| {
                    let at = i / steps[d] % shape[d];
                    blocks[d] * if d == axis { at / size } else { at }
                })
                .sum(),
        }
    }
}

/// Integers of at most 32 bits, widened.
pub(crate) fn widened(tensor: &Tensor) -> Result<Vec<i32>, OpError> {
    fn wide<T: Copy + Into<i32>>(v: &[T]) -> Vec<i32> {
        v.iter().map(|&v| v.into()).collect()
    }
    Ok(match tensor.storage() {
        Storage::U8(v) => wide(v),
        Storage::I8(v) => wide(v),
        Storage::U16(v) => wide(v),
        Storage::I16(v) => wide(v),
        Storage::I32(v) => v.to_vec(),
        _ => return Err(unreachable_type(tensor.dtype())),
    })
}

/// Zero points; zeros where there are none.
fn zero_points(cx: &Eval<'_>, index: usize, count: usize) -> Result<Vec<i32>, OpError> {
    let Some(tensor) = cx.inputs.get(index) else {
        return Ok(vec![0; count]);
    };
    let zeros = widened(tensor)?;
    if zeros.len() != count {
        return Err(OpError::shape("scales and zero points differ in number"));
    }
    Ok(zeros)
}

/// Scales fit, when their number is known only now.
fn check_grain(cx: &Eval<'_>, grain: Grain) -> Result<(), OpError> {
    let x = Fact::constant(cx.inputs.need(0)?.clone());
    for index in 1..cx.inputs.len() {
        if let Some(given) = cx.inputs.get(index) {
            let what = crate::operator::ordinal(index);
            grain.check(&x, &what, &Fact::constant(given.clone()))?;
        }
    }
    Ok(())
}

/// f32(x − zero point) · scale. Operands: integers, scales, optionally zero points.
#[derive(Debug)]
pub(crate) struct Dequantize {
    pub(crate) grain: Grain,
}

const QUANTISED: [DType; 5] = [DType::U8, DType::I8, DType::U16, DType::I16, DType::I32];

impl Operator for Dequantize {
    fn name(&self) -> &'static str {
        "DequantizeLinear/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        self.grain.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, scale) = (inputs.need(0)?, inputs.need(1)?);
        let dtype = expect(x, "input 0", &QUANTISED)?;
        expect(scale, "input 1", &[DType::F32])?;
        self.grain.check(x, "input 1", scale)?;
        if let Some(zero) = inputs.get(2) {
            same_dtype(zero, "input 2", dtype)?;
            self.grain.check(x, "input 2", zero)?;
        }
        Ok(vec![Type::new(DType::F32, x.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        check_grain(cx, self.grain)?;
        let scales = cx.slice::<f32>(1)?;
        let zeros = zero_points(cx, 2, scales.len())?;
        let at = self.grain.places(cx.shape());
        let values = widened(cx.inputs.need(0)?)?;
        let y = values.iter().enumerate().map(|(i, &v)| {
            let place = at(i);
            let steps = i64::from(v) - i64::from(zeros[place]);
            lemma_kernels::canonical(steps as f32 * scales[place])
        });
        cx.output(y.collect::<Vec<f32>>())
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let bytes = |i| inputs.get(i).map_or(0, |x: &Concrete| 4 * x.len() as u64);
        bytes(0) + bytes(1)
    }
}

/// round(x ÷ scale) + zero point, clamped to a range; ties to even, NaN to the zero point.
/// Operands: FP32, scales, optionally zero points of the type of the result.
#[derive(Debug)]
pub(crate) struct Quantize {
    pub(crate) grain: Grain,
    pub(crate) to: DType,
    /// The result takes 4 bits of its byte.
    pub(crate) half_byte: bool,
}

impl Quantize {
    fn range(&self) -> Result<(i64, i64), OpError> {
        Ok(match (self.to, self.half_byte) {
            (DType::U8, true) => (0, 15),
            (DType::I8, true) => (-8, 7),
            (DType::U8, _) => (0, 255),
            (DType::I8, _) => (-128, 127),
            (DType::U16, _) => (0, 65_535),
            (DType::I16, _) => (-32_768, 32_767),
            (other, _) => return Err(unreachable_type(other)),
        })
    }

    fn quantise<T: Element>(
        &self,
        cx: &Eval<'_>,
        narrow: impl Fn(i64) -> T,
    ) -> Result<Vec<Tensor>, OpError> {
        let (low, high) = self.range()?;
        let scales = cx.slice::<f32>(1)?;
        let zeros = zero_points(cx, 2, scales.len())?;
        let at = self.grain.places(cx.shape());
        let y = cx.slice::<f32>(0)?.iter().enumerate().map(|(i, &x)| {
            let place = at(i);
            let steps = (x / scales[place]).round_ties_even() as i64;
            narrow(
                steps
                    .saturating_add(i64::from(zeros[place]))
                    .clamp(low, high),
            )
        });
        cx.output(y.collect::<Vec<T>>())
    }
}

impl Operator for Quantize {
    fn name(&self) -> &'static str {
        "QuantizeLinear/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        self.grain.attributes(canon);
        canon.u8(self.to.code()).flag(self.half_byte);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, scale) = (inputs.need(0)?, inputs.need(1)?);
        self.range()?;
        expect(x, "input 0", &[DType::F32])?;
        expect(scale, "input 1", &[DType::F32])?;
        self.grain.check(x, "input 1", scale)?;
        if let Some(zero) = inputs.get(2) {
            same_dtype(zero, "input 2", self.to)?;
            self.grain.check(x, "input 2", zero)?;
        }
        Ok(vec![Type::new(self.to, x.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        check_grain(cx, self.grain)?;
        match self.to {
            DType::U8 => self.quantise(cx, |v| v as u8),
            DType::I8 => self.quantise(cx, |v| v as i8),
            DType::U16 => self.quantise(cx, |v| v as u16),
            _ => self.quantise(cx, |v| v as i16),
        }
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        inputs.get(1).map_or(0, |x| 4 * x.len() as u64)
    }
}

const BYTES: [DType; 2] = [DType::U8, DType::I8];

/// Σ (a − za) · (b − zb) in INT32, which wraps: products of matrices of 8-bit integers. The outer
/// dimensions of the left operand are rows, or both have as many. Operands 2 and 3 are zero points,
/// one, or one for each row of the left and each column of the right.
#[derive(Debug)]
pub(crate) struct MatMulInteger;

/// Sizes of a product: batch of the left and right (1 if there is one for all), rows, depth, columns.
struct Sizes {
    left: usize,
    right: usize,
    rows: usize,
    depth: usize,
    cols: usize,
}

fn sizes(a: &[usize], b: &[usize]) -> Option<Sizes> {
    let ([a_outer @ .., rows, depth], [b_outer @ .., k, cols]) = (a, b) else {
        return None;
    };
    let (left, right): (usize, usize) = (a_outer.iter().product(), b_outer.iter().product());
    let fits = depth == k && (a_outer == b_outer || b_outer.is_empty() || a_outer.is_empty());
    fits.then_some(Sizes {
        left,
        right,
        rows: *rows,
        depth: *depth,
        cols: *cols,
    })
}

impl Operator for MatMulInteger {
    fn name(&self) -> &'static str {
        "MatMulInteger/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let dtypes = [expect(a, "input 0", &BYTES)?, expect(b, "input 1", &BYTES)?];
        let misfit = || {
            OpError::shape(format!(
                "{} and {} do not multiply",
                show(a.shape()),
                show(b.shape())
            ))
        };
        let ([a_outer @ .., rows, depth], [b_outer @ .., k, cols]) = (a.shape(), b.shape()) else {
            return Err(misfit());
        };
        depth.unify(k).ok_or_else(misfit)?;
        if !(a_outer == b_outer || a_outer.is_empty() || b_outer.is_empty()) {
            return Err(misfit());
        }
        for (index, (dtype, dim)) in (2..).zip(dtypes.into_iter().zip([rows, cols])) {
            if let Some(zero) = inputs.get(index) {
                let what = crate::operator::ordinal(index);
                same_dtype(zero, &what, dtype)?;
                let one = zero.shape().iter().all(|d| *d == Sym::Known(1));
                let each = zero.rank() == 1 && zero.shape()[0].unify(dim).is_some();
                if !one && !each {
                    return Err(OpError::operand(
                        what,
                        "must be one number, or one for each row or column",
                    ));
                }
            }
        }
        let outer = if a_outer.is_empty() { b_outer } else { a_outer };
        let shape = [outer, &[rows.clone(), cols.clone()]].concat();
        Ok(vec![Type::new(DType::I32, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let s = sizes(a.shape(), b.shape()).ok_or_else(|| OpError::shape("do not multiply"))?;
        let zeros = |index: usize, count: usize| {
            let zeros = zero_points(cx, index, cx.inputs.get(index).map_or(1, Tensor::len))?;
            if zeros.len() != 1 && zeros.len() != count {
                return Err(OpError::shape("zero points do not fit"));
            }
            Ok(zeros)
        };
        let (za, zb) = (zeros(2, s.rows)?, zeros(3, s.cols)?);
        let a: Vec<i32> = shifted(a, |i| za[(i / s.depth.max(1) % s.rows.max(1)) % za.len()])?;
        let b: Vec<i32> = shifted(b, |i| zb[(i % s.cols.max(1)) % zb.len()])?;
        let mut y = cx.zeros::<i32>();
        let (a_size, b_size) = (s.rows * s.depth, s.depth * s.cols);
        for (n, out) in y.chunks_exact_mut((s.rows * s.cols).max(1)).enumerate() {
            let (left, right) = (
                if s.left > 1 { n } else { 0 },
                if s.right > 1 { n } else { 0 },
            );
            let (a, b) = (
                &a[left * a_size..][..a_size],
                &b[right * b_size..][..b_size],
            );
            for (row, out) in out.chunks_exact_mut(s.cols.max(1)).enumerate() {
                for k in 0..s.depth {
                    let factor = a[row * s.depth + k];
                    for (y, &v) in out.iter_mut().zip(&b[k * s.cols..(k + 1) * s.cols]) {
                        *y = y.wrapping_add(factor.wrapping_mul(v));
                    }
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let depth = inputs
            .get(0)
            .and_then(|a| a.shape.last().copied())
            .unwrap_or(1);
        (outputs[0].len() as u64).saturating_mul(depth as u64)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, _: &[Concrete]) -> u64 {
        let bytes = |i| inputs.get(i).map_or(0, |x: &Concrete| 4 * x.len() as u64);
        bytes(0) + bytes(1)
    }
}

/// Elements less their zero points.
fn shifted(tensor: &Tensor, zero: impl Fn(usize) -> i32) -> Result<Vec<i32>, OpError> {
    let mut values = widened(tensor)?;
    for (i, v) in values.iter_mut().enumerate() {
        *v -= zero(i);
    }
    Ok(values)
}

/// Convolution of 8-bit integers: Σ (x − zx) · (w − zw) in INT32, which wraps. Places in the
/// padding count nothing. Operands 2 and 3 are zero points: one, and one or one for each filter.
#[derive(Debug)]
pub(crate) struct ConvInteger {
    pub(crate) groups: usize,
    pub(crate) window: Sliding,
}

impl ConvInteger {
    fn as_float(&self) -> crate::ops::conv::Conv {
        crate::ops::conv::Conv {
            groups: self.groups,
            window: self.window.clone(),
        }
    }
}

impl Operator for ConvInteger {
    fn name(&self) -> &'static str {
        "ConvInteger/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.size(self.groups);
        self.window.attributes(canon);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        let dtypes = [expect(x, "input 0", &BYTES)?, expect(w, "input 1", &BYTES)?];
        for (index, dtype) in (2..).zip(dtypes) {
            if let Some(zero) = inputs.get(index) {
                let what = crate::operator::ordinal(index);
                same_dtype(zero, &what, dtype)?;
                let one = zero.shape().iter().all(|d| *d == Sym::Known(1));
                let filters = w.shape().first().cloned().unwrap_or(Sym::Known(0));
                let each =
                    index == 3 && zero.rank() == 1 && zero.shape()[0].unify(&filters).is_some();
                if !one && !each {
                    return Err(OpError::operand(
                        what,
                        "must be one number, or one for each filter",
                    ));
                }
            }
        }
        // The geometry is that of a convolution of floats.
        let float = |fact: &Fact| Fact::of_type(Type::new(DType::F32, fact.shape().to_vec()));
        let (x, w) = (float(x), float(w));
        let mut types = self.as_float().infer(Operands(&[Some(&x), Some(&w)]))?;
        types[0].dtype = DType::I32;
        Ok(types)
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, w) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let zx = zero_points(cx, 2, 1)?[0];
        let zw = zero_points(cx, 3, cx.inputs.get(3).map_or(1, Tensor::len))?;
        let taps: usize = w.shape()[1..].iter().product();
        let values = shifted(x, |_| zx)?;
        let weights = shifted(w, |i| zw[(i / taps.max(1)) % zw.len()])?;
        let mut y = cx.zeros::<i32>();
        let [_, channels, input @ ..] = x.shape() else {
            return Err(OpError::shape("data needs at least three dimensions"));
        };
        let output = &cx.shape()[2..];
        let places = self.window.taps(input, output)?;
        let (filters, of_group) = (w.shape()[0], w.shape()[1]);
        let (plane, out_plane): (usize, usize) = (input.iter().product(), output.iter().product());
        let per_group = filters / self.groups.max(1);
        for (n, out) in y.chunks_exact_mut(out_plane.max(1)).enumerate() {
            let (image, filter) = (n / filters, n % filters);
            let first = image * channels + filter / per_group.max(1) * of_group;
            for channel in 0..of_group {
                let from = &values[(first + channel) * plane..][..plane];
                let row = &weights[filter * taps + channel * (taps / of_group.max(1))..];
                for (o, tap, at) in places.iter() {
                    out[o] = out[o].wrapping_add(row[tap].wrapping_mul(from[at]));
                }
            }
        }
        cx.output(y)
    }

    fn cost(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        self.as_float().cost(inputs, outputs)
    }

    fn scratch(&self, inputs: Operands<'_, Concrete>, outputs: &[Concrete]) -> u64 {
        let bytes = |i| inputs.get(i).map_or(0, |x: &Concrete| 4 * x.len() as u64);
        bytes(0) + bytes(1) + self.window.tap_bytes(&outputs[0].shape[2..])
    }
}
