//! Conversion between element types.
//!
//! Float to integer truncates toward zero and saturates, NaN gives 0; integer to integer keeps the
//! low bits (two's complement); integer to float, and float to a narrower float, round to nearest
//! even; to a truth value, everything but zero is true. 16-bit floats convert through f32, which
//! holds each of them exactly.

use lemma_kernels::half;
use lemma_types::tensor::DType;

use crate::commit::Canon;
use crate::error::OpError;
use crate::fact::{Fact, Sym, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::unary::canonical_f64;
use crate::tensor::{Bf16, F16, Storage, Tensor};

/// Conversion to a type.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) to: DType,
}

/// A number on its way from one type to another: every conversion goes through one of these
/// without losing anything before its last step.
trait Number: Copy {
    fn to_bool(self) -> bool;
    fn to_i64(self) -> i64;
    fn to_u64(self) -> u64;
    /// To an integer of 32 bits or fewer: saturating from floats, low bits from integers.
    fn to_u32_bits(self, signed: bool, bits: u32) -> u32;
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
}

macro_rules! integer_number {
    ($($t:ty),+) => {$(
        #[allow(trivial_numeric_casts)]
        impl Number for $t {
            fn to_bool(self) -> bool {
                self != 0
            }
            fn to_i64(self) -> i64 {
                self as i64
            }
            fn to_u64(self) -> u64 {
                self as u64
            }
            fn to_u32_bits(self, _signed: bool, _bits: u32) -> u32 {
                self as u32
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
        }
    )+};
}
integer_number!(u8, i8, u16, i16, u32, i32, u64, i64);

macro_rules! float_number {
    ($t:ty, $to_f32:expr, $to_f64:expr) => {
        impl Number for $t {
            fn to_bool(self) -> bool {
                self != 0.0
            }
            fn to_i64(self) -> i64 {
                self as i64
            }
            fn to_u64(self) -> u64 {
                self as u64
            }
            fn to_u32_bits(self, signed: bool, bits: u32) -> u32 {
                // `as` saturates at 64 bits; what is left is to clamp to the narrower range.
                if signed {
                    let limit = 1i64 << (bits - 1);
                    (self as i64).clamp(-limit, limit - 1) as u32
                } else {
                    (self as u64).min((1u64 << bits) - 1) as u32
                }
            }
            fn to_f32(self) -> f32 {
                $to_f32(self)
            }
            fn to_f64(self) -> f64 {
                $to_f64(self)
            }
        }
    };
}
float_number!(f32, lemma_kernels::canonical, |x: f32| canonical_f64(
    f64::from(x)
));
float_number!(
    f64,
    |x: f64| lemma_kernels::canonical(x as f32),
    canonical_f64
);

impl Number for bool {
    fn to_bool(self) -> bool {
        self
    }
    fn to_i64(self) -> i64 {
        i64::from(self)
    }
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
    fn to_u32_bits(self, _signed: bool, _bits: u32) -> u32 {
        u32::from(self)
    }
    fn to_f32(self) -> f32 {
        f32::from(u8::from(self))
    }
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self))
    }
}

impl Number for F16 {
    fn to_bool(self) -> bool {
        self.to_f32().to_bool()
    }
    fn to_i64(self) -> i64 {
        self.to_f32().to_i64()
    }
    fn to_u64(self) -> u64 {
        self.to_f32().to_u64()
    }
    fn to_u32_bits(self, signed: bool, bits: u32) -> u32 {
        self.to_f32().to_u32_bits(signed, bits)
    }
    fn to_f32(self) -> f32 {
        half::f16_to_f32(self.0)
    }
    fn to_f64(self) -> f64 {
        self.to_f32().to_f64()
    }
}

impl Number for Bf16 {
    fn to_bool(self) -> bool {
        self.to_f32().to_bool()
    }
    fn to_i64(self) -> i64 {
        self.to_f32().to_i64()
    }
    fn to_u64(self) -> u64 {
        self.to_f32().to_u64()
    }
    fn to_u32_bits(self, signed: bool, bits: u32) -> u32 {
        self.to_f32().to_u32_bits(signed, bits)
    }
    fn to_f32(self) -> f32 {
        half::bf16_to_f32(self.0)
    }
    fn to_f64(self) -> f64 {
        self.to_f32().to_f64()
    }
}

fn convert<T: Number>(cx: &Eval<'_>, to: DType, x: &[T]) -> Result<Vec<Tensor>, OpError> {
    macro_rules! map {
        ($f:expr) => {
            cx.output(x.iter().map($f).collect::<Vec<_>>())
        };
    }
    match to {
        DType::Bool => map!(|v| v.to_bool()),
        DType::U8 => map!(|v| v.to_u32_bits(false, 8) as u8),
        DType::I8 => map!(|v| v.to_u32_bits(true, 8) as i8),
        DType::U16 => map!(|v| v.to_u32_bits(false, 16) as u16),
        DType::I16 => map!(|v| v.to_u32_bits(true, 16) as i16),
        DType::U32 => map!(|v| v.to_u32_bits(false, 32)),
        DType::I32 => map!(|v| v.to_u32_bits(true, 32) as i32),
        DType::U64 => map!(|v| v.to_u64()),
        DType::I64 => map!(|v| v.to_i64()),
        DType::F16 => map!(|v| F16(half::f32_to_f16(v.to_f32()))),
        DType::Bf16 => map!(|v| Bf16(half::f32_to_bf16(v.to_f32()))),
        DType::F32 => map!(|v| v.to_f32()),
        DType::F64 => map!(|v| v.to_f64()),
    }
}

impl Operator for Cast {
    fn name(&self) -> &'static str {
        "Cast/1"
    }

    fn attributes(&self, canon: &mut Canon) {
        canon.u8(self.to.code());
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        Ok(vec![Type::new(self.to, inputs.need(0)?.shape().to_vec())])
    }

    fn integers(&self, inputs: Operands<'_, Fact>) -> Option<Vec<Sym>> {
        match self.to {
            DType::I32 | DType::I64 => inputs.get(0)?.integers(),
            _ => None,
        }
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        match x.storage() {
            Storage::Bool(x) => convert(cx, self.to, x),
            Storage::U8(x) => convert(cx, self.to, x),
            Storage::I8(x) => convert(cx, self.to, x),
            Storage::U16(x) => convert(cx, self.to, x),
            Storage::I16(x) => convert(cx, self.to, x),
            Storage::U32(x) => convert(cx, self.to, x),
            Storage::I32(x) => convert(cx, self.to, x),
            Storage::U64(x) => convert(cx, self.to, x),
            Storage::I64(x) => convert(cx, self.to, x),
            Storage::F16(x) => convert(cx, self.to, x),
            Storage::Bf16(x) => convert(cx, self.to, x),
            Storage::F32(x) => convert(cx, self.to, x),
            Storage::F64(x) => convert(cx, self.to, x),
        }
    }
}
