//! Quantised values: integers with a scale and a zero point.

use lemma_kernels::Chain;
use lemma_kernels::int8::{self, Int8, Output, Quantised};
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type, show};
use crate::operator::{Concrete, Eval, Operands, Operator};
use crate::ops::broadcast::strides;
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

/// The elements of a tensor of 8-bit integers.
pub(crate) fn bytes(tensor: &Tensor) -> Option<Int8<'_>> {
    match tensor.storage() {
        Storage::U8(v) => Some(Int8::Unsigned(v)),
        Storage::I8(v) => Some(Int8::Signed(v)),
        _ => None,
    }
}

/// Zero points; zeros where there are none.
pub(super) fn zero_points(cx: &Eval<'_>, index: usize, count: usize) -> Result<Vec<i32>, OpError> {
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
        if let (Grain::Tensor, Some(x)) = (self.grain, bytes(cx.inputs.need(0)?)) {
            let mut y = cx.zeros();
            if !y.is_empty() {
                let (n, to) = (y.len(), Output::Float(&mut y));
                let (scale, zero) = (scales[0], zeros[0]);
                int8::dequantize(cx.isa, cx.threads, x, scale, zero, n, &Chain::NONE, to);
            }
            return cx.output(y);
        }
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
        if let (Grain::Tensor, false) = (self.grain, self.half_byte) {
            let (x, scale) = (cx.slice::<f32>(0)?, cx.slice::<f32>(1)?[0]);
            let zero = zero_points(cx, 2, 1)?[0];
            if self.to == DType::U8 {
                let mut y = cx.zeros();
                let to = Quantised::Unsigned(&mut y);
                int8::quantize(cx.isa, cx.threads, x, scale, zero, to);
                return cx.output(y);
            }
            if self.to == DType::I8 {
                let mut y = cx.zeros();
                let to = Quantised::Signed(&mut y);
                int8::quantize(cx.isa, cx.threads, x, scale, zero, to);
                return cx.output(y);
            }
        }
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
