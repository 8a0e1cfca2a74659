//! Operations on the bits of integers.

use lemma_types::tensor::DType;

use crate::error::OpError;
use crate::fact::{Fact, Type};
use crate::operator::{Eval, Operands, Operator};
use crate::ops::broadcast::{broadcast_shapes, zip_with};
use crate::ops::{INTEGERS, expect, same_dtype, unreachable_type, with_integers};
use crate::tensor::{Element, Storage, Tensor};

/// What is made of two integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    And,
    Or,
    Xor,
    /// Unsigned types only; 0 where the second is at least the number of bits.
    ShiftLeft,
    ShiftRight,
}

const UNSIGNED: [DType; 4] = [DType::U8, DType::U16, DType::U32, DType::U64];

/// An integer as its bits.
trait Pattern: Element {
    fn combine(self, op: Bits, other: Self) -> Self;
    fn inverted(self) -> Self;
}

macro_rules! pattern {
    ($($t:ty),+) => {$(
        #[allow(trivial_numeric_casts, clippy::cast_lossless)]
        impl Pattern for $t {
            fn combine(self, op: Bits, other: $t) -> $t {
                let by = u32::try_from(other).unwrap_or(u32::MAX);
                match op {
                    Bits::And => self & other,
                    Bits::Or => self | other,
                    Bits::Xor => self ^ other,
                    Bits::ShiftLeft => self.checked_shl(by).unwrap_or(0),
                    Bits::ShiftRight => self.checked_shr(by).unwrap_or(0),
                }
            }
            fn inverted(self) -> $t {
                !self
            }
        }
    )+};
}
pattern!(u8, i8, u16, i16, u32, i32, u64, i64);

impl Operator for Bits {
    fn name(&self) -> &'static str {
        match self {
            Bits::And => "BitwiseAnd/1",
            Bits::Or => "BitwiseOr/1",
            Bits::Xor => "BitwiseXor/1",
            Bits::ShiftLeft => "ShiftLeft/1",
            Bits::ShiftRight => "ShiftRight/1",
        }
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let supported: &[DType] = match self {
            Bits::ShiftLeft | Bits::ShiftRight => &UNSIGNED,
            _ => &INTEGERS,
        };
        let dtype = expect(a, "input 0", supported)?;
        same_dtype(b, "input 1", dtype)?;
        let shape = broadcast_shapes(&[a.shape(), b.shape()])?;
        Ok(vec![Type::new(dtype, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (a, b) = (cx.inputs.need(0)?, cx.inputs.need(1)?);
        let op = *self;
        macro_rules! integers {
            ($($variant:ident),+) => {
                match (a.storage(), b.storage()) {
                    $((Storage::$variant(x), Storage::$variant(y)) => {
                        let mut out = cx.zeros();
                        zip_with(cx.shape(), (a.shape(), x), (b.shape(), y), &mut out, |a, b| Ok(a.combine(op, b)))?;
                        cx.output(out)
                    })+
                    _ => Err(unreachable_type(a.dtype())),
                }
            };
        }
        integers!(U8, I8, U16, I16, U32, I32, U64, I64)
    }
}

/// Every bit inverted.
#[derive(Debug)]
pub(crate) struct BitwiseNot;

impl Operator for BitwiseNot {
    fn name(&self) -> &'static str {
        "BitwiseNot/1"
    }

    fn infer(&self, inputs: Operands<'_, Fact>) -> Result<Vec<Type>, OpError> {
        let x = inputs.need(0)?;
        expect(x, "input 0", &INTEGERS)?;
        Ok(vec![x.ty.clone()])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.inputs.need(0)?;
        with_integers!(x, v => cx.output(v.iter().map(|v| v.inverted()).collect()), else Err(unreachable_type(x.dtype())))
    }
}
