//! Functions of one value.

use lemma_kernels as kernels;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::{expect, unreachable_type};
use crate::tensor::{Storage, Tensor};

/// A function of one value that the kernels define.
#[derive(Debug)]
pub(crate) struct Unary(pub(crate) kernels::Unary);

impl Unary {
    /// The types it is defined on. All are on f32; those that IEEE 754 defines exactly, on f64 too;
    /// the sign operations, on integers.
    fn supported(&self) -> &'static [DType] {
        use kernels::Unary as U;
        match self.0 {
            U::Abs | U::Neg | U::Sign | U::Relu => &[
                DType::F32,
                DType::F64,
                DType::I8,
                DType::I16,
                DType::I32,
                DType::I64,
            ],
            U::Ceil | U::Floor | U::Round | U::Sqrt | U::Reciprocal | U::Exp | U::Log => {
                &[DType::F32, DType::F64]
            }
            _ => &[DType::F32],
        }
    }
}

/// A number with a sign.
trait Signed: Copy {
    fn apply(self, op: kernels::Unary) -> Option<Self>;
}

macro_rules! signed {
    ($($t:ty),+) => {$(
        impl Signed for $t {
            fn apply(self, op: kernels::Unary) -> Option<$t> {
                Some(match op {
                    kernels::Unary::Abs => self.wrapping_abs(),
                    kernels::Unary::Neg => self.wrapping_neg(),
                    kernels::Unary::Sign => self.signum(),
                    kernels::Unary::Relu => self.max(0),
                    _ => return None,
                })
            }
        }
    )+};
}
signed!(i8, i16, i32, i64);

/// The NaN of every f64 result that is one.
pub(crate) const CANONICAL_NAN_F64: f64 = f64::from_bits(0x7ff8_0000_0000_0000);

pub(crate) fn canonical_f64(x: f64) -> f64 {
    if x.is_nan() { CANONICAL_NAN_F64 } else { x }
}

impl Signed for f64 {
    fn apply(self, op: kernels::Unary) -> Option<f64> {
        use kernels::Unary as U;
        Some(canonical_f64(match op {
            U::Abs => self.abs(),
            U::Neg => -self,
            // Zeros keep their sign, as for f32.
            U::Sign if self == 0.0 => self,
            U::Sign => self.signum(),
            U::Relu if self > 0.0 || self.is_nan() => self,
            U::Relu => 0.0,
            U::Ceil => self.ceil(),
            U::Floor => self.floor(),
            U::Round => self.round_ties_even(),
            U::Sqrt => self.sqrt(),
            U::Reciprocal => 1.0 / self,
            U::Exp => kernels::wide::exp(self),
            U::Log => kernels::wide::log(self),
            _ => return None,
        }))
    }
}

fn map<T: Signed + crate::tensor::Element>(
    cx: &Eval<'_>,
    op: kernels::Unary,
    x: &[T],
) -> Result<Vec<Tensor>, OpError> {
    let mapped: Option<Vec<T>> = x.iter().map(|v| v.apply(op)).collect();
    cx.output(mapped.ok_or_else(|| unreachable_type(T::DTYPE))?)
}

impl Operator for Unary {
    fn name(&self) -> &'static str {
        use kernels::Unary as U;
        match self.0 {
            U::Abs => "Abs/1",
            U::Ceil => "Ceil/1",
            U::Clip { .. } => "ClipRange/1",
            U::Cos => "Cos/1",
            U::Elu { .. } => "Elu/1",
            U::Erf => "Erf/1",
            U::Exp => "Exp/1",
            U::Floor => "Floor/1",
            U::Gelu => "Gelu/1",
            U::GeluTanh => "GeluTanh/1",
            U::HardSigmoid { .. } => "HardSigmoid/1",
            U::HardSwish => "HardSwish/1",
            U::LeakyRelu { .. } => "LeakyRelu/1",
            U::Log => "Log/1",
            U::Neg => "Neg/1",
            U::Reciprocal => "Reciprocal/1",
            U::Relu => "Relu/1",
            U::Round => "Round/1",
            U::Rsqrt => "Rsqrt/1",
            U::Sigmoid => "Sigmoid/1",
            U::Sign => "Sign/1",
            U::Silu => "Silu/1",
            U::Sin => "Sin/1",
            U::Softplus => "Softplus/1",
            U::Softsign => "Softsign/1",
            U::Sqrt => "Sqrt/1",
            U::Tanh => "Tanh/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        use kernels::Unary as U;
        match self.0 {
            U::Clip { min, max } => canon.f32(min).f32(max),
            U::Elu { alpha } | U::LeakyRelu { alpha } => canon.f32(alpha),
            U::HardSigmoid { alpha, beta } => canon.f32(alpha).f32(beta),
            _ => canon,
        };
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", self.supported())?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        match x.storage() {
            Storage::F32(x) => {
                let mut y = cx.zeros();
                kernels::unary(cx.isa, self.0, x, &mut y);
                cx.output(y)
            }
            Storage::F64(x) => map(cx, self.0, x),
            Storage::I8(x) => map(cx, self.0, x),
            Storage::I16(x) => map(cx, self.0, x),
            Storage::I32(x) => map(cx, self.0, x),
            Storage::I64(x) => map(cx, self.0, x),
            _ => Err(unreachable_type(x.dtype())),
        }
    }
}

/// Selu: `gamma · x` above zero, `gamma · (alpha · (eˣ − 1))` elsewhere; Mish and thresholded
/// forms are composed of other operators at import.
#[derive(Debug)]
pub(crate) struct Selu {
    pub(crate) alpha: f32,
    pub(crate) gamma: f32,
}

impl Operator for Selu {
    fn name(&self) -> &'static str {
        "Selu/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.f32(self.alpha).f32(self.gamma);
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32])?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let mut y = cx.slice::<f32>(0)?.to_vec();
        kernels::unary_in_place(cx.isa, kernels::Unary::Elu { alpha: self.alpha }, &mut y);
        for v in &mut y {
            *v = kernels::math::mul(self.gamma, *v);
        }
        cx.output(y)
    }
}

/// `IsNaN` and `IsInf`.
#[derive(Debug)]
pub(crate) enum FloatTest {
    IsNaN,
    IsInf { negative: bool, positive: bool },
}

impl FloatTest {
    fn test(&self, x: f64) -> bool {
        match *self {
            FloatTest::IsNaN => x.is_nan(),
            FloatTest::IsInf { negative, positive } => {
                (positive && x == f64::INFINITY) || (negative && x == f64::NEG_INFINITY)
            }
        }
    }
}

impl Operator for FloatTest {
    fn name(&self) -> &'static str {
        match self {
            FloatTest::IsNaN => "IsNaN/1",
            FloatTest::IsInf { .. } => "IsInf/1",
        }
    }

    fn attributes(&self, canon: &mut Canon) {
        if let FloatTest::IsInf { negative, positive } = *self {
            canon.flag(negative).flag(positive);
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::F32, DType::F64])?;
        Ok(vec![Type::new(DType::Bool, x.shape().to_vec())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        let tested: Vec<bool> = match x.storage() {
            Storage::F32(x) => x.iter().map(|&v| self.test(f64::from(v))).collect(),
            Storage::F64(x) => x.iter().map(|&v| self.test(v)).collect(),
            _ => return Err(unreachable_type(x.dtype())),
        };
        cx.output(tested)
    }
}

/// The negation of truth values.
#[derive(Debug)]
pub(crate) struct Not;

impl Operator for Not {
    fn name(&self) -> &'static str {
        "Not/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &[DType::Bool])?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        cx.output(cx.slice::<bool>(0)?.iter().map(|v| !v).collect())
    }
}
